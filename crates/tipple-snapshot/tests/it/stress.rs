//! Everything at once: readers, updates that are asked for from several threads, writes, bumps, clears, listeners.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tipple_snapshot::{Cache, CacheOptions, SnapshotOptions, Update, UpdateRequest, UpdateType};
use tipple_testkit::{is_long, wait_for};

use crate::support::Place;

#[test]
fn readers_see_whole_values_whatever_happens() {
    let place = Place::new();
    let mut round = 0u64;
    let updater = move |_: UpdateRequest<Vec<u64>>| {
        round += 1;
        match round % 5 {
            3 => Err("now and then the source is away".into()),
            4 => Ok(Update::NoChange),
            _ => Ok(Update::New(vec![round; 2000])),
        }
    };
    let snapshots = SnapshotOptions {
        max_count: 2,
        ..SnapshotOptions::warm(Duration::from_secs(3600))
    };
    let cache = Cache::builder("stress", updater)
        .options(CacheOptions {
            additional_cleanup_interval: Duration::from_millis(1),
            ..CacheOptions::every(Duration::from_millis(1))
        })
        .snapshots(place.root(), snapshots.clone())
        .start()
        .unwrap();
    let (stop, reads, heard) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        std::sync::Arc::new(AtomicU64::new(0)),
    );
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(value) = cache.get() else { continue };
                    assert!(value.len() == 2000 && value.iter().all(|of| *of == value[0]));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = cache.update_now(UpdateType::Full);
                let _ = cache.write_snapshot_now();
                cache.invalidate(UpdateType::Incremental);
            }
        });
        scope.spawn(|| {
            for n in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let own = heard.clone();
                let listening = cache.listen(move |_| _ = own.fetch_add(1, Ordering::Relaxed));
                let _ = cache.update_now(UpdateType::Incremental);
                if n % 20 == 19 {
                    cache.clear();
                }
                drop(listening);
            }
        });
        let writes = if is_long() { 5000 } else { 60 };
        wait_for("much to happen", || {
            let stats = cache.stats();
            stats.writes > writes && stats.bumps > 5 && reads.load(Ordering::Relaxed) > 1000
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(heard.load(Ordering::Relaxed) > 0);
    drop(cache);
    let folder = tipple_snapshot::SnapshotFolder::new(
        place.root(),
        "stress",
        snapshots,
        tipple_snapshot::Keys::none(),
    );
    let found = folder.unwrap().load::<Vec<u64>>();
    assert!(found.failures.is_empty(), "{:?}", found.failures);
    assert_eq!(found.loaded.unwrap().value.len(), 2000);
}
