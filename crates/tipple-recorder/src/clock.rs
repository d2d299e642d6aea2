//! Time on the hot path: the counter of the processor where it may be trusted, and what it means in Unix time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two looks at clocks are one moment if they are less apart: some microseconds.
const MOMENT_TICKS: u64 = 10_000;
/// Further looks if they are more.
const MOMENT_TRIES: u32 = 20;

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
        let (from_ticks, from) = self.moment(Instant::now);
        while from.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let (to_ticks, to) = self.moment(Instant::now);
        let took = to.duration_since(from);
        self.ticks_per_second = (to_ticks - from_ticks) as f64 / took.as_secs_f64();
    }

    /// The same moment by both clocks. Between the two looks this thread may be stopped for long, on a busy machine: what
    /// came closest together of several is taken.
    fn moment<T>(&self, now: impl Fn() -> T) -> (u64, T) {
        let look = || {
            let before = self.now();
            let time = now();
            let apart = self.now().saturating_sub(before);
            (apart, before + apart / 2, time)
        };
        let mut best = look();
        for _ in 0..MOMENT_TRIES {
            if best.0 < MOMENT_TICKS {
                break;
            }
            let next = look();
            if next.0 < best.0 {
                best = next;
            }
        }
        (best.1, best.2)
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
        let (ticks, time) = self.moment(SystemTime::now);
        Anchor {
            ticks,
            unix_ns: time
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as u64),
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
    fn a_moment_between_whose_looks_the_thread_was_stopped_is_looked_at_again() {
        let clock = Clock::new();
        let looks = std::cell::Cell::new(0);
        let (_, was_stopped) = clock.moment(|| {
            looks.set(looks.get() + 1);
            let is_stopped = looks.get() <= 3;
            if is_stopped {
                std::thread::sleep(Duration::from_millis(20));
            }
            is_stopped
        });
        assert!(!was_stopped);
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
