//! What servers answer: an incremental parser of reply lines. Pure: no I/O, no allocation.
//!
//! Data is skipped by its length and never searched: a value may hold any text of the protocol.

use std::fmt;

/// The longest reply line that is understood, its line end included.
pub const REPLY_LINE_BYTES_MAX: usize = 2048;

/// The first line of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `VA <bytes> <flags…>`: so many bytes of data follow, and then CR LF ([`check_data_end`]).
    Value {
        /// The length of the data.
        bytes: u64,
        /// What else was asked for.
        flags: MetaFlags,
    },
    /// `HD`: done.
    Done(MetaFlags),
    /// `EN`: there is no such item.
    Miss(MetaFlags),
    /// `NF`: there is no such item to change.
    NotFound(MetaFlags),
    /// `NS`: not stored.
    NotStored(MetaFlags),
    /// `EX`: the item is there with another version number.
    Exists(MetaFlags),
    /// `MN`: everything before it was answered.
    Noop,
    /// `OK`
    Ok,
    /// `STORED`
    Stored,
    /// `END`
    End,
    /// `STAT <name> <value>`
    Stat {
        /// What.
        name: &'a [u8],
        /// How much; may be empty, may have spaces.
        value: &'a [u8],
    },
    /// `BUSY <text>`: another crawler runs.
    Busy(&'a [u8]),
    /// `ERROR [<text>]`: no such command, or not now.
    Error(&'a [u8]),
    /// `CLIENT_ERROR <text>`: the request was wrong.
    ClientError(&'a [u8]),
    /// `SERVER_ERROR <text>`: the server could not.
    ServerError(&'a [u8]),
}

/// The return flags of a meta command that mean something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaFlags {
    /// `f`: the client's flags.
    pub client_flags: Option<u32>,
    /// `t`: seconds to live, −1 for ever.
    pub ttl_s: Option<i64>,
    /// `c`: the version number of the value.
    pub cas: Option<u64>,
    /// `O`: what the request was marked with, a number in hexadecimal.
    pub opaque: Option<u32>,
}

/// The bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line that begins with no known word, or lacks what its word needs.
    Malformed,
    /// No line end within [`REPLY_LINE_BYTES_MAX`].
    TooLong,
    /// A number that is none or that overflows.
    Number,
    /// Data that does not end with CR LF where its length says.
    DataEnd,
    /// The mark of another request.
    Mark,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was expected", self.expected())
    }
}

impl ReplyError {
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Malformed => "a reply of the text protocol",
            Self::TooLong => "a reply line with an end",
            Self::Number => "a reply with numbers in range",
            Self::DataEnd => "the line end after a value",
            Self::Mark => "the mark of its request",
        }
    }
}

impl std::error::Error for ReplyError {}

/// The reply line at the beginning of `bytes` and its length with its line end; `None` if it is not all there.
///
/// # Errors
/// [`ReplyError`].
#[inline]
pub fn parse_reply(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
    let window = &bytes[..bytes.len().min(REPLY_LINE_BYTES_MAX)];
    let Some(at) = memchr::memchr(b'\n', window) else {
        if window.len() == REPLY_LINE_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        return Ok(None);
    };
    let line = &window[..at];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some((parse_line(line)?, at + 1)))
}

/// Whether `bytes`, which stand after data, begin with CR LF; `None` if there are not yet two of them.
///
/// # Errors
/// [`ReplyError::DataEnd`].
#[inline]
pub fn check_data_end(bytes: &[u8]) -> Result<Option<()>, ReplyError> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(Some(())),
        [] | [b'\r'] => Ok(None),
        _ => Err(ReplyError::DataEnd),
    }
}

/// Reads a line that has no line end.
#[inline]
pub(crate) fn parse_line(line: &[u8]) -> Result<Reply<'_>, ReplyError> {
    let (word, rest) = split(line);
    Ok(match word {
        b"VA" => {
            let (length, rest) = split(rest);
            Reply::Value {
                bytes: number(length).ok_or(ReplyError::Number)?,
                flags: meta_flags(rest)?,
            }
        }
        b"EN" => Reply::Miss(meta_flags(rest)?),
        b"HD" => Reply::Done(meta_flags(rest)?),
        b"NF" => Reply::NotFound(meta_flags(rest)?),
        b"NS" => Reply::NotStored(meta_flags(rest)?),
        b"EX" => Reply::Exists(meta_flags(rest)?),
        b"MN" => Reply::Noop,
        b"OK" => Reply::Ok,
        b"STORED" => Reply::Stored,
        b"END" => Reply::End,
        b"STAT" => {
            let (name, value) = split(rest);
            if name.is_empty() {
                return Err(ReplyError::Malformed);
            }
            Reply::Stat { name, value }
        }
        b"BUSY" => Reply::Busy(rest),
        b"ERROR" => Reply::Error(rest),
        b"CLIENT_ERROR" => Reply::ClientError(rest),
        b"SERVER_ERROR" => Reply::ServerError(rest),
        _ => return Err(ReplyError::Malformed),
    })
}

