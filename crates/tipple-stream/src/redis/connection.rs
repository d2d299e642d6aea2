//! One connection, and the protocol on it (RESP2).
//!
//! Replies are decoded as they arrive, so that a reply of many events takes the memory of one; and every wait is cut
//! into ticks that look at the gate, so that neither a cancel nor a silent server finds anyone blocked.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use tipple_budget::{Cancelled, Gate};
use tipple_tls::Socket;

use super::url::RedisUrl;

/// How long a wait sleeps before it looks at the gate.
const TICK: Duration = Duration::from_millis(50);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes that are read from the socket at a time.
const INPUT_BYTES: usize = 64 << 10;
/// The longest line: an error, a number.
const LINE_BYTES_MAX: usize = 4 << 10;
/// How deep lists may be nested in an answer that is held whole.
const DEPTH_MAX: u32 = 8;

/// Why a command was not answered.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The job ended.
    Cancelled(Cancelled),
    /// The connection is of no more use; another one may be.
    Lost(String),
    /// The server's own words. The connection is as good as before.
    Refused(String),
    /// The server does not speak as Redis does.
    Protocol(String),
}

impl Trouble {
    /// Whether the same may succeed on another connection, a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Refused(text) => ["LOADING", "BUSY ", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"]
                .iter()
                .any(|word| text.starts_with(word)),
            Self::Cancelled(_) | Self::Protocol(_) => false,
        }
    }
}

impl From<Cancelled> for Trouble {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

/// An answer that is held whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Null,
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Answer>),
}

impl Answer {
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Appends a command to `out`.
pub(super) fn command<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    begin_command(out, args.len());
    for arg in args {
        begin_arg(out, arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn begin_command(out: &mut Vec<u8>, args: usize) {
    write!(out, "*{args}\r\n").expect("into memory");
}

pub(super) fn begin_arg(out: &mut Vec<u8>, bytes: usize) {
    write!(out, "${bytes}\r\n").expect("into memory");
}

/// A connection to a server, which knows us and has selected the database.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    input: Box<[u8]>,
    at: usize,
    filled: usize,
    silence: Duration,
}

impl Connection {
    /// Connects. A server that says nothing for `silence` is given up, now and later.
    pub fn open(url: &RedisUrl, silence: Duration, gate: Option<&Gate>) -> Result<Self, Trouble> {
        let lost = |error: io::Error| Trouble::Lost(error.to_string());
        let mut last = None;
        for address in url.host().to_socket_addrs().map_err(lost)? {
            if let Some(gate) = gate {
                gate.check()?;
            }
            match TcpStream::connect_timeout(&address, CONNECT.min(silence)) {
                Ok(socket) => {
                    let mut connection = Self::over(socket, url, silence, gate)?;
                    connection.greet(url, gate)?;
                    return Ok(connection);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| Trouble::Lost("the name has no address".into()), lost))
    }

    fn over(
        socket: TcpStream,
        url: &RedisUrl,
        silence: Duration,
        gate: Option<&Gate>,
    ) -> Result<Self, Trouble> {
        let ready = || {
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))
        };
        ready().map_err(|error: io::Error| Trouble::Lost(error.to_string()))?;
        let socket = match url.tls() {
            None => Socket::Plain(socket),
            Some(tls) => {
                let look = || gate.map_or(Ok(()), Gate::check).map_err(Trouble::from);
                let failed = |why, may_pass| match may_pass {
                    true => Trouble::Lost(why),
                    false => Trouble::Protocol(why),
                };
                Socket::secure(
                    socket,
                    url.host().0,
                    tls,
                    CONNECT.min(silence),
                    look,
                    failed,
                )?
            }
        };
        Ok(Self {
            socket,
            input: vec![0; INPUT_BYTES].into(),
            at: 0,
            filled: 0,
            silence,
        })
    }

    fn greet(&mut self, url: &RedisUrl, gate: Option<&Gate>) -> Result<(), Trouble> {
        let mut talk = self.talk(gate);
        match url.credentials() {
            (Some(user), password) => {
                let password = password.unwrap_or_default();
                talk.ask(&[b"AUTH", user.as_bytes(), password.as_bytes()])?;
            }
            (None, Some(password)) => drop(talk.ask(&[b"AUTH", password.as_bytes()])?),
            (None, None) => {}
        }
        if url.database() > 0 {
            talk.ask(&[b"SELECT", url.database().to_string().as_bytes()])?;
        }
        Ok(())
    }

    /// What is said from here on ends with the gate.
    pub fn talk<'c>(&'c mut self, gate: Option<&'c Gate>) -> Talk<'c> {
        Talk {
            of: self,
            gate,
            peeked: None,
        }
    }
}

/// A conversation. After any [`Trouble`] but [`Trouble::Refused`] the connection must be dropped.
pub(super) struct Talk<'c> {
    of: &'c mut Connection,
    gate: Option<&'c Gate>,
    // The first byte of what comes next, if it was looked at.
    peeked: Option<u8>,
}

