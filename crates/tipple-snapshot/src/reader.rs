//! Frames back into values.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::frames::{FRAME_BYTES_MAX, Frames};
use crate::writer::{DEPTH_MAX, SECTION_ELEMENTS_MIN};
use crate::{Dumpable, SnapshotError};

/// Bytes of decoded elements (without what they own) that go from a decoding thread in one message.
const BATCH_BYTES: usize = 512 << 10;
/// Messages that wait for each thread: with the one that is made and the one that is used, 2 MiB.
const BATCHES_WAITING: usize = 2;

/// Gives the bytes of a value: those of frames whose digests held. Holds one frame, and what it was decompressed from.
///
/// No function of it panics about what it reads, and none allocates what a length says.
pub struct Reader<'a> {
    frame: Vec<u8>,
    /// What a compressed frame was made of.
    stored: Vec<u8>,
    at: usize,
    frames: Option<&'a Frames<'a>>,
    /// The frame after this one, and the one that is not its own any more.
    next: usize,
    end: usize,
    /// Raw bytes of the frames from `next` on.
    later_bytes: u64,
    in_section: bool,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// Of the value that `frames` are.
    pub(crate) fn new(frames: &'a Frames<'a>) -> Self {
        Self::part(frames, 0, frames.entries().len(), false)
    }

    fn part(frames: &'a Frames<'a>, next: usize, end: usize, in_section: bool) -> Self {
        Self {
            frame: Vec::with_capacity(FRAME_BYTES_MAX),
            stored: Vec::new(),
            at: 0,
            later_bytes: frames.entries()[next..end]
                .iter()
                .map(|entry| u64::from(entry.raw_bytes))
                .sum(),
            frames: Some(frames),
            next,
            end,
            in_section,
            depth: 0,
        }
    }

    /// Of a value that is in memory, without frames.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Reader<'static> {
        Reader {
            frame: bytes.to_vec(),
            stored: Vec::new(),
            at: 0,
            frames: None,
            next: 0,
            end: 0,
            later_bytes: 0,
            in_section: true,
            depth: 0,
        }
    }

    /// How many bytes of the value are left. A value can tell by it how much it may allocate.
    #[inline]
    pub fn bytes_left(&self) -> u64 {
        (self.frame.len() - self.at) as u64 + self.later_bytes
    }

    pub(crate) fn in_memory(&self) -> &[u8] {
        &self.frame[self.at..]
    }

    #[cold]
    fn next_frame(&mut self) -> Result<(), SnapshotError> {
        let Some(frames) = self.frames.filter(|_| self.next < self.end) else {
            return Err(SnapshotError::damaged(
                "the value ends before it is complete",
            ));
        };
        self.at = 0;
        self.frame.clear();
        frames.fetch(self.next, &mut self.frame, &mut self.stored)?;
        self.later_bytes -= u64::from(frames.entries()[self.next].raw_bytes);
        self.next += 1;
        Ok(())
    }

    /// One byte.
    ///
    /// # Errors
    /// `Damaged` if there is none, or if the next frame is damaged; `Io`. So for all functions of this type.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, SnapshotError> {
        if self.at == self.frame.len() {
            self.next_frame()?;
        }
        let byte = self.frame[self.at];
        self.at += 1;
        Ok(byte)
    }

    /// As many bytes as `out` has.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte).
    #[inline]
    pub fn exact(&mut self, out: &mut [u8]) -> Result<(), SnapshotError> {
        match self.frame.get(self.at..self.at + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                self.at += out.len();
                Ok(())
            }
            None => self.pieces(out.len(), |piece, done| {
                out[done..done + piece.len()].copy_from_slice(piece);
            }),
        }
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte).
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut out = [0; N];
        self.exact(&mut out)?;
        Ok(out)
    }

    /// `len` bytes, whose count was held against what is left.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte).
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<Vec<u8>, SnapshotError> {
        if let Some(bytes) = self.frame.get(self.at..self.at.saturating_add(len)) {
            self.at += len;
            return Ok(bytes.to_vec());
        }
        let mut out = Vec::with_capacity(self.reserve::<u8>(len));
        self.pieces(len, |piece, _| out.extend_from_slice(piece))?;
        Ok(out)
    }

    #[cold]
    fn pieces(
        &mut self,
        len: usize,
        mut each: impl FnMut(&[u8], usize),
    ) -> Result<(), SnapshotError> {
        let mut done = 0;
        while done < len {
            if self.at == self.frame.len() {
                self.next_frame()?;
            }
            let piece = &self.frame[self.at..];
            let piece = &piece[..piece.len().min(len - done)];
            each(piece, done);
            done += piece.len();
            self.at += piece.len();
        }
        Ok(())
    }

    /// What [`Writer::unsigned`](crate::Writer::unsigned) wrote.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte); `Damaged` if it has more than 64 bits, or is longer than it must be.
    #[inline]
    pub fn unsigned(&mut self) -> Result<u64, SnapshotError> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        self.unsigned_rest(first)
    }

    #[inline]
    fn unsigned_rest(&mut self, first: u8) -> Result<u64, SnapshotError> {
        let mut value = u64::from(first & 0x7F);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                if byte == 0 || (shift == 63 && byte > 1) {
                    break;
                }
                return Ok(value);
            }
        }
        Err(overlong())
    }

    /// What [`Writer::unsigned_128`](crate::Writer::unsigned_128) wrote.
    ///
    /// # Errors
    /// As [`unsigned`](Reader::unsigned), with 128 bits.
    pub fn unsigned_128(&mut self) -> Result<u128, SnapshotError> {
        let mut value = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                if (byte == 0 && shift > 0) || (shift == 126 && byte > 3) {
                    break;
                }
                return Ok(value);
            }
        }
        Err(overlong())
    }

    /// What [`Writer::signed`](crate::Writer::signed) wrote.
    ///
    /// # Errors
    /// As [`unsigned`](Reader::unsigned).
    #[inline]
    pub fn signed(&mut self) -> Result<i64, SnapshotError> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// 0 or 1.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte); `Damaged` if it is another byte.
    #[inline]
    pub fn flag(&mut self) -> Result<bool, SnapshotError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(SnapshotError::damaged(format!(
                "{other} stands where 0 or 1 must"
            ))),
        }
    }

    /// The number of a variant of the enum `name`: below `variants`.
    ///
    /// # Errors
    /// As [`unsigned`](Reader::unsigned); `Damaged` if there is no such variant.
    #[inline]
    pub fn variant(&mut self, name: &str, variants: u32) -> Result<u32, SnapshotError> {
        match self.unsigned()? {
            number if number < variants.into() => Ok(number as u32),
            number => Err(SnapshotError::damaged(format!(
                "{name} has the variants 0 to {}, but no {number}",
                variants - 1
            ))),
        }
    }

    /// The length of a collection whose elements take `bytes_min` bytes at least, and more than 0.
    ///
    /// # Errors
    /// As [`unsigned`](Reader::unsigned); `Damaged` if so many could not be in the bytes that are left.
    #[inline]
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, SnapshotError> {
        let count = self.unsigned()?;
        let left = self.bytes_left();
        match usize::try_from(count) {
            Ok(len) if count <= left / bytes_min.max(1) as u64 => Ok(len),
            _ => Err(too_many(count, bytes_min, left)),
        }
    }

    /// For how many of `count` elements to reserve room: all of them, unless they would take much more memory than there are
    /// bytes left, as only a file does that somebody made for it.
    pub fn reserve<E>(&self, count: usize) -> usize {
        let bytes_max = self.bytes_left().saturating_mul(16).saturating_add(4096);
        let fit = bytes_max / size_of::<E>().max(1) as u64;
        count.min(usize::try_from(fit).unwrap_or(usize::MAX))
    }

    /// A text.
    ///
    /// # Errors
    /// As [`count`](Reader::count); `Damaged` if it is no UTF-8.
    #[inline]
    pub fn text(&mut self) -> Result<String, SnapshotError> {
        let len = self.count(1)?;
        if let Some(bytes) = self.frame.get(self.at..self.at + len) {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| no_text())?
                .to_owned();
            self.at += len;
            return Ok(text);
        }
        String::from_utf8(self.take(len)?).map_err(|_| no_text())
    }

    /// Something that may contain its like: counts how deep it is.
    ///
    /// # Errors
    /// `Damaged` beyond [`DEPTH_MAX`]; those of `inside`.
    #[inline]
    pub fn nested<T>(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        self.enter()?;
        let value = inside(self)?;
        self.leave();
        Ok(value)
    }

    /// Begins what `leave` ends, where no function is around it.
    #[inline]
    pub(crate) fn enter(&mut self) -> Result<(), SnapshotError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SnapshotError::damaged(format!(
                "the value is nested deeper than {DEPTH_MAX}, which no writer does"
            )));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// The next byte, which stays the next one.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<u8, SnapshotError> {
        if self.at == self.frame.len() {
            self.next_frame()?;
        }
        Ok(self.frame[self.at])
    }

    /// The next `len` bytes, if all of them are in the frame.
    #[cfg(feature = "serde")]
    pub(crate) fn in_frame(&mut self, len: usize) -> Option<&[u8]> {
        let bytes = self.frame.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    /// The elements of a collection, in order. Many of them are decoded by several threads; `each` is called on this one.
    ///
    /// # Errors
    /// As [`byte`](Reader::byte), and those of `each` and of the elements.
    pub fn elements<E: Dumpable>(
        &mut self,
        count: usize,
        mut each: impl FnMut(E) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.nested(|from| {
            if count < SECTION_ELEMENTS_MIN || from.in_section {
                for _ in 0..count {
                    each(E::load(from)?)?;
                }
                return Ok(());
            }
            let (frames, units) = from.section(count)?;
            if frames.threads() == 1 || units.len() == 1 {
                return from.section_here(&units, |from| each(E::load(from)?));
            }
            from.section_parallel(frames, &units, each)
        })
    }

    /// The same, where `each` reads an element itself, on this thread.
    pub(crate) fn elements_with(
        &mut self,
        count: usize,
        mut each: impl FnMut(&mut Self) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.nested(|from| {
            if count < SECTION_ELEMENTS_MIN || from.in_section {
                return (0..count).try_for_each(|_| each(from));
            }
            let (_, units) = from.section(count)?;
            from.section_here(&units, each)
        })
    }

    /// The frames of a collection of `count` elements, which begin with the next frame.
    fn section(&self, count: usize) -> Result<(&'a Frames<'a>, Vec<Unit>), SnapshotError> {
        let misfit = || {
            SnapshotError::damaged(format!(
                "the frames of a collection do not have its {count} elements"
            ))
        };
        let frames = self.frames.ok_or_else(misfit)?;
        if self.at != self.frame.len() {
            return Err(misfit());
        }
        let mut units: Vec<Unit> = Vec::new();
        let mut elements = 0;
        for (number, entry) in (self.next..self.end).zip(&frames.entries()[self.next..self.end]) {
            if !entry.mark.in_section || (elements == count as u64 && !entry.mark.continues) {
                break;
            }
            elements += u64::from(entry.mark.elements);
            match units.last_mut() {
                Some(unit) if entry.mark.continues => {
                    unit.end = number + 1;
                    unit.elements += u64::from(entry.mark.elements);
                }
                None if entry.mark.continues => return Err(misfit()),
                _ if entry.mark.elements == 0 => return Err(misfit()),
                _ => units.push(Unit {
                    next: number,
                    end: number + 1,
                    elements: entry.mark.elements.into(),
                }),
            }
        }
        match elements == count as u64 {
            true => Ok((frames, units)),
            false => Err(misfit()),
        }
    }

    fn section_here(
        &mut self,
        units: &[Unit],
        mut each: impl FnMut(&mut Self) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.in_section = true;
        for unit in units {
            for _ in 0..unit.elements {
                each(self)?;
            }
            if self.at != self.frame.len() || self.next != unit.end {
                return Err(unused(unit));
            }
        }
        self.in_section = false;
        Ok(())
    }

    fn section_parallel<E: Dumpable>(
        &mut self,
        frames: &'a Frames<'a>,
        units: &[Unit],
        mut each: impl FnMut(E) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        let threads = frames.threads().min(units.len());
        let depth = self.depth;
        thread::scope(|scope| {
            let mut batches: Vec<Receiver<Batch<E>>> = Vec::with_capacity(threads);
            for first in 0..threads {
                let (to, from) = sync_channel(BATCHES_WAITING);
                batches.push(from);
                let decode = move || {
                    let own = units.iter().skip(first).step_by(threads);
                    let decoded = catch_unwind(AssertUnwindSafe(|| {
                        own.into_iter()
                            .try_for_each(|unit| decode_unit(frames, unit, depth, &to))
                    }));
                    let error = match decoded {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => error,
                        Err(panic) => SnapshotError::panicked("loading a value", &*panic),
                    };
                    // Whoever does not listen any more has an error already.
                    let _ = to.send(Err(error));
                };
                thread::Builder::new()
                    .name("snapshot-load".to_owned())
                    .stack_size(DECODER_STACK_BYTES)
                    .spawn_scoped(scope, decode)
                    .map_err(|error| {
                        SnapshotError::io("cannot start a thread that decodes", error)
                    })?;
            }
            for (n, unit) in units.iter().enumerate() {
                let mut elements = 0;
                while elements < unit.elements {
                    let batch = batches[n % threads]
                        .recv()
                        .expect("it sends all, or why not");
                    for element in batch? {
                        each(element)?;
                        elements += 1;
                    }
                }
            }
            // Here the receivers go, so that a thread whose elements nobody wants ends.
            drop(batches);
            Ok::<_, SnapshotError>(())
        })?;
        let end = units.last().map_or(self.next, |unit| unit.end);
        for entry in &frames.entries()[self.next..end] {
            self.later_bytes -= u64::from(entry.raw_bytes);
        }
        self.next = end;
        Ok(())
    }

    /// That the value ended where the file says that it ends.
    pub(crate) fn finish(self) -> Result<(), SnapshotError> {
        match self.bytes_left() {
            0 => Ok(()),
            left => Err(SnapshotError::damaged(format!(
                "{left} bytes are left after the end of the value"
            ))),
        }
    }
}

