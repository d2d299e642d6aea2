//! Reading a chunk: the end first, then any frame, each verified before it is decoded.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use crate::index::{self, ChunkIndex, FrameEntry};
use crate::seek_table::{self, Foot};
use crate::{
    ChunkError, Damage, Decoder, FrameDigest, INDEX_BYTES_MAX, Place, Sealed, Sha256Digest,
    StoredObject, Usage, frame,
};

/// How much is read first: usually all of the index and the seek table.
const TAIL_BYTES: usize = 16 << 10;
const CHUNK_BYTES_MIN: u64 = index::FIXED_BYTES + seek_table::bytes(0);
const _: () = assert!(CHUNK_BYTES_MIN <= TAIL_BYTES as u64);

/// Reads one chunk, in any order or from its beginning to its end.
pub struct ChunkReader<R> {
    input: R,
    /// Where `input` is, if that is known.
    input_at: Option<u64>,
    chunk_bytes: u64,
    index: ChunkIndex,
    index_sha256: Sha256Digest,
    /// The frame that `next_frame` gives.
    next: usize,
    /// Over the stored frames that `next_frame` gave, if wanted.
    hash: Option<Sha256>,
}

/// A frame that was verified and decoded.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'r, 'd> {
    /// What the index says about it.
    pub entry: &'r FrameEntry,
    /// Its raw bytes.
    pub raw: &'d [u8],
}

impl<R: Read + Seek> ChunkReader<R> {
    /// Opens the chunk that `input` is from its beginning to its end. Reads the end of it, in
    /// one or two reads, and checks all that the index and the seek table say against each other,
    /// against the length of the file and against the limits of the format; memory is allocated
    /// only for what passed ([`INDEX_BYTES_MAX`]).
    ///
    /// With `expected_index`, from the part record, the index is known to be the one that was
    /// sealed. Without it, the index is protected against accidents (by its own checksum), not
    /// against somebody who wrote another.
    ///
    /// # Errors
    /// `Io`, `Damaged`, `FormatVersion`, `TooLarge`.
    pub fn open(
        mut input: R,
        expected_index: Option<&Sha256Digest>,
    ) -> Result<ChunkReader<R>, ChunkError> {
        let chunk_bytes = input
            .seek(SeekFrom::End(0))
            .map_err(ChunkError::io("seek to the end", 0))?;
        let tail = Tail::read(&mut input, chunk_bytes)?;
        let (index_bytes, table_bytes) = tail.bytes.split_at(tail.index_bytes);
        let index_sha256 = Sha256Digest::of(index_bytes);
        if expected_index.is_some_and(|expected| *expected != index_sha256) {
            return Err(ChunkError::Damaged {
                place: Place::Index {
                    offset: tail.offset,
                },
                damage: Damage::Checksum("expected digest of the index"),
            });
        }
        let mut index = index::decode(index_bytes, tail.offset)?;
        seek_table::check(table_bytes, index_bytes.len() as u64, &mut index.frames).map_err(
            ChunkError::damaged(Place::SeekTable {
                offset: tail.table_offset(),
            }),
        )?;
        Ok(ChunkReader {
            input,
            input_at: None,
            chunk_bytes,
            index,
            index_sha256,
            next: 0,
            hash: None,
        })
    }

    /// The same, with a digest of all stored bytes taken on the way: see
    /// [`sealed`](ChunkReader::sealed).
    pub fn hashing(mut self) -> Self {
        self.hash = Some(Sha256::new());
        self
    }

    /// What the chunk says it holds.
    pub fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// The digest of the index frame, as it was read.
    pub fn index_sha256(&self) -> &Sha256Digest {
        &self.index_sha256
    }

