//! What sealing is: the header of a sealed object, and the keys that are derived for it. FORMAT.md has every byte.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use xxhash_rust::xxh64::xxh64;
use zeroize::Zeroizing;

use crate::key_ring::KEY_BYTES;
use crate::{ChunkError, Damage, KeyId, KeyRing, Place, SealKey};

/// The major version of sealing that this crate writes, and the only one that it reads.
pub(crate) const SEAL_MAJOR: u8 = 1;
pub(crate) const SEAL_MINOR: u8 = 0;

const TAG: &[u8; 8] = b"TPLSEALD";
const CIPHER: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 144;
pub(crate) const SALT_BYTES: usize = 32;
/// What the cipher adds to each segment.
pub(crate) const TAG_BYTES: usize = 16;
/// Plain bytes of each segment but the last, as written.
pub(crate) const SEGMENT_BYTES: usize = 64 << 10;
const SEGMENT_BYTES_MIN: u32 = 4 << 10;
pub(crate) const SEGMENT_BYTES_MAX: u32 = 64 << 10;
const _: () = assert!(SEGMENT_BYTES <= SEGMENT_BYTES_MAX as usize);
/// The length of the shortest sealed object, that of nothing.
pub(crate) const SEALED_BYTES_MIN: u64 = (HEADER_BYTES + TAG_BYTES) as u64;

/// Memory that a [`SealWriter`](crate::SealWriter) or a [`SealedReader`](crate::SealedReader) holds at most: one segment.
pub const fn seal_bytes() -> u64 {
    SEGMENT_BYTES_MAX as u64 + 4096
}

/// The length of what `plain_bytes` become when they are sealed.
pub const fn sealed_bytes(plain_bytes: u64) -> u64 {
    let segments = plain_bytes.div_ceil(SEGMENT_BYTES as u64);
    let segments = if segments == 0 { 1 } else { segments };
    HEADER_BYTES as u64 + plain_bytes + segments * TAG_BYTES as u64
}

/// What an object is within its dump. An object that was sealed as one thing does not open as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A chunk. Its number is its place in the part.
    Chunk = 1,
    /// A plan object. Its number is 0.
    Plan = 2,
    /// A file that the process makes for itself and reads again. Its number is 0.
    Scratch = 3,
    /// A snapshot of a cache. The dump is the cache's name, the part its format version. Its number is 0.
    Snapshot = 4,
}

/// Which object it is that is sealed: where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// What it is.
    pub purpose: Purpose,
    /// The name of the dump.
    pub dump: &'a str,
    /// The name of the part.
    pub part: &'a str,
    /// Its number.
    pub number: u32,
}

/// The header of a sealed object.
pub(crate) struct Header {
    pub(crate) bytes: [u8; HEADER_BYTES],
    pub(crate) segment_bytes: u32,
}

impl Header {
    /// The header of a new object, and the cipher for its segments.
    pub(crate) fn seal(
        key: &SealKey,
        binding: &Binding<'_>,
        salt: &[u8; SALT_BYTES],
    ) -> (Header, SegmentCipher) {
        let derived = Derived::new(key, binding, salt);
        let id = key.id().as_str().as_bytes();
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(TAG);
        bytes[8] = SEAL_MAJOR;
        bytes[9] = SEAL_MINOR;
        bytes[10] = CIPHER;
        bytes[11] = id.len() as u8;
        bytes[12..16].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
        bytes[24..56].copy_from_slice(salt);
        bytes[56..56 + id.len()].copy_from_slice(id);
        bytes[88..104].copy_from_slice(&derived.check);
        bytes[104..136].copy_from_slice(&derived.commitment);
        let checksum = xxh64(&bytes[..136], 0);
        bytes[136..].copy_from_slice(&checksum.to_le_bytes());
        let header = Header {
            bytes,
            segment_bytes: SEGMENT_BYTES as u32,
        };
        (header, derived.cipher)
    }

