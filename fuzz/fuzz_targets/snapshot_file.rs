//! Takes arbitrary bytes as edits of a snapshot, and as a whole one: no panic; a file that loads is the one that was written, or
//! an edit that changes nothing.
//!
//! Digests make most edits end early; so the tools, which take types from the file, get them too.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tipple_snapshot::tools::SnapshotFile;
use tipple_snapshot::{Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

type Value = (tipple_snapshot::HashMap<String, u32>, Vec<Option<u64>>);

static PLACE: LazyLock<(TempDir, SnapshotFolder, PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SnapshotOptions { decode_threads: 1, ..SnapshotOptions::default() };
    let folder = SnapshotFolder::new(dir.path(), "fuzz", options, Keys::none()).expect("options");
    let written = folder
        .write(&value(), ValueTimes::at(std::time::SystemTime::now()))
        .expect("written");
    let bytes = std::fs::read(&written.path).expect("it is there");
    (dir, folder, written.path, bytes)
});

fn value() -> Value {
    let map = (0..5).map(|n| (n.to_string(), n)).collect();
    (map, (0..2000).map(Some).collect())
}

fuzz_target!(|bytes: &[u8]| {
    let (_, _, _, sound) = &*PLACE;
    check(bytes);
    let mut edited = sound.clone();
    for edit in bytes.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % (sound.len() + 8);
        match edited.get_mut(at) {
            Some(byte) => *byte ^= edit[3],
            None => edited.resize(at, edit[3]),
        }
    }
    check(&edited);
});

fn check(bytes: &[u8]) {
    let (_, folder, path, _) = &*PLACE;
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).expect("it can be written");
    if let Ok(mut file) = SnapshotFile::open(path, Some("fuzz"), &Keys::none()) {
        let _ = file.verify();
    }
    if let Some(loaded) = folder.load::<Value>().loaded {
        assert!(loaded.value == value());
    }
}
