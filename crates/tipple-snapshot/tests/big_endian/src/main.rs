//! A snapshot is the same on every machine: reads those of the fixtures, which a little-endian one wrote, and writes the same bytes.
//!
//!     tipple-snapshot-big-endian FIXTURES

#[path = "../../it/frozen_value.rs"]
mod frozen_value;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tipple_snapshot::testing::{assert_roundtrip, from_bytes, to_bytes};
use tipple_snapshot::tools::SnapshotFile;
use tipple_snapshot::{
    Compression, Dumpable, Keys, Schema, Serde, SnapshotFolder, SnapshotName, SnapshotOptions, ValueTimes, userver,
};

use self::frozen_value::{Frozen, NAME, value};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Foreign {
    wide: i128,
    float: f32,
    texts: Vec<Option<String>>,
}

fn main() {
    assert!(cfg!(target_endian = "big"), "this is no such machine");
    let fixtures = PathBuf::from(std::env::args().nth(1).expect("the folder of the fixtures"));
    numbers();
    fixture(&fixtures.join("plain"));
    userver_bytes();
    println!("the same on a big-endian machine");
}

fn numbers() {
    golden(0x0102_0304_0506_0708u64, &[0x88, 0x8E, 0x98, 0xA8, 0xC0, 0xE0, 0x80, 0x81, 1]);
    golden(-1.5f64, &[0, 0, 0, 0, 0, 0, 0xF8, 0xBF]);
    golden(1.5f32, &[0, 0, 0xC0, 0x3F]);
    golden(vec![i16::MIN, 300], &[2, 0xFF, 0xFF, 3, 0xD8, 4]);
    golden(Serde((1u128 << 64, -0.5f64)), b"\xCD\x02\xC6\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02\xC9\0\0\0\0\0\0\xE0\xBF\xCF");
    assert_roundtrip(&(u128::MAX, i128::MIN, f32::MIN_POSITIVE, 'ß', [1u8, 2, 3]));
    let addresses: BTreeSet<SocketAddr> = ["[::1]:80", "10.0.0.1:65535"].map(|a| a.parse().unwrap()).into();
    assert_roundtrip(&(addresses, Duration::new(1 << 40, 999_999_999), SystemTime::UNIX_EPOCH));
    assert_roundtrip(&(0..5000u64).map(|n| (n << 40, n.to_string())).collect::<BTreeMap<_, _>>());
    assert_roundtrip(&Serde(Foreign { wide: i128::MIN, float: -1.0, texts: vec![None, Some("é".into())] }));
}

fn golden<T: Dumpable + PartialEq + Debug>(value: T, bytes: &[u8]) {
    assert_eq!(to_bytes(&value).unwrap(), bytes, "{value:?}");
    assert_eq!(from_bytes::<T>(bytes).unwrap(), value);
}

/// Loads it, by its type and without, writes it again to the byte, and takes it through compression.
fn fixture(file: &Path) {
    let root = std::env::temp_dir().join(format!("tipple-big-endian-{}", std::process::id()));
    for compression in [Compression::None, Compression::Lz4] {
        let _ = std::fs::remove_dir_all(&root);
        let options = SnapshotOptions {
            format_version: 3,
            producer: "frozen 1".to_owned(),
            compression,
            decode_threads: 2,
            ..SnapshotOptions::default()
        };
        let folder = SnapshotFolder::new(&root, "words", options, Keys::none()).unwrap();
        let path = folder.path().join(NAME);
        std::fs::create_dir_all(folder.path()).unwrap();
        std::fs::copy(file, &path).unwrap();
        let read = || {
            let found = folder.load::<Frozen>();
            assert!(found.failures.is_empty(), "{:?}", found.failures);
            assert_eq!(found.loaded.unwrap().value, value());
            let mut file = SnapshotFile::open(&path, None, &Keys::none()).unwrap();
            file.verify().unwrap();
            assert_eq!(file.inspect().fingerprint, Schema::of::<Frozen>().fingerprint());
        };
        read();
        std::fs::remove_file(&path).unwrap();
        let name: SnapshotName = NAME.parse().unwrap();
        let written = folder.write(&value(), ValueTimes::at(name.updated())).unwrap();
        assert_eq!(written.path, path);
        read();
        if compression == Compression::None {
            let (now, then) = (std::fs::read(&path).unwrap(), std::fs::read(file).unwrap());
            assert_eq!(now.len(), then.len());
            // From the first frame to the end of the index: the header has the time of writing.
            let frames = 32 + u32::from_le_bytes(now[12..16].try_into().unwrap()) as usize;
            assert!(now[frames..now.len() - 64] == then[frames..then.len() - 64]);
        }
    }
    std::fs::remove_dir_all(&root).unwrap();
}

/// The original's format has what is wider than four bytes, and floats, as its machine has them: ours is that of little-endian ones.
fn userver_bytes() {
    for (value, bytes) in [
        (300u64, &[0x81, 0x2C][..]),
        (65536, &[0xC0, 1, 0, 0]),
        (1 << 40, &[0xFF, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        assert_eq!(userver::to_bytes(&value).unwrap(), bytes);
        assert_eq!(userver::from_bytes::<u64>(bytes).unwrap(), value);
    }
    assert_eq!(userver::to_bytes(&1.5f64).unwrap(), [0, 0, 0, 0, 0, 0, 0xF8, 0x3F]);
}
