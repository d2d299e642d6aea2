//! Takes arbitrary bytes as edits of a snapshot, and then makes all its digests right, as who forges one can: what is behind the
//! digests gets to see them. No panic, and no allocation that the file does not justify (-malloc_limit_mb).
#![no_main]

#[path = "../../crates/tipple-snapshot/tests/it/forging.rs"]
mod forging;

use std::io::sink;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tipple_snapshot::tools::{SnapshotFile, diff};
use tipple_snapshot::{Compression, HashMap, Keys, Serde, SnapshotFolder, SnapshotOptions, ValueTimes};

use self::forging::{forge, grow};

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
