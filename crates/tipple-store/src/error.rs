//! What went wrong, in the store or on the way to it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

/// Why an operation failed. Decides the exit code and what a caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A name, URL or argument that can never work. The user's or the caller's to correct.
    Invalid,
    /// A store that this version knows by name only, or a feature that the file system lacks.
    Unsupported,
    /// There is no such object, or no such folder to open.
    NotFound,
    /// An object with this name and other bytes exists. It was left as it is.
    AlreadyExists,
    /// Something that is not an object is in the way: a folder under an object's name, an object
    /// where a folder should be, a symbolic link, a device.
    Blocked,
    /// The object is larger than the caller allowed. Nothing was allocated.
    TooLarge,
    /// Someone else holds the store's lock.
    Locked,
    /// The disk or the quota is full.
    Full,
    /// No permission, a read-only file system, or a store that was opened for reading.
    Denied,
    /// A sync or close failed: what was written may be lost although it can still be read. It is
    /// never tried again on the same file.
    NotDurable,
    /// The local file given to [`put_file`](crate::Store::put_file) cannot be read or is no
    /// regular file. The store is not at fault.
    LocalFile,
    /// Any other input/output error.
    Io,
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retryable {
    /// Again would give the same, or would be wrong. Something must change first.
    Never,
    /// Nothing was applied; again may succeed.
    Safe,
    /// It is not known whether it was applied. Objects are written once, so writing the same
    /// bytes again is right: it gives [`Put::AlreadySame`](crate::Put::AlreadySame) if it was.
    MayHaveBeenApplied,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Parsing a [`StoreUrl`](crate::StoreUrl).
    ParseUrl,
    /// Parsing an [`ObjectName`](crate::ObjectName).
    ParseName,
    /// Opening a store, and creating it where that was asked for.
    Open,
    /// Writing an object.
    Write,
    /// Reading an object or its size.
    Read,
    /// Listing objects.
    List,
    /// Deleting an object.
    Delete,
    /// Taking the store's lock.
    Lock,
    /// Finding out what the store can do.
    Probe,
    /// Listing what crashed attempts left behind.
    ListLeftovers,
    /// Removing something a crashed attempt left behind.
    RemoveLeftover,
}

/// The error of this crate: what was being done to which object of which store, why it failed,
/// and what to do next.
///
/// Its text reads after `error: ` and includes the text of its [`source`](Error::source), so
/// print the error alone, not its chain:
///
/// ```text
/// cannot write parts/x.json to /data/d: no space left on device; free space or choose another
/// folder, then run the same command again
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    operation: Operation,
    retryable: Retryable,
    store: Box<str>,
    object: Option<Box<str>>,
    reason: Cow<'static, str>,
    next_step: Option<Cow<'static, str>>,
    source: Option<io::Error>,
}

