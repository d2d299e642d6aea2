//! Files: when they end, what they are called, what happens when the disk says no.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tipple_recorder::{
    Filter, FolderShelf, OnFull, Recorder, RecordingIndex, Why, gaps, index_of, repair_folder,
    stats,
};
use tipple_testkit::{Tmpfs, wait_for};

use crate::support::{LONG, audit, files, fixed, lines, options, order, records, start, text};

#[test]
fn files_rotate_under_load_and_every_record_is_in_one_of_them() {
    for codec in ["none", "zstd:1"] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.codec = codec.parse().unwrap();
        options.rotate_bytes = 64 << 10;
        options.on_full = OnFull::Block(LONG);
        let recorder = Recorder::start(options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let stream = recorder.stream("orders").class(["a", "b/c"][thread]);
                scope.spawn(move || (0..20_000).for_each(|id| stream.sent(&order(id))));
            }
            // By command, too.
            for _ in 0..10 {
                recorder.rotate().unwrap();
            }
        });
        let report = recorder.shutdown(LONG);
        audit(&lines(folder.path()), &report);
        assert_eq!(report.written, 40_000);
        let least = if codec == "none" { 10 } else { 2 };
        let extension = if codec == "none" {
            ".ndjson"
        } else {
            ".ndjson.zst"
        };
        let closed = files(folder.path(), extension);
        assert!(
            closed.len() > least && closed.len() as u64 == report.files,
            "{}",
            closed.len()
        );
        assert!(files(folder.path(), ".open").is_empty());
        for path in &closed {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("a.") || name.starts_with("b_c."), "{name}");
            let stored = fs::read(format!("{}.idx", path.display())).unwrap();
            // What was collected while writing is what is found when reading.
            assert_eq!(
                RecordingIndex::decode(&stored).unwrap(),
                index_of(path).unwrap()
            );
            let times: Vec<u64> = text(path)
                .lines()
                .map(|line| {
                    serde_json::from_str::<serde_json::Value>(line).unwrap()["ts"]
                        .as_u64()
                        .unwrap()
                })
                .collect();
            assert!(times.is_sorted());
        }
        let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
        let gaps = gaps(&shelf).unwrap();
        assert!(gaps.is_whole(), "{gaps:?}");
        assert_eq!(stats(&shelf, &Filter::default()).unwrap().records, 40_000);
    }
}

#[test]
fn a_file_ends_when_its_time_is_over_whether_anything_comes_or_not() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.rotate_every = Some(Duration::from_millis(100));
    options.write_interval = Duration::from_millis(1);
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    let closed = || files(folder.path(), ".ndjson").len();
    stream.sent(&order(0));
    wait_for("a file that ends though nothing comes", || closed() == 1);
    let mut id = 0;
    wait_for("files that end while something comes", || {
        id += 1;
        stream.sent(&order(id));
        closed() > 3
    });
    let report = recorder.shutdown(LONG);
    assert_eq!(report.written, id + 1);
    audit(&lines(folder.path()), &report);
    for path in files(folder.path(), ".ndjson") {
        let text = text(&path);
        assert!(
            text.lines().last().unwrap().contains("\"mk\":\"Close\""),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_was_moved_away_is_left_alone_and_a_new_one_is_begun() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(fixed(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    let path = folder.path().join("default.ndjson");
    for round in 0..5 {
        for id in 0..1000 {
            stream.sent(&order(id));
        }
        recorder.flush(LONG).unwrap();
        // As logrotate does it: move, then tell.
        fs::rename(&path, folder.path().join(format!("default.{round}.ndjson"))).unwrap();
        for id in 0..1000 {
            stream.sent(&order(id));
        }
        recorder.reopen();
        wait_for("a new file", || {
            stream.sent(&order(1));
            path.exists()
        });
    }
    let report = recorder.shutdown(LONG);
    audit(&lines(folder.path()), &report);
    // The next one goes on in the same file, after cutting what was torn.
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, before.clone() + "{\"ts\":1").unwrap();
    let recorder = Recorder::start(fixed(folder.path())).unwrap();
    recorder.stream("orders").sent(&order(1));
    recorder.shutdown(LONG);
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.starts_with(&before) && after[before.len()..].starts_with("{\"ts\":1"));
    after.lines().for_each(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    });
}

#[test]
fn a_file_that_is_copied_and_truncated_goes_on_with_whole_lines() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(fixed(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    let path = folder.path().join("default.ndjson");
    for round in 0..3 {
        for id in 0..500 {
            stream.sent(&order(id));
        }
        recorder.flush(LONG).unwrap();
        // As logrotate does it with `copytruncate`: what comes between the two is lost, and here nothing does.
        fs::copy(&path, folder.path().join(format!("default.{round}.ndjson"))).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
    }
    stream.sent(&order(1));
    let report = recorder.shutdown(LONG);
    assert_eq!(report.written, 1501);
    audit(&lines(folder.path()), &report);
    // No hole where the old lines were.
    assert!(fs::metadata(&path).unwrap().len() < 1000);
}

#[test]
fn a_file_that_somebody_deletes_does_not_swallow_what_comes_after() {
    let folder = TempDir::new().unwrap();
    let recorder = start(folder.path());
    let stream = recorder.stream("orders");
    stream.sent(&order(1));
    recorder.flush(LONG).unwrap();
    fs::remove_file(&files(folder.path(), ".open")[0]).unwrap();
    wait_for("another file", || {
        stream.sent(&order(2));
        !files(folder.path(), ".open").is_empty()
    });
    recorder.shutdown(LONG);
    assert!(!records(&lines(folder.path())).is_empty());
}

#[test]
fn old_files_go_when_there_are_too_many_bytes() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.rotate_bytes = 64 << 10;
    options.retain_bytes = Some(500 << 10);
    options.on_full = OnFull::Block(LONG);
    let recorder = Recorder::start(options).unwrap();
    let stranger = folder.path().join("mine.ndjson");
    fs::write(&stranger, "{\"ts\":1}\n").unwrap();
    let stream = recorder.stream("orders");
    for id in 0..30_000 {
        stream.sent(&order(id));
    }
    let report = recorder.shutdown(LONG);
    assert_eq!(report.written, 30_000);
    let left: u64 = files(folder.path(), "")
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert!(left <= (500 << 10) + 9, "{left}");
    assert!(stranger.exists());
    let lines = lines(folder.path());
    // The newest are there.
    assert!(records(&lines).iter().any(|line| line["s"] == 30_000));
}

