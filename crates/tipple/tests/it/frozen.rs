//! Dumps of every format version, frozen: they were written once and are never written again. What they hold is read
//! for ever; what a later version adds to them is no obstacle, and what it changes is one that says so.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tipple_chunk::Sha256Digest;
use tipple_testkit::{Memcached, RawMemcached};

use crate::support::Place;
use crate::whole_job::{Item, exits, items, report, url};

const FIXTURES: [&str; 2] = ["items", "lines"];

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/v1/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What was dumped into the fixture `lines`, in three chunks.
fn lines() -> Vec<u8> {
    let mut lines = b"first\n\nnot UTF-8: \xff\xfe\0\r\n".to_vec();
    lines.extend(vec![b'a'; 2_500_000]);
    lines.push(b'\n');
    lines.extend((0..1000).flat_map(|n| format!("line {n}\n").into_bytes()));
    lines.extend_from_slice(b"the last line has no newline");
    lines
}

/// What was dumped into the fixture `items`, in two parts.
fn assert_items(dir: &str) {
    let read = items(dir);
    assert_eq!(read.len(), 403);
    let never = |value: Vec<u8>, flags| Item {
        value,
        flags,
        exptime: -1,
    };
    for n in 0..400 {
        let value = format!("value {n} ").repeat(n % 7).into_bytes();
        assert_eq!(
            read[format!("item:{n:04}").as_bytes()],
            never(value, n as u32)
        );
    }
    let big = b"0123456789abcdef".repeat(62_500);
    assert_eq!(read[&b"big"[..]], never(big, 1));
    let key = b"nl\r\nand space";
    assert_eq!(read[&key[..]], never(b"binary key".to_vec(), 7));
    let later = Item {
        value: b"\0\r\nEND\r\n\xff".to_vec(),
        flags: u32::MAX,
        exptime: 2_147_483_000,
    };
    assert_eq!(read[&b"later"[..]], later);
}

fn assert_whole(place: &Place, name: &str, dir: &str) {
    assert_eq!(
        report(&["verify", dir])["problems"],
        json!([]),
        "{name} in {dir}"
    );
    assert_eq!(
        report(&["verify", dir, "--quick"])["problems"],
        json!([]),
        "{name} in {dir}"
    );
    if name == "items" {
        return assert_items(dir);
    }
    let out = place.path("out");
    exits(0, &["load", dir, &format!("lines:{}", out.display())]);
    assert!(fs::read(&out).unwrap() == lines(), "{dir} gave other lines");
    fs::remove_file(out).unwrap();
}

#[test]
fn dumps_of_version_1_are_read() {
    let place = Place::new();
    for name in FIXTURES {
        assert_whole(&place, name, &fixture(name));
    }
    let told = report(&["verify", &fixture("items")]);
    assert_eq!(told["outcomes"], json!({"filtered: regex": 5}));
    assert_eq!((&told["parts"], &told["chunks"]), (&json!(2), &json!(2)));
    let server = Memcached::start(&["-m", "64"]);
    exits(0, &["load", &fixture("items"), &url(&server)]);
    // One of them expires some day.
    assert!(RawMemcached::connect(&server).stat("curr_items") >= 402);
    exits(
        0,
        &["dump", &url(&server), place.path("again").to_str().unwrap()],
    );
    let again = items(place.path("again").to_str().unwrap());
    assert_eq!(again[&b"item:0006"[..]].value, b"value 6 ".repeat(6));
}

#[test]
fn a_sealed_dump_of_version_1_is_read() {
    let place = Place::new();
    let (dir, key, out) = (fixture("sealed"), fixture("sealed.key"), place.path("out"));
    let key = ["--encrypt-key", &key];
    let verified = report(&[&["verify", dir.as_str()][..], &key].concat());
    assert_eq!(verified["problems"], json!([]));
    let sink = format!("lines:{}", out.display());
    exits(0, &[&["load", dir.as_str(), &sink][..], &key].concat());
    assert!(fs::read(&out).unwrap() == lines());
    exits(13, &["verify", &dir]);
}

