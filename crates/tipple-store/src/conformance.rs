//! What every store does, as rules that run against any of them.
//!
//! ```
//! use tipple_store::{StoreOptions, conformance, open_store};
//!
//! conformance::check(&|place, access| {
//!     let url = format!("memory:conformance-{place}").parse().unwrap();
//!     open_store(&url, access, &StoreOptions::default()).unwrap()
//! });
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use crate::{
    Access, ObjectEntry, ObjectName, Operation, Put, PutIfAbsent, Retryable, Store, StoreError,
    StoreErrorKind, StoreLock,
};

/// Opens the store of a place: a new, empty store for a place not named before, the same store
/// for the same place, each time through a handle of its own. Panics if it cannot.
pub type Open<'a> = &'a (dyn Fn(&str, Access) -> Arc<dyn Store> + Sync);

/// Writers that start at the same moment in the races.
const RACERS: usize = 16;
/// Objects in the large listing: more than two pages of 1,000, as S3 gives them.
const LISTED: usize = 2_500;
/// Objects that appear while others are listed.
const APPEARING: usize = 100;

/// Every rule with its name, in the order they are run.
pub const RULES: &[(&str, Rule)] = &[
    ("what_is_put_is_there", what_is_put_is_there),
    ("an_empty_object_is_an_object", an_empty_object_is_an_object),
    ("the_longest_names_work", the_longest_names_work),
    ("an_object_is_written_once", an_object_is_written_once),
    ("a_race_has_one_winner", a_race_has_one_winner),
    (
        "a_race_of_equals_has_no_loser",
        a_race_of_equals_has_no_loser,
    ),
    (
        "a_race_of_files_has_one_winner",
        a_race_of_files_has_one_winner,
    ),
    ("a_published_file_is_consumed", a_published_file_is_consumed),
    ("a_copied_file_stays", a_copied_file_stays),
    (
        "a_published_file_meets_the_same",
        a_published_file_meets_the_same,
    ),
    (
        "a_published_file_meets_another",
        a_published_file_meets_another,
    ),
    (
        "only_a_regular_file_is_published",
        only_a_regular_file_is_published,
    ),
    (
        "what_is_not_there_is_not_found",
        what_is_not_there_is_not_found,
    ),
    ("too_large_is_refused", too_large_is_refused),
    (
        "an_object_is_read_from_any_position",
        an_object_is_read_from_any_position,
    ),
    (
        "a_listing_is_complete_and_sorted",
        a_listing_is_complete_and_sorted,
    ),
    ("a_prefix_selects", a_prefix_selects),
    ("a_listing_stops_when_told", a_listing_stops_when_told),
    ("a_visitor_may_use_the_store", a_visitor_may_use_the_store),
    (
        "a_listing_survives_new_objects",
        a_listing_survives_new_objects,
    ),
    ("nothing_unfinished_is_listed", nothing_unfinished_is_listed),
    ("deleting_is_idempotent", deleting_is_idempotent),
    ("the_lock_is_exclusive", the_lock_is_exclusive),
    ("a_reader_changes_nothing", a_reader_changes_nothing),
    (
        "capabilities_are_tried_without_a_trace",
        capabilities_are_tried_without_a_trace,
    ),
    ("only_leftovers_are_removed", only_leftovers_are_removed),
];

/// The rules in which several writers put the same name at the same moment.
pub const RACES: &[&str] = &[
    "a_race_has_one_winner",
    "a_race_of_equals_has_no_loser",
    "a_race_of_files_has_one_winner",
];

