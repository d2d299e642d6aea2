//! The way of one writer to one server: requests out, refusals back.
//!
//! Requests are appended to a *window*, and leave in batches. All carry `q`, so the server is silent about what it
//! stored and answers only what it refused; the `mn` that ends a batch is answered `MN`, and then everything before it
//! was either stored or refused. What is not yet acknowledged so stays in the window: after a lost connection it is
//! sent again. A value that does not fit in the window is streamed past it, and cannot be sent again.
//!
//! # Why it cannot deadlock
//! The only way to deadlock with a server is to wait until it reads while it waits until we read. While we wait to
//! send, [`Connection::send`] takes what the server says into the receive buffer, for which there is always room: no
//! more requests are in flight than there are [`REPLY_BYTES_MAX`] in that buffer.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Outcomes, Party, Stop};

use crate::connection::{Connection, ConnectionError};
use crate::items::{Item, ItemReader, KEY_BYTES_MAX, NEVER};
use crate::life::Life;
use crate::options::{BUFFER_BYTES_MIN, MemcachedOptions};
use crate::retry::Retry;
use crate::sink::StoreMode;
use crate::url::Server;

/// A request but for its value, at most, in either protocol.
const HEAD_BYTES_MAX: usize = 320;
/// Sent behind every value, and behind every batch.
const VALUE_END: &[u8] = b"\r\n";
const MARK: &[u8] = b"mn\r\n";
/// The longest reply to a request, with some to spare: `SERVER_ERROR out of memory storing object` has 43 bytes.
const REPLY_BYTES_MAX: usize = 64;
/// The longest line that is looked at.
const LINE_BYTES_MAX: usize = 2048;
/// Bytes of requests after which a batch is sent.
const BATCH_BYTES: usize = 128 << 10;
/// The longest raw key whose base64 form is a key that the text protocol takes.
const BASE64_KEY_BYTES_MAX: usize = KEY_BYTES_MAX / 4 * 3;
/// The longest value that the protocols can announce.
const SENT_VALUE_BYTES_MAX: u32 = i32::MAX as u32 - 2;

const _: () = assert!(BASE64_KEY_BYTES_MAX.div_ceil(3) * 4 <= KEY_BYTES_MAX);

static ALREADY_THERE: Cause = Cause::outcome("already there");
static TOO_LARGE: Cause = Cause::loss("too large for the server");
static OUT_OF_MEMORY: Cause = Cause::loss("out of memory");
static SERVER_ERROR: Cause = Cause::loss("server error");
static KEY_CANNOT_BE_SENT: Cause = Cause::loss("key cannot be sent");

/// What all lanes to a server share.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub server: &'a Server,
    pub options: &'a MemcachedOptions,
    pub mode: StoreMode,
    pub window_bytes: usize,
    /// The life of the server that the load began with.
    pub life: Option<Life>,
    pub gate: &'a Gate,
}

pub(crate) struct Lane<'a> {
    target: Target<'a>,
    connection: Option<Connection>,
    retry: Retry<'a>,
    // Requests: ..acked are acknowledged, acked..sent are on their way, sent.. are not.
    window: Vec<u8>,
    acked: usize,
    sent: usize,
    // On their way, oldest first.
    batches: VecDeque<Batch>,
    in_flight: usize,
    // Requests behind the last mark.
    open: usize,
    // Refusals of the oldest batch so far. They count when the batch is acknowledged, since it may be sent again.
    tally: Tally,
    // Heads of requests that do not go through the window.
    head: Vec<u8>,
    binary: Binary,
}

struct Batch {
    end: usize,
    requests: usize,
}

/// The connection that speaks the binary protocol, for keys that the text protocol cannot carry.
enum Binary {
    Untried,
    Connected(Box<Connection>),
    Refused,
}

#[derive(Default)]
struct Tally {
    already_there: u64,
    too_large: u64,
    out_of_memory: u64,
    server_error: u64,
}

impl Tally {
    fn total(&self) -> u64 {
        self.already_there + self.too_large + self.out_of_memory + self.server_error
    }

    fn count_in(&mut self, outcomes: &mut Outcomes) {
        outcomes.add(&ALREADY_THERE, self.already_there);
        outcomes.add(&TOO_LARGE, self.too_large);
        outcomes.add(&OUT_OF_MEMORY, self.out_of_memory);
        outcomes.add(&SERVER_ERROR, self.server_error);
        *self = Self::default();
    }
}

