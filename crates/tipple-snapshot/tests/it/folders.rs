//! What is on the disk, what is made of it when it is damaged, and who may read it.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tipple_snapshot::{
    Dumpable, ErrorKind, HashMap, HashSet, Keys, LoadOutcome, MaxAge, SnapshotFolder, SnapshotName,
    SnapshotOptions, ValueTimes,
};
use tipple_testkit::Tmpfs;

use crate::support::{HOUR, Place, Words, words};

fn many() -> SnapshotOptions {
    SnapshotOptions {
        max_count: 100,
        ..SnapshotOptions::default()
    }
}

fn value(found: LoadOutcome<Words>) -> Option<Words> {
    found.loaded.map(|loaded| loaded.value)
}

fn kinds<T>(found: &LoadOutcome<T>) -> Vec<ErrorKind> {
    found.failures.iter().map(|error| error.kind()).collect()
}

fn now() -> ValueTimes {
    ValueTimes::at(SystemTime::now())
}

/// Writable again, whoever the tests run as.
fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_older_one_where_newer_ones_are_damaged() {
    let place = Place::new();
    let names = [4, 3, 2, 1].map(|hours| place.dump(&[&hours.to_string()], hours * HOUR));
    let path = |n: usize| place.dir().join(names[n].to_string());
    patch(&path(3), |bytes| bytes.truncate(bytes.len() - 1));
    patch(&path(2), |bytes| {
        let middle = bytes.len() - 100;
        bytes[middle] ^= 1;
    });
    let found = place.folder(many()).load::<Words>();
    assert_eq!(kinds(&found), [ErrorKind::Truncated, ErrorKind::Damaged]);
    for (failure, n) in found.failures.iter().zip([3, 2]) {
        assert_eq!(failure.path(), Some(path(n).as_path()));
    }
    assert_eq!(found.loaded.as_ref().unwrap().name, names[1]);
    assert_eq!(value(found), Some(words(&["3"])));
    // They are set aside, and not tried again.
    let aside: Vec<_> = place
        .names()
        .into_iter()
        .filter(|name| name.ends_with(".corrupt"))
        .collect();
    assert_eq!(
        aside,
        [
            format!("{}.corrupt", names[2]),
            format!("{}.corrupt", names[3])
        ]
    );
    let found = place.folder(many()).load::<Words>();
    assert!(found.failures.is_empty());
    // The next write leaves one of them.
    place.folder(many()).write(&words(&["5"]), now()).unwrap();
    assert_eq!(
        place
            .names()
            .iter()
            .filter(|name| name.ends_with(".corrupt"))
            .count(),
        1
    );
}

#[test]
fn another_type_or_version_stays_for_the_build_that_wrote_it() {
    #[derive(Debug, Dumpable, PartialEq)]
    struct Newer {
        words: Vec<String>,
        count: u32,
    }
    let place = Place::new();
    let old = place.dump(&["old"], 3 * HOUR);
    let newer = Newer {
        words: words(&["new"]),
        count: 1,
    };
    let options = SnapshotOptions {
        producer: "service 2".into(),
        ..SnapshotOptions::default()
    };
    let folder = place.folder(options.clone());
    let found = folder.load::<Newer>();
    assert_eq!(kinds(&found), [ErrorKind::Schema]);
    let text = found.failures[0].to_string();
    assert!(
        text.contains("it holds [text], and the cache has Newer { words: [text], count: u32 }"),
        "{text}"
    );
    // Another type, with max_count 1: what is there of the old build survives the new one's writes,
    let written = folder.write(&newer, now()).unwrap();
    folder.write(&newer, now()).unwrap();
    assert_eq!(place.names().len(), 2);
    assert!(!place.names().contains(&written.name.to_string()));
    // and a rollback is warm.
    assert_eq!(
        value(place.folder(options.clone()).load()),
        Some(words(&["old"]))
    );
    // The same with versions: of lower ones, as many as previous_count says; of higher ones, all.
    let next = SnapshotOptions {
        format_version: 7,
        ..options.clone()
    };
    let folder = place.folder(next);
    assert!(folder.load::<Newer>().loaded.is_none());
    folder.write(&newer, now()).unwrap();
    let lower = place
        .names()
        .iter()
        .filter(|name| name.ends_with("-v0"))
        .count();
    assert_eq!((lower, place.names().len()), (1, 2));
    place.folder(options.clone()).write(&newer, now()).unwrap();
    assert_eq!(
        place
            .names()
            .iter()
            .filter(|name| name.ends_with("-v7"))
            .count(),
        1
    );
    let none = SnapshotOptions {
        format_version: 8,
        previous_count: 0,
        ..options
    };
    place.folder(none).write(&newer, now()).unwrap();
    assert_eq!(place.names().len(), 1);
    let _ = old;
}