/// One rule. Panics if the store breaks it.
pub type Rule = fn(&Place<'_>);

/// Runs every rule in a place of its own.
///
/// # Panics
/// If a rule is broken, after all have run, with the names of the broken ones.
pub fn check(open: Open<'_>) {
    run(RULES, open, true);
}

/// Runs every rule that holds for a single writer, in a store whose server does not honour put-if-absent: all but the
/// [`RACES`].
///
/// # Panics
/// As [`check`]; also if the server honours it after all.
pub fn check_single_writer(open: Open<'_>) {
    let is_race = |rule: &(&str, Rule)| RACES.contains(&rule.0);
    let rules: Vec<_> = RULES
        .iter()
        .filter(|rule| !is_race(rule))
        .copied()
        .collect();
    assert_eq!(rules.len() + RACES.len(), RULES.len());
    run(&rules, open, false);
}

fn run(rules: &[(&str, Rule)], open: Open<'_>, is_fenced: bool) {
    let place = |name| Place {
        name,
        open,
        is_fenced,
    };
    let broken: Vec<&str> = rules
        .iter()
        .filter(|(name, rule)| catch_unwind(AssertUnwindSafe(|| rule(&place(name)))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(
        broken.is_empty(),
        "the store breaks these rules: {broken:?}"
    );
}

/// Where a rule runs: a store that is empty at first, and that only this rule uses.
pub struct Place<'a> {
    name: &'a str,
    open: Open<'a>,
    /// Whether the server honours put-if-absent.
    is_fenced: bool,
}

impl Place<'_> {
    fn writer(&self) -> Arc<dyn Store> {
        (self.open)(self.name, Access::Write)
    }

    fn reader(&self) -> Arc<dyn Store> {
        (self.open)(self.name, Access::Read)
    }

    /// Runs `act` in threads with a store handle each, all at the same moment.
    fn race<T: Send>(&self, act: impl Fn(usize, &dyn Store) -> T + Sync) -> Vec<T> {
        let start = Barrier::new(RACERS);
        thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let (start, act) = (&start, &act);
                    scope.spawn(move || {
                        let store = self.writer();
                        start.wait();
                        act(racer, &*store)
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().expect("a racer panicked"))
                .collect()
        })
    }
}

/// Files to publish: in the store's staging folder if it has one, and in another folder.
struct Files {
    folders: Vec<PathBuf>,
    _own: tempfile::TempDir,
}

impl Files {
    fn of(store: &dyn Store) -> Self {
        let own = tempfile::tempdir().expect("a temporary folder");
        let mut folders = vec![own.path().to_owned()];
        folders.extend(store.staging_dir().map(PathBuf::from));
        Self { folders, _own: own }
    }

    /// One file with these bytes in each of the folders.
    fn each(&self, bytes: &[u8]) -> Vec<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let create = |folder: &PathBuf| {
            let path = folder.join(format!("conformance-{number}"));
            File::create_new(&path)
                .and_then(|mut file| file.write_all(bytes))
                .expect("a file in a folder for files");
            path
        };
        self.folders.iter().map(create).collect()
    }
}

fn name(text: &str) -> ObjectName {
    text.parse().expect("a valid name")
}

fn put(store: &dyn Store, object: &str, bytes: &[u8]) {
    let put = store.put_if_absent(&name(object), bytes);
    assert_eq!(put.expect("a put to a free name"), Put::Created, "{object}");
}

fn get(store: &dyn Store, object: &ObjectName) -> Vec<u8> {
    store.get(object, 1 << 20).expect("an object that was put")
}

fn list(store: &dyn Store, prefix: &str) -> Vec<ObjectEntry> {
    let mut entries = Vec::new();
    store
        .list(prefix, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })
        .expect("a listing");
    entries
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let entries = list(store, prefix);
    entries.into_iter().map(|entry| entry.name.into()).collect()
}

/// The lock, or, of a store that says that it has none, the refusal.
fn lock(store: &dyn Store) -> Option<StoreLock> {
    let locked = store.lock();
    if store.capabilities().unwrap().lock {
        return Some(locked.expect("a store with a lock"));
    }
    let (kind, operation) = (StoreErrorKind::Unsupported, Operation::Lock);
    assert_refused(locked, kind, operation, store, "");
    None
}

