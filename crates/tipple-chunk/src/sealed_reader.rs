//! Reading what was sealed.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use crate::reader::read_at;
use crate::seal::{HEADER_BYTES, Header, SEALED_BYTES_MIN, SegmentCipher, TAG_BYTES};
use crate::seal_writer::StoredObject;
use crate::{Binding, ChunkError, Damage, KeyRing, Place};

/// Gives the plain bytes of a sealed object, from any position: none but those of a segment that was authenticated as a
/// whole. Holds [`seal_bytes`](crate::seal_bytes), whatever the object says.
///
/// Its `Read` reports a [`ChunkError`] as the inner error of an [`io::Error`]; a [`ChunkReader`](crate::ChunkReader) on
/// top of it gives that error itself.
pub struct SealedReader<R> {
    input: R,
    /// Where `input` is, if that is known.
    input_at: Option<u64>,
    cipher: SegmentCipher,
    header: Header,
    segments: u64,
    stored_bytes: u64,
    plain_bytes: u64,
    /// What is read next.
    at: u64,
    /// A segment, plain: which one, and how long it is.
    loaded: Option<(u64, usize)>,
    segment: Vec<u8>,
    /// Over the stored bytes of the segments before this one, if wanted.
    hash: Option<(Sha256, u64)>,
}

impl<R: Read + Seek> SealedReader<R> {
    /// Opens the sealed object that `input` is from its beginning to its end, as the one that `binding` says, with the
    /// key of `keys` that it names. Reads its header and its last segment: its length is authentic then.
    ///
    /// # Errors
    /// `Key` if the key is not there, or another one of that name; `Damaged` if it was changed, cut, made longer, or
    /// sealed as something else than `binding` says; `Io`, `FormatVersion`.
    pub fn open(
        mut input: R,
        keys: &KeyRing,
        binding: &Binding<'_>,
    ) -> Result<SealedReader<R>, ChunkError> {
        let stored_bytes = input
            .seek(SeekFrom::End(0))
            .map_err(ChunkError::io("seek to the end", 0))?;
        let in_object = ChunkError::damaged(Place::Chunk {
            bytes: stored_bytes,
        });
        if stored_bytes < SEALED_BYTES_MIN {
            return Err(in_object(Damage::TooShort {
                least: SEALED_BYTES_MIN,
            }));
        }
        let mut input_at = None;
        let mut header = [0; HEADER_BYTES];
        read_at(&mut input, &mut input_at, 0, &mut header, "read the header")?;
        let (header, cipher) = Header::open(header, stored_bytes, keys, binding)?;

        let segment_stored = u64::from(header.segment_bytes) + TAG_BYTES as u64;
        let body = stored_bytes - HEADER_BYTES as u64;
        let segments = body.div_ceil(segment_stored);
        let last = body - (segments - 1) * segment_stored;
        // Only nothing at all makes a segment of nothing.
        if last < TAG_BYTES as u64 || (last == TAG_BYTES as u64 && segments > 1) {
            return Err(in_object(Damage::CutOff("last segment")));
        }
        let mut reader = SealedReader {
            input,
            input_at,
            cipher,
            segment: vec![0; segment_stored.min(body) as usize],
            header,
            segments,
            stored_bytes,
            plain_bytes: body - segments * TAG_BYTES as u64,
            at: 0,
            loaded: None,
            hash: None,
        };
        reader.load(segments - 1)?;
        Ok(reader)
    }

    /// The same, with a digest of the stored bytes taken on the way: see [`stored`](SealedReader::stored).
    pub fn hashing(mut self) -> Self {
        self.hash = Some((Sha256::new_with_prefix(self.header.bytes), 0));
        self
    }

    /// The length and the digest of the stored object. Reads only what was not read, from the beginning on, since the
    /// reader is [`hashing`](SealedReader::hashing). Once.
    ///
    /// # Errors
    /// `Io`; `Damaged` if a segment is.
    ///
    /// # Panics
    /// If the reader is not hashing.
    pub fn stored(&mut self) -> Result<StoredObject, ChunkError> {
        while let Some((_, next)) = self.hash
            && next < self.segments
        {
            self.loaded = None;
            self.load(next)?;
        }
        let (sha256, _) = self.hash.take().expect("the reader is hashing");
        Ok(StoredObject {
            bytes: self.stored_bytes,
            sha256: sha256.into(),
        })
    }

    /// Length of the object as it is stored.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Length of what was sealed.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Brings segment `number` into memory, authenticated.
    fn load(&mut self, number: u64) -> Result<(), ChunkError> {
        if self.loaded.is_some_and(|(loaded, _)| loaded == number) {
            return Ok(());
        }
        self.loaded = None;
        let offset = HEADER_BYTES as u64 + number * self.segment_stored();
        let len = self.segment_stored().min(self.stored_bytes - offset) as usize;
        let segment = &mut self.segment[..len];
        let (input, input_at) = (&mut self.input, &mut self.input_at);
        read_at(input, input_at, offset, segment, "read a segment")?;
        if let Some((sha256, next)) = &mut self.hash
            && *next == number
        {
            sha256.update(&*segment);
            *next += 1;
        }
        let is_last = number == self.segments - 1;
        let header = &self.header.bytes;
        // I8: nothing of a segment is used before its tag held.
        let Some(plain) = self.cipher.open(header, number, is_last, segment) else {
            return Err(ChunkError::Damaged {
                place: Place::Segment { number, offset },
                damage: Damage::Tag,
            });
        };
        self.loaded = Some((number, plain));
        Ok(())
    }

    fn segment_stored(&self) -> u64 {
        u64::from(self.header.segment_bytes) + TAG_BYTES as u64
    }
}

impl<R: Read + Seek> Read for SealedReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.plain_bytes || out.is_empty() {
            return Ok(0);
        }
        let segment_bytes = u64::from(self.header.segment_bytes);
        self.load(self.at / segment_bytes)
            .map_err(|error| match error {
                // What the input said, as it said it.
                ChunkError::Io { source, .. } => source,
                error => io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
        let (_, plain) = self.loaded.expect("it was loaded");
        let begin = (self.at % segment_bytes) as usize;
        let len = out.len().min(plain - begin);
        out[..len].copy_from_slice(&self.segment[begin..begin + len]);
        self.at += len as u64;
        Ok(len)
    }
}

impl<R> Seek for SealedReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.plain_bytes.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl<R> fmt::Debug for SealedReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedReader")
            .field("stored_bytes", &self.stored_bytes)
            .field("segments", &self.segments)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}
