//! The content `events`.

use std::fmt::Write as _;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tipple_flow::{Content, Failure, Party, RecordReader, Stop};

use crate::event::{
    EventRef, FIXED_BYTES, Fixed, LENGTH_BYTES, NULL, ends_inside, record_bytes, surplus,
};
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

    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        let is_there = check_record(records)?;
        if is_there {
            records.end_record();
        }
        Ok(is_there)
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

    /// The payload and a newline; nothing else of the event. Holds the whole event in memory.
    fn write_raw(
        &self,
        records: &mut RecordReader<'_>,
        bytes: &mut Vec<u8>,
    ) -> Option<Result<bool, Stop>> {
        Some(write_payload(records, bytes))
    }
}

fn write_payload(records: &mut RecordReader<'_>, bytes: &mut Vec<u8>) -> Result<bool, Stop> {
    let mut record = Vec::new();
    if !read_record(records, &mut record)? {
        return Ok(false);
    }
    let event = EventRef::parse(&record).map_err(|why| no_event(records, &why))?;
    bytes.extend_from_slice(event.payload().unwrap_or_default());
    bytes.push(b'\n');
    records.end_record();
    Ok(true)
}

/// Reads one encoded event; `false` if there is none left. The caller ends the record.
pub(crate) fn read_record(
    records: &mut RecordReader<'_>,
    bytes: &mut Vec<u8>,
) -> Result<bool, Stop> {
    bytes.clear();
    let Some((size, length)) = begin_record(records)? else {
        return Ok(false);
    };
    bytes.extend_from_slice(&length);
    while bytes.len() < size {
        let from = bytes.len();
        let step = (size - from).min(STEP);
        if bytes.capacity() - from < step {
            // Twice as much, but never more than it is.
            bytes.reserve_exact((size - from).min(from.max(STEP)));
        }
        bytes.resize(from + step, 0);
        records.read_exact(&mut bytes[from..])?;
    }
    Ok(true)
}

/// How long the record that comes next is, and the field that says so; `None` if there is none left.
fn begin_record(
    records: &mut RecordReader<'_>,
) -> Result<Option<(usize, [u8; LENGTH_BYTES])>, Stop> {
    if records.fill()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; LENGTH_BYTES];
    records.read_exact(&mut length)?;
    let size = record_bytes(length).map_err(|why| no_event(records, &why))?;
    records.check_record_bytes(size as u64)?;
    Ok(Some((size, length)))
}

/// Reads one encoded event to its end and checks its layout, and holds nothing of it; `false` if there is none left. The
/// caller ends the record.
fn check_record(records: &mut RecordReader<'_>) -> Result<bool, Stop> {
    let Some((size, length)) = begin_record(records)? else {
        return Ok(false);
    };
    let mut fixed = [0; FIXED_BYTES];
    fixed[..LENGTH_BYTES].copy_from_slice(&length);
    records.read_exact(&mut fixed[LENGTH_BYTES..])?;
    let mut rest = Rest {
        left: size - FIXED_BYTES,
        records,
    };
    let fixed = Fixed::parse(&fixed).map_err(|why| no_event(rest.records, &why))?;
    rest.skip(fixed.position_bytes, "position")?;
    if fixed.has_key {
        let bytes = rest.length("key")?;
        rest.skip(bytes, "key")?;
    }
    for _ in 0..fixed.headers {
        let (name, value) = (rest.length("headers")?, rest.length("headers")?);
        rest.skip(name, "headers")?;
        if value != NULL as usize {
            rest.skip(value, "headers")?;
        }
    }
    let payload = rest.left;
    if payload > 0 && !fixed.has_payload {
        return Err(no_event(rest.records, &surplus(payload)).into());
    }
    rest.skip(payload, "payload")?;
    Ok(true)
}

/// What was not read of a record.
struct Rest<'a, 'r> {
    records: &'a mut RecordReader<'r>,
    left: usize,
}

impl Rest<'_, '_> {
    fn take(&mut self, bytes: usize, what: &str) -> Result<(), Stop> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| no_event(self.records, &ends_inside(what)))?;
        Ok(())
    }

    fn skip(&mut self, bytes: usize, what: &str) -> Result<(), Stop> {
        self.take(bytes, what)?;
        self.records.skip(bytes as u64)
    }

    fn length(&mut self, what: &str) -> Result<usize, Stop> {
        let mut length = [0; 4];
        self.take(length.len(), what)?;
        self.records.read_exact(&mut length)?;
        Ok(u32::from_le_bytes(length) as usize)
    }
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tipple_budget::{Gate, Rates};
    use tipple_flow::FrameSource;

    use super::*;

    /// Bytes in frames of a few.
    struct Frames<'a> {
        bytes: &'a [u8],
        frame: usize,
        at: usize,
    }

    impl FrameSource for Frames<'_> {
        fn advance(&mut self) -> Result<Option<u32>, Stop> {
            self.bytes = &self.bytes[self.at.min(self.bytes.len())..];
            self.at = self.frame;
            Ok((!self.bytes.is_empty()).then_some(0))
        }

        fn bytes(&self) -> &[u8] {
            &self.bytes[..self.at.min(self.bytes.len())]
        }
    }

    /// What `read` makes of the bytes.
    fn read<T>(
        bytes: &[u8],
        frame: usize,
        read: impl FnOnce(&mut RecordReader<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let gate = Gate::new(Rates::default());
        let mut frames = Frames {
            bytes,
            frame,
            at: 0,
        };
        let mut records = RecordReader::new(&gate, &mut frames).with_record_bytes_max(90);
        read(&mut records)
    }

    proptest! {
        /// What is checked piece by piece is what is read whole.
        #[test]
        fn an_event_is_checked_as_it_is_read(
            mut bytes in vec(prop_oneof![Just(0_u8), 0..24_u8], 0..100),
            frame in 1..40_usize,
            is_near in any::<bool>(),
        ) {
            if is_near && bytes.len() >= FIXED_BYTES {
                let length = (bytes.len() - LENGTH_BYTES) as u32;
                bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
                (bytes[4], bytes[5], bytes[7]) = (bytes[4] % 8, 8, 0);
            }
            let whole = read(&bytes, frame, |records| {
                let mut record = Vec::new();
                let is_there = read_record(records, &mut record)?;
                if is_there {
                    EventRef::parse(&record).map_err(|why| no_event(records, &why))?;
                }
                Ok((is_there, records.bytes()))
            });
            let checked = read(&bytes, frame, |records| {
                Ok((check_record(records)?, records.bytes()))
            });
            match (whole, checked) {
                (Ok(whole), Ok(checked)) => prop_assert_eq!(whole, checked),
                (whole, checked) => {
                    prop_assert!(whole.is_err() && checked.is_err(), "{whole:?} {checked:?}");
                }
            }
        }
    }
}