/// That `result` failed like this, and that its text says what it is about.
#[track_caller]
fn assert_refused<T>(
    result: Result<T, StoreError>,
    kind: StoreErrorKind,
    operation: Operation,
    store: &dyn Store,
    object: &str,
) {
    let Err(error) = result else {
        panic!("{operation:?} of {object:?} succeeded, expected {kind:?}");
    };
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.operation(), operation, "{error}");
    assert_eq!(error.store(), store.url(), "{error}");
    let text = error.to_string();
    assert!(text.contains(object), "{object:?} is not in: {text}");
    assert!(text.contains(store.url()), "the store is not in: {text}");
}

fn what_is_put_is_there(place: &Place<'_>) {
    let store = place.writer();
    let object = name("chunks/00000042-0003-9f86d0.items.zst");
    assert_eq!(
        store.put_if_absent(&object, b"some bytes").unwrap(),
        Put::Created
    );
    for store in [store, place.writer(), place.reader()] {
        assert_eq!(store.get(&object, 10).unwrap(), b"some bytes");
        assert_eq!(store.head(&object).unwrap().bytes, 10);
        let entries = list(&*store, "");
        assert_eq!(entries, [ObjectEntry::new(object.clone(), 10)]);
        assert_eq!(store.leftovers().unwrap(), []);
    }
}

fn an_empty_object_is_an_object(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "empty", b"");
    assert_eq!(store.get(&name("empty"), 0).unwrap(), b"");
    assert_eq!(store.head(&name("empty")).unwrap().bytes, 0);
    let mut bytes = Vec::new();
    let mut reader = store.open(&name("empty")).unwrap();
    assert_eq!(reader.read_to_end(&mut bytes).unwrap(), 0);
    assert_eq!(
        store.put_if_absent(&name("empty"), b"").unwrap(),
        Put::AlreadySame
    );
    for (number, path) in Files::of(&*store).each(b"").into_iter().enumerate() {
        let object = name(&format!("file-{number}"));
        assert_eq!(store.put_file(&object, &path).unwrap(), Put::Created);
        assert_eq!(store.head(&object).unwrap().bytes, 0);
    }
}

fn the_longest_names_work(place: &Place<'_>) {
    let store = place.writer();
    // A prefix takes its share of what a server allows.
    let room = store.capabilities().unwrap().name_bytes_max;
    assert!(
        room >= 3 * 255 + 2,
        "names of {room} bytes are too short for anybody"
    );
    let deepest = format!("{}{}", "d/".repeat(room / 2 - 1), "z".repeat(2 + room % 2));
    assert_eq!(deepest.len(), room);
    let widest = ["w".repeat(255), "x".repeat(255), "y".repeat(255)].join("/");
    let odd = "-/_=/=-._/A.tar.zst".to_owned();
    for object in [&deepest, &widest, &odd] {
        put(&*store, object, object.as_bytes());
        assert_eq!(get(&*store, &name(object)), object.as_bytes());
    }
    assert_eq!(names(&*store, ""), [odd, deepest, widest]);
}

fn an_object_is_written_once(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "parts/1.json", b"first");
    let object = name("parts/1.json");
    for store in [&store, &place.writer()] {
        let again = store.put_if_absent(&object, b"first").unwrap();
        assert_eq!(again, Put::AlreadySame);
        for other in ["other", "", "longer than the first", "firsT"] {
            let put = store.put_if_absent(&object, other.as_bytes());
            let error = put.as_ref().unwrap_err();
            assert_eq!(error.is_retryable(), Retryable::Never, "{error}");
            let text = error.to_string();
            assert!(text.contains("5 bytes"), "the size there is not in: {text}");
            let given = other.len().to_string();
            assert!(text.contains(&given), "the size given is not in: {text}");
            let kind = StoreErrorKind::AlreadyExists;
            assert_refused(put, kind, Operation::Write, &**store, "parts/1.json");
            assert_eq!(get(&**store, &object), b"first");
        }
        assert_eq!(store.leftovers().unwrap(), []);
    }
}

