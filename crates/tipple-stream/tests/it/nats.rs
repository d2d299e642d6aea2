//! Streams of real NATS servers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tipple_flow::{Failure, Outcomes, Party, Stop};
use tipple_stream::{
    Bound, Event, EventRef, Nats, Place, Stream, StreamOptions, StreamSink, StreamSource,
};
use tipple_testkit::{Nats as Server, NatsAccount, NatsMessage, RawNats, wait_for};

use crate::harness::{Records, gate, plan, read_all, read_parts, record, write_all};

pub fn stream(server: &Server, name: &str) -> Nats {
    let url = format!("nats://127.0.0.1:{}/{name}", server.port());
    Nats::at(url.parse().unwrap()).with_patience(Duration::from_secs(30))
}

pub fn source(stream: Nats) -> StreamSource<Nats> {
    let options = StreamOptions {
        part_bytes: StreamOptions::PART_BYTES_MIN,
        ..StreamOptions::default()
    };
    StreamSource::new(stream, options).unwrap()
}

/// As one part, so that it is read for some time.
pub fn whole(stream: Nats) -> StreamSource<Nats> {
    StreamSource::new(stream, StreamOptions::default()).unwrap()
}

pub fn sink(stream: Nats) -> StreamSink<Nats> {
    StreamSink::new(stream)
}

#[track_caller]
pub fn failure<T>(result: Result<T, Stop>) -> Failure {
    match result {
        Err(Stop::Failed(failure)) => failure,
        Err(Stop::Cancelled(_)) => panic!("it was cancelled"),
        Ok(_) => panic!("it worked"),
    }
}

pub fn server() -> (Server, RawNats) {
    let server = Server::start("");
    let client = RawNats::connect(server.port());
    (server, client)
}

/// `count` messages of about 600 bytes that differ.
pub fn fill(client: &mut RawNats, stream: &str, count: u64) {
    client.create_stream(stream, json!({ "subjects": [format!("{stream}.>")] }));
    for number in 1..=count {
        let headers = format!("NATS/1.0\r\nnumber: {number}\r\n\r\n");
        client.publish(
            &format!("{stream}.{}", number % 7),
            headers.as_bytes(),
            &payload(number),
        );
    }
    wait_for("the messages to be stored", || {
        client.state(stream)["messages"] == count
    });
}

pub fn payload(number: u64) -> Vec<u8> {
    number
        .to_le_bytes()
        .iter()
        .cycle()
        .take(500 + number as usize % 200)
        .copied()
        .collect()
}

pub fn sequences(records: &Records) -> Vec<u64> {
    let place = |record: &Vec<u8>| EventRef::parse(record).unwrap().place().parts().1;
    records.iter().map(place).collect()
}

/// What [`fill`] made, in order.
#[track_caller]
pub fn assert_filled(records: &Records, count: u64) {
    assert_eq!(sequences(records), (1..=count).collect::<Vec<_>>());
    for (number, record) in (1..).zip(records) {
        let event = EventRef::parse(record).unwrap();
        assert_eq!(event.payload(), Some(&payload(number)[..]));
        assert_eq!(event.headers().count(), 1);
    }
}

pub fn events(count: u64) -> Records {
    let event = |number: u64| Event {
        time: Some(number as i64 * 1_000_000_007),
        key: Some(format!("copy.{}", number % 3).into_bytes()),
        headers: vec![(b"number".to_vec(), Some(number.to_string().into_bytes()))],
        payload: Some(payload(number)),
    };
    (1..=count)
        .map(|number| record(number, &event(number)))
        .collect()
}

