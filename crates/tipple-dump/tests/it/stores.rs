//! Several stores, slow ones, and ones that fail.

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tipple_dump::{
    Depth, DumpError, DumpOptions, ErrorKind, Event, Job, SpoolPlace, StorePolicy, VerifyOptions,
    dump, list, verify,
};
use tipple_store::{
    Capabilities, Leftover, ObjectEntry, ObjectMeta, ObjectName, ObjectRead, Operation, Put, Store,
    StoreError, StoreErrorKind, StoreLock,
};

use crate::round_trip::{assert_good, memory_store, small};
use crate::source::{Numbers, NumbersContent};

/// A store that waits, fails or has no lock when it is told to. Not local: it has no staging folder.
struct Remote {
    inner: Arc<dyn Store>,
    /// Puts that succeed before all calls fail.
    puts_left: AtomicI64,
    puts: AtomicU64,
    /// Chunks are put only while this is open.
    open: Mutex<bool>,
    opened: Condvar,
    has_failed: AtomicBool,
}

impl Remote {
    fn new(name: &str) -> Self {
        Self {
            inner: memory_store(name),
            puts_left: AtomicI64::new(i64::MAX),
            puts: AtomicU64::new(0),
            open: Mutex::new(true),
            opened: Condvar::new(),
            has_failed: AtomicBool::new(false),
        }
    }

    fn failing_after(name: &str, puts: i64) -> Self {
        let store = Self::new(name);
        store.puts_left.store(puts, Ordering::Relaxed);
        store
    }

    /// Works again.
    fn mend(&self) {
        self.puts_left.store(i64::MAX, Ordering::Relaxed);
        self.has_failed.store(false, Ordering::Relaxed);
    }

    fn set_open(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    fn check(&self, operation: Operation) -> Result<(), StoreError> {
        match self.has_failed.load(Ordering::Relaxed) {
            true => Err(StoreError::new(
                StoreErrorKind::Io,
                operation,
                self.url(),
                "it is out of order",
            )),
            false => Ok(()),
        }
    }

    fn check_put(&self, name: &ObjectName) -> Result<(), StoreError> {
        if self.puts_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        self.check(Operation::Write)?;
        self.puts.fetch_add(1, Ordering::Relaxed);
        if name.as_str().starts_with("chunks/") {
            let open = self.open.lock().unwrap();
            drop(self.opened.wait_while(open, |open| !*open).unwrap());
        }
        Ok(())
    }
}

impl Store for Remote {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.check_put(name)?;
        self.inner.put_if_absent(name, bytes)
    }
    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.check_put(name)?;
        self.inner.put_file(name, path)
    }
    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.check_put(name)?;
        self.inner.put_copy(name, path)
    }
    fn staging_dir(&self) -> Option<&Path> {
        None
    }
    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.check(Operation::Read)?;
        self.inner.get(name, bytes_max)
    }
    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.check(Operation::Read)?;
        self.inner.head(name)
    }
    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError> {
        self.check(Operation::Read)?;
        self.inner.open(name)
    }
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.check(Operation::List)?;
        self.inner.list(prefix, visit)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.check(Operation::Delete)?;
        self.inner.delete(name)
    }
    fn lock(&self) -> Result<StoreLock, StoreError> {
        Err(StoreError::new(
            StoreErrorKind::Unsupported,
            Operation::Lock,
            self.url(),
            "it has no locks",
        ))
    }
    fn capabilities(&self) -> Result<Capabilities, StoreError> {
        self.inner.capabilities()
    }
    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        self.check(Operation::ListLeftovers)?;
        self.inner.leftovers()
    }
    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        self.inner.remove_leftover(leftover)
    }
}

/// About one chunk for each part of 40 records.
fn source() -> Numbers {
    Numbers {
        bytes: |_| 20_000,
        ..Numbers::new(1000, 41)
    }
}

fn objects(store: &dyn Store) -> Vec<String> {
    let mut names = Vec::new();
    store
        .list("", &mut |entry| {
            names.push(entry.name.to_string());
            ControlFlow::Continue(())
        })
        .unwrap();
    names
}

fn in_spool(threads: usize, dir: &Path) -> DumpOptions {
    DumpOptions {
        spool: SpoolPlace::Dir(dir.to_owned()),
        ..small(threads)
    }
}

/// The sum of the lengths of all files below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            // Gone meanwhile.
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn every_store_gets_the_same_dump() {
    let spool = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let local = tipple_store::open_store(
        &tipple_store::StoreUrl::folder(folder.path()),
        tipple_store::Access::Write,
        &tipple_store::StoreOptions::default(),
    )
    .unwrap();
    let (a, b) = (Remote::new("same-a"), Remote::new("same-b"));
    let stores: [&dyn Store; 3] = [&a, local.as_ref(), &b];
    let report = dump(
        &Job::default(),
        &source(),
        &stores,
        &in_spool(2, spool.path()),
    )
    .unwrap();
    assert_eq!(report.records, 1000);
    assert_eq!(report.dropped_stores, []);
    let first = objects(stores[0]);
    for store in stores {
        assert_good(store, 1000);
        assert_eq!(objects(store), first, "in {}", store.url());
    }
    assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0);
}

