//! The gate: the one place where a job waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::{Rates, TokenBucket};

/// How long a wait that a cancel cannot reach directly sleeps before it looks again.
pub(crate) const CANCEL_TICK: Duration = Duration::from_millis(50);

/// The job was cancelled: by the user, or because another part of it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job was cancelled")]
pub struct Cancelled;

/// What the gate is doing, for progress displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Whoever comes may pass, at the rate.
    Open,
    /// Everybody waits until [`Gate::resume`].
    Paused,
    /// Nobody passes again.
    Cancelled,
}

/// Lets data into buffers: never while paused or after a cancel, and not faster than its [`Rates`].
#[derive(Debug)]
pub struct Gate {
    // The two fast paths: an unlimited, open gate costs two relaxed loads a pass.
    cancelled: AtomicBool,
    slow: AtomicBool,
    waited_ms: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    paused: bool,
    buckets: [Option<TokenBucket>; 2],
}

impl Gate {
    /// An open gate.
    pub fn new(rates: Rates) -> Self {
        let now = Instant::now();
        let buckets = [rates.bytes_per_second, rates.records_per_second]
            .map(|rate| rate.map(|rate| TokenBucket::new(rate, now)));
        Self {
            cancelled: AtomicBool::new(false),
            slow: AtomicBool::new(buckets.iter().any(Option::is_some)),
            waited_ms: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                paused: false,
                buckets,
            }),
            changed: Condvar::new(),
        }
    }

    /// Takes `bytes` and `records` from the rates, waiting while the gate is paused or a rate is overdrawn.
    ///
    /// What passes may overdraw a rate once (the next one waits it out), so that a step larger than a
    /// second's allowance still passes, and the average over time is exact.
    ///
    /// # Errors
    /// [`Cancelled`] from the moment of the cancel on.
    pub fn pass(&self, bytes: u64, records: u64) -> Result<(), Cancelled> {
        if !self.slow.load(Ordering::Acquire) {
            return self.check();
        }
        let mut waiting_since = None;
        let mut inner = self.lock();
        loop {
            self.check()?;
            let now = Instant::now();
            let wait = if inner.paused {
                Some(Duration::from_secs(3600))
            } else {
                inner
                    .buckets
                    .iter_mut()
                    .flatten()
                    .filter_map(|bucket| bucket.wait(now))
                    .max()
            };
            let Some(wait) = wait else { break };
            waiting_since.get_or_insert(now);
            inner = self
                .changed
                .wait_timeout(inner, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        for (bucket, amount) in inner.buckets.iter_mut().zip([bytes, records]) {
            if let Some(bucket) = bucket {
                bucket.take(amount);
            }
        }
        drop(inner);
        if let Some(since) = waiting_since {
            self.waited_ms
                .fetch_add(since.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether the job still runs.
    ///
    /// # Errors
    /// [`Cancelled`] from the moment of the cancel on.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Cancelled);
        }
        Ok(())
    }

    /// Waits for `duration`, or until the cancel.
    ///
    /// # Errors
    /// [`Cancelled`] from the moment of the cancel on.
    pub fn wait(&self, duration: Duration) -> Result<(), Cancelled> {
        let until = Instant::now() + duration;
        let mut inner = self.lock();
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            inner = self
                .changed
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Nobody passes until [`Gate::resume`]. Idempotent.
    pub fn pause(&self) {
        let mut inner = self.lock();
        inner.paused = true;
        self.slow.store(true, Ordering::Release);
    }

    /// Ends a pause. Idempotent.
    pub fn resume(&self) {
        let mut inner = self.lock();
        inner.paused = false;
        self.slow
            .store(inner.buckets.iter().any(Option::is_some), Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends the job: every wait here, present and future, returns [`Cancelled`]. For good.
    pub fn cancel(&self) {
        let _inner = self.lock();
        self.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// What the gate is doing now.
    pub fn state(&self) -> GateState {
        if self.check().is_err() {
            GateState::Cancelled
        } else if self.lock().paused {
            GateState::Paused
        } else {
            GateState::Open
        }
    }

    /// Milliseconds that passers have waited for a pause or a rate, summed over threads.
    pub fn waited_ms(&self) -> u64 {
        self.waited_ms.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_holds_everybody_until_resume() {
        let gate = Gate::new(Rates::default());
        gate.pause();
        gate.pause();
        assert_eq!(gate.state(), GateState::Paused);
        let passed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let passer = scope.spawn(|| {
                gate.pass(1, 1).unwrap();
                passed.store(true, Ordering::SeqCst);
            });
            for _ in 0..1000 {
                std::thread::yield_now();
                assert!(!passed.load(Ordering::SeqCst), "passed a paused gate");
            }
            gate.resume();
            passer.join().unwrap();
        });
        assert!(passed.load(Ordering::SeqCst));
        assert_eq!(gate.state(), GateState::Open);
    }

    #[test]
    fn a_cancel_reaches_those_who_wait_in_a_pause() {
        let gate = Gate::new(Rates::default());
        gate.pause();
        std::thread::scope(|scope| {
            let passer = scope.spawn(|| gate.pass(1, 1));
            gate.cancel();
            assert_eq!(passer.join().unwrap(), Err(Cancelled));
        });
        assert_eq!(gate.pass(0, 0), Err(Cancelled));
        assert_eq!(gate.state(), GateState::Cancelled);
    }

    #[test]
    fn an_overdrawn_rate_makes_the_next_one_wait() {
        let gate = Gate::new(Rates {
            bytes_per_second: Some(1_000_000),
            records_per_second: None,
        });
        let start = Instant::now();
        for _ in 0..10 {
            gate.pass(20_000, 1).unwrap();
        }
        // Ten passes of 20 ms each: the first rides on the burst, the last leaves a debt behind.
        assert!(
            start.elapsed() >= Duration::from_millis(60),
            "{:?}",
            start.elapsed()
        );
        assert!(gate.waited_ms() > 0);
    }
}
