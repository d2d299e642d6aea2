//! A recording played to a program: what was received is given to its handler, what it sends is held against what was
//! sent.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::compare::{Difference, Ignored};
use crate::entry::{Direction, Kind};
use crate::mode::is_redacted;
use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

/// The most records that are played at a time: they are held in memory.
const RECORDS_MAX: usize = 4 << 20;
/// How a message ends that was longer than the limit.
const TRUNCATED: &str = " TRUNCATED";

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// One message after the other.
    #[default]
    Instant,
    /// As it was, so many times as fast.
    RealTime(f64),
}

/// Why a recording is not played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlayError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message is not as it was: something in it was hidden, hashed or truncated.
    #[error(
        "the record {number} of {group} ({name}) has {path} redacted or truncated: what it was is not in the recording; leave it out with a filter, or record it without that rule"
    )]
    Redacted {
        /// Its group.
        group: String,
        /// Its number.
        number: u64,
        /// Its message.
        name: String,
        /// Where.
        path: String,
    },
    /// A message is not of the type that the handler wants.
    #[error("the record {number} of {group} is no {wanted}: {source}")]
    Message {
        /// Its group.
        group: String,
        /// Its number.
        number: u64,
        /// The type.
        wanted: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// The handler says no.
    #[error("the handler failed: {0}")]
    Handler(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A message that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// When, in nanoseconds of Unix time: for a program that asks what time it is.
    pub unix_ns: u64,
    /// Its group.
    pub group: String,
    /// Its key; empty: none.
    pub key: String,
    /// Its number.
    pub number: u64,
    /// Its trace.
    pub trace: u64,
    /// The name of the message: what to tell types by.
    pub name: String,
    /// Whether it asks or answers.
    pub kind: Kind,
    json: String,
}

impl Played {
    /// The message.
    ///
    /// # Errors
    /// `Message` if it is none of these.
    pub fn message<M: DeserializeOwned>(&self) -> Result<M, PlayError> {
        serde_json::from_str(&self.json).map_err(|source| PlayError::Message {
            group: self.group.clone(),
            number: self.number,
            wanted: std::any::type_name::<M>(),
            source,
        })
    }

    /// The message as it stands in the recording.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// What the handler sends.
#[derive(Debug, Default)]
pub struct Sent {
    messages: Vec<(String, Value)>,
}

impl Sent {
    /// The handler sends `message`; `name` is what a recording calls it.
    ///
    /// # Panics
    /// If it cannot be serialized as JSON.
    pub fn send(&mut self, name: &str, message: &impl Serialize) {
        let value = serde_json::to_value(message).expect("what is sent can be recorded");
        self.messages.push((name.to_owned(), value));
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Messages that were given to the handler.
    pub played: u64,
    /// Messages that it sent as they were sent before.
    pub same: u64,
    /// The first hundred that it sent in another way; left is what was recorded.
    pub differences: Vec<Difference>,
    /// All of them.
    pub different: u64,
    /// Messages that were sent before and not now.
    pub missing: u64,
    /// Messages that were not sent before.
    pub additional: u64,
}

impl Outcome {
    /// Whether everything was as it was before.
    pub fn is_same(&self) -> bool {
        self.different + self.missing + self.additional == 0
    }
}

/// Plays recordings.
///
/// ```
/// use std::time::Duration;
/// use tipple_recorder::{Filter, FolderShelf, Ignored, Player, Recorder, RecorderOptions};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Ask { number: u64 }
/// #[derive(serde::Serialize)]
/// struct Square { number: u64 }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let mut options = RecorderOptions::new(folder.path());
/// # options.min_free_bytes = 0;
/// # let recorder = Recorder::start(options)?;
/// # let stream = recorder.stream("squares");
/// // What was recorded:
/// stream.received(&Ask { number: 3 });
/// stream.sent(&Square { number: 9 });
/// # recorder.shutdown(Duration::from_secs(5));
///
/// let shelf = FolderShelf::open(&[folder.path().to_owned()])?;
/// let mut player = Player::load(&shelf, &Filter::default(), Ignored::default())?;
/// let outcome = player.run(Default::default(), |played, sent| {
///     let ask: Ask = played.message()?;
///     sent.send("Square", &Square { number: ask.number * ask.number });
///     Ok(())
/// })?;
/// assert!(outcome.is_same());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Player {
    received: std::collections::VecDeque<Played>,
    expected: std::collections::VecDeque<(String, Value)>,
    ignored: Ignored,
    outcome: Outcome,
    place: u64,
}

impl Player {
    /// Loads what `filter` wants of a recording: what was received, to be played, and what was sent, to be compared but
    /// for what is `ignored`.
    ///
    /// # Errors
    /// `Io`; `Redacted` for the first record that is not as it was, at a path that is not ignored.
    pub fn load(shelf: &dyn Shelf, filter: &Filter, ignored: Ignored) -> Result<Player, PlayError> {
        let mut player = Player {
            received: Default::default(),
            expected: Default::default(),
            ignored,
            outcome: Outcome::default(),
            place: 0,
        };
        let mut refused = None;
        search(shelf, filter, |_, line| {
            if player.received.len() + player.expected.len() >= RECORDS_MAX {
                let reason = format!(
                    "more than {RECORDS_MAX} records: play a part of them, by time or group"
                );
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, reason));
            }
            let json = line.m.map_or("null", |message| message.get());
            let value: Value = serde_json::from_str(json).map_err(io::Error::from)?;
            let is_out = line.d == Some(Direction::Out);
            let path = redacted(&value, &mut Vec::new(), &|path| {
                is_out && player.ignored.matches(path)
            });
            // The line says so itself where it can: by the field `h`.
            let path = path.or_else(|| (line.h == Some(1) && !is_out).then(|| "m".to_owned()));
            if let Some(path) = path {
                refused = Some(PlayError::Redacted {
                    group: line.g.to_string(),
                    number: line.s.unwrap_or(0),
                    name: line.mn.to_string(),
                    path,
                });
                return Ok(GoOn::Break(()));
            }
            match is_out {
                true => player.expected.push_back((line.mn.to_string(), value)),
                false => player.received.push_back(Played {
                    unix_ns: line.ts,
                    group: line.g.to_string(),
                    key: line.k.to_string(),
                    number: line.s.unwrap_or(0),
                    trace: line.t,
                    name: line.mn.to_string(),
                    kind: match (&*line.mk, line.c) {
                        ("Request", Some(id)) => Kind::Request(id),
                        ("Response", Some(id)) => Kind::Response(id),
                        _ => Kind::Regular,
                    },
                    json: json.to_owned(),
                }),
            }
            Ok(GoOn::Continue(()))
        })?;
        match refused {
            Some(error) => Err(error),
            None => Ok(player),
        }
    }

    /// Messages that are still to be played.
    pub fn left(&self) -> usize {
        self.received.len()
    }

    /// The message that is played next.
    pub fn peek(&self) -> Option<&Played> {
        self.received.front()
    }

    /// Gives the next message to the handler; `false`: there was none.
    ///
    /// # Errors
    /// `Handler`, or what the handler passes on.
    pub fn step(
        &mut self,
        mut handler: impl FnMut(&Played, &mut Sent) -> Result<(), PlayError>,
    ) -> Result<bool, PlayError> {
        let Some(played) = self.received.pop_front() else {
            return Ok(false);
        };
        let mut sent = Sent::default();
        let handled = handler(&played, &mut sent);
        self.outcome.played += 1;
        for (name, value) in sent.messages {
            self.compare(name, value);
        }
        handled.map(|()| true)
    }

    fn compare(&mut self, name: String, value: Value) {
        self.place += 1;
        let Some((expected_name, expected)) = self.expected.pop_front() else {
            self.outcome.additional += 1;
            return;
        };
        let found = match expected_name == name {
            false => Some(("mn".to_owned(), expected_name.clone().into(), name.into())),
            true => self.ignored.difference(&expected, &value),
        };
        match found {
            None => self.outcome.same += 1,
            Some((path, left, right)) => {
                self.outcome.different += 1;
                if self.outcome.differences.len() < 100 {
                    self.outcome.differences.push(Difference {
                        stream: expected_name,
                        place: self.place,
                        path,
                        left,
                        right,
                    });
                }
            }
        }
    }

    /// Plays all that is left, and reports.
    ///
    /// # Errors
    /// `Handler`, or what the handler passes on: what is left stays.
    pub fn run(
        &mut self,
        pace: Pace,
        mut handler: impl FnMut(&Played, &mut Sent) -> Result<(), PlayError>,
    ) -> Result<Outcome, PlayError> {
        let began = Instant::now();
        let first_ns = self.peek().map_or(0, |played| played.unix_ns);
        while let Some(next) = self.peek() {
            if let Pace::RealTime(speed) = pace {
                let after = next.unix_ns.saturating_sub(first_ns) as f64
                    / 1e9
                    / speed.max(f64::MIN_POSITIVE);
                let due = began + Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            self.step(&mut handler)?;
        }
        Ok(self.finish())
    }

    /// What came of it, once everything was played.
    pub fn finish(&mut self) -> Outcome {
        let mut outcome = self.outcome.clone();
        outcome.missing = self.expected.len() as u64;
        outcome
    }
}

/// The first place where something was redacted.
fn redacted(
    value: &Value,
    path: &mut Vec<String>,
    is_ignored: &dyn Fn(&[String]) -> bool,
) -> Option<String> {
    let is_truncated = |text: &str| path.is_empty() && text.ends_with(TRUNCATED);
    match value {
        Value::String(text) if is_redacted(text) || is_truncated(text) => {
            (!is_ignored(path)).then(|| {
                std::iter::once("m")
                    .chain(path.iter().map(String::as_str))
                    .collect::<Vec<_>>()
                    .join(".")
            })
        }
        Value::Array(all) => all.iter().enumerate().find_map(|(place, value)| {
            path.push(place.to_string());
            let found = redacted(value, path, is_ignored);
            path.pop();
            found
        }),
        Value::Object(all) => all.iter().find_map(|(key, value)| {
            path.push(key.clone());
            let found = redacted(value, path, is_ignored);
            path.pop();
            found
        }),
        _ => None,
    }
}
