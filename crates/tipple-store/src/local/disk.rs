//! The steps of publishing that can fail in ways a test cannot bring about on a healthy disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::sys;

/// The system calls of the publish sequence; the tests of this crate put failing ones here.
#[derive(Clone, Copy)]
pub(super) struct Disk {
    pub(super) sync_file: fn(&File) -> io::Result<()>,
    pub(super) close: fn(File) -> io::Result<()>,
    pub(super) hard_link: fn(&Path, &Path) -> io::Result<()>,
    pub(super) rename_no_replace: fn(&Path, &Path) -> io::Result<()>,
    pub(super) sync_folder: fn(&Path) -> io::Result<()>,
}

impl Disk {
    pub(super) const REAL: Self = Self {
        sync_file: File::sync_all,
        close: sys::close,
        hard_link: |from, to| fs::hard_link(from, to),
        rename_no_replace: sys::rename_no_replace,
        sync_folder: |folder| File::open(folder)?.sync_all(),
    };

    /// Gives the file at `from` the new name `to`, unless that is taken.
    ///
    /// # Errors
    /// `Unsupported`: this file system has no way that would refuse a name that is taken.
    pub(super) fn link(&self, from: &Path, to: &Path) -> io::Result<Linked> {
        match (self.hard_link)(from, to) {
            Ok(()) => Ok(Linked::Both),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Linked::Exists),
            Err(error) if lacks_hard_links(&error) => match (self.rename_no_replace)(from, to) {
                Ok(()) => Ok(Linked::Moved),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Linked::Exists),
                Err(error) if lacks_rename(&error) => Err(io::ErrorKind::Unsupported.into()),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// What became of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Linked {
    /// It has both names.
    Both,
    /// It has the new name only: this file system has no hard links.
    Moved,
    /// The new name was taken; nothing changed.
    Exists,
}

/// A file system without hard links says one of these, and so does one that refuses them for
/// this file (too many, or someone else's file).
fn lacks_hard_links(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [
        libc::EPERM,
        libc::EOPNOTSUPP,
        libc::ENOTSUP,
        libc::EMLINK,
        libc::ENOSYS,
    ]
    .iter()
    .any(|&lacking| code == Some(lacking))
}

fn lacks_rename(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}
