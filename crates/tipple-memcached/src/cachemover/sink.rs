//! Writes the layout.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use serde::Serialize;
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Cause, Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink,
    Stop,
};

use super::{
    BUFFER_BYTES, COMPLETED, DATA_PREFIX, DONE, EXPIRY_NEVER, HEAD_BYTES_MAX, METRICS, TAIL_BYTES,
    disk, hex_upper, names,
};
use crate::items::{ITEMS_NAME, ITEMS_VERSION, ItemReader, NEVER};

const STAGING: &str = "datafiles_staging";
const KEY_FILES: &str = "keyfile";
/// Where data files end, unless something else is asked for.
const DATA_FILE_BYTES: u64 = 64 << 20;

static BEYOND_2038: Cause = Cause::loss("expiry beyond 2038");

/// How to write the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachemoverOptions {
    /// A data file ends before the record that would make it larger than this, at least 1. Default 64 MiB. A record
    /// that is larger has a file of its own.
    pub data_file_bytes_max: u64,
    /// The address in the data files' names, which is the dumping host's and not the server's: 1 to 64 characters of
    /// `0-9 A-Z a-z . : -`. Default 127.0.0.1.
    pub ip: String,
}

impl Default for CachemoverOptions {
    fn default() -> Self {
        Self {
            data_file_bytes_max: DATA_FILE_BYTES,
            ip: "127.0.0.1".to_owned(),
        }
    }
}