/// The word before the first space and what is after it.
#[inline]
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    // Words are short: a loop beats a search.
    match bytes.iter().position(|&b| b == b' ') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

#[inline]
fn meta_flags(mut rest: &[u8]) -> Result<MetaFlags, ReplyError> {
    let mut flags = MetaFlags::default();
    while !rest.is_empty() {
        let (token, after) = split(rest);
        rest = after;
        let Some((&kind, value)) = token.split_first() else {
            continue;
        };
        match kind {
            b'f' => {
                let value = number(value).and_then(|n| u32::try_from(n).ok());
                flags.client_flags = Some(value.ok_or(ReplyError::Number)?);
            }
            b't' if value == b"-1" => flags.ttl_s = Some(-1),
            b't' => {
                let value = number(value).and_then(|n| i64::try_from(n).ok());
                flags.ttl_s = Some(value.ok_or(ReplyError::Number)?);
            }
            b'c' => flags.cas = Some(number(value).ok_or(ReplyError::Number)?),
            b'O' => flags.opaque = hexadecimal(value),
            _ => {}
        }
    }
    Ok(flags)
}

/// A decimal number without a sign.
#[inline]
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    let mut value = 0_u64;
    if digits.len() < 20 {
        // 19 digits cannot overflow.
        for &digit in digits {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + u64::from(digit);
        }
        return Some(value);
    }
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    Some(value)
}

#[inline]
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |value: u32, &digit| {
        Some(value << 4 | u32::from(hexadecimal_digit(digit)?))
    })
}

