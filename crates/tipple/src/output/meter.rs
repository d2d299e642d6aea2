//! How fast, and how long still.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A rate is taken over so much of the past.
const WINDOW: Duration = Duration::from_secs(5);

/// Numbers that were read at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// The last few seconds of a job.
#[derive(Default)]
pub(crate) struct Meter {
    samples: VecDeque<Sample>,
}

impl Meter {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push_back(sample);
        while self.samples.len() > 2 && sample.at.duration_since(self.samples[1].at) >= WINDOW {
            self.samples.pop_front();
        }
    }

    /// Records and bytes a second.
    pub(crate) fn rates(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return (0.0, 0.0);
        };
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        (
            last.records.saturating_sub(first.records) as f64 / seconds,
            last.bytes.saturating_sub(first.bytes) as f64 / seconds,
        )
    }
}

/// How much of it is done, of what is known to come.
pub(crate) struct Share {
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// Of `done`, a second.
    pub(crate) per_second: f64,
}

impl Share {
    /// 0 to 1; never 1 while the job still runs, since totals are estimates.
    pub(crate) fn fraction(&self) -> f64 {
        (self.done as f64 / self.total as f64).clamp(0.0, 0.999)
    }

    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done) as f64 / self.per_second;
        // Half an eternity is no estimate.
        (self.per_second > 0.0 && left < 1e8).then(|| Duration::from_secs_f64(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), (0.0, 0.0));
        for s in 0..20 {
            // A fast beginning that must be forgotten.
            let bytes = if s < 10 {
                s * 1000
            } else {
                10_000 + (s - 10) * 10
            };
            meter.add(Sample {
                at: start + Duration::from_secs(s),
                records: s,
                bytes,
            });
        }
        let (records, bytes) = meter.rates();
        assert!((records - 1.0).abs() < 1e-9, "{records}");
        assert!((bytes - 10.0).abs() < 1e-9, "{bytes}");
        assert!(meter.samples.len() < 8);
    }

    #[test]
    fn shares_and_times_stay_sane() {
        let share = |done, total, per_second| Share {
            done,
            total,
            per_second,
        };
        assert_eq!(share(50, 100, 10.0).left(), Some(Duration::from_secs(5)));
        assert_eq!(share(50, 100, 0.0).left(), None);
        assert_eq!(share(200, 100, 1.0).left(), Some(Duration::ZERO));
        assert!(share(200, 100, 1.0).fraction() < 1.0);
    }
}
