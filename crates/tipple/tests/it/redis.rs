//! Redis streams, from end to end.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tipple_testkit::{Certificate, RawRedis, Redis, RedisReply, free_port};

use crate::support::Place;

#[test]
fn a_redis_stream_comes_back_with_its_ids_and_groups() {
    let server = Redis::start(&["--requirepass", "hunter2"]);
    let mut client = server.client();
    let place = Place::new();
    for number in 1..=3000 {
        client.words(&format!("XADD a:1 {number}000-0 n {number} n again"));
    }
    client.words("XDEL a:1 500000-0 3000000-0");
    client.words("XGROUP CREATE a:1 readers 1000000-0 ENTRIESREAD 1000");
    let url = |key: &str| format!("redis://{}/{key}", server.addr());
    let run = |args: &[&str]| place.run_with(args, &[("REDISCLI_AUTH", "hunter2")]);
    let report = run(&["dump", &url("a:1"), "d", "--part-size", "64KiB", "--json"]);
    let report = report.ok().report();
    assert_eq!(report["records"], 2998);
    assert!(report["parts"].as_u64() > Some(1), "{report}");
    assert_eq!(report["lost"], json!({}));
    place.run(&["verify", "d"]).ok();
    let shown = place.run(&["cat", "d", "--limit", "1"]).ok().stdout;
    assert_eq!(
        shown,
        "{\"position\":\"1000-0\",\"time\":\"1970-01-01T00:00:01Z\",\"key\":null,\"headers\":[[\"n\",\"1\"],[\"n\",\"again\"]],\"payload\":null}\n"
    );
    for appended in [2998, 0] {
        let loaded = run(&["load", "d", &url("3/b%2F"), "--json"]).ok().report();
        assert_eq!(loaded["sink"]["appended"], appended);
        assert_eq!(loaded["sink"]["there_before"], 2998 - appended);
    }
    let info = |client: &mut RawRedis, key: &str| {
        let of = |what: &str| format!("XINFO {what} {key}");
        ["STREAM", "GROUPS"].map(|what| format!("{:?}", client.words(&of(what))))
    };
    let before = info(&mut client, "a:1");
    client.words("SELECT 3");
    let after = info(&mut client, "b/");
    // How it is laid out in memory is the server's business.
    let told = |info: &str| info.split("radix-tree").next().unwrap().to_owned();
    assert_eq!(told(&before[0]), told(&after[0]));
    assert_eq!(before[1], after[1]);
    // Straight across, too.
    run(&["copy", &url("a:1"), &url("3/c")]).ok();
    let copied = info(&mut client, "c");
    assert_eq!(told(&before[0]), told(&copied[0]));
    assert_eq!(before[1], copied[1]);
    // Into the log, where the ids become headers, and straight across.
    place.run(&["load", "d", "log:l"]).ok();
    let loaded = place.run(&["load", "d", "log:l", "--json"]).ok().report();
    assert_eq!(loaded["sink"], json!({"appended": 0, "there_before": 2998}));
    run(&["copy", "log:l", &url("4/c")]).ok();
    // What names a place in a range, and a mistake.
    let from = url("a:1");
    let part = [
        "dump",
        &from,
        "e",
        "--json",
        "--from",
        "1970-01-01T00:00:02Z",
        "--to",
        "4000-0",
    ];
    assert_eq!(run(&part).ok().report()["records"], 2);
    let refused = place.run(&["dump", &url("a:1"), "f"]);
    assert_eq!(refused.exit, Some(10));
    assert!(refused.stderr.contains("NOAUTH"), "{}", refused.stderr);
}

