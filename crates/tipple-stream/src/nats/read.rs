//! Reading a stream by ranges: an ephemeral pull consumer, made anew wherever one was lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Outcomes, Party, RecordWriter, Stop};

use super::api::{Access, ApiError, Patience, StreamInfo, consumer_config};
use super::headers;
use super::wire::{ANSWERS, Connection, Message, Trouble, parse_number};
use crate::event::encode;
use crate::place::{Numbering, Place};
use crate::source::{RangeReader, Span};

/// Requests for messages that wait at the server at a time, so that it always has one to serve.
const REQUESTS: usize = 2;
/// Messages that younger requests get at most while an older one waits for its turn.
const PASSED_MAX: u32 = 64;
/// Messages of a request at most.
const BATCH: u64 = 20_000;
/// Bytes of a request at most, unless one message is larger: what the server sends without being asked again.
pub(super) const BATCH_BYTES: u64 = 4 << 20;
/// The most that a message may make of it.
const BATCH_BYTES_MAX: u64 = 1 << 30;
/// How long a request waits at the server.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often it says that it is there while nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// So much silence means that no request is there any more, though none was said to have ended.
const SILENCE: Duration = Duration::from_secs(3);
/// Gaps that are held until it is asked what they are.
const GAPS_MAX: usize = 4096;
/// How long at most.
const GAPS_TIME: Duration = Duration::from_millis(200);

static DELETED: Cause = Cause::outcome("deleted");
static GONE: Cause = Cause::loss("gone by retention");

/// Reads ranges.
pub(super) struct NatsReader {
    access: Access,
    session: Option<Session>,
    /// When the stream was made: another one of its name is not read on.
    created: Option<String>,
    batch_bytes: u64,
    record: Vec<u8>,
}

/// A consumer, and what it was asked for.
struct Session {
    connection: Connection,
    consumer: String,
    /// Whether there was nothing for it when it was made.
    is_empty: bool,
    inbox: String,
    /// The sequence of the stream that it began at, or comes next.
    next: u64,
    /// How many messages the consumer has delivered.
    delivered: u64,
    requests: VecDeque<Request>,
}

#[derive(Deserialize)]
struct Made {
    name: String,
    #[serde(default)]
    num_pending: u64,
}

struct Request {
    /// Of its subscription, so that it is known what was sent for it.
    number: u64,
    left: u64,
    /// Whether any message came by it.
    served: bool,
    /// Messages that came by younger requests since the last one by this.
    passed: u32,
}

/// Where a reader is in its range.
struct Progress<'a, 'w> {
    next: u64,
    to: u64,
    out: &'a mut RecordWriter<'w>,
    gaps: Gaps,
    outcomes: Outcomes,
}

/// What is missing, until it is known why.
struct Gaps {
    open: Vec<(u64, u64)>,
    since: Instant,
}

/// What an acknowledgement's subject says of a message.
struct Delivery {
    stream_sequence: u64,
    consumer_sequence: u64,
    time: i64,
    pending: u64,
}

impl NatsReader {
    pub(super) fn new(access: Access, created: String) -> Self {
        Self {
            access,
            session: None,
            created: Some(created),
            batch_bytes: BATCH_BYTES,
            record: Vec::new(),
        }
    }

    /// What the stream is and holds; it must be the one that it was.
    fn info(&self, connection: &mut Connection, gate: &Gate) -> Result<StreamInfo, Wrong> {
        let asked = connection.stream_info(&self.access.url.stream, Some(gate))?;
        let info = asked.map_err(|error| self.access.answered(&error))?;
        match self.created.as_ref() == Some(&info.created) {
            true => Ok(info),
            false => Err(self
                .access
                .failure("it was made anew while it was read: run the same command again, which starts over")
                .into()),
        }
    }

    /// A consumer that begins at `from`.
    fn begin(&self, from: u64, gate: &Gate) -> Result<Session, Wrong> {
        let stream = &self.access.url.stream;
        let mut connection = self.access.connect(Some(gate))?;
        self.info(&mut connection, gate)?;
        let start = json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": from.max(1) });
        let made: Result<Made, ApiError> = connection.ask(
            &format!("CONSUMER.CREATE.{stream}"),
            &consumer_config(stream, &start),
            Some(gate),
        )?;
        let made = made.map_err(|error| self.access.answered(&error))?;
        let inbox = connection.new_inbox();
        Ok(Session {
            connection,
            consumer: made.name,
            is_empty: made.num_pending == 0,
            inbox,
            next: from,
            delivered: 0,
            requests: VecDeque::new(),
        })
    }

