//! Why a verb ended without its result.

use std::io;
use std::path::Path;

use tipple_budget::{BudgetError, Cancelled};
use tipple_chunk::ChunkError;
use tipple_flow::{Failure, Party, Stop};
use tipple_store::{ObjectName, Operation, Store, StoreError, StoreErrorKind};

use crate::notify::{NotifyTarget, Refused};

/// What kind of failure it is. Each maps to one exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense here: another source's dump, a finished dump, other options (exit code 2).
    Usage,
    /// What is in the store is not what was written there, or not whole (exit code 4).
    Damaged,
    /// The live system failed, or is not the one it was (exit code 10).
    Live,
    /// The store failed, or a queue or webhook cannot be used (exit code 11).
    Store,
    /// A budget or the local disk (exit code 12).
    Budget,
    /// Written by a newer format version (exit code 13).
    Version,
    /// Sealed with a key that is not there, or not sealed although a key was given (exit code 13).
    Key,
    /// Cancelled by the user; the same command goes on where it was (exit code 130).
    Interrupted,
}

/// Why a verb ended without its result. Its text reads after "error: ".
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The request makes no sense here.
    #[error("{0}")]
    Usage(String),
    /// An object of the dump is missing, damaged, or contradicts another.
    #[error("{object} of {store}: {reason}")]
    Damaged {
        /// The store.
        store: String,
        /// The object.
        object: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A chunk cannot be written or read.
    #[error("{object}: {source}")]
    Chunk {
        /// The chunk's name or path.
        object: String,
        /// Why.
        source: ChunkError,
    },
    /// A source, a sink, or the content of records.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A budget that cannot serve the job.
    #[error("{0} by --memory, or give the job fewer --threads")]
    Budget(#[from] BudgetError),
    /// A spool that is too small for the job.
    #[error(
        "a spool of {limit} bytes is too small: {threads} threads need two chunks each, {least} bytes; give --spool-limit {least}, a smaller --chunk-size, or fewer --threads"
    )]
    Spool {
        /// What was allowed.
        limit: u64,
        /// What would do.
        least: u64,
        /// Workers.
        threads: usize,
    },
    /// The local disk.
    #[error(
        "cannot {operation} {path}: {source}; free space or choose another folder, then run the same command again"
    )]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The dump, or a part of it, has a newer format.
    #[error(
        "{object} of {store} has format version {major}.{minor}, and this program {verb} {}.{}: use a newer tipple",
        crate::layout::FORMAT_MAJOR,
        crate::layout::FORMAT_MINOR
    )]
    Version {
        /// The store.
        store: String,
        /// The object.
        object: String,
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
        /// `reads` or `writes`.
        verb: &'static str,
    },
    /// The key that the dump takes is not there.
    #[error("{store}: {reason}")]
    Key {
        /// The store.
        store: String,
        /// Why, and what to do. Names the key, and never says what it is.
        reason: String,
    },
    /// A queue or webhook cannot be used. Its secrets are not in it.
    #[error("cannot use {target}: {reason}")]
    Notify {
        /// Which, as far as it is no secret.
        target: String,
        /// Why.
        reason: String,
    },
    /// Cancelled.
    #[error("interrupted; run the same command again to go on")]
    Interrupted,
}

impl DumpError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) => ErrorKind::Usage,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Chunk { source, .. } => match source.kind() {
                tipple_chunk::ErrorKind::FormatVersion => ErrorKind::Version,
                tipple_chunk::ErrorKind::Io => ErrorKind::Store,
                tipple_chunk::ErrorKind::Usage => ErrorKind::Usage,
                tipple_chunk::ErrorKind::Key => ErrorKind::Key,
                _ => ErrorKind::Damaged,
            },
            Self::Failure(failure) => match failure.party() {
                Party::Usage => ErrorKind::Usage,
                Party::Source | Party::Sink => ErrorKind::Live,
                Party::Budget => ErrorKind::Budget,
                Party::Content => ErrorKind::Damaged,
                Party::Version => ErrorKind::Version,
            },
            Self::Store(error) => match error.kind() {
                StoreErrorKind::Full | StoreErrorKind::LocalFile => ErrorKind::Budget,
                StoreErrorKind::Invalid | StoreErrorKind::Unsupported => ErrorKind::Usage,
                _ => ErrorKind::Store,
            },
            Self::Budget(_) | Self::Spool { .. } | Self::Disk { .. } => ErrorKind::Budget,
            Self::Version { .. } => ErrorKind::Version,
            Self::Key { .. } => ErrorKind::Key,
            Self::Notify { .. } => ErrorKind::Store,
            Self::Interrupted => ErrorKind::Interrupted,
        }
    }

    pub(crate) fn notify(target: &NotifyTarget, refused: Refused) -> Self {
        match refused {
            Refused::Cancelled => Self::Interrupted,
            Refused::Failed(reason) => Self::Notify {
                target: target.to_string(),
                reason,
            },
        }
    }

    pub(crate) fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Disk {
            operation,
            path,
            source,
        }
    }

    /// An object broke off while it was read.
    pub(crate) fn reading(store: &dyn Store, object: &ObjectName, error: io::Error) -> Self {
        StoreError::from_io(Operation::Read, store.url(), error)
            .with_object(object)
            .into()
    }

    pub(crate) fn chunk(object: impl ToString) -> impl FnOnce(ChunkError) -> Self {
        let object = object.to_string();
        move |error| match error {
            // A disk that is full is no fault of the chunk, and has a next step.
            ChunkError::Io { source, .. } if is_full(&source) => Self::Disk {
                operation: "write",
                path: object,
                source,
            },
            source => Self::Chunk { object, source },
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<Cancelled> for DumpError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<Stop> for DumpError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Cancelled(_) => Self::Interrupted,
            Stop::Failed(failure) => Self::Failure(failure),
        }
    }
}