#[test]
fn a_full_disk_stops_recording_and_not_the_program() {
    for codec in ["none", "zstd:1"] {
        let disk = Tmpfs::mount(2 << 20);
        let folder = disk.path().join("recording");
        let mut options = options(&folder);
        options.codec = codec.parse().unwrap();
        let recorder = Recorder::start(options).unwrap();
        let stream = recorder.stream("orders");
        // Text that does not compress.
        let mut seed = 1_u64;
        let mut noise = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..40_000 {
            stream.sent(&[noise(), noise(), noise(), noise()]);
        }
        wait_for("the disk is full", || {
            stream.sent(&[noise(), noise(), noise(), noise()]);
            recorder.report().unwrap().lost_for(Why::Disk) > 0
        });
        let error = recorder.flush(LONG).unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        // Somebody makes room.
        let remount = Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(disk.path())
            .status()
            .unwrap();
        assert!(remount.success());
        wait_for("it goes on", || {
            stream.sent(&[1_u64, 2, 3, 4]);
            recorder.flush(LONG).is_ok()
        });
        let report = recorder.shutdown(LONG);
        assert!(report.lost_for(Why::Disk) > 0);
        audit(&lines(&folder), &report);
        let gaps = gaps(&FolderShelf::open(&[folder]).unwrap()).unwrap();
        assert!(gaps.is_whole(), "{gaps:?}");
    }
}

#[test]
fn a_disk_that_stays_full_costs_what_is_told_and_the_end_comes_in_time() {
    let disk = Tmpfs::mount(1 << 20);
    let recorder = Recorder::start(options(disk.path())).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..50_000 {
        stream.sent(&order(id));
    }
    let report = recorder.shutdown(Duration::from_millis(300));
    assert!(report.lost_for(Why::Disk) > 0);
    assert_eq!(report.attempted, report.written + report.lost_total());
    // What is there is whole lines, under the name of what was not closed; the next start closes it.
    let lines_there = records(&lines(disk.path())).len() as u64;
    assert_eq!(lines_there, report.written);
}

#[test]
fn less_free_disk_than_wanted_stops_recording_before_it_is_full() {
    let disk = Tmpfs::mount(8 << 20);
    let mut options = options(disk.path());
    options.min_free_bytes = 4 << 20;
    options.rotate_bytes = 1 << 20;
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    // A stranger takes what is left; no file of the recorder's own makes enough room.
    fs::write(disk.path().join("stranger"), vec![1; 5 << 20]).unwrap();
    wait_for("it stops", || {
        (0..100).for_each(|id| stream.sent(&order(id)));
        recorder.report().unwrap().lost_for(Why::Disk) > 0
    });
    fs::remove_file(disk.path().join("stranger")).unwrap();
    wait_for("it goes on", || {
        stream.sent(&order(1));
        recorder.flush(LONG).is_ok()
    });
    let report = recorder.shutdown(LONG);
    assert!(
        report
            .last_error
            .unwrap()
            .contains("bytes of disk are free, and 4194304 are to be")
    );
}

#[test]
fn what_is_torn_is_cut_and_closed_wherever_it_is_torn() {
    for codec in ["none", "zstd:1"] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.codec = codec.parse().unwrap();
        options.write_interval = Duration::from_millis(1);
        let recorder = Recorder::start(options).unwrap();
        let stream = recorder.stream("orders");
        for id in 0..200 {
            stream.sent(&order(id));
            if id % 20 == 0 {
                recorder.flush(LONG).unwrap();
            }
        }
        recorder.flush(LONG).unwrap();
        let open = files(folder.path(), ".open").remove(0);
        let whole = fs::read(&open).unwrap();
        recorder.shutdown(LONG);
        let all = lines(folder.path());
        for cut in (0..whole.len()).step_by(97).chain([whole.len()]) {
            let folder = TempDir::new().unwrap();
            let torn = folder.path().join(open.file_name().unwrap());
            fs::write(&torn, &whole[..cut]).unwrap();
            let (repaired, damaged) = repair_folder(folder.path()).unwrap();
            assert!(damaged.is_empty(), "{damaged:?}");
            let left = lines(folder.path());
            assert_eq!(left, all[..left.len()]);
            assert_eq!(repaired.len(), usize::from(!left.is_empty()));
            assert!(files(folder.path(), ".open").is_empty());
        }
    }
}

#[test]
fn jq_reads_everything() {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.config.rate = Some(tipple_recorder::RecordRate(500));
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..2000 {
        stream.sent(&order(id));
    }
    let report = recorder.shutdown(LONG);
    let output = Command::new("jq")
        .args(["-c", "select(.mk == \"Regular\") | .m.symbol"])
        .arg(&files(folder.path(), ".ndjson")[0])
        .output()
        .unwrap_or_else(|error| panic!("apt-get install -y jq: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let symbols = String::from_utf8(output.stdout).unwrap();
    assert_eq!(symbols.lines().count() as u64, report.written);
    assert!(symbols.lines().all(|symbol| symbol.starts_with("\"SYM")));
}