/// That the stream `copy` holds just these events, in order, under a new sequence each.
#[track_caller]
pub fn assert_loaded(client: &mut RawNats, records: &Records) {
    let all = client.all("copy");
    assert_eq!(all.len(), records.len());
    for ((sequence, message), (due, record)) in all.iter().zip((1..).zip(records)) {
        let event = EventRef::parse(record).unwrap();
        assert_eq!(*sequence, due);
        assert_eq!(message.subject.as_bytes(), event.key().unwrap());
        assert_eq!(message.payload, event.payload().unwrap());
        let (headers, time, place) = (own_headers(message), event.time(), event.place());
        let mut expected = vec![format!("Nats-Expected-Last-Sequence: {}", due - 1).into_bytes()];
        for (name, value) in event.headers() {
            expected.push([name, b": ", value.unwrap()].concat());
        }
        let time = time.map_or("none".to_owned(), |time| time.to_string());
        expected.push(format!("Tipple-Time: {time}").into_bytes());
        expected.push(format!("Tipple-Position: {place}").into_bytes());
        assert_eq!(headers, expected);
    }
}

/// The lines of a header block.
fn own_headers(message: &NatsMessage) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut rest = &message.headers[..];
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(rest[..at].to_vec());
        rest = &rest[at + 2..];
    }
    lines.retain(|line| !line.is_empty() && line != b"NATS/1.0");
    lines
}

/// A header's name and value.
type Pair = (&'static [u8], Option<&'static [u8]>);

#[test]
fn every_byte_of_a_message_is_read() {
    let (server, mut client) = server();
    client.create_stream("all", json!({ "subjects": ["all.>"] }));
    let every_byte: Vec<u8> = (0..=255).collect();
    let headers: [&[u8]; 6] = [
        b"",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0\r\nz: 1\r\na: 2\r\nz: 3\r\nZ: 4\r\n\r\n",
        "NATS/1.0\r\nümlaut: ü\r\nempty: \r\nbare:\r\nspaces:  a b \r\n\r\n".as_bytes(),
        b"NATS/1.0\r\nbinary: \xff\x00\xfe:\r\nhyphen-name: x\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
    ];
    let parsed: [&[Pair]; 6] = [
        &[],
        &[],
        &[
            (b"z", Some(b"1")),
            (b"a", Some(b"2")),
            (b"z", Some(b"3")),
            (b"Z", Some(b"4")),
        ],
        &[
            ("ümlaut".as_bytes(), Some("ü".as_bytes())),
            (b"empty", Some(b"")),
            (b"bare", Some(b"")),
            (b"spaces", Some(b" a b ")),
        ],
        &[
            (b"binary", Some(b"\xff\x00\xfe:")),
            (b"hyphen-name", Some(b"x")),
        ],
        &[(b"no colon", None)],
    ];
    for (number, block) in headers.iter().enumerate() {
        client.store(&format!("all.{number}.ü"), block, &every_byte);
        client.store("all.empty", block, b"");
    }
    let (records, outcomes) = read_all(&source(stream(&server, "all")));
    assert_eq!(outcomes, Outcomes::default());
    assert_eq!(sequences(&records), (1..=12).collect::<Vec<_>>());
    for (at, record) in records.iter().enumerate() {
        let event = EventRef::parse(record).unwrap();
        let (subject, payload) = match at % 2 {
            0 => (format!("all.{}.ü", at / 2), &every_byte[..]),
            _ => ("all.empty".to_owned(), &b""[..]),
        };
        assert_eq!(event.key(), Some(subject.as_bytes()));
        assert_eq!(event.payload(), Some(payload));
        assert_eq!(event.headers().collect::<Vec<_>>(), parsed[at / 2]);
        assert!(event.time().unwrap() > 1_600_000_000_000_000_000);
    }
}

