//! Files whose digests are right, as who forges one can make them: what is behind the digests gets to see anything.

use std::fs;
use std::time::SystemTime;

use tipple_snapshot::tools::{SnapshotFile, diff};
use tipple_snapshot::{
    Compression, HashMap, Keys, Serde, SnapshotFolder, SnapshotOptions, ValueTimes,
};

use crate::forging::{forge, grow};
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
