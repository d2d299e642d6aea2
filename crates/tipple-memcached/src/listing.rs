//! Listing the keys of a server into key files.
//!
//! A listing that its reader does not keep up with harms the server: its crawler thread holds a lock that any other
//! crawler command of any client waits for, with a whole worker thread of the server, and before 1.6.19 also the lock
//! of a stripe of keys. So a listing is read on a thread of its own, as fast as it comes, into key files on the local
//! disk; the gate is only asked whether the job was cancelled; and no second crawler command is sent while one runs.
//!
//! Key files are handed over as soon as they are full, so that values are fetched while keys are still listed. A listing
//! can break off in the middle (a lost connection, or a hash table that grows: "ERROR locked try again later"). Then
//! the whole plan is declared void and begins anew, so that nothing is dumped twice; and this time the key files of a
//! server are handed over only when its listing is complete, so that a second break costs that listing alone.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use tipple_budget::{Cancelled, Gate};
use tipple_chunk::{Scratch, SealWriter, seal_bytes};
use tipple_flow::{Failure, NewPart, Outcomes, Party, PlanBody, Stop};

use crate::connection::{Connection, ConnectionError, Version, shown};
use crate::filter::Filter;
use crate::key_file::{KEYS_EXTENSION, KeyFile, KeyFileWriter, decode, encode};
use crate::metadump::{ListedItem, METADUMP_LINE_BYTES_MAX};
use crate::options::MemcachedOptions;
use crate::retry::Retry;
use crate::source::crawler_off;
use crate::stats::{Incarnation, Stats};
use crate::url::Server;

/// How keys are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listing {
    /// By the hash table where the server can (1.6.9), in 3 passes over the LRU where it cannot.
    #[default]
    Auto,
    /// By a walk over the hash table, which misses nothing and lists nothing twice.
    Hash,
    /// By walks over the LRU lists, which miss items that clients read meanwhile. What one pass misses, another may
    /// find; what several find is dumped once.
    All {
        /// How many walks, 1 to 100.
        passes: u32,
    },
}

impl Listing {
    /// The most passes.
    pub const PASSES_MAX: u32 = 100;
    const PASSES_DEFAULT: u32 = 3;

    /// Walks over the LRU; `None` for one over the hash table.
    pub(crate) fn passes(self, version: &Version) -> Option<u32> {
        match self {
            Self::Hash => None,
            Self::All { passes } => Some(passes),
            Self::Auto if version.is_at_least(1, 6, 9) => None,
            Self::Auto => Some(Self::PASSES_DEFAULT),
        }
    }

    /// The most that any server may need.
    pub(crate) fn passes_max(self) -> Option<u32> {
        self.passes(&Version::default())
    }
}

/// Lines between two looks at the gate and two reports of progress.
const STEP: u64 = 8192;

/// Buckets of keys while several passes are brought together.
const BUCKETS_MAX: u64 = 256;
const BUCKET_KEYS: u64 = 50_000;
const BUCKET_BUFFER_BYTES: usize = 8 << 10;
/// The most that the keys of one bucket may take in memory.
const BUCKET_BYTES_MAX: u64 = 16 << 20;
/// The shortest record: its bits, the length of its key, a byte of key, and two numbers.
const RECORD_BYTES_MIN: u64 = 5;
// All buffers, sealing ones too, take less than one bucket and its offsets do.
const _: () = assert!((BUCKET_BUFFER_BYTES as u64) < seal_bytes());
const _: () = assert!(
    BUCKETS_MAX * seal_bytes() <= BUCKET_BYTES_MAX + BUCKET_BYTES_MAX / RECORD_BYTES_MIN * 4
);

/// When key files are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandOver {
    /// As soon as they are full. A listing that breaks off voids the plan.
    AtOnce,
    /// When the listing of their server is complete.
    WhenComplete,
}

/// What a listing thread tells.
pub(crate) enum Listed {
    /// A listing broke off after parts of it were handed over.
    BrokeOff,
    /// So many more keys were listed.
    Keys(u64),
    /// A listing failed: the others need not go on.
    Failed,
    /// A part.
    Part(NewPart),
}

/// What all listings of a job share.
pub(crate) struct Lister<'a> {
    pub options: &'a MemcachedOptions,
    /// Refuses another life of a server than the one that the job began with.
    pub check_life: &'a (dyn Fn(Incarnation) -> Result<(), Failure> + Sync),
    pub filter: &'a Filter,
    pub listing: Listing,
    pub hand_over: HandOver,
    pub key_file_bytes: u64,
    pub key_space: &'a KeySpace,
    pub dir: &'a Path,
    /// Seals what is written there, if the planner wants that.
    pub scratch: Option<Scratch>,
    pub gate: &'a Gate,
}

