//! The life of a cache: its first update, the later ones, and what is written of them.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tipple_snapshot::UpdateType::{Full, Incremental};
use tipple_snapshot::{
    Cache, CacheOptions, ErrorKind, FirstUpdateMode, FirstUpdateType, MaxAge, Reconfiguration,
    SnapshotName, SnapshotOptions, UpdateType, UpdateTypes, WriteOutcome,
};
use tipple_testkit::wait_for;

use crate::support::{Answer, HOUR, Place, Source, Words, words};

fn warm() -> SnapshotOptions {
    SnapshotOptions::warm(24 * HOUR)
}

fn hourly() -> CacheOptions {
    CacheOptions::every(HOUR)
}

/// A cache that asks `source` every hour, and has its snapshots in `place`.
#[track_caller]
fn start(source: &Source, place: &Place, options: SnapshotOptions) -> Cache<Words> {
    let cache = source.cache().options(hourly());
    cache.snapshots(place.root(), options).start().unwrap()
}

#[test]
fn a_second_start_is_warm() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let cache = start(&source, &place, warm());
    assert_eq!(*cache.get().unwrap(), ["one"]);
    wait_for("a snapshot", || cache.stats().writes == 1);
    assert_eq!(source.kinds(), [Full]);
    let stats = cache.stats();
    assert!(!stats.is_loaded_from_dump && stats.load_duration.is_none());
    assert_eq!(stats.current_documents, Some(1));
    drop(cache);

    let name: SnapshotName = place.names()[0].parse().unwrap();
    let source = Source::always(Answer::Fail);
    let cache = start(&source, &place, warm());
    assert_eq!(*cache.get().unwrap(), ["one"]);
    assert_eq!(source.kinds(), []);
    let stats = cache.stats();
    assert!(stats.is_loaded_from_dump && stats.is_current_from_dump);
    assert_eq!(stats.newest_snapshot, Some(name.updated()));
    // What was loaded is not written back.
    assert_eq!(cache.shutdown(HOUR).unwrap(), WriteOutcome::UpToDate);
    assert_eq!(cache.stats().writes, 0);
    assert_eq!(place.names(), [name.to_string()]);
}

/// Every kind of updates, every mode and type of a first update, with and without a snapshot, with a source that works and one
/// that does not, and whether the first update may fail: what is asked of the source, and whether the start succeeds.
#[test]
fn the_whole_matrix_of_first_updates() {
    use FirstUpdateMode::{BestEffort, Required, Skip};
    use FirstUpdateType as First;
    let types = [
        UpdateTypes::OnlyFull,
        UpdateTypes::OnlyIncremental,
        UpdateTypes::FullAndIncremental,
    ];
    let mut cases = 0;
    for update_types in types {
        for mode in [Skip, Required, BestEffort] {
            for first in [
                First::Full,
                First::Incremental,
                First::IncrementalThenAsyncFull,
            ] {
                for (has_dump, works, fail_ok, must_wait) in
                    (0..16).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0, n & 8 > 0))
                {
                    let place = Place::new();
                    if has_dump {
                        place.dump(&["old"], HOUR);
                    }
                    let source = Source::always(match works {
                        true => Answer::New(words(&["new"])),
                        false => Answer::Fail,
                    });
                    let options = CacheOptions {
                        update_types: Some(update_types),
                        full_update_interval: (update_types == UpdateTypes::FullAndIncremental)
                            .then_some(24 * HOUR),
                        first_update_fail_ok: fail_ok,
                        ..hourly()
                    };
                    let snapshots = SnapshotOptions {
                        first_update_mode: mode,
                        first_update_type: Some(first),
                        wait_for_first_update: must_wait,
                        max_age: Some(MaxAge::Unlimited),
                        ..SnapshotOptions::default()
                    };
                    let case = format!(
                        "{update_types:?} {mode:?} {first:?} dump {has_dump} works {works} fail_ok {fail_ok} wait {must_wait}"
                    );
                    cases += 1;
                    let started = source
                        .cache()
                        .options(options)
                        .snapshots(place.root(), snapshots)
                        .start();
                    if update_types == UpdateTypes::OnlyFull && first != First::Full {
                        assert_eq!(started.unwrap_err().kind(), ErrorKind::Usage, "{case}");
                        continue;
                    }
                    // What the start waits for.
                    let expected: &[UpdateType] = match (has_dump, mode, first) {
                        (true, Skip, _) if !must_wait => &[],
                        (false, ..) | (true, _, First::Full) => &[Full],
                        (true, _, First::Incremental | First::IncrementalThenAsyncFull) => {
                            &[Incremental]
                        }
                    };
                    let succeeds = works || (has_dump && mode != Required) || fail_ok;
                    assert_eq!(started.is_ok(), succeeds, "{case}");
                    let asked = source.asked();
                    assert!(
                        source.kinds().starts_with(expected),
                        "{case}: {:?}",
                        source.kinds()
                    );
                    if let Some(asked) = asked.first() {
                        assert_eq!(asked.has_value, has_dump, "{case}");
                        assert_eq!(asked.last_update.is_some(), has_dump, "{case}");
                    }
                    let Ok(cache) = started else { continue };
                    let value = match (works && !expected.is_empty(), has_dump) {
                        (true, _) => Some(words(&["new"])),
                        (false, true) => Some(words(&["old"])),
                        (false, false) => None,
                    };
                    let then_full =
                        expected == [Incremental] && first == First::IncrementalThenAsyncFull;
                    if then_full {
                        wait_for("the full update", || source.kinds().len() == 2);
                        assert_eq!(source.kinds(), [Incremental, Full], "{case}");
                    } else {
                        assert_eq!(source.kinds(), expected, "{case}");
                    }
                    assert_eq!(cache.get().ok().map(|value| value.clone()), value, "{case}");
                }
            }
        }
    }
    assert_eq!(cases, 3 * 3 * 3 * 16);
}

