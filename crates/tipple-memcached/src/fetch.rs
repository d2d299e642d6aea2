//! Fetching the items of a key file.
//!
//! Each key is one `mg` request and gets exactly one reply, in order; the request carries a mark that the reply repeats,
//! so that a reply is never taken for another's. `u` leaves the item's place in the eviction order and its fetched bit
//! as they are. Requests are sent ahead of the replies, bounded by their count and by the bytes of the replies expected,
//! so that the server always has work and nothing is waited for twice.
//!
//! A key is pasted into a request only if every byte of it is printable and no space; any other key is sent as base64,
//! and what is too long for that by the binary protocol, whose keys have a length. There a read counts as an access and
//! the expiry time cannot be asked; the listed one is true as long as the value is the listed one.

mod binary;

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tipple_budget::{Cancelled, Gate};
use tipple_chunk::{Decoder, decoder_bytes};
use tipple_flow::{
    Cause, Failure, Outcomes, Part, PartReader, Party, Position, RecordWriter, Stop,
};

use crate::connection::{Connection, ConnectionError, OUTBOX_BYTES_MAX, shown};
use crate::filter::EXPIRED;
use crate::items::{Item, KEY_BYTES_MAX, NEVER, encode_header};
use crate::key_file::{KeyFileReader, Keys, value_bytes_estimate};
use crate::metadump::ListedItem;
use crate::options::MemcachedOptions;
use crate::reply::{MetaFlags, Reply, ReplyError, check_data_end, parse_reply};
use crate::retry::Retry;
use crate::source::MemcachedSource;
use crate::stats::{Incarnation, Stats};

/// The item was listed, and was gone before its time when it was fetched.
pub static GONE: Cause = Cause::outcome("evicted or deleted");
/// The value is longer than a record may be.
pub static TOO_LARGE: Cause = Cause::loss("too large");
/// The server answered with an error each time.
pub static SERVER_ERROR: Cause = Cause::loss("error of the server");
/// A key that neither protocol of this server can carry.
pub static UNSENDABLE: Cause = Cause::loss("key cannot be sent");
/// The value changed since it was listed, and its key can only be sent where the expiry cannot be asked.
pub static EXPIRY_UNKNOWN: Cause = Cause::loss("expiry cannot be asked");

/// Requests in flight.
const KEYS_IN_FLIGHT_MAX: usize = 1024;
/// Bytes of replies expected of the requests in flight; one reply may be larger.
const REPLY_BYTES_IN_FLIGHT_MAX: u64 = 1 << 20;
/// What a reply has beside its value.
const REPLY_OVERHEAD_BYTES: u64 = 48;
/// The longest request: `mg `, a key of 250 bytes, flags.
const REQUEST_BYTES_MAX: usize = 3 + KEY_BYTES_MAX + 32;
/// The longest key that base64 makes a key of at most 250 bytes of.
const BASE64_KEY_BYTES_MAX: usize = 186;
/// How often a key is asked for that the server answers with an error.
const KEY_ATTEMPTS_MAX: u8 = 3;
/// Differences between the server's clock and its rounding.
const EXPIRY_TOLERANCE_S: u64 = 2;

const _: () = assert!(OUTBOX_BYTES_MAX > 64 * REQUEST_BYTES_MAX);
const _: () = assert!(BASE64_KEY_BYTES_MAX.div_ceil(3) * 4 <= KEY_BYTES_MAX);

/// Why work on a part was interrupted.
enum Break {
    /// For good.
    Stop(Stop),
    /// Inside a value: only the whole part can be begun again.
    InValue(ConnectionError),
    /// Between values: what was not answered can be asked again.
    Between(ConnectionError),
}

impl From<Stop> for Break {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Failure> for Break {
    fn from(failure: Failure) -> Self {
        Self::Stop(failure.into())
    }
}

impl From<Cancelled> for Break {
    fn from(cancelled: Cancelled) -> Self {
        Self::Stop(cancelled.into())
    }
}

impl From<ConnectionError> for Break {
    fn from(error: ConnectionError) -> Self {
        if error.is_retryable() {
            Self::Between(error)
        } else {
            Self::Stop(error.into_stop(Party::Source))
        }
    }
}

/// The same, of an error inside a value.
fn in_value(error: ConnectionError) -> Break {
    match error.into() {
        Break::Between(error) => Break::InValue(error),
        other => other,
    }
}

/// Reads parts for one worker, over one connection at a time (and one of the binary protocol, if keys need it).
pub(crate) struct Fetcher<'a> {
    decoder: Decoder,
    flight: Flight<'a>,
}

