//! Sealed dumps: what goes in comes out, with the key and only with it; nothing plain is anywhere; and whatever is changed
//! by somebody without the key is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tipple_chunk::{Codec, KeyRing, SealKey, Sha256Digest};
use tipple_dump::{
    CatOptions, DumpError, DumpOptions, ErrorKind, Event, Job, LoadOptions, PruneOptions,
    SpoolPlace, VerifyOptions, cat, dump, list, load, prune, verify,
};
use tipple_store::{Access, Store, StoreUrl, open_store};

use crate::damage::{DAMAGES, kinds};
use crate::round_trip::{assert_good, assert_good_with, memory_store, prune_leftovers, small};
use crate::source::{Keep, Numbers, NumbersContent, record};

/// Keys of these names, each of 32 times its byte.
pub fn ring(keys: &[(&str, u8)]) -> KeyRing {
    let line = |(id, byte): &(&str, u8)| {
        let key = SealKey::new(id.parse().unwrap(), &[*byte; 32]);
        key.to_line().to_string()
    };
    let file: String = keys.iter().map(line).collect();
    KeyRing::parse(file.as_bytes()).unwrap()
}

fn key() -> KeyRing {
    ring(&[("k", 1)])
}

fn sealed_with(keys: KeyRing) -> DumpOptions {
    DumpOptions {
        keys: Some(keys),
        ..small(2)
    }
}

fn folder(dir: &Path) -> Arc<dyn Store> {
    let url: StoreUrl = dir.to_str().unwrap().parse().unwrap();
    open_store(&url, Access::Write, &tipple_store::StoreOptions::default()).unwrap()
}

fn load_into(keep: &Keep, store: &dyn Store, keys: Option<KeyRing>) -> Result<u64, DumpError> {
    let options = LoadOptions {
        threads: 1,
        keys,
        ..LoadOptions::default()
    };
    load(&Job::default(), store, keep, &options).map(|report| report.records)
}

fn problems(store: &dyn Store, keys: Option<KeyRing>) -> Result<Vec<String>, DumpError> {
    let options = VerifyOptions {
        keys,
        ..VerifyOptions::default()
    };
    let report = verify(&Job::default(), store, &[&NumbersContent], &options)?;
    Ok(report.problems.into_iter().map(|p| p.problem).collect())
}

/// Two parts of three chunks each, and their numbers.
fn source() -> Numbers {
    Numbers {
        bytes: |_| 1000,
        ..Numbers::new(6000, 3000)
    }
}

/// A sealed dump of it.
fn sealed_dump(dir: &Path) -> Arc<dyn Store> {
    let store = folder(dir);
    dump(
        &Job::default(),
        &source(),
        &[store.as_ref()],
        &sealed_with(key()),
    )
    .unwrap();
    store
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path => files.push(path),
            }
        }
    }
    files.sort();
    files
}

fn of(dir: &Path, sub: &str) -> Vec<PathBuf> {
    files(&dir.join(sub))
}

/// Whether any file below `dir` has one of `markers` in it.
fn shows(dir: &Path, markers: &[Vec<u8>]) -> Option<PathBuf> {
    files(dir).into_iter().find(|path| {
        // A file may go while it is looked at.
        let bytes = fs::read(path).unwrap_or_default();
        markers
            .iter()
            .any(|marker| bytes.windows(marker.len()).any(|window| window == marker))
    })
}

