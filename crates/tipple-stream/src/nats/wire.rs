//! One connection to a NATS server: its text protocol, as docs.nats.io has it.
//!
//! A client of its own, since async-nats keeps headers in a hash map: their order and the spaces around their values are
//! lost, and a message with a header that is not UTF-8, or has a name that is not ASCII, ends its connection each time it
//! is delivered. And everything else here is synchronous.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tipple_budget::{Cancelled, Gate};
use tipple_tls::Socket;

use super::credentials::Credentials;
use super::headers;
use super::url::{Login, NatsUrl};

/// How long a connection may take to be made, and an answer to come: more than a server that works takes. A cluster that has
/// lost a leader drops questions without a word, so it is not much more.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long a read waits before whoever waits looks whether the job still runs.
const STEP: Duration = Duration::from_millis(100);
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;
/// A line of the protocol is at most that long: the server's own limit is 4 KiB, but for what it says of itself.
const LINE_BYTES_MAX: usize = 1 << 20;
/// The most that a server can be configured to take as one message, with its headers.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why something did not work.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No connection could be made: may go away.
    Away(String),
    /// The connection, or what is behind it: may go away.
    Lost(String),
    /// The server does not want it.
    Refused(String),
    /// The job ended.
    Cancelled(Cancelled),
}

impl From<Cancelled> for Trouble {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServerInfo {
    pub(super) max_payload: u64,
    pub(super) tls_required: bool,
    pub(super) tls_available: bool,
    pub(super) headers: bool,
    /// What who has a key is to sign.
    pub(super) nonce: String,
    /// Others of its cluster, as `host:port`.
    pub(super) connect_urls: Vec<String>,
}

/// A message that was delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) subject: &'a [u8],
    pub(super) subscription: u64,
    pub(super) reply: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
}

#[derive(Clone, Debug, Default)]
struct Ranges {
    subject: Range<usize>,
    subscription: u64,
    reply: Range<usize>,
    headers: Range<usize>,
    payload: Range<usize>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    pub(super) info: ServerInfo,
    input: Vec<u8>,
    /// What of the input was not looked at.
    from: usize,
    to: usize,
    current: Ranges,
    inbox: String,
    requests: u64,
    subscriptions: u64,
    answer_time: Duration,
}

/// The subscription of the answers to requests.
pub(super) const ANSWERS: u64 = 1;

impl Connection {
    /// Connects, and logs in. `answer_time`: how long that, and each answer later, may take.
    pub(super) fn open(
        server: &str,
        url: &NatsUrl,
        answer_time: Duration,
        gate: Option<&Gate>,
    ) -> Result<Self, Trouble> {
        let away = |error: std::io::Error| Trouble::Away(format!("{server}: {error}"));
        let mut last = Trouble::Away(format!("{server} has no address"));
        for address in server.to_socket_addrs().map_err(away)? {
            match TcpStream::connect_timeout(&address, answer_time) {
                Ok(socket) => return Self::begin(socket, server, url, answer_time, gate),
                Err(error) => last = away(error),
            }
        }
        Err(last)
    }

