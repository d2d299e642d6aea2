//! How many bytes are in the folder, how fast that grows, and how much must stay free so that the command is stopped
//! before it passes its limit.
//!
//! margin = 2 × write rate × reaction time, and never less than a floor. The rate is the highest of the last seconds. The
//! reaction time is how late a look at the folder came, plus what the look took, plus what stopping the processes took,
//! each the worst of the last seconds. Looks come the sooner the nearer the margin is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::folder::Found;
use crate::writers::FileKey;

/// Below this the floor of the margin would be no margin.
pub(crate) const LIMIT_BYTES_MIN: u64 = 2 << 20;

/// What a rate that nobody has measured yet is taken for, and the least that looks are planned for, since a program may
/// begin to write at any time: a disk's cache in memory.
const RATE_POSSIBLE: f64 = (2_u64 << 30) as f64;
/// Rates are taken over at least so long, or so many bytes of the floor.
const WINDOW: Duration = Duration::from_millis(10);
/// After so long half of an old peak counts.
const HALF_LIFE: Duration = Duration::from_secs(2);
const LOOK_MIN: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// A number whose highest value is forgotten slowly.
#[derive(Clone, Copy)]
struct Peak(f64);

impl Peak {
    fn see(&mut self, value: f64) {
        self.0 = self.0.max(value);
    }

    fn fade(&mut self, passed: Duration) {
        self.0 *= 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
    }
}

pub(crate) struct Usage {
    limit: u64,
    floor: u64,
    /// The most margin for now: where nothing else can be taken, less must do.
    cap: u64,
    sizes: HashMap<FileKey, u64>,
    used: u64,
    used_max: u64,
    margin_max: u64,
    /// Bytes a second.
    rate: Peak,
    /// Seconds that a look came late.
    late: Peak,
    /// Seconds that a look took.
    look: Peak,
    /// Seconds that stopping took.
    stop: Peak,
    grown: u64,
    grown_since: Instant,
    last: Instant,
    planned: Duration,
    /// No growth is expected, and lateness does not matter.
    stopped: bool,
}

impl Usage {
    pub(crate) fn new(limit: u64, now: Instant) -> Self {
        Self {
            limit,
            floor: (limit / 16).clamp(128 << 10, 64 << 20),
            cap: limit / 2,
            sizes: HashMap::new(),
            used: 0,
            used_max: 0,
            margin_max: 0,
            rate: Peak(RATE_POSSIBLE),
            late: Peak(0.0005),
            look: Peak(0.0001),
            stop: Peak(0.001),
            grown: 0,
            grown_since: now,
            last: now,
            planned: Duration::ZERO,
            stopped: false,
        }
    }

    /// What was found in the folder by a look that began and ended then.
    pub(crate) fn sample(&mut self, found: &[Found], began: Instant, ended: Instant) {
        let mut sizes = HashMap::with_capacity(found.len());
        for file in found {
            let bytes = file.state.counted();
            let before = self.sizes.get(&file.state.key).copied().unwrap_or(0);
            self.grown += bytes.saturating_sub(before);
            sizes.insert(file.state.key, bytes);
        }
        self.sizes = sizes;
        self.used = found.iter().map(|file| file.state.counted()).sum();
        self.used_max = self.used_max.max(self.used);
        let passed = ended.duration_since(self.last);
        self.last = ended;
        if self.stopped {
            return;
        }
        for peak in [
            &mut self.rate,
            &mut self.late,
            &mut self.look,
            &mut self.stop,
        ] {
            peak.fade(passed);
        }
        self.look.see(ended.duration_since(began).as_secs_f64());
        self.late
            .see(passed.saturating_sub(self.planned).as_secs_f64());
        let window = ended.duration_since(self.grown_since);
        if window >= WINDOW || self.grown > self.floor / 4 {
            self.rate
                .see(self.grown as f64 / window.max(LOOK_MIN).as_secs_f64());
            self.grown = 0;
            self.grown_since = ended;
        }
        self.margin_max = self.margin_max.max(self.margin());
    }

    /// The processes are stopped, which took so long.
    pub(crate) fn stopped(&mut self, took: Duration) {
        self.stop.see(took.as_secs_f64());
        self.stopped = true;
    }

    /// The processes go on.
    pub(crate) fn going_on(&mut self, now: Instant) {
        self.stopped = false;
        self.grown = 0;
        self.grown_since = now;
        self.last = now;
        self.planned = Duration::ZERO;
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn used_max(&self) -> u64 {
        self.used_max
    }

    pub(crate) fn margin_max(&self) -> u64 {
        self.margin_max
    }

    pub(crate) fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.used > self.limit
    }

