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

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tipple_budget::{Cancelled, Gate};
use tipple_flow::{Failure, Party, Stop};

use crate::options::MemcachedOptions;
use crate::tls;
use crate::url::Server;

/// How long a wait for the server goes on before it looks whether the job was cancelled.
const TICK: Duration = Duration::from_millis(100);
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
        let failed = |source| ConnectionError::Connect {
            server: server.clone(),
            source,
        };
        let stream = Stream::connect(server, options.connect_timeout).map_err(failed)?;
        stream.set_tick().map_err(failed)?;
        let mut link = Link {
            server: server.clone(),
            stream,
            tls: None,
            outbox: Vec::with_capacity(OUTBOX_BYTES_MAX),
            sent: 0,
            ticks_max: ticks(options.io_timeout),
            greeted: false,
        };
        if let Some(tls) = &options.tls {
            link.tls = Some(Box::new(tls::client(server, tls)?));
            link.handshake(gate)?;
        }
        Ok(Self {
            link,
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

    /// Bytes of the outbox that are not sent yet.
    #[inline]
    pub fn outbox_bytes(&self) -> usize {
        self.link.outbox.len() - self.link.sent
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

fn ticks(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

fn check(gate: Option<&Gate>) -> Result<(), Cancelled> {
    gate.map_or(Ok(()), Gate::check)
}

/// What a connection is beside its receive buffer.
struct Link {
    server: Server,
    stream: Stream,
    tls: Option<Box<rustls::ClientConnection>>,
    // To be sent: sent.. of it.
    outbox: Vec<u8>,
    sent: usize,
    ticks_max: u32,
    greeted: bool,
}

#[derive(Clone, Copy)]
struct Ready {
    read: bool,
    write: bool,
}

impl Link {
    fn has_outbox(&self) -> bool {
        self.sent < self.outbox.len()
    }

    fn wants_write(&self) -> bool {
        self.has_outbox() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends of the outbox what goes without waiting; whether anything went.
    fn push(&mut self) -> Result<bool, ConnectionError> {
        let mut pushed = false;
        while self.has_outbox() {
            let outbox = std::mem::take(&mut self.outbox);
            let taken = self.write(&outbox[self.sent..]);
            self.outbox = outbox;
            match taken? {
                0 => return Ok(pushed),
                n => self.sent += n,
            }
            pushed = true;
        }
        if self.tls.is_some() {
            pushed |= self.flush_tls()?;
        }
        Ok(pushed)
    }

    /// Sends of `bytes` what goes without waiting; 0 if nothing does.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ConnectionError> {
        if self.tls.is_some() {
            self.flush_tls()?;
            let tls = self.tls.as_mut().expect("just seen");
            let taken = write_records(&mut tls.writer(), bytes);
            let taken = taken.map_err(|source| self.lost(source))?;
            self.flush_tls()?;
            return Ok(taken);
        }
        match self.stream.send(bytes) {
            Ok(n) => Ok(n),
            Err(error) if waits(&error) => Ok(0),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn flush_tls(&mut self) -> Result<bool, ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(false);
        };
        let mut flushed = false;
        while tls.wants_write() {
            match tls.write_tls(&mut &self.stream) {
                Ok(_) => flushed = true,
                Err(error) if waits(&error) => return Ok(flushed),
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(flushed)
    }

    /// Receives at least one byte into `out`, sending the outbox meanwhile.
    fn receive(&mut self, out: &mut [u8], gate: Option<&Gate>) -> Result<usize, ConnectionError> {
        let mut silent = 0;
        loop {
            check(gate)?;
            if self.wants_write() && self.push()? {
                silent = 0;
            }
            if let Some(n) = self.decrypted(out)? {
                return Ok(n);
            }
            if self.wants_write() {
                let ready = self.poll(true, true)?;
                if !ready.read {
                    if !ready.write {
                        self.count_silence(&mut silent)?;
                    }
                    continue;
                }
            }
            let read = match &mut self.tls {
                None => (&self.stream).read(out),
                Some(tls) => tls.read_tls(&mut &self.stream),
            };
            match read {
                Ok(0) => {
                    let server = self.server.clone();
                    return Err(ConnectionError::Closed {
                        server,
                        greeted: self.greeted,
                    });
                }
                Ok(n) if self.tls.is_none() => return Ok(n),
                Ok(_) => {
                    self.decrypt()?;
                    silent = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => self.count_silence(&mut silent)?,
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    fn decrypt(&mut self) -> Result<(), ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if let Err(error) = tls.process_new_packets() {
            // The alert that tells the server why; it need not arrive.
            let _ = tls.write_tls(&mut &self.stream);
            return Err(ConnectionError::Tls {
                server: self.server.clone(),
                reason: tls::explain(&error),
            });
        }
        Ok(())
    }

    /// Plain bytes that TLS has ready.
    fn decrypted(&mut self, out: &mut [u8]) -> Result<Option<usize>, ConnectionError> {
        let Some(tls) = &mut self.tls else {
            return Ok(None);
        };
        match tls.reader().read(out) {
            Ok(0) => Err(ConnectionError::Closed {
                server: self.server.clone(),
                greeted: self.greeted,
            }),
            Ok(n) => Ok(Some(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn handshake(&mut self, gate: Option<&Gate>) -> Result<(), ConnectionError> {
        let mut silent = 0;
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            check(gate)?;
            self.flush_tls()?;
            let Some(tls) = &mut self.tls else { break };
            if !tls.wants_read() {
                continue;
            }
            match tls.read_tls(&mut &self.stream) {
                Ok(0) => {
                    return Err(ConnectionError::Tls {
                        server: self.server.clone(),
                        reason: "it closed the connection: check that it speaks TLS (-Z)".into(),
                    });
                }
                Ok(_) => {
                    self.decrypt()?;
                    silent = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if waits(&error) => self.count_silence(&mut silent)?,
                Err(error) => return Err(self.lost(error)),
            }
        }
        self.flush_tls().map(drop)
    }

    /// Waits a tick for the socket to be ready for what is wanted. A broken socket is ready for everything: the read
    /// or write that follows says why.
    fn poll(&self, read: bool, write: bool) -> Result<Ready, ConnectionError> {
        let mut events = 0;
        if read {
            events |= libc::POLLIN;
        }
        if write {
            events |= libc::POLLOUT;
        }
        let mut entry = libc::pollfd {
            fd: self.stream.as_raw_fd(),
            events,
            revents: 0,
        };
        // SAFETY: one valid entry, and the count says so; the descriptor is open as long as `self`.
        let ready = unsafe { libc::poll(&raw mut entry, 1, TICK.as_millis() as libc::c_int) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(self.lost(error));
            }
            entry.revents = 0;
        }
        let broken = entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
        Ok(Ready {
            read: read && (broken || entry.revents & libc::POLLIN != 0),
            write: write && (broken || entry.revents & libc::POLLOUT != 0),
        })
    }

    fn count_silence(&self, silent: &mut u32) -> Result<(), ConnectionError> {
        *silent += 1;
        if *silent < self.ticks_max {
            return Ok(());
        }
        Err(ConnectionError::Silent {
            server: self.server.clone(),
            silence: TICK * *silent,
        })
    }

    fn lost(&self, source: io::Error) -> ConnectionError {
        ConnectionError::Lost {
            server: self.server.clone(),
            source,
        }
    }
}

/// Writes `bytes` so that the last one has a TLS record of its own. A memcached reads as much of a record as it has room
/// or use for, and then waits for its socket; what its TLS library holds of the record it does not ask for. Were that
/// all there is, both sides would wait for ever. With another record behind it there is something at the socket, and of
/// one byte nothing stays behind.
fn write_records(records: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let Some((last, most)) = bytes.split_last() else {
        return Ok(0);
    };
    let mut taken = 0;
    if !most.is_empty() {
        taken = records.write(most)?;
        if taken < most.len() {
            return Ok(taken);
        }
    }
    taken += records.write(&[*last])?;
    Ok(taken)
}

/// Whether it is no error but nothing to read, or no room to write, for now.
fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A socket whose reads wait a tick at most and whose writes do not wait.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(server: &Server, timeout: Duration) -> io::Result<Self> {
        match server {
            Server::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Server::Tcp { host, port } => {
                let mut refusal =
                    io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => refusal = error,
                    }
                }
                Err(refusal)
            }
        }
    }

    fn set_tick(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(TICK)),
            Self::Unix(stream) => stream.set_read_timeout(Some(TICK)),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // Not waiting is a flag of this call and not of the socket: reads do wait, and cost one system call.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        loop {
            // SAFETY: the pointer and the length are those of `bytes`, which the call only reads.
            let n =
                unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
            if let Ok(n) = usize::try_from(n) {
                return Ok(n);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(out),
            Stream::Unix(stream) => (&mut &*stream).read(out),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
