//! Why it ended without its result.

use std::io;
use std::path::Path;

use tipple_store::{StoreError, StoreErrorKind};

/// What kind of failure it is. Each maps to one exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request makes no sense here (exit code 2).
    Usage,
    /// What is in the store is not what was written there, or not whole (exit code 4).
    Damaged,
    /// The command failed, or wrote a file again that was taken (exit code 10).
    Live,
    /// The store failed (exit code 11).
    Store,
    /// The limit, or the local disk (exit code 12).
    Budget,
    /// Written by a newer format version (exit code 13).
    Version,
    /// Cancelled by the user; the same command may be given again (exit code 130).
    Interrupted,
}

/// Why it ended without its result. Its text reads after "error: ".
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The request makes no sense here.
    #[error("{0}")]
    Usage(String),
    /// The limit cannot be kept.
    #[error("{0}")]
    Limit(String),
    /// The command did what cannot be stored, or cannot be controlled.
    #[error("{0}")]
    Command(String),
    /// The store took nothing for longer than a pause may last.
    #[error("{0}")]
    StoreTooSlow(String),
    /// An object is missing, damaged, or contradicts another.
    #[error("{object} of {store}: {reason}")]
    Damaged {
        /// The store.
        store: String,
        /// The object.
        object: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The local disk.
    #[error(
        "cannot {operation} {path}: {source}; check the folder, then run the same command again"
    )]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A newer format.
    #[error(
        "{object} of {store} has format version {major}.{minor}, and this program knows {}.{}: use a newer tipple",
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
    },
    /// Cancelled.
    #[error(
        "interrupted; the command was stopped, and its files do not count: run the same command again"
    )]
    Interrupted,
}

impl SuperviseError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) => ErrorKind::Usage,
            Self::Limit(_) | Self::Disk { .. } => ErrorKind::Budget,
            Self::Command(_) => ErrorKind::Live,
            Self::StoreTooSlow(_) => ErrorKind::Store,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Store(error) => match error.kind() {
                StoreErrorKind::Full | StoreErrorKind::LocalFile => ErrorKind::Budget,
                StoreErrorKind::Invalid | StoreErrorKind::Unsupported => ErrorKind::Usage,
                _ => ErrorKind::Store,
            },
            Self::Version { .. } => ErrorKind::Version,
            Self::Interrupted => ErrorKind::Interrupted,
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
}
