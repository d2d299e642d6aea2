//! Which update comes next, and when: decided here, done elsewhere.

use std::time::Duration;

use crate::seeded::random;
use crate::{CacheOptions, FirstUpdateType, UpdateType, UpdateTypes};

/// All times are from one beginning.
#[derive(Debug)]
pub(crate) struct Plan {
    options: CacheOptions,
    /// After a load: until an update succeeds.
    first: Option<FirstUpdateType>,
    has_value: bool,
    /// Somebody asked for a full one: until one succeeds.
    wants_full: bool,
    /// When the next full update is due, with `FullAndIncremental`.
    full_due: Duration,
    /// The interval that is in it.
    full_interval: Duration,
}

impl Plan {
    pub(crate) fn new(options: CacheOptions) -> Self {
        Self {
            options,
            first: None,
            has_value: false,
            wants_full: false,
            full_due: Duration::ZERO,
            full_interval: Duration::ZERO,
        }
    }

    /// A value was loaded, that was last made from nothing so long ago. `trusted`: what has changed since can be asked for.
    pub(crate) fn loaded(
        &mut self,
        first: FirstUpdateType,
        full_age: Option<Duration>,
        trusted: bool,
        now: Duration,
    ) {
        self.has_value = true;
        self.first = Some(if trusted {
            first
        } else {
            FirstUpdateType::Full
        });
        if let (Some(age), Some(interval)) = (full_age, self.full_interval()) {
            self.full_due = (now + interval).saturating_sub(age);
            self.full_interval = interval;
        }
    }

    /// Other intervals, from the last updates on.
    pub(crate) fn reconfigured(&mut self, options: CacheOptions) {
        let has_changed = options.full_update_interval != self.options.full_update_interval
            || options.full_update_jitter != self.options.full_update_jitter;
        self.options = options;
        if let Some(interval) = self.full_interval().filter(|_| has_changed) {
            self.full_due = (self.full_due + interval).saturating_sub(self.full_interval);
            self.full_interval = interval;
        }
    }

    pub(crate) fn cleared(&mut self) {
        self.has_value = false;
    }

    fn full_interval(&self) -> Option<Duration> {
        let interval = self.options.full_update_interval?;
        Some(jittered(interval, self.options.full_update_jitter))
    }

    pub(crate) fn invalidate(&mut self, kind: UpdateType) {
        self.wants_full |= kind == UpdateType::Full;
        if kind == UpdateType::Incremental && self.options.types() == UpdateTypes::OnlyFull {
            tracing::warn!("an incremental update was asked for, but there are full ones only");
        }
    }

    /// The type of the next update.
    pub(crate) fn next(&self, now: Duration) -> UpdateType {
        let types = self.options.types();
        match self.first {
            _ if !self.has_value || self.wants_full => UpdateType::Full,
            Some(FirstUpdateType::Full) => UpdateType::Full,
            Some(_) => UpdateType::Incremental,
            None => match types {
                UpdateTypes::OnlyFull => UpdateType::Full,
                UpdateTypes::OnlyIncremental => UpdateType::Incremental,
                UpdateTypes::FullAndIncremental if now >= self.full_due => UpdateType::Full,
                UpdateTypes::FullAndIncremental => UpdateType::Incremental,
            },
        }
    }

    /// The update that the start waited for is over: `true` if a full one is to follow at once.
    pub(crate) fn first_is_over(&mut self) -> bool {
        let then_full = self.first == Some(FirstUpdateType::IncrementalThenAsyncFull);
        self.wants_full |= then_full;
        if then_full {
            self.first = None;
        }
        then_full
    }

    pub(crate) fn succeeded(&mut self, kind: UpdateType, now: Duration) {
        self.has_value = true;
        // It has its second half before it.
        if self.first != Some(FirstUpdateType::IncrementalThenAsyncFull) {
            self.first = None;
        }
        if kind == UpdateType::Full {
            self.first = None;
            self.wants_full = false;
            if let Some(interval) = self.full_interval() {
                self.full_due = now + interval;
                self.full_interval = interval;
            }
        }
    }

    /// From an update to the next one.
    pub(crate) fn period(&self, has_failed: bool) -> Duration {
        let interval = self.options.update_interval;
        let jitter = self.options.update_jitter;
        match (has_failed, self.options.exception_interval) {
            (true, Some(exception)) => jittered(exception, jitter.or(Some(interval / 10))),
            _ => jittered(interval, jitter),
        }
    }
}

