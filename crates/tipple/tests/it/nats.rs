//! Streams of NATS JetStream, from end to end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tipple_testkit::{Certificate, Nats, NatsAccount, RawNats, is_long, wait_for};

use crate::support::Place;

#[test]
fn a_stream_of_nats_goes_into_a_dump_and_into_another_one() {
    let (from, to) = (
        Nats::start("authorization { token: s3cret }"),
        Nats::start(""),
    );
    let mut client = RawNats::connect_as(from.port(), json!({ "auth_token": "s3cret" }));
    client.create_stream("ORDERS", json!({ "subjects": ["orders.>"] }));
    for number in 0..1000 {
        let headers = format!("NATS/1.0\r\nNumber: {number}\r\nnumber:  twice\r\n\r\n");
        client.publish("orders.new", headers.as_bytes(), b"pay\xffload");
    }
    client.store("orders.last", b"", b"");
    client.must("STREAM.MSG.DELETE.ORDERS", json!({ "seq": 500 }));

    let place = Place::new();
    let source = format!("nats://s3cret@127.0.0.1:{}/ORDERS", from.port());
    let dumped = place.run(&["dump", &source, "d", "--json"]).ok();
    let report = dumped.report();
    assert_eq!(report["records"], 1000);
    assert_eq!(report["outcomes"], json!({ "deleted": 1 }));
    place.run(&["verify", "d"]).ok();
    let shown = place.run(&["cat", "d"]).ok().json();
    assert_eq!(shown.len(), 1000);
    assert_eq!(shown[999]["position"], 1001);
    assert_eq!(shown[999]["key"], "orders.last");
    assert_eq!(
        shown[0]["headers"],
        json!([["Number", "0"], ["number", " twice"]])
    );
    assert_eq!(shown[0]["payload"], json!({ "base64": "cGF5/2xvYWQ=" }));
    let human = place.run(&["dump", &source, "d2"]).ok();
    for text in [&dumped.stdout, &dumped.stderr, &human.stdout, &human.stderr] {
        assert!(!text.contains("s3cret"), "{text}");
    }

    let sink = format!("nats://127.0.0.1:{}/COPY", to.port());
    // What is not all of a dump does not tell what the stream was.
    let missing = place.run(&["load", "d", &sink, "--parts", "0..1"]);
    assert_eq!(missing.exit, Some(10));
    assert!(
        missing.stderr.contains("there is no such stream"),
        "{}",
        missing.stderr
    );
    let mut client = RawNats::connect(to.port());
    client.create_stream("COPY", json!({ "subjects": ["orders.>"] }));
    for (appended, there_before) in [(1000, 0), (0, 1000)] {
        let loaded = place.run(&["load", "d", &sink, "--json"]).ok().report();
        assert_eq!(loaded["sink"]["appended"], appended);
        assert_eq!(loaded["sink"]["there_before"], there_before);
        assert_eq!(loaded["sink"]["target"]["stream_made"], false);
        assert_eq!(client.state("COPY")["messages"], 1000);
    }
    let last = &client.all("COPY")[999];
    assert_eq!(last.1.subject, "orders.last");
    let headers = String::from_utf8(last.1.headers.clone()).unwrap();
    assert!(
        headers.ends_with("Tipple-Position: 1001\r\n\r\n"),
        "{headers}"
    );

    // Into the embedded log, where it keeps its positions.
    place.run(&["load", "d", "log:copy"]).ok();
    assert_eq!(place.run(&["cat", "log:copy"]).ok().json(), shown);
}

/// Makes a durable consumer, lets it have some messages, and acknowledge some of those.
fn consume(client: &mut RawNats, stream: &str, name: &str, config: Value, acks: &[bool]) {
    let mut all = json!({ "durable_name": name, "ack_policy": "explicit" });
    for (field, value) in config.as_object().unwrap() {
        all[field] = value.clone();
    }
    let create = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
    client.must(&create, json!({ "stream_name": stream, "config": all }));
    let pulled = match acks.len() {
        0 => Vec::new(),
        count => client.pull(stream, name, count),
    };
    for ((_, acknowledge), is_acknowledged) in pulled.iter().zip(acks) {
        if *is_acknowledged {
            client.request(acknowledge, b"", b"");
        }
    }
}

