//! Sources, sinks and stores, parsed at the edge.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tipple_memcached::{MemcachedUrl, TlsOptions, is_cachemover};
use tipple_store::StoreUrl;
use tipple_stream::StreamUrl;

use crate::error::CliError;

const SOURCES: &str = "memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY (TLS: tls://…, rediss://…), lines:FILE, or - for standard input";
const SINKS: &str = "memcached://HOST:PORT[,HOST:PORT…], memcacheds://… (TLS), memcached:///PATH.sock, log:FOLDER, nats://HOST:PORT/STREAM, redis://HOST:PORT/KEY (TLS: tls://…, rediss://…), lines:FILE, or - for standard output";
const LATER: [&str; 2] = ["kafka", "mysql"];
/// The password of a Redis server, as redis-cli has it, for a URL that has none.
const REDIS_PASSWORD: &str = "REDISCLI_AUTH";

/// A live system that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SourceUrl {
    Memcached(MemcachedUrl),
    Stream(StreamUrl),
    Lines(PathBuf),
    Stdin,
    /// A folder that cachemover, or `--layout cachemover`, wrote.
    Cachemover(PathBuf),
}

/// A live system that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SinkUrl {
    Memcached(MemcachedUrl),
    Stream(StreamUrl),
    Lines(PathBuf),
    Stdout,
    /// A folder for what `tipple supervise` stored.
    Files(PathBuf),
}

/// What a text begins with.
enum Begin<'a> {
    Memcached(MemcachedUrl),
    Stream(StreamUrl),
    Lines(PathBuf),
    Files(PathBuf),
    Dash,
    Path(&'a Path),
}

impl<'a> Begin<'a> {
    /// `role` is "source" or "sink".
    fn parse(text: &'a OsStr, role: &str, known: &str) -> Result<Self, CliError> {
        let bytes = text.as_bytes();
        if text == "-" {
            return Ok(Self::Dash);
        }
        let first = bytes.split(|byte| *byte == b'/').next().unwrap_or_default();
        let colon = first.iter().position(|byte| *byte == b':');
        let (Some(colon), false) = (colon, first.starts_with(b".")) else {
            return match bytes {
                [] => Err(CliError::usage(format!("\"\" is no {role}: give {known}"))),
                _ => Ok(Self::Path(Path::new(text))),
            };
        };
        if let Some(stream) = StreamUrl::parse(text) {
            return Ok(Self::Stream(match stream? {
                StreamUrl::Redis(url) if !url.has_password() => {
                    StreamUrl::Redis(match std::env::var(REDIS_PASSWORD) {
                        Ok(password) => url.with_password(None, password),
                        Err(_) => url,
                    })
                }
                stream => stream,
            }));
        }
        let scheme = String::from_utf8_lossy(&bytes[..colon]).to_ascii_lowercase();
        match scheme.as_str() {
            "memcached" | "memcacheds" => match text.to_str() {
                Some(url) => match url.parse() {
                    Ok(url) => Ok(Self::Memcached(url)),
                    Err(error) => Err(CliError::usage(format!("{error}"))),
                },
                None => Err(CliError::usage(format!(
                    "{} is no {role}: a memcached URL is UTF-8",
                    shown(text)
                ))),
            },
            "lines" => match &bytes[colon + 1..] {
                [] => Err(CliError::usage(
                    "lines: names no file: give lines:FILE, such as lines:/var/log/access.log",
                )),
                path => Ok(Self::Lines(PathBuf::from(OsStr::from_bytes(path)))),
            },
            "files" => match &bytes[colon + 1..] {
                [] => Err(CliError::usage(
                    "files: names no folder: give files:FOLDER, such as files:./restored",
                )),
                path => Ok(Self::Files(PathBuf::from(OsStr::from_bytes(path)))),
            },
            later if LATER.contains(&later) => Err(CliError::usage(format!(
                "{} is no {role} yet: {later}: is not in this version; give {known}",
                shown(text)
            ))),
            _ => Err(CliError::usage(format!(
                "{} is no {role}: give {known}",
                shown(text)
            ))),
        }
    }
}

/// The text, unless it might hold a password.
fn shown(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    match text.split_once(':') {
        Some((scheme, rest)) if rest.contains(['@', '?']) => format!("{scheme}:…"),
        _ => text.into_owned(),
    }
}

impl SourceUrl {
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CliError> {
        match Begin::parse(text, "source", SOURCES)? {
            Begin::Memcached(url) => Ok(Self::Memcached(url)),
            Begin::Stream(url) => Ok(Self::Stream(url)),
            Begin::Lines(path) => Ok(Self::Lines(path)),
            Begin::Files(path) => Err(CliError::usage(format!(
                "files:{} is no source: give {SOURCES}",
                path.display()
            ))),
            Begin::Dash => Ok(Self::Stdin),
            Begin::Path(path) if is_cachemover(path) => Ok(Self::Cachemover(path.to_owned())),
            Begin::Path(path) => {
                let name = path.display();
                let next = if path.join("HEAD.json").exists() {
                    format!("it is a dump, which `tipple load {name} SINK` brings back")
                } else if path.is_file() {
                    format!("for its lines give lines:{name}")
                } else {
                    format!("give {SOURCES}")
                };
                Err(CliError::usage(format!("{name} is no source: {next}")))
            }
        }
    }