/// Why an attempt failed: a connection that may be made again, or the end.
enum Trouble {
    Connection(ConnectionError),
    Stop(Stop),
}

impl From<ConnectionError> for Trouble {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// How a key travels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Base64,
    Binary,
}

impl<'a> Lane<'a> {
    pub fn new(target: Target<'a>) -> Self {
        Self {
            connection: None,
            retry: Retry::new(&target.options.retry),
            window: Vec::new(),
            acked: 0,
            sent: 0,
            batches: VecDeque::new(),
            in_flight: 0,
            open: 0,
            tally: Tally::default(),
            head: Vec::new(),
            binary: Binary::Untried,
            target,
        }
    }

    /// Memory of a lane at most, in bytes: the window, two connections, and what is small.
    pub fn bytes(options: &MemcachedOptions, window_bytes: usize) -> u64 {
        let connection = |buffer| buffer + crate::connection::OUTBOX_BYTES_MAX;
        (window_bytes
            + connection(options.buffer_bytes)
            + connection(BUFFER_BYTES_MIN)
            + (16 << 10)) as u64
    }

    /// Forgets what a part that failed left behind.
    pub fn reset(&mut self) {
        if !self.window.is_empty() {
            // Replies to it may still be on their way.
            self.connection = None;
        }
        self.window.clear();
        self.batches.clear();
        (self.acked, self.sent, self.in_flight, self.open) = (0, 0, 0, 0);
        self.tally = Tally::default();
        self.retry.succeeded();
    }

    /// Stores an item whose value is at hand.
    #[inline]
    pub fn store(
        &mut self,
        item: &Item<'_>,
        value: &[u8],
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let way = way(item.key);
        if way == Way::Binary {
            encode_binary(&mut self.head, item, value.len(), self.target.mode);
            return self.store_binary(value, outcomes);
        }
        let bytes_max = HEAD_BYTES_MAX + value.len() + VALUE_END.len() + MARK.len();
        if bytes_max > self.target.window_bytes {
            self.encode_head(item, value.len(), way);
            self.begin_stream(value.len(), outcomes)?;
            self.send_streamed(value, value.len())?;
            return self.end_stream(value.len(), outcomes);
        }
        self.make_room(bytes_max, outcomes)?;
        encode_text(&mut self.window, item, value.len(), way, self.target.mode);
        self.window.extend_from_slice(value);
        self.window.extend_from_slice(VALUE_END);
        self.end_request(outcomes)
    }

    /// Stores the item that `items` has handed out without its value.
    pub fn store_pieces(
        &mut self,
        key: &[u8],
        head: &Item<'_>,
        value_bytes: u32,
        items: &mut ItemReader<'_, '_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        if value_bytes > SENT_VALUE_BYTES_MAX {
            outcomes.count(&TOO_LARGE);
            return Ok(());
        }
        let value_bytes = value_bytes as usize;
        let item = Item { key, ..*head };
        let way = way(key);
        let bytes_max = HEAD_BYTES_MAX + value_bytes + VALUE_END.len() + MARK.len();
        if way == Way::Binary {
            encode_binary(&mut self.head, &item, value_bytes, self.target.mode);
            return self.stream_binary(value_bytes, items, outcomes);
        }
        if bytes_max > self.target.window_bytes {
            self.encode_head(&item, value_bytes, way);
            self.begin_stream(value_bytes, outcomes)?;
            loop {
                let piece = items.piece()?;
                if piece.is_empty() {
                    return self.end_stream(value_bytes, outcomes);
                }
                self.send_streamed(piece, value_bytes)?;
            }
        }
        self.make_room(bytes_max, outcomes)?;
        encode_text(&mut self.window, &item, value_bytes, way, self.target.mode);
        loop {
            let piece = items.piece()?;
            if piece.is_empty() {
                break;
            }
            self.window.extend_from_slice(piece);
        }
        self.window.extend_from_slice(VALUE_END);
        self.end_request(outcomes)
    }

    /// Sends what is left, and waits until all is acknowledged.
    pub fn drain(&mut self, outcomes: &mut Outcomes) -> Result<(), Stop> {
        self.send_batch(outcomes)?;
        while !self.batches.is_empty() {
            self.await_oldest(outcomes)?;
        }
        Ok(())
    }

