//! Dumps whose files were written by someone else: well-formed, and not what they should be. Every verb ends with an
//! error that says so, and none takes anything away.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tipple_chunk::Sha256Digest;
use tipple_dump::{
    CatOptions, DumpError, ErrorKind, Job, LoadOptions, PruneOptions, VerifyOptions, cat, dump,
    list, load, prune, verify,
};
use tipple_store::{Access, Store, StoreOptions, StoreUrl, open_store};

use crate::round_trip::small;
use crate::source::{Keep, Numbers, NumbersContent};

/// A JSON object of a dump, changed, and its digest of itself with it.
pub fn forged(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = serde_json::from_slice(bytes).unwrap();
    change(&mut value);
    let zeros = "0".repeat(64);
    value["own_sha256"] = json!(zeros);
    let text = serde_json::to_string_pretty(&value).unwrap();
    let own = Sha256Digest::of(text.as_bytes()).to_string();
    text.replace(&zeros, &own).into_bytes()
}

struct Hostile {
    _folder: tempfile::TempDir,
    dir: PathBuf,
}

impl Hostile {
    fn new(source: &Numbers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("dump");
        let hostile = Self {
            _folder: folder,
            dir,
        };
        let _ = dump(
            &Job::default(),
            source,
            &[hostile.store().as_ref()],
            &small(1),
        );
        hostile
    }

    fn store(&self) -> std::sync::Arc<dyn Store> {
        let url: StoreUrl = self.dir.to_str().unwrap().parse().unwrap();
        open_store(&url, Access::Write, &StoreOptions::default()).unwrap()
    }

    fn first(&self, sub: &str) -> PathBuf {
        let entries = fs::read_dir(self.dir.join(sub)).unwrap();
        entries.map(|entry| entry.unwrap().path()).min().unwrap()
    }

    /// Changes an object of the layout and makes its own digest right again, which whoever forges a dump can do.
    fn change(&self, path: &Path, change: impl FnOnce(&mut Value)) {
        fs::write(path, forged(&fs::read(path).unwrap(), change)).unwrap();
    }

    /// Makes the digest over the part records right again.
    fn forge_done(&self) {
        let mut records: Vec<_> = fs::read_dir(self.dir.join("parts"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        records.sort();
        let digests: Vec<u8> = records
            .iter()
            .flat_map(|path| *Sha256Digest::of(&fs::read(path).unwrap()).as_bytes())
            .collect();
        self.change(&self.dir.join("DONE"), |done| {
            done["digest"] = json!(Sha256Digest::of(&digests).to_string());
        });
    }

    fn files(&self) -> u64 {
        let walk = |sub: &str| fs::read_dir(self.dir.join(sub)).unwrap().count() as u64;
        walk("chunks") + walk("parts") + walk("plan")
    }

    fn prune(&self) -> Result<(), DumpError> {
        let options = PruneOptions {
            delete: true,
            force: true,
            older_than: None,
        };
        prune(self.store().as_ref(), &options).map(drop)
    }

    /// Lets every reader at it.
    fn read(&self) -> Vec<(&'static str, Result<(), DumpError>)> {
        let (job, store) = (Job::default(), self.store());
        let store = store.as_ref();
        let contents: &[&dyn tipple_flow::Content] = &[&NumbersContent];
        let verified = verify(&job, store, contents, &VerifyOptions::default());
        let found = |problems| match problems {
            0 => Ok(()),
            _ => Err(DumpError::Damaged {
                store: String::new(),
                object: String::new(),
                reason: String::new(),
            }),
        };
        let cat_options = CatOptions::default();
        vec![
            (
                "verify",
                verified.and_then(|report| found(report.problems_total)),
            ),
            ("list", list(store, None).map(drop)),
            (
                "cat",
                cat(&job, store, contents, &mut Vec::new(), &cat_options).map(drop),
            ),
            (
                "load",
                load(&job, store, &Keep::default(), &LoadOptions::default()).map(drop),
            ),
            ("prune", self.prune()),
        ]
    }

    fn assert_damaged(&self, verbs: &[&str], what: &str) {
        let files = self.files();
        for (verb, read) in self.read() {
            match read {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}"),
                Ok(()) => assert!(!verbs.contains(&verb), "{what}: {verb} is content"),
            }
        }
        assert_eq!(self.files(), files, "{what}: prune took something");
    }
}

const ALL: &[&str] = &["verify", "list", "cat", "load", "prune"];

#[test]
fn a_done_that_names_another_plan_takes_nothing_away() {
    let hostile = Hostile::new(&Numbers::new(3000, 1000));
    let files = hostile.files();
    hostile.change(&hostile.dir.join("DONE"), |done| {
        done["plan"] = json!("deadbeef");
    });
    let error = hostile.prune().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("DONE"), "{error}");
    assert_eq!(hostile.files(), files);
}

