//! Redis streams, of Redis 7.0 and newer.
//!
//! # What becomes of an event
//! An entry's id is its place, and the id's milliseconds are its time; its fields are headers, in their order, repeated
//! and binary as they are; it has no key and no payload. Loaded again, it has the same id and the same fields, and the
//! stream afterwards says of itself what the first one said: `last-generated-id`, `entries-added`,
//! `max-deleted-entry-id`, and the consumer groups with the ids that they were delivered last and what was delivered and
//! not acknowledged: to whom, when and how often, of up to 10,000 entries. What is not kept of that is counted in the report.
//!
//! An event of another kind of stream gets the id `0-42` for the sequence 42, and these fields before its headers:
//! `Tipple-Position` (where it was), `Tipple-Layout` (which of the next follow, and which headers are null), `Tipple-Time`
//! (nanoseconds), `Tipple-Key`, `Tipple-Payload`.
//!
//! # What is known of events that went away
//! Redis tells no more of an entry than that it is not there. Each range of a plan begins at an entry that was there; if
//! that one is gone when the range is read, it is counted: as a loss if it was trimmed, as deleted if it may have been.
//! How many others went in between is known of the whole stream alone: `gone` in DONE has it.
//!
//! The protocol is spoken here and not by the crate `redis` (1.8): that one builds an answer as a tree of values before
//! anyone sees the first event, and gives up a connection whose read was interrupted by a look at the gate.

mod connection;
mod groups;
mod info;
mod read;
mod retry;
mod url;
mod write;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

pub use url::RedisUrl;

use self::connection::{Connection, Trouble};
use self::info::Info;
use self::read::{READER_BYTES, RedisReader};
use self::retry::Retry;
use self::write::{RedisWriter, WRITER_BYTES};
use crate::place::{Numbering, Place};
use crate::sink::{Appender, Target};
use crate::source::{Extent, RangeReader, Stream};

/// A stream in a Redis server, as a source and a sink. Nothing is asked of the server yet.
#[derive(Debug)]
pub struct Redis {
    url: RedisUrl,
    silence: Duration,
    patience: Duration,
    restore: Mutex<Option<Info>>,
    // For single questions.
    idle: Mutex<Option<Connection>>,
}

/// The most bytes of an event that is copied straight from Redis into a stream that holds it whole.
const COPIED_BYTES_MAX: u64 = 16 << 20;