    fn encode_head(&mut self, item: &Item<'_>, value_bytes: usize, way: Way) {
        self.head.clear();
        encode_text(&mut self.head, item, value_bytes, way, self.target.mode);
    }

    /// Requests whose replies fit in the receive buffer, one `MN` for each of them included.
    fn requests_max(&self) -> usize {
        self.target.options.buffer_bytes / REPLY_BYTES_MAX
    }

    #[inline]
    fn end_request(&mut self, outcomes: &mut Outcomes) -> Result<(), Stop> {
        self.open += 1;
        let marked = self.batches.back().map_or(self.acked, |batch| batch.end);
        if self.window.len() - marked >= BATCH_BYTES || self.open >= self.requests_max() / 4 {
            self.send_batch(outcomes)?;
        }
        Ok(())
    }

    /// Room for `bytes` at the end of the window, without growing it.
    #[inline]
    fn make_room(&mut self, bytes: usize, outcomes: &mut Outcomes) -> Result<(), Stop> {
        if self.window.len() + bytes <= self.window.capacity() {
            return Ok(());
        }
        self.move_window(bytes, outcomes)
    }

    #[cold]
    fn move_window(&mut self, bytes: usize, outcomes: &mut Outcomes) -> Result<(), Stop> {
        let window_bytes = self.target.window_bytes;
        self.window
            .reserve_exact(window_bytes.saturating_sub(self.window.len()));
        while self.window.len() - self.acked + bytes > window_bytes {
            self.send_batch(outcomes)?;
            self.await_oldest(outcomes)?;
        }
        if self.window.len() + bytes > window_bytes {
            self.window.drain(..self.acked);
            self.sent -= self.acked;
            for batch in &mut self.batches {
                batch.end -= self.acked;
            }
            self.acked = 0;
        }
        Ok(())
    }

    fn send_batch(&mut self, outcomes: &mut Outcomes) -> Result<(), Stop> {
        if self.open == 0 {
            return Ok(());
        }
        while self.in_flight > 0 && self.in_flight + self.open > self.requests_max() {
            self.await_oldest(outcomes)?;
        }
        self.window.extend_from_slice(MARK);
        self.batches.push_back(Batch {
            end: self.window.len(),
            requests: self.open,
        });
        self.in_flight += self.open;
        self.open = 0;
        self.transmit()
    }

    /// Sends all that is marked, over as many connections as it takes.
    fn transmit(&mut self) -> Result<(), Stop> {
        while let Err(trouble) = self.try_transmit() {
            self.recover(trouble)?;
        }
        Ok(())
    }

    fn try_transmit(&mut self) -> Result<(), Trouble> {
        let marked = self.batches.back().map_or(self.acked, |batch| batch.end);
        let gate = self.target.gate;
        let connection = connected(&mut self.connection, &self.target)?;
        if self.sent < marked {
            connection.send(&self.window[self.sent..marked], Some(gate))?;
            self.sent = marked;
        }
        Ok(())
    }

    /// After a failure: waits until it is time to try again, with everything that was not acknowledged.
    #[cold]
    fn recover(&mut self, trouble: Trouble) -> Result<(), Stop> {
        let error = match trouble {
            Trouble::Stop(stop) => return Err(stop),
            Trouble::Connection(error) => error,
        };
        if !error.is_retryable() {
            return Err(error.into_stop(Party::Sink));
        }
        self.connection = None;
        self.sent = self.acked;
        self.tally = Tally::default();
        if self.retry.wait(Some(self.target.gate))? {
            return Ok(());
        }
        Err(Failure::new(
            Party::Sink,
            format!(
                "{error}; gave up after {} attempts: when it is back, run the same load again",
                self.retry.failures()
            ),
        )
        .because(error)
        .into())
    }

    #[cold]
    fn await_oldest(&mut self, outcomes: &mut Outcomes) -> Result<(), Stop> {
        loop {
            match self.try_await_oldest() {
                Ok(()) => break,
                Err(trouble) => {
                    self.recover(trouble)?;
                    self.transmit()?;
                }
            }
        }
        self.tally.count_in(outcomes);
        self.retry.succeeded();
        let batch = self.batches.pop_front().expect("a batch was waited for");
        self.in_flight -= batch.requests;
        self.acked = batch.end;
        if self.acked == self.window.len() {
            self.window.clear();
            (self.acked, self.sent) = (0, 0);
        }
        Ok(())
    }

