//! Streams as people name them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::Value;
use tipple_chunk::Codec;
use tipple_flow::{Failure, Party, Sink, Source};
use tipple_tls::TlsOptions;

use crate::form::{EventForm, FormKind, PathTemplate};
use crate::log::Log;
use crate::nats::{Nats, NatsUrl};
use crate::options::{Bound, StreamOptions};
use crate::pace::Speed;
use crate::place::Numbering;
use crate::redis::{Redis, RedisUrl};
use crate::sink::{Origin, StreamSink, StreamSinkOptions, Target};
use crate::source::{Stream, StreamSource};

/// Which stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamUrl {
    /// `log:PATH`: the embedded log in a folder.
    Log(PathBuf),
    /// `nats://HOST:PORT/STREAM`, `tls://…`: a stream of NATS JetStream.
    Nats(NatsUrl),
    /// `redis://…`, `rediss://…`: a stream in a Redis server.
    Redis(RedisUrl),
}

impl StreamUrl {
    /// What they begin with, before the colon.
    pub const SCHEMES: &[&str] = &["log", "nats", "tls", "redis", "rediss"];

    /// Reads what begins with one of [`StreamUrl::SCHEMES`] and a colon; `None` if it begins with something else.
    ///
    /// # Errors
    /// [`Failure`]: it names no stream.
    pub fn parse(text: &OsStr) -> Option<Result<Self, Failure>> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let (scheme, rest) = (&bytes[..colon], &bytes[colon + 1..]);
        Some(match scheme.to_ascii_lowercase().as_slice() {
            b"log" if rest.is_empty() => Err(Failure::new(
                Party::Usage,
                "log: names no folder: give log:FOLDER, such as log:./orders",
            )),
            b"log" => Ok(Self::Log(PathBuf::from(OsStr::from_bytes(rest)))),
            b"nats" | b"tls" => (text.to_string_lossy().parse().map(Self::Nats))
                .map_err(|why| Failure::new(Party::Usage, why)),
            b"redis" | b"rediss" => match text.to_str() {
                Some(text) => text.parse().map(Self::Redis),
                None => Err(Failure::new(
                    Party::Usage,
                    "a Redis URL is UTF-8: write other bytes of a key as %XX",
                )),
            },
            _ => return None,
        })
    }

    /// The same with these options for TLS, if it is one of NATS or Redis.
    pub fn with_tls(self, tls: TlsOptions) -> Self {
        match self {
            Self::Log(path) => Self::Log(path),
            Self::Nats(url) => Self::Nats(url.with_tls(tls)),
            Self::Redis(url) => Self::Redis(url.with_tls(tls)),
        }
    }

    /// The stream as a source.
    ///
    /// # Errors
    /// [`Failure`]: an option out of range.
    pub fn source(&self, options: StreamOptions) -> Result<Box<dyn Source>, Failure> {
        Ok(match self {
            Self::Log(path) => Box::new(StreamSource::new(Log::at(path), options)?),
            Self::Nats(url) => Box::new(StreamSource::new(Nats::at(url.clone()), options)?),
            Self::Redis(url) => Box::new(StreamSource::new(Redis::new(url.clone()), options)?),
        })
    }

    /// What a target of a copy is made like: what a dump of it would say of it now, where it says anything.
    ///
    /// # Errors
    /// [`Failure`]: it cannot be reached, or does not tell.
    pub fn origin(&self, options: &StreamOptions) -> Result<Origin, Failure> {
        let said = match self {
            Self::Log(_) => Value::Null,
            Self::Nats(url) => {
                let nats = Nats::at(url.clone());
                nats.said(&nats.look()?.life, None)?
            }
            // It tells at the end, which is all that its target needs.
            Self::Redis(_) => Value::Null,
        };
        let from = match options.from {
            Some(Bound::Place(place)) => Some(place),
            _ => None,
        };
        Ok(Origin { said, from })
    }

    /// What the stream itself is called: the log's folder, a stream of NATS, a key of Redis. What is not UTF-8 in it is
    /// replaced.
    pub fn name(&self) -> String {
        match self {
            Self::Log(path) => {
                let folder = path.file_name().unwrap_or(path.as_os_str());
                folder.to_string_lossy().into_owned()
            }
            Self::Nats(url) => url.stream().to_owned(),
            Self::Redis(url) => String::from_utf8_lossy(url.key()).into_owned(),
        }
    }

    /// How the stream numbers.
    pub fn numbering(&self) -> Numbering {
        match self {
            Self::Log(_) | Self::Nats(_) => Numbering::Sequence,
            Self::Redis(_) => Numbering::TimeAndNumber,
        }
    }

    /// A form of the stream's events, in folders as `path` says.
    pub fn form(&self, kind: FormKind, path: Option<PathTemplate>, codec: Codec) -> EventForm {
        EventForm::new(kind, path, &self.name(), self.numbering(), codec)
    }

    /// The stream as a sink.
    ///
    /// # Errors
    /// [`Failure`]: it cannot be written to.
    pub fn sink(&self) -> Result<Box<dyn Sink>, Failure> {
        self.sink_like(&Origin::default(), StreamSinkOptions::default())
    }

    /// The stream as a sink for a dump of the stream `origin`: where the system can, it says of itself afterwards what
    /// that one said. `options` say how events are written.
    ///
    /// # Errors
    /// [`Failure`]: it cannot be written to.
    pub fn sink_like(
        &self,
        origin: &Origin,
        options: StreamSinkOptions,
    ) -> Result<Box<dyn Sink>, Failure> {
        let speed = options.speed;
        fn sink<T: Target + 'static>(
            target: T,
            origin: &Origin,
            speed: Option<Speed>,
        ) -> Box<dyn Sink> {
            Box::new(
                StreamSink::new(target)
                    .beginning_at(origin.from)
                    .paced(speed),
            )
        }
        Ok(match self {
            Self::Log(path) => sink(Log::at(path), origin, speed),
            Self::Nats(url) => {
                let nats = Nats::at(url.clone()).like(&origin.said);
                sink(nats.splitting(options.split), origin, speed)
            }
            Self::Redis(url) => {
                let redis = Redis::new(url.clone()).restoring(&origin.said);
                sink(redis, origin, speed)
            }
        })
    }
}

/// Without any password.
impl fmt::Display for StreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(path) => write!(f, "log:{}", path.display()),
            Self::Nats(url) => url.fmt(f),
            Self::Redis(url) => url.fmt(f),
        }
    }
}
