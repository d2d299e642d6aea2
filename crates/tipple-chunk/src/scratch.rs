//! Files that a process makes for itself, and reads again.

use std::io::{Read, Seek, Write};

use zeroize::Zeroizing;

use crate::key_ring::{KEY_BYTES, fill_random};
use crate::{Binding, ChunkError, KeyRing, Purpose, SealKey, SealWriter, SealedReader};

const BINDING: Binding<'static> = Binding {
    purpose: Purpose::Scratch,
    dump: "",
    part: "",
    number: 0,
};

/// Seals the temporary files of one job, with a key that is in its memory only: what a crash leaves of them, nobody
/// reads.
#[derive(Clone, Debug)]
pub struct Scratch(KeyRing);

impl Scratch {
    /// With a new random key.
    ///
    /// # Errors
    /// `Io` if the system has no random bytes.
    pub fn random() -> Result<Scratch, ChunkError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        fill_random(&mut *key)?;
        Ok(Scratch::new(&key))
    }

    /// With this key.
    pub fn new(key: &[u8; KEY_BYTES]) -> Scratch {
        let id = "scratch".parse().expect("a name");
        Scratch(KeyRing::of(SealKey::new(id, key)))
    }

    /// The key, for another part of the same process. This is the secret itself.
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        self.0.sealing().bytes()
    }

    /// Seals what is written to `out`.
    ///
    /// # Errors
    /// `Io` if the system has no random bytes.
    pub fn writer<W: Write>(&self, out: W) -> Result<SealWriter<W>, ChunkError> {
        SealWriter::new(out, self.0.sealing(), &BINDING)
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// As [`SealedReader::open`].
    pub fn reader<R: Read + Seek>(&self, input: R) -> Result<SealedReader<R>, ChunkError> {
        SealedReader::open(input, &self.0, &BINDING)
    }
}
