//! The seam: what every store does, and how one is opened.

use std::fmt;
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::local::LocalStore;
use crate::memory::MemoryStore;
use crate::name::NAME_BYTES_MAX;
use crate::url::Place;
use crate::{ObjectName, StoreError, StoreOptions, StoreUrl};

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading only: the store must exist, nothing is created in it, and it may be on a read-only
    /// file system. Writing, deleting and locking give [`Denied`](crate::StoreErrorKind::Denied).
    Read,
    /// Reading and writing: the store is created if it does not exist.
    Write,
}

/// Opens the store at `url`. Waits for the disk or the network.
///
/// After `Ok` with [`Access::Write`] the store exists durably: a local folder and every folder
/// above it that had to be made are synced. After `Err` some of those folders may exist, empty.
/// A bucket is never made; what its server can do has been tried on a name of its own, which is
/// removed again.
///
/// # Errors
/// [`NotFound`](crate::StoreErrorKind::NotFound): opened for reading and not there; no such bucket.
/// [`Unsupported`](crate::StoreErrorKind::Unsupported): opened for writing, the server does not
/// honour put-if-absent, and `options` do not say that there is a single writer.
/// [`Invalid`](crate::StoreErrorKind::Invalid): an option or a variable makes no sense.
/// [`Blocked`](crate::StoreErrorKind::Blocked): a file where the folder should be.
/// [`Denied`](crate::StoreErrorKind::Denied), [`Full`](crate::StoreErrorKind::Full),
/// [`NotDurable`](crate::StoreErrorKind::NotDurable), [`Io`](crate::StoreErrorKind::Io): as the
/// system says.
pub fn open_store(
    url: &StoreUrl,
    access: Access,
    options: &StoreOptions,
) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match url.place() {
        Place::Folder(path) => Arc::new(LocalStore::open(path, access)?),
        Place::Memory(name) => Arc::new(MemoryStore::open(name, access)?),
        #[cfg(feature = "s3")]
        Place::Bucket(place) => Arc::new(crate::remote::RemoteStore::open(place, access, options)?),
        #[cfg(not(feature = "s3"))]
        Place::Bucket(place) => {
            options.validate()?;
            return Err(StoreError::new(
                crate::StoreErrorKind::Unsupported,
                crate::Operation::Open,
                &place.to_string(),
                "this program was built without stores beyond local folders",
            )
            .with_next_step("build it with the feature s3 of tipple-store"));
        }
    })
}

/// How a put that succeeded did so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Put {
    /// The object was not there and is now.
    Created,
    /// The object was there already with the same bytes: the same put, made earlier.
    AlreadySame,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ObjectMeta {
    /// Its length.
    pub bytes: u64,
}

impl ObjectMeta {
    /// The meta of an object of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        Self { bytes }
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ObjectEntry {
    /// Its full name.
    pub name: ObjectName,
    /// Its length.
    pub bytes: u64,
}

impl ObjectEntry {
    /// An entry for the object `name` of `bytes` bytes.
    pub fn new(name: ObjectName, bytes: u64) -> Self {
        Self { name, bytes }
    }
}

/// An object being read, from its first byte. Not buffered: read in large pieces.
pub trait ObjectRead: Read + Seek + Send {}

impl<T: Read + Seek + Send> ObjectRead for T {}

/// Whether a store honours "only if absent" on writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutIfAbsent {
    /// A second put of a name was refused when it was tried.
    Honoured,
    /// A second put of a name overwrote the first: two writers would destroy each other's work.
    Ignored,
    /// The store refuses conditional puts altogether.
    Refused,
    /// Not tried, since the store was opened for reading.
    NotProbed,
}

/// What a store can do, found out by trying.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether put-if-absent holds.
    pub put_if_absent: PutIfAbsent,
    /// Whether an object survives the end of the process and of the machine once its put is `Ok`.
    /// A folder on a file system that is itself in memory (tmpfs) is not told apart.
    pub durable: bool,
    /// Room for new objects of this user, where the store has such a limit.
    pub free_bytes: Option<u64>,
    /// Whether it has a [lock](Store::lock). Without one, put-if-absent is all that keeps writers
    /// apart.
    pub lock: bool,
    /// The longest name of an object here, in bytes: a prefix takes its share of what the server
    /// allows.
    pub name_bytes_max: usize,
    /// What confirms that the stored bytes are those that were given. `None` for a disk.
    pub confirmed_by: Option<ConfirmedBy>,
    /// One line for people: what this store is and how it publishes.
    pub description: String,
}

/// How a remote store makes sure that it holds what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConfirmedBy {
    /// The server refused a wrong CRC64NVME when it was tried, so it checks each put.
    Checksum,
    /// The server refused a payload with another SHA-256 than the signed one when it was tried.
    SignedPayload,
    /// The server checks neither: every put is read back and compared.
    ReadingBack,
    /// Not tried, since the store was opened for reading.
    NotProbed,
}

