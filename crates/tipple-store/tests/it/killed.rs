//! A process that is killed while it writes.

use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::hint;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tipple_store::Put;

use crate::child::{self, Running, say, wait_for_parent};
use crate::{name, names, open};

const ROUNDS: u64 = 20;

/// The role of a child: writes objects that are named after their content, until it is killed,
/// and says the name of each that is durable.
pub fn write_until_killed(folder: &str) {
    let store = open(Path::new(folder));
    let round = std::process::id();
    for number in 0.. {
        let bytes = vec![b'a' + (number % 26) as u8; number * 7919 % 500_000];
        let object = name(&format!("{round}/{number:06}-{}", digest(&bytes)));
        let put = if number % 2 == 0 {
            store.put_if_absent(&object, &bytes)
        } else {
            let path = store
                .staging_dir()
                .unwrap()
                .join(object.as_str().replace('/', "-"));
            let mut file = fs::File::create_new(&path).unwrap();
            for piece in bytes.chunks(4096) {
                file.write_all(piece).unwrap();
            }
            store.put_file(&object, &path)
        };
        assert_eq!(put.unwrap(), Put::Created);
        say(object.as_str());
    }
}

/// The role of a child: leaves a half-written file in the staging folder.
pub fn stage_and_wait(folder: &str) {
    let store = open(Path::new(folder));
    let path = store.staging_dir().unwrap().join("half-written");
    fs::write(path, b"12345").unwrap();
    say("staged");
    wait_for_parent();
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_visible_object_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let seed = RandomState::new().hash_one(0);
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let random = BuildHasherDefault::<DefaultHasher>::new().hash_one((seed, round));
        let mut writer = Running::start(child::WRITER, folder.path().to_str().unwrap());
        // At least one, so that the writer is at work.
        for _ in 0..1 + random % 8 {
            acknowledged.push(writer.hear().expect("a writer that writes"));
        }
        for _ in 0..random >> 8 & 0x3_ffff {
            hint::spin_loop();
        }
        writer.kill();
        while let Some(said) = writer.hear() {
            acknowledged.push(said);
        }

        let store = open(folder.path());
        let visible = names(&*store).unwrap();
        for object in &visible {
            let bytes = store.get(&name(object), 1 << 20).unwrap();
            let (_, expected) = object.rsplit_once('-').unwrap();
            assert_eq!(
                digest(&bytes),
                expected,
                "{object}, round {round}, seed {seed}"
            );
        }
        for object in &acknowledged {
            assert!(
                visible.contains(object),
                "{object} is lost, round {round}, seed {seed}"
            );
        }
        // Whether this kill left any is up to chance.
        for leftover in store.leftovers().unwrap() {
            store.remove_leftover(&leftover).unwrap();
        }
        assert_eq!(store.leftovers().unwrap(), []);
        assert_eq!(names(&*store).unwrap(), visible);
    }
}

#[test]
fn leftovers_are_found_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut stager = Running::start(child::STAGER, folder.path().to_str().unwrap());
    assert_eq!(stager.hear().as_deref(), Some("staged"));
    stager.kill();

    let store = open(folder.path());
    assert_eq!(names(&*store).unwrap(), [""; 0]);
    let _lock = store.lock().unwrap();
    let leftovers = store.leftovers().unwrap();
    let [leftover] = &*leftovers else {
        panic!("not one leftover: {leftovers:?}");
    };
    assert_eq!((&*leftover.name, leftover.bytes), ("half-written", 5));
    let later = leftover.modified + Duration::from_secs(60);
    assert_eq!(leftover.age(later), Duration::from_secs(60));
    assert_eq!(leftover.age(SystemTime::UNIX_EPOCH), Duration::ZERO);
    for _ in 0..2 {
        store.remove_leftover(leftover).unwrap();
        assert_eq!(store.leftovers().unwrap(), []);
    }
}
