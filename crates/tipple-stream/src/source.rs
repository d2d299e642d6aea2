//! A stream as a source: ranges as parts.

use std::io::Read;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::{Gate, GateState};
use tipple_flow::{
    Estimate, Failure, Identity, NewPart, Outcomes, Part, PartReader, Party, PlanBody, Planned,
    Planner, RecordWriter, Source, Stop,
};

use crate::options::{Bound, StreamOptions};
use crate::place::{Numbering, Place};

/// What a stream holds at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Extent {
    /// What tells this stream from another of the same name. Never a secret.
    pub life: Value,
    /// The first event that is there, or `end`.
    pub first: Place,
    /// Right after the last event.
    pub end: Place,
    /// Events, about.
    pub events: u64,
    /// Bytes of them, about.
    pub bytes: u64,
}

/// A range of a stream, as its plan object has it. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first place in it.
    pub from: Place,
    /// Right after the last place in it.
    pub to: Place,
}

/// A stream of events that is read by ranges, by several readers at once.
pub trait Stream: Send + Sync {
    /// The kind of system, such as `log`.
    fn kind(&self) -> &'static str;

    /// What names this one. Never a secret.
    fn id(&self) -> Value;

    /// How people name it, for messages. Never a secret.
    fn url(&self) -> String;

    /// How it numbers.
    fn numbering(&self) -> Numbering;

    /// Reaches the system, and looks what it holds.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be reached, has no such stream, or does not give it.
    fn look(&self) -> Result<Extent, Failure>;

    /// The same in the midst of work, where a system that is away is waited for.
    ///
    /// # Errors
    /// [`Stop`], as for [`Stream::look`], or the job was cancelled.
    fn look_again(&self, gate: &Gate) -> Result<Extent, Stop> {
        let _ = gate;
        Ok(self.look()?)
    }

    /// The place of the first event at `time` (nanoseconds since 1970) or later; the end if there is none.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn place_at(&self, time: i64) -> Result<Place, Failure>;

    /// The place of the first event that is there at `place` or behind it, if telling costs little: so that each range of
    /// a plan begins with an event that is known to have been there. Otherwise `place` itself; `None` if there is no
    /// event.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn first_from(&self, place: Place) -> Result<Option<Place>, Failure> {
        Ok(Some(place))
    }

    /// Where the younger half of what its limits let it hold begins, about; `None` if it has no limits that it tells of. What
    /// is before that is forgotten next.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn younger_half(&self, extent: &Extent) -> Result<Option<Place>, Failure> {
        let _ = extent;
        Ok(None)
    }

    /// Whether a stream that was `before` ([`Extent::life`]) can be `now`, later.
    fn goes_on(&self, before: &Value, now: &Value) -> bool {
        before == now
    }

    /// What DONE says of the stream that was planned: for people, and for a target that makes the like of it. `records`
    /// is how many were dumped, if that was all of it.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn said(&self, life: &Value, records: Option<u64>) -> Result<Value, Failure> {
        let _ = (life, records);
        Ok(Value::Null)
    }

    /// Memory that one reader holds at most, in bytes.
    fn reader_bytes(&self) -> u64;

    /// The most bytes of one encoded event, for who holds whole ones: what the system can have, or what there is to be
    /// memory for.
    fn event_bytes_max(&self) -> u64;

    /// Opens a reader.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn open(&self) -> Result<Box<dyn RangeReader + '_>, Failure>;
}

/// Reads ranges for one worker.
pub trait RangeReader {
    /// Writes all events of `span` to `out`, in their order. Counts in `outcomes` those that are known to have been
    /// there and are gone.
    ///
    /// # Errors
    /// [`Stop`]; what was written of the range is void then.
    fn read(
        &mut self,
        span: Span,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop>;
}

/// A snapshot of a stream: from its first event, or the one asked for, to the end that it had when the dump was planned.
/// Events that come later are not waited for.
#[derive(Debug)]
pub struct StreamSource<S> {
    stream: S,
    options: StreamOptions,
}

impl<S: Stream> StreamSource<S> {
    /// `stream` as a source. Nothing is asked of the system yet.
    ///
    /// # Errors
    /// [`Failure`]: an option out of range.
    pub fn new(stream: S, options: StreamOptions) -> Result<Self, Failure> {
        options.validate()?;
        Ok(Self { stream, options })
    }

