//! NATS servers that are killed, stopped, clustered, or lose what is read.

use std::time::Duration;

use serde_json::json;
use tipple_flow::{Outcomes, Party, Source};
use tipple_stream::{Bound, Follow, Nats, Place, Stream, StreamOptions, StreamSource};
use tipple_testkit::{Nats as Server, RawNats, wait_for};

use crate::harness::{gate, plan, plan_watched, read_parts, write_all};
use crate::nats::{
    assert_filled, assert_loaded, events, failure, fill, server, sink, stream, whole,
};

#[test]
fn a_server_that_says_nothing_any_more_is_a_failure_in_bounded_time() {
    let (server, mut client) = server();
    fill(&mut client, "big", 20_000);
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let patience = Duration::from_millis(500);
    let hasty = whole(stream(&server, "big").with_patience(patience));
    let parts = plan(&hasty);
    let failed = failure(read_parts(&hasty, &parts, &gate(), |frame| {
        if frame == 2 {
            server.pause();
        }
    }));
    assert_eq!(failed.party(), Party::Source);
    assert!(
        failed
            .to_string()
            .contains("the server did not work for 0 s"),
        "{failed}"
    );
    let failed = Stream::look(&stream(&server, "big").with_patience(patience)).unwrap_err();
    assert!(
        failed
            .to_string()
            .contains("it does not say that it is NATS"),
        "{failed}"
    );
    server.resume();

    let target = sink(stream(&server, "copy").with_patience(patience));
    let failed = failure(write_all(&target, &events(20_000), &gate(), |frame| {
        if frame == 20 {
            server.pause();
        }
    }));
    assert_eq!(failed.party(), Party::Sink);
    assert!(
        failed
            .to_string()
            .contains("the server did not work for 0 s"),
        "{failed}"
    );
    server.resume();
    let again = sink(stream(&server, "copy"));
    write_all(&again, &events(20_000), &gate(), |_| {}).unwrap();
    assert_loaded(&mut client, &events(20_000));
}

/// The end of one request must not be taken for that of the next one.
#[test]
fn requests_that_end_one_after_the_other_do_not_stall() {
    let (server, mut client) = server();
    client.create_stream("many", json!({ "subjects": ["many.>"] }));
    // More than one request may have, in messages and in bytes.
    for number in 0..60_000_u64 {
        let bytes = if number % 100 == 0 { 20_000 } else { 1 };
        client.publish("many.x", b"", &vec![b'x'; bytes]);
    }
    wait_for("the messages to be stored", || {
        client.state("many")["messages"] == 60_000
    });
    let source = whole(stream(&server, "many"));
    let (records, outcomes) = read_parts(&source, &plan(&source), &gate(), |_| {}).unwrap();
    assert_eq!((records.len(), outcomes), (60_000, Outcomes::default()));
}

#[test]
fn a_followed_stream_waits_for_its_server() {
    let (mut server, mut client) = server();
    fill(&mut client, "big", 100);
    let options = StreamOptions {
        to: Some(Bound::Place(Place::sequence(201))),
        follow: Some(Follow {
            age: Duration::from_millis(10),
            pace: Duration::from_millis(10),
            ..Follow::default()
        }),
        ..StreamOptions::default()
    };
    let source = StreamSource::new(stream(&server, "big"), options).unwrap();
    // What has never answered is not waited for.
    source.check().unwrap();
    let (seen, is_seen) = std::sync::mpsc::channel();
    let parts = std::thread::scope(|scope| {
        let planned = scope.spawn(|| plan_watched(&source, move || seen.send(()).unwrap()));
        // It has looked, and looks again from now on.
        is_seen.recv().unwrap();
        // Away for longer than the pace, several times.
        for _ in 0..3 {
            server.kill();
            std::thread::sleep(Duration::from_millis(100));
            server.restart();
        }
        let mut client = RawNats::connect(server.port());
        for number in 101..=200_u64 {
            client.store("big.x", b"", &number.to_le_bytes());
        }
        planned.join().unwrap().unwrap()
    });
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |_| {}).unwrap();
    assert_eq!((records.len(), outcomes), (200, Outcomes::default()));
}

/// Nobody can write to it, or delete anything of it, any more.
fn seal(client: &mut RawNats, name: &str) {
    let info = client.must(&format!("STREAM.INFO.{name}"), json!({}));
    let mut config = info["config"].clone();
    config["sealed"] = json!(true);
    client.must(&format!("STREAM.UPDATE.{name}"), config);
}

