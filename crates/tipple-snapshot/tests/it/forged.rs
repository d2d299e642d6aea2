//! Files whose digests are right, as who forges one can make them: what is behind the digests gets to see anything.

use std::fs;
use std::time::SystemTime;

use tipple_snapshot::tools::{SnapshotFile, diff};
use tipple_snapshot::{
    Compression, HashMap, Keys, Serde, SnapshotFolder, SnapshotOptions, ValueTimes,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::memory;
use crate::support::Place;

type Any = Serde<std::collections::BTreeMap<i32, (Option<u64>, String)>>;
type Value = (HashMap<String, u32>, Vec<Option<u64>>, Any);

fn value() -> Value {
    let any = (-2..2i32).map(|n| (n, (Some(n.unsigned_abs().into()), "x".repeat(70))));
    (
        (0..5).map(|n| (n.to_string(), n)).collect(),
        (0..2000).map(Some).collect(),
        Serde(any.collect()),
    )
}

/// As the fuzz target of this name, with fewer tries: no panic, and no memory that the file does not justify.
#[test]
#[expect(clippy::print_stdout, reason = "who sees it fail needs its seed")]
fn random_edits_behind_the_digests() {
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let mut random = Random(u64::from(seed) | 1 << 40);
    let tries = match std::env::var_os("TIPPLE_TEST_LONG") {
        Some(_) => 200_000,
        None => 2_000,
    };
    let (mut forged, mut loaded) = (0, 0);
    for compression in [Compression::None, Compression::Lz4] {
        let place = Place::new();
        let options = SnapshotOptions {
            compression,
            decode_threads: 1,
            ..SnapshotOptions::default()
        };
        let folder = SnapshotFolder::new(place.root(), "words", options, Keys::none()).unwrap();
        let written = folder
            .write(&value(), ValueTimes::at(SystemTime::now()))
            .unwrap();
        let sound = fs::read(&written.path).unwrap();
        for _ in 0..tries / 2 {
            let mut bytes = sound.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                let byte = match random.below(3) {
                    // What lengths and tags are made of.
                    0 => [0, 1, 0x7F, 0x80, 0xC0, 0xCF, 0xFF][random.below(7)],
                    1 => bytes[at] ^ (1 << random.below(8)),
                    _ => random.below(256) as u8,
                };
                match random.below(4) {
                    0 => grow(&mut bytes, at, Some(byte)),
                    1 => grow(&mut bytes, at, None),
                    _ => bytes.get_mut(at).map(|old| *old = byte),
                };
            }
            if forge(&mut bytes).is_none() {
                continue;
            }
            forged += 1;
            let _ = fs::remove_file(&written.path);
            fs::write(&written.path, &bytes).unwrap();
            let before = memory::peak_begin();
            let open = || SnapshotFile::open(&written.path, None, &Keys::none());
            if let (Ok(mut file), Ok(mut other)) = (open(), open()) {
                let mut out = std::io::sink();
                let _ = file.verify();
                let _ = file.cat(&mut out, 100);
                let _ = diff(&mut file, &mut other, &mut out);
            }
            loaded += u32::from(folder.load::<Value>().loaded.is_some());
            let peak = memory::peak_since(before);
            assert!(peak < 8 << 20, "{peak} bytes for a file of {}", bytes.len());
        }
    }
    println!("{forged} of {tries} were forged, {loaded} loaded");
    assert!(forged > tries / 2 && loaded > tries / 20 && loaded < forged);
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
}

/// Puts a byte in, or takes one out, and corrects the lengths that this changes: of the header, or of the first frame.
fn grow(bytes: &mut Vec<u8>, at: usize, byte: Option<u8>) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let by = if byte.is_some() { 1 } else { u32::MAX };
    let (header_end, index) = (32 + word(bytes, 12)?, word(bytes, end)?);
    let mut add = |at: usize| {
        let changed = (word(bytes, at)? as u32).wrapping_add(by);
        bytes
            .get_mut(at..at + 4)?
            .copy_from_slice(&changed.to_le_bytes());
        Some(())
    };
    match at {
        at if at < 32 || at >= index => return None,
        at if at < header_end => add(12)?,
        _ => {
            add(index)?;
            add(index + 4)?;
        }
    }
    add(end)?;
    match byte {
        Some(byte) => bytes.insert(at, byte),
        None => _ = bytes.remove(at),
    }
    Some(())
}

/// Makes all digests of a file right; `None` if its parts do not fit into it.
pub(crate) fn forge(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let (header_end, index) = (32 + word(bytes, 12)?, word(bytes, end)?);
    if header_end > index || index > end {
        return None;
    }
    bytes[24..32].fill(0);
    let header = xxh3_64(&bytes[..header_end]).to_le_bytes();
    bytes[24..32].copy_from_slice(&header);
    bytes[end + 24..end + 32].copy_from_slice(&header);
    let (mut at, mut raw) = (header_end, 0u64);
    for entry in (index..end).step_by(32) {
        let stored = word(bytes, entry)?;
        raw += word(bytes, entry + 4)? as u64;
        let digest = xxh3_128(bytes.get(at..at.checked_add(stored)?)?).to_le_bytes();
        bytes
            .get_mut(entry + 16..entry + 32)?
            .copy_from_slice(&digest);
        at += stored;
    }
    bytes[end + 16..end + 24].copy_from_slice(&raw.to_le_bytes());
    let content = xxh3_128(&bytes[index..end]).to_le_bytes();
    bytes[end + 32..end + 48].copy_from_slice(&content);
    let footer = xxh3_64(&bytes[end..end + 48]).to_le_bytes();
    bytes[end + 48..end + 56].copy_from_slice(&footer);
    Some(())
}
