//! The publish sequence: see the module above for its table.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Linked;
use super::{LocalStore, OWN, create_folder, open_no_follow};
use crate::error::{conflict, system_reason};
use crate::{ObjectName, Operation, Put, Retryable, StoreError, StoreErrorKind};

/// Read at a time when files are compared.
const COMPARE_BYTES: usize = 64 * 1024;

/// Numbers the staged files of this process.
static STAGED: AtomicU64 = AtomicU64::new(0);

impl LocalStore {
    /// Creates a file of a new name in the staging folder.
    fn create_stage(&self) -> Result<(PathBuf, File), StoreError> {
        loop {
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let path = self
                .staging
                .join(format!("{}-{number}.stage", process::id()));
            let created = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&path);
            match created {
                Ok(file) => return Ok((path, file)),
                // A process with our number, long gone or on another machine, has left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let reason = format!(
                        "{} was removed while the store was used",
                        self.staging.display()
                    );
                    return Err(self
                        .error(StoreErrorKind::Io, Operation::Write, reason)
                        .with_next_step("run the same command again")
                        .with_source(error));
                }
                Err(error) => return Err(self.io_error(Operation::Write, error)),
            }
        }
    }

    /// Stages what `fill` writes, synced and closed. After `Err` no staged file is left.
    pub(super) fn stage(
        &self,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<PathBuf, StoreError> {
        const GONE: &str = "the staged file was removed";
        let (path, mut file) = self.create_stage()?;
        let written = match fill(&mut file) {
            Ok(()) => self.sync(&file, GONE).and_then(|()| self.close(file, GONE)),
            Err(error) => Err(self.io_error(Operation::Write, error)),
        };
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                // If this fails too, it is a leftover.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn sync(&self, file: &File, what_now: &str) -> Result<(), StoreError> {
        (self.disk.sync_file)(file)
            .map_err(|source| not_durable(self.io_error(Operation::Write, source), what_now))
    }

    fn close(&self, file: File, what_now: &str) -> Result<(), StoreError> {
        (self.disk.close)(file)
            .map_err(|source| not_durable(self.io_error(Operation::Write, source), what_now))
    }

    /// Gives the synced file at `from` the name of the object at `target`, durably. `given` is
    /// what the file holds, to be compared with an object that is there already.
    fn publish(
        &self,
        from: &Path,
        target: &Path,
        given: Given<'_>,
    ) -> Result<(Put, Linked), PublishError> {
        let linked = match self.disk.link(from, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_folders_of(target)?;
                self.disk.link(from, target)
            }
            linked => linked,
        };
        match linked {
            Ok(Linked::Exists) => Ok((self.already_there(target, given)?, Linked::Exists)),
            Ok(linked) => {
                self.sync_folders_of(Operation::Write, target)?;
                Ok((Put::Created, linked))
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                Err(PublishError::OtherFileSystem(error))
            }
            Err(error) => Err(PublishError::Failed(
                self.link_error(Operation::Write, error),
            )),
        }
    }

    pub(super) fn link_error(&self, operation: Operation, source: io::Error) -> StoreError {
        let unsupported = source.kind() == io::ErrorKind::Unsupported;
        let error = self.io_error(operation, source);
        match unsupported {
            true => error
                .with_reason(
                    "its file system can neither make hard links nor rename without overwriting, \
                     so it cannot keep two writers apart",
                )
                .with_next_step("choose a folder on another file system"),
            false => error,
        }
    }

    fn create_folders_of(&self, target: &Path) -> Result<(), StoreError> {
        let mut missing = Vec::new();
        for folder in self.folders_of(target) {
            if folder.is_dir() {
                break;
            }
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            create_folder(folder).map_err(|source| self.io_error(Operation::Write, source))?;
        }
        Ok(())
    }

    /// The folder of the object at `target`, the one above it, and so on up to the store's.
    fn folders_of<'a>(&'a self, target: &'a Path) -> impl Iterator<Item = &'a Path> {
        target
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.starts_with(&self.root))
    }

    /// After `Err` this opening of the store takes no more writes: a second sync of a folder may
    /// succeed although the first has lost what it had to keep.
    pub(super) fn sync_folders_of(
        &self,
        operation: Operation,
        target: &Path,
    ) -> Result<(), StoreError> {
        for folder in self.folders_of(target) {
            if let Err(source) = (self.disk.sync_folder)(folder) {
                self.failed.store(true, Ordering::Release);
                let what = format!("the folder {}", folder.display());
                return Err(not_durable(self.io_error(operation, source), &what)
                    .with_retryable(Retryable::MayHaveBeenApplied));
            }
        }
        Ok(())
    }

    /// Decides whether the object at `target` is the one that was given.
    fn already_there(&self, target: &Path, mut given: Given<'_>) -> Result<Put, StoreError> {
        let failed = |source: io::Error| {
            let gone = source.kind() == io::ErrorKind::NotFound;
            let error = self.io_error(Operation::Write, source);
            match gone {
                true => error
                    .with_kind(StoreErrorKind::Io)
                    .with_reason("it was there and was deleted at the same moment")
                    .with_retryable(Retryable::Safe),
                false => error,
            }
        };
        let found = fs::symlink_metadata(target).map_err(failed)?;
        if !found.is_file() {
            return Err(self.blocked(Operation::Write, target, found.file_type()));
        }
        let mut file = open_no_follow(target).map_err(failed)?;
        let bytes_there = file.metadata().map_err(failed)?.len();
        if bytes_there != given.bytes
            || !have_same_bytes(&mut file, &mut given.read).map_err(failed)?
        {
            return Err(self.error(
                StoreErrorKind::AlreadyExists,
                Operation::Write,
                conflict(bytes_there, given.bytes),
            ));
        }
        // Whoever wrote it may have been killed before its last step.
        self.sync(&file, "the object there was written by an earlier attempt")?;
        self.sync_folders_of(Operation::Write, target)?;
        Ok(Put::AlreadySame)
    }

    pub(super) fn put_bytes(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)?;
        let (target, found) = self.resolve(Operation::Write, name)?;
        let given = Given {
            read: &mut &*bytes,
            bytes: bytes.len() as u64,
        };
        if found.is_some() {
            return self.already_there(&target, given);
        }
        let stage = self.stage(|stage| stage.write_all(bytes))?;
        self.publish_stage(&stage, &target, given)
    }

    /// Publishes a staged file of this store's own making. No staged file is left, unless it
    /// cannot be removed: then it is a leftover, and the object is no less published.
    fn publish_stage(
        &self,
        stage: &Path,
        target: &Path,
        given: Given<'_>,
    ) -> Result<Put, StoreError> {
        let published = self.publish(stage, target, given);
        if !matches!(published, Ok((_, Linked::Moved))) {
            let _ = fs::remove_file(stage);
        }
        match published {
            Ok((put, _)) => Ok(put),
            Err(PublishError::Failed(error)) => Err(error),
            Err(PublishError::OtherFileSystem(source)) => Err(self
                .error(
                    StoreErrorKind::Unsupported,
                    Operation::Write,
                    "its folder is on another file system than the store's folder",
                )
                .with_next_step("use a store whose folders are on one file system")
                .with_source(source)),
        }
    }

    pub(super) fn put_local_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)?;
        let (target, found) = self.resolve(Operation::Write, name)?;
        let (mut file, bytes) = self.open_local_file(path)?;
        let put = if found.is_some() {
            let read = &mut file;
            self.already_there(&target, Given { read, bytes })?
        } else {
            match self.publish_local_file(path, &target, file, bytes)? {
                (_, Linked::Moved) => return Ok(Put::Created),
                (put, _) => put,
            }
        };
        fs::remove_file(path).map_err(|source| {
            self.local_file(
                path,
                "it was published, but cannot be removed from its old place",
                source,
            )
            .with_retryable(Retryable::MayHaveBeenApplied)
        })?;
        Ok(put)
    }

    pub(super) fn copy_local_file(
        &self,
        name: &ObjectName,
        path: &Path,
    ) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)?;
        let (target, found) = self.resolve(Operation::Write, name)?;
        let (mut file, bytes) = self.open_local_file(path)?;
        if found.is_none() {
            return self.publish_copy(path, &target, file, bytes);
        }
        let read = &mut file;
        self.already_there(&target, Given { read, bytes })
    }

    fn publish_copy(
        &self,
        path: &Path,
        target: &Path,
        mut file: File,
        bytes: u64,
    ) -> Result<Put, StoreError> {
        let stage = self.stage(|stage| io::copy(&mut file, stage).map(drop))?;
        file.rewind()
            .map_err(|source| self.local_file(path, "cannot be read", source))?;
        let read = &mut file;
        self.publish_stage(&stage, target, Given { read, bytes })
    }

    fn publish_local_file(
        &self,
        path: &Path,
        target: &Path,
        mut file: File,
        bytes: u64,
    ) -> Result<(Put, Linked), StoreError> {
        let what_now = format!("{} must be written again from its start", path.display());
        self.sync(&file, &what_now)?;
        let read = &mut file;
        match self.publish(path, target, Given { read, bytes }) {
            Ok(published) => Ok(published),
            Err(PublishError::Failed(error)) => Err(error),
            Err(PublishError::OtherFileSystem(_)) => {
                let put = self.publish_copy(path, target, file, bytes)?;
                Ok((put, Linked::Both))
            }
        }
    }

    fn open_local_file(&self, path: &Path) -> Result<(File, u64), StoreError> {
        let refuse =
            |reason: String| self.error(StoreErrorKind::LocalFile, Operation::Write, reason);
        let failed = |source| self.local_file(path, "cannot be read", source);
        if !fs::symlink_metadata(path).map_err(failed)?.is_file() {
            return Err(refuse(format!("{} is not a regular file", path.display())));
        }
        // Consuming an object of the store would take it away from its own name.
        let real = fs::canonicalize(path).map_err(failed)?;
        if real.starts_with(&self.root) && !real.starts_with(self.root.join(OWN)) {
            return Err(refuse(format!("{} is inside the store", path.display())));
        }
        let file = open_no_follow(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok((file, bytes))
    }

    fn local_file(&self, path: &Path, what: &str, source: io::Error) -> StoreError {
        let reason = format!("{} {what}: {}", path.display(), system_reason(&source));
        self.error(StoreErrorKind::LocalFile, Operation::Write, reason)
            .with_source(source)
    }
}

