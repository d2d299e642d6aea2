//! Bounded disk for any program that writes files: the command runs, every file that it has finished goes into a store,
//! and when its folder is nearly full its processes are stopped until there is room again.
//!
//! - **Finished** is a file that every process has closed. The system's own lists say so (`/proc/*/fd`, inotify); never its
//!   age or size. When the command and all its processes have ended, everything is finished.
//! - **The limit** counts bytes: of each file its length or the room that it takes, whichever is more. A margin is kept
//!   free, from the measured write rate and the time that stopping takes.
//! - **A file is deleted** only after the store has acknowledged it, and was never open for writing meanwhile.
//! - **DONE** is written last, and only if the command ended with exit code 0 and every file is stored. A run whose command
//!   ended otherwise never counts, and two runs are never mixed.
//!
//! This crate knows no particular program, prints nothing, and reads no environment. It never sees a record.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tipple_store::{Access, StoreOptions, open_store};
//! use tipple_supervise::{Job, SuperviseOptions, supervise};
//!
//! let store = open_store(&"/backup/shop".parse()?, Access::Write, &StoreOptions::default())?;
//! let command = ["mydumper", "-o", "{dir}"].map(Into::into).to_vec();
//! let options = SuperviseOptions::new("/var/tmp/shop", 1 << 30, command);
//! let report = supervise(&Job::new(), &store, &options)?;
//! assert!(report.done, "the command failed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod command;
mod control;
mod error;
mod failpoint;
mod finish;
mod folder;
mod job;
mod layout;
mod leftovers;
mod name;
mod options;
mod pause;
mod place;
mod processes;
mod restore;
mod retry;
mod run;
mod state;
mod upload;
mod usage;
mod watch;
mod writers;

pub use error::{ErrorKind, SuperviseError};
pub use job::{CommandExit, Event, Job, Progress, Report};
pub use layout::{Done, FORMAT_MAJOR, FORMAT_MINOR, FileEntry, Format, Head, Manifest};
pub use options::SuperviseOptions;
pub use place::{Listing, Problem, PruneItem, Pruned, VerifyReport, is_files, list, prune, verify};
pub use restore::{RestoreOptions, restore};
pub use run::supervise;