    fn try_await_oldest(&mut self) -> Result<(), Trouble> {
        let requests = self.batches.front().map_or(0, |batch| batch.requests);
        let connection = connected(&mut self.connection, &self.target)?;
        await_mark(connection, &self.target, requests, &mut self.tally)
    }

    /// All before it is acknowledged first: the stream of a value is no place to learn that something else is to be
    /// sent again.
    fn begin_stream(&mut self, value_bytes: usize, outcomes: &mut Outcomes) -> Result<(), Stop> {
        self.drain(outcomes)?;
        self.transmit()?;
        let head = std::mem::take(&mut self.head);
        let sent = self.send_streamed(&head, value_bytes);
        self.head = head;
        sent
    }

    fn send_streamed(&mut self, piece: &[u8], value_bytes: usize) -> Result<(), Stop> {
        let gate = self.target.gate;
        let connection = self
            .connection
            .as_mut()
            .expect("a stream has its connection");
        connection.send(piece, Some(gate)).map_err(|error| {
            self.connection = None;
            lost_inside(error, value_bytes)
        })
    }

    fn end_stream(&mut self, value_bytes: usize, outcomes: &mut Outcomes) -> Result<(), Stop> {
        self.send_streamed(VALUE_END, value_bytes)?;
        self.send_streamed(MARK, value_bytes)?;
        let connection = self
            .connection
            .as_mut()
            .expect("a stream has its connection");
        match await_mark(connection, &self.target, 1, &mut self.tally) {
            Ok(()) => {
                self.tally.count_in(outcomes);
                Ok(())
            }
            Err(trouble) => {
                self.connection = None;
                self.tally = Tally::default();
                match trouble {
                    Trouble::Stop(stop) => Err(stop),
                    Trouble::Connection(error) => Err(lost_inside(error, value_bytes)),
                }
            }
        }
    }

    /// Sends the head at hand and `value` by the binary protocol, and waits for the answer: such keys are rare.
    #[cold]
    fn store_binary(&mut self, value: &[u8], outcomes: &mut Outcomes) -> Result<(), Stop> {
        loop {
            if !self.connect_binary()? {
                outcomes.count(&KEY_CANNOT_BE_SENT);
                return Ok(());
            }
            let Binary::Connected(connection) = &mut self.binary else {
                unreachable!("just connected");
            };
            let gate = Some(self.target.gate);
            let answered = connection
                .send(&self.head, gate)
                .and_then(|()| connection.send(value, gate))
                .and_then(|()| read_binary(connection, self.target.gate));
            match answered {
                Ok(status) => return self.count_binary(status, outcomes),
                Err(error) => self.recover_binary(error)?,
            }
        }
    }

    #[cold]
    fn stream_binary(
        &mut self,
        value_bytes: usize,
        items: &mut ItemReader<'_, '_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        if !self.connect_binary()? {
            outcomes.count(&KEY_CANNOT_BE_SENT);
            return Ok(());
        }
        let Binary::Connected(connection) = &mut self.binary else {
            unreachable!("just connected");
        };
        let gate = Some(self.target.gate);
        let mut sent = connection.send(&self.head, gate);
        while sent.is_ok() {
            let piece = items.piece()?;
            if piece.is_empty() {
                break;
            }
            sent = connection.send(piece, gate);
        }
        match sent.and_then(|()| read_binary(connection, self.target.gate)) {
            Ok(status) => self.count_binary(status, outcomes),
            Err(error) => {
                self.binary = Binary::Untried;
                Err(lost_inside(error, value_bytes))
            }
        }
    }

    fn count_binary(&mut self, status: u16, outcomes: &mut Outcomes) -> Result<(), Stop> {
        self.retry.succeeded();
        match status {
            0 => {}
            0x02 if self.target.mode == StoreMode::Add => outcomes.count(&ALREADY_THERE),
            0x03 => outcomes.count(&TOO_LARGE),
            0x82 => outcomes.count(&OUT_OF_MEMORY),
            // It wants SASL, of which we have none.
            0x20 => {
                self.binary = Binary::Refused;
                outcomes.count(&KEY_CANNOT_BE_SENT);
            }
            _ => outcomes.count(&SERVER_ERROR),
        }
        Ok(())
    }

