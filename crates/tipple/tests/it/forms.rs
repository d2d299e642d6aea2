//! Dumps of streams for queries, read by DuckDB.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tipple_testkit::{MiniStack, Nats, RawNats, Redis, damage, duckdb};

use crate::support::{Place, Ran};

/// How DuckDB reads a dump of each form.
const FORMS: [(&str, &str); 2] = [
    (
        "parquet",
        "read_parquet('d/data/**/*.parquet', hive_partitioning=true)",
    ),
    (
        "ndjson",
        "read_ndjson('d/data/**/*.ndjson.zst', hive_partitioning=true)",
    ),
];

/// Midnight between 20 and 21 November 2026, in milliseconds.
const MIDNIGHT_MS: i64 = 1_795_219_200_000;

impl Place {
    fn query(&self, sql: &str) -> Vec<Value> {
        duckdb(&self.path(""), sql)
    }

    /// Events and different positions that a query sees.
    fn counted(&self, from: &str) -> (u64, u64) {
        let sql = format!("select count(*), count(distinct position) from {from}");
        let row = self.query(&sql).remove(0);
        (row[0].as_u64().unwrap(), row[1].as_u64().unwrap())
    }

    fn objects(&self) -> Vec<PathBuf> {
        let data = self.path("d/data");
        let names = damage::files(&data);
        names.iter().map(|name| data.join(name)).collect()
    }

    /// Appends events whose times go back and forth around midnight.
    fn append_events(&self, events: i64) {
        let line = |n: i64| {
            let ms = MIDNIGHT_MS + (n * 7919 % 2003 - 1000);
            let time = format!(
                "{}.{:03}",
                seconds(ms.div_euclid(1000)),
                ms.rem_euclid(1000)
            );
            let payload = format!("event {n} {}", "x".repeat((n * 31 % 400) as usize));
            json!({ "time": format!("{time}Z"), "key": format!("k{}", n % 3), "payload": payload })
        };
        let lines: String = (0..events).map(|n| format!("{}\n", line(n))).collect();
        self.pipe(&["append", "log:l", "--format", "ndjson"], lines.as_bytes())
            .ok();
    }