    fn begin(
        socket: TcpStream,
        server: &str,
        url: &NatsUrl,
        answer_time: Duration,
        gate: Option<&Gate>,
    ) -> Result<Self, Trouble> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(STEP))?;
        socket.set_write_timeout(Some(answer_time))?;
        // Until the server has said what it speaks.
        let later = socket.try_clone()?;
        let mut connection = Self {
            socket: Socket::Plain(socket),
            info: ServerInfo::default(),
            input: vec![0; READ_BYTES],
            from: 0,
            to: 0,
            current: Ranges::default(),
            inbox: String::new(),
            requests: 0,
            subscriptions: ANSWERS,
            answer_time,
        };
        let line = connection.line(gate)?;
        connection.told(line)?;
        let is_offered = connection.info.tls_required || connection.info.tls_available;
        if url.is_secure && !is_offered {
            return Err(Trouble::Refused(
                "it does not speak TLS: give nats:// for a server without".into(),
            ));
        }
        let is_secure = url.is_secure || connection.info.tls_required;
        if is_secure {
            if connection.from < connection.to {
                // Whoever put it there is not the one with the certificate.
                return Err(Trouble::Refused("it goes on before TLS has begun".into()));
            }
            connection.socket = secure(later, server, url, answer_time, gate)?;
        }
        if !connection.info.headers {
            return Err(Trouble::Refused(
                "it has no headers: take 2.9 or later".into(),
            ));
        }
        let mut hello = json!({
            "verbose": false, "pedantic": false, "tls_required": is_secure, "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"), "name": "tipple", "protocol": 1,
            "headers": true, "no_responders": true,
        });
        connection.log_in(&url.login, &mut hello)?;
        connection.send(format!("CONNECT {hello}\r\nPING\r\n").as_bytes())?;
        // The answer to our own PING: -ERR comes before it.
        loop {
            let line = connection.line(gate)?;
            if connection.input[line.clone()].starts_with(b"PONG") {
                break;
            }
            connection.told(line)?;
        }
        connection.inbox = connection.new_inbox();
        let subscribe = format!("SUB {}.a.* {ANSWERS}\r\n", connection.inbox);
        connection.send(subscribe.as_bytes())?;
        Ok(connection)
    }

    /// Fills in who connects.
    fn log_in(&self, login: &Login, hello: &mut Value) -> Result<(), Trouble> {
        match login {
            Login::Nobody => {}
            Login::Token(token) => hello["auth_token"] = json!(token),
            Login::User(user, password) => {
                hello["user"] = json!(user);
                hello["pass"] = json!(password);
            }
            Login::Credentials(path) => {
                let credentials = Credentials::read(path).map_err(Trouble::Refused)?;
                let signed = credentials.sign(&self.info.nonce);
                hello["sig"] = json!(signed.sig);
                hello["jwt"] = json!(signed.jwt);
                hello["nkey"] = json!(signed.nkey);
            }
        }
        Ok(())
    }

    /// How long an answer may take.
    pub(super) fn answer_time(&self) -> Duration {
        self.answer_time
    }

    /// Sends bytes of the protocol.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.socket.write_all(bytes)?;
        Ok(self.socket.flush()?)
    }

    /// A subject that nobody else has.
    pub(super) fn new_inbox(&self) -> String {
        // Random keys of the standard library's hash maps: unlike any other's, and no secret.
        let random = || RandomState::new().build_hasher().finish();
        format!("_INBOX.{:016x}{:016x}", random(), random())
    }

    /// Subscribes to `subject`; its number.
    pub(super) fn listen(&mut self, subject: &str) -> Result<u64, Trouble> {
        self.subscriptions += 1;
        self.send(format!("SUB {subject} {}\r\n", self.subscriptions).as_bytes())?;
        Ok(self.subscriptions)
    }

    /// Ends a subscription. What is on its way still comes.
    pub(super) fn unsubscribe(&mut self, number: u64) -> Result<(), Trouble> {
        self.send(format!("UNSUB {number}\r\n").as_bytes())
    }

    /// The number that the next subscription gets.
    pub(super) fn next_subscription(&self) -> u64 {
        self.subscriptions + 1
    }

    /// A subscription of its own: its number, and what to put before a word of one's own as the subject of an answer.
    pub(super) fn subscribe(&mut self) -> Result<(u64, String), Trouble> {
        let prefix = format!("{}.{}.", self.inbox, self.subscriptions + 1);
        let number = self.listen(&format!("{prefix}*"))?;
        Ok((number, prefix))
    }

    /// Asks, and waits for the answer, which [`Connection::message`] has then. Everything else that comes meanwhile is
    /// lost.
    pub(super) fn request(
        &mut self,
        subject: &str,
        body: &[u8],
        gate: Option<&Gate>,
    ) -> Result<(), Trouble> {
        let number = self.send_request(subject, body)?;
        while self.answer(gate)? != number {}
        Ok(())
    }

    /// Asks; the number of the request.
    pub(super) fn send_request(&mut self, subject: &str, body: &[u8]) -> Result<u64, Trouble> {
        self.requests += 1;
        let (inbox, number, length) = (&self.inbox, self.requests, body.len());
        let mut bytes = format!("PUB {subject} {inbox}.a.{number} {length}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes)?;
        Ok(number)
    }

    /// Waits for the answer to any request, which [`Connection::message`] has then: the request's number.
    pub(super) fn answer(&mut self, gate: Option<&Gate>) -> Result<u64, Trouble> {
        let until = Instant::now() + self.answer_time;
        loop {
            if !self.wait(until, gate)? {
                return Err(Trouble::Lost(format!(
                    "no answer within {} s",
                    self.answer_time.as_secs_f32()
                )));
            }
            let message = self.message();
            let of = message.subject.rsplit(|byte| *byte == b'.').next();
            let Some(number) = of.and_then(parse_number) else {
                continue;
            };
            if message.subscription == ANSWERS {
                return match headers::status(message.headers) {
                    Some((503, _)) => Err(Trouble::Lost(
                        "its JetStream does not answer: is it on (nats-server -js), for this account?"
                            .into(),
                    )),
                    _ => Ok(number),
                };
            }
        }
    }

    /// The message that came last.
    pub(super) fn message(&self) -> Message<'_> {
        let of = |range: &Range<usize>| &self.input[range.clone()];
        let current = &self.current;
        Message {
            subject: of(&current.subject),
            subscription: current.subscription,
            reply: of(&current.reply),
            headers: of(&current.headers),
            payload: of(&current.payload),
        }
    }

    /// Waits for a message until then, and at least looks what is there; `false` if none came.
    pub(super) fn wait(&mut self, until: Instant, gate: Option<&Gate>) -> Result<bool, Trouble> {
        loop {
            match self.step()? {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => {
                    if !self.fill()? {
                        if let Some(gate) = gate {
                            gate.check()?;
                        }
                        if Instant::now() >= until {
                            return Ok(false);
                        }
                    }
                }
            }
        }
    }

    /// Whether a message is there already, without waiting: of what was read before.
    pub(super) fn is_at_hand(&mut self) -> Result<bool, Trouble> {
        loop {
            match self.step()? {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => return Ok(false),
            }
        }
    }

    /// Takes one operation off the input: whether it was a message; `None` if it is not all there.
    fn step(&mut self) -> Result<Option<bool>, Trouble> {
        let Some(end) = self.line_end()? else {
            return Ok(None);
        };
        let line = self.from..end;
        let bytes = &self.input[line.clone()];
        let has_headers = bytes.starts_with(b"HMSG ");
        if !has_headers && !bytes.starts_with(b"MSG ") {
            self.from = end + 2;
            self.told(line)?;
            return Ok(Some(false));
        }
        let unread = || Trouble::Lost("it sends what is no NATS".into());
        let ranges = message_ranges(bytes, self.from, end + 2, has_headers).ok_or_else(unread)?;
        let end = ranges.payload.end + 2;
        if end - self.from > MESSAGE_BYTES_MAX + LINE_BYTES_MAX {
            return Err(unread());
        }
        if end > self.to {
            return Ok(None);
        }
        if &self.input[end - 2..end] != b"\r\n" {
            return Err(unread());
        }
        self.from = end;
        self.current = ranges;
        Ok(Some(true))
    }

    fn line_end(&self) -> Result<Option<usize>, Trouble> {
        let bytes = &self.input[self.from..self.to];
        match memchr::memmem::find(&bytes[..bytes.len().min(LINE_BYTES_MAX)], b"\r\n") {
            None if bytes.len() >= LINE_BYTES_MAX => {
                Err(Trouble::Lost("it sends what is no NATS".into()))
            }
            found => Ok(found.map(|at| self.from + at)),
        }
    }

    /// Reads more; `false` if nothing came in a short time.
    fn fill(&mut self) -> Result<bool, Trouble> {
        if self.from > 0 {
            self.input.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        if self.to == self.input.len() {
            // By what came, never by what was announced.
            self.input.resize(2 * self.to, 0);
        } else if self.to == 0 && self.input.len() > 4 * READ_BYTES {
            // A large message is not kept for ever.
            self.input.truncate(READ_BYTES);
            self.input.shrink_to_fit();
        }
        match self.socket.read(&mut self.input[self.to..]) {
            Ok(0) => Err(Trouble::Lost("it closed the connection".into())),
            Ok(bytes) => {
                self.to += bytes;
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(false),
                _ => Err(error.into()),
            },
        }
    }

    /// A line that is no message, while the connection begins.
    fn line(&mut self, gate: Option<&Gate>) -> Result<Range<usize>, Trouble> {
        let until = Instant::now() + self.answer_time;
        loop {
            if let Some(end) = self.line_end()? {
                let line = self.from..end;
                self.from = end + 2;
                return Ok(line);
            }
            if !self.fill()? {
                if let Some(gate) = gate {
                    gate.check()?;
                }
                if Instant::now() >= until {
                    return Err(Trouble::Lost("it does not say that it is NATS".into()));
                }
            }
        }
    }

    /// Acts on a line that is no message.
    fn told(&mut self, line: Range<usize>) -> Result<(), Trouble> {
        let line = &self.input[line];
        if line.starts_with(b"PING") {
            return self.send(b"PONG\r\n");
        }
        if let Some(info) = line.strip_prefix(b"INFO ") {
            self.info = serde_json::from_slice(info)
                .map_err(|_| Trouble::Lost("it does not say what it is".into()))?;
            return Ok(());
        }
        if let Some(error) = line.strip_prefix(b"-ERR ") {
            let text = String::from_utf8_lossy(error);
            let text = text.trim().trim_matches('\'');
            let lower = text.to_ascii_lowercase();
            return Err(
                match lower.contains("auth") || lower.contains("permission") {
                    true => Trouble::Refused(format!("it says {text:?}")),
                    false => Trouble::Lost(format!("it says {text:?}")),
                },
            );
        }
        match line.starts_with(b"PONG") || line.starts_with(b"+OK") {
            true => Ok(()),
            false => Err(Trouble::Lost("it sends what is no NATS".into())),
        }
    }
}

