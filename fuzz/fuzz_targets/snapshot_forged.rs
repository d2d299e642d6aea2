//! Takes arbitrary bytes as edits of a snapshot, and then makes all its digests right, as who forges one can: what is behind the
//! digests gets to see them. No panic, and no allocation that the file does not justify (-malloc_limit_mb).
#![no_main]

use std::io::sink;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tipple_snapshot::tools::{SnapshotFile, diff};
use tipple_snapshot::{Compression, HashMap, Keys, Serde, SnapshotFolder, SnapshotOptions, ValueTimes};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

type Any = Serde<std::collections::BTreeMap<i32, (Option<u64>, String)>>;
type Value = (HashMap<String, u32>, Vec<Option<u64>>, Any);

struct Sound {
    folder: SnapshotFolder,
    path: PathBuf,
    bytes: Vec<u8>,
}

static PLACE: LazyLock<(TempDir, [Sound; 2])> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let sound = [Compression::None, Compression::Lz4].map(|compression| {
        let options = SnapshotOptions { decode_threads: 2, compression, ..SnapshotOptions::default() };
        let name = compression.name();
        let folder = SnapshotFolder::new(dir.path(), name, options, Keys::none()).expect("options");
        let map = (0..5).map(|n| (n.to_string(), n)).collect();
        let any = (-2..2i32).map(|n| (n, (Some(n.unsigned_abs().into()), "x".repeat(70)))).collect();
        let value: Value = (map, (0..2000).map(Some).collect(), Serde(any));
        let written = folder.write(&value, ValueTimes::at(SystemTime::now())).expect("written");
        let bytes = std::fs::read(&written.path).expect("it is there");
        Sound { folder, path: written.path, bytes }
    });
    (dir, sound)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((which, edits)) = bytes.split_first() else { return };
    let Sound { folder, path, bytes } = &PLACE.1[usize::from(which & 1)];
    let mut edited = bytes.clone();
    for edit in edits.chunks_exact(4) {
        let at = u16::from_le_bytes([edit[0], edit[1]]) as usize % edited.len();
        // From the end, from the beginning; one byte, or one less.
        let at = if edit[2] & 1 == 0 { at } else { edited.len() - 1 - at };
        let fits = match edit[2] & 6 {
            0 => grow(&mut edited, at, Some(edit[3])),
            2 => grow(&mut edited, at, None),
            _ => edited.get_mut(at).map(|byte| *byte = edit[3]),
        };
        if fits.is_none() {
            return;
        }
    }
    if forge(&mut edited).is_none() {
        return;
    }
    let _ = std::fs::remove_file(path);
    std::fs::write(path, &edited).expect("it can be written");
    let open = || SnapshotFile::open(path, None, &Keys::none());
    if let (Ok(mut file), Ok(mut other)) = (open(), open()) {
        let _ = file.verify();
        let _ = file.cat(&mut sink(), 100);
        let _ = diff(&mut file, &mut other, &mut sink());
    }
    let _ = folder.load::<Value>();
    let _ = std::fs::remove_file(format!("{}.corrupt", path.display()));
});

/// Puts a byte in, or takes one out, and corrects the lengths that this changes: of the header, or of the first frame.
fn grow(bytes: &mut Vec<u8>, at: usize, byte: Option<u8>) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let by = if byte.is_some() { 1 } else { u32::MAX };
    let word = |bytes: &[u8], at: usize| {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let header_end = 32usize.checked_add(word(bytes, 12)? as usize)?;
    let index = word(bytes, end)? as usize;
    let mut add = |at: usize| {
        let changed = word(bytes, at)?.wrapping_add(by);
        bytes.get_mut(at..at + 4)?.copy_from_slice(&changed.to_le_bytes());
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

/// Makes the digests right, as far as the places of header and index make sense.
fn forge(bytes: &mut [u8]) -> Option<()> {
    let end = bytes.len().checked_sub(64)?;
    let header_end = 32 + u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?) as usize;
    let index = u64::from_le_bytes(bytes[end..end + 8].try_into().ok()?) as usize;
    if header_end > index || index > end {
        return None;
    }
    bytes[24..32].fill(0);
    let header = xxh3_64(&bytes[..header_end]).to_le_bytes();
    bytes[24..32].copy_from_slice(&header);
    bytes[end + 24..end + 32].copy_from_slice(&header);
    // Of each frame, and of what all of them say to have in them.
    let (mut at, mut raw) = (header_end, 0u64);
    for entry in (index..end).step_by(32) {
        let stored = u32::from_le_bytes(bytes.get(entry..entry + 4)?.try_into().ok()?) as usize;
        raw += u64::from(u32::from_le_bytes(bytes[entry + 4..entry + 8].try_into().ok()?));
        let frame = bytes.get(at..at.checked_add(stored)?)?;
        let digest = xxh3_128(frame).to_le_bytes();
        bytes.get_mut(entry + 16..entry + 32)?.copy_from_slice(&digest);
        at += stored;
    }
    bytes[end + 16..end + 24].copy_from_slice(&raw.to_le_bytes());
    let content = xxh3_128(&bytes[index..end]).to_le_bytes();
    bytes[end + 32..end + 48].copy_from_slice(&content);
    let footer = xxh3_64(&bytes[end..end + 48]).to_le_bytes();
    bytes[end + 48..end + 56].copy_from_slice(&footer);
    Some(())
}
