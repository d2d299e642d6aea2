//! How often and how long the command was stopped.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Pauses {
    since: Option<Instant>,
    /// The user asked for the one that lasts.
    asked: bool,
    pub(crate) count: u64,
    pub(crate) total: Duration,
    pub(crate) longest: Duration,
}

impl Pauses {
    pub(crate) fn is_paused(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn begin(&mut self, asked: bool) {
        self.since = Some(Instant::now());
        self.asked = asked;
        self.count += 1;
    }

    /// The user asks for this one to last.
    pub(crate) fn is_asked(&mut self) {
        self.asked = true;
    }

    /// Whether the user had asked for the one that lasts.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked
    }

    /// How long the one that lasts has lasted.
    pub(crate) fn lasts(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends it, and returns how long it was.
    pub(crate) fn end(&mut self) -> Duration {
        let Some(since) = self.since.take() else {
            return Duration::ZERO;
        };
        let lasted = since.elapsed();
        self.total += lasted;
        self.longest = self.longest.max(lasted);
        lasted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_counted_once() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.end(), Duration::ZERO);
        assert!(!pauses.is_paused());
        pauses.begin(false);
        assert!(pauses.is_paused() && !pauses.was_asked());
        let lasted = pauses.end();
        assert!(!pauses.is_paused());
        assert_eq!(
            (pauses.count, pauses.total, pauses.longest),
            (1, lasted, lasted)
        );
        pauses.begin(true);
        pauses.end();
        assert_eq!(pauses.count, 2);
        assert!(pauses.total >= pauses.longest);
    }
}