/// Exactly one put created the object, the others were refused, and what is there is whole and
/// the winner's.
fn assert_one_winner(
    store: &dyn Store,
    object: &ObjectName,
    puts: Vec<Result<Put, StoreError>>,
    bytes_of: impl Fn(usize) -> Vec<u8>,
) {
    let mut winners = Vec::new();
    for (racer, put) in puts.into_iter().enumerate() {
        match put {
            Ok(Put::Created) => winners.push(racer),
            Ok(Put::AlreadySame) => panic!("racer {racer} was told that its bytes are there"),
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::AlreadyExists, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    assert!(
        get(store, object) == bytes_of(winners[0]),
        "another's bytes"
    );
}

fn a_race_has_one_winner(place: &Place<'_>) {
    let object = name("folder/one");
    let bytes_of = |racer: usize| vec![b'a' + racer as u8; 10_000];
    let puts = place.race(|racer, store| store.put_if_absent(&object, &bytes_of(racer)));
    assert_one_winner(&*place.writer(), &object, puts, bytes_of);
}

fn a_race_of_equals_has_no_loser(place: &Place<'_>) {
    let object = name("folder/one");
    let puts = place.race(|_, store| store.put_if_absent(&object, b"the same").unwrap());
    let created = puts.iter().filter(|&&put| put == Put::Created).count();
    assert_eq!(created, 1);
    assert_eq!(get(&*place.writer(), &object), b"the same");
}

fn a_race_of_files_has_one_winner(place: &Place<'_>) {
    let object = name("folder/one");
    // Of different lengths: a store that cannot compare bytes cheaply compares these.
    let bytes_of = |racer: usize| vec![b'a' + racer as u8; 10_000 + racer];
    let puts = place.race(|racer, store| {
        let files = Files::of(store);
        let path = files.each(&bytes_of(racer)).pop().expect("one file");
        let put = store.put_file(&object, &path);
        assert_eq!(path.exists(), put.is_err(), "the file stays after Err only");
        if put.is_err() {
            assert_eq!(fs::read(&path).unwrap(), bytes_of(racer));
            fs::remove_file(&path).unwrap();
        }
        put
    });
    assert_one_winner(&*place.writer(), &object, puts, bytes_of);
}

fn a_published_file_is_consumed(place: &Place<'_>) {
    let store = place.writer();
    let files = Files::of(&*store);
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for (number, path) in files.each(&bytes).into_iter().enumerate() {
        let object = name(&format!("chunks/{number}"));
        assert_eq!(store.put_file(&object, &path).unwrap(), Put::Created);
        assert!(!path.exists(), "{} is still there", path.display());
        assert_eq!(store.head(&object).unwrap().bytes, bytes.len() as u64);
        assert!(get(&*store, &object) == bytes, "other bytes came back");
    }
    assert_eq!(store.leftovers().unwrap(), []);
}

fn a_copied_file_stays(place: &Place<'_>) {
    let store = place.writer();
    let files = Files::of(&*store);
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    for (number, path) in files.each(&bytes).into_iter().enumerate() {
        let object = name(&format!("chunks/{number}"));
        assert_eq!(store.put_copy(&object, &path).unwrap(), Put::Created);
        assert_eq!(store.put_copy(&object, &path).unwrap(), Put::AlreadySame);
        assert!(get(&*store, &object) == bytes, "other bytes came back");
        // The object is a copy: what becomes of the file is nothing to it.
        fs::write(&path, b"something else").unwrap();
        assert!(get(&*store, &object) == bytes, "the object was the file");
        let put = store.put_copy(&object, &path);
        let kind = StoreErrorKind::AlreadyExists;
        assert_refused(put, kind, Operation::Write, &*store, object.as_str());
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(store.leftovers().unwrap(), []);
}

fn a_published_file_meets_the_same(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "chunk", b"the same");
    for path in Files::of(&*store).each(b"the same") {
        let put = store.put_file(&name("chunk"), &path).unwrap();
        assert_eq!(put, Put::AlreadySame);
        assert!(!path.exists(), "{} is still there", path.display());
    }
    assert_eq!(get(&*store, &name("chunk")), b"the same");
    assert_eq!(store.leftovers().unwrap(), []);
}

fn a_published_file_meets_another(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "chunk", b"the first");
    for path in Files::of(&*store).each(b"the second") {
        let put = store.put_file(&name("chunk"), &path);
        let kind = StoreErrorKind::AlreadyExists;
        assert_refused(put, kind, Operation::Write, &*store, "chunk");
        assert_eq!(fs::read(&path).unwrap(), b"the second");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(get(&*store, &name("chunk")), b"the first");
    assert_eq!(store.leftovers().unwrap(), []);
}

fn only_a_regular_file_is_published(place: &Place<'_>) {
    let store = place.writer();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    let link = folder.path().join("link");
    fs::write(&file, b"bytes").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [folder.path(), &link, &folder.path().join("missing")] {
        let put = store.put_file(&name("chunk"), path);
        let kind = StoreErrorKind::LocalFile;
        assert_refused(put, kind, Operation::Write, &*store, "chunk");
    }
    assert_eq!(names(&*store, ""), [""; 0]);
    assert!(file.exists() && link.is_symlink());
}

fn what_is_not_there_is_not_found(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "a/b", b"bytes");
    for missing in ["b", "a/c", "a/b/c", "x/y/z"] {
        let object = name(missing);
        let (kind, read) = (StoreErrorKind::NotFound, Operation::Read);
        assert_refused(store.get(&object, 10), kind, read, &*store, missing);
        assert_refused(store.head(&object), kind, read, &*store, missing);
        assert_refused(store.open(&object), kind, read, &*store, missing);
    }
}

fn too_large_is_refused(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "object", b"12345");
    let (kind, read) = (StoreErrorKind::TooLarge, Operation::Read);
    for bytes_max in [0, 4] {
        let got = store.get(&name("object"), bytes_max);
        assert_refused(got, kind, read, &*store, "object");
    }
    for bytes_max in [5, u64::MAX] {
        assert_eq!(store.get(&name("object"), bytes_max).unwrap(), b"12345");
    }
}

