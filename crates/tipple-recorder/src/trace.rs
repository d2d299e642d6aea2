//! The trace that a thread is working for: a line's `t`.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The trace of this thread; 0: none.
#[inline]
pub fn current() -> u64 {
    CURRENT.get()
}

/// The thread works for `trace` until the guard is dropped; then for what it worked for before.
///
/// ```
/// use tipple_recorder::trace;
///
/// let guard = trace::enter(7);
/// assert_eq!(trace::current(), 7);
/// drop(guard);
/// assert_eq!(trace::current(), 0);
/// ```
#[must_use = "the thread works for the trace while the guard lives"]
pub fn enter(trace: u64) -> Entered {
    Entered {
        outer: CURRENT.replace(trace),
        thread: std::marker::PhantomData,
    }
}

/// The thread works for another trace from now on; whoever calls it puts the one before back.
#[cfg(feature = "tracing")]
pub(crate) fn set(trace: u64) {
    CURRENT.set(trace);
}

/// See [`enter`].
#[derive(Debug)]
pub struct Entered {
    outer: u64,
    /// It belongs to this thread.
    thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

/// A future that works for `trace` whenever it is polled, on whatever thread.
pub fn within<F: Future>(trace: u64, future: F) -> Within<F> {
    Within {
        trace,
        future: Box::pin(future),
    }
}

/// See [`within`].
#[derive(Debug)]
pub struct Within<F> {
    trace: u64,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = enter(self.trace);
        self.future.as_mut().poll(context)
    }
}

/// The trace of a W3C trace id of 128 bits: its lower 63, as many as fit into a line's `t`; never 0.
pub fn from_w3c(id: u128) -> u64 {
    match id as u64 & (u64::MAX >> 1) {
        0 => 1,
        trace => trace,
    }
}
