//! Sealed dumps: the key of one dump, and what is done with it.
//!
//! Chunks and plan objects are sealed as a whole (`tipple_chunk::SealWriter`). HEAD, PLANNED, part records and DONE stay
//! JSON that everybody can read, and end with a line more than those of a plain dump:
//!
//! ```text
//!   "own_sha256": "…",
//!   "mac": "…"
//! }
//! ```
//!
//! `mac` is the tag (`tipple_chunk::DumpKey::tag`) of the object's name and its bytes without that line. In the chunks of
//! a part record, positions are sealed for the places `<chunk> first` and `<chunk> last`, and `index_sha256` is the tag
//! of the index frame's digest with the name `<chunk> index`: a plain digest would tell a guess from the truth.
//!
//! Not hidden are the names, counts and sizes of all objects, the times, and what the source says of itself.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tipple_chunk::{
    Binding, ChunkError, Damage, DumpKey, DumpSalt, KeyId, KeyRing, Place, Purpose, Scratch,
    SealWriter, SealedReader, Sha256Digest,
};
use tipple_flow::{PartName, PlanBody};
use tipple_store::{ObjectName, ObjectRead};

use crate::error::DumpError;
use crate::layout::{self, ChunkEntry, Head, hex};

/// In HEAD: that the dump is sealed, and with which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The name of the key.
    pub key: KeyId,
    /// Random bytes from which the dump's own keys are derived.
    pub salt: DumpSalt,
    /// Tells the key from another one of the same name.
    pub check: Sha256Digest,
}

/// What the extension of a sealed object ends with.
pub(crate) const SEALED: &str = ".sealed";

/// The key of one sealed dump.
#[derive(Debug)]
pub(crate) struct Sealing {
    dump: String,
    key: DumpKey,
    /// The same key, as readers want it.
    ring: KeyRing,
}

impl Sealing {
    /// For a new dump, with the key of `keys` that seals.
    pub(crate) fn begin(keys: &KeyRing, dump: &str) -> Result<(Self, Seal), DumpError> {
        let salt = DumpKey::random_salt().map_err(DumpError::chunk("--encrypt-key"))?;
        let sealing = Self::new(keys.sealing(), dump, &salt);
        let seal = Seal {
            key: keys.sealing().id().clone(),
            salt,
            check: sealing.key.check(),
        };
        Ok((sealing, seal))
    }

    fn new(key: &tipple_chunk::SealKey, dump: &str, salt: &DumpSalt) -> Self {
        Self {
            dump: dump.to_owned(),
            key: DumpKey::new(key, dump, salt),
            ring: KeyRing::of(key.clone()),
        }
    }

