//! Events at the times they had, times a factor.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Events that are due within this time come together: less than anybody sees, and it bounds how often is committed.
const GRAIN: Duration = Duration::from_millis(10);
/// A delay longer than this (a pause, a slow target) is not made up for.
const LATE_MAX: Duration = Duration::from_secs(1);

/// How fast events follow each other: 1 as they did, 2 in half the time. 0.001 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed(f64);

impl Speed {
    const LEAST: f64 = 1e-3;
    const MOST: f64 = 1e6;
}

impl FromStr for Speed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
        match number {
            Ok(speed) if (Self::LEAST..=Self::MOST).contains(&speed) => Ok(Self(speed)),
            _ => Err(format!(
                "{text:?} is no speed: give a factor of 0.001 to 1000000, such as 1 for the original timing or 10 for ten times as fast"
            )),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// When which event is due.
pub(crate) struct Pace {
    speed: Speed,
    /// An event's time, in nanoseconds since 1970, and when it came.
    anchor: Option<(i64, Instant)>,
}

impl Pace {
    pub(crate) fn new(speed: Speed) -> Self {
        Self {
            speed,
            anchor: None,
        }
    }

    /// How long to wait at `now` until the event of `time` is due; `None` if not at all. The first event is due at once,
    /// as are events without a time and those that are earlier than the ones before.
    pub(crate) fn wait(&mut self, time: Option<i64>, now: Instant) -> Option<Duration> {
        let time = time?;
        let (from, since) = *self.anchor.get_or_insert((time, now));
        let span = time.saturating_sub(from).max(0) as f64 / 1e9 / self.speed.0;
        // More than any clock has is for ever.
        let span = Duration::try_from_secs_f64(span).unwrap_or(Duration::MAX);
        let passed = now.duration_since(since);
        if passed > span.saturating_add(LATE_MAX) {
            self.anchor = Some((time.max(from), now));
            return None;
        }
        Some(span.saturating_sub(passed)).filter(|left| *left >= GRAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn speeds_are_positive_numbers() {
        assert_eq!("2".parse(), Ok(Speed(2.0)));
        assert_eq!("0.5x".parse(), Ok(Speed(0.5)));
        for bad in ["", "x", "0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }

    #[test]
    fn events_are_due_as_far_apart_as_they_were() {
        let mut pace = Pace::new(Speed(2.0));
        let start = Instant::now();
        assert_eq!(pace.wait(Some(100 * SECOND), start), None);
        let second = Duration::from_secs(1);
        assert_eq!(pace.wait(Some(104 * SECOND), start), Some(2 * second));
        assert_eq!(pace.wait(Some(104 * SECOND), start + second), Some(second));
        assert_eq!(pace.wait(Some(104 * SECOND), start + 2 * second), None);
        // No time, an earlier one, and one so near that it is not worth a wait.
        assert_eq!(pace.wait(None, start), None);
        assert_eq!(pace.wait(Some(50 * SECOND), start), None);
        assert_eq!(pace.wait(Some(100 * SECOND + SECOND / 100), start), None);
    }

    #[test]
    fn what_was_delayed_is_not_hurried() {
        let mut pace = Pace::new(Speed(1.0));
        let start = Instant::now();
        let second = Duration::from_secs(1);
        pace.wait(Some(0), start);
        // After a pause of a minute, everything comes a minute later.
        let later = start + 61 * second;
        assert_eq!(pace.wait(Some(SECOND), later), None);
        assert_eq!(pace.wait(Some(3 * SECOND), later), Some(2 * second));
    }

    #[test]
    fn times_far_apart_are_waited_for() {
        let mut pace = Pace::new(Speed(0.001));
        let start = Instant::now();
        pace.wait(Some(i64::MIN), start);
        assert!(pace.wait(Some(i64::MAX), start) > Some(Duration::from_secs(1 << 40)));
    }
}