    /// Length of the chunk, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Gives back the input, wherever it is now.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Reads, verifies and decodes frame `number`, counted from 0. One read of the stored frame,
    /// after a seek if the input is not there already. On `Ok`, digest, lengths and content
    /// checksum of the whole frame are right.
    ///
    /// # Errors
    /// `Usage` if there is no such frame; `Io`; `Damaged`, with the frame's number and offset.
    /// After any error, other frames can still be read.
    pub fn read_frame<'d>(
        &mut self,
        number: usize,
        decoder: &'d mut Decoder,
    ) -> Result<&'d [u8], ChunkError> {
        let Some(entry) = self.index.frames.get(number) else {
            let frames = self.index.frames.len() as u64;
            return Err(Usage::NoSuchFrame {
                number: number as u64,
                frames,
            }
            .into());
        };
        let stored_len = entry.stored_len as usize;
        let stored = &mut decoder.stored[..stored_len];
        read_at(
            &mut self.input,
            &mut self.input_at,
            entry.offset,
            stored,
            "read a frame",
        )?;
        decode(entry, decoder)
    }

    /// Reads the frame after the one that this function gave last, beginning with the first;
    /// `None` after the last one. [`read_frame`](ChunkReader::read_frame) does not move it, and
    /// neither does an error.
    ///
    /// # Errors
    /// As for [`read_frame`](ChunkReader::read_frame).
    pub fn next_frame<'r, 'd>(
        &'r mut self,
        decoder: &'d mut Decoder,
    ) -> Result<Option<Frame<'r, 'd>>, ChunkError> {
        let number = self.next;
        if number == self.index.frames.len() {
            return Ok(None);
        }
        let raw_len = self.read_frame(number, decoder)?.len();
        self.next = number + 1;
        let entry = &self.index.frames[number];
        if let Some(hash) = &mut self.hash {
            hash.update(&decoder.stored[..entry.stored_len as usize]);
        }
        Ok(Some(Frame {
            entry,
            raw: &decoder.raw[..raw_len],
        }))
    }

    /// What the chunk is, after [`next_frame`](ChunkReader::next_frame) gave all frames of a reader
    /// that is [`hashing`](ChunkReader::hashing): the digest of all its bytes among it. Whether
    /// this is the chunk that one expected is for the caller to compare, or use [`verify`].
    ///
    /// # Errors
    /// `Io` if the end of the chunk cannot be read.
    ///
    /// # Panics
    /// If the reader is not hashing, or has frames left.
    pub fn sealed(&mut self, decoder: &mut Decoder) -> Result<Sealed, ChunkError> {
        assert_eq!(self.next, self.index.frames.len(), "frames are left");
        let mut sha256 = self.hash.take().expect("the reader is hashing");
        let mut at = self.index.data_bytes;
        while at < self.chunk_bytes {
            let len = (self.chunk_bytes - at).min(decoder.stored.len() as u64) as usize;
            let piece = &mut decoder.stored[..len];
            read_at(
                &mut self.input,
                &mut self.input_at,
                at,
                piece,
                "read the index",
            )?;
            sha256.update(piece);
            at += len as u64;
        }
        Ok(self.sealed_as(StoredObject {
            bytes: self.chunk_bytes,
            sha256: sha256.into(),
        }))
    }

    /// What the chunk is, as its index says, if these are its stored bytes: for who took their digest underneath, as a
    /// [`SealedReader`](crate::SealedReader) does.
    pub fn sealed_as(&self, stored: StoredObject) -> Sealed {
        let index = &self.index;
        Sealed {
            stored_bytes: stored.bytes,
            raw_bytes: index.raw_bytes,
            records: index.records,
            frames: index.frames.len() as u32,
            sha256: stored.sha256,
            index_sha256: self.index_sha256,
            first_position: index
                .frames
                .first()
                .map_or_else(Vec::new, |f| f.position.to_vec()),
            last_position: index.last_position.to_vec(),
            begins_inside_record: index.begins_inside_record,
            ends_inside_record: index.ends_inside_record,
        }
    }

    /// The input, wherever it is now; who moves it must not read from the chunk any more.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads the whole chunk once, from its beginning to its end: every frame is verified,
    /// decoded and given to `on_frame`, and all bytes go into the digest that is returned.
    ///
    /// # Errors
    /// `Io`; `Damaged`, with the number and offset of the first frame that is; what `on_frame`
    /// returns.
    pub fn verify_all<E: From<ChunkError>>(
        &mut self,
        decoder: &mut Decoder,
        mut on_frame: impl FnMut(&[u8], &FrameEntry) -> Result<(), E>,
    ) -> Result<Sealed, E> {
        self.next = 0;
        self.hash = Some(Sha256::new());
        while let Some(frame) = self.next_frame(decoder)? {
            on_frame(frame.raw, frame.entry)?;
        }
        Ok(self.sealed(decoder)?)
    }
}

