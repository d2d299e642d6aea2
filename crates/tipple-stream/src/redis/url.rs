//! Which stream: `redis://[user[:password]@]host[:port][/DB]/KEY`.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use tipple_flow::{Failure, Party};
use tipple_tls::TlsOptions;

/// The port of a URL that names none.
const PORT_DEFAULT: u16 = 6379;

/// A key on a Redis server. What is not a letter, a digit or one of `-._~:` is written `%XX` in a key, a user and a
/// password; so a key with a slash is `a%2Fb`, and any bytes are a key. Displayed, in errors too, without its user and
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
    database: u32,
    key: Vec<u8>,
    tls: Option<TlsOptions>,
}

impl RedisUrl {
    /// The host and the port, to connect to.
    pub(super) fn host(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// `host:port`.
    pub fn server(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The number of the database. Default 0.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// The key, at least one byte.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The user, if one is named, and the password, if there is one.
    pub(super) fn credentials(&self) -> (Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.password.as_deref())
    }

    /// How to speak TLS, if the URL asks for it.
    pub(super) fn tls(&self) -> Option<&TlsOptions> {
        self.tls.as_ref()
    }

    /// The same with other options for TLS, if the URL asks for it. Default: the system's certificates.
    pub fn with_tls(mut self, tls: TlsOptions) -> Self {
        self.tls = self.tls.map(|_| tls);
        self
    }

    /// Whether it has one.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The same with this user (Redis' `default` if there is none) and password instead of those of the URL, so that a
    /// password need not stand in one.
    pub fn with_password(mut self, user: Option<String>, password: String) -> Self {
        self.user = user.or(self.user);
        self.password = Some(password);
        self
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() {
            "rediss"
        } else {
            "redis"
        };
        write!(f, "{scheme}://{}/", self.server())?;
        if self.database > 0 {
            write!(f, "{}/", self.database)?;
        }
        f.write_str(&encode(&self.key))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

/// It never repeats the text, which may hold a password.
impl FromStr for RedisUrl {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let refuse = |why: &str| {
            let form = "write redis://host:port/KEY or redis://host:port/DB/KEY, with % for a slash in the key (%2F)";
            Failure::new(Party::Usage, format!("{why}: {form}"))
        };
        let (tls, rest) = match (
            text.strip_prefix("redis://"),
            text.strip_prefix("rediss://"),
        ) {
            (Some(rest), _) => (None, rest),
            (None, Some(rest)) => (Some(TlsOptions::default()), rest),
            (None, None) => {
                return Err(refuse(
                    "a Redis URL begins with redis://, or rediss:// for TLS",
                ));
            }
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let secret = |text: &str| {
            let bytes = decode(text).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| {
                refuse("the user or password of the Redis URL is not % encoded UTF-8")
            })
        };
        let (mut user, mut password) = (None, None);
        if let Some(credentials) = credentials {
            let (name, word) = credentials.split_once(':').unwrap_or((credentials, ""));
            user = Some(secret(name)?).filter(|user| !user.is_empty());
            password = Some(secret(word)?).filter(|password| !password.is_empty());
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = (rest.split_once(']'))
                    .ok_or_else(|| refuse("the IPv6 address of the Redis URL has no ]"))?;
                (host, rest.strip_prefix(':'))
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let named = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(named) {
            return Err(refuse("the Redis URL names no server"));
        }
        let port = match port.map(str::parse) {
            None => PORT_DEFAULT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(refuse("the port of the Redis URL must be 1 to 65535")),
        };
        if path.contains(['?', '#']) {
            return Err(refuse(
                "a Redis URL has no options: ? and # of a key are %3F and %23",
            ));
        }
        let (database, key) = match path.split_once('/') {
            None => (0, path),
            Some((database, key)) => {
                let number = database.parse();
                let number = number.map_err(|_| {
                    refuse("what stands before the key of the Redis URL is no number of a database")
                })?;
                (number, key)
            }
        };
        if key.is_empty() || key.contains('/') {
            return Err(refuse("the Redis URL must name one key"));
        }
        let key = decode(key).map_err(|why| refuse(&why))?;
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            user,
            password,
            database,
            key,
            tls,
        })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let pair = digit(rest.next()).zip(digit(rest.next()));
        let (high, low) = pair.ok_or("a % of the Redis URL has no two hexadecimal digits")?;
        bytes.push((high << 4 | low) as u8);
    }
    Ok(bytes)
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b':' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02X}").expect("into memory"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_they_are_written() {
        for (text, shown) in [
            ("redis://Cache/orders", "redis://cache:6379/orders"),
            ("redis://[::1]:7/3/a%2fb", "redis://[::1]:7/3/a%2Fb"),
            ("redis://h:1/0/%00%ff", "redis://h:1/%00%FF"),
            ("redis://h:1/7", "redis://h:1/7"),
            ("rediss://h:1/7", "rediss://h:1/7"),
            ("redis://me:s%40@h:1/orders:eu", "redis://h:1/orders:eu"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            let again: RedisUrl = shown.parse().unwrap();
            assert_eq!((again.key(), again.database()), (url.key(), url.database()));
        }
        let url: RedisUrl = "redis://me:s%40%3A@h/k".parse().unwrap();
        assert_eq!(url.credentials(), (Some("me"), Some("s@:")));
        let url: RedisUrl = "redis://:word@h/k".parse().unwrap();
        assert_eq!(url.credentials(), (None, Some("word")));
    }

    #[test]
    fn what_is_no_url_is_refused_and_no_password_repeated() {
        for text in [
            "http://:hunter2@h/k",
            "redis://:hunter2@/k",
            "redis://:hunter2@h",
            "redis://:hunter2@h/",
            "redis://:hunter2@h/0/",
            "redis://:hunter2@h/x/k",
            "redis://:hunter2@h/0/a/b",
            "redis://:hunter2@h:0/k",
            "redis://:hunter2@h:x/k",
            "redis://:hunter2@h/k%4",
            "redis://:hunter2@h/k?tls=1",
            "redis://:hunter2%@h/k",
            "redis://:hunter2@[::1/k",
        ] {
            let refusal = text.parse::<RedisUrl>().unwrap_err();
            assert_eq!(refusal.party(), Party::Usage);
            let text = format!("{refusal} {refusal:?}");
            assert!(text.contains("redis://host:port/KEY"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let url: RedisUrl = "redis://me:hunter2@h/k".parse().unwrap();
        assert!(!format!("{url} {url:?}").contains("hunter2"));
    }
}
