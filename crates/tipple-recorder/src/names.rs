//! The names of files, and which of them have to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::file::{INDEX, OPEN, with_suffix};

/// What a recording's name ends with.
const PLAIN: &str = ".ndjson";
const ZSTD: &str = ".ndjson.zst";

/// Whether a file is a recording by its name, finished or not.
pub fn is_recording_name(name: &str) -> bool {
    let name = name.strip_suffix(OPEN).unwrap_or(name);
    name.ends_with(PLAIN) || name.ends_with(ZSTD)
}

/// The name of a file that begins at a time: `CLASS.YYYYMMDDTHHMMSSZ.RUN-NNNN.ndjson`.
pub(crate) fn dated(class: &str, unix_ns: u64, run: &str, number: u64, zstd: bool) -> String {
    let extension = if zstd { ZSTD } else { PLAIN };
    format!(
        "{}.{}.{run}-{number:04}{extension}",
        plain(class),
        utc(unix_ns / 1_000_000_000)
    )
}

/// The name of a file that is appended to.
pub(crate) fn fixed(class: &str) -> String {
    format!("{}{PLAIN}", plain(class))
}

/// A class as part of a file's name.
fn plain(class: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = class
        .chars()
        .map(|c| if kept(c) { c } else { '_' })
        .collect();
    match name.is_empty() {
        true => "_".to_owned(),
        false => name,
    }
}

/// `YYYYMMDDTHHMMSSZ` of a time in UTC.
pub(crate) fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Years that begin in March have their leap day at their end (H. Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        year + era * 400 + next,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A closed file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) path: PathBuf,
    /// With its index.
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

/// The closed files of a recorder's own names in a folder, the oldest first.
pub(crate) fn closed(folder: &Path) -> io::Result<Vec<Closed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !is_dated(name) {
            continue;
        }
        // Somebody may have taken it away meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let index = fs::metadata(with_suffix(&entry.path(), INDEX));
        files.push(Closed {
            path: entry.path(),
            bytes: metadata.len() + index.map_or(0, |index| index.len()),
            modified: metadata.modified()?,
        });
    }
    files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    Ok(files)
}

/// Whether a name is one that [`dated`] makes: nothing else in the folder is ever deleted.
fn is_dated(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(ZSTD).or_else(|| name.strip_suffix(PLAIN)) else {
        return false;
    };
    let mut parts = stem.rsplitn(3, '.');
    let (Some(run), Some(time), Some(_class)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let is_time = time.len() == 16 && time.ends_with('Z') && time.as_bytes()[8] == b'T';
    is_time
        && run
            .split_once('-')
            .is_some_and(|(_, number)| number.parse::<u64>().is_ok())
}

/// How many of the oldest files have to go.
pub(crate) fn surplus(
    files: &[Closed],
    now: SystemTime,
    retain_bytes: Option<u64>,
    retain_age: Option<Duration>,
    missing_free_bytes: u64,
) -> usize {
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    let mut freed = 0;
    let mut count = 0;
    for file in files {
        let too_many = retain_bytes.is_some_and(|limit| total > limit);
        let age = now.duration_since(file.modified).unwrap_or_default();
        let too_old = retain_age.is_some_and(|limit| age > limit);
        if !(too_many || too_old || freed < missing_free_bytes) {
            break;
        }
        total -= file.bytes;
        freed += file.bytes;
        count += 1;
    }
    count
}

/// What may still be written to the file system of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    #[expect(unsafe_code, reason = "a system call that std does not have")]
    // SAFETY: the path ends with a NUL, and `stats` is memory of the type that the call fills in.
    if unsafe { libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: the call succeeded, so it has filled in the whole structure.
    let stats = unsafe { stats.assume_init() };
    #[allow(clippy::useless_conversion, reason = "narrower types on other systems")]
    Ok(u64::from(stats.f_bavail).saturating_mul(u64::from(stats.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_799, "20000229T235959Z"),
            (1_795_187_338, "20261120T150858Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn only_own_names_are_own() {
        let name = dated("ws/api", 1_795_187_338_000_000_000, "0a1b2c3d", 7, true);
        assert_eq!(name, "ws_api.20261120T150858Z.0a1b2c3d-0007.ndjson.zst");
        assert!(is_dated(&name));
        for other in [
            "a.ndjson",
            "default.ndjson",
            &(name.clone() + ".open"),
            &(name + ".idx"),
            "x.20261120T150858Z.ndjson",
        ] {
            assert!(!is_dated(other), "{other}");
        }
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let files: Vec<_> = (0..5)
            .map(|age| Closed {
                path: format!("{age}").into(),
                bytes: 10,
                modified: at(age),
            })
            .collect();
        let now = at(10);
        assert_eq!(surplus(&files, now, None, None, 0), 0);
        assert_eq!(surplus(&files, now, Some(50), None, 0), 0);
        assert_eq!(surplus(&files, now, Some(49), None, 0), 1);
        assert_eq!(surplus(&files, now, Some(0), None, 0), 5);
        assert_eq!(
            surplus(&files, now, None, Some(Duration::from_secs(8)), 0),
            2
        );
        assert_eq!(surplus(&files, now, None, None, 11), 2);
    }
}
