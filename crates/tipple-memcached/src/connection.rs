//! One connection to one server: TCP or a Unix socket, plain or TLS, with one receive buffer of a fixed size.
//!
//! # Why it cannot deadlock
//! A server that cannot write its replies stops reading requests. A client that then waits until it can write, and
//! reads nothing meanwhile, waits for ever. So nothing here waits for writing alone while there is room for reading:
//!
//! - Requests whose replies are large go through [`Connection::outbox`]. They are sent only while replies are waited
//!   for ([`Connection::fill`], [`Connection::read_into`]), and those return as soon as there is a byte to read. The
//!   caller takes it, which makes room, and waits again.
//! - [`Connection::send`] (large requests, short replies) reads into the receive buffer while it cannot write. It
//!   waits for writing alone only when that buffer is full of replies, which a caller rules out by having no more
//!   requests in flight than have room for their replies in [`Connection::buffer_bytes`]. If it errs there, the wait
//!   ends with the I/O timeout.

mod link;

use std::time::Duration;
use std::{fmt, io};

use tipple_budget::{Cancelled, Gate};
use tipple_flow::{Failure, Party, Stop};

use self::link::Link;
use crate::options::MemcachedOptions;
use crate::url::Server;

/// The longest line a server says at connect.
const GREETING_BYTES_MAX: usize = 1024;
/// Requests that wait to be sent: no more than this.
pub const OUTBOX_BYTES_MAX: usize = 128 << 10;
/// What a TLS session buffers: a record each way, 64 KiB of plain text that waits to be sent and its encrypted form.
const TLS_BYTES: u64 = 256 << 10;
/// When there is less room than this at the end of the receive buffer, what is in it moves to the front.
const ROOM_BYTES_MIN: usize = 8 << 10;

/// What can happen to a connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// It could not be made.
    #[error("cannot connect to memcached at {server}: check that it runs and listens there")]
    Connect {
        /// The server.
        server: Server,
        /// Why not.
        source: io::Error,
    },
    /// It broke.
    #[error("the connection to memcached at {server} was lost")]
    Lost {
        /// The server.
        server: Server,
        /// How.
        source: io::Error,
    },
    /// The server closed it.
    #[error("memcached at {server} closed the connection{}", if *.greeted { "" } else {
        " before it said its version: check that this is its text protocol (not only SASL or binary), and whether it wants TLS (memcacheds://)"
    })]
    Closed {
        /// The server.
        server: Server,
        /// Whether it had said its version before.
        greeted: bool,
    },
    /// The server kept silent for longer than the I/O timeout.
    #[error("memcached at {server} kept silent for {} s while it owed an answer: check whether it hangs, or give a longer --io-timeout", .silence.as_secs_f32())]
    Silent {
        /// The server.
        server: Server,
        /// How long.
        silence: Duration,
    },
    /// The server has no more connections to give.
    #[error(
        "memcached at {server} has too many connections: raise its limit (-c), or give fewer --threads"
    )]
    Full {
        /// The server.
        server: Server,
    },
    /// The server wants to know who we are.
    #[error(
        "memcached at {server} wants a user and a password, and none were given: give --user and --password-file"
    )]
    AuthNeeded {
        /// The server.
        server: Server,
    },
    /// The server does not know us.
    #[error(
        "memcached at {server} refused the user and password ({reply}): check --user and --password-file"
    )]
    AuthRefused {
        /// The server.
        server: Server,
        /// What it said.
        reply: String,
    },
    /// TLS could not be set up or broke.
    #[error("TLS with memcached at {server} failed: {reason}")]
    Tls {
        /// The server.
        server: Server,
        /// Why.
        reason: String,
    },
    /// The server said what it should not.
    #[error("memcached at {server} answered {reply:?} where {expected} was expected")]
    Unexpected {
        /// The server.
        server: Server,
        /// What it said, cut to a line of text.
        reply: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl ConnectionError {
    /// Whether a new connection may do better.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Lost { .. }
            | Self::Closed { .. }
            | Self::Silent { .. }
            | Self::Full { .. } => true,
            Self::Cancelled(_)
            | Self::AuthNeeded { .. }
            | Self::AuthRefused { .. }
            | Self::Tls { .. }
            | Self::Unexpected { .. } => false,
        }
    }

    /// The end of the job: `party` is whose side the server is on.
    pub fn into_stop(self, party: Party) -> Stop {
        let failure = Failure::new(party, self.to_string());
        match self {
            Self::Cancelled(cancelled) => Stop::Cancelled(cancelled),
            Self::Connect { source, .. } | Self::Lost { source, .. } => {
                Stop::Failed(failure.because(source))
            }
            _ => Stop::Failed(failure),
        }
    }
}

/// A version as `version` says it, such as `1.6.18`. Ordered by its numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    text: String,
    numbers: [u32; 3],
}

