//! What is in a folder of snapshots, which of it to load, and which of it may go: decided here, done elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::moment::Moment;
use crate::{SnapshotError, SnapshotName, SnapshotOptions};

/// A file that is being written, or was when its process died.
pub(crate) const TMP: &str = ".tmp";
/// A file that was found damaged.
pub(crate) const CORRUPT: &str = ".corrupt";
/// Held while a process writes.
pub(crate) const LOCK: &str = ".lock";
/// Another name of the snapshot that is being copied into a store.
pub(crate) const COPYING: &str = ".copying";

/// A snapshot in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: SnapshotName,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The newest first.
    pub(crate) snapshots: Vec<Found>,
    pub(crate) temporary: Vec<PathBuf>,
    /// The newest first.
    pub(crate) corrupt: Vec<Found>,
    pub(crate) unrelated: Vec<PathBuf>,
}

impl Listing {
    /// Of a folder that may not be there. What is no regular file is passed over.
    pub(crate) fn of(folder: &Path) -> Result<Listing, SnapshotError> {
        let failed = |error| SnapshotError::io("cannot list the folder", error).at(folder);
        let mut listing = Listing::default();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // A symbolic link is not followed.
            let Ok(metadata) = entry.metadata() else {
                continue; // gone meanwhile
            };
            if metadata.is_file() {
                let name = entry.file_name();
                listing.add(name.to_str(), entry.path(), metadata.len());
            }
        }
        listing.sort();
        Ok(listing)
    }

    pub(crate) fn sort(&mut self) {
        let newest_first = |found: &Found| std::cmp::Reverse((found.name, found.path.clone()));
        self.snapshots.sort_by_key(newest_first);
        self.corrupt.sort_by_key(newest_first);
    }

    pub(crate) fn add(&mut self, name: Option<&str>, path: PathBuf, bytes: u64) {
        let Some(name) = name else {
            return self.unrelated.push(path);
        };
        let named = |text: &str| text.parse::<SnapshotName>().ok();
        if let Some(name) = named(name) {
            self.snapshots.push(Found { name, path, bytes });
        } else if name.strip_suffix(TMP).and_then(named).is_some() {
            self.temporary.push(path);
        } else if let Some(name) = name.strip_suffix(CORRUPT).and_then(named) {
            self.corrupt.push(Found { name, path, bytes });
        } else if name != LOCK && name != COPYING {
            self.unrelated.push(path);
        }
    }

    /// What may be loaded, the best first: of this version, not too old, the newest first; what is dated in the future comes
    /// last, the nearest first.
    pub(crate) fn candidates(&self, options: &SnapshotOptions, now: Moment) -> Vec<Found> {
        let own = |found: &&Found| {
            found.name.format_version == options.format_version && !is_too_old(found, options, now)
        };
        let future = |found: &Found| found.name.updated > now.after(options.future_tolerance);
        let (late, mut timely): (Vec<_>, Vec<_>) = self
            .snapshots
            .iter()
            .filter(own)
            .cloned()
            .partition(|found| future(found));
        timely.extend(late.into_iter().rev());
        timely
    }
}

fn is_too_old(found: &Found, options: &SnapshotOptions, now: Moment) -> bool {
    options
        .age_max()
        .is_some_and(|age| found.name.updated < now.before(age))
}

/// What a look into a file of this version has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    /// Of another type: another build of the service wrote it.
    OtherSchema,
    /// It cannot be said: its key is not there, or it cannot be read.
    Unknown,
    Damaged,
}

/// Why a file may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    Unfinished,
    TooOld,
    TooMany,
    Superseded,
    Future,
    Damaged,
}

impl Why {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Why::Unfinished => "left by a write that was broken off",
            Why::TooOld => "older than max_age",
            Why::TooMany => "more than max_count",
            Why::Superseded => "of another build, more than previous_count",
            Why::Future => "dated in the future, and there is a newer one",
            Why::Damaged => "damaged, and there is a newer one",
        }
    }
}