#[test]
fn after_an_incremental_update_the_full_one_is_repeated_until_it_succeeds() {
    let place = Place::new();
    place.dump(&["old"], HOUR);
    let source = Source::always(Answer::Same)
        .then(Answer::Fail)
        .then(Answer::Fail)
        .then(Answer::Fail)
        .then(Answer::New(words(&["new"])));
    let options = CacheOptions {
        full_update_interval: Some(24 * HOUR),
        ..CacheOptions::every(Duration::from_millis(1))
    };
    let snapshots = SnapshotOptions {
        first_update_mode: FirstUpdateMode::BestEffort,
        first_update_type: Some(FirstUpdateType::IncrementalThenAsyncFull),
        ..warm()
    };
    let cache = source
        .cache()
        .options(options)
        .snapshots(place.root(), snapshots)
        .start()
        .unwrap();
    wait_for("later updates", || source.kinds().len() > 5);
    assert_eq!(
        source.kinds()[..6],
        [Incremental, Full, Full, Full, Incremental, Incremental]
    );
    assert_eq!(*cache.get().unwrap(), ["new"]);
}

#[test]
fn the_time_of_the_last_update_goes_through_a_restart() {
    let place = Place::new();
    let dumped = place.dump(&["old"], HOUR);
    let source = Source::always(Answer::Same);
    let options = CacheOptions {
        update_types: Some(UpdateTypes::OnlyIncremental),
        ..hourly()
    };
    let snapshots = SnapshotOptions {
        first_update_mode: FirstUpdateMode::Required,
        first_update_type: Some(FirstUpdateType::Incremental),
        ..SnapshotOptions::default()
    };
    let cache = source
        .cache()
        .options(options)
        .snapshots(place.root(), snapshots)
        .start()
        .unwrap();
    cache.update_now(Incremental).unwrap();
    let asked = source.asked();
    assert_eq!(asked[0].last_update, Some(dumped.updated()));
    assert_eq!(asked[1].last_update, Some(asked[0].now));
    // The value is the same: the file has a new name, the time before which all is in it, and was not written again.
    cache.shutdown(HOUR).unwrap();
    assert_eq!(cache.stats().writes, 0);
    assert!(cache.stats().bumps > 0);
    assert_eq!(
        place.names(),
        [SnapshotName::new(asked[1].now, 0).to_string()]
    );
}

