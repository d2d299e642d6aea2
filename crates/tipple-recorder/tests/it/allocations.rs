//! That recording allocates nothing, once a thread has begun.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tempfile::TempDir;

use crate::support::{LONG, order, start};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's, and a count of what this thread asks it for.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is no other way")]
// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no count any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn a_record_allocates_nothing() {
    let folder = TempDir::new().unwrap();
    let recorder = start(folder.path());
    let stream = recorder.stream("orders");
    let message = order(7);
    // The thread's first buffers, which the pool gives out again later.
    for _ in 0..100_000 {
        stream.sent(&message);
    }
    recorder.flush(LONG).unwrap();
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        stream.sent(&message);
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(recorder.shutdown(LONG).lost_total(), 0);
}
