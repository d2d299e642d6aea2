//! JSON, quiet, the log.

use std::process::{Command, Stdio};

use tipple_testkit::{Memcached, RawMemcached};

use crate::support::{Place, some_lines};

#[test]
fn the_report_is_the_last_line_and_whole() {
    let place = Place::new();
    place.write("in.txt", some_lines(1 << 20));
    let ran = place.run(&["dump", "lines:in.txt", "d", "--json"]).ok();
    let events = ran.json();
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .filter(|name| *name != "progress")
        .collect();
    assert_eq!(names[0], "start");
    assert!(
        names.contains(&"phase") && names.contains(&"part"),
        "{names:?}"
    );
    for (verb, report) in [
        ("dump", ran.report()),
        (
            "verify",
            place.run(&["verify", "d", "--json"]).ok().report(),
        ),
        (
            "load",
            place
                .run(&["load", "d", "lines:out.txt", "--json"])
                .ok()
                .report(),
        ),
        (
            "copy",
            place
                .run(&["copy", "lines:in.txt", "lines:out2.txt", "--json"])
                .ok()
                .report(),
        ),
    ] {
        assert_eq!(report["verb"], verb);
        for key in [
            "records",
            "chunks",
            "parts",
            "raw_bytes",
            "stored_bytes",
            "elapsed_ms",
            "waited_ms",
            "memory_bytes_budget",
            "memory_bytes_max",
            "spool_bytes_max",
        ] {
            assert!(report[key].is_u64(), "{verb}: {key}: {report}");
        }
        assert!(report["lost"].is_object() && report["outcomes"].is_object());
        assert_eq!(report["exit"], 0);
        assert!(report["memory_bytes_max"].as_u64() <= report["memory_bytes_budget"].as_u64());
    }
    for args in [
        &["list", "d", "--json"][..],
        &["prune", "d", "--json"],
        &["doctor", "d", "--json"],
        &["doctor", "lines:in.txt", "--json"],
    ] {
        place.run(args).ok().report();
    }
}

#[test]
fn bars_show_how_fast_and_how_long_still_on_80_columns() {
    let place = Place::new();
    place.write("in.txt", some_lines(8 << 20));
    let tipple = env!("CARGO_BIN_EXE_tipple");
    let dump = format!("stty cols 80; {tipple} dump lines:in.txt d --buffer 64KiB --rate 4MiB/s");
    let ran = Command::new("script")
        .args(["--quiet", "--return", "--command", &dump, "/dev/null"])
        .current_dir(place.path(""))
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script is in the package bsdutils");
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{shown}");
    // Each whole, whatever is cut off on the right.
    for part in [
        " MiB/s · ETA ",
        " · parts 0 of 1",
        " records · ",
        " · memory ",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
}

#[test]
fn quiet_means_quiet() {
    let place = Place::new();
    place.write("in.txt", "one\n");
    for args in [
        &["dump", "lines:in.txt", "d", "--quiet"][..],
        &["verify", "d", "--quiet"],
        &["load", "d", "lines:out.txt", "-q"],
        &["prune", "d", "-q"],
    ] {
        let ran = place.run(args).ok();
        assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""), "{args:?}");
    }
    let ran = place.run(&["dump", "lines:nowhere", "e", "-q"]);
    assert!(
        ran.stderr.starts_with("error: "),
        "errors are told all the same"
    );
}

#[test]
fn the_log_has_times_and_levels() {
    let place = Place::new();
    place.write("in.txt", "one\n");
    place
        .run(&[
            "dump",
            "lines:in.txt",
            "d",
            "-q",
            "--log-file",
            "log",
            "--log-level",
            "debug",
        ])
        .ok();
    place.run(&["dump", "lines:in.txt", "d", "-q", "--log-file", "log"]);
    place
        .run(&[
            "verify",
            "d",
            "-q",
            "--log-file",
            "quiet",
            "--log-level",
            "error",
        ])
        .ok();
    let log = String::from_utf8(place.read("log")).unwrap();
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(
            time.starts_with("20") && time.ends_with('Z') && time.len() == 24,
            "{line}"
        );
        let level = rest.split_whitespace().next().unwrap();
        assert!(["INFO", "DEBUG", "ERROR"].contains(&level), "{line}");
    }
    assert!(log.contains(" INFO  dumping lines:in.txt to d\n"), "{log}");
    assert!(log.contains(" DEBUG part "), "{log}");
    assert!(
        log.contains(" ERROR error: d holds a finished dump"),
        "{log}"
    );
    assert!(place.read("quiet").is_empty());
}

#[test]
fn every_yes_of_the_variable_asks_for_json() {
    let place = Place::new();
    for (yes, lines) in [("true", 1), ("Yes", 1), ("on", 1), ("1", 1), ("no", 0)] {
        // An error of what was typed, which is told before the variable is understood.
        let ran = place.run_with(&["verify", "d", "--typo"], &[("TIPPLE_JSON", yes)]);
        assert_eq!((ran.exit, ran.json().len()), (Some(2), lines), "{yes}");
    }
}

#[test]
fn the_budget_that_a_copy_tells_is_the_one_it_keeps() {
    let place = Place::new();
    let (from, to) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&from).fill(100);
    let [from, to] = [from.addr(), to.addr()].map(|addr| format!("memcached://{addr}"));
    for args in [
        &["copy", &from, &to][..],
        &["dump", &from, "d"],
        &["dump", &from, "c", "--layout", "cachemover"],
    ] {
        let ran = place.run(args).ok();
        let after = |words: &str| {
            let (_, rest) = ran.stderr.split_once(words).expect(words);
            rest.split([':', '\n']).next().unwrap().to_owned()
        };
        assert_eq!(
            after("memory budget "),
            after(", of a budget of "),
            "{}",
            ran.stderr
        );
    }
}