#[test]
fn nothing_plain_is_in_the_store_nor_in_the_spool() {
    let work = tempfile::tempdir().unwrap();
    let (dir, spool) = (work.path().join("dump"), work.path().join("spool"));
    fs::create_dir(&spool).unwrap();
    let source = || Numbers {
        bytes: |_| 200,
        ..Numbers::new(20_000, 1000)
    };
    // Pieces of records, positions, and the text of a plan object that is bytes and of one that is a file.
    let records = (0..20_000)
        .step_by(997)
        .map(|n| record(n, 200)[4..].to_vec());
    let mut markers: Vec<Vec<u8>> = records.collect();
    markers.extend([b"[2000,3000]".to_vec(), b"[3000,4000]".to_vec()]);
    markers.extend([b"00000000000003e7".to_vec(), b"00000000000007d0".to_vec()]);
    for (name, keys) in [("plain", None), ("sealed", Some(key()))] {
        let store = folder(&dir.join(name));
        let seen = Arc::new(AtomicU64::new(0));
        let (look, markers_of, spool_of) = (dir.join(name), markers.clone(), spool.clone());
        let counted = Arc::clone(&seen);
        let job = Job::default().on_event(move |event| {
            if matches!(event, Event::Part { .. }) {
                for dir in [&look, &spool_of] {
                    counted.fetch_add(
                        u64::from(shows(dir, &markers_of).is_some()),
                        Ordering::Relaxed,
                    );
                }
            }
        });
        let options = DumpOptions {
            codec: Codec::None,
            spool: SpoolPlace::Dir(spool.clone()),
            keys: keys.clone(),
            ..small(2)
        };
        dump(&job, &source(), &[store.as_ref()], &options).unwrap();
        // The markers are those that a plain dump shows.
        match keys {
            None => {
                assert!(seen.load(Ordering::Relaxed) > 0);
                for marker in &markers {
                    let marker = std::slice::from_ref(marker);
                    assert!(shows(&dir.join(name), marker).is_some(), "{marker:?}");
                }
            }
            Some(_) => {
                assert_eq!(seen.load(Ordering::Relaxed), 0);
                assert_eq!(shows(&dir.join(name), &markers), None);
            }
        }
        assert_eq!(files(&spool), Vec::<PathBuf>::new());
    }
}

#[test]
fn without_the_key_nothing_is_read_and_its_name_is_told() {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("dump");
    let store = sealed_dump(&dir);
    let store = store.as_ref();
    let url = store.url();
    for (keys, reason) in [
        (
            None,
            "it is sealed with the key `k`: give --encrypt-key the file that has it",
        ),
        (
            Some(ring(&[("j", 1)])),
            "it is sealed with the key `k`, which is not in the key file: give --encrypt-key the file that has it",
        ),
        (
            Some(ring(&[("j", 1), ("k", 2)])),
            "it is sealed with the key `k`, and the key of that name in the key file is another one: give --encrypt-key the file that has the right one",
        ),
    ] {
        let keep = Keep::default();
        let shown = CatOptions {
            keys: keys.clone(),
            ..CatOptions::default()
        };
        let mut out = Vec::new();
        for error in [
            load_into(&keep, store, keys.clone()).unwrap_err(),
            problems(store, keys.clone()).unwrap_err(),
            cat(&Job::default(), store, &[&NumbersContent], &mut out, &shown).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Key);
            assert_eq!(error.to_string(), format!("{url}: {reason}"));
        }
        assert!(keep.numbers().is_empty() && out.is_empty());
        if keys.is_some() {
            assert_eq!(
                list(store, keys.as_ref()).unwrap_err().kind(),
                ErrorKind::Key
            );
        }
    }
    // What is there can be looked at and tidied without the key.
    let listing = list(store, None).unwrap();
    assert_eq!(listing.done.unwrap().records, 6000);
    assert_eq!(listing.head.seal.unwrap().key.as_str(), "k");
    assert!(
        prune(store, &PruneOptions::default())
            .unwrap()
            .items
            .is_empty()
    );

    // A ring of a new key and the old one reads it.
    let keys = ring(&[("new", 7), ("k", 1)]);
    assert_eq!(
        load_into(&Keep::default(), store, Some(keys.clone())).unwrap(),
        6000
    );
    assert_good_with(store, 6000, Some(&keys));
    let mut out = Vec::new();
    let shown = CatOptions {
        keys: Some(keys),
        records_max: Some(2),
        ..CatOptions::default()
    };
    cat(&Job::default(), store, &[&NumbersContent], &mut out, &shown).unwrap();
    assert_eq!(out, b"0\n1\n");
}