    /// The same with these options for TLS, if it is a stream that can speak it.
    pub(crate) fn with_tls(self, tls: Option<TlsOptions>) -> Self {
        match (self, tls) {
            (Self::Stream(url), Some(tls)) => Self::Stream(url.with_tls(tls)),
            (url, _) => url,
        }
    }

    /// Whether it can speak TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        matches!(
            self,
            Self::Memcached(_) | Self::Stream(StreamUrl::Nats(_) | StreamUrl::Redis(_))
        )
    }

    /// Its kind, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Memcached(_) => "memcached",
            Self::Stream(_) => "a stream",
            Self::Lines(_) | Self::Stdin => "lines",
            Self::Cachemover(_) => "a cachemover folder",
        }
    }
}

impl SinkUrl {
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CliError> {
        match Begin::parse(text, "sink", SINKS)? {
            Begin::Memcached(url) => Ok(Self::Memcached(url)),
            Begin::Stream(url) => Ok(Self::Stream(url)),
            Begin::Lines(path) => Ok(Self::Lines(path)),
            Begin::Files(path) => Ok(Self::Files(path)),
            Begin::Dash => Ok(Self::Stdout),
            Begin::Path(path) => Err(CliError::usage(format!(
                "{} is no sink: for a file of lines give lines:{0}; otherwise {SINKS}",
                path.display()
            ))),
        }
    }

    /// The same with these options for TLS, if it is a stream that can speak it.
    pub(crate) fn with_tls(self, tls: Option<TlsOptions>) -> Self {
        match (self, tls) {
            (Self::Stream(url), Some(tls)) => Self::Stream(url.with_tls(tls)),
            (url, _) => url,
        }
    }

    /// Whether it can speak TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        matches!(
            self,
            Self::Memcached(_) | Self::Stream(StreamUrl::Nats(_) | StreamUrl::Redis(_))
        )
    }

    /// Its kind, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Memcached(_) => "memcached",
            Self::Stream(_) => "a stream",
            Self::Lines(_) | Self::Stdout => "lines",
            Self::Files(_) => "a folder for files",
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memcached(url) => url.fmt(f),
            Self::Stream(url) => url.fmt(f),
            Self::Lines(path) => write!(f, "lines:{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
            Self::Cachemover(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memcached(url) => url.fmt(f),
            Self::Stream(url) => url.fmt(f),
            Self::Lines(path) => write!(f, "lines:{}", path.display()),
            Self::Stdout => f.write_str("standard output"),
            Self::Files(path) => write!(f, "files:{}", path.display()),
        }
    }
}

/// A store, or a folder in the layout of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DumpPlace {
    Store(StoreUrl),
    Cachemover(PathBuf),
}

impl DumpPlace {
    /// Where a dump is that is read.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CliError> {
        let url = store_url(text)?;
        match url.as_folder() {
            Some(folder) if is_cachemover(folder) => Ok(Self::Cachemover(folder.to_owned())),
            _ => Ok(Self::Store(url)),
        }
    }
}

impl fmt::Display for DumpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(url) => url.fmt(f),
            Self::Cachemover(path) => path.display().fmt(f),
        }
    }
}

pub(crate) fn store_url(text: &OsStr) -> Result<StoreUrl, CliError> {
    let url = match text.to_str() {
        Some(text) => text.parse()?,
        // A path that is not UTF-8 is a path.
        None => StoreUrl::folder(text),
    };
    if !url.outlives_process() {
        return Err(CliError::usage(format!(
            "{url} would be gone with this process: give a folder, or s3://BUCKET/PREFIX"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_with_the_process_is_no_store() {
        let refused = store_url(OsStr::new("memory:x")).unwrap_err();
        assert_eq!(refused.kind.exit(), 2);
        assert!(store_url(OsStr::new("./memory")).is_ok());
    }

    #[test]
    fn each_kind_is_known() {
        let source = |text: &str| SourceUrl::parse(OsStr::new(text));
        assert!(matches!(
            source("memcached://a").unwrap(),
            SourceUrl::Memcached(_)
        ));
        assert_eq!(
            source("lines:a:b/c").unwrap(),
            SourceUrl::Lines("a:b/c".into())
        );
        for stream in ["log:a:b", "nats://x/S", "redis://x/k"] {
            assert!(
                matches!(source(stream).unwrap(), SourceUrl::Stream(_)),
                "{stream}"
            );
        }
        assert_eq!(source("-").unwrap(), SourceUrl::Stdin);
        assert_eq!(SinkUrl::parse(OsStr::new("-")).unwrap(), SinkUrl::Stdout);
        for text in [
            "",
            "foo://x",
            "nats://x/a.b",
            "log:",
            "lines:",
            "/nowhere",
            "memcached://",
            "C:\\x",
        ] {
            assert!(source(text).is_err(), "{text}");
            assert!(SinkUrl::parse(OsStr::new(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_may_be_a_password_is_not_repeated() {
        for text in [
            "mysql://me:hunter2@h/d",
            "foo://x?key=hunter2",
            "memcached://me:hunter2@h",
            "redis:hunter2@h",
            "redis://me:hunter2@h",
            "rediss://me:hunter2@h/k?x",
        ] {
            for error in [
                SourceUrl::parse(OsStr::new(text)).unwrap_err(),
                SinkUrl::parse(OsStr::new(text)).unwrap_err(),
            ] {
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
    }
}
