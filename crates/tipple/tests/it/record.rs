//! `tipple record` on recordings of a real recorder.

use std::time::Duration;

use serde_json::{Value, json};
use tipple_recorder::{Direction, Kind, RecordRate, Recorder, RecorderOptions};
use tipple_testkit::MiniStack;

use crate::support::Place;

/// A recording in the folder `recording`.
fn recorded(place: &Place, name: &str, codec: &str) {
    let mut options = RecorderOptions::new(place.path(name));
    options.min_free_bytes = 0;
    options.codec = codec.parse().unwrap();
    options.config.rate = Some(RecordRate(600));
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..1000 {
        let stream = stream.clone().trace(1 + id / 10);
        stream.record(
            Direction::In,
            Kind::Request(id),
            &json!({"id": id, "symbol": "BTC"}),
        );
        stream
            .clone()
            .named("Fill")
            .record(Direction::Out, Kind::Response(id), &json!({"id": id}));
    }
    let report = recorder.shutdown(Duration::from_secs(60));
    assert!(report.written >= 600 && report.written < 2000);
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn recordings_are_searched_counted_checked_and_converted() {
    for codec in ["none", "zstd:1"] {
        let place = Place::new();
        recorded(&place, "recording", codec);
        let found = lines(
            &place
                .run(&["record", "search", "recording", "--trace", "5"])
                .ok()
                .stdout,
        );
        assert_eq!(found.len(), 20);
        assert!(found.iter().all(|line| line["t"] == 5));
        let found = place
            .run(&[
                "record",
                "search",
                "recording",
                "--name",
                "Fill",
                "--field",
                "m.id=44",
            ])
            .ok();
        assert_eq!(lines(&found.stdout)[0]["c"], 44);
        let found = place
            .run(&[
                "record",
                "search",
                "recording",
                "--seq",
                "3..9",
                "--limit",
                "4",
            ])
            .ok();
        assert_eq!(lines(&found.stdout).len(), 4);
        let none = place
            .run(&[
                "record",
                "search",
                "recording",
                "--to",
                "2020-01-01T00:00:00Z",
            ])
            .ok();
        assert_eq!(none.stdout, "");

        let gaps = place.run(&["record", "gaps", "recording", "--json"]).ok();
        let report = &lines(&gaps.stdout)[0];
        let run = report["runs"].as_object().unwrap().values().next().unwrap();
        assert_eq!(
            (&run["is_clean"], &run["groups"]["orders"]["unexplained"]),
            (&json!(true), &json!(0))
        );
        assert!(run["groups"]["orders"]["missing"].as_u64().unwrap() > 0);
        assert!(
            place
                .run(&["record", "gaps", "recording"])
                .ok()
                .stdout
                .contains("ended cleanly")
        );

        let stats = place.run(&["record", "stats", "recording"]).ok().stdout;
        assert!(
            stats.contains("orders default Out Fill") && stats.contains("LOST rate"),
            "{stats}"
        );
        let pair = lines(
            &place
                .run(&["record", "pair", "recording", "--json"])
                .ok()
                .stdout,
        );
        assert!(
            pair[0]["latencies"]["orders Value"]["pairs"]
                .as_u64()
                .unwrap()
                > 100
        );

        place
            .run(&[
                "record",
                "convert",
                "recording",
                "--columns",
                "s,m.symbol",
                "--output-file",
                "out.csv",
            ])
            .ok();
        let csv = std::fs::read_to_string(place.path("out.csv")).unwrap();
        assert!(csv.starts_with("s,m.symbol\n1,BTC\n2,\n"), "{}", &csv[..40]);
        let sorted = place.run(&["record", "sort", "recording"]).ok().stdout;
        assert!(
            lines(&sorted)
                .iter()
                .map(|line| line["ts"].as_u64().unwrap())
                .is_sorted()
        );

        // Without its index, and with a new one.
        for entry in std::fs::read_dir(place.path("recording")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "idx") {
                std::fs::remove_file(path).unwrap();
            }
        }
        let again = place
            .run(&["record", "search", "recording", "--trace", "5"])
            .ok()
            .stdout;
        place.run(&["record", "index", "recording"]).ok();
        assert_eq!(
            place
                .run(&["record", "search", "recording", "--trace", "5"])
                .ok()
                .stdout,
            again
        );

        recorded(&place, "other", codec);
        let same = place.run(&["record", "diff", "recording", "recording"]);
        assert_eq!(same.exit, Some(0));
        std::fs::write(place.path("changed.ndjson"), again.replace("BTC", "ETH")).unwrap();
        std::fs::write(place.path("before.ndjson"), again).unwrap();
        let changed = place.run(&["record", "diff", "before.ndjson", "changed.ndjson"]);
        assert_eq!(changed.exit, Some(4));
        assert!(
            changed.stdout.contains("m.symbol: \"BTC\" / \"ETH\""),
            "{}",
            changed.stdout
        );
        let ignored = place.run(&[
            "record",
            "diff",
            "before.ndjson",
            "changed.ndjson",
            "--ignore",
            "m.symbol",
        ]);
        assert_eq!(ignored.exit, Some(0));
    }
}