/// What came of the listing of one server.
pub(crate) struct ServerListed {
    pub incarnation: Incarnation,
    pub version: String,
    pub curr_items: u64,
    pub listed: u64,
    pub outcomes: Outcomes,
}

/// The local disk that key files may take.
#[derive(Debug)]
pub(crate) struct KeySpace {
    bytes_max: u64,
    bytes: AtomicU64,
}

impl KeySpace {
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: AtomicU64::new(0),
        }
    }

    /// Counts bytes that were written. `keys` of `curr_items` were listed so far: from this follows what would do.
    fn take(&self, bytes: u64, keys: u64, curr_items: u64) -> Result<(), Failure> {
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken <= self.bytes_max {
            return Ok(());
        }
        let share = curr_items as f64 / keys.max(1) as f64;
        let would_do = (taken as f64 * share.max(1.0) * 1.5) as u64;
        Err(Failure::new(
            Party::Budget,
            format!(
                "the key files need more than the key space of {} bytes: {keys} of about {curr_items} keys took {taken} bytes; give --key-space at least {would_do}",
                self.bytes_max
            ),
        ))
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why one attempt at a listing ended.
enum Broken {
    /// It may start again.
    Retry(String),
    /// It may not.
    Stop(Stop),
}

impl From<Stop> for Broken {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Stop(failure.into())
    }
}

impl From<ConnectionError> for Broken {
    fn from(error: ConnectionError) -> Self {
        if error.is_retryable() {
            return Self::Retry(match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            });
        }
        Self::Stop(error.into_stop(Party::Source))
    }
}

impl Lister<'_> {
    /// What one listing thread holds at most, in bytes.
    pub fn memory_bytes(
        options: &MemcachedOptions,
        key_file_bytes: u64,
        passes: Option<u32>,
    ) -> u64 {
        // The buckets' buffers, and later one bucket with the offsets of its records.
        let merging = match passes {
            None => 0,
            Some(_) => BUCKET_BYTES_MAX + BUCKET_BYTES_MAX / RECORD_BYTES_MIN * 4,
        };
        Connection::memory_bytes(options) + KeyFileWriter::memory_bytes(key_file_bytes) + merging
    }

    /// Lists the keys of `server`, the `number`th, and hands its parts to `out`.
    pub fn list(
        &self,
        number: usize,
        server: &Server,
        out: &SyncSender<Listed>,
    ) -> Result<ServerListed, Stop> {
        let listed = self.try_list(number, server, out);
        if listed.is_err() {
            // If nobody takes it, nobody needs it.
            let _ = out.send(Listed::Failed);
        }
        listed
    }

    fn try_list(
        &self,
        number: usize,
        server: &Server,
        out: &SyncSender<Listed>,
    ) -> Result<ServerListed, Stop> {
        let mut retry = Retry::new(&self.options.retry);
        for attempt in 0.. {
            let phase = match self.hand_over {
                HandOver::AtOnce => "a",
                HandOver::WhenComplete => "b",
            };
            let stem = format!("keys-{phase}-{number:04}-{attempt:04}");
            let mut run = Run::new(self, server, stem, out);
            match run.list() {
                Ok(listed) => {
                    run.hand_over()?;
                    return Ok(listed);
                }
                Err(Broken::Stop(stop)) => return Err(stop),
                Err(Broken::Retry(_)) if run.handed_over => {
                    send(out, Listed::BrokeOff)?;
                    return Err(Cancelled.into());
                }
                Err(Broken::Retry(reason)) => {
                    run.discard();
                    if !retry.wait(Some(self.gate))? {
                        return Err(Failure::new(
                            Party::Source,
                            format!(
                                "the keys of memcached at {server} could not be listed in {} attempts: {reason}; run the same command again",
                                retry.failures()
                            ),
                        )
                        .into());
                    }
                }
            }
        }
        unreachable!("the retry ends it")
    }
}

/// Tells the planner's thread. If it takes no more, the plan has failed elsewhere.
fn send(out: &SyncSender<Listed>, listed: Listed) -> Result<(), Stop> {
    out.send(listed).map_err(|_| Stop::Cancelled(Cancelled))
}