/// Uniform in interval ± jitter.
fn jittered(interval: Duration, jitter: Option<Duration>) -> Duration {
    let jitter = match jitter {
        Some(jitter) if jitter <= interval => jitter,
        _ => interval / 10,
    };
    match u64::try_from(jitter.as_nanos() * 2).unwrap_or(u64::MAX) {
        0 => interval,
        nanos => interval - jitter + Duration::from_nanos(random() % nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use UpdateType::{Full, Incremental};

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn both() -> CacheOptions {
        CacheOptions {
            update_jitter: Some(Duration::ZERO),
            full_update_interval: Some(s(100)),
            full_update_jitter: Some(Duration::ZERO),
            ..CacheOptions::every(s(10))
        }
    }

    #[test]
    fn full_ones_come_in_their_interval() {
        let mut plan = Plan::new(both());
        assert_eq!(plan.next(s(0)), Full);
        plan.succeeded(Full, s(1));
        assert_eq!(
            (plan.next(s(2)), plan.next(s(100)), plan.next(s(101))),
            (Incremental, Incremental, Full)
        );
        plan.succeeded(Incremental, s(50));
        assert_eq!(plan.next(s(101)), Full);
        plan.invalidate(Incremental);
        assert_eq!(plan.next(s(60)), Incremental);
        plan.invalidate(Full);
        assert_eq!(plan.next(s(60)), Full);
        // It stays until a full one succeeds.
        plan.succeeded(Incremental, s(61));
        assert_eq!(plan.next(s(62)), Full);
        plan.succeeded(Full, s(62));
        assert_eq!(plan.next(s(63)), Incremental);
        plan.cleared();
        assert_eq!(plan.next(s(63)), Full);
    }

    #[test]
    fn the_time_of_the_last_full_one_outlives_a_restart() {
        let mut plan = Plan::new(both());
        plan.loaded(FirstUpdateType::Incremental, Some(s(30)), true, s(5));
        plan.succeeded(Incremental, s(6));
        assert_eq!((plan.next(s(74)), plan.next(s(75))), (Incremental, Full));
        // Longer ago than the interval.
        let mut plan = Plan::new(both());
        plan.loaded(FirstUpdateType::Incremental, Some(s(1000)), true, s(5));
        assert_eq!(plan.next(s(6)), Incremental);
        plan.succeeded(Incremental, s(6));
        assert_eq!(plan.next(s(6)), Full);
    }

    #[test]
    fn other_intervals_count_from_the_last_full_one() {
        let every = |full| CacheOptions {
            full_update_interval: Some(s(full)),
            ..both()
        };
        let mut plan = Plan::new(both());
        plan.succeeded(Full, s(50));
        plan.reconfigured(every(30));
        assert_eq!((plan.next(s(79)), plan.next(s(80))), (Incremental, Full));
        plan.reconfigured(every(300));
        assert_eq!((plan.next(s(349)), plan.next(s(350))), (Incremental, Full));
        plan.reconfigured(both());
        assert_eq!((plan.next(s(149)), plan.next(s(150))), (Incremental, Full));
    }

    #[test]
    fn the_first_one_after_a_load() {
        for (first, expected) in [
            (FirstUpdateType::Full, Full),
            (FirstUpdateType::Incremental, Incremental),
            (FirstUpdateType::IncrementalThenAsyncFull, Incremental),
        ] {
            let mut plan = Plan::new(both());
            plan.loaded(first, Some(s(0)), true, s(0));
            assert_eq!(plan.next(s(0)), expected);
            // Not from a file of the future.
            let mut plan = Plan::new(both());
            plan.loaded(first, Some(s(0)), false, s(0));
            assert_eq!(plan.next(s(0)), Full);
        }
        let mut plan = Plan::new(both());
        plan.loaded(
            FirstUpdateType::IncrementalThenAsyncFull,
            Some(s(0)),
            true,
            s(0),
        );
        plan.succeeded(Incremental, s(1));
        assert!(plan.first_is_over());
        assert_eq!(plan.next(s(1)), Full);
        plan.succeeded(Full, s(2));
        assert_eq!(plan.next(s(3)), Incremental);
        assert!(!plan.first_is_over());
    }

    #[test]
    fn periods_are_within_their_jitter() {
        let plan = Plan::new(CacheOptions {
            update_jitter: Some(s(2)),
            exception_interval: Some(s(5)),
            ..CacheOptions::every(s(10))
        });
        let periods: Vec<_> = (0..200).map(|_| plan.period(false)).collect();
        assert!(periods.iter().all(|period| (s(8)..s(12)).contains(period)));
        assert!(periods.iter().any(|period| *period < s(10)));
        assert!(periods.iter().any(|period| *period > s(10)));
        assert!((0..200).all(|_| (s(3)..s(7)).contains(&plan.period(true))));
        assert_eq!(jittered(s(10), Some(Duration::ZERO)), s(10));
        // A jitter that is larger than the interval is a tenth.
        assert!((0..200).all(|_| (s(9)..s(11)).contains(&jittered(s(10), Some(s(11))))));
    }
}