impl Version {
    fn parse(text: &str) -> Self {
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(text.split(['.', '-', '_', ' '])) {
            *number = part.parse().unwrap_or(0);
        }
        Self {
            text: text.to_owned(),
            numbers,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is this version or a later one.
    pub fn is_at_least(&self, major: u32, minor: u32, patch: u32) -> bool {
        self.numbers >= [major, minor, patch]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A connection that was made, greeted and, if the server asked for it, authenticated.
pub struct Connection {
    link: Link,
    // Received and not consumed: start..end. Allocated once, never grown.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    version: Version,
}

impl Connection {
    /// Connects. One attempt: trying again is the caller's, who knows what is at stake.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn connect(
        server: &Server,
        options: &MemcachedOptions,
        gate: Option<&Gate>,
    ) -> Result<Self, ConnectionError> {
        let mut connection = Self::connect_silent(server, options, gate)?;
        connection.greet(options, gate)?;
        Ok(connection)
    }

    /// Connects for the binary protocol, which carries keys that the text protocol cannot; the first request settles
    /// a connection's protocol for good. One attempt.
    ///
    /// # Errors
    /// [`ConnectionError`]; [`ConnectionError::Closed`] or [`ConnectionError::Unexpected`] if the server does not speak
    /// that protocol.
    pub fn connect_binary(
        server: &Server,
        options: &MemcachedOptions,
        gate: Option<&Gate>,
    ) -> Result<Self, ConnectionError> {
        const HEAD_BYTES: usize = 24;
        // First an operation whose code is a line feed: a server that reads it as text answers at once with an error,
        // where it would wait for the end of the line otherwise.
        const REQUESTS: [u8; 2 * HEAD_BYTES] = {
            const NOOP: u8 = 0x0A;
            const VERSION: u8 = 0x0B;
            let mut requests = [0; 2 * HEAD_BYTES];
            (requests[0], requests[1]) = (0x80, NOOP);
            (requests[HEAD_BYTES], requests[HEAD_BYTES + 1]) = (0x80, VERSION);
            requests
        };
        let mut connection = Self::connect_silent(server, options, gate)?;
        connection.send(&REQUESTS, gate)?;
        if connection.buffered().is_empty() {
            connection.fill(gate)?;
        }
        if connection
            .buffered()
            .starts_with(b"ERROR Too many open connections")
        {
            return Err(ConnectionError::Full {
                server: server.clone(),
            });
        }
        if connection.buffered().first() != Some(&0x81) {
            return Err(connection.unexpected("its version in the binary protocol"));
        }
        let mut head = [0; HEAD_BYTES];
        connection.read_exact(&mut head, gate)?;
        connection.read_exact(&mut head, gate)?;
        let text_bytes = u32::from_be_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
        if text_bytes > GREETING_BYTES_MAX {
            return Err(connection.unexpected("its version in the binary protocol"));
        }
        let mut text = vec![0; text_bytes];
        connection.read_exact(&mut text, gate)?;
        connection.version = Version::parse(&shown(&text));
        connection.link.greeted = true;
        Ok(connection)
    }

    fn connect_silent(
        server: &Server,
        options: &MemcachedOptions,
        gate: Option<&Gate>,
    ) -> Result<Self, ConnectionError> {
        Ok(Self {
            link: Link::connect(server, options, gate)?,
            buffer: vec![0; options.buffer_bytes].into_boxed_slice(),
            start: 0,
            end: 0,
            version: Version::default(),
        })
    }

    /// What a connection holds at most, in bytes.
    pub fn memory_bytes(options: &MemcachedOptions) -> u64 {
        let tls = if options.tls.is_some() { TLS_BYTES } else { 0 };
        (options.buffer_bytes + OUTBOX_BYTES_MAX) as u64 + tls
    }

    /// The server at the other end.
    pub fn server(&self) -> &Server {
        &self.link.server
    }

    /// The server's version, as it said at connect.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The size of the receive buffer.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Sends all of `bytes`, reading what the server says meanwhile into the receive buffer.
    ///
    /// # Errors
    /// [`ConnectionError`]; how much was sent is not known then.
    pub fn send(&mut self, mut bytes: &[u8], gate: Option<&Gate>) -> Result<(), ConnectionError> {
        let mut silent = 0;
        loop {
            check(gate)?;
            let pushed = self.link.push()?;
            let taken = if self.link.has_outbox() {
                0
            } else {
                self.link.write(bytes)?
            };
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return Ok(());
            }
            if taken > 0 || pushed {
                silent = 0;
                continue;
            }
            let room = self.make_room();
            let ready = self.link.poll(room > 0, true)?;
            if ready.read {
                let n = self.link.receive(&mut self.buffer[self.end..], gate)?;
                self.end += n;
                silent = 0;
            } else if !ready.write {
                self.link.count_silence(&mut silent)?;
            }
        }
    }

    /// Requests to be sent while replies are waited for; append to it, and keep it within [`OUTBOX_BYTES_MAX`].
    #[inline]
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        if self.link.sent == self.link.outbox.len() {
            self.link.outbox.clear();
            self.link.sent = 0;
        }
        &mut self.link.outbox
    }

    /// Sends of the outbox what can be sent without waiting.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn push(&mut self) -> Result<(), ConnectionError> {
        self.link.push().map(drop)
    }

