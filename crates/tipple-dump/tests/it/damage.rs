//! The damage matrix: every kind of file in a dump, damaged in every way, against verify, quick verify and load; and
//! every kind of file of an unfinished dump, against going on with it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tipple_dump::{
    Depth, DumpError, ErrorKind, Job, LoadOptions, VerifyOptions, dump, load, verify,
};
use tipple_store::{Access, Store, StoreOptions, StoreUrl, open_store};

use crate::round_trip::small;
use crate::source::{Keep, Numbers, NumbersContent};

fn open(dir: &Path) -> std::sync::Arc<dyn Store> {
    open_for(dir, Access::Read)
}

fn open_for(dir: &Path, access: Access) -> std::sync::Arc<dyn Store> {
    let url: StoreUrl = dir.to_str().unwrap().parse().unwrap();
    open_store(&url, access, &StoreOptions::default()).unwrap()
}

/// A finished dump, and the folder that it goes with.
fn dumped(source: &Numbers) -> (TempDir, PathBuf) {
    let whole = tempfile::tempdir().unwrap();
    let dir = whole.path().join("dump");
    let store = open_for(&dir, Access::Write);
    dump(&Job::default(), source, &[store.as_ref()], &small(2)).unwrap();
    (whole, dir)
}

fn load_error(dir: &Path) -> ErrorKind {
    let options = LoadOptions::default();
    let loaded = load(
        &Job::default(),
        open(dir).as_ref(),
        &Keep::default(),
        &options,
    );
    loaded.unwrap_err().kind()
}

fn problems(dir: &Path, depth: Depth) -> Result<u64, DumpError> {
    let options = VerifyOptions {
        depth,
        threads: 2,
        ..VerifyOptions::default()
    };
    let report = verify(
        &Job::default(),
        open(dir).as_ref(),
        &[&NumbersContent],
        &options,
    )?;
    Ok(report.problems_total)
}

/// Every file of a kind is represented by its first one.
pub fn kinds(dir: &Path) -> Vec<PathBuf> {
    let first = |sub: &str| {
        let mut paths: Vec<_> = fs::read_dir(dir.join(sub))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths.remove(0)
    };
    let plan = first("plan");
    let mut kinds = vec![first("chunks"), first("parts"), plan.join("PLANNED")];
    kinds.extend(plan_objects(dir).into_iter().next());
    kinds.extend(["HEAD.json", "SHA256SUMS", "DONE"].map(|name| dir.join(name)));
    kinds
}

fn plan_objects(dir: &Path) -> Vec<PathBuf> {
    let plans = fs::read_dir(dir.join("plan")).unwrap();
    let mut paths: Vec<_> = plans
        .flat_map(|plan| fs::read_dir(plan.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("PLANNED"))
        .collect();
    paths.sort();
    paths
}

pub type Damage = (&'static str, fn(&Path));

pub const DAMAGES: &[Damage] = &[
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| fs::write(path, b"").unwrap()),
    ("cut by a byte", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }),
    ("cut to half", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("with a byte more", |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes.push(b'7');
        fs::write(path, bytes).unwrap();
    }),
    ("with a bit flipped at the start", |path| flip(path, 0.0)),
    ("with a bit flipped in the middle", |path| flip(path, 0.5)),
    ("with a digit changed", |path| {
        // The nastiest: still well-formed JSON. What is sealed may have no digit: then the last byte is changed.
        let mut bytes = fs::read(path).unwrap();
        let digit = bytes.iter().rposition(u8::is_ascii_digit);
        let digit = digit.unwrap_or(bytes.len() - 1);
        bytes[digit] ^= 1;
        fs::write(path, bytes).unwrap();
    }),
];

fn flip(path: &Path, place: f64) {
    let mut bytes = fs::read(path).unwrap();
    let at = (bytes.len() as f64 * place) as usize;
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_part_is_no_part_of_what_was_verified() {
    let source = Numbers {
        bytes: |_| 1000,
        ..Numbers::new(6000, 3000)
    };
    let (_whole, dir) = dumped(&source);
    let part = kinds(&dir).remove(1);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(part).unwrap()).unwrap();
    let chunks = record["chunks"].as_array().unwrap();
    // The chunks before it are good, and so are its first frames.
    let last = chunks.last().unwrap()["name"].as_str().unwrap();
    assert!(chunks.len() > 1);
    flip(&dir.join(last), 0.5);
    for depth in [Depth::Full, Depth::Quick] {
        let options = VerifyOptions {
            depth,
            ..VerifyOptions::default()
        };
        let job = Job::default();
        let verified = verify(&job, open(&dir).as_ref(), &[&NumbersContent], &options).unwrap();
        assert_eq!(verified.problems_total, 1, "{verified:?}");
        // Named once, in front.
        let found = &verified.problems[0];
        assert_eq!(found.object, last);
        assert!(!found.problem.contains(last), "{found:?}");
        let report = verified.report;
        assert_eq!((report.parts, report.records), (1, 3000));
        assert_eq!(report.raw_bytes, 3_000_000);
        assert_eq!(report.chunks, chunks.len() as u64);
        assert!(job.progress().records() > 3000);
    }
}