    fn made_anew(&self) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "the stream {} was made anew since the dump began: dump it into another place",
                self.stream.url()
            ),
        )
    }
}

/// Bytes and events of `span`, about.
fn share(extent: &Extent, span: Span) -> (u64, u64) {
    let of = |span: Span| span.to.number() - span.from.number();
    let all = of(Span {
        from: extent.first,
        to: extent.end,
    });
    let share = of(span) as f64 / all.max(1) as f64;
    let part = |all: u64| (all as f64 * share).ceil() as u64;
    (part(extent.bytes), part(extent.events))
}

/// Parts that a range has at most, however large the system says that it is.
const PARTS_MAX: u64 = 100_000;

/// How many parts a range has.
fn parts_of(bytes: u64, part_bytes: u64, span: Span) -> u128 {
    let places = span.to.number() - span.from.number();
    u128::from(bytes.div_ceil(part_bytes).clamp(1, PARTS_MAX)).min(places)
}

/// Ranges on their way to the planner.
struct Parts<'a> {
    stream: &'a dyn Stream,
    options: &'a StreamOptions,
    planner: &'a mut dyn Planner,
    gate: &'a Gate,
}

impl Parts<'_> {
    /// Cuts `span` into parts.
    fn add(&mut self, extent: &Extent, span: Span) -> Result<(), Stop> {
        let (bytes, _) = share(extent, span);
        let parts = parts_of(bytes, self.options.part_bytes, span);
        let mut begin = match parts {
            0 => span.to,
            _ => self.stream.first_from(span.from)?.unwrap_or(span.to),
        };
        for left in (1..=parts).rev() {
            self.gate.check()?;
            if begin >= span.to {
                break;
            }
            // An equal share of what is left, so that places without events behind each other make no empty parts.
            let share = (span.to.number() - begin.number()) / left;
            let end = match left {
                1 => span.to,
                _ => {
                    let bound = Place::from_number(begin.number() + share.max(1));
                    // Where the next event is: the next part begins with one.
                    let next = self.stream.first_from(bound)?;
                    next.map_or(span.to, |next| next.min(span.to))
                }
            };
            let span = Span {
                from: begin,
                to: end,
            };
            self.planner.add(NewPart {
                body: PlanBody::Bytes(span.to_json(self.stream.numbering(), &extent.life)),
                extension: "json",
                records: None,
                bytes_estimate: bytes / parts as u64,
            })?;
            begin = end;
        }
        Ok(())
    }
}

/// As a plan object has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpanText {
    from: String,
    to: String,
    /// Of the stream.
    life: Value,
}

impl Span {
    /// More than any span takes as JSON.
    const JSON_BYTES_MAX: u64 = 64 << 10;

    fn to_json(self, numbering: Numbering, life: &Value) -> Vec<u8> {
        let text = SpanText {
            from: self.from.text(numbering),
            to: self.to.text(numbering),
            life: life.clone(),
        };
        serde_json::to_vec(&text).expect("strings into memory")
    }

    /// The range, and the life of the stream that it is of.
    fn parse(json: &[u8]) -> Result<(Self, Value), String> {
        let text: SpanText = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let span = Self {
            from: text.from.parse()?,
            to: text.to.parse()?,
        };
        match span.from < span.to {
            true => Ok((span, text.life)),
            false => Err(format!("it ends at {} before it begins", text.to)),
        }
    }

    fn read(part: &dyn Part) -> Result<Self, Stop> {
        let refuse = |why: String| {
            Failure::new(
                Party::Source,
                format!(
                    "the plan of part {} is no range of a stream: {why}; dump into an empty place",
                    part.name()
                ),
            )
        };
        let mut json = Vec::new();
        part.open()?
            .take(Self::JSON_BYTES_MAX)
            .read_to_end(&mut json)
            .map_err(|error| refuse("it cannot be read".into()).because(error))?;
        let (span, _) = Self::parse(&json).map_err(refuse)?;
        Ok(span)
    }
}

