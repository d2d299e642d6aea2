//! The folder layout of Netflix cachemover, both ways: data files of version 0, as a sink and as a source.
//!
//! ```text
//! DIR/datafiles_staging/data_<ip>__<part>_<file>       being written
//! DIR/datafiles_completed/data_<ip>__<part>_<MD5>      whole; MD5 of its bytes, 32 upper-case hex digits
//! DIR/datafiles_completed/METRICS_CHECKPOINT           counters as JSON
//! DIR/datafiles_completed/DONE                         written last: the dump is complete
//! ```
//!
//! A data file is records end to end, big-endian: key length u16, key, expiry u32, flags u32, value length u32, value.
//! FORMAT.md has the table. The expiry is seconds since 1970, all ones for never. Other readers take it for signed, so
//! a time after January 2038 would reach them as one long past, or as never: such items are not written but counted as
//! a loss. When reading, it is taken for unsigned, which is right before 2038 and the only sense it can have after.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Cause, Estimate, Failure, Identity, NewPart, Outcomes, Part, PartName, PartReader, PartWriter,
    Party, PlanBody, Planned, Planner, Position, RecordReader, RecordWriter, Resume, Sink, Source,
    Stop,
};

use crate::items::{
    HEADER_BYTES, ITEMS_NAME, ITEMS_VERSION, Item, ItemReader, KEY_BYTES_MAX, NEVER,
    VALUE_BYTES_MAX, encode_header,
};

const STAGING: &str = "datafiles_staging";
const COMPLETED: &str = "datafiles_completed";
const KEY_FILES: &str = "keyfile";
const METRICS: &str = "METRICS_CHECKPOINT";
const DONE: &str = "DONE";
const DATA_PREFIX: &str = "data_";
const MD5_DIGITS: usize = 32;
/// Expiry, flags, value length.
const TAIL_BYTES: usize = 12;
/// All of a record before its value, at most.
const HEAD_BYTES_MAX: usize = 2 + KEY_BYTES_MAX + TAIL_BYTES;
const EXPIRY_NEVER: u32 = u32::MAX;
/// What a writer gathers before it writes, and a reader reads at once.
const BUFFER_BYTES: usize = 256 << 10;
/// A plan object or a DONE larger than this is none.
const TEXT_BYTES_MAX: u64 = 64 << 10;
/// Where data files end, unless something else is asked for.
const DATA_FILE_BYTES: u64 = 64 << 20;

static BEYOND_2038: Cause = Cause::loss("expiry beyond 2038");

/// Whether `dir` has this layout, finished or not.
pub fn is_cachemover(dir: &Path) -> bool {
    dir.join(COMPLETED).is_dir()
}

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

/// Reads a folder of this layout. Each data file is a part, and its MD5 is checked before anything of it is given.
#[derive(Debug)]
pub struct CachemoverSource {
    dir: PathBuf,
    // `None`: the dump is not finished, and that is accepted.
    done: Option<String>,
}

impl CachemoverSource {
    /// The finished dump in `dir`.
    ///
    /// # Errors
    /// [`Party::Source`] if there is none.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let source = Self::open_partial(dir)?;
        if source.done.is_none() {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "the dump in {} is not finished ({COMPLETED}/{DONE} is missing): finish it, or read what is there with --partial",
                    source.dir.display()
                ),
            ));
        }
        Ok(source)
    }

    /// The dump in `dir`, or what there is of it: the completed data files.
    ///
    /// # Errors
    /// [`Party::Source`] if `dir` has not this layout.
    pub fn open_partial(dir: &Path) -> Result<Self, Failure> {
        let refused = |path: &Path, error| {
            Failure::new(
                Party::Source,
                format!("{} cannot be read: {error}", path.display()),
            )
        };
        let dir = dir.canonicalize().map_err(|error| refused(dir, error))?;
        if !is_cachemover(&dir) {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "{} is no dump in the cachemover layout: it has no folder {COMPLETED}",
                    dir.display()
                ),
            ));
        }
        let path = dir.join(COMPLETED).join(DONE);
        let done = match open_regular(&path) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(TEXT_BYTES_MAX)
                    .read_to_end(&mut text)
                    .map_err(|error| refused(&path, error))?;
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(&path, error)),
        };
        Ok(Self { dir, done })
    }

    /// Names and lengths of the data files, sorted by name.
    fn data_files(&self) -> Result<Vec<(String, u64)>, Failure> {
        let folder = self.dir.join(COMPLETED);
        let mut files = Vec::new();
        for name in names(&folder)? {
            if name == DONE || name == METRICS {
                continue;
            }
            if md5_of_name(&name).is_none() {
                return Err(Failure::new(
                    Party::Content,
                    format!(
                        "{} is no data file of the cachemover layout (data_<ip>__<n>_<MD5>): move it away if it does not belong there",
                        folder.join(&name).display()
                    ),
                ));
            }
            let path = folder.join(&name);
            let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
            files.push((name, metadata.len()));
        }
        files.sort();
        Ok(files)
    }

    fn keys_dumped(&self) -> Option<u64> {
        let text = self.done.as_ref()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Total keys dumped: "))?;
        line.trim().parse().ok()
    }
}

