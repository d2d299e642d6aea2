//! Streams of NATS JetStream.
//!
//! # Reading
//! An event's key is the message's subject, its place the sequence, its time the server's; its headers are byte for byte
//! what was published, in their order. Nothing is acknowledged: a stream that forgets messages when they are
//! acknowledged is refused, since reading it would take them away. What is missing between two messages is counted: as
//! the outcome `deleted`, or as the loss `gone by retention` if the stream begins behind it by now.
//!
//! Who logs in says so before the host (`USER:PASSWORD@`, `TOKEN@`), or by a file: `?creds=FILE` at the end.
//!
//! # Writing
//! A stream that is not there is made like the one that was dumped, and has its configuration and its durable consumers when
//! all is loaded. Nobody else may write to it: every message says which one it must come right after. The server gives each its own sequence and time; those that the event had are in the last two headers,
//! `Tipple-Time` (nanoseconds since 1970) and `Tipple-Position`, and a load that is run again reads from them how far it
//! got. Headers of the event that begin with `Nats-` would be commands to the server (forget this one, purge the stream),
//! so they are written as `Tipple-Nats-…`.
//!
//! An event that is too large for one message is a loss, or, if it is to be split, several messages with the same
//! `Tipple-Position`: the event's headers are in the first one, and each has `Tipple-Split: 2/5/4718592` before the last two
//! headers: the second of five, of a payload of 4,718,592 bytes in all. An export does not join them.
//!
//! What was acknowledged is as durable as the server makes it: a file store writes it to the system at once, and to the disk
//! every 2 minutes unless its `sync_interval` is less.

mod api;
mod credentials;
mod headers;
mod message;
mod read;
mod restore;
mod url;
mod wire;
mod write;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

pub use url::{NatsAccount, NatsUrl};

use crate::content::time_text;
use crate::options::ago;
use crate::place::{Numbering, Place};
use crate::sink::{Appender, Target};
use crate::source::{Extent, RangeReader, Stream};
use api::{Access, Known, StreamInfo, ungated};
use read::NatsReader;
use restore::{Described, Life};
use wire::Connection;
use write::NatsWriter;

/// Bytes that a reader holds beside messages.
const READER_BYTES: u64 = 1 << 20;

/// More than a subject takes: the server's own line is at most that long.
const SUBJECT_BYTES_MAX: u64 = 4 << 10;

/// A stream of NATS JetStream as a source and a sink. Nothing is asked of the server yet.
#[derive(Clone, Debug)]
pub struct Nats {
    url: NatsUrl,
    patience: Duration,
    known: Arc<Known>,
    /// What a target is made like.
    like: Option<Described>,
    /// What that one was at the end, if it was copied.
    told: Arc<Mutex<Option<Described>>>,
    splits: bool,
}

impl Nats {
    /// How long a server may be away in the midst of work.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// The stream of `url`.
    pub fn at(url: NatsUrl) -> Self {
        Self {
            url,
            patience: Self::PATIENCE,
            known: Arc::default(),
            like: None,
            told: Arc::default(),
            splits: false,
        }
    }

    /// The same as a target that, if it is not there, is made like the stream of which DONE says `said`, and gets its
    /// durable consumers; as it is if that is of no stream of NATS.
    pub fn like(self, said: &Value) -> Self {
        let like = Described::of(said);
        Self { like, ..self }
    }

    /// The same, which writes an event that is too large for one message as several. Default: it refuses it.
    pub fn splitting(self, splits: bool) -> Self {
        Self { splits, ..self }
    }

    /// The names of all streams of the account, this one's name aside; sorted.
    ///
    /// # Errors
    /// [`Failure`] if the server cannot be reached or does not tell.
    pub fn streams(&self) -> Result<Vec<String>, Failure> {
        let access = self.access(Party::Source);
        let asked = access.once(None, Connection::stream_names);
        let names = asked.map_err(ungated)?;
        let mut names = names.map_err(|error| access.answered(&error))?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The same with another bound for how long the server may be away in the midst of work. Default:
    /// [`Nats::PATIENCE`].
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    fn access(&self, party: Party) -> Access {
        Access {
            url: self.url.clone(),
            patience: self.patience,
            party,
            known: Arc::clone(&self.known),
        }
    }

    /// Of one message with its headers, as the server is configured now.
    fn message_bytes_max(&self, party: Party) -> u64 {
        // What cannot be reached is told by who looks.
        let connection = self.access(party).connect(None);
        connection.map_or(0, |connection| connection.info.max_payload)
    }

    fn extent(&self, gate: Option<&Gate>) -> Result<Extent, Stop> {
        let info = self.readable(gate)?;
        let life = Life::of(&self.url.stream, &info);
        Ok(Extent {
            life: serde_json::to_value(life).expect("plain values"),
            first: Place::sequence(info.state.first()),
            end: Place::sequence(info.state.last_seq).next(),
            events: info.state.messages,
            bytes: info.state.bytes,
        })
    }

    /// What the stream is and holds, if it can be read without harm.
    fn readable(&self, gate: Option<&Gate>) -> Result<StreamInfo, Stop> {
        let info = self.access(Party::Source).look(gate)?;
        match &*info.config.retention {
            "limits" => Ok(info),
            retention => Err(Failure::new(
                Party::Usage,
                format!(
                    "{} keeps messages only until they are acknowledged (retention {retention}): reading it would take them away; read a stream that has it as a source (nats stream add --source {})",
                    self.url,
                    self.url.stream()
                ),
            )
            .into()),
        }
    }
}

impl Stream for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn id(&self) -> Value {
        json!({ "server": self.url.servers.join(","), "stream": self.url.stream })
    }

