//! What the hand-over of buffers is built of: the real thing.

use std::cell::UnsafeCell;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of which two threads hold different ranges.
pub(crate) struct Cells {
    bytes: Box<[UnsafeCell<u8>]>,
}

#[expect(unsafe_code, reason = "see SAFETY")]
// SAFETY: the bytes are reached by `tail_mut` and `up_to` only, whose callers promise that ranges that are written are
// not read meanwhile.
unsafe impl Sync for Cells {}

impl Cells {
    pub(crate) fn new(bytes: usize) -> Cells {
        let zeros: Box<[u8]> = vec![0; bytes].into_boxed_slice();
        let zeros = Box::into_raw(zeros) as *mut [UnsafeCell<u8>];
        #[expect(
            unsafe_code,
            reason = "pages that nobody has touched take no memory, as those of `vec![0; n]`"
        )]
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`, and the box was given up just now.
        let bytes = unsafe { Box::from_raw(zeros) };
        Cells { bytes }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// # Safety
    /// Nobody else may read or write from `at` on while the slice lives.
    #[inline]
    #[expect(
        unsafe_code,
        clippy::mut_from_ref,
        reason = "the promise of the caller"
    )]
    pub(crate) unsafe fn tail_mut(&self, at: usize) -> &mut [u8] {
        let tail = &self.bytes[at..];
        // SAFETY: the range is inside the box, and by the caller's promise it is ours alone.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(tail.as_ptr()), tail.len()) }
    }

    /// # Safety
    /// Nobody may write below `end` while the slice lives, and what was written must be visible to this thread.
    #[inline]
    #[expect(unsafe_code, reason = "the promise of the caller")]
    pub(crate) unsafe fn up_to(&self, end: usize) -> &[u8] {
        let head = &self.bytes[..end];
        // SAFETY: the range is inside the box, and by the caller's promise nobody writes to it.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(head.as_ptr()), head.len()) }
    }
}
