//! Trying again.

use std::time::{Duration, Instant};

use tipple_budget::{Cancelled, Gate};

/// How long a wait sleeps before it looks at the gate.
const TICK: Duration = Duration::from_millis(50);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The story of one thing that is tried again and again, until it fails for longer than `patience`.
pub(super) struct Retry {
    patience: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl Retry {
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
            pause: PAUSE_FIRST,
        }
    }

    /// Waits for the next try. `false`: there is none, give up.
    pub fn wait(&mut self, gate: Option<&Gate>) -> Result<bool, Cancelled> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let end = Instant::now() + self.pause;
        loop {
            if let Some(gate) = gate {
                gate.check()?;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(TICK));
        }
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(since.elapsed() < self.patience)
    }
}
