//! Round trips of lines.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use insta::assert_snapshot;

use crate::support::{Place, some_lines};

#[test]
fn a_file_goes_out_and_comes_back() {
    let place = Place::new();
    let input = some_lines(3 << 20);
    place.write("in.txt", &input);
    let dumped = place
        .run(&["dump", "lines:in.txt", "d", "--part-size", "1MiB", "--json"])
        .ok();
    assert_eq!(dumped.report()["raw_bytes"], input.len());
    assert_eq!(dumped.report()["parts"], 4);
    place.run(&["verify", "d"]).ok();
    place.run(&["verify", "d", "--quick"]).ok();
    place.run(&["load", "d", "lines:out.txt"]).ok();
    assert!(place.read("out.txt") == input);
    place
        .run(&["load", "d", "lines:out.txt", "--overwrite"])
        .ok();
    let loaded = place.command(&["load", "d", "-"]).output().unwrap();
    assert!(loaded.stdout == input);
    let raw = place.command(&["cat", "d", "--raw"]).output().unwrap();
    assert!(raw.stdout == input);
}

#[test]
fn standard_input_and_output() {
    let place = Place::new();
    for input in [&b""[..], b"\n", b"one", b"one\ntwo\n", &some_lines(1 << 20)] {
        let name = format!("d{}", input.len());
        place.pipe(&["dump", "-", &name], input).ok();
        let loaded = place.command(&["load", &name, "-"]).output().unwrap();
        assert!(loaded.stdout == input);
        assert!(loaded.status.success());
    }
}

#[test]
fn copies_need_no_store() {
    let place = Place::new();
    let input = some_lines(1 << 20);
    place.write("in.txt", &input);
    place.run(&["copy", "lines:in.txt", "lines:out.txt"]).ok();
    assert!(place.read("out.txt") == input);
}

#[test]
fn a_part_of_a_dump() {
    let place = Place::new();
    place.write("in.txt", "a\nb\nc\nd\n");
    place
        .run(&["dump", "lines:in.txt", "d", "--part-size", "2"])
        .ok();
    let shown = place.run(&["cat", "d", "--parts", "1..3"]).ok();
    assert_eq!(shown.stdout, "{\"line\":\"b\"}\n{\"line\":\"c\"}\n");
    let shown = place.run(&["cat", "d", "--limit", "1", "--raw"]).ok();
    assert_eq!(shown.stdout, "a\n");
    let loaded = place.run(&["load", "d", "-", "--parts", "3..4", "-q"]).ok();
    assert_eq!((&*loaded.stdout, &*loaded.stderr), ("d\n", ""));
}

#[test]
fn reports_are_good_to_read() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\nthree");
    let at_home = ["--threads", "2", "--compress", "none", "--buffer", "64KiB"];
    let args: Vec<&str> = ["dump", "lines:in.txt", "d"]
        .into_iter()
        .chain(at_home)
        .collect();
    assert_snapshot!("dumped", place.run(&args).ok().stderr);
    assert_snapshot!(
        "verified",
        place.run(&["verify", "d", "--threads", "1"]).ok().stderr
    );
    assert_snapshot!(
        "loaded",
        place.run(&["load", "d", "lines:out.txt"]).ok().stderr
    );
    let listed = place.run(&["list", "d", "--parts"]).ok();
    assert_eq!(listed.stderr, "");
    let names: Vec<&str> = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        names[..9],
        [
            "source", "content", "begun", "finished", "records", "parts", "chunks", "size", "lost"
        ]
    );
    let pruned = place.run(&["prune", "d"]).ok();
    assert_eq!(
        (&*pruned.stdout, &*pruned.stderr),
        ("", "nothing to prune\n")
    );
}

