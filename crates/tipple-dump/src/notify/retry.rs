//! Trying again: one message, bounded by count and by time.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use tipple_budget::Gate;
use tipple_store::StoreOptions;
use tipple_store::http::{Answer, PostError, PostErrorKind};

/// The longest pause that is ours to choose.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How soon a cancel is seen in a pause.
const TICK: Duration = Duration::from_millis(50);

/// Why something was not done, at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The job was cancelled meanwhile.
    Cancelled,
    /// It failed for good. No part of a webhook's URL, no credentials.
    Failed(String),
}

/// Why one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    /// Another attempt may go well.
    pub(crate) passes: bool,
    /// What the server calls it, if it does.
    pub(crate) code: String,
    /// The server wants to be left alone for so long.
    pub(crate) retry_after: Option<Duration>,
}

impl Trouble {
    /// What no other attempt changes.
    pub(crate) fn lasting(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            passes: false,
            code: String::new(),
            retry_after: None,
        }
    }

    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self {
            passes: true,
            ..Self::lasting(reason)
        }
    }

    /// No answer came. Every message may be sent twice, so what may have been taken is sent again.
    pub(crate) fn of_post(error: &PostError) -> Self {
        let trouble = Self::lasting(error.to_string());
        match error.kind() {
            PostErrorKind::Unreachable | PostErrorKind::MayHaveBeenTaken => Self {
                passes: true,
                ..trouble
            },
            _ => trouble,
        }
    }

    /// An answer that is no success, in the server's words `said` if it has any.
    pub(crate) fn of_status(answer: &Answer, said: Option<&str>) -> Self {
        let reason = match said {
            Some(said) => format!("the answer was {} {said}", answer.status),
            None => format!("the answer was {}", answer.status),
        };
        Self {
            reason,
            code: String::new(),
            passes: answer.status >= 500 || matches!(answer.status, 408 | 425 | 429),
            retry_after: answer.retry_after,
        }
    }
}

/// The attempts at one message.
pub(crate) struct Retry {
    attempts_max: u32,
    time: Duration,
    pause: Duration,
    failures: u32,
    since: Instant,
}

impl Retry {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            attempts_max: options.attempts_max,
            time: options.retry_time,
            pause: options.retry_pause,
            failures: 0,
            since: Instant::now(),
        }
    }

    /// One attempt only.
    pub(crate) fn once(options: &StoreOptions) -> Self {
        Self {
            attempts_max: 1,
            ..Self::new(options)
        }
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// [`Refused`] if there is none.
    pub(crate) fn after(&mut self, trouble: Trouble, gate: &Gate) -> Result<(), Refused> {
        self.failures += 1;
        let grown = self.pause * 2u32.saturating_pow((self.failures - 1).min(16));
        let asked = trouble.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let pause = grown.min(PAUSE_MAX).mul_f64(0.5 + jitter()).max(asked);
        if !trouble.passes
            || self.failures >= self.attempts_max
            || self.since.elapsed() + pause > self.time
        {
            return Err(Refused::Failed(match self.failures {
                1 => trouble.reason,
                attempts => format!("{} (attempts: {attempts})", trouble.reason),
            }));
        }
        let ends = Instant::now() + pause;
        loop {
            gate.check().map_err(|_| Refused::Cancelled)?;
            let left = ends.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    /// Does `attempt` until it goes well.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn run<T>(
        &mut self,
        gate: &Gate,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Refused> {
        loop {
            gate.check().map_err(|_| Refused::Cancelled)?;
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => self.after(trouble, gate)?,
            }
        }
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    random as f64 / u64::MAX as f64
}
