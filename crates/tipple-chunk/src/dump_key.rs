//! What protects the small objects of a sealed dump: derived from its key, for this one dump.

use std::fmt;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac;
use zeroize::Zeroizing;

use crate::key_ring::fill_random;
use crate::seal::{SALT_BYTES, aes_key, expand};
use crate::{ChunkError, SealKey, Sha256Digest};

/// The random bytes of a dump from which its [`DumpKey`] is derived. No secret. Text form: as a [`Sha256Digest`].
pub type DumpSalt = Sha256Digest;

/// Authenticates the objects of one dump that are not sealed, and seals the few bytes in them that are.
pub struct DumpKey {
    key: SealKey,
    check: Sha256Digest,
    tags: hmac::Key,
    texts: LessSafeKey,
}

impl DumpKey {
    /// Random bytes for a new dump.
    ///
    /// # Errors
    /// `Io` if the system gives none.
    pub fn random_salt() -> Result<DumpSalt, ChunkError> {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        Ok(Sha256Digest(salt))
    }

    /// The key for the dump of this name and salt.
    pub fn new(key: &SealKey, dump: &str, salt: &DumpSalt) -> DumpKey {
        let root = Salt::new(HKDF_SHA256, salt.as_bytes()).extract(key.bytes());
        let derive = |what: &str| {
            let mut bytes = Zeroizing::new([0; 32]);
            expand(&root, &[what.as_bytes(), dump.as_bytes()], &mut *bytes);
            bytes
        };
        DumpKey {
            key: key.clone(),
            check: Sha256Digest(*derive("tipple dump 1 key ")),
            tags: hmac::Key::new(hmac::HMAC_SHA256, &*derive("tipple dump 1 tags ")),
            texts: aes_key(&*derive("tipple dump 1 texts ")),
        }
    }

    /// The key that it was derived from.
    pub fn key(&self) -> &SealKey {
        &self.key
    }

    /// What tells this key from another one of the same name. No secret.
    pub fn check(&self) -> Sha256Digest {
        self.check
    }

    /// The tag of `bytes` as the object `name`: HMAC-SHA-256.
    pub fn tag(&self, name: &str, bytes: &[u8]) -> Sha256Digest {
        let mut context = hmac::Context::with_key(&self.tags);
        context.update(&(name.len() as u64).to_le_bytes());
        context.update(name.as_bytes());
        context.update(bytes);
        let tag = context.sign();
        Sha256Digest(tag.as_ref().try_into().expect("it has 32 bytes"))
    }

    /// Whether `tag` is that of `bytes` as the object `name`. Takes the same time wherever they differ.
    pub fn has_tag(&self, name: &str, bytes: &[u8], tag: &Sha256Digest) -> bool {
        // Of random-looking tags the time of a comparison tells nothing.
        let [found, given] =
            [&self.tag(name, bytes), tag].map(|tag| hmac::sign(&self.tags, tag.as_bytes()));
        found.as_ref() == given.as_ref()
    }

    /// Seals a few bytes, such as a position, that stand at `place`. 28 bytes longer. A dump may have 2³² of them.
    ///
    /// # Errors
    /// `Io` if the system has no random bytes.
    pub fn seal(&self, place: &str, bytes: &[u8]) -> Result<Vec<u8>, ChunkError> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        let mut sealed = bytes.to_vec();
        self.texts
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut sealed,
            )
            .expect("far below the cipher's limit");
        sealed.splice(0..0, nonce);
        Ok(sealed)
    }

    /// What was sealed at `place`; `None` if `sealed` was not.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk()?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self
            .texts
            .open_in_place(nonce, Aad::from(place), &mut bytes);
        let len = plain.ok()?.len();
        bytes.truncate(len);
        Some(bytes)
    }
}

impl fmt::Debug for DumpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DumpKey({})", self.key.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8, dump: &str, salt: u8) -> DumpKey {
        let key = SealKey::new("k".parse().unwrap(), &[byte; 32]);
        DumpKey::new(&key, dump, &Sha256Digest([salt; 32]))
    }

    #[test]
    fn a_tag_is_of_the_key_the_dump_the_name_and_the_bytes() {
        let dump = key(1, "d", 2);
        let tag = dump.tag("parts/a.json", b"{}");
        assert!(dump.has_tag("parts/a.json", b"{}", &tag));
        assert!(key(1, "d", 2).has_tag("parts/a.json", b"{}", &tag));
        for other in [key(3, "d", 2), key(1, "e", 2), key(1, "d", 3)] {
            assert!(!other.has_tag("parts/a.json", b"{}", &tag));
            assert_ne!(other.check(), dump.check());
        }
        assert!(!dump.has_tag("parts/b.json", b"{}", &tag));
        assert!(!dump.has_tag("parts/a.json", b"{ }", &tag));
        // The border between name and bytes is tagged, too.
        assert!(!dump.has_tag("parts/a.json{", b"}", &tag));
    }

    #[test]
    fn a_few_bytes_open_only_where_they_were_sealed() {
        let dump = key(1, "d", 2);
        for bytes in [&b""[..], b"position", &[7; 63]] {
            let sealed = dump.seal("here", bytes).unwrap();
            assert_eq!(sealed.len(), bytes.len() + 28);
            assert_ne!(dump.seal("here", bytes).unwrap(), sealed);
            assert_eq!(dump.open("here", &sealed).unwrap(), bytes);
            assert_eq!(dump.open("there", &sealed), None);
            assert_eq!(key(1, "e", 2).open("here", &sealed), None);
            for at in 0..sealed.len() {
                let mut wrong = sealed.clone();
                wrong[at] ^= 1;
                assert_eq!(dump.open("here", &wrong), None);
                assert_eq!(dump.open("here", &sealed[..at]), None);
            }
        }
    }
}
