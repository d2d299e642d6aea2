//! One event, and how it looks in a frame and in the log.

use std::ops::Range;

use crate::place::{Numbering, Place};

/// The most bytes of one encoded event.
pub const EVENT_BYTES_MAX: usize = 512 << 20;

/// Bytes before the place.
pub(crate) const FIXED_BYTES: usize = 16;
/// Bytes of the field that says how long the record is.
pub(crate) const LENGTH_BYTES: usize = 4;

const HAS_KEY: u8 = 1;
const HAS_PAYLOAD: u8 = 2;
const HAS_TIME: u8 = 4;
/// The length of a header's value that is null.
pub(crate) const NULL: u32 = u32::MAX;

/// A name, and a value or null.
pub type Header = (Vec<u8>, Option<Vec<u8>>);

/// An event that was not encoded yet. Empty and absent are two things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When it happened or was stored: nanoseconds since 1970, UTC.
    pub time: Option<i64>,
    /// Its key; of NATS its subject.
    pub key: Option<Vec<u8>>,
    /// Names and values in their order; names may be repeated. Of Redis the fields.
    pub headers: Vec<Header>,
    /// What it carries.
    pub payload: Option<Vec<u8>>,
}

impl Event {
    /// Appends it to `bytes` in the layout of the content `events`.
    ///
    /// # Errors
    /// It is larger than [`EVENT_BYTES_MAX`]: its size. `bytes` is as it was then.
    pub fn encode(
        &self,
        place: Place,
        numbering: Numbering,
        bytes: &mut Vec<u8>,
    ) -> Result<(), usize> {
        let headers = self.headers.iter();
        encode(
            place,
            numbering,
            self.time,
            self.key.as_deref(),
            headers.map(|(name, value)| (&name[..], value.as_deref())),
            self.payload.as_deref(),
            bytes,
        )
    }
}

/// The same for an event whose parts are somewhere else.
pub(crate) fn encode<'a>(
    place: Place,
    numbering: Numbering,
    time: Option<i64>,
    key: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    payload: Option<&[u8]>,
    bytes: &mut Vec<u8>,
) -> Result<(), usize> {
    let mut size = FIXED_BYTES + numbering.bytes();
    size += key.map_or(0, |key| 4 + key.len());
    let mut count = 0_usize;
    for (name, value) in headers.clone() {
        size += 8 + name.len() + value.map_or(0, <[u8]>::len);
        count += 1;
    }
    size += payload.map_or(0, <[u8]>::len);
    let Ok(count) = u16::try_from(count) else {
        return Err(size);
    };
    if size > EVENT_BYTES_MAX {
        return Err(size);
    }
    bytes.reserve(size);
    let flags = [
        (key.is_some(), HAS_KEY),
        (payload.is_some(), HAS_PAYLOAD),
        (time.is_some(), HAS_TIME),
    ];
    let flags = (flags.iter().filter(|(is, _)| *is)).fold(0, |all, (_, flag)| all | flag);
    encode_fixed(size, flags, count, time, place, numbering, bytes);
    if let Some(key) = key {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
    }
    for (name, value) in headers {
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        let value_bytes = value.map_or(NULL, |value| value.len() as u32);
        bytes.extend_from_slice(&value_bytes.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value.unwrap_or_default());
    }
    bytes.extend_from_slice(payload.unwrap_or_default());
    Ok(())
}

