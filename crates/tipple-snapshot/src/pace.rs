//! Being told to stop, and not writing faster than allowed.

use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{ErrorKind, SnapshotError};

/// Tells work to stop. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    pub(crate) fn cancel(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    pub(crate) fn check(&self) -> Result<(), SnapshotError> {
        match *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) {
            false => Ok(()),
            true => Err(SnapshotError::new(
                ErrorKind::Cancelled,
                "it was told to stop before the snapshot was complete",
            )),
        }
    }

    /// Waits, unless it is told to stop.
    pub(crate) fn sleep(&self, span: Duration) -> Result<(), SnapshotError> {
        let told = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(told, span, |told| !*told);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.check()
    }
}

/// A rate of bytes, from its beginning on.
pub(crate) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    begin: Instant,
    bytes: u64,
}

/// What is written at once where there is a rate.
const PACED_BYTES: usize = 64 << 10;

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            bytes_per_second,
            begin: Instant::now(),
            bytes: 0,
        }
    }

    /// How many of `len` bytes to write at once.
    pub(crate) fn at_once(&self, len: usize) -> usize {
        match self.bytes_per_second {
            None => len,
            Some(_) => len.min(PACED_BYTES),
        }
    }

    /// How long to wait after so many more bytes.
    pub(crate) fn wait(&mut self, bytes: usize) -> Duration {
        self.bytes += bytes as u64;
        match self.bytes_per_second {
            None => Duration::ZERO,
            Some(rate) => due(self.bytes, rate).saturating_sub(self.begin.elapsed()),
        }
    }
}

/// When so many bytes may have been written.
fn due(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held() {
        let rate = NonZeroU64::new(1000).unwrap();
        assert_eq!(due(2500, rate), Duration::from_millis(2500));
        assert_eq!(
            due(u64::MAX, NonZeroU64::MIN),
            Duration::from_nanos(u64::MAX)
        );
        let mut pace = Pace::new(Some(rate));
        assert_eq!(pace.at_once(1 << 20), PACED_BYTES);
        assert!(pace.wait(3_600_000) > Duration::from_secs(3000));
        assert_eq!(Pace::new(None).wait(1 << 30), Duration::ZERO);
    }

    #[test]
    fn who_is_told_does_not_wait() {
        let cancel = Cancel::default();
        cancel.sleep(Duration::ZERO).unwrap();
        cancel.cancel();
        let told = cancel.sleep(Duration::from_secs(3600)).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Cancelled);
    }
}