#[test]
fn what_a_killed_program_left_is_told_and_repaired() {
    let place = Place::new();
    let name = "default.20261120T150858Z.0a1b2c3d-0001.ndjson";
    let line = |number: u64| {
        format!(
            "{{\"ts\":{number},\"g\":\"a\",\"s\":{number},\"t\":0,\"mn\":\"A\",\"mk\":\"Regular\",\"m\":1}}\n"
        )
    };
    std::fs::create_dir(place.path("recording")).unwrap();
    let open =
        "{\"ts\":1,\"n\":0,\"cl\":\"default\",\"mk\":\"Open\",\"run\":\"0a1b2c3d\",\"file\":1}\n";
    let text = open.to_owned() + &line(1) + &line(2) + &line(4) + "{\"ts\":5,";
    std::fs::write(place.path(&format!("recording/{name}.open")), &text).unwrap();
    let gaps = place.run(&["record", "gaps", "recording"]);
    assert_eq!(gaps.exit, Some(3));
    assert!(
        gaps.stdout.contains("DID NOT END CLEANLY")
            && gaps.stdout.contains("3 to 3: UNEXPLAINED 1"),
        "{}",
        gaps.stdout
    );
    place.run(&["record", "repair", "recording"]).ok();
    let repaired = std::fs::read_to_string(place.path(&format!("recording/{name}"))).unwrap();
    assert_eq!(repaired, text[..text.len() - 8]);
    assert!(place.path(&format!("recording/{name}.idx")).exists());
}

#[test]
fn what_cannot_be_is_one_line() {
    let place = Place::new();
    std::fs::create_dir(place.path("empty")).unwrap();
    for (args, told) in [
        (
            &["search", "empty"][..],
            "error: empty has no recordings: files whose names end with .ndjson or .ndjson.zst\n",
        ),
        (
            &["search", "none"],
            "error: cannot open none: No such file or directory (os error 2)\n",
        ),
    ] {
        let run = place.run(&[&["record"], args].concat());
        assert_eq!((run.exit, run.stderr.as_str()), (Some(2), told));
    }
    for args in [
        &["--seq", "9..3"][..],
        &["--from", "yesterday"],
        &["--field", "m"],
        &["--direction", "up"],
    ] {
        let run = place.run(&[&["record", "search", "empty"], args].concat());
        assert_eq!(
            (run.exit, run.stderr.lines().count()),
            (Some(2), 1),
            "{}",
            run.stderr
        );
    }
}

/// The commands of a section of the README, and the exit code that each is to have.
fn walk_through(section: &str) -> Vec<(Vec<String>, i32)> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let command = |line: &str| {
        let (command, comment) = line.split_once('#').unwrap_or((line, ""));
        let words = command.split_whitespace().map(str::to_owned);
        let exit = comment.trim().strip_prefix("exit code ");
        let exit = exit.and_then(|text| text.split(':').next()?.parse().ok());
        (words.collect(), exit.unwrap_or(0))
    };
    let lines = section.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(command).collect()
}