#[test]
fn a_plain_dump_is_not_taken_for_a_sealed_one() {
    let store = memory_store("plain-for-sealed");
    let store = store.as_ref();
    dump(&Job::default(), &source(), &[store], &small(2)).unwrap();
    let error = load_into(&Keep::default(), store, Some(key())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    assert_eq!(
        error.to_string(),
        "memory:plain-for-sealed: it is not sealed, and --encrypt-key was given: leave that out if a plain dump is what you expect"
    );
    assert_good(store, 6000);
}

#[test]
fn a_broken_off_dump_goes_on_with_its_key_and_no_other() {
    for cancel_after in [100, 3100, 5900] {
        let store = memory_store(&format!("sealed-resume-{cancel_after}"));
        let store = store.as_ref();
        let mut source = Numbers {
            cancel_after: Some(cancel_after),
            ..Numbers::new(6000, 500)
        };
        let begun = dump(&Job::default(), &source, &[store], &sealed_with(key()));
        assert!(matches!(begun, Err(DumpError::Interrupted)), "{begun:?}");
        source.cancel_after = None;
        let refused = [
            small(2),
            sealed_with(ring(&[("other", 1)])),
            sealed_with(ring(&[("k", 2)])),
        ];
        for options in refused {
            let error = dump(&Job::default(), &source, &[store], &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Key, "{error}");
        }
        // The key that a dump was begun with stays its key.
        let rotated = sealed_with(ring(&[("new", 9), ("k", 1)]));
        let report = dump(&Job::default(), &source, &[store], &rotated).unwrap();
        assert_eq!(report.records, 6000);
        prune_leftovers(store);
        assert_good_with(store, 6000, Some(&key()));
        let keep = Keep::default();
        load_into(&keep, store, Some(key())).unwrap();
        assert_eq!(keep.numbers(), source.expected());
    }
    // And a plain one stays plain.
    let store = memory_store("plain-resume");
    let mut source = Numbers {
        cancel_after: Some(100),
        ..Numbers::new(6000, 500)
    };
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap_err();
    source.cancel_after = None;
    let error = dump(
        &Job::default(),
        &source,
        &[store.as_ref()],
        &sealed_with(key()),
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Key);
}

#[test]
fn several_stores_get_the_same_sealed_dump_and_an_empty_one_is_filled_without_the_source() {
    let work = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| folder(&work.path().join(name)));
    let options = sealed_with(key());
    dump(
        &Job::default(),
        &source(),
        &[a.as_ref(), b.as_ref()],
        &options,
    )
    .unwrap();
    let nothing = Numbers {
        fail_finish: true.into(),
        cancel_after: Some(0),
        ..source()
    };
    let error = dump(
        &Job::default(),
        &nothing,
        &[a.as_ref(), c.as_ref()],
        &small(2),
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Key);
    dump(
        &Job::default(),
        &nothing,
        &[a.as_ref(), c.as_ref()],
        &options,
    )
    .unwrap();
    for store in [&a, &b, &c] {
        assert_good_with(store.as_ref(), 6000, Some(&key()));
    }
    // One of them says something else of the same dump.
    fs::remove_file(work.path().join("c/DONE")).unwrap();
    forge(&work.path().join("c/HEAD.json"), |head| {
        head["started"] = "then".into()
    });
    let error = dump(
        &Job::default(),
        &nothing,
        &[a.as_ref(), c.as_ref()],
        &options,
    );
    let error = error.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not that of an earlier one of the stores"),
        "{error}"
    );
}

