//! Events as JSON lines, in chunks.

use std::fmt;
use std::io::{self, Write};

use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tipple_chunk::{ChunkError, ChunkWriter, Codec, Encoder, FRAME_BYTES_MAX, FrameMark, Sealed};
use tipple_flow::{Content, Failure, Party, Position, RecordReader, Records, Stop};

use crate::content::time_text;
use crate::event::EventRef;
use crate::form::{ObjectWriter, event, not_written};
use crate::place::Numbering;

pub(super) const NAME: &str = "ndjson";
pub(super) const VERSION: u16 = 1;

/// What a line has beside what is in the event, at most: names of fields, the stream's name written out.
const LINE_BYTES: u64 = 512 + 6 * super::STREAM_BYTES_MAX as u64;

/// A byte of an event becomes so many of a line at most: a control character is `\u0001`. Each header has 8 bytes in an
/// event, which pay for the names of its fields.
const GROWTH: u64 = 6;

/// The most bytes of the line of an event.
fn line_bytes_max(event_bytes: usize) -> u64 {
    GROWTH * event_bytes as u64 + LINE_BYTES
}

/// A frame ends before a line that might not fit, so it can be filled to a seventh only.
pub(super) fn object_bytes_max(codec: Codec, bytes_max: u64) -> u64 {
    codec.chunk_bytes_max(
        bytes_max,
        bytes_max.div_ceil(FRAME_BYTES_MAX as u64 / 8) + 8,
    )
}

pub(super) fn encoder_bytes() -> u64 {
    FRAME_BYTES_MAX as u64
}

pub(super) struct Writer<'a> {
    encoder: Encoder,
    stream: &'a str,
    bytes_max: u64,
    frame: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(encoder: Encoder, stream: &'a str, bytes_max: u64) -> Self {
        Self {
            encoder,
            stream,
            bytes_max,
            frame: Vec::with_capacity(FRAME_BYTES_MAX),
        }
    }
}

impl ObjectWriter for Writer<'_> {
    fn object(&mut self, records: Records<'_>, out: &mut dyn Write) -> Result<Sealed, Failure> {
        let content = tipple_chunk::Content::new(NAME, VERSION);
        let mut frames = Frames {
            chunk: ChunkWriter::new(out, &mut self.encoder, &content, false),
            frame: &mut self.frame,
            records: 0,
            first: None,
            position: Position::NONE,
        };
        frames.frame.clear();
        let mut last = Position::NONE;
        for (taken, record) in records.iter().enumerate() {
            let bytes = line_bytes_max(record.len());
            let so_far = frames.chunk.raw_bytes() + frames.frame.len() as u64;
            if taken > 0 && (so_far + bytes > self.bytes_max || frames.chunk.is_full()) {
                break;
            }
            // Frames are cut between lines where that can be.
            if frames.frame.len() as u64 + bytes > FRAME_BYTES_MAX as u64 {
                frames.cut().map_err(not_written)?;
            }
            let event = event(record);
            last = event.place().position(event.numbering());
            frames.begin(last);
            let line = Line::of(self.stream, &event);
            serde_json::to_writer(&mut frames, &line).map_err(not_written)?;
            frames.write_all(b"\n").map_err(not_written)?;
        }
        frames.cut().map_err(not_written)?;
        let (_, sealed) = frames
            .chunk
            .finish(false, last.as_bytes())
            .map_err(not_written)?;
        Ok(sealed)
    }
}

/// Lines on their way into frames.
struct Frames<'e, 'w> {
    chunk: ChunkWriter<'e, &'w mut dyn Write>,
    frame: &'e mut Vec<u8>,
    /// Of those that begin in the frame: how many, where the first, and its position.
    records: u32,
    first: Option<u32>,
    position: Position,
}

impl Frames<'_, '_> {
    fn begin(&mut self, position: Position) {
        if self.first.is_none() {
            self.first = Some(self.frame.len() as u32);
            self.position = position;
        }
        self.records += 1;
    }

