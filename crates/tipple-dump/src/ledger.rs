//! Which parts wait for a worker.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tipple_budget::{Cancelled, Gate};

/// A queue of parts that knows when nothing more will come.
///
/// It has no bound of its own: planning must never wait for workers, since a stalled listing harms the live
/// system. What is in it is bounded by the plan, whose disk is budgeted before the start.
pub(crate) struct Ledger<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> Ledger<T> {
    pub(crate) fn new(waiting: impl IntoIterator<Item = T>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: waiting.into_iter().collect(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn add(&self, part: T) {
        self.lock().waiting.push_back(part);
        self.changed.notify_one();
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        self.lock().waiting.clear();
    }

    /// Nothing more will come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next part, waiting for one; `None` when all are taken and no more will come.
    pub(crate) fn take(&self, gate: &Gate) -> Result<Option<T>, Cancelled> {
        let mut state = self.lock();
        loop {
            gate.check()?;
            if let Some(part) = state.waiting.pop_front() {
                return Ok(Some(part));
            }
            if state.closed {
                return Ok(None);
            }
            // A tick, since a cancel of the gate does not know this queue.
            state = self
                .changed
                .wait_timeout(state, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