impl StoreError {
    /// An error about `store` (as [`Store::url`](crate::Store::url) says it), not retryable, with
    /// the next step that fits `kind`. `reason` completes "cannot … because"; it holds no secret.
    pub fn new(
        kind: StoreErrorKind,
        operation: Operation,
        store: &str,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            kind,
            operation,
            retryable: match kind {
                StoreErrorKind::Locked => Retryable::Safe,
                _ => Retryable::Never,
            },
            store: store.into(),
            object: None,
            reason: reason.into(),
            next_step: next_step(kind).map(Cow::Borrowed),
            source: None,
        }
    }

    /// An error whose kind, reason and retryability come from what the system said.
    pub fn from_io(operation: Operation, store: &str, source: io::Error) -> Self {
        let mut error = Self::new(kind_of(&source), operation, store, system_reason(&source));
        if is_passing(&source) {
            error.retryable = Retryable::Safe;
        }
        error.source = Some(source);
        error
    }

    /// The same, naming the object, file or prefix it is about.
    #[must_use]
    pub fn with_object(mut self, object: impl fmt::Display) -> Self {
        self.object = Some(object.to_string().into_boxed_str());
        self
    }

    /// The same with another answer to "may this be done again?".
    #[must_use]
    pub fn with_retryable(mut self, retryable: Retryable) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same with another kind, and the next step that fits it.
    #[must_use]
    pub fn with_kind(mut self, kind: StoreErrorKind) -> Self {
        self.kind = kind;
        self.next_step = next_step(kind).map(Cow::Borrowed);
        self
    }

    /// The same with other words for why.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// The same with other words for what to do about it.
    #[must_use]
    pub fn with_next_step(mut self, next_step: impl Into<Cow<'static, str>>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }

    /// The same with what the system said.
    #[must_use]
    pub fn with_source(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// Why it failed.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether the same call may be made again.
    pub fn is_retryable(&self) -> Retryable {
        self.retryable
    }

    /// The object, file or prefix it is about, if it is about one.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// Why, in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The store it is about, without secrets.
    pub fn store(&self) -> &str {
        &self.store
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = &self.store;
        let object = self.object.as_deref();
        let named = object.unwrap_or("an object");
        match self.operation {
            Operation::ParseUrl => write!(f, "cannot use {store} as a store")?,
            Operation::ParseName => write!(
                f,
                "cannot use {:?} as an object name",
                object.unwrap_or_default()
            )?,
            Operation::Open => write!(f, "cannot open {store}")?,
            Operation::Write => write!(f, "cannot write {named} to {store}")?,
            Operation::Read => write!(f, "cannot read {named} from {store}")?,
            Operation::List => match object {
                Some(object) => write!(f, "cannot list {object} in {store}")?,
                None => write!(f, "cannot list {store}")?,
            },
            Operation::Delete => write!(f, "cannot delete {named} from {store}")?,
            Operation::Lock => write!(f, "cannot lock {store}")?,
            Operation::Probe => write!(f, "cannot find out what {store} can do")?,
            Operation::ListLeftovers => {
                write!(f, "cannot list what earlier attempts left in {store}")?;
            }
            Operation::RemoveLeftover => {
                write!(f, "cannot remove the leftover {named} from {store}")?;
            }
        }
        write!(f, ": {}", self.reason)?;
        match &self.next_step {
            Some(next_step) => write!(f, "; {next_step}"),
            None => Ok(()),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The words for two objects of one name.
pub(crate) fn conflict(bytes_there: u64, bytes_given: u64) -> String {
    if bytes_there == bytes_given {
        format!("it exists with other content of the same {bytes_there} bytes")
    } else {
        format!("it exists with {bytes_there} bytes, these are {bytes_given} bytes")
    }
}

/// The system's words, as they stand in the middle of a sentence.
pub(crate) fn system_reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(code) = error.raw_os_error() {
        let suffix = format!(" (os error {code})");
        if let Some(stripped) = text.strip_suffix(&suffix) {
            text = stripped.to_owned();
        }
    }
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "unknown error".to_owned(),
    }
}

fn kind_of(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::Denied
        }
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => StoreErrorKind::Blocked,
        io::ErrorKind::Unsupported => StoreErrorKind::Unsupported,
        // ELOOP from O_NOFOLLOW has no stable `io::ErrorKind`.
        _ if error.raw_os_error() == Some(libc::ELOOP) => StoreErrorKind::Blocked,
        _ => StoreErrorKind::Io,
    }
}

/// Errors of network file systems that may be gone a moment later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::StaleNetworkFileHandle
    )
}

fn next_step(kind: StoreErrorKind) -> Option<&'static str> {
    match kind {
        StoreErrorKind::Full => {
            Some("free space or choose another folder, then run the same command again")
        }
        StoreErrorKind::Denied => Some(
            "check who owns the folder, its permissions, and whether its file system is mounted \
             read-only",
        ),
        StoreErrorKind::Locked => Some("wait until it has ended, or end it"),
        StoreErrorKind::AlreadyExists => {
            Some("objects are never overwritten: choose another folder or prefix")
        }
        StoreErrorKind::Blocked => Some("move it away or choose another folder"),
        StoreErrorKind::NotDurable => {
            Some("check the disk and the system log, then run the same command again")
        }
        StoreErrorKind::Invalid
        | StoreErrorKind::Unsupported
        | StoreErrorKind::NotFound
        | StoreErrorKind::TooLarge
        | StoreErrorKind::LocalFile
        | StoreErrorKind::Io => None,
    }
}
