//! A buffer that one thread writes and another reads, with no lock: the writer appends and then moves the mark, the
//! reader reads up to the mark. It is full when the writer lets go of it.
//!
//! The file is compiled twice: here, and in a test under loom, which tries every order of steps. So it takes what it
//! needs of atomics and cells from `super::sync`.

use super::sync::{Arc, AtomicUsize, Cells, Ordering};

/// Bytes behind a mark.
struct Shared {
    cells: Cells,
    /// So many bytes are written for good.
    mark: AtomicUsize,
}

/// The end that appends. There is one of each buffer; dropping it says that no more will come.
pub(crate) struct Filling {
    shared: Arc<Shared>,
    at: usize,
}

/// The end that reads.
pub(crate) struct Filled {
    shared: Arc<Shared>,
}

/// A buffer of `bytes` zeros, as its two ends.
pub(crate) fn buffer(bytes: usize) -> (Filling, Filled) {
    let shared = Arc::new(Shared {
        cells: Cells::new(bytes),
        mark: AtomicUsize::new(0),
    });
    let filled = Filled {
        shared: Arc::clone(&shared),
    };
    (Filling { shared, at: 0 }, filled)
}

impl Filling {
    /// What can still be written.
    #[inline]
    #[expect(unsafe_code, reason = "see SAFETY")]
    pub(crate) fn room(&mut self) -> &mut [u8] {
        // SAFETY: there is one `Filling` of a buffer, and it is borrowed; readers read below the mark only, which never
        // passes `at`.
        unsafe { self.shared.cells.tail_mut(self.at) }
    }

    /// The first `bytes` of the room are written.
    ///
    /// # Panics
    /// If there is not so much room.
    #[inline]
    pub(crate) fn commit(&mut self, bytes: usize) {
        let at = self.at + bytes;
        assert!(at <= self.shared.cells.len());
        self.at = at;
        // Who sees the mark sees what is below it.
        self.shared.mark.store(at, Ordering::Release);
    }
}

impl Filled {
    /// All that is written so far. What this function gave once stays as it was.
    #[expect(unsafe_code, reason = "see SAFETY")]
    pub(crate) fn bytes(&self) -> &[u8] {
        let mark = self.shared.mark.load(Ordering::Acquire);
        // SAFETY: the writer never touches what is below the mark again; its writes happened before the mark was set,
        // and reading the mark has made them visible here.
        unsafe { self.shared.cells.up_to(mark) }
    }

    /// The most that it can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.shared.cells.len()
    }

    /// How much was written, if the writer has let go: no more will come.
    pub(crate) fn whole(&mut self) -> Option<usize> {
        let shared = Arc::get_mut(&mut self.shared)?;
        Some(shared.mark.load(Ordering::Relaxed))
    }

    /// The two ends of the same memory, empty again. `None` while the writer has not let go.
    pub(crate) fn again(mut self) -> Option<(Filling, Filled)> {
        let shared = Arc::get_mut(&mut self.shared)?;
        shared.mark.store(0, Ordering::Relaxed);
        let filling = Filling {
            shared: Arc::clone(&self.shared),
            at: 0,
        };
        Some((filling, self))
    }
}
