//! Stored files that are damaged, or made by somebody else.

use std::fs;
use std::path::Path;

use tipple_chunk::Sha256Digest;
use tipple_supervise::{ErrorKind, Job, RestoreOptions, is_files, list, prune, restore, verify};

use crate::support::{MIB, Place, files};

fn place() -> Place {
    let place = Place::new(
        16 * MIB,
        "mkdir d; echo one > d/one; echo two > two; : > empty",
    );
    place.done();
    place
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_damage_is_found_and_nothing_of_it_is_restored() {
    let objects = [
        ("HEAD.json", true),
        ("DONE", true),
        ("manifest.json", true),
        ("SHA256SUMS", false),
        ("files/0001/two", true),
        ("files/0001/d/one", true),
    ];
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| change(path, |bytes| bytes.truncate(bytes.len() / 2)),
        |path| change(path, |bytes| *bytes.last_mut().unwrap() ^= 2),
        |path| change(path, |bytes| bytes.extend_from_within(..1)),
    ];
    for (object, matters) in objects {
        for (n, damage) in damages.iter().enumerate() {
            let place = place();
            damage(&place.path("store").join(object));
            let store = place.store.as_ref();
            let found = match verify(&Job::new(), store, 2) {
                Ok(report) => report.problems_total > 0,
                Err(error) => {
                    assert_eq!(error.to_string().lines().count(), 1);
                    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Usage)
                }
            };
            assert!(found, "{object}, damage {n}, was not found");
            let target = place.path("target");
            let restored = restore(&Job::new(), store, &target, &RestoreOptions::default());
            if matters && object != "HEAD.json" {
                restored.unwrap_err();
            }
            let expected = [("d/one", &b"one\n"[..]), ("two", b"two\n"), ("empty", b"")];
            if target.exists() {
                for (name, bytes) in files(&target) {
                    assert!(
                        expected.contains(&(name.as_str(), &bytes[..])),
                        "{object} {n}: {name}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_restore_goes_on_and_overwrites_only_if_asked_to() {
    let place = place();
    let (store, target) = (place.store.as_ref(), place.path("target"));
    let run = |overwrite| {
        let options = RestoreOptions {
            threads: 2,
            overwrite,
        };
        restore(&Job::new(), store, &target, &options)
    };
    fs::create_dir(&target).unwrap();
    fs::write(target.join("two"), "two\n").unwrap();
    fs::write(target.join("beside"), "stays").unwrap();
    let report = run(false).unwrap();
    assert_eq!((report.files, report.earlier_files), (3, 1));
    assert_eq!(run(false).unwrap().earlier_files, 3);
    fs::write(target.join("two"), "mine\n").unwrap();
    let error = run(false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("--overwrite"), "{error}");
    assert_eq!(fs::read(target.join("two")).unwrap(), b"mine\n");
    assert_eq!(run(true).unwrap().earlier_files, 2);
    assert_eq!(fs::read(target.join("two")).unwrap(), b"two\n");
    assert_eq!(fs::read(target.join("beside")).unwrap(), b"stays");
    assert_eq!(files(&target).len(), 4);
}

#[test]
fn links_in_the_target_are_not_followed() {
    let place = place();
    let (store, target) = (place.store.as_ref(), place.path("target"));
    fs::create_dir_all(place.path("elsewhere")).unwrap();
    fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), target.join("d")).unwrap();
    let options = RestoreOptions {
        threads: 1,
        overwrite: true,
    };
    let error = restore(&Job::new(), store, &target, &options).unwrap_err();
    assert!(error.to_string().contains("d is no folder"), "{error}");
    assert!(files(&place.path("elsewhere")).is_empty());
}

/// A manifest whose digests are right, and that names what must not be written.
#[test]
fn hostile_manifests_are_refused() {
    for path in ["../../evil", "/tmp/evil", "=2E=2E/evil", "two=00", ""] {
        let place = place();
        let at = |name: &str| place.path("store").join(name);
        change(&at("manifest.json"), |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text
                .replace("\"path\": \"two\"", &format!("\"path\": \"{path}\""))
                .into_bytes();
        });
        let manifest = Sha256Digest::of(&fs::read(at("manifest.json")).unwrap()).to_string();
        change(&at("DONE"), |bytes| {
            let mut done: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap();
            let zeros = "0".repeat(64);
            let text = text
                .replace(done["manifest_sha256"].as_str().unwrap(), &manifest)
                .replace(done["own_sha256"].as_str().unwrap(), &zeros);
            done["own_sha256"] = Sha256Digest::of(text.as_bytes()).to_string().into();
            *bytes = text
                .replace(&zeros, done["own_sha256"].as_str().unwrap())
                .into_bytes();
        });
        let error = restore(
            &Job::new(),
            place.store.as_ref(),
            &place.path("t"),
            &RestoreOptions::default(),
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(
            error
                .to_string()
                .contains("which no command can have written"),
            "{error}"
        );
        assert!(!place.path("t").exists());
    }
}

#[test]
fn newer_formats_are_told_apart_from_damage() {
    let place = place();
    change(&place.path("store/DONE"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replacen("\"major\": 1", "\"major\": 2", 1)
            .into_bytes();
    });
    let error = verify(&Job::new(), place.store.as_ref(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Version);
}

#[test]
fn an_unfinished_place_is_told_so() {
    let place = place();
    fs::remove_file(place.path("store/DONE")).unwrap();
    let store = place.store.as_ref();
    assert!(is_files(store).unwrap());
    assert_eq!(list(store).unwrap().files, []);
    assert_eq!(
        verify(&Job::new(), store, 1).unwrap_err().kind(),
        ErrorKind::Damaged
    );
    let error = restore(
        &Job::new(),
        store,
        &place.path("t"),
        &RestoreOptions::default(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    let error = prune(store, true, false).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(prune(store, true, true).unwrap().items, []);
}