#[test]
fn a_store_that_fails_fails_the_job_and_is_caught_up_later() {
    for puts in [0, 1, 5, 27, 30, 40, 76, 77, 78] {
        let spool = tempfile::tempdir().unwrap();
        let a = Remote::new(&format!("all-{puts}-a"));
        let b = Remote::failing_after(&format!("all-{puts}-b"), puts);
        let options = in_spool(2, spool.path());
        let numbers = source();
        let failed = dump(&Job::default(), &numbers, &[&a, &b], &options).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Store, "{failed}");
        assert!(failed.to_string().contains("out of order"), "{failed}");
        assert!(
            list(b.inner.as_ref(), None).is_err()
                || list(b.inner.as_ref(), None).unwrap().done.is_none()
        );
        assert_eq!(bytes_below(spool.path()), 0, "after {puts} puts");

        b.mend();
        // Parts of a plan that was never sealed are void.
        let committed = match list(&a, None) {
            Ok(listing) if listing.parts_planned.is_some() => listing.parts.len() as u64,
            _ => 0,
        };
        numbers.read.store(0, Ordering::Relaxed);
        let report = dump(&Job::default(), &numbers, &[&a, &b], &options).unwrap();
        assert_eq!(report.records, 1000);
        // What one store had was not asked of the source again.
        let read = numbers.read.load(Ordering::Relaxed);
        if read > 0 {
            assert!(read <= 41 * (25 - committed), "{read} after {committed}");
        }
        for store in [&a, &b] {
            let done = list(store, None).unwrap().done.unwrap();
            assert_eq!(done.records, 1000);
            let depth = VerifyOptions {
                depth: Depth::Full,
                ..VerifyOptions::default()
            };
            let verified = verify(&Job::default(), store, &[&NumbersContent], &depth).unwrap();
            assert_eq!(verified.problems, [], "in {} after {puts}", store.url());
        }
    }
}

#[test]
fn a_store_that_fails_is_dropped_and_named() {
    for puts in [5, 30, 60, 77] {
        let a = Remote::failing_after(&format!("any-{puts}-a"), puts);
        let b = Remote::new(&format!("any-{puts}-b"));
        let options = DumpOptions {
            store_policy: StorePolicy::Any,
            ..small(2)
        };
        let numbers = source();
        let report = dump(&Job::default(), &numbers, &[&a, &b], &options).unwrap();
        let [dropped] = &report.dropped_stores[..] else {
            panic!("{:?}", report.dropped_stores)
        };
        assert_eq!(dropped.store, a.url());
        assert!(dropped.reason.contains("out of order"), "{dropped:?}");
        assert_good(&b, 1000);
        assert!(!objects(a.inner.as_ref()).contains(&"DONE".to_owned()));

        // Run again with both: the first is finished from the second, and the source is not read.
        a.mend();
        let read = numbers.read.swap(0, Ordering::Relaxed);
        assert!(read >= 1000);
        let report = dump(&Job::default(), &numbers, &[&a, &b], &options).unwrap();
        assert_eq!((report.records, report.dropped_stores.len()), (1000, 0));
        assert_eq!(numbers.read.load(Ordering::Relaxed), 0);
        for store in [&a, &b] {
            let verified = verify(
                &Job::default(),
                store,
                &[&NumbersContent],
                &VerifyOptions::default(),
            );
            assert_eq!(verified.unwrap().problems, [], "in {}", store.url());
        }
        let read = |store: &Remote| {
            let mut bytes = Vec::new();
            let done = "DONE".parse().unwrap();
            store.open(&done).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(read(&a), read(&b));
    }
}

#[test]
fn with_the_last_store_the_job_fails() {
    let a = Remote::failing_after("last-a", 5);
    let b = Remote::failing_after("last-b", 40);
    let options = DumpOptions {
        store_policy: StorePolicy::Any,
        ..small(2)
    };
    let failed = dump(&Job::default(), &source(), &[&a, &b], &options).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Store, "{failed}");
    assert!(failed.to_string().contains("last-b"), "{failed}");
}