    /// Takes what comes, until the range ends.
    fn pump(&mut self, progress: &mut Progress<'_, '_>) -> Result<(), Wrong> {
        let gate = progress.out.gate();
        let is_ours =
            |session: &Session| session.next == progress.next && session.requests.is_empty();
        let mut session = match self.session.take().filter(is_ours) {
            Some(session) => session,
            None => self.begin(progress.next, gate)?,
        };
        let mut silent = 0;
        if session.is_empty {
            self.look_ahead(&mut session, progress)?;
        }
        while progress.next < progress.to {
            session.ask_for_more(&self.access.url.stream, progress.to, self.batch_bytes)?;
            if !session
                .connection
                .wait(Instant::now() + SILENCE, Some(gate))?
            {
                session.forget(session.requests.len())?;
                silent += 1;
                if silent * SILENCE >= session.connection.answer_time() {
                    return Err(Trouble::Lost("it has fallen silent".into()).into());
                }
                continue;
            }
            silent = 0;
            match session.take(progress, &mut self.record)? {
                Taken::Message { pending: 0 } if progress.next < progress.to => {
                    // Trusted only after a look: the server counts what is pending by estimates.
                    self.look_ahead(&mut session, progress)?;
                }
                Taken::Message { .. } | Taken::Nothing => {}
                Taken::Ended => self.look_ahead(&mut session, progress)?,
                Taken::TooLarge => {
                    self.batch_bytes = (2 * self.batch_bytes).min(BATCH_BYTES_MAX);
                }
            }
            if progress.gaps.are_due() {
                self.settle(&mut session, progress)?;
            }
        }
        if !progress.gaps.open.is_empty() {
            self.settle(&mut session, progress)?;
        }
        session.next = progress.next;
        if session.requests.is_empty() {
            self.session = Some(session);
        } else {
            session.end(&self.access.url.stream);
        }
        Ok(())
    }

    /// Where the next message is, if it is in the range: goes on there, or ends the range.
    fn look_ahead(
        &self,
        session: &mut Session,
        progress: &mut Progress<'_, '_>,
    ) -> Result<(), Wrong> {
        let gate = progress.out.gate();
        let connection = &mut session.connection;
        self.info(connection, gate)?;
        let which = json!({ "seq": progress.next.max(1), "next_by_subj": ">" });
        let found = connection.stored(&self.access.url.stream, &which, Some(gate))?;
        let found = found.map_err(|error| self.access.answered(&error))?;
        match found {
            Some(stored) if stored.sequence < progress.to => {
                Err(Trouble::Lost("the consumer does not deliver".into()).into())
            }
            _ => {
                progress.gaps.add(progress.next, progress.to);
                progress.next = progress.to;
                Ok(())
            }
        }
    }

    /// Asks where the stream begins now, and counts what is missing by that.
    fn settle(&self, session: &mut Session, progress: &mut Progress<'_, '_>) -> Result<(), Wrong> {
        // Over a connection of its own if messages are on their way: what is not asked for is lost in a request.
        let gate = progress.out.gate();
        let info = match session.requests.is_empty() {
            true => self.info(&mut session.connection, gate)?,
            false => {
                let mut connection = self.access.connect(Some(gate))?;
                self.info(&mut connection, gate)?
            }
        };
        progress
            .gaps
            .settle(info.state.first(), &self.access, &mut progress.outcomes);
        Ok(())
    }
}

/// Why a reader does not go on as it is.
enum Wrong {
    Trouble(Trouble),
    Stop(Stop),
}

impl From<Trouble> for Wrong {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Stop> for Wrong {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Stop(failure.into())
    }
}

impl RangeReader for NatsReader {
    fn read(
        &mut self,
        span: Span,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let gate = out.gate();
        let mut patience = Patience::new();
        let mut progress = Progress {
            next: span.from.parts().1,
            to: span.to.parts().1,
            out,
            gaps: Gaps::new(),
            outcomes: Outcomes::default(),
        };
        while progress.next < progress.to || !progress.gaps.open.is_empty() {
            let before = progress.next;
            match self.pump(&mut progress) {
                Ok(()) => {}
                Err(Wrong::Stop(stop)) => return Err(stop),
                Err(Wrong::Trouble(trouble)) => {
                    if progress.next > before {
                        patience.ease();
                    }
                    patience.wait(&self.access, trouble, gate)?;
                }
            }
        }
        outcomes.merge(&progress.outcomes);
        Ok(())
    }
}

/// What came.
enum Taken {
    Message {
        pending: u64,
    },
    /// A sign of life, or something that was not meant for this consumer.
    Nothing,
    /// A request ended before it was served.
    Ended,
    /// The same, since the next message is larger than all of it.
    TooLarge,
}

