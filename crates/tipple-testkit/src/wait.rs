//! Waiting for conditions, and how much to test.

use std::time::{Duration, Instant};

/// How long a condition may take before the test is called broken: generous, since it only costs time when it fails.
const DEADLINE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(2);

/// Polls until `condition` holds.
///
/// # Panics
/// After 3 minutes, naming `what` was waited for.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for_some(what, || condition().then_some(()));
}

/// Polls until `found` gives something, and returns it.
///
/// # Panics
/// After 3 minutes, naming `what` was waited for.
#[track_caller]
pub fn wait_for_some<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain for {what}"
        );
        std::thread::sleep(POLL);
    }
}

/// Whether this is a long run: `TIPPLE_TEST_LONG=1`, which `./test --long` sets.
pub fn is_long() -> bool {
    std::env::var("TIPPLE_TEST_LONG").is_ok_and(|value| value == "1")
}

/// How many cases a random test tries: `short`, or 20 times as many in a long run.
pub fn cases(short: u32) -> u32 {
    if is_long() { short * 20 } else { short }
}