/// What a plan object says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartFile {
    file: String,
}

impl Source for CachemoverSource {
    fn identity(&self) -> Identity {
        Identity {
            kind: "cachemover".to_owned(),
            id: json!({ "dir": self.dir.display().to_string() }),
        }
    }

    fn content(&self) -> (&'static str, u16) {
        (ITEMS_NAME, ITEMS_VERSION)
    }

    fn reader_bytes(&self) -> u64 {
        BUFFER_BYTES as u64
    }

    fn check(&self) -> Result<Estimate, Stop> {
        let files = self.data_files()?;
        Ok(Estimate {
            parts: files.len() as u64,
            records: self.keys_dumped().unwrap_or(0),
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
            plan_bytes_max: 0,
        })
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        for (file, bytes_estimate) in self.data_files()? {
            gate.check()?;
            let body = serde_json::to_vec(&PartFile { file }).expect("a text has a JSON form");
            planner.add(NewPart {
                body: PlanBody::Bytes(body),
                extension: "json",
                records: None,
                bytes_estimate,
            })?;
        }
        Ok(Planned::default())
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(CachemoverReader {
            folder: self.dir.join(COMPLETED),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        }))
    }

    fn finish(&self, _planned: &Planned, records: u64, outcomes: &Outcomes) -> Result<Value, Stop> {
        let found = records + outcomes.total();
        match self.keys_dumped() {
            // More is no sign of harm: a dump that was resumed counts from its resumption only.
            Some(dumped) if found < dumped => Err(Failure::new(
                Party::Content,
                format!(
                    "the data files in {} hold {found} items, but its {DONE} speaks of {dumped}: data files are missing",
                    self.dir.display()
                ),
            )
            .into()),
            dumped => Ok(json!({ "keys_dumped": dumped })),
        }
    }
}

struct CachemoverReader {
    folder: PathBuf,
    buffer: Box<[u8]>,
}

impl PartReader for CachemoverReader {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut body = Vec::new();
        part.open()?
            .take(TEXT_BYTES_MAX)
            .read_to_end(&mut body)
            .map_err(|error| bad_plan(part.name(), error))?;
        let PartFile { file: name } =
            serde_json::from_slice(&body).map_err(|error| bad_plan(part.name(), error))?;
        // The name has no slash, or it would be no data file's: nothing outside of the folder is ever opened.
        let md5 = md5_of_name(&name)
            .ok_or_else(|| bad_plan(part.name(), format!("{name:?} is no data file")))?;
        let path = self.folder.join(&name);
        let mut file = open_regular(&path).map_err(|error| unreadable(&path, error))?;
        let bytes = self.verify(&mut file, &path, md5, out.gate())?;
        let mut records = Records {
            file: Buffered {
                file,
                buffer: &mut self.buffer,
                at: 0,
                end: 0,
            },
            path: &path,
            offset: 0,
            bytes,
            number: 0,
        };
        while records.copy_one(out)? {}
        Ok(())
    }
}

impl CachemoverReader {
    /// Reads the whole file against the MD5 in its name, and tells its length.
    fn verify(
        &mut self,
        file: &mut File,
        path: &Path,
        md5: &str,
        gate: &Gate,
    ) -> Result<u64, Stop> {
        let (mut digest, mut bytes) = (Md5::new(), 0);
        loop {
            gate.check()?;
            let n = file
                .read(&mut self.buffer)
                .map_err(|error| unreadable(path, error))?;
            if n == 0 {
                break;
            }
            digest.update(&self.buffer[..n]);
            bytes += n as u64;
        }
        let actual = hex_upper(&digest.finalize());
        if actual != md5 {
            return Err(Failure::new(
                Party::Content,
                format!(
                    "{} is damaged: the MD5 of its {bytes} bytes is {actual}, not the one in its name; fetch it again from where it came",
                    path.display()
                ),
            )
            .into());
        }
        file.rewind().map_err(|error| unreadable(path, error))?;
        Ok(bytes)
    }
}

/// A file read through a buffer that is not its own.
struct Buffered<'a> {
    file: File,
    buffer: &'a mut [u8],
    at: usize,
    end: usize,
}

impl Read for Buffered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            if out.len() >= self.buffer.len() {
                return self.file.read(out);
            }
            self.at = 0;
            self.end = self.file.read(self.buffer)?;
        }
        let n = out.len().min(self.end - self.at);
        out[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// The records of a data file whose MD5 is right.
struct Records<'a> {
    file: Buffered<'a>,
    path: &'a Path,
    offset: u64,
    bytes: u64,
    number: u64,
}