fn an_object_is_read_from_any_position(place: &Place<'_>) {
    let store = place.writer();
    let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    put(&*store, "object", &bytes);
    let mut object = store.open(&name("object")).unwrap();
    let mut piece = [0; 1000];
    let end = bytes.len() as u64;
    for (from, at) in [
        (SeekFrom::Start(123_456), 123_456),
        (SeekFrom::Current(1), 124_457),
        (SeekFrom::End(-1000), end - 1000),
        (SeekFrom::Start(0), 0),
    ] {
        assert_eq!(object.seek(from).unwrap(), at);
        object.read_exact(&mut piece).unwrap();
        let at = at as usize;
        assert!(piece == bytes[at..at + 1000], "other bytes at {at}");
    }
    assert_eq!(object.seek(SeekFrom::End(10)).unwrap(), end + 10);
    assert_eq!(object.read(&mut piece).unwrap(), 0);
    object.rewind().unwrap();
    let mut all = Vec::new();
    object.read_to_end(&mut all).unwrap();
    assert!(all == bytes, "other bytes when read whole");
}

fn a_listing_is_complete_and_sorted(place: &Place<'_>) {
    let object = |number: usize| match number % 6 {
        0 => format!("a/{number}"),
        1 => format!("a-b/{number}"),
        2 => format!("a.b/{number}"),
        3 => format!("a/b-c/{number}"),
        4 => format!("a/b/{}/{number}", number % 7),
        _ => format!("a{number}"),
    };
    let close = [
        "a-b.c", "a/b.c", "a/b=c", "a/b-c.d", "aa/b", "a=/b", "A", "Z/a",
    ];
    let expected: BTreeSet<String> = (0..LISTED)
        .map(object)
        .chain(close.map(str::to_owned))
        .collect();
    let unsorted: Vec<&String> = expected.iter().rev().collect();
    place.race(|racer, store| {
        for object in unsorted.iter().skip(racer).step_by(RACERS) {
            put(store, object, object.as_bytes());
        }
    });
    let store = place.reader();
    let entries = list(&*store, "");
    for entry in &entries {
        assert_eq!(entry.bytes, entry.name.as_str().len() as u64);
    }
    let listed: Vec<String> = entries.into_iter().map(|entry| entry.name.into()).collect();
    // A `BTreeSet` of `String` is in the order of bytes.
    assert!(
        listed.iter().eq(&expected),
        "the first difference: {:?}",
        listed.iter().zip(&expected).find(|(a, b)| a != b)
    );
    for prefix in ["a/", "a/b", "a/b/", "a/b/3/", "a", "a-b/", "A", "a/b-"] {
        let expected = expected.iter().filter(|name| name.starts_with(prefix));
        assert!(names(&*store, prefix).iter().eq(expected), "{prefix}");
    }
}

