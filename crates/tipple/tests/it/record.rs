//! `tipple record` on recordings of a real recorder.

use std::time::Duration;

use serde_json::{Value, json};
use tipple_recorder::{Direction, Kind, RecordRate, Recorder, RecorderOptions};
use tipple_testkit::{MiniStack, duckdb};

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
fn a_recording_is_a_parquet_file_of_the_types_that_its_users_know() {
    let place = Place::new();
    // Numbers that no other type holds, a time with all its digits, names and texts that JSON escapes.
    let line = |s: u64, t: u64, m: &str, rest: &str| {
        format!(
            r#"{{"ts":1795219199123456789,"g":"or\"ders","k":"é","n":3,"s":{s},"t":{t},"th":7,"d":"In","cl":"default","mn":"Order","mp":"shop","mk":"Regular","m":{m}{rest}}}"#
        )
    };
    let text = [
        line(
            1,
            u64::MAX,
            r#"{"price":1.5,"paid":true,"note":"a\n\"b\"","at":1795219199000000001,"n":-9223372036854775808}"#,
            r#","c":18446744073709551615"#,
        ),
        line(2, 0, r#"{"price":2,"paid":false,"note":null,"tags":["x",{"y":[1]}]}"#, ""),
        line(3, 1, "null", ""),
    ]
    .join("\n");
    std::fs::write(place.path("r.ndjson"), text + "\n").unwrap();
    let convert = |more: &[&str]| {
        let args = [&["record", "convert", "r.ndjson"], more].concat();
        place.run(&args)
    };
    let query = |sql: &str| duckdb(&place.path(""), sql);

    convert(&["--output-file", "all.parquet"]).ok();
    assert_eq!(
        query("select column_name, column_type from (describe select * from 'all.parquet')"),
        [
            ("ts", "TIMESTAMP WITH TIME ZONE"),
            ("ts_nanos", "BIGINT"),
            ("g", "VARCHAR"),
            ("k", "VARCHAR"),
            ("n", "UBIGINT"),
            ("s", "UBIGINT"),
            ("t", "UBIGINT"),
            ("th", "UBIGINT"),
            ("d", "VARCHAR"),
            ("cl", "VARCHAR"),
            ("mn", "VARCHAR"),
            ("mp", "VARCHAR"),
            ("mk", "VARCHAR"),
            ("m", "JSON"),
            ("c", "UBIGINT"),
        ]
        .map(|(name, kind)| json!([name, kind]))
    );
    assert_eq!(
        query(
            "select epoch_us(ts), ts_nanos, g, k, n, s::varchar, t::varchar, th, m->>'$.note', \
             c::varchar from 'all.parquet' where s = 1"
        ),
        [json!([
            1_795_219_199_123_456_u64,
            1_795_219_199_123_456_789_u64,
            "or\"ders",
            "é",
            3,
            "1",
            u64::MAX.to_string(),
            7,
            "a\n\"b\"",
            u64::MAX.to_string()
        ])]
    );
    assert_eq!(
        query("select s, m->>'$.tags[1].y[0]', c from 'all.parquet' where s > 1 order by s"),
        [json!([2, "1", null]), json!([3, null, null])]
    );

    // Fields of messages are columns; the filter's records only; standard output.
    let columns = "s,m.price:double,m.paid:bool,m.note,m.at:time,m.n:integer,m.tags";
    let some = ["--columns", columns, "--output-file", "some.parquet"];
    convert(&some).ok();
    assert_eq!(
        query(
            "select s, \"m.price\", \"m.paid\", \"m.note\", epoch_us(\"m.at\"), \"m.at_nanos\" % 10, \
             \"m.n\", \"m.tags\" from 'some.parquet' order by s"
        ),
        [
            json!([
                1,
                1.5,
                true,
                "a\n\"b\"",
                1_795_219_199_000_000_u64,
                1,
                i64::MIN,
                null
            ]),
            json!([2, 2.0, false, null, null, null, null, r#"["x",{"y":[1]}]"#]),
            json!([3, null, null, null, null, null, null, null]),
        ]
    );
    let none = ["--seq", "9", "--output-file", "none.parquet"];
    convert(&none).ok();
    assert_eq!(query("select count(*) from 'none.parquet'"), [json!([0])]);

    // What does not fit is told, and nothing is left behind.
    for (columns, told) in [
        (
            "m.note:double",
            "`m.note` is \"a\\n\\\"b\\\"\" in number 1 of or\"ders, which is no double",
        ),
        ("m.n:unsigned", "which is no unsigned"),
        ("ts,ts_nanos", "`ts_nanos` is there with `ts`: leave it out"),
        ("s,s:text", "`s` is there twice"),
    ] {
        let refused = ["--columns", columns, "--output-file", "refused.parquet"];
        let refused = convert(&refused);
        assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(!place.path("refused.parquet").exists());
    }
}

#[test]
fn a_large_recording_becomes_several_row_groups_in_bounded_memory() {
    use std::io::Write;
    let place = Place::new();
    let mut file = std::io::BufWriter::new(std::fs::File::create(place.path("r.ndjson")).unwrap());
    let text = "x".repeat(1 << 20);
    for s in 1..=100 {
        writeln!(
            file,
            r#"{{"ts":{s},"g":"g","s":{s},"mn":"M","m":"{s} {text}"}}"#
        )
        .unwrap();
    }
    file.flush().unwrap();
    place
        .run(&[
            "record",
            "convert",
            "r.ndjson",
            "--output-file",
            "r.parquet",
        ])
        .ok();
    let query = |sql: &str| duckdb(&place.path(""), sql);
    assert_eq!(
        query("select count(distinct row_group_id) from parquet_metadata('r.parquet')"),
        [json!([4])]
    );
    assert_eq!(
        query(
            "select count(*), sum(s), min(length(m->>'$')), count(distinct split_part(m->>'$', ' ', 1)), \
             count(k) from 'r.parquet'"
        ),
        [json!([100, 5050, (1 << 20) + 2, 100, 0])]
    );
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
            ["duckdb", "-c", ref sql @ ..] => {
                let rows = duckdb(&place.path(""), sql.join(" ").trim_matches('\''));
                said.push(json!(rows).to_string());
                continue;
            }
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
    let [
        recorded,
        stats,
        tea,
        trace,
        pair,
        gaps,
        converted,
        table,
        same,
        different,
    ] = &said[..]
    else {
        panic!("{commands:?}");
    };
    assert_eq!(converted, "");
    let mut table: Vec<(String, u64)> = serde_json::from_str(table).unwrap();
    table.sort();
    let symbols: Vec<&str> = table.iter().map(|(symbol, _)| &**symbol).collect();
    assert_eq!(symbols, ["CAKE", "COFFEE", "TEA"]);
    assert_eq!(table.iter().map(|(_, sum)| sum).sum::<u64>(), 3000);
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