#[test]
fn ranges_are_read_by_several_parts_places_and_times() {
    let (server, mut client) = server();
    fill(&mut client, "many", 1000);
    let parts = source(stream(&server, "many"));
    assert!(plan(&parts).len() > 5);
    let (records, _) = read_all(&parts);
    assert_filled(&records, 1000);

    let of = |at: usize| EventRef::parse(&records[at]).unwrap().time().unwrap();
    let nats = stream(&server, "many");
    for at in [0, 1, 500, 999] {
        let place = Stream::place_at(&nats, of(at)).unwrap().parts().1;
        // Several may be of the same time.
        assert!(
            place as usize <= at + 1 && of(place as usize - 1) == of(at),
            "{at} {place}"
        );
    }
    assert_eq!(Stream::place_at(&nats, 0).unwrap(), Place::sequence(1));
    assert_eq!(
        Stream::place_at(&nats, of(999) + 1).unwrap(),
        Place::sequence(1001)
    );

    let options = StreamOptions {
        from: Some(Bound::Place(Place::sequence(10))),
        to: Some(Bound::Place(Place::sequence(13))),
        ..StreamOptions::default()
    };
    let (records, _) = read_all(&StreamSource::new(nats, options).unwrap());
    assert_eq!(sequences(&records), [10, 11, 12]);
}

#[test]
fn what_was_deleted_is_an_outcome_and_what_retention_took_a_loss() {
    let (server, mut client) = server();
    fill(&mut client, "gaps", 1000);
    for sequence in [1, 2, 50, 51, 52, 400, 999, 1000] {
        client.must("STREAM.MSG.DELETE.gaps", json!({ "seq": sequence }));
    }
    let source = source(stream(&server, "gaps"));
    let (records, outcomes) = read_all(&source);
    assert_eq!(records.len(), 992);
    // The first two are not even planned: the stream begins behind them.
    assert_eq!(outcomes.outcomes().collect::<Vec<_>>(), [("deleted", 6)]);
    assert_eq!(outcomes.losses().count(), 0);

    let parts = plan(&source);
    client.must("STREAM.PURGE.gaps", json!({ "seq": 200 }));
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |_| {}).unwrap();
    assert_eq!(records.len(), 798);
    assert_eq!(
        outcomes.losses().collect::<Vec<_>>(),
        [("gone by retention", 197)]
    );
    assert_eq!(outcomes.outcomes().collect::<Vec<_>>(), [("deleted", 3)]);

    client.must("STREAM.PURGE.gaps", json!({}));
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |_| {}).unwrap();
    assert_eq!(records.len(), 0);
    assert_eq!(
        outcomes.losses().collect::<Vec<_>>(),
        [("gone by retention", 998)]
    );
    assert_eq!(plan(&source).len(), 0);
}

#[test]
fn a_stream_that_is_purged_while_it_is_read_ends_with_a_loss() {
    let (server, mut client) = server();
    fill(&mut client, "big", 30_000);
    let source = whole(stream(&server, "big"));
    let (records, outcomes) = read_parts(&source, &plan(&source), &gate(), |frame| {
        if frame == 3 {
            client.must("STREAM.PURGE.big", json!({}));
        }
    })
    .unwrap();
    let lost = outcomes.total();
    assert!(lost > 0 && outcomes.losses().collect::<Vec<_>>() == [("gone by retention", lost)]);
    assert_eq!(records.len() as u64 + lost, 30_000);
    assert_eq!(sequences(&records), (1..=30_000 - lost).collect::<Vec<_>>());
}

#[test]
fn a_killed_server_is_waited_for_while_it_is_read() {
    let (mut server, mut client) = server();
    fill(&mut client, "big", 20_000);
    let source = whole(stream(&server, "big"));
    let parts = plan(&source);
    let (records, outcomes) = read_parts(&source, &parts, &gate(), |frame| {
        if frame == 2 || frame == 100 {
            server.restart();
        }
    })
    .unwrap();
    assert_eq!(outcomes, Outcomes::default());
    assert_filled(&records, 20_000);
}