#[test]
fn a_dry_run_leaves_nothing_behind() {
    let place = Place::new();
    place.write("in.txt", some_lines(1 << 20));
    let args = [
        "dump",
        "lines:in.txt",
        "d",
        "--dry-run",
        "--threads",
        "2",
        "--rate",
        "100KiB/s",
    ];
    let ran = place.run(&args).ok();
    assert_snapshot!(ran.stdout, @r"
    parts      1
    records    not known
    raw bytes  1.0 MiB
    time       about 10.2 s at --rate
    memory     39.7 MiB: 2 threads × (2 buffers × 8 MiB + codec 3.6 MiB + reader 256 KiB)
    disk       1.0 MiB at most, if nothing compresses
    ");
    assert!(!place.path("d").exists());
    let dry = place
        .run(&["dump", "lines:in.txt", "d", "--dry-run", "--json"])
        .ok()
        .report();
    assert!(dry["memory_bytes"].as_u64() > Some(0));
    place.run(&["dump", "lines:in.txt", "d"]).ok();
    let dry = place
        .run(&["load", "d", "lines:out.txt", "--dry-run", "--json"])
        .ok()
        .report();
    assert_eq!(dry["parts"], 1);
    assert!(!place.path("out.txt").exists());
    place
        .run(&["copy", "lines:in.txt", "lines:out.txt", "--dry-run"])
        .ok();
    assert!(!place.path("out.txt").exists());
}

#[test]
fn a_dry_run_of_what_reads_a_dump() {
    let place = Place::new();
    place.write("in.txt", some_lines(4 << 20));
    place
        .run(&["dump", "lines:in.txt", "d", "--compress", "none"])
        .ok();
    let dry = |args: &[&str]| {
        let args = [args, &["--dry-run", "--json"]].concat();
        place.run(&args).ok().report()
    };
    let file_bytes = |folders: &[&str]| {
        let files = folders.iter().flat_map(|folder| {
            let entries = std::fs::read_dir(place.path(folder)).unwrap();
            entries.map(|entry| entry.unwrap())
        });
        let lengths = files.filter(|file| file.file_type().unwrap().is_file());
        lengths.map(|file| file.metadata().unwrap().len()).sum()
    };
    let plan = std::fs::read_dir(place.path("d/plan")).unwrap().next();
    let plan = plan.unwrap().unwrap().path();
    let every: u64 = file_bytes(&["d", "d/parts", "d/chunks", plan.to_str().unwrap()]);
    let verified = place.run(&["verify", "d", "--json"]).ok().report();
    for args in [&["verify", "d"][..], &["verify", "d", "--quick"]] {
        let needs = dry(args);
        // All of it, byte by byte, and no more memory than it says.
        assert_eq!(needs["read_bytes"], every);
        for what in ["parts", "records", "raw_bytes"] {
            assert_eq!(needs[what], verified[what], "{what}");
        }
        assert_eq!(needs["memory_bytes"], verified["memory_bytes_budget"]);
    }
    let listed = dry(&["list", "d"]);
    assert!(
        listed["read_bytes"].as_u64() > Some(0) && listed["read_bytes"].as_u64() < Some(10_000)
    );
    assert_eq!(listed["records"], verified["records"]);
    let ran = place
        .run(&["verify", "d", "--dry-run", "--threads", "2"])
        .ok();
    assert_snapshot!(ran.stdout, @r"
    parts      1
    records    90,982
    raw bytes  4.0 MiB
    reads      4.0 MiB
    time       about 40 ms at an assumed 100 MiB/s
    memory     4.2 MiB
    ");
    // Nothing is decoded, so nothing is found.
    let chunk = std::fs::read_dir(place.path("d/chunks")).unwrap().next();
    let chunk = chunk.unwrap().unwrap().path();
    std::fs::write(&chunk, "x").unwrap();
    dry(&["verify", "d"]);
    assert_eq!(place.run(&["verify", "d"]).exit, Some(4));
}

#[test]
fn a_dry_run_of_prune_deletes_nothing_whatever_else_is_said() {
    let place = Place::new();
    place.write("in.txt", some_lines(1000));
    place.run(&["dump", "lines:in.txt", "d"]).ok();
    place.write("d/chunks/x.zst", "nobody lists it");
    let ran = place.run(&["prune", "d", "--yes", "--dry-run"]).ok();
    assert_snapshot!(ran.stderr, @"1 object, 15 B that nothing needs; --yes deletes them");
    assert!(place.path("d/chunks/x.zst").exists());
    place.run(&["prune", "d", "--yes"]).ok();
    assert!(!place.path("d/chunks/x.zst").exists());
}

#[test]
fn an_unfinished_dump_of_a_pipe_does_not_go_on_and_list_says_so() {
    let place = Place::new();
    place.pipe(&["dump", "-", "d"], b"one\ntwo\n").ok();
    crate::support::unfinish(&place.path("d"));
    let listed = place.run(&["list", "d"]).ok().stdout;
    let said = listed.lines().find(|line| line.starts_with("finished"));
    assert_snapshot!(said.unwrap(), @"finished  no: 1 of 1 part committed; what was piped into it is not kept; the same `tipple dump` begins anew");
    let again = place.pipe(&["dump", "-", "d"], b"three\n").ok();
    assert!(again.stderr.contains("starting over"), "{}", again.stderr);
    assert_eq!(place.run(&["cat", "d", "--raw"]).ok().stdout, "three\n");
}

/// `tipple cat | head -1` ends quietly.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new();
    place.write("in.txt", some_lines(4 << 20));
    place.run(&["dump", "lines:in.txt", "d"]).ok();
    for args in [&["cat", "d"][..], &["cat", "d", "--raw"]] {
        let mut child = place
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = Vec::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_until(b'\n', &mut line)
            .unwrap();
        assert!(line.ends_with(b"\n"));
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
    for args in [&["list", "d", "--parts"][..], &["doctor", "d"]] {
        let mut child = place
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
}