#[test]
fn a_redis_stream_goes_over_tls() {
    let place = Place::new();
    let certificate = Certificate::create(&place.path("."));
    let [ca, cert, key] =
        [&certificate.ca, &certificate.cert, &certificate.key].map(|path| path.to_str().unwrap());
    let port = free_port().to_string();
    let server = Redis::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-auth-clients",
        "no",
    ]);
    let mut client = server.client();
    let value = "v".repeat(1000);
    for number in 1..=3000 {
        client.words(&format!("XADD a {number}-0 n {value}"));
    }
    let url = |key: &str| format!("rediss://localhost:{port}/{key}");
    let (a, b) = (url("a"), url("b"));
    let report = place
        .run(&["dump", &a, "d", "--tls-ca", ca, "--json"])
        .ok()
        .report();
    assert_eq!(report["records"], 3000);
    let report = place
        .run(&["load", "d", &b, "--tls-ca", ca, "--json"])
        .ok()
        .report();
    assert_eq!(report["sink"]["appended"], 3000);
    // Somebody else's certificate, and somebody else's name.
    let refused = place.run(&["dump", &a, "e"]);
    assert_eq!(refused.exit, Some(10));
    assert!(refused.stderr.contains("--tls-ca"), "{}", refused.stderr);
    let refused = place.run(&["dump", &a, "e", "--tls-ca", ca, "--tls-name", "other"]);
    assert!(refused.stderr.contains("--tls-name"), "{}", refused.stderr);
    place.run(&["dump", &a, "f", "--tls-insecure"]).ok();
    // A server without TLS.
    let refused = place.run(&["dump", &format!("rediss://{}/a", server.addr()), "e"]);
    assert_eq!(refused.exit, Some(10), "{}", refused.stderr);
    let words = "does not seem to speak TLS";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    let idle = place.run(&["dump", "log:l", "g", "--tls-ca", ca]);
    assert_eq!(idle.exit, Some(2), "{}", idle.stderr);
}

#[test]
fn a_redis_stream_comes_back_whatever_is_killed_when() {
    let kills = if tipple_testkit::is_long() { 50 } else { 6 };
    let server = Redis::start(&[]);
    let url = |key: &str| format!("redis://{}/{key}", server.addr());
    let place = Place::new();
    let dump = &[
        "dump",
        &url("a"),
        "d",
        "--chunk-age",
        "20ms",
        "--part-size",
        "64KiB",
        "-q",
    ];
    let followed = [dump, &["--follow"][..]].concat();
    let mut client = server.client();
    client.words("XADD a * n 0");
    let (stop, stopped) = mpsc::channel::<()>();
    let mut producer = server.client();
    let producing = std::thread::spawn(move || {
        let mut last = 0;
        // In bursts, so that there are moments with nothing to do, and many events of one millisecond.
        while stopped.recv_timeout(Duration::from_millis(3)).is_err() {
            for _ in 0..50 {
                last += 1;
                producer.words(&format!("XADD a * n {last}"));
            }
        }
        last
    });
    let committed = || std::fs::read_dir(place.path("d/parts")).map_or(0, Iterator::count);
    let mut before = 0;
    for kill in 0..kills {
        let mut follower = place.command(&followed).spawn().unwrap();
        tipple_testkit::wait_for("a new part", || {
            assert_eq!(follower.try_wait().unwrap(), None);
            committed() > before
        });
        std::thread::sleep(Duration::from_micros(kill * 1700 % 23_000));
        follower.kill().unwrap();
        follower.wait().unwrap();
        before = committed();
    }
    stop.send(()).unwrap();
    let last: u64 = producing.join().unwrap();
    place.run(dump).ok();
    place.run(&["verify", "d"]).ok();
    let events = place.run(&["cat", "d"]).ok().json();
    let numbers = events.iter().map(|event| event["headers"][0][1].clone());
    assert!(numbers.eq((0..=last).map(|n| json!(n.to_string()))));

    // Enough of it that a load is killed in the middle.
    let count = 5_000 * kills;
    for number in 0..count {
        client.words(&format!("XADD b * n {number} text {}", "x".repeat(200)));
    }
    place
        .run(&["dump", &url("b"), "e", "--part-size", "256KiB"])
        .ok();
    let mut length = 0;
    for kill in 0..kills {
        let mut load = place
            .command(&["load", "e", &url("c"), "--rate", "20000/s", "-q"])
            .spawn()
            .unwrap();
        tipple_testkit::wait_for("more events", || {
            assert_eq!(load.try_wait().unwrap(), None);
            events_of(&mut client, "c") > length
        });
        std::thread::sleep(Duration::from_micros(kill * 1700 % 23_000));
        load.kill().unwrap();
        load.wait().unwrap();
        length = events_of(&mut client, "c");
    }
    assert!((1..count as i64).contains(&length), "{length}");
    place.run(&["load", "e", &url("c")]).ok();
    assert!(client.words("XRANGE b - +") == client.words("XRANGE c - +"));
}

fn events_of(client: &mut RawRedis, key: &str) -> i64 {
    match client.words(&format!("XLEN {key}")) {
        RedisReply::Number(length) => length,
        other => panic!("{other:?}"),
    }
}
