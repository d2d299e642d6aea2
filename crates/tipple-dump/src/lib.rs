//! Dumps: their layout, the pipeline, and the verbs as functions.
//!
//! A dump is one folder or prefix in a store: HEAD, plan, chunks, part records, DONE ([`layout`] has the table).
//! [`dump`](dump()) brings a source into one, [`load`](load()) brings it back into a sink, [`copy`](copy()) goes
//! straight across; [`verify`](verify()), [`list`](list()), [`cat`](cat()) and [`prune`](prune()) work on what is there.
//!
//! This crate knows stores, chunks and the seam; it never knows a particular source. Whoever calls it hands it
//! trait objects, and a [`Job`] through which the run can be watched, paused and cancelled.
//!
//! ```
//! use tipple_dump::{Job, LoadOptions, VerifyOptions, prune, PruneOptions};
//! use tipple_store::{Access, StoreOptions, StoreUrl, open_store};
//!
//! let store = open_store(&"memory:doc".parse::<StoreUrl>()?, Access::Write, &StoreOptions::default())?;
//! // Nothing was dumped here yet, so there is nothing that an attempt could have left.
//! let left = prune(store.as_ref(), &PruneOptions::default())?;
//! assert!(left.items.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod begin;
mod cat;
mod committer;
mod copy;
mod dump;
mod error;
mod estimate;
mod failpoint;
mod filling;
mod job;
mod lag;
pub mod layout;
mod ledger;
mod list;
mod load;
mod load_queue;
mod load_state;
mod notify;
mod objects;
mod open_dump;
mod options;
mod part_frames;
mod planning;
mod prune;
mod replicate;
mod sealer;
mod sealing;
mod spool;
mod stores;
mod strays;
mod sums;
mod verify;

pub use cat::{CatOptions, cat};
pub use copy::{CopyOptions, copy};
pub use dump::dump;
pub use error::{DumpError, ErrorKind};
pub use estimate::{DryRun, ReadDryRun, check_memory, dry_run, list_dry_run, verify_dry_run};
pub use job::{Event, Job, Phase, Progress, Report};
pub use list::{Listing, PartLine, list};
pub use load::{LoadOptions, PartRange, load};
pub use load_queue::{QueueCounts, QueueLoadOptions, load_from_queue};
pub use notify::{NotifyFormat, NotifyOptions, NotifyTarget};
pub use open_dump::{OpenDump, is_finished};
pub use options::DumpOptions;
pub use prune::{PruneItem, PruneOptions, Pruned, prune};
pub use sealing::Seal;
pub use spool::SpoolPlace;
pub use stores::{DroppedStore, StorePolicy};
pub use verify::{Depth, Problem, VerifyOptions, VerifyReport, verify};