    /// Bytes a second, the most of the last seconds.
    pub(crate) fn rate(&self) -> f64 {
        self.rate.0
    }

    fn reaction(&self) -> f64 {
        LOOK_MIN.as_secs_f64() + self.late.0 + self.look.0 + self.stop.0
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// What must stay free while the command runs.
    pub(crate) fn margin(&self) -> u64 {
        let wanted = (2.0 * self.rate.0 * self.reaction()) as u64;
        wanted.min(self.cap).max(self.floor)
    }

    /// Enough is free for the command to go on for a while.
    pub(crate) fn has_room(&self) -> bool {
        let margin = self.margin();
        self.free() > margin + self.limit.saturating_sub(margin) / 4
    }

    /// At least something is free to go on with.
    pub(crate) fn has_some_room(&self) -> bool {
        self.free() > self.margin()
    }

    /// Goes on with half of what is free as margin, since nothing else can be taken. `false` if only the floor is left.
    pub(crate) fn squeeze(&mut self) -> bool {
        if self.free() <= self.floor + self.floor / 4 {
            return false;
        }
        self.cap = (self.free() / 2).max(self.floor);
        true
    }

    /// Something was taken: the margin is the measured one again.
    pub(crate) fn relax(&mut self) {
        self.cap = self.limit / 2;
    }

    /// How long until the next look.
    pub(crate) fn until_next(&mut self) -> Duration {
        let look = Duration::from_secs_f64(2.0 * self.look.0);
        let room = self.free().saturating_sub(self.margin()) as f64;
        let seconds = room / (2.0 * self.rate.0.max(RATE_POSSIBLE));
        let planned = Duration::from_secs_f64(seconds.min(1.0))
            .clamp(LOOK_MIN, LOOK_MAX)
            .max(look);
        self.planned = planned;
        planned
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::folder::FileState;

    fn file(bytes: u64) -> Found {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let mut state = FileState::of(&std::fs::metadata(path).unwrap());
        state.key = (1, 1);
        Found {
            path: PathBuf::from("f"),
            state,
            is_regular: true,
        }
    }

    #[test]
    fn the_margin_follows_the_rate_and_never_falls_below_its_floor() {
        let start = Instant::now();
        let limit = 64 << 20;
        let mut usage = Usage::new(limit, start);
        let unknown = usage.margin();
        // Nothing is written for a minute: only the floor is kept.
        let mut now = start;
        for _ in 0..1200 {
            usage.until_next();
            now += Duration::from_millis(50);
            usage.sample(&[], now, now);
        }
        assert!(usage.margin() < unknown);
        assert_eq!(usage.margin(), limit / 16);
        // 16 MiB in 70 ms, and the look came 20 ms late.
        usage.until_next();
        now += LOOK_MAX + Duration::from_millis(20);
        usage.sample(&[file(16 << 20)], now, now);
        assert!(usage.rate() > 200e6, "{}", usage.rate());
        assert!(usage.margin() > limit / 16);
        assert!(usage.margin() <= limit / 2);
        assert_eq!(usage.used(), 16 << 20);
    }

    #[test]
    fn looks_come_the_sooner_the_less_is_free() {
        let start = Instant::now();
        let mut usage = Usage::new(64 << 20, start);
        let far = usage.until_next();
        let later = start + Duration::from_millis(10);
        usage.sample(&[file(62 << 20)], later, later);
        let near = usage.until_next();
        assert!(near < far, "{near:?} {far:?}");
        assert_eq!(near, LOOK_MIN);
    }

    #[test]
    fn squeezing_ends_at_the_floor() {
        let start = Instant::now();
        let mut usage = Usage::new(32 << 20, start);
        let mut used = 16 << 20;
        let mut steps = 0;
        loop {
            usage.sample(&[file(used)], start, start + Duration::from_millis(1));
            if !usage.squeeze() {
                break;
            }
            assert!(usage.has_some_room());
            used = (32 << 20) - usage.margin();
            steps += 1;
        }
        assert!((2..10).contains(&steps), "{steps}");
        assert!(usage.free() < (32 << 20) / 12);
        usage.relax();
        assert!(!usage.has_some_room());
    }

    #[test]
    fn a_pause_does_not_count_as_slow_writing_or_a_late_look() {
        let start = Instant::now();
        let mut usage = Usage::new(64 << 20, start);
        usage.stopped(Duration::from_millis(2));
        let margin = usage.margin();
        let later = start + Duration::from_secs(30);
        usage.sample(&[], later, later);
        assert_eq!(usage.margin(), margin);
        usage.going_on(later);
        usage.sample(&[], later, later + Duration::from_micros(10));
        assert!(usage.margin() <= margin);
    }
}