impl Session {
    /// Keeps the server busy, but never asks for more than the range has.
    fn ask_for_more(&mut self, stream: &str, to: u64, batch_bytes: u64) -> Result<(), Trouble> {
        while self.requests.len() < REQUESTS {
            let asked: u64 = self.requests.iter().map(|request| request.left).sum();
            let batch = (to - self.next).saturating_sub(asked).min(BATCH);
            if batch == 0 {
                return Ok(());
            }
            let body = json!({
                "batch": batch,
                "max_bytes": batch_bytes,
                "expires": EXPIRES.as_nanos() as u64,
                "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
            })
            .to_string();
            let (consumer, inbox, bytes) = (&self.consumer, &self.inbox, body.len());
            let answer = format!("{inbox}.{}", self.connection.next_subscription());
            let number = self.connection.listen(&answer)?;
            let request = format!(
                "PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer} {answer} {bytes}\r\n{body}\r\n"
            );
            self.connection.send(request.as_bytes())?;
            self.requests.push_back(Request {
                number,
                left: batch,
                served: false,
                passed: 0,
            });
        }
        Ok(())
    }

    /// Takes the message that the connection has.
    fn take(
        &mut self,
        progress: &mut Progress<'_, '_>,
        record: &mut Vec<u8>,
    ) -> Result<Taken, Wrong> {
        let message = self.connection.message();
        if message.subscription == ANSWERS {
            return Ok(Taken::Nothing);
        }
        let Some(delivery) = Delivery::of(message.reply) else {
            let (number, words) = match headers::status(message.headers) {
                // It has delivered nothing for a while.
                Some((100, _)) => return Ok(Taken::Ended),
                Some(status) => status,
                None => return Ok(Taken::Nothing),
            };
            return self.request_ended(message.subscription, number, &words);
        };
        if delivery.consumer_sequence != self.delivered + 1 {
            return Err(Trouble::Lost("a message got lost on its way".into()).into());
        }
        self.delivered += 1;
        self.note_served(message.subscription)?;
        let message = self.connection.message();
        let sequence = delivery.stream_sequence;
        if sequence < progress.next {
            return Err(Trouble::Lost("messages came out of order".into()).into());
        }
        let within = sequence.min(progress.to);
        progress.gaps.add(progress.next, within);
        progress.next = within;
        if sequence < progress.to {
            write(&message, &delivery, progress.out, record)?;
            progress.next = sequence + 1;
        }
        self.next = sequence + 1;
        Ok(Taken::Message {
            pending: delivery.pending,
        })
    }

    /// A message came by a request. The server serves all that wait in turn (before 2.9, one after the other), and one that
    /// is used up to its last byte ends without a word: it is over when younger ones are served, and it is not.
    fn note_served(&mut self, subscription: u64) -> Result<(), Trouble> {
        let of = |request: &Request| request.number == subscription;
        let Some(at) = self.requests.iter().position(of) else {
            return Ok(());
        };
        let request = &mut self.requests[at];
        request.left -= 1;
        (request.served, request.passed) = (true, 0);
        for older in self.requests.iter_mut().take(at) {
            older.passed += 1;
        }
        let is_over = |request: &Request| request.left == 0 || request.passed > PASSED_MAX;
        while let Some(at) = self.requests.iter().position(is_over) {
            let request = self.requests.remove(at).expect("just found");
            self.connection.unsubscribe(request.number)?;
        }
        Ok(())
    }

    /// The first `requests` are over.
    fn forget(&mut self, requests: usize) -> Result<(), Trouble> {
        for request in self.requests.drain(..requests) {
            self.connection.unsubscribe(request.number)?;
        }
        Ok(())
    }

    fn request_ended(&mut self, number: u64, status: u16, words: &str) -> Result<Taken, Wrong> {
        let Some(at) = (self.requests.iter()).position(|request| request.number == number) else {
            return Ok(Taken::Nothing);
        };
        let request = self.requests.remove(at).expect("just found");
        self.connection.unsubscribe(request.number)?;
        let is_size = words.contains("MaxBytes");
        match (status, request.served) {
            (409, true) if is_size => Ok(Taken::Nothing),
            // Not even the first message: the next request asks for more.
            (409, false) if is_size => Ok(match self.requests.is_empty() {
                true => Taken::TooLarge,
                // The one before took what there was.
                false => Taken::Nothing,
            }),
            (404 | 408, _) => Ok(Taken::Ended),
            _ => Err(Trouble::Lost(format!("its consumer says {status} {words}")).into()),
        }
    }