impl Talk<'_> {
    /// Sends a command, and reads its answer, which is small.
    pub fn ask(&mut self, args: &[&[u8]]) -> Result<Answer, Trouble> {
        self.send(args)?;
        self.answer()
    }

    /// Sends a command.
    pub fn send(&mut self, args: &[&[u8]]) -> Result<(), Trouble> {
        let mut bytes = Vec::new();
        command(&mut bytes, args.iter().copied());
        self.write(&bytes)
    }

    /// Sends bytes of commands.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Trouble> {
        let mut since = Instant::now();
        while !bytes.is_empty() {
            match self.of.socket.write(bytes) {
                Ok(0) => return Err(Trouble::Lost("the connection was closed".into())),
                Ok(n) => {
                    bytes = &bytes[n..];
                    since = Instant::now();
                }
                Err(error) => self.waited(error, since)?,
            }
        }
        while let Err(error) = self.of.socket.flush() {
            self.waited(error, since)?;
        }
        Ok(())
    }

    /// Whether there is a reason to go on waiting.
    fn waited(&self, error: io::Error, since: Instant) -> Result<(), Trouble> {
        if let Some(gate) = self.gate {
            gate.check()?;
        }
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
            _ => return Err(Trouble::Lost(error.to_string())),
        }
        if since.elapsed() >= self.of.silence {
            return Err(Trouble::Lost(format!(
                "it said nothing for {:?}",
                self.of.silence
            )));
        }
        Ok(())
    }

    /// The bytes at hand, at least one.
    fn fill(&mut self) -> Result<&[u8], Trouble> {
        let since = Instant::now();
        while self.of.at == self.of.filled {
            match self.of.socket.read(&mut self.of.input) {
                Ok(0) => return Err(Trouble::Lost("it closed the connection".into())),
                Ok(n) => (self.of.at, self.of.filled) = (0, n),
                Err(error) => self.waited(error, since)?,
            }
        }
        Ok(&self.of.input[self.of.at..self.of.filled])
    }

    fn byte(&mut self) -> Result<u8, Trouble> {
        if let Some(byte) = self.peeked.take() {
            return Ok(byte);
        }
        let byte = self.fill()?[0];
        self.of.at += 1;
        Ok(byte)
    }

    fn line(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut line = Vec::new();
        loop {
            match self.byte()? {
                b'\r' => break,
                byte if line.len() < LINE_BYTES_MAX => line.push(byte),
                _ => return Err(Trouble::Protocol("a line without end".into())),
            }
        }
        self.line_feed()?;
        Ok(line)
    }

    fn line_feed(&mut self) -> Result<(), Trouble> {
        match self.byte()? {
            b'\n' => Ok(()),
            other => Err(Trouble::Protocol(format!(
                "byte {other:#04x} where a line should end"
            ))),
        }
    }

    /// The number behind a type's byte.
    fn number(&mut self) -> Result<i64, Trouble> {
        let line = self.line()?;
        let number = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.parse().ok());
        number.ok_or_else(|| {
            Trouble::Protocol(format!(
                "{:?} where a number should be",
                line.escape_ascii().to_string()
            ))
        })
    }

    /// The length behind `kind`, which must come next; `None` for a null.
    fn length(&mut self, kind: u8) -> Result<Option<u64>, Trouble> {
        match self.byte()? {
            found if found == kind => Ok(u64::try_from(self.number()?).ok()),
            b'-' => Err(self.refusal()?),
            other => Err(Trouble::Protocol(format!(
                "byte {other:#04x} where {:?} should be",
                char::from(kind)
            ))),
        }
    }

    fn refusal(&mut self) -> Result<Trouble, Trouble> {
        let line = self.line()?;
        Ok(Trouble::Refused(line.escape_ascii().to_string()))
    }

    /// How many elements a list has that comes next.
    ///
    /// # Errors
    /// [`Trouble::Refused`] too.
    pub fn list(&mut self) -> Result<u64, Trouble> {
        Ok(self.length(b'*')?.unwrap_or(0))
    }

    /// Whether a null comes next, which is passed over then.
    pub fn is_null(&mut self) -> Result<bool, Trouble> {
        // Its bytes may come one by one; a null string and a null list are told from others by the second.
        let kind = self.byte()?;
        let is_null = self.fill()?[0] == b'-';
        match is_null {
            true => drop(self.line()?),
            false => self.peeked = Some(kind),
        }
        Ok(is_null)
    }

    /// How many bytes a string has that comes next: [`Talk::bytes`] has them.
    pub fn string(&mut self) -> Result<u64, Trouble> {
        (self.length(b'$')?)
            .ok_or_else(|| Trouble::Protocol("nothing where a string should be".into()))
    }

    /// Hands all bytes of a string to `take`, piece by piece.
    pub fn bytes<E: From<Trouble>>(
        &mut self,
        mut bytes: u64,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while bytes > 0 {
            let at_hand = self.fill()?;
            let n = at_hand
                .len()
                .min(usize::try_from(bytes).unwrap_or(usize::MAX));
            take(&at_hand[..n])?;
            self.of.at += n;
            bytes -= n as u64;
        }
        match self.byte()? {
            b'\r' => Ok(self.line_feed()?),
            other => Err(Trouble::Protocol(format!("byte {other:#04x} after a string")).into()),
        }
    }

    /// A string that is short.
    pub fn short(&mut self) -> Result<Vec<u8>, Trouble> {
        let bytes = self.string()?;
        if bytes > LINE_BYTES_MAX as u64 {
            return Err(Trouble::Protocol(format!("a name of {bytes} bytes")));
        }
        let mut string = Vec::new();
        self.bytes(bytes, |piece| {
            string.extend_from_slice(piece);
            Ok::<_, Trouble>(())
        })?;
        Ok(string)
    }

    /// Passes over whatever comes next.
    pub fn skip(&mut self) -> Result<(), Trouble> {
        let mut left: u64 = 1;
        while left > 0 {
            left -= 1;
            match self.byte()? {
                b'+' | b':' => drop(self.line()?),
                b'-' => return Err(self.refusal()?),
                b'$' => {
                    if let Ok(bytes) = u64::try_from(self.number()?) {
                        self.bytes(bytes, |_| Ok::<_, Trouble>(()))?;
                    }
                }
                b'*' => left = left.saturating_add(u64::try_from(self.number()?).unwrap_or(0)),
                other => return Err(unknown(other)),
            }
        }
        Ok(())
    }

    /// An answer, held whole: at most [`Talk::ANSWER_BYTES_MAX`].
    pub fn answer(&mut self) -> Result<Answer, Trouble> {
        let mut room = Self::ANSWER_BYTES_MAX;
        self.answer_within(&mut room, DEPTH_MAX)
    }

    /// The most that one answer which is held whole takes, in bytes.
    pub const ANSWER_BYTES_MAX: u64 = 4 << 20;

    fn answer_within(&mut self, room: &mut u64, depth: u32) -> Result<Answer, Trouble> {
        let mut take = |bytes: u64| {
            *room = room
                .checked_sub(bytes)
                .ok_or_else(|| Trouble::Protocol("an answer that is too large".into()))?;
            Ok::<_, Trouble>(())
        };
        take(size_of::<Answer>() as u64)?;
        Ok(match self.byte()? {
            b'+' => Answer::Bytes(self.line()?),
            b':' => Answer::Number(self.number()?),
            b'-' => return Err(self.refusal()?),
            b'$' => match u64::try_from(self.number()?) {
                Err(_) => Answer::Null,
                Ok(bytes) => {
                    take(bytes)?;
                    let mut string = Vec::new();
                    self.bytes(bytes, |piece| {
                        string.extend_from_slice(piece);
                        Ok::<_, Trouble>(())
                    })?;
                    Answer::Bytes(string)
                }
            },
            b'*' => match u64::try_from(self.number()?) {
                Err(_) => Answer::Null,
                Ok(_) if depth == 0 => return Err(Trouble::Protocol("lists in lists".into())),
                Ok(elements) => {
                    // Each takes room before it is there, so a claimed number alone allocates nothing.
                    let mut list = Vec::new();
                    for _ in 0..elements {
                        list.push(self.answer_within(room, depth - 1)?);
                    }
                    Answer::List(list)
                }
            },
            other => return Err(unknown(other)),
        })
    }
}

fn unknown(kind: u8) -> Trouble {
    Trouble::Protocol(format!("byte {kind:#04x} where an answer should begin"))
}

#[cfg(test)]
impl Connection {
    /// The words of one command.
    pub fn parse_command(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut line = |kind: u8, payload: Option<usize>| {
            let length = payload.unwrap_or_else(|| bytes.iter().position(|b| *b == b'\r').unwrap());
            let (line, rest) = bytes.split_at(length);
            assert_eq!(&rest[..2], b"\r\n");
            bytes = &rest[2..];
            match payload {
                Some(_) => line.to_vec(),
                None => line.strip_prefix(&[kind]).unwrap().to_vec(),
            }
        };
        let number = |line: Vec<u8>| String::from_utf8(line).unwrap().parse::<usize>().unwrap();
        let words = number(line(b'*', None));
        let words = (0..words).map(|_| {
            let length = number(line(b'$', None));
            line(b'$', Some(length))
        });
        let words = words.collect();
        assert!(bytes.is_empty(), "more than one command");
        words
    }
}
