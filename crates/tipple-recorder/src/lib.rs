//! Records every message that a program sends and receives, so that one can see afterwards what happened, search it, and
//! play it back. For any program: no framework, no runtime, a thread of its own.
//!
//! ```
//! use tipple_recorder::{Recorder, RecorderOptions};
//!
//! # #[derive(serde::Serialize)] struct Order { id: u64 }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let mut options = RecorderOptions::new(folder.path());
//! # options.min_free_bytes = 0;
//! let recorder = Recorder::start(options)?;
//! let orders = recorder.stream("orders"); // a group; cheap to clone, for any thread
//! orders.received(&Order { id: 7 }); // anything that is `Serialize`
//! let report = recorder.shutdown(std::time::Duration::from_secs(5));
//! assert_eq!(report.attempted, report.written + report.lost_total());
//! # Ok(())
//! # }
//! ```
//!
//! # Five minutes
//! 1. **Record.** The folder now has `default.20261120T150858Z.0a1b2c3d-0001.ndjson`, with a line a record:
//!    `{"ts":1795187338801516720,"g":"orders","n":0,"s":1,"t":0,"th":1,"d":"In","cl":"default","mn":"Order","mp":"","mk":"Regular","m":{"id":7}}`,
//!    exactly as elfo's dumper writes it. `jq`, `grep`, ClickHouse and vector read it. With [`RecorderOptions::codec`] it
//!    is `.ndjson.zst`, which `zstd -dc` and `zstdgrep` read.
//! 2. **Say more.** [`Stream::key`] tells one of several alike, [`Stream::class`] one kind of traffic, [`Stream::record`]
//!    takes direction and [`Kind`]: request and response with their number. [`trace::enter`] says what this thread works
//!    for.
//! 3. **Leave out.** `#[serde(serialize_with = "tipple_recorder::hide")]` on a field ([`hash`](fn@hash), [`truncate`]), or
//!    a path in the configuration; nowhere else does the field look different. [`unrecorded`] leaves out the whole message.
//!    A [`Config`] may be a file that is watched: what is recorded, how fast, which messages, which share of traces.
//! 4. **Look.** `tipple record search FOLDER --trace 4618619813630050305`, `stats`, `gaps`, `pair`, `follow`, `diff`; or
//!    [`search()`], [`gaps`] and their like from a program.
//! 5. **Play back.** A [`Player`] gives the messages that were received to your handler, and compares what it sends with
//!    what was sent.
//!
//! # What records by itself
//! Each is a feature of the crate, and off by default: `mpsc` (channels of tokio that record what goes through them),
//! `tower` (a layer around services; the examples `axum` and `tonic` are whole programs), `tracing` (the trace of a span
//! is the trace of its records), `signals` (SIGHUP begins new files and takes the configuration again, another one leaves a snapshot), `elfo` (in the place of elfo's own dumper).
//! `parquet` is for recordings that are to become Parquet files ([`to_csv`] is always there).
//! The example `shop` is recorded, searched and played back in the README. What ships closed files is in
//! `deploy/recording`.
//!
//! # What holds
//! - **Memory**: all of it is [`RecorderOptions::memory_bytes`], from the first record on. When it is used up,
//!   [`OnFull`] says whether the newest or the oldest record is lost, or the thread waits.
//! - **Numbers**: each attempt takes the next number of its group before any limit is looked at. What is not in the
//!   recording is told there by a line with `"mk":"Loss"`: from which number to which, how many, and why ([`Why`]).
//!   Written and lost is attempted: after every [`Recorder::flush`] and [`Recorder::shutdown`], which report it. A disk
//!   that never ends a write is given up by a shutdown, and what is not settled then is `waiting` in its report.
//! - **Order**: lines of a file are sorted by time. A record whose `Serialize` takes longer than
//!   [`RecorderOptions::order_window`] comes late, and is counted.
//! - **Lines**: no line is torn in the middle of a file, whatever the disk does. A kill costs what was recorded in the
//!   last [`RecorderOptions::write_interval`], and may leave one torn line, or frame, at the end, which the next start cuts.
//! - **The program**: a full disk stops recording, not the program; after it, recording goes on.
//!
//! # What does not
//! Records that were in memory when the program was killed are gone, and so are their numbers: the recording has no
//! `"mk":"Close"` line then, and [`gaps`] says so. When the power fails, so are those that were not synced ([`RecorderOptions::sync`]). A child after `fork` must not record.
//!
//! The way of a record: [`Stream::record`] takes a number and the time, and lets `Serialize` write a tape (`tape.rs`)
//! into the buffer of the thread (`handover.rs`): no lock, no clone, no box. The writer's thread (`writer.rs`) reads all
//! buffers in the order of time, makes lines (`line.rs`, `json.rs`) and gives them to files (`output.rs`, `file.rs`).

mod analyse;
mod clock;
mod compare;
mod config;
mod convert;
mod core;
#[cfg(feature = "elfo")]
pub mod elfo;
mod entry;
mod error;
mod file;
mod follow;
mod handover;
mod index;
mod json;
mod limit;
mod line;
mod loss;
mod mode;
#[cfg(feature = "mpsc")]
pub mod mpsc;
mod names;
mod options;
mod output;
mod player;
mod pool;
mod recorder;
mod redact;
mod repair;
mod scan;
mod search;
mod shelf;
#[cfg(feature = "signals")]
mod signals;
mod sorting;
mod stream;
mod sync;
mod tape;
#[cfg(feature = "tower")]
pub mod tower;
pub mod trace;
#[cfg(feature = "tracing")]
pub mod tracing;
mod watch;
mod writer;

pub use analyse::{
    Gap, GapReport, GroupGaps, Latencies, PairReport, RunGaps, Stats, StatsRow, gaps, pair, stats,
};
pub use compare::{DiffReport, Difference, Ignored, diff};
pub use config::{
    Bytes, Config, ConfigError, GroupSettings, Level, OnOverflow, RecordRate, Redaction, Settings,
};
#[cfg(feature = "parquet")]
pub use convert::to_parquet;
pub use convert::{Columns, to_csv};
pub use entry::{Direction, Kind};
pub use error::RecorderError;
pub use file::put_index;
pub use follow::Follower;
pub use index::{BlockEntry, RecordingIndex, TraceFilter};
pub use loss::Why;
pub use mode::{hash, hide, is_recording, truncate, unrecorded};
pub use names::is_recording_name;
pub use options::{Naming, OnFull, Profile, RecorderOptions, Sync};
pub use player::{Outcome, Pace, PlayError, Played, Player, Sent};
pub use recorder::{FlushError, Recorder, RecordingReport};
pub use repair::{Repaired, repair_file, repair_folder};
pub use scan::index_of;
pub use search::{FieldEquals, Filter, GoOn, Line, SearchReport, search};
pub use shelf::{FolderShelf, ReadSeek, Shelf};
#[cfg(feature = "signals")]
pub use signals::{rotate_on_sighup, snapshot_on_signal};
pub use sorting::{SortReport, sort};
pub use stream::Stream;
