//! A stream as a sink: one writer, exactly once, in order.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Cause, Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink,
    Stop,
};

use crate::content::{no_event, read_record};
use crate::event::{EVENT_BYTES_MAX, Event, EventRef};
use crate::pace::{Pace, Speed};
use crate::place::{Numbering, Place};

/// Events at most between two commits.
const EVENTS_OF_A_COMMIT: u64 = 50_000;
/// Bytes at most between two commits.
const BYTES_OF_A_COMMIT: u64 = 16 << 20;

/// The last event of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// Where it was in the stream that it came from, as the target tells.
    pub origin: (Place, Numbering),
    /// What it is, without what the target added.
    pub event: Event,
    /// Only its first pieces are there. It is appended as one that is not, and the target goes on behind them.
    pub is_begun: bool,
}

/// What a dump tells of the stream that it was made of.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// What DONE says of the source, for a target that can say the same of itself; null if nothing is known.
    pub said: Value,
    /// The position that the dump was asked to begin at, if it was asked for one.
    pub from: Option<Place>,
}

impl Origin {
    /// `id` is what names the source of the dump, `said` what DONE says of it.
    pub fn new(id: &Value, said: Value) -> Self {
        let from = id["range"]["from"].as_str();
        Self {
            said,
            // A time names no position.
            from: from.and_then(|text| text.parse().ok()),
        }
    }
}

/// How events are written to a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamSinkOptions {
    /// As far apart as they were, times this. Default: as fast as it goes.
    pub speed: Option<Speed>,
    /// An event that is too large for one message of NATS is written as several, with headers that tell. Default: it is
    /// a loss.
    pub split: bool,
}

/// A stream that is appended to.
pub trait Target: Send + Sync {
    /// The kind of system, such as `log`.
    fn kind(&self) -> &'static str;

    /// What names this one. Never a secret.
    fn id(&self) -> Value;

    /// How people name it, for messages. Never a secret.
    fn url(&self) -> String;

    /// Memory that a writer holds at most, in bytes, outside of events.
    fn writer_bytes(&self) -> u64;

    /// Memory that a writer holds at most beside, in bytes, for events of up to `event_bytes_max`; the event that it is
    /// given is not of it.
    fn event_bytes(&self, event_bytes_max: u64) -> u64;

    /// Reaches the system.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be reached or written.
    fn check(&self) -> Result<(), Failure>;

    /// Becomes the only writer. `gate` tells it when the job is cancelled.
    ///
    /// # Errors
    /// As for [`Target::check`]; [`Party::Usage`] if another one writes.
    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn Appender + 'a>, Failure>;

    /// Takes what the source of a copy says of itself at the end, for [`Target::finish`].
    fn told(&self, said: &Value) {
        let _ = said;
    }

    /// Makes the stream say of itself what the source said, when all events are there. What it returns goes into the
    /// report.
    ///
    /// # Errors
    /// As for [`Target::check`].
    fn finish(&self) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// The only writer of a target.
pub trait Appender: Send {
    /// The last event that is there; `None` if there is none.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be read, or does not tell where it came from: then this is not a stream that only
    /// imports write to.
    fn tail(&mut self) -> Result<Option<Tail>, Failure>;

    /// The last event once more, taken as one of the target's own kind, where [`Appender::tail`] took it for one of
    /// another kind of stream, and it may be a copy.
    ///
    /// # Errors
    /// As for [`Appender::tail`].
    fn verbatim_tail(&mut self) -> Result<Option<Tail>, Failure> {
        Ok(None)
    }

    /// Why the target would not take an event, by what is in it; the same answer each time.
    fn refuses(&self, event: &EventRef<'_>) -> Option<&'static Cause>;

    /// Appends an event that it does not refuse. It is not durable before [`Appender::commit`].
    ///
    /// # Errors
    /// [`Stop`]: nothing is known of the events since the last commit.
    fn append(&mut self, event: &EventRef<'_>) -> Result<(), Stop>;

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// [`Stop`], as for [`Appender::append`].
    fn commit(&mut self) -> Result<(), Stop>;
}

/// A stream that a dump is loaded into: reserved for it, with one writer.
///
/// Exactly once: how far a load got is read from the last event of the stream itself. Its events up to there are
/// skipped, and the one in that place must be the same as the last event; so a stream that holds something else is
/// refused. A dump that was asked to begin at the position right after that event goes on with it.
pub struct StreamSink<T> {
    target: T,
    from: Option<Place>,
    speed: Option<Speed>,
    state: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Of the stream, until it was found in the dump.
    tail: Option<Tail>,
    tail_known: bool,
    skipped: u64,
    appended: u64,
}

impl<T: Target> StreamSink<T> {
    /// `target` as a sink. Nothing is asked of the system yet.
    pub fn new(target: T) -> Self {
        Self {
            target,
            from: None,
            speed: None,
            state: Mutex::default(),
        }
    }

    /// The same for a dump that was asked to begin at `from`, if it was.
    pub fn beginning_at(self, from: Option<Place>) -> Self {
        Self { from, ..self }
    }

    /// The same with events as far apart as they were, times a factor. Default: as fast as it goes.
    pub fn paced(self, speed: Option<Speed>) -> Self {
        Self { speed, ..self }
    }

    fn foreign(&self, tail: &Tail, what: &str) -> Stop {
        let (place, numbering) = tail.origin;
        Failure::new(
            Party::Sink,
            format!(
                "{} ends with event {} of a stream, and {what}: load into an empty stream, which nobody else writes to",
                self.target.url(),
                place.text(numbering)
            ),
        )
        .into()
    }

    /// Whether an earlier load appended this event.
    fn is_there(&self, appender: &mut dyn Appender, event: &EventRef<'_>) -> Result<bool, Stop> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_doubtful = state.tail.as_ref().is_some_and(|tail| {
            let is_here =
                tail.origin.0 == event.place() && !tail.is_begun && !event.is(&tail.event);
            is_here || tail.origin.1 != event.numbering()
        });
        if is_doubtful && let Some(tail) = appender.verbatim_tail()? {
            state.tail = Some(tail);
        }
        let Some(tail) = &state.tail else {
            return Ok(false);
        };
        let (place, numbering) = tail.origin;
        if numbering != event.numbering() {
            return Err(self.foreign(tail, "the dump numbers its events otherwise"));
        }
        match event.place().cmp(&place) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal if tail.is_begun => {
                state.tail = None;
                return Ok(false);
            }
            std::cmp::Ordering::Equal if event.is(&tail.event) => state.tail = None,
            std::cmp::Ordering::Equal => {
                return Err(self.foreign(tail, "that event of the dump is another one"));
            }
            std::cmp::Ordering::Greater => {
                return Err(self.foreign(tail, "the dump has no such event"));
            }
        }
        state.skipped += 1;
        Ok(true)
    }
}