#[test]
fn json_without_its_own_digest_or_with_anothers_is_damage() {
    for name in ["HEAD.json", "DONE", "parts"] {
        for own in [
            json!(null),
            json!(7),
            json!("0".repeat(64)),
            json!("F".repeat(64)),
        ] {
            let hostile = Hostile::new(&Numbers::new(3000, 1000));
            let path = match name {
                "parts" => hostile.first("parts"),
                _ => hostile.dir.join(name),
            };
            let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            value["own_sha256"] = own.clone();
            fs::write(&path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
            if name == "parts" {
                hostile.forge_done();
            }
            hostile.assert_damaged(ALL, &format!("{name} with {own}"));
        }
    }
}

#[test]
fn names_that_are_no_names_are_damage() {
    for name in [
        "",
        "../../x",
        "/etc/x",
        "a/b",
        "\u{1b}]0;x\u{7}",
        &"x".repeat(300),
    ] {
        let hostile = Hostile::new(&Numbers::new(3000, 1000));
        hostile.change(&hostile.dir.join("HEAD.json"), |head| {
            head["content"]["name"] = json!(name);
        });
        hostile.assert_damaged(ALL, &format!("content {name:?}"));

        let hostile = Hostile::new(&Numbers::new(3000, 1000));
        hostile.change(&hostile.dir.join("DONE"), |done| done["plan"] = json!(name));
        hostile.forge_done();
        hostile.assert_damaged(ALL, &format!("plan {name:?}"));
    }
}

#[test]
fn sums_beyond_all_numbers_are_damage() {
    let hostile = Hostile::new(&Numbers::new(3000, 1000));
    hostile.change(&hostile.first("parts"), |record| {
        let mut more = record["chunks"][0].clone();
        for sum in ["records", "raw_bytes", "stored_bytes"] {
            // Wrapped around, the sum is right again.
            more[sum] = json!(u64::MAX);
            record[sum] = json!(record[sum].as_u64().unwrap() - 1);
        }
        record["chunks"].as_array_mut().unwrap().push(more);
    });
    hostile.forge_done();
    hostile.assert_damaged(&["verify", "list", "cat", "load", "prune"], "sums");

    let hostile = Hostile::new(&Numbers::new(3000, 1000));
    hostile.change(&hostile.first("parts"), |record| {
        record["losses"] = json!({"a": u64::MAX, "b": u64::MAX});
        record["outcomes"] = json!({"c": u64::MAX});
    });
    hostile.forge_done();
    hostile.assert_damaged(&["verify"], "losses");
}

#[test]
fn an_object_beyond_all_sizes_is_damage() {
    for name in ["HEAD.json", "DONE", "parts"] {
        let hostile = Hostile::new(&Numbers::new(3000, 1000));
        let path = match name {
            "parts" => hostile.first("parts"),
            _ => hostile.dir.join(name),
        };
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(1 << 40).unwrap(); // sparse
        hostile.assert_damaged(ALL, name);
    }
}

#[test]
fn a_dump_does_not_go_on_with_a_forged_plan_or_record() {
    type Forge = fn(&Hostile);
    let forgeries: &[(&str, Forge)] = &[
        ("extension", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"][0]["extension"] = json!("../../../x");
            });
        }),
        ("a part twice", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                let part = sealed["parts"][0].clone();
                sealed["parts"].as_array_mut().unwrap().push(part);
            });
        }),
        ("a part of another plan", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"][0]["name"] = json!("deadbeef-00000000");
            });
        }),
        ("a part less", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"].as_array_mut().unwrap().remove(0);
            });
            fs::remove_file(hostile.first("parts")).unwrap();
        }),
        ("no plan object", |hostile| {
            let plan = hostile.first("plan");
            let objects = fs::read_dir(&plan).unwrap();
            let mut paths = objects.map(|entry| entry.unwrap().path());
            fs::remove_file(paths.find(|path| !path.ends_with("PLANNED")).unwrap()).unwrap();
        }),
        ("another count", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"][0]["records"] = json!(1001);
            });
        }),
        ("another count of a part to be done", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"][0]["records"] = json!(1001);
            });
            fs::remove_file(hostile.first("parts")).unwrap();
        }),
        ("a part of no plan", |hostile| {
            hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
                sealed["parts"][0]["name"] = json!("other");
            });
        }),
        ("the record of another part", |hostile| {
            hostile.change(&hostile.first("parts"), |record| {
                record["part"] = json!("x-1")
            });
        }),
        ("a chunk elsewhere", |hostile| {
            hostile.change(&hostile.first("parts"), |record| {
                record["chunks"][0]["name"] = json!("../../etc/passwd");
            });
        }),
    ];
    for (what, forge) in forgeries {
        let source = Numbers::new(3000, 1000);
        let hostile = Hostile::new(&source);
        for name in ["DONE", "SHA256SUMS"] {
            fs::remove_file(hostile.dir.join(name)).unwrap();
        }
        forge(&hostile);
        let store = hostile.store();
        let error = dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
        assert!(!hostile.dir.join("DONE").exists(), "{what}");
    }
    // Estimates are only shown.
    let source = Numbers::new(3000, 1000);
    let hostile = Hostile::new(&source);
    for name in ["DONE", "SHA256SUMS"] {
        fs::remove_file(hostile.dir.join(name)).unwrap();
    }
    hostile.change(&hostile.first("plan").join("PLANNED"), |sealed| {
        for part in sealed["parts"].as_array_mut().unwrap() {
            part["bytes_estimate"] = json!(u64::MAX);
        }
    });
    dump(
        &Job::default(),
        &source,
        &[hostile.store().as_ref()],
        &small(1),
    )
    .unwrap();
}

#[test]
fn a_load_does_not_go_on_from_a_forged_state() {
    let hostile = Hostile::new(&Numbers::new(3000, 1000));
    let state = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(state.path().to_owned()),
        ..LoadOptions::default()
    };
    let try_load = |keep: &Keep| load(&Job::default(), hostile.store().as_ref(), keep, &options);
    let mut keep = Keep {
        fail_at: Some(1500),
        ..Keep::default()
    };
    try_load(&keep).unwrap_err();
    keep.fail_at = None;
    let path = fs::read_dir(&state)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = fs::read_to_string(&path).unwrap();
    let forged = text.replace("\"losses\":{}", "\"losses\":{\"x\":18446744073709551615}");
    assert_ne!(text, forged);
    fs::write(&path, forged).unwrap();
    let error = try_load(&keep).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(error.to_string().contains("remove it"), "{error}");
    // No text.
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(
        &path,
        [first.as_bytes(), b"\n\xff\n", rest.as_bytes()].concat(),
    )
    .unwrap();
    let error = try_load(&keep).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(error.to_string().contains("remove it"), "{error}");
    // Beyond all sizes.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap(); // sparse
    let error = try_load(&keep).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}
