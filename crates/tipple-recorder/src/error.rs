//! What can go wrong with a recorder, or with a recording that is read.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

/// Why a recorder cannot be started, or a recording not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// The options cannot be.
    #[error("{what}")]
    Options {
        /// What, and what would do.
        what: String,
    },
    /// The configuration cannot be.
    #[error("the configuration cannot be used: {0}")]
    Config(#[from] ConfigError),
    /// A file or folder.
    #[error("cannot {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
}

impl RecorderError {
    pub(crate) fn io(
        operation: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> RecorderError {
        let path = path.to_owned();
        move |source| RecorderError::Io {
            operation,
            path,
            source,
        }
    }
}
