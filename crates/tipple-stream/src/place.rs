//! Where an event is in its stream.

use std::fmt;
use std::str::FromStr;

use tipple_flow::Position;

/// How the places of a stream are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// By one number, such as `42`: the log, NATS.
    Sequence,
    /// By a time in milliseconds and a number, such as `1526919030474-55`: Redis.
    TimeAndNumber,
}

impl Numbering {
    /// Bytes of a place in a record.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Sequence => 8,
            Self::TimeAndNumber => 16,
        }
    }
}

/// The place of an event in its stream. Places are compared, and are not always dense: events are deleted, and Redis
/// numbers by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u128);

impl Place {
    /// The first place of every stream.
    pub const ZERO: Self = Self(0);

    /// A place numbered by [`Numbering::Sequence`].
    pub const fn sequence(number: u64) -> Self {
        Self(number as u128)
    }

    /// A place numbered by [`Numbering::TimeAndNumber`].
    pub const fn time_and_number(milliseconds: u64, number: u64) -> Self {
        Self((milliseconds as u128) << 64 | number as u128)
    }

    /// The time in milliseconds, 0 for a sequence; and the number.
    pub const fn parts(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// The place right after it; itself after the last one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub(crate) const fn number(self) -> u128 {
        self.0
    }

    pub(crate) const fn from_number(number: u128) -> Self {
        Self(number)
    }

    /// How it is written.
    pub fn text(self, numbering: Numbering) -> String {
        match (numbering, self.parts()) {
            (Numbering::Sequence, (_, number)) => number.to_string(),
            (Numbering::TimeAndNumber, (time, number)) => format!("{time}-{number}"),
        }
    }

    /// Big-endian, so that byte order is the order of places.
    pub(crate) fn position(self, numbering: Numbering) -> Position {
        match numbering {
            Numbering::Sequence => Position::from(self.0 as u64),
            Numbering::TimeAndNumber => {
                Position::new(&self.0.to_be_bytes()).expect("16 of 63 bytes")
            }
        }
    }

    /// What [`Place::position`] wrote, and how it was numbered; `None` if it wrote no such bytes.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<(Self, Numbering)> {
        if let Ok(bytes) = bytes.try_into() {
            let number = u64::from_be_bytes(bytes);
            return Some((Self::sequence(number), Numbering::Sequence));
        }
        let bytes = bytes.try_into().ok()?;
        Some((Self(u128::from_be_bytes(bytes)), Numbering::TimeAndNumber))
    }
}

/// `42`, or `1526919030474-55`.
impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let place = match text.split_once('-') {
            None => number(text).map(Self::sequence),
            Some((time, of_time)) => number(time)
                .zip(number(of_time))
                .map(|(time, of_time)| Self::time_and_number(time, of_time)),
        };
        place.ok_or_else(|| {
            format!("{text:?} is no position: give a number, such as 42, or for Redis an id, such as 1526919030474-55")
        })
    }
}

/// Of an error message, where the numbering is not at hand.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (0, number) => write!(f, "{number}"),
            (time, number) => write!(f, "{time}-{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for (text, numbering) in [
            ("0", Numbering::Sequence),
            ("18446744073709551615", Numbering::Sequence),
            ("0-1", Numbering::TimeAndNumber),
            ("1526919030474-55", Numbering::TimeAndNumber),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.text(numbering), text);
            let position = place.position(numbering);
            assert_eq!(
                Place::of_bytes(position.as_bytes()),
                Some((place, numbering))
            );
        }
        for bad in [
            "",
            "-",
            "1-",
            "-1",
            "+1",
            "1.5",
            "18446744073709551616",
            "1-2-3",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        assert_eq!(Place::of_bytes(b"short"), None);
    }
}
