//! Sealed snapshots: with the right key they are as others, and with anything else they are nothing.

use std::fs;
use std::time::SystemTime;

use tipple_snapshot::{ErrorKind, Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

use crate::support::{HOUR, Place, Words, words};

const HEADER_BYTES: usize = 144;
const SEGMENT_BYTES: usize = 65_536 + 16;

fn keys(bytes: &[u8]) -> Keys {
    let bytes = bytes.to_vec();
    Keys::from_callback(move |cache| {
        assert!(cache == "words" || cache == "other");
        Ok(bytes.iter().map(|byte| [*byte; 32]).collect())
    })
}

fn options() -> SnapshotOptions {
    SnapshotOptions {
        encrypted: true,
        max_count: 100,
        ..SnapshotOptions::default()
    }
}

fn at(hours: u32) -> ValueTimes {
    ValueTimes::at(SystemTime::now() - hours * HOUR)
}

fn failure(folder: &SnapshotFolder) -> ErrorKind {
    let found = folder.load::<Words>();
    assert!(found.loaded.is_none());
    assert_eq!(found.failures.len(), 1, "{:?}", found.failures);
    found.failures[0].kind()
}

#[test]
fn what_is_sealed_can_be_loaded_and_not_read() {
    let place = Place::new();
    let folder = place.sealed(options(), keys(&[1]));
    let written = folder.write(&words(&["a secret word"; 20]), at(1)).unwrap();
    let bytes = fs::read(&written.path).unwrap();
    assert!(bytes.starts_with(b"TPLSEALD"));
    for telling in [&b"secret"[..], b"words", b"\x89TPS"] {
        assert!(!bytes.windows(telling.len()).any(|window| window == telling));
    }
    assert_eq!(folder.load::<Words>().loaded.unwrap().value.len(), 20);
    // Twice the same value is not twice the same file.
    let again = folder.write(&words(&["a secret word"; 20]), at(0)).unwrap();
    assert_eq!(again.content, written.content);
    assert_ne!(
        fs::read(&again.path).unwrap()[HEADER_BYTES..],
        bytes[HEADER_BYTES..]
    );
}

#[test]
fn keys_are_rotated() {
    let place = Place::new();
    place
        .sealed(options(), keys(&[1]))
        .write(&words(&["one"]), at(2))
        .unwrap();
    let both = place.sealed(options(), keys(&[2, 1]));
    assert_eq!(both.load::<Words>().loaded.unwrap().value, ["one"]);
    both.write(&words(&["two"]), at(1)).unwrap();
    // The first one seals.
    let only_new = place.sealed(options(), keys(&[2])).load::<Words>();
    assert_eq!(only_new.loaded.unwrap().value, ["two"]);
    // Another key: an older one is found, and the newer is left for whoever has its key.
    let found = place.sealed(options(), keys(&[1])).load::<Words>();
    assert_eq!(found.failures[0].kind(), ErrorKind::Key);
    assert!(
        found.failures[0]
            .to_string()
            .contains("which is not among the keys")
    );
    assert_eq!(found.loaded.unwrap().value, ["one"]);
    assert_eq!(place.names().len(), 2);
    let none = place.folder(SnapshotOptions::default()).load::<Words>();
    assert!(none.loaded.is_none() && none.failures.len() == 2);
}

#[test]
fn a_key_is_needed_before_anything_is_written() {
    let place = Place::new();
    let secrets = place.root().join("secrets.json");
    let open = |keys| SnapshotFolder::new(place.root(), "words", options(), keys).map(drop);
    let error = |keys| open(keys).unwrap_err().to_string();
    assert!(error(Keys::none()).contains("no keys were given for the cache `words`"));
    fs::write(&secrets, r#"{"CACHE_DUMP_SECRET_KEYS": {"other": "x"}}"#).unwrap();
    assert!(
        error(Keys::from_file(&secrets)).contains("`words` is not found in CACHE_DUMP_SECRET_KEYS")
    );
    for (key, len) in [
        ("AAAAAAAAAAAAAAAAAAAAAA==", 24),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", 48),
    ] {
        fs::write(
            &secrets,
            format!(r#"{{"CACHE_DUMP_SECRET_KEYS": {{"words": "{key}"}}}}"#),
        )
        .unwrap();
        let text = error(Keys::from_file(&secrets));
        assert!(
            text.contains(&format!(
                "must be 32 bytes in base64, which are 44 characters, and has {len}"
            )),
            "{text}"
        );
        assert!(!text.contains("AAAA"));
    }
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    fs::write(
        &secrets,
        format!(r#"{{"CACHE_DUMP_SECRET_KEYS": {{"words": ["{key}"]}}}}"#),
    )
    .unwrap();
    let folder = place.sealed(options(), Keys::from_file(&secrets));
    folder.write(&words(&["one"]), at(0)).unwrap();
    // The same bytes, however they came.
    assert!(
        place
            .sealed(options(), keys(&[1]))
            .load::<Words>()
            .loaded
            .is_some()
    );
    // It is read again each time: a file that is gone is told of.
    fs::remove_file(&secrets).unwrap();
    assert_eq!(
        folder.write(&words(&["two"]), at(0)).unwrap_err().kind(),
        ErrorKind::Key
    );
    assert_eq!(place.names().len(), 1);
    assert!(error(Keys::from_variable("TIPPLE_TEST_NO_SUCH_KEYS")).contains("is not set"));
}

#[test]
fn a_plain_file_is_not_believed_where_sealed_ones_are_expected() {
    let place = Place::new();
    place.dump(&["planted"], HOUR);
    assert_eq!(
        failure(&place.sealed(options(), keys(&[1]))),
        ErrorKind::Key
    );
    // Moved from another cache, or to another version: the seal says where it belongs.
    let place = Place::new();
    let other = SnapshotFolder::new(place.root(), "other", options(), keys(&[1])).unwrap();
    let written = other.write(&words(&["moved"]), at(1)).unwrap();
    fs::create_dir(place.dir()).unwrap();
    let moved = place.dir().join(written.name.to_string());
    fs::rename(&written.path, &moved).unwrap();
    assert_eq!(
        failure(&place.sealed(options(), keys(&[1]))),
        ErrorKind::Damaged
    );
}

/// Around multiples of a segment, where the original forgot to check: every segment, its tag, and their order.
#[test]
fn whatever_is_done_to_a_segment_is_found() {
    for extra in [0, 1, 15, 16, 17, 4096] {
        let place = Place::new();
        let folder = place.sealed(options(), keys(&[1]));
        // So long that the file has three segments, of which the last is full or nearly so.
        let bytes = |len: usize| vec!["x".repeat(len)];
        let plain = |len: usize| {
            let written = folder.write(&bytes(len), at(1)).unwrap();
            let len = fs::read(&written.path).unwrap().len();
            fs::remove_file(&written.path).unwrap();
            len
        };
        let target = HEADER_BYTES + 3 * SEGMENT_BYTES;
        let guess = 3 * 65_536 - 2000;
        let len = guess + (target - plain(guess)) - extra;
        let written = folder.write(&bytes(len), at(1)).unwrap();
        let sound = fs::read(&written.path).unwrap();
        assert_eq!(sound.len(), target - extra);
        let load = |bytes: &[u8]| {
            for aside in place
                .names()
                .iter()
                .filter(|name| name.ends_with(".corrupt"))
            {
                fs::remove_file(place.dir().join(aside)).unwrap();
            }
            let _ = fs::remove_file(&written.path);
            fs::write(&written.path, bytes).unwrap();
            folder.load::<Words>().loaded.map(|loaded| loaded.value)
        };
        assert!(load(&sound) == Some(bytes(len)));
        let segment = |n: usize| HEADER_BYTES + n * SEGMENT_BYTES;
        for n in 0..3 {
            let end = (segment(n) + SEGMENT_BYTES).min(sound.len());
            for at in [segment(n), segment(n) + 100, end - 17, end - 16, end - 1] {
                let mut damaged = sound.clone();
                damaged[at] ^= 0x10;
                assert_eq!(load(&damaged), None, "extra {extra}, byte {at}");
            }
            // Gone, and twice.
            let without = [&sound[..segment(n)], &sound[end..]].concat();
            assert_eq!(load(&without), None);
            let twice = [&sound[..end], &sound[segment(n)..]].concat();
            assert_eq!(load(&twice), None);
            assert_eq!(load(&sound[..segment(n)]), None, "cut before segment {n}");
        }
        let mut swapped = sound.clone();
        let (first, rest) = swapped.split_at_mut(segment(1));
        first[segment(0)..].swap_with_slice(&mut rest[..SEGMENT_BYTES]);
        assert_eq!(load(&swapped), None);
        for at in 0..HEADER_BYTES {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            assert_eq!(load(&damaged), None, "header byte {at}");
        }
        let mut longer = sound.clone();
        longer.push(0);
        assert_eq!(load(&longer), None);
    }
}
