//! Who asks, and signatures that prove it.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::http::Response;

/// How long an answer may take before the test is called broken.
const ANSWER: Duration = Duration::from_secs(60);

/// Where a server is, and a key that may do everything there.
#[derive(Clone, Debug)]
pub struct Account {
    /// Such as `http://127.0.0.1:4567`, without a slash at its end.
    pub endpoint: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl Account {
    /// The same account at another endpoint, such as a proxy's.
    pub fn at(&self, endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            ..self.clone()
        }
    }

    /// `host:port` of the endpoint.
    pub fn addr(&self) -> &str {
        self.endpoint
            .split_once("://")
            .map_or(&*self.endpoint, |(_, addr)| addr)
    }

    /// The variables that tell the usual clients all of this, and keep them from looking elsewhere.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }

    /// Sends one signed request on a connection of its own, and reads the answer, whatever its status.
    pub(crate) fn request(&self, request: &Request<'_>) -> io::Result<Response> {
        let mut stream = TcpStream::connect(self.addr())?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let head = self.signed_head(request, SystemTime::now());
        // A server may answer and close before it read everything: then its answer tells.
        let sent = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(request.body));
        // What could not be sent says more than that nothing came back.
        Response::read(stream, request.method).map_err(|error| sent.err().unwrap_or(error))
    }

    /// AWS Signature Version 4, with all headers of the request signed.
    fn signed_head(&self, request: &Request<'_>, now: SystemTime) -> String {
        let (date, time) = utc(now);
        let digest = hex(&Sha256::digest(request.body));
        let mut headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        headers.push(("host".to_owned(), self.addr().to_owned()));
        headers.push(("x-amz-content-sha256".to_owned(), digest.clone()));
        headers.push(("x-amz-date".to_owned(), format!("{date}T{time}Z")));
        headers.sort();
        let mut query: Vec<String> = request
            .query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
            .collect();
        query.sort();
        let query = query.join("&");
        let path = encode(request.path, true);
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let method = request.method;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}");
        let scope = format!("{date}/{}/{}/aws4_request", self.region, request.service);
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{date}T{time}Z\n{scope}\n{}",
            hex(&Sha256::digest(canonical))
        );
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [&date, &self.region, request.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let target = if query.is_empty() {
            path
        } else {
            format!("{path}?{query}")
        };
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "{method} {target} HTTP/1.1\r\n{lines}authorization: AWS4-HMAC-SHA256 \
             Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.access_key,
            request.body.len()
        )
    }
}

/// What is asked.
pub(crate) struct Request<'a> {
    /// `s3` or `sqs`.
    pub service: &'a str,
    pub method: &'a str,
    /// Not encoded.
    pub path: &'a str,
    /// Not encoded.
    pub query: &'a [(&'a str, &'a str)],
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// Everything but the unreserved characters of RFC 3986 becomes `%XX`.
fn encode(text: &str, is_path: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            b'/' if is_path => "/".to_owned(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

/// As `20261120` and `103015`, in UTC.
fn utc(now: SystemTime) -> (String, String) {
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let (mut day, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (
        format!("{year}{month:02}{:02}", day + 1),
        format!(
            "{:02}{:02}{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, wanted) in [
            (0, "19700101 000000"),
            (951_782_399, "20000228 235959"),
            (951_782_400, "20000229 000000"),
            (951_868_800, "20000301 000000"),
            (1_735_689_599, "20241231 235959"),
            (4_107_542_400, "21000301 000000"),
        ] {
            let (date, time) = utc(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(format!("{date} {time}"), wanted);
        }
    }

    #[test]
    fn a_keyed_digest_is_that_of_rfc_4231() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            hex(&mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let mac = hmac(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
        );
        assert_eq!(
            hex(&mac),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
