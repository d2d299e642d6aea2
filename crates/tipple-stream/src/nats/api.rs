//! What JetStream is asked, as docs.nats.io has it, over one connection.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

use super::url::NatsUrl;
use super::wire::{ANSWER_TIME, Connection, Trouble};

/// The first wait before a connection is tried again; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a question is asked again of servers that have never answered one, but can be connected to.
const FIRST_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Servers of a cluster that are remembered beside those that were given.
const LEARNED_MAX: usize = 64;
/// How often a wait looks whether the job still runs.
const LOOK: Duration = Duration::from_millis(50);
/// Requests that are on their way at a time.
const REQUESTS_AHEAD: usize = 64;

/// Answers of JetStream that mean something here (errors.json of nats-server).
const STREAM_SEALED: u64 = 10109;
pub(super) const STREAM_NOT_FOUND: u64 = 10059;
pub(super) const NO_MESSAGE: u64 = 10037;

/// What a stream is and holds.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: StreamConfig,
    pub(super) created: String,
    pub(super) state: StreamState,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamConfig {
    #[serde(default)]
    pub(super) subjects: Vec<String>,
    pub(super) retention: String,
    /// Of headers and payload; below 1: the server's own limit.
    #[serde(default)]
    pub(super) max_msg_size: i64,
    #[serde(default)]
    pub(super) sealed: bool,
    #[serde(default)]
    pub(super) no_ack: bool,
    #[serde(default)]
    pub(super) description: String,
    /// Below 1: no limit.
    #[serde(default)]
    pub(super) max_msgs: i64,
    #[serde(default)]
    pub(super) max_bytes: i64,
    /// In nanoseconds.
    #[serde(default)]
    pub(super) max_age: i64,
    #[serde(default)]
    pub(super) max_msgs_per_subject: i64,
    #[serde(default)]
    pub(super) mirror: Option<Value>,
    #[serde(default)]
    pub(super) sources: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct StreamState {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

impl StreamState {
    /// The sequence of the first message that is there, or of the next one.
    pub(super) fn first(&self) -> u64 {
        match self.messages {
            0 => self.last_seq.saturating_add(1),
            _ => self.first_seq,
        }
    }
}

/// A message that was asked for by its sequence.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) subject: Vec<u8>,
    pub(super) sequence: u64,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: ApiError },
    Good(T),
}

/// An answer that is none.
#[derive(Debug, Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// What JetStream answered, if it did.
pub(super) type Asked<T> = Result<Result<T, ApiError>, Trouble>;

impl Connection {
    /// Asks `$JS.API.<what>`.
    pub(super) fn ask<T: DeserializeOwned>(
        &mut self,
        what: &str,
        body: &Value,
        gate: Option<&Gate>,
    ) -> Asked<T> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        self.request(&format!("$JS.API.{what}"), &body, gate)?;
        self.read_answer(what)
    }

    fn read_answer<T: DeserializeOwned>(&self, what: &str) -> Asked<T> {
        match serde_json::from_slice(self.message().payload) {
            Ok(Answer::Good(answer)) => Ok(Ok(answer)),
            // 503: no leader yet, or just started.
            Ok(Answer::Error { error }) if error.code == 503 => Err(Trouble::Lost(format!(
                "its JetStream says {:?}",
                error.description
            ))),
            Ok(Answer::Error { error }) => Ok(Err(error)),
            Err(error) => Err(Trouble::Lost(format!(
                "its answer to {what} is unreadable: {error}"
            ))),
        }
    }

    pub(super) fn stream_info(&mut self, stream: &str, gate: Option<&Gate>) -> Asked<StreamInfo> {
        self.ask(&format!("STREAM.INFO.{stream}"), &Value::Null, gate)
    }

    /// The names of all streams of the account.
    pub(super) fn stream_names(&mut self) -> Asked<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            total: usize,
            /// Null if there is none.
            streams: Option<Vec<String>>,
        }
        let mut names = Vec::new();
        loop {
            let body = json!({ "offset": names.len() });
            let page: Page = match self.ask("STREAM.NAMES", &body, None)? {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            let found = page.streams.unwrap_or_default();
            let is_last = found.is_empty();
            names.extend(found);
            if is_last || names.len() >= page.total {
                return Ok(Ok(names));
            }
        }
    }

    /// The message that `which` says: `{"seq":…}`, with `"next_by_subj":">"` the first one from there on, or
    /// `{"last_by_subj":">"}`; `None` if there is none.
    pub(super) fn stored(
        &mut self,
        stream: &str,
        which: &Value,
        gate: Option<&Gate>,
    ) -> Asked<Option<Stored>> {
        found(self.ask(&format!("STREAM.MSG.GET.{stream}"), which, gate)?)
    }

    /// Shows all messages of a range of sequences, in any order; `None` for one that is not there.
    pub(super) fn stored_range(
        &mut self,
        stream: &str,
        range: RangeInclusive<u64>,
        gate: &Gate,
        mut act: impl FnMut(u64, Option<Stored>),
    ) -> Asked<()> {
        let what = format!("STREAM.MSG.GET.{stream}");
        let (mut next, mut waiting) = (*range.start(), HashMap::new());
        while next <= *range.end() || !waiting.is_empty() {
            while next <= *range.end() && waiting.len() < REQUESTS_AHEAD {
                let body = json!({ "seq": next }).to_string();
                let number = self.send_request(&format!("$JS.API.{what}"), body.as_bytes())?;
                waiting.insert(number, next);
                next += 1;
            }
            let number = self.answer(Some(gate))?;
            if let Some(sequence) = waiting.remove(&number) {
                match found(self.read_answer(&what)?)? {
                    Ok(stored) => act(sequence, stored),
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        Ok(Ok(()))
    }
}

#[derive(Deserialize)]
struct Found {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

fn found(answer: Result<Found, ApiError>) -> Asked<Option<Stored>> {
    let message = match answer {
        Ok(found) => found.message,
        Err(error) if error.err_code == NO_MESSAGE => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error)),
    };
    let bytes = |text: &str| {
        (BASE64_STANDARD.decode(text)).map_err(|_| Trouble::Lost("its answer is unreadable".into()))
    };
    Ok(Ok(Some(Stored {
        subject: message.subject.into_bytes(),
        sequence: message.seq,
        headers: bytes(&message.hdrs)?,
        payload: bytes(&message.data)?,
    })))
}

/// What is known of the servers of a stream, for all who ask them.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Others of their cluster, as they say themselves.
    learned: Mutex<Vec<String>>,
    /// Which one is tried first.
    first: AtomicUsize,
    /// Whether any has ever answered.
    has_answered: AtomicBool,
    /// Ranges of sequences that retention took before they were read: the first one, and the one behind the last.
    gone: Mutex<BTreeMap<u64, u64>>,
}

