//! Buffers: fixed pieces of memory, allocated at start, leased, and given back.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::budget::{Budget, BudgetError, Permit};
use crate::gate::{CANCEL_TICK, Cancelled, Gate};

/// A fixed number of buffers of one size. Clones share the buffers.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

#[derive(Debug)]
struct Shelf {
    free: Mutex<Vec<Box<[u8]>>>,
    returned: Condvar,
    // Held for as long as any clone or buffer lives: the memory is spent all that time.
    _permit: Permit,
}

impl BufferPool {
    /// Allocates `count` buffers of `buffer_bytes` each, accounted in `memory`.
    ///
    /// # Errors
    /// [`BudgetError`] when `memory` has not that much left; nothing is allocated then.
    pub fn new(count: usize, buffer_bytes: usize, memory: &Budget) -> Result<Self, BudgetError> {
        let permit = memory.try_acquire((count * buffer_bytes) as u64)?;
        let free = (0..count)
            .map(|_| vec![0; buffer_bytes].into_boxed_slice())
            .collect();
        Ok(Self {
            shelf: Arc::new(Shelf {
                free: Mutex::new(free),
                returned: Condvar::new(),
                _permit: permit,
            }),
        })
    }

    /// Leases one buffer, waiting until one is free. What it holds is what the last user left in it.
    ///
    /// # Errors
    /// [`Cancelled`] when the gate was cancelled first.
    pub fn lease(&self, gate: &Gate) -> Result<Buffer, Cancelled> {
        let mut free = self
            .shelf
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            gate.check()?;
            if let Some(bytes) = free.pop() {
                return Ok(Buffer {
                    bytes,
                    home: Arc::clone(&self.shelf),
                });
            }
            free = self
                .shelf
                .returned
                .wait_timeout(free, CANCEL_TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A leased buffer; dropping it gives it back to its pool.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    home: Arc<Shelf>,
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::mem::take(&mut self.bytes));
        self.home.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rates;

    #[test]
    fn never_more_buffers_than_allocated() {
        let memory = Budget::new("memory", 64);
        let gate = Gate::new(Rates::default());
        let pool = BufferPool::new(2, 32, &memory).unwrap();
        assert!(BufferPool::new(1, 1, &memory).is_err());
        let (first, second) = (pool.lease(&gate).unwrap(), pool.lease(&gate).unwrap());
        std::thread::scope(|scope| {
            let third = scope.spawn(|| pool.lease(&gate).map(|buffer| buffer.len()));
            drop(first);
            assert_eq!(third.join().unwrap(), Ok(32));
        });
        drop(second);
        assert_eq!(memory.held(), 64, "the pool keeps its memory");
        drop(pool);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn a_cancel_ends_the_wait_for_a_buffer() {
        let memory = Budget::new("memory", 8);
        let gate = Gate::new(Rates::default());
        let pool = BufferPool::new(1, 8, &memory).unwrap();
        let _held = pool.lease(&gate).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.lease(&gate).map(drop));
            gate.cancel();
            assert_eq!(waiter.join().unwrap(), Err(Cancelled));
        });
    }
}