impl<'a> Fetcher<'a> {
    pub fn new(source: &'a MemcachedSource) -> Result<Self, Failure> {
        let decoder = Decoder::new().map_err(|error| {
            Failure::new(Party::Budget, "cannot set up the decoder of key files").because(error)
        })?;
        Ok(Self {
            decoder,
            flight: Flight::new(source),
        })
    }

    /// What it holds at most, in bytes, the index of one key file included.
    pub fn memory_bytes(options: &MemcachedOptions) -> u64 {
        2 * Connection::memory_bytes(options)
            + decoder_bytes()
            + (KEYS_IN_FLIGHT_MAX * size_of::<Slot>()) as u64
            + (1 << 20)
    }

    fn try_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        let name = part.name().as_str();
        let broken = |error: crate::KeyFileError| error.into_failure(name);
        let mut keys = KeyFileReader::open(part.open()?, &mut self.decoder).map_err(broken)?;
        self.flight.begin(keys.server(), out.gate())?;
        while let Some(mut frame) = keys.next_frame(&mut self.decoder).map_err(broken)? {
            self.flight.run(&mut frame, name, out, outcomes)?;
        }
        self.flight.finish(out, outcomes)
    }
}

impl PartReader for Fetcher<'_> {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let before = outcomes.clone();
        let mut restarts = 0;
        loop {
            let ended = self.try_part(part, out, outcomes);
            let Err(ended) = ended else { return Ok(()) };
            // Whatever is on its way on these connections belongs to keys that nobody waits for any more.
            self.flight.hang_up();
            let error = match ended {
                Break::Stop(stop) => return Err(stop),
                Break::InValue(error) | Break::Between(error) => error,
            };
            restarts += 1;
            if restarts >= self.flight.source.options().retry.attempts_max {
                return Err(error.into_stop(Party::Source));
            }
            out.restart()?;
            outcomes.clone_from(&before);
        }
    }
}

/// A key that is asked for.
#[derive(Clone, Default)]
struct Slot {
    item: ListedItem,
    opaque: u32,
    reply_bytes: u64,
    attempts: u8,
}

/// What the server's clock says, without asking each time.
#[derive(Clone, Copy)]
struct Clock {
    time: i64,
    read: Instant,
}

impl Clock {
    fn now(&self) -> i64 {
        self.time
            .saturating_add(self.read.elapsed().as_secs().cast_signed())
    }
}

struct Line {
    connection: Connection,
    clock: Clock,
    base64: bool,
}

/// Requests and their replies, in order: a ring of the keys that were taken and not answered.
struct Flight<'a> {
    source: &'a MemcachedSource,
    server: usize,
    line: Option<Line>,
    binary: Option<Connection>,
    ring: Box<[Slot]>,
    first: usize,
    // Keys in the ring, and how many of them, from the first on, were asked for.
    taken: usize,
    asked: usize,
    // Expected of those that were asked for.
    reply_bytes: u64,
    opaque: u32,
    retry: Retry<'a>,
}

impl<'a> Flight<'a> {
    fn new(source: &'a MemcachedSource) -> Self {
        Self {
            source,
            server: 0,
            line: None,
            binary: None,
            ring: vec![Slot::default(); KEYS_IN_FLIGHT_MAX].into_boxed_slice(),
            first: 0,
            taken: 0,
            asked: 0,
            reply_bytes: 0,
            opaque: 0,
            retry: Retry::new(&source.options().retry),
        }
    }

    fn hang_up(&mut self) {
        self.line = None;
        self.binary = None;
        (self.first, self.taken, self.asked, self.reply_bytes) = (0, 0, 0, 0);
    }

    /// Gets ready for keys of `server`.
    fn begin(&mut self, server: &str, gate: &Gate) -> Result<(), Break> {
        let server = self.source.server_number(server)?;
        if server != self.server {
            self.hang_up();
            self.server = server;
        }
        self.retry.succeeded();
        while self.line.is_none() {
            if let Err(error) = self.connect(gate) {
                self.lost(error, gate)?;
            }
        }
        Ok(())
    }