impl<R> fmt::Debug for ChunkReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkReader")
            .field("chunk_bytes", &self.chunk_bytes)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Verifies that `input` is the chunk that `expected` was returned for: its index first, then in
/// one pass every frame, which is decoded and given to `on_frame`, and the digest of all bytes.
///
/// # Errors
/// As for [`ChunkReader::open`] and [`ChunkReader::verify_all`]; `Damaged` if it is another chunk.
pub fn verify<R: Read + Seek, E: From<ChunkError>>(
    input: R,
    expected: &Sealed,
    decoder: &mut Decoder,
    on_frame: impl FnMut(&[u8], &FrameEntry) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = ChunkReader::open(input, Some(&expected.index_sha256))?;
    let found = reader.verify_all(decoder, on_frame)?;
    let damaged = ChunkError::damaged(Place::Chunk {
        bytes: found.stored_bytes,
    });
    for (field, expected, found) in [
        (
            "stored bytes of the chunk",
            expected.stored_bytes,
            found.stored_bytes,
        ),
        (
            "raw bytes of the chunk",
            expected.raw_bytes,
            found.raw_bytes,
        ),
        ("records of the chunk", expected.records, found.records),
        (
            "frames of the chunk",
            expected.frames.into(),
            found.frames.into(),
        ),
    ] {
        if found != expected {
            return Err(damaged(Damage::Mismatch {
                field,
                expected,
                found,
            })
            .into());
        }
    }
    if found.sha256 != expected.sha256 {
        return Err(damaged(Damage::Checksum("expected SHA-256 of the chunk")).into());
    }
    for (field, matches) in [
        (
            "expected first position",
            found.first_position == expected.first_position,
        ),
        (
            "expected last position",
            found.last_position == expected.last_position,
        ),
        (
            "expected beginning",
            found.begins_inside_record == expected.begins_inside_record,
        ),
        (
            "expected end",
            found.ends_inside_record == expected.ends_inside_record,
        ),
    ] {
        if !matches {
            return Err(damaged(Damage::Constant(field)).into());
        }
    }
    Ok(())
}

/// The index frame and the seek table, as they are stored.
struct Tail {
    bytes: Vec<u8>,
    /// Where they begin in the chunk.
    offset: u64,
    index_bytes: usize,
}

impl Tail {
    fn read<R: Read + Seek>(input: &mut R, chunk_bytes: u64) -> Result<Tail, ChunkError> {
        let in_chunk = ChunkError::damaged(Place::Chunk { bytes: chunk_bytes });
        if chunk_bytes < CHUNK_BYTES_MIN {
            return Err(in_chunk(Damage::TooShort {
                least: CHUNK_BYTES_MIN,
            }));
        }
        let mut end = vec![0; chunk_bytes.min(TAIL_BYTES as u64) as usize];
        let end_offset = chunk_bytes - end.len() as u64;
        let input_at = &mut None;
        read_at(input, input_at, end_offset, &mut end, "read the end")?;
        let foot = end
            .last_chunk()
            .expect("a chunk of minimum length has a foot");
        let foot = Foot::decode(foot).map_err(&in_chunk)?;

        // Both lengths come from the file: hold them against its length, then against the limits.
        let room = chunk_bytes.checked_sub(foot.table_bytes).ok_or_else(|| {
            in_chunk(Damage::Mismatch {
                field: "length of the seek table",
                expected: chunk_bytes,
                found: foot.table_bytes,
            })
        })?;
        let in_table = ChunkError::damaged(Place::SeekTable { offset: room });
        let offset = match room.checked_sub(foot.index_bytes) {
            Some(offset) if foot.index_bytes >= index::FIXED_BYTES => offset,
            _ => {
                let (field, found) = ("length of the index", foot.index_bytes);
                return Err(in_table(Damage::Field { field, found }));
            }
        };
        check_limits(input, input_at, &foot, offset)?;

        let tail_bytes = (foot.index_bytes + foot.table_bytes) as usize;
        let bytes = match tail_bytes.checked_sub(end.len()) {
            None | Some(0) => end.split_off(end.len() - tail_bytes),
            Some(missing) => {
                let mut bytes = vec![0; tail_bytes];
                let (front, back) = bytes.split_at_mut(missing);
                read_at(input, input_at, offset, front, "read the index")?;
                back.copy_from_slice(&end);
                bytes
            }
        };
        Ok(Tail {
            bytes,
            offset,
            index_bytes: foot.index_bytes as usize,
        })
    }

