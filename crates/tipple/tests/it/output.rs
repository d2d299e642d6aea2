//! JSON, quiet, the log.

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
