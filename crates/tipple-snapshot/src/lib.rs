//! An in-memory cache that boots warm from the last snapshot of itself.
//!
//! A service that keeps a value in memory (prices, permissions, routes) and fills it from a slow source waits for that source at
//! each start. With this crate it starts with what it had, some milliseconds later, and updates it afterwards: five lines.
//!
//! ```
//! # use std::time::Duration;
//! use tipple_snapshot::{BoxError, Cache, CacheOptions, Dumpable, HashMap, SnapshotOptions, Update, UpdateRequest};
//!
//! #[derive(Dumpable)]
//! struct Price { cents: u64, currency: String }
//! type Prices = HashMap<String, Price>;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let root = tempfile::tempdir()?;
//! # let root = root.path();
//! # fn ask_the_database() -> Result<Prices, BoxError> {
//! #     Ok([("tea".to_owned(), Price { cents: 120, currency: "EUR".to_owned() })].into_iter().collect())
//! # }
//! let cache = Cache::builder("prices", |_: UpdateRequest<Prices>| Ok(Update::New(ask_the_database()?)))
//!     .options(CacheOptions::every(Duration::from_secs(60)))
//!     .snapshots(root, SnapshotOptions::warm(Duration::from_secs(86_400)))
//!     .start()?;
//!
//! assert_eq!(cache.get()?["tea"].cents, 120);
//! # Ok(())
//! # }
//! ```
//!
//! # Five minutes
//!
//! **The value.** Any type that is `Send + Sync`, and [`Dumpable`] to be in snapshots: derive it. For large maps take
//! [`HashMap`] of this crate: its hasher says its seed, and loading such a map is several times as fast (see below).
//! [`testing::assert_roundtrip`] is for the tests of your types. Types of crates that know nothing of this one are taken through
//! serde: `Serde` (feature `serde`).
//!
//! **The updater.** A closure, or an [`Updater`]. It is told whether to begin with nothing ([`UpdateType::Full`]) or with what is
//! there, and when the last update was, also if that was in another process; it answers [`Update::New`], [`Update::NoChange`]
//! (the snapshot is then only renamed) or an error (the value stays). On tokio, [`Cache::builder_async`] takes an
//! `AsyncUpdater`, and [`start_async`](CacheBuilder::start_async), `update_now_async`, `shutdown_async` never keep a worker waiting.
//!
//! ```
//! # #[cfg(feature = "tokio")] mod asynchronous {
//! # use std::time::Duration;
//! # use tipple_snapshot::{BoxError, Cache, CacheOptions, SnapshotOptions, Update, UpdateRequest};
//! # async fn fetch(_: Option<std::time::SystemTime>) -> Result<Vec<String>, BoxError> { Ok(vec![]) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder_async("words", |ask: UpdateRequest<Vec<String>>| async move {
//!     Ok(Update::New(fetch(ask.last_update).await?))
//! })
//! .snapshots("/var/lib/app", SnapshotOptions::warm(Duration::from_secs(3600)))
//! .start_async()
//! .await?;
//! # drop(cache); Ok(()) } }
//! ```
//!
//! **Reading.** [`Cache::get`] takes no lock and never waits: it costs what `ArcSwap::load` costs. [`Cache::listen`] tells of each
//! value once, also of the one that was loaded.
//!
//! **Starting.** [`SnapshotOptions::warm`] starts at once with a snapshot that is not too old. [`FirstUpdateMode`] and
//! [`FirstUpdateType`] say what else a start may wait for:
//!
//! | a snapshot | mode | the first update | the start |
//! |---|---|---|---|
//! | is loaded | `Skip` | comes after a period | is over at once |
//! | is loaded | `BestEffort` | is made while the start waits | goes on if it fails |
//! | is loaded | `Required` | is made while the start waits | fails with it, unless `first_update_fail_ok` |
//! | is not there | any | a full one, while the start waits | fails with it, unless `first_update_fail_ok` |
//!
//! **Changing.** [`Cache::reconfigure`] switches snapshots and updates off and on, and changes intervals, while the service runs.
//!
//! **Ending.** [`Cache::shutdown`] writes what is new, within a deadline.
//!
//! **Watching.** [`Cache::stats`], or the feature `metrics`. Wake somebody when `newest_snapshot` gets old: it is how old the value
//! is that the next start begins with. What happens is told to `tracing`, too.
//!
//! # What holds
//!
//! - A snapshot is whole or not there: it is synced before it gets its name, and the folder after it. What a killed process left is
//!   removed by the next write. A failed write leaves the snapshots that were there, and no file.
//! - Nothing of a value is handed out before header, index, and each frame that it is made of were verified (and their tags, if
//!   they are sealed). If the newest snapshot is damaged, cut off, of another type, or of a key that is not there, an older one is
//!   loaded. What is damaged is set aside as `NAME.corrupt`, and not tried again.
//! - No length in a file allocates more than the bytes justify that are there.
//! - One write at a time, whatever the number of processes; updates during a write make exactly one more. Serializing never
//!   happens on a thread of the runtime, nor of who reads.
//! - A value without elements, and one that was cleared, never replaces a good snapshot or makes it seem fresh.
//! - The time in a name is that at which the update *began*: asking a source for what has changed since loses nothing.
//!   A file dated in the future is loaded only if there is no other, and then the next update is a full one.
//! - A new type of the value (a field more) is recognized by itself. The snapshot of the build before it stays, so that a rollback
//!   starts warm, too.
//! - While a snapshot is written, a frame of 256 KiB is held (two, if it is compressed); while one is loaded, the value and up to
//!   8 MiB for each thread. Both whatever the size of the value is.
//! - A store for copies that is away holds up no write, and a start for 10 seconds at most.
//!
//! # Features
//!
//! | feature | gives |
//! |---|---|
//! | `tokio` (default) | asynchronous updaters |
//! | `compression` | [`Compression::Lz4`]: smaller files, for slow disks and copies that go far |
//! | `encryption` | snapshots sealed with AES-256-GCM: [`SnapshotOptions::encrypted`], [`Keys`] |
//! | `metrics` | counters, gauges and histograms for the `metrics` facade |
//! | `serde` | [`Serde`]: values of types that have only serde |
//! | `store` | [`RemoteCopies`]: copies of snapshots in a folder or a bucket, for starts on an empty disk |
//! | `uuid` | `Dumpable` for `uuid::Uuid` |
//! | `userver` | the plain format of userver's cache dumps, to be read and written |
//!
//! # The format
//!
//! [FORMAT.md](https://github.com/tipple-dump/tipple/blob/main/crates/tipple-snapshot/FORMAT.md) has every byte. Numbers are varints
//! and little-endian everywhere; a file is the same on every machine. It says what type its value has, so `tipple snapshot cat` prints
//! it without the service. The codec is this crate's own rather than one of serde's: elements stream in and out, so a map is never
//! held twice; the type of a value is known as data; and lengths are held against the bytes that are left. It writes a map of a
//! million entries in 0.8 of the time that `postcard` takes for it, and loads it in 0.2 of its time (`bench/README.md`).
//!
//! This crate must never need the pipeline of tipple, nor open a socket.

