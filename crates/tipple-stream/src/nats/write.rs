//! Appending to a stream: each message says which one it must come right after, many are on their way at a time.

use std::collections::VecDeque;
use std::io::Write as _;
use std::time::Instant;

use serde::Deserialize;
use serde_json::json;
use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Party, Stop};

use super::api::{Access, ApiError, Patience, StreamInfo};
use super::headers;
use super::message::{self, Kept, PIECES_MAX, SPLIT_BYTES_MAX, Split, kept_of, kept_of_frame};
use super::restore::Described;
use super::wire::{Connection, Trouble, parse_number};
use crate::event::{Event, EventRef};
use crate::sink::{Appender, Tail};

/// Events that may be on their way, unanswered.
const WINDOW_EVENTS: usize = 4096;
/// Bytes of them, unless one is larger.
pub(super) const WINDOW_BYTES: usize = 8 << 20;
/// Bytes that are sent at a time.
const SEND_BYTES: usize = 64 << 10;

/// The sequence is not the expected one (errors.json of nats-server).
const WRONG_SEQUENCE: u64 = 10071;
/// Digits of the number of a connection in the subject of answers.
const LIFE_DIGITS: usize = 8;

static TOO_LARGE: Cause = Cause::loss("too large");
static NO_SUBJECT: Cause = Cause::loss("no key that is a subject of NATS");
static NO_PAYLOAD: Cause = Cause::loss("no payload");
static BAD_HEADER: Cause = Cause::loss("a header that NATS cannot hold");

/// The only writer of a stream.
pub(super) struct NatsWriter<'a> {
    access: Access,
    gate: &'a Gate,
    created: String,
    subjects: Vec<String>,
    message_bytes_max: u64,
    splits: bool,
    /// Pieces of the last event that are there, if it has more.
    begun: Option<Pieces>,
    connection: Option<Connection>,
    patience: Patience,
    /// Before the numbers of connection and message, in the subject of answers.
    inbox: String,
    life: u64,
    window: Window,
    /// The sequence of the first message of this writer.
    began: u64,
    block: Vec<u8>,
}

/// The first pieces of an event, put together.
#[derive(Debug)]
struct Pieces {
    /// Which one the last of them is.
    last: Split,
    /// With as much of the payload as there is.
    event: Event,
}

/// Messages, as they are sent, that were not acknowledged.
#[derive(Default)]
struct Window {
    /// The sequence of the first one.
    first: u64,
    bytes: Vec<u8>,
    /// Where it begins.
    from: usize,
    /// Up to where they were sent over this connection.
    sent: usize,
    ends: VecDeque<usize>,
}

impl Window {
    fn next(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    /// All up to `sequence` are stored.
    fn acknowledge(&mut self, sequence: u64) {
        let count = (sequence + 1).saturating_sub(self.first) as usize;
        let count = count.min(self.ends.len());
        if let Some(end) = self.ends.drain(..count).next_back() {
            self.from = end;
            self.sent = self.sent.max(end);
        }
        self.first += count as u64;
        if self.ends.is_empty() {
            self.bytes.clear();
            // A large one is not kept for ever.
            self.bytes.shrink_to(WINDOW_BYTES);
            (self.from, self.sent) = (0, 0);
        } else if self.from >= WINDOW_BYTES {
            self.bytes.drain(..self.from);
            self.sent -= self.from;
            for end in &mut self.ends {
                *end -= self.from;
            }
            self.from = 0;
        }
    }

    fn is_full(&self) -> bool {
        self.ends.len() >= WINDOW_EVENTS || self.bytes.len() - self.from >= WINDOW_BYTES
    }

    /// Half, so that the server always has something to do.
    fn is_half_full(&self) -> bool {
        self.ends.len() >= WINDOW_EVENTS / 2 || self.bytes.len() - self.from >= WINDOW_BYTES / 2
    }

    /// The message that gets `sequence`, as it is sent.
    fn frame(&self, sequence: u64) -> Option<&[u8]> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let end = *self.ends.get(at)?;
        let from = match at {
            0 => self.from,
            at => self.ends[at - 1],
        };
        Some(&self.bytes[from..end])
    }
}

