//! Sealing what is written.

use std::fmt;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use crate::key_ring::fill_random;
use crate::seal::{HEADER_BYTES, Header, SALT_BYTES, SEGMENT_BYTES, SegmentCipher, TAG_BYTES};
use crate::{Binding, ChunkError, SealKey, Sha256Digest};

/// What became of an object that was written to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its length, in bytes.
    pub bytes: u64,
    /// The digest of all its bytes.
    pub sha256: Sha256Digest,
}

/// Seals everything that is written to it, and writes it on. Until [`finish`](SealWriter::finish) has returned `Ok`, what
/// was written on is no sealed object, and will not open. Holds [`seal_bytes`](crate::seal_bytes).
pub struct SealWriter<W: Write> {
    out: W,
    cipher: SegmentCipher,
    header: [u8; HEADER_BYTES],
    segment: Vec<u8>,
    segments: u64,
    /// Over the stored bytes, if wanted.
    sha256: Option<Sha256>,
    stored_bytes: u64,
    has_failed: bool,
}

impl<W: Write> SealWriter<W> {
    /// Begins an object that is sealed with `key`, as the one that `binding` says. Writes nothing yet.
    ///
    /// `out` gets one write of a segment at a time (more if it takes only part of it). It is never flushed.
    ///
    /// # Errors
    /// `Io` if the system has no random bytes.
    pub fn new(out: W, key: &SealKey, binding: &Binding<'_>) -> Result<SealWriter<W>, ChunkError> {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        Ok(SealWriter::with_salt(out, key, binding, &salt))
    }

    fn with_salt(
        out: W,
        key: &SealKey,
        binding: &Binding<'_>,
        salt: &[u8; SALT_BYTES],
    ) -> SealWriter<W> {
        let (header, cipher) = Header::seal(key, binding, salt);
        SealWriter {
            out,
            cipher,
            header: header.bytes,
            segment: Vec::with_capacity(SEGMENT_BYTES + TAG_BYTES),
            segments: 0,
            sha256: Some(Sha256::new()),
            stored_bytes: 0,
            has_failed: false,
        }
    }

    /// The same, for objects that nobody names after their digest: it costs more than the cipher does.
    pub fn without_digest(mut self) -> SealWriter<W> {
        self.sha256 = None;
        self
    }

    /// Seals the last segment. `Ok` means that `out` has taken a whole sealed object; to make it durable is the caller's
    /// business.
    ///
    /// # Errors
    /// `Io` if `out` fails or failed before; the object is lost then.
    ///
    /// # Panics
    /// If it is [`without_digest`](SealWriter::without_digest): that one is to be [closed](SealWriter::close).
    pub fn finish(mut self) -> Result<(W, StoredObject), ChunkError> {
        self.put_last()?;
        let stored = StoredObject {
            bytes: self.stored_bytes,
            sha256: self.sha256.expect("it takes a digest").into(),
        };
        Ok((self.out, stored))
    }

    /// As [`finish`](SealWriter::finish), with the length only.
    ///
    /// # Errors
    /// As there.
    pub fn close(mut self) -> Result<(W, u64), ChunkError> {
        self.put_last()?;
        Ok((self.out, self.stored_bytes))
    }

    fn put_last(&mut self) -> Result<(), ChunkError> {
        let at = self.stored_bytes;
        self.put_segment(true)
            .map_err(ChunkError::io("write the last segment", at))
    }

    fn put_segment(&mut self, is_last: bool) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::other(
                "an earlier write failed: it must be written again from its beginning",
            ));
        }
        self.has_failed = true; // until all is well
        if self.segments == 0 {
            self.out.write_all(&self.header)?;
            if let Some(sha256) = &mut self.sha256 {
                sha256.update(self.header);
            }
            self.stored_bytes = HEADER_BYTES as u64;
        }
        self.cipher
            .seal(&self.header, self.segments, is_last, &mut self.segment);
        self.out.write_all(&self.segment)?;
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&self.segment);
        }
        self.stored_bytes += self.segment.len() as u64;
        self.segments += 1;
        self.segment.clear();
        self.has_failed = false;
        Ok(())
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full segment waits for the next byte: only then it is known not to be the last.
        if self.segment.len() == SEGMENT_BYTES && !bytes.is_empty() {
            self.put_segment(false)?;
        }
        let taken = bytes.len().min(SEGMENT_BYTES - self.segment.len());
        self.segment.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Does nothing: a segment is written when it is full, or the last.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> fmt::Debug for SealWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealWriter")
            .field("segments", &self.segments)
            .field("stored_bytes", &self.stored_bytes)
            .field("has_failed", &self.has_failed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Purpose;

    /// The test vector of FORMAT.md: what is sealed is the same bytes for ever, given the salt.
    #[test]
    fn the_test_vector() {
        let fixture = |name: &str| {
            let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1");
            std::fs::read(format!("{dir}/{name}")).unwrap()
        };
        let mut plain = fixture("zstd.zst");
        plain.resize(70_000, 0);
        let bytes = std::array::from_fn(|n| n as u8);
        let key = SealKey::new("example".parse().unwrap(), &bytes);
        let binding = Binding {
            purpose: Purpose::Chunk,
            dump: "0123456789abcdef",
            part: "p-00000042",
            number: 7,
        };
        let mut writer = SealWriter::with_salt(Vec::new(), &key, &binding, &[0xA5; 32]);
        writer.write_all(&plain).unwrap();
        let (sealed, stored) = writer.finish().unwrap();
        assert_eq!(stored.sha256, Sha256Digest::of(&sealed));
        assert_eq!(stored.bytes, sealed.len() as u64);
        assert_eq!(stored.bytes, crate::sealed_bytes(plain.len() as u64));
        assert!(sealed == fixture("example.sealed"));
    }
}
