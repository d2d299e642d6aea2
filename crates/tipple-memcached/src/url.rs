//! Which servers: `memcached://host:port[,host:port…]` and `memcached:///path.sock`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use tipple_flow::{Failure, Party};

/// The port of a URL that names none.
pub const PORT_DEFAULT: u16 = 11211;

/// One memcached server. Displayed as it is written in a URL: `host:port`, `[::1]:port`, `/path.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// A host name or address, without brackets, and a port, at least 1.
    Tcp {
        /// The name, the IPv4 or the IPv6 address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The servers of a source or a sink, at least one, each named once. Holds no secret, and refuses to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemcachedUrl {
    servers: Vec<Server>,
    tls: bool,
}

impl MemcachedUrl {
    /// The servers, as they were written: their order is what a client with a ring of servers was given.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Whether the URL asks for TLS (`memcacheds:`, or `?tls=true`).
    pub fn tls(&self) -> bool {
        self.tls
    }
}

impl fmt::Display for MemcachedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls {
            "memcacheds://"
        } else {
            "memcached://"
        })?;
        for (n, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Why a text is no URL of memcached servers. It never repeats the whole text, which may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error(
        "a memcached URL begins with memcached:// or memcacheds:// (TLS), such as memcached://cache1:11211,cache2:11211 or memcached:///run/memcached.sock"
    )]
    Scheme,
    /// `user:password@`.
    #[error(
        "a memcached URL takes no user and password, since URLs end up in logs and process lists: give --user and --password-file"
    )]
    Credentials,
    /// Nothing after the scheme.
    #[error(
        "the memcached URL names no server: write memcached://host:port or memcached:///path.sock"
    )]
    NoServer,
    /// Not `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
    #[error(
        "{0:?} names no server: write host:port, with an IPv6 address in brackets, such as [::1]:11211"
    )]
    Server(String),
    /// Not a port.
    #[error("the port of {0:?} must be 1 to 65535")]
    Port(String),
    /// The same server twice: its items would be dumped twice.
    #[error("the memcached URL names {0} twice: name each server once")]
    Duplicate(Server),
    /// A path after servers.
    #[error(
        "the memcached URL has a path after its servers ({0:?}): memcached has no databases; a socket is written memcached:///path.sock"
    )]
    Path(String),
    /// Something after `?` that is not `tls`.
    #[error("{0:?} is no option of a memcached URL: there is tls=true and tls=false")]
    Query(String),
}

impl From<UrlError> for Failure {
    fn from(error: UrlError) -> Self {
        Self::new(Party::Usage, error.to_string())
    }
}

impl FromStr for MemcachedUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let mut tls = match scheme {
            "memcached" => false,
            "memcacheds" => true,
            _ => return Err(UrlError::Scheme),
        };
        // Before anything that could repeat a piece of the text in its message.
        if !rest.starts_with('/') && rest.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option {
                "tls=true" => tls = true,
                "tls=false" if scheme == "memcached" => tls = false,
                _ => return Err(UrlError::Query(option.to_owned())),
            }
        }
        if place.starts_with('/') {
            if place == "/" {
                return Err(UrlError::NoServer);
            }
            let servers = vec![Server::Unix(place.into())];
            return Ok(Self { servers, tls });
        }
        let (place, path) = place.split_once('/').unwrap_or((place, ""));
        if !path.is_empty() {
            return Err(UrlError::Path(format!("/{path}")));
        }
        if place.is_empty() {
            return Err(UrlError::NoServer);
        }
        let mut servers: Vec<Server> = Vec::new();
        for text in place.split(',') {
            let server = text.parse()?;
            if servers.contains(&server) {
                return Err(UrlError::Duplicate(server));
            }
            servers.push(server);
        }
        Ok(Self { servers, tls })
    }
}

/// `host`, `host:port`, `[ipv6]`, `[ipv6]:port` or an absolute path.
impl FromStr for Server {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let refused = || UrlError::Server(text.to_owned());
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(refused)?;
            let address: Ipv6Addr = host.parse().map_err(|_| refused())?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(refused()),
            };
            (address.to_string(), port)
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let named = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || !host.bytes().all(named) {
                return Err(refused());
            }
            if port.is_some_and(|port| port.contains(':')) {
                return Err(refused());
            }
            (host.to_ascii_lowercase(), port)
        };
        let port = match port {
            None => PORT_DEFAULT,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(UrlError::Port(text.to_owned())),
            },
        };
        Ok(Self::Tcp { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_they_are_written() {
        for (text, shown) in [
            ("memcached://cache", "memcached://cache:11211"),
            ("memcached://Cache/", "memcached://cache:11211"),
            (
                "memcached://10.0.0.1:80,b:65535",
                "memcached://10.0.0.1:80,b:65535",
            ),
            (
                "memcached://[::1],[FE80::2]:1",
                "memcached://[::1]:11211,[fe80::2]:1",
            ),
            ("memcacheds://a:7", "memcacheds://a:7"),
            ("memcached://a:7?tls=true", "memcacheds://a:7"),
            ("memcached://a:7?tls=false", "memcached://a:7"),
            ("memcached:///run/a,b.sock", "memcached:///run/a,b.sock"),
            (
                "memcached:///run/a.sock?tls=true",
                "memcacheds:///run/a.sock",
            ),
        ] {
            let url: MemcachedUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(shown.parse::<MemcachedUrl>().unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_its_reason() {
        for (text, starts) in [
            ("cache:11211", "a memcached URL begins with"),
            ("redis://a", "a memcached URL begins with"),
            ("memcached://", "the memcached URL names no server"),
            ("memcached:///", "the memcached URL names no server"),
            ("memcached://a,,b", "\"\" names no server"),
            ("memcached://a b", "\"a b\" names no server"),
            ("memcached://::1", "\"::1\" names no server"),
            ("memcached://[::1", "\"[::1\" names no server"),
            ("memcached://[::1]x", "\"[::1]x\" names no server"),
            ("memcached://a:0", "the port of \"a:0\" must be"),
            ("memcached://a:65536", "the port of"),
            ("memcached://a:", "the port of"),
            (
                "memcached://a:11211,b,a",
                "the memcached URL names a:11211 twice",
            ),
            ("memcached://a/0", "the memcached URL has a path"),
            ("memcached://a?ssl=1", "\"ssl=1\" is no option"),
            ("memcacheds://a?tls=false", "\"tls=false\" is no option"),
        ] {
            let refusal = text.parse::<MemcachedUrl>().unwrap_err().to_string();
            assert!(refusal.starts_with(starts), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        let refusal = "memcached://me:hunter2@cache:1"
            .parse::<MemcachedUrl>()
            .unwrap_err();
        assert_eq!(refusal, UrlError::Credentials);
        assert!(!format!("{refusal} {refusal:?}").contains("hunter2"));
    }
}
