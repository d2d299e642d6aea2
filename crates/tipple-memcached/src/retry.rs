//! Trying again: how often, how long, and how long between.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use tipple_budget::{Cancelled, Gate};
use tipple_flow::{Failure, Party};

/// How long a wait sleeps before it looks at the gate.
const TICK: Duration = Duration::from_millis(50);

/// Bounds on trying again. The pauses grow exponentially and are drawn at random, so that the connections of a
/// cluster's clients do not come back all at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOptions {
    /// Attempts in all, the first included. Default 10, at least 1.
    pub attempts_max: u32,
    /// Time from the first failure on after which there is no further attempt. Default 5 minutes.
    pub elapsed_max: Duration,
    /// The mean of the first pause. Default 100 ms.
    pub pause: Duration,
    /// The longest pause. Default 30 s.
    pub pause_max: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            elapsed_max: Duration::from_secs(300),
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(30),
        }
    }
}

impl RetryOptions {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Usage`]) that names the option, its value and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        if self.attempts_max == 0 {
            let message = "0 attempts are none: give --attempts at least 1";
            return Err(Failure::new(Party::Usage, message));
        }
        if self.pause > self.pause_max {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "a first pause of {:?} is longer than the longest, {:?}",
                    self.pause, self.pause_max
                ),
            ));
        }
        Ok(())
    }
}

/// The story of one thing that is tried again and again.
#[derive(Debug)]
pub struct Retry<'a> {
    options: &'a RetryOptions,
    failures: u32,
    since: Option<Instant>,
}

impl<'a> Retry<'a> {
    /// Nothing has failed yet.
    pub fn new(options: &'a RetryOptions) -> Self {
        Self {
            options,
            failures: 0,
            since: None,
        }
    }

    /// Notes a failure, and waits for the next attempt. `false`: there is none, give up.
    ///
    /// # Errors
    /// [`Cancelled`] when the gate was cancelled while it waited.
    pub fn wait(&mut self, gate: Option<&Gate>) -> Result<bool, Cancelled> {
        let Some(pause) = self.failed(Instant::now()) else {
            return Ok(false);
        };
        let end = Instant::now() + pause;
        loop {
            if let Some(gate) = gate {
                gate.check()?;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    /// Forgets the failures: something went well in between.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.since = None;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn failed(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        self.failures += 1;
        if self.failures >= self.options.attempts_max
            || now.duration_since(since) >= self.options.elapsed_max
        {
            return None;
        }
        let doubled = 1_u32 << (self.failures - 1).min(20);
        let mean = self
            .options
            .pause
            .saturating_mul(doubled)
            .min(self.options.pause_max);
        // From half the mean to one and a half of it.
        let jitter = (random() >> 11) as f64 / (1_u64 << 53) as f64;
        Some(mean.mul_f64(0.5 + jitter).min(self.options.pause_max))
    }
}

/// Good enough to spread clients in time: the keys of the standard library's hash tables.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_vary_and_end() {
        let options = RetryOptions::default();
        let start = Instant::now();
        let mut retry = Retry::new(&options);
        let pauses: Vec<_> = std::iter::from_fn(|| retry.failed(start)).collect();
        assert_eq!(pauses.len(), 9, "the tenth failure is the last");
        for (n, pause) in pauses.iter().enumerate() {
            let mean = options.pause * (1 << n);
            assert!(
                *pause >= mean / 2 && *pause <= mean * 3 / 2,
                "{n}: {pause:?}"
            );
        }
        let firsts: std::collections::BTreeSet<_> = (0..10)
            .map(|_| Retry::new(&options).failed(start).unwrap())
            .collect();
        assert!(firsts.len() > 5, "jittered");
    }

    #[test]
    fn time_ends_it_too_and_a_success_begins_anew() {
        let options = RetryOptions::default();
        let start = Instant::now();
        let mut retry = Retry::new(&options);
        assert!(retry.failed(start).is_some());
        assert!(retry.failed(start + options.elapsed_max).is_none());
        retry.succeeded();
        assert!(retry.failed(start + options.elapsed_max * 2).is_some());
        assert_eq!(retry.failures(), 1);
    }
}
