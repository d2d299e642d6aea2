//! A rate: a bucket of records that is filled as time passes, and a second's worth deep at most.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// No limit.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// How many records a second may pass. Shared by all threads; each takes some at a time, so that most records touch
/// nothing that is shared.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Records a second. 0: none; [`UNLIMITED`]: all.
    rate: AtomicU64,
    /// What may pass now.
    left: AtomicI64,
    /// Up to when, in ticks, the bucket was filled.
    filled_at: AtomicU64,
    ticks_per_second: u64,
}

/// What one thread holds of a limiter's records.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    left: u32,
    /// Refusals since the clock was last read for one.
    refusals: u32,
}

/// So many refusals come without a look at the clock: it costs as much as all else.
const REFUSALS_BLIND: u32 = 63;
/// The most records that a thread takes at a time.
const TAKEN_MAX: u64 = 64;

impl Limiter {
    pub(crate) fn new(rate: u64, now: u64, ticks_per_second: u64) -> Limiter {
        Limiter {
            rate: AtomicU64::new(rate),
            left: AtomicI64::new(depth(rate)),
            filled_at: AtomicU64::new(now),
            ticks_per_second: ticks_per_second.max(1),
        }
    }

    /// Another rate holds from now on; the bucket begins full.
    pub(crate) fn set(&self, rate: u64, now: u64) {
        if self.rate.swap(rate, Ordering::Relaxed) != rate {
            self.filled_at.store(now, Ordering::Relaxed);
            self.left.store(depth(rate), Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Whether one record may pass.
    #[inline]
    pub(crate) fn pass(&self, allowance: &mut Allowance, now: impl FnOnce() -> u64) -> bool {
        if allowance.left > 0 {
            allowance.left -= 1;
            return true;
        }
        self.rate() == UNLIMITED || self.take(allowance, now)
    }

    fn take(&self, allowance: &mut Allowance, now: impl FnOnce() -> u64) -> bool {
        let rate = self.rate();
        if self.left.load(Ordering::Relaxed) <= 0 {
            if rate == 0 {
                return false;
            }
            if allowance.refusals > 0 && allowance.refusals <= REFUSALS_BLIND {
                allowance.refusals += 1;
                return false;
            }
            allowance.refusals = 1;
            self.fill(now());
        }
        // Slow rates are exact: one at a time.
        let wanted = (rate / 1000).clamp(1, TAKEN_MAX) as i64;
        let before = self.left.fetch_sub(wanted, Ordering::Relaxed);
        let taken = before.clamp(0, wanted);
        if taken < wanted {
            self.left.fetch_add(wanted - taken, Ordering::Relaxed);
        }
        if taken == 0 {
            return false;
        }
        allowance.refusals = 0;
        allowance.left = taken as u32 - 1;
        true
    }

    /// Puts in what came together since it was filled last. The writer does it at each of its ticks, and threads that
    /// find it empty.
    pub(crate) fn fill(&self, now: u64) {
        let rate = self.rate();
        if rate == UNLIMITED || rate == 0 {
            return;
        }
        let filled_at = self.filled_at.load(Ordering::Relaxed);
        let passed = now.saturating_sub(filled_at).min(self.ticks_per_second);
        let earned =
            (u128::from(passed) * u128::from(rate) / u128::from(self.ticks_per_second)) as u64;
        if earned == 0 {
            return;
        }
        // What is no whole record stays in the time.
        let spent = match passed == self.ticks_per_second {
            true => now - filled_at,
            false => {
                (u128::from(earned) * u128::from(self.ticks_per_second) / u128::from(rate)) as u64
            }
        };
        let moved = self.filled_at.compare_exchange(
            filled_at,
            filled_at + spent,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if moved.is_ok() {
            let earned = earned as i64;
            let before = self.left.fetch_add(earned, Ordering::Relaxed);
            let above = before.max(0) + earned - depth(rate);
            if above > 0 {
                self.left.fetch_sub(above.min(earned), Ordering::Relaxed);
            }
        }
    }
}

/// What may pass at once after a quiet second.
fn depth(rate: u64) -> i64 {
    i64::try_from(rate)
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn passed(limiter: &Limiter, attempts: u64, now: u64) -> u64 {
        let mut allowance = Allowance::default();
        (0..attempts)
            .filter(|_| limiter.pass(&mut allowance, || now))
            .count() as u64
    }

    #[test]
    fn a_second_gives_its_rate() {
        let limiter = Limiter::new(100, 0, SECOND);
        assert_eq!(passed(&limiter, 1000, 0), 100);
        assert_eq!(passed(&limiter, 1000, 0), 0);
        assert_eq!(passed(&limiter, 1000, SECOND / 2), 50);
        assert_eq!(passed(&limiter, 1000, SECOND), 50);
        // A quiet hour is worth no more than a second.
        assert_eq!(passed(&limiter, 1000, 3600 * SECOND), 100);
    }

    #[test]
    fn parts_of_records_are_not_forgotten() {
        let limiter = Limiter::new(3, 0, SECOND);
        assert_eq!(passed(&limiter, 10, 0), 3);
        let mut all = 0;
        for tick in 1..=100 {
            limiter.fill(tick * SECOND / 10);
            all += passed(&limiter, 10, tick * SECOND / 10);
        }
        assert_eq!(all, 30);
    }

    #[test]
    fn nothing_and_everything() {
        assert_eq!(passed(&Limiter::new(0, 0, SECOND), 1000, 3 * SECOND), 0);
        assert_eq!(passed(&Limiter::new(UNLIMITED, 0, SECOND), 1000, 0), 1000);
    }

    #[test]
    fn a_new_rate_holds_at_once() {
        let limiter = Limiter::new(0, 0, SECOND);
        limiter.set(5, 0);
        assert_eq!(passed(&limiter, 10, 0), 5);
        limiter.set(UNLIMITED, 0);
        assert_eq!(passed(&limiter, 10, 0), 10);
        limiter.set(0, 0);
        assert_eq!(passed(&limiter, 10, 0), 0);
    }

    #[test]
    fn a_refused_thread_looks_at_the_clock_now_and_then() {
        let limiter = Limiter::new(10, 0, SECOND);
        let mut allowance = Allowance::default();
        while limiter.pass(&mut allowance, || 0) {}
        let mut looks = 0;
        for _ in 0..640 {
            assert!(!limiter.pass(&mut allowance, || {
                looks += 1;
                0
            }));
        }
        assert_eq!(looks, 10);
    }

    #[test]
    fn fast_rates_are_shared_in_pieces_and_never_exceeded() {
        let limiter = Limiter::new(100_000, 0, SECOND);
        let mut allowances: Vec<_> = (0..7).map(|_| Allowance::default()).collect();
        let mut all = 0;
        for attempt in 0..400_000 {
            all += u64::from(limiter.pass(&mut allowances[attempt % 7], || 0));
        }
        assert_eq!(all, 100_000);
    }
}