    fn cut(&mut self) -> Result<(), ChunkError> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let mark = FrameMark {
            records: self.records,
            first_record: self.first,
            position: self.first.map_or(&[], |_| self.position.as_bytes()),
        };
        self.chunk.frame(self.frame, mark)?;
        self.frame.clear();
        (self.records, self.first) = (0, None);
        Ok(())
    }
}

impl Write for Frames<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.frame.len() == FRAME_BYTES_MAX {
            self.cut().map_err(io::Error::other)?;
        }
        let n = bytes.len().min(FRAME_BYTES_MAX - self.frame.len());
        self.frame.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event as a line. Every event has the same fields, so that query engines find them whatever they look at first.
#[derive(Serialize)]
struct Line<'a> {
    position: Place,
    time: Option<String>,
    stream: &'a str,
    key: Option<&'a str>,
    key_base64: Option<Base64<'a>>,
    headers: Headers<'a>,
    payload: Option<&'a str>,
    payload_base64: Option<Base64<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Place {
    Sequence(u64),
    Id(String),
}

impl<'a> Line<'a> {
    fn of(stream: &'a str, event: &EventRef<'a>) -> Self {
        let (key, key_base64) = text_or_base64(event.key());
        let (payload, payload_base64) = text_or_base64(event.payload());
        Self {
            position: match event.numbering() {
                Numbering::Sequence => Place::Sequence(event.place().parts().1),
                numbering => Place::Id(event.place().text(numbering)),
            },
            time: event.time().map(time_text),
            stream,
            key,
            key_base64,
            headers: Headers(event.clone()),
            payload,
            payload_base64,
        }
    }
}

fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<Base64<'_>>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text), None),
        Some((bytes, Err(_))) => (None, Some(Base64(bytes))),
    }
}

struct Headers<'a>(EventRef<'a>);

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.headers().map(|(name, value)| {
            let (name, name_base64) = text_or_base64(Some(name));
            let (value, value_base64) = text_or_base64(value);
            Header {
                name,
                name_base64,
                value,
                value_base64,
            }
        }))
    }
}

#[derive(Serialize)]
struct Header<'a> {
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<Base64<'a>>,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<Base64<'a>>,
}

/// Written as it goes, so that a large payload is not held twice.
struct Base64<'a>(&'a [u8]);

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64Display::new(self.0, &BASE64_STANDARD).fmt(f)
    }
}

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The content `ndjson`, version 1: lines, each a JSON object.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ndjson;

impl Ndjson {
    /// Gives `act` the pieces of a line without its end; `false` if there is none left.
    fn line(records: &mut RecordReader<'_>, mut act: impl FnMut(&[u8])) -> Result<bool, Stop> {
        if records.fill()?.is_empty() {
            return Ok(false);
        }
        loop {
            let piece = records.fill()?;
            if piece.is_empty() {
                return Err(Failure::new(
                    Party::Content,
                    "the last line has no end; the frames verified, so it was written so: dump it again",
                )
                .into());
            }
            let end = memchr::memchr(b'\n', piece);
            act(&piece[..end.unwrap_or(piece.len())]);
            let read = end.map_or(piece.len(), |end| end + 1);
            records.consume(read);
            if end.is_some() {
                records.end_record();
                return Ok(true);
            }
        }
    }
}

impl Content for Ndjson {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u16 {
        VERSION
    }

    /// A line that does not look like an object is none. What is inside is not looked at: frames are verified.
    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        let (mut first, mut last) = (None, None);
        let more = Self::line(records, |piece| {
            first = first.or(piece.first().copied());
            last = piece.last().copied().or(last);
        })?;
        match (more, first, last) {
            (false, ..) | (true, Some(b'{'), Some(b'}')) => Ok(more),
            _ => Err(Failure::new(
                Party::Content,
                format!("record {} of the part is no JSON object; the frames verified, so it was written so: dump it again", records.records()),
            )
            .into()),
        }
    }

    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop> {
        Self::line(records, |piece| line.extend_from_slice(piece))
    }
}
