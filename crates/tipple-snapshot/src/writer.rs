//! Values into frames.

use crate::frames::{FRAME_BYTES_MAX, FrameMark, FrameSink};
use crate::{ErrorKind, SnapshotError};

/// A collection of so many elements has frames of its own, cut between elements, so that they can be decoded in parallel.
/// Part of the format. Stable.
pub(crate) const SECTION_ELEMENTS_MIN: usize = 1024;
/// A frame of a section ends with the element that takes it past this.
const SECTION_FRAME_BYTES: usize = FRAME_BYTES_MAX / 4 * 3;
/// How deep collections may be nested: a reader must not run out of stack. Part of the format. Stable.
pub const DEPTH_MAX: u32 = 128;

/// Takes the bytes of a value, and cuts them into frames. Holds one frame, whatever the value's size.
pub struct Writer<'a> {
    frame: Vec<u8>,
    sink: &'a mut dyn FrameSink,
    in_section: bool,
    /// The frame begins inside an element.
    continues: bool,
    /// Elements that begin in the frame.
    elements: u32,
    depth: u32,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(sink: &'a mut dyn FrameSink) -> Self {
        Self {
            frame: Vec::with_capacity(FRAME_BYTES_MAX),
            sink,
            in_section: false,
            continues: false,
            elements: 0,
            depth: 0,
        }
    }

    /// Ends the last frame.
    pub(crate) fn finish(mut self) -> Result<(), SnapshotError> {
        self.cut(false)
    }

    #[inline]
    fn room(&self) -> usize {
        FRAME_BYTES_MAX - self.frame.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// `Io`, `Cancelled`: the snapshot is given up, and nothing more should be written. So for all functions of this type.
    #[inline]
    pub fn byte(&mut self, byte: u8) -> Result<(), SnapshotError> {
        if self.room() == 0 {
            self.cut(true)?;
        }
        self.frame.push(byte);
        Ok(())
    }

    /// Bytes as they are, without their length.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if bytes.len() > self.room() {
            return self.many_bytes(bytes);
        }
        self.frame.extend_from_slice(bytes);
        Ok(())
    }

    #[cold]
    fn many_bytes(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            if self.room() == 0 {
                self.cut(true)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.room()));
            self.frame.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// A number as a varint: 7 bits a byte, the lowest first; 1 byte below 128.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn unsigned(&mut self, value: u64) -> Result<(), SnapshotError> {
        if value < 0x80 {
            return self.byte(value as u8);
        }
        let (mut bytes, mut len, mut left) = ([0; 10], 0, value);
        while left >= 0x80 {
            bytes[len] = left as u8 | 0x80;
            left >>= 7;
            len += 1;
        }
        bytes[len] = left as u8;
        self.bytes(&bytes[..=len])
    }

    /// The same for 128 bits.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    pub fn unsigned_128(&mut self, mut value: u128) -> Result<(), SnapshotError> {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80)?;
            value >>= 7;
        }
        self.byte(value as u8)
    }

    /// A number that may be negative: 0, -1, 1, -2, 2, … as the varints 0, 1, 2, 3, 4, …
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn signed(&mut self, value: i64) -> Result<(), SnapshotError> {
        self.unsigned((value as u64) << 1 ^ (value >> 63) as u64)
    }

    /// The number of an enum's variant.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn variant(&mut self, number: u32) -> Result<(), SnapshotError> {
        self.unsigned(number.into())
    }

    /// The length of what follows, for [`Reader::count`](crate::Reader::count).
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn count(&mut self, count: usize) -> Result<(), SnapshotError> {
        self.unsigned(count as u64)
    }

    /// A text: its length in bytes, then the bytes.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte).
    #[inline]
    pub fn text(&mut self, text: &str) -> Result<(), SnapshotError> {
        self.count(text.len())?;
        self.bytes(text.as_bytes())
    }

    /// The elements of a collection, whose count was written before. `each` writes one of them.
    ///
    /// # Errors
    /// As [`byte`](Writer::byte), and those of `each`; `Value` if the collection does not have `count` elements, or is nested
    /// deeper than [`DEPTH_MAX`].
    pub fn elements<E>(
        &mut self,
        count: usize,
        elements: impl IntoIterator<Item = E>,
        mut each: impl FnMut(E, &mut Self) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.nested(|to| {
            let is_section = count >= SECTION_ELEMENTS_MIN && !to.in_section;
            if is_section {
                to.cut(false)?;
                to.in_section = true;
            }
            let mut given = 0;
            for element in elements {
                to.elements += u32::from(is_section);
                each(element, to)?;
                given += 1;
                // An element that is larger than a frame must not chain all that follow to it.
                if is_section && (to.frame.len() >= SECTION_FRAME_BYTES || to.continues) {
                    to.cut(false)?;
                }
            }
            if is_section {
                to.cut(false)?;
                to.in_section = false;
            }
            if given != count {
                return Err(SnapshotError::value(format!(
                    "a collection said that it has {count} elements, and gave {given}"
                )));
            }
            Ok(())
        })
    }

    /// Something that may contain its like: counts how deep it is.
    ///
    /// # Errors
    /// `Value` beyond [`DEPTH_MAX`]; those of `inside`.
    #[inline]
    pub fn nested(
        &mut self,
        inside: impl FnOnce(&mut Self) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.enter()?;
        inside(self)?;
        self.leave();
        Ok(())
    }

    /// Begins what `leave` ends, where no function is around it.
    #[inline]
    pub(crate) fn enter(&mut self) -> Result<(), SnapshotError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SnapshotError::new(
                ErrorKind::Value,
                format!(
                    "the value is nested deeper than {DEPTH_MAX}: dump a list of its nodes instead"
                ),
            ));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Ends the frame, if anything is in it.
    fn cut(&mut self, inside_element: bool) -> Result<(), SnapshotError> {
        if !self.frame.is_empty() {
            let mark = FrameMark {
                elements: self.elements,
                in_section: self.in_section,
                continues: self.continues,
            };
            self.sink.frame(&self.frame, mark)?;
            self.frame.clear();
            self.elements = 0;
        }
        self.continues = inside_element && self.in_section;
        Ok(())
    }
}
