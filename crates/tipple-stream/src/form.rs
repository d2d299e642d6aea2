//! Events in the forms that other programs read: JSON lines and Parquet, in folders by what each event holds.
//!
//! # Fields
//! The same in both forms. What is text is text; what is not, though it usually is, has a field of its own.
//!
//! | field | `ndjson` 1 | `parquet` 1 | holds |
//! |---|---|---|---|
//! | `position` | number, of Redis a string | INT64, of Redis a string | its place in the stream; an id of Redis is `1526919030474-55` |
//! | `time` | RFC 3339, as many digits as it needs | TIMESTAMP, microseconds, UTC | when it happened or was stored; null if nobody knows |
//! | `time_nanos` | – | INT64 | the same in nanoseconds since 1970: query engines differ in whether they read those as times |
//! | `stream` | string | STRING | the stream's name |
//! | `key` | string | STRING | the key, of NATS the subject; null if it has none, or is not UTF-8 |
//! | `key_base64`, `key_bytes` | base64 | BYTE_ARRAY | the key, if it is not UTF-8 |
//! | `headers` | list of objects | LIST of groups | names and values in their order; names may be repeated, a value may be null |
//! | … `name`, `name_base64` or `name_bytes` | string, base64 | STRING, BYTE_ARRAY | of each header; in JSON the second is there only if it is needed |
//! | … `value`, `value_base64` or `value_bytes` | string, base64 | STRING, BYTE_ARRAY | the same |
//! | `payload` | string | BYTE_ARRAY | exact bytes; empty and null are two things. In JSON null as well if it is not UTF-8 |
//! | `payload_base64` | base64 | – | the payload, if it is not UTF-8 |
//!
//! The name of an object begins with the position of its first event: a sequence in 20 digits, of an id of Redis both numbers
//! so, with a dash between them.
//!
//! An object of `ndjson` is a chunk, in a `.zst` file; one of `parquet` has one row group, ZSTD or no compression, and
//! pages of up to 1 MiB, or one value.

mod ndjson;
mod parquet;
mod path;

use std::io::Write;

use tipple_chunk::{Codec, Sealed};
use tipple_flow::{Failure, Form, FormEncoder, Party, RecordReader, Records, Stop};

pub use ndjson::Ndjson;
pub use parquet::Parquet;
pub use path::PathTemplate;

use crate::content::no_event;
use crate::event::{EventRef, LENGTH_BYTES, record_bytes};
use crate::place::Numbering;

/// A record may take so much of what an object holds: written out, the worst of them then still fits in one.
const RECORD_SHARE: u64 = 8;

/// The bytes of a stream's name that are kept.
const STREAM_BYTES_MAX: usize = 256;

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormKind {
    /// JSON lines, in chunks.
    Ndjson,
    /// Parquet.
    Parquet,
}

/// A form of events.
#[derive(Clone, Debug)]
pub struct EventForm {
    kind: FormKind,
    path: Option<PathTemplate>,
    stream: String,
    numbering: Numbering,
    codec: Codec,
}

impl EventForm {
    /// Events of the stream called `stream`, in folders as `path` says.
    pub fn new(
        kind: FormKind,
        path: Option<PathTemplate>,
        stream: &str,
        numbering: Numbering,
        codec: Codec,
    ) -> Self {
        Self {
            kind,
            path,
            stream: stream[..stream.floor_char_boundary(STREAM_BYTES_MAX)].to_owned(),
            numbering,
            codec,
        }
    }
}

