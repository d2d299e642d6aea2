//! The system calls that `std` does not have. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "system calls that std does not have")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Closes `file` and says if that failed, which dropping it would not.
pub(super) fn close(file: File) -> io::Result<()> {
    // SAFETY: `into_raw_fd` gives up the only owner of the descriptor, so nothing uses it after.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Renames `from` to `to`, which must not exist (`AlreadyExists`).
#[cfg(target_os = "linux")]
pub(super) fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (c_path(from)?, c_path(to)?);
    // By number, since not every C library has the wrapper.
    // SAFETY: both pointers are to NUL-terminated strings that live until the call returns, and
    // the call reads nothing else.
    let status = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Other systems have no such call under this name.
#[cfg(not(target_os = "linux"))]
pub(super) fn rename_no_replace(_from: &Path, _to: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What this user may still write on the file system of `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = c_path(path)?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated, and `stats` is writable memory of the type the call
    // fills in.
    if unsafe { libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled in the whole structure.
    let stats = unsafe { stats.assume_init() };
    #[allow(clippy::useless_conversion, reason = "narrower types on other systems")]
    Ok(u64::from(stats.f_bavail).saturating_mul(u64::from(stats.f_frsize)))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
