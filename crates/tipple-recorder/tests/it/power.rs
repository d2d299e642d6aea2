//! The power fails: what was synced is there, what was not is gone, and the recording knows.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tipple_recorder::{Filter, FolderShelf, GoOn, OnFull, Recorder, Sync, gaps, search};
use tipple_testkit::cases;

use crate::support::{LONG, files, lines, options, order, records, shim, text};

const CHILD: &str = "TIPPLE_RECORDER_TEST_POWER";

/// Not a test of its own: what loses its power.
#[test]
#[expect(clippy::print_stdout, reason = "how the child tells its parent")]
fn powered_child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (sync, codec) = what.split_once(' ').unwrap();
    let folder = std::env::var("POWER_OF").unwrap();
    let mut options = options(folder.as_ref());
    options.rotate_bytes = 64 << 10;
    options.write_interval = Duration::from_millis(1);
    options.on_full = OnFull::Block(LONG);
    options.codec = codec.parse().unwrap();
    options.sync = match sync {
        "always" => Sync::Always,
        "every" => Sync::Every(Duration::from_millis(1)),
        _ => Sync::Never,
    };
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0.. {
        stream.sent(&order(id));
        if id % 50 == 0 {
            let report = recorder.flush(LONG).unwrap();
            println!("flushed {}", report.written);
        }
    }
}

/// Makes the folder what it is when the power is back.
fn restore(power: &Path, folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
    // Nothing was synced: then there is nothing.
    let names = fs::read_to_string(power.join("names")).unwrap_or_default();
    for line in names.lines() {
        let (inode, name) = line.split_once(' ').unwrap();
        let bytes = fs::read(power.join(inode)).unwrap_or_default();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn what_was_synced_is_there_when_the_power_is_back() {
    let place = TempDir::new().unwrap();
    let shim = shim(place.path(), "power.c");
    for round in 0..cases(6) {
        let sync = ["always", "every", "never"][round as usize % 3];
        let codec = ["none", "zstd:1"][round as usize / 3 % 2];
        let [folder, power] =
            ["recording", "power"].map(|name| place.path().join(format!("{round}.{name}")));
        fs::create_dir(&power).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "power::powered_child", "--nocapture"])
            .env(CHILD, format!("{sync} {codec}"))
            .env("POWER_OF", &folder)
            .env("POWER", &power)
            .env("LD_PRELOAD", &shim)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut flushed = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some((_, written)) = line.unwrap().split_once("flushed ") {
                flushed = written.parse().unwrap();
                // Another moment each time, in the midst of what comes next; the first one is in the first file.
                if flushed > [10, 1300, 1500][(round / 2) as usize % 3] + 13 * u64::from(round) {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let closed_before = files(&folder, "")
            .iter()
            .filter(|path| is_closed(path))
            .count();
        assert!(power.join("folder").exists(), "the folder itself is gone");
        restore(&power, &folder);

        // What has the name of a whole file is one; that of the last rename may not have been synced.
        let closed: Vec<_> = files(&folder, "")
            .into_iter()
            .filter(|path| is_closed(path))
            .collect();
        if sync != "never" {
            assert!(
                closed.len() + 1 >= closed_before,
                "{closed:?} of {closed_before}"
            );
            for path in &closed {
                let text = text(path);
                assert!(
                    text.ends_with("}\n") && text.contains(r#""mk":"Close""#),
                    "{path:?}"
                );
            }
        }
        // The index was not synced, and nothing is missing for that.
        let there = records(&lines_of_whole(&folder)).len() as u64;
        // Of a recording of which not even a name is there, nothing can be said.
        if let Ok(shelf) = FolderShelf::open(std::slice::from_ref(&folder)) {
            let report = gaps(&shelf).unwrap();
            assert!(there == 0 || !report.is_whole(), "{report:?}");
        }
        // The next start cuts what is torn, and records on.
        let recorder = Recorder::start(options(&folder)).unwrap();
        recorder.stream("orders").sent(&order(1));
        recorder.shutdown(LONG);
        assert!(files(&folder, ".open").is_empty());
        let lines = lines(&folder);
        let there = records(&lines).len() as u64 - 1;
        if sync == "always" {
            assert!(there >= flushed, "{there} of {flushed}");
        }
        let mut found = 0;
        let shelf = FolderShelf::open(&[folder]).unwrap();
        search(&shelf, &Filter::default(), |_, _| {
            found += 1;
            Ok(GoOn::Continue(()))
        })
        .unwrap();
        assert_eq!(found, there + 1);
        let report = gaps(&shelf).unwrap();
        assert_eq!(report.damaged_lines, 0);
        // Those of a run that are there are its first ones.
        assert!(report.runs.values().all(|run| {
            let groups = run.groups.values();
            groups.map(|group| group.unexplained).sum::<u64>() == 0
        }));
    }
}

fn is_closed(path: &Path) -> bool {
    let name = path.to_str().unwrap();
    name.ends_with(".ndjson") || name.ends_with(".zst")
}

/// The lines of files that are whole.
fn lines_of_whole(folder: &Path) -> Vec<serde_json::Value> {
    let closed = files(folder, "").into_iter().filter(|path| is_closed(path));
    closed
        .flat_map(|path| {
            text(&path)
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect::<Vec<_>>()
        })
        .collect()
}