impl Capabilities {
    /// Capabilities of a store with a lock and without a known limit of room.
    pub fn new(put_if_absent: PutIfAbsent, durable: bool, description: impl Into<String>) -> Self {
        Self {
            put_if_absent,
            durable,
            free_bytes: None,
            lock: true,
            name_bytes_max: NAME_BYTES_MAX,
            confirmed_by: None,
            description: description.into(),
        }
    }
}

/// Something that an attempt left behind, or that a living attempt is still writing: which of the
/// two cannot be told from the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// Its name, of the store's own kind; not an object's name.
    pub name: String,
    /// The object that it was to become, where that is known.
    pub object: Option<ObjectName>,
    /// The room it takes; 0 where the store does not say.
    pub bytes: u64,
    /// When it was last written to, or begun where the store does not know better, by the store's
    /// clock.
    pub modified: SystemTime,
}

impl Leftover {
    /// A leftover `name` of `bytes` bytes, last written at `modified`.
    pub fn new(name: impl Into<String>, bytes: u64, modified: SystemTime) -> Self {
        Self {
            name: name.into(),
            object: None,
            bytes,
            modified,
        }
    }

    /// How long before `now` it was last written to; zero if it was written later than `now`.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.modified).unwrap_or_default()
    }
}

/// The exclusive lock of a store, held until this is dropped or the process ends.
#[must_use = "the lock is released when this is dropped"]
pub struct StoreLock {
    _held: Box<dyn Send + Sync>,
}

impl StoreLock {
    /// A lock that is held as long as `held` exists.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreLock")
    }
}

/// A place for objects that are written once and never changed.
///
/// Every call may wait for the disk or the network, and none waits for another caller. Any number
/// of threads and processes may use one store at a time.
///
/// A name is never used both for an object and as the folder of other objects (`a` and `a/b`):
/// some stores could hold both, a folder cannot, and says [`Blocked`].
///
/// [`conformance`](crate#tests) is the executable form of what is said here.
///
/// [`Blocked`]: crate::StoreErrorKind::Blocked
pub trait Store: Send + Sync {
    /// The store as its user wrote it, for messages, without secrets.
    fn url(&self) -> &str;

    /// Writes a small object, once (I5). In a bucket, what is larger than an upload part is put
    /// in parts, and some servers ignore the condition then: such a name must say its content.
    ///
    /// After `Ok` the object exists with exactly `bytes`, durably. After `Err` that may have been
    /// applied ([`MayHaveBeenApplied`]) it may be visible, whole; after any other `Err` this call
    /// has changed nothing. It is never visible in part.
    ///
    /// # Errors
    /// [`AlreadyExists`]: the name has other bytes; they are untouched, and the error says both
    /// sizes. [`Full`], [`Denied`], [`Blocked`], [`NotDurable`], [`Io`].
    ///
    /// [`AlreadyExists`]: crate::StoreErrorKind::AlreadyExists
    /// [`Blocked`]: crate::StoreErrorKind::Blocked
    /// [`Denied`]: crate::StoreErrorKind::Denied
    /// [`Full`]: crate::StoreErrorKind::Full
    /// [`Io`]: crate::StoreErrorKind::Io
    /// [`MayHaveBeenApplied`]: crate::Retryable::MayHaveBeenApplied
    /// [`NotDurable`]: crate::StoreErrorKind::NotDurable
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError>;

    /// Publishes a finished local file under `name` and consumes it. For objects whose name says
    /// their content (chunks) or that are planned once: a bucket compares lengths only.
    ///
    /// Nobody may write to the file any more: the store may keep the file itself, not a copy. Its
    /// permissions are kept then.
    ///
    /// After `Ok` the object exists with the file's bytes, durably, and the file is gone from
    /// `path`. [`Put::AlreadySame`]: the object was there with the same length and, where the
    /// store can compare cheaply (a folder), the same bytes. After `Err` the file is still at
    /// `path` and nothing of it is visible, unless the error is [`MayHaveBeenApplied`]: then the
    /// object may be visible, whole, and the file may have become it.
    ///
    /// # Errors
    /// As [`put_if_absent`](Store::put_if_absent), and [`LocalFile`]: the file cannot be read or
    /// is not a regular file. After [`NotDurable`] the file must be written again from its start;
    /// giving the same file again could publish bytes that the disk has lost.
    ///
    /// [`LocalFile`]: crate::StoreErrorKind::LocalFile
    /// [`MayHaveBeenApplied`]: crate::Retryable::MayHaveBeenApplied
    /// [`NotDurable`]: crate::StoreErrorKind::NotDurable
    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError>;

