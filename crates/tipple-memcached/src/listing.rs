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

mod buckets;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use tipple_budget::{Cancelled, Gate};
use tipple_chunk::Scratch;
use tipple_flow::{Failure, NewPart, Outcomes, Party, PlanBody, Stop};

use self::buckets::{Buckets, unique};
use crate::connection::{Connection, ConnectionError, Version, shown};
use crate::filter::Filter;
use crate::key_file::{KEYS_EXTENSION, KeyFile, KeyFileWriter};
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
            Some(_) => Buckets::MEMORY_BYTES,
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

#[cfg(test)]
mod tests {
    use super::*;

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
