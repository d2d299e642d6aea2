//! Appending to a log: one writer, blocks, commits.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use tipple_flow::{Failure, Party};

use super::read::{BLOCK_COLUMNS, Block, block_sum};
use super::{BLOCK_BYTES, schema};
use crate::event::{Event, EventRef, LENGTH_BYTES, encode, record_bytes};
use crate::place::{Numbering, Place};

/// The only writer of a log. What was appended since the last [`LogWriter::commit`] is gone when it is dropped.
#[derive(Debug)]
pub struct LogWriter {
    folder: PathBuf,
    connection: Connection,
    // Held as long as it lives.
    _lock: Locked,
    /// Of the next event.
    next: Place,
    totals: Totals,
    committed: Totals,
    block: OpenBlock,
    record: Vec<u8>,
    in_transaction: bool,
}

/// A file whose lock is let go of at its end.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing would do, but a process that is being started at this moment holds a copy of the descriptor.
        let _ = self.0.unlock();
    }
}

/// Of all blocks so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    last: Option<Place>,
    events: u64,
    bytes: u64,
    largest: u64,
}

/// The block that is being filled.
#[derive(Debug, Default)]
struct OpenBlock {
    first: Option<Place>,
    last: Place,
    time_max: Option<i64>,
    events: u64,
    body: Vec<u8>,
}