impl Records<'_> {
    fn copy_one(&mut self, out: &mut RecordWriter<'_>) -> Result<bool, Stop> {
        if self.offset == self.bytes {
            return Ok(false);
        }
        let mut head = [0; HEAD_BYTES_MAX];
        let left = self.bytes - self.offset;
        self.read(&mut head[..2], left, "key length")?;
        let key_bytes = usize::from(u16::from_be_bytes([head[0], head[1]]));
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(self.damaged(&format!("its key length is {key_bytes}, not 1 to 250")));
        }
        let head_bytes = 2 + key_bytes + TAIL_BYTES;
        let key_end = 2 + key_bytes;
        self.read(&mut head[2..head_bytes], left - 2, "key and lengths")?;
        let field = |n: usize| {
            let at = key_end + 4 * n;
            u32::from_be_bytes(head[at..at + 4].try_into().expect("4 bytes"))
        };
        let [expiry, flags, value_bytes] = [field(0), field(1), field(2)];
        let left = left - head_bytes as u64;
        if u64::from(value_bytes) > left {
            return Err(self.damaged(&format!(
                "its value length is {value_bytes}, with {left} bytes left in the file"
            )));
        }
        if value_bytes > VALUE_BYTES_MAX {
            return Err(self.damaged(&format!(
                "its value length is {value_bytes}, above {VALUE_BYTES_MAX}"
            )));
        }
        let item = Item {
            key: &head[2..key_end],
            flags,
            exptime: match expiry {
                EXPIRY_NEVER => NEVER,
                time => i64::from(time),
            },
            cas: 0,
            last_access: 0,
            fetched: false,
        };
        out.begin(
            (HEADER_BYTES + key_bytes) as u64 + u64::from(value_bytes),
            Position::NONE,
        )?;
        out.append(&encode_header(&item, value_bytes))?;
        out.append(item.key)?;
        self.copy_value(value_bytes, out)?;
        out.end();
        self.offset += head_bytes as u64 + u64::from(value_bytes);
        self.number += 1;
        Ok(true)
    }

    fn copy_value(&mut self, value_bytes: u32, out: &mut RecordWriter<'_>) -> Result<(), Stop> {
        let mut left = value_bytes as usize;
        while left > 0 {
            let space = out.space()?;
            let n = space.len().min(left);
            let n = self
                .file
                .read(&mut space[..n])
                .map_err(|error| unreadable(self.path, error))?;
            if n == 0 {
                return Err(self.damaged("the file became shorter while it was read"));
            }
            out.advance(n);
            left -= n;
        }
        Ok(())
    }

    fn read(&mut self, out: &mut [u8], left: u64, what: &str) -> Result<(), Stop> {
        if (out.len() as u64) > left {
            return Err(self.damaged(&format!("the file ends in its {what}")));
        }
        match self.file.read_exact(out) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file became shorter while it was read"))
            }
            Err(error) => Err(unreadable(self.path, error).into()),
        }
    }

    fn damaged(&self, fault: &str) -> Stop {
        Failure::new(
            Party::Content,
            format!(
                "{}, record {} at offset {}: {fault}; the MD5 is right, so it was written so: dump it again",
                self.path.display(),
                self.number + 1,
                self.offset
            ),
        )
        .into()
    }
}

/// The MD5 in a data file's name: `data_<ip>__<n>_<MD5>`.
fn md5_of_name(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(DATA_PREFIX)?;
    let (place, md5) = rest.rsplit_once('_')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let fits = !place.contains(['/', '\0']) && md5.len() == MD5_DIGITS && md5.bytes().all(hex);
    fits.then_some(md5)
}

fn hex_upper(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").expect("a String takes all");
        text
    })
}

/// The names in a folder, in no order; none if there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(disk("list", folder, error)),
    };
    entries
        .map(|entry| match entry {
            Ok(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
            Err(error) => Err(disk("list", folder, error)),
        })
        .collect()
}

fn create_new(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| disk("create", path, error))
}

/// Opens a regular file for reading: a pipe in its place would be waited for without end.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn sync_folder(folder: &Path) -> Result<(), Failure> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| disk("sync", folder, error))
}

fn disk(verb: &str, path: &Path, error: io::Error) -> Failure {
    Failure::new(
        Party::Budget,
        format!("cannot {verb} {}: {error}", path.display()),
    )
    .because(error)
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::new(
        Party::Source,
        format!("cannot read {}: {error}", path.display()),
    )
    .because(error)
}

fn bad_plan(
    part: &PartName,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Failure {
    Failure::new(
        Party::Content,
        format!("the plan of part {part} does not name a data file: start the job over"),
    )
    .because(cause)
}