#[test]
fn ten_updates_without_news_write_once() {
    let place = Place::new();
    let source = Source::always(Answer::Same).then(Answer::New(words(&["one"])));
    let cache = start(&source, &place, warm());
    wait_for("a file", || cache.stats().writes == 1);
    let mut names = vec![place.names()];
    for _ in 0..10 {
        cache.update_now(Full).unwrap();
        cache.write_snapshot_now().unwrap();
        names.push(place.names());
    }
    assert_eq!(cache.stats().writes, 1);
    assert!(
        names.is_sorted() && names.iter().all(|names| names.len() == 1),
        "{names:?}"
    );
    names.dedup();
    assert_eq!(names.len(), 11);
    assert_eq!(cache.write_snapshot_now().unwrap(), WriteOutcome::UpToDate);
    // Somebody took the file away: it is written again.
    fs::remove_file(place.only()).unwrap();
    cache.update_now(Full).unwrap();
    wait_for("a file", || cache.stats().writes == 2);
    assert_eq!(place.names().len(), 1);
}

#[test]
fn updates_during_a_write_make_exactly_one_more() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["0"])));
    // Slow enough that all updates come while the second file is written.
    let large: Words = (0..4000).map(|n| format!("{n:0100}")).collect();
    let options = SnapshotOptions {
        write_bytes_per_second: std::num::NonZeroU64::new(400_000),
        ..warm()
    };
    let cache = start(&source, &place, options);
    wait_for("the first file", || cache.stats().writes == 1);
    source.now(Answer::New(large));
    cache.update_now(Full).unwrap();
    wait_for("the second file to be written", || {
        place.names().iter().any(|name| name.ends_with(".tmp"))
    });
    for n in 0..20 {
        source.now(Answer::New(words(&[&n.to_string()])));
        cache.update_now(Full).unwrap();
    }
    assert_eq!(cache.stats().writes, 1, "it is still being written");
    wait_for("both files", || cache.stats().writes == 3);
    cache.shutdown(HOUR).unwrap();
    assert_eq!(cache.stats().writes, 3);
    let last = place
        .folder(SnapshotOptions::default())
        .load::<Words>()
        .loaded
        .unwrap();
    assert_eq!(last.value, ["19"]);
}

#[test]
fn within_the_interval_updates_wait_and_a_shutdown_does_not() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let options = SnapshotOptions {
        min_interval: HOUR,
        ..warm()
    };
    let cache = start(&source, &place, options);
    wait_for("the first file", || cache.stats().writes == 1);
    source.now(Answer::New(words(&["two"])));
    cache.update_now(Full).unwrap();
    cache.update_now(Full).unwrap();
    assert_eq!(cache.stats().writes, 1);
    // A shorter interval holds at once.
    let short = Reconfiguration {
        min_dump_interval: Some(Duration::ZERO),
        ..Reconfiguration::default()
    };
    cache.reconfigure(short).unwrap();
    wait_for("the second file", || cache.stats().writes == 2);
    // And without it, the one of the options.
    cache.reconfigure(Reconfiguration::default()).unwrap();
    source.now(Answer::New(words(&["three"])));
    cache.update_now(Full).unwrap();
    assert_eq!(cache.stats().writes, 2);
    assert_eq!(cache.shutdown(HOUR).unwrap(), WriteOutcome::Written);
    let last = place
        .folder(SnapshotOptions::default())
        .load::<Words>()
        .loaded
        .unwrap();
    assert_eq!(last.value, ["three"]);
    // After the end.
    assert_eq!(
        cache.write_snapshot_now().unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    wait_for("the end of updates", || cache.update_now(Full).is_err());
    assert_eq!(*cache.get().unwrap(), ["three"]);
}

