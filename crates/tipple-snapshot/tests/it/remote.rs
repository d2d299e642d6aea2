//! Copies in a store: a start on an empty disk is warm, too.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tipple_snapshot::store::{Access, Store, StoreOptions, open_store};
use tipple_snapshot::{
    Cache, CacheOptions, RemoteCopies, SnapshotName, SnapshotOptions, UpdateType, ValueTimes,
};
use tipple_testkit::{MiniStack, RawS3};

use crate::support::{Answer, HOUR, Place, Source, Words, words};

fn folder(place: &Place) -> Arc<dyn Store> {
    let url = format!("file:{}", place.root().join("store").display());
    open_store(
        &url.parse().unwrap(),
        Access::Write,
        &StoreOptions::default(),
    )
    .unwrap()
}

fn bucket(server: &MiniStack) -> (RawS3, Arc<dyn Store>) {
    bucket_with(server, StoreOptions::default())
}

fn bucket_with(server: &MiniStack, options: StoreOptions) -> (RawS3, Arc<dyn Store>) {
    let bucket = server.fresh_bucket();
    let options = StoreOptions {
        // So that a snapshot of some size goes in parts.
        part_bytes: 5 << 20,
        ..options.with_variables(server.account().env())
    };
    let url = bucket.url("pods").parse().unwrap();
    let store = open_store(&url, Access::Write, &options).unwrap();
    (bucket, store)
}

/// Each test is made on a folder and on a real S3 server.
fn stores(place: &Place) -> [Arc<dyn Store>; 2] {
    [folder(place), bucket(MiniStack::shared()).1]
}