    fn url(&self) -> String {
        self.url.to_string()
    }

    fn numbering(&self) -> Numbering {
        Numbering::Sequence
    }

    fn look(&self) -> Result<Extent, Failure> {
        self.extent(None).map_err(ungated)
    }

    fn look_again(&self, gate: &Gate) -> Result<Extent, Stop> {
        self.extent(Some(gate))
    }

    /// By `max_msgs`, `max_bytes` and `max_age`; what `max_msgs_per_subject` takes away cannot be foreseen.
    fn younger_half(&self, extent: &Extent) -> Result<Option<Place>, Failure> {
        let config = self
            .access(Party::Source)
            .look(None)
            .map_err(ungated)?
            .config;
        let limit = |of: i64| u64::try_from(of).ok().filter(|of| *of > 0);
        let end = extent.end.parts().1;
        let message_bytes = extent.bytes.checked_div(extent.events).unwrap_or(0).max(1);
        let by_count = limit(config.max_msgs).map(|most| end.saturating_sub(most / 2));
        let by_bytes =
            limit(config.max_bytes).map(|most| end.saturating_sub(most / 2 / message_bytes));
        let by_age = limit(config.max_age)
            .map(|most| self.place_at(ago(Duration::from_nanos(most / 2))))
            .transpose()?;
        let by_size = by_count.max(by_bytes).map(Place::sequence);
        Ok(by_size.max(by_age))
    }

    /// What it held when it was planned may have changed since.
    fn goes_on(&self, before: &Value, now: &Value) -> bool {
        let made = |life: &Value| [life["stream"].clone(), life["created"].clone()];
        made(before) == made(now)
    }

    fn said(&self, life: &Value, records: Option<u64>) -> Result<Value, Failure> {
        let access = self.access(Party::Source);
        let life: Life = serde_json::from_value(life.clone()).map_err(|error| {
            access.failure(&format!("the plan was made for no stream: {error}"))
        })?;
        let described = Described::read(&access, life, records).map_err(ungated)?;
        let mut said = json!({ "nats": described });
        if let Some(gone) = self.known.gone() {
            // Of this run; the counts of others are in their part records.
            said["gone_by_retention"] = json!(gone);
        }
        Ok(said)
    }

    fn place_at(&self, time: i64) -> Result<Place, Failure> {
        let access = self.access(Party::Source);
        let time = time_text(time);
        let found = access
            .once(None, |connection| {
                read::sequence_at(&access, connection, &time)
            })
            .map_err(ungated)?;
        match found.map_err(|error| access.answered(&error))? {
            Some(sequence) => Ok(Place::sequence(sequence)),
            None => Ok(self.look()?.end),
        }
    }

    fn reader_bytes(&self) -> u64 {
        // As it came, in a buffer that doubles, and as an event.
        READER_BYTES + 3 * self.message_bytes_max(Party::Source)
    }

    fn event_bytes_max(&self) -> u64 {
        // The shortest header, `a:` and the end of its line, takes 9 bytes of an event.
        3 * self.message_bytes_max(Party::Source) + SUBJECT_BYTES_MAX
    }

    fn open(&self) -> Result<Box<dyn RangeReader + '_>, Failure> {
        let created = self.readable(None).map_err(ungated)?.created;
        Ok(Box::new(NatsReader::new(
            self.access(Party::Source),
            created,
        )))
    }
}

impl Target for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn id(&self) -> Value {
        Stream::id(self)
    }

    fn url(&self) -> String {
        Stream::url(self)
    }

    fn writer_bytes(&self) -> u64 {
        // The window, what was sent of it already, and what is read.
        2 * write::WINDOW_BYTES as u64 + READER_BYTES
    }

    fn event_bytes(&self, event_bytes_max: u64) -> u64 {
        // What is larger is not written.
        let largest = event_bytes_max.min(self.message_bytes_max(Party::Sink));
        // In the window, its headers by themselves; and what is there already comes as JSON with base64, in a buffer
        // that doubles, and is decoded.
        let message = 8 * largest;
        // The pieces of the last event, and what is made of them.
        let pieces = if self.splits { 2 * event_bytes_max } else { 0 };
        message + pieces
    }

    fn check(&self) -> Result<(), Failure> {
        let access = self.access(Party::Sink);
        let looked = access.look_before_load(self.like.as_ref(), None);
        looked.map(drop).map_err(ungated)
    }

    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn Appender + 'a>, Failure> {
        let access = self.access(Party::Sink);
        let opened = NatsWriter::open(access.clone(), self.like.as_ref(), self.splits, gate);
        match opened {
            Ok(writer) => Ok(Box::new(writer)),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Cancelled(_)) => Err(access.failure("the job has ended")),
        }
    }

    /// Only a stream that was like it from the beginning is made like it at the end.
    fn told(&self, said: &Value) {
        if self.like.is_some() {
            let told = Described::of(said);
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
    }

    fn finish(&self) -> Result<Value, Failure> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.as_ref().or(self.like.as_ref()) {
            Some(like) => self.access(Party::Sink).finish(like).map_err(ungated),
            None => Ok(Value::Null),
        }
    }
}