#[test]
fn a_stream_that_is_not_there_is_made_with_its_configuration_and_consumers() {
    let from = Nats::start("");
    let mut client = RawNats::connect(from.port());
    let config = json!({
        "subjects": ["s.>"], "description": "orders of the shop", "max_msgs": 1000, "max_bytes": 12_000,
        "max_msgs_per_subject": 100, "duplicate_window": 5_000_000_000_u64, "allow_rollup_hdrs": true,
        "deny_purge": false, "discard": "new", "allow_direct": true,
    });
    client.create_stream("S", config);
    let publish = |client: &mut RawNats, numbers: std::ops::Range<u32>| {
        for number in numbers {
            client.store(
                &format!("s.{}", number % 3),
                b"",
                number.to_string().as_bytes(),
            );
        }
    };
    publish(&mut client, 0..60);
    // It begins at message 41 now, and so does the copy.
    client.must("STREAM.PURGE.S", json!({ "seq": 41 }));
    publish(&mut client, 60..150);
    for (name, config, acks) in [
        ("all", json!({ "deliver_policy": "all" }), &[][..]),
        (
            "some",
            json!({ "deliver_policy": "all" }),
            &[true, true, true, false, true],
        ),
        (
            "none",
            json!({ "deliver_policy": "all", "ack_policy": "none" }),
            &[false; 7],
        ),
        (
            "new",
            json!({ "deliver_policy": "new", "max_deliver": 3 }),
            &[],
        ),
        (
            "from",
            json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 100 }),
            &[],
        ),
        (
            "begun",
            json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 100 }),
            &[false, true],
        ),
        (
            "one",
            json!({ "deliver_policy": "all", "filter_subject": "s.1", "ack_wait": 7_000_000_000_u64 }),
            &[true, true],
        ),
        (
            "last",
            json!({ "deliver_policy": "last_per_subject", "filter_subject": "s.>" }),
            &[],
        ),
    ] {
        consume(&mut client, "S", name, config, acks);
    }
    let place = Place::new();
    let url = |server: &Nats| format!("nats://127.0.0.1:{}/S", server.port());
    place.run(&["dump", &url(&from), "dense"]).ok();
    client.must("STREAM.MSG.DELETE.S", json!({ "seq": 50 }));
    client.must("STREAM.MSG.DELETE.S", json!({ "seq": 120 }));
    place.run(&["dump", &url(&from), "holes"]).ok();
    // Those that began behind a fixed place have no choice, of the others the first message that was not acknowledged.
    let due = [
        ("all", "40"),
        ("some", "43"),
        ("none", "47"),
        ("from", "99"),
        ("begun", "99"),
        ("last", "147"),
    ];
    for (dump, first_seq, messages, to) in [
        ("dense", 1, 110, Nats::start("")),
        ("dense", 41, 110, Nats::start_newer("")),
        ("holes", 1, 108, Nats::start("")),
        ("holes", 1, 108, Nats::start_newer("")),
    ] {
        for (made, appended) in [(8, messages), (0, 0)] {
            let loaded = place
                .run(&["load", dump, &url(&to), "--json"])
                .ok()
                .report();
            let sink = &loaded["sink"];
            assert_eq!(sink["appended"], appended);
            assert_eq!(sink["target"]["stream_made"], made > 0);
            assert_eq!(sink["target"]["consumers_made"], made);
            let moved = "its messages are 1 to 110, not 41 to 150";
            let is_told = sink["remarks"].to_string().contains(moved);
            assert_eq!(
                is_told,
                made > 0 && dump == "dense" && first_seq == 1,
                "{sink}"
            );
        }
        let mut copy = RawNats::connect(to.port());
        let state = copy.state("S");
        assert_eq!(
            (&state["first_seq"], &state["messages"]),
            (&json!(first_seq), &json!(messages))
        );
        let config =
            |client: &mut RawNats| client.must("STREAM.INFO.S", json!(null))["config"].clone();
        let (mut before, mut after) = (config(&mut client), config(&mut copy));
        // Each message has two headers more.
        assert_eq!(after["max_bytes"], state["bytes"]);
        before["max_bytes"].take();
        after["max_bytes"].take();
        // Newer servers have more to say.
        for (field, value) in before.as_object().unwrap() {
            assert_eq!(&after[field], value, "{field}");
        }
        for (name, payload) in due {
            let next = &copy.pull("S", name, 1)[0].0;
            assert_eq!(
                String::from_utf8_lossy(&next.payload),
                payload,
                "{dump} {name}"
            );
        }
        let one = &copy.pull("S", "one", 1)[0].0;
        assert_eq!(one.subject, "s.1");
        assert_eq!(one.payload, b"46");
        let of = |client: &mut RawNats, name: &str| {
            client.must(&format!("CONSUMER.INFO.S.{name}"), json!(null))
        };
        assert_eq!(of(&mut copy, "new")["num_pending"], 0);
        assert_eq!(of(&mut copy, "new")["config"]["max_deliver"], 3);
        assert_eq!(
            of(&mut copy, "one")["config"]["ack_wait"],
            7_000_000_000_u64
        );
        assert_eq!(of(&mut copy, "none")["config"]["ack_policy"], "none");
    }
}