    /// Takes the consumer away; it would go by itself.
    fn end(mut self, stream: &str) {
        let delete = format!(
            "PUB $JS.API.CONSUMER.DELETE.{stream}.{} 0\r\n\r\n",
            self.consumer
        );
        let _ = self.connection.send(delete.as_bytes());
    }
}

/// Writes a message as an event.
fn write(
    message: &Message<'_>,
    delivery: &Delivery,
    out: &mut RecordWriter<'_>,
    record: &mut Vec<u8>,
) -> Result<(), Wrong> {
    let place = Place::sequence(delivery.stream_sequence);
    record.clear();
    encode(
        place,
        Numbering::Sequence,
        Some(delivery.time),
        Some(message.subject),
        headers::each(message.headers),
        Some(message.payload),
        record,
    )
    .map_err(|bytes| {
        Failure::new(
            Party::Source,
            format!("message {place} of NATS is an event of {bytes} bytes, or of more than 65535 headers: read around it with --from and --to"),
        )
    })?;
    out.record(&[record], place.position(Numbering::Sequence))?;
    // A large one is not kept for ever.
    record.shrink_to(BATCH_BYTES as usize);
    Ok(())
}

impl Delivery {
    /// `$JS.ACK.<stream>.<consumer>.<n>.<stream sequence>.<consumer sequence>.<ns>.<pending>`, with two words more after
    /// `ACK`, and perhaps one more at the end, of later servers.
    fn of(reply: &[u8]) -> Option<Self> {
        let rest = reply.strip_prefix(b"$JS.ACK.")?;
        let words = memchr::memchr_iter(b'.', rest).count() + 1;
        let skip = if words >= 9 { 5 } else { 3 };
        let mut words = rest.split(|byte| *byte == b'.').skip(skip);
        let mut number = || parse_number(words.next()?);
        Some(Self {
            stream_sequence: number()?,
            consumer_sequence: number()?,
            time: i64::try_from(number()?).ok()?,
            pending: number()?,
        })
    }
}

impl Gaps {
    fn new() -> Self {
        Self {
            open: Vec::new(),
            since: Instant::now(),
        }
    }

    fn add(&mut self, from: u64, to: u64) {
        if from < to {
            if self.open.is_empty() {
                self.since = Instant::now();
            }
            self.open.push((from, to));
        }
    }

    /// Soon, since what retention takes later would be counted as lost.
    fn are_due(&self) -> bool {
        !self.open.is_empty() && (self.open.len() >= GAPS_MAX || self.since.elapsed() >= GAPS_TIME)
    }

    /// What is before the stream's `first` message was taken by retention or a purge since the range was planned; what is
    /// behind it, was deleted by itself.
    fn settle(&mut self, first: u64, access: &Access, outcomes: &mut Outcomes) {
        for (from, to) in self.open.drain(..) {
            let gone = to.min(first.max(from)) - from;
            outcomes.add(&GONE, gone);
            if gone > 0 {
                access.known.took(from, from + gone);
            }
            outcomes.add(&DELETED, to - from - gone);
        }
    }
}

/// The sequence of the first message at a time or later; `None` if there is none.
pub(super) fn sequence_at(
    access: &Access,
    connection: &mut Connection,
    time: &str,
) -> Result<Result<Option<u64>, ApiError>, Trouble> {
    let stream = &access.url.stream;
    let start = json!({ "deliver_policy": "by_start_time", "opt_start_time": time });
    let create = format!("CONSUMER.CREATE.{stream}");
    let made: Result<Made, ApiError> =
        connection.ask(&create, &consumer_config(stream, &start), None)?;
    let name = match made {
        Ok(made) => made.name,
        Err(error) => return Ok(Err(error)),
    };
    // Not as a request: what comes bears its own subject.
    let (subscription, inbox) = connection.subscribe()?;
    let body = r#"{"batch":1,"no_wait":true}"#;
    let bytes = body.len();
    let next =
        format!("PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{name} {inbox}1 {bytes}\r\n{body}\r\n");
    connection.send(next.as_bytes())?;
    let until = Instant::now() + connection.answer_time();
    loop {
        if !connection.wait(until, None)? {
            return Err(Trouble::Lost("its consumer does not answer".into()));
        }
        if connection.message().subscription == subscription {
            break;
        }
    }
    let message = connection.message();
    let found = match (
        Delivery::of(message.reply),
        headers::status(message.headers),
    ) {
        (Some(delivery), _) => Some(delivery.stream_sequence),
        (None, Some((404, _))) => None,
        (None, _) => return Err(Trouble::Lost("its answer is unreadable".into())),
    };
    let delete = format!("PUB $JS.API.CONSUMER.DELETE.{stream}.{name} 0\r\n\r\n");
    connection.send(delete.as_bytes())?;
    Ok(Ok(found))
}
