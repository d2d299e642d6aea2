//! A disk that fails at any call: what is there is whole lines, and everything else is told.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tipple_recorder::{FolderShelf, OnFull, Recorder, Sync, gaps};
use tipple_testkit::cases;

use crate::support::{LONG, audit, files, lines, options, order, shim};

const CHILD: &str = "TIPPLE_RECORDER_TEST_FAULTS";

/// Not a test of its own: the program under which the disk fails.
#[test]
fn faulty_child() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let folder = Path::new(&folder);
    let mut options = options(folder);
    options.rotate_bytes = 64 << 10;
    options.write_interval = Duration::from_millis(1);
    options.on_full = OnFull::Block(LONG);
    options.sync = match folder.ends_with("zstd") {
        true => Sync::Every(Duration::from_millis(1)),
        false => Sync::Always,
    };
    if folder.ends_with("zstd") {
        options.codec = "zstd:1".parse().unwrap();
    }
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..10_000 {
        stream.sent(&order(id));
        if id % 100 == 0 {
            // Whatever the disk says, the program goes on; this one waits, so that something is written each time.
            while recorder.flush(LONG).is_err() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    let report = recorder.shutdown(LONG);
    assert_eq!(report.attempted, 10_000);
    audit(&lines(folder), &report);
}

#[test]
fn every_call_may_fail_and_what_is_lost_is_told() {
    let place = TempDir::new().unwrap();
    let shim = shim(place.path(), "faults.c");
    let log = place.path().join("log");
    fs::write(&log, "").unwrap();
    // Side by side, since each error is followed by a second of rest.
    let mut running = Vec::new();
    // Each kind of error by itself, and then all of them.
    let kinds = [
        "open",
        "write EIO",
        "write ENOSPC",
        "write EIO,ftruncate",
        "fdatasync",
        "rename",
        "open,write EIO,write ENOSPC,ftruncate,fdatasync,rename",
    ];
    for seed in 0..cases(2 * kinds.len() as u32) {
        let folder = place
            .path()
            .join(seed.to_string())
            .join(["plain", "zstd"][seed as usize % 2]);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::faulty_child", "--nocapture"])
            .env(CHILD, &folder)
            .env("LD_PRELOAD", &shim)
            .env(
                "FAULTS",
                format!("{},3,{}|", seed + 1, kinds[seed as usize / 2 % kinds.len()]),
            )
            .env("FAULTS_LOG", &log)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        running.push((folder, child));
        if running.len() == 14 {
            running.drain(..).for_each(ended_well);
        }
    }
    running.into_iter().for_each(ended_well);
    let told = fs::read_to_string(&log).unwrap();
    let kinds: BTreeSet<&str> = told.lines().collect();
    let all = [
        "EINTR",
        "fdatasync",
        "ftruncate",
        "open",
        "rename",
        "short",
        "write EIO",
        "write ENOSPC",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
}

fn ended_well((folder, child): (PathBuf, std::process::Child)) {
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}{}",
        folder.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // What a failed sync left under its other name, the next start gives its own.
    let recorder = Recorder::start(options(&folder)).unwrap();
    recorder.stream("orders").sent(&order(1));
    recorder.shutdown(LONG);
    assert!(files(&folder, ".open").is_empty());
    let shelf = FolderShelf::open(&[folder]).unwrap();
    let report = gaps(&shelf).unwrap();
    assert!(report.is_whole(), "{report:?}");
}