#[test]
fn a_stream_that_is_sealed_while_it_is_read_is_read_whole() {
    let (server, mut client) = server();
    fill(&mut client, "big", 20_000);
    let source = whole(stream(&server, "big"));
    let parts = plan(&source);
    let mut sealer = RawNats::connect(server.port());
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |frame| {
        if frame == 3 {
            seal(&mut sealer, "big");
        }
    })
    .unwrap();
    assert_eq!(outcomes, Outcomes::default());
    assert_filled(&records, 20_000);
    // It is still the one that was planned.
    assert!(
        source
            .is_same(&Stream::look(&stream(&server, "big")).unwrap().life)
            .unwrap()
    );
}

#[test]
fn a_stream_that_is_sealed_while_it_is_loaded_keeps_what_it_has() {
    let (server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let records = events(20_000);
    let mut sealer = RawNats::connect(server.port());
    let load = |act: &mut dyn FnMut(usize)| {
        let target = sink(stream(&server, "copy"));
        failure(write_all(&target, &records, &gate(), act))
    };
    let failed = load(&mut |frame| {
        if frame == 40 {
            seal(&mut sealer, "copy");
        }
    });
    assert_eq!(failed.party(), Party::Sink);
    let told = failed.to_string();
    assert!(told.contains("it was sealed"), "{told}");
    assert!(!told.contains('\n'));
    // A beginning of what was to be loaded, and nothing else.
    let there = client.state("copy")["messages"].as_u64().unwrap() as usize;
    assert!((1..20_000).contains(&there), "{there}");
    assert_loaded(&mut client, &records[..there].to_vec());
    let again = load(&mut |_| {});
    assert_eq!(again.party(), Party::Usage);
    assert!(again.to_string().contains("it is sealed"), "{again}");
}

/// Makes a stream of three replicas.
fn replicated(server: &Server, name: &str) {
    let config = json!({
        "name": name, "subjects": [format!("{name}.>")], "retention": "limits", "storage": "file", "num_replicas": 3,
    });
    wait_for("a stream", || {
        RawNats::try_ask(server.port(), &format!("STREAM.CREATE.{name}"), &config)
            .is_some_and(|made| made["error"].is_null())
    });
}

/// The server that leads the stream.
fn leader(servers: &[Server; 3], name: &str) -> usize {
    let mut found = None;
    wait_for("a leader of the stream", || {
        found = servers.iter().position(|server| {
            let info = RawNats::try_ask(server.port(), &format!("STREAM.INFO.{name}"), &json!({}));
            info.is_some_and(|info| info["cluster"]["leader"] == server.name().unwrap())
        });
        found.is_some()
    });
    found.unwrap()
}

/// Of the cluster and of the stream, and each again when it does not come to a majority on a busy machine.
const ELECTIONS: Duration = Duration::from_secs(170);

#[test]
fn a_cluster_that_loses_its_leader_is_read_and_loaded() {
    let mut servers = Server::start_cluster();
    replicated(&servers[0], "big");
    replicated(&servers[0], "copy");
    let mut client = RawNats::connect(servers[leader(&servers, "big")].port());
    for number in 1..=20_000_u64 {
        let headers = format!("NATS/1.0\r\nnumber: {number}\r\n\r\n");
        client.publish(
            &format!("big.{}", number % 7),
            headers.as_bytes(),
            &crate::nats::payload(number),
        );
    }
    wait_for("the messages to be stored", || {
        client.state("big")["messages"] == 20_000
    });

    // Only one of them is given; the others it tells of.
    let led = leader(&servers, "big");
    let source = whole(stream(&servers[led], "big").with_patience(ELECTIONS));
    let parts = plan(&source);
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |frame| {
        if frame == 3 {
            servers[led].kill();
        }
    })
    .unwrap();
    assert_eq!(outcomes, Outcomes::default());
    assert_filled(&records, 20_000);
    servers[led].restart();

    // All of them are given.
    let all = (servers.iter()).map(|server| format!("127.0.0.1:{}", server.port()));
    let all = all.collect::<Vec<_>>().join(",");
    let nats = Nats::at(format!("nats://{all}/copy").parse().unwrap()).with_patience(ELECTIONS);
    let led = leader(&servers, "copy");
    let records = events(20_000);
    let loaded = write_all(&sink(nats), &records, &gate(), |frame| {
        if frame == 40 {
            servers[led].kill();
        }
    });
    assert_eq!(loaded.unwrap(), (20_000, Outcomes::default()));
    servers[led].restart();
    let mut client = RawNats::connect(servers[leader(&servers, "copy")].port());
    // A leader that was just elected may still apply what is committed.
    wait_for("the new leader to have them all", || {
        client.state("copy")["messages"] == 20_000
    });
    assert_loaded(&mut client, &records);
}
