//! A store in a local folder.
//!
//! Objects are plain files under the folder. `.tipple/` in it belongs to the store and is no
//! part of what it holds: `.tipple/staging/` has files that are being written, `.tipple/lock` is
//! the lock and names the process that holds it.
//!
//! # How an object is published
//!
//! | step | call | if it fails |
//! |---|---|---|
//! | stage | `open` with `O_CREAT` and `O_EXCL`, mode 0644 less the umask, in `.tipple/staging` | nothing happened |
//! | write | `write` | the staged file is removed |
//! | sync | `fsync` | the same; never called again on this file |
//! | close | `close`, and its result is checked | the same |
//! | publish | `link` to the name: refuses one that exists | the same; an existing file is compared byte by byte |
//! | sync the folders | `fsync` of the object's folder and of each above it, up to the store's | the object may be visible and may vanish with the machine: the store takes no more writes from this opening |
//! | unstage | `unlink` of the staged name | a leftover |
//!
//! Every folder up to the store's own is synced each time, not only those that this call made:
//! whoever made one may have been killed before syncing it. A folder with nothing to sync costs
//! next to nothing. For the same reason an object that is there already with the same bytes is
//! synced before that counts as success. A file given to `put_file` starts at "sync" and is not
//! open for writing any more, so there is no close to check; if it is on another file system, it
//! is then copied, and the copy starts at "stage".
//!
//! File systems without hard links: `renameat2(RENAME_NOREPLACE)` takes the place of publish and
//! unstage. One that has neither is refused.
//!
//! # What is not followed
//!
//! The store's folder may itself be a symbolic link. Below it none is followed, and none is
//! passed over in silence: an object, or a folder on the way to one, that is a link, a device or
//! the other kind of thing is an error of kind `Blocked`. This is a guard against accidents; it
//! does not hold against someone who replaces folders of the store while it is used.

mod disk;
mod publish;
mod sys;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::name::split_prefix;
use crate::{
    Access, Capabilities, Leftover, ObjectEntry, ObjectMeta, ObjectName, ObjectRead, Operation,
    Put, PutIfAbsent, Store, StoreError, StoreErrorKind, StoreLock,
};

use disk::{Disk, Linked};
use publish::not_durable;
use walk::{Stop, walk};

/// The store's own folder inside the folder.
const OWN: &str = ".tipple";
const STAGING: &str = "staging";
const LOCK: &str = "lock";

pub(crate) struct LocalStore {
    url: String,
    /// Absolute and free of links, so that it stays right whatever the process changes.
    root: PathBuf,
    /// `<root>/.tipple/staging`.
    staging: PathBuf,
    access: Access,
    disk: Disk,
    /// A folder could not be synced: what looks published may not be.
    failed: AtomicBool,
}

