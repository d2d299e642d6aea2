//! The hand-over of a buffer in every order of its steps.
#![allow(
    dead_code,
    reason = "the file is that of the crate, of which this test needs a part"
)]

#[path = "../../src/handover.rs"]
mod buffer;

/// The same names as in the crate, under loom's eyes.
mod sync {
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};

    /// One cell a byte: loom sees a read that does not happen after its write.
    pub(crate) struct Cells {
        bytes: Vec<loom::cell::UnsafeCell<u8>>,
    }

    impl Cells {
        pub(crate) fn new(bytes: usize) -> Cells {
            Cells {
                bytes: (0..bytes).map(|_| loom::cell::UnsafeCell::new(0)).collect(),
            }
        }

        pub(crate) fn len(&self) -> usize {
            self.bytes.len()
        }

        /// # Safety
        /// As in the crate.
        #[expect(clippy::mut_from_ref, reason = "as in the crate")]
        pub(crate) unsafe fn tail_mut(&self, at: usize) -> &mut [u8] {
            for byte in &self.bytes[at..] {
                // What is about to be written.
                byte.with_mut(|_| ());
            }
            vec![7; self.bytes.len() - at].leak()
        }

        /// # Safety
        /// As in the crate.
        pub(crate) unsafe fn up_to(&self, end: usize) -> &[u8] {
            for byte in &self.bytes[..end] {
                byte.with(|_| ());
            }
            vec![7; end].leak()
        }
    }
}

#[test]
fn what_is_read_was_written_before_in_every_order() {
    loom::model(|| {
        let (mut filling, mut filled) = buffer::buffer(4);
        let writer = loom::thread::spawn(move || {
            for _ in 0..2 {
                filling.room();
                filling.commit(2);
            }
        });
        let first = filled.bytes().len();
        let whole = filled.whole();
        let second = filled.bytes().len();
        assert!(first <= second && first % 2 == 0);
        // Who has let go has written everything.
        assert!(whole.is_none_or(|len| len == 4 && second == 4));
        writer.join().unwrap();
        assert_eq!(filled.whole(), Some(4));
        let (mut filling, filled) = filled.again().unwrap();
        assert!(filled.bytes().is_empty());
        assert_eq!(filling.room().len(), 4);
    });
}
