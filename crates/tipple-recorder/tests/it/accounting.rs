//! Written and lost is attempted, for every cause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tempfile::TempDir;
use tipple_recorder::{Bytes, OnFull, OnOverflow, RecordRate, Recorder, Why};

use crate::support::{LONG, audit, lines, options, order, records};

#[test]
fn everything_is_written_by_any_number_of_threads_and_sorted() {
    for threads in [1, 2, 8, 64] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.on_full = OnFull::Block(LONG);
        let recorder = Recorder::start(options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let stream = recorder.stream("orders").key(thread);
                scope.spawn(move || {
                    for id in 0..100_000 / threads {
                        stream.sent(&order(id));
                    }
                });
            }
        });
        let report = recorder.shutdown(LONG);
        let lines = lines(folder.path());
        audit(&lines, &report);
        assert_eq!(report.written, 100_000 / threads * threads);
        assert_eq!(report.late, 0);
        let times: Vec<u64> = lines
            .iter()
            .map(|line| line["ts"].as_u64().unwrap())
            .collect();
        assert!(times.is_sorted());
    }
}

#[test]
fn ten_thousand_short_threads_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.memory_bytes = 8 << 20;
    options.on_full = OnFull::Block(LONG);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for batch in 0..1250 {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let stream = &stream;
                scope.spawn(move || stream.sent(&order(batch * 8 + thread)));
            }
        });
    }
    let report = recorder.shutdown(LONG);
    let lines = lines(folder.path());
    audit(&lines, &report);
    assert_eq!(report.written, 10_000);
    assert!(report.buffer_bytes_max <= 8 << 20);
}

#[test]
fn what_a_rate_denies_costs_its_number_and_is_told() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.config.rate = Some(RecordRate(1000));
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for id in 0..50_000 {
                    stream.sent(&order(id));
                }
            });
        }
    });
    let report = recorder.shutdown(LONG);
    assert_eq!(report.attempted, 200_000);
    assert!(report.written >= 1000 && report.written < 200_000);
    assert_eq!(report.lost_for(Why::Rate), 200_000 - report.written);
    let lines = lines(folder.path());
    audit(&lines, &report);
    assert!(
        records(&lines)
            .iter()
            .all(|line| line["s"].as_u64().unwrap() <= 200_000)
    );
}

/// Says no, or panics.
struct Broken {
    panics: bool,
}

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        assert!(!self.panics, "as it should");
        Err(serde::ser::Error::custom("it is broken"))
    }
}

#[test]
fn what_cannot_be_serialized_is_lost_as_an_error_and_harms_nothing() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..300 {
        match id % 3 {
            0 => stream.sent(&order(id)),
            1 => stream.sent(&(order(id), Broken { panics: false })),
            _ => {
                let panic =
                    std::panic::catch_unwind(|| stream.sent(&(order(id), Broken { panics: true })));
                assert!(panic.is_err());
            }
        }
    }
    let report = recorder.shutdown(LONG);
    assert_eq!(report.written, 100);
    assert_eq!(report.lost_for(Why::Error), 200);
    assert_eq!(report.last_error.as_deref(), Some("it is broken"));
    audit(&lines(folder.path()), &report);
}

#[test]
fn what_is_too_long_is_skipped_or_truncated() {
    for on_overflow in [OnOverflow::Skip, OnOverflow::Truncate] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.config.max_size = Some(Bytes(2000));
        options.config.on_overflow = Some(on_overflow);
        let recorder = Recorder::start(options).unwrap();
        let stream = recorder.stream("texts");
        let lengths = [10, 1000, 3000, 100_000, 3_000_000, 30_000_000];
        for len in lengths {
            stream.sent(&vec!["\n\"é".repeat(len / 4)]);
        }
        let report = recorder.shutdown(LONG);
        let lines = lines(folder.path());
        audit(&lines, &report);
        for line in records(&lines) {
            assert!(line.to_string().len() <= 2000);
        }
        match on_overflow {
            OnOverflow::Skip => assert_eq!((report.written, report.lost_for(Why::Size)), (2, 4)),
            OnOverflow::Truncate => {
                assert_eq!((report.written, report.lost_total()), (6, 0));
                let records = records(&lines);
                for line in &records[2..] {
                    let message = line["m"].as_str().unwrap();
                    assert!(
                        message.starts_with("[\"\\n\\\"é") && message.ends_with(" TRUNCATED"),
                        "{message}"
                    );
                    assert!(line.to_string().len() > 1500);
                }
            }
        }
    }
}