#[test]
fn a_full_spool_makes_the_source_wait_and_is_never_overdrawn() {
    let spool = tempfile::tempdir().unwrap();
    let store = Remote::new("slow");
    store.set_open(false);
    let numbers = source();
    let options = in_spool(2, spool.path());
    let refused = dump(
        &Job::default(),
        &numbers,
        &[&store],
        &DumpOptions {
            spool_bytes_max: Some(1 << 20),
            ..options.clone()
        },
    )
    .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Budget);
    let DumpError::Spool { least, .. } = refused else {
        panic!("{refused}")
    };
    let options = DumpOptions {
        spool_bytes_max: Some(least),
        ..options
    };
    let job = Job::default();
    let ended = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let bytes = bytes_below(spool.path());
                assert!(bytes <= least, "{bytes} bytes in a spool of {least}");
            }
        });
        let dumping = scope.spawn(|| {
            let report = dump(&job, &numbers, &[&store], &options);
            ended.store(true, Ordering::Relaxed);
            report
        });
        // The store takes nothing: the source goes on until the spool is full, and not further.
        tipple_testkit::wait_for("the spool to be full", || {
            let room = options_room(&options);
            job.spool()
                .is_some_and(|spool| spool.held() + room > spool.limit())
        });
        let read = numbers.read.load(Ordering::Relaxed);
        assert!(read < 900, "{read} records were read with a closed store");
        store.set_open(true);
        dumping.join().unwrap().unwrap()
    });
    assert_eq!(report.records, 1000);
    assert!(report.spool_bytes_max <= least);
    assert_eq!(report.spool_bytes_budget, least);
    assert_good(&store, 1000);
}

/// With the smallest spool that two threads can have.
fn detaching(spool: &Path, after: Duration) -> DumpOptions {
    let options = in_spool(2, spool);
    DumpOptions {
        spool_bytes_max: Some(4 * options_room(&options)),
        detach_after: Some(after),
        ..options
    }
}

fn parts_of(store: &dyn Store) -> usize {
    let names = objects(store);
    names
        .iter()
        .filter(|name| name.starts_with("parts/"))
        .count()
}

#[test]
fn a_store_that_holds_up_the_others_is_left_behind_and_catches_up() {
    let spool = tempfile::tempdir().unwrap();
    let (quick, slow) = (Remote::new("quick"), Remote::new("held-up"));
    slow.set_open(false);
    let options = detaching(spool.path(), Duration::from_millis(20));
    let report = std::thread::scope(|scope| {
        let dumping = scope.spawn(|| dump(&Job::default(), &source(), &[&slow, &quick], &options));
        tipple_testkit::wait_for("the quick store to have all parts", || {
            parts_of(&quick) == 25
        });
        assert_eq!(parts_of(&slow), 0);
        assert!(!dumping.is_finished());
        slow.set_open(true);
        dumping.join().unwrap().unwrap()
    });
    assert_eq!(
        (report.records, &report.dropped_stores[..]),
        (1000, &[][..])
    );
    for store in [&slow, &quick] {
        assert_good(store, 1000);
    }
    assert_eq!(objects(&slow), objects(&quick));
    assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0);
}

/// Left behind and caught up again and again, at moments that nobody chose.
#[test]
fn a_store_may_be_left_behind_at_any_moment() {
    let rounds = if tipple_testkit::is_long() { 50 } else { 2 };
    for round in 0..rounds {
        let spool = tempfile::tempdir().unwrap();
        let stores =
            ["steady", "unsteady", "other"].map(|name| Remote::new(&format!("{name}-{round}")));
        let options = detaching(spool.path(), Duration::from_millis(1));
        let source = Numbers {
            bytes: |_| 20_000,
            ..Numbers::new(3000, 41)
        };
        let ended = AtomicBool::new(false);
        let left_behind = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_behind);
        let job = Job::default().on_event(move |event| {
            if let Event::Warning { message } = event {
                assert!(
                    message.contains("left behind") || message.contains("caught up"),
                    "{message}"
                );
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        std::thread::scope(|scope| {
            for (store, pace) in [(&stores[1], 7), (&stores[2], 13)] {
                let ended = &ended;
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) {
                        store.set_open(false);
                        std::thread::sleep(Duration::from_millis(210 + pace * round % 100));
                        store.set_open(true);
                        std::thread::sleep(Duration::from_millis(10 * pace));
                    }
                });
            }
            let all: Vec<&dyn Store> = stores.iter().map(|store| store as &dyn Store).collect();
            let dumped = dump(&job, &source, &all, &options);
            ended.store(true, Ordering::Relaxed);
            assert_eq!(dumped.unwrap().records, 3000);
        });
        assert!(left_behind.load(Ordering::Relaxed) > 0, "round {round}");
        for store in &stores {
            assert_good(store, 3000);
            assert_eq!(objects(store), objects(&stores[0]));
        }
    }
}

