//! Every error line that a user may meet.

use std::fmt::Write;

use insta::assert_snapshot;

use crate::support::{Place, Ran, unfinish};

/// The command, what it said, and how it ended.
fn tell(text: &mut String, args: &[&str], ran: &Ran) {
    writeln!(text, "$ tipple {}", args.join(" ")).unwrap();
    let errors = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "one line: {}", ran.stderr);
    if !args.contains(&"--json") {
        assert_eq!(ran.stdout, "", "errors go to standard error");
    }
    writeln!(text, "{}[exit {}]\n", ran.stderr, ran.exit.unwrap()).unwrap();
}

fn told(place: &Place, commands: &[&[&str]]) -> String {
    let mut text = String::new();
    for args in commands {
        tell(&mut text, args, &place.run(args));
    }
    text
}

#[test]
fn usage() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    let commands: &[&[&str]] = &[
        &["dmp"],
        &["dump"],
        &["dump", "lines:in.txt"],
        &["dump", "lines:in.txt", "d", "--thread", "4"],
        &["dump", "lines:in.txt", "d", "--password=hunter2"],
        &["dump", "lines:in.txt", "d", "--threads", "many"],
        &["dump", "lines:in.txt", "d", "--threads", "0"],
        &["dump", "lines:in.txt", "d", "--buffer", "8M"],
        &["dump", "lines:in.txt", "d", "--buffer", "1KiB"],
        &["dump", "lines:in.txt", "d", "--chunk-size", "64KiB"],
        &["dump", "lines:in.txt", "d", "--rate", "60MiB"],
        &[
            "dump",
            "lines:in.txt",
            "d",
            "--rate",
            "1MB/s",
            "--rate",
            "2MB/s",
        ],
        &["dump", "lines:in.txt", "d", "--compress", "gzip"],
        &["dump", "lines:in.txt", "d", "--compress", "zstd:99"],
        &["dump", "lines:in.txt", "d", "--layout", "mydumper"],
        &["dump", "lines:in.txt", "d", "--memory", "1MiB"],
        &["dump", "lines:in.txt", "d", "--key-prefix", "a"],
        &["dump", "lines:in.txt", "d", "--listing", "hash"],
        &["dump", "-", "d", "--part-size", "1MiB"],
        &["copy", "memcached://a,b", "memcached://b,c"],
        &["dump", "memcached://a", "d", "--listing", "all:0"],
        &["dump", "memcached://a", "d", "--key-regex", "("],
        &["dump", "memcached://a", "d", "--min-ttl", "5"],
        &["dump", "memcached://a", "d", "--own", "b:1"],
        &["dump", "memcached://a", "d", "--ring", "b:1"],
        &[
            "dump",
            "memcached://a",
            "d",
            "--ring",
            "b:1",
            "--own",
            "c:1",
        ],
        &[
            "dump",
            "memcached://a",
            "d",
            "--ring",
            "b:1",
            "--own",
            "b:1",
            "--ring-buckets",
            "7",
        ],
        &["dump", "memcached://a", "d", "--key-file-size", "1KiB"],
        &["dump", "memcached://a", "d", "--connect-timeout", "0s"],
        &["dump", "lines:in.txt", "d", "--part-size", "0"],
        &["dump", "memcached://a", "d", "--user", "me"],
        &["dump", "memcached://a", "d", "--password-file", "none"],
        &["dump", "memcached://a", "d", "--io-timeout", "1ms"],
        &["load", "d", "lines:out", "--parts", "3..3"],
        &["load", "d", "-", "--json"],
        &["load", "d", "memcached://a", "--overwrite"],
        &["load", "d", "lines:out", "--mode", "add"],
        &["verify", "d", "--quik"],
        &["man", "dmp"],
        &["completions", "tcsh"],
    ];
    assert_snapshot!(told(&place, commands));
    assert!(!place.path("d").exists(), "d was made for nothing");
}

#[test]
fn sources_sinks_and_stores() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    let commands: &[&[&str]] = &[
        &["dump", "foo://x", "d"],
        &["dump", "nats://me:hunter2@h/a.b", "d"],
        &["dump", "redis://me:hunter2@h", "d"],
        &["dump", "mysql://h/db", "d"],
        &["dump", "kafka://h/t", "d"],
        &["dump", "log:x", "d"],
        &["dump", "in.txt", "d"],
        &["dump", "nowhere", "d"],
        &["dump", "lines:", "d"],
        &["dump", "lines:nowhere", "d"],
        &["dump", "lines:.", "d"],
        &["dump", "memcached://", "d"],
        &["dump", "memcached://me:hunter2@h", "d"],
        &["dump", "memcached://h/0", "d"],
        &["dump", "lines:in.txt", "s3:/bucket/d"],
        &["dump", "lines:in.txt", "foo://d"],
        &["load", "d", "out.txt"],
        &["load", "d", "foo://x"],
        &["load", "d", "lines:no/such/folder"],
        &["doctor", "s3:bucket"],
        &["doctor", "-"],
        &["doctor", "nowhere"],
    ];
    assert_snapshot!(told(&place, commands));
}

