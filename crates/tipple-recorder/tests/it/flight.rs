//! Flight recorders, and memory: what holds when nothing is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tipple_recorder::{OnFull, Recorder, RecorderOptions, Why};

use crate::support::{LONG, audit, fixed, lines, options, order, records};

#[test]
fn a_snapshot_has_the_last_records_and_memory_is_bounded() {
    let folder = TempDir::new().unwrap();
    let mut options = RecorderOptions::flight(4 << 20);
    options.snapshot_folder = folder.path().to_owned();
    options.config.rate = Some(tipple_recorder::RecordRate::UNLIMITED);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..200_000 {
        stream.sent(&order(id));
    }
    for _ in 0..2 {
        // What was written stays in memory, too.
        let path = recorder
            .snapshot(Duration::from_secs(3600), Duration::ZERO)
            .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["s"].as_u64()
            })
            .collect();
        assert!(numbers.len() > 5000, "{}", numbers.len());
        assert_eq!(numbers.last(), Some(&200_000));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
    let report = recorder.shutdown(LONG);
    assert_eq!(report.attempted, 200_000);
    assert_eq!(report.lost_total(), 0);
    assert_eq!(report.waiting + report.overwritten, 200_000);
    assert!(report.buffer_bytes_max <= 4 << 20);
}

#[test]
fn a_snapshot_waits_for_what_comes_after_and_leaves_out_what_is_too_old() {
    let folder = TempDir::new().unwrap();
    let mut options = RecorderOptions::flight(4 << 20);
    options.snapshot_folder = folder.path().to_owned();
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    stream.sent(&order(1));
    let path = std::thread::scope(|scope| {
        let waiting = scope
            .spawn(|| recorder.snapshot(Duration::from_secs(3600), Duration::from_millis(500)));
        // Some of them, while it waits; not so many that the first one is forgotten.
        while !waiting.is_finished() {
            stream.sent(&order(2));
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting.join().unwrap().unwrap()
    });
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("\"order_id\":1,") && text.contains("\"order_id\":2,"));
    let path = recorder.snapshot(Duration::ZERO, Duration::ZERO).unwrap();
    assert!(!std::fs::read_to_string(path).unwrap().contains("order_id"));
    assert!(
        Recorder::start(crate::support::options(folder.path()))
            .unwrap()
            .snapshot(Duration::ZERO, Duration::ZERO)
            .is_err()
    );
}

/// A recorder whose disk takes nothing.
fn blocked(on_full: OnFull) -> (TempDir, Recorder) {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("default.ndjson");
    let made = std::process::Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap();
    assert!(made.success());
    // A pipe that nobody reads: the first write never ends.
    let mut options = fixed(folder.path());
    options.memory_bytes = 4 << 20;
    options.on_full = on_full;
    (folder, Recorder::start(options).unwrap())
}

#[test]
fn a_blocked_disk_costs_the_newest_or_the_oldest_and_never_more_memory() {
    for on_full in [OnFull::DropNewest, OnFull::DropOldest] {
        let (folder, recorder) = blocked(on_full);
        let stream = recorder.stream("orders");
        let before = tipple_testkit::memory_max(std::process::id());
        for id in 0..1_000_000 {
            stream.sent(&order(id));
        }
        let grown = tipple_testkit::memory_max(std::process::id()).saturating_sub(before);
        assert!(grown < 20 << 20, "{grown}");
        // Somebody reads the pipe at last: everything is written, or told.
        let fifo = folder.path().join("default.ndjson");
        let reading = std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap());
        let report = recorder.shutdown(LONG);
        let text = reading.join().unwrap();
        assert!(report.lost_for(Why::Memory) > 0);
        assert!(report.buffer_bytes_max <= 4 << 20);
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        audit(&lines, &report);
        let records = records(&lines);
        let last = records.last().unwrap()["s"].as_u64().unwrap();
        match on_full {
            OnFull::DropOldest => assert_eq!(last, report.attempted),
            _ => assert!(last < report.attempted),
        }
    }
}

#[test]
fn a_shutdown_does_not_wait_for_ever_for_a_disk_that_takes_nothing() {
    let (folder, recorder) = blocked(OnFull::DropNewest);
    let stream = recorder.stream("orders");
    for id in 0..10_000 {
        stream.sent(&order(id));
    }
    let report = recorder.shutdown(Duration::from_millis(10));
    // Whatever becomes of them now, nobody may say that they are there.
    assert_eq!((report.attempted, report.written), (10_000, 0));
    assert_eq!(report.waiting + report.lost_total(), 10_000);
    let error = report.last_error.unwrap();
    assert!(error.contains("has not ended a write"), "{error}");
    // It is given a reader, so that its thread ends.
    let fifo = folder.path().join("default.ndjson");
    assert!(std::fs::read_to_string(fifo).unwrap().ends_with('\n'));
}