impl<'a> NatsWriter<'a> {
    /// Becomes the only writer; of a stream that is made like another one, if it is not there.
    pub(super) fn open(
        access: Access,
        like: Option<&Described>,
        splits: bool,
        gate: &'a Gate,
    ) -> Result<Self, Stop> {
        let info = match (access.look_before_load(like, Some(gate))?, like) {
            (Some(info), _) => info,
            (None, Some(like)) => access.make(like, Some(gate))?,
            (None, None) => unreachable!("that is a failure"),
        };
        let refused = |trouble| access.troubled(trouble);
        let mut connection = access.connect(Some(gate)).map_err(refused)?;
        let of_server = connection.info.max_payload;
        let of_stream = u64::try_from(info.config.max_msg_size).unwrap_or(0);
        let message_bytes_max = match of_stream {
            0 => of_server,
            of_stream => of_server.min(of_stream),
        };
        let inbox = connection.new_inbox();
        let life = 0;
        connection
            .listen(&format!("{inbox}.{life:0LIFE_DIGITS$}.*"))
            .map_err(refused)?;
        Ok(Self {
            gate,
            created: info.created,
            subjects: info.config.subjects,
            message_bytes_max,
            splits,
            begun: None,
            connection: Some(connection),
            patience: Patience::new(),
            inbox,
            life,
            began: info.state.last_seq + 1,
            window: Window {
                first: info.state.last_seq + 1,
                ..Window::default()
            },
            block: Vec::new(),
            access,
        })
    }

    /// How much of the payload a piece of an event can have that is too large for one message; `None` if its headers
    /// leave less than half of a message, or there would be too many pieces.
    fn piece_bytes(&self, event: &EventRef<'_>) -> Option<u64> {
        let head = message::head_bytes(event) + SPLIT_BYTES_MAX;
        let room = self.message_bytes_max.checked_sub(head)?;
        let bytes = event.payload().map_or(0, <[u8]>::len) as u64;
        let is_enough = room >= self.message_bytes_max / 2 && bytes <= room * PIECES_MAX;
        (self.splits && is_enough).then_some(room)
    }

    /// Adds an event that is too large to the window, piece by piece; those that are there already are not added again.
    fn push_pieces(&mut self, event: &EventRef<'_>, room: u64) -> Result<(), Stop> {
        let payload = event.payload().expect("others were refused");
        let bytes = payload.len() as u64;
        let (mut piece, of, mut from) = match self.begun.take() {
            None => (0, bytes.div_ceil(room), 0),
            Some(there) => {
                let begun = there.event.payload.as_deref().unwrap_or_default();
                let is_same = there.last.bytes == bytes
                    && payload.starts_with(begun)
                    && event.is_but_payload(&there.event);
                let left = bytes - begun.len().min(payload.len()) as u64;
                if !is_same || left.div_ceil(there.last.of - there.last.piece) > room {
                    return Err(self
                        .access
                        .failure(&format!(
                            "it ends with {} of {} pieces of another event than {} of the dump, or takes less in a message than it did: load into an empty stream",
                            there.last.piece,
                            there.last.of,
                            event.place()
                        ))
                        .into());
                }
                (there.last.piece, there.last.of, begun.len())
            }
        };
        while piece < of {
            let share = (payload.len() - from).div_ceil((of - piece) as usize);
            piece += 1;
            let split = Split { piece, of, bytes };
            self.push(event, &payload[from..from + share], Some(split));
            from += share;
            self.keep_going()?;
        }
        Ok(())
    }

    /// Sends what there is enough of.
    fn keep_going(&mut self) -> Result<(), Stop> {
        match self.window.is_full() {
            true => self.advance(|window| !window.is_half_full(), true),
            false if self.window.bytes.len() - self.window.sent >= SEND_BYTES => {
                self.advance(|_| true, false)
            }
            false => Ok(()),
        }
    }

