//! Whatever became of a file: never another value, never a panic, never more memory than the file justifies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use tipple_snapshot::{Dumpable, HashMap, Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

use crate::memory;
use crate::support::Place;

type Value = (HashMap<String, Option<u32>>, Vec<u16>);

fn value() -> Value {
    let map = (0..3).map(|n| (n.to_string(), Some(n))).collect();
    (map, vec![1, 300])
}

fn folder(place: &Place) -> SnapshotFolder {
    let options = SnapshotOptions {
        decode_threads: 1,
        ..SnapshotOptions::default()
    };
    SnapshotFolder::new(place.root(), "words", options, Keys::none()).unwrap()
}

/// Loads `bytes` in place of the snapshot's own.
fn load(place: &Place, folder: &SnapshotFolder, name: &str, bytes: &[u8]) -> Option<Value> {
    let path = place.dir().join(name);
    let _ = fs::remove_file(&path);
    let _ = fs::remove_file(place.dir().join(format!("{name}.corrupt")));
    fs::write(&path, bytes).unwrap();
    let before = memory::peak_begin();
    let found = folder.load::<Value>();
    let peak = memory::peak_since(before);
    assert!(peak < 2 << 20, "{peak} bytes for a file of {}", bytes.len());
    assert_eq!(found.loaded.is_some(), found.failures.is_empty());
    found.loaded.map(|loaded| loaded.value)
}

fn written() -> (Place, SnapshotFolder, String, Vec<u8>) {
    let place = Place::new();
    let folder = folder(&place);
    let written = folder
        .write(&value(), ValueTimes::at(SystemTime::now()))
        .unwrap();
    let bytes = fs::read(&written.path).unwrap();
    fs::set_permissions(&written.path, fs::Permissions::from_mode(0o600)).unwrap();
    (place, folder, written.name.to_string(), bytes)
}

#[test]
fn every_length_but_its_own_is_refused() {
    let (place, folder, name, bytes) = written();
    for len in 0..bytes.len() {
        assert_eq!(load(&place, &folder, &name, &bytes[..len]), None, "{len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(load(&place, &folder, &name, &longer), None);
    longer.extend_from_slice(&bytes);
    assert_eq!(load(&place, &folder, &name, &longer), None);
    assert_eq!(load(&place, &folder, &name, &bytes), Some(value()));
}

#[test]
fn every_flipped_bit_is_found() {
    let (place, folder, name, bytes) = written();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(load(&place, &folder, &name, &damaged), None, "bit {bit}");
    }
}

/// Bytes that begin as a value does, and then claim more than there is.
#[test]
fn hostile_lengths_allocate_nothing() {
    fn refused<T: Dumpable>(bytes: &[u8]) {
        let before = memory::peak_begin();
        assert!(tipple_snapshot::testing::from_bytes::<T>(bytes).is_err());
        let peak = memory::peak_since(before);
        assert!(
            peak < 64 << 10,
            "{peak} bytes for {}",
            std::any::type_name::<T>()
        );
    }
    let lengths: [&[u8]; 4] = [
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],
        &[0x80, 0x80, 0x80, 0x80, 0x10],
        &[0xFF, 0xFF, 0x7F],
        &[20],
    ];
    for length in lengths {
        let mut bytes = length.to_vec();
        bytes.extend([1; 19]);
        refused::<Vec<u8>>(&bytes);
        refused::<String>(&bytes);
        refused::<Vec<[u64; 64]>>(&bytes);
        refused::<HashMap<String, [u64; 64]>>(&bytes);
        refused::<std::collections::HashMap<u64, String>>(&bytes);
        refused::<std::collections::BTreeMap<u64, String>>(&bytes);
        refused::<std::collections::VecDeque<u64>>(&bytes[..length.len() + 2]);
        refused::<Vec<Vec<Vec<Vec<String>>>>>(&bytes);
    }
    // Small elements that are large in memory: as many as fit, and no room for those that do not.
    let mut wide = vec![0xD0, 0x86, 3];
    wide.extend([0; 50_000]);
    let before = memory::peak_begin();
    type Wide = Vec<Option<Box<[u64; 100]>>>;
    assert_eq!(
        tipple_snapshot::testing::from_bytes::<Wide>(&wide)
            .unwrap()
            .len(),
        50_000
    );
    assert!(memory::peak_since(before) < 2 << 20);
    // And a count that could be right, of elements that would take 40 MB.
    wide[100] = 7;
    let before = memory::peak_begin();
    assert!(tipple_snapshot::testing::from_bytes::<Vec<Option<[u64; 100]>>>(&wide).is_err());
    assert!(memory::peak_since(before) < 2 << 20);
    let before = memory::peak_begin();
    assert!(
        tipple_snapshot::testing::from_bytes::<Vec<Option<[u64; 100]>>>(&wide[..40_000]).is_err()
    );
    assert!(memory::peak_since(before) < 2 << 20);
}

/// A file of the layout that a writer would never make: all digests are right, and the value is not.
#[test]
fn a_forged_file_is_no_value() {
    struct Forged;
    impl Dumpable for Forged {
        const BYTES_MIN: usize = 1;
        fn describe(schema: &mut tipple_snapshot::SchemaBuilder) -> tipple_snapshot::TypeNumber {
            Value::describe(schema)
        }
        fn dump(
            &self,
            to: &mut tipple_snapshot::Writer<'_>,
        ) -> Result<(), tipple_snapshot::SnapshotError> {
            // A million entries, and the seed.
            to.bytes(&[0xC0, 0x84, 0x3D])?;
            to.bytes(&[0; 64])
        }
        fn load(
            _: &mut tipple_snapshot::Reader<'_>,
        ) -> Result<Self, tipple_snapshot::SnapshotError> {
            unreachable!("it is loaded as something else")
        }
    }
    let place = Place::new();
    let forged = folder(&place)
        .write(&Forged, ValueTimes::at(SystemTime::now()))
        .unwrap();
    let bytes = fs::read(&forged.path).unwrap();
    assert_eq!(
        load(&place, &folder(&place), &forged.name.to_string(), &bytes),
        None
    );
}

#[test]
fn writing_and_loading_hold_little_more_than_the_value() {
    let place = Place::new();
    let folder = folder(&place);
    let map: HashMap<u64, String> = (0..200_000u64).map(|n| (n, format!("{n:032}"))).collect();
    let before = memory::peak_begin();
    folder
        .write(&map, ValueTimes::at(SystemTime::now()))
        .unwrap();
    let peak = memory::peak_since(before);
    assert!(peak < 2 << 20, "writing held {peak} bytes");
    let before = memory::peak_begin();
    let loaded = folder.load::<HashMap<u64, String>>().loaded.unwrap().value;
    let peak = memory::peak_since(before);
    // The table and its texts, as this very thread has allocated them.
    let value = memory::peak_begin();
    let copy: HashMap<u64, String> = loaded.clone();
    let value = memory::peak_since(value);
    assert!(
        peak < value + (2 << 20),
        "loading held {peak} bytes for a value of {value}"
    );
    assert!(copy == map);
}