impl CachemoverOptions {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Party::Usage`], naming the option, its value and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        if self.data_file_bytes_max == 0 {
            let message =
                "a data file of at most 0 bytes holds nothing: give --chunk-size at least 1";
            return Err(Failure::new(Party::Usage, message));
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b".:-".contains(&b);
        if !(1..=64).contains(&self.ip.len()) || !self.ip.bytes().all(fits) {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "{:?} is no address for names of data files: 1 to 64 characters of 0-9 A-Z a-z . : -",
                    self.ip
                ),
            ));
        }
        Ok(())
    }
}

/// Writes a folder of this layout.
#[derive(Debug)]
pub struct CachemoverSink {
    dir: PathBuf,
    options: CachemoverOptions,
    parts: AtomicU64,
    dumped: AtomicU64,
    // The folder, locked, and when that was.
    begun: Mutex<Option<(File, Instant)>>,
}

impl CachemoverSink {
    /// A sink that writes to `dir`. It touches nothing before [`Sink::check`], which makes the folder, or clears what
    /// an unfinished attempt of Tipple left in it.
    ///
    /// # Errors
    /// [`Party::Usage`] if the options make no sense, or `dir` holds a finished dump or something else.
    pub fn create(dir: &Path, options: CachemoverOptions) -> Result<Self, Failure> {
        options.validate()?;
        let dir = std::path::absolute(dir).map_err(|error| disk("find", dir, error))?;
        let sink = Self {
            dir,
            options,
            parts: AtomicU64::new(0),
            dumped: AtomicU64::new(0),
            begun: Mutex::new(None),
        };
        sink.refuse_occupied()?;
        Ok(sink)
    }

    /// Only what an unfinished attempt of ours leaves may be in the folder.
    fn refuse_occupied(&self) -> Result<(), Failure> {
        let occupied = |why: &str| {
            Err(Failure::new(
                Party::Usage,
                format!(
                    "{} {why}: choose an empty or a new folder",
                    self.dir.display()
                ),
            ))
        };
        if self.dir.join(COMPLETED).join(DONE).exists() {
            return occupied("holds a finished dump");
        }
        for name in names(&self.dir)? {
            if name == KEY_FILES {
                return occupied("holds an unfinished dump of another program");
            }
            if name != STAGING && name != COMPLETED {
                return occupied(&format!("holds something else ({name:?})"));
            }
        }
        for folder in [STAGING, COMPLETED] {
            for name in names(&self.dir.join(folder))? {
                if !name.starts_with(DATA_PREFIX) && name != METRICS && name != DONE {
                    return occupied(&format!("holds something else ({folder}/{name:?})"));
                }
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), Failure> {
        for folder in [STAGING, COMPLETED] {
            let folder = self.dir.join(folder);
            fs::create_dir_all(&folder).map_err(|error| disk("create", &folder, error))?;
            for name in names(&folder)? {
                let path = folder.join(name);
                fs::remove_file(&path).map_err(|error| disk("remove", &path, error))?;
            }
            sync_folder(&folder)?;
        }
        sync_folder(&self.dir)
    }

    /// Writes a small file whole or not at all.
    fn publish(&self, name: &str, text: &str) -> Result<(), Failure> {
        let staged = self.dir.join(STAGING).join(name);
        let mut file = create_new(&staged)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| disk("write", &staged, error))?;
        self.complete(&staged, name)
    }

    fn complete(&self, staged: &Path, name: &str) -> Result<(), Failure> {
        let folder = self.dir.join(COMPLETED);
        let path = folder.join(name);
        // A hard link refuses a name that is taken, where a rename would replace it.
        fs::hard_link(staged, &path).map_err(|error| disk("create", &path, error))?;
        fs::remove_file(staged).map_err(|error| disk("remove", staged, error))?;
        sync_folder(&folder)
    }
}

impl Sink for CachemoverSink {
    fn identity(&self) -> Identity {
        Identity {
            kind: "cachemover".to_owned(),
            id: json!({ "dir": self.dir.display().to_string() }),
        }
    }

    fn accepts(&self, content: &str, version: u16) -> bool {
        content == ITEMS_NAME && version == ITEMS_VERSION
    }

    fn ordered(&self) -> bool {
        false
    }

    fn resume(&self) -> Resume {
        Resume::RestartOnly
    }

    fn writer_bytes(&self) -> u64 {
        BUFFER_BYTES as u64
    }

    fn check(&self) -> Result<(), Stop> {
        fs::create_dir_all(&self.dir).map_err(|error| disk("create", &self.dir, error))?;
        let folder = File::open(&self.dir).map_err(|error| disk("open", &self.dir, error))?;
        // Held until the sink is dropped: two jobs in one folder would clear each other's files.
        folder.try_lock().map_err(|error| {
            Failure::new(
                Party::Usage,
                format!(
                    "{} is being written by another job: wait for it, or choose another folder",
                    self.dir.display()
                ),
            )
            .because(error)
        })?;
        self.refuse_occupied()?;
        self.clear()?;
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some((folder, Instant::now()));
        Ok(())
    }

    fn open<'a>(&'a self, _gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        Ok(Box::new(CachemoverWriter {
            sink: self,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        }))
    }

    fn finish(&self, outcomes: &Outcomes) -> Result<Value, Stop> {
        let elapsed = self
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let metrics = Metrics::new(self.dumped.load(Ordering::Relaxed), outcomes);
        self.publish(METRICS, &metrics.json(elapsed))?;
        self.publish(DONE, &metrics.done(elapsed))?;
        Ok(json!({ "dir": self.dir.display().to_string(), "dumped": metrics.dumped }))
    }
}

/// The counters of METRICS_CHECKPOINT, in its order.
#[derive(Serialize)]
struct Metrics {
    total: u64,
    dumped: u64,
    not_found: u64,
    skipped: u64,
    filtered: u64,
}

impl Metrics {
    fn new(dumped: u64, outcomes: &Outcomes) -> Self {
        let (mut skipped, mut filtered, mut not_found) = (0, 0, outcomes.lost());
        for (name, records) in outcomes.outcomes() {
            match name {
                "expired" | "filtered: ttl" => skipped += records,
                _ if name.starts_with("filtered") => filtered += records,
                _ => not_found += records,
            }
        }
        Self {
            total: dumped + not_found + skipped + filtered,
            dumped,
            not_found,
            skipped,
            filtered,
        }
    }

    fn json(&self, elapsed: Duration) -> String {
        #[derive(Serialize)]
        struct File<'a> {
            keyvalue_metrics: &'a Metrics,
            time_elapsed: String,
        }
        serde_json::to_string_pretty(&File {
            keyvalue_metrics: self,
            time_elapsed: time_text(elapsed),
        })
        .expect("numbers and texts have a JSON form")
    }

    fn done(&self, elapsed: Duration) -> String {
        format!(
            "DONE\nTotal keys from metadump: {}\nTotal keys dumped: {}\nTotal keys skipped: {}\nTotal keys not found: {}\nTotal keys filtered: {}\nTotal time taken: {}\n",
            self.total,
            self.dumped,
            self.skipped,
            self.not_found,
            self.filtered,
            time_text(elapsed)
        )
    }
}

fn time_text(elapsed: Duration) -> String {
    let s = elapsed.as_secs();
    format!(
        "{} hours, {} minutes, {} seconds.",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

struct CachemoverWriter<'a> {
    sink: &'a CachemoverSink,
    buffer: Vec<u8>,
}

/// A data file that is being written.
struct DataFile {
    staged: PathBuf,
    file: File,
    md5: Md5,
    bytes: u64,
}

impl CachemoverWriter<'_> {
    fn data_file(&self, part: u64, number: u64) -> Result<DataFile, Failure> {
        let name = format!("{DATA_PREFIX}{}__{part}_{number}", self.sink.options.ip);
        let staged = self.sink.dir.join(STAGING).join(name);
        Ok(DataFile {
            file: create_new(&staged)?,
            staged,
            md5: Md5::new(),
            bytes: 0,
        })
    }

    /// Through the buffer; large pieces go by it.
    fn write(&mut self, data: &mut DataFile, piece: &[u8]) -> Result<(), Failure> {
        if self.buffer.len() + piece.len() > BUFFER_BYTES {
            self.flush(data)?;
            if piece.len() >= BUFFER_BYTES {
                return data.write(piece);
            }
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    fn flush(&mut self, data: &mut DataFile) -> Result<(), Failure> {
        data.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self, mut data: DataFile, part: u64) -> Result<(), Failure> {
        self.flush(&mut data)?;
        data.file
            .sync_all()
            .map_err(|error| disk("write", &data.staged, error))?;
        let ip = &self.sink.options.ip;
        let md5 = hex_upper(&data.md5.finalize());
        let mut name = format!("{DATA_PREFIX}{ip}__{part}_{md5}");
        // Two files of a part with the very same records have the same name: the second gets a number of its own.
        if self.sink.dir.join(COMPLETED).join(&name).exists() {
            let part = self.sink.parts.fetch_add(1, Ordering::Relaxed);
            name = format!("{DATA_PREFIX}{ip}__{part}_{md5}");
        }
        self.sink.complete(&data.staged, &name)
    }
}

impl DataFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.md5.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|error| disk("write", &self.staged, error))
    }
}

impl PartWriter for CachemoverWriter<'_> {
    fn write_part(
        &mut self,
        _part: &PartName,
        records: &mut RecordReader<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        // What a part that failed left behind.
        self.buffer.clear();
        let part = self.sink.parts.fetch_add(1, Ordering::Relaxed);
        let (mut number, mut dumped) = (0, 0);
        let mut data = self.data_file(part, number)?;
        let mut items = ItemReader::new(records);
        while let Some(read) = items.next()? {
            let item = read.item;
            let expiry = match item.exptime {
                NEVER => EXPIRY_NEVER,
                time if time <= i64::from(i32::MAX) => time as u32,
                _ => {
                    outcomes.count(&BEYOND_2038);
                    continue;
                }
            };
            let (head, head_bytes) = encode_head(item.key, expiry, item.flags, read.value_bytes);
            let record_bytes = head_bytes as u64 + u64::from(read.value_bytes);
            let value = read.value;
            if data.bytes > 0 && data.bytes + record_bytes > self.sink.options.data_file_bytes_max {
                number += 1;
                let next = self.data_file(part, number)?;
                self.finish(std::mem::replace(&mut data, next), part)?;
            }
            data.bytes += record_bytes;
            self.write(&mut data, &head[..head_bytes])?;
            if let Some(value) = value {
                self.write(&mut data, value)?;
            } else {
                loop {
                    let piece = items.piece()?;
                    if piece.is_empty() {
                        break;
                    }
                    self.write(&mut data, piece)?;
                }
            }
            dumped += 1;
        }
        items.finish()?;
        // A part without records has its file too, an empty one.
        self.finish(data, part)?;
        self.sink.dumped.fetch_add(dumped, Ordering::Relaxed);
        Ok(())
    }
}

fn encode_head(
    key: &[u8],
    expiry: u32,
    flags: u32,
    value_bytes: u32,
) -> ([u8; HEAD_BYTES_MAX], usize) {
    let mut head = [0; HEAD_BYTES_MAX];
    let key_end = 2 + key.len();
    head[..2].copy_from_slice(&(key.len() as u16).to_be_bytes());
    head[2..key_end].copy_from_slice(key);
    for (n, field) in [expiry, flags, value_bytes].into_iter().enumerate() {
        head[key_end + 4 * n..][..4].copy_from_slice(&field.to_be_bytes());
    }
    (head, key_end + TAIL_BYTES)
}

fn create_new(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| disk("create", path, error))
}

fn sync_folder(folder: &Path) -> Result<(), Failure> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| disk("sync", folder, error))
}
