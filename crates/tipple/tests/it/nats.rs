//! Streams of NATS JetStream, from end to end.

use serde_json::json;
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
    let missing = place.run(&["load", "d", &sink]);
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
        assert_eq!(
            loaded["sink"],
            json!({ "appended": appended, "there_before": there_before })
        );
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
