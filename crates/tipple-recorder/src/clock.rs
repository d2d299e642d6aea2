//! Time on the hot path: the counter of the processor where it may be trusted, and what it means in Unix time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads ticks, and says how many of them are a second.
#[derive(Debug)]
pub(crate) struct Clock {
    source: Source,
    ticks_per_second: f64,
    /// Where the ticks of a clock of the system are counted from.
    zero: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The time-stamp counter, which the kernel itself takes its time from.
    #[cfg(target_arch = "x86_64")]
    Counter,
    /// Nanoseconds since the recorder was started.
    System,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        let mut clock = Clock {
            source: Clock::choose(),
            ticks_per_second: 1e9,
            zero: Instant::now(),
        };
        if clock.source != Source::System {
            clock.calibrate();
        }
        clock
    }

    /// The kernel has compared the counters of all processors, and drops to another source when they disagree.
    #[cfg(target_arch = "x86_64")]
    fn choose() -> Source {
        if cfg!(miri) {
            return Source::System;
        }
        let current = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        match std::fs::read_to_string(current) {
            Ok(name) if name.trim() == "tsc" => Source::Counter,
            _ => Source::System,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn choose() -> Source {
        Source::System
    }

    /// Takes some milliseconds. An error of the rate shows for as long as one tick of the writer only, since each takes
    /// a new [`Anchor`].
    fn calibrate(&mut self) {
        let (from, ticks) = (Instant::now(), self.now());
        while from.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let (took, ticks) = (from.elapsed(), self.now() - ticks);
        self.ticks_per_second = ticks as f64 / took.as_secs_f64();
    }

    /// Ticks since some moment.
    #[inline(always)]
    pub(crate) fn now(&self) -> u64 {
        match self.source {
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "the counter has no other way")]
            // SAFETY: every x86_64 has the instruction, and it changes nothing.
            Source::Counter => unsafe { core::arch::x86_64::_rdtsc() },
            Source::System => self.zero.elapsed().as_nanos() as u64,
        }
    }

    pub(crate) fn ticks(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.ticks_per_second) as u64
    }

    pub(crate) fn anchor(&self) -> Anchor {
        let unix_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64);
        Anchor {
            ticks: self.now(),
            unix_ns,
            ns_per_tick: 1e9 / self.ticks_per_second,
        }
    }
}

/// One moment in ticks and in Unix time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchor {
    pub(crate) ticks: u64,
    pub(crate) unix_ns: u64,
    ns_per_tick: f64,
}

impl Anchor {
    /// The Unix time of other ticks, in nanoseconds.
    #[inline]
    pub(crate) fn unix_ns(&self, ticks: u64) -> u64 {
        let ticks = ticks.wrapping_sub(self.ticks) as i64;
        let ns = (ticks as f64 * self.ns_per_tick) as i64;
        self.unix_ns.saturating_add_signed(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_times() {
        let clock = Clock::new();
        let anchor = clock.anchor();
        assert_eq!(anchor.unix_ns(anchor.ticks), anchor.unix_ns);
        let later = anchor.ticks + clock.ticks(Duration::from_secs(2));
        assert!(
            anchor
                .unix_ns(later)
                .abs_diff(anchor.unix_ns + 2_000_000_000)
                < 1000
        );
        let earlier = anchor.ticks - clock.ticks(Duration::from_millis(1));
        assert!(anchor.unix_ns(earlier).abs_diff(anchor.unix_ns - 1_000_000) < 1000);
    }

    #[test]
    fn the_rate_is_that_of_the_system() {
        let clock = Clock::new();
        let first = clock.anchor();
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let second = clock.anchor();
        let off = first.unix_ns(second.ticks).abs_diff(second.unix_ns);
        // A step of the clock in these milliseconds aside, a percent is far more than calibration is wrong by.
        assert!(off < 5_000_000, "{off} ns");
    }
}
