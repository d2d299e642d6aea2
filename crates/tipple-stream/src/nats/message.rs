//! An event as a message: what of it stands in headers, and back.

use std::collections::VecDeque;

use super::api::Stored;
use super::headers;
use super::wire::parse_number;
use crate::event::{EVENT_BYTES_MAX, Event, EventRef};
use crate::place::Numbering;
use crate::sink::Tail;

/// First of all headers: the server looks no further (and 2.9 gives up at a value that looks like it).
const EXPECTED: &[u8] = b"Nats-Expected-Last-Sequence";
/// The last but one: nanoseconds since 1970, or `none`.
const TIME: &[u8] = b"Tipple-Time";
/// The last.
const POSITION: &[u8] = b"Tipple-Position";
/// The last but two of a piece of an event: which one, of how many, of how many bytes of payload in all.
const SPLIT: &[u8] = b"Tipple-Split";
/// Before names that would tell the server to do something: to forget a message whose id it has seen, to purge.
const KEPT: &[u8] = b"Tipple-";
const COMMAND: &[u8] = b"Nats-";
/// What is left of [`SPLIT`] without [`KEPT`].
const SPLIT_KEPT: &[u8] = b"Split";
/// More than the headers above take, with the first line and the last.
const OWN_BYTES_MAX: u64 = 256;
/// More than [`SPLIT`] takes.
pub(super) const SPLIT_BYTES_MAX: u64 = 96;
/// Pieces that an event has at most.
pub(super) const PIECES_MAX: u64 = 1 << 16;

/// Which piece of an event a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// From 1.
    pub(super) piece: u64,
    pub(super) of: u64,
    /// Of the whole payload.
    pub(super) bytes: u64,
}

impl Split {
    fn text(self) -> String {
        format!("{}/{}/{}", self.piece, self.of, self.bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text
            .split('/')
            .map(|number| parse_number(number.as_bytes()));
        let mut next = || numbers.next().flatten();
        let split = Self {
            piece: next()?,
            of: next()?,
            bytes: next()?,
        };
        let is_good = (1..=split.of).contains(&split.piece)
            && (2..=PIECES_MAX).contains(&split.of)
            && split.bytes <= EVENT_BYTES_MAX as u64;
        (is_good && next().is_none()).then_some(split)
    }
}

/// Bytes of the event as one message, its payload aside, at most.
pub(super) fn head_bytes(event: &EventRef<'_>) -> u64 {
    let headers = event
        .headers()
        .map(|(name, value)| (KEPT.len() + name.len() + value.map_or(0, <[u8]>::len) + 4) as u64);
    OWN_BYTES_MAX + headers.sum::<u64>()
}

/// The headers of a message that is to come right after `expected`, in place of what `block` has.
pub(super) fn headers_of(
    event: &EventRef<'_>,
    expected: u64,
    split: Option<Split>,
    block: &mut Vec<u8>,
) {
    block.clear();
    headers::begin(block);
    headers::push(block, EXPECTED, expected.to_string().as_bytes());
    // The first piece has them for all.
    let has_headers = split.is_none_or(|split| split.piece == 1);
    for (name, value) in event.headers().filter(|_| has_headers) {
        if is_command(name) {
            block.extend_from_slice(KEPT);
        }
        headers::push(block, name, value.expect("others were refused"));
    }
    if let Some(split) = split {
        headers::push(block, SPLIT, split.text().as_bytes());
    }
    let time = event
        .time()
        .map_or("none".to_owned(), |time| time.to_string());
    headers::push(block, TIME, time.as_bytes());
    let position = event.place().text(event.numbering());
    headers::push(block, POSITION, position.as_bytes());
    headers::end(block);
}

/// Whether a header of this name would make the server do something, or tell of a piece, or was renamed for that.
fn is_command(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some(inner) = rest.strip_prefix(KEPT) {
        rest = inner;
    }
    rest.starts_with(COMMAND) || rest == SPLIT_KEPT && name != rest
}

/// The sequence that a message had where it was dumped; `None` if it was not loaded by tipple from such a stream.
pub(super) fn origin_of(stored: &Stored) -> Option<u64> {
    let (place, numbering) = kept_of(stored)?.tail.origin;
    (numbering == Numbering::Sequence).then_some(place.parts().1)
}

/// An event as it was loaded, or a piece of it.
#[derive(Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) tail: Tail,
    pub(super) split: Option<Split>,
}

/// What was loaded, of a message as the server has it; `None` if it was not loaded by tipple.
pub(super) fn kept_of(stored: &Stored) -> Option<Kept> {
    kept(&stored.subject, &stored.headers, &stored.payload)
}

/// The same of a message as it is sent.
pub(super) fn kept_of_frame(frame: &[u8]) -> Option<Kept> {
    let line = memchr::memmem::find(frame, b"\r\n")?;
    let mut words = frame[..line].split(|byte| *byte == b' ').skip(1);
    let (subject, _) = (words.next()?, words.next()?);
    let header_bytes = usize::try_from(parse_number(words.next()?)?).ok()?;
    let body = &frame[line + 2..frame.len() - 2];
    let (block, payload) = body.split_at_checked(header_bytes)?;
    kept(subject, block, payload)
}

fn kept(subject: &[u8], block: &[u8], payload: &[u8]) -> Option<Kept> {
    let mut all: VecDeque<_> = headers::each(block).collect();
    // Some servers take it away.
    if all.front().is_some_and(|(name, _)| *name == EXPECTED) {
        all.pop_front();
    }
    let mut own = |wanted: &[u8]| {
        let (name, value) = all.pop_back()?;
        (name == wanted).then_some(std::str::from_utf8(value?).ok()?)
    };
    let place = own(POSITION)?;
    let time = match own(TIME)? {
        "none" => None,
        time => Some(time.parse().ok()?),
    };
    let numbering = match place.contains('-') {
        true => Numbering::TimeAndNumber,
        false => Numbering::Sequence,
    };
    let split = match all.back() {
        Some((name, value)) if *name == SPLIT => {
            let split = Split::parse(std::str::from_utf8((*value)?).ok()?)?;
            all.pop_back();
            Some(split)
        }
        _ => None,
    };
    let restored = |name: &[u8]| match is_command(name) {
        true => name.strip_prefix(KEPT).map(<[u8]>::to_vec),
        false => Some(name.to_vec()),
    };
    let headers: Option<Vec<_>> = (all.iter())
        .map(|(name, value)| Some((restored(name)?, value.map(<[u8]>::to_vec))))
        .collect();
    let tail = Tail {
        origin: (place.parse().ok()?, numbering),
        event: Event {
            time,
            key: Some(subject.to_vec()),
            headers: headers?,
            payload: Some(payload.to_vec()),
        },
        is_begun: false,
    };
    Some(Kept { tail, split })
}