impl<T: Target> Sink for StreamSink<T> {
    fn identity(&self) -> Identity {
        Identity {
            kind: self.target.kind().to_owned(),
            id: json!({ "stream": self.target.id() }),
        }
    }

    fn accepts(&self, content: &str, version: u16) -> bool {
        content == crate::NAME && version == crate::VERSION
    }

    fn ordered(&self) -> bool {
        true
    }

    fn resume(&self) -> Resume {
        Resume::PositionReadable
    }

    fn writer_bytes(&self) -> u64 {
        self.target.writer_bytes()
    }

    fn record_bytes(&self, record_bytes_max: u64) -> u64 {
        let largest = record_bytes_max.min(EVENT_BYTES_MAX as u64);
        // The event that is at hand, and until it was found in the dump the last one of the stream.
        2 * largest + self.target.event_bytes(largest)
    }

    fn check(&self) -> Result<(), Stop> {
        Ok(self.target.check()?)
    }

    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        let mut appender = self.target.open(gate)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.tail_known {
            let tail = appender.tail()?;
            // Right before all that the dump may have: nothing of it is there.
            state.tail =
                tail.filter(|tail| tail.is_begun || Some(tail.origin.0.next()) != self.from);
            state.tail_known = true;
        }
        drop(state);
        Ok(Box::new(Writer {
            sink: self,
            gate,
            appender,
            record: Vec::new(),
            pace: self.speed.map(Pace::new),
            uncommitted: 0,
        }))
    }

    fn told(&self, said: &Value) {
        self.target.told(said);
    }

    fn finish(&self, _outcomes: &Outcomes) -> Result<Value, Stop> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tail) = &state.tail {
            return Err(self.foreign(tail, "the dump has no such event"));
        }
        let mut said = json!({ "appended": state.appended, "there_before": state.skipped });
        let mut target = self.target.finish()?;
        if let Some(remarks) = target.get_mut("remarks") {
            // For people, who see only what is not nested.
            said["remarks"] = remarks.take();
        }
        if !target.is_null() {
            said["target"] = target;
        }
        Ok(said)
    }
}

struct Writer<'a, T> {
    sink: &'a StreamSink<T>,
    gate: &'a Gate,
    appender: Box<dyn Appender + 'a>,
    record: Vec<u8>,
    pace: Option<Pace>,
    /// Events since the last commit.
    uncommitted: u64,
}

impl<T: Target> PartWriter for Writer<'_, T> {
    fn write_part(
        &mut self,
        _part: &PartName,
        records: &mut RecordReader<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut bytes = 0;
        while read_record(records, &mut self.record)? {
            let mut event = EventRef::parse(&self.record).map_err(|why| no_event(records, &why))?;
            // Asked of those, too, that an earlier load has passed: the report is the same.
            if let Some(cause) = self.appender.refuses(&event) {
                outcomes.count(cause);
            } else if !self.sink.is_there(self.appender.as_mut(), &event)? {
                let time = event.time();
                let pace = self.pace.as_mut();
                if let Some(wait) = pace.and_then(|pace| pace.wait(time, Instant::now())) {
                    // What came before is not kept waiting, too.
                    self.commit()?;
                    self.gate.wait(wait)?;
                    self.gate.pass(0, 0)?;
                    event = EventRef::parse(&self.record).map_err(|why| no_event(records, &why))?;
                }
                self.appender.append(&event)?;
                self.uncommitted += 1;
                bytes += event.bytes().len() as u64;
            }
            records.end_record();
            if self.uncommitted == EVENTS_OF_A_COMMIT || bytes >= BYTES_OF_A_COMMIT {
                self.commit()?;
                bytes = 0;
            }
        }
        self.commit()
    }
}

impl<T: Target> Writer<'_, T> {
    fn commit(&mut self) -> Result<(), Stop> {
        self.appender.commit()?;
        let state = self.sink.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).appended += self.uncommitted;
        self.uncommitted = 0;
        Ok(())
    }
}