    /// What was received and not consumed.
    #[inline]
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Receives more, at least one byte, and sends the outbox meanwhile. Returns how many came.
    ///
    /// # Errors
    /// [`ConnectionError`]; [`ConnectionError::Unexpected`] if the buffer is full of what is not consumed.
    pub fn fill(&mut self, gate: Option<&Gate>) -> Result<usize, ConnectionError> {
        if self.make_room() == 0 {
            return Err(self.unexpected("a reply that fits in the receive buffer"));
        }
        let n = self.link.receive(&mut self.buffer[self.end..], gate)?;
        self.end += n;
        Ok(n)
    }

    /// Goes on by `bytes` of what is buffered.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start);
        self.start += bytes;
    }

    /// Reads a line of at most `line_bytes_max`, and gives it without its line end. It is consumed.
    ///
    /// # Errors
    /// [`ConnectionError`]; [`ConnectionError::Unexpected`] if the line is longer.
    pub fn read_line(
        &mut self,
        line_bytes_max: usize,
        gate: Option<&Gate>,
    ) -> Result<&[u8], ConnectionError> {
        let mut searched = 0;
        let length = loop {
            match memchr::memchr(b'\n', &self.buffered()[searched..]) {
                Some(at) => break searched + at,
                None => searched = self.end - self.start,
            }
            if searched > line_bytes_max {
                return Err(self.unexpected("a line end"));
            }
            self.fill(gate)?;
        };
        let begin = self.start;
        self.start += length + 1;
        let line = &self.buffer[begin..begin + length];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Reads into `out`, at least one byte: what is buffered first, then from the socket with no copy between.
    ///
    /// # Errors
    /// [`ConnectionError`].
    ///
    /// # Panics
    /// If `out` is empty.
    pub fn read_into(
        &mut self,
        out: &mut [u8],
        gate: Option<&Gate>,
    ) -> Result<usize, ConnectionError> {
        assert!(!out.is_empty());
        let buffered = self.buffered();
        if buffered.is_empty() {
            return self.link.receive(out, gate);
        }
        let n = buffered.len().min(out.len());
        out[..n].copy_from_slice(&buffered[..n]);
        self.consume(n);
        Ok(n)
    }

    /// Fills all of `out`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn read_exact(
        &mut self,
        out: &mut [u8],
        gate: Option<&Gate>,
    ) -> Result<(), ConnectionError> {
        let mut filled = 0;
        while filled < out.len() {
            filled += self.read_into(&mut out[filled..], gate)?;
        }
        Ok(())
    }

    /// The error that says what stands where `expected` should.
    pub fn unexpected(&self, expected: &'static str) -> ConnectionError {
        let seen = self.buffered();
        let line = memchr::memchr(b'\n', seen).map_or(seen, |at| &seen[..at]);
        ConnectionError::Unexpected {
            server: self.link.server.clone(),
            reply: shown(line),
            expected,
        }
    }

    /// Bytes of room at the end of the receive buffer.
    fn make_room(&mut self) -> usize {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < ROOM_BYTES_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.len() - self.end
    }

    /// Asks for the version first: it tells whether the server wants to know who we are, and a password is sent to no
    /// other one (which would store it as an item).
    fn greet(
        &mut self,
        options: &MemcachedOptions,
        gate: Option<&Gate>,
    ) -> Result<(), ConnectionError> {
        let server = self.link.server.clone();
        self.send(b"version\r\n", gate)?;
        let mut line = self.read_line(GREETING_BYTES_MAX, gate)?;
        if line.starts_with(b"CLIENT_ERROR unauthenticated") {
            let Some(auth) = &options.auth else {
                return Err(ConnectionError::AuthNeeded { server });
            };
            let data = format!("{} {}", auth.user(), auth.password());
            let request = format!("set auth 0 0 {}\r\n{data}\r\nversion\r\n", data.len());
            self.send(request.as_bytes(), gate)?;
            let reply = self.read_line(GREETING_BYTES_MAX, gate)?;
            if reply != b"STORED" {
                let reply = shown(reply);
                return Err(ConnectionError::AuthRefused { server, reply });
            }
            line = self.read_line(GREETING_BYTES_MAX, gate)?;
        }
        if line.starts_with(b"ERROR Too many open connections") {
            return Err(ConnectionError::Full { server });
        }
        let Some(version) = line.strip_prefix(b"VERSION ") else {
            return Err(ConnectionError::Unexpected {
                server,
                reply: shown(line),
                expected: "its version",
            });
        };
        self.version = Version::parse(&shown(version));
        self.link.greeted = true;
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.link.server)
            .field("version", &self.version)
            .field("buffered", &self.buffered().len())
            .finish_non_exhaustive()
    }
}

/// A line as text, cut to what an error message can bear, and without what a terminal would obey.
pub(crate) fn shown(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(&line[..line.len().min(200)]).replace(char::is_control, "\u{FFFD}")
}

fn check(gate: Option<&Gate>) -> Result<(), Cancelled> {
    gate.map_or(Ok(()), Gate::check)
}