/// One attempt at the listing of one server.
struct Run<'a> {
    lister: &'a Lister<'a>,
    server: &'a Server,
    stem: String,
    out: &'a SyncSender<Listed>,
    files: Vec<KeyFile>,
    handed_over: bool,
    buckets: Option<Buckets>,
    listed: u64,
    reported: u64,
    curr_items: u64,
    now: i64,
    outcomes: Outcomes,
}

impl<'a> Run<'a> {
    fn new(
        lister: &'a Lister<'a>,
        server: &'a Server,
        stem: String,
        out: &'a SyncSender<Listed>,
    ) -> Self {
        Self {
            lister,
            server,
            stem,
            out,
            files: Vec::new(),
            handed_over: false,
            buckets: None,
            listed: 0,
            reported: 0,
            curr_items: 0,
            now: 0,
            outcomes: Outcomes::default(),
        }
    }

    fn list(&mut self) -> Result<ServerListed, Broken> {
        let gate = Some(self.lister.gate);
        let mut connection = Connection::connect(self.server, self.lister.options, gate)?;
        let stats = Stats::read(&mut connection, gate)?;
        let incarnation = Incarnation::new(self.server.to_string(), &stats);
        (self.lister.check_life)(incarnation.clone())?;
        self.now = stats.time;
        self.curr_items = stats.curr_items;
        let scratch = self.lister.scratch.clone();
        let mut writer = KeyFileWriter::new(
            self.lister.dir,
            scratch.clone(),
            self.stem.clone(),
            self.server.to_string(),
            stats.time,
            self.lister.key_file_bytes,
        )
        .map_err(|error| {
            Failure::new(Party::Budget, "cannot set up the encoder of key files").because(error)
        })?;
        match self.lister.listing.passes(connection.version()) {
            None => self.walk(&mut connection, "hash", &mut |run, item| {
                run.outcome_or(item, |run, item| run.add(&mut writer, item))
            })?,
            Some(passes) => {
                let buckets =
                    Buckets::create(self.lister.dir, scratch, &self.stem, stats.curr_items);
                self.buckets = Some(buckets.map_err(disk)?);
                for _ in 0..passes {
                    self.walk(&mut connection, "all", &mut Self::add_to_bucket)?;
                }
                self.merge(&mut writer)?;
            }
        }
        let last = writer.flush()?;
        self.keep(last)?;
        let stats = Stats::read(&mut connection, gate)?;
        incarnation.check(&Incarnation::new(self.server.to_string(), &stats))?;
        Ok(ServerListed {
            incarnation,
            version: connection.version().to_string(),
            curr_items: self.curr_items,
            listed: self.listed,
            outcomes: std::mem::take(&mut self.outcomes),
        })
    }

    fn add_to_bucket(&mut self, item: &ListedItem) -> Result<(), Stop> {
        let buckets = self
            .buckets
            .as_mut()
            .expect("created before the first pass");
        let bytes = buckets.add(item, self.now).map_err(disk)?;
        self.lister
            .key_space
            .take(bytes, self.listed, self.curr_items)?;
        Ok(())
    }

    /// Brings the passes together: what several of them found is one key.
    fn merge(&mut self, writer: &mut KeyFileWriter) -> Result<(), Stop> {
        let mut buckets = self.buckets.take().expect("created before the first pass");
        self.listed = 0;
        let base = self.now;
        buckets.end().map_err(disk)?;
        for n in 0..buckets.paths.len() {
            let bucket = buckets.read(n).map_err(disk)?;
            for item in unique(&bucket, base)? {
                self.listed += 1;
                self.outcome_or(&item, |run, item| run.add(writer, item))?;
            }
        }
        self.lister.key_space.give_back(buckets.bytes);
        Ok(())
    }

    /// Applies the filter.
    fn outcome_or(
        &mut self,
        item: &ListedItem,
        keep: impl FnOnce(&mut Self, &ListedItem) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        match self.lister.filter.keep(item.key(), item.exptime, self.now) {
            Ok(()) => keep(self, item),
            Err(cause) => {
                self.outcomes.count(cause);
                Ok(())
            }
        }
    }

    fn add(&mut self, writer: &mut KeyFileWriter, item: &ListedItem) -> Result<(), Stop> {
        let file = writer.add(item)?;
        self.keep(file)
    }