#![forbid(unsafe_code)]

// The derived code names this crate by its name, also in here.
extern crate self as tipple_snapshot;

mod any;
mod base64;
mod cache;
mod compression;
mod disk;
mod dumpable;
mod error;
mod folder;
mod frames;
mod impls;
mod keys;
mod layout;
mod listing;
#[cfg(feature = "metrics")]
mod metrics;
mod moment;
mod name;
mod options;
mod pace;
mod plan;
mod reader;
#[cfg(feature = "store")]
mod remote;
mod render;
#[cfg(feature = "tokio")]
mod runtime;
mod schema;
mod seeded;
mod stats;
pub mod testing;
pub mod tools;
mod updater;
mod updating;
#[cfg(feature = "userver")]
pub mod userver;
mod writer;
mod writing;

#[cfg(feature = "serde")]
pub use any::Serde;
pub use cache::{Cache, CacheBuilder, Listening, ValueGuard};
pub use dumpable::{Dumpable, element_counts};
pub use error::{ErrorKind, SnapshotError};
pub use folder::{LoadOutcome, Loaded, SnapshotFolder, ValueTimes, WrittenSnapshot};
pub use keys::Keys;
#[cfg(feature = "encryption")]
pub use keys::{KEY_BYTES, KEYS_MEMBER};
pub use name::SnapshotName;
pub use options::{
    CacheOptions, Compression, FirstUpdateMode, FirstUpdateType, MaxAge, Reconfiguration,
    SnapshotOptions, UpdateTypes,
};
pub use reader::Reader;
#[cfg(feature = "store")]
pub use remote::RemoteCopies;
#[cfg(feature = "tokio")]
pub use runtime::{AsyncUpdater, OnTokio};
pub use schema::{Schema, SchemaBuilder, TypeNumber};
pub use seeded::{HashMap, HashSet, Seeded};
pub use stats::{Stats, UpdateStats, WriteOutcome};
pub use tipple_snapshot_derive::Dumpable;
#[cfg(feature = "store")]
pub use tipple_store as store;
pub use updater::{BoxError, Update, UpdateRequest, UpdateType, Updater};
pub use writer::{DEPTH_MAX, Writer};
