//! Trying again: the one place where requests to a remote store are repeated.
//!
//! `object_store` is told not to. It would give up after seconds, repeat a signature that has expired, and take an
//! object of our own for somebody else's (see the table in the module above).

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use super::answer::{Again, Cause, Failure, SEEN, Seen};
use crate::StoreOptions;

/// The longest pause that is ours to choose.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// A new signature is tried so often where the server says that the last one is too old.
const SIGNATURES_MAX: u32 = 2;
/// Attempts at one request while a store is opened.
const OPENING_ATTEMPTS_MAX: u32 = 5;
/// The slowest transfer that a request may make progress at, in bytes a second.
const RATE_MIN: u64 = 128 << 10;

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    attempts_max: u32,
    time: Duration,
    pause: Duration,
    request_time: Duration,
}

impl Bounds {
    pub(super) fn of(options: &StoreOptions) -> Self {
        Self {
            attempts_max: options.attempts_max,
            time: options.retry_time,
            pause: options.retry_pause,
            request_time: options.request_time,
        }
    }

    /// The same with fewer attempts: who has mistyped an endpoint is told soon, and a job that has not begun has lost nothing.
    pub(super) fn for_opening(self) -> Self {
        Self {
            attempts_max: self.attempts_max.min(OPENING_ATTEMPTS_MAX),
            ..self
        }
    }

    /// How long a request that moves so many bytes may take.
    pub(super) fn request_time(&self, bytes: u64) -> Duration {
        self.request_time + Duration::from_secs(bytes / RATE_MIN)
    }
}

/// The story of one request that is made again and again.
pub(super) struct Attempts {
    bounds: Bounds,
    failures: u32,
    signatures: u32,
    since: Option<Instant>,
}

impl Attempts {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            failures: 0,
            signatures: 0,
            since: None,
        }
    }

    /// Waits for the next attempt, if there is one; otherwise gives back why there is none.
    pub(super) async fn after(&mut self, failure: Failure) -> Result<Failure, Failure> {
        if failure.again() == Again::Never {
            return Err(self.told(failure));
        }
        match self.pause(&failure, Instant::now()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(failure)
            }
            None => Err(self.told(failure)),
        }
    }

    /// Forgets the failures: something went well in between.
    pub(super) fn succeeded(&mut self) {
        (self.failures, self.signatures, self.since) = (0, 0, None);
    }

    fn told(&self, mut failure: Failure) -> Failure {
        failure.attempts = self.failures.max(1);
        failure
    }

    fn pause(&mut self, failure: &Failure, now: Instant) -> Option<Duration> {
        self.failures += 1;
        let since = *self.since.get_or_insert(now);
        if matches!(failure.cause, Cause::Skewed | Cause::Expired) {
            self.signatures += 1;
            if self.signatures >= SIGNATURES_MAX {
                return None;
            }
        }
        let grown = self.bounds.pause * 2u32.saturating_pow((self.failures - 1).min(16));
        let asked = failure
            .seen
            .retry_after
            .unwrap_or_default()
            .min(RETRY_AFTER_MAX);
        let pause = grown.min(PAUSE_MAX).mul_f64(0.5 + jitter()).max(asked);
        let ended = self.failures >= self.bounds.attempts_max
            || now.duration_since(since) + pause > self.bounds.time;
        (!ended).then_some(pause)
    }
}

/// Makes one request, in bounded time, and says what its failure means.
pub(super) async fn ask<T>(
    time: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failure> {
    let request = async {
        match request.await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let seen = SEEN.with(|seen| seen.borrow().clone());
                Err(Failure::of(&error, seen))
            }
        }
    };
    ask_for(time, request).await
}

/// The same, for a request that says itself what its failure means.
pub(super) async fn ask_for<T>(
    time: Duration,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let noted = SEEN.scope(RefCell::new(Seen::default()), request);
    match tokio::time::timeout(time, noted).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::new(Cause::TimedOut, Seen::default())),
    }
}

/// Makes a request that changes nothing, or may be made twice, until it is answered.
pub(super) async fn repeat<T, F>(
    bounds: Bounds,
    bytes: u64,
    mut request: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut attempts = Attempts::new(bounds);
    loop {
        match ask(bounds.request_time(bytes), request()).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => attempts.after(failure).await?,
        };
    }
}

/// From 0 to 1, so that the clients of a server do not come back all at once.
fn jitter() -> f64 {
    (random() >> 11) as f64 / (1u64 << 53) as f64
}

/// Random bits for names and pauses, not for secrets.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds::of(&StoreOptions::default())
    }

    fn failure(cause: Cause) -> Failure {
        Failure::new(cause, Seen::default())
    }

    #[test]
    fn pauses_grow_and_end() {
        let (mut attempts, now) = (Attempts::new(bounds()), Instant::now());
        let mut pauses = Vec::new();
        while let Some(pause) = attempts.pause(&failure(Cause::Busy), now) {
            pauses.push(pause);
        }
        assert_eq!(pauses.len(), 9);
        assert!(pauses[0] >= Duration::from_millis(100) && pauses[0] <= Duration::from_millis(300));
        assert!(pauses[8] >= Duration::from_secs(10) && pauses[8] <= Duration::from_secs(30));
    }

    #[test]
    fn time_ends_them_too() {
        let (mut attempts, now) = (Attempts::new(bounds()), Instant::now());
        assert!(attempts.pause(&failure(Cause::Busy), now).is_some());
        let late = now + Duration::from_secs(300);
        assert_eq!(attempts.pause(&failure(Cause::Busy), late), None);
        attempts.succeeded();
        assert!(attempts.pause(&failure(Cause::Busy), late).is_some());
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_asks() {
        let (mut attempts, now) = (Attempts::new(bounds()), Instant::now());
        let asked = |seconds| {
            let seen = Seen {
                retry_after: Some(Duration::from_secs(seconds)),
                ..Seen::default()
            };
            Failure::new(Cause::Busy, seen)
        };
        assert_eq!(attempts.pause(&asked(7), now), Some(Duration::from_secs(7)));
        // Nobody lets a job wait for a day.
        assert_eq!(attempts.pause(&asked(86_400), now), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn an_old_signature_is_renewed_once() {
        let (mut attempts, now) = (Attempts::new(bounds()), Instant::now());
        assert!(attempts.pause(&failure(Cause::Skewed), now).is_some());
        assert_eq!(attempts.pause(&failure(Cause::Skewed), now), None);
    }

    #[test]
    fn time_grows_with_the_bytes() {
        assert_eq!(bounds().request_time(0), Duration::from_secs(30));
        assert_eq!(bounds().request_time(16 << 20), Duration::from_secs(158));
    }
}