#[test]
fn what_cannot_be_reached_or_written() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    place.run(&["dump", "lines:in.txt", "lines-dump"]).ok();
    let commands: &[&[&str]] = &[
        // Nobody listens on port 1.
        &["dump", "memcached://127.0.0.1:1", "d"],
        &["dump", "memcached:///nowhere.sock", "d"],
        &["doctor", "memcached://127.0.0.1:1"],
        // Not even root makes a folder there.
        &["dump", "lines:in.txt", "/proc/tipple"],
        &["dump", "lines:in.txt", "in.txt"],
        &["verify", "nowhere"],
        &["list", "nowhere"],
        &["cat", "nowhere"],
        &["prune", "nowhere", "--yes"],
        &["load", "nowhere", "-"],
        &[
            "dump",
            "lines:in.txt",
            "e",
            "--log-file",
            "/proc/tipple.log",
        ],
        &["dump", "lines:in.txt", "e", "--config", "nowhere.toml"],
    ];
    assert_snapshot!(told(&place, commands));
    for name in ["nowhere", "d", "e"] {
        assert!(!place.path(name).exists(), "{name} was made for nothing");
    }
}

#[test]
fn dumps_that_are_not_the_right_ones() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    place.write("other.txt", "three\n");
    place.write("out.txt", "is here already\n");
    std::fs::create_dir(place.path("other")).unwrap();
    place.write("other/file", "");
    place.run(&["dump", "lines:in.txt", "done"]).ok();
    place.run(&["dump", "lines:in.txt", "begun"]).ok();
    unfinish(&place.path("begun"));
    place.run(&["dump", "lines:in.txt", "cut"]).ok();
    unfinish(&place.path("cut"));
    let commands: &[&[&str]] = &[
        &["dump", "lines:in.txt", "done"],
        &["dump", "lines:in.txt", "begun", "--compress", "none"],
        &["dump", "lines:in.txt", "begun", "--chunk-size", "1MiB"],
        &["dump", "lines:in.txt", "other"],
        &["dump", "done", "d"],
        &["verify", "other"],
        &["cat", "cut"],
        &["load", "cut", "-"],
        &["load", "done", "lines:out.txt"],
        &["load", "done", "lines:new.txt", "--parts", "0..7"],
        &["load", "done", "lines:new.txt", "--state", "state"],
        &["load", "done", "memcached://127.0.0.1:1"],
        &["prune", "cut", "--yes"],
        &["prune", "other"],
    ];
    assert_snapshot!(told(&place, commands));
    let other = place.run(&["dump", "lines:other.txt", "begun"]);
    assert_eq!(other.exit, Some(2));
    assert!(
        other
            .stderr
            .contains("is an unfinished dump of another source"),
        "{}",
        other.stderr
    );
}

#[test]
fn damage_is_told_object_by_object() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    place.run(&["dump", "lines:in.txt", "d"]).ok();
    unfinish(&place.path("d"));
    let ran = place.run(&["verify", "d"]);
    assert_eq!(ran.exit, Some(4));
    assert_snapshot!(ran.stderr, @r"
      DONE: is missing: the dump is not complete
    error: d is damaged or not complete: 1 problem
    ");
    assert_eq!(place.run(&["verify", "d", "--json"]).report()["exit"], 4);
    place.run(&["verify", "d", "--partial"]).ok();
}

#[test]
fn with_json_the_error_is_the_last_line() {
    let place = Place::new();
    for (args, exit, kind) in [
        (&["dump", "foo://x", "d", "--json"][..], 2, "usage"),
        (&["dump", "x", "d", "--json", "--nonsense"], 2, "usage"),
        (
            &["dump", "memcached://127.0.0.1:1", "d", "--json"],
            10,
            "live",
        ),
        (&["verify", "nowhere", "--json"], 11, "store"),
    ] {
        let ran = place.run(args);
        assert_eq!(ran.exit, Some(exit));
        let last = ran.json().pop().unwrap();
        assert_eq!(last["event"], "error");
        assert_eq!(last["kind"], kind);
        assert_eq!(last["exit"], exit);
        let message = last["message"].as_str().unwrap();
        let line = format!("error: {message}\n");
        assert_eq!(ran.stderr, place.redact(&line));
    }
}

#[test]
fn no_password_is_ever_shown() {
    let place = Place::new();
    place.write("password", "hunter2\n");
    for (args, variables) in [
        (
            &["dump", "memcached://127.0.0.1:1", "d", "--user", "me"][..],
            &[("TIPPLE_MEMCACHED_PASSWORD", "hunter2")][..],
        ),
        (
            &[
                "dump",
                "memcached://127.0.0.1:1",
                "d",
                "--user",
                "me",
                "--password-file",
                "password",
            ],
            &[],
        ),
        (&["dump", "memcached://me:hunter2@127.0.0.1:1", "d"], &[]),
        (&["dump", "mysql://me:hunter2@h/d", "d"], &[]),
        (&["dump", "lines:in", "s3://me:hunter2@h/d"], &[]),
        (
            &["dump", "memcached://a", "d", "--password", "hunter2"],
            &[],
        ),
        (&["dump", "memcached://a", "d", "--password=hunter2"], &[]),
    ] {
        let mut args = args.to_vec();
        args.extend(["--json", "--log-file", "log", "--log-level", "debug"]);
        let ran = place.run_with(&args, variables);
        assert_ne!(ran.exit, Some(0));
        let log = std::fs::read_to_string(place.path("log")).unwrap_or_default();
        for text in [&ran.stdout, &ran.stderr, &log] {
            assert!(!text.contains("hunter2"), "{args:?}: {text}");
        }
    }
}
