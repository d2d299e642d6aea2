//! On tokio: an updater that waits for timers, on a runtime of one thread that must never be blocked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tipple_snapshot::{
    BoxError, Cache, CacheOptions, ErrorKind, SnapshotOptions, Update, UpdateRequest, UpdateType,
    WriteOutcome,
};

use crate::support::{HOUR, Place, Words, words};

async fn slow(answer: Words) -> Result<Update<Words>, BoxError> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(Update::New(answer))
}

#[tokio::test(flavor = "current_thread")]
async fn an_asynchronous_updater_on_a_runtime_of_one_thread() {
    let place = Place::new();
    // Counts while the cache works, since nothing blocks the runtime's only thread.
    let (ticks, done) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let ticking = tokio::spawn({
        let (ticks, done) = (ticks.clone(), done.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                ticks.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut round = 0;
    let cache = Cache::builder_async("words", move |_: UpdateRequest<Words>| {
        round += 1;
        slow(vec!["word".to_owned(); round * 20_000])
    })
    .options(CacheOptions::every(HOUR))
    .snapshots(place.root(), SnapshotOptions::warm(HOUR))
    .start_async()
    .await
    .unwrap();
    assert_eq!(cache.get().unwrap().len(), 20_000);
    let before = ticks.load(Ordering::Relaxed);
    assert!(
        before > 0,
        "the runtime stood still while the cache started"
    );
    cache.update_now_async(UpdateType::Full).await.unwrap();
    assert_eq!(cache.get().unwrap().len(), 40_000);
    assert!(ticks.load(Ordering::Relaxed) > before);
    assert!(cache.write_snapshot_now_async().await.is_ok());
    assert_eq!(
        cache.shutdown_async(HOUR).await.unwrap(),
        cache.shutdown_async(HOUR).await.unwrap()
    );
    done.store(true, Ordering::Relaxed);
    ticking.await.unwrap();
    drop(cache);
    let again = Cache::builder_async("words", |_: UpdateRequest<Words>| slow(words(&["new"])))
        .options(CacheOptions::every(HOUR))
        .snapshots(place.root(), SnapshotOptions::warm(HOUR))
        .start_async()
        .await
        .unwrap();
    assert_eq!(again.get().unwrap().len(), 40_000);
    assert_eq!(
        again.shutdown_async(HOUR).await.unwrap(),
        WriteOutcome::UpToDate
    );
}

/// Dropped on the runtime's only thread, while an update waits for that very runtime.
#[tokio::test(flavor = "current_thread")]
async fn an_update_that_never_ends_does_not_keep_a_cache_from_ending() {
    let mut is_first = true;
    let cache = Cache::builder_async("words", move |_: UpdateRequest<Words>| {
        let waits = !std::mem::take(&mut is_first);
        async move {
            if waits {
                tokio::time::sleep(HOUR).await;
            }
            Ok(Update::New(words(&["one"])))
        }
    })
    .options(CacheOptions::every(HOUR))
    .start_async()
    .await
    .unwrap();
    let waiting = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.update_now_async(UpdateType::Full).await })
    };
    while cache.stats().full.attempts < 2 {
        tokio::task::yield_now().await;
    }
    cache.shutdown_async(HOUR).await.unwrap();
    let told = waiting.await.unwrap().unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Update, "{told}");
    drop(cache);
}

/// Nobody waits for a start any more: its threads end all the same.
#[tokio::test(flavor = "current_thread")]
async fn a_start_that_is_given_up() {
    let ended = Arc::new(AtomicBool::new(false));
    struct Ends(Arc<AtomicBool>);
    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ends = Ends(ended.clone());
    let starting = Cache::builder_async("words", move |_: UpdateRequest<Words>| {
        let _ = &ends;
        slow(words(&["one"]))
    })
    .start_async();
    drop(tokio::time::timeout(Duration::ZERO, starting).await);
    while !ended.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