    /// Checks the header of an object of `stored_bytes`, and finds its key.
    pub(crate) fn open(
        bytes: [u8; HEADER_BYTES],
        stored_bytes: u64,
        keys: &KeyRing,
        binding: &Binding<'_>,
    ) -> Result<(Header, SegmentCipher), ChunkError> {
        let in_object = ChunkError::damaged(Place::Chunk {
            bytes: stored_bytes,
        });
        let in_header = ChunkError::damaged(Place::SealHeader);
        if bytes[..8] != *TAG {
            return Err(in_object(Damage::NotSealed));
        }
        if bytes[8] != SEAL_MAJOR {
            return Err(ChunkError::FormatVersion {
                major: bytes[8],
                minor: bytes[9],
            });
        }
        // Accidents first: what follows is then a wrong key, or somebody's work.
        let checksum = u64::from_le_bytes(*bytes.last_chunk().expect("it has 144"));
        if xxh64(&bytes[..136], 0) != checksum {
            return Err(in_header(Damage::Checksum("checksum of the header")));
        }
        let field = |field, found: u64| in_header(Damage::Field { field, found });
        if bytes[10] != CIPHER {
            return Err(field("cipher", bytes[10].into()));
        }
        let segment_bytes = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes"));
        if !segment_bytes.is_power_of_two()
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
        {
            return Err(field("segment length", segment_bytes.into()));
        }
        let reserved = u64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
        if bytes[9] == SEAL_MINOR && reserved != 0 {
            return Err(field("reserved field", reserved));
        }
        let (id, rest) = bytes[56..88].split_at(usize::from(bytes[11]).min(KeyId::BYTES_MAX));
        let id: KeyId = std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.parse().ok())
            .filter(|_| usize::from(bytes[11]) <= KeyId::BYTES_MAX && rest.iter().all(|&b| b == 0))
            .ok_or_else(|| in_header(Damage::Constant("name of a key")))?;

        let salt = bytes[24..56].try_into().expect("32 bytes");
        let key = keys.get(&id)?;
        let derived = Derived::new(key, binding, salt);
        if derived.check != bytes[88..104] {
            return Err(ChunkError::Key { id, is_there: true });
        }
        if derived.commitment != bytes[104..136] {
            return Err(in_header(Damage::OtherPlace));
        }
        let header = Header {
            bytes,
            segment_bytes,
        };
        Ok((header, derived.cipher))
    }
}

/// What is derived from a key for one object.
struct Derived {
    /// Tells the key from another one of the same name.
    check: [u8; 16],
    /// Tells the object from another one; and the cipher's own key is the only one that gives it.
    commitment: [u8; 32],
    cipher: SegmentCipher,
}

impl Derived {
    fn new(key: &SealKey, binding: &Binding<'_>, salt: &[u8; SALT_BYTES]) -> Derived {
        let root = Salt::new(HKDF_SHA256, salt).extract(key.bytes());
        let mut check = [0; 16];
        expand(&root, &[b"tipple sealed 1 key"], &mut check);
        let mut okm = Zeroizing::new([0; KEY_BYTES + 32]);
        let [purpose, number] = [binding.purpose as u32, binding.number].map(u32::to_le_bytes);
        let [dump, part] =
            [binding.dump, binding.part].map(|name| (name.len() as u32).to_le_bytes());
        let info: [&[u8]; 7] = [
            b"tipple sealed 1 object",
            &purpose,
            &number,
            &dump,
            binding.dump.as_bytes(),
            &part,
            binding.part.as_bytes(),
        ];
        expand(&root, &info, &mut *okm);
        let (file_key, commitment) = okm.split_at(KEY_BYTES);
        Derived {
            check,
            commitment: commitment.try_into().expect("32 bytes"),
            cipher: SegmentCipher(Box::new(aes_key(file_key))),
        }
    }
}

/// Fills `out` from a root key: HKDF-Expand.
pub(crate) fn expand(root: &Prk, info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    root.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("far below 255 times 32 bytes");
}

pub(crate) fn aes_key(bytes: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes"))
}

/// Seals and opens the segments of one object.
pub(crate) struct SegmentCipher(Box<LessSafeKey>);

impl SegmentCipher {
    /// The number of the segment, and whether it is the last, are in the nonce: neither can be changed without notice.
    /// No nonce comes twice, since the key is this object's only.
    fn nonce(number: u64, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        nonce[11] = is_last.into();
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals the plain `segment` in place; its tag comes after it.
    pub(crate) fn seal(
        &self,
        header: &[u8; HEADER_BYTES],
        number: u64,
        is_last: bool,
        segment: &mut Vec<u8>,
    ) {
        self.0
            .seal_in_place_append_tag(Self::nonce(number, is_last), Aad::from(header), segment)
            .expect("a segment is far below the cipher's limit");
    }

    /// Opens a `segment` with its tag in place. The length of what is plain now; `None` if it was not sealed so, and
    /// then nothing in `segment` may be used.
    pub(crate) fn open(
        &self,
        header: &[u8; HEADER_BYTES],
        number: u64,
        is_last: bool,
        segment: &mut [u8],
    ) -> Option<usize> {
        self.0
            .open_in_place(Self::nonce(number, is_last), Aad::from(header), segment)
            .ok()
            .map(|plain| plain.len())
    }
}