/// Ranges that are remembered to be told, of those that are counted.
const GONE_MAX: usize = 1000;
/// Those that are told.
const GONE_TOLD: usize = 10;

impl Known {
    /// Retention took `from` up to before `to`.
    pub(super) fn took(&self, mut from: u64, mut to: u64) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() >= GONE_MAX {
            return;
        }
        // A part that is read again may tell of some of it again.
        let touching: Vec<u64> = (gone.range(..=to))
            .filter(|(_, end)| **end >= from)
            .map(|(begin, _)| *begin)
            .collect();
        for begin in touching {
            let end = gone.remove(&begin).expect("just found");
            (from, to) = (from.min(begin), to.max(end));
        }
        gone.insert(from, to);
    }

    /// What retention took, such as `17 to 20, 31 to 31`; none if it took nothing.
    pub(super) fn gone(&self) -> Option<String> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = gone
            .iter()
            .map(|(from, to)| format!("{from} to {}", to - 1));
        let mut text: Vec<String> = ranges.take(GONE_TOLD).collect();
        if gone.len() > GONE_TOLD {
            text.push("and others".to_owned());
        }
        (!gone.is_empty()).then(|| text.join(", "))
    }
}

/// The servers of a stream, and how long to wait for them.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) url: NatsUrl,
    pub(super) patience: Duration,
    pub(super) party: Party,
    pub(super) known: Arc<Known>,
}

impl Access {
    pub(super) fn failure(&self, why: &str) -> Failure {
        Failure::new(self.party, format!("{}: {why}", self.url))
    }

    /// What an answer that is none means to the job.
    pub(super) fn answered(&self, error: &ApiError) -> Failure {
        match error.err_code {
            STREAM_NOT_FOUND => self.failure("there is no such stream: look at `nats stream ls`"),
            STREAM_SEALED => self.failure(
                "it was sealed, so that nothing can be added any more: what was loaded before is there; load into another stream",
            ),
            _ => self.failure(&format!(
                "the server says {:?} (error {})",
                error.description, error.err_code
            )),
        }
    }

    /// The same of trouble that is not waited out.
    pub(super) fn troubled(&self, trouble: Trouble) -> Stop {
        match trouble {
            Trouble::Cancelled(cancelled) => cancelled.into(),
            Trouble::Refused(why) => self
                .failure(&format!("the server does not let tipple in: {why}"))
                .into(),
            Trouble::Away(why) | Trouble::Lost(why) => self
                .failure(&format!("the server cannot be reached: {why}"))
                .into(),
        }
    }

    /// How long an answer may take.
    pub(super) fn answer_time(&self) -> Duration {
        ANSWER_TIME.min(self.patience)
    }

