//! Killed at any moment: what is there is whole lines, and the recording says that it did not end.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tipple_recorder::{FolderShelf, Recorder, gaps};
use tipple_testkit::cases;

use crate::support::{LONG, files, lines, options, order, records};

const CHILD: &str = "TIPPLE_RECORDER_TEST_CHILD";

/// Not a test of its own: what the test below kills.
#[test]
#[expect(clippy::print_stdout, reason = "how the child tells its parent")]
fn child() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let mut options = options(folder.as_ref());
    options.rotate_bytes = 64 << 10;
    options.write_interval = std::time::Duration::from_millis(1);
    if folder.ends_with("zstd") {
        options.codec = "zstd:1".parse().unwrap();
    }
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0.. {
        stream.sent(&order(id));
        if id % 500 == 0 {
            let report = recorder.flush(LONG).unwrap();
            println!("flushed {}", report.written);
        }
    }
}

#[test]
fn a_kill_leaves_whole_lines_and_everything_that_was_flushed() {
    for round in 0..cases(10) {
        let place = TempDir::new().unwrap();
        let folder = place.path().join(["plain", "zstd"][round as usize % 2]);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::child", "--nocapture"])
            .env(CHILD, &folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut flushed = 0;
        for line in out.lines().map_while(Result::ok) {
            if let Some((_, written)) = line.split_once("flushed ") {
                flushed = written.parse().unwrap();
                // Another moment each time, in the midst of what comes next.
                if flushed > 700 * u64::from(round + 1) % 9000 {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let shelf = FolderShelf::open(std::slice::from_ref(&folder)).unwrap();
        let report = gaps(&shelf).unwrap();
        assert!(
            !report.is_whole() && report.runs.values().all(|run| !run.is_clean),
            "{report:?}"
        );
        // The next start cuts what is torn, and records on.
        let recorder = Recorder::start(options(&folder)).unwrap();
        recorder.stream("orders").sent(&order(1));
        recorder.shutdown(LONG);
        assert!(files(&folder, ".open").is_empty());
        let lines = lines(&folder);
        let there = records(&lines).len() as u64;
        assert!(there > flushed, "{there} of {flushed}");
        let shelf = FolderShelf::open(&[folder]).unwrap();
        let report = gaps(&shelf).unwrap();
        assert_eq!(report.runs.len(), 2);
        assert_eq!(report.runs.values().filter(|run| run.is_clean).count(), 1);
        assert!(
            report
                .runs
                .values()
                .all(|run| run.groups["orders"].missing == 0)
        );
    }
}
