//! The buffers of uploads: so many, so large, for all callers together, allocated once.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::PutPayload;

/// Buffers of one size. Those who need several get them all at once, in the order in which they came, so that nobody waits
/// with a buffer in hand.
pub(super) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
    buffer_bytes: usize,
    buffers_max: usize,
}

#[derive(Default)]
struct State {
    free: Vec<Box<[u8]>>,
    made: usize,
    waiting: VecDeque<u64>,
    tickets: u64,
}

impl Pool {
    pub(super) fn new(buffer_bytes: usize, buffers_max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            returned: Condvar::new(),
            buffer_bytes,
            buffers_max,
        })
    }

    pub(super) fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes as u64
    }

    pub(super) fn buffers_max(&self) -> usize {
        self.buffers_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `count` buffers.
    fn take(self: &Arc<Self>, count: usize) -> Vec<Buffer> {
        assert!(
            (1..=self.buffers_max).contains(&count),
            "{count} of {} buffers",
            self.buffers_max
        );
        let mut state = self.lock();
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push_back(ticket);
        let room = |state: &State| state.free.len() + self.buffers_max - state.made >= count;
        while state.waiting.front() != Some(&ticket) || !room(&state) {
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting.pop_front();
        let taken = (0..count)
            .map(|_| {
                let bytes = state.free.pop().unwrap_or_else(|| {
                    state.made += 1;
                    vec![0; self.buffer_bytes].into_boxed_slice()
                });
                Buffer {
                    bytes,
                    filled: 0,
                    pool: Arc::clone(self),
                }
            })
            .collect();
        drop(state);
        // The next in the row may be served by what is left.
        self.returned.notify_all();
        taken
    }

    /// The `length` bytes of `content` from `offset` on, in buffers that come back when the last copy of the payload is
    /// gone. Waits for them.
    ///
    /// # Errors
    /// The file cannot be read, or ends before.
    pub(super) fn read(
        self: &Arc<Self>,
        content: Content<'_>,
        offset: u64,
        length: u64,
    ) -> io::Result<PutPayload> {
        let buffers = length.div_ceil(self.buffer_bytes()).max(1);
        let mut at = offset;
        let end = offset + length;
        let mut filled = Vec::new();
        for mut buffer in self.take(buffers as usize) {
            let bytes = (end - at).min(self.buffer_bytes()) as usize;
            content.read_exact_at(&mut buffer.bytes[..bytes], at)?;
            buffer.filled = bytes;
            at += bytes as u64;
            filled.push(Bytes::from_owner(buffer));
        }
        Ok(PutPayload::from_iter(filled))
    }
}

/// What is uploaded.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    File(&'a File),
    Memory(&'a [u8]),
}

impl Content<'_> {
    /// # Errors
    /// `UnexpectedEof`: it ends before.
    pub(super) fn read_exact_at(self, into: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(into, at),
            Self::Memory(bytes) => {
                let from = usize::try_from(at).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let bytes = from
                    .checked_add(into.len())
                    .and_then(|end| bytes.get(from..end))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                into.copy_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// A buffer on its way; dropping it gives it back.
struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.lock().free.push(bytes);
        self.pool.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn payloads_are_the_files_bytes() {
        let pool = Pool::new(4, 3);
        let file = file(b"0123456789");
        for content in [Content::File(&file), Content::Memory(b"0123456789")] {
            payloads_are_right(&pool, content);
        }
    }

    fn payloads_are_right(pool: &Arc<Pool>, content: Content<'_>) {
        for (offset, length, pieces) in [(0, 10, 3), (3, 4, 1), (9, 1, 1), (5, 0, 1)] {
            let payload = pool.read(content, offset, length).unwrap();
            assert_eq!(payload.iter().count(), pieces);
            let bytes: Vec<u8> = payload.iter().flatten().copied().collect();
            let (from, to) = (offset as usize, (offset + length) as usize);
            assert_eq!(bytes, b"0123456789"[from..to]);
        }
        let short = pool.read(content, 8, 4).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
        // What failed gave its buffers back.
        let state = pool.lock();
        assert_eq!(state.free.len(), state.made);
    }

    #[test]
    fn there_are_never_more_buffers() {
        let pool = Pool::new(8, 3);
        let (out, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let (pool, out, most) = (&pool, &out, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let count = 1 + (worker + round) % 3;
                        let taken = pool.take(count);
                        let now = out.fetch_add(count, Ordering::SeqCst) + count;
                        most.fetch_max(now, Ordering::SeqCst);
                        out.fetch_sub(count, Ordering::SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 3);
        assert_eq!(pool.lock().made, 3);
        assert_eq!(pool.lock().free.len(), 3);
    }
}
