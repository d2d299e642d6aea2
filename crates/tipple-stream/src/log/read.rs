//! Reading a log: block by block, each in a moment of its own, so that a slow reader never holds up the writer's files.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::Value;
use tipple_chunk::Sha256Digest;
use tipple_flow::{Failure, Outcomes, Party, RecordWriter, Stop};

use super::schema;
use crate::event::{EventRef, LENGTH_BYTES, record_bytes};
use crate::place::{Numbering, Place};
use crate::source::{Extent, RangeReader, Span};

/// Reads a log, while others may read and one may append.
#[derive(Debug)]
pub struct LogReader {
    folder: PathBuf,
    connection: Connection,
    body: Vec<u8>,
}

/// A block without its events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) last: i64,
    pub(super) events_to: u64,
    pub(super) bytes_to: u64,
    pub(super) largest: u64,
}

pub(super) const BLOCK_COLUMNS: &str = "last, events_before + events, bytes_before + bytes, \
     max(largest_before, bytes)";

impl Block {
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            last: row.get(0)?,
            events_to: row.get::<_, i64>(1)? as u64,
            bytes_to: row.get::<_, i64>(2)? as u64,
            largest: row.get::<_, i64>(3)? as u64,
        })
    }
}

impl LogReader {
    /// Opens the log in `folder`.
    ///
    /// # Errors
    /// [`Failure`] if there is none, or it is of another format.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        Ok(Self {
            folder: folder.to_owned(),
            connection: schema::open(folder)?,
            body: Vec::new(),
        })
    }

    fn ask<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        of: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Failure> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(parameters, of).optional())
            .map_err(schema::failed(&self.folder, "read"))
    }

    /// The last block.
    fn last(&self) -> Result<Option<Block>, Failure> {
        let sql = format!("SELECT {BLOCK_COLUMNS} FROM blocks ORDER BY first DESC LIMIT 1");
        self.ask(&sql, [], Block::of)
    }

    /// What it holds now.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be read.
    pub fn extent(&self) -> Result<Extent, Failure> {
        let life = self.ask("SELECT id FROM life", [], |row| row.get::<_, String>(0))?;
        let first = self.ask("SELECT min(first) FROM blocks", [], |row| {
            row.get::<_, Option<i64>>(0)
        })?;
        let place = |number: i64| Place::sequence(number as u64);
        let (first, last) = (first.flatten().map(place), self.last()?);
        let end = last.map_or(Place::sequence(1), |block| place(block.last).next());
        Ok(Extent {
            life: life.map_or(Value::Null, Value::from),
            first: first.unwrap_or(end),
            end,
            events: last.map_or(0, |block| block.events_to),
            bytes: last.map_or(0, |block| block.bytes_to),
        })
    }

    /// Bytes of the largest block.
    pub(super) fn largest(&self) -> Result<u64, Failure> {
        Ok(self.last()?.map_or(0, |block| block.largest))
    }

    /// The place of the first event at `time` or later; the end if there is none. Looks at every block's latest time.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be read, or is damaged.
    pub fn place_at(&self, time: i64) -> Result<Place, Failure> {
        let sql = "SELECT first FROM blocks WHERE time_max >= ?1 ORDER BY first LIMIT 1";
        let Some(first) = self.ask(sql, [time], |row| row.get::<_, i64>(0))? else {
            return Ok(self.extent()?.end);
        };
        let mut body = Vec::new();
        let block = self.block(first - 1, &mut body)?;
        let mut found = None;
        self.each(&body, |event| {
            if event.time().is_some_and(|at| at >= time) {
                found = found.or(Some(event.place()));
            }
            Ok(())
        })?;
        // The writer noted that one is there.
        found
            .or(block.map(|last| Place::sequence(last as u64).next()))
            .ok_or_else(|| {
                self.damaged(
                    Place::sequence(first as u64),
                    "has no event of the time it says",
                )
            })
    }

    /// The block after the one that begins at `after`: its last place, and its events in `body`. `None` at the end.
    fn block(&self, after: i64, body: &mut Vec<u8>) -> Result<Option<i64>, Failure> {
        let sql =
            "SELECT first, last, sum, body FROM blocks WHERE first > ?1 ORDER BY first LIMIT 1";
        let found = self.ask(sql, [after], |row| {
            body.clear();
            if let ValueRef::Blob(bytes) = row.get_ref(3)? {
                body.extend_from_slice(bytes);
            }
            Ok((
                row.get::<_, i64>(0)?,
                row.get(1)?,
                row.get::<_, Vec<u8>>(2)?,
            ))
        })?;
        let Some((first, last, sum)) = found else {
            return Ok(None);
        };
        if sum != block_sum(body) {
            return Err(self.damaged(
                Place::sequence(first as u64),
                "does not have the checksum it should have",
            ));
        }
        Ok(Some(last))
    }

    fn damaged(&self, place: Place, what: &str) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "the log {} is damaged: its block from event {place} on {what}; restore it from a dump, or read around it with --from and --to",
                self.folder.display()
            ),
        )
    }

    /// Shows every event of a block.
    fn each(
        &self,
        body: &[u8],
        mut act: impl FnMut(&EventRef<'_>) -> Result<(), Stop>,
    ) -> Result<(), Failure> {
        let mut rest = body;
        while !rest.is_empty() {
            let (record, next) = split_record(rest).map_err(|why| self.not_an_event(&why))?;
            let event = EventRef::parse(record).map_err(|why| self.not_an_event(&why))?;
            if let Err(Stop::Failed(failure)) = act(&event) {
                return Err(failure);
            }
            rest = next;
        }
        Ok(())
    }

    fn not_an_event(&self, why: &str) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "the log {} holds {why}: it was not written by tipple; restore it from a dump",
                self.folder.display()
            ),
        )
    }

    /// The greatest `first` of a block that may hold `place` or what comes after it, less one.
    fn before(&self, place: Place) -> Result<i64, Failure> {
        let place = i64::try_from(place.number()).unwrap_or(i64::MAX);
        let first = self.ask(
            "SELECT max(first) FROM blocks WHERE first <= ?1",
            [place],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        Ok(first.flatten().map_or(i64::MIN, |first| first - 1))
    }

    /// Shows the events of `span`, encoded, each with its place, in their order.
    ///
    /// # Errors
    /// [`Stop`]: it cannot be read, is damaged, or `take` said so.
    pub fn read_with(
        &mut self,
        span: Span,
        mut take: impl FnMut(Place, &[u8]) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut after = self.before(span.from)?;
        let mut body = std::mem::take(&mut self.body);
        let mut due = Place::ZERO;
        while let Some(last) = self.block(after, &mut body)? {
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (record, next) = split_record(rest).map_err(|why| self.not_an_event(&why))?;
                rest = next;
                let place = record_place(record).map_err(|why| self.not_an_event(&why))?;
                if place < due {
                    return Err(self.damaged(place, "is not in order").into());
                }
                due = place.next();
                if place >= span.to {
                    self.body = body;
                    return Ok(());
                }
                if place >= span.from {
                    take(place, record)?;
                }
            }
            after = last;
        }
        self.body = body;
        Ok(())
    }
}

/// The first record of `bytes`, and what comes after it.
fn split_record(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let length: [u8; LENGTH_BYTES] = *bytes.first_chunk().ok_or("a piece of an event")?;
    let length = record_bytes(length)?;
    bytes
        .split_at_checked(length)
        .ok_or_else(|| "a piece of an event".to_owned())
}

/// The place of a record: verified as bytes, and read by whoever needs more of it.
fn record_place(record: &[u8]) -> Result<Place, String> {
    let bytes = usize::from(record[5]);
    let position = record.get(16..16 + bytes).ok_or("a piece of an event")?;
    match Place::of_bytes(position) {
        Some((place, Numbering::Sequence)) => Ok(place),
        _ => Err(format!("an event with a position of {bytes} bytes")),
    }
}

/// The checksum of a block.
pub(super) fn block_sum(body: &[u8]) -> [u8; 16] {
    let digest = Sha256Digest::of(body);
    *digest.as_bytes().first_chunk().expect("16 of 32 bytes")
}

impl RangeReader for LogReader {
    fn read(
        &mut self,
        span: Span,
        out: &mut RecordWriter<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        self.read_with(span, |place, record| {
            out.record(&[record], place.position(Numbering::Sequence))
        })
    }
}
