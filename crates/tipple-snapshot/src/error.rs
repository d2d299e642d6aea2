//! What can go wrong, in words for people and as a kind for programs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

/// The class of a [`SnapshotError`]: what metrics are counted by, and what decides whether another snapshot is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option, a name or a call makes no sense. The message says what to change.
    Usage,
    /// The system refused: a disk that is full, a right that is missing, a device that fails. Says nothing about the
    /// snapshot itself.
    Io,
    /// The file has no end: it was cut off, or is none of ours.
    Truncated,
    /// The bytes are not those that were written, or do not fit together.
    Damaged,
    /// The file is of a newer layout than this program knows. It may be in perfect health.
    Layout,
    /// The file holds a value of another type: another schema. It may be in perfect health.
    Schema,
    /// The file is sealed with a key that is not there, or of which another one is there.
    Key,
    /// The value cannot be dumped: too deep, or a user's own `dump` refused.
    Value,
    /// There is no value: nothing was loaded yet, or it has expired, or it was cleared.
    Empty,
    /// The value has no elements, and `allow_empty` is off: the snapshot that is there stays.
    EmptyValue,
    /// Another process is writing into the folder.
    Busy,
    /// It was told to stop: a shutdown whose deadline came.
    Cancelled,
    /// A user's code failed: the updater.
    Update,
    /// A user's code panicked. The panic was contained.
    Panic,
}

impl ErrorKind {
    /// The value of the metrics' label `cause`. Stable.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::Io => "io",
            ErrorKind::Truncated => "truncated",
            ErrorKind::Damaged => "damaged",
            ErrorKind::Layout => "layout",
            ErrorKind::Schema => "schema",
            ErrorKind::Key => "key",
            ErrorKind::Value => "value",
            ErrorKind::Empty => "empty",
            ErrorKind::EmptyValue => "empty_value",
            ErrorKind::Busy => "busy",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Update => "update",
            ErrorKind::Panic => "panic",
        }
    }

    /// Whether the file itself is at fault, so that reading it once more gives the same answer.
    pub(crate) fn is_damage(self) -> bool {
        matches!(self, ErrorKind::Truncated | ErrorKind::Damaged)
    }
}

/// The error of this crate: one line that names the value, the reason, and the next step. As large as a pointer, since it
/// is returned for every field of a value.
#[derive(Clone)]
pub struct SnapshotError(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SnapshotError {
    #[cold]
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            path: None,
            source: None,
        }))
    }

    /// For `dump` and `load` that are written by hand: this value cannot be dumped, or these bytes are none of its.
    #[cold]
    pub fn value(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Value, message)
    }

    #[cold]
    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    #[cold]
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::new(ErrorKind::Io, what).because(source)
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.source = Some(source.into());
        }
        self
    }

    /// The same, naming the file. The innermost file that was named stays.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.path.get_or_insert_with(|| path.to_owned());
        }
        self
    }

    /// What a panic said, which was caught.
    pub(crate) fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> Self {
        let said = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let said = said.unwrap_or_else(|| "no message".to_owned());
        Self::new(ErrorKind::Panic, format!("{what} panicked: {said}"))
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or folder that it is about.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Whether the disk is full, or a quota is used up.
    pub fn is_disk_full(&self) -> bool {
        let source = self.0.source.as_ref();
        source
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            })
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotError")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .finish()
    }
}

impl Error for SnapshotError {
    // The message has the cause in it already: whoever prints the chain would print it twice.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_line_and_small() {
        let error = SnapshotError::io("cannot write", io::Error::from_raw_os_error(28))
            .at(Path::new("/data/prices"))
            .at(Path::new("/elsewhere"));
        assert_eq!(
            error.to_string(),
            "/data/prices: cannot write: No space left on device (os error 28)"
        );
        assert!(error.is_disk_full());
        assert_eq!(error.kind().name(), "io");
        assert_eq!(size_of::<Result<(), SnapshotError>>(), size_of::<usize>());
    }
}