#[test]
fn a_store_that_fails_while_it_is_behind_is_treated_by_the_policy() {
    let spool = tempfile::tempdir().unwrap();
    for (policy, name) in [(StorePolicy::Any, "any"), (StorePolicy::All, "all")] {
        let quick = Remote::new(&format!("quick-{name}"));
        let slow = Remote::new(&format!("failing-{name}"));
        slow.set_open(false);
        let options = DumpOptions {
            store_policy: policy,
            ..detaching(spool.path(), Duration::from_millis(20))
        };
        let stores: [&dyn Store; 2] = [&slow, &quick];
        let dumped = std::thread::scope(|scope| {
            let dumping = scope.spawn(|| dump(&Job::default(), &source(), &stores, &options));
            tipple_testkit::wait_for("the quick store to have all parts", || {
                parts_of(&quick) == 25
            });
            slow.puts_left.store(3, Ordering::Relaxed);
            slow.set_open(true);
            dumping.join().unwrap()
        });
        match policy {
            StorePolicy::Any => {
                let report = dumped.unwrap();
                assert_eq!(report.dropped_stores.len(), 1);
                assert_eq!(report.dropped_stores[0].store, slow.url());
                assert_good(&quick, 1000);
            }
            StorePolicy::All => assert_eq!(dumped.unwrap_err().kind(), ErrorKind::Store),
        }
        assert!(!objects(slow.inner.as_ref()).contains(&"DONE".to_owned()));
        // Given again, it gets the rest.
        slow.mend();
        dump(&Job::default(), &source(), &stores, &options).unwrap();
        assert_good(&slow, 1000);
        assert_eq!(objects(&slow), objects(&quick));
    }
}

/// The room of one chunk: half of what two for one thread take.
fn options_room(options: &DumpOptions) -> u64 {
    let one = DumpOptions {
        threads: 1,
        spool_bytes_max: Some(0),
        ..options.clone()
    };
    match one.validate() {
        Err(DumpError::Spool { least, .. }) => least / 2,
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_can_wait_in_memory() {
    let store = Remote::new("in-memory");
    let options = DumpOptions {
        spool: SpoolPlace::Memory,
        ..small(2)
    };
    let numbers = source();
    let job = Job::default();
    let report = dump(&job, &numbers, &[&store], &options).unwrap();
    assert_eq!(report.records, 1000);
    assert_eq!((report.spool_bytes_budget, report.spool_bytes_max), (0, 0));
    assert!(report.memory_bytes_budget >= 4 * options_room(&options));
    assert_good(&store, 1000);
}

#[test]
fn the_first_commit_of_a_part_counts() {
    // Two processes that know nothing of each other go on with one plan, in a store that cannot lock.
    let store = Remote::new("two-writers");
    store.set_open(false);
    let job = Job::default();
    std::thread::scope(|scope| {
        scope.spawn(|| dump(&job, &source(), &[&store], &small(1)).unwrap_err());
        tipple_testkit::wait_for("the plan to be sealed", || {
            let names = objects(&store);
            names.iter().any(|name| name.ends_with("PLANNED"))
        });
        job.gate().cancel();
        store.set_open(true);
    });
    store.set_open(false);
    let puts = store.puts.load(Ordering::Relaxed);
    let reports: Vec<_> = std::thread::scope(|scope| {
        let runs = [0, 1].map(|n| {
            let store = &store;
            scope.spawn(move || {
                let spool = tempfile::tempdir().unwrap();
                // Other chunks of the same records, since a part is read again and again.
                let numbers = Numbers {
                    restarts: n == 1,
                    ..source()
                };
                dump(
                    &Job::default(),
                    &numbers,
                    &[store],
                    &in_spool(1, spool.path()),
                )
            })
        });
        tipple_testkit::wait_for("both to put chunks", || {
            store.puts.load(Ordering::Relaxed) >= puts + 2
        });
        store.set_open(true);
        runs.map(|run| run.join().unwrap()).into()
    });
    for report in reports {
        assert_eq!(report.unwrap().records, 1000);
    }
    let verified = verify(
        &Job::default(),
        &store,
        &[&NumbersContent],
        &VerifyOptions::default(),
    );
    assert_eq!(verified.unwrap().problems, []);
}

#[test]
fn a_store_is_named_once() {
    let store = Remote::new("twice");
    let refused = dump(&Job::default(), &source(), &[&store, &store], &small(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.to_string().contains("given twice"), "{refused}");
}

#[test]
fn different_dumps_are_not_mixed() {
    let (a, b) = (Remote::new("mixed-a"), Remote::new("mixed-b"));
    for store in [&a, &b] {
        let broken = Numbers {
            cancel_after: Some(500),
            ..source()
        };
        dump(&Job::default(), &broken, &[store], &small(1)).unwrap_err();
    }
    let before = (objects(&a), objects(&b));
    let refused = dump(&Job::default(), &source(), &[&a, &b], &small(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(refused.to_string().contains("different dumps"), "{refused}");
    assert_eq!((objects(&a), objects(&b)), before);
}