#[test]
fn a_thread_that_waits_for_memory_loses_nothing_until_its_time_is_over() {
    // A disk that is slow: all of it waits, and nothing is lost.
    let (folder, recorder) = blocked(OnFull::Block(LONG));
    let stream = recorder.stream("orders");
    let fifo = folder.path().join("default.ndjson");
    let sent = AtomicU64::new(0);
    let reading = std::thread::scope(|scope| {
        let recording = scope.spawn(|| {
            for id in 0..200_000 {
                stream.sent(&order(id));
                sent.store(id, Ordering::Relaxed);
            }
        });
        // The first write does not end before somebody reads, and the budget is far less than what is recorded.
        tipple_testkit::wait_for("some records", || sent.load(Ordering::Relaxed) > 5000);
        assert!(!recording.is_finished());
        std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap())
    });
    let report = recorder.shutdown(LONG);
    let text = reading.join().unwrap();
    assert_eq!((report.written, report.lost_total()), (200_000, 0));
    assert!(report.buffer_bytes_max <= 4 << 20);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    audit(&lines, &report);

    // One that takes nothing at all: each record waits for its time, then it is lost.
    let (folder, recorder) = blocked(OnFull::Block(Duration::from_millis(1)));
    let stream = recorder.stream("orders");
    let mut waits = 0;
    for id in 0.. {
        let before = Instant::now();
        stream.sent(&order(id));
        waits += u32::from(before.elapsed() >= Duration::from_millis(1));
        if waits == 50 {
            break;
        }
    }
    let fifo = folder.path().join("default.ndjson");
    let reading = std::thread::spawn(move || std::fs::read_to_string(fifo).unwrap());
    let report = recorder.shutdown(LONG);
    assert!(report.lost_for(Why::Memory) > 0);
    let text = reading.join().unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    audit(&lines, &report);
}

const CHILD: &str = "TIPPLE_RECORDER_TEST_PANIC";

/// A message that cannot even be looked at.
struct Explosive;

impl serde::Serialize for Explosive {
    fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        panic!("within a record")
    }
}

/// Not a test of its own: a program whose threads panic.
#[test]
fn panicking_child() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let mut options = RecorderOptions::flight(4 << 20);
    options.snapshot_folder = folder.clone().into();
    let recorder = std::sync::Arc::new(Recorder::start(options).unwrap());
    let told = std::path::Path::new(&folder).join("told");
    recorder.snapshot_on_panic(Duration::from_secs(3600), move |path| {
        let path = path.unwrap();
        let mut all = std::fs::read_to_string(&told).unwrap_or_default();
        all += &format!("{}\n", path.display());
        std::fs::write(&told, all).unwrap();
    });
    let stream = recorder.stream("orders");
    (0..100).for_each(|id| stream.sent(&order(id)));
    let in_thread = stream.clone();
    let panicked = std::thread::spawn(move || {
        in_thread.sent(&order(100));
        panic!("what this thread is for")
    });
    assert!(panicked.join().is_err());
    // In the midst of a record, with the recorder's own state in use.
    let in_thread = stream.clone();
    assert!(
        std::thread::spawn(move || in_thread.sent(&Explosive))
            .join()
            .is_err()
    );
    stream.sent(&order(101));
    let report = recorder.shutdown(LONG);
    assert_eq!((report.attempted, report.lost_for(Why::Error)), (103, 1));
}

#[test]
fn a_panic_leaves_a_snapshot() {
    let folder = TempDir::new().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "flight::panicking_child", "--nocapture"])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // What was to happen at a panic before, happens still.
    assert!(said.contains("what this thread is for"), "{said}");
    let told = std::fs::read_to_string(folder.path().join("told")).unwrap();
    let paths: Vec<&str> = told.lines().collect();
    assert_eq!(paths.len(), 2);
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.matches("\"order_id\":").count(), 101);
        assert!(text.contains("\"order_id\":100,") && text.ends_with("\"why\":\"snapshot\"}\n"));
    }
}

#[test]
fn options_that_cannot_be_are_refused_with_what_would_do() {
    let folder = TempDir::new().unwrap();
    let refused = |change: &dyn Fn(&mut RecorderOptions)| {
        let mut options = options(folder.path());
        change(&mut options);
        Recorder::start(options).unwrap_err().to_string()
    };
    let least = options(folder.path()).memory_bytes_min();
    assert_eq!(
        refused(&|options| options.memory_bytes = 1000),
        format!("memory of 1000 bytes is too little: give {least} or more")
    );
    let mut smallest = options(folder.path());
    smallest.memory_bytes = least;
    let recorder = Recorder::start(smallest).unwrap();
    recorder.stream("orders").sent(&order(1));
    assert_eq!(recorder.shutdown(LONG).written, 1);
    audit(&lines(folder.path()), &recorder_report_of_one());
    assert!(
        refused(&|options| {
            options.naming = tipple_recorder::Naming::Fixed;
            options.codec = "zstd:1".parse().unwrap();
        })
        .contains("dated names")
    );
    assert!(
        refused(&|options| options.config.sample = Some(7.0)).contains("sample: 7 is no share")
    );
}

fn recorder_report_of_one() -> tipple_recorder::RecordingReport {
    tipple_recorder::RecordingReport {
        attempted: 1,
        written: 1,
        ..Default::default()
    }
}
