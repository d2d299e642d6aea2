//! The digests of a chunk.
//!
//! | digest | covers | kept in |
//! |---|---|---|
//! | [`Sha256Digest`] | all stored bytes of a chunk; the whole index frame | names and part records, outside the chunk |
//! | [`FrameDigest`] | one stored frame | the index frame |

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use crate::{ChunkError, Usage};

/// A SHA-256 digest. Text form: 64 lowercase hexadecimal digits, as `sha256sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Sha256Digest {
        Sha256Digest(Sha256::digest(bytes).into())
    }

    /// The digest as bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 32 hexadecimal digits (128 bits): what a chunk's name carries.
    pub fn short(&self) -> String {
        hex(&self.0[..16])
    }
}

impl From<Sha256> for Sha256Digest {
    fn from(hasher: Sha256) -> Sha256Digest {
        Sha256Digest(hasher.finalize().into())
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({})", hex(&self.0))
    }
}

impl FromStr for Sha256Digest {
    type Err = ChunkError;

    /// Accepts 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Sha256Digest, ChunkError> {
        let refused = || Usage::Digest {
            given: text.to_owned(),
        };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(refused().into());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let high = hex_value(pair[0]).ok_or_else(refused)?;
            let low = hex_value(pair[1]).ok_or_else(refused)?;
            *byte = high << 4 | low;
        }
        Ok(Sha256Digest(digest))
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sha256Digest, D::Error> {
        struct HexVisitor;

        impl de::Visitor<'_> for HexVisitor {
            type Value = Sha256Digest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sha256Digest, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(HexVisitor)
    }
}

/// The digest of one stored frame: its XXH3-128, in canonical (big-endian) form.
///
/// It tells damage before anything is decoded. It need not resist somebody who forges: who can write a chunk can
/// also write its part record, and against that stand the SHA-256 of the whole chunk, kept elsewhere, and sealing. A
/// second SHA-256 over all bytes took 40 % of the CPU of a dump without compression, and this takes 2 %.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameDigest(pub [u8; FrameDigest::BYTES]);

impl FrameDigest {
    /// Length of a frame digest, in bytes.
    pub const BYTES: usize = 16;

    /// The digest of the stored frame that `slices` are, one after the other.
    pub(crate) fn of(slices: &[IoSlice<'_>]) -> FrameDigest {
        let mut hasher = FrameHasher::default();
        for slice in slices {
            hasher.update(slice);
        }
        hasher.finish()
    }
}

/// A frame digest in the making. This is the only place that knows which hash it is.
#[derive(Default)]
pub(crate) struct FrameHasher(Xxh3Default);

impl FrameHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> FrameDigest {
        FrameDigest(self.0.digest128().to_be_bytes())
    }
}

impl fmt::Display for FrameDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for FrameDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameDigest({})", hex(&self.0))
    }
}

/// The SHA-256 of everything that `reader` still gives, and how many bytes that was.
///
/// This is the quick way to verify a chunk: the digest says that the bytes are those that were
/// sealed, without decoding them. Uses 64 KiB of memory.
///
/// # Errors
/// Those of `reader`, except that interrupted reads are repeated.
pub fn sha256_of<R: Read>(mut reader: R) -> io::Result<(Sha256Digest, u64)> {
    let mut buffer = vec![0; 64 << 10];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((hasher.into(), bytes)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_standard_test_vector() {
        assert_eq!(Sha256Digest::of(b"abc").to_string(), ABC);
        assert_eq!(Sha256Digest::of(b"abc").short(), &ABC[..32]);
        assert_eq!(sha256_of(&b"abc"[..]).unwrap(), (ABC.parse().unwrap(), 3));
    }

    #[test]
    fn a_frame_digest_is_the_same_however_the_frame_is_cut() {
        for slices in [vec![&b"abc"[..]], vec![&b"a"[..], b"", b"bc"]] {
            let slices: Vec<_> = slices.into_iter().map(IoSlice::new).collect();
            // As `printf abc | xxh128sum` prints it.
            let printed = "06b05ab6733a618578af5f94892f3950";
            assert_eq!(FrameDigest::of(&slices).to_string(), printed);
        }
    }

    #[test]
    fn text_form() {
        assert_eq!(
            ABC.to_uppercase()
                .parse::<Sha256Digest>()
                .unwrap()
                .to_string(),
            ABC
        );
        for wrong in [
            "",
            "ba78",
            &ABC[1..],
            &format!("{ABC}0"),
            &ABC.replace('b', "g"),
            &ABC.replace("ba", "é"),
        ] {
            let error = wrong.parse::<Sha256Digest>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("`{wrong}` is no SHA-256 digest: give 64 hexadecimal digits")
            );
        }
    }

    #[test]
    fn serde_form_is_the_text_form() {
        let json = serde_json::to_string(&Sha256Digest::of(b"abc")).unwrap();
        assert_eq!(json, format!("\"{ABC}\""));
        assert_eq!(
            serde_json::from_str::<Sha256Digest>(&json).unwrap(),
            Sha256Digest::of(b"abc")
        );
        assert!(serde_json::from_str::<Sha256Digest>("\"abc\"").is_err());
    }
}