#[test]
fn a_snapshot_of_another_cache_is_none() {
    let place = Place::new();
    place.dump(&["old"], HOUR);
    fs::rename(place.dir(), place.root().join("other")).unwrap();
    let other = SnapshotFolder::new(place.root(), "other", many(), Keys::none()).unwrap();
    let found = other.load::<Words>();
    assert_eq!(kinds(&found), [ErrorKind::Schema]);
    assert!(
        found.failures[0]
            .to_string()
            .ends_with("it is a snapshot of the cache `words`")
    );
    // A renamed version is no other version.
    let place = Place::new();
    let name = place.dump(&["old"], HOUR);
    let renamed = SnapshotName::new(name.updated(), 3).to_string();
    fs::rename(place.only(), place.dir().join(renamed)).unwrap();
    let three = SnapshotOptions {
        format_version: 3,
        ..many()
    };
    assert_eq!(
        kinds(&place.folder(three).load::<Words>()),
        [ErrorKind::Damaged]
    );
}

#[test]
fn names_cannot_leave_the_folder() {
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "/etc",
        ".lock",
        "a\nb",
        &"x".repeat(201),
    ] {
        let error = SnapshotFolder::new("root", name, many(), Keys::none())
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
    }
}

#[test]
fn what_is_no_snapshot_is_left_alone() {
    let place = Place::new();
    let name = place.dump(&["old"], HOUR);
    let later = SnapshotName::new(SystemTime::now(), 0).to_string();
    fs::create_dir(place.dir().join(&later)).unwrap();
    let link = SnapshotName::new(SystemTime::now() - HOUR / 2, 0).to_string();
    symlink("/etc/passwd", place.dir().join(&link)).unwrap();
    for other in ["README", "2020-10-28T174608.907090Z-v-5", "x.tmp"] {
        fs::write(place.dir().join(other), "mine").unwrap();
    }
    let latin = std::os::unix::ffi::OsStrExt::from_bytes(&b"\xE9"[..]);
    fs::write(place.dir().join::<&std::ffi::OsStr>(latin), "mine").unwrap();
    let found = place.folder(many()).load::<Words>();
    assert_eq!(found.loaded.unwrap().name, name);
    let unfinished = place.dir().join(format!("{name}.tmp"));
    fs::write(&unfinished, "half").unwrap();
    place
        .folder(SnapshotOptions::default())
        .write(&words(&["new"]), now())
        .unwrap();
    let left: Vec<_> = fs::read_dir(place.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 8, "{left:?}");
    assert!(!unfinished.exists());
}