#[test]
fn a_server_that_stays_away_is_a_failure_and_a_cancel_does_not_wait_for_it() {
    let (mut server, mut client) = server();
    fill(&mut client, "big", 20_000);
    let nats = stream(&server, "big");
    let hasty = whole(nats.clone().with_patience(Duration::from_millis(100)));
    let parts = plan(&hasty);
    let kill = |server: &mut Server, frame| {
        if frame == 2 {
            server.kill();
        }
    };
    let failed = failure(read_parts(&hasty, &parts, &gate(), |frame| {
        kill(&mut server, frame)
    }));
    assert_eq!(failed.party(), Party::Source);
    assert!(
        failed
            .to_string()
            .contains("the server did not work for 0 s"),
        "{failed}"
    );
    // Whoever comes anew is told at once.
    let failed = Stream::look(&stream(&server, "big")).unwrap_err();
    assert!(failed.to_string().contains("cannot be reached"), "{failed}");

    server.restart();
    let gate = gate();
    let patient = whole(nats.with_patience(Duration::from_secs(3600)));
    let stopped = std::thread::scope(|scope| {
        let (away, is_away) = std::sync::mpsc::channel();
        scope.spawn(|| {
            is_away.into_iter().next().unwrap();
            gate.cancel();
        });
        read_parts(&patient, &parts, &gate, move |frame| {
            kill(&mut server, frame);
            if frame == 2 {
                away.send(()).unwrap();
            }
        })
    });
    assert!(matches!(stopped, Err(Stop::Cancelled(_))));
}

#[test]
fn a_stream_that_is_deleted_or_made_anew_while_it_is_read_is_a_failure() {
    let (server, mut client) = server();
    fill(&mut client, "big", 20_000);
    let source = whole(stream(&server, "big"));
    let parts = plan(&source);
    let failed = failure(read_parts(&source, &parts, &gate(), |frame| {
        if frame == 2 {
            client.must("STREAM.DELETE.big", json!(null));
            fill(&mut client, "big", 20_000);
        }
    }));
    assert!(failed.to_string().contains("made anew"), "{failed}");
    let failed = failure(read_parts(&source, &parts, &gate(), |frame| {
        if frame == 2 {
            client.must("STREAM.DELETE.big", json!(null));
        }
    }));
    assert!(failed.to_string().contains("no such stream"), "{failed}");
}

#[test]
fn messages_larger_than_a_request_are_read_and_loaded() {
    let server = Server::start("max_payload: 16MB");
    let mut client = RawNats::connect(server.port());
    client.create_stream("large", json!({ "subjects": ["large.>"] }));
    for (number, bytes) in [10, 6 << 20, 10, 9 << 20, 7 << 20, 0]
        .into_iter()
        .enumerate()
    {
        client.store(&format!("large.{number}"), b"", &vec![number as u8; bytes]);
    }
    let (records, outcomes) = read_all(&whole(stream(&server, "large")));
    assert_eq!(outcomes, Outcomes::default());
    assert_eq!(sequences(&records), [1, 2, 3, 4, 5, 6]);

    let small = Server::start("max_payload: 8MB");
    let mut client = RawNats::connect(small.port());
    client.create_stream("copy", json!({ "subjects": ["large.>"] }));
    for appended in [5, 0] {
        let (count, outcomes) =
            write_all(&sink(stream(&small, "copy")), &records, &gate(), |_| {}).unwrap();
        assert_eq!(count, appended);
        assert_eq!(outcomes.losses().collect::<Vec<_>>(), [("too large", 1)]);
    }
    let sizes: Vec<_> = client
        .all("copy")
        .iter()
        .map(|(_, m)| m.payload.len())
        .collect();
    assert_eq!(sizes, [10, 6 << 20, 10, 7 << 20, 0]);
}