    /// For the dump of `head`, which was read from `bytes`; `None` if it is a plain one and no keys were given.
    ///
    /// # Errors
    /// `Key` if the dump is sealed and its key is not there, or the other way round; `Damaged` if HEAD was changed.
    pub(crate) fn unlock(
        store: &str,
        head: &Head,
        bytes: &[u8],
        keys: Option<&KeyRing>,
    ) -> Result<Option<Self>, DumpError> {
        let refused = |reason: String| {
            let store = store.to_owned();
            DumpError::Key { store, reason }
        };
        match (&head.seal, keys) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(refused(
                "it is not sealed, and --encrypt-key was given: leave that out if a plain dump is what you expect"
                    .to_owned(),
            )),
            (Some(seal), None) => Err(refused(format!(
                "it is sealed with the key `{}`: give --encrypt-key the file that has it",
                seal.key
            ))),
            (Some(seal), Some(keys)) => {
                let key = keys.get(&seal.key).map_err(|error| refused(error.to_string()))?;
                let sealing = Self::new(key, &head.dump, &seal.salt);
                if sealing.key.check() != seal.check {
                    let (id, is_there) = (seal.key.clone(), true);
                    return Err(refused(ChunkError::Key { id, is_there }.to_string()));
                }
                sealing.check_json(store, &layout::object(layout::HEAD), bytes)?;
                Ok(Some(sealing))
            }
        }
    }

    /// The JSON of the object `name` with its mac.
    pub(crate) fn close_json(&self, name: &ObjectName, mut json: Vec<u8>) -> Vec<u8> {
        let mac = self.key.tag(name.as_ref(), &json);
        let end = json.len() - END.len();
        assert_eq!(json[end..], *END, "an object with fields");
        json.truncate(end);
        json.extend_from_slice(BEFORE_MAC);
        json.extend_from_slice(mac.to_string().as_bytes());
        json.extend_from_slice(AFTER_MAC);
        json
    }

    /// Whether `bytes` are those that were written as the object `name` of this dump.
    ///
    /// # Errors
    /// `Damaged`.
    pub(crate) fn check_json(
        &self,
        store: &str,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<(), DumpError> {
        let damaged = |why: &str| DumpError::Damaged {
            store: store.to_owned(),
            object: name.to_string(),
            reason: format!("{why}; restore it, or dump again into another folder"),
        };
        let Some((json, mac)) = split_mac(bytes) else {
            return Err(damaged(
                "has no mac, and the dump is sealed: it was changed",
            ));
        };
        match self.key.has_tag(name.as_ref(), &json, &mac) {
            true => Ok(()),
            false => Err(damaged(
                "its mac does not hold: it was changed, or is of another dump",
            )),
        }
    }

    /// A chunk as a part record of a sealed dump tells of it.
    pub(crate) fn close_entry(&self, mut entry: ChunkEntry) -> Result<ChunkEntry, DumpError> {
        let name = entry.name.clone();
        entry.index_sha256 = self.index_tag(&name, &entry.index_sha256);
        for (position, which) in [
            (&mut entry.first_position, "first"),
            (&mut entry.last_position, "last"),
        ] {
            if !position.is_empty() {
                let bytes = unhex(position).expect("it was just made");
                let sealed = self.key.seal(&format!("{name} {which}"), &bytes);
                *position = hex(&sealed.map_err(DumpError::chunk(&name))?);
            }
        }
        Ok(entry)
    }

    /// The same with its positions as they were; its `index_sha256` stays a tag. `None` if they were sealed for another
    /// place.
    pub(crate) fn open_entry(&self, mut entry: ChunkEntry) -> Option<ChunkEntry> {
        let name = entry.name.clone();
        for (position, which) in [
            (&mut entry.first_position, "first"),
            (&mut entry.last_position, "last"),
        ] {
            if !position.is_empty() {
                let opened = self
                    .key
                    .open(&format!("{name} {which}"), &unhex(position)?)?;
                *position = hex(&opened);
            }
        }
        Some(entry)
    }

    /// What stands for the digest of a chunk's index in a part record.
    pub(crate) fn index_tag(&self, chunk: &str, index_sha256: &Sha256Digest) -> Sha256Digest {
        self.key
            .tag(&format!("{chunk} index"), index_sha256.as_bytes())
    }

    /// Seals the chunk `number` of `part` on its way to `out`.
    pub(crate) fn chunk_writer<W: io::Write>(
        &self,
        out: W,
        part: &PartName,
        number: u32,
    ) -> Result<SealWriter<W>, ChunkError> {
        let binding = self.binding(Purpose::Chunk, part, number);
        SealWriter::new(out, self.key.key(), &binding)
    }

    /// Opens the chunk `number` of `part`.
    pub(crate) fn chunk_reader<R: Read + Seek>(
        &self,
        input: R,
        part: &PartName,
        number: u32,
    ) -> Result<SealedReader<R>, ChunkError> {
        self.reader(input, &self.binding(Purpose::Chunk, part, number))
    }

    /// Opens the plan object of `part`.
    pub(crate) fn plan_reader<R: Read + Seek>(
        &self,
        input: R,
        part: &PartName,
    ) -> Result<SealedReader<R>, ChunkError> {
        self.reader(input, &self.binding(Purpose::Plan, part, 0))
    }

    fn reader<R: Read + Seek>(
        &self,
        input: R,
        binding: &Binding<'_>,
    ) -> Result<SealedReader<R>, ChunkError> {
        SealedReader::open(input, &self.ring, binding).map_err(|error| match error {
            // HEAD says which key it is: with another one it is of another dump.
            ChunkError::Key { .. } => ChunkError::Damaged {
                place: Place::SealHeader,
                damage: Damage::OtherPlace,
            },
            error => error,
        })
    }

    fn binding<'a>(&'a self, purpose: Purpose, part: &'a PartName, number: u32) -> Binding<'a> {
        Binding {
            purpose,
            dump: &self.dump,
            part: part.as_str(),
            number,
        }
    }

    /// A plan object, sealed: bytes in memory, a file beside the one that the source made with the `scratch` key, which
    /// goes.
    pub(crate) fn plan_object(
        &self,
        part: &PartName,
        body: PlanBody,
        scratch: &Scratch,
    ) -> Result<PlanBody, DumpError> {
        let binding = self.binding(Purpose::Plan, part, 0);
        let key = self.key.key();
        let failed = |error| DumpError::chunk(part)(error);
        match body {
            PlanBody::Bytes(bytes) => {
                let mut out = SealWriter::new(Vec::new(), key, &binding).map_err(failed)?;
                io::Write::write_all(&mut out, &bytes).expect("memory takes everything");
                let (sealed, _) = out.finish().map_err(failed)?;
                Ok(PlanBody::Bytes(sealed))
            }
            PlanBody::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(SEALED);
                let sealed = Path::new(&name);
                let file = File::create_new(sealed).map_err(DumpError::disk("create", sealed))?;
                let input = File::open(&path).map_err(DumpError::disk("read", &path))?;
                let at_path = |error| DumpError::chunk(path.display())(error);
                let mut input = scratch.reader(input).map_err(at_path)?;
                let mut out = SealWriter::new(file, key, &binding).map_err(failed)?;
                io::copy(&mut input, &mut out).map_err(DumpError::disk("write", sealed))?;
                out.finish().map_err(DumpError::chunk(sealed.display()))?;
                fs::remove_file(&path).map_err(DumpError::disk("remove", &path))?;
                Ok(PlanBody::File(sealed.to_owned()))
            }
        }
    }
}

