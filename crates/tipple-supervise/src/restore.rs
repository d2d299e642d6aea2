//! Stored files back into a folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use tipple_budget::GateState;
use tipple_chunk::{Sha256Digest, sha256_of};
use tipple_store::Store;

use crate::error::SuperviseError;
use crate::job::{Job, Report};
use crate::layout::{self, FileEntry};
use crate::name::path_of;
use crate::place::{self, each};

/// Options of [`restore`].
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Files at a time. Default: 4.
    pub threads: usize,
    /// Replace files that are there with other bytes.
    pub overwrite: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            threads: 4,
            overwrite: false,
        }
    }
}

/// Brings all files of a finished place back into the folder `target`, which is created if it does not exist.
///
/// A file gets its name only after all of it was read and its SHA-256 is right; until then it has a name that begins
/// with `.tipple-`. A file that is there already with the right bytes stays, so the same call goes on after a kill.
///
/// # Errors
/// `Usage` if the place is unfinished, or a file is there with other bytes and `overwrite` was not asked for; `Damaged`:
/// a stored file is not what it was, and nothing of it is in the folder; `Store`, `Budget` for the disk, `Interrupted`.
pub fn restore(
    job: &Job,
    store: &dyn Store,
    target: &Path,
    options: &RestoreOptions,
) -> Result<Report, SuperviseError> {
    if !place::is_files(store)? {
        return Err(SuperviseError::Usage(format!(
            "{} holds no files that `tipple supervise` stored",
            store.url()
        )));
    }
    let Some((done, manifest)) = place::finished(store)? else {
        return Err(SuperviseError::Usage(format!(
            "{} is not complete: it has no DONE; finish it by running its `tipple supervise` again",
            store.url()
        )));
    };
    fs::create_dir_all(target).map_err(SuperviseError::disk("create", target))?;
    job.progress().begun.store(true, Ordering::Relaxed);
    let earlier = AtomicU64::new(0);
    each(&manifest.files, options.threads, |file| {
        if job.gate().state() == GateState::Cancelled {
            return Err(SuperviseError::Interrupted);
        }
        let was_there = Restoring {
            store,
            target,
            file,
        }
        .restore(options.overwrite)?;
        earlier.fetch_add(u64::from(was_there), Ordering::Relaxed);
        job.progress().stored(file.bytes);
        Ok(())
    })?;
    Ok(Report {
        verb: "load",
        done: true,
        run: done.run,
        files: manifest.files.len() as u64,
        stored_bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        earlier_files: earlier.into_inner(),
        skipped: done.skipped,
        memory_bytes_budget: options.threads as u64 * ((64 << 10) + store.read_memory_bytes()),
        elapsed_ms: job.elapsed().as_millis() as u64,
        ..Report::default()
    })
}

struct Restoring<'a> {
    store: &'a dyn Store,
    target: &'a Path,
    file: &'a FileEntry,
}

impl Restoring<'_> {
    /// Whether it was there already.
    fn restore(&self, overwrite: bool) -> Result<bool, SuperviseError> {
        let path = path_of(&self.file.path).expect("the manifest was checked");
        let folder = self.make_folders(&path)?;
        let path = self.target.join(path);
        if let Some(sha256) = what_is_there(&path)? {
            if sha256 == Some(self.file.sha256) {
                return Ok(true);
            }
            if !overwrite || sha256.is_none() {
                let next = match sha256 {
                    Some(_) => "give --overwrite to replace it, or another folder",
                    None => "it is no regular file; move it away, or give another folder",
                };
                return Err(SuperviseError::Usage(format!(
                    "{} is there already with other contents: {next}",
                    path.display()
                )));
            }
        }
        let staged = folder.join(format!(".tipple-{}", layout::random_hex()));
        let result = self.stage(&staged).and_then(|()| {
            fs::rename(&staged, &path).map_err(SuperviseError::disk("rename to", &path))?;
            File::open(&folder)
                .and_then(|folder| folder.sync_all())
                .map_err(SuperviseError::disk("sync", &folder))
        });
        if result.is_err() {
            // What could not be proven to be right does not stay.
            let _ = fs::remove_file(&staged);
        }
        result.map(|()| false)
    }

    /// The folder of a file, without following links that somebody may have put there.
    fn make_folders(&self, path: &Path) -> Result<PathBuf, SuperviseError> {
        let mut folder = self.target.to_owned();
        for part in path.parent().unwrap_or(Path::new("")).components() {
            folder.push(part);
            match DirBuilder::new().create(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let meta = fs::symlink_metadata(&folder)
                        .map_err(SuperviseError::disk("look at", &folder))?;
                    if !meta.is_dir() {
                        return Err(SuperviseError::Usage(format!(
                            "{} is no folder: move it away, or give another folder",
                            folder.display()
                        )));
                    }
                }
                Err(error) => return Err(SuperviseError::disk("create", &folder)(error)),
            }
        }
        Ok(folder)
    }

    fn stage(&self, staged: &Path) -> Result<(), SuperviseError> {
        let object = self.store.open(&layout::object(&self.file.object))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(staged)
            .map_err(SuperviseError::disk("create", staged))?;
        // Not more than it should be, whatever the store gives.
        let mut copy = Copying {
            from: object.take(self.file.bytes.saturating_add(1)),
            to: &mut file,
            failed: None,
        };
        let read = sha256_of(&mut copy);
        if let Some(error) = copy.failed.take() {
            return Err(SuperviseError::disk("write", staged)(error));
        }
        let damaged = |reason: String| layout::damaged(self.store, &self.file.object, reason);
        let (sha256, bytes) = read.map_err(|error| damaged(format!("cannot be read: {error}")))?;
        if (sha256, bytes) != (self.file.sha256, self.file.bytes) {
            return Err(damaged(
                "is not what was stored, and was not restored; `tipple verify` tells what else is damaged".to_owned(),
            ));
        }
        file.sync_all()
            .map_err(SuperviseError::disk("sync", staged))
    }
}

/// `None`: nothing. `Some(None)`: something that is no regular file.
fn what_is_there(path: &Path) -> Result<Option<Option<Sha256Digest>>, SuperviseError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Ok(Some(None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SuperviseError::disk("look at", path)(error)),
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(SuperviseError::disk("open", path))?;
    let (sha256, _) = sha256_of(file).map_err(SuperviseError::disk("read", path))?;
    Ok(Some(Some(sha256)))
}

/// Writes what is read through it.
struct Copying<'a, R> {
    from: R,
    to: &'a mut File,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Copying<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Err(error) = self.to.write_all(&buffer[..n]) {
            self.failed = Some(error);
            return Err(io::Error::other("the copy cannot be written"));
        }
        Ok(n)
    }
}