#[test]
fn switched_off_and_on_while_it_runs() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let options = SnapshotOptions {
        enable: false,
        ..warm()
    };
    place.dump(&["old"], HOUR);
    let before = place.names();
    let cache = start(&source, &place, options);
    // Not read, and not written.
    assert_eq!(*cache.get().unwrap(), ["one"]);
    assert_eq!(
        cache.write_snapshot_now().unwrap_err().kind(),
        ErrorKind::Usage
    );
    assert_eq!(place.names(), before);
    let on = |dumps_enabled| Reconfiguration {
        dumps_enabled,
        ..Reconfiguration::default()
    };
    cache.reconfigure(on(Some(true))).unwrap();
    wait_for("a file", || cache.stats().writes == 1);
    cache.reconfigure(on(None)).unwrap();
    cache.update_now(Full).unwrap();
    assert_eq!(
        cache.shutdown(HOUR).unwrap(),
        WriteOutcome::Written,
        "the last that was"
    );
    assert_eq!(cache.stats().writes, 1);
}

#[test]
fn a_shutdown_keeps_to_its_deadline() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let options = SnapshotOptions {
        // A byte in a while: it would take hours.
        write_bytes_per_second: std::num::NonZeroU64::new(1),
        ..warm()
    };
    place.dump(&["old"], HOUR);
    let before = place.names();
    let snapshots = SnapshotOptions {
        first_update_mode: FirstUpdateMode::Required,
        ..options
    };
    let cache = start(&source, &place, snapshots);
    wait_for("a write", || place.names().len() > 1);
    let error = cache.shutdown(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // Nothing is left of it, and what was there is there.
    assert_eq!(place.names(), before);
}

#[test]
fn an_empty_value_does_not_replace_a_snapshot() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&[])));
    place.dump(&["old"], HOUR);
    let before = place.names();
    let options = || SnapshotOptions {
        first_update_mode: FirstUpdateMode::Required,
        ..warm()
    };
    let cache = start(&source, &place, options());
    wait_for("the decision", || cache.stats().empty_values == 1);
    // Neither by a rename: it would seem to be fresh.
    source.now(Answer::Same);
    cache.update_now(Full).unwrap();
    assert_eq!(cache.write_snapshot_now().unwrap(), WriteOutcome::Empty);
    assert_eq!(place.names(), before);
    drop(cache);
    source.now(Answer::New(words(&[])));
    let options = SnapshotOptions {
        allow_empty: true,
        ..options()
    };
    let cache = start(&source, &place, options);
    wait_for("an empty file", || cache.stats().writes == 1);
    assert_ne!(place.names(), before);
}

#[test]
fn clearing_leaves_the_snapshot_as_it_is() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let cache = start(&source, &place, warm());
    wait_for("a file", || cache.stats().writes == 1);
    let before = place.names();
    cache.clear();
    assert_eq!(cache.get().unwrap_err().kind(), ErrorKind::Empty);
    source.now(Answer::Same);
    cache.update_now(Full).unwrap();
    assert_eq!(
        cache.write_snapshot_now().unwrap_err().kind(),
        ErrorKind::Empty
    );
    assert_eq!(place.names(), before);
    assert!(source.asked().last().unwrap().last_update.is_none());
    source.now(Answer::New(words(&["two"])));
    cache.update_now(Full).unwrap();
    wait_for("the next file", || place.names() != before);
    assert_eq!(cache.get_arc().unwrap()[..], ["two"]);
}