    /// Asks for all of `keys`, and takes the replies that come meanwhile. Some may be still to come.
    fn run(
        &mut self,
        keys: &mut Keys<'_>,
        part: &str,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        loop {
            while !keys.is_empty() && self.wants_keys() {
                let slot = &mut self.ring[(self.first + self.taken) % KEYS_IN_FLIGHT_MAX];
                keys.next(&mut slot.item)
                    .map_err(|error| error.into_failure(part))?;
                slot.attempts = 0;
                slot.reply_bytes =
                    value_bytes_estimate(&slot.item).saturating_add(REPLY_OVERHEAD_BYTES);
                self.taken += 1;
                self.ask_all(out, outcomes)?;
            }
            if keys.is_empty() {
                return Ok(());
            }
            self.exchange(out, outcomes)?;
        }
    }

    /// Takes the replies that are still to come.
    fn finish(&mut self, out: &mut RecordWriter<'_>, outcomes: &mut Outcomes) -> Result<(), Break> {
        while self.taken > 0 {
            self.exchange(out, outcomes)?;
        }
        Ok(())
    }

    /// Whether there is room in flight for one more key.
    fn wants_keys(&mut self) -> bool {
        self.taken == self.asked
            && self.taken < KEYS_IN_FLIGHT_MAX
            && (self.reply_bytes < REPLY_BYTES_IN_FLIGHT_MAX || self.taken == 0)
            && self.has_outbox()
    }

    fn has_outbox(&mut self) -> bool {
        self.line.as_mut().is_some_and(|line| {
            line.connection.outbox().len() + REQUEST_BYTES_MAX <= OUTBOX_BYTES_MAX
        })
    }

