//! `nats://` or `tls://[user:password@|token@]host:port[,host:port…]/STREAM[?creds=FILE]`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tipple_tls::TlsOptions;

/// Where NATS listens if nobody says otherwise.
const PORT: u16 = 4222;

/// A stream of a NATS server. Shown without its secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl {
    /// As `host:port`; at least one. Several are of one cluster.
    pub(super) servers: Vec<String>,
    pub(super) login: Login,
    pub(super) stream: String,
    /// Whether the server must speak TLS; it is spoken with any that asks for it.
    pub(super) is_secure: bool,
    pub(super) tls: TlsOptions,
}

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Nobody,
    Token(String),
    User(String, String),
    /// By the file of its key.
    Credentials(PathBuf),
}

/// The URL of all streams of an account: what is before and after the name of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NatsAccount<'a> {
    before: &'a str,
    after: &'a str,
}

impl NatsAccount<'_> {
    /// The URL of one of its streams.
    pub fn stream(&self, name: &str) -> String {
        format!("{}{name}{}", self.before, self.after)
    }
}

/// Without what is before the stream, which may hold a password.
impl fmt::Debug for NatsAccount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsAccount").finish_non_exhaustive()
    }
}

impl NatsUrl {
    /// What `nats://…/*` means, all streams of an account; `None` of any other text.
    pub fn of_account(text: &str) -> Option<NatsAccount<'_>> {
        let end = text.find('?').unwrap_or(text.len());
        let (text, after) = text.split_at(end);
        let before = text.strip_suffix('*')?;
        let is_nats = before.starts_with("nats://") || before.starts_with("tls://");
        (is_nats && before.ends_with('/')).then_some(NatsAccount { before, after })
    }

    /// The same with other options for TLS. Default: the system's certificates.
    pub fn with_tls(self, tls: TlsOptions) -> Self {
        Self { tls, ..self }
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}

impl FromStr for NatsUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // The text is not shown: it may hold a password.
        let refuse = |why: &str| {
            format!(
                "not a stream of NATS ({why}): give nats://host:port/STREAM, or tls:// for TLS, with user:password@ or token@ before the host, or ?creds=FILE at the end, if the server asks for it"
            )
        };
        let (is_secure, rest) = match (text.strip_prefix("nats://"), text.strip_prefix("tls://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(refuse("it has no nats://")),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, stream) = (rest.split_once('/')).ok_or_else(|| refuse("no stream"))?;
        let (login, host) = match authority.rsplit_once('@') {
            None => (Login::Nobody, authority),
            Some((login, host)) => {
                let login = match login.split_once(':') {
                    None => Login::Token(decoded(login).ok_or_else(|| refuse("a bad %"))?),
                    Some((user, password)) => Login::User(
                        decoded(user).ok_or_else(|| refuse("a bad %"))?,
                        decoded(password).ok_or_else(|| refuse("a bad %"))?,
                    ),
                };
                (login, host)
            }
        };
        let login = match query.map(|query| query.split_once('=')) {
            None => login,
            Some(Some(("creds", path))) if login == Login::Nobody && !path.is_empty() => {
                Login::Credentials(decoded(path).ok_or_else(|| refuse("a bad %"))?.into())
            }
            Some(Some(("creds", _))) => {
                return Err(refuse("creds is a file, and there is one login"));
            }
            Some(_) => return Err(refuse("after ? there is creds=FILE or nothing")),
        };
        let servers = host.split(',').map(server).collect::<Result<_, _>>();
        let servers = servers.map_err(refuse)?;
        let is_name = |byte: u8| byte.is_ascii_graphic() && !b".*>/\\?%#".contains(&byte);
        if stream.is_empty() || !stream.bytes().all(is_name) {
            return Err(refuse(
                "the name of a stream is letters, digits, _ and -, without . * > / \\ ? % #",
            ));
        }
        Ok(Self {
            servers,
            login,
            stream: stream.to_owned(),
            is_secure,
            tls: TlsOptions::default(),
        })
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "tls" } else { "nats" };
        write!(f, "{scheme}://{}/{}", self.servers.join(","), self.stream)
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host:port`, with the port that NATS has if there is none.
fn server(host: &str) -> Result<String, &'static str> {
    let (name, port) = match host.rsplit_once(':') {
        // A colon of an IPv6 address in brackets is none before a port.
        Some((name, port)) if !port.ends_with(']') => {
            let port: u16 = port.parse().map_err(|_| "a port is 1 to 65535")?;
            (name, port)
        }
        _ => (host, PORT),
    };
    match name.is_empty() || port == 0 {
        true => Err("no host, or the port 0"),
        false => Ok(format!("{name}:{port}")),
    }
}

/// `%41` is `A`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(rest.next()?)? * 16 + digit(rest.next()?)?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_are_told_from_one() {
        for (all, one) in [
            ("nats://u:p@h:1/*", "nats://u:p@h:1/S"),
            ("tls://h/*?creds=/a/*", "tls://h/S?creds=/a/*"),
        ] {
            assert_eq!(NatsUrl::of_account(all).unwrap().stream("S"), one);
        }
        for one in [
            "nats://h/S",
            "nats://h/S*",
            "redis://h/*",
            "*",
            "nats://h*",
            "nats://h/S?creds=/*",
        ] {
            assert_eq!(NatsUrl::of_account(one), None, "{one}");
        }
    }

    #[test]
    fn urls_are_read_and_their_secrets_never_shown() {
        for (text, shown, login) in [
            ("nats://h/S", "nats://h:4222/S", Login::Nobody),
            (
                "nats://[::1]:5/S-1_2",
                "nats://[::1]:5/S-1_2",
                Login::Nobody,
            ),
            ("tls://h/S", "tls://h:4222/S", Login::Nobody),
            ("nats://[::1]/S", "nats://[::1]:4222/S", Login::Nobody),
            (
                "nats://a,b:5,c/S",
                "nats://a:4222,b:5,c:4222/S",
                Login::Nobody,
            ),
            (
                "nats://s%40cret@h:1/S",
                "nats://h:1/S",
                Login::Token("s@cret".into()),
            ),
            (
                "nats://u:p@h:1/S",
                "nats://h:1/S",
                Login::User("u".into(), "p".into()),
            ),
            (
                "tls://h/S?creds=/etc/my%20own.creds",
                "tls://h:4222/S",
                Login::Credentials("/etc/my own.creds".into()),
            ),
        ] {
            let url: NatsUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert!(url.login == login, "{text}");
        }
        for bad in [
            "nats://h",
            "nats://h/",
            "nats://secret@/S",
            "nats://secret@h:0/S",
            "nats://secret@h:99999/S",
            "nats://secret%4@h/S",
            "nats://h/a.b",
            "nats://h/a b",
            "nats://h/*",
            "nats://secret@h,,i/S",
            "redis://secret@h/S",
            "nats://secret@h/S?creds=/a",
            "nats://h/S?creds=",
            "nats://h/S?creds",
            "nats://h/S?",
            "nats://h/S?password=secret",
        ] {
            let error = bad.parse::<NatsUrl>().unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
