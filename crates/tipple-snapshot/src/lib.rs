//! An in-memory cache that boots warm from the last snapshot of itself.

// The derived code names this crate by its name, also in here.
extern crate self as tipple_snapshot;

mod base64;
mod cache;
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
mod writer;
mod writing;

pub use cache::{Cache, CacheBuilder, Listening, ValueGuard};
pub use dumpable::{Dumpable, element_counts};
pub use error::{ErrorKind, SnapshotError};
pub use folder::{LoadOutcome, Loaded, SnapshotFolder, ValueTimes, WrittenSnapshot};
pub use keys::Keys;
#[cfg(feature = "encryption")]
pub use keys::{KEY_BYTES, KEYS_MEMBER};
pub use name::SnapshotName;
pub use options::{
    CacheOptions, FirstUpdateMode, FirstUpdateType, MaxAge, Reconfiguration, SnapshotOptions,
    UpdateTypes,
};
pub use reader::Reader;
#[cfg(feature = "tokio")]
pub use runtime::{AsyncUpdater, OnTokio};
pub use schema::{Schema, SchemaBuilder, TypeNumber};
pub use seeded::{HashMap, HashSet, Seeded};
pub use stats::{Stats, UpdateStats, WriteOutcome};
pub use tipple_snapshot_derive::Dumpable;
pub use updater::{BoxError, Update, UpdateRequest, UpdateType, Updater};
pub use writer::{DEPTH_MAX, Writer};
