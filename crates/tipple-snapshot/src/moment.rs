//! Points in time with microseconds, as they stand in file names and headers.

use std::fmt;
use std::time::{Duration, SystemTime};

/// Microseconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) i64);

const DAY_SECONDS: i64 = 86_400;
const SECOND_MICROS: i64 = 1_000_000;
/// Years 0000 to 9999: those of four digits.
const MOMENT_MIN: i64 = -62_167_219_200 * SECOND_MICROS;
const MOMENT_MAX: i64 = 253_402_300_800 * SECOND_MICROS - 1;

impl Moment {
    /// Rounded down to a microsecond, and to the years that a file name can have.
    pub(crate) fn of(time: SystemTime) -> Moment {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let since = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => {
                let before = before.duration();
                -micros(before).saturating_add((before.subsec_nanos() % 1000 > 0).into())
            }
        };
        Moment(since.clamp(MOMENT_MIN, MOMENT_MAX))
    }

    pub(crate) fn now() -> Moment {
        Moment::of(SystemTime::now())
    }

    pub(crate) fn time(self) -> SystemTime {
        let span = Duration::from_micros(self.0.unsigned_abs());
        match self.0 {
            0.. => SystemTime::UNIX_EPOCH + span,
            _ => SystemTime::UNIX_EPOCH - span,
        }
    }

    pub(crate) fn before(self, span: Duration) -> Moment {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Moment(self.0.saturating_sub(micros))
    }

    pub(crate) fn after(self, span: Duration) -> Moment {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Moment(self.0.saturating_add(micros))
    }

    /// Of a date and a time of day, if they are ones.
    pub(crate) fn from_parts(date: [u32; 3], clock: [u32; 3], micros: u32) -> Option<Moment> {
        let [year, month, day] = date;
        let [hour, minute, second] = clock;
        if year > 9999 || hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
            return None;
        }
        let days = days_before(year.into(), month, day);
        // The 31st of June is the 1st of July: not what was written.
        if !(1..=12).contains(&month) || civil(days) != (year.into(), month, day) {
            return None;
        }
        let seconds = days * DAY_SECONDS + i64::from(hour * 3600 + minute * 60 + second);
        Some(Moment(seconds * SECOND_MICROS + i64::from(micros)))
    }
}

/// `2020-10-28T174608.907090Z`, as in file names.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (
            self.0.div_euclid(SECOND_MICROS),
            self.0.rem_euclid(SECOND_MICROS),
        );
        let (days, clock) = (
            seconds.div_euclid(DAY_SECONDS),
            seconds.rem_euclid(DAY_SECONDS),
        );
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}{minute:02}{second:02}.{micros:06}Z"
        )
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is their last.
fn days_before(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_of_year = i64::from(month + 9) % 12;
    let day_of_year = (153 * month_of_year + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date that so many days after 1970-01-01 have.
fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_of_year = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_of_year + 2) / 5 + 1) as u32;
    let month = (if month_of_year < 10 {
        month_of_year + 3
    } else {
        month_of_year - 9
    }) as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_name_of_the_original() {
        let moment = Moment::from_parts([2020, 10, 28], [17, 46, 8], 907_090).unwrap();
        assert_eq!(moment.to_string(), "2020-10-28T174608.907090Z");
        assert_eq!(moment.0, 1_603_907_168_907_090);
        for no_date in [
            [2021, 2, 29],
            [2020, 13, 1],
            [2020, 0, 1],
            [2020, 4, 31],
            [2020, 1, 0],
        ] {
            assert_eq!(Moment::from_parts(no_date, [0; 3], 0), None, "{no_date:?}");
        }
        assert_eq!(Moment(MOMENT_MIN).to_string(), "0000-01-01T000000.000000Z");
        assert_eq!(Moment(MOMENT_MAX).to_string(), "9999-12-31T235959.999999Z");
        let early = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
        assert_eq!(Moment::of(early), Moment(-1));
    }

    proptest! {
        #[test]
        fn as_the_calendar_of_jiff(micros in MOMENT_MIN..=MOMENT_MAX) {
            let moment = Moment(micros);
            prop_assert_eq!(Moment::of(moment.time()), moment);
            if let Ok(known) = jiff::Timestamp::from_microsecond(micros) {
                prop_assert_eq!(moment.to_string(), known.strftime("%Y-%m-%dT%H%M%S.%6fZ").to_string());
            }
        }
    }
}