impl Redis {
    /// The stream at `url`.
    pub fn new(url: RedisUrl) -> Self {
        Self {
            url,
            silence: Duration::from_secs(30),
            patience: Duration::from_secs(300),
            restore: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// The same with bounds of its own: a server that says nothing for `silence` is given up, and one that fails again
    /// and again for `patience`. Default 30 seconds and 5 minutes.
    pub fn with_bounds(mut self, silence: Duration, patience: Duration) -> Self {
        (self.silence, self.patience) = (silence, patience);
        self
    }

    /// The same, which when all is loaded gets what `source` tells: what a dump's DONE says of its source. Nothing
    /// happens if that was no Redis stream.
    pub fn restoring(self, source: &Value) -> Self {
        self.told(source);
        self
    }

    fn key(&self) -> &[u8] {
        self.url.key()
    }

    fn retry(&self) -> Retry {
        Retry::new(self.patience)
    }

    fn connect(&self, gate: Option<&Gate>) -> Result<Connection, Trouble> {
        Connection::open(&self.url, self.silence, gate)
    }

    fn take_idle(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Asks something small on a connection that is kept. A server that cannot be reached at all is told at once; one
    /// that loads its data, or whose connection broke, is asked again.
    fn ask<T>(
        &self,
        party: Party,
        doing: &str,
        mut question: impl FnMut(&mut Connection) -> Result<T, Trouble>,
    ) -> Result<T, Failure> {
        let mut retry = Retry::new(self.patience.min(Self::QUESTION));
        loop {
            let asked = self.take_idle().map_or_else(|| self.connect(None), Ok);
            let trouble = match asked.and_then(|mut connection| {
                let answer = question(&mut connection)?;
                Ok((answer, connection))
            }) {
                Ok((answer, connection)) => {
                    *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            let goes_on = trouble.may_pass() && retry.wait(None).expect("no gate, no cancel");
            if !goes_on {
                return match self.failed(party, doing, trouble) {
                    Stop::Failed(failure) => Err(failure),
                    Stop::Cancelled(_) => unreachable!("no gate, no cancel"),
                };
            }
        }
    }

    /// How long a question is asked again.
    const QUESTION: Duration = Duration::from_secs(5);

    fn info(&self, party: Party) -> Result<Option<Info>, Failure> {
        self.ask(party, "look at", |connection| {
            Info::read(&mut connection.talk(None), self.key())
        })
    }

    fn no_such_key(&self, party: Party) -> Failure {
        let message = format!(
            "there is no key {}: check its name and the database, or whether the server came back without its data",
            self.url
        );
        Failure::new(party, message)
    }

    fn failed(&self, party: Party, doing: &str, trouble: Trouble) -> Stop {
        let url = &self.url;
        let server = url.server();
        let (party, message) = match trouble {
            Trouble::Cancelled(cancelled) => return cancelled.into(),
            Trouble::Lost(why) => (
                party,
                format!(
                    "cannot {doing} {url}: Redis at {server} cannot be reached ({why}): check that it runs, then run the same command again"
                ),
            ),
            Trouble::Protocol(why) => (
                party,
                format!("cannot {doing} {url}: unexpected from the server at {server}: {why}"),
            ),
            Trouble::Refused(words) => {
                let next = match words.split(' ').next().unwrap_or_default() {
                    "WRONGTYPE" => "the key is no stream; give the key of a stream",
                    "NOAUTH" => "give a user and a password",
                    "WRONGPASS" => "check the user and the password",
                    "NOPERM" => {
                        "give a user who may use the commands on streams and this key (ACL SETUSER)"
                    }
                    "READONLY" => "this is a replica; give its master",
                    "MOVED" => "this is a cluster; give the node that has the key",
                    "OOM" => {
                        "give the server more memory (maxmemory), then run the same command again"
                    }
                    _ => "see the server's own words",
                };
                let party = match words.split(' ').next() {
                    Some("WRONGTYPE") => Party::Usage,
                    _ => party,
                };
                (
                    party,
                    format!("cannot {doing} {url}: Redis at {server} says {words:?}: {next}"),
                )
            }
        };
        Failure::new(party, message).into()
    }

    fn life(&self, life: &Value) -> Result<Info, Failure> {
        serde_json::from_value(life.clone()).map_err(|error| {
            let message = format!(
                "the plan was made for no stream of Redis ({error}): dump into an empty place"
            );
            Failure::new(Party::Source, message)
        })
    }
}

/// The time of an id, in nanoseconds, if that is in range.
fn time_of(place: Place) -> Option<i64> {
    let (milliseconds, _) = place.parts();
    i64::try_from(milliseconds).ok()?.checked_mul(1_000_000)
}

impl Stream for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn id(&self) -> Value {
        json!({ "url": self.url.to_string() })
    }

    fn url(&self) -> String {
        self.url.to_string()
    }

    fn numbering(&self) -> Numbering {
        Numbering::TimeAndNumber
    }

    fn look(&self) -> Result<Extent, Failure> {
        let info = self.info(Party::Source)?;
        let info = info.ok_or_else(|| self.no_such_key(Party::Source))?;
        let used = self.ask(Party::Source, "look at", |connection| {
            let mut talk = connection.talk(None);
            match talk.ask(&[b"MEMORY", b"USAGE", self.key()]) {
                // Whoever may not ask gets a guess.
                Err(Trouble::Refused(_)) => Ok(None),
                answer => Ok(answer?.number()),
            }
        })?;
        Ok(Extent {
            first: info.first.unwrap_or_else(|| info.end()),
            end: info.end(),
            events: info.length,
            bytes: used.unwrap_or_else(|| info.length.saturating_mul(256)),
            life: serde_json::to_value(&info).expect("plain values"),
        })
    }

    fn place_at(&self, time: i64) -> Result<Place, Failure> {
        let milliseconds = u64::try_from(time).unwrap_or(0).div_ceil(1_000_000);
        Ok(Place::time_and_number(milliseconds, 0))
    }

    fn first_from(&self, place: Place) -> Result<Option<Place>, Failure> {
        self.ask(Party::Source, "look at", |connection| {
            let mut talk = connection.talk(None);
            let from = info::text(place);
            talk.send(&[b"XRANGE", self.key(), &from, b"+", b"COUNT", b"1"])?;
            if talk.list()? == 0 {
                return Ok(None);
            }
            talk.list()?;
            let place = info::next_id(&mut talk)?;
            talk.skip()?;
            Ok(Some(place))
        })
    }

    fn goes_on(&self, before: &Value, now: &Value) -> bool {
        let info = |life: &Value| serde_json::from_value::<Info>(life.clone()).ok();
        (info(before).zip(info(now))).is_some_and(|(before, now)| before.can_become(&now))
    }

    /// The groups are those of now, as far as the dump goes.
    fn said(&self, life: &Value, records: Option<u64>) -> Result<Value, Failure> {
        let mut planned = self.life(life)?;
        planned.groups = self.ask(Party::Source, "look at", |connection| {
            groups::read(
                &mut connection.talk(None),
                self.key(),
                planned.last_generated,
            )
        })?;
        for group in &mut planned.groups {
            if group.last_delivered > planned.last_generated {
                group.last_delivered = planned.last_generated;
                group.entries_read = Some(planned.entries_added);
                group.pending = group.pending.min(group.entries.len() as u64);
            }
        }
        let gone = records.map(|records| planned.length.saturating_sub(records));
        Ok(json!({ "redis": planned, "gone": gone }))
    }

    fn reader_bytes(&self) -> u64 {
        READER_BYTES
    }

    /// Entries are as large as they are: nobody knows before they come.
    fn event_bytes_max(&self) -> u64 {
        COPIED_BYTES_MAX
    }

    fn open(&self) -> Result<Box<dyn RangeReader + '_>, Failure> {
        self.ask(Party::Source, "read", |connection| {
            connection.talk(None).ask(&[b"PING"])
        })?;
        let connection = self.take_idle();
        Ok(Box::new(RedisReader::new(self, connection)))
    }
}

impl Target for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn id(&self) -> Value {
        Stream::id(self)
    }

    fn url(&self) -> String {
        self.url.to_string()
    }

    fn writer_bytes(&self) -> u64 {
        WRITER_BYTES
    }

    fn event_bytes(&self, event_bytes_max: u64) -> u64 {
        // It is sent from where it is; the last one of the stream comes piece by piece into memory that doubles.
        event_bytes_max
    }

    fn check(&self) -> Result<(), Failure> {
        self.info(Party::Sink).map(drop)
    }

    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn Appender + 'a>, Failure> {
        Ok(Box::new(RedisWriter::open(self, gate)?))
    }

    fn told(&self, said: &Value) {
        let info = serde_json::from_value(said["redis"].clone()).ok();
        *self.restore.lock().unwrap_or_else(PoisonError::into_inner) = info;
    }

    /// Makes the stream say of itself what the source said. A group that is there already is left where it is: whoever
    /// uses it may have gone on.
    fn finish(&self) -> Result<Value, Failure> {
        let restore = self.restore.lock();
        let restore = restore.unwrap_or_else(PoisonError::into_inner).take();
        let Some(info) = restore else {
            return Ok(Value::Null);
        };
        let key = self.key();
        let restored = self.ask(
            Party::Sink,
            "restore the counts and groups of",
            |connection| {
                let mut talk = connection.talk(None);
                if Info::read(&mut talk, key)?.is_none() {
                    // A stream that has had its events, and has none.
                    talk.ask(&[b"XGROUP", b"CREATE", key, b"tipple", b"$", b"MKSTREAM"])?;
                    talk.ask(&[b"XGROUP", b"DESTROY", key, b"tipple"])?;
                }
                let (last, deleted) = (
                    info::text(info.last_generated),
                    info::text(info.max_deleted),
                );
                let added = info.entries_added.to_string();
                talk.ask(&[
                    b"XSETID",
                    key,
                    &last,
                    b"ENTRIESADDED",
                    added.as_bytes(),
                    b"MAXDELETEDID",
                    &deleted,
                ])?;
                groups::restore(&mut talk, key, &info.groups)
            },
        )?;
        Ok(serde_json::to_value(restored).expect("plain values"))
    }
}
