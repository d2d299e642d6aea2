//! Sizes, rates, durations and ranges: as they are typed, and as people read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tipple_budget::Rates;
use tipple_dump::PartRange;

/// Why a text is none of these. One line, naming the text and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitError(String);

impl UnitError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnitError {}

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// The digits in front, and the rest.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || {
            UnitError(format!(
                "{text:?} is no size: give a whole number of bytes up to 16 EiB, such as 65536, 64KiB, 8MiB, 1GiB (powers of 1024) or 64KB, 8MB, 1GB (powers of 1000)"
            ))
        };
        let (number, unit) = split_number(text).ok_or_else(refused)?;
        let factor = match unit {
            "" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| *name == unit)
                    .ok_or_else(refused)?
                    .1
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(refused)
    }
}

/// As it may be typed, without loss.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match whole {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Bytes or records a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    Bytes(u64),
    Records(u64),
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || {
            UnitError(format!(
                "{text:?} is no rate: give at least 1 byte or record a second, such as 60MiB/s (raw bytes) or 5000/s (records)"
            ))
        };
        let amount = text.strip_suffix("/s").ok_or_else(refused)?;
        let rate = match amount.parse::<u64>() {
            Ok(records) => Self::Records(records),
            Err(_) => Self::Bytes(amount.parse::<ByteSize>().map_err(|_| refused())?.0),
        };
        match rate {
            Self::Bytes(0) | Self::Records(0) => Err(refused()),
            rate => Ok(rate),
        }
    }
}

/// At most one rate of each kind.
pub(crate) fn rates(given: &[Rate]) -> Result<Rates, UnitError> {
    let mut rates = Rates::default();
    for rate in given {
        let (place, amount) = match rate {
            Rate::Bytes(amount) => (&mut rates.bytes_per_second, amount),
            Rate::Records(amount) => (&mut rates.records_per_second, amount),
        };
        if place.replace(*amount).is_some() {
            return Err(UnitError(
                "--rate is given twice of one kind: give at most one in bytes, such as 60MiB/s, and one in records, such as 5000/s".to_owned(),
            ));
        }
    }
    Ok(rates)
}

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refused = || {
            UnitError(format!(
                "{text:?} is no duration: give a whole number of ms, s, m, h or d, such as 500ms, 30s, 10m, 2h or 7d"
            ))
        };
        let (number, unit) = split_number(text).ok_or_else(refused)?;
        let factor_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refused()),
        };
        let ms = number.checked_mul(factor_ms).ok_or_else(refused)?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

/// As it may be typed, without loss.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        match ms % 1000 {
            0 => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

/// A whole number in a range that `what` has.
pub(crate) fn number(text: &str, what: &str, from: u64, to: u64) -> Result<u64, UnitError> {
    match text.parse() {
        Ok(number) if (from..=to).contains(&number) => Ok(number),
        _ => Err(UnitError(format!(
            "{text:?} is no number of {what}: give {from} to {to}"
        ))),
    }
}

/// `FROM..TO`.
pub(crate) fn part_range(text: &str) -> Result<PartRange, UnitError> {
    let range = text
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)))
        .filter(|(from, to)| from < to);
    match range {
        Some((from, to)) => Ok(PartRange { from, to }),
        None => Err(UnitError(format!(
            "{text:?} is no range of parts: give FROM..TO with FROM < TO, counted from 0 and without TO, such as 0..10"
        ))),
    }
}

/// `96.4 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let Some((unit, factor)) = UNITS[..4].iter().rev().find(|(_, factor)| bytes >= *factor) else {
        return format!("{bytes} B");
    };
    let amount = bytes as f64 / *factor as f64;
    if bytes.is_multiple_of(*factor) || amount >= 100.0 {
        format!("{amount:.0} {unit}")
    } else {
        format!("{amount:.1} {unit}")
    }
}

/// `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 part`, `1,234 parts`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `950`, `12.3 k`, `1.1 M`: for rates, which nobody reads digit by digit.
pub(crate) fn short_count(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// `940 ms`, `1.5 s`, `4:05`, `1:02:03`.
pub(crate) fn time(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{}:{:02}", s / 60, s % 60),
        _ => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_back() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("1B", 1),
            ("64KiB", 65536),
            ("8MiB", 8 << 20),
            ("1GiB", 1 << 30),
            ("64KB", 64_000),
            ("8MB", 8_000_000),
            ("2TB", 2_000_000_000_000),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes);
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        for text in [
            "",
            "8M",
            "8mib",
            "-1",
            "1.5GiB",
            "8 MiB",
            "MiB",
            "99999999999GiB",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_of_bytes_or_of_records() {
        assert_eq!("60MiB/s".parse(), Ok(Rate::Bytes(60 << 20)));
        assert_eq!("5000/s".parse(), Ok(Rate::Records(5000)));
        assert_eq!("5000B/s".parse(), Ok(Rate::Bytes(5000)));
        for text in ["60MiB", "0/s", "0MiB/s", "/s", "5 /s", "5/m"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let both = rates(&[Rate::Bytes(1), Rate::Records(2)]).unwrap();
        assert_eq!(
            (both.bytes_per_second, both.records_per_second),
            (Some(1), Some(2))
        );
        assert!(rates(&[Rate::Bytes(1), Rate::Bytes(2)]).is_err());
    }

    #[test]
    fn durations_and_ranges() {
        for (text, shown) in [
            ("500ms", "500ms"),
            ("30s", "30s"),
            ("10m", "600s"),
            ("2h", "7200s"),
            ("7d", "604800s"),
        ] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), shown);
        }
        for text in ["", "5", "5 s", "-5s", "1.5s", "99999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(part_range("0..10"), Ok(PartRange { from: 0, to: 10 }));
        for text in ["", "3", "3..3", "4..3", "..3", "3..", "a..b"] {
            assert!(part_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_read_numbers() {
        let shown = [
            0,
            1023,
            1024,
            1536,
            101_082_726,
            8 << 20,
            1 << 30,
            1023 << 20,
        ]
        .map(bytes);
        assert_eq!(
            shown,
            [
                "0 B", "1023 B", "1 KiB", "1.5 KiB", "96.4 MiB", "8 MiB", "1 GiB", "1023 MiB"
            ]
        );
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([1, 2].map(|n| counted(n, "part")), ["1 part", "2 parts"]);
        let times = [0.94, 1.5, 61.0, 3723.0].map(|s| time(Duration::from_secs_f64(s)));
        assert_eq!(times, ["940 ms", "1.5 s", "1:01", "1:02:03"]);
        assert_eq!(short_count(12_345.0), "12.3 k");
    }
}
