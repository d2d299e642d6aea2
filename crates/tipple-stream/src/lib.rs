//! Streams of events as sources and sinks: the embedded log, NATS JetStream, Redis.
//!
//! A [`Stream`] is read by ranges, a [`Target`] is appended to by one writer; [`StreamSource`] and [`StreamSink`] make of
//! them what the pipeline knows. This crate never meets a store.
//!
//! An [`EventForm`] writes events in the forms that other programs read: JSON lines and Parquet.
//!
//! # The content `events`, version 1
//! A record is one event. Numbers are little-endian but for the position.
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | length | of what follows; all of a record is at most 512 MiB |
//! | 4 | 1 | flags | 1: has a key, 2: has a payload, 4: has a time; others are 0 |
//! | 5 | 1 | p | 8 or 16 |
//! | 6 | 2 | h | number of headers |
//! | 8 | 8 | time | nanoseconds since 1970, UTC, signed; ignored without its flag |
//! | 16 | p | position | big-endian. 8: a sequence. 16: milliseconds since 1970 and a number, 8 bytes each |
//! | | 4 + k | key | length and bytes, if there is one |
//! | | 8 + n + v, h times | headers | length of the name, length of the value or 2³² − 1 if it is null, name, value |
//! | | rest | payload | nothing without its flag; may be empty with it |
//!
//! ```
//! use tipple_stream::{Event, EventRef, Numbering, Place};
//!
//! let event = Event { payload: Some(b"hello".to_vec()), ..Event::default() };
//! let mut bytes = Vec::new();
//! event.encode(Place::sequence(7), Numbering::Sequence, &mut bytes).unwrap();
//! assert_eq!(EventRef::parse(&bytes).unwrap().payload(), Some(&b"hello"[..]));
//! ```

mod append;
mod content;
mod event;
mod form;
mod log;
mod nats;
mod options;
mod pace;
mod place;
mod redis;
mod sink;
mod source;
mod url;

pub use append::{Appended, Text, append};
pub use content::{Events, ReadableEvent};
pub use event::{EVENT_BYTES_MAX, Event, EventRef, Header};
pub use form::{EventForm, FormKind, Ndjson, Parquet, PathTemplate};
pub use log::{Log, LogReader, LogWriter};
pub use nats::{Nats, NatsAccount, NatsUrl};
pub use options::{Archive, Bound, Follow, StreamOptions};
pub use pace::Speed;
pub use place::{Numbering, Place};
pub use redis::{Redis, RedisUrl};
pub use sink::{Appender, Origin, StreamSink, StreamSinkOptions, Tail, Target};
pub use source::{Extent, RangeReader, Span, Stream, StreamSource};
pub use url::StreamUrl;

/// The content's name. Stable.
pub(crate) const NAME: &str = "events";
/// The content's version. Stable.
pub(crate) const VERSION: u16 = 1;