    /// Connects to one of the servers: those that were given, and what they say is their cluster.
    pub(super) fn connect(&self, gate: Option<&Gate>) -> Result<Connection, Trouble> {
        let known = &self.known;
        let mut servers = self.url.servers.clone();
        let learned = known.learned.lock().unwrap_or_else(PoisonError::into_inner);
        servers.extend(learned.iter().cloned());
        drop(learned);
        let answer_time = self.answer_time();
        let first = known.first.load(Ordering::Relaxed);
        let mut last = Trouble::Away("there is no server".into());
        for at in first..first + servers.len() {
            let server = &servers[at % servers.len()];
            match Connection::open(server, &self.url, answer_time, gate) {
                Ok(connection) => {
                    known.first.store(at % servers.len(), Ordering::Relaxed);
                    self.learn(&connection.info.connect_urls);
                    return Ok(connection);
                }
                Err(trouble @ (Trouble::Cancelled(_) | Trouble::Refused(_))) => {
                    return Err(trouble);
                }
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// The next connection begins with another server, if there is one.
    pub(super) fn try_another(&self) {
        self.known.first.fetch_add(1, Ordering::Relaxed);
    }

    fn learn(&self, servers: &[String]) {
        let mut learned = (self.known.learned.lock()).unwrap_or_else(PoisonError::into_inner);
        for server in servers.iter().filter(|server| server.len() < 300) {
            let is_new = !self.url.servers.contains(server) && !learned.contains(server);
            if is_new && learned.len() < LEARNED_MAX {
                learned.push(server.clone());
            }
        }
    }

    /// Asks over a connection of its own. Servers that have answered before are waited for; of others, one that cannot be
    /// connected to is told at once.
    pub(super) fn once<T>(
        &self,
        gate: Option<&Gate>,
        act: impl Fn(&mut Connection) -> Asked<T>,
    ) -> Result<Result<T, ApiError>, Stop> {
        let idle = Gate::new(Default::default());
        let has_answered = &self.known.has_answered;
        let mut patience = Patience::new();
        loop {
            let asked = self
                .connect(gate)
                .and_then(|mut connection| act(&mut connection));
            let trouble = match asked {
                Ok(answer) => {
                    has_answered.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            let mut access = self.clone();
            if !has_answered.load(Ordering::Relaxed) {
                if matches!(trouble, Trouble::Away(_)) {
                    return Err(self.troubled(trouble));
                }
                access.patience = self.patience.min(FIRST_ANSWER_TIME);
            }
            patience.wait(&access, trouble, gate.unwrap_or(&idle))?;
        }
    }

    /// What the stream is and holds.
    pub(super) fn look(&self, gate: Option<&Gate>) -> Result<StreamInfo, Stop> {
        let asked = self.once(gate, |connection| {
            connection.stream_info(&self.url.stream, gate)
        })?;
        asked.map_err(|error| self.answered(&error).into())
    }
}

/// The failure that a question without a gate ends with.
pub(super) fn ungated(stop: Stop) -> Failure {
    match stop {
        Stop::Failed(failure) => failure,
        Stop::Cancelled(_) => unreachable!("there was no gate"),
    }
}

/// Waits out trouble, up to a bound since the last success.
#[derive(Debug)]
pub(super) struct Patience {
    since: Option<Instant>,
    pause: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            since: None,
            pause: PAUSE_MIN,
        }
    }

    /// Something went on.
    pub(super) fn ease(&mut self) {
        if self.since.is_some() {
            *self = Self::new();
        }
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// [`Stop`]: it will not go away, took too long, or the job ended.
    pub(super) fn wait(
        &mut self,
        access: &Access,
        trouble: Trouble,
        gate: &Gate,
    ) -> Result<(), Stop> {
        let (Trouble::Lost(why) | Trouble::Away(why)) = trouble else {
            return Err(access.troubled(trouble));
        };
        access.try_another();
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= access.patience {
            return Err(access
                .failure(&format!(
                    "the server did not work for {} s, the last time: {why}; run the same command again when it does",
                    access.patience.as_secs()
                ))
                .into());
        }
        // Of many who lost the same server, not all come back at once.
        let until = Instant::now() + jittered(self.pause);
        while Instant::now() < until {
            gate.check()?;
            std::thread::sleep(LOOK.min(self.pause));
        }
        self.pause = (2 * self.pause).min(PAUSE_MAX);
        Ok(())
    }
}

/// Half of it at least, all of it at most.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause / 2 + pause.mul_f64((random % 1024) as f64 / 2048.0)
}

/// The body of a request for a consumer that acknowledges nothing and goes away by itself.
pub(super) fn consumer_config(stream: &str, start: &Value) -> Value {
    let mut config = json!({
        "ack_policy": "none",
        "replay_policy": "instant",
        "inactive_threshold": 60_000_000_000_u64,
        "mem_storage": true,
        "num_replicas": 1,
        "description": "tipple reads",
    });
    for (name, value) in start.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    json!({ "stream_name": stream, "config": config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let known = Known::default();
        assert_eq!(known.gone(), None);
        known.took(10, 20);
        known.took(30, 31);
        known.took(20, 22);
        known.took(5, 11);
        known.took(12, 13);
        assert_eq!(known.gone().unwrap(), "5 to 21, 30 to 30");
        for at in 0..2000 {
            known.took(100 + 2 * at, 101 + 2 * at);
        }
        assert!(known.gone().unwrap().ends_with(", and others"));
    }
}
