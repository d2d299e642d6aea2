//! A stream as a source: ranges as parts.

use std::io::Read;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Estimate, Failure, Identity, NewPart, Outcomes, Part, PartReader, Party, PlanBody, Planned,
    Planner, RecordWriter, Source, Stop,
};

use crate::options::StreamOptions;
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

    /// The place of the first event at `time` (nanoseconds since 1970) or later; the end if there is none.
    ///
    /// # Errors
    /// As for [`Stream::look`].
    fn place_at(&self, time: i64) -> Result<Place, Failure>;

    /// Memory that one reader holds at most, in bytes.
    fn reader_bytes(&self) -> u64;

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

    fn parts(&self, bytes: u64, span: Span) -> u128 {
        let places = span.to.number() - span.from.number();
        u128::from(bytes.div_ceil(self.options.part_bytes).max(1)).min(places)
    }
}

/// As a plan object has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpanText {
    from: String,
    to: String,
}

impl Span {
    /// More than any span takes as JSON.
    const JSON_BYTES_MAX: u64 = 256;

    fn to_json(self, numbering: Numbering) -> Vec<u8> {
        let text = SpanText {
            from: self.from.text(numbering),
            to: self.to.text(numbering),
        };
        serde_json::to_vec(&text).expect("strings into memory")
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
        let text: SpanText =
            serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
        let span = Self {
            from: text.from.parse().map_err(refuse)?,
            to: text.to.parse().map_err(refuse)?,
        };
        if span.from >= span.to {
            return Err(refuse(format!("it ends at {} before it begins", text.to)).into());
        }
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

    fn check(&self) -> Result<Estimate, Stop> {
        let extent = self.stream.look()?;
        let span = self.options.span(&self.stream, &extent)?;
        let (bytes, records) = Self::share(&extent, span);
        Ok(Estimate {
            parts: self.parts(bytes, span) as u64,
            records,
            bytes,
            plan_bytes_max: 0,
        })
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        let extent = self.stream.look()?;
        let span = self.options.span(&self.stream, &extent)?;
        let (bytes, _) = Self::share(&extent, span);
        let parts = self.parts(bytes, span);
        let places = span.to.number() - span.from.number();
        // Not one after the other times a step, so that the shares differ by one place at most.
        let bound = |part: u128| {
            let (step, rest) = (places / parts, places % parts);
            Place::from_number(span.from.number() + step * part + rest.min(part))
        };
        for part in 0..parts {
            gate.check()?;
            let span = Span {
                from: bound(part),
                to: bound(part + 1),
            };
            planner.add(NewPart {
                body: PlanBody::Bytes(span.to_json(self.stream.numbering())),
                extension: "json",
                records: None,
                bytes_estimate: bytes / parts as u64,
            })?;
        }
        Ok(Planned {
            outcomes: Outcomes::default(),
            incarnation: extent.life,
        })
    }

    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        Ok(self.stream.look()?.life == *incarnation)
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(Reader(self.stream.open()?)))
    }

    /// The same stream must be there still.
    fn finish(
        &self,
        planned: &Planned,
        _records: u64,
        _outcomes: &Outcomes,
    ) -> Result<Value, Stop> {
        if self.is_same(&planned.incarnation)? {
            return Ok(Value::Null);
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