fn copies(store: &Arc<dyn Store>) -> Vec<String> {
    let mut names = Vec::new();
    store
        .list("words/", &mut |entry| {
            names.push(entry.name.as_str()["words/".len()..].to_owned());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    names.retain(|name| !name.starts_with("turns/"));
    names
}

/// A service with a disk of its own.
fn start(
    store: &Arc<dyn Store>,
    disk: &Place,
    source: &Source,
    interval: Duration,
) -> Cache<Words> {
    source
        .cache()
        .options(CacheOptions::every(HOUR))
        .snapshots(disk.root(), SnapshotOptions::warm(24 * HOUR))
        .remote(RemoteCopies::new(store.clone()).every(interval).keep(2))
        .start()
        .unwrap()
}

#[test]
fn a_fresh_disk_starts_with_the_newest_copy() {
    for store in stores(&Place::new()) {
        let (first, second) = (Place::new(), Place::new());
        let source = Source::always(Answer::New(words(&["one"])));
        let cache = start(&store, &first, &source, Duration::from_secs(1));
        cache.write_snapshot_now().unwrap();
        cache.shutdown(HOUR).unwrap();
        assert_eq!(copies(&store), first.names());
        assert_eq!(cache.stats().copies, 1);
        drop(cache);
        let away = Source::always(Answer::Fail);
        let cache = start(&store, &second, &away, Duration::from_secs(1));
        assert_eq!(*cache.get().unwrap(), ["one"]);
        assert!(away.kinds().is_empty() && cache.stats().is_loaded_from_dump);
        assert_eq!(second.names(), first.names());
        drop(cache);
        // What is newer on the disk is not fetched.
        second.dump(&["newer"], Duration::ZERO);
        let cache = start(&store, &second, &away, Duration::from_secs(1));
        assert_eq!(*cache.get().unwrap(), ["newer"]);
    }
}

#[test]
fn a_damaged_copy_costs_nothing_but_the_time() {
    for store in stores(&Place::new()) {
        let disk = Place::new();
        disk.dump(&["old"], HOUR);
        let name = SnapshotName::new(SystemTime::now(), 0);
        store
            .put_if_absent(&format!("words/{name}").parse().unwrap(), b"no snapshot")
            .unwrap();
        let cache = start(&store, &disk, &Source::always(Answer::Fail), HOUR);
        assert_eq!(*cache.get().unwrap(), ["old"]);
        assert_eq!(cache.stats().load_failures["truncated"], 1);
    }
}

/// One writer, whoever is first: the others of the same interval copy nothing.
#[test]
fn one_of_many_copies() {
    for store in stores(&Place::new()) {
        let disks: Vec<Place> = (0..4).map(|_| Place::new()).collect();
        // An interval of centuries: all of them are in the same.
        let caches: Vec<_> = disks
            .iter()
            .map(|disk| {
                let source = Source::always(Answer::New(words(&["one"])));
                let cache = start(&store, disk, &source, HOUR * 24 * 36_500);
                for _ in 0..3 {
                    cache.update_now(UpdateType::Full).unwrap();
                    cache.write_snapshot_now().unwrap();
                }
                cache
            })
            .collect();
        for cache in &caches {
            cache.shutdown(HOUR).unwrap();
        }
        let copied: u64 = caches.iter().map(|cache| cache.stats().copies).sum();
        assert_eq!((copied, copies(&store).len()), (1, 1));
        assert_eq!(
            caches
                .iter()
                .map(|cache| cache.stats().copy_failures.len())
                .sum::<usize>(),
            0
        );
    }
}

#[test]
fn old_copies_go() {
    for store in stores(&Place::new()) {
        let disk = Place::new();
        for hours in 1..6 {
            let folder = disk.folder(SnapshotOptions {
                max_count: 10,
                ..SnapshotOptions::default()
            });
            let written = folder
                .write(
                    &words(&["x"]),
                    ValueTimes::at(SystemTime::now() - hours * HOUR),
                )
                .unwrap();
            store
                .put_copy(
                    &format!("words/{}", written.name).parse().unwrap(),
                    &written.path,
                )
                .unwrap();
            fs::remove_file(written.path).unwrap();
        }
        assert_eq!(copies(&store).len(), 5);
        let cache = start(
            &store,
            &disk,
            &Source::always(Answer::New(words(&["new"]))),
            Duration::from_secs(1),
        );
        cache.update_now(UpdateType::Full).unwrap();
        cache.write_snapshot_now().unwrap();
        cache.shutdown(HOUR).unwrap();
        assert_eq!(copies(&store).len(), 2);
        assert_eq!(copies(&store).last(), disk.names().last());
    }
}

/// A pod without a disk of its own: what another one has put into the bucket, in several parts, is there after a start.
#[test]
fn a_large_snapshot_goes_through_a_bucket() {
    let (bucket, store) = bucket(MiniStack::shared());
    let value: Words = (0..400_000)
        .map(|n| format!("word number {n:020}"))
        .collect();
    let (first, second) = (Place::new(), Place::new());
    let source = Source::always(Answer::New(value.clone()));
    let cache = start(&store, &first, &source, Duration::from_secs(1));
    cache.shutdown(HOUR).unwrap();
    let [object] = &bucket.list("pods/words/2")[..] else {
        panic!("{:?}", bucket.keys(""));
    };
    assert!(object.bytes > 10 << 20, "{object:?}");
    assert!(bucket.uploads("").is_empty());
    let away = Source::always(Answer::Fail);
    let cache = start(&store, &second, &away, Duration::from_secs(1));
    assert!(*cache.get().unwrap() == value);
    assert_eq!(second.names(), first.names());
    // A copy that was damaged on its way, or in the store, is set aside like any other file.
    let third = Place::new();
    let mut bytes = bucket.get(&object.key).unwrap();
    bytes[5 << 20] ^= 1;
    bucket.put(&object.key, &bytes);
    let cold = Source::always(Answer::New(words(&["cold"])));
    let cache = start(&store, &third, &cold, Duration::from_secs(1));
    assert_eq!(*cache.get().unwrap(), ["cold"]);
    assert_eq!(cache.stats().load_failures["damaged"], 1);
}

/// A store that does not answer holds up no start for long.
#[test]
fn a_bucket_that_is_away_is_not_waited_for() {
    let server = MiniStack::start();
    let stubborn = StoreOptions {
        attempts_max: u32::MAX,
        retry_time: HOUR,
        ..StoreOptions::default()
    };
    let (_, store) = bucket_with(&server, stubborn);
    let disk = Place::new();
    disk.dump(&["old"], HOUR);
    server.stop();
    let away = Source::always(Answer::Fail);
    let copies = RemoteCopies::new(store.clone()).patience(Duration::from_millis(50));
    let cache = away
        .cache()
        .options(CacheOptions::every(HOUR))
        .snapshots(disk.root(), SnapshotOptions::warm(24 * HOUR))
        .remote(copies)
        .start()
        .unwrap();
    assert_eq!(*cache.get().unwrap(), ["old"]);
    assert_eq!(cache.stats().load_failures["io"], 1);
}