#[test]
fn a_value_expires_and_comes_back() {
    let place = Place::new();
    let source = Source::always(Answer::Fail).then(Answer::New(words(&["one"])));
    let options = CacheOptions {
        failed_updates_before_expiration: Some(3),
        alert_on_failing_to_update_times: 2,
        // It must not keep a value from expiring.
        has_pre_assign_check: true,
        ..hourly()
    };
    let cache = source
        .cache()
        .options(options)
        .snapshots(place.root(), warm())
        .start()
        .unwrap();
    let failed =
        |cache: &tipple_snapshot::Cache<Words>| cache.update_now(Full).unwrap_err().to_string();
    assert_eq!(failed(&cache), "the update failed: the source is away");
    assert!(!cache.stats().is_alert);
    source.now(Answer::Panic);
    assert_eq!(failed(&cache), "the updater panicked: the source is a mess");
    assert!(cache.stats().is_alert && cache.get().is_ok());
    failed(&cache);
    assert_eq!(
        cache.get().unwrap_err().to_string(),
        "the cache `words` is empty"
    );
    assert_eq!(
        (cache.stats().expirations, cache.stats().failed_in_a_row),
        (1, 3)
    );
    failed(&cache);
    assert_eq!(cache.stats().expirations, 1);
    source.now(Answer::New(words(&["two"])));
    cache.update_now(Full).unwrap();
    assert_eq!(*cache.get().unwrap(), ["two"]);
    let stats = cache.stats();
    assert!(!stats.is_alert && stats.failed_in_a_row == 0);
    assert_eq!(
        (
            stats.full.attempts,
            stats.full.failures,
            stats.full.no_changes
        ),
        (6, 4, 0)
    );
}

#[test]
fn the_check_before_a_value_is_replaced() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&[]))).then(Answer::New(words(&["one"])));
    let options = CacheOptions {
        has_pre_assign_check: true,
        ..hourly()
    };
    let cache = source
        .cache()
        .options(options)
        .snapshots(place.root(), warm())
        .start()
        .unwrap();
    let error = cache.update_now(Full).unwrap_err().to_string();
    assert!(
        error.contains("overwriting the cache `words` with empty data is not allowed"),
        "{error}"
    );
    assert_eq!(*cache.get().unwrap(), ["one"]);
}

#[test]
fn listeners_get_each_value_once() {
    let place = Place::new();
    place.dump(&["old"], HOUR);
    let seen: Arc<Mutex<Vec<Words>>> = Arc::default();
    let note = |seen: &Arc<Mutex<Vec<Words>>>| {
        let seen = seen.clone();
        move |value: &Arc<Words>| seen.lock().unwrap().push((**value).clone())
    };
    let source = Source::always(Answer::New(words(&["new"])));
    let cache = source
        .cache()
        .options(hourly())
        .snapshots(place.root(), warm())
        .listen(note(&seen))
        .listen(|_| panic!("a listener like this harms nobody"))
        .start()
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [words(&["old"])]);
    let later: Arc<Mutex<Vec<Words>>> = Arc::default();
    let listening = cache.listen(note(&later));
    cache.update_now(Full).unwrap();
    source.now(Answer::Same);
    cache.update_now(Full).unwrap();
    let both = [words(&["old"]), words(&["new"])];
    assert_eq!(*seen.lock().unwrap(), both);
    assert_eq!(*later.lock().unwrap(), both);
    drop(listening);
    source.now(Answer::New(words(&["newer"])));
    cache.update_now(Full).unwrap();
    assert_eq!(later.lock().unwrap().len(), 2);
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[test]
fn wishes_for_updates_are_one_update() {
    let source = Source::always(Answer::Same).then(Answer::New(words(&["one"])));
    let (to, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let cache = source
        .cache()
        .options(CacheOptions {
            update_types: Some(UpdateTypes::OnlyIncremental),
            ..hourly()
        })
        .start()
        .unwrap();
    // Holds up the thread that updates, while it publishes.
    let _listening = cache.listen({
        let mut is_first = true;
        move |_| {
            if !std::mem::take(&mut is_first) {
                gate.lock().unwrap().recv().unwrap();
            }
        }
    });
    source.now(Answer::New(words(&["two"])));
    cache.invalidate(Incremental);
    wait_for("the update", || source.kinds().len() == 2);
    source.now(Answer::Same);
    for _ in 0..10 {
        cache.invalidate(Incremental);
    }
    cache.invalidate(Full);
    cache.invalidate(Incremental);
    to.send(()).unwrap();
    wait_for("one more", || source.kinds().len() == 3);
    cache.update_now(Incremental).unwrap();
    assert_eq!(source.kinds(), [Full, Incremental, Full, Incremental]);
}

#[test]
fn periodic_updates_and_how_they_are_switched_off() {
    let source = Source::always(Answer::New(words(&["one"])));
    let often = CacheOptions::every(Duration::from_millis(1));
    let cache = source.cache().options(often.clone()).start().unwrap();
    wait_for("updates", || source.kinds().len() > 3);
    drop(cache);
    // Nothing is asked after the end.
    let asked = source.kinds().len();
    let other = Source::always(Answer::New(words(&["one"])));
    let options = CacheOptions {
        updates_enabled: false,
        ..often
    };
    let cache = other.cache().options(options.clone()).start().unwrap();
    assert_eq!(other.kinds(), [Full]);
    cache.update_now(Full).unwrap();
    assert_eq!(other.kinds(), [Full, Full]);
    assert_eq!(source.kinds().len(), asked);
    // Not even the first one, if it may fail.
    let third = Source::always(Answer::New(words(&["one"])));
    let options = CacheOptions {
        first_update_fail_ok: true,
        ..options
    };
    let cache = third.cache().options(options).start().unwrap();
    assert!(cache.get().is_err() && third.kinds().is_empty());
}

#[test]
fn an_old_value_is_dropped_by_the_cache_and_not_by_a_reader() {
    struct Dropped(Arc<Mutex<Option<std::thread::ThreadId>>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(std::thread::current().id());
        }
    }
    let dropped: Arc<Mutex<Option<std::thread::ThreadId>>> = Arc::default();
    let own = dropped.clone();
    let cache = tipple_snapshot::Cache::builder(
        "drops",
        move |_: tipple_snapshot::UpdateRequest<Dropped>| {
            Ok(tipple_snapshot::Update::New(Dropped(own.clone())))
        },
    )
    .options(CacheOptions {
        additional_cleanup_interval: Duration::from_millis(1),
        ..hourly()
    })
    .start()
    .unwrap();
    let old = cache.get_arc().unwrap();
    cache.update_now(Full).unwrap();
    assert!(dropped.lock().unwrap().is_none());
    drop(old);
    wait_for("the end of the old value", || {
        dropped.lock().unwrap().is_some()
    });
    assert_ne!(*dropped.lock().unwrap(), Some(std::thread::current().id()));
}

