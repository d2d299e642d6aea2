//! The few things that are done to a disk, one after the other: whoever tests them can watch each of them, and let it fail.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::SnapshotError;
use crate::pace::{Cancel, Pace};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    CreateFolder,
    CreateFile,
    Write,
    SetMode,
    SyncFile,
    Rename,
    SyncFolder,
    Remove,
}

/// The disk. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    probe: Option<std::sync::Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>>,
}

const FOLDER_MODE: u32 = 0o755;

impl Disk {
    /// One whose every step is asked for first, and fails as `probe` says.
    #[cfg(test)]
    pub(crate) fn probed(probe: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            probe: Some(std::sync::Arc::new(probe)),
        }
    }

    fn step(&self, step: Step) -> io::Result<()> {
        #[cfg(test)]
        if let Some(probe) = &self.probe {
            return probe(step);
        }
        let _ = step;
        Ok(())
    }

    /// The folder and those above it, with mode 0755 where they are new, whatever the umask is.
    pub(crate) fn create_folder(&self, path: &Path) -> Result<(), SnapshotError> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.create_folder(above)?;
        }
        let created = self
            .step(Step::CreateFolder)
            .and_then(|()| DirBuilder::new().mode(FOLDER_MODE).create(path))
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)));
        match created {
            // Another process may have been faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(SnapshotError::io("cannot create the folder", error).at(path)),
            Ok(()) => Ok(()),
        }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Step::Rename)?;
        fs::rename(from, to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove)?;
        fs::remove_file(path)
    }

    pub(crate) fn sync_folder(&self, path: &Path) -> Result<(), SnapshotError> {
        self.step(Step::SyncFolder)
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(|error| SnapshotError::io("cannot sync the folder", error).at(path))
    }
}

/// A file that becomes visible under its name when it is whole, and that is gone otherwise.
pub(crate) struct Staged {
    disk: Disk,
    file: File,
    path: PathBuf,
    is_published: bool,
    bytes: u64,
    pace: Pace,
    cancel: Cancel,
}

impl Staged {
    /// Creates `path`, which must not exist, for the user only.
    pub(crate) fn create(
        disk: &Disk,
        path: PathBuf,
        pace: Pace,
        cancel: &Cancel,
    ) -> Result<Self, SnapshotError> {
        let file = disk
            .step(Step::CreateFile)
            .and_then(|()| {
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)
            })
            .map_err(|error| SnapshotError::io("cannot create the file", error).at(&path))?;
        Ok(Self {
            disk: disk.clone(),
            file,
            path,
            is_published: false,
            bytes: 0,
            pace,
            cancel: cancel.clone(),
        })
    }

    /// Mode, sync, rename, sync of the folder. `Ok` means that it is there for good, under its name.
    pub(crate) fn publish(mut self, to: &Path, mode: u32) -> Result<u64, SnapshotError> {
        let failed = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |error| SnapshotError::io(what, error).at(&path)
        };
        self.disk
            .step(Step::SetMode)
            .and_then(|()| self.file.set_permissions(Permissions::from_mode(mode)))
            .map_err(failed("cannot set the mode of", &self.path))?;
        self.disk
            .step(Step::SyncFile)
            .and_then(|()| self.file.sync_all())
            .map_err(failed("cannot sync the file", &self.path))?;
        self.disk
            .rename(&self.path, to)
            .map_err(failed("cannot rename the file to its name", to))?;
        self.is_published = true;
        if let Some(folder) = to.parent() {
            self.disk.sync_folder(folder)?;
        }
        Ok(self.bytes)
    }
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.disk.step(Step::Write)?;
        let written = self.file.write(&bytes[..self.pace.at_once(bytes.len())])?;
        self.bytes += written as u64;
        let wait = self.pace.wait(written);
        if !wait.is_zero() {
            self.cancel.sleep(wait).map_err(io::Error::other)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Staged {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.file.read(out)
    }
}

impl Seek for Staged {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for Staged {
    /// Gives the disk its room back. What a killed process leaves is removed by the next write.
    fn drop(&mut self) {
        if !self.is_published {
            let _ = self.disk.remove(&self.path);
        }
    }
}
