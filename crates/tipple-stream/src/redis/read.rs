//! Reading ranges of a stream.

use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Outcomes, Party, RecordWriter, Stop};

use super::connection::{Connection, Talk, Trouble};
use super::info::{self, Info};
use super::retry::Retry;
use super::{Redis, time_of};
use crate::event::{encode_begin, header_lengths};
use crate::place::{Numbering, Place};
use crate::source::{RangeReader, Span};

/// Bytes that one answer should have, about: the server holds it whole, and what is read after a pause is old.
const ANSWER_BYTES: u64 = 1 << 20;
/// Events that are asked for at first, and at most.
const EVENTS_FIRST: u64 = 32;
const EVENTS_MAX: u64 = 10_000;
/// An event of more bytes is read once to learn its size, and once more straight into the buffers.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Fields that an event of the content can have.
const FIELDS_MAX: usize = u16::MAX as usize;

/// What a reader holds: an event and its encoding, the sizes of its fields, the input, an answer of XINFO.
pub(super) const READER_BYTES: u64 =
    2 * HELD_BYTES_MAX as u64 + (32 * FIELDS_MAX) as u64 + (128 << 10) + Talk::ANSWER_BYTES_MAX;

static TRIMMED: Cause = Cause::loss("trimmed before they were read");
static DELETED: Cause = Cause::outcome("deleted");
static TOO_LARGE: Cause = Cause::loss("too large");

/// Reads ranges by XRANGE, in answers whose size is kept near [`ANSWER_BYTES`] by what the last events had.
pub(super) struct RedisReader<'a> {
    stream: &'a Redis,
    connection: Option<Connection>,
    events: u64,
    event: Entry,
    record: Vec<u8>,
}

/// How far a range was read.
struct Reading {
    /// The next event is here or later.
    at: Place,
    first_is_there: bool,
    too_large: u64,
}

/// An event as it comes.
#[derive(Default)]
struct Entry {
    place: Place,
    /// Of names and values.
    lengths: Vec<(u64, u64)>,
    /// Names and values, if they are [`HELD_BYTES_MAX`] at most.
    bytes: Vec<u8>,
    is_held: bool,
    has_too_many_fields: bool,
}

/// What an answer came to.
enum Answered {
    /// These events, and there may be more.
    Some,
    /// The range is at its end.
    All,
    /// An event that was not held; what came after it was not used.
    Large,
}

impl<'a> RedisReader<'a> {
    pub fn new(stream: &'a Redis, connection: Option<Connection>) -> Self {
        Self {
            stream,
            connection,
            events: EVENTS_FIRST,
            event: Entry::default(),
            record: Vec::new(),
        }
    }

    /// The connection, a new one if the last one was lost.
    fn connection(&mut self, gate: &Gate) -> Result<&mut Connection, Trouble> {
        if self.connection.is_none() {
            self.connection = Some(self.stream.connect(Some(gate))?);
        }
        Ok(self.connection.as_mut().expect("just made"))
    }

    /// Decides what follows from `trouble`: waits for another try, or fails.
    fn again(
        &mut self,
        trouble: Trouble,
        retry: &mut Retry,
        gate: &Gate,
        at: Place,
    ) -> Result<(), Stop> {
        self.connection = None;
        if trouble.may_pass() && retry.wait(Some(gate))? {
            return Ok(());
        }
        let doing = format!("read from {} on", at.text(Numbering::TimeAndNumber));
        Err(self.stream.failed(Party::Source, &doing, trouble))
    }

    /// Asks for the events from `reading.at` on, and writes them.
    fn batch(
        &mut self,
        span: Span,
        reading: &mut Reading,
        out: &mut RecordWriter<'_>,
    ) -> Result<Answered, Interrupted> {
        let gate = out.gate();
        let count = self.events;
        let key = self.stream.key();
        self.connection(gate)?;
        let connection = self.connection.as_mut().expect("just made");
        let mut talk = connection.talk(Some(gate));
        let last = last_of(span);
        let (from, to) = (info::text(reading.at), info::text(last));
        let count_text = count.to_string();
        talk.send(&[b"XRANGE", key, &from, &to, b"COUNT", count_text.as_bytes()])?;
        let events = talk.list()?;
        if events > count {
            return Err(
                Trouble::Protocol(format!("{events} events where {count} were asked for")).into(),
            );
        }
        let mut bytes = 0;
        let mut is_large = false;
        for n in 0..events {
            if is_large {
                talk.skip()?;
                continue;
            }
            self.event.read(&mut talk)?;
            if self.event.place < reading.at || self.event.place > last {
                let why = format!("an event at {} that was not asked for", self.event.place);
                return Err(Trouble::Protocol(why).into());
            }
            bytes += self.event.size();
            // Not before the rest of the answer is gone: its second reading is a command of its own.
            is_large = !self.event.is_held;
            if is_large {
                self.events = 1;
            } else {
                reading.first_is_there |= self.event.place == span.from;
                self.event.write(&mut self.record, out, reading)?;
                reading.at = self.event.place.next();
                self.events = (ANSWER_BYTES * (n + 1) / bytes.max(1)).clamp(1, EVENTS_MAX);
            }
        }
        self.events = self.events.min(4 * count);
        Ok(match (is_large, events < count) {
            (true, _) => Answered::Large,
            (false, true) => Answered::All,
            (false, false) => Answered::Some,
        })
    }

