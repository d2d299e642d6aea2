//! Flight recorders, and memory: what holds when nothing is written.

use std::time::Duration;

use tempfile::TempDir;
use tipple_recorder::{OnFull, Recorder, RecorderOptions, Why};

use crate::support::{LONG, audit, lines, options, order, records};

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
        for _ in 0..100 {
            stream.sent(&order(2));
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
    let mut options = options(folder.path());
    // A pipe that nobody reads: the first write never ends.
    options.naming = tipple_recorder::Naming::Fixed;
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