#[test]
fn the_future_does_not_win_and_does_not_stay() {
    let place = Place::new();
    let old = place.dump(&["old"], HOUR);
    let folder = place.folder(many());
    let in_a_year = SystemTime::now() + 8760 * HOUR;
    folder
        .write(&words(&["future"]), ValueTimes::at(in_a_year))
        .unwrap();
    let loaded = folder.load::<Words>().loaded.unwrap();
    assert_eq!((loaded.name, loaded.is_from_future), (old, false));
    // It is better than nothing, but what has changed since cannot be asked for.
    fs::remove_file(place.dir().join(old.to_string())).unwrap();
    let loaded = folder.load::<Words>().loaded.unwrap();
    assert!(loaded.is_from_future && loaded.value == ["future"]);
    let source = crate::support::Source::always(crate::support::Answer::New(words(&["new"])));
    let snapshots = SnapshotOptions {
        first_update_mode: tipple_snapshot::FirstUpdateMode::BestEffort,
        first_update_type: Some(tipple_snapshot::FirstUpdateType::Incremental),
        max_age: Some(MaxAge::Unlimited),
        ..SnapshotOptions::default()
    };
    let options = tipple_snapshot::CacheOptions {
        update_types: Some(tipple_snapshot::UpdateTypes::OnlyIncremental),
        ..tipple_snapshot::CacheOptions::every(HOUR)
    };
    let cache = source
        .cache()
        .options(options)
        .snapshots(place.root(), snapshots)
        .start()
        .unwrap();
    assert_eq!(source.kinds(), [tipple_snapshot::UpdateType::Full]);
    cache.write_snapshot_now().unwrap();
    assert_eq!(place.names().len(), 1);
    assert_eq!(
        *place.folder(many()).load::<Words>().loaded.unwrap().value,
        ["new"]
    );
}

#[test]
fn too_old_is_not_loaded_and_not_kept() {
    let place = Place::new();
    place.dump(&["old"], 3 * HOUR);
    let age = |hours| SnapshotOptions {
        max_age: Some(MaxAge::AtMost(hours * HOUR)),
        ..many()
    };
    assert!(place.folder(age(2)).load::<Words>().loaded.is_none());
    assert!(place.folder(age(4)).load::<Words>().loaded.is_some());
    place.folder(age(2)).write(&words(&["new"]), now()).unwrap();
    assert_eq!(place.names().len(), 1);
}

#[test]
fn a_bump_is_a_rename() {
    let place = Place::new();
    let name = place.dump(&["old"], HOUR);
    let folder = place.folder(many());
    let bumped = folder.bump(&name, SystemTime::now()).unwrap();
    assert_eq!(place.names(), [bumped.name.to_string()]);
    let loaded = folder.load::<Words>().loaded.unwrap();
    assert_eq!(loaded.times.updated, bumped.name.updated());
    assert_eq!(loaded.times.modified, name.updated());
    // To its own name, and from one that is gone.
    folder.bump(&bumped.name, bumped.name.updated()).unwrap();
    assert_eq!(
        folder.bump(&name, SystemTime::now()).unwrap_err().kind(),
        ErrorKind::Io
    );
    assert_eq!(place.names(), [bumped.name.to_string()]);
    // The old form of a name becomes the new one.
    let legacy = "2026-01-05T09:00:00.000000-v0";
    fs::rename(place.only(), place.dir().join(legacy)).unwrap();
    let legacy: SnapshotName = legacy.parse().unwrap();
    assert_eq!(folder.load::<Words>().loaded.unwrap().name, legacy);
    let bumped = folder.bump(&legacy, legacy.updated()).unwrap();
    assert_eq!(place.names(), ["2026-01-05T090000.000000Z-v0"]);
    assert_eq!(bumped.name.to_string(), "2026-01-05T090000.000000Z-v0");
}

