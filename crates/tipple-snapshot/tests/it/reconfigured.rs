//! Intervals that change while the service runs.

use std::time::Duration;

use tipple_snapshot::UpdateType::{Full, Incremental};
use tipple_snapshot::{Cache, CacheOptions, ErrorKind, Reconfiguration, UpdateTypes};
use tipple_testkit::wait_for;

use crate::support::{Answer, HOUR, Source, Words, words};

const SOON: Duration = Duration::from_millis(1);

fn start(options: CacheOptions) -> (Source, Cache<Words>) {
    let source = Source::always(Answer::New(words(&["one"])));
    let cache = source.cache().options(options).start().unwrap();
    (source, cache)
}

#[test]
fn an_interval_is_changed_and_changed_back() {
    let (source, cache) = start(CacheOptions::every(HOUR));
    assert_eq!(source.kinds(), [Full]);
    cache
        .reconfigure(Reconfiguration {
            update_interval: Some(SOON),
            ..Reconfiguration::default()
        })
        .unwrap();
    wait_for("updates", || source.kinds().len() > 5);
    // As the options say. Whoever waits for an update knows that nothing else is under way.
    cache.reconfigure(Reconfiguration::default()).unwrap();
    cache.update_now(Full).unwrap();
    let asked = source.kinds().len();
    cache.update_now(Full).unwrap();
    assert_eq!(source.kinds().len(), asked + 1);
}

#[test]
fn updates_are_switched_on_and_fail_faster() {
    let (source, cache) = start(CacheOptions {
        updates_enabled: false,
        ..CacheOptions::every(SOON)
    });
    cache.update_now(Full).unwrap();
    assert_eq!(source.kinds(), [Full, Full]);
    source.now(Answer::Fail);
    let change = Reconfiguration {
        updates_enabled: Some(true),
        exception_interval: Some(SOON),
        alert_on_failing_to_update_times: Some(3),
        ..Reconfiguration::default()
    };
    cache.reconfigure(change).unwrap();
    wait_for("an alert", || cache.stats().is_alert);
    source.now(Answer::Same);
    wait_for("its end", || !cache.stats().is_alert);
}

#[test]
fn a_full_update_comes_sooner() {
    let (source, cache) = start(CacheOptions {
        full_update_interval: Some(HOUR),
        ..CacheOptions::every(SOON)
    });
    wait_for("updates", || source.kinds().len() > 5);
    assert_eq!(source.kinds()[1..5], [Incremental; 4]);
    let change = Reconfiguration {
        full_update_interval: Some(SOON),
        ..Reconfiguration::default()
    };
    cache.reconfigure(change).unwrap();
    wait_for("full updates", || {
        source.kinds()[1..]
            .iter()
            .filter(|kind| **kind == Full)
            .count()
            > 2
    });
}

#[test]
fn what_a_start_would_refuse_changes_nothing() {
    let options = CacheOptions {
        update_types: Some(UpdateTypes::OnlyFull),
        ..CacheOptions::every(HOUR)
    };
    let (source, cache) = start(options);
    let none = Reconfiguration::default();
    for (change, reason) in [
        (
            Reconfiguration {
                update_interval: Some(Duration::ZERO),
                ..none
            },
            "update_interval must be positive",
        ),
        (
            Reconfiguration {
                update_interval: Some(SOON),
                full_update_interval: Some(HOUR),
                ..none
            },
            "full_update_interval is given, but update_types is not FullAndIncremental",
        ),
        (
            Reconfiguration {
                update_interval: Some(SOON),
                dumps_enabled: Some(false),
                ..none
            },
            "the cache `words` has no snapshots",
        ),
    ] {
        let error = cache.reconfigure(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(reason), "{error}");
    }
    cache.update_now(Full).unwrap();
    assert_eq!(source.kinds(), [Full, Full]);
}