/// Which files may go. `written`: the good snapshot of this version that was just written, so that nothing that is no better
/// needs to be kept. `health` looks into a file of this version.
pub(crate) fn to_remove(
    listing: &Listing,
    options: &SnapshotOptions,
    now: Moment,
    written: Option<&SnapshotName>,
    mut health: impl FnMut(&Found) -> Health,
) -> Vec<(PathBuf, u64, Why)> {
    let mut remove: Vec<(PathBuf, u64, Why)> = listing
        .temporary
        .iter()
        .map(|path| (path.clone(), 0, Why::Unfinished))
        .collect();
    let (mut own, mut previous) = (0, 0);
    for found in &listing.snapshots {
        if Some(&found.name) == written {
            own += 1;
            continue;
        }
        let mut go = |why| remove.push((found.path.clone(), found.bytes, why));
        if is_too_old(found, options, now) {
            go(Why::TooOld);
            continue;
        }
        if found.name.format_version > options.format_version {
            continue;
        }
        let is_lower = found.name.format_version < options.format_version;
        let health = match is_lower {
            true => Health::OtherSchema,
            false => health(found),
        };
        match health {
            Health::OtherSchema => {
                previous += 1;
                if previous > options.previous_count {
                    go(Why::Superseded);
                }
            }
            Health::Damaged => {
                if written.is_some() {
                    go(Why::Damaged);
                }
            }
            _ if found.name.updated > now.after(options.future_tolerance) => {
                if written.is_some() {
                    go(Why::Future);
                }
            }
            Health::Good | Health::Unknown => {
                own += 1;
                if own > options.max_count {
                    go(Why::TooMany);
                }
            }
        }
    }
    // One damaged file stays, for whoever wants to know what happened.
    for (n, found) in listing.corrupt.iter().enumerate() {
        if n > 0 || is_too_old(found, options, now) {
            remove.push((found.path.clone(), found.bytes, Why::Damaged));
        }
    }
    remove
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::MaxAge;

    const DAY: Duration = Duration::from_secs(86_400);

    fn listing(names: &[&str]) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            listing.add(Some(name), name.into(), 1);
        }
        listing
            .snapshots
            .sort_by_key(|found| std::cmp::Reverse(found.name));
        listing
            .corrupt
            .sort_by_key(|found| std::cmp::Reverse(found.name));
        listing
    }

    fn now() -> Moment {
        "2026-01-10T000000.000000Z-v0"
            .parse::<SnapshotName>()
            .unwrap()
            .updated
    }

    fn options() -> SnapshotOptions {
        SnapshotOptions {
            format_version: 5,
            max_age: Some(MaxAge::AtMost(5 * DAY)),
            ..SnapshotOptions::default()
        }
    }

    fn names(paths: &[PathBuf]) -> Vec<&str> {
        paths.iter().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn the_newest_first_and_the_future_last() {
        let listing = listing(&[
            "2026-01-04T235959.999999Z-v5",
            "2026-01-05T000000.000000Z-v5",
            "2026-01-09T000000.000000Z-v5",
            "2026-01-09T000001.000000Z-v4",
            "2026-01-09T000002.000000Z-v6",
            "2026-01-10T000459.000000Z-v5",
            "2027-01-01T000000.000000Z-v5",
            "2026-06-01T000000.000000Z-v5",
            "2026-01-09T000003.000000Z-v5.tmp",
            "2026-01-09T000003.000000Z-v5.corrupt",
        ]);
        let candidates = listing.candidates(&options(), now());
        let paths: Vec<_> = candidates.into_iter().map(|found| found.path).collect();
        assert_eq!(
            names(&paths),
            [
                "2026-01-10T000459.000000Z-v5",
                "2026-01-09T000000.000000Z-v5",
                // As old as max_age allows, to the microsecond.
                "2026-01-05T000000.000000Z-v5",
                "2026-06-01T000000.000000Z-v5",
                "2027-01-01T000000.000000Z-v5",
            ]
        );
    }

    #[test]
    fn what_may_go_before_and_after_a_write() {
        let all = [
            "2026-01-01T000000.000000Z-v5", // too old
            "2026-01-01T000000.000000Z-v6", // too old, whatever its version
            "2026-01-06T000000.000000Z-v4", // previous, the second
            "2026-01-06T000000.000000Z-v5",
            "2026-01-07T000000.000000Z-v3", // previous, the first
            "2026-01-07T000000.000000Z-v5",
            "2026-01-08T000000.000000Z-v5", // damaged
            "2026-01-08T000000.000000Z-v6", // higher: stays
            "2026-01-09T000000.000000Z-v5",
            "2027-01-09T000000.000000Z-v5", // future
            "2026-01-09T000003.000000Z-v5.tmp",
            "2026-01-09T000003.000000Z-v5.corrupt",
            "2026-01-09T000002.000000Z-v5.corrupt",
            "README",
            LOCK,
        ];
        let listing = listing(&all);
        assert_eq!(names(&listing.unrelated), ["README"]);
        let options = SnapshotOptions {
            max_count: 2,
            ..options()
        };
        let health = |found: &Found| match found.path.to_str().unwrap() {
            "2026-01-08T000000.000000Z-v5" => Health::Damaged,
            _ => Health::Good,
        };
        let newest: SnapshotName = "2026-01-09T000000.000000Z-v5".parse().unwrap();
        let removed = |after_write: bool| {
            let written = after_write.then_some(&newest);
            let mut removed = to_remove(&listing, &options, now(), written, health);
            removed.sort();
            removed
                .into_iter()
                .map(|(path, _, why)| (path.to_str().unwrap().to_owned(), why))
                .collect::<Vec<_>>()
        };
        let expected = |mut names: Vec<(&str, Why)>| {
            names.sort();
            names
                .into_iter()
                .map(|(name, why)| (name.to_owned(), why))
                .collect::<Vec<_>>()
        };
        let before = vec![
            ("2026-01-01T000000.000000Z-v5", Why::TooOld),
            ("2026-01-01T000000.000000Z-v6", Why::TooOld),
            ("2026-01-06T000000.000000Z-v4", Why::Superseded),
            ("2026-01-06T000000.000000Z-v5", Why::TooMany),
            ("2026-01-09T000003.000000Z-v5.tmp", Why::Unfinished),
            ("2026-01-09T000002.000000Z-v5.corrupt", Why::Damaged),
        ];
        assert_eq!(removed(false), expected(before.clone()));
        let mut after = before;
        after.push(("2026-01-08T000000.000000Z-v5", Why::Damaged));
        after.push(("2027-01-09T000000.000000Z-v5", Why::Future));
        assert_eq!(removed(true), expected(after));
    }

    #[test]
    fn another_type_of_the_same_version_is_a_previous_one() {
        let listing = listing(&[
            "2026-01-09T000000.000000Z-v5",
            "2026-01-08T000000.000000Z-v5",
            "2026-01-07T000000.000000Z-v5",
        ]);
        let mut looks = 0;
        let removed = to_remove(&listing, &options(), now(), None, |found| {
            looks += 1;
            match looks {
                1 => Health::Good,
                _ => {
                    assert!(found.name.updated < now());
                    Health::OtherSchema
                }
            }
        });
        let removed: Vec<_> = removed.into_iter().map(|(path, ..)| path).collect();
        assert_eq!(names(&removed), ["2026-01-07T000000.000000Z-v5"]);
    }
}
