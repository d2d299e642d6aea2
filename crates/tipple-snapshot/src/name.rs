//! Names of snapshots: the time of the value, and the format version.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use crate::moment::Moment;
use crate::{ErrorKind, SnapshotError};

/// A snapshot's file name, such as `2020-10-28T174608.907090Z-v0`: when the value was last known to be current, UTC with
/// microseconds, and its format version.
///
/// Names order by time. The old form `2015-03-22T09:00:00.000000-v5` is read, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    pub(crate) updated: Moment,
    pub(crate) format_version: u64,
    /// It is written with colons, and without the Z.
    pub(crate) is_legacy: bool,
}

impl SnapshotName {
    /// The name of a value of this time, rounded down to a microsecond.
    pub fn new(updated: SystemTime, format_version: u64) -> Self {
        Self::at(Moment::of(updated), format_version)
    }

    pub(crate) fn at(updated: Moment, format_version: u64) -> Self {
        Self {
            updated,
            format_version,
            is_legacy: false,
        }
    }

    /// When the value was last known to be current.
    pub fn updated(&self) -> SystemTime {
        self.updated.time()
    }

    /// The version that the service gives its own format.
    pub fn format_version(&self) -> u64 {
        self.format_version
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.updated.to_string();
        match self.is_legacy {
            false => write!(f, "{time}-v{}", self.format_version),
            true => write!(
                f,
                "{}:{}:{}-v{}",
                &time[..13],
                &time[13..15],
                time[15..].trim_end_matches('Z'),
                self.format_version
            ),
        }
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            SnapshotError::new(
                ErrorKind::Usage,
                format!(
                    "{shown:?} is no name of a snapshot: those are like 2020-10-28T174608.907090Z-v0"
                ),
            )
        })
    }
}

fn parse(text: &str) -> Option<SnapshotName> {
    let bytes = text.as_bytes();
    // Digits where 0 stands, anything else as it is.
    let fits = |pattern: &str| {
        let pattern = pattern.as_bytes();
        pattern.len() <= bytes.len()
            && pattern.iter().zip(bytes).all(|(p, b)| match p {
                b'0' => b.is_ascii_digit(),
                _ => p == b,
            })
    };
    // Either form may come with or without the Z, and with or without the colons.
    let forms = [
        ("0000-00-00T000000.000000", 13, 15, false),
        ("0000-00-00T00:00:00.000000", 14, 17, true),
    ];
    let (pattern, minute, second, has_colons) = forms.into_iter().find(|form| fits(form.0))?;
    let number = |at: usize, len: usize| text[at..at + len].parse::<u32>().ok();
    let date = [number(0, 4)?, number(5, 2)?, number(8, 2)?];
    let clock = [number(11, 2)?, number(minute, 2)?, number(second, 2)?];
    let micros = number(second + 3, 6)?;
    let rest = &text[pattern.len()..];
    let has_z = rest.starts_with('Z');
    let version = rest.strip_prefix('Z').unwrap_or(rest).strip_prefix("-v")?;
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let name = SnapshotName {
        updated: Moment::from_parts(date, clock, micros)?,
        format_version: version.parse().ok()?,
        is_legacy: has_colons || !has_z,
    };
    // Whoever writes another form of the same name has written it by hand: it could not be opened under its name.
    (name.to_string() == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_and_no_other() {
        for name in [
            "2020-10-28T174608.907090Z-v0",
            "2015-03-22T09:00:00.000000-v5",
            "0000-01-01T000000.000000Z-v18446744073709551615",
        ] {
            assert_eq!(name.parse::<SnapshotName>().unwrap().to_string(), name);
        }
        for other in [
            "",
            "2020-10-28T174608.907090Z-v",
            "2020-10-28T174608.907090Z-v-5",
            "2020-10-28T174608.907090Z-v+5",
            "2020-10-28T174608.907090Z-v05",
            "2020-10-28T174608.907090Z-v18446744073709551616",
            "2020-10-28T174608.907090Z-v0.tmp",
            "2020-10-28T174608.907090Z-v0.corrupt",
            "2020-02-30T174608.907090Z-v0",
            "2020-10-28T244608.907090Z-v0",
            "2020-10-28 174608.907090Z-v0",
            "2020-10-28T174608.90709Z-v0",
            "2020-10-28T17:46:08.907090Z-v0",
            "x2020-10-28T174608.907090Z-v0",
            "２０２０-10-28T174608.907090Z-v0",
        ] {
            assert!(other.parse::<SnapshotName>().is_err(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back(micros in 0i64..200_000_000_000_000_000, version: u64) {
            let name = SnapshotName::at(Moment(micros), version);
            prop_assert_eq!(name.to_string().parse::<SnapshotName>().unwrap(), name);
        }

        #[test]
        fn nothing_panics(text in "\\PC*") {
            let _ = text.parse::<SnapshotName>();
        }
    }
}
