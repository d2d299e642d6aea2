//! How far a load is, kept outside the dump: the store may be read-only, and many may load from it.
//!
//! A text file of JSON lines: the first names the dump, the sink and the life of it, every other one a part that was
//! applied to its last record. A torn last line (the machine died while it was written) does not count.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tipple_chunk::Sha256Digest;
use tipple_flow::{Identity, Outcomes, PartName, Sink};

use crate::error::DumpError;

/// The longest state that is read: a million parts take about 150 MiB.
const STATE_BYTES_MAX: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    dump: String,
    sink: Identity,
    /// The life of the sink that the parts were applied to. Null in files that know of none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    incarnation: Value,
}

impl Heading {
    fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("plain values serialize");
        line.push('\n');
        line
    }
}

/// A part that was applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) part: PartName,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    #[serde(flatten)]
    pub(crate) outcomes: Outcomes,
}

/// The state file of one load, locked for as long as it is open.
pub(crate) struct LoadState {
    path: PathBuf,
    file: Mutex<File>,
    heading: Heading,
    /// Whether the heading is what the file begins with.
    is_begun: bool,
    applied: BTreeMap<PartName, Applied>,
}

impl Drop for LoadState {
    fn drop(&mut self) {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Closing would do, but a process that is being started at this moment holds a copy of the descriptor.
        let _ = file.unlock();
    }
}

impl LoadState {
    /// Opens the state of loading the dump named `dump` into `sink`, and locks it. [`LoadState::begin`] comes next.
    pub(crate) fn open(dir: &Path, dump: &str, sink: &Identity) -> Result<Self, DumpError> {
        fs::create_dir_all(dir).map_err(DumpError::disk("create", dir))?;
        let mut heading = Heading {
            dump: dump.to_owned(),
            sink: sink.clone(),
            incarnation: Value::Null,
        };
        // The lives of a sink share a file: only one of them can be gone on with.
        let name = Sha256Digest::of(heading.line().as_bytes()).short();
        let path = dir.join(format!("load-{}.jsonl", &name[..16]));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(DumpError::disk("open", &path))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DumpError::Usage(format!(
                "{} is in use by another load of the same dump into the same sink: wait for it, or give another --state",
                path.display()
            )),
            TryLockError::Error(error) => DumpError::disk("lock", &path)(error),
        })?;
        let meta = file.metadata().map_err(DumpError::disk("read", &path))?;
        if !meta.is_file() || meta.len() > STATE_BYTES_MAX {
            return Err(DumpError::Usage(format!(
                "{} is not a state file that tipple wrote (a regular file of at most {STATE_BYTES_MAX} bytes): remove it to load from the beginning",
                path.display()
            )));
        }
        let mut text = Vec::new();
        // Other bytes than text are as little a state as other text.
        file.read_to_end(&mut text)
            .map_err(DumpError::disk("read", &path))?;
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        let mut lines = text[..whole].split(|byte| *byte == b'\n');
        let mut applied = BTreeMap::new();
        let found = lines
            .next()
            .and_then(|line| serde_json::from_slice::<Heading>(line).ok())
            .filter(|found| found.dump == heading.dump && found.sink == heading.sink);
        let is_begun = found.is_some();
        if let Some(found) = found {
            heading = found;
            for line in lines.filter(|line| !line.is_empty()) {
                let part: Applied = serde_json::from_slice(line).map_err(|error| {
                    DumpError::Usage(format!(
                        "{} is not a state file that tipple wrote ({error}): remove it to load from the beginning",
                        path.display()
                    ))
                })?;
                applied.insert(part.part.clone(), part);
            }
            file.set_len(whole as u64)
                .map_err(DumpError::disk("repair", &path))?;
        }
        Ok(Self {
            path,
            file: Mutex::new(file),
            heading,
            is_begun,
            applied,
        })
    }

    /// Goes on with what earlier runs applied to the life that `sink` is in, or begins anew if they met another one.
    /// Returns how many applied parts are void by that. `sink` was checked.
    pub(crate) fn begin(&mut self, sink: &dyn Sink) -> Result<u64, DumpError> {
        if self.is_begun && sink.is_same(&self.heading.incarnation)? {
            return Ok(0);
        }
        self.heading.incarnation = sink.incarnation()?;
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.set_len(0)
            .map_err(DumpError::disk("begin", &self.path))?;
        file.write_all(self.heading.line().as_bytes())
            .map_err(DumpError::disk("write", &self.path))?;
        file.sync_all()
            .map_err(DumpError::disk("sync", &self.path))?;
        self.is_begun = true;
        Ok(std::mem::take(&mut self.applied).len() as u64)
    }

    /// The parts that earlier runs applied.
    pub(crate) fn applied(&self) -> &BTreeMap<PartName, Applied> {
        &self.applied
    }

    /// Notes that a part was applied; durable on return.
    pub(crate) fn add(&self, applied: &Applied) -> Result<(), DumpError> {
        let mut line = serde_json::to_string(applied).expect("plain values serialize");
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(DumpError::disk("write", &self.path))
    }

    /// The load is whole: a later one begins anew.
    pub(crate) fn finish(self) -> Result<(), DumpError> {
        fs::remove_file(&self.path).map_err(DumpError::disk("remove", &self.path))
    }
}