    /// The same, and the file stays at `path`: for files that go to several stores. The store
    /// keeps a copy.
    ///
    /// # Errors
    /// As [`put_file`](Store::put_file). After any of them the file is still at `path`.
    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError>;

    /// The most memory that all puts through this store hold together, beside what callers give
    /// it. It does not grow with the number of callers; they wait for each other.
    fn put_memory_bytes(&self) -> u64 {
        0
    }

    /// The most memory that one [open](Store::open) object holds for reading ahead.
    fn read_memory_bytes(&self) -> u64 {
        0
    }

    /// A folder on the store's own file system, from which [`put_file`](Store::put_file)
    /// publishes without copying. It exists. `None`: the caller uses a folder of its own.
    ///
    /// Files there are created by the caller under new names (`create_new`), are invisible as
    /// objects, and are [leftovers](Store::leftovers) if nobody publishes them.
    fn staging_dir(&self) -> Option<&Path>;

    /// Reads a whole object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`NotFound`](crate::StoreErrorKind::NotFound).
    /// [`TooLarge`](crate::StoreErrorKind::TooLarge): it is longer; decided before memory is
    /// allocated for it. [`Denied`](crate::StoreErrorKind::Denied),
    /// [`Blocked`](crate::StoreErrorKind::Blocked), [`Io`](crate::StoreErrorKind::Io).
    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError>;

    /// Says what is known of an object without reading it.
    ///
    /// # Errors
    /// [`NotFound`](crate::StoreErrorKind::NotFound), [`Denied`](crate::StoreErrorKind::Denied),
    /// [`Blocked`](crate::StoreErrorKind::Blocked), [`Io`](crate::StoreErrorKind::Io).
    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError>;

    /// Opens an object for reading in pieces, from any position. Reads through it stay valid if
    /// the object is deleted meanwhile, or fail; they never give other bytes.
    ///
    /// # Errors
    /// As [`head`](Store::head).
    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError>;

    /// Gives every object whose name starts with `prefix` to `visit`, sorted by name, byte by
    /// byte over the full name (`a-b` is before `a/b`), until `visit` breaks.
    ///
    /// `prefix` is `""`, a folder (`parts/`), or the start of a name (`parts/0000`). Objects
    /// that appear or vanish meanwhile may or may not be seen; every other object is seen exactly
    /// once. `visit` may call the store. Memory: a folder holds the names of one folder per level
    /// on the way, others a page of names; never the whole store if it has folders.
    ///
    /// # Errors
    /// [`Invalid`](crate::StoreErrorKind::Invalid): no name can start with `prefix`.
    /// [`Denied`](crate::StoreErrorKind::Denied), [`Blocked`](crate::StoreErrorKind::Blocked),
    /// [`Io`](crate::StoreErrorKind::Io): what was visited before is right, and not all there is.
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Deletes an object, durably. `Ok` also if there is none.
    ///
    /// # Errors
    /// [`Denied`](crate::StoreErrorKind::Denied), [`Blocked`](crate::StoreErrorKind::Blocked),
    /// [`Io`](crate::StoreErrorKind::Io): it is still there.
    /// [`NotDurable`](crate::StoreErrorKind::NotDurable): it is gone, and may come back after a
    /// crash of the machine.
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;

    /// Takes the exclusive lock of the store, without waiting. It is advisory: puts are safe
    /// without it; it is for those who delete.
    ///
    /// # Errors
    /// [`Locked`](crate::StoreErrorKind::Locked): someone holds it; the error says which process,
    /// where that is known. [`Unsupported`](crate::StoreErrorKind::Unsupported): this store
    /// cannot lock. [`Denied`](crate::StoreErrorKind::Denied), [`Io`](crate::StoreErrorKind::Io).
    fn lock(&self) -> Result<StoreLock, StoreError>;

    /// Finds out what the store can do. Opened for writing, it tries put-if-absent on a name of
    /// its own and removes what it wrote.
    ///
    /// # Errors
    /// As [`put_if_absent`](Store::put_if_absent).
    fn capabilities(&self) -> Result<Capabilities, StoreError>;

    /// What attempts left unpublished, and what living ones are writing right now, sorted by
    /// name.
    ///
    /// # Errors
    /// [`Denied`](crate::StoreErrorKind::Denied), [`Io`](crate::StoreErrorKind::Io).
    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError>;

    /// Removes one leftover. `Ok` also if it is gone. The caller knows that no living attempt
    /// needs it: by [`lock`](Store::lock), or by its age.
    ///
    /// # Errors
    /// [`Invalid`](crate::StoreErrorKind::Invalid): not the name of a leftover.
    /// [`Denied`](crate::StoreErrorKind::Denied), [`Io`](crate::StoreErrorKind::Io): it is still
    /// there.
    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError>;
}
