//! What is recorded now, as it comes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::RecorderError;
use crate::file::OPEN;
use crate::scan;
use crate::search::{Filter, GoOn, Line};
use crate::shelf::FolderShelf;

/// Reads on in the recordings of a folder, those that are begun later, too.
#[derive(Debug)]
pub struct Follower {
    folder: PathBuf,
    /// How much of each file was read, by its name when it is closed.
    read: HashMap<PathBuf, u64>,
}

impl Follower {
    /// Begins with what is recorded from now on.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn new(folder: &Path) -> Result<Follower, RecorderError> {
        let mut follower = Follower {
            folder: folder.to_owned(),
            read: HashMap::new(),
        };
        for path in follower.files()? {
            // Up to the last whole line: blocks end with one.
            let whole = match File::open(&path) {
                Ok(file) => scan::blocks(file, |_| Ok(())).unwrap_or(0),
                Err(_) => 0,
            };
            follower.read.insert(closed(&path), whole);
        }
        Ok(follower)
    }

    fn files(&self) -> Result<Vec<PathBuf>, RecorderError> {
        match FolderShelf::open(std::slice::from_ref(&self.folder)) {
            Ok(shelf) => Ok(shelf.files().to_vec()),
            // Nothing yet.
            Err(RecorderError::Options { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Gives the lines that were written since the last time and that `filter` wants, file by file. Does not wait.
    ///
    /// # Errors
    /// If a file cannot be read; what `found` says.
    pub fn poll(
        &mut self,
        filter: &Filter,
        mut found: impl FnMut(&[u8], &Line<'_>) -> io::Result<GoOn>,
    ) -> io::Result<GoOn> {
        for path in self.files().map_err(io::Error::other)? {
            let closed = closed(&path);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                // It was closed since it was listed, or deleted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match File::open(&closed) {
                        Ok(file) => file,
                        Err(_) => continue,
                    }
                }
                Err(error) => return Err(error),
            };
            let read = self.read.entry(closed).or_insert(0);
            let bytes = file.metadata()?.len();
            if bytes < *read {
                // It was begun again under the same name.
                *read = 0;
            }
            if bytes == *read {
                continue;
            }
            file.seek(SeekFrom::Start(*read))?;
            let mut told = GoOn::Continue(());
            let whole = scan::blocks(file, |block| {
                for text in block
                    .text
                    .split(|&byte| byte == b'\n')
                    .filter(|text| !text.is_empty())
                {
                    if let Ok(line) = Line::parse(text)
                        && told.is_continue()
                        && filter.matches(text, &line)
                    {
                        told = found(text, &line)?;
                    }
                }
                Ok(())
            })?;
            *read += whole;
            if told.is_break() {
                return Ok(told);
            }
        }
        Ok(GoOn::Continue(()))
    }
}

fn closed(path: &Path) -> PathBuf {
    let name = path.to_string_lossy();
    PathBuf::from(name.strip_suffix(OPEN).unwrap_or(&name))
}
