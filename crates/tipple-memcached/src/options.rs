//! How to reach a server.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tipple_flow::{Failure, Party};
pub use tipple_tls::TlsOptions;

use crate::retry::RetryOptions;

/// The smallest receive buffer: room for the longest line of any reply, many times over.
pub const BUFFER_BYTES_MIN: usize = 16 << 10;
/// The largest receive buffer.
pub const BUFFER_BYTES_MAX: usize = 16 << 20;

/// How to reach memcached servers. The same for all servers of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcachedOptions {
    /// TLS, if any. A URL that asks for TLS gets `TlsOptions::default()` without it.
    pub tls: Option<TlsOptions>,
    /// Who we are, for servers that ask (`memcached -Y`). Never sent to a server that does not ask.
    pub auth: Option<Credentials>,
    /// How long a connection may take to be made, each address of the host. Default 5 s, at least 1 ms.
    pub connect_timeout: Duration,
    /// How long a server may keep silent while something is expected of it. Default 30 s, at least 100 ms.
    pub io_timeout: Duration,
    /// How often and how long a lost connection is made again.
    pub retry: RetryOptions,
    /// The receive buffer of a connection, in bytes, [`BUFFER_BYTES_MIN`] to [`BUFFER_BYTES_MAX`].
    /// Default 256 KiB. No value is ever limited by it.
    pub buffer_bytes: usize,
}

impl Default for MemcachedOptions {
    fn default() -> Self {
        Self {
            tls: None,
            auth: None,
            connect_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(30),
            retry: RetryOptions::default(),
            buffer_bytes: 256 << 10,
        }
    }
}

impl MemcachedOptions {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Usage`]) that names the option, its value and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::new(Party::Usage, message));
        if self.connect_timeout < Duration::from_millis(1) {
            return usage(format!(
                "a connect timeout of {:?} is too short: give --connect-timeout at least 1ms",
                self.connect_timeout
            ));
        }
        if self.io_timeout < Duration::from_millis(100) {
            return usage(format!(
                "an I/O timeout of {:?} is too short: give --io-timeout at least 100ms",
                self.io_timeout
            ));
        }
        if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&self.buffer_bytes) {
            return usage(format!(
                "a receive buffer of {} bytes is out of range: give {BUFFER_BYTES_MIN} to {BUFFER_BYTES_MAX}",
                self.buffer_bytes
            ));
        }
        self.retry.validate()
    }
}

/// A user and a password. Neither display nor debug output shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    /// The longest user and the longest password, in bytes.
    pub const BYTES_MAX: usize = 512;

    /// These credentials.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Usage`]) if either is empty or too long or has characters that memcached's text protocol
    /// cannot carry there. It does not repeat them.
    pub fn new(user: &str, password: &str) -> Result<Self, Failure> {
        let fits = |text: &str, also_not: &[char]| {
            (1..=Self::BYTES_MAX).contains(&text.len())
                && !text.contains(['\r', '\n', '\0'])
                && !text.contains(also_not)
        };
        if fits(user, &[' ', ':']) && fits(password, &[]) {
            return Ok(Self {
                user: user.to_owned(),
                password: password.to_owned(),
            });
        }
        Err(Failure::new(
            Party::Usage,
            format!(
                "these memcached credentials cannot be sent: user and password are 1 to {} bytes each without line ends, the user without space and colon",
                Self::BYTES_MAX
            ),
        ))
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

/// `user:password`, as in memcached's own file; a line end after it is ignored.
impl FromStr for Credentials {
    type Err = Failure;
    fn from_str(text: &str) -> Result<Self, Failure> {
        let (user, password) = text
            .trim_end_matches(['\r', '\n'])
            .split_once(':')
            .ok_or_else(|| {
                Failure::new(
                    Party::Usage,
                    "memcached credentials are written user:password",
                )
            })?;
        Self::new(user, password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let options = MemcachedOptions {
            auth: Some("me:hunter2\n".parse().unwrap()),
            ..MemcachedOptions::default()
        };
        assert_eq!(options.auth.as_ref().unwrap().password(), "hunter2");
        let shown = format!("{options:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("me:"),
            "{shown}"
        );
        for text in ["hunter2", ":hunter2", "a b:hunter2", "a:hunter2\nx", "a:"] {
            let refusal = text.parse::<Credentials>().unwrap_err().to_string();
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn limits_are_checked() {
        MemcachedOptions::default().validate().unwrap();
        for (options, starts) in [
            (
                MemcachedOptions {
                    buffer_bytes: 1,
                    ..Default::default()
                },
                "a receive buffer of 1 bytes",
            ),
            (
                MemcachedOptions {
                    io_timeout: Duration::from_millis(99),
                    ..Default::default()
                },
                "an I/O timeout of 99ms",
            ),
            (
                MemcachedOptions {
                    connect_timeout: Duration::ZERO,
                    ..Default::default()
                },
                "a connect timeout of 0ns",
            ),
            (
                MemcachedOptions {
                    retry: RetryOptions {
                        attempts_max: 0,
                        ..Default::default()
                    },
                    ..Default::default()
                },
                "0 attempts",
            ),
        ] {
            let refusal = options.validate().unwrap_err();
            assert_eq!(refusal.party(), Party::Usage);
            assert!(refusal.to_string().starts_with(starts), "{refusal}");
        }
    }
}