    #[track_caller]
    fn refused(&self, args: &[&str], exit: i32, words: &str) {
        let Ran {
            exit: found,
            stderr,
            ..
        } = self.run(args);
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert_eq!(found, Some(exit), "{args:?}: {stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    }

    fn sums_are_right(&self) {
        let checked = Command::new("sha256sum")
            .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
            .current_dir(self.path("d"))
            .status();
        assert!(checked.unwrap().success());
    }
}

/// The second before midnight, or after it.
fn seconds(second: i64) -> &'static str {
    match second - MIDNIGHT_MS / 1000 {
        -1 => "2026-11-20T23:59:59",
        0 => "2026-11-21T00:00:00",
        _ => "2026-11-21T00:00:01",
    }
}

#[test]
fn every_event_looks_the_same_to_a_query() {
    let place = Place::new();
    let events = r#"{"key":"orders.eu","headers":[["x","1"],["x",null],["",""]],"payload":"hello","time":"2026-11-20T23:59:59.123456789Z"}
{"key":"","headers":[],"payload":"","time":"1969-12-31T23:59:59.999999999Z"}
{"payload":null,"time":null}
{"key":{"base64":"/w=="},"headers":[[{"base64":"/g=="},{"base64":"/QA="}]],"payload":{"base64":"AP8="},"time":"2262-04-11T23:47:16.854775807Z"}
{"key":"a/b=c","payload":"line\n\"quoted\" \u0001 é","time":"1677-09-21T00:12:44Z"}
"#;
    place
        .pipe(
            &["append", "log:orders", "--format", "ndjson"],
            events.as_bytes(),
        )
        .ok();
    let columns = "position, stream, coalesce(key, 'null'), ";
    let rows = [
        (1, "orders.eu", "2026/11/20/orders.eu"),
        (2, "", "1969/12/31/__HIVE_DEFAULT_PARTITION__"),
        (
            3,
            "null",
            "__HIVE_DEFAULT_PARTITION__/__HIVE_DEFAULT_PARTITION__",
        ),
        (4, "null", "2262/04/11/_FF"),
        (5, "a/b=c", "1677/09/21/a_2Fb_3Dc"),
    ];
    for codec in ["none", "zstd:3"] {
        for (form, from) in FORMS {
            let dump = [
                "dump",
                "log:orders",
                "d",
                "--format",
                form,
                "--compress",
                codec,
            ];
            let path = ["--path", "{time:%Y/%m/%d}/{key}"];
            place.run(&[&dump[..], &path].concat()).ok();
            place.run(&["verify", "d"]).ok();
            place.sums_are_right();
            let found = place.query(&format!(
                "select {columns} replace(filename, 'd/data/', '') from {}",
                from.replace("hive_partitioning=true", "filename=true") + " order by position"
            ));
            for ((position, key, folder), row) in rows.iter().zip(&found) {
                assert_eq!(
                    (row[0].as_i64(), row[1].as_str()),
                    (Some(*position), Some("orders"))
                );
                assert_eq!(row[2], *key);
                let file = row[3].as_str().unwrap();
                assert!(
                    file.starts_with(&format!("{folder}/0000000000000000000{position}-")),
                    "{file}"
                );
            }
            assert_eq!(found.len(), rows.len());
            if form == "parquet" {
                let rows = place.query(&format!("select time_nanos, epoch_us(time), hex(key_bytes), hex(payload), headers from {from} order by position"));
                assert_eq!(
                    rows,
                    [
                        json!([
                            1_795_219_199_123_456_789_i64,
                            1_795_219_199_123_456_i64,
                            null,
                            "68656C6C6F",
                            "[{'name': 'x', 'name_bytes': None, 'value': '1', 'value_bytes': None}, {'name': 'x', 'name_bytes': None, 'value': None, 'value_bytes': None}, {'name': '', 'name_bytes': None, 'value': '', 'value_bytes': None}]"
                        ]),
                        json!([-1, -1, null, "", "[]"]),
                        json!([null, null, null, null, "[]"]),
                        json!([
                            i64::MAX,
                            9_223_372_036_854_775_i64,
                            "FF",
                            "00FF",
                            r"[{'name': None, 'name_bytes': b'\xfe', 'value': None, 'value_bytes': b'\xfd\x00'}]"
                        ]),
                        json!([
                            -9_223_372_036_000_000_000_i64,
                            -9_223_372_036_000_000_i64,
                            null,
                            "6C696E650A2271756F74656422200120C3A9",
                            "[]"
                        ]),
                    ]
                );
            } else {
                let shown = place.run(&["cat", "d"]).ok();
                let lines = shown.json();
                let at = |position: i64| {
                    (lines.iter().position(|line| line["position"] == position)).unwrap()
                };
                let line = |position: i64| &lines[at(position)];
                let line_text = |position: i64| shown.stdout.lines().nth(at(position)).unwrap();
                assert_eq!(
                    line_text(1),
                    r#"{"position":1,"time":"2026-11-20T23:59:59.123456789Z","stream":"orders","key":"orders.eu","key_base64":null,"headers":[{"name":"x","value":"1"},{"name":"x","value":null},{"name":"","value":""}],"payload":"hello","payload_base64":null}"#
                );
                assert_eq!(line(2)["payload"], "");
                assert_eq!(
                    line_text(3),
                    r#"{"position":3,"time":null,"stream":"orders","key":null,"key_base64":null,"headers":[],"payload":null,"payload_base64":null}"#
                );
                assert_eq!(
                    line_text(4),
                    r#"{"position":4,"time":"2262-04-11T23:47:16.854775807Z","stream":"orders","key":null,"key_base64":"/w==","headers":[{"name":null,"name_base64":"/g==","value":null,"value_base64":"/QA="}],"payload":null,"payload_base64":"AP8="}"#
                );
                assert_eq!(line(5)["payload"], "line\n\"quoted\" \u{1} é");
            }
            std::fs::remove_dir_all(place.path("d")).unwrap();
        }
    }
}

#[test]
fn each_event_goes_into_the_folder_of_its_own_time() {
    let place = Place::new();
    place.append_events(5000);
    for (form, from) in FORMS {
        // Several batches of a part, several parts.
        let dump = [
            "dump",
            "log:l",
            "d",
            "--format",
            form,
            "--path",
            "dt={time:%F}/{stream}/k={key}",
        ];
        let sizes = ["--chunk-size", "1MiB", "--part-size", "512KiB", "--json"];
        let report = place.run(&[&dump[..], &sizes].concat()).ok().report();
        assert_eq!(
            (&report["records"], &report["lost"]),
            (&json!(5000), &json!({})),
            "{report}"
        );
        assert_eq!(report["chunks"], json!(place.objects().len()), "{report}");
        place.run(&["verify", "d"]).ok();
        place.run(&["verify", "d", "--quick"]).ok();
        assert_eq!(place.counted(from), (5000, 5000));
        let wrong = format!(
            "select count(*) from {from} where strftime(time::timestamp, '%Y-%m-%d') != dt::varchar or key != k"
        );
        assert_eq!(place.query(&wrong), [json!([0])]);
        let days = format!("select dt::varchar, count(*) from {from} group by all order by all");
        let days = place.query(&days);
        assert_eq!(days.len(), 2, "{days:?}");
        assert_eq!(days[0][0], "2026-11-20");
        let listed = place.run(&["list", "d"]).ok().stdout;
        assert!(listed.contains("dt={time:%F}/{stream}/k={key}"), "{listed}");
        place.run(&["prune", "d", "--yes"]).ok();
        assert_eq!(place.counted(from), (5000, 5000));
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
}

#[test]
fn ids_of_redis_and_subjects_of_nats() {
    let place = Place::new();
    let server = Redis::start(&[]);
    let mut client = server.client();
    for number in [9, 10, 11] {
        client.words(&format!("XADD a:1 {number}-7 n {number} n again"));
    }
    let url = format!("redis://{}/a:1", server.addr());
    for (form, from) in FORMS {
        place
            .run(&["dump", &url, "d", "--format", form, "--path", "{stream}"])
            .ok();
        place.run(&["verify", "d"]).ok();
        let rows = format!(
            "select position, time::timestamp, stream, key, len(headers), headers[1].value from {from} order by time"
        );
        let row = |n: u64| {
            json!([
                format!("{n}-7"),
                format!("1970-01-01 00:00:00.{n:03}000"),
                "a:1",
                null,
                2,
                n.to_string()
            ])
        };
        assert_eq!(place.query(&rows), [row(9), row(10), row(11)]);
        let object = place.objects().remove(0);
        let object = object.display().to_string();
        assert!(
            object.contains("a_3A1/00000000000000000009-00000000000000000007-"),
            "{object}"
        );
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
    let server = Nats::start("");
    let mut client = RawNats::connect(server.port());
    client.create_stream("ORDERS", json!({ "subjects": ["orders.>"] }));
    for number in 0..10 {
        client.publish(
            &format!("orders.{}", number % 2),
            b"NATS/1.0\r\nN: 1\r\n\r\n",
            b"pay\xffload",
        );
    }
    client.store("orders.last", b"", b"");
    client.must("STREAM.MSG.DELETE.ORDERS", json!({ "seq": 5 }));
    let url = format!("nats://127.0.0.1:{}/ORDERS", server.port());
    for (form, from) in FORMS {
        let report = place
            .run(&[
                "dump",
                &url,
                "d",
                "--format",
                form,
                "--path",
                "{stream}/{subject}",
                "--json",
            ])
            .ok()
            .report();
        assert_eq!(
            (&report["records"], &report["outcomes"]),
            (&json!(10), &json!({ "deleted": 1 }))
        );
        place.run(&["verify", "d"]).ok();
        assert_eq!(place.counted(from), (10, 10));
        let keys = place.query(&format!(
            "select key, count(*) from {from} group by key order by key"
        ));
        assert_eq!(
            keys,
            [
                json!(["orders.0", 4]),
                json!(["orders.1", 5]),
                json!(["orders.last", 1])
            ]
        );
        assert!(place.path("d/data/ORDERS/orders.last").is_dir());
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
}

#[test]
fn damage_is_found() {
    let place = Place::new();
    place.append_events(2000);
    for (form, _) in FORMS {
        for codec in ["none", "zstd:1"] {
            let dump = ["dump", "log:l", "d", "--format", form, "--compress", codec];
            place.run(&[&dump[..], &["--path", "{key}"]].concat()).ok();
            let objects = place.objects();
            assert_eq!(objects.len(), 3);
            let bytes = std::fs::read(&objects[0]).unwrap();
            for at in [
                0,
                5,
                bytes.len() / 3,
                bytes.len() / 2,
                bytes.len() - 40,
                bytes.len() - 1,
            ] {
                damage::flip(&objects[0], at as u64);
                for depth in [&["verify", "d"][..], &["verify", "d", "--quick"]] {
                    place.refused(depth, 4, "1 problem");
                }
                std::fs::write(&objects[0], &bytes).unwrap();
            }
            damage::truncate(&objects[0], bytes.len() as u64 - 1);
            place.refused(&["verify", "d"], 4, "should have");
            damage::delete(&objects[0]);
            place.refused(&["verify", "d"], 4, "is missing");
            std::fs::write(&objects[0], &bytes).unwrap();
            damage::swap(&objects[0], &objects[1]);
            place.refused(&["verify", "d"], 4, "problems");
            damage::swap(&objects[0], &objects[1]);
            // One more would be read by a query.
            let more = damage::duplicate(&objects[0]);
            place.refused(&["verify", "d"], 4, "is in no part record");
            place.run(&["prune", "d", "--yes"]).ok();
            assert!(!more.exists());
            place.run(&["verify", "d"]).ok();
            std::fs::remove_dir_all(place.path("d")).unwrap();
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = Place::new();
    place.append_events(100);
    place.write("lines.txt", "one\n");
    place.run(&["keygen", "key"]).ok();
    let dump = ["dump", "log:l", "d", "--format", "parquet"];
    let with = |more: &[&'static str]| [&dump[..], more].concat();
    place.refused(
        &with(&["--encrypt-key", "key"]),
        2,
        "cannot be sealed, since what queries it could not read it",
    );
    place.refused(
        &with(&["--path", "{ip}"]),
        2,
        "{ip} is none of {time:FORMAT}, {stream}, {key} and {subject}",
    );
    place.refused(&with(&["--path", "/{key}"]), 2, "has / at an end or twice");
    place.refused(
        &["dump", "log:l", "d", "--path", "{key}"],
        2,
        "is for --format ndjson or parquet",
    );
    place.refused(
        &["dump", "lines:lines.txt", "d", "--format", "ndjson"],
        2,
        "--format is for streams",
    );
    assert!(!place.path("d").exists());

    // A path that makes too many objects is told before any is written.
    let lines: String = (0..10_001)
        .map(|n| format!("{{\"key\":\"{n}\",\"payload\":\"\"}}\n"))
        .collect();
    place
        .pipe(
            &["append", "log:keys", "--format", "ndjson"],
            lines.as_bytes(),
        )
        .ok();
    place.refused(
        &[
            "dump", "log:keys", "k", "--format", "ndjson", "--path", "{key}",
        ],
        2,
        "more than 10000 objects for one part",
    );
    assert!(!place.path("k/data").exists());

    let killed =
        place.start(&[&dump[..], &["--path", "{key}", "--rate", "1/s", "--json"]].concat());
    let mut killed = killed;
    killed.wait_for("start");
    killed.signal("KILL");
    drop(killed);
    place.refused(&dump, 2, "was begun with --format parquet --path '{key}', and this is --format parquet: give the same options");
    place.refused(&["dump", "log:l", "d"], 2, "and this is no --format");
    place.run(&with(&["--path", "{key}"])).ok();
    place.refused(
        &["cat", "d"],
        2,
        "query it, for example with DuckDB's read_parquet",
    );
    place.refused(
        &["load", "d", "log:back"],
        2,
        "holds parquet, a form for queries that no sink takes",
    );
    place.refused(&with(&["--path", "{key}"]), 2, "holds a finished dump");
}

/// What does not fit in an object is counted, and nothing else is lost with it.
#[test]
fn an_event_that_is_too_large_is_a_loss() {
    let place = Place::new();
    // Of more than a page, and of text that compresses badly.
    let large: String = (0..300_000_u64)
        .map(|n| format!("{:05x}", (n * n * 7919) & 0xF_FFFF))
        .collect();
    place
        .pipe(
            &["append", "log:l"],
            format!("before\n{large}\n{large}\nafter\n").as_bytes(),
        )
        .ok();
    for (form, from) in FORMS {
        let ran = place.run(&[
            "dump",
            "log:l",
            "d",
            "--format",
            form,
            "--chunk-size",
            "1MiB",
            "--json",
        ]);
        assert_eq!(ran.exit, Some(3), "{}", ran.stderr);
        let report = ran.report();
        assert_eq!(
            (&report["records"], &report["lost"]),
            (&json!(2), &json!({ "too large": 2 })),
            "{report}"
        );
        let warned = ran
            .stderr
            .matches("with --chunk-size 1048576 the most is 131072")
            .count();
        assert_eq!(warned, 1, "{}", ran.stderr);
        place.run(&["verify", "d"]).ok();
        assert_eq!(place.counted(from), (2, 2));
        std::fs::remove_dir_all(place.path("d")).unwrap();
        // With larger objects it fits.
        place
            .run(&[
                "dump",
                "log:l",
                "d",
                "--format",
                form,
                "--chunk-size",
                "16MiB",
            ])
            .ok();
        place.run(&["verify", "d"]).ok();
        assert_eq!(
            place.query(&format!("select max(len(payload::varchar)) from {from}")),
            [json!([1_500_000])]
        );
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
}

/// Killed at every moment, and gone on with: each event once, whatever was left below `data`.
#[cfg(feature = "failpoints")]
#[test]
fn a_kill_at_any_moment_leaves_each_event_once() {
    use crate::support::kill_at;

    let place = Place::new();
    place.append_events(6000);
    for (at, moment) in [
        "begun:1",
        "planning:1",
        "fetching:2",
        "planned:1",
        "sealing:2",
        "sealed:3",
        "putting:4",
        "put:1",
        "put:5",
        "committing:1",
        "committing:2",
        "committed:1",
        "summing:1",
        "summed:1",
    ]
    .iter()
    .enumerate()
    {
        let (form, from) = FORMS[at % 2];
        let dump = [
            "dump",
            "log:l",
            "d",
            "--format",
            form,
            "--path",
            "dt={time:%F}/{key}",
        ];
        let sizes = [
            "--chunk-size",
            "1MiB",
            "--part-size",
            "512KiB",
            "--buffer",
            "64KiB",
        ];
        let args = [&dump[..], &sizes].concat();
        kill_at(place.command(&args), moment);
        // What a part left that was not committed, as another version would have written it.
        let mut strays = Vec::new();
        if place.path("d/data").exists() {
            for object in place.objects() {
                let name = object.display().to_string();
                let (begin, digest) = name.rsplit_once('-').unwrap();
                let other = PathBuf::from(format!("{begin}-{}{}", "0".repeat(32), &digest[32..]));
                std::fs::copy(&object, &other).unwrap();
                strays.push(other);
            }
        }
        assert!(at < 6 || !strays.is_empty(), "{moment}");
        place.run(&args).ok();
        place.run(&["verify", "d"]).ok();
        place.sums_are_right();
        assert_eq!(place.counted(from), (6000, 6000), "{moment}");
        assert!(strays.iter().all(|stray| !stray.exists()), "{moment}");
        let pruned = place.run(&["prune", "d"]).ok();
        assert!(
            !pruned.stdout.contains("data/"),
            "{moment}: {}",
            pruned.stdout
        );
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
}

/// A stream is followed while a producer appends, and the follower killed at moments that nobody chose. While it is
/// followed a query sees no event twice, and in the end all of them.
#[test]
fn a_followed_stream_is_queried() {
    let kills = if tipple_testkit::is_long() { 50 } else { 8 };
    for (form, from) in FORMS {
        let place = Place::new();
        place.append_events(1);
        let dump = [
            "dump",
            "log:l",
            "d",
            "--format",
            form,
            "--path",
            "{time:%M}/{key}",
            "-q",
        ];
        let ages = ["--chunk-age", "20ms", "--part-size", "64KiB"];
        let dump = [&dump[..], &ages].concat();
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
            let mut last = 1;
            while stopped
                .recv_timeout(std::time::Duration::from_millis(3))
                .is_err()
            {
                for _ in 0..50 {
                    last += 1;
                    writeln!(stdin, "{last}").unwrap();
                }
            }
            last
        });
        let committed = || {
            let parts = std::fs::read_dir(place.path("d/parts"));
            parts.map_or(0, Iterator::count)
        };
        let mut before = 0;
        for kill in 0..kills {
            let mut follower = place.command(&followed).spawn().unwrap();
            tipple_testkit::wait_for("a new part", || {
                assert_eq!(follower.try_wait().unwrap(), None);
                committed() > before
            });
            std::thread::sleep(std::time::Duration::from_micros(kill * 1700 % 23_000));
            follower.kill().unwrap();
            follower.wait().unwrap();
            before = committed().max(before);
            if kill % 4 == 0 {
                let (events, positions) = place.counted(from);
                assert!(events == positions && events > 0, "{events}, {positions}");
                place.run(&["verify", "d", "--partial"]).ok();
            }
        }
        stop.send(()).unwrap();
        let last: u64 = producing.join().unwrap();
        assert!(producer.wait().unwrap().success());
        place.run(&dump).ok();
        place.run(&["verify", "d"]).ok();
        let found = place.query(&format!("select position from {from} order by position"));
        let found: Vec<u64> = found.iter().map(|row| row[0].as_u64().unwrap()).collect();
        assert!(
            found.iter().copied().eq(1..=last),
            "{} of {last}",
            found.len()
        );
    }
}

/// The memory that a dump with many folders and large events takes is what it says at its start.
#[cfg(feature = "failpoints")]
#[test]
fn the_memory_is_what_was_told() {
    use std::io::{BufRead, BufReader};

    let place = Place::new();
    let mut lines = String::new();
    for n in 0..2000_u64 {
        // In all more than the budget and what is allowed beside it.
        let size = if n % 16 == 0 { 900_000 } else { 200 };
        // Hardly compressible, so that what is compressed is as large.
        let mut noise = n;
        let payload: String = (0..size / 8)
            .map(|_| {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                format!("{:08x}", noise >> 32)
            })
            .collect();
        lines.push_str(&format!(
            "{{\"key\":\"{}\",\"payload\":\"{payload}\"}}\n",
            n % 300
        ));
    }
    place
        .pipe(&["append", "log:l", "--format", "ndjson"], lines.as_bytes())
        .ok();
    for (form, from) in FORMS {
        let dump = [
            "dump", "log:l", "d", "--format", form, "--path", "{key}", "--json",
        ];
        let sizes = ["--chunk-size", "8MiB", "--threads", "2", "--buffer", "1MiB"];
        let mut child = place
            .command(&[&dump[..], &sizes].concat())
            .env("TIPPLE_PAUSE_AT", "summing:1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
        let start = events
            .find_map(|line| {
                let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
                (event["event"] == "start").then_some(event)
            })
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        said.find(|line| line.as_ref().unwrap().contains("failpoint dump::summing"));
        let budget = start["memory_bytes_budget"].as_u64().unwrap();
        let held = tipple_testkit::memory_max(child.id());
        assert!(held <= budget + (32 << 20), "{form}: {held} of {budget}");
        assert_eq!(place.counted(from), (2000, 2000));
        let sizes: BTreeSet<u64> = place
            .objects()
            .iter()
            .map(|o| o.metadata().unwrap().len())
            .collect();
        assert!(sizes.last().is_some_and(|size| *size < 9 << 20));
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_dir_all(place.path("d")).unwrap();
    }
}

/// In a bucket, which nobody can lock: what another attempt left goes, too, and each folder is one.
#[test]
fn a_bucket_holds_each_event_once() {
    let place = Place::new();
    place.append_events(3000);
    let server = MiniStack::shared();
    let bucket = server.fresh_bucket();
    let url = bucket.url("lake");
    let env = server.account().env();
    let variables: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    let dump = ["dump", "log:l", &url, "--format", "parquet", "--json"];
    let path = ["--path", "dt={time:%F}/k={key}", "--part-size", "256KiB"];
    let args = [&dump[..], &path].concat();
    let mut command = place.command(&args);
    command
        .envs(variables.iter().copied())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    tipple_testkit::wait_for("an object below data", || {
        bucket.keys("lake/data/").len() > 2 || child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // If it was faster than the kill.
    bucket.delete("lake/DONE");
    // As another version would have written it.
    let object = bucket.keys("lake/data/").remove(0);
    let (begin, digest) = object.rsplit_once('-').unwrap();
    let stray = format!("{begin}-{}{}", "0".repeat(32), &digest[32..]);
    bucket.put(&stray, &bucket.get(&object).unwrap());
    place.run_with(&args, &variables).ok();
    place.run_with(&["verify", &url], &variables).ok();
    assert_eq!(bucket.get(&stray), None);
    for object in bucket.keys("lake/data/") {
        let file = place.path("d").join(object.strip_prefix("lake/").unwrap());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bucket.get(&object).unwrap()).unwrap();
    }
    let (_, from) = FORMS[0];
    assert_eq!(place.counted(from), (3000, 3000));
    let days = format!("select count(distinct dt), count(distinct k) from {from}");
    assert_eq!(place.query(&days), [json!([2, 3])]);
}
