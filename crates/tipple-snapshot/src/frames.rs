//! Frames: the pieces of a file, each with a digest that is held against it before a byte of it is decoded.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_128;

use crate::compression::{self, RATIO_MAX};
use crate::{Compression, SnapshotError, Writer};

/// The most bytes of a frame: what a writer and each decoding thread hold. Part of the format. Stable.
pub(crate) const FRAME_BYTES_MAX: usize = 256 << 10;
/// An entry of the index. Part of the format. Stable.
pub(crate) const ENTRY_BYTES: usize = 32;

/// What a frame is within its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameMark {
    /// Elements of the section that begin in it.
    pub(crate) elements: u32,
    /// It belongs to a large collection.
    pub(crate) in_section: bool,
    /// It begins inside an element.
    pub(crate) continues: bool,
}

/// Where frames go.
pub(crate) trait FrameSink {
    fn frame(&mut self, raw: &[u8], mark: FrameMark) -> Result<(), SnapshotError>;
}

impl FrameSink for Vec<u8> {
    fn frame(&mut self, raw: &[u8], _: FrameMark) -> Result<(), SnapshotError> {
        self.extend_from_slice(raw);
        Ok(())
    }
}

/// What `write` writes, in memory.
pub(crate) fn collect(
    into: &mut Vec<u8>,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut writer = Writer::new(into);
    write(&mut writer)?;
    writer.finish()
}

/// A frame as the index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameEntry {
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) mark: FrameMark,
    /// XXH3-128 of the stored bytes.
    pub(crate) digest: u128,
}

impl FrameEntry {
    pub(crate) fn new(stored: &[u8], raw_bytes: usize, mark: FrameMark) -> Self {
        Self {
            stored_bytes: stored.len() as u32,
            raw_bytes: raw_bytes as u32,
            mark,
            digest: xxh3_128(stored),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let flags = u32::from(self.mark.in_section) | u32::from(self.mark.continues) << 1;
        bytes[..4].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.mark.elements.to_le_bytes());
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(
        bytes: &[u8; ENTRY_BYTES],
        compression: Compression,
    ) -> Result<Self, SnapshotError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let (raw_bytes, flags) = (word(4), word(12));
        if raw_bytes == 0 || raw_bytes as usize > FRAME_BYTES_MAX || flags > 3 {
            return Err(SnapshotError::damaged(format!(
                "the index has a frame of {raw_bytes} bytes with the flags {flags}, which no writer makes"
            )));
        }
        let stored_bytes = word(0);
        let stored_min = match compression {
            Compression::None => raw_bytes,
            // What is in it bounds what a length in it may claim.
            Compression::Lz4 => raw_bytes.div_ceil(RATIO_MAX),
        };
        if !(stored_min..=raw_bytes).contains(&stored_bytes) {
            return Err(SnapshotError::damaged(format!(
                "a frame of {stored_bytes} bytes says that {raw_bytes} are in it"
            )));
        }
        Ok(Self {
            stored_bytes,
            raw_bytes,
            mark: FrameMark {
                elements: word(8),
                in_section: flags & 1 != 0,
                continues: flags & 2 != 0,
            },
            digest: u128::from_le_bytes(bytes[16..].try_into().expect("16 bytes")),
        })
    }
}

/// A file that can be read anywhere.
pub(crate) trait Input: Read + Seek + Send {}
impl<T: Read + Seek + Send> Input for T {}

/// The frames of an open file. Several threads fetch from it.
pub(crate) struct Frames<'a> {
    entries: Vec<FrameEntry>,
    /// Where each of them begins.
    offsets: Vec<u64>,
    input: Mutex<Place<'a>>,
    threads: usize,
    compression: Compression,
}

struct Place<'a> {
    input: &'a mut dyn Input,
    at: Option<u64>,
}

impl<'a> Frames<'a> {
    /// `begin`: where the first frame begins. `threads` decode, at least 1.
    pub(crate) fn new(
        input: &'a mut dyn Input,
        begin: u64,
        entries: Vec<FrameEntry>,
        threads: usize,
        compression: Compression,
    ) -> Self {
        let offsets = entries
            .iter()
            .scan(begin, |at, entry| {
                let offset = *at;
                *at += u64::from(entry.stored_bytes);
                Some(offset)
            })
            .collect();
        Self {
            entries,
            offsets,
            input: Mutex::new(Place { input, at: None }),
            threads: threads.max(1),
            compression,
        }
    }

    pub(crate) fn entries(&self) -> &[FrameEntry] {
        &self.entries
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Puts the raw bytes of frame `number` into `frame`: verified. `stored` is room for what is decompressed.
    pub(crate) fn fetch(
        &self,
        number: usize,
        frame: &mut Vec<u8>,
        stored: &mut Vec<u8>,
    ) -> Result<(), SnapshotError> {
        let (entry, offset) = (&self.entries[number], self.offsets[number]);
        if entry.stored_bytes == entry.raw_bytes {
            return self.fetch_stored(number, frame);
        }
        self.fetch_stored(number, stored)?;
        frame.resize(entry.raw_bytes as usize, 0);
        compression::decompress(self.compression, stored, frame).map_err(|()| {
            SnapshotError::damaged(format!(
                "frame {number}, at byte {offset}, does not decompress to the {} bytes that it says",
                entry.raw_bytes
            ))
        })
    }

    fn fetch_stored(&self, number: usize, frame: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let (entry, offset) = (&self.entries[number], self.offsets[number]);
        frame.resize(entry.stored_bytes as usize, 0);
        {
            let mut place = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            if place.at != Some(offset) {
                place.at = None;
                place
                    .input
                    .seek(SeekFrom::Start(offset))
                    .map_err(reading(offset))?;
            }
            place.at = None;
            place.input.read_exact(frame).map_err(reading(offset))?;
            place.at = Some(offset + u64::from(entry.stored_bytes));
        }
        if xxh3_128(frame) != entry.digest {
            return Err(SnapshotError::damaged(format!(
                "the bytes of frame {number}, at byte {offset}, are not those that were written"
            )));
        }
        Ok(())
    }
}

/// What a failure to read at `offset` means: a file that became shorter, damage that a seal has found, or the disk.
pub(crate) fn reading(offset: u64) -> impl FnOnce(io::Error) -> SnapshotError {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::new(
            crate::ErrorKind::Truncated,
            format!("the file ends within what begins at byte {offset}"),
        ),
        io::ErrorKind::InvalidData => SnapshotError::damaged(format!("at byte {offset}: {error}")),
        _ => SnapshotError::io(format!("cannot read at byte {offset}"), error),
    }
}