#[test]
fn every_damage_to_every_kind_of_file_is_found_and_nothing_wrong_is_loaded() {
    let source = Numbers::new(3000, 1000);
    let (_whole, dir) = dumped(&source);
    assert_eq!(problems(&dir, Depth::Full).unwrap(), 0);
    assert_eq!(problems(&dir, Depth::Quick).unwrap(), 0);

    for kind in kinds(&dir) {
        let whole_bytes = fs::read(&kind).unwrap();
        let name = kind.strip_prefix(&dir).unwrap().display().to_string();
        for (damage, apply) in DAMAGES {
            apply(&kind);
            let told = |result: Result<u64, DumpError>| match result {
                Ok(problems) => problems > 0,
                // No dump at all, or a version that does not exist, is a way of telling, too.
                Err(error) => matches!(
                    error.kind(),
                    ErrorKind::Usage | ErrorKind::Damaged | ErrorKind::Version
                ),
            };
            assert!(
                told(problems(&dir, Depth::Full)),
                "{name} {damage}: verify is content"
            );
            assert!(
                told(problems(&dir, Depth::Quick)),
                "{name} {damage}: verify --quick is content"
            );
            let keep = Keep::default();
            let loaded = load(
                &Job::default(),
                open(&dir).as_ref(),
                &keep,
                &LoadOptions::default(),
            );
            // Records come whole or not at all; Keep looks at every byte of them.
            let numbers = keep.numbers();
            assert!(numbers.iter().all(|n| *n < 3000));
            if loaded.is_ok() {
                assert_eq!(
                    numbers,
                    source.expected(),
                    "{name} {damage}: loaded something else"
                );
            }
            fs::write(&kind, &whole_bytes).unwrap();
        }
    }
    assert_eq!(
        problems(&dir, Depth::Full).unwrap(),
        0,
        "the matrix left damage behind"
    );
}

/// A dump whose run was killed: the last of three parts is not committed, though its chunks are there. That an older
/// plan came as far as its SHA256SUMS is older still.
struct Unfinished {
    source: Numbers,
    dir: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
    _folder: tempfile::TempDir,
}

impl Unfinished {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("dump");
        let source = Numbers {
            // Parts of the same length, so that they cannot be told apart by it.
            bytes: |_| 800,
            ..Numbers::new(3000, 1000)
        };
        let mut unfinished = Self {
            source,
            dir,
            files: Vec::new(),
            _folder: folder,
        };
        unfinished.go_on().unwrap();
        fs::remove_file(unfinished.dir.join("DONE")).unwrap();
        fs::remove_file(unfinished.sorted("parts").pop().unwrap()).unwrap();
        let mut folders = vec![unfinished.dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    unfinished
                        .files
                        .push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        unfinished
    }

    fn go_on(&self) -> Result<tipple_dump::Report, DumpError> {
        let store = open_for(&self.dir, Access::Write);
        dump(&Job::default(), &self.source, &[store.as_ref()], &small(2))
    }

