//! The memory that loading, copying and verifying streams takes, with events of very different sizes.

use std::process::Stdio;

use serde_json::{Value, json};
use tipple_testkit::{Nats, RawNats, Redis, try_memory_max};

use crate::support::Place;

/// What a process may hold beside its budget: itself, and what the allocator keeps.
const BESIDE: u64 = 32 << 20;

/// Runs it to its end, and holds the most memory that it had against what it announced.
#[track_caller]
fn held_to_its_budget(place: &Place, args: &[&str]) -> Value {
    let mut child = place
        .command(&[args, &["--json"]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = 0;
    while child.try_wait().unwrap().is_none() {
        // `None` if it has ended in between.
        held = held.max(try_memory_max(child.id()).unwrap_or(0));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {:?}", output.status);
    let output = String::from_utf8(output.stdout).unwrap();
    let said: Vec<Value> = (output.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let start = said.iter().find(|event| event["event"] == "start").unwrap();
    let budget = start["memory_bytes_budget"].as_u64().unwrap();
    assert!(held > 1 << 20, "{args:?}: nothing was seen");
    assert!(
        held <= budget + BESIDE,
        "{args:?}: {held} of {budget} and {BESIDE}"
    );
    said.into_iter().next_back().unwrap()
}

/// Events with payloads of these many bytes in a log, hardly compressible.
fn append(place: &Place, sizes: &[usize]) {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    let mut noise = 1_u64;
    let mut lines = Vec::new();
    for size in sizes {
        lines.extend_from_slice(br#"{"key":"k","payload":""#);
        lines.extend((0..*size).map(|_| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            letters[(noise >> 58) as usize]
        }));
        lines.extend_from_slice(b"\"}\n");
    }
    let append = ["append", "log:l", "--format", "ndjson"];
    place.pipe(&append, &lines).ok();
}

/// The largest record that the part records of a dump speak of.
fn largest(place: &Place, dump: &str) -> u64 {
    let parts = std::fs::read_dir(place.path(dump).join("parts")).unwrap();
    let sizes = parts.map(|part| {
        let record = std::fs::read(part.unwrap().path()).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        record["record_bytes_max"].as_u64().unwrap()
    });
    sizes.max().unwrap()
}

#[test]
fn a_job_holds_what_it_announced_whatever_the_events() {
    const MIB: usize = 1 << 20;
    let place = Place::new();
    let sizes = [100, 3 * MIB, 11 * MIB, 1, 6 * MIB, 11 * MIB, 30];
    append(&place, &sizes);
    let nats = Nats::start("max_payload: 16MB");
    RawNats::connect(nats.port()).create_stream("S", json!({ "subjects": ["k"] }));
    let redis = Redis::start(&[]);
    let sinks = [
        "log:m".to_owned(),
        format!("nats://127.0.0.1:{}/S", nats.port()),
        format!("redis://{}/s", redis.addr()),
    ];
    let small = ["--buffer", "1MiB", "--threads", "2"];
    // All in one part, and a part for each of the large ones.
    for (dump, part_size) in [("d", "256MiB"), ("e", "1MiB")] {
        let dumped = [
            &["dump", "log:l", dump, "--part-size", part_size],
            &small[..],
        ];
        held_to_its_budget(&place, &dumped.concat());
        held_to_its_budget(&place, &["verify", dump]);
        assert_eq!(largest(&place, dump), 11 * MIB as u64 + 29);
    }
    for sink in &sinks {
        // The second one finds the last event, and compares.
        for appended in [sizes.len(), 0] {
            let report = held_to_its_budget(&place, &["load", "d", sink]);
            assert_eq!(report["sink"]["appended"], appended, "{sink}");
        }
    }
    for (n, source) in sinks.iter().enumerate().skip(1) {
        let to = format!("log:c{n}");
        let report = held_to_its_budget(&place, &["copy", source, &to, "--buffer", "1MiB"]);
        assert_eq!(report["sink"]["appended"], sizes.len(), "{source}");
    }
    // What would not do is told at the start.
    let refused = place.run(&["load", "d", "log:n", "--memory", "16MiB"]);
    assert_eq!(refused.exit, Some(12), "{}", refused.stderr);
    assert!(!place.path("n").exists());
}

/// Nobody knows how large the entries of a Redis stream are before they come.
#[test]
fn a_copy_refuses_an_event_that_it_cannot_hold() {
    let place = Place::new();
    append(&place, &[10, 17 << 20]);
    let redis = Redis::start(&[]);
    let url = format!("redis://{}/s", redis.addr());
    place.run(&["copy", "log:l", &url]).ok();
    let refused = place.run(&["copy", &url, "log:m"]);
    assert_eq!(refused.exit, Some(12), "{}", refused.stderr);
    let error = refused.stderr.lines().last().unwrap();
    assert!(
        error.contains("dump the source and load the dump"),
        "{error}"
    );
    place.run(&["dump", &url, "d"]).ok();
    place.run(&["load", "d", "log:m"]).ok();
}
