//! A tiny client of memcached, so that tests do not look at servers through the code they test.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Error, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::memcached::Memcached;

/// How long an answer may take before the test is called broken.
const ANSWER: Duration = Duration::from_secs(60);
/// Commands sent before their answers are read.
const PIPELINE: usize = 500;

/// A blocking connection to memcached. Every method panics when the server does not answer as it should.
#[derive(Debug)]
pub struct RawMemcached {
    addr: String,
    text: Connection,
    // Opened when first needed: a connection speaks one protocol for its life.
    binary: Option<Connection>,
}

/// An item, as a server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Vec<u8>,
    /// The client's flags.
    pub flags: u32,
    /// The unique number of this version of the item.
    pub cas: u64,
    /// Seconds left to live; `None` if it never expires, or if its key is odd and longer than 187 bytes: then no
    /// command tells.
    pub ttl_seconds: Option<u64>,
}

/// Item number `n` of [`RawMemcached::fill`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The key.
    pub key: String,
    /// The value, 100 to 1000 bytes of noise.
    pub value: Vec<u8>,
    /// The flags.
    pub flags: u32,
}

/// Item number `n` of [`RawMemcached::fill`]: the same in every run.
pub fn expected(n: u64) -> Expected {
    let mut noise = Noise(n);
    let len = 100 + (noise.next() % 901) as usize;
    let mut value = Vec::with_capacity(len + 8);
    while value.len() < len {
        value.extend_from_slice(&noise.next().to_le_bytes());
    }
    value.truncate(len);
    Expected {
        key: format!("key-{n:010}"),
        value,
        flags: (n % 65_536) as u32,
    }
}

