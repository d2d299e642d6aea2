//! Frames of what is no chunk yet, or never became one: read from the beginning, one after the other, with no index.

use std::fmt;
use std::io::Read;

use crate::{ChunkError, Damage, Decoder, Place, frame};

/// What a skippable frame begins with, but for its last four bits.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Reads the frames of a file that was cut off, or is still written. Skippable frames, such as a chunk's own index, are
/// passed over. Each frame is verified by its own checksum only.
pub struct LooseFrames<R> {
    input: R,
    /// What was read and not given yet: `from..to`.
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    /// Where `from` is in the file.
    offset: u64,
    number: u32,
}

/// A whole frame.
#[derive(Clone, Copy, Debug)]
pub struct LooseFrame<'d> {
    /// Where it begins.
    pub offset: u64,
    /// Its length as it is stored.
    pub stored_len: u32,
    /// Its raw bytes.
    pub raw: &'d [u8],
}

impl<R: Read> LooseFrames<R> {
    /// Begins at the beginning of `input`, which must be where a frame begins.
    pub fn new(input: R) -> LooseFrames<R> {
        LooseFrames {
            input,
            buffer: vec![0; frame::STORED_BYTES_MAX].into_boxed_slice(),
            from: 0,
            to: 0,
            offset: 0,
            number: 0,
        }
    }

    /// The same of what is in memory, with no more memory than that.
    pub fn small(input: R) -> LooseFrames<R>
    where
        R: AsRef<[u8]>,
    {
        let bytes = input.as_ref().len().min(frame::STORED_BYTES_MAX);
        LooseFrames {
            buffer: vec![0; bytes].into_boxed_slice(),
            input,
            from: 0,
            to: 0,
            offset: 0,
            number: 0,
        }
    }

    /// Where the last whole frame ends: what comes after it, if anything does, is a torn tail.
    pub fn whole_bytes(&self) -> u64 {
        self.offset
    }

    /// Reads the next whole frame; `None` at the end, also if that is in the middle of a frame.
    ///
    /// # Errors
    /// `Io`; `Damaged` if there is something else than frames of at most [`FRAME_BYTES_MAX`](crate::FRAME_BYTES_MAX)
    /// bytes, or a checksum does not hold.
    pub fn next_frame<'d>(
        &mut self,
        decoder: &'d mut Decoder,
    ) -> Result<Option<LooseFrame<'d>>, ChunkError> {
        loop {
            if !self.have(SKIPPABLE_HEADER_BYTES)? {
                return Ok(None);
            }
            let header = &self.buffer[self.from..self.to];
            let [magic, len] = [0, 4].map(|at| {
                u32::from_le_bytes(*header[at..].first_chunk().expect("eight bytes are there"))
            });
            if magic & !0xf == SKIPPABLE_MAGIC {
                if !self.skip(SKIPPABLE_HEADER_BYTES as u64 + u64::from(len))? {
                    return Ok(None);
                }
                continue;
            }
            let Some(stored_len) = self.frame_len()? else {
                return Ok(None);
            };
            let place = Place::Frame {
                number: self.number,
                offset: self.offset,
            };
            let stored = &self.buffer[self.from..self.from + stored_len];
            let offset = self.offset;
            let raw = decoder.decode_loose(stored).map_err(|error| match error {
                ChunkError::Damaged { damage, .. } => ChunkError::Damaged { place, damage },
                other => other,
            })?;
            self.from += stored_len;
            self.offset += stored_len as u64;
            self.number += 1;
            return Ok(Some(LooseFrame {
                offset,
                stored_len: stored_len as u32,
                raw,
            }));
        }
    }

    /// Whether there are so many bytes, after reading them if need be.
    fn have(&mut self, bytes: usize) -> Result<bool, ChunkError> {
        while self.to - self.from < bytes && self.fill()? {}
        Ok(self.to - self.from >= bytes)
    }

    /// Reads something; `false` at the end, or when there is no room.
    fn fill(&mut self) -> Result<bool, ChunkError> {
        if self.to == self.buffer.len() {
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        if self.to == self.buffer.len() {
            return Ok(false);
        }
        loop {
            match self.input.read(&mut self.buffer[self.to..]) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    self.to += read;
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ChunkError::io("read a frame", self.offset)(error)),
            }
        }
    }

    /// The length of the frame that begins here, once it is here as a whole.
    fn frame_len(&mut self) -> Result<Option<usize>, ChunkError> {
        loop {
            let here = &self.buffer[self.from..self.to];
            let reason = match zstd_safe::find_frame_compressed_size(here) {
                Ok(len) => return Ok(Some(len)),
                Err(code) => zstd_safe::get_error_name(code),
            };
            let is_short = zstd_safe::get_frame_content_size(here).is_ok();
            if is_short && self.fill()? {
                continue;
            }
            // Nothing more comes: it was cut off, unless it could never have been a frame of ours.
            let is_full = self.to - self.from == self.buffer.len();
            if is_short && !is_full {
                return Ok(None);
            }
            return Err(ChunkError::Damaged {
                place: Place::Frame {
                    number: self.number,
                    offset: self.offset,
                },
                damage: Damage::Undecodable { reason },
            });
        }
    }

    fn skip(&mut self, mut bytes: u64) -> Result<bool, ChunkError> {
        let whole = bytes;
        loop {
            let here = ((self.to - self.from) as u64).min(bytes);
            self.from += here as usize;
            bytes -= here;
            if bytes == 0 {
                self.offset += whole;
                return Ok(true);
            }
            if !self.fill()? {
                return Ok(false);
            }
        }
    }
}

impl<R> fmt::Debug for LooseFrames<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LooseFrames")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkWriter, Codec, Content, Encoder, FrameMark};

    fn chunk() -> (Vec<u8>, Vec<usize>) {
        let encoder = Box::new(Encoder::new(Codec::Zstd { level: 1 }).unwrap());
        let mut writer = ChunkWriter::owning(Vec::new(), encoder, &Content::new("lines", 1));
        let mut ends = Vec::new();
        for frame in 0..5_u8 {
            let raw = vec![frame; 1000 + usize::from(frame)];
            writer.frame(&raw, FrameMark::default()).unwrap();
            ends.push(writer.stored_bytes() as usize);
        }
        let (bytes, _) = writer.finish(false, b"").unwrap();
        (bytes, ends)
    }

    #[test]
    fn whole_frames_are_read_wherever_the_file_is_cut() {
        let (chunk, ends) = chunk();
        let mut decoder = Decoder::new().unwrap();
        for cut in 0..=chunk.len() {
            let mut frames = LooseFrames::new(&chunk[..cut]);
            let mut read = 0;
            while let Some(frame) = frames.next_frame(&mut decoder).unwrap() {
                assert_eq!(frame.raw, vec![read as u8; 1000 + read]);
                read += 1;
            }
            assert_eq!(read, ends.iter().filter(|&&end| end <= cut).count());
            if cut <= ends[4] {
                let whole = ends.iter().rev().find(|&&end| end <= cut).copied();
                assert_eq!(frames.whole_bytes(), whole.unwrap_or(0) as u64);
            }
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let mut decoder = Decoder::new().unwrap();
        let mut frames = LooseFrames::new(&b"{\"ts\":1,\"g\":\"orders\"}\n"[..]);
        assert!(frames.next_frame(&mut decoder).is_err());
        let (mut chunk, ends) = chunk();
        chunk[ends[1] - 1] ^= 1;
        let mut frames = LooseFrames::new(&chunk[..]);
        assert!(frames.next_frame(&mut decoder).unwrap().is_some());
        assert!(frames.next_frame(&mut decoder).is_err());
    }
}
