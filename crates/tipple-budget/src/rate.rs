//! Rates: token buckets that may be overdrawn once.

use std::time::{Duration, Instant};

/// How much may pass the gate in a second. `None`: as much as comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Raw bytes a second, at least 1.
    pub bytes_per_second: Option<u64>,
    /// Records a second, at least 1.
    pub records_per_second: Option<u64>,
}

/// What a bucket saves up while nobody passes: 100 ms worth.
const BURST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    // Negative: overdrawn.
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    pub(crate) fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second.max(1) as f64;
        Self {
            per_second,
            tokens: per_second * BURST.as_secs_f64(),
            filled: now,
        }
    }

    /// How long until the bucket is out of its debt; `None` if it is not in debt.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens =
            (self.tokens + elapsed * self.per_second).min(self.per_second * BURST.as_secs_f64());
        (self.tokens < 0.0).then(|| {
            // At most an hour at once: the caller looks again.
            Duration::from_secs_f64((-self.tokens / self.per_second).clamp(0.001, 3600.0))
        })
    }

    pub(crate) fn take(&mut self, amount: u64) {
        self.tokens -= amount as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_exact_whatever_the_steps() {
        // A simulated clock: whoever must wait, waits exactly so long.
        for step in [1_u64, 999, 10_000, 5_000_000] {
            let start = Instant::now();
            let (mut now, mut passed) = (start, 0_u64);
            let mut bucket = TokenBucket::new(100_000, start);
            while now - start < Duration::from_secs(500) {
                while let Some(wait) = bucket.wait(now) {
                    now += wait;
                }
                bucket.take(step);
                passed += step;
                now += Duration::from_micros(1);
            }
            let average = passed as f64 / (now - start).as_secs_f64();
            let allowed = 100_000.0;
            assert!(
                average <= allowed * 1.001 + step as f64 / 400.0,
                "{step}: {average}"
            );
            if step > 1 {
                assert!(average >= allowed * 0.90, "{step}: {average}");
            }
        }
    }
}