    fn table_offset(&self) -> u64 {
        self.offset + self.index_bytes as u64
    }
}

/// Refuses what is too large to be read, unless a newer version explains it.
fn check_limits<R: Read + Seek>(
    input: &mut R,
    input_at: &mut Option<u64>,
    foot: &Foot,
    offset: u64,
) -> Result<(), ChunkError> {
    let place = Place::Index { offset };
    for (quantity, value, limit) in [
        ("index length", foot.index_bytes, INDEX_BYTES_MAX),
        (
            "seek table length",
            foot.table_bytes,
            seek_table::bytes(index::FRAMES_MAX),
        ),
    ] {
        if value > limit {
            let mut head = [0; index::VERSION_BYTES];
            read_at(input, input_at, offset, &mut head, "read the index")?;
            return Err(
                index::foreign_version(&head).unwrap_or(ChunkError::TooLarge {
                    place,
                    quantity,
                    value,
                    limit,
                }),
            );
        }
    }
    Ok(())
}

/// Fills `bytes` from `offset` on, seeking only if `input` is not there.
pub(crate) fn read_at<R: Read + Seek>(
    input: &mut R,
    input_at: &mut Option<u64>,
    offset: u64,
    bytes: &mut [u8],
    operation: &'static str,
) -> Result<(), ChunkError> {
    let was_at = input_at.take(); // unknown after an error
    if was_at != Some(offset) {
        input
            .seek(SeekFrom::Start(offset))
            .map_err(ChunkError::io(operation, offset))?;
    }
    input
        .read_exact(bytes)
        .map_err(ChunkError::io(operation, offset))?;
    *input_at = Some(offset + bytes.len() as u64);
    Ok(())
}

/// Verifies and decodes the stored frame in the decoder's buffer.
fn decode<'d>(entry: &FrameEntry, decoder: &'d mut Decoder) -> Result<&'d [u8], ChunkError> {
    let damaged = ChunkError::damaged(entry.place());
    let (stored_len, raw_len) = (entry.stored_len as usize, entry.raw_len as usize);
    let stored = &decoder.stored[..stored_len];
    // I8: nothing is decoded before the stored bytes are known to be the sealed ones.
    if FrameDigest::of(&[std::io::IoSlice::new(stored)]) != entry.digest {
        return Err(damaged(Damage::Checksum("frame digest")));
    }
    frame::check_header(stored, entry.raw_len).map_err(&damaged)?;
    if frame::stored_checksum(stored) != entry.checksum {
        return Err(damaged(Damage::Checksum("checksum in the seek table")));
    }
    // zstd checks the content checksum, which the header says is there.
    let decoded = decoder
        .decode(stored_len, raw_len)
        .map_err(|reason| damaged(Damage::Undecodable { reason }))?;
    if decoded != raw_len {
        return Err(damaged(Damage::Mismatch {
            field: "decoded length",
            expected: raw_len as u64,
            found: decoded as u64,
        }));
    }
    Ok(&decoder.raw[..raw_len])
}
