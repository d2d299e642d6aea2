//! Calls of the store that may be made again.

use std::thread;
use std::time::{Duration, Instant};

use tipple_store::{Retryable, StoreError};

use crate::layout;

/// All tries of one call together take at most so long.
const RETRY_MAX: Duration = Duration::from_secs(300);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Makes `call` until it succeeds, may not be made again, was made `attempts` times or for 5 minutes, or `given_up`.
pub(crate) fn retry<T>(
    attempts: u32,
    given_up: &dyn Fn() -> bool,
    mut call: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let since = Instant::now();
    let mut attempt = 1;
    loop {
        let error = match call() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let last = attempt >= attempts || since.elapsed() >= RETRY_MAX;
        if last || error.is_retryable() == Retryable::Never || !wait(backoff(attempt), given_up) {
            return Err(error);
        }
        attempt += 1;
    }
}

/// `false` if it was given up meanwhile.
fn wait(time: Duration, given_up: &dyn Fn() -> bool) -> bool {
    let since = Instant::now();
    while !given_up() {
        if since.elapsed() >= time {
            return true;
        }
        thread::sleep(Duration::from_millis(10).min(time));
    }
    false
}

/// Doubled each time, and between half and all of it, so that many do not come back at once.
fn backoff(attempt: u32) -> Duration {
    let full = BACKOFF_MIN
        .saturating_mul(1 << (attempt - 1).min(16))
        .min(BACKOFF_MAX);
    let jitter = layout::random() as f64 / u64::MAX as f64;
    full.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tipple_store::{Operation, StoreErrorKind};

    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        for attempt in 1..100 {
            let wait = backoff(attempt);
            assert!(
                wait >= BACKOFF_MIN / 2 && wait <= BACKOFF_MAX,
                "{attempt}: {wait:?}"
            );
        }
        assert!(backoff(7) > backoff(1) * 4);
    }

    #[test]
    fn only_what_may_be_made_again_is() {
        let calls = Cell::new(0);
        let fail = |retryable| {
            let error = StoreError::new(StoreErrorKind::Io, Operation::Write, "s", "r");
            Err::<(), _>(error.with_retryable(retryable))
        };
        let count = |retryable| {
            calls.set(calls.get() + 1);
            fail(retryable)
        };
        retry(2, &|| false, || count(Retryable::Never)).unwrap_err();
        assert_eq!(calls.replace(0), 1);
        retry(2, &|| false, || count(Retryable::Safe)).unwrap_err();
        assert_eq!(calls.replace(0), 2);
        retry(2, &|| false, || count(Retryable::MayHaveBeenApplied)).unwrap_err();
        assert_eq!(calls.replace(0), 2);
        retry(9, &|| true, || count(Retryable::Safe)).unwrap_err();
        assert_eq!(calls.replace(0), 1);
    }
}