impl Form for EventForm {
    fn takes(&self) -> &'static str {
        crate::NAME
    }

    fn name(&self) -> &'static str {
        match self.kind {
            FormKind::Ndjson => ndjson::NAME,
            FormKind::Parquet => parquet::NAME,
        }
    }

    fn version(&self) -> u16 {
        match self.kind {
            FormKind::Ndjson => ndjson::VERSION,
            FormKind::Parquet => parquet::VERSION,
        }
    }

    fn extension(&self) -> &'static str {
        match self.kind {
            FormKind::Ndjson => "ndjson.zst",
            FormKind::Parquet => "parquet",
        }
    }

    fn path(&self) -> Option<&str> {
        self.path.as_ref().map(PathTemplate::as_str)
    }

    fn record_bytes_max(&self, bytes_max: u64) -> u64 {
        bytes_max / RECORD_SHARE
    }

    fn object_bytes_max(&self, bytes_max: u64) -> u64 {
        match self.kind {
            FormKind::Ndjson => ndjson::object_bytes_max(self.codec, bytes_max),
            FormKind::Parquet => parquet::object_bytes_max(bytes_max),
        }
    }

    fn encoder_bytes(&self, bytes_max: u64) -> u64 {
        let form = match self.kind {
            FormKind::Ndjson => ndjson::encoder_bytes(),
            FormKind::Parquet => parquet::encoder_bytes(self.record_bytes_max(bytes_max)),
        };
        self.codec.encoder_bytes() + form
    }

    fn encoder(&self, bytes_max: u64) -> Result<Box<dyn FormEncoder + Send + '_>, Failure> {
        let encoder = tipple_chunk::Encoder::new(self.codec).map_err(|error| {
            Failure::new(Party::Budget, "cannot make an encoder").because(error)
        })?;
        let writer: Box<dyn ObjectWriter + Send> = match self.kind {
            FormKind::Ndjson => Box::new(ndjson::Writer::new(encoder, &self.stream, bytes_max)),
            FormKind::Parquet => Box::new(parquet::Writer::new(
                encoder,
                &self.stream,
                self.numbering,
                bytes_max,
            )),
        };
        Ok(Box::new(EventEncoder {
            form: self,
            folder: String::new(),
            folder_of: None,
            writer,
        }))
    }

    fn begin_record(
        &self,
        records: &mut RecordReader<'_>,
        record: &mut Vec<u8>,
    ) -> Result<Option<u64>, Stop> {
        if records.fill()?.is_empty() {
            return Ok(None);
        }
        let mut length = [0; LENGTH_BYTES];
        records.read_exact(&mut length)?;
        let bytes = record_bytes(length).map_err(|why| no_event(records, &why))?;
        record.extend_from_slice(&length);
        Ok(Some(bytes as u64))
    }
}

/// Writes objects of one form.
trait ObjectWriter {
    /// As [`FormEncoder::object`].
    fn object(&mut self, records: Records<'_>, out: &mut dyn Write) -> Result<Sealed, Failure>;
}

struct EventEncoder<'a> {
    form: &'a EventForm,
    folder: String,
    /// Second and key that `folder` is of: events that come together mostly go together.
    folder_of: Option<(Option<i64>, Option<Vec<u8>>)>,
    writer: Box<dyn ObjectWriter + Send + 'a>,
}

impl FormEncoder for EventEncoder<'_> {
    fn folder(&mut self, record: &[u8]) -> Result<&str, Failure> {
        let event = EventRef::parse(record).map_err(|why| not_this_event(&why))?;
        if event.numbering() != self.form.numbering {
            return Err(not_this_event(
                "it is numbered in another way than its stream",
            ));
        }
        let is_signed =
            self.form.kind == FormKind::Parquet && event.numbering() == Numbering::Sequence;
        if is_signed && i64::try_from(event.place().parts().1).is_err() {
            return Err(not_this_event(
                "its sequence is beyond 2^63, the end of Parquet's numbers",
            ));
        }
        let Some(path) = &self.form.path else {
            return Ok("");
        };
        let second = event.time().map(|time| time.div_euclid(1_000_000_000));
        let is_same = matches!(&self.folder_of, Some((time, key))
            if *time == second && key.as_deref() == event.key());
        if !is_same {
            self.folder.clear();
            path.write(&self.form.stream, &event, &mut self.folder);
            self.folder_of = Some((second, event.key().map(<[u8]>::to_vec)));
        }
        Ok(&self.folder)
    }

    fn stem(&self, record: &[u8]) -> String {
        let event = EventRef::parse(record).expect("it has a folder");
        match (event.numbering(), event.place().parts()) {
            (Numbering::Sequence, (_, number)) => format!("{number:020}"),
            (Numbering::TimeAndNumber, (time, number)) => format!("{time:020}-{number:020}"),
        }
    }

    fn object(&mut self, records: Records<'_>, out: &mut dyn Write) -> Result<Sealed, Failure> {
        self.writer.object(records, out)
    }
}

/// An event of a batch, which had a folder before.
fn event(record: &[u8]) -> EventRef<'_> {
    EventRef::parse(record).expect("it has a folder")
}

fn not_this_event(why: &str) -> Failure {
    Failure::new(
        Party::Source,
        format!(
            "the stream gave what is no event: {why}; dump it without --format, and look at it with `tipple cat`"
        ),
    )
}

/// `out` did not take an object.
fn not_written(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(Party::Budget, "cannot write an object into the spool").because(error)
}