/// In a process of its own, since the umask is the process's.
#[test]
fn modes_are_those_of_the_options_whatever_the_umask_is() {
    let place = Place::new();
    let program = crate::children::program();
    for (umask, world_readable, mode) in [
        ("077", "true", 0o444),
        ("000", "false", 0o400),
        ("777", "true", 0o444),
    ] {
        let root = place.root().join(umask).join("a").join("b");
        let status = std::process::Command::new("sh")
            .args(["-c", "umask $0; exec \"$@\"", umask])
            .arg(&program)
            .args(["once", root.to_str().unwrap(), world_readable])
            .status()
            .unwrap();
        assert!(status.success());
        let names: Vec<_> = fs::read_dir(root.join("kill"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let file = names.iter().find(|path| !path.ends_with(".lock")).unwrap();
        let mode_of = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode_of(file), mode);
        for folder in [
            root.join("kill"),
            root.clone(),
            root.parent().unwrap().to_owned(),
        ] {
            assert_eq!(mode_of(&folder), 0o755, "{}", folder.display());
        }
    }
}

#[test]
fn a_full_disk_harms_nothing_that_is_there() {
    let disk = Tmpfs::mount(1 << 20);
    let folder =
        |options| SnapshotFolder::new(disk.path(), "words", options, Keys::none()).unwrap();
    let small = vec!["x".repeat(1000); 100];
    let large = vec!["x".repeat(1000); 2000];
    folder(many()).write(&small, now()).unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(disk.path().join("words"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = names();
    let error = folder(many()).write(&large, now()).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    // No room is lost to what could not be written.
    assert_eq!(names(), before);
    assert_eq!(folder(many()).load::<Words>().loaded.unwrap().value, small);
    folder(many()).write(&small, now()).unwrap();
}

#[test]
fn a_user_s_own_panic_is_an_error_and_leaves_nothing() {
    struct Broken;
    impl Dumpable for Broken {
        const BYTES_MIN: usize = 1;
        fn describe(schema: &mut tipple_snapshot::SchemaBuilder) -> tipple_snapshot::TypeNumber {
            Vec::<String>::describe(schema)
        }
        fn dump(
            &self,
            _: &mut tipple_snapshot::Writer<'_>,
        ) -> Result<(), tipple_snapshot::SnapshotError> {
            panic!("not today")
        }
        fn load(
            _: &mut tipple_snapshot::Reader<'_>,
        ) -> Result<Self, tipple_snapshot::SnapshotError> {
            panic!("nor tomorrow")
        }
    }
    let place = Place::new();
    let name = place.dump(&["old"], HOUR);
    let folder = place.folder(many());
    let error = folder.write(&Broken, now()).unwrap_err();
    assert_eq!(error.to_string(), "dumping the value panicked: not today");
    let found = folder.load::<Broken>();
    assert_eq!(kinds(&found), [ErrorKind::Panic]);
    // It is not the file's fault.
    assert_eq!(place.names(), [name.to_string()]);
}

#[test]
fn large_values_go_through_frames_and_threads() {
    let map: HashMap<u64, String> = (0..60_000)
        .map(|n| (n * 7919, n.to_string().repeat(n as usize % 40)))
        .collect();
    // Elements larger than a frame, and many small ones after them.
    let lists: Vec<Vec<u8>> = (0..2000u32)
        .map(|n| vec![n as u8; if n % 500 == 3 { 700_000 } else { n as usize }])
        .collect();
    let value = (map, lists, "end".to_owned());
    for decode_threads in [1, 2, 5] {
        let place = Place::new();
        let folder = place.folder(SnapshotOptions {
            decode_threads,
            ..many()
        });
        folder.write(&value, now()).unwrap();
        let loaded = folder.load::<(HashMap<u64, String>, Vec<Vec<u8>>, String)>();
        assert!(loaded.failures.is_empty(), "{:?}", loaded.failures);
        let loaded = loaded.loaded.unwrap().value;
        assert!(loaded == value);
        assert_eq!(loaded.0.hasher().seed(), value.0.hasher().seed());
        // About the same order, since it is the same table; those that share a place may have changed places.
        let first: HashSet<u64> = loaded.0.keys().take(1000).copied().collect();
        let common = value.0.keys().take(1000).filter(|key| first.contains(key));
        assert!(common.count() > 900);
    }
}

#[test]
fn two_writers_take_turns_and_one_that_never_ends_is_told_of() {
    let place = Place::new();
    place.dump(&["old"], HOUR);
    let lock = File::open(place.dir().join(".lock")).unwrap();
    lock.lock().unwrap();
    let folder = place.folder(many());
    // Reading needs no lock.
    assert!(folder.load::<Words>().loaded.is_some());
    let waiting = std::thread::spawn(move || folder.write(&words(&["new"]), now()));
    drop(lock);
    waiting.join().unwrap().unwrap();
    assert_eq!(place.names().len(), 2);
    let lock = File::open(place.dir().join(".lock")).unwrap();
    lock.lock().unwrap();
    let error = place
        .folder(many())
        .write(&words(&["x"]), now())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(place.names().len(), 2);
    let _ = Duration::ZERO;
}
