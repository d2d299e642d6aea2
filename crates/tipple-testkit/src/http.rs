//! As much of HTTP/1.1 as looking into servers takes, and standing between.

use std::io::{self, BufRead, Error, Read};
use std::net::TcpStream;

/// No head of an honest message is longer.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The first line and the headers of a message.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Such as `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub first: String,
    pub headers: Vec<(String, String)>,
    /// As it was read, with the empty line.
    pub raw: Vec<u8>,
}

/// How long the body of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// Of responses only.
    UntilEnd,
}

impl Head {
    /// Reads one; `None` if the connection ended before its first byte.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        let mut lines = Vec::new();
        let mut limited = from.take(HEAD_BYTES_MAX);
        loop {
            let start = raw.len();
            limited.read_until(b'\n', &mut raw)?;
            if raw.is_empty() {
                return Ok(None);
            }
            let line = raw[start..]
                .strip_suffix(b"\r\n")
                .ok_or_else(|| Error::other("the head of a message breaks off"))?;
            if line.is_empty() {
                break;
            }
            lines.push(String::from_utf8_lossy(line).into_owned());
        }
        let headers = lines
            .iter()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .collect();
        let first = lines.into_iter().next().unwrap_or_default();
        Ok(Some(Self {
            first,
            headers,
            raw,
        }))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Whether the sender closes the connection after this message.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> io::Result<u16> {
        let status = self.first.split(' ').nth(1);
        status
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| Error::other(format!("no status in {:?}", self.first)))
    }

    pub(crate) fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::Length(0)))
    }

    /// Of the response to a request of this method.
    pub(crate) fn response_framing(&self, method: &str) -> io::Result<Framing> {
        let status = self.status()?;
        if method == "HEAD" || status / 100 == 1 || status == 204 || status == 304 {
            return Ok(Framing::Length(0));
        }
        Ok(self.framing()?.unwrap_or(Framing::UntilEnd))
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Some(Framing::Chunked));
        }
        self.header("content-length")
            .map(|length| {
                length
                    .parse()
                    .map(Framing::Length)
                    .map_err(|_| Error::other(format!("no length: {length:?}")))
            })
            .transpose()
    }
}

pub(crate) fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(given, _)| given.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// Reads a body, and gives its bytes to `each`: data, or the lines around the pieces of a chunked one.
pub(crate) fn read_body(
    from: &mut impl BufRead,
    framing: Framing,
    mut each: impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    match framing {
        Framing::Length(bytes) => read_data(from, bytes, &mut each),
        Framing::UntilEnd => loop {
            let data = from.fill_buf()?;
            if data.is_empty() {
                return Ok(());
            }
            let n = data.len();
            each(Piece::Data(data))?;
            from.consume(n);
        },
        Framing::Chunked => loop {
            let line = read_line(from)?;
            let text = String::from_utf8_lossy(&line);
            let size = text.trim_end().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| Error::other(format!("no size of a piece: {text:?}")))?;
            each(Piece::Framing(&line))?;
            read_data(from, size, &mut each)?;
            // The line after the data; after the last piece, trailers and an empty line.
            loop {
                let line = read_line(from)?;
                each(Piece::Framing(&line))?;
                if line == b"\r\n" {
                    break;
                }
            }
            if size == 0 {
                return Ok(());
            }
        },
    }
}

/// Some bytes of a body.
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    Framing(&'a [u8]),
}

fn read_data(
    from: &mut impl BufRead,
    mut left: u64,
    each: &mut impl FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<()> {
    while left > 0 {
        let data = from.fill_buf()?;
        if data.is_empty() {
            return Err(Error::other("a body breaks off"));
        }
        let n = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        each(Piece::Data(&data[..n]))?;
        from.consume(n);
        left -= n as u64;
    }
    Ok(())
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(HEAD_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.ends_with(b"\r\n") {
        Ok(line)
    } else {
        Err(Error::other("a body breaks off"))
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, as the server wrote them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads one that answers a request of `method`.
    pub(crate) fn read(stream: TcpStream, method: &str) -> io::Result<Self> {
        let mut from = io::BufReader::with_capacity(64 << 10, stream);
        let head = loop {
            let head = Head::read(&mut from)?
                .ok_or_else(|| Error::other("the server closed without an answer"))?;
            if head.status()? / 100 != 1 {
                break head;
            }
        };
        let mut body = Vec::new();
        read_body(&mut from, head.response_framing(method)?, |piece| {
            if let Piece::Data(data) = piece {
                body.extend_from_slice(data);
            }
            Ok(())
        })?;
        Ok(Self {
            status: head.status()?,
            headers: head.headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut body: &[u8], framing: Framing) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut data, mut all) = (Vec::new(), Vec::new());
        read_body(&mut body, framing, |piece| {
            match piece {
                Piece::Data(bytes) => {
                    data.extend_from_slice(bytes);
                    all.extend_from_slice(bytes);
                }
                Piece::Framing(bytes) => all.extend_from_slice(bytes),
            }
            Ok(())
        })?;
        all.extend_from_slice(b"|");
        all.extend_from_slice(body);
        Ok((data, all))
    }

    #[test]
    fn bodies_end_where_they_should() {
        let whole = |body: &[u8], framing| {
            let (data, all) = read(body, framing).unwrap();
            [data, all].map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(whole(b"abcd", Framing::Length(3)), ["abc", "abc|d"]);
        assert_eq!(whole(b"abcd", Framing::UntilEnd), ["abcd", "abcd|"]);
        assert_eq!(
            whole(
                b"3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nt: v\r\n\r\nnext",
                Framing::Chunked
            ),
            ["abcd", "3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nt: v\r\n\r\n|next"]
        );
        for (broken, framing) in [
            (&b"ab"[..], Framing::Length(3)),
            (b"3\r\nab", Framing::Chunked),
            (b"3\r\nabc\r\n", Framing::Chunked),
            (b"x\r\n", Framing::Chunked),
        ] {
            assert!(read(broken, framing).is_err());
        }
    }
}