/// The value of a digit of either case.
#[inline]
pub(crate) fn hexadecimal_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(line: &str) -> Reply<'_> {
        let (reply, length) = parse_reply(line.as_bytes()).unwrap().unwrap();
        assert_eq!(length, line.len());
        reply
    }

    #[test]
    fn replies_by_their_first_word() {
        let flags = MetaFlags {
            client_flags: Some(u32::MAX),
            ttl_s: Some(-1),
            cas: Some(u64::MAX),
            opaque: Some(0xab),
        };
        let line = "VA 5 f4294967295 t-1 c18446744073709551615 s9 Oab \r\n";
        assert_eq!(whole(line), Reply::Value { bytes: 5, flags });
        assert_eq!(whole("EN\r\n"), Reply::Miss(MetaFlags::default()));
        let key = MetaFlags {
            opaque: Some(1),
            ..MetaFlags::default()
        };
        assert_eq!(whole("EN kfoo O1\r\n"), Reply::Miss(key));
        assert_eq!(whole("HD O1\r\n"), Reply::Done(key));
        assert_eq!(whole("NF O1\n"), Reply::NotFound(key));
        assert_eq!(whole("NS O1\r\n"), Reply::NotStored(key));
        assert_eq!(whole("EX O1\r\n"), Reply::Exists(key));
        assert_eq!(whole("MN\r\n"), Reply::Noop);
        assert_eq!(whole("OK\r\n"), Reply::Ok);
        assert_eq!(whole("STORED\r\n"), Reply::Stored);
        assert_eq!(whole("END\r\n"), Reply::End);
        assert_eq!(
            whole("STAT a b c\r\n"),
            Reply::Stat {
                name: b"a",
                value: b"b c"
            }
        );
        assert_eq!(whole("BUSY now\r\n"), Reply::Busy(b"now"));
        assert_eq!(whole("ERROR\r\n"), Reply::Error(b""));
        assert_eq!(whole("ERROR locked try\r\n"), Reply::Error(b"locked try"));
        assert_eq!(whole("CLIENT_ERROR x\r\n"), Reply::ClientError(b"x"));
        assert_eq!(whole("SERVER_ERROR x\r\n"), Reply::ServerError(b"x"));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for (line, error) in [
            ("\r\n", ReplyError::Malformed),
            ("VALUE k 0 5\r\n", ReplyError::Malformed),
            ("va 5\r\n", ReplyError::Malformed),
            ("STAT\r\n", ReplyError::Malformed),
            ("VA\r\n", ReplyError::Number),
            ("VA -1\r\n", ReplyError::Number),
            ("VA 18446744073709551616\r\n", ReplyError::Number),
            ("VA 99999999999999999999999\r\n", ReplyError::Number),
            ("VA 1 f4294967296\r\n", ReplyError::Number),
            ("VA 1 t-2\r\n", ReplyError::Number),
            ("VA 1 t9223372036854775808\r\n", ReplyError::Number),
            ("VA 1 c\r\n", ReplyError::Number),
        ] {
            assert_eq!(parse_reply(line.as_bytes()), Err(error), "{line:?}");
        }
        assert_eq!(
            parse_reply(&[b'E'; REPLY_LINE_BYTES_MAX]),
            Err(ReplyError::TooLong)
        );
        assert_eq!(parse_reply(&[b'E'; REPLY_LINE_BYTES_MAX - 1]), Ok(None));
        assert_eq!(check_data_end(b"\r\nEN"), Ok(Some(())));
        assert_eq!(check_data_end(b"\r"), Ok(None));
        assert_eq!(check_data_end(b"\n"), Err(ReplyError::DataEnd));
        assert_eq!(check_data_end(b"\rx"), Err(ReplyError::DataEnd));
    }

    /// Reads a stream of replies as the fetcher does, from pieces cut at `cuts`.
    fn read_all(stream: &[u8], cuts: &[usize]) -> Result<Vec<(String, Vec<u8>)>, ReplyError> {
        let mut read = Vec::new();
        let (mut at, mut end) = (0, 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        for cut in cuts {
            end = end.max(cut);
            while let Some((reply, length)) = parse_reply(&stream[at..end])? {
                let mut data = Vec::new();
                let mut whole = length;
                if let Reply::Value { bytes, .. } = reply {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let Some(value) =
                        stream[..end].get(at + length..(at + length).saturating_add(bytes))
                    else {
                        break;
                    };
                    if check_data_end(&stream[at + length + bytes..end])?.is_none() {
                        break;
                    }
                    data = value.to_vec();
                    whole += bytes + 2;
                }
                read.push((format!("{reply:?}"), data));
                at += whole;
            }
        }
        Ok(read)
    }

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        for value in [
            &b""[..],
            b"VALUE k 0 5\r\n",
            b"END\r\n",
            b"EN\r\n",
            b"VA 5",
            b"\r\n",
            b"\r",
            b"\n",
        ] {
            stream.extend(format!("VA {} f0 t-1 c1 O1\r\n", value.len()).as_bytes());
            stream.extend(value);
            stream.extend(b"\r\nEN\r\n");
        }
        stream.extend(b"SERVER_ERROR out of memory\r\nMN\r\n");
        stream
    }

    #[test]
    fn a_stream_cut_anywhere_reads_the_same() {
        let stream = stream();
        let expected = read_all(&stream, &[]).unwrap();
        assert_eq!(expected.len(), 18);
        for cut in 0..stream.len() {
            assert_eq!(read_all(&stream, &[cut]).unwrap(), expected, "cut at {cut}");
        }
        let everywhere: Vec<_> = (0..stream.len()).collect();
        assert_eq!(read_all(&stream, &everywhere).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic_and_cuts_change_nothing(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
            cuts in prop::collection::vec(any::<usize>(), 0..8),
        ) {
            let mut stream = stream();
            for (at, byte) in changes {
                let at = at % stream.len();
                stream[at] = byte;
            }
            // A cut may end the reading before an error is reached, never change what was read.
            match (read_all(&stream, &[]), read_all(&stream, &cuts)) {
                (Ok(once), Ok(cut)) => prop_assert_eq!(once, cut),
                (once, cut) => prop_assert_eq!(once.is_err(), cut.is_err()),
            }
        }

        #[test]
        fn numbers_come_back(value: u64) {
            prop_assert_eq!(number(value.to_string().as_bytes()), Some(value));
            let line = format!("VA {value} c{value}\r\n");
            let flags = MetaFlags { cas: Some(value), ..MetaFlags::default() };
            prop_assert_eq!(whole(&line), Reply::Value { bytes: value, flags });
        }
    }
}