    /// Reads the event of which only the sizes are known once more, and writes it; `false` if it is gone by now, and
    /// what was written of the part is void. A connection that is lost meanwhile is made again, and the event goes on
    /// where it was.
    fn large(&mut self, reading: &mut Reading, out: &mut RecordWriter<'_>) -> Result<bool, Stop> {
        let place = self.event.place;
        let lengths = std::mem::take(&mut self.event.lengths);
        let begin = match self.event.has_too_many_fields {
            true => None,
            false => encode_begin(place, Numbering::TimeAndNumber, time_of(place), &lengths),
        };
        let Some((fixed, size)) = begin else {
            reading.too_large += 1;
            return Ok(true);
        };
        out.begin(size as u64, place.position(Numbering::TimeAndNumber))?;
        out.append(&fixed)?;
        let mut written = 0;
        let mut retry = self.stream.retry();
        loop {
            let before = written;
            match self.pour(&lengths, &mut written, out) {
                Ok(true) => break,
                Ok(false) => {
                    out.restart()?;
                    return Ok(false);
                }
                Err(Interrupted::Stopped(stop)) => return Err(stop),
                Err(Interrupted::Trouble(trouble)) => {
                    if written > before {
                        retry = self.stream.retry();
                    }
                    let gate = out.gate();
                    self.again(trouble, &mut retry, gate, place)?;
                }
            }
        }
        out.end();
        Ok(true)
    }

    /// Writes what follows the `written` bytes of the fields that were written before; `false` if the event is gone.
    fn pour(
        &mut self,
        lengths: &[(u64, u64)],
        written: &mut u64,
        out: &mut RecordWriter<'_>,
    ) -> Result<bool, Interrupted> {
        let gate = out.gate();
        let id = info::text(self.event.place);
        let key = self.stream.key();
        self.connection(gate)?;
        let connection = self.connection.as_mut().expect("just made");
        let mut talk = connection.talk(Some(gate));
        talk.send(&[b"XRANGE", key, &id, &id, b"COUNT", b"1"])?;
        if talk.list()? == 0 {
            return Ok(false);
        }
        let changed = || Trouble::Protocol("an event that changed".into());
        talk.list()?;
        let place = info::next_id(&mut talk)?;
        if place != self.event.place || talk.list()? != 2 * lengths.len() as u64 {
            return Err(changed().into());
        }
        let mut passed = 0;
        let mut put = |piece: &[u8]| {
            let skip = written.saturating_sub(passed).min(piece.len() as u64);
            passed += piece.len() as u64;
            out.append(&piece[skip as usize..])?;
            *written += piece.len() as u64 - skip;
            Ok::<_, Interrupted>(())
        };
        for &(name, value) in lengths {
            // Within the limit of an event, so within 32 bits.
            put(&header_lengths(name as u32, value as u32))?;
            for length in [name, value] {
                if talk.string()? != length {
                    return Err(changed().into());
                }
                talk.bytes(length, &mut put)?;
            }
        }
        Ok(true)
    }

    /// Counts what is known to have been there and is gone: the first event of the range, which was there when the
    /// plan was made. How many there were behind it nobody can tell.
    fn count_gone(
        &mut self,
        span: Span,
        reading: &Reading,
        gate: &Gate,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut retry = self.stream.retry();
        let key = self.stream.key();
        let info = loop {
            let found = self
                .connection(gate)
                .and_then(|connection| Info::read(&mut connection.talk(Some(gate)), key));
            match found {
                Ok(info) => break info,
                Err(trouble) => self.again(trouble, &mut retry, gate, span.to)?,
            }
        };
        // An empty answer is also what a key that is gone gives.
        let info = info.ok_or_else(|| self.stream.no_such_key(Party::Source))?;
        if !reading.first_is_there {
            let is_trimmed =
                info.first.is_none_or(|first| first > span.from) && info.max_deleted < span.from;
            outcomes.count(if is_trimmed { &TRIMMED } else { &DELETED });
        }
        outcomes.add(&TOO_LARGE, reading.too_large);
        Ok(())
    }
}

