//! The memory budget: every buffer of every thread comes from here, and goes back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::handover::{Filled, Filling, buffer};

/// Gives out buffers, of all together at most so many bytes.
pub(crate) struct Pool {
    limit_bytes: u64,
    /// The size of the usual buffer.
    pub(crate) buffer_bytes: usize,
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<(Filling, Filled)>,
    /// Of all buffers that exist, free ones too.
    bytes: u64,
    bytes_max: u64,
    is_closed: bool,
}

impl Pool {
    pub(crate) fn new(limit_bytes: u64, buffer_bytes: usize) -> Pool {
        Pool {
            limit_bytes,
            buffer_bytes,
            state: Mutex::default(),
            given_back: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of at least `bytes`, if the budget has room for it.
    pub(crate) fn take(&self, bytes: usize) -> Option<(Filling, Filled)> {
        self.lock().take(self, bytes)
    }

    /// The same, after waiting for it until `deadline`.
    pub(crate) fn wait(&self, bytes: usize, deadline: Instant) -> Option<(Filling, Filled)> {
        let mut state = self.lock();
        loop {
            if let Some(ends) = state.take(self, bytes) {
                return Some(ends);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO || state.is_closed {
                return None;
            }
            let waited = self.given_back.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes back a buffer whose writer has let go of it.
    pub(crate) fn give(&self, filled: Filled) {
        let bytes = filled.capacity();
        let Some(ends) = filled.again() else {
            unreachable!("a buffer goes back when its thread has let go of it")
        };
        let mut state = self.lock();
        match bytes == self.buffer_bytes {
            true => state.free.push(ends),
            false => state.bytes -= bytes as u64,
        }
        drop(state);
        self.given_back.notify_all();
    }

    /// Nobody waits any longer.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.given_back.notify_all();
    }

    /// Whether so little is left that the writer should hurry.
    pub(crate) fn is_low(&self) -> bool {
        let state = self.lock();
        let free = self.limit_bytes - state.bytes + (state.free.len() * self.buffer_bytes) as u64;
        free < self.limit_bytes / 2
    }

    /// The most bytes that ever existed.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.lock().bytes_max
    }
}

impl State {
    fn take(&mut self, pool: &Pool, bytes: usize) -> Option<(Filling, Filled)> {
        if bytes <= pool.buffer_bytes {
            if let Some(ends) = self.free.pop() {
                return Some(ends);
            }
        } else {
            // Free buffers of the usual size make room for a large one.
            while self.bytes + bytes as u64 > pool.limit_bytes && self.free.pop().is_some() {
                self.bytes -= pool.buffer_bytes as u64;
            }
        }
        let bytes = bytes.max(pool.buffer_bytes);
        if self.bytes + bytes as u64 > pool.limit_bytes {
            return None;
        }
        self.bytes += bytes as u64;
        self.bytes_max = self.bytes_max.max(self.bytes);
        Some(buffer(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returned(pool: &Pool, (filling, filled): (Filling, Filled)) {
        drop(filling);
        pool.give(filled);
    }

    #[test]
    fn the_limit_holds_from_the_first_buffer() {
        let pool = Pool::new(10_000, 4096);
        let first = pool.take(1).unwrap();
        let second = pool.take(4096).unwrap();
        assert!(pool.take(1).is_none());
        returned(&pool, first);
        let third = pool.take(1).unwrap();
        assert!(pool.take(1).is_none());
        returned(&pool, second);
        returned(&pool, third);
        assert_eq!(pool.bytes_max(), 8192);
    }

    #[test]
    fn a_large_buffer_takes_the_place_of_small_ones() {
        let pool = Pool::new(10_000, 4096);
        let two = [pool.take(1).unwrap(), pool.take(1).unwrap()];
        assert!(pool.take(9000).is_none());
        two.into_iter().for_each(|ends| returned(&pool, ends));
        let large = pool.take(9000).unwrap();
        assert!(pool.take(1).is_none());
        returned(&pool, large);
        assert!(pool.take(1).is_some());
        assert!(pool.bytes_max() <= 10_000);
    }

    #[test]
    fn waiting_ends_by_a_buffer_by_time_and_by_the_end() {
        let pool = Pool::new(4096, 4096);
        let only = pool.take(1).unwrap();
        assert!(pool.wait(1, Instant::now()).is_none());
        let long = || Instant::now() + Duration::from_secs(600);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.wait(1, long()).is_some());
            returned(&pool, only);
            assert!(waiting.join().unwrap());
            let waiting = scope.spawn(|| pool.wait(8192, long()).is_none());
            pool.close();
            assert!(waiting.join().unwrap());
        });
    }
}
