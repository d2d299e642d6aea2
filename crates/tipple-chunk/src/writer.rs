//! Writing a chunk: data frames, the index frame, the seek table, and the digests of them all.

use std::fmt;
use std::io::{self, IoSlice, Write};
use std::ops::{Deref, DerefMut};

use xxhash_rust::xxh64::Xxh64;

use crate::digest::FrameHasher;
use crate::frame::{self, RawBlocks};
use crate::index::{self, Totals, mark_fits};
use crate::output::Output;
use crate::{
    ChunkError, Content, Encoder, FRAME_BYTES_MAX, FRAMES_WRITTEN_MAX, FrameDigest,
    INDEX_BYTES_WRITTEN_MAX, POSITION_BYTES_MAX, Place, SealWriter, Sha256Digest, Usage,
    seek_table,
};

/// Where records begin in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMark<'a> {
    /// How many records begin in the frame.
    pub records: u32,
    /// Where the first of them begins, in bytes from the beginning of the raw frame. `None` if
    /// and only if `records` is 0.
    pub first_record: Option<u32>,
    /// The position of the first of them, at most [`POSITION_BYTES_MAX`] bytes; empty if the
    /// content has no positions.
    pub position: &'a [u8],
}

/// What is known about a chunk that was written to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Length of the chunk, in bytes.
    pub stored_bytes: u64,
    /// Raw bytes in it.
    pub raw_bytes: u64,
    /// Records that begin in it.
    pub records: u64,
    /// Data frames in it.
    pub frames: u32,
    /// The digest of all its bytes.
    pub sha256: Sha256Digest,
    /// The digest of its index frame. A reader that knows it can trust the index, and by the
    /// index each single frame, without reading the rest.
    pub index_sha256: Sha256Digest,
    /// The position of the first frame; empty if there is none.
    pub first_position: Vec<u8>,
    /// The position of the last record; empty if there is none.
    pub last_position: Vec<u8>,
    /// The chunk begins inside a record that began in the previous chunk of the part.
    pub begins_inside_record: bool,
    /// The chunk ends inside a record that goes on in the next chunk of the part.
    pub ends_inside_record: bool,
}

/// Writes one chunk. Until [`finish`](ChunkWriter::finish) has returned `Ok`, what was written is
/// not a chunk; a writer that is dropped leaves it so.
pub struct ChunkWriter<'e, W: Write> {
    out: Output<W>,
    encoder: Lent<'e>,
    content: Content,
    begins_inside_record: bool,
    /// Of the frames, before they are sealed.
    stored_bytes: u64,
    raw_bytes: u64,
    records: u64,
    frames: u32,
    first_position: Vec<u8>,
    has_failed: bool,
}

/// The encoder of a chunk: somebody's, who has it back afterwards, or the chunk's own.
enum Lent<'e> {
    Borrowed(&'e mut Encoder),
    Owned(Box<Encoder>),
}

impl Deref for Lent<'_> {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        match self {
            Lent::Borrowed(encoder) => encoder,
            Lent::Owned(encoder) => encoder,
        }
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Encoder {
        match self {
            Lent::Borrowed(encoder) => encoder,
            Lent::Owned(encoder) => encoder,
        }
    }
}

impl<W: Write> ChunkWriter<'static, W> {
    /// As [`new`](ChunkWriter::new), with an encoder of its own, for who keeps a chunk open for long.
    pub fn owning(out: W, encoder: Box<Encoder>, content: &Content) -> ChunkWriter<'static, W> {
        ChunkWriter::begin(Output::plain(out), Lent::Owned(encoder), content, false)
    }
}

