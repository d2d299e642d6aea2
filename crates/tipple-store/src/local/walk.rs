//! Walking a folder in the order of names.

use std::fs::{self, FileType};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::name::is_segment;
use crate::{ObjectEntry, ObjectName};

/// Why a walk ended early.
pub(super) enum Stop {
    /// The visitor has seen enough.
    Break,
    /// The folder at this path could not be read.
    Failed(PathBuf, io::Error),
    /// A name that could be an object's or a folder's belongs to something else.
    Blocked(PathBuf, FileType),
}

/// Visits the objects below `folder` whose name in it starts with `start`, sorted by full name.
/// `above` is the name of `folder`, empty or ending in `/`.
///
/// Holds the names of one folder per level. What cannot be an object's name is passed over.
pub(super) fn walk(
    folder: &Path,
    above: &str,
    start: &str,
    visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
) -> Result<(), Stop> {
    for key in keys(folder, start)? {
        let path = folder.join(&key);
        let name = format!("{above}{key}");
        if key.ends_with('/') {
            walk(&path, &name, "", visit)?;
            continue;
        }
        let Ok(name) = ObjectName::try_from(name) else {
            continue; // longer than a name can be
        };
        let bytes = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => meta.len(),
            Ok(meta) => return Err(Stop::Blocked(path, meta.file_type())),
            // Deleted since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Stop::Failed(path, error)),
        };
        if visit(ObjectEntry::new(name, bytes)).is_break() {
            return Err(Stop::Break);
        }
    }
    Ok(())
}

/// The names in `folder`, those of folders with a `/` at the end, sorted: so `a-b` comes before
/// everything in `a/`, as it does when full names are compared.
fn keys(folder: &Path, start: &str) -> Result<Vec<String>, Stop> {
    let failed = |error| Stop::Failed(folder.to_owned(), error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(mut key) = entry.file_name().into_string() else {
            continue;
        };
        if !is_segment(&key) || !key.starts_with(start) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => key.push('/'),
            Ok(kind) if kind.is_file() => {}
            Ok(kind) => return Err(Stop::Blocked(entry.path(), kind)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        }
        keys.push(key);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}