    fn restore(&self) {
        fs::remove_dir_all(&self.dir).unwrap();
        for (path, bytes) in &self.files {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn sorted(&self, sub: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join(sub)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// A file of every kind, and another one of the same kind if there is one.
    pub fn kinds(&self) -> Vec<(&'static str, PathBuf, Option<PathBuf>)> {
        let plans = plan_objects(&self.dir);
        let (chunks, parts) = (self.sorted("chunks"), self.sorted("parts"));
        let planned = self.sorted("plan")[0].join("PLANNED");
        let (first, last) = (chunks[0].clone(), chunks[chunks.len() - 1].clone());
        vec![
            ("HEAD", self.dir.join("HEAD.json"), Some(planned.clone())),
            ("PLANNED", planned, Some(parts[0].clone())),
            (
                "a committed part's plan object",
                plans[0].clone(),
                Some(plans[1].clone()),
            ),
            (
                "an open part's plan object",
                plans[2].clone(),
                Some(plans[0].clone()),
            ),
            ("a part record", parts[0].clone(), Some(parts[1].clone())),
            ("a committed chunk", first.clone(), Some(last.clone())),
            ("a chunk that no record lists", last, None),
            ("SHA256SUMS", self.dir.join("SHA256SUMS"), Some(first)),
        ]
    }

    /// Goes on, and looks at what it came to.
    fn assert_right_or_refused(&self, what: &str, kind: &str) -> bool {
        match self.go_on() {
            Ok(_) => {
                let keep = Keep::default();
                load(
                    &Job::default(),
                    open(&self.dir).as_ref(),
                    &keep,
                    &LoadOptions::default(),
                )
                .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(keep.numbers(), self.source.expected(), "{what}");
                assert_eq!(problems(&self.dir, Depth::Full).unwrap(), 0, "{what}");
                true
            }
            Err(error) => {
                let text = error.to_string();
                let told = match error.kind() {
                    ErrorKind::Damaged => true,
                    ErrorKind::Usage | ErrorKind::Version => kind == "HEAD",
                    // The same name, and other bytes under it.
                    ErrorKind::Store => kind.contains("chunk"),
                    _ => false,
                };
                assert!(told, "{what}: {text}");
                assert!(!self.dir.join("DONE").exists(), "{what}");
                false
            }
        }
    }
}

#[test]
fn an_unfinished_dump_with_any_damage_goes_on_rightly_or_not_at_all() {
    let unfinished = Unfinished::new();
    let (mut right, mut refused) = (0, 0);
    for (kind, path, other) in unfinished.kinds() {
        for (damage, apply) in DAMAGES {
            let what = format!("{kind} {damage}");
            if *damage == "with a digit changed" && kind.contains("chunk") {
                continue; // a bit flipped, for what is no text
            }
            apply(&path);
            if kind == "a committed chunk" && damage.contains("flipped") {
                // Committed bytes are not read again: a dump would take as long to go on as it took to begin. That
                // they are still the same is what verify is for.
                unfinished.go_on().unwrap();
                assert!(problems(&unfinished.dir, Depth::Quick).unwrap() > 0);
            } else if unfinished.assert_right_or_refused(&what, kind) {
                right += 1;
            } else {
                refused += 1;
            }
            unfinished.restore();
        }
        let Some(other) = other else { continue };
        let (bytes, others) = (fs::read(&path).unwrap(), fs::read(&other).unwrap());
        fs::write(&path, others).unwrap();
        fs::write(&other, bytes).unwrap();
        let what = format!("{kind} in the place of another");
        unfinished.assert_right_or_refused(&what, kind);
        unfinished.restore();
    }
    // Both happen: what nobody needs any more is no obstacle.
    assert!(right >= 8 && refused >= 32, "{right} {refused}");
    assert!(unfinished.assert_right_or_refused("nothing", ""));
}

#[test]
fn a_finished_dump_without_its_head_is_damaged() {
    let (_whole, dir) = dumped(&Numbers::new(3000, 1000));
    fs::remove_file(dir.join("HEAD.json")).unwrap();
    assert_eq!(problems(&dir, Depth::Full).unwrap(), 1);
    assert_eq!(load_error(&dir), ErrorKind::Damaged);
}

#[test]
fn a_missing_chunk_is_damage_and_no_failure_of_the_store() {
    let (_whole, dir) = dumped(&Numbers::new(3000, 1000));
    fs::remove_file(kinds(&dir).remove(0)).unwrap();
    assert_eq!(problems(&dir, Depth::Full).unwrap(), 1);
    assert_eq!(load_error(&dir), ErrorKind::Damaged);
}

#[test]
fn files_that_changed_places_are_found() {
    let (_whole, dir) = dumped(&Numbers::new(3000, 1000));
    for sub in ["chunks", "parts"] {
        let mut paths: Vec<_> = fs::read_dir(dir.join(sub))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        let swap = || {
            let third = dir.join("third");
            fs::rename(&paths[0], &third).unwrap();
            fs::rename(&paths[1], &paths[0]).unwrap();
            fs::rename(&third, &paths[1]).unwrap();
        };
        swap();
        assert!(problems(&dir, Depth::Full).unwrap() > 0, "{sub}");
        assert!(problems(&dir, Depth::Quick).unwrap() > 0, "{sub}");
        let keep = Keep::default();
        load(
            &Job::default(),
            open(&dir).as_ref(),
            &keep,
            &LoadOptions::default(),
        )
        .unwrap_err();
        swap();
        // One too many: a copy of a record under the name of a part that was never planned.
        if sub == "parts" {
            let text = fs::read_to_string(&paths[0]).unwrap();
            let name = paths[0].file_stem().unwrap().to_str().unwrap();
            let other = name.replace("-00000000", "-00000099");
            let extra = dir.join(format!("parts/{other}.json"));
            fs::write(&extra, text.replace(name, &other)).unwrap();
            assert!(problems(&dir, Depth::Quick).unwrap() > 0, "an extra part");
            fs::remove_file(extra).unwrap();
        }
    }
    assert_eq!(problems(&dir, Depth::Full).unwrap(), 0);
}

#[test]
fn stock_tools_read_every_dump() {
    let source = Numbers {
        bytes: |n| if n == 5 { 3_000_000 } else { 200 },
        ..Numbers::new(3000, 1000)
    };
    let (_whole, dir) = dumped(&source);
    let run = |command: &str| {
        let status = std::process::Command::new("sh")
            .args(["-ec", command])
            .current_dir(&dir)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(
            status.success(),
            "{command} (apt-get install -y zstd coreutils)"
        );
    };
    run("sha256sum --strict -c SHA256SUMS");
    run("zstd -q -t chunks/*.zst");
    // All bytes of all records, in the order of the names.
    let bytes: usize = source.expected().iter().map(|n| (source.bytes)(*n)).sum();
    run(&format!(
        "test $(cat chunks/*.zst | zstd -dcq | wc -c) = {bytes}"
    ));
}