    /// Adds the event to the window, or a piece of it.
    fn push(&mut self, event: &EventRef<'_>, payload: &[u8], split: Option<Split>) {
        let sequence = self.window.next();
        let block = &mut self.block;
        message::headers_of(event, sequence - 1, split, block);

        let bytes = &mut self.window.bytes;
        bytes.extend_from_slice(b"HPUB ");
        bytes.extend_from_slice(event.key().expect("others were refused"));
        let (inbox, life) = (&self.inbox, self.life);
        let (of_headers, all) = (block.len(), block.len() + payload.len());
        write!(
            bytes,
            " {inbox}.{life:0LIFE_DIGITS$}.{sequence} {of_headers} {all}\r\n"
        )
        .expect("into memory");
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.window.ends.push_back(bytes.len());
    }

    /// Sends what is waiting, and takes answers until `is_enough`; over new connections where need be.
    fn advance(
        &mut self,
        is_enough: impl Fn(&Window) -> bool,
        sends_all: bool,
    ) -> Result<(), Stop> {
        loop {
            let before = self.window.first;
            match self.try_advance(&is_enough, sends_all) {
                Ok(()) => return Ok(()),
                Err(Wrong::Stop(stop)) => return Err(stop),
                Err(Wrong::Trouble(trouble)) => {
                    self.connection = None;
                    if self.window.first > before {
                        self.patience.ease();
                    }
                    self.patience.wait(&self.access, trouble, self.gate)?;
                }
            }
        }
    }

    fn try_advance(
        &mut self,
        is_enough: &impl Fn(&Window) -> bool,
        sends_all: bool,
    ) -> Result<(), Wrong> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reconnect()?,
        };
        let window = &mut self.window;
        if sends_all || window.bytes.len() - window.sent >= SEND_BYTES {
            connection.send(&window.bytes[window.sent..])?;
            window.sent = window.bytes.len();
        }
        while connection.is_at_hand()? {
            answered(&connection, &self.access, window)?;
        }
        while !is_enough(window) {
            if window.sent < window.bytes.len() {
                connection.send(&window.bytes[window.sent..])?;
                window.sent = window.bytes.len();
            }
            if !connection.wait(Instant::now() + connection.answer_time(), Some(self.gate))? {
                return Err(Trouble::Lost("it acknowledges nothing".into()).into());
            }
            answered(&connection, &self.access, window)?;
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// That the stream's limits leave there what was loaded: those that drop the oldest say nothing.
    fn check_kept(&mut self) -> Result<(), Stop> {
        let written = self.window.first - self.began;
        if written == 0 {
            return Ok(());
        }
        let stream = &self.access.url.stream;
        let gate = Some(self.gate);
        let asked = match &mut self.connection {
            Some(connection) => connection.stream_info(stream, gate),
            None => Err(Trouble::Lost(String::new())),
        };
        let info = match asked {
            Ok(asked) => asked.map_err(|error| self.access.answered(&error))?,
            Err(_) => {
                self.connection = None;
                self.access.look(gate)?
            }
        };
        let state = &info.state;
        let gone =
            (state.first().saturating_sub(self.began)).max(written.saturating_sub(state.messages));
        match gone {
            0 => Ok(()),
            gone => Err(self
                .access
                .failure(&format!(
                    "{gone} of the {written} messages that were just loaded are gone already: its limits (max_msgs, max_bytes, max_msgs_per_subject, max_age) drop them; raise those (nats stream edit), or load into a stream that is not there yet"
                ))
                .into()),
        }
    }

    /// A new connection, after a look what of the window the stream has.
    fn reconnect(&mut self) -> Result<Connection, Wrong> {
        let mut connection = self.access.connect(Some(self.gate))?;
        let stream = &self.access.url.stream;
        let info = connection.stream_info(stream, Some(self.gate))?;
        let info = info.map_err(|error| self.access.answered(&error))?;
        let last = info.state.last_seq;
        if info.created != self.created {
            return Err(self
                .access
                .failure("it was made anew while it was loaded: run the same command again")
                .into());
        }
        if last + 1 < self.window.first {
            return Err(self
                .access
                .failure(&format!(
                    "it ends at message {last}, and had acknowledged {}: the server has lost messages; run the same command again, which goes on behind what is there",
                    self.window.first - 1
                ))
                .into());
        }
        if last >= self.window.first {
            // All of them: the number alone does not keep others out, since what comes after a message of theirs is again at
            // the place that it expects.
            let mut foreign = None;
            let range = self.window.first..=last.min(self.window.next());
            let asked = connection.stored_range(stream, range, self.gate, |sequence, stored| {
                let ours = self.window.frame(sequence).and_then(kept_of_frame);
                if ours.is_none() || stored.as_ref().and_then(kept_of) != ours {
                    foreign = Some(foreign.map_or(sequence, |first: u64| first.min(sequence)));
                }
            })?;
            asked.map_err(|error| self.access.answered(&error))?;
            if let Some(sequence) = foreign {
                return Err(foreign_message(&self.access, sequence).into());
            }
            self.window.acknowledge(last);
            self.patience.ease();
        }
        self.life += 1;
        connection.listen(&format!("{}.{:0LIFE_DIGITS$}.*", self.inbox, self.life))?;
        self.renew();
        Ok(connection)
    }

    /// Lets the answers to what is waiting go to this connection, so that those of the one before are not mistaken.
    fn renew(&mut self) {
        let life = format!("{:0LIFE_DIGITS$}", self.life);
        let window = &mut self.window;
        let mut from = window.from;
        for end in &window.ends {
            let frame = &mut window.bytes[from..*end];
            let answer = memchr::memchr_iter(b' ', frame)
                .nth(1)
                .expect("HPUB subject answer")
                + 1;
            let at = answer + self.inbox.len() + 1;
            frame[at..at + LIFE_DIGITS].copy_from_slice(life.as_bytes());
            from = *end;
        }
        window.sent = window.from;
    }
}