fn a_prefix_selects(place: &Place<'_>) {
    let store = place.writer();
    for object in ["parts/01.json", "parts/02.json", "parts.json", "partsx/1"] {
        put(&*store, object, b"{}");
    }
    let of = |prefix| names(&*store, prefix);
    assert_eq!(of("parts/"), ["parts/01.json", "parts/02.json"]);
    assert_eq!(of("parts/02"), ["parts/02.json"]);
    assert_eq!(of("parts.json"), ["parts.json"]);
    assert_eq!(of("parts").len(), 4);
    for nothing in [
        "part/",
        "parts/03",
        "q",
        "parts.json/",
        "parts/01.json/x",
        "x/y/z",
    ] {
        assert_eq!(of(nothing), [""; 0], "{nothing}");
    }
    for bad in [
        "/", "parts//", "../", ".tipple/", "parts/.", "a b", "/parts",
    ] {
        let listed = store.list(bad, &mut |_| ControlFlow::Continue(()));
        let kind = StoreErrorKind::Invalid;
        assert_refused(listed, kind, Operation::List, &*store, bad);
    }
}

fn a_listing_stops_when_told(place: &Place<'_>) {
    let store = place.writer();
    for object in ["a/1", "a/2", "b/1", "b/2", "c"] {
        put(&*store, object, b"");
    }
    for stop_after in 1..=5 {
        let mut seen = 0;
        store
            .list("", &mut |_| {
                seen += 1;
                match seen == stop_after {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
            .unwrap();
        assert_eq!(seen, stop_after);
    }
}

fn a_visitor_may_use_the_store(place: &Place<'_>) {
    let store = place.writer();
    for object in ["a/1", "a/2", "b/1"] {
        put(&*store, object, object.as_bytes());
    }
    let mut seen = Vec::new();
    store
        .list("", &mut |entry| {
            assert_eq!(get(&*store, &entry.name), entry.name.as_str().as_bytes());
            store.delete(&entry.name).unwrap();
            seen.push(String::from(entry.name));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, ["a/1", "a/2", "b/1"]);
    assert_eq!(names(&*store, ""), [""; 0]);
}

fn a_listing_survives_new_objects(place: &Place<'_>) {
    let store = place.writer();
    let steady: Vec<String> = (0..50).map(|number| format!("s/{number:03}-old")).collect();
    for object in &steady {
        put(&*store, object, b"old");
    }
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..APPEARING {
                put(
                    &*store,
                    &format!("s/{:03}-new-{number}", number % 50),
                    b"new",
                );
                put(
                    &*store,
                    &format!("s/{:03}-dir/{number}", number % 50),
                    b"new",
                );
            }
            finished.store(true, Ordering::Release);
        });
        loop {
            let was_finished = finished.load(Ordering::Acquire);
            let listed = names(&*place.reader(), "s/");
            assert!(listed.is_sorted(), "out of order: {listed:?}");
            let old = listed.iter().filter(|name| name.ends_with("-old"));
            assert!(
                old.eq(&steady),
                "an old object is missing or twice: {listed:?}"
            );
            if was_finished {
                assert_eq!(listed.len(), steady.len() + 2 * APPEARING);
                break;
            }
        }
    });
}

fn nothing_unfinished_is_listed(place: &Place<'_>) {
    let store = place.writer();
    let files = Files::of(&*store);
    let paths = files.each(b"unfinished");
    let _lock = lock(&*store);
    for store in [store, place.reader()] {
        assert_eq!(names(&*store, ""), [""; 0]);
        assert_eq!(store.leftovers().unwrap().len(), paths.len() - 1);
    }
}