    /// One turn: ask, send, wait, take. After a lost connection, the next turn asks again for all that has no answer.
    fn exchange(
        &mut self,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        self.ask_all(out, outcomes)?;
        match self.turn(out, outcomes) {
            Ok(()) => Ok(()),
            Err(Break::Between(error)) => {
                self.lost(error, out.gate())?;
                if let Err(error) = self.connect(out.gate()) {
                    self.lost(error, out.gate())?;
                }
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    fn turn(&mut self, out: &mut RecordWriter<'_>, outcomes: &mut Outcomes) -> Result<(), Break> {
        let Some(line) = &mut self.line else {
            return self.connect(out.gate());
        };
        let gate = Some(out.gate());
        // Until half of what is in flight has arrived: few large sends, and the server never idle.
        let (keys, bytes) = (self.asked / 2, self.reply_bytes / 2);
        line.connection.push()?;
        while self.asked > 0 && (self.asked > keys || self.reply_bytes > bytes) {
            let Some(line) = &mut self.line else { break };
            line.connection.fill(gate)?;
            let before = self.taken;
            self.take_replies(out, outcomes)?;
            if self.taken != before {
                self.retry.succeeded();
            }
            if self.taken != self.asked {
                break;
            }
        }
        Ok(())
    }

    /// Counts a lost connection, and waits before the next.
    fn lost(&mut self, error: impl Into<Break>, gate: &Gate) -> Result<(), Break> {
        let error = match error.into() {
            Break::Between(error) => error,
            other => return Err(other),
        };
        self.line = None;
        self.binary = None;
        self.asked = 0;
        self.reply_bytes = 0;
        if self.retry.wait(Some(gate))? {
            return Ok(());
        }
        Err(Break::Stop(error.into_stop(Party::Source)))
    }

    fn connect(&mut self, gate: &Gate) -> Result<(), Break> {
        let server = &self.source.url().servers()[self.server];
        let gate = Some(gate);
        let mut connection = Connection::connect(server, self.source.options(), gate)?;
        let stats = Stats::read(&mut connection, gate)?;
        self.source
            .check_life(Incarnation::new(server.to_string(), &stats))?;
        let clock = Clock {
            time: stats.time,
            read: Instant::now(),
        };
        let base64 = connection.version().is_at_least(1, 6, 10);
        self.line = Some(Line {
            connection,
            clock,
            base64,
        });
        Ok(())
    }

    /// Writes requests for the keys that were not asked for.
    fn ask_all(
        &mut self,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        while self.asked < self.taken && self.has_outbox() {
            let at = (self.first + self.asked) % KEYS_IN_FLIGHT_MAX;
            let Some(line) = &mut self.line else {
                return Ok(());
            };
            let slot = &mut self.ring[at];
            let plain = slot
                .item
                .key()
                .iter()
                .all(|&b| (0x21..=0x7e).contains(&b) || b >= 0x80);
            let base64 = line.base64 && slot.item.key().len() <= BASE64_KEY_BYTES_MAX;
            if !plain && !base64 {
                self.fetch_by_binary(at, out, outcomes)?;
                continue;
            }
            self.opaque = (self.opaque + 1) & 0xffff;
            slot.opaque = self.opaque;
            write_request(line.connection.outbox(), slot, plain);
            self.reply_bytes = self.reply_bytes.saturating_add(slot.reply_bytes);
            self.asked += 1;
        }
        Ok(())
    }

    /// Takes all replies that are in the connection's buffer.
    fn take_replies(
        &mut self,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        let connection = &mut line.connection;
        let now = line.clock.now();
        let value_bytes_max = self.source.value_bytes_max();
        // A value that is not wholly buffered is waited for if it is small, and else read to where it belongs.
        let waited_for_max = connection.buffer_bytes() / 4;
        let mut used = 0;
        while self.asked > 0 {
            let at_hand = &connection.buffered()[used..];
            let parsed = parse_reply(at_hand);
            let Some((reply, line_bytes)) = parsed.map_err(|e| nonsense(connection, used, e))?
            else {
                break;
            };
            let slot = &mut self.ring[self.first];
            let paired = |flags: &MetaFlags| flags.opaque == Some(slot.opaque);
            match reply {
                Reply::Value { bytes, flags } => {
                    if !paired(&flags) {
                        return Err(mispaired(connection, used).into());
                    }
                    let item = item(&slot.item, &flags, now);
                    let item = item.map_err(|e| nonsense(connection, used, e))?;
                    let rest = &at_hand[line_bytes..];
                    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
                    if bytes <= value_bytes_max && length < rest.len().saturating_sub(1) {
                        let (value, after) = rest.split_at(length);
                        check_data_end(after).map_err(|e| nonsense(connection, used, e))?;
                        let header = encode_header(&item, bytes as u32);
                        out.record(&[&header, item.key, value], Position::NONE)?;
                        used += line_bytes + length + 2;
                    } else if bytes <= value_bytes_max && length <= waited_for_max {
                        break;
                    } else {
                        connection.consume(used + line_bytes);
                        used = 0;
                        if bytes <= value_bytes_max {
                            stream(connection, &item, bytes, out)?;
                        } else {
                            discard(connection, bytes, out.gate())?;
                            outcomes.count(&TOO_LARGE);
                        }
                        let mut end = [0; 2];
                        let gate = Some(out.gate());
                        connection.read_exact(&mut end, gate).map_err(in_value)?;
                        if end != *b"\r\n" {
                            return Err(nonsense(connection, 0, ReplyError::DataEnd).into());
                        }
                    }
                }
                Reply::Miss(flags) => {
                    if flags.opaque.is_some() && !paired(&flags) {
                        return Err(mispaired(connection, used).into());
                    }
                    outcomes.count(missed(&slot.item, now));
                    used += line_bytes;
                }
                Reply::ServerError(_) | Reply::ClientError(_) => {
                    used += line_bytes;
                    slot.attempts += 1;
                    if slot.attempts < KEY_ATTEMPTS_MAX {
                        let again = slot.clone();
                        self.ring[(self.first + self.taken) % KEYS_IN_FLIGHT_MAX] = again;
                        self.taken += 1;
                    } else {
                        outcomes.count(&SERVER_ERROR);
                    }
                }
                _ => return Err(nonsense(connection, used, ReplyError::Malformed).into()),
            }
            self.reply_bytes -= self.ring[self.first].reply_bytes.min(self.reply_bytes);
            self.first = (self.first + 1) % KEYS_IN_FLIGHT_MAX;
            self.taken -= 1;
            self.asked -= 1;
        }
        connection.consume(used);
        Ok(())
    }

    /// Fetches the key at `at`, which the text protocol cannot carry, and takes it out of the ring.
    #[cold]
    fn fetch_by_binary(
        &mut self,
        at: usize,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Break> {
        let Some(line) = &self.line else {
            return Ok(());
        };
        let now = line.clock.now();
        let server = &self.source.url().servers()[self.server];
        let listed = self.ring[at].item.clone();
        let max = self.source.value_bytes_max();
        loop {
            let fetched = binary::fetch(
                &mut self.binary,
                server,
                self.source.options(),
                &listed,
                (now, max),
                out,
            );
            match fetched {
                Ok(None) => break,
                Ok(Some(cause)) => {
                    outcomes.count(cause);
                    break;
                }
                Err(Break::Between(error)) => {
                    self.binary = None;
                    if !self.retry.wait(Some(out.gate()))? {
                        return Err(Break::Stop(error.into_stop(Party::Source)));
                    }
                }
                Err(other) => return Err(other),
            }
        }
        self.retry.succeeded();
        // It is the last that was taken, or, after a lost connection, one of many: then the rest moves up.
        let index = (at + KEYS_IN_FLIGHT_MAX - self.first) % KEYS_IN_FLIGHT_MAX;
        for n in index + 1..self.taken {
            let (to, from) = (self.first + n - 1, self.first + n);
            self.ring
                .swap(to % KEYS_IN_FLIGHT_MAX, from % KEYS_IN_FLIGHT_MAX);
        }
        self.taken -= 1;
        Ok(())
    }
}

/// `mg <key> f t c v u O<mark>`, with `b` for a key in base64.
#[inline]
fn write_request(outbox: &mut Vec<u8>, slot: &Slot, plain: bool) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    outbox.extend_from_slice(b"mg ");
    if plain {
        outbox.extend_from_slice(slot.item.key());
    } else {
        let mut text = [0; KEY_BYTES_MAX];
        let encoded = STANDARD.encode_slice(slot.item.key(), &mut text);
        outbox.extend_from_slice(&text[..encoded.expect("asserted above")]);
        outbox.extend_from_slice(b" b");
    }
    let opaque = slot.opaque as usize;
    let digits = [12, 8, 4, 0].map(|shift| DIGITS[opaque >> shift & 15]);
    outbox.extend_from_slice(b" f t c v u O");
    outbox.extend_from_slice(&digits);
    outbox.extend_from_slice(b"\r\n");
}

/// The item that a reply tells, with what only the listing knows.
#[inline]
fn item<'i>(listed: &'i ListedItem, flags: &MetaFlags, now: i64) -> Result<Item<'i>, ReplyError> {
    let (Some(client_flags), Some(ttl_s), Some(cas)) = (flags.client_flags, flags.ttl_s, flags.cas)
    else {
        return Err(ReplyError::Malformed);
    };
    let exptime = if ttl_s < 0 {
        NEVER
    } else {
        let exptime = now.saturating_add(ttl_s).max(0);
        // The listed second is exact; what remains is rounded, and was read at another instant.
        if cas == listed.cas
            && listed.exptime != NEVER
            && listed.exptime.abs_diff(exptime) <= EXPIRY_TOLERANCE_S
        {
            listed.exptime
        } else {
            exptime
        }
    };
    Ok(Item {
        key: listed.key(),
        flags: client_flags,
        exptime,
        cas,
        last_access: listed.last_access,
        fetched: listed.fetched,
    })
}

/// Why a listed item is not there.
fn missed(listed: &ListedItem, now: i64) -> &'static Cause {
    if listed.exptime != NEVER && listed.exptime <= now {
        &EXPIRED
    } else {
        &GONE
    }
}