    fn keep(&mut self, file: Option<KeyFile>) -> Result<(), Stop> {
        let Some(file) = file else { return Ok(()) };
        let bytes = file.stored_bytes;
        self.files.push(file);
        self.lister
            .key_space
            .take(bytes, self.listed, self.curr_items)?;
        if self.lister.hand_over == HandOver::AtOnce {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Hands the full key files over.
    fn hand_over(&mut self) -> Result<(), Stop> {
        for file in self.files.drain(..) {
            let part = NewPart {
                body: PlanBody::File(file.path),
                extension: KEYS_EXTENSION,
                records: Some(file.keys),
                bytes_estimate: file.items_bytes,
            };
            self.handed_over = true;
            send(self.out, Listed::Part(part))?;
        }
        Ok(())
    }

    /// Reads one listing to its end, and gives every item to `each`.
    fn walk(
        &mut self,
        connection: &mut Connection,
        kind: &str,
        each: &mut dyn FnMut(&mut Self, &ListedItem) -> Result<(), Stop>,
    ) -> Result<(), Broken> {
        let gate = Some(self.lister.gate);
        let request = format!("lru_crawler metadump {kind}\r\n");
        let mut retry = Retry::new(&self.lister.options.retry);
        connection.send(request.as_bytes(), gate)?;
        let mut item = ListedItem::default();
        let mut begun = false;
        loop {
            let mut used = 0;
            let mut busy = false;
            loop {
                let rest = &connection.buffered()[used..];
                let Some(at) = memchr::memchr(b'\n', rest) else {
                    break;
                };
                let line = &rest[..at];
                used += at + 1;
                if line.starts_with(b"key=") {
                    if let Err(error) = item.read_line(line) {
                        return Err(self.nonsense(line, &error.to_string()).into());
                    }
                    begun = true;
                    self.listed += 1;
                    each(self, &item)?;
                    if self.listed.is_multiple_of(STEP) {
                        self.report()?;
                    }
                    continue;
                }
                match self.other_line(line, begun)? {
                    Line::Begin => {}
                    Line::End => {
                        connection.consume(used);
                        self.report()?;
                        return Ok(());
                    }
                    Line::Busy => busy = true,
                }
            }
            connection.consume(used);
            if busy {
                let again = retry.wait(gate).map_err(Stop::from)?;
                if !again {
                    return Err(Broken::Stop(self.busy(retry.failures()).into()));
                }
                connection.send(request.as_bytes(), gate)?;
            }
            if connection.buffered().len() > METADUMP_LINE_BYTES_MAX {
                let line = connection.buffered()[..100].to_vec();
                return Err(self.nonsense(&line, "it has no end").into());
            }
            connection.fill(gate)?;
        }
    }

    /// A line that is no item.
    fn other_line(&self, line: &[u8], begun: bool) -> Result<Line, Broken> {
        let server = self.server;
        let line = line.trim_ascii_end();
        if line == b"END" {
            return Ok(Line::End);
        }
        if line == b"OK" && !begun {
            return Ok(Line::Begin);
        }
        if line.starts_with(b"BUSY") && !begun {
            return Ok(Line::Busy);
        }
        if line.starts_with(b"ERROR locked") {
            return Err(Broken::Retry(format!(
                "memcached at {server} grew its hash table meanwhile ({})",
                shown(line)
            )));
        }
        if !begun && (line.starts_with(b"CLIENT_ERROR") || line.starts_with(b"ERROR")) {
            return Err(crawler_off(server).because(shown(line)).into());
        }
        if line.starts_with(b"SERVER_ERROR") {
            return Err(Broken::Retry(format!(
                "memcached at {server}: {}",
                shown(line)
            )));
        }
        Err(self
            .nonsense(line, "it is none of the lines of a listing")
            .into())
    }

    fn nonsense(&self, line: &[u8], why: &str) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "memcached at {} listed its keys with a line that cannot be read, {:?}: {why}; please report it with the server's version",
                self.server,
                shown(line)
            ),
        )
    }

    fn busy(&self, attempts: u32) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "memcached at {} was busy with another crawler at each of {attempts} attempts: see whether somebody else lists its keys, and run the same command again",
                self.server
            ),
        )
    }

    fn report(&mut self) -> Result<(), Stop> {
        let more = self.listed.saturating_sub(self.reported);
        self.reported = self.reported.max(self.listed);
        send(self.out, Listed::Keys(more))
    }

    /// Removes what it wrote.
    fn discard(&mut self) {
        for file in self.files.drain(..) {
            self.lister.key_space.give_back(file.stored_bytes);
            // What cannot be removed lies in a scratch folder under a name that is not used again.
            let _ = std::fs::remove_file(&file.path);
        }
        if let Some(buckets) = self.buckets.take() {
            self.lister.key_space.give_back(buckets.bytes);
        }
        // Progress that was told stays told: the next attempt reports what goes beyond it.
    }
}