#[test]
fn the_damage_matrix_of_a_sealed_dump() {
    let work = tempfile::tempdir().unwrap();
    let whole = work.path().join("whole");
    sealed_dump(&whole);
    for (n, kind) in kinds(&whole).into_iter().enumerate() {
        let relative = kind.strip_prefix(&whole).unwrap();
        for (how, damage) in DAMAGES {
            let dir = work.path().join(format!("{n}-{how}"));
            copy_dir(&whole, &dir);
            damage(&dir.join(relative));
            let case = format!("{} {how}", relative.display());
            let store = folder(&dir);
            match problems(store.as_ref(), Some(key())) {
                Ok(found) => assert!(!found.is_empty(), "{case}"),
                Err(error) => assert!(
                    // HEAD or DONE gone: it is no dump, or no complete one.
                    [ErrorKind::Damaged, ErrorKind::Usage].contains(&error.kind()),
                    "{case}: {error}"
                ),
            }
            let keep = Keep::default();
            let loaded = load_into(&keep, store.as_ref(), Some(key()));
            match relative.to_str().unwrap() {
                // Not needed for loading.
                name if name.starts_with("plan/") || name == "SHA256SUMS" => {
                    assert_eq!(loaded.unwrap(), 6000, "{case}");
                }
                name => {
                    let kind = loaded.expect_err(&case).kind();
                    assert!(
                        kind == ErrorKind::Damaged || kind == ErrorKind::Usage,
                        "{case}"
                    );
                    // Nothing at all, unless it is a chunk: then what comes before it.
                    assert!(
                        name.starts_with("chunks/") || keep.numbers().is_empty(),
                        "{case}"
                    );
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

/// What is found when the bytes of some files were exchanged: by verify, and by a load, which gives nothing of them.
fn exchanged(dir: &Path, to: &Path, by: &Path) -> (Vec<String>, DumpError) {
    let own = fs::read(to).unwrap();
    fs::copy(by, to).unwrap();
    let store = folder(dir);
    let found = problems(store.as_ref(), Some(key())).unwrap();
    let keep = Keep::default();
    let error = load_into(&keep, store.as_ref(), Some(key())).unwrap_err();
    assert!(keep.numbers().is_empty(), "{error}");
    fs::write(to, own).unwrap();
    assert_eq!(
        problems(store.as_ref(), Some(key())).unwrap(),
        Vec::<String>::new()
    );
    (found, error)
}

#[test]
fn chunks_and_records_that_were_moved_are_found_although_they_are_sealed_with_the_key() {
    let work = tempfile::tempdir().unwrap();
    let (one, two) = (work.path().join("one"), work.path().join("two"));
    sealed_dump(&one);
    sealed_dump(&two);
    // With another key, which the ring of those who read has too.
    let three = work.path().join("three");
    let options = sealed_with(ring(&[("j", 2)]));
    let store = folder(&three);
    dump(&Job::default(), &source(), &[store.as_ref()], &options).unwrap();
    let chunks = of(&one, "chunks");
    assert_eq!(chunks.len(), 6);
    let moved = "it was sealed for another dump, part or number, and moved here";
    let (other, third) = (&of(&two, "chunks")[0], &of(&three, "chunks")[0]);
    for by in [other, third, &chunks[1], &chunks[3]] {
        let (found, error) = exchanged(&one, &chunks[0], by);
        assert!(found.len() == 1 && found[0].ends_with(moved), "{found:?}");
        assert!(error.to_string().contains("chunks/"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.ends_with(moved), "{cause}");
    }
    let parts = of(&one, "parts");
    for by in [&of(&two, "parts")[0], &parts[1]] {
        let (found, error) = exchanged(&one, &parts[0], by);
        assert!(
            found
                .iter()
                .any(|found| found.contains("its mac does not hold")),
            "{found:?}"
        );
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
    let done = |dir: &Path| dir.join("DONE");
    fs::copy(done(&two), done(&one)).unwrap();
    let error = load_into(&Keep::default(), folder(&one).as_ref(), Some(key())).unwrap_err();
    assert!(
        error.to_string().contains("its mac does not hold"),
        "{error}"
    );
    let found = problems(folder(&one).as_ref(), Some(key())).unwrap();
    assert!(found[0].contains("its mac does not hold"), "{found:?}");
}

/// An earlier attempt at the same chunk of the same part is sealed as that chunk, too. Which attempt counts, the part
/// record says.
#[test]
fn a_chunk_of_an_attempt_that_does_not_count_is_found() {
    let work = tempfile::tempdir().unwrap();
    let mut source = Numbers {
        cancel_after: Some(2500),
        ..source()
    };
    let options = DumpOptions {
        threads: 1,
        ..sealed_with(key())
    };
    // What has come to the store by the time of a cancel is a matter of luck: until there is a chunk of a sealed plan, and of a part that was
    // not committed.
    let (dir, store, stale) = (0..)
        .find_map(|n| {
            source.read.store(0, Ordering::Relaxed);
            let dir = work.path().join(format!("dump-{n}"));
            let store = folder(&dir);
            dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap_err();
            let listing = list(store.as_ref(), Some(&key())).unwrap();
            let plan = of(&dir, "plan");
            plan.iter().find(|object| object.ends_with("PLANNED"))?;
            let is_committed = |chunk: &PathBuf| {
                let name = chunk.file_name().unwrap().to_str().unwrap();
                listing
                    .parts
                    .iter()
                    .any(|part| name.starts_with(&part.part))
            };
            let stale = of(&dir, "chunks")
                .into_iter()
                .find(|chunk| !is_committed(chunk))?;
            Some((dir, store, stale))
        })
        .expect("there is no end of numbers");
    // The source has moved on: the same numbers, in longer records.
    (source.cancel_after, source.bytes) = (None, |_| 1001);
    dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
    let stem = stale.to_str().unwrap().rsplit_once('-').unwrap().0;
    let mut same_number = of(&dir, "chunks");
    same_number.retain(|path| path.to_str().unwrap().starts_with(stem) && *path != stale);
    let [counts] = &same_number[..] else {
        panic!("{same_number:?}");
    };
    let keep = Keep::default();
    fs::copy(&stale, counts).unwrap();
    let error = load_into(&keep, store.as_ref(), Some(key())).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("is another chunk than its part record speaks of"),
        "{error}"
    );
    assert!(keep.numbers().is_empty());
}

/// Changes a JSON object as somebody does who knows the layout and has no key: `own_sha256` is made right.
fn forge(path: &Path, change: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(path).unwrap();
    let mut object: Value = serde_json::from_str(&text).unwrap();
    change(&mut object);
    let mac = object.as_object_mut().unwrap().remove("mac");
    object.as_object_mut().unwrap().remove("own_sha256");
    let mut text = serde_json::to_string_pretty(&object).unwrap();
    text.truncate(text.len() - 2);
    let end = |own: &str| format!("{text},\n  \"own_sha256\": \"{own}\"\n}}\n");
    let own = Sha256Digest::of(end(&"0".repeat(64)).as_bytes()).to_string();
    let mut forged = end(&own);
    if let Some(mac) = mac {
        forged.truncate(forged.len() - 3);
        forged.push_str(&format!(",\n  \"mac\": {mac}\n}}\n"));
    }
    fs::write(path, forged).unwrap();
}

#[test]
fn a_part_record_a_plan_a_head_or_a_done_that_was_forged_is_found() {
    let work = tempfile::tempdir().unwrap();
    let whole = work.path().join("whole");
    sealed_dump(&whole);
    let part = of(&whole, "parts").remove(0);
    let planned = of(&whole, "plan")
        .into_iter()
        .find(|p| p.ends_with("PLANNED"));
    let relative = |path: &Path| path.strip_prefix(&whole).unwrap().to_owned();
    type Change = fn(&mut Value);
    let cases: [(PathBuf, &str, Change); 7] = [
        (relative(&part), "a chunk less", |object| {
            let gone = object["chunks"].as_array_mut().unwrap().pop().unwrap();
            for field in ["records", "raw_bytes", "stored_bytes"] {
                let sum = object[field].as_u64().unwrap() - gone[field].as_u64().unwrap();
                object[field] = sum.into();
            }
        }),
        (relative(&part), "without a mac", |object| {
            object.as_object_mut().unwrap().remove("mac");
        }),
        (relative(&planned.unwrap()), "a part less", |object| {
            object["parts"].as_array_mut().unwrap().pop();
        }),
        ("DONE".into(), "other counts", |object| {
            object["lost"] = 1.into()
        }),
        ("DONE".into(), "without a mac", |object| {
            object.as_object_mut().unwrap().remove("mac");
        }),
        ("HEAD.json".into(), "another source", |object| {
            object["source"]["kind"] = "another".into();
        }),
        ("HEAD.json".into(), "not sealed", |object| {
            let object = object.as_object_mut().unwrap();
            object.remove("seal");
            object.remove("mac");
        }),
    ];
    for (n, (file, what, change)) in cases.into_iter().enumerate() {
        let dir = work.path().join(n.to_string());
        copy_dir(&whole, &dir);
        forge(&dir.join(&file), change);
        let case = format!("{} {what}", file.display());
        let store = folder(&dir);
        let keep = Keep::default();
        let loaded = load_into(&keep, store.as_ref(), Some(key()));
        let found = problems(store.as_ref(), Some(key()));
        match (file.to_str().unwrap(), what) {
            ("HEAD.json", "not sealed") => {
                for error in [loaded.unwrap_err(), found.unwrap_err()] {
                    assert_eq!(error.kind(), ErrorKind::Key, "{case}");
                }
                // And whoever takes it for a plain one finds that it is none.
                let error = load_into(&keep, store.as_ref(), None).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{case}: {error}");
                assert!(!problems(store.as_ref(), None).unwrap().is_empty());
            }
            (name, _) => {
                let found = found.unwrap();
                assert!(
                    found.iter().any(|found| found.contains("mac")),
                    "{case}: {found:?}"
                );
                if name.starts_with("parts/") {
                    // DONE finds it; without DONE, the record itself tells.
                    assert_eq!(loaded.unwrap_err().kind(), ErrorKind::Damaged, "{case}");
                    fs::remove_file(dir.join("DONE")).unwrap();
                    let options = LoadOptions {
                        partial: true,
                        keys: Some(key()),
                        ..LoadOptions::default()
                    };
                    let error = load(&Job::default(), store.as_ref(), &Keep::default(), &options);
                    let error = error.unwrap_err().to_string();
                    assert!(error.contains("mac"), "{case}: {error}");
                } else if !name.starts_with("plan/") {
                    let error = loaded.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{case}");
                    assert!(error.to_string().contains("mac"), "{case}: {error}");
                }
            }
        }
        assert!(
            keep.numbers().is_empty() || file.starts_with("plan"),
            "{case}"
        );
    }
}