#[test]
fn a_stream_goes_over_tls() {
    let place = Place::new();
    let certificate = Certificate::create(&place.path("."));
    // The server says that it can; the other client does not want it.
    let server = Nats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}\nallow_non_tls: true",
        certificate.cert, certificate.key
    ));
    let plain = Nats::start("");
    let ca = certificate.ca.to_str().unwrap();
    let mut client = RawNats::connect(server.port());
    client.create_stream("S", json!({ "subjects": ["s.>"] }));
    let payload = [b'x'; 1000];
    for _ in 0..3000 {
        client.publish("s.x", b"", &payload);
    }
    wait_for("the messages to be stored", || {
        client.state("S")["messages"] == 3000
    });
    let url = |server: &Nats, name: &str| format!("tls://localhost:{}/{name}", server.port());
    let (from, to) = (url(&server, "S"), url(&server, "T"));
    let report = place
        .run(&["dump", &from, "d", "--tls-ca", ca, "--json"])
        .ok()
        .report();
    assert_eq!(report["records"], 3000);
    client.create_stream("T", json!({ "subjects": ["t.>"] }));
    client.must("STREAM.DELETE.S", json!(null));
    client.must("STREAM.DELETE.T", json!(null));
    let report = place
        .run(&["load", "d", &to, "--tls-ca", ca, "--json"])
        .ok()
        .report();
    assert_eq!(report["sink"]["appended"], 3000);
    let all = format!("tls://localhost:{}/*", server.port());
    place.run(&["dump", &all, "all", "--tls-ca", ca]).ok();
    assert!(place.path("all/T/DONE").exists());
    // Somebody else's certificate, somebody else's name, and no TLS at all.
    let refused = place.run(&["dump", &to, "e"]);
    assert_eq!(refused.exit, Some(10));
    assert!(refused.stderr.contains("--tls-ca"), "{}", refused.stderr);
    let refused = place.run(&["dump", &to, "e", "--tls-ca", ca, "--tls-name", "other"]);
    assert!(refused.stderr.contains("--tls-name"), "{}", refused.stderr);
    place.run(&["dump", &to, "f", "--tls-insecure"]).ok();
    let refused = place.run(&["dump", &url(&plain, "S"), "e", "--tls-ca", ca]);
    assert_eq!(refused.exit, Some(10));
    assert!(
        refused.stderr.contains("does not speak TLS"),
        "{}",
        refused.stderr
    );
    // One that demands it gets it, though the URL does not say so.
    let server = Nats::start(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}",
        certificate.cert, certificate.key
    ));
    let to = format!("nats://localhost:{}/T", server.port());
    place.run(&["load", "d", &to, "--tls-ca", ca]).ok();
    let report = place
        .run(&["dump", &to, "g", "--tls-ca", ca, "--json"])
        .ok()
        .report();
    assert_eq!(report["records"], 3000);
}