fn secure(
    socket: TcpStream,
    server: &str,
    url: &NatsUrl,
    answer_time: Duration,
    gate: Option<&Gate>,
) -> Result<Socket, Trouble> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let look = || gate.map_or(Ok(()), Gate::check).map_err(Trouble::from);
    Socket::secure(
        socket,
        host,
        &url.tls,
        answer_time,
        look,
        |why, may_pass| match may_pass {
            true => Trouble::Lost(why),
            false => Trouble::Refused(why),
        },
    )
}

/// Where the parts of a message are: `MSG subject sid [reply] bytes`, `HMSG subject sid [reply] header-bytes bytes`.
fn message_ranges(line: &[u8], at: usize, body: usize, has_headers: bool) -> Option<Ranges> {
    let mut words: [Range<usize>; 6] = Default::default();
    let mut count = 0;
    let mut from = 0;
    for end in memchr::memchr_iter(b' ', line).chain([line.len()]) {
        if end > from {
            *words.get_mut(count)? = from..end;
            count += 1;
        }
        from = end + 1;
    }
    let number = |word: &Range<usize>| parse_number(&line[word.clone()]);
    let numbers = if has_headers { 2 } else { 1 };
    let has_reply = match count.checked_sub(3 + numbers)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let bytes = usize::try_from(number(&words[count - 1])?).ok()?;
    let header_bytes = match has_headers {
        true => usize::try_from(number(&words[count - 2])?).ok()?,
        false => 0,
    };
    let of = |word: &Range<usize>| at + word.start..at + word.end;
    let end = body.checked_add(bytes)?;
    end.checked_add(2)?;
    let headers = body..body.checked_add(header_bytes).filter(|to| *to <= end)?;
    Some(Ranges {
        subject: of(&words[1]),
        subscription: number(&words[2])?,
        reply: match has_reply {
            true => of(&words[3]),
            false => 0..0,
        },
        payload: headers.end..end,
        headers,
    })
}

/// Decimal digits.
pub(super) fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number.checked_mul(10)?.checked_add(digit.into()))?
    })
}