#[test]
fn an_event_that_is_too_large_is_split_and_its_pieces_tell() {
    let server = Server::start("max_payload: 64KB");
    let mut client = RawNats::connect(server.port());
    client.create_stream("copy", json!({ "subjects": ["s.>"] }));
    let large = |number: u8, bytes: usize| Event {
        time: Some(7),
        key: Some(b"s.x".to_vec()),
        headers: vec![
            (b"Tipple-Split".to_vec(), Some(b"1/2/3".to_vec())),
            (b"n".to_vec(), Some(vec![b'0' + number])),
        ],
        payload: Some((0..bytes).map(|at| (at % 251) as u8 ^ number).collect()),
    };
    // The last one has headers that leave it no room.
    let mut heavy = large(5, 70_000);
    heavy.headers[1].1 = Some(vec![b'h'; 40_000]);
    let sizes = [(1, 10), (2, 1_000_000), (3, 66_000), (4, 0)];
    let events: Vec<_> = sizes.map(|(number, bytes)| large(number, bytes)).into();
    let all = events.iter().chain([&heavy]);
    let records: Vec<_> = (2..)
        .step_by(2)
        .zip(all)
        .map(|(at, event)| record(at, event))
        .collect();
    let refused = write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {});
    let (_, outcomes) = refused.unwrap();
    assert_eq!(outcomes.losses().collect::<Vec<_>>(), [("too large", 3)]);
    // From the first sequence on, which the headers tell.
    client.must("STREAM.DELETE.copy", json!(null));
    client.create_stream("copy", json!({ "subjects": ["s.>"] }));

    let load = |name: &str| {
        let target = sink(stream(&server, name).splitting(true));
        write_all(&target, &records, &gate(), |_| {})
    };
    for appended in [4, 0] {
        let (count, outcomes) = load("copy").unwrap();
        assert_eq!(count, appended);
        assert_eq!(outcomes.losses().collect::<Vec<_>>(), [("too large", 1)]);
    }
    let messages = client.all("copy");
    let header = |headers: &[u8], name: &str| {
        let text = String::from_utf8_lossy(headers).into_owned();
        let find = |line: &str| line.strip_prefix(&format!("{name}: ")).map(str::to_owned);
        text.lines().find_map(find)
    };
    let mut at = 0;
    for (number, event) in events.iter().enumerate() {
        let (mut payload, mut piece) = (Vec::new(), 0);
        loop {
            let message = &messages[at].1;
            at += 1;
            piece += 1;
            payload.extend_from_slice(&message.payload);
            let position = header(&message.headers, "Tipple-Position").unwrap();
            assert_eq!(position, format!("{}", 2 * number + 2));
            // Its own of that name is kept under another one.
            let own = header(&message.headers, "Tipple-Tipple-Split");
            assert_eq!(own.is_some(), piece == 1);
            let Some(split) = header(&message.headers, "Tipple-Split") else {
                assert_eq!(piece, 1);
                break;
            };
            let numbers: Vec<usize> = split.split('/').map(|n| n.parse().unwrap()).collect();
            assert_eq!(
                (numbers[0], numbers[2]),
                (piece, event.payload.as_ref().unwrap().len())
            );
            if numbers[0] == numbers[1] {
                break;
            }
        }
        assert_eq!(Some(payload), event.payload);
    }
    assert_eq!(at, messages.len());

    // A load that was killed in the middle of an event, after any of its pieces: the next one goes on behind it.
    for there in [2, 9, messages.len() - 2] {
        client.must("STREAM.DELETE.copy", json!(null));
        client.create_stream("copy", json!({ "subjects": ["s.>"] }));
        for (_, message) in &messages[..there] {
            client.store(&message.subject, &message.headers, &message.payload);
        }
        load("copy").unwrap();
        let again = client.all("copy");
        assert!(again == messages, "after {there}");
    }
    // And one of another event of that place is refused.
    client.must("STREAM.DELETE.copy", json!(null));
    client.create_stream("copy", json!({ "subjects": ["s.>"] }));
    for (number, (_, message)) in messages[..3].iter().enumerate() {
        let mut payload = message.payload.clone();
        if number == 2 {
            payload[0] ^= 1;
        }
        client.store(&message.subject, &message.headers, &payload);
    }
    let failed = failure(load("copy"));
    assert!(
        failed.to_string().contains("pieces of another event"),
        "{failed}"
    );
    assert_eq!(client.all("copy").len(), 3);
}