impl LocalStore {
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        Self::open_on(path, access, Disk::REAL)
    }

    fn open_on(path: &Path, access: Access, disk: Disk) -> Result<Self, StoreError> {
        let url = path.display().to_string();
        let failed = |source| StoreError::from_io(Operation::Open, &url, source);
        if access == Access::Write {
            create_root(path, &url, disk)?;
        }
        let root = fs::canonicalize(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => failed(source).with_next_step("check the path"),
            _ => failed(source),
        })?;
        if !fs::metadata(&root).map_err(failed)?.is_dir() {
            return Err(not_a_folder(&url, &root));
        }
        let own = root.join(OWN);
        let staging = own.join(STAGING);
        if access == Access::Write {
            for folder in [&own, &staging] {
                create_folder(folder).map_err(failed)?;
                if !fs::symlink_metadata(folder).map_err(failed)?.is_dir() {
                    return Err(not_a_folder(&url, folder));
                }
            }
        }
        Ok(Self {
            url,
            root,
            staging,
            access,
            disk,
            failed: AtomicBool::new(false),
        })
    }

    fn error(
        &self,
        kind: StoreErrorKind,
        operation: Operation,
        reason: impl Into<std::borrow::Cow<'static, str>>,
    ) -> StoreError {
        StoreError::new(kind, operation, &self.url, reason)
    }

    fn io_error(&self, operation: Operation, source: io::Error) -> StoreError {
        StoreError::from_io(operation, &self.url, source)
    }

    fn check_writable(&self, operation: Operation) -> Result<(), StoreError> {
        if self.access == Access::Read {
            return Err(self
                .error(
                    StoreErrorKind::Denied,
                    operation,
                    "it was opened for reading",
                )
                .with_next_step("open it for writing"));
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(self.error(
                StoreErrorKind::NotDurable,
                operation,
                "an earlier sync of one of its folders failed",
            ));
        }
        Ok(())
    }

    /// The path of an object, and what is known of the file there if there is one.
    ///
    /// Looks at every step of the way, so that no link is followed.
    fn resolve(
        &self,
        operation: Operation,
        name: &ObjectName,
    ) -> Result<(PathBuf, Option<Metadata>), StoreError> {
        let mut path = self.root.clone();
        let mut segments = name.segments().peekable();
        while let Some(segment) = segments.next() {
            path.push(segment);
            let is_object = segments.peek().is_none();
            match fs::symlink_metadata(&path) {
                Ok(meta) if is_object && meta.is_file() => return Ok((path, Some(meta))),
                Ok(meta) if !is_object && meta.is_dir() => {}
                // An object above this one: whoever reads or deletes finds nothing here.
                Ok(meta) if meta.is_file() && operation != Operation::Write => break,
                Ok(meta) => return Err(self.blocked(operation, &path, meta.file_type())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(self.io_error(operation, error)),
            }
        }
        path.extend(segments);
        Ok((path, None))
    }

    fn blocked(&self, operation: Operation, path: &Path, found: FileType) -> StoreError {
        let what = if found.is_symlink() {
            "a symbolic link, and none is followed inside a store"
        } else if found.is_dir() {
            "a folder"
        } else if found.is_file() {
            "an object, not a folder"
        } else {
            "neither a regular file nor a folder"
        };
        let reason = format!("{} is {what}", path.display());
        self.error(StoreErrorKind::Blocked, operation, reason)
    }

    fn not_found(&self) -> StoreError {
        self.error(
            StoreErrorKind::NotFound,
            Operation::Read,
            "there is no such object",
        )
    }

    fn open_object(&self, name: &ObjectName) -> Result<(File, u64), StoreError> {
        let (path, found) = self.resolve(Operation::Read, name)?;
        if found.is_none() {
            return Err(self.not_found());
        }
        let failed = |source| self.io_error(Operation::Read, source);
        let file = open_no_follow(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => self.not_found(),
            _ => failed(source),
        })?;
        let meta = file.metadata().map_err(failed)?;
        Ok((file, meta.len()))
    }

    fn read_whole(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let (mut file, bytes) = self.open_object(name)?;
        let too_large = || {
            let reason = format!("it has {bytes} bytes, {bytes_max} are allowed");
            self.error(StoreErrorKind::TooLarge, Operation::Read, reason)
        };
        if bytes > bytes_max {
            return Err(too_large());
        }
        let mut contents = vec![0; usize::try_from(bytes).map_err(|_| too_large())?];
        file.read_exact(&mut contents)
            .map_err(|source| self.io_error(Operation::Read, source))?;
        Ok(contents)
    }

    fn locked(&self, holder: Option<u32>) -> StoreError {
        let locked = |reason| self.error(StoreErrorKind::Locked, Operation::Lock, reason);
        match holder {
            Some(pid) if pid == process::id() => locked("this process holds the lock".to_owned())
                .with_next_step("finish the other job in this store first"),
            Some(pid) => locked(format!("process {pid} holds the lock")),
            None => locked("another process holds the lock".to_owned()),
        }
    }

    /// Publishes one name twice, as two writers would.
    fn probe(&self) -> Result<(PutIfAbsent, &'static str), StoreError> {
        let failed = |source| self.link_error(Operation::Probe, source);
        let stage = self.stage(|_| Ok(()))?;
        let target = stage.with_extension("probe");
        let first = self.disk.link(&stage, &target);
        let second = match first {
            // The second writer needs a file of its own.
            Ok(Linked::Moved) => self.stage(|_| Ok(())).and_then(|stage| {
                let second = self.disk.link(&stage, &target).map_err(failed);
                let _ = fs::remove_file(&stage);
                second
            }),
            _ => self.disk.link(&stage, &target).map_err(failed),
        };
        let synced = (self.disk.sync_folder)(&self.staging);
        let _ = fs::remove_file(&stage);
        let _ = fs::remove_file(&target);
        synced.map_err(failed)?;
        let how = match first.map_err(failed)? {
            Linked::Both => "hard links",
            Linked::Moved => "renaming without overwriting",
            Linked::Exists => {
                let reason = format!("{} is in the way", target.display());
                return Err(self.error(StoreErrorKind::Blocked, Operation::Probe, reason));
            }
        };
        Ok(match second? {
            Linked::Exists => (PutIfAbsent::Honoured, how),
            Linked::Both | Linked::Moved => (PutIfAbsent::Ignored, how),
        })
    }

    fn leftover(&self, entry: io::Result<fs::DirEntry>) -> io::Result<Option<Leftover>> {
        let entry = entry?;
        // Others than regular files with names in UTF-8 are not this store's.
        let Ok(name) = entry.file_name().into_string() else {
            return Ok(None);
        };
        match entry.metadata() {
            Ok(meta) if meta.is_file() => {
                Ok(Some(Leftover::new(name, meta.len(), meta.modified()?)))
            }
            Ok(_) => Ok(None),
            // Published since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn not_a_folder(url: &str, path: &Path) -> StoreError {
    let reason = format!("{} is not a folder", path.display());
    StoreError::new(StoreErrorKind::Blocked, Operation::Open, url, reason)
}

/// Makes the folder at `path` and those above it that are missing, durably.
fn create_root(path: &Path, url: &str, disk: Disk) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_io(Operation::Open, url, source);
    let path = std::path::absolute(path).map_err(failed)?;
    let mut missing = Vec::new();
    for folder in path.ancestors() {
        match fs::metadata(folder) {
            Ok(meta) if meta.is_dir() => break,
            Ok(_) => return Err(not_a_folder(url, folder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(folder),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => missing.push(folder),
            Err(error) => return Err(failed(error)),
        }
    }
    for &folder in missing.iter().rev() {
        create_folder(folder).map_err(failed)?;
        if !folder.is_dir() {
            return Err(not_a_folder(url, folder)); // for example a link that leads nowhere
        }
    }
    // From the store's folder upwards: each that was made, and the store's own even if it was
    // there, since whoever made it may have been killed before syncing.
    for folder in path.ancestors().skip(1).take(missing.len().max(1)) {
        match (disk.sync_folder)(folder) {
            Ok(()) => {}
            // Someone else's folder that existed before: theirs to sync.
            Err(error) if missing.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => {
            }
            Err(error) => {
                let what = format!("the folder {}", folder.display());
                return Err(not_durable(failed(error), &what));
            }
        }
    }
    Ok(())
}

/// Makes one folder; content if it exists.
fn create_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

fn open_no_follow(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// A file whose lock is let go of at its end.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing would do, but a process that is being started at this moment holds a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

impl Store for LocalStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.put_bytes(name, bytes)
            .map_err(|error| error.with_object(name))
    }

    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.put_local_file(name, path)
            .map_err(|error| error.with_object(name))
    }

    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.copy_local_file(name, path)
            .map_err(|error| error.with_object(name))
    }

    fn staging_dir(&self) -> Option<&Path> {
        match self.access {
            Access::Write => Some(&self.staging),
            Access::Read => None,
        }
    }

    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.read_whole(name, bytes_max)
            .map_err(|error| error.with_object(name))
    }

    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        match self.resolve(Operation::Read, name) {
            Ok((_, Some(meta))) => Ok(ObjectMeta::new(meta.len())),
            Ok((_, None)) => Err(self.not_found()),
            Err(error) => Err(error),
        }
        .map_err(|error| error.with_object(name))
    }

    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError> {
        match self.open_object(name) {
            Ok((file, _)) => Ok(Box::new(file)),
            Err(error) => Err(error.with_object(name)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let Some((folders, start)) = split_prefix(prefix) else {
            return Err(self
                .error(
                    StoreErrorKind::Invalid,
                    Operation::List,
                    "no object name starts like this",
                )
                .with_object(format_args!("{prefix:?}")));
        };
        let mut folder = self.root.clone();
        for segment in folders.split_terminator('/') {
            folder.push(segment);
            match fs::symlink_metadata(&folder) {
                Ok(meta) if meta.is_dir() => {}
                Ok(meta) if meta.is_file() => return Ok(()),
                Ok(meta) => {
                    return Err(self.blocked(Operation::List, &folder, meta.file_type()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(self.io_error(Operation::List, error)),
            }
        }
        match walk(&folder, folders, start, visit) {
            Ok(()) | Err(Stop::Break) => Ok(()),
            Err(Stop::Blocked(path, found)) => Err(self.blocked(Operation::List, &path, found)),
            Err(Stop::Failed(path, error)) => {
                let path = path
                    .strip_prefix(&self.root)
                    .unwrap_or(&path)
                    .display()
                    .to_string();
                let error = self.io_error(Operation::List, error);
                Err(if path.is_empty() {
                    error
                } else {
                    error.with_object(path)
                })
            }
        }
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let delete = || {
            self.check_writable(Operation::Delete)?;
            let (path, found) = self.resolve(Operation::Delete, name)?;
            if found.is_some() {
                match fs::remove_file(&path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(self.io_error(Operation::Delete, error)),
                }
            } else if !path.parent().is_some_and(Path::is_dir) {
                return Ok(());
            }
            // Also if it was gone: whoever deleted it may have been killed before syncing.
            self.sync_folders_of(Operation::Delete, &path)
        };
        delete().map_err(|error: StoreError| error.with_object(name))
    }

    fn lock(&self) -> Result<StoreLock, StoreError> {
        self.check_writable(Operation::Lock)?;
        let failed = |source| self.io_error(Operation::Lock, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.root.join(OWN).join(LOCK))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                // The number is for messages; a full disk must not keep anyone from the lock,
                // since it may be wanted for making room.
                let _ = file
                    .set_len(0)
                    .and_then(|()| writeln!(file, "{}", process::id()));
                Ok(StoreLock::new(Locked(file)))
            }
            Err(fs::TryLockError::WouldBlock) => Err(self.locked(holder(&mut file))),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    fn capabilities(&self) -> Result<Capabilities, StoreError> {
        let free_bytes = sys::free_bytes(&self.root)
            .map_err(|source| self.io_error(Operation::Probe, source))?;
        let mut capabilities = match self.access {
            Access::Read => {
                let description = "a local folder, opened for reading";
                Capabilities::new(PutIfAbsent::NotProbed, true, description)
            }
            Access::Write => {
                self.check_writable(Operation::Probe)?;
                let (put_if_absent, how) = self.probe()?;
                let description = format!("a local folder, published with {how}");
                Capabilities::new(put_if_absent, true, description)
            }
        };
        capabilities.free_bytes = Some(free_bytes);
        Ok(capabilities)
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let failed = |source| self.io_error(Operation::ListLeftovers, source);
        let entries = match fs::read_dir(&self.staging) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut leftovers = Vec::new();
        for entry in entries {
            leftovers.extend(self.leftover(entry).map_err(failed)?);
        }
        leftovers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(leftovers)
    }

    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let remove = || {
            self.check_writable(Operation::RemoveLeftover)?;
            let name = &leftover.name;
            if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                return Err(self.error(
                    StoreErrorKind::Invalid,
                    Operation::RemoveLeftover,
                    "it is not the name of a leftover",
                ));
            }
            match fs::remove_file(self.staging.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(self.io_error(Operation::RemoveLeftover, error))
                }
                _ => Ok(()),
            }
        };
        remove().map_err(|error: StoreError| error.with_object(&leftover.name))
    }
}

/// Who holds the lock, by what its file says. The number may be that of the holder before, if
/// this holder has taken the lock only just now.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
