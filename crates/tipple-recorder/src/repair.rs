//! Recordings that were not closed: cut to their last whole line or frame, and given their name and index.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tipple_chunk::{Decoder, LooseFrames};

use crate::error::RecorderError;
use crate::file::{OPEN, put_index};
use crate::scan;

/// What was done to one file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// Its name now.
    pub path: PathBuf,
    /// The bytes of a line or frame that was not whole, which were cut off.
    pub cut_bytes: u64,
}

/// Cuts what comes after the last line feed; gives the length.
pub(crate) fn cut_torn_line(mut file: &File) -> io::Result<u64> {
    const PIECE: u64 = 64 << 10;
    let mut end = file.seek(SeekFrom::End(0))?;
    let whole = end;
    let mut piece = vec![0; PIECE as usize];
    while end > 0 {
        let from = end.saturating_sub(PIECE);
        let piece = &mut piece[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(piece)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            end = from + at as u64 + 1;
            break;
        }
        end = from;
    }
    if end < whole {
        file.set_len(end)?;
    }
    Ok(end)
}

fn cut_torn_frame(file: &File, path: &Path) -> Result<u64, RecorderError> {
    let mut decoder = Decoder::new().map_err(|error| RecorderError::Options {
        what: error.to_string(),
    })?;
    let mut frames = LooseFrames::new(file);
    loop {
        match frames.next_frame(&mut decoder) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            // What follows damage cannot be found; it is kept under its name, for those who can.
            Err(error) => {
                return Err(RecorderError::Damaged {
                    path: path.to_owned(),
                    reason: error.to_string(),
                });
            }
        }
    }
    let whole = frames.whole_bytes();
    file.set_len(whole)
        .map_err(RecorderError::io("cut", path))?;
    Ok(whole)
}

/// Repairs one file that was not closed. `None` if a living recorder writes it, or nothing whole is in it: then it is
/// deleted.
///
/// # Errors
/// `Io`; `Damaged` if there is damage before its end: the file is left as it is.
pub fn repair_file(path: &Path) -> Result<Option<Repaired>, RecorderError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(RecorderError::io("open", path))?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    let before = file
        .metadata()
        .map_err(RecorderError::io("look at", path))?
        .len();
    let name = path.to_string_lossy();
    let closed = PathBuf::from(name.strip_suffix(OPEN).unwrap_or(&name));
    let whole = match closed
        .extension()
        .is_some_and(|extension| extension == "zst")
    {
        true => cut_torn_frame(&file, path)?,
        false => cut_torn_line(&file).map_err(RecorderError::io("cut", path))?,
    };
    if whole == 0 && closed != path {
        fs::remove_file(path).map_err(RecorderError::io("remove", path))?;
        return Ok(None);
    }
    let index = scan::index_of(path)?;
    put_index(&closed, &index).map_err(RecorderError::io("write the index of", &closed))?;
    if closed != path {
        fs::rename(path, &closed).map_err(RecorderError::io("rename", path))?;
    }
    Ok(Some(Repaired {
        path: closed,
        cut_bytes: before - whole,
    }))
}

/// Repairs what is left open in a folder.
///
/// # Errors
/// `Io`. What is damaged before its end is left as it is, and told in the second list.
pub fn repair_folder(folder: &Path) -> Result<(Vec<Repaired>, Vec<RecorderError>), RecorderError> {
    let (mut repaired, mut damaged) = (Vec::new(), Vec::new());
    let entries = fs::read_dir(folder).map_err(RecorderError::io("list", folder))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(RecorderError::io("list", folder))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.ends_with(OPEN) && crate::names::is_recording_name(name) {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        match repair_file(&path) {
            Ok(done) => repaired.extend(done),
            Err(error @ RecorderError::Damaged { .. }) => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((repaired, damaged))
}
