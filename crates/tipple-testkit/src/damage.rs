//! Damage to files: one at a time, or every kind to every file of a folder.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One damage to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// All bits of the byte at this offset are turned over.
    Flip(u64),
    /// Only so many bytes stay.
    Truncate(u64),
    /// The file is gone.
    Delete,
    /// A second file of the same bytes appears beside it, its name ending in `-copy` before the extensions.
    Duplicate,
    /// These bytes follow.
    Append(Vec<u8>),
    /// It and another file take each other's names.
    Swap(PathBuf),
}

impl Damage {
    /// Does it to the file at `path`.
    ///
    /// # Panics
    /// If the file is missing, or has no such byte.
    #[track_caller]
    pub fn apply(&self, path: &Path) {
        match self {
            Self::Flip(at) => flip(path, *at),
            Self::Truncate(bytes) => truncate(path, *bytes),
            Self::Delete => delete(path),
            Self::Duplicate => {
                duplicate(path);
            }
            Self::Append(bytes) => append(path, bytes),
            Self::Swap(other) => swap(path, other),
        }
    }
}

/// Turns over all bits of the byte at `at`.
#[track_caller]
pub fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let index = usize::try_from(at).unwrap();
    assert!(
        index < bytes.len(),
        "{} has {} bytes, and none at {at}",
        path.display(),
        bytes.len()
    );
    bytes[index] = !bytes[index];
    fs::write(path, bytes).unwrap();
}

/// Leaves only the first `bytes`.
#[track_caller]
pub fn truncate(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let had = file.metadata().unwrap().len();
    assert!(
        bytes < had,
        "{} has {had} bytes, not more than {bytes}",
        path.display()
    );
    file.set_len(bytes).unwrap();
}

/// Removes it.
#[track_caller]
pub fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// Copies it beside itself; the copy's path.
#[track_caller]
pub fn duplicate(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    let stem = name.find('.').unwrap_or(name.len());
    let copy = path.with_file_name(format!("{}-copy{}", &name[..stem], &name[stem..]));
    assert!(!copy.exists(), "{} exists", copy.display());
    fs::copy(path, &copy).unwrap();
    copy
}

/// Adds `bytes` at its end.
#[track_caller]
pub fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// Exchanges the names of two files.
#[track_caller]
pub fn swap(one: &Path, other: &Path) {
    let between = one.with_file_name(".swapped");
    fs::rename(one, &between).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(&between, other).unwrap();
}

/// The files under `dir`, below it at any depth, as sorted paths relative to it.
#[track_caller]
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every damage worth trying on every file under `dir`: relative paths, in a stable order. The other file of a swap is
/// the next one of its folder, and is given by its path below `copy`, where the damage is to be done.
#[track_caller]
pub fn matrix(dir: &Path, copy: &Path) -> Vec<(PathBuf, Damage)> {
    let files = files(dir);
    let mut cases = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let bytes = fs::metadata(dir.join(file)).unwrap().len();
        let mut damages = vec![Damage::Delete, Damage::Duplicate, Damage::Append(vec![0])];
        let mut offsets = vec![0, bytes / 2, bytes.saturating_sub(1)];
        offsets.dedup();
        offsets.retain(|offset| *offset < bytes);
        for offset in offsets {
            damages.extend([Damage::Flip(offset), Damage::Truncate(offset)]);
        }
        let neighbour = files
            .get(n + 1)
            .filter(|next| next.parent() == file.parent());
        // Two files of the same bytes can take each other's names and nobody is harmed.
        if let Some(next) = neighbour
            && fs::read(dir.join(next)).unwrap() != fs::read(dir.join(file)).unwrap()
        {
            damages.push(Damage::Swap(copy.join(next)));
        }
        cases.extend(damages.into_iter().map(|damage| (file.clone(), damage)));
    }
    cases
}

/// Makes `to`, which may exist, a copy of the folder `from`.
#[track_caller]
pub fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(from.join(&file), target).unwrap();
    }
}
