//! Snapshots whose frames are compressed.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use tipple_snapshot::tools::SnapshotFile;
use tipple_snapshot::{
    Compression, HashMap, Keys, SnapshotFolder, SnapshotOptions, ValueTimes, WrittenSnapshot,
};

use crate::forging::forge;
use crate::memory;
use crate::support::{HOUR, Place, Words, words};

type Articles = HashMap<u64, String>;

fn articles() -> Articles {
    let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..100_000)
        .map(|n| (mixed(n), format!("article number {n} of many, {}", n % 10)))
        .collect()
}

fn folder(place: &Place, compression: Compression, encrypted: bool) -> SnapshotFolder {
    let options = SnapshotOptions {
        compression,
        encrypted,
        max_count: 10,
        ..SnapshotOptions::default()
    };
    place.sealed(options, Keys::from_callback(|_| Ok(vec![[3; 32]])))
}

fn write(place: &Place, compression: Compression, encrypted: bool) -> WrittenSnapshot {
    folder(place, compression, encrypted)
        .write(&articles(), ValueTimes::at(SystemTime::now()))
        .unwrap()
}

#[test]
fn what_is_compressed_is_smaller_and_the_same() {
    for encrypted in [false, true] {
        let (plain, compressed) = (Place::new(), Place::new());
        let long = write(&plain, Compression::None, encrypted);
        let short = write(&compressed, Compression::Lz4, encrypted);
        assert!(
            short.bytes < long.bytes * 2 / 3,
            "{} of {}",
            short.bytes,
            long.bytes
        );
        // Whatever the options of the reader are.
        for compression in [Compression::None, Compression::Lz4] {
            let found = folder(&compressed, compression, encrypted).load::<Articles>();
            assert!(found.failures.is_empty(), "{:?}", found.failures);
            assert!(found.loaded.unwrap().value == articles());
        }
        let keys = Keys::from_callback(|_| Ok(vec![[3; 32]]));
        let mut file = SnapshotFile::open(&short.path, None, &keys).unwrap();
        let seen = file.inspect();
        assert_eq!(seen.compression, Compression::Lz4);
        assert!(seen.raw_bytes > seen.stored_bytes);
        file.verify().unwrap();
        assert_eq!(file.cat(&mut std::io::sink(), u64::MAX).unwrap(), 100_000);
    }
}

/// What does not get shorter is stored as it is, frame by frame.
#[test]
fn noise_is_not_made_longer() {
    let mut seed = 1u64;
    let mut noise = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    let mut value: Vec<u8> = (0..600_000).map(|_| noise()).collect();
    value.extend([7; 600_000]);
    let place = Place::new();
    let folder = folder(&place, Compression::Lz4, false);
    let written = folder
        .write(&value, ValueTimes::at(SystemTime::now()))
        .unwrap();
    assert!(
        (600_000..900_000).contains(&written.bytes),
        "{}",
        written.bytes
    );
    assert!(folder.load::<Vec<u8>>().loaded.unwrap().value == value);
}

#[test]
fn damage_of_a_compressed_file_is_found() {
    let place = Place::new();
    let folder = folder(&place, Compression::Lz4, false);
    let value = vec!["one and the same".to_owned(); 20];
    let written = folder
        .write(&value, ValueTimes::at(SystemTime::now()))
        .unwrap();
    let bytes = fs::read(&written.path).unwrap();
    let load = |bytes: &[u8]| {
        fs::remove_dir_all(place.dir()).unwrap();
        fs::create_dir(place.dir()).unwrap();
        fs::write(&written.path, bytes).unwrap();
        let before = memory::peak_begin();
        let found = folder.load::<Words>();
        assert!(memory::peak_since(before) < 2 << 20);
        found.loaded.map(|loaded| loaded.value)
    };
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(load(&damaged), None, "bit {bit}");
    }
    assert_eq!(load(&bytes), Some(value));
}

/// A codec that this program does not know is no damage: the file stays for the build that wrote it.
#[test]
fn an_unknown_codec_is_left_alone() {
    let place = Place::new();
    place.dump(&["old"], HOUR);
    let folder = folder(&place, Compression::Lz4, false);
    let written = folder
        .write(&words(&["new"]), ValueTimes::at(SystemTime::now()))
        .unwrap();
    let mut bytes = fs::read(&written.path).unwrap();
    bytes[10] = 7;
    forge(&mut bytes).unwrap();
    fs::remove_file(&written.path).unwrap();
    fs::write(&written.path, &bytes).unwrap();
    let found = folder.load::<Words>();
    assert_eq!(found.loaded.unwrap().value, ["old"]);
    assert_eq!(
        found.failures[0].to_string(),
        format!(
            "{}: it is compressed with codec 7: use a newer version of this program",
            written.path.display()
        )
    );
    assert!(written.path.exists());
}

/// All digests are right, and a frame says that more is in it than LZ4 can have made of so few bytes; or another length.
#[test]
fn a_forged_length_is_refused() {
    let place = Place::new();
    let folder = folder(&place, Compression::Lz4, false);
    let written = folder
        .write(&vec![0u8; 100_000], ValueTimes::at(SystemTime::now()))
        .unwrap();
    let sound = fs::read(&written.path).unwrap();
    let path: PathBuf = written.path;
    let index = sound.len() - 64 - 32;
    for (raw, why) in [
        (262_144u32, "says that 262144 are in it"),
        (100_010, "does not decompress to the 100010 bytes"),
        (90_000, "does not decompress to the 90000 bytes"),
        (1, "says that 1 are in it"),
    ] {
        let mut bytes = sound.clone();
        bytes[index + 4..index + 8].copy_from_slice(&raw.to_le_bytes());
        forge(&mut bytes).unwrap();
        let _ = fs::remove_file(&path);
        fs::write(&path, &bytes).unwrap();
        let error = SnapshotFile::open(&path, None, &Keys::none())
            .and_then(|mut file| file.verify())
            .unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}