/// Reads a value of any size to where it belongs.
fn stream(
    connection: &mut Connection,
    item: &Item<'_>,
    bytes: u64,
    out: &mut RecordWriter<'_>,
) -> Result<(), Break> {
    let header = encode_header(item, bytes as u32);
    out.begin(
        header.len() as u64 + item.key.len() as u64 + bytes,
        Position::NONE,
    )?;
    out.append(&header)?;
    out.append(item.key)?;
    let gate = Some(out.gate());
    let mut left = bytes;
    while left > 0 {
        // Never more than what is left of the record: the writer sees to it.
        let read = connection.read_into(out.space()?, gate).map_err(in_value)?;
        out.advance(read);
        left -= read as u64;
    }
    out.end();
    Ok(())
}

/// Reads a value that nobody can have.
fn discard(connection: &mut Connection, mut bytes: u64, gate: &Gate) -> Result<(), Break> {
    while bytes > 0 {
        if connection.buffered().is_empty() {
            connection.fill(Some(gate)).map_err(in_value)?;
        }
        let n = (connection.buffered().len() as u64).min(bytes);
        connection.consume(n as usize);
        bytes -= n;
    }
    Ok(())
}

#[cold]
fn nonsense(connection: &Connection, used: usize, error: ReplyError) -> Failure {
    let seen = &connection.buffered()[used..];
    let seen = seen.split(|&b| b == b'\n').next().unwrap_or(seen);
    Failure::new(
        Party::Source,
        format!(
            "memcached at {} answered {:?} where {} was expected; please report it with the server's version, {}",
            connection.server(),
            shown(seen),
            error.expected(),
            connection.version()
        ),
    )
}

#[cold]
fn mispaired(connection: &Connection, used: usize) -> Failure {
    nonsense(connection, used, ReplyError::Mark)
}
