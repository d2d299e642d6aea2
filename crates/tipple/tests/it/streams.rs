//! Streams: the embedded log, from end to end.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use serde_json::json;

use crate::support::Place;

#[test]
fn lines_become_events_and_come_back() {
    let place = Place::new();
    let appended = place
        .pipe(&["append", "log:orders"], b"one\n\nthree \xff\nunended")
        .ok();
    assert_snapshot!(appended.stderr, @"
    appended 4 events to log:orders
    next: tipple dump log:orders STORE
    ");
    let shown = place.run(&["cat", "log:orders"]).ok().json();
    let payloads: Vec<_> = shown.iter().map(|event| event["payload"].clone()).collect();
    assert_eq!(
        payloads,
        [
            json!("one"),
            json!(""),
            json!({"base64": "dGhyZWUg/w=="}),
            json!("unended")
        ]
    );
    assert_eq!(shown[3]["position"], 4);
    let raw = place
        .command(&["cat", "log:orders", "--raw", "--from", "2", "--to", "4"])
        .output()
        .unwrap();
    assert_eq!(raw.stdout, b"\nthree \xff\n");

    let dumped = place
        .run(&["dump", "log:orders", "d", "--json"])
        .ok()
        .report();
    assert_eq!(dumped["records"], 4);
    place.run(&["verify", "d"]).ok();
    assert_eq!(place.run(&["cat", "d"]).ok().json(), shown);
    let raw = place.command(&["cat", "d", "--raw"]).output().unwrap();
    assert_eq!(raw.stdout, b"one\n\nthree \xff\nunended\n");
    let loaded = place
        .run(&["load", "d", "log:copy", "--json"])
        .ok()
        .report();
    assert_eq!(loaded["sink"], json!({"appended": 4, "there_before": 0}));
    assert_eq!(place.run(&["cat", "log:copy"]).ok().json(), shown);
    // Once more: nothing is there twice.
    let loaded = place
        .run(&["load", "d", "log:copy", "--json"])
        .ok()
        .report();
    assert_eq!(loaded["sink"], json!({"appended": 0, "there_before": 4}));
    assert_eq!(place.run(&["cat", "log:copy"]).ok().json(), shown);
    place.run(&["copy", "log:orders", "log:copied"]).ok();
    assert_eq!(place.run(&["cat", "log:copied"]).ok().json(), shown);
}

#[test]
fn ndjson_says_all_of_an_event_and_what_is_none_is_counted() {
    let place = Place::new();
    let input = r#"{"key":"a","headers":[["x",null],["x","1"],[{"base64":"/w=="},""]],"payload":{"base64":"/w=="},"time":"1969-12-31T23:59:59.5Z","position":9}
{"payload":null,"time":null}
{"paylod":"mistyped"}
not json
{}
"#;
    let appended = place.pipe(
        &["append", "log:l", "--format", "ndjson", "--json"],
        input.as_bytes(),
    );
    assert_eq!(appended.exit, Some(3));
    let report = appended.report();
    assert_eq!(report["records"], 3);
    assert_eq!(
        report["lost"],
        json!({"outcomes": {}, "losses": {"no event": 2}})
    );
    assert!(
        appended
            .stderr
            .contains("line 3 is not appended: there is no field \"paylod\""),
        "{}",
        appended.stderr
    );
    let shown = place.run(&["cat", "log:l"]).ok();
    let mut lines = shown.stdout.lines();
    assert_eq!(
        lines.next(),
        Some(
            r#"{"position":1,"time":"1969-12-31T23:59:59.5Z","key":"a","headers":[["x",null],["x","1"],[{"base64":"/w=="},""]],"payload":{"base64":"/w=="}}"#
        )
    );
    assert_eq!(
        lines.next(),
        Some(r#"{"position":2,"time":null,"key":null,"headers":[],"payload":null}"#)
    );
    // What cat prints can be appended elsewhere.
    place
        .pipe(
            &["append", "log:again", "--format", "ndjson"],
            shown.stdout.as_bytes(),
        )
        .ok();
    assert_eq!(place.run(&["cat", "log:again"]).ok().stdout, shown.stdout);
}

#[test]
fn a_stream_with_other_events_is_refused() {
    let place = Place::new();
    place.pipe(&["append", "log:a"], b"1\n2\n3\n").ok();
    place.run(&["dump", "log:a", "d"]).ok();
    // Longer than the dump, of the same length with another event, shorter with another event.
    for (name, there) in [
        ("longer", "1\n2\n3\n4\n"),
        ("other", "1\n2\nx\n"),
        ("shorter", "y\n"),
    ] {
        let log = format!("log:{name}");
        place.pipe(&["append", &log], there.as_bytes()).ok();
        let before = place.run(&["cat", &log]).ok().stdout;
        let refused = place.run(&["load", "d", &log]);
        assert_eq!(refused.exit, Some(10), "{}", refused.stderr);
        assert!(
            refused.stderr.contains("load into an empty stream"),
            "{}",
            refused.stderr
        );
        assert_eq!(place.run(&["cat", &log]).ok().stdout, before);
    }
}

#[test]
fn only_what_is_old_is_archived() {
    let place = Place::new();
    let append = |day: &str, payloads: &[&str]| {
        let line = |payload| {
            format!(
                "{}\n",
                json!({ "payload": payload, "time": format!("{day}T00:00:00Z") })
            )
        };
        let lines: String = payloads.iter().map(line).collect();
        place
            .pipe(&["append", "log:s", "--format", "ndjson"], lines.as_bytes())
            .ok();
    };
    append("2020-01-01", &["1", "2", "3"]);
    append("2220-01-01", &["4"]);
    let archive = &[
        "dump",
        "log:s",
        "d",
        "--archive=7d",
        "--chunk-age",
        "10ms",
        "--json",
    ];
    let mut running = place.start(archive);
    assert_eq!(running.wait_for("part")["records"], 3);
    running.signal("KILL");
    drop(running);
    // What is young stands in the way of what is old behind it: an archive is in the order of the stream.
    append("2020-01-01", &["5"]);
    append("2220-01-01", &["6"]);
    let mut running = place.start(archive);
    let start = running.wait_for("start");
    assert_eq!(start["parts_committed"], 1);
    running.signal("INT");
    assert_eq!(running.end().1, Some(130));
    let archived = place.run(&["cat", "d", "--partial"]).ok().json();
    let payloads: Vec<_> = archived.iter().map(|event| &event["payload"]).collect();
    assert_eq!(payloads, ["1", "2", "3"]);
    // All that is left, and the archive is a dump like any other.
    place.run(&["dump", "log:s", "d"]).ok();
    assert_eq!(
        place.run(&["cat", "d"]).ok().json(),
        place.run(&["cat", "log:s"]).ok().json()
    );

    let refused = place.run(&["dump", "log:s", "e", "--archive"]);
    assert_eq!(refused.exit, Some(2));
    assert!(
        refused
            .stderr
            .contains("give the age of what is archived, such as --archive=7d"),
        "{}",
        refused.stderr
    );
    let refused = place.run(&["dump", "log:s", "e", "--archive=old"]);
    assert_eq!(refused.exit, Some(2));
}

/// The third event is due an hour after the others: those are there, it is not, and everything else still works.
#[test]
fn events_are_replayed_at_the_times_they_had() {
    let place = Place::new();
    let events = r#"{"payload":"1","time":"2026-11-21T12:00:00Z"}
{"payload":"2","time":"2026-11-21T12:00:00.2Z"}
{"payload":"3","time":"2026-11-21T13:00:00Z"}
"#;
    place
        .pipe(
            &["append", "log:s", "--format", "ndjson"],
            events.as_bytes(),
        )
        .ok();
    place.run(&["dump", "log:s", "d"]).ok();
    let payloads = |log: &str| -> Vec<serde_json::Value> {
        let shown = place.run(&["cat", log]);
        let events = if shown.exit == Some(0) {
            shown.json()
        } else {
            Vec::new()
        };
        events
            .iter()
            .map(|event| event["payload"].clone())
            .collect()
    };
    for (target, args) in [
        ("log:t", ["load", "d", "log:t", "--speed", "1"]),
        ("log:u", ["copy", "log:s", "log:u", "--speed", "2x"]),
    ] {
        let running = place.start(&[&args[..], &["--json"]].concat());
        let deadline = Instant::now() + Duration::from_secs(60);
        while payloads(target) != ["1", "2"] {
            assert!(Instant::now() < deadline, "{:?}", payloads(target));
        }
        running.signal("INT");
        let (last, exit) = running.end();
        assert_eq!(exit, Some(130), "{last}");
    }
    // What is late is not hurried, what was there is not waited for: as fast as it goes.
    let loaded = place.run(&["load", "d", "log:t", "--json"]).ok().report();
    assert_eq!(loaded["sink"], json!({"appended": 1, "there_before": 2}));
    assert_eq!(payloads("log:t"), ["1", "2", "3"]);
    // A million times as fast.
    place
        .run(&["load", "d", "log:v", "--speed", "1000000"])
        .ok();
    assert_eq!(payloads("log:v"), ["1", "2", "3"]);

    let refused = place.run(&["load", "d", "log:w", "--speed", "0"]);
    assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
    let refused = place.run(&["load", "d", "lines:w", "--speed", "1"]);
    assert!(
        refused
            .stderr
            .contains("--speed is for streams, and the sink is lines:w"),
        "{}",
        refused.stderr
    );
}

/// A stream is loaded section by section, and one that is missing is not passed over.
#[test]
fn a_dump_that_begins_right_behind_a_load_goes_on_with_it() {
    let place = Place::new();
    place.pipe(&["append", "log:s"], b"1\n2\n3\n4\n5\n6\n").ok();
    for (dump, from, to) in [("a", "1", "3"), ("b", "3", "5"), ("c", "6", "7")] {
        place
            .run(&["dump", "log:s", dump, "--from", from, "--to", to])
            .ok();
    }
    place.run(&["load", "a", "log:t"]).ok();
    for appended in [2, 0] {
        let loaded = place.run(&["load", "b", "log:t", "--json"]).ok().report();
        assert_eq!(loaded["sink"]["appended"], appended);
    }
    let refused = place.run(&["load", "c", "log:t"]);
    assert_eq!(refused.exit, Some(10));
    assert!(
        refused
            .stderr
            .contains("ends with event 4 of a stream, and the dump has no such event"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        place.run(&["cat", "log:t"]).ok().json(),
        place.run(&["cat", "log:s", "--to", "5"]).ok().json()
    );
}

#[test]
fn ranges_of_a_stream() {
    let place = Place::new();
    let lines: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    place.pipe(&["append", "log:a"], lines.as_bytes()).ok();
    let payloads = |args: &[&str]| -> Vec<String> {
        let shown = place.run(args).ok().json();
        shown
            .iter()
            .map(|event| event["payload"].as_str().unwrap().to_owned())
            .collect()
    };
    for (name, range, expected) in [
        ("from", vec!["--from", "998"], 998..=1000),
        ("to", vec!["--to", "3"], 1..=2),
        ("both", vec!["--from", "10", "--to", "20"], 10..=19),
        (
            "time",
            vec!["--from", "1970-01-01T00:00:00Z", "--to", "2"],
            1..=1,
        ),
    ] {
        let dump = [&["dump", "log:a", name, "--part-size", "64KiB"], &range[..]].concat();
        place.run(&dump).ok();
        let expected: Vec<_> = expected.map(|n| n.to_string()).collect();
        assert_eq!(payloads(&["cat", name]), expected, "{name}");
        assert_eq!(
            payloads(&[&["cat", "log:a"], &range[..]].concat()),
            expected,
            "{name}"
        );
    }
    let empty = place
        .run(&[
            "dump", "log:a", "none", "--from", "5", "--to", "5", "--json",
        ])
        .ok();
    assert_eq!(empty.report()["records"], 0);
    // The range is part of what a dump is.
    place
        .run(&[
            "dump",
            "log:a",
            "held",
            "--from",
            "7",
            "--rate",
            "1/s",
            "--dry-run",
        ])
        .ok();
    for (args, words) in [
        (
            &["dump", "log:a", "x", "--from", "yesterday"][..],
            "neither a position",
        ),
        (&["dump", "log:", "x"], "log: names no folder"),
        (&["dump", "log:nowhere", "x"], "there is no log in nowhere"),
        (&["append", "lines:x"], "is no log"),
        (&["cat", "log:a", "--parts", "0..1"], "is for dumps"),
        (&["cat", "from", "--from", "1"], "is for streams"),
        (
            &["dump", "log:a", "x", "--part-size", "1KiB"],
            "give at least 65536",
        ),
        (
            &["load", "from", "log:b", "--state", "s"],
            "leave out --state",
        ),
    ] {
        let refused = place.run(args);
        assert!(
            refused.stderr.contains(words),
            "{args:?}: {}",
            refused.stderr
        );
        assert!(
            matches!(refused.exit, Some(2 | 10)),
            "{args:?}: {:?}",
            refused.exit
        );
    }
}

/// Whatever was appended when the writer was killed is a beginning of what it was given; nothing is torn, and the next
/// writer goes on behind it.
#[test]
fn a_killed_writer_leaves_whole_events() {
    let place = Place::new();
    let mut held = 0;
    for round in 0..10_u32 {
        let mut child = place
            .command(&["append", "log:l"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            // Until the pipe breaks.
            let line = |n: u64| format!("{n:0100}\n").repeat(100);
            (0..)
                .take_while(|n| stdin.write_all(line(*n).as_bytes()).is_ok())
                .count()
        });
        let database = place
            .path("log:l".strip_prefix("log:").unwrap())
            .join("log.sqlite-wal");
        let since = Instant::now();
        let size = |path: &std::path::Path| path.metadata().map_or(0, |meta| meta.len());
        // Killed after it has written, a little later each time.
        while size(&database) == 0 || since.elapsed() < Duration::from_millis(u64::from(round) * 20)
        {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        feeding.join().unwrap();
        let shown = place.run(&["cat", "log:l", "--raw"]);
        if held == 0 && shown.stderr.contains("there is no log") {
            // Killed while it made it.
            continue;
        }
        let shown = shown.ok().stdout;
        let lines: Vec<u64> = shown.lines().map(|line| line.parse().unwrap()).collect();
        let new = &lines[held..];
        assert!(
            new.iter().enumerate().all(|(at, n)| *n == at as u64 / 100),
            "round {round}"
        );
        assert!(shown.lines().all(|line| line.len() == 100));
        held = lines.len();
    }
    assert!(held > 0);
}

/// A load into a stream is killed again and again: every event is there once.
#[test]
fn a_killed_load_goes_on_where_the_stream_ends() {
    let place = Place::new();
    let lines: String = (1..=60_000).map(|n| format!("{n:0200}\n")).collect();
    place.pipe(&["append", "log:a"], lines.as_bytes()).ok();
    place
        .run(&["dump", "log:a", "d", "--part-size", "1MiB"])
        .ok();
    let mut kills = 0;
    for round in 0..200_u64 {
        let mut child = place
            .command(&["load", "d", "log:b", "-q"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let since = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if since.elapsed() > Duration::from_millis(5 + round * 3) {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::yield_now();
        };
        match status {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => kills += 1,
        }
    }
    assert!(kills > 2, "{kills} kills");
    let raw = place.run(&["cat", "log:b", "--raw"]).ok().stdout;
    assert!(raw == lines, "{} of {} bytes", raw.len(), lines.len());
    let positions = place.run(&["cat", "log:b"]).ok().json();
    assert!(
        positions
            .iter()
            .zip(1..)
            .all(|(event, n)| event["position"] == n)
    );
}

/// A stream is followed into two stores, sealed, while a producer appends; the follower is killed at moments that nobody
/// chose and started again. In the end both stores hold every event once, and in order.
#[test]
fn a_followed_stream_is_whole_whatever_is_killed_when() {
    let kills = if tipple_testkit::is_long() { 50 } else { 10 };
    let place = Place::new();
    place.pipe(&["append", "log:l"], b"0\n").ok();
    place.run(&["keygen", "key"]).ok();
    let dump = [
        "dump",
        "log:l",
        "a",
        "b",
        "--encrypt-key",
        "key",
        "--chunk-age",
        "20ms",
        "--part-size",
        "64KiB",
        "-q",
    ];
    let followed = [&dump[..], &["--follow"]].concat();

    let mut producer = place
        .command(&["append", "log:l"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = producer.stdin.take().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let producing = std::thread::spawn(move || {
        let mut last = 0;
        // In bursts, so that there are moments with nothing to do.
        while stopped.recv_timeout(Duration::from_millis(3)).is_err() {
            for _ in 0..50 {
                last += 1;
                writeln!(stdin, "{last}").unwrap();
            }
        }
        last
    });
    let committed = |store: &str| {
        let parts = std::fs::read_dir(place.path(store).join("parts"));
        parts.map_or(0, Iterator::count)
    };
    let mut before = 0;
    for kill in 0..kills {
        let mut follower = place.command(&followed).spawn().unwrap();
        // It goes on: something new is committed each time, then it is killed a little later.
        tipple_testkit::wait_for("a new part", || {
            assert_eq!(follower.try_wait().unwrap(), None);
            committed("a") > before
        });
        std::thread::sleep(Duration::from_micros(kill * 1700 % 23_000));
        follower.kill().unwrap();
        follower.wait().unwrap();
        before = committed("a").max(before);
    }
    stop.send(()).unwrap();
    let last: u64 = producing.join().unwrap();
    assert!(producer.wait().unwrap().success());

    // Without --follow it is finished.
    place.run(&dump).ok();
    for store in ["a", "b"] {
        place.run(&["verify", store, "--encrypt-key", "key"]).ok();
        let events = place
            .run(&["cat", store, "--encrypt-key", "key"])
            .ok()
            .json();
        let payloads = events
            .iter()
            .map(|event| event["payload"].as_str().unwrap());
        assert!(payloads.eq((0..=last).map(|n| n.to_string())), "{store}");
        let positions = events
            .iter()
            .map(|event| event["position"].as_u64().unwrap());
        assert!(positions.eq(1..=last + 1), "{store}");
    }
    assert!(
        std::fs::read(place.path("a/SHA256SUMS")).unwrap()
            == std::fs::read(place.path("b/SHA256SUMS")).unwrap()
    );
}

#[test]
fn following_is_interrupted_and_goes_on() {
    let place = Place::new();
    place.pipe(&["append", "log:l"], b"1\n2\n").ok();
    let mut running = place.start(&[
        "dump",
        "log:l",
        "d",
        "--follow",
        "--chunk-age",
        "10ms",
        "--json",
    ]);
    let part = running.wait_for("part");
    assert_eq!(part["records"], 2);
    running.signal("INT");
    let (last, exit) = running.end();
    assert_eq!(exit, Some(130), "{last}");
    // What is there can be used before it is finished.
    place.run(&["verify", "d", "--partial"]).ok();
    place.run(&["load", "d", "log:copy", "--partial"]).ok();
    let refused = place.run(&["load", "d", "log:other"]);
    assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
    place.pipe(&["append", "log:l"], b"3\n").ok();

    // To an end that is known it ends by itself.
    place
        .run(&[
            "dump",
            "log:l",
            "ended",
            "--follow",
            "--to",
            "3",
            "--chunk-age",
            "10ms",
        ])
        .ok();
    place.run(&["verify", "ended"]).ok();
    place.run(&["dump", "log:l", "d"]).ok();
    let loaded = place
        .run(&["load", "d", "log:copy", "--json"])
        .ok()
        .report();
    assert_eq!(loaded["sink"], json!({"appended": 1, "there_before": 2}));

    // Neither another stream of the same name, nor a dump that was begun otherwise.
    let mut running = place.start(&[
        "dump",
        "log:l",
        "e",
        "--follow",
        "--chunk-age",
        "10ms",
        "--json",
    ]);
    running.wait_for("part");
    running.signal("KILL");
    drop(running);
    std::fs::remove_dir_all(place.path("l")).unwrap();
    place.pipe(&["append", "log:l"], b"x\ny\nz\nzz\n").ok();
    let refused = place.run(&["dump", "log:l", "e", "--follow"]);
    assert_eq!(refused.exit, Some(10), "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("was made anew since the dump began"),
        "{}",
        refused.stderr
    );
    let mut running = place.start(&["dump", "log:l", "f", "--rate", "1/s", "--json"]);
    running.wait_for("start");
    running.signal("KILL");
    drop(running);
    let refused = place.run(&["dump", "log:l", "f", "--follow"]);
    assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("was begun without --follow"),
        "{}",
        refused.stderr
    );
    let refused = place.run(&["dump", "-", "g", "--follow"]);
    assert!(
        refused.stderr.contains("--follow is for streams"),
        "{}",
        refused.stderr
    );
}