    fn recover_binary(&mut self, error: ConnectionError) -> Result<(), Stop> {
        self.binary = Binary::Untried;
        self.recover(Trouble::Connection(error))
    }

    /// Whether there is a connection that speaks the binary protocol. A server that was told not to speak it closes
    /// the connection at the first such byte.
    fn connect_binary(&mut self) -> Result<bool, Stop> {
        loop {
            match &self.binary {
                Binary::Connected(_) => return Ok(true),
                Binary::Refused => return Ok(false),
                Binary::Untried => {}
            }
            // The life is checked by the text protocol, and so is whether the server is there at all.
            self.transmit()?;
            let options = MemcachedOptions {
                buffer_bytes: BUFFER_BYTES_MIN,
                ..self.target.options.clone()
            };
            let gate = Some(self.target.gate);
            match Connection::connect_binary(self.target.server, &options, gate) {
                Ok(connection) => self.binary = Binary::Connected(Box::new(connection)),
                Err(ConnectionError::Closed { .. } | ConnectionError::Unexpected { .. }) => {
                    self.binary = Binary::Refused;
                }
                Err(error) => self.recover(Trouble::Connection(error))?,
            }
        }
    }
}

/// The connection at hand, or a new one to the same life of the server.
fn connected<'c>(
    connection: &'c mut Option<Connection>,
    target: &Target<'_>,
) -> Result<&'c mut Connection, Trouble> {
    if connection.is_none() {
        let mut fresh = Connection::connect(target.server, target.options, Some(target.gate))?;
        if let Some(before) = &target.life {
            let now = Life::read(&mut fresh, Some(target.gate))?;
            before.require_same(&now, target.server)?;
        }
        *connection = Some(fresh);
    }
    Ok(connection.as_mut().expect("just connected"))
}

/// Reads refusals up to the mark of a batch of `requests`.
fn await_mark(
    connection: &mut Connection,
    target: &Target<'_>,
    requests: usize,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    loop {
        let line = connection.read_line(LINE_BYTES_MAX, Some(target.gate))?;
        if line == b"MN" {
            return Ok(());
        }
        if line == b"NS" && target.mode == StoreMode::Add {
            tally.already_there += 1;
        } else if line.starts_with(b"SERVER_ERROR object too large") {
            tally.too_large += 1;
        } else if line.starts_with(b"SERVER_ERROR out of memory") {
            tally.out_of_memory += 1;
        } else if line.starts_with(b"SERVER_ERROR") || line == b"NS" {
            tally.server_error += 1;
        } else {
            let reply = crate::connection::shown(line);
            return Err(unexpected(target, &reply));
        }
        if tally.total() > requests as u64 {
            return Err(unexpected(target, "more refusals than there were requests"));
        }
    }
}

fn unexpected(target: &Target<'_>, reply: &str) -> Trouble {
    let failure = Failure::new(
        Party::Sink,
        format!(
            "memcached at {} answered {reply:?} to a request to store an item: check that it is memcached 1.6 or newer, with no proxy between",
            target.server
        ),
    );
    Trouble::Stop(failure.into())
}

fn lost_inside(error: ConnectionError, value_bytes: usize) -> Stop {
    if !error.is_retryable() {
        return error.into_stop(Party::Sink);
    }
    Failure::new(
        Party::Sink,
        format!(
            "{error}, inside a value of {value_bytes} bytes, which is too large to be kept for sending it again: run the same load again"
        ),
    )
    .because(error)
    .into()
}

#[inline]
fn way(key: &[u8]) -> Way {
    if key.iter().all(|&b| b.is_ascii_graphic() || b >= 0x80) {
        Way::Plain
    } else if key.len() <= BASE64_KEY_BYTES_MAX {
        Way::Base64
    } else {
        Way::Binary
    }
}

/// `T` as the server takes it: 0 for never, else the time itself, which the caller keeps within 30 days after 1970 and
/// the range of 32 bits.
fn expiry(item: &Item<'_>) -> u32 {
    match item.exptime {
        NEVER => 0,
        time => u32::try_from(time).expect("the sink refuses other times"),
    }
}