#[test]
fn the_name_says_a_time_before_the_data() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let before = SystemTime::now() - Duration::from_micros(1);
    let cache = start(&source, &place, warm());
    wait_for("a file", || cache.stats().writes == 1);
    let name: SnapshotName = place.names()[0].parse().unwrap();
    assert_eq!(name.updated(), source.asked()[0].now);
    assert!(before <= name.updated() && name.updated() <= SystemTime::now());
}

#[test]
fn the_same_content_is_not_written_twice() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let options = SnapshotOptions {
        skip_same_content: true,
        first_update_mode: FirstUpdateMode::Required,
        ..warm()
    };
    let cache = start(&source, &place, options.clone());
    assert!(cache.write_snapshot_now().is_ok());
    cache.update_now(Full).unwrap();
    cache.write_snapshot_now().unwrap();
    assert_eq!((cache.stats().writes, cache.stats().bumps), (1, 1));
    drop(cache);
    // Nor after a restart.
    let cache = start(&source, &place, options);
    cache.shutdown(HOUR).unwrap();
    assert_eq!((cache.stats().writes, cache.stats().bumps), (0, 1));
}

#[test]
fn threads_end_with_the_last_handle() {
    let place = Place::new();
    let source = Source::always(Answer::New(words(&["one"])));
    let cache = start(&source, &place, warm());
    let other = cache.clone();
    drop(cache);
    other.update_now(Full).unwrap();
    drop(other);
    let tasks = |name: &str| {
        fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|comm| comm.trim() == name)
            .count()
    };
    assert_eq!(tasks("no-such-thread"), 0);
    let cache = source.cache().options(hourly()).start().unwrap();
    drop(cache);
    // Of a name of its own, since other tests run in this process.
    let own = tipple_snapshot::Cache::builder("t-end", source)
        .options(hourly())
        .start()
        .unwrap();
    assert_eq!(tasks("update-t-end"), 1);
    drop(own);
    assert_eq!(tasks("update-t-end"), 0);
}
