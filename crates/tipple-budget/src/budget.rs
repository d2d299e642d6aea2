//! A budget of bytes and the permits that hold shares of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::gate::{Cancelled, Gate};

/// Bytes allowed, of memory or of disk. Clones share one account.
#[derive(Clone, Debug)]
pub struct Budget {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    name: &'static str,
    limit_bytes: u64,
    held: Mutex<Held>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    bytes_max: u64,
}

/// What a budget refused, with the number that would do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {name} budget is {limit_bytes} bytes with {held_bytes} held; {wanted_bytes} more are needed: give it at least {}", held_bytes + wanted_bytes)]
pub struct BudgetError {
    /// Which budget.
    pub name: &'static str,
    /// Its limit.
    pub limit_bytes: u64,
    /// What was held when it refused.
    pub held_bytes: u64,
    /// What was asked for.
    pub wanted_bytes: u64,
}

impl Budget {
    /// A budget of `limit_bytes`; `name` appears in errors and reports.
    pub fn new(name: &'static str, limit_bytes: u64) -> Self {
        Self {
            account: Arc::new(Account {
                name,
                limit_bytes,
                held: Mutex::default(),
                released: Condvar::new(),
            }),
        }
    }

    /// Takes `bytes` now, or refuses now.
    ///
    /// # Errors
    /// [`BudgetError`] when the rest of the budget is smaller; nothing is taken then.
    pub fn try_acquire(&self, bytes: u64) -> Result<Permit, BudgetError> {
        let mut held = self.account.lock();
        if bytes > self.account.limit_bytes - held.bytes {
            return Err(self.account.refusal(bytes, held.bytes));
        }
        self.account.take(&mut held, bytes);
        Ok(Permit {
            account: Arc::clone(&self.account),
            bytes,
        })
    }

    /// Takes `bytes`, waiting until others release enough. A wait ends early when `gate` is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`] when the gate was cancelled first; nothing is taken then.
    ///
    /// # Panics
    /// When `bytes` exceeds the whole budget: nobody could ever serve it, and the caller should have
    /// refused the job at its start.
    pub fn acquire(&self, bytes: u64, gate: &Gate) -> Result<Permit, Cancelled> {
        assert!(
            bytes <= self.account.limit_bytes,
            "{} bytes asked of a {} budget of {}: refuse this at start",
            bytes,
            self.account.name,
            self.account.limit_bytes
        );
        let mut held = self.account.lock();
        while bytes > self.account.limit_bytes - held.bytes {
            gate.check()?;
            // A tick, since a cancel does not know which budgets are waited for.
            held = self
                .account
                .released
                .wait_timeout(held, crate::gate::CANCEL_TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        self.account.take(&mut held, bytes);
        Ok(Permit {
            account: Arc::clone(&self.account),
            bytes,
        })
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.account.lock().bytes
    }

    /// The most bytes ever held at once.
    pub fn held_max(&self) -> u64 {
        self.account.lock().bytes_max
    }

    /// Bytes allowed.
    pub fn limit(&self) -> u64 {
        self.account.limit_bytes
    }
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // Every update below leaves the numbers whole, so a poisoned lock still guards true ones.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, held: &mut Held, bytes: u64) {
        held.bytes += bytes;
        held.bytes_max = held.bytes_max.max(held.bytes);
        // I4: permits held never exceed the budget.
        assert!(
            held.bytes <= self.limit_bytes,
            "I4: {} budget overdrawn",
            self.name
        );
    }

    fn refusal(&self, wanted_bytes: u64, held_bytes: u64) -> BudgetError {
        BudgetError {
            name: self.name,
            limit_bytes: self.limit_bytes,
            held_bytes,
            wanted_bytes,
        }
    }
}

/// A share of a [`Budget`]; dropping it gives the bytes back.
#[derive(Debug)]
pub struct Permit {
    account: Arc<Account>,
    bytes: u64,
}

impl Permit {
    /// Bytes held by this permit.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`: what a bound reserved and the sealed thing did not need.
    ///
    /// # Panics
    /// When `bytes` is more than the permit holds: a reservation never grows.
    pub fn shrink(&mut self, bytes: u64) {
        assert!(
            bytes <= self.bytes,
            "I4: a permit of {} bytes cannot become {bytes}",
            self.bytes
        );
        self.account.lock().bytes -= self.bytes - bytes;
        self.bytes = bytes;
        self.account.released.notify_all();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rates;

    #[test]
    fn refuses_what_it_cannot_serve_and_says_what_would_do() {
        let budget = Budget::new("disk", 100);
        let held = budget.try_acquire(60).unwrap();
        let refusal = budget.try_acquire(41).unwrap_err();
        assert_eq!(
            (
                refusal.limit_bytes,
                refusal.held_bytes,
                refusal.wanted_bytes
            ),
            (100, 60, 41)
        );
        assert!(refusal.to_string().ends_with("give it at least 101"));
        drop(held);
        assert_eq!(budget.held(), 0);
        assert_eq!(budget.held_max(), 60);
        budget.try_acquire(100).unwrap();
        assert_eq!(budget.held_max(), 100);
    }

    #[test]
    fn waits_for_a_release_and_never_overdraws() {
        let budget = Budget::new("memory", 10);
        let gate = Gate::new(Rates::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for bytes in 1..=10 {
                        let mut permit = budget.acquire(bytes, &gate).unwrap();
                        permit.shrink(bytes / 2);
                        assert_eq!(permit.bytes(), bytes / 2);
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
        assert!(budget.held_max() <= 10);
    }

    #[test]
    fn a_cancel_ends_the_wait() {
        let budget = Budget::new("memory", 1);
        let gate = Gate::new(Rates::default());
        let _held = budget.try_acquire(1).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| budget.acquire(1, &gate).map(drop));
            gate.cancel();
            assert_eq!(waiter.join().unwrap(), Err(Cancelled));
        });
        assert_eq!(budget.held(), 1);
    }
}
