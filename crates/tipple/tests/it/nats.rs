//! Streams of NATS JetStream, from end to end.

use serde_json::{Value, json};
use tipple_testkit::{Nats, RawNats};

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
            let is_told = sink["target"]["remarks"].to_string().contains(moved);
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