impl LogWriter {
    /// Opens the log in `folder` to be appended to, or makes it.
    ///
    /// # Errors
    /// [`Failure`]: another writer has it ([`Party::Usage`]), it is of another format, or the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(
                Party::Sink,
                format!("cannot make the log {}: {error}", folder.display()),
            )
            .because(error)
        };
        match fs::create_dir(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let mut options = File::options();
        let lock = options.create(true).append(true);
        let lock = lock.open(folder.join("writer.lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    Party::Usage,
                    format!(
                        "another program appends to the log {}: wait until it has ended, or choose another log",
                        folder.display()
                    ),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let connection = schema::create(folder)?;
        let sql = format!("SELECT {BLOCK_COLUMNS} FROM blocks ORDER BY first DESC LIMIT 1");
        let last = connection
            .query_row(&sql, [], Block::of)
            .optional()
            .map_err(schema::failed(folder, "read"))?;
        let totals = last.map_or_else(Totals::default, |block| Totals {
            last: Some(Place::sequence(block.last as u64)),
            events: block.events_to,
            bytes: block.bytes_to,
            largest: block.largest,
        });
        Ok(Self {
            folder: folder.to_owned(),
            connection,
            _lock: Locked(lock),
            next: totals.last.map_or(Place::sequence(1), Place::next),
            totals,
            committed: totals,
            block: OpenBlock::default(),
            record: Vec::new(),
            in_transaction: false,
        })
    }

    /// Appends an event with the next sequence, and returns it; `None` if the event is too large for any stream, and
    /// nothing was appended.
    ///
    /// # Errors
    /// [`Failure`]; everything since the last commit is taken back.
    pub fn push(&mut self, event: &Event) -> Result<Option<Place>, Failure> {
        let place = self.next;
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        let encoded = event.encode(place, Numbering::Sequence, &mut record);
        let pushed = match encoded {
            Ok(()) => self
                .push_record(place, event.time, &record)
                .map(|()| Some(place)),
            Err(_) => Ok(None),
        };
        self.record = record;
        pushed
    }

    /// Appends an event that is encoded elsewhere, with the next sequence and one more header.
    ///
    /// # Errors
    /// As for [`LogWriter::push`].
    ///
    /// # Panics
    /// If it is too large then.
    pub(super) fn push_with(
        &mut self,
        event: &EventRef<'_>,
        header: (&[u8], &[u8]),
    ) -> Result<(), Failure> {
        let place = self.next;
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        let (time, headers) = (event.time(), event.headers());
        let encoded = encode(
            place,
            Numbering::Sequence,
            time,
            event.key(),
            headers.chain([(header.0, Some(header.1))]),
            event.payload(),
            &mut record,
        );
        assert_eq!(encoded, Ok(()), "an event was refused, and appended");
        let pushed = self.push_record(place, time, &record);
        self.record = record;
        pushed
    }

    /// Appends an encoded event that says itself where it is: behind all others.
    ///
    /// # Errors
    /// [`Failure`], as for [`LogWriter::push`]; also if `place` is not behind the last event, or too large.
    pub(super) fn push_record(
        &mut self,
        place: Place,
        time: Option<i64>,
        record: &[u8],
    ) -> Result<(), Failure> {
        if place < self.next || place > schema::PLACE_MAX {
            return Err(Failure::new(
                Party::Sink,
                format!(
                    "the log {} cannot take an event at {place}: its next one is {}, and {} the last that it can have",
                    self.folder.display(),
                    self.next,
                    schema::PLACE_MAX
                ),
            ));
        }
        if !self.block.body.is_empty() && self.block.body.len() + record.len() > BLOCK_BYTES {
            self.end_block()?;
        }
        let block = &mut self.block;
        block.first.get_or_insert(place);
        block.last = place;
        block.time_max = block.time_max.max(time);
        block.events += 1;
        block.body.extend_from_slice(record);
        self.next = place.next();
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), Failure> {
        let Some(first) = self.block.first else {
            return Ok(());
        };
        let ended = self.write_block(first);
        if ended.is_err() {
            self.take_back();
        }
        ended.map_err(schema::failed(&self.folder, "write to"))
    }

    fn write_block(&mut self, first: Place) -> rusqlite::Result<()> {
        if !self.in_transaction {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            self.in_transaction = true;
        }
        let (block, totals) = (&mut self.block, &mut self.totals);
        let bytes = block.body.len() as u64;
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO blocks (first, last, time_max, events_before, bytes_before, largest_before, events, bytes, sum, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        insert.execute(params![
            first.number() as i64,
            block.last.number() as i64,
            block.time_max,
            totals.events as i64,
            totals.bytes as i64,
            totals.largest as i64,
            block.events as i64,
            bytes as i64,
            block_sum(&block.body),
            block.body,
        ])?;
        *totals = Totals {
            last: Some(block.last),
            events: totals.events + block.events,
            bytes: totals.bytes + bytes,
            largest: totals.largest.max(bytes),
        };
        block.body.clear();
        // A large event is not kept for ever.
        block.body.shrink_to(2 * BLOCK_BYTES);
        (block.first, block.time_max, block.events) = (None, None, 0);
        Ok(())
    }

    /// Makes all that was appended durable: it is on the disk when this returns.
    ///
    /// # Errors
    /// [`Failure`]; everything since the last commit is taken back.
    pub fn commit(&mut self) -> Result<(), Failure> {
        self.end_block()?;
        if !self.in_transaction {
            return Ok(());
        }
        if let Err(error) = self.connection.execute_batch("COMMIT") {
            self.take_back();
            return Err(schema::failed(&self.folder, "write to")(error));
        }
        self.in_transaction = false;
        self.committed = self.totals;
        Ok(())
    }

    fn take_back(&mut self) {
        // What failed may have ended the transaction itself.
        let _ = self.connection.execute_batch("ROLLBACK");
        self.in_transaction = false;
        self.totals = self.committed;
        self.block = OpenBlock::default();
        self.next = self.totals.last.map_or(Place::sequence(1), Place::next);
    }

    /// The last committed event, encoded; `None` if there is none.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be read, or is damaged.
    pub(super) fn last_record(&self) -> Result<Option<Vec<u8>>, Failure> {
        let found: Option<(Vec<u8>, Vec<u8>)> = self
            .connection
            .query_row(
                "SELECT sum, body FROM blocks ORDER BY first DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(schema::failed(&self.folder, "read"))?;
        let Some((sum, body)) = found else {
            return Ok(None);
        };
        if sum != block_sum(&body) {
            return Err(self.damaged("its last block does not have the checksum it should have"));
        }
        let mut at = 0;
        loop {
            let length: Option<&[u8; LENGTH_BYTES]> = body[at..].first_chunk();
            let length = length.ok_or_else(|| self.damaged("its last block has no event"))?;
            let bytes = record_bytes(*length).map_err(|why| self.damaged(&why))?;
            if at + bytes >= body.len() {
                return Ok(Some(body[at..].to_vec()));
            }
            at += bytes;
        }
    }

    pub(super) fn damaged(&self, what: &str) -> Failure {
        Failure::new(
            Party::Sink,
            format!(
                "the log {} is damaged: {what}; restore it from a dump",
                self.folder.display()
            ),
        )
    }
}