#[inline]
fn encode_text(out: &mut Vec<u8>, item: &Item<'_>, value_bytes: usize, way: Way, mode: StoreMode) {
    out.extend_from_slice(b"ms ");
    if way == Way::Base64 {
        let mut text = [0; KEY_BYTES_MAX];
        let n = STANDARD
            .encode_slice(item.key, &mut text)
            .expect("such keys are short enough");
        out.extend_from_slice(&text[..n]);
    } else {
        out.extend_from_slice(item.key);
    }
    push_number(out, b" ", value_bytes as u64);
    if item.exptime != NEVER {
        push_number(out, b" T", u64::from(expiry(item)));
    }
    if item.flags != 0 {
        push_number(out, b" F", u64::from(item.flags));
    }
    if way == Way::Base64 {
        out.extend_from_slice(b" b");
    }
    out.extend_from_slice(match mode {
        StoreMode::Set => b" q\r\n".as_slice(),
        StoreMode::Add => b" ME q\r\n",
    });
}

#[inline]
fn push_number(out: &mut Vec<u8>, before: &[u8], mut number: u64) {
    out.extend_from_slice(before);
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A binary SET or ADD: header, extras (flags, expiry), key. The value follows.
fn encode_binary(head: &mut Vec<u8>, item: &Item<'_>, value_bytes: usize, mode: StoreMode) {
    let body_bytes = 8 + item.key.len() + value_bytes;
    head.clear();
    head.extend_from_slice(&[
        0x80,
        match mode {
            StoreMode::Set => 0x01,
            StoreMode::Add => 0x02,
        },
    ]);
    head.extend_from_slice(&(item.key.len() as u16).to_be_bytes());
    head.extend_from_slice(&[8, 0, 0, 0]);
    head.extend_from_slice(&(body_bytes as u32).to_be_bytes());
    head.extend_from_slice(&[0; 12]);
    head.extend_from_slice(&item.flags.to_be_bytes());
    head.extend_from_slice(&expiry(item).to_be_bytes());
    head.extend_from_slice(item.key);
}

/// The status of a binary answer, read to its end.
fn read_binary(connection: &mut Connection, gate: &Gate) -> Result<u16, ConnectionError> {
    let mut head = [0; 24];
    connection.read_exact(&mut head, Some(gate))?;
    if head[0] != 0x81 {
        return Err(connection.unexpected("an answer of the binary protocol"));
    }
    let mut left = u32::from_be_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
    let mut text = [0; 256];
    while left > 0 {
        let n = left.min(text.len());
        connection.read_exact(&mut text[..n], Some(gate))?;
        left -= n;
    }
    Ok(u16::from_be_bytes([head[6], head[7]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &[u8], exptime: i64, flags: u32, mode: StoreMode) -> String {
        let item = Item {
            key,
            flags,
            exptime,
            cas: 0,
            last_access: 0,
            fetched: false,
        };
        let mut out = Vec::new();
        encode_text(&mut out, &item, 5, way(key), mode);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_carries_only_what_it_must() {
        assert_eq!(text(b"k", NEVER, 0, StoreMode::Set), "ms k 5 q\r\n");
        assert_eq!(
            text(b"k", 2_147_483_647, u32::MAX, StoreMode::Add),
            "ms k 5 T2147483647 F4294967295 ME q\r\n"
        );
        // A key with a line end in it can never become a command.
        assert_eq!(
            text(b"k\r\nflush_all", 1_700_000_000, 10, StoreMode::Set),
            "ms aw0KZmx1c2hfYWxs 5 T1700000000 F10 b q\r\n"
        );
    }

    #[test]
    fn the_longest_heads_fit() {
        let key = [b'\n'; BASE64_KEY_BYTES_MAX];
        assert!(way(&key) == Way::Base64 && way(&[b'\n'; BASE64_KEY_BYTES_MAX + 1]) == Way::Binary);
        let head = text(&key, i64::from(i32::MAX), u32::MAX, StoreMode::Add);
        assert!(head.len() + 5 <= HEAD_BYTES_MAX, "{}", head.len());
        assert!(way(&[b'~'; 250]) == Way::Plain && way(&[0x80; 250]) == Way::Plain);
        for odd in [b" ", b"\x7f", b"\0", b"\n", b"\r"] {
            assert!(way(odd) == Way::Base64);
        }
    }
}