/// A fixture that is changed.
fn copy(place: &Place, name: &str) -> PathBuf {
    let to = place.path(name);
    let copied = std::process::Command::new("cp")
        .args(["-r", &fixture(name), to.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(copied.success());
    to
}

fn one_in(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).min().unwrap()
}

/// Changes a JSON object, and its digest of itself with it.
fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    let zeros = "0".repeat(64);
    value["own_sha256"] = json!(zeros);
    let text = serde_json::to_string_pretty(&value).unwrap();
    let own = Sha256Digest::of(text.as_bytes()).to_string();
    fs::write(path, text.replace(&zeros, &own)).unwrap();
}

#[test]
fn what_a_newer_minor_version_adds_is_no_obstacle() {
    let place = Place::new();
    for name in FIXTURES {
        let dir = copy(&place, name);
        let newer = |value: &mut Value| {
            value["format"]["minor"] = json!(7);
            value["format"]["patch"] = json!("b");
            value["a new one"] = json!({"of": ["any", 1, null]});
        };
        change(&dir.join("HEAD.json"), |head| {
            newer(head);
            head["shaping"]["rows"] = json!(5);
            head["content"]["of"] = json!("x");
        });
        change(&one_in(&dir.join("plan")).join("PLANNED"), |sealed| {
            newer(sealed);
            sealed["parts"][0]["weight"] = json!(1.5);
        });
        let mut digests = Vec::new();
        let mut records: Vec<_> = fs::read_dir(dir.join("parts"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        records.sort();
        for record in records {
            change(&record, |record| {
                newer(record);
                record["chunks"][0]["where"] = json!("there");
            });
            digests.extend(*Sha256Digest::of(&fs::read(record).unwrap()).as_bytes());
        }
        change(&dir.join("DONE"), |done| {
            newer(done);
            done["digest"] = json!(Sha256Digest::of(&digests).to_string());
        });
        fs::write(
            dir.join("NOTES"),
            "of a kind that this version does not know\n",
        )
        .unwrap();
        let summed = std::process::Command::new("sh")
            .args([
                "-c",
                "sha256sum $(find . -type f ! -name DONE ! -name SHA256SUMS -printf '%P\n' | sort) > SHA256SUMS",
            ])
            .current_dir(&dir)
            .status()
            .unwrap();
        assert!(summed.success());
        assert_whole(&place, name, dir.to_str().unwrap());
        // Nothing of what it knows may be missing there.
        let sums = fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
        let without: Vec<_> = sums
            .lines()
            .filter(|line| !line.contains("parts/"))
            .collect();
        fs::write(dir.join("SHA256SUMS"), without.join("\n")).unwrap();
        exits(4, &["verify", dir.to_str().unwrap()]);
    }
}

#[test]
fn a_newer_major_version_is_refused() {
    let place = Place::new();
    let dir = copy(&place, "lines");
    let folder = dir.to_str().unwrap();
    let plan = one_in(&dir.join("plan")).join("PLANNED");
    let part = one_in(&dir.join("parts"));
    let every: &[&[&str]] = &[
        &["verify", folder],
        &["list", folder],
        &["cat", folder],
        &["load", folder, "-"],
        &["prune", folder],
    ];
    for (object, verbs) in [
        (dir.join("HEAD.json"), every),
        (dir.join("DONE"), every),
        (part, &[every[0], every[1]]),
        // Nothing else needs it.
        (plan, &[every[0]]),
    ] {
        let whole = fs::read(&object).unwrap();
        for own in ["whatever", ""] {
            let mut value: Value = serde_json::from_slice(&whole).unwrap();
            value["format"] = json!({"major": 2, "minor": 0, "more": []});
            value["own_sha256"] = json!(own);
            fs::write(&object, value.to_string()).unwrap();
            for verb in verbs {
                exits(13, verb);
            }
        }
        fs::write(&object, whole).unwrap();
    }
    exits(0, every[0]);
}
