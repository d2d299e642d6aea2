//! Bounds on memory, disk and speed: budgets, permits, leased buffers and the gate.
//!
//! Everything in Tipple that could grow is bounded before it starts, and everything that must wait waits
//! here. A source makes progress only by getting room in a leased buffer, and it gets room only by passing
//! the [`Gate`]. Pause, cancel, rate limits, the memory budget and the disk budget are therefore one
//! mechanism at one place; no source, sink or store has code for any of them.
//!
//! This crate never does I/O. It reads the monotonic clock, for rates.
//!
//! ```
//! use tipple_budget::{BufferPool, Budget, Gate, Rates};
//!
//! let memory = Budget::new("memory", 16 << 20);
//! let gate = Gate::new(Rates::default());
//! // Two buffers of 8 MiB, allocated now, used for the life of the process.
//! let pool = BufferPool::new(2, 8 << 20, &memory).unwrap();
//! let buffer = pool.lease(&gate).unwrap();
//! gate.pass(1 << 20, 100).unwrap(); // would wait while paused or over the rate
//! assert_eq!(buffer.len(), 8 << 20);
//! assert_eq!(memory.held(), 16 << 20);
//! ```

mod budget;
mod buffer;
mod gate;
mod rate;

pub use budget::{Budget, BudgetError, Permit};
pub use buffer::{Buffer, BufferPool};
pub use gate::{Cancelled, Gate, GateState};
pub use rate::Rates;
