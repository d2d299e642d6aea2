//! What the recorder of a process is told: exact counts for each outcome.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tipple_snapshot::{Cache, CacheOptions, FirstUpdateMode, SnapshotOptions, UpdateType};

use crate::support::{Answer, HOUR, Place, Source, words};

type Values = Arc<Mutex<BTreeMap<String, f64>>>;

struct Told {
    values: Values,
}

struct One {
    name: String,
    values: Values,
}

impl One {
    fn set(&self, change: impl FnOnce(&mut f64)) {
        change(
            self.values
                .lock()
                .unwrap()
                .entry(self.name.clone())
                .or_default(),
        );
    }
}

impl CounterFn for One {
    fn increment(&self, by: u64) {
        self.set(|value| *value += by as f64);
    }
    fn absolute(&self, to: u64) {
        self.set(|value| *value = to as f64);
    }
}

impl GaugeFn for One {
    fn increment(&self, by: f64) {
        self.set(|value| *value += by);
    }
    fn decrement(&self, by: f64) {
        self.set(|value| *value -= by);
    }
    fn set(&self, to: f64) {
        self.set(|value| *value = to);
    }
}

impl HistogramFn for One {
    fn record(&self, _: f64) {
        self.set(|value| *value += 1.0);
    }
}

impl Told {
    fn one(&self, key: &Key) -> Arc<One> {
        let labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        Arc::new(One {
            name: format!("{} {}", key.name(), labels.join(" ")),
            values: self.values.clone(),
        })
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one(key))
    }
}

/// What this process's recorder was told.
fn told() -> Values {
    static VALUES: OnceLock<Values> = OnceLock::new();
    VALUES
        .get_or_init(|| {
            let values = Values::default();
            ::metrics::set_global_recorder(Told {
                values: values.clone(),
            })
            .ok()
            .unwrap();
            values
        })
        .clone()
}

#[test]
fn every_outcome_is_counted() {
    let values = told();
    let place = Place::new();
    // A name of its own: other tests tell the same recorder.
    let start = |source: &Source| {
        let snapshots = SnapshotOptions {
            first_update_mode: FirstUpdateMode::BestEffort,
            min_interval: HOUR,
            ..SnapshotOptions::warm(24 * HOUR)
        };
        Cache::builder("counted", source.clone())
            .options(CacheOptions::every(HOUR))
            .snapshots(place.root(), snapshots)
            .start()
            .unwrap()
    };
    let source = Source::always(Answer::New(words(&["one", "two"])));
    let cache = start(&source);
    cache.write_snapshot_now().unwrap();
    let written = cache.stats();
    source.now(Answer::Same);
    cache.update_now(UpdateType::Full).unwrap();
    assert_eq!(
        cache.shutdown(HOUR).unwrap(),
        tipple_snapshot::WriteOutcome::Bumped
    );
    drop(cache);
    // A damaged file beside the good one.
    let dir = place.root().join("counted");
    let damaged = tipple_snapshot::SnapshotName::new(
        std::time::SystemTime::now() + Duration::from_secs(60),
        0,
    );
    fs::write(dir.join(damaged.to_string()), "x").unwrap();
    source.now(Answer::Fail);
    let cache = start(&source);
    source.now(Answer::New(words(&[])));
    cache.update_now(UpdateType::Full).unwrap();
    cache.shutdown(HOUR).unwrap();
    drop(cache);

    let values = values.lock().unwrap();
    let exact: Vec<String> = values
        .iter()
        .filter(|(name, _)| name.contains("cache_name=counted") && !name.contains("up_to_date"))
        .filter(|(name, _)| {
            !name.starts_with("cache_dump_load_seconds") && !name.contains("timestamp")
        })
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let bytes = written.last_write_bytes.unwrap();
    assert_eq!(
        exact,
        [
            "cache_current_documents cache_name=counted: 0".to_owned(),
            format!("cache_dump_size_bytes cache_name=counted: {bytes}"),
            "cache_dump_loads_total cache_name=counted outcome=loaded: 1".to_owned(),
            "cache_dump_loads_total cache_name=counted outcome=truncated: 1".to_owned(),
            "cache_dump_write_seconds cache_name=counted: 1".to_owned(),
            "cache_dump_writes_total cache_name=counted outcome=bumped: 1".to_owned(),
            "cache_dump_writes_total cache_name=counted outcome=empty_value: 1".to_owned(),
            "cache_dump_writes_total cache_name=counted outcome=written: 1".to_owned(),
            "cache_update_attempts_total cache_name=counted type=full: 4".to_owned(),
            "cache_update_failures_total cache_name=counted type=full: 1".to_owned(),
            "cache_update_no_changes_total cache_name=counted type=full: 1".to_owned(),
            "cache_update_seconds cache_name=counted type=full: 3".to_owned(),
        ]
        .iter()
        .cloned()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    let newest = values["cache_dump_newest_timestamp_seconds cache_name=counted"];
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!((now - 3600.0..=now).contains(&newest), "{newest}");
}