/// What nested collections may need, where the system's default is less.
pub(crate) const DECODER_STACK_BYTES: usize = 8 << 20;

type Batch<E> = Result<Vec<E>, SnapshotError>;

/// Frames that begin and end with elements.
struct Unit {
    next: usize,
    end: usize,
    elements: u64,
}

fn decode_unit<'a, E: Dumpable>(
    frames: &'a Frames<'a>,
    unit: &Unit,
    depth: u32,
    to: &SyncSender<Batch<E>>,
) -> Result<(), SnapshotError> {
    let mut reader = Reader::part(frames, unit.next, unit.end, true);
    reader.depth = depth;
    let batch_max = (BATCH_BYTES / size_of::<E>().max(1)).max(1) as u64;
    let mut left = unit.elements;
    while left > 0 {
        let now = left.min(batch_max);
        // What a forged file claims is held against the bytes that are there.
        let mut batch = Vec::with_capacity(reader.reserve::<E>(now as usize));
        for _ in 0..now {
            batch.push(E::load(&mut reader)?);
        }
        left -= now;
        if left == 0 && reader.bytes_left() > 0 {
            return Err(unused(unit));
        }
        if to.send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cold]
fn unused(unit: &Unit) -> SnapshotError {
    SnapshotError::damaged(format!(
        "frames {} to {} have {} elements, and something else",
        unit.next,
        unit.end - 1,
        unit.elements
    ))
}

#[cold]
fn overlong() -> SnapshotError {
    SnapshotError::damaged("a number has more digits than a writer gives it")
}

#[cold]
fn no_text() -> SnapshotError {
    SnapshotError::damaged("a text is no UTF-8")
}

#[cold]
fn too_many(count: u64, bytes_min: usize, left: u64) -> SnapshotError {
    SnapshotError::damaged(format!(
        "a length of {count}, of elements of {bytes_min} bytes at least, with {left} bytes left"
    ))
}
