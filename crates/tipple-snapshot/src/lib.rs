//! An in-memory cache that boots warm from the last snapshot of itself.

// The derived code names this crate by its name, also in here.
extern crate self as tipple_snapshot;

mod disk;
mod dumpable;
mod error;
mod folder;
mod frames;
mod impls;
mod keys;
mod layout;
mod listing;
mod moment;
mod name;
mod options;
mod pace;
mod reader;
mod schema;
mod seeded;
pub mod testing;
mod writer;

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
pub use schema::{Schema, SchemaBuilder, TypeNumber};
pub use seeded::{HashMap, HashSet, Seeded};
pub use tipple_snapshot_derive::Dumpable;
pub use writer::{DEPTH_MAX, Writer};