/// The splitmix64 sequence (Steele, Lea, Flood 2014).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl RawMemcached {
    /// Connects to `server`: without TLS, and as its first user if it wants one.
    #[track_caller]
    pub fn connect(server: &Memcached) -> Self {
        Self::try_connect(&server.plain_addr(), server.user())
            .expect("memcached accepts connections")
    }

    /// Connects to `host:port`, or to the unix socket at a path.
    #[track_caller]
    pub fn connect_to(addr: &str) -> Self {
        Self::try_connect(addr, None).expect("memcached accepts connections")
    }

    pub(crate) fn try_connect(addr: &str, user: Option<(&str, &str)>) -> io::Result<Self> {
        let mut text = Connection::open(addr)?;
        if let Some((name, password)) = user {
            let secret = format!("{name} {password}");
            text.send(format!("set auth 0 0 {}\r\n{secret}\r\n", secret.len()).as_bytes())?;
            text.line_is("STORED")?;
        }
        Ok(Self {
            addr: addr.to_owned(),
            text,
            binary: None,
        })
    }

    /// Stores an item, by the binary protocol if the text protocol cannot write its key. `exptime` as memcached takes it.
    #[track_caller]
    pub fn set(&mut self, key: &[u8], value: &[u8], flags: u32, exptime: u32) {
        if is_plain(key) {
            let key = key.escape_ascii();
            let head = format!("set {key} {flags} {exptime} {}\r\n", value.len());
            let command = [head.as_bytes(), value, b"\r\n"].concat();
            self.text.send(&command).unwrap();
            self.text.line_is("STORED").unwrap();
        } else {
            let extras = [flags.to_be_bytes(), exptime.to_be_bytes()].concat();
            let answer = self.binary().request(SET, &extras, key, value).unwrap();
            assert_eq!(answer.status, OK, "binary set of {:?}", key.escape_ascii());
        }
    }

    fn get_binary(&mut self, key: &[u8]) -> Option<Item> {
        let answer = self.binary().request(GET, &[], key, &[]).unwrap();
        match answer.status {
            NOT_FOUND => return None,
            status => assert_eq!(status, OK, "binary get of {:?}", key.escape_ascii()),
        }
        Some(Item {
            value: answer.value,
            flags: u32::from_be_bytes(answer.extras.try_into().expect("flags")),
            cas: answer.cas,
            ttl_seconds: None,
        })
    }

    /// The item of `key`, any bytes; `None` if there is none. Counts as a fetch for the server.
    #[track_caller]
    pub fn get(&mut self, key: &[u8]) -> Option<Item> {
        let Some(meta_key) = meta_key(key) else {
            return self.get_binary(key);
        };
        let command = format!("mg {meta_key} v f c t\r\n");
        self.text.send(command.as_bytes()).unwrap();
        let line = self.text.line().unwrap();
        let mut words = line.split(' ');
        match words.next() {
            Some("EN") => return None,
            Some("VA") => {}
            _ => panic!("mg answers {line:?}"),
        }
        let len: usize = words.next().unwrap().parse().unwrap();
        let mut item = Item {
            value: self.text.bytes(len).unwrap(),
            flags: 0,
            cas: 0,
            ttl_seconds: None,
        };
        for word in words {
            match word.split_at(1) {
                ("f", flags) => item.flags = flags.parse().unwrap(),
                ("c", cas) => item.cas = cas.parse().unwrap(),
                ("t", "-1") => item.ttl_seconds = None,
                ("t", ttl) => item.ttl_seconds = Some(ttl.parse().unwrap()),
                _ => {}
            }
        }
        Some(item)
    }

    /// Removes the item of `key`, any bytes; whether there was one.
    #[track_caller]
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let Some(meta_key) = meta_key(key) else {
            let answer = self.binary().request(DELETE, &[], key, &[]).unwrap();
            assert!([OK, NOT_FOUND].contains(&answer.status), "{answer:?}");
            return answer.status == OK;
        };
        let answer = self.command(&format!("md {meta_key}"));
        match answer.split(' ').next() {
            Some("HD") => true,
            Some("NF") => false,
            _ => panic!("md answers {answer:?}"),
        }
    }

    /// Sends one line, and returns the one line that answers it.
    #[track_caller]
    pub fn command(&mut self, line: &str) -> String {
        self.text.send(format!("{line}\r\n").as_bytes()).unwrap();
        self.text.line().unwrap()
    }

    /// Stores items 0 to `n` of [`expected`], pipelined.
    #[track_caller]
    pub fn fill(&mut self, n: u64) {
        self.fill_range(0..n);
    }

    /// Stores these items of [`expected`], pipelined.
    #[track_caller]
    pub fn fill_range(&mut self, range: Range<u64>) {
        self.set_many(range.map(|n| {
            let Expected { key, value, flags } = expected(n);
            (key, value, flags)
        }));
    }

    /// Stores items that never expire, pipelined. Their keys must be printable.
    #[track_caller]
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        items: impl IntoIterator<Item = (K, V, u32)>,
    ) {
        let mut items = items.into_iter().peekable();
        let mut batch = Vec::new();
        while items.peek().is_some() {
            batch.clear();
            let mut sent = 0;
            for (key, value, flags) in items.by_ref().take(PIPELINE) {
                let value = value.as_ref();
                batch.extend_from_slice(b"set ");
                batch.extend_from_slice(key.as_ref());
                write!(batch, " {flags} 0 {}\r\n", value.len()).unwrap();
                batch.extend_from_slice(value);
                batch.extend_from_slice(b"\r\n");
                sent += 1;
            }
            self.text.send(&batch).unwrap();
            for n in 0..sent {
                self.text
                    .line_is("STORED")
                    .unwrap_or_else(|error| panic!("item {n} of a batch: {error}"));
            }
        }
    }

    /// What `stats` says.
    #[track_caller]
    pub fn stats(&mut self) -> BTreeMap<String, String> {
        self.try_stats("").unwrap()
    }

    /// What `stats items`, `stats settings` and so on say.
    #[track_caller]
    pub fn stats_of(&mut self, what: &str) -> BTreeMap<String, String> {
        self.try_stats(what).unwrap()
    }

    /// One number of `stats`.
    #[track_caller]
    pub fn stat(&mut self, name: &str) -> u64 {
        let stats = self.stats();
        let number = stats.get(name).and_then(|value| value.parse().ok());
        number.unwrap_or_else(|| panic!("stats has no number {name:?}: {stats:?}"))
    }

    pub(crate) fn try_stats(&mut self, what: &str) -> io::Result<BTreeMap<String, String>> {
        let command = if what.is_empty() {
            "stats\r\n".to_owned()
        } else {
            format!("stats {what}\r\n")
        };
        self.text.send(command.as_bytes())?;
        let mut stats = BTreeMap::new();
        loop {
            let line = self.text.line()?;
            if line == "END" {
                return Ok(stats);
            }
            let (name, value) = line
                .strip_prefix("STAT ")
                .and_then(|stat| stat.split_once(' '))
                .ok_or_else(|| Error::other(format!("stats answers {line:?}")))?;
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    fn binary(&mut self) -> &mut Connection {
        let addr = &self.addr;
        self.binary
            .get_or_insert_with(|| Connection::open(addr).expect("memcached accepts connections"))
    }
}

/// Whether the text protocol can write this key.
fn is_plain(key: &[u8]) -> bool {
    assert!((1..=250).contains(&key.len()), "keys are 1 to 250 bytes");
    key.iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'\\' && *byte != b'"' && *byte != b'\'')
}