#[test]
fn what_was_loaded_is_what_was_read_and_a_second_load_adds_nothing() {
    let (server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let mut records = events(500);
    let odd = Event {
        time: None,
        key: Some(b"copy.odd".to_vec()),
        headers: [
            ("Tipple-Time", "5"),
            ("b", " x "),
            ("Tipple-Position", "7"),
            ("a", ""),
            ("b", "\u{ff}"),
        ]
        .map(|(name, value)| (name.into(), Some(value.into())))
        .to_vec(),
        payload: Some(Vec::new()),
    };
    records.push(record(600, &odd));
    for appended in [501, 0] {
        let loaded = write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {});
        assert_eq!(loaded.unwrap(), (appended, Outcomes::default()));
        assert_loaded(&mut client, &records);
    }
    // What comes behind is added.
    records.push(record(601, &odd));
    let loaded = write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {}).unwrap();
    assert_eq!(loaded.0, 1);
    assert_loaded(&mut client, &records);
}

#[test]
fn headers_that_are_commands_are_kept_and_do_nothing() {
    let (server, mut client) = server();
    client.create_stream(
        "copy",
        json!({ "subjects": ["copy.>"], "allow_rollup_hdrs": true }),
    );
    let commands = [
        ("Nats-Msg-Id", "the same"),
        ("Nats-Rollup", "all"),
        ("Nats-Expected-Stream", "another"),
        ("Nats-Expected-Last-Sequence", "77"),
        ("Tipple-Nats-Rollup", "all"),
        ("note", "Nats-Expected-Last-Sequence: 5"),
    ];
    let event = Event {
        key: Some(b"copy.x".to_vec()),
        headers: commands
            .map(|(name, value)| (name.into(), Some(value.into())))
            .to_vec(),
        payload: Some(Vec::new()),
        ..Event::default()
    };
    let records: Records = (1..=3).map(|number| record(number, &event)).collect();
    for appended in [3, 0] {
        let loaded = write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {}).unwrap();
        assert_eq!(loaded.0, appended);
    }
    let all = client.all("copy");
    assert_eq!(all.len(), 3);
    let lines = own_headers(&all[2].1);
    let names: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    assert_eq!(
        names[..7],
        [
            "Nats-Expected-Last-Sequence: 2",
            "Tipple-Nats-Msg-Id: the same",
            "Tipple-Nats-Rollup: all",
            "Tipple-Nats-Expected-Stream: another",
            "Tipple-Nats-Expected-Last-Sequence: 77",
            "Tipple-Tipple-Nats-Rollup: all",
            "note: Nats-Expected-Last-Sequence: 5",
        ]
    );
}

#[test]
fn events_that_nats_cannot_hold_are_counted() {
    let (server, mut client) = server();
    client.create_stream(
        "copy",
        json!({ "subjects": ["copy.>"], "max_msg_size": 2000 }),
    );
    let good = Event {
        key: Some(b"copy.x".to_vec()),
        payload: Some(Vec::new()),
        ..Event::default()
    };
    let header = |name: &str, value: Option<&str>| Event {
        headers: vec![(name.into(), value.map(Into::into))],
        ..good.clone()
    };
    let key = |key: Option<&str>| Event {
        key: key.map(Into::into),
        ..good.clone()
    };
    let payload = |payload: Option<usize>| Event {
        payload: payload.map(|bytes| vec![0; bytes]),
        ..good.clone()
    };
    let events = [
        good.clone(),
        key(None),
        key(Some("copy.a b")),
        key(Some("copy.*")),
        payload(None),
        payload(Some(2000)),
        payload(Some(1500)),
        header("a:", Some("")),
        header("a", Some("b\r\nc")),
        header("", Some("")),
        header("a", None),
    ];
    let records: Records = (1..)
        .zip(&events)
        .map(|(at, event)| record(at, event))
        .collect();
    let (appended, outcomes) =
        write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {}).unwrap();
    assert_eq!(appended, 2);
    assert_eq!(
        outcomes.losses().collect::<Vec<_>>(),
        [
            ("a header that NATS cannot hold", 4),
            ("no key that is a subject of NATS", 3),
            ("no payload", 1),
            ("too large", 1),
        ]
    );
    let stray = vec![record(50, &key(Some("elsewhere.x")))];
    let records = [records, stray].concat();
    let failed = failure(write_all(
        &sink(stream(&server, "copy")),
        &records,
        &gate(),
        |_| {},
    ));
    assert!(
        failed
            .to_string()
            .contains("does not listen to the subject \"elsewhere.x\""),
        "{failed}"
    );
}

