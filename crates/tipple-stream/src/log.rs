//! The embedded log: an append-only stream in a folder, in an SQLite database.
//!
//! # Layout
//! ```text
//! <folder>/
//!   log.sqlite        blocks of events (and SQLite's own files beside it)
//!   writer.lock       held by the only writer
//! ```
//! A row is a block of events as the content `events` has them, one after the other, so that reading is copying. A block
//! is at most [`BLOCK_BYTES`] or one event. Blocks hold running totals, so that nothing ever counts the whole log.
//!
//! SQLite, since readers in other processes must read while a writer appends, and since stock tools open it. It does not
//! check what it reads; so each block has a SHA-256 of 128 bits.

mod read;
mod schema;
mod write;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Party, Stop};

pub use read::LogReader;
pub use write::LogWriter;

use crate::event::{EVENT_BYTES_MAX, EventRef};
use crate::place::{Numbering, Place};
use crate::sink::{Appender, Tail, Target};
use crate::source::{Extent, RangeReader, Stream};

/// Bytes of events in a block, unless one event is larger.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;

/// What SQLite holds for one connection, beside a block: its page cache, and pages of a commit.
const CONNECTION_BYTES: u64 = 4 << 20;

/// A log at a path: `log:PATH` as a source and a sink. Nothing is opened yet.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The log in the folder `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Stream for Log {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn id(&self) -> Value {
        json!({ "path": self.path.to_string_lossy() })
    }

    fn url(&self) -> String {
        format!("log:{}", self.path.display())
    }

    fn numbering(&self) -> Numbering {
        Numbering::Sequence
    }

    fn look(&self) -> Result<Extent, Failure> {
        LogReader::open(&self.path)?.extent()
    }

    fn place_at(&self, time: i64) -> Result<Place, Failure> {
        LogReader::open(&self.path)?.place_at(time)
    }

    fn reader_bytes(&self) -> u64 {
        // What cannot be looked at is told by `look`.
        let largest = LogReader::open(&self.path).and_then(|log| log.largest());
        // SQLite puts a block together, and gives it to us.
        CONNECTION_BYTES + 2 * largest.unwrap_or(0).max(BLOCK_BYTES as u64)
    }

    fn event_bytes_max(&self) -> u64 {
        // As above; events that are appended from now on are behind its end.
        LogReader::open(&self.path)
            .and_then(|log| log.largest())
            .unwrap_or(0)
    }

    fn open(&self) -> Result<Box<dyn RangeReader + '_>, Failure> {
        Ok(Box::new(LogReader::open(&self.path)?))
    }
}

impl Target for Log {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn id(&self) -> Value {
        Stream::id(self)
    }

    fn url(&self) -> String {
        Stream::url(self)
    }

    fn writer_bytes(&self) -> u64 {
        CONNECTION_BYTES + 2 * BLOCK_BYTES as u64
    }

    fn event_bytes(&self, event_bytes_max: u64) -> u64 {
        // Encoded anew if its place cannot be kept, in its block, and twice in SQLite: as it was given, and in its row.
        4 * (event_bytes_max + ORIGIN_BYTES_MAX as u64)
    }

    fn check(&self) -> Result<(), Failure> {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") && !folder.is_dir() => Err(Failure::new(
                Party::Usage,
                format!(
                    "cannot make the log {}: there is no folder {}; make it first",
                    self.path.display(),
                    folder.display()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn open<'a>(&'a self, _gate: &'a Gate) -> Result<Box<dyn Appender + 'a>, Failure> {
        Ok(Box::new(LogWriter::open(&self.path)?))
    }
}

/// The header that tells where an event came from, if its place could not be kept.
const ORIGIN: &[u8] = b"Tipple-Position";
/// More than that header takes.
const ORIGIN_BYTES_MAX: usize = 128;

static PLACE: Cause = Cause::loss("position too large for a log");
static TOO_LARGE: Cause = Cause::loss("too large");

impl Appender for LogWriter {
    fn tail(&mut self) -> Result<Option<Tail>, Failure> {
        let Some(last) = self.last_record()? else {
            return Ok(None);
        };
        let event = EventRef::parse(&last).map_err(|why| self.damaged(&why))?;
        let mut own = event.to_event();
        let of_header = own.headers.last().filter(|(name, _)| name == ORIGIN);
        let origin = match of_header.and_then(|(_, value)| value.as_deref()) {
            None => (event.place(), event.numbering()),
            Some(text) => {
                let place = std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse().ok());
                let place = place.ok_or_else(|| self.damaged("a position that is none"))?;
                own.headers.pop();
                (place, Numbering::TimeAndNumber)
            }
        };
        Ok(Some(Tail {
            origin,
            event: own,
            is_begun: false,
        }))
    }

    fn refuses(&self, event: &EventRef<'_>) -> Option<&'static Cause> {
        match event.numbering() {
            Numbering::Sequence => (event.place() > schema::PLACE_MAX).then_some(&PLACE),
            // With room for one more header.
            Numbering::TimeAndNumber => {
                let is_large = event.bytes().len() > EVENT_BYTES_MAX - ORIGIN_BYTES_MAX;
                let is_full = event.headers().count() == usize::from(u16::MAX);
                (is_large || is_full).then_some(&TOO_LARGE)
            }
        }
    }

    /// A sequence stays the event's; an id of Redis becomes a header, and the event gets the next sequence.
    fn append(&mut self, event: &EventRef<'_>) -> Result<(), Stop> {
        match event.numbering() {
            Numbering::Sequence => self.push_record(event.place(), event.time(), event.bytes())?,
            Numbering::TimeAndNumber => {
                let origin = event.place().text(Numbering::TimeAndNumber).into_bytes();
                self.push_with(event, (ORIGIN, &origin))?;
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Stop> {
        Ok(LogWriter::commit(self)?)
    }
}