enum Line {
    Begin,
    End,
    Busy,
}

fn disk(error: std::io::Error) -> Failure {
    Failure::new(
        Party::Budget,
        "cannot write lists of keys: check the local disk",
    )
    .because(error)
}

/// Keys of several passes, spread over files by a hash of the key, so that each file's keys fit in memory.
///
/// The files lie in the scratch folder itself: of a job that was killed, the next one removes files, and no folders.
struct Buckets {
    paths: Vec<PathBuf>,
    /// Empty once all passes have ended.
    files: Vec<BucketFile>,
    scratch: Option<Scratch>,
    record: Vec<u8>,
    bytes: u64,
}

enum BucketFile {
    Plain(BufWriter<File>),
    Sealed(Box<SealWriter<File>>),
}

impl Buckets {
    fn create(
        dir: &Path,
        scratch: Option<Scratch>,
        stem: &str,
        curr_items: u64,
    ) -> std::io::Result<Self> {
        let mut buckets = Self {
            paths: Vec::new(),
            files: Vec::new(),
            scratch,
            record: Vec::new(),
            bytes: 0,
        };
        for n in 0..(curr_items / BUCKET_KEYS + 1).min(BUCKETS_MAX) {
            let path = dir.join(format!("{stem}-bucket-{n}"));
            let file = File::create_new(&path)?;
            buckets.paths.push(path);
            let file = match &buckets.scratch {
                None => BucketFile::Plain(BufWriter::with_capacity(BUCKET_BUFFER_BYTES, file)),
                Some(scratch) => {
                    let file = scratch.writer(file).map_err(std::io::Error::other)?;
                    BucketFile::Sealed(Box::new(file))
                }
            };
            buckets.files.push(file);
        }
        Ok(buckets)
    }

    fn add(&mut self, item: &ListedItem, base: i64) -> std::io::Result<u64> {
        self.record.clear();
        encode(item, base, &mut self.record);
        let bucket = hash(item.key()) >> 32;
        let bucket = bucket as usize % self.files.len();
        match &mut self.files[bucket] {
            BucketFile::Plain(file) => file.write_all(&self.record)?,
            BucketFile::Sealed(file) => file.write_all(&self.record)?,
        }
        self.bytes += self.record.len() as u64;
        Ok(self.record.len() as u64)
    }

    /// Ends the writing, and gives back the memory of it.
    fn end(&mut self) -> std::io::Result<()> {
        for file in self.files.drain(..) {
            match file {
                BucketFile::Plain(mut file) => file.flush()?,
                BucketFile::Sealed(file) => {
                    file.finish().map_err(std::io::Error::other)?;
                }
            }
        }
        Ok(())
    }

    /// All of bucket `n`, whose file is removed. After [`end`](Buckets::end).
    fn read(&mut self, n: usize) -> std::io::Result<Vec<u8>> {
        let path = &self.paths[n];
        let (length, mut input): (u64, Box<dyn Read>) = match &self.scratch {
            None => {
                let file = File::open(path)?;
                (file.metadata()?.len(), Box::new(BufReader::new(file)))
            }
            Some(scratch) => {
                let file = scratch.reader(File::open(path)?);
                let file = file.map_err(std::io::Error::other)?;
                (file.plain_bytes(), Box::new(file))
            }
        };
        if length > BUCKET_BYTES_MAX {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                "too many keys to bring several passes together in bounded memory: this needs memcached 1.6.9 or later, which lists its keys in one pass",
            ));
        }
        let mut bytes = Vec::with_capacity(length as usize);
        input.read_to_end(&mut bytes)?;
        std::fs::remove_file(path)?;
        Ok(bytes)
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        for path in &self.paths {
            // Gone already if it was read; else what stays is a leftover that the next start removes.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// FNV-1a with a final mix: spreads keys over buckets, the same in every pass.
fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ (hash >> 29)
}