impl<'e, W: Write> ChunkWriter<'e, W> {
    /// Begins a chunk. Writes nothing yet.
    ///
    /// `out` gets one [`write_vectored`](Write::write_vectored) of a compressed frame, or of a raw
    /// block of 128 KiB, at a time (more if it takes only part of it), so it needs no buffer of its own. It is never flushed.
    pub fn new(
        out: W,
        encoder: &'e mut Encoder,
        content: &Content,
        begins_inside_record: bool,
    ) -> ChunkWriter<'e, W> {
        let encoder = Lent::Borrowed(encoder);
        ChunkWriter::begin(Output::plain(out), encoder, content, begins_inside_record)
    }

    /// The same for a chunk that is sealed on its way to `out`: what [`Sealed`] says of stored bytes is about the sealed
    /// ones.
    pub fn sealing(
        out: SealWriter<W>,
        encoder: &'e mut Encoder,
        content: &Content,
        begins_inside_record: bool,
    ) -> ChunkWriter<'e, W> {
        let encoder = Lent::Borrowed(encoder);
        ChunkWriter::begin(Output::Sealed(out), encoder, content, begins_inside_record)
    }

    fn begin(
        out: Output<W>,
        mut encoder: Lent<'e>,
        content: &Content,
        begins_inside_record: bool,
    ) -> ChunkWriter<'e, W> {
        let tables = &mut *encoder;
        index::begin(&mut tables.index);
        seek_table::begin(&mut tables.seek_table);
        ChunkWriter {
            out,
            encoder,
            content: *content,
            begins_inside_record,
            stored_bytes: 0,
            raw_bytes: 0,
            records: 0,
            frames: 0,
            first_position: Vec::new(),
            has_failed: false,
        }
    }

    /// Writes `raw`, 1 to [`FRAME_BYTES_MAX`] bytes, as one frame.
    ///
    /// # Errors
    /// `Usage` if `raw` is empty, or `mark` does not fit it; `TooLarge` if `raw` or the position
    /// is too long, or the chunk [is full](ChunkWriter::is_full): nothing was written, the writer
    /// can go on. `Io`, `Codec`: the chunk is lost; every later call is refused.
    pub fn frame(&mut self, raw: &[u8], mark: FrameMark<'_>) -> Result<(), ChunkError> {
        self.check(raw, &mark)?;
        let place = self.next_place();
        self.has_failed = true; // until all is well
        let (stored_len, digest, checksum) = match self.encoder.compress(raw, place) {
            Some(stored) => {
                let stored = stored?;
                let mut slices = [IoSlice::new(stored)];
                let digest = FrameDigest::of(&slices);
                let stored_len = stored.len();
                let checksum = frame::stored_checksum(stored);
                self.out
                    .write_all(&mut slices)
                    .map_err(ChunkError::io("write a frame", self.stored_bytes))?;
                (stored_len, digest, checksum)
            }
            None => {
                let (digest, checksum) = self
                    .raw_blocks(raw)
                    .map_err(ChunkError::io("write a frame", self.stored_bytes))?;
                (frame::raw_blocks_bytes(raw.len()), digest, checksum)
            }
        };
        assert!(
            stored_len <= frame::STORED_BYTES_MAX,
            "zstd keeps its own bound"
        );
        let (stored_len, raw_len) = (stored_len as u32, raw.len() as u32);
        let tables = &mut *self.encoder;
        index::push(&mut tables.index, stored_len, raw_len, &mark, digest);
        seek_table::push(&mut tables.seek_table, stored_len, raw_len, checksum);
        if self.frames == 0 {
            self.first_position = mark.position.to_vec();
        }
        self.frames += 1;
        self.stored_bytes += u64::from(stored_len);
        self.raw_bytes += u64::from(raw_len);
        self.records += u64::from(mark.records);
        self.has_failed = false;
        Ok(())
    }

    /// Writes a frame of raw blocks. Each block passes the three hashes and the write while it is in the core's cache:
    /// one pass after the other over the whole frame took a tenth more of the time of a dump.
    fn raw_blocks(&mut self, raw: &[u8]) -> io::Result<(FrameDigest, u32)> {
        let mut digest = FrameHasher::default();
        let mut raw_hash = Xxh64::new(0);
        let stored = RawBlocks::new(raw);
        let mut blocks = stored.blocks().peekable();
        while let Some(([frame_header, block_header], block)) = blocks.next() {
            raw_hash.update(block);
            let checksum = frame::checksum(raw_hash.digest()).to_le_bytes();
            let end: &[u8] = if blocks.peek().is_none() {
                &checksum
            } else {
                &[]
            };
            let mut slices = [frame_header, block_header, block, end].map(IoSlice::new);
            for slice in &slices {
                digest.update(slice);
            }
            self.out.write_all(&mut slices)?;
        }
        Ok((digest.finish(), frame::checksum(raw_hash.digest())))
    }

    fn check(&self, raw: &[u8], mark: &FrameMark<'_>) -> Result<(), ChunkError> {
        if self.has_failed {
            return Err(Usage::WriterFailed.into());
        }
        if raw.is_empty() {
            return Err(Usage::EmptyFrame.into());
        }
        let place = self.next_place();
        let raw_len = raw.len() as u64;
        check_limit(place, "raw length", raw_len, FRAME_BYTES_MAX as u64)?;
        if !mark_fits(mark.records, mark.first_record, raw_len) {
            let FrameMark {
                records,
                first_record,
                ..
            } = *mark;
            return Err(Usage::Mark {
                records,
                first_record,
                raw_len,
            }
            .into());
        }
        check_position(place, mark.position)?;
        let index_bytes = index::bytes_with(&self.encoder.index, mark.position.len());
        check_limit(place, "index length", index_bytes, INDEX_BYTES_WRITTEN_MAX)
    }

    /// Raw bytes in the frames so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Bytes of the frames so far. The finished chunk has more: its index and its seek table, and the seal if there is
    /// one ([`sealed_bytes`](crate::sealed_bytes)).
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Frames so far.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Records that begin in the frames so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the chunk should be finished since its index might not hold one more frame. Only
    /// chunks of many small frames get there: see [`INDEX_BYTES_WRITTEN_MAX`].
    pub fn is_full(&self) -> bool {
        index::bytes_with(&self.encoder.index, POSITION_BYTES_MAX) > INDEX_BYTES_WRITTEN_MAX
    }

    /// Writes the index and the seek table. `Ok` means that `out` has taken a whole chunk; to
    /// make it durable is the caller's business.
    ///
    /// `last_position` is the position of the last record that begins in the chunk.
    ///
    /// # Errors
    /// `TooLarge` if the last position is too long. `Io` if `out` fails. `Usage` if it failed
    /// before. In every case the chunk is lost, and `out` is dropped.
    pub fn finish(
        mut self,
        ends_inside_record: bool,
        last_position: &[u8],
    ) -> Result<(W, Sealed), ChunkError> {
        if self.has_failed {
            return Err(Usage::WriterFailed.into());
        }
        check_position(
            Place::Index {
                offset: self.stored_bytes,
            },
            last_position,
        )?;
        let Encoder {
            index, seek_table, ..
        } = &mut *self.encoder;
        let totals = Totals {
            content: self.content,
            begins_inside_record: self.begins_inside_record,
            ends_inside_record,
            frames: self.frames,
            raw_bytes: self.raw_bytes,
            records: self.records,
            data_bytes: self.stored_bytes,
            last_position,
        };
        index::finish(index, &totals);
        seek_table::finish(seek_table, index.len() as u32, self.frames);
        // Both buffers are the encoder's, which promised their size: they must not have grown.
        assert!(index.len() as u64 <= INDEX_BYTES_WRITTEN_MAX);
        assert!(seek_table.len() as u64 <= seek_table::bytes(FRAMES_WRITTEN_MAX));

        self.out
            .write_all(&mut [IoSlice::new(index), IoSlice::new(seek_table)])
            .map_err(ChunkError::io("write the index", self.stored_bytes))?;
        let index_sha256 = Sha256Digest::of(index);
        let (out, stored) = self.out.finish()?;
        let sealed = Sealed {
            stored_bytes: stored.bytes,
            raw_bytes: self.raw_bytes,
            records: self.records,
            frames: self.frames,
            sha256: stored.sha256,
            index_sha256,
            first_position: self.first_position,
            last_position: last_position.to_vec(),
            begins_inside_record: self.begins_inside_record,
            ends_inside_record,
        };
        Ok((out, sealed))
    }

    fn next_place(&self) -> Place {
        Place::Frame {
            number: self.frames,
            offset: self.stored_bytes,
        }
    }
}

impl<W: Write> fmt::Debug for ChunkWriter<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkWriter")
            .field("content", &self.content)
            .field("frames", &self.frames)
            .field("stored_bytes", &self.stored_bytes)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

fn check_position(place: Place, position: &[u8]) -> Result<(), ChunkError> {
    check_limit(
        place,
        "position length",
        position.len() as u64,
        POSITION_BYTES_MAX as u64,
    )
}

fn check_limit(
    place: Place,
    quantity: &'static str,
    value: u64,
    limit: u64,
) -> Result<(), ChunkError> {
    if value <= limit {
        Ok(())
    } else {
        Err(ChunkError::TooLarge {
            place,
            quantity,
            value,
            limit,
        })
    }
}