#[test]
fn the_walk_through_of_the_readme_does_what_it_says() {
    let place = Place::new();
    let shop = shop();
    let folder = place.path("shop").to_str().unwrap().to_owned();
    let mut said = Vec::new();
    let commands = walk_through("What a program sent and received");
    for (words, exit) in &commands {
        let words: Vec<String> = words
            .iter()
            .map(|word| word.replace("/tmp/shop", &folder))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = match words[..] {
            [
                "cargo",
                "run",
                "--release",
                "--example",
                "shop",
                "--",
                ref args @ ..,
            ] => place.run_program(&shop, args),
            ["tipple", ref args @ ..] => place.run(args),
            _ => panic!("{words:?}"),
        };
        assert_eq!(
            ran.exit,
            Some(*exit),
            "{words:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
        said.push(ran.stdout);
    }
    let [recorded, stats, tea, trace, pair, gaps, same, different] = &said[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(recorded, "2000 records, 0 lost\n");
    assert!(
        stats.contains("shop default In Order") && stats.contains("shop default Out Receipt"),
        "{stats}"
    );
    let tea = lines(tea);
    assert_eq!(tea.len(), 3);
    assert!(
        tea.iter()
            .all(|line| line["mn"] == "Order" && line["m"]["symbol"] == "TEA")
    );
    let trace = lines(trace);
    let names: Vec<&Value> = trace.iter().map(|line| &line["mn"]).collect();
    assert_eq!(names, ["Order", "Receipt"]);
    assert!(trace.iter().all(|line| line["m"]["id"] == 812));
    assert!(
        pair.contains("1,000") && pair.contains("0 unanswered, 0 unasked"),
        "{pair}"
    );
    assert!(gaps.contains("ended cleanly"), "{gaps}");
    assert_eq!(
        same,
        "1000 orders, 1000 receipts as they were, 0 different\n"
    );
    assert!(
        different.starts_with(
            "1000 orders, 0 receipts as they were, 1000 different\nthe first: m.cents "
        ),
        "{different}"
    );
}

/// The example, as cargo builds it with the tests.
fn shop() -> std::path::PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join("shop")
}

#[test]
fn closed_files_go_to_a_bucket_and_are_searched_there() {
    let place = Place::new();
    let bucket = MiniStack::shared().fresh_bucket();
    let account = MiniStack::shared().account().env();
    let variables: Vec<(&str, &str)> = account
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let run = |args: &[&str]| place.run_with(args, &variables);
    let (store, shop) = (bucket.url("recordings"), shop());
    let program = shop.to_str().unwrap();
    // The program records into a folder that is emptied into the bucket.
    run(&[
        "supervise",
        "--dir",
        "work",
        "--limit",
        "64MiB",
        &store,
        "--",
        program,
        "record",
        "{dir}",
        "50000",
    ])
    .ok();
    run(&["verify", &store]).ok();
    let found = run(&["record", "search", &store, "--trace", "40812"]).ok();
    let names: Vec<Value> = lines(&found.stdout)
        .into_iter()
        .map(|line| line["mn"].clone())
        .collect();
    assert_eq!(names, ["Order", "Receipt"]);
    assert!(
        run(&["record", "gaps", &store])
            .ok()
            .stdout
            .contains("ended cleanly")
    );
    let stats = run(&["record", "stats", &store]).ok().stdout;
    assert!(stats.contains("50,000"), "{stats}");

    // The same of a compressed one, of which a search reads what it needs.
    recorded(&place, "recording", "zstd:1");
    for entry in std::fs::read_dir(place.path("recording")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        bucket.put(&format!("zstd/{name}"), &std::fs::read(&path).unwrap());
    }
    let search = |recording: &str| {
        run(&["record", "search", recording, "--trace", "5"])
            .ok()
            .stdout
    };
    let there = search(&bucket.url("zstd"));
    assert_eq!(lines(&there).len(), 20);
    assert_eq!(there, search("recording"));
    let none = run(&["record", "search", &bucket.url("nothing")]);
    assert_eq!(none.exit, Some(2));
    assert!(none.stderr.contains("has no recordings"), "{}", none.stderr);
}