#[test]
fn traces_are_sampled_as_a_whole() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.config.sample = Some(0.5);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..10_000 {
        stream.clone().trace(1 + id % 100).sent(&order(id));
    }
    let report = recorder.shutdown(LONG);
    let lines = lines(folder.path());
    audit(&lines, &report);
    let mut traces = std::collections::BTreeMap::new();
    for line in records(&lines) {
        *traces.entry(line["t"].as_u64().unwrap()).or_insert(0) += 1;
    }
    assert!((30..70).contains(&traces.len()), "{}", traces.len());
    assert!(traces.values().all(|&count| count == 100));
}

#[test]
fn a_flush_has_written_what_was_before_it() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    // Only the flush makes it write in this test's time.
    options.write_interval = Duration::from_secs(3600);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for round in 1..=20 {
        for id in 0..50 {
            stream.sent(&order(id));
        }
        let report = recorder.flush(LONG).unwrap();
        assert_eq!(
            (report.attempted, report.written, report.waiting),
            (50 * round, 50 * round, 0)
        );
        let count = records(&lines(folder.path())).len() as u64;
        assert_eq!(count, 50 * round);
    }
    recorder.shutdown(LONG);
}

#[test]
fn a_shutdown_under_load_loses_nothing_that_it_does_not_tell() {
    for _ in 0..tipple_testkit::cases(5) {
        let folder = TempDir::new().unwrap();
        let recorder = Recorder::start(options(folder.path())).unwrap();
        let stream = recorder.stream("orders");
        let done = AtomicBool::new(false);
        let report = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        stream.sent(&order(1));
                    }
                });
            }
            while recorder.report().unwrap().attempted < 5000 {}
            let report = recorder.shutdown(LONG);
            done.store(true, Ordering::Relaxed);
            report
        });
        audit(&lines(folder.path()), &report);
    }
}

#[test]
fn a_shutdown_that_has_no_time_tells_what_it_left() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    // More than is written at a time is in memory: all of it.
    while recorder.report().unwrap().lost_for(Why::Memory) == 0 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200_000).for_each(|_| stream.sent(&order(1))));
            }
        });
    }
    let report = recorder.shutdown(Duration::ZERO);
    assert!(report.lost_for(Why::Shutdown) > 0, "{report:?}");
    audit(&lines(folder.path()), &report);
}

#[test]
fn a_record_within_a_record_and_one_at_the_end_of_a_thread_are_recorded() {
    struct Nested<'a>(&'a tipple_recorder::Stream);
    impl Serialize for Nested<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.sent(&order(1));
            serializer.serialize_u8(7)
        }
    }
    struct AtEnd(Option<tipple_recorder::Stream>);
    impl Drop for AtEnd {
        fn drop(&mut self) {
            if let Some(stream) = &self.0 {
                stream.sent(&order(2));
            }
        }
    }
    thread_local! {
        static AT_END: std::cell::RefCell<AtEnd> = const { std::cell::RefCell::new(AtEnd(None)) };
    }
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    let inner = stream.clone();
    std::thread::spawn(move || {
        AT_END.with(|at_end| at_end.borrow_mut().0 = Some(inner.clone()));
        inner.sent(&Nested(&inner));
    })
    .join()
    .unwrap();
    // A thread's own storage goes after it was joined, or before.
    tipple_testkit::wait_for("three records", || {
        recorder.flush(LONG).unwrap().written == 3
    });
    let report = recorder.shutdown(LONG);
    audit(&lines(folder.path()), &report);
}
