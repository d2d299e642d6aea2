//! Where recordings are read from: folders and files, or whatever a program gives.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use crate::error::RecorderError;
use crate::file::{INDEX, OPEN, with_suffix};
use crate::index::{self, RecordingIndex};
use crate::names::is_recording_name;

/// What a recording is read through.
pub trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// A place with recordings: implement it for those that are elsewhere than in files.
pub trait Shelf {
    /// The recordings, in the order in which they are to be read.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a recording.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek>>;

    /// The bytes of the index of a recording, if there is one.
    ///
    /// # Errors
    /// If there is one, and it cannot be read.
    fn index(&self, name: &str) -> io::Result<Option<Box<dyn Read>>>;
}

/// Files, in the order of their names' times.
#[derive(Clone, Debug)]
pub struct FolderShelf {
    files: Vec<PathBuf>,
}

impl FolderShelf {
    /// The recordings that these paths name: files, or folders of which all recordings are read, those that are still
    /// written, too. Sorted by the time in their names, where they have one.
    ///
    /// # Errors
    /// If there is no such path, or a folder cannot be listed, or nothing is in it.
    pub fn open(paths: &[PathBuf]) -> Result<FolderShelf, RecorderError> {
        let mut files = Vec::new();
        for path in paths {
            let metadata = fs::metadata(path).map_err(RecorderError::io("open", path))?;
            if !metadata.is_dir() {
                files.push(path.clone());
                continue;
            }
            let before = files.len();
            for entry in fs::read_dir(path).map_err(RecorderError::io("list", path))? {
                let entry = entry.map_err(RecorderError::io("list", path))?.path();
                let name = entry
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                if is_recording_name(name) {
                    files.push(entry);
                }
            }
            if files.len() == before {
                return Err(RecorderError::Options {
                    what: format!(
                        "{} has no recordings: files whose names end with .ndjson or .ndjson.zst",
                        path.display()
                    ),
                });
            }
        }
        files.sort_by_key(|path| sort_key(path));
        Ok(FolderShelf { files })
    }

    /// The paths of the files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// By time and number first, the class last: `CLASS.TIME.RUN-NNNN.ndjson`.
fn sort_key(path: &Path) -> (String, PathBuf) {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let rest = name.split_once('.').map_or("", |(_, rest)| rest);
    (rest.to_owned(), path.to_owned())
}

impl Shelf for FolderShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self
            .files
            .iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek>> {
        match File::open(name) {
            // It was closed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with(OPEN) => {
                Ok(Box::new(File::open(name.trim_end_matches(OPEN))?))
            }
            file => Ok(Box::new(file?)),
        }
    }

    fn index(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        match File::open(with_suffix(Path::new(name), INDEX)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The index of a recording of so many bytes, if there is one that is whole and of it.
pub(crate) fn index_of(
    shelf: &dyn Shelf,
    name: &str,
    bytes: u64,
) -> io::Result<Option<RecordingIndex>> {
    let Some(input) = shelf.index(name)? else {
        return Ok(None);
    };
    Ok(index::read(input)
        .ok()
        .filter(|index| index.file_bytes == bytes))
}