const END: &[u8] = b"\n}\n";
const BEFORE_MAC: &[u8] = b",\n  \"mac\": \"";
const AFTER_MAC: &[u8] = b"\"\n}\n";

/// An object's bytes without its mac, and the mac, if it has one.
fn split_mac(bytes: &[u8]) -> Option<(Vec<u8>, Sha256Digest)> {
    let rest = bytes.strip_suffix(AFTER_MAC)?;
    let (rest, mac) = rest.split_last_chunk::<64>()?;
    // One form only: the digits are lower case.
    let mac: Sha256Digest = std::str::from_utf8(mac)
        .ok()?
        .parse()
        .ok()
        .filter(|parsed: &Sha256Digest| parsed.to_string().as_bytes() == mac)?;
    let rest = rest.strip_suffix(BEFORE_MAC)?;
    Some(([rest, END].concat(), mac))
}

/// An object's bytes as those of a plain dump would be.
pub(crate) fn without_mac(bytes: &[u8]) -> Option<Vec<u8>> {
    split_mac(bytes).map(|(json, _)| json)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

/// A chunk that is read: as it is stored, or what was sealed.
pub(crate) enum ChunkInput {
    Plain(Box<dyn ObjectRead>),
    Sealed(Box<SealedReader<Box<dyn ObjectRead>>>),
}

impl Read for ChunkInput {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(out),
            Self::Sealed(input) => input.read(out),
        }
    }
}

impl Seek for ChunkInput {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Plain(input) => input.seek(to),
            Self::Sealed(input) => input.seek(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing(byte: u8) -> Sealing {
        let key = tipple_chunk::SealKey::new("k".parse().unwrap(), &[byte; 32]);
        Sealing::new(&key, "d", &Sha256Digest([9; 32]))
    }

    #[test]
    fn a_mac_is_a_line_more_and_holds_for_the_name_and_every_byte() {
        let name = layout::object("parts/a-00000000.json");
        let json = layout::to_json(&serde_json::json!({"records": 3}));
        let closed = sealing(1).close_json(&name, json.clone());
        assert_eq!(without_mac(&closed).unwrap(), json);
        assert_eq!(without_mac(&json), None);
        let check = |sealing: Sealing, name: &str, bytes: &[u8]| {
            sealing.check_json("s", &layout::object(name), bytes)
        };
        check(sealing(1), name.as_ref(), &closed).unwrap();
        check(sealing(2), name.as_ref(), &closed).unwrap_err();
        check(sealing(1), "parts/b-00000000.json", &closed).unwrap_err();
        check(sealing(1), name.as_ref(), &json).unwrap_err();
        for at in 0..closed.len() {
            let mut changed = closed.clone();
            changed[at] ^= 1 << (at % 7);
            check(sealing(1), name.as_ref(), &changed).unwrap_err();
            check(sealing(1), name.as_ref(), &closed[..at]).unwrap_err();
        }
        let text = String::from_utf8(closed).unwrap();
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["records"], 3);
    }

    #[test]
    fn hex_of_anything_never_panics() {
        assert_eq!(unhex("00ffA0"), Some(vec![0, 255, 160]));
        for wrong in ["0", "0g", "é", "ää", " 1"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
