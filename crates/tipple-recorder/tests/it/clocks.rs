//! Somebody sets the clock while a program records.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use tipple_recorder::{FolderShelf, OnFull, Recorder, gaps};

use crate::support::{LONG, audit, files, lines, options, order, text};

const CHILD: &str = "TIPPLE_RECORDER_TEST_CLOCKS";

/// What the clock is set to, one after the other, against the true time: in seconds.
const STEPS: [f64; 8] = [0.0, 3600.0, 3599.7, 0.0, -7200.0, -7199.5, 86_400.0, 0.25];

/// Not a test of its own: a program whose clock is set.
#[test]
fn stepped_child() {
    let Ok(place) = std::env::var(CHILD) else {
        return;
    };
    let place = Path::new(&place);
    let mut options = options(&place.join("recording"));
    options.on_full = OnFull::Block(LONG);
    options.write_interval = Duration::from_millis(1);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for (at, step) in STEPS.iter().enumerate() {
        let id = at as u64 * 1000;
        let set = |seconds: &str| {
            let staged = place.join("staged");
            fs::write(&staged, seconds).unwrap();
            fs::rename(staged, place.join("clock")).unwrap();
        };
        let (before, true_before) = (SystemTime::now(), Instant::now());
        set(&format!("{step:+}"));
        // That the step is there is seen as the recorder sees it.
        if at > 0 {
            let moved = || {
                let passed = match SystemTime::now().duration_since(before) {
                    Ok(ahead) => ahead.as_secs_f64(),
                    Err(back) => -back.duration().as_secs_f64(),
                };
                passed - true_before.elapsed().as_secs_f64()
            };
            let wanted = step - STEPS[at - 1];
            while (moved() - wanted).abs() > wanted.abs() / 2.0 {}
        }
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let stream = &stream;
                scope.spawn(move || {
                    (0..250).for_each(|n| stream.sent(&order(id + thread * 250 + n)))
                });
            }
        });
        // Some steps come while records are on their way. Not those that make a new file: what is on its way then may
        // come to be sorted into one that is there already.
        let next_is_back = STEPS.get(at + 1).is_some_and(|next| *next < step - 1.0);
        if next_is_back || at % 2 == 0 {
            recorder.flush(LONG).unwrap();
        }
    }
    let report = recorder.shutdown(LONG);
    assert_eq!((report.written, report.late), (8000, 0));
    audit(&lines(&place.join("recording")), &report);
}

#[test]
fn a_clock_that_is_set_leaves_each_file_sorted_and_every_record_there() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("clock"), "+0").unwrap();
    let library = ["/usr/lib", "/usr/lib64"].iter().find_map(|root| {
        let found = Command::new("find")
            .args([root, "-name", "libfaketimeMT.so.1"])
            .output();
        let found = String::from_utf8(found.ok()?.stdout).ok()?;
        found.lines().next().map(str::to_owned)
    });
    let library = library.expect("apt-get install -y faketime");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "clocks::stepped_child", "--nocapture"])
        .env(CHILD, place.path())
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", place.path().join("clock"))
        .env("FAKETIME_NO_CACHE", "1")
        // Only the time of day is ever set.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_RESET", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let folder = place.path().join("recording");
    let mut spans = Vec::new();
    for path in files(&folder, ".ndjson") {
        let times: Vec<u64> = text(&path)
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["ts"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert!(times.is_sorted(), "{path:?}");
        spans.push((times[0], times[times.len() - 1]));
    }
    // Back by more than a second is a new file, by less it is none, and ahead is none.
    assert_eq!(spans.len(), 4, "{spans:?}");
    let hours = |from: u64, to: u64| (to as f64 - from as f64) / 3.6e12;
    spans.sort();
    // From the second hour before to the day after, and the other way round.
    assert!(
        (25.9..26.1).contains(&hours(spans[0].0, spans[0].1)),
        "{spans:?}"
    );
    let shelf = FolderShelf::open(&[folder]).unwrap();
    let report = gaps(&shelf).unwrap();
    assert!(report.is_whole(), "{report:?}");
}