#[test]
fn a_stream_is_copied_into_one_that_is_made_like_it() {
    let (from, to) = (Nats::start(""), Nats::start(""));
    let mut client = RawNats::connect(from.port());
    let config = json!({ "subjects": ["s.>"], "description": "orders", "max_msgs": 1000 });
    client.create_stream("S", config);
    for number in 0..50 {
        client.store("s.x", b"", format!("{number}").as_bytes());
    }
    client.must("STREAM.MSG.DELETE.S", json!({ "seq": 2 }));
    let acks = [true, true, false];
    consume(
        &mut client,
        "S",
        "worker",
        json!({ "deliver_policy": "all" }),
        &acks,
    );
    let place = Place::new();
    let url = |server: &Nats, name: &str| format!("nats://127.0.0.1:{}/{name}", server.port());
    for appended in [49, 0] {
        let copy = ["copy", &url(&from, "S"), &url(&to, "T"), "--json"];
        let report = place.run(&copy).ok().report();
        assert_eq!(report["sink"]["appended"], appended);
        let target = &report["sink"]["target"];
        assert_eq!(target["stream_made"], appended > 0, "{report}");
        assert_eq!(
            target["consumers_made"],
            usize::from(appended > 0),
            "{report}"
        );
    }
    let mut copy = RawNats::connect(to.port());
    let info = copy.must("STREAM.INFO.T", json!(null));
    assert_eq!(info["config"]["description"], "orders");
    assert_eq!(info["config"]["max_msgs"], 1000);
    assert_eq!(info["state"]["messages"], 49);
    // The first one that was not acknowledged: 0 and 2 were, 1 was deleted.
    assert_eq!(copy.pull("T", "worker", 1)[0].0.payload, b"3");
    // What is no stream of NATS tells of no configuration.
    place.pipe(&["append", "log:l"], b"x\n").ok();
    let missing = place.run(&["copy", "log:l", &url(&to, "U")]);
    assert_eq!(missing.exit, Some(10), "{}", missing.stderr);
    assert!(
        missing.stderr.contains("there is no such stream"),
        "{}",
        missing.stderr
    );
}

#[test]
fn a_stream_that_would_not_keep_what_is_loaded_is_refused() {
    let server = Nats::start("");
    let mut client = RawNats::connect(server.port());
    client.create_stream("S", json!({ "subjects": ["s.>"] }));
    for number in 0..50 {
        client.store(&format!("s.{}", number % 5), b"", b"payload");
    }
    let place = Place::new();
    let url = |server: &Nats| format!("nats://127.0.0.1:{}/S", server.port());
    place.run(&["dump", &url(&server), "d"]).ok();
    place
        .run(&["dump", &url(&server), "part", "--to", "1000"])
        .ok();
    // Its subjects are those of the stream that was dumped.
    let there = place.run(&["load", "d", &format!("{}2", url(&server))]);
    assert_eq!(there.exit, Some(10));
    assert!(
        there
            .stderr
            .contains("another stream of the account has its subjects"),
        "{}",
        there.stderr
    );
    for (fields, exit, words) in [
        (
            json!({ "max_msgs": 49 }),
            2,
            "its max_msgs is 49, and the dump needs 50",
        ),
        (json!({ "max_bytes": 100 }), 2, "its max_bytes is 100"),
        (
            json!({ "max_msgs_per_subject": 10 }),
            2,
            "has no such limit",
        ),
        (
            json!({ "subjects": ["s.*"] }),
            2,
            "does not listen to the subject \"s.>\"",
        ),
        (
            json!({ "retention": "workqueue" }),
            2,
            "forgets messages when they are acknowledged",
        ),
        (json!({ "no_ack": true }), 2, "acknowledges nothing"),
        // What only shows when all is there: it has room for what was dumped, not for the headers.
        (
            json!({ "max_bytes": 2600 }),
            10,
            "of the 50 messages that were just loaded are gone already",
        ),
        (json!({ "max_msgs": 50, "max_msgs_per_subject": -1 }), 0, ""),
    ] {
        let to = Nats::start("");
        let mut client = RawNats::connect(to.port());
        let mut config = json!({ "subjects": ["s.>"] });
        config
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        client.create_stream("S", config);
        let loaded = place.run(&["load", "d", &url(&to)]);
        assert_eq!(loaded.exit, Some(exit), "{fields}: {}", loaded.stderr);
        assert!(loaded.stderr.contains(words), "{fields}: {}", loaded.stderr);
    }
}