/// What a caller gave, to be compared with what is there. Read from its start, once.
struct Given<'a> {
    read: &'a mut dyn Read,
    bytes: u64,
}

enum PublishError {
    /// The file to publish is on another file system than the store.
    OtherFileSystem(io::Error),
    Failed(StoreError),
}

impl From<StoreError> for PublishError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A sync or close failed: says that what it belongs to is lost, not merely late.
pub(super) fn not_durable(error: StoreError, what_now: &str) -> StoreError {
    let kind = match error.kind() {
        // Some file systems find out only now that there is no room.
        kind @ (StoreErrorKind::Full | StoreErrorKind::Denied) => kind,
        _ => StoreErrorKind::NotDurable,
    };
    let reason = format!("syncing to disk failed: {} ({what_now})", error.reason());
    error
        .with_kind(kind)
        .with_retryable(Retryable::Never)
        .with_reason(reason)
}

fn have_same_bytes(a: &mut dyn Read, b: &mut dyn Read) -> io::Result<bool> {
    let (mut a_bytes, mut b_bytes) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    loop {
        let a_len = read_full(a, &mut a_bytes)?;
        let b_len = read_full(b, &mut b_bytes)?;
        if a_bytes[..a_len] != b_bytes[..b_len] {
            return Ok(false);
        }
        if a_len < COMPARE_BYTES {
            return Ok(true);
        }
    }
}

/// Fills `buffer` unless the end comes first; says how much it holds.
fn read_full(read: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