fn foreign_message(access: &Access, sequence: u64) -> Failure {
    access.failure(&format!(
        "somebody else has written or deleted message {sequence} of it: a load needs a stream of its own; empty it (nats stream purge), and run the same command again"
    ))
}

impl NatsWriter<'_> {
    /// The event of which the message `sequence` is the piece `last`, as far as it is there.
    fn put_together(&mut self, sequence: u64, tail: Tail, last: Split) -> Result<Tail, Failure> {
        let stream = &self.access.url.stream;
        let first = (sequence + 1).saturating_sub(last.piece);
        let mut pieces: Vec<Option<Kept>> = Vec::new();
        pieces.resize_with(last.piece as usize, || None);
        let pieces = std::cell::RefCell::new(pieces);
        let asked = self.access.once(None, |connection| {
            connection.stored_range(stream, first..=sequence, self.gate, |at, stored| {
                pieces.borrow_mut()[(at - first) as usize] = stored.as_ref().and_then(kept_of);
            })
        });
        let asked = asked.map_err(|stop| match stop {
            Stop::Failed(failure) => failure,
            Stop::Cancelled(_) => self.access.failure("the job has ended"),
        })?;
        asked.map_err(|error| self.access.answered(&error))?;
        let mut whole: Option<Event> = None;
        for (at, piece) in (first..).zip(pieces.into_inner()) {
            let number = at - first + 1;
            let expected = Split {
                piece: number,
                ..last
            };
            let piece = piece
                .filter(|kept| kept.split == Some(expected) && kept.tail.origin == tail.origin);
            let event = piece
                .ok_or_else(|| foreign_message(&self.access, at))?
                .tail
                .event;
            match &mut whole {
                None => whole = Some(event),
                Some(whole) => {
                    let payload = whole.payload.get_or_insert_default();
                    payload.extend_from_slice(&event.payload.unwrap_or_default());
                }
            }
        }
        let event = whole.expect("there is at least one");
        let is_begun = last.piece < last.of;
        if is_begun {
            self.begun = Some(Pieces {
                last,
                event: event.clone(),
            });
        }
        Ok(Tail {
            event,
            is_begun,
            ..tail
        })
    }
}