#[test]
fn a_killed_server_is_waited_for_while_it_is_loaded() {
    let (mut server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let records = events(20_000);
    let target = sink(stream(&server, "copy"));
    let loaded = write_all(&target, &records, &gate(), |frame| {
        if [3, 40, 120].contains(&frame) {
            server.restart();
        }
    });
    assert_eq!(loaded.unwrap(), (20_000, Outcomes::default()));
    let mut client = RawNats::connect(server.port());
    assert_loaded(&mut client, &records);
}

#[test]
fn a_load_that_is_broken_off_again_and_again_is_whole_in_the_end() {
    let (server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let records = events(20_000);
    let mut there = 0;
    for broken_at in [0, 1, 30, 60, 100, 130, 170] {
        let gate = gate();
        let stopped = write_all(&sink(stream(&server, "copy")), &records, &gate, |frame| {
            if frame == broken_at {
                gate.cancel();
            }
        });
        assert!(
            matches!(stopped, Err(Stop::Cancelled(_))),
            "{broken_at}: {stopped:?}"
        );
        let now = client.state("copy")["messages"].as_u64().unwrap();
        assert!(now >= there);
        there = now;
    }
    assert!(there > 0);
    write_all(&sink(stream(&server, "copy")), &records, &gate(), |_| {}).unwrap();
    assert_loaded(&mut client, &records);
}

#[test]
fn somebody_else_who_writes_to_the_target_ends_the_load() {
    let (server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let records = events(20_000);
    let mut foreign = 0;
    let failed = failure(write_all(
        &sink(stream(&server, "copy")),
        &records,
        &gate(),
        |frame| {
            if frame == 60 {
                foreign = client.store("copy.foreign", b"", b"mine");
            }
        },
    ));
    assert_eq!(failed.party(), Party::Sink);
    let due = format!("somebody else has written or deleted message {foreign} of it");
    assert!(failed.to_string().contains(&due), "{failed}");
    // What was on its way is behind it; a second load notices, too.
    let failed = failure(write_all(
        &sink(stream(&server, "copy")),
        &records,
        &gate(),
        |_| {},
    ));
    assert!(failed.to_string().contains(&due), "{failed}");
}

#[test]
fn somebody_else_who_was_there_first_is_noticed_on_an_empty_stream() {
    let (server, mut client) = server();
    client.create_stream("copy", json!({ "subjects": ["copy.>"] }));
    let failed = failure(write_all(
        &sink(stream(&server, "copy")),
        &events(10),
        &gate(),
        |frame| {
            if frame == 0 {
                client.store("copy.foreign", b"", b"mine");
            }
        },
    ));
    assert!(
        failed
            .to_string()
            .contains("somebody else has written or deleted message 1"),
        "{failed}"
    );
}

#[test]
fn streams_that_cannot_be_read_or_loaded_are_refused() {
    let (server, mut client) = server();
    for retention in ["workqueue", "interest"] {
        let fields = json!({ "subjects": [format!("{retention}.>")], "retention": retention });
        client.create_stream(retention, fields);
        let failed = Stream::look(&stream(&server, retention)).unwrap_err();
        assert_eq!(failed.party(), Party::Usage);
        assert!(
            failed
                .to_string()
                .contains(&format!("retention {retention}")),
            "{failed}"
        );
    }
    let failed = Stream::look(&stream(&server, "none")).unwrap_err();
    assert!(failed.to_string().contains("no such stream"), "{failed}");

    client.create_stream("mirror", json!({ "mirror": { "name": "workqueue" } }));
    let failed = failure(write_all(
        &sink(stream(&server, "mirror")),
        &events(1),
        &gate(),
        |_| {},
    ));
    assert_eq!(failed.party(), Party::Usage);
    assert!(
        failed.to_string().contains("from another stream"),
        "{failed}"
    );

    let plain = Server::start("");
    let url = format!("nats://127.0.0.1:{}/x", plain.port());
    drop(plain);
    let failed = Stream::look(&Nats::at(url.parse().unwrap())).unwrap_err();
    assert!(failed.to_string().contains("cannot be reached"), "{failed}");
}

#[test]
fn who_may_not_log_in_is_told_so() {
    let server = Server::start("authorization { user: joe, password: \"s@cret\" }");
    let mut client = RawNats::connect_as(server.port(), json!({ "user": "joe", "pass": "s@cret" }));
    client.create_stream("safe", json!({ "subjects": ["safe.>"] }));
    client.store("safe.x", b"", b"");
    let at = |login: &str| {
        let url = format!("nats://{login}127.0.0.1:{}/safe", server.port());
        Nats::at(url.parse().unwrap())
    };
    assert_eq!(Stream::look(&at("joe:s%40cret@")).unwrap().events, 1);
    for login in ["", "joe:s%40cre@", "s%40cret@"] {
        let failed = Stream::look(&at(login)).unwrap_err().to_string();
        assert!(failed.contains("does not let tipple in"), "{failed}");
        assert!(!failed.contains("cre"), "{failed}");
    }
}

#[test]
fn who_has_a_key_logs_in_by_its_file() {
    let account = NatsAccount::create();
    let seed = &account.user().seed;
    let with_seed = account.file("user.nk", &format!("# of the exporter\n{seed}\n"));
    let with_jwt = account.credentials(seed);
    let server = |config: &str, raw: Value| {
        let server = Server::start(config);
        let mut client = RawNats::connect_as(server.port(), raw);
        client.create_stream("safe", json!({ "subjects": ["safe.>"] }));
        client.store("safe.x", b"", b"");
        server
    };
    let by_key = server(
        &format!(
            "authorization {{ users: [{{ user: joe, password: s }}, {{ nkey: {} }}] }}",
            account.user().public
        ),
        json!({ "user": "joe", "pass": "s" }),
    );
    let by_jwt = server(&account.config(), json!({ "jwt": account.bearer() }));
    let at = |server: &Server, file: &Path| {
        let url = format!(
            "nats://127.0.0.1:{}/safe?creds={}",
            server.port(),
            file.display()
        );
        Nats::at(url.parse().unwrap())
    };
    for (server, file) in [(&by_key, &with_seed), (&by_jwt, &with_jwt)] {
        assert_eq!(Stream::look(&at(server, file)).unwrap().events, 1);
        assert_eq!(at(server, file).streams().unwrap(), ["safe"]);
    }

    let other = NatsAccount::create();
    let (strange, mixed) = (
        other.credentials(&other.user().seed),
        other.file(
            "mixed.creds",
            &fs::read_to_string(&with_jwt)
                .unwrap()
                .replace(seed, &other.user().seed),
        ),
    );
    for (server, file) in [
        (&by_key, &strange),
        (&by_jwt, &strange),
        (&by_jwt, &mixed),
        (&by_jwt, &with_seed),
    ] {
        let failed = Stream::look(&at(server, file)).unwrap_err().to_string();
        assert!(failed.contains("does not let tipple in"), "{failed}");
    }
    let none = account.file("none.creds", "hunter2\n");
    let away = account.file("away", "").with_extension("creds");
    for (file, why) in [(&none, "no seed of a user's key"), (&away, "No such file")] {
        let failed = Stream::look(&at(&by_jwt, file)).unwrap_err().to_string();
        assert!(
            failed.contains(why) && failed.contains(file.to_str().unwrap()),
            "{failed}"
        );
        assert!(!failed.contains("hunter2"), "{failed}");
    }
}