/// The key as the meta commands take it, with the flag that says how; `None` if it becomes too long that way.
fn meta_key(key: &[u8]) -> Option<String> {
    if is_plain(key) {
        return Some(key.escape_ascii().to_string());
    }
    let text = BASE64_STANDARD.encode(key);
    (text.len() <= 250).then(|| format!("{text} b"))
}

// Of memcached's binary protocol.
const GET: u8 = 0;
const SET: u8 = 1;
const DELETE: u8 = 4;
const OK: u16 = 0;
const NOT_FOUND: u16 = 1;

/// An answer of the binary protocol.
#[derive(Debug)]
struct Answer {
    status: u16,
    cas: u64,
    extras: Vec<u8>,
    value: Vec<u8>,
}

trait Duplex: Read + Write + Send + std::fmt::Debug {}
impl<T: Read + Write + Send + std::fmt::Debug> Duplex for T {}

#[derive(Debug)]
struct Connection {
    stream: BufReader<Box<dyn Duplex>>,
}

impl Connection {
    fn open(addr: &str) -> io::Result<Self> {
        let stream: Box<dyn Duplex> = if addr.starts_with('/') {
            let stream = UnixStream::connect(addr)?;
            stream.set_read_timeout(Some(ANSWER))?;
            Box::new(stream)
        } else {
            let stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(ANSWER))?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        };
        Ok(Self {
            stream: BufReader::with_capacity(64 << 10, stream),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(Error::other(format!("the server closed after {line:?}"))),
        }
    }

    fn line_is(&mut self, wanted: &str) -> io::Result<()> {
        let line = self.line()?;
        if line == wanted {
            return Ok(());
        }
        Err(Error::other(format!(
            "the server answers {line:?}, not {wanted:?}"
        )))
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len + 2];
        self.stream.read_exact(&mut bytes)?;
        if bytes.split_off(len) != b"\r\n" {
            return Err(Error::other("a value ends without its newline"));
        }
        Ok(bytes)
    }

    /// One request of memcached's binary protocol, and its answer. Big-endian:
    ///
    /// | offset | size | field |
    /// |---|---|---|
    /// | 0 | 1 | magic: 0x80 request, 0x81 response |
    /// | 1 | 1 | opcode |
    /// | 2 | 2 | key bytes |
    /// | 4 | 1 | extras bytes |
    /// | 5 | 1 | data type, 0 |
    /// | 6 | 2 | status in a response |
    /// | 8 | 4 | bytes of extras, key and value |
    /// | 12 | 4 | opaque |
    /// | 16 | 8 | cas |
    fn request(
        &mut self,
        opcode: u8,
        extras: &[u8],
        key: &[u8],
        value: &[u8],
    ) -> io::Result<Answer> {
        let body = [extras, key, value].concat();
        let mut head = [0; 24];
        head[0] = 0x80;
        head[1] = opcode;
        head[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
        head[4] = extras.len() as u8;
        head[8..12].copy_from_slice(&(body.len() as u32).to_be_bytes());
        self.send(&[&head[..], &body].concat())?;
        self.stream.read_exact(&mut head)?;
        assert_eq!((head[0], head[1]), (0x81, opcode), "not an answer");
        let number = |range: Range<usize>| {
            let bytes = head[range].iter();
            bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut extras = vec![0; number(8..12) as usize];
        self.stream.read_exact(&mut extras)?;
        let value = extras.split_off(number(4..5) as usize + number(2..4) as usize);
        extras.truncate(number(4..5) as usize);
        Ok(Answer {
            status: number(6..8) as u16,
            cas: number(16..24),
            extras,
            value,
        })
    }
}