/// The items of a bucket, each key once, as the last pass that found it tells it. Beside the bucket it holds four bytes
/// for each record.
fn unique(bucket: &[u8], base: i64) -> Result<impl Iterator<Item = ListedItem>, Failure> {
    let broken = |error| {
        Failure::new(
            Party::Budget,
            "lists of keys came back changed: check the local disk",
        )
        .because(error)
    };
    let mut item = ListedItem::default();
    let mut records = 0;
    let mut rest = bucket;
    while !rest.is_empty() {
        decode(&mut rest, base, &mut item).map_err(broken)?;
        records += 1;
    }
    // Counted first, so that the list never grows beyond what it needs.
    let mut offsets: Vec<u32> = Vec::with_capacity(records);
    let mut rest = bucket;
    while !rest.is_empty() {
        // It fits: a bucket has at most BUCKET_BYTES_MAX.
        offsets.push((bucket.len() - rest.len()) as u32);
        decode(&mut rest, base, &mut item).map_err(broken)?;
    }
    let key_at = move |offset: u32| {
        // A record begins with its bits, the length of its key, and the key.
        let record = &bucket[offset as usize + 1..];
        &record[1..=usize::from(record[0])]
    };
    offsets.sort_unstable_by_key(|&offset| (key_at(offset), offset));
    let mut kept = 0;
    for n in 0..offsets.len() {
        let last = offsets
            .get(n + 1)
            .is_none_or(|&next| key_at(next) != key_at(offsets[n]));
        if last {
            offsets[kept] = offsets[n];
            kept += 1;
        }
    }
    offsets.truncate(kept);
    Ok(offsets.into_iter().map(move |offset| {
        let mut item = ListedItem::default();
        let decoded = decode(&mut &bucket[offset as usize..], base, &mut item);
        decoded.expect("it was decoded before");
        item
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_passes_is_one_key_as_the_last_one_told_it() {
        let mut bytes = Vec::new();
        for (key, cas) in [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
            let mut item = ListedItem::default();
            item.set_key(key.as_bytes());
            item.cas = cas;
            encode(&item, 100, &mut bytes);
        }
        let found: Vec<_> = unique(&bytes, 100)
            .unwrap()
            .map(|item| (item.key().to_vec(), item.cas))
            .collect();
        assert_eq!(
            found,
            [(b"a".to_vec(), 3), (b"b".to_vec(), 5), (b"c".to_vec(), 4)]
        );
        assert!(unique(&bytes[..bytes.len() - 1], 100).map(drop).is_err());
    }

    #[test]
    fn what_a_killed_listing_leaves_are_plain_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut buckets = Buckets::create(dir.path(), None, "keys", 2 * BUCKET_KEYS).unwrap();
        let mut item = ListedItem::default();
        item.set_key(b"k");
        buckets.add(&item, 0).unwrap();
        buckets.end().unwrap();
        let left = || -> Vec<_> { dir.path().read_dir().unwrap().map(Result::unwrap).collect() };
        assert_eq!(left().len(), 3);
        for entry in left() {
            assert!(entry.file_type().unwrap().is_file(), "{entry:?}");
        }
        let read: Vec<_> = (0..3).map(|n| buckets.read(n).unwrap().len()).collect();
        assert!(read.iter().filter(|bytes| **bytes > 0).count() == 1 && left().is_empty());
        drop(Buckets::create(dir.path(), None, "keys", 0).unwrap());
        assert!(left().is_empty());
    }

    #[test]
    fn sealed_buckets_give_back_what_was_put_in_and_show_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::random().unwrap();
        let mut buckets = Buckets::create(dir.path(), Some(scratch), "keys", 0).unwrap();
        let mut expected = Vec::new();
        for n in 0..20_000 {
            let mut item = ListedItem::default();
            item.set_key(format!("plain-key-{n}").as_bytes());
            buckets.add(&item, 0).unwrap();
            encode(&item, 0, &mut expected);
        }
        buckets.end().unwrap();
        let stored = std::fs::read(&buckets.paths[0]).unwrap();
        assert!(stored.len() > expected.len());
        assert_eq!(memchr::memmem::find(&stored, b"plain-key"), None);
        assert!(buckets.read(0).unwrap() == expected);
    }

    #[test]
    fn a_full_key_space_says_what_would_do() {
        let space = KeySpace::new(1000);
        space.take(900, 10, 100).unwrap();
        space.give_back(100);
        space.take(200, 20, 100).unwrap();
        let refusal = space.take(1, 50, 100).unwrap_err();
        assert_eq!(refusal.party(), Party::Budget);
        assert!(
            refusal.to_string().ends_with("--key-space at least 3003"),
            "{refusal}"
        );
    }
}