fn encode_fixed(
    size: usize,
    flags: u8,
    headers: u16,
    time: Option<i64>,
    place: Place,
    numbering: Numbering,
    bytes: &mut Vec<u8>,
) {
    bytes.extend_from_slice(&((size - LENGTH_BYTES) as u32).to_le_bytes());
    bytes.extend_from_slice(&[flags, numbering.bytes() as u8]);
    bytes.extend_from_slice(&headers.to_le_bytes());
    bytes.extend_from_slice(&time.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(place.position(numbering).as_bytes());
}

/// What an event with headers alone begins with, and its size in all, for one that is not held in memory: each header
/// follows as [`header_lengths`], name and value. `None` if it has too many headers or is too large.
pub(crate) fn encode_begin(
    place: Place,
    numbering: Numbering,
    time: Option<i64>,
    headers: &[(u64, u64)],
) -> Option<(Vec<u8>, usize)> {
    let count = u16::try_from(headers.len()).ok()?;
    let sizes = (headers.iter()).map(|(name, value)| name.saturating_add(*value).saturating_add(8));
    let fixed = (FIXED_BYTES + numbering.bytes()) as u64;
    let size = usize::try_from(sizes.fold(fixed, u64::saturating_add)).ok()?;
    if size > EVENT_BYTES_MAX {
        return None;
    }
    let flags = time.map_or(0, |_| HAS_TIME);
    let mut bytes = Vec::new();
    encode_fixed(size, flags, count, time, place, numbering, &mut bytes);
    Some((bytes, size))
}

/// What stands before a header's name and value.
pub(crate) fn header_lengths(name: u32, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&name.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// An encoded event, read where it is.
#[derive(Clone, Debug)]
pub struct EventRef<'a> {
    bytes: &'a [u8],
    place: Place,
    numbering: Numbering,
    time: Option<i64>,
    key: Option<Range<usize>>,
    headers: Range<usize>,
    payload: Option<Range<usize>>,
}

/// The size of the record that begins with these bytes, its length field included.
///
/// # Errors
/// Why that cannot be.
pub(crate) fn record_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, String> {
    let bytes = (u32::from_le_bytes(length) as usize).saturating_add(LENGTH_BYTES);
    match bytes {
        0..FIXED_BYTES => Err(format!(
            "an event of {bytes} bytes is too short for its fields"
        )),
        FIXED_BYTES..=EVENT_BYTES_MAX => Ok(bytes),
        _ => Err(format!(
            "an event of {bytes} bytes, and {EVENT_BYTES_MAX} is the most"
        )),
    }
}

/// What an event begins with, behind its length.
pub(crate) struct Fixed {
    pub(crate) has_key: bool,
    pub(crate) has_payload: bool,
    pub(crate) time: Option<i64>,
    /// 8 or 16.
    pub(crate) position_bytes: usize,
    pub(crate) headers: u16,
}

impl Fixed {
    /// # Errors
    /// Why that begins none.
    pub(crate) fn parse(bytes: &[u8; FIXED_BYTES]) -> Result<Self, String> {
        let flags = bytes[4];
        if flags & !(HAS_KEY | HAS_PAYLOAD | HAS_TIME) != 0 {
            return Err(format!("an event with the flags {flags:#04x}"));
        }
        let position_bytes = usize::from(bytes[5]);
        if ![8, 16].contains(&position_bytes) {
            return Err(format!(
                "an event with a position of {position_bytes} bytes"
            ));
        }
        let time = i64::from_le_bytes(bytes[8..].try_into().expect("8 bytes"));
        Ok(Self {
            has_key: flags & HAS_KEY != 0,
            has_payload: flags & HAS_PAYLOAD != 0,
            time: (flags & HAS_TIME != 0).then_some(time),
            position_bytes,
            headers: u16::from_le_bytes([bytes[6], bytes[7]]),
        })
    }
}

pub(crate) fn ends_inside(what: &str) -> String {
    format!("an event that ends inside its {what}")
}

pub(crate) fn surplus(bytes: usize) -> String {
    format!("{bytes} bytes after an event without payload")
}

impl<'a> EventRef<'a> {
    /// Reads an event that is all of `bytes`.
    ///
    /// # Errors
    /// Why that is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let fixed: &[u8; FIXED_BYTES] = bytes
            .first_chunk()
            .ok_or("an event that ends inside its fields")?;
        let length = record_bytes(fixed[..4].try_into().expect("4 bytes"))?;
        if length != bytes.len() {
            return Err(format!("an event of {length} bytes in {}", bytes.len()));
        }
        let fixed = Fixed::parse(fixed)?;
        let mut rest = Rest {
            bytes,
            at: FIXED_BYTES,
        };
        let place = rest.take(fixed.position_bytes, "position")?;
        let (place, numbering) = Place::of_bytes(&bytes[place]).expect("8 or 16 bytes");
        let key = match fixed.has_key {
            false => None,
            true => {
                let bytes = rest.length("key")?;
                Some(rest.take(bytes, "key")?)
            }
        };
        let from = rest.at;
        for _ in 0..fixed.headers {
            rest.header()?;
        }
        let headers = from..rest.at;
        let payload = rest.at..bytes.len();
        if !fixed.has_payload && !payload.is_empty() {
            return Err(surplus(payload.len()));
        }
        Ok(Self {
            bytes,
            place,
            numbering,
            time: fixed.time,
            key,
            headers,
            payload: fixed.has_payload.then_some(payload),
        })
    }

    /// All of it.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its place in the stream that it was read from.
    pub fn place(&self) -> Place {
        self.place
    }

    /// How that stream numbers.
    pub fn numbering(&self) -> Numbering {
        self.numbering
    }

    /// Nanoseconds since 1970, UTC.
    pub fn time(&self) -> Option<i64> {
        self.time
    }

    /// Its key.
    pub fn key(&self) -> Option<&'a [u8]> {
        Some(&self.bytes[self.key.clone()?])
    }

    /// Names and values in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone + use<'a> {
        let mut rest = Rest {
            bytes: &self.bytes[..self.headers.end],
            at: self.headers.start,
        };
        std::iter::from_fn(move || {
            (rest.at < rest.bytes.len()).then(|| rest.header().expect("parsed before"))
        })
    }

    /// What it carries.
    pub fn payload(&self) -> Option<&'a [u8]> {
        Some(&self.bytes[self.payload.clone()?])
    }

    /// Whether it is this one; nothing is held twice to tell.
    pub fn is(&self, event: &Event) -> bool {
        self.payload() == event.payload.as_deref() && self.is_but_payload(event)
    }

    /// The same, whatever their payloads are.
    pub(crate) fn is_but_payload(&self, event: &Event) -> bool {
        let headers = event.headers.iter();
        self.time == event.time
            && self.key() == event.key.as_deref()
            && self
                .headers()
                .eq(headers.map(|(name, value)| (&name[..], value.as_deref())))
    }

    /// The same in parts of its own.
    pub fn to_event(&self) -> Event {
        let headers = self.headers();
        Event {
            time: self.time,
            key: self.key().map(<[u8]>::to_vec),
            headers: headers
                .map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)))
                .collect(),
            payload: self.payload().map(<[u8]>::to_vec),
        }
    }
}