fn deleting_is_idempotent(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "a/b", b"first");
    put(&*store, "a/c", b"other");
    for _ in 0..2 {
        store.delete(&name("a/b")).unwrap();
        let kind = StoreErrorKind::NotFound;
        let head = store.head(&name("a/b"));
        assert_refused(head, kind, Operation::Read, &*store, "a/b");
    }
    for missing in ["b", "x/y/z", "a/c/d"] {
        store.delete(&name(missing)).unwrap();
    }
    assert_eq!(names(&*store, ""), ["a/c"]);
    put(&*store, "a/b", b"second");
    assert_eq!(get(&*store, &name("a/b")), b"second");
}

fn the_lock_is_exclusive(place: &Place<'_>) {
    let (store, other) = (place.writer(), place.writer());
    let Some(lock) = lock(&*store) else {
        return; // it says so of itself
    };
    for store in [&store, &other] {
        let again = store.lock();
        let error = again.as_ref().unwrap_err();
        assert_eq!(error.is_retryable(), Retryable::Safe, "{error}");
        assert_refused(again, StoreErrorKind::Locked, Operation::Lock, &**store, "");
    }
    put(&*other, "a", b"the lock is advisory");
    assert_eq!(names(&*place.reader(), ""), ["a"]);
    drop(store);
    assert!(
        other.lock().is_err(),
        "the lock outlives its store's handle"
    );
    drop(lock);
    let _lock = other.lock().unwrap();
    assert!(place.writer().lock().is_err());
}

fn a_reader_changes_nothing(place: &Place<'_>) {
    let writer = place.writer();
    put(&*writer, "a/b", b"bytes");
    let reader = place.reader();
    assert_eq!(get(&*reader, &name("a/b")), b"bytes");
    assert_eq!(reader.staging_dir(), None);
    assert_eq!(
        reader.capabilities().unwrap().put_if_absent,
        PutIfAbsent::NotProbed
    );
    let (denied, write) = (StoreErrorKind::Denied, Operation::Write);
    for object in ["a/b", "c"] {
        let put = reader.put_if_absent(&name(object), b"bytes");
        assert_refused(put, denied, write, &*reader, object);
        let deleted = reader.delete(&name(object));
        assert_refused(deleted, denied, Operation::Delete, &*reader, object);
        for path in Files::of(&*reader).each(b"bytes") {
            let put = reader.put_file(&name(object), &path);
            assert_refused(put, denied, write, &*reader, object);
            assert!(path.exists());
        }
    }
    assert_refused(reader.lock(), denied, Operation::Lock, &*reader, "");
    let _lock = lock(&*writer);
    assert_eq!(names(&*reader, ""), ["a/b"]);
}

fn capabilities_are_tried_without_a_trace(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "a", b"bytes");
    for _ in 0..2 {
        let capabilities = store.capabilities().unwrap();
        let is_fenced = capabilities.put_if_absent == PutIfAbsent::Honoured;
        assert_eq!(is_fenced, place.is_fenced);
        assert!(!capabilities.description.is_empty());
        assert_ne!(capabilities.free_bytes, Some(0));
        assert_eq!(names(&*store, ""), ["a"]);
        assert_eq!(store.leftovers().unwrap(), []);
    }
}

fn only_leftovers_are_removed(place: &Place<'_>) {
    let store = place.writer();
    put(&*store, "a", b"bytes");
    for bad in ["../../a", "../lock", "..", ".", "", "/etc/hostname"] {
        let leftover = crate::Leftover::new(bad, 0, std::time::UNIX_EPOCH);
        let removed = store.remove_leftover(&leftover);
        let (kind, operation) = (StoreErrorKind::Invalid, Operation::RemoveLeftover);
        assert_refused(removed, kind, operation, &*store, bad);
    }
    assert_eq!(names(&*store, ""), ["a"]);
}