impl RangeReader for RedisReader<'_> {
    fn read(
        &mut self,
        span: Span,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let begin = || Reading {
            at: span.from,
            first_is_there: false,
            too_large: 0,
        };
        let gate = out.gate();
        let mut reading = begin();
        let mut retry = self.stream.retry();
        while reading.at < span.to {
            gate.check()?;
            let before = reading.at;
            match self.batch(span, &mut reading, out) {
                Ok(Answered::All) => break,
                Ok(Answered::Some) => {}
                Ok(Answered::Large) => {
                    let place = self.event.place;
                    if self.large(&mut reading, out)? {
                        reading.first_is_there |= place == span.from;
                        reading.at = place.next();
                    } else {
                        reading = begin();
                    }
                }
                Err(Interrupted::Stopped(stop)) => return Err(stop),
                Err(Interrupted::Trouble(trouble)) => {
                    if reading.at > before {
                        retry = self.stream.retry();
                    }
                    self.again(trouble, &mut retry, gate, reading.at)?;
                    continue;
                }
            }
            retry = self.stream.retry();
        }
        self.count_gone(span, &reading, gate, outcomes)
    }
}

/// The last place in a range. Behind the last of all ids there is none, so a range that ends there has it, too.
fn last_of(span: Span) -> Place {
    match span.to.number() {
        u128::MAX => span.to,
        to => Place::from_number(to - 1),
    }
}

/// Why a batch ended before its end.
enum Interrupted {
    Trouble(Trouble),
    Stopped(Stop),
}

impl From<Trouble> for Interrupted {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Stop> for Interrupted {
    fn from(stop: Stop) -> Self {
        Self::Stopped(stop)
    }
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self::Stopped(failure.into())
    }
}

impl Entry {
    fn read(&mut self, talk: &mut Talk<'_>) -> Result<(), Trouble> {
        self.lengths.clear();
        self.bytes.clear();
        self.bytes.shrink_to(HELD_BYTES_MAX / 4);
        self.is_held = true;
        self.has_too_many_fields = false;
        if talk.list()? != 2 {
            return Err(Trouble::Protocol("an event without id or fields".into()));
        }
        self.place = info::next_id(talk)?;
        let strings = talk.list()?;
        for _ in 0..strings / 2 {
            let name = self.string(talk)?;
            let value = self.string(talk)?;
            if self.lengths.len() == FIELDS_MAX {
                (self.has_too_many_fields, self.is_held) = (true, false);
            } else {
                self.lengths.push((name, value));
            }
        }
        Ok(())
    }

    /// Passes over a string, and keeps it as long as the event is held.
    fn string(&mut self, talk: &mut Talk<'_>) -> Result<u64, Trouble> {
        let bytes = talk.string()?;
        self.is_held &= self.bytes.len() as u64 + bytes <= HELD_BYTES_MAX as u64;
        talk.bytes(bytes, |piece| {
            if self.is_held {
                self.bytes.extend_from_slice(piece);
            }
            Ok::<_, Trouble>(())
        })?;
        Ok(bytes)
    }

    fn size(&self) -> u64 {
        let sizes = self.lengths.iter().map(|(name, value)| name + value + 16);
        sizes.sum::<u64>() + 32
    }

    fn write(
        &self,
        record: &mut Vec<u8>,
        out: &mut RecordWriter<'_>,
        reading: &mut Reading,
    ) -> Result<(), Stop> {
        let numbering = Numbering::TimeAndNumber;
        let Some((fixed, _)) =
            encode_begin(self.place, numbering, time_of(self.place), &self.lengths)
        else {
            reading.too_large += 1;
            return Ok(());
        };
        record.clear();
        record.shrink_to(HELD_BYTES_MAX / 4);
        record.extend_from_slice(&fixed);
        let mut at = 0;
        for &(name, value) in &self.lengths {
            record.extend_from_slice(&header_lengths(name as u32, value as u32));
            let end = at + (name + value) as usize;
            record.extend_from_slice(&self.bytes[at..end]);
            at = end;
        }
        out.record(&[record], self.place.position(numbering))
    }
}
