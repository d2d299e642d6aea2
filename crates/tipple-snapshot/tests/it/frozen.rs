//! Files that were once written are read by every later version, and written again to the byte.

use std::fs;
use std::path::PathBuf;

use tipple_snapshot::{Keys, SnapshotFolder, SnapshotName, SnapshotOptions, ValueTimes};

use crate::frozen_value::{Frozen, NAME, value};
use crate::support::Place;

fn options(encrypted: bool) -> SnapshotOptions {
    SnapshotOptions {
        format_version: 3,
        encrypted,
        producer: "frozen 1".to_owned(),
        ..SnapshotOptions::default()
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1")).join(name)
}

#[test]
fn files_of_the_first_version() {
    let key = Keys::from_callback(|_| Ok(vec![[9; 32]]));
    for (file, encrypted) in [("plain", false), ("sealed", true)] {
        let place = Place::new();
        let folder = place.sealed(options(encrypted), key.clone());
        fs::create_dir(folder.path()).unwrap();
        fs::copy(fixture(file), folder.path().join(NAME)).unwrap();
        let found = folder.load::<Frozen>();
        assert!(found.failures.is_empty(), "{:?}", found.failures);
        let loaded = found.loaded.unwrap();
        assert_eq!(loaded.value, value());
        assert_eq!(loaded.name.to_string(), NAME);
        assert_eq!(loaded.times.full, Some(loaded.times.updated));
    }
}

/// But for the time of writing, and the digests that it is in.
#[test]
fn what_is_written_is_frozen_too() {
    let place = Place::new();
    let name: SnapshotName = NAME.parse().unwrap();
    let folder = SnapshotFolder::new(place.root(), "words", options(false), Keys::none()).unwrap();
    let written = folder
        .write(&value(), ValueTimes::at(name.updated()))
        .unwrap();
    let (now, frozen) = (
        fs::read(written.path).unwrap(),
        fs::read(fixture("plain")).unwrap(),
    );
    assert_eq!(now.len(), frozen.len());
    let differ: Vec<usize> = (0..now.len()).filter(|n| now[*n] != frozen[*n]).collect();
    let end = now.len();
    // The prelude's digest; the time; the footer's digest of the header, and its own.
    let may = |n: &usize| {
        (24..32).contains(n)
            || (39..47).contains(n)
            || (end - 40..end - 32).contains(n)
            || (end - 16..end - 8).contains(n)
    };
    assert!(differ.iter().all(may), "{differ:?}");
    assert!(!differ.is_empty(), "it is another time");
}