/// A target that cannot be one.
pub(super) fn check(access: &Access, info: &StreamInfo) -> Result<(), Failure> {
    let why = match &info.config {
        config if config.sealed => "it is sealed",
        config if config.mirror.is_some() || config.sources.is_some() => {
            "it gets its messages from another stream"
        }
        config if config.subjects.is_empty() => "it has no subjects",
        config if config.retention != "limits" => {
            "it forgets messages when they are acknowledged, so that it cannot tell how far a load got"
        }
        config if config.no_ack => "it acknowledges nothing (no_ack)",
        _ => return Ok(()),
    };
    Err(Failure::new(
        Party::Usage,
        format!(
            "cannot load into {}: {why}; give a stream of its own",
            access.url
        ),
    ))
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
}

/// Takes the answer that the connection has.
fn answered(connection: &Connection, access: &Access, window: &mut Window) -> Result<(), Wrong> {
    let message = connection.message();
    let of = message.subject.rsplit(|byte| *byte == b'.').next();
    let Some(sequence) = of.and_then(parse_number) else {
        return Ok(());
    };
    if let Some((503, _)) = headers::status(message.headers) {
        return Err(Trouble::Lost("its JetStream does not answer".into()).into());
    }
    let acknowledgement: Acknowledgement = serde_json::from_slice(message.payload)
        .map_err(|_| Trouble::Lost("its answer is unreadable".into()))?;
    match acknowledgement.error {
        // It may be that the server had stored it, and we did not hear of it: the look at its last message tells.
        Some(error) if error.err_code == WRONG_SEQUENCE || error.code == 503 => {
            Err(Trouble::Lost(format!("it says {:?}", error.description)).into())
        }
        Some(error) => Err(access.answered(&error).into()),
        None if acknowledgement.seq != sequence => Err(access
            .failure(&format!(
                "it stored message {sequence} as {}: another stream has this subject",
                acknowledgement.seq
            ))
            .into()),
        None => {
            window.acknowledge(sequence);
            Ok(())
        }
    }
}

/// Why a writer does not go on as it is.
enum Wrong {
    Trouble(Trouble),
    Stop(Stop),
}

impl From<Trouble> for Wrong {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Stop(failure.into())
    }
}

