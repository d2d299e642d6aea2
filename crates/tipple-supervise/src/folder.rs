//! What is in the folder right now.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::writers::FileKey;

/// A file, or something else that is no folder.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Below the folder.
    pub(crate) path: PathBuf,
    pub(crate) state: FileState,
    pub(crate) is_regular: bool,
}

/// What tells whether a file is the one that was looked at before, and unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) key: FileKey,
    /// Its length.
    pub(crate) bytes: u64,
    /// Of its contents, in nanoseconds since 1970.
    pub(crate) modified_ns: i128,
    /// The room it takes on the disk, in bytes.
    allocated: u64,
}

impl FileState {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            key: (meta.dev(), meta.ino()),
            bytes: meta.len(),
            modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            allocated: meta.blocks().saturating_mul(512),
        }
    }

    /// What counts against the limit: its length or the room it takes, whichever is more. So neither the sum of lengths
    /// nor `du` shows more than is counted here.
    pub(crate) fn counted(&self) -> u64 {
        self.bytes.max(self.allocated)
    }

    /// Whether the contents are those of `other`.
    pub(crate) fn is_same_content(&self, other: &Self) -> bool {
        (self.key, self.bytes, self.modified_ns) == (other.key, other.bytes, other.modified_ns)
    }
}

/// All that is in `root` and its folders. What vanishes meanwhile may or may not be in it. Links are not followed.
pub(crate) fn walk(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error, &folder) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            match entry.metadata() {
                Ok(meta) => found.push(Found {
                    path,
                    state: FileState::of(&meta),
                    is_regular: meta.is_file(),
                }),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// A folder may be removed after it was listed; the first one may not.
fn is_gone(error: &io::Error, folder: &Path) -> bool {
    error.kind() == ErrorKind::NotFound && !folder.as_os_str().is_empty()
}

/// Calls `visit` with `""`, and with every folder below `root`, each before those in it.
pub(crate) fn each_folder(
    root: &Path,
    mut visit: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match visit(&folder).and_then(|()| fs::read_dir(root.join(&folder))) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error, &folder) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(folder.join(entry.file_name()));
            }
        }
    }
    Ok(())
}

/// Removes everything in `root`, and leaves it.
pub(crate) fn clear(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Removes the folders in `root` that are empty, and those that hold nothing but such.
pub(crate) fn remove_empty_folders(root: &Path) -> io::Result<()> {
    let mut folders = Vec::new();
    each_folder(root, |folder| {
        folders.push(root.join(folder));
        Ok(())
    })?;
    for folder in folders.iter().skip(1).rev() {
        // One that is not empty stays.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Whether a name fits a pattern, in which `*` stands for any characters.
pub(crate) fn fits(name: &OsStr, pattern: &str) -> bool {
    let (name, pattern) = (name.as_encoded_bytes(), pattern.as_bytes());
    // After a star: where the pattern goes on, and from where the name is tried.
    let (mut n, mut p, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p + 1, n));
            p += 1;
        } else if p < pattern.len() && pattern[p] == name[n] {
            (n, p) = (n + 1, p + 1);
        } else if let Some((after, tried)) = star {
            star = Some((after, tried + 1));
            (n, p) = (tried + 1, after);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (name, pattern, expected) in [
            ("a.tmp", "*.tmp", true),
            ("a.tmp.sql", "*.tmp", false),
            (".hidden", ".*", true),
            ("metadata.partial", "*.partial", true),
            ("abcabc", "a*c*c", true),
            ("abcab", "a*c*c", false),
            ("", "*", true),
            ("x", "", false),
            ("", "", true),
        ] {
            assert_eq!(
                fits(OsStr::new(name), pattern),
                expected,
                "{name} {pattern}"
            );
        }
    }

    #[test]
    fn files_of_all_folders_are_found_and_counted_by_the_larger_number() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/small"), "x").unwrap();
        fs::File::create(dir.path().join("sparse"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        let mut found = walk(dir.path()).unwrap();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let names: Vec<_> = found
            .iter()
            .map(|f| (f.path.to_str().unwrap(), f.is_regular))
            .collect();
        assert_eq!(
            names,
            [("a/b/small", true), ("link", false), ("sparse", true)]
        );
        assert!(found[0].state.counted() >= 1);
        assert_eq!(found[2].state.counted(), 1 << 20);
        remove_empty_folders(dir.path()).unwrap();
        assert!(dir.path().join("a/b").exists());
        clear(dir.path()).unwrap();
        assert!(walk(dir.path()).unwrap().is_empty());
        assert!(!dir.path().join("a").exists());
    }
}