impl<S: Stream> Source for StreamSource<S> {
    fn identity(&self) -> Identity {
        Identity {
            kind: self.stream.kind().to_owned(),
            id: json!({ "stream": self.stream.id(), "range": self.options.shape() }),
        }
    }

    fn content(&self) -> (&'static str, u16) {
        (crate::NAME, crate::VERSION)
    }

    fn reader_bytes(&self) -> u64 {
        self.stream.reader_bytes()
    }

    fn record_bytes_max(&self) -> u64 {
        self.stream.event_bytes_max()
    }

    fn check(&self) -> Result<Estimate, Stop> {
        let extent = self.stream.look()?;
        let span = self.options.span(&self.stream, &extent)?;
        let (bytes, records) = share(&extent, span);
        Ok(Estimate {
            parts: parts_of(bytes, self.options.part_bytes, span) as u64,
            records,
            bytes,
            plan_bytes_max: 0,
        })
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        let mut extent = self.stream.look()?;
        let mut from = match planner.last()? {
            None => self.options.span(&self.stream, &extent)?.from,
            Some(last) => {
                let (last, life) = Span::parse(&last).map_err(|why| {
                    Failure::new(
                        Party::Source,
                        format!("what was planned last is no range of a stream: {why}; dump into another place"),
                    )
                })?;
                if !self.stream.goes_on(&life, &extent.life) {
                    return Err(self.made_anew().into());
                }
                last.to
            }
        };
        let mut parts = Parts {
            stream: &self.stream,
            options: &self.options,
            planner,
            gate,
        };
        // An event waits from the moment it was seen.
        let mut since = Instant::now();
        let mut seen_to = from;
        loop {
            let upper = self.options.span(&self.stream, &extent)?.to;
            if seen_to <= from {
                since = Instant::now();
            }
            seen_to = upper;
            let span = Span {
                from,
                to: upper.max(from),
            };
            let (bytes, _) = share(&extent, span);
            let is_due = match self.options.follow {
                None => true,
                // After a pause, what has come meanwhile is cut by size.
                Some(_) if gate.state() == GateState::Paused => false,
                Some(follow) => since.elapsed() >= follow.age || bytes >= self.options.part_bytes,
            };
            if is_due {
                parts.add(&extent, span)?;
                from = span.to;
            }
            let Some(follow) = self.options.follow else {
                break;
            };
            // Everything that was asked for is there.
            if let Some(Bound::Place(to)) = self.options.to
                && from >= to
            {
                break;
            }
            gate.wait(follow.pace)?;
            let before = std::mem::replace(&mut extent, self.stream.look_again(gate)?);
            if !self.stream.goes_on(&before.life, &extent.life) {
                return Err(self.made_anew().into());
            }
        }
        Ok(Planned {
            outcomes: Outcomes::default(),
            incarnation: extent.life,
        })
    }

    fn follows(&self) -> bool {
        self.options.follow.is_some()
    }

    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        Ok(self.stream.goes_on(incarnation, &self.stream.look()?.life))
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(Reader(self.stream.open()?)))
    }

    /// The same stream must be there still.
    fn finish(&self, planned: &Planned, records: u64, _outcomes: &Outcomes) -> Result<Value, Stop> {
        if self.is_same(&planned.incarnation)? {
            let options = &self.options;
            let is_all = options.from.is_none() && options.to.is_none() && options.follow.is_none();
            let records = is_all.then_some(records);
            return Ok(self.stream.said(&planned.incarnation, records)?);
        }
        Err(Failure::new(
            Party::Source,
            format!(
                "the stream {} was made anew while it was dumped: run the same command again, which starts over",
                self.stream.url()
            ),
        )
        .into())
    }
}

struct Reader<'a>(Box<dyn RangeReader + 'a>);

impl PartReader for Reader<'_> {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        self.0.read(Span::read(part)?, out, outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_size_makes_no_endless_plan() {
        let from = Place::ZERO;
        let to = Place::from_number(u128::MAX);
        let least = StreamOptions::PART_BYTES_MIN;
        for (bytes, parts) in [(0, 1), (least + 1, 2), (u64::MAX, u128::from(PARTS_MAX))] {
            assert_eq!(parts_of(bytes, least, Span { from, to }), parts);
        }
    }
}