#[test]
fn all_streams_of_an_account_go_out_and_come_back() {
    // Logged in by a file, for each stream as for the list of them.
    let account = NatsAccount::create();
    let credentials = account.credentials(&account.user().seed);
    let (from, to) = (Nats::start(&account.config()), Nats::start(""));
    let mut client = RawNats::connect_as(from.port(), json!({ "jwt": account.bearer() }));
    for (at, name) in ["A", "B-2", "KV_c"].iter().enumerate() {
        client.create_stream(name, json!({ "subjects": [format!("{name}.>")] }));
        for _ in 0..=at {
            client.store(&format!("{name}.x"), b"", b"y");
        }
    }
    let place = Place::new();
    let url = |server: &Nats, stream: &str| format!("nats://127.0.0.1:{}/{stream}", server.port());
    let all = format!("{}?creds={}", url(&from, "*"), credentials.display());
    place.run(&["dump", &all, "d", "e"]).ok();
    // A new stream is not of this dump: the same command does not begin it.
    client.create_stream("late", json!({ "subjects": ["late"] }));
    let again = place.run(&["dump", &all, "d", "e"]).ok();
    assert!(
        again.stderr.contains("d/A and e/A: finished already"),
        "{}",
        again.stderr
    );
    place.run(&["dump", &all, "other"]).ok();
    for name in ["A", "B-2", "KV_c"] {
        place.run(&["verify", &format!("d/{name}")]).ok();
        place.run(&["verify", &format!("e/{name}")]).ok();
    }
    assert!(place.path("other/late").exists() && !place.path("d/late").exists());
    for _ in 0..2 {
        let loaded = place
            .run(&["load", "e", &url(&to, "*"), "--json"])
            .ok()
            .report();
        assert_eq!(
            (&loaded["streams"], &loaded["failed"]),
            (&json!(3), &json!([]))
        );
        let mut client = RawNats::connect(to.port());
        for (at, name) in ["A", "B-2", "KV_c"].iter().enumerate() {
            assert_eq!(client.state(name)["messages"], at + 1);
        }
    }
    // One that cannot be read is told, and the others are dumped all the same.
    client.create_stream(
        "A1",
        json!({ "subjects": ["A1"], "retention": "workqueue" }),
    );
    let dumped = place.run(&["dump", &all, "f"]);
    assert_eq!(dumped.exit, Some(2), "{}", dumped.stderr);
    assert!(
        dumped.stderr.contains("dumped 4 of 5 streams; not: A1"),
        "{}",
        dumped.stderr
    );
    place.run(&["verify", "f/late"]).ok();
    // Run again, it does what is left.
    client.must("STREAM.DELETE.A1", json!(null));
    client.create_stream("A1", json!({ "subjects": ["A1"] }));
    place.run(&["dump", &all, "f"]).ok();
    place.run(&["verify", "f/A1"]).ok();
    for (args, words) in [
        (
            vec!["dump", &url(&to, "*"), "g", "--follow"],
            "--follow is for one stream",
        ),
        (
            vec!["load", "d/A", &url(&to, "*")],
            "holds no dump of all streams",
        ),
        (
            vec!["dump", &url(&to, "*"), "g", "--from", "3"],
            "--from is for one stream",
        ),
    ] {
        let refused = place.run(&args);
        assert_eq!(refused.exit, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

fn kills() -> u64 {
    if is_long() { 50 } else { 10 }
}

/// Runs the command, and kills it after a while; `false` if it ended before, and well.
fn kill(mut command: Command, after: Duration) -> bool {
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return false;
        }
        if since.elapsed() >= after {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// That the stream holds each number once, in order, in its payload.
#[track_caller]
fn assert_counted(client: &mut RawNats, stream: &str, count: u64) {
    let all = client.all(stream);
    assert_eq!(all.len() as u64, count);
    for (due, (_, message)) in (1..).zip(&all) {
        let text = String::from_utf8_lossy(&message.payload);
        let number: u64 = text.trim_start_matches('0').parse().unwrap();
        assert_eq!(number, due);
    }
}

/// A load into a stream that it makes itself is killed at moments over all of its time: every event is there once.
#[test]
fn a_killed_load_into_nats_goes_on_where_the_stream_ends() {
    const EVENTS: u64 = 30_000;
    let (from, to) = (Nats::start(""), Nats::start(""));
    let mut client = RawNats::connect(from.port());
    client.create_stream("S", json!({ "subjects": ["s.>"], "max_msgs": EVENTS }));
    for number in 1..=EVENTS {
        client.publish("s.x", b"", format!("{number:0200}").as_bytes());
    }
    wait_for("the messages to be stored", || {
        client.state("S")["messages"] == EVENTS
    });
    consume(
        &mut client,
        "S",
        "worker",
        json!({ "deliver_policy": "all" }),
        &[true; 1000],
    );
    let place = Place::new();
    let url = |server: &Nats| format!("nats://127.0.0.1:{}/S", server.port());
    place
        .run(&["dump", &url(&from), "d", "--part-size", "1MiB"])
        .ok();
    let load = ["load", "d", &url(&to), "-q"];
    let mut copy = RawNats::connect(to.port());
    let since = Instant::now();
    place.run(&load).ok();
    let undisturbed = since.elapsed();
    assert_counted(&mut copy, "S", EVENTS);
    let (mut hit, mut round) = (0, 0);
    while hit < kills() {
        copy.must("STREAM.DELETE.S", json!(null));
        // Until it is whole, always from where it was.
        let mut of_this_stream = 0;
        loop {
            round += 1;
            assert!(round < 20 * kills(), "{hit} kills");
            if !kill(
                place.command(&load),
                undisturbed.mul_f64((round * 37 % 100) as f64 / 100.0),
            ) {
                break;
            }
            of_this_stream += 1;
        }
        hit += of_this_stream;
        assert_counted(&mut copy, "S", EVENTS);
        assert_eq!(
            copy.must("STREAM.INFO.S", json!(null))["config"]["max_msgs"],
            EVENTS
        );
        let next = &copy.pull("S", "worker", 1)[0].0.payload;
        assert_eq!(next, format!("{:0200}", 1001).as_bytes());
    }
}

/// A stream is followed while somebody publishes; the follower is killed at moments that nobody chose, and so is the
/// server. In the end every event is in the dump once.
#[test]
fn a_followed_stream_of_nats_is_whole_whatever_is_killed_when() {
    let mut server = Nats::start("");
    let mut client = RawNats::connect(server.port());
    client.create_stream("S", json!({ "subjects": ["s.>"] }));
    client.store("s.x", b"", b"1");
    let place = Place::new();
    let url = format!("nats://127.0.0.1:{}/S", server.port());
    let dump = [
        "dump",
        &url,
        "d",
        "--chunk-age",
        "20ms",
        "--part-size",
        "64KiB",
        "-q",
    ];
    let followed = [&dump[..], &["--follow"]].concat();
    let committed = || std::fs::read_dir(place.path("d/parts")).map_or(0, Iterator::count);
    let (mut last, mut before) = (1, 0);
    for round in 0..kills() {
        let mut follower = place
            .command(&followed)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("a new part", || {
            assert_eq!(follower.try_wait().unwrap(), None);
            last += 1;
            client.store("s.x", b"", last.to_string().as_bytes());
            committed() > before
        });
        if round % 4 == 3 {
            // The follower waits, and goes on.
            server.restart();
            client = RawNats::connect(server.port());
            before = committed();
            wait_for("a part after the server came back", || {
                assert_eq!(follower.try_wait().unwrap(), None);
                last += 1;
                client.store("s.x", b"", last.to_string().as_bytes());
                committed() > before
            });
        }
        std::thread::sleep(Duration::from_micros(round * 1700 % 23_000));
        follower.kill().unwrap();
        follower.wait().unwrap();
        before = committed();
    }
    let report = place.run(&[&dump[..7], &["--json"]].concat()).ok().report();
    assert_eq!(report["outcomes"], json!({}));
    place.run(&["verify", "d"]).ok();
    let shown = place.run(&["cat", "d"]).ok().json();
    assert!(
        shown
            .iter()
            .map(|event| event["payload"].as_str().unwrap())
            .eq((1..=last).map(|n: u64| n.to_string()))
    );
    assert!(
        shown
            .iter()
            .map(|event| event["position"].as_u64().unwrap())
            .eq(1..=last)
    );
}

#[test]
fn what_retention_takes_before_it_is_read_is_exit_code_3() {
    let server = Nats::start("");
    let mut client = RawNats::connect(server.port());
    client.create_stream("S", json!({ "subjects": ["s"] }));
    for number in 1..=5000 {
        client.publish("s", b"", format!("{number:0500}").as_bytes());
    }
    wait_for("the messages to be stored", || {
        client.state("S")["messages"] == 5000
    });
    let place = Place::new();
    let url = format!("nats://127.0.0.1:{}/S", server.port());
    let mut running = place.start(&[
        "dump",
        &url,
        "d",
        "--part-size",
        "64KiB",
        "--threads",
        "1",
        "--rate",
        "4000/s",
        "--json",
    ]);
    running.wait_for("part");
    client.must("STREAM.PURGE.S", json!({ "seq": 4001 }));
    let (report, exit) = running.end();
    assert_eq!(exit, Some(3), "{report}");
    let lost = report["lost"]["gone by retention"].as_u64().unwrap();
    assert_eq!(report["records"].as_u64().unwrap() + lost, 5000);
    // Which ones: from the last position before the gap to the first one behind it.
    let positions: Vec<_> = (place.run(&["cat", "d"]).ok().json().iter())
        .map(|event| event["position"].as_u64().unwrap())
        .collect();
    assert_eq!(
        positions,
        (1..=4000 - lost).chain(4001..=5000).collect::<Vec<_>>()
    );
    let gap = format!("{} to 4000", 4001 - lost);
    assert_eq!(report["source"]["gone_by_retention"], gap);
}

/// What a stream may soon forget is taken before it does; what it forgot meanwhile is a loss with its number.
#[test]
fn a_stream_with_limits_is_archived_before_it_forgets() {
    let server = Nats::start("");
    let mut client = RawNats::connect(server.port());
    client.create_stream("S", json!({ "subjects": ["s.>"], "max_msgs": 100 }));
    client.create_stream("B", json!({ "subjects": ["b.>"], "max_bytes": 100_000 }));
    let url = |stream: &str| format!("nats://127.0.0.1:{}/{stream}", server.port());
    let place = Place::new();
    let mut store = |subject: &str, count: usize, payload: &[u8]| {
        for _ in 0..count {
            client.store(subject, b"", payload);
        }
    };
    let source = url("S");
    let archive = [
        "dump",
        &source,
        "d",
        "--archive",
        "--chunk-age",
        "10ms",
        "--json",
    ];
    let archived = || {
        let shown = place.run(&["cat", "d", "--partial"]).ok().json();
        let positions: Vec<_> = shown
            .iter()
            .map(|event| event["position"].as_u64().unwrap())
            .collect();
        positions
    };
    for (stored, end) in [(60, 10), (40, 50)] {
        store("s.x", stored, b"x");
        let mut running = place.start(&archive);
        running.wait_for("part");
        running.signal("KILL");
        drop(running);
        assert!(archived().into_iter().eq(1..=end));
    }
    store("s.x", 100, b"x");
    let ended = place.run(&["dump", &source, "d", "--json"]);
    assert_eq!(ended.exit, Some(3), "{}", ended.stderr);
    assert_eq!(ended.report()["lost"], json!({ "gone by retention": 50 }));
    assert!(archived().into_iter().eq((1..=50).chain(101..=200)));

    store("b.x", 90, &[b'x'; 1000]);
    let source = url("B");
    let mut running = place.start(&[
        "dump",
        &source,
        "b",
        "--archive",
        "--chunk-age",
        "10ms",
        "--json",
    ]);
    let records = running.wait_for("part")["records"].as_u64().unwrap();
    assert!((30..60).contains(&records), "{records}");
    running.signal("INT");
    assert_eq!(running.end().1, Some(130));
}