#[derive(Clone)]
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize, what: &str) -> Result<Range<usize>, String> {
        let end = self.at.saturating_add(bytes);
        if end > self.bytes.len() {
            return Err(ends_inside(what));
        }
        let taken = self.at..end;
        self.at = end;
        Ok(taken)
    }

    fn length(&mut self, what: &str) -> Result<usize, String> {
        let field = self.take(4, what)?;
        Ok(u32::from_le_bytes(self.bytes[field].try_into().expect("4 bytes")) as usize)
    }

    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), String> {
        let name = self.length("headers")?;
        let value = self.length("headers")?;
        let name = self.take(name, "headers")?;
        let value = match value {
            value if value == NULL as usize => None,
            value => Some(self.take(value, "headers")?),
        };
        Ok((&self.bytes[name], value.map(|value| &self.bytes[value])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..20)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read(
            time in any::<Option<i64>>(),
            key in proptest::option::of(bytes()),
            headers in vec((bytes(), proptest::option::of(bytes())), 0..4),
            payload in proptest::option::of(bytes()),
            number in any::<u64>(),
            ms in any::<u64>(),
        ) {
            let event = Event { time, key, headers, payload };
            for (place, numbering) in [
                (Place::sequence(number), Numbering::Sequence),
                (Place::time_and_number(ms, number), Numbering::TimeAndNumber),
            ] {
                let mut bytes = Vec::new();
                event.encode(place, numbering, &mut bytes).unwrap();
                let read = EventRef::parse(&bytes).unwrap();
                prop_assert_eq!((read.place(), read.numbering()), (place, numbering));
                prop_assert_eq!(read.to_event(), event.clone());
                prop_assert!(read.is(&event));
                for cut in 0..bytes.len() {
                    prop_assert!(EventRef::parse(&bytes[..cut]).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_are_an_event_or_an_error(mut bytes in vec(any::<u8>(), 0..80)) {
            let length = (bytes.len() as u32).wrapping_sub(4).to_le_bytes();
            if let Some(first) = bytes.first_chunk_mut() {
                *first = length;
            }
            if let Ok(event) = EventRef::parse(&bytes) {
                let mut again = Vec::new();
                event.to_event().encode(event.place(), event.numbering(), &mut again).unwrap();
                // The time of an event that has none is written as 0.
                prop_assert_eq!(EventRef::parse(&again).unwrap().to_event(), event.to_event());
            }
        }
    }

    #[test]
    fn a_claimed_size_is_refused() {
        assert!(record_bytes(u32::MAX.to_le_bytes()).is_err());
        assert!(record_bytes(0_u32.to_le_bytes()).is_err());
        assert!(record_bytes(((EVENT_BYTES_MAX - 4) as u32).to_le_bytes()).is_ok());
        assert!(record_bytes(((EVENT_BYTES_MAX - 3) as u32).to_le_bytes()).is_err());
    }
}