impl Appender for NatsWriter<'_> {
    fn tail(&mut self) -> Result<Option<Tail>, Failure> {
        let which = json!({ "last_by_subj": ">" });
        let stream = &self.access.url.stream;
        let first_foreign = std::cell::Cell::new(None);
        let found = self.access.once(None, |connection| {
            let found = match connection.stored(stream, &which, None)? {
                Ok(Some(found)) => found,
                answer => return Ok(answer),
            };
            // What a load that was killed had on its way: a message of somebody else among them took the place of one.
            let from = (found.sequence + 1).saturating_sub(WINDOW_EVENTS as u64);
            let from = connection
                .stream_info(stream, None)?
                .map_or(from, |info| from.max(info.state.first()));
            let range = from..=found.sequence;
            let asked = connection.stored_range(stream, range, self.gate, |sequence, stored| {
                if stored.as_ref().and_then(kept_of).is_none() {
                    let first = first_foreign.get().unwrap_or(sequence);
                    first_foreign.set(Some(first.min(sequence)));
                }
            })?;
            Ok(asked.map(|()| Some(found)))
        });
        let found = found.map_err(|stop| match stop {
            Stop::Failed(failure) => failure,
            Stop::Cancelled(_) => self.access.failure("the job has ended"),
        })?;
        let Some(stored) = found.map_err(|error| self.access.answered(&error))? else {
            return Ok(None);
        };
        if let Some(sequence) = first_foreign.get() {
            return Err(foreign_message(&self.access, sequence));
        }
        // What a load that was broken off had on its way may have come since this one was opened.
        self.window.first = self.window.first.max(stored.sequence + 1);
        self.began = self.window.first;
        let Some(kept) = kept_of(&stored) else {
            return Ok(None);
        };
        match kept.split {
            None => Ok(Some(kept.tail)),
            Some(last) => self
                .put_together(stored.sequence, kept.tail, last)
                .map(Some),
        }
    }

    fn refuses(&self, event: &EventRef<'_>) -> Option<&'static Cause> {
        if !event.key().is_some_and(is_subject) {
            return Some(&NO_SUBJECT);
        }
        let Some(payload) = event.payload() else {
            return Some(&NO_PAYLOAD);
        };
        if !(event.headers()).all(|(name, value)| headers::fits(name, value)) {
            return Some(&BAD_HEADER);
        }
        let bytes = message::head_bytes(event) + payload.len() as u64;
        let fits = bytes <= self.message_bytes_max || self.piece_bytes(event).is_some();
        (!fits).then_some(&TOO_LARGE)
    }

    fn append(&mut self, event: &EventRef<'_>) -> Result<(), Stop> {
        let key = event.key().expect("others were refused");
        if !(self.subjects.iter()).any(|filter| matches(filter.as_bytes(), key)) {
            return Err(self
                .access
                .failure(&format!(
                    "it does not listen to the subject {:?} of event {}: add it (nats stream edit --subjects), and run the same command again",
                    String::from_utf8_lossy(key),
                    event.place()
                ))
                .into());
        }
        let payload = event.payload().expect("others were refused");
        let bytes = message::head_bytes(event) + payload.len() as u64;
        match self.piece_bytes(event) {
            Some(room) if bytes > self.message_bytes_max || self.begun.is_some() => {
                self.push_pieces(event, room)
            }
            _ => {
                self.push(event, payload, None);
                self.keep_going()
            }
        }
    }

    fn commit(&mut self) -> Result<(), Stop> {
        self.advance(|window| window.ends.is_empty(), true)?;
        self.check_kept()
    }
}

/// A subject that can be published to.
fn is_subject(key: &[u8]) -> bool {
    let is_token = |token: &[u8]| {
        let is_good = |byte: &u8| !byte.is_ascii_whitespace() && !byte.is_ascii_control();
        !token.is_empty() && token.iter().all(is_good) && token != b"*" && token != b">"
    };
    // The server's own line is 4 KiB at most.
    key.len() <= 2048 && key.split(|byte| *byte == b'.').all(is_token)
}

/// Whether a filter, such as `a.*.>`, has the subject.
pub(super) fn matches(filter: &[u8], subject: &[u8]) -> bool {
    let (mut filters, mut tokens) = (
        filter.split(|byte| *byte == b'.'),
        subject.split(|byte| *byte == b'.'),
    );
    loop {
        match (filters.next(), tokens.next()) {
            (Some(b">"), Some(_)) | (None, None) => return true,
            (Some(b"*"), Some(_)) => {}
            (Some(filter), Some(token)) if filter == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_told_from_others() {
        for (filter, subject, is) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a.b", true),
            ("*.b", "a.b", true),
        ] {
            assert_eq!(
                matches(filter.as_bytes(), subject.as_bytes()),
                is,
                "{filter} {subject}"
            );
        }
        for good in ["a", "a.b", "ü.$x", "a*b"] {
            assert!(is_subject(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ".", "a.", ".a", "a..b", "a b", "a\r", "*", "a.>", "a.*.b",
        ] {
            assert!(!is_subject(bad.as_bytes()), "{bad}");
        }
    }
}
