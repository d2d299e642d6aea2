//! The content `events`.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tipple_flow::{Content, Failure, Party, RecordReader, Stop};

use crate::event::{EventRef, LENGTH_BYTES, record_bytes};
use crate::place::Numbering;

/// Bytes that are read of an event at a time, so that none is believed how long it is.
const STEP: usize = 1 << 20;

/// The content `events`, version 1. The crate's doc has its layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events;

impl Content for Events {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn version(&self) -> u16 {
        crate::VERSION
    }

    /// Holds the whole event in memory.
    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        let mut bytes = Vec::new();
        if !read_record(records, &mut bytes)? {
            return Ok(false);
        }
        EventRef::parse(&bytes).map_err(|why| no_event(records, &why))?;
        records.end_record();
        Ok(true)
    }

    /// `{"position":…,"time":…,"key":…,"headers":[[…,…]],"payload":…}`: a sequence is a number, an id of Redis a string, the
    /// time RFC 3339 with as many digits as it needs; what is not UTF-8 is `{"base64":"…"}`. Holds the whole event in memory.
    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop> {
        let mut bytes = Vec::new();
        if !read_record(records, &mut bytes)? {
            return Ok(false);
        }
        let event = EventRef::parse(&bytes).map_err(|why| no_event(records, &why))?;
        serde_json::to_writer(line, &ReadableEvent::from(&event)).expect("values into memory");
        records.end_record();
        Ok(true)
    }
}

/// Reads one encoded event; `false` if there is none left. The caller ends the record.
pub(crate) fn read_record(
    records: &mut RecordReader<'_>,
    bytes: &mut Vec<u8>,
) -> Result<bool, Stop> {
    bytes.clear();
    if records.fill()?.is_empty() {
        return Ok(false);
    }
    let mut length = [0; LENGTH_BYTES];
    records.read_exact(&mut length)?;
    let size = record_bytes(length).map_err(|why| no_event(records, &why))?;
    bytes.extend_from_slice(&length);
    while bytes.len() < size {
        let from = bytes.len();
        bytes.resize(from + (size - from).min(STEP), 0);
        records.read_exact(&mut bytes[from..])?;
    }
    Ok(true)
}

pub(crate) fn no_event(records: &RecordReader<'_>, why: &str) -> Failure {
    Failure::new(
        Party::Content,
        format!(
            "record {} of the part is no event: {why}; the frames verified, so it was written so: dump it again",
            records.records()
        ),
    )
}

/// An event as people read it.
#[derive(Debug, Serialize)]
pub struct ReadableEvent<'a> {
    position: ReadablePlace,
    time: Option<String>,
    key: Option<ReadableBytes<'a>>,
    headers: Vec<(ReadableBytes<'a>, Option<ReadableBytes<'a>>)>,
    payload: Option<ReadableBytes<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ReadablePlace {
    Sequence(u64),
    Id(String),
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ReadableBytes<'a> {
    Text(&'a str),
    Binary { base64: String },
}

impl<'a> From<&'a [u8]> for ReadableBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Binary {
                base64: BASE64_STANDARD.encode(bytes),
            },
        }
    }
}

impl<'a> From<&EventRef<'a>> for ReadableEvent<'a> {
    fn from(event: &EventRef<'a>) -> Self {
        let headers = event.headers();
        Self {
            position: match event.numbering() {
                Numbering::Sequence => ReadablePlace::Sequence(event.place().parts().1),
                numbering => ReadablePlace::Id(event.place().text(numbering)),
            },
            time: event.time().map(time_text),
            key: event.key().map(Into::into),
            headers: headers
                .map(|(name, value)| (name.into(), value.map(Into::into)))
                .collect(),
            payload: event.payload().map(Into::into),
        }
    }
}

/// RFC 3339 in UTC.
pub(crate) fn time_text(nanoseconds: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into()).expect("64 bits are in range");
    let mut text = String::new();
    write!(text, "{time}").expect("into memory");
    text
}
