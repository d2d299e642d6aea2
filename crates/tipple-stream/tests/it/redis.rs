//! Redis streams, on real servers.

use std::time::Duration;

use serde_json::{Value, json};
use tipple_flow::{Failure, Party, Stop};
use tipple_stream::{
    Event, Numbering, Place, Redis as Stream, RedisUrl, StreamOptions, StreamSink, StreamSource,
};
use tipple_testkit::{End, Flow, Proxy, RawRedis, Redis, RedisReply, Script, wait_for};

use crate::pipeline::{Dump, dump, gate, load, load_with, plan, read};

fn url(server: &Redis, key: &str) -> RedisUrl {
    format!("redis://{}/{key}", server.addr()).parse().unwrap()
}

/// With bounds that end a test soon when something hangs.
fn stream(server: &Redis, key: &str) -> Stream {
    Stream::new(url(server, key)).with_bounds(Duration::from_secs(5), Duration::from_secs(20))
}

fn source(server: &Redis, key: &str) -> StreamSource<Stream> {
    StreamSource::new(stream(server, key), StreamOptions::default()).unwrap()
}

/// With as many parts as can be.
fn in_parts(server: &Redis, key: &str) -> StreamSource<Stream> {
    let options = StreamOptions {
        part_bytes: StreamOptions::PART_BYTES_MIN,
        ..StreamOptions::default()
    };
    StreamSource::new(stream(server, key), options).unwrap()
}

fn sink(server: &Redis, key: &str) -> StreamSink<Stream> {
    StreamSink::new(stream(server, key))
}

/// Restores what the dump says of its source, too.
fn whole_sink(server: &Redis, key: &str, dump: &Dump) -> StreamSink<Stream> {
    StreamSink::new(stream(server, key).restoring(&dump.said))
}

fn failure<T>(result: Result<T, Stop>) -> Failure {
    match result {
        Err(Stop::Failed(failure)) => failure,
        Err(Stop::Cancelled(_)) => panic!("nobody cancelled"),
        Ok(_) => panic!("it did not fail"),
    }
}

fn add(client: &mut RawRedis, key: &str, id: &str, fields: &[(&[u8], &[u8])]) {
    let mut args: Vec<&[u8]> = vec![b"XADD", key.as_bytes(), id.as_bytes()];
    args.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
    client.command(&args);
}

/// Adds the events `from..to`, a second apart, of `bytes` each.
fn fill(client: &mut RawRedis, key: &str, from: u64, to: u64, bytes: usize) {
    for number in from..to {
        let value = vec![number as u8; bytes];
        add(client, key, &format!("{number}000-7"), &[(b"v", &value)]);
    }
}

fn entries(client: &mut RawRedis, key: &str) -> RedisReply {
    client.words(&format!("XRANGE {key} - +"))
}

fn ids(dump: &Dump) -> Vec<String> {
    dump.events().into_iter().map(|(id, _)| id).collect()
}

fn expected_ids(from: u64, to: u64) -> Vec<String> {
    (from..to).map(|number| format!("{number}000-7")).collect()
}

/// What Redis says of a stream and its groups, without how it is laid out in memory and who consumes.
fn says(client: &mut RawRedis, key: &str) -> String {
    let RedisReply::List(info) = client.words(&format!("XINFO STREAM {key}")) else {
        panic!("XINFO gives a list")
    };
    let name = |field: &RedisReply| match field {
        RedisReply::Bytes(name) => String::from_utf8(name.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    let kept = info
        .chunks(2)
        .filter(|pair| !name(&pair[0]).starts_with("radix-tree"));
    let kept: Vec<_> = kept.collect();
    assert!(kept.len() >= 7, "{info:?}");
    let RedisReply::List(groups) = client.words(&format!("XINFO GROUPS {key}")) else {
        panic!("XINFO gives a list")
    };
    let groups: Vec<_> = groups
        .iter()
        .map(|group| match group {
            RedisReply::List(fields) => (fields.chunks(2))
                .filter(|pair| !["consumers", "pending"].contains(&&*name(&pair[0])))
                .map(<[_]>::to_vec)
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
        .collect();
    format!("{kept:?} {groups:?}")
}

/// Ids, consumers and deliveries of what is pending in a group; when it was delivered differs by what a question takes.
fn pending(client: &mut RawRedis, key: &str, group: &str) -> Vec<(String, String, i64)> {
    let RedisReply::List(entries) = client.words(&format!("XPENDING {key} {group} - + 100000"))
    else {
        panic!("XPENDING gives a list")
    };
    let entry = |entry: &RedisReply| match entry {
        RedisReply::List(fields) => match &fields[..] {
            [
                RedisReply::Bytes(id),
                RedisReply::Bytes(consumer),
                RedisReply::Number(_),
                RedisReply::Number(deliveries),
            ] => (text(id), text(consumer), *deliveries),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.iter().map(entry).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn everything_of_a_stream_comes_back() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    let a = &mut client;
    add(a, "a", "0-1", &[(b"trimmed", b"")]);
    add(a, "a", "4-0", &[(b"", b"")]);
    add(a, "a", "5-0", &[(b"x", b"1"), (b"x", b"2"), (b"x", b"1")]);
    add(
        a,
        "a",
        "5-18446744073709551615",
        &[(b"\x00\xff\r\n", b"$5\r\n*-1")],
    );
    add(a, "a", "6-0", &[(b"Tipple-Position", b"9"), (b"k", b"v")]);
    for number in 7..3000 {
        let id = format!("{}-{number}", number * 1000);
        let value = vec![number as u8; number % 700];
        add(a, "a", &id, &[(b"v", &value), (b"n", id.as_bytes())]);
    }
    // Larger than an answer should be, than a frame, and than what a reader holds.
    let large = vec![7; 6 << 20];
    add(a, "a", "4000000-0", &[(b"large", &large), (&large, b"")]);
    add(a, "a", "4000000-1", &[(b"held", &large[..3 << 20])]);
    add(a, "a", "4000000-2", &[(b"v", b"deleted")]);
    a.words("XDEL a 70000-70 4000000-2");
    a.words("XTRIM a MINID 4-0");
    a.words("XGROUP CREATE a read 0 ENTRIESREAD 1");
    a.words("XREADGROUP GROUP read me COUNT 2500 STREAMS a >");
    a.words("XREADGROUP GROUP read other COUNT 50 STREAMS a >");
    a.words("XCLAIM a read other 0 7000-7");
    a.words("XACK a read 5-0");
    a.words("XDEL a 8000-8");
    a.words("XGROUP CREATE a unknown 5-5");
    a.command(&[b"XGROUP", b"CREATE", b"a", b"\x00\xff", b"$"]);

    let dumped = dump(&in_parts(&server, "a")).unwrap();
    assert!(dumped.parts.len() > 20, "{} parts", dumped.parts.len());
    assert_eq!(dumped.outcomes.total(), 0);
    assert_eq!(dumped.said["gone"], 0);
    let events = dumped.events();
    let (id, event) = &events[1];
    assert_eq!((&**id, event.time), ("5-0", Some(5_000_000)));
    assert_eq!(event.headers.len(), 3);

    let said = load(&dumped, &whole_sink(&server, "b", &dumped)).unwrap();
    let length = events.len();
    assert_eq!(
        said,
        json!({"appended": length, "there_before": 0, "target": {
            "groups_made": 3, "groups_there_before": 0,
            // One was acknowledged, and one is no event any more.
            "pending_made": 2548, "pending_not_kept": 1,
        }})
    );
    let mut of_a = pending(a, "a", "read");
    of_a.retain(|(id, ..)| id != "8000-8");
    assert_eq!(of_a[2], ("6-0".into(), "me".into(), 1));
    assert_eq!(of_a[3], ("7000-7".into(), "other".into(), 2));
    assert!(of_a == pending(a, "b", "read"), "other pending entries");
    assert!(entries(a, "a") == entries(a, "b"), "other entries");
    assert_eq!(says(a, "a"), says(a, "b"));

    // Once more: nothing is there twice, and a group that has gone on stays there.
    a.words("XGROUP SETID b unknown 6-0");
    let before = says(a, "b");
    let said = load(&dumped, &whole_sink(&server, "b", &dumped)).unwrap();
    assert_eq!(
        (&said["appended"], &said["there_before"]),
        (&json!(0), &json!(length))
    );
    assert_eq!(said["target"]["groups_there_before"], 3);
    assert_eq!(says(a, "b"), before);
}

#[test]
fn ids_far_apart_come_back() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    // The last time that nanoseconds can tell, and the last id.
    for id in [
        "0-1",
        "0-2",
        "1600000000000-0",
        "9223372036854-0",
        "9223372036855-0",
        "18446744073709551615-18446744073709551615",
    ] {
        add(&mut client, "a", id, &[(b"v", &[1; 100_000])]);
    }
    let dumped = dump(&in_parts(&server, "a")).unwrap();
    assert_eq!(dumped.outcomes.total(), 0);
    assert_eq!(dumped.said["gone"], 0);
    let times: Vec<_> = dumped
        .events()
        .into_iter()
        .map(|(_, event)| event.time)
        .collect();
    assert_eq!(times[3..], [Some(9_223_372_036_854_000_000), None, None]);
    load(&dumped, &whole_sink(&server, "b", &dumped)).unwrap();
    assert!(
        entries(&mut client, "a") == entries(&mut client, "b"),
        "other entries"
    );
    assert_eq!(says(&mut client, "a"), says(&mut client, "b"));
}

#[test]
fn an_event_of_long_ago_makes_no_part_of_everything_else() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    add(&mut client, "a", "0-1", &[(b"v", b"")]);
    fill(&mut client, "a", 1_600_000_000, 1_600_001_000, 2000);
    let dumped = dump(&in_parts(&server, "a")).unwrap();
    assert!(dumped.parts.len() > 10, "{} parts", dumped.parts.len());
    assert!(dumped.parts.iter().all(|part| !part.is_empty()));
    assert_eq!(
        ids(&dumped)[1..],
        expected_ids(1_600_000_000, 1_600_001_000)
    );
}

#[test]
fn a_stream_without_events_comes_back() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 4, 1);
    client.words("XDEL a 1000-7 2000-7 3000-7");
    client.words("XGROUP CREATE a g 2000-7");
    let dumped = dump(&source(&server, "a")).unwrap();
    assert_eq!(dumped.events(), []);
    load(&dumped, &whole_sink(&server, "b", &dumped)).unwrap();
    assert_eq!(says(&mut client, "a"), says(&mut client, "b"));
}

#[test]
fn what_went_away_before_it_was_read_is_counted() {
    for (command, cause, gone) in [
        ("XTRIM a MAXLEN 50", "trimmed before they were read", 950),
        ("XDEL a 1000-7", "deleted", 1),
        ("XDEL a 2000-7", "", 1),
    ] {
        let server = Redis::start(&[]);
        let mut client = server.client();
        fill(&mut client, "a", 1, 1001, 10);
        let source = source(&server, "a");
        let gate = gate();
        let planned = plan(&source, &gate).unwrap();
        client.words(command);
        // What comes later is not part of it.
        fill(&mut client, "a", 1001, 1011, 10);
        let dumped = read(&source, &gate, planned, &mut |_| ()).unwrap();
        assert_eq!(dumped.events().len() as u64, 1000 - gone);
        assert_eq!(
            dumped.outcome(cause),
            u64::from(!cause.is_empty()),
            "{command}"
        );
        assert_eq!(
            dumped.outcomes.lost(),
            u64::from(cause.starts_with("trimmed"))
        );
        assert_eq!(dumped.said["gone"], gone);
    }
}

#[test]
fn each_range_that_was_trimmed_is_a_loss() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 1001, 2000);
    let source = in_parts(&server, "a");
    let gate = gate();
    let planned = plan(&source, &gate).unwrap();
    let parts = planned.1.len();
    assert!(parts > 10);
    // Down to the middle of a range: all ranges before, and this one.
    client.words("XTRIM a MAXLEN 500");
    let dumped = read(&source, &gate, planned, &mut |_| ()).unwrap();
    assert_eq!(ids(&dumped), expected_ids(501, 1001));
    let empty = dumped.parts.iter().filter(|part| part.is_empty()).count();
    let lost = dumped.outcomes.lost() as usize;
    assert!(
        empty > 0 && (lost == empty || lost == empty + 1),
        "{lost} {empty}"
    );
    assert_eq!(dumped.said["gone"], 500);
}

#[test]
fn a_server_that_restarts_is_read_on() {
    let mut server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 2001, 3000);
    // Twice: in a range, and inside an event that is not held.
    add(
        &mut client,
        "a",
        "2001000-7",
        &[(b"l", &vec![1; 12 << 20]), (b"m", b"2")],
    );
    let before = entries(&mut client, "a");
    let source = source(&server, "a");
    let gate = gate();
    let planned = plan(&source, &gate).unwrap();
    let mut restarts = 0;
    let dumped = read(&source, &gate, planned, &mut |block| {
        if block == 20 || block == 180 {
            server.restart();
            restarts += 1;
        }
    })
    .unwrap();
    assert_eq!(restarts, 2);
    assert_eq!(dumped.outcomes.total(), 0);
    load(&dumped, &sink(&server, "b")).unwrap();
    let mut client = server.client();
    assert!(entries(&mut client, "b") == before, "other entries");
}

#[test]
fn a_large_event_that_is_deleted_under_its_reader_is_no_half_event() {
    let mut server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 100, 3000);
    add(&mut client, "a", "100000-7", &[(b"l", &vec![1; 30 << 20])]);
    fill(&mut client, "a", 101, 200, 10);
    let source = source(&server, "a");
    let gate = gate();
    let planned = plan(&source, &gate).unwrap();
    let dumped = read(&source, &gate, planned, &mut |block| {
        if block == 40 {
            server.client().words("XDEL a 100000-7");
            server.restart();
        }
    })
    .unwrap();
    let expected = expected_ids(1, 200)
        .into_iter()
        .filter(|id| id != "100000-7");
    assert_eq!(ids(&dumped), expected.collect::<Vec<_>>());
}

#[test]
fn a_server_that_is_gone_is_an_error_and_a_silent_one_can_be_cancelled() {
    let mut server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 2001, 3000);
    let impatient = |silence: u64| {
        let stream = Stream::new(url(&server, "a"));
        let stream = stream.with_bounds(Duration::from_millis(silence), Duration::from_millis(300));
        StreamSource::new(stream, StreamOptions::default()).unwrap()
    };
    let (source, silent, patient) = (impatient(5000), impatient(100), impatient(60_000));
    let open = gate();
    let planned = || plan(&source, &open).unwrap();
    // Silent.
    let failed = failure(read(&silent, &open, planned(), &mut |block| {
        if block == 3 {
            server.pause();
        }
    }));
    server.resume();
    assert!(
        failed.to_string().contains("it said nothing for 100ms"),
        "{failed}"
    );
    let gate = gate();
    std::thread::scope(|scope| {
        let (paused, is_paused) = std::sync::mpsc::channel();
        let (server, gate, patient, planned) = (&server, &gate, &patient, planned());
        let reader = scope.spawn(move || {
            read(patient, gate, planned, &mut |block| {
                if block == 3 {
                    server.pause();
                    paused.send(()).unwrap();
                }
            })
            .err()
        });
        is_paused.recv().unwrap();
        gate.cancel();
        wait_for("the reader to end", || reader.is_finished());
        let stop = reader.join().unwrap();
        assert!(matches!(stop, Some(Stop::Cancelled(_))), "{stop:?}");
    });
    server.resume();
    // Gone.
    let planned = planned();
    let failed = failure(read(&source, &open, planned, &mut |block| {
        if block == 3 {
            server.kill();
        }
    }));
    assert_eq!(failed.party(), Party::Source);
    let text = failed.to_string();
    assert!(
        text.starts_with("cannot read from ") && text.contains("Connection refused"),
        "{text}"
    );
}

#[test]
fn a_key_that_was_made_anew_is_told() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    let gate = gate();
    for (commands, told) in [
        (vec!["DEL a"], "there is no key redis://"),
        (
            vec!["DEL a", "XADD a 5000-0 k v"],
            "was made anew while it was dumped",
        ),
        (
            vec!["DEL a", "RENAME other a"],
            "was made anew while it was dumped",
        ),
        (vec!["XADD a 200000-0 k v", "XDEL a 50000-7"], ""),
        (vec!["DEL a", "SET a 1"], "WRONGTYPE"),
    ] {
        client.words("FLUSHALL");
        fill(&mut client, "a", 1, 101, 10);
        fill(&mut client, "other", 300, 420, 10);
        let source = source(&server, "a");
        let planned = plan(&source, &gate).unwrap();
        for command in &commands {
            client.words(command);
        }
        match read(&source, &gate, planned, &mut |_| ()) {
            Ok(_) => assert_eq!(told, "", "{commands:?}"),
            Err(Stop::Failed(failed)) => {
                let text = failed.to_string();
                assert!(
                    !told.is_empty() && text.contains(told),
                    "{commands:?}: {text}"
                );
            }
            Err(Stop::Cancelled(_)) => panic!("nobody cancelled"),
        }
    }
}

#[test]
fn a_load_that_is_broken_off_goes_on_where_it_was() {
    let mut server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 3001, 2000);
    add(&mut client, "a", "3001000-7", &[(b"l", &vec![1; 5 << 20])]);
    fill(&mut client, "a", 3002, 3010, 2000);
    let before = entries(&mut client, "a");
    let dumped = dump(&source(&server, "a")).unwrap();
    // Cancelled, at several places.
    let mut there = 0;
    for at in [1, 7, 30] {
        let gate = gate();
        let stop = load_with(&dumped, &sink(&server, "b"), &gate, &mut |frame| {
            if frame == at {
                gate.cancel();
            }
        });
        assert!(matches!(stop, Err(Stop::Cancelled(_))));
        let RedisReply::Number(now) = client.words("XLEN b") else {
            panic!("a length")
        };
        assert!(now >= there);
        there = now;
    }
    assert!(there > 0);
    let said = load(&dumped, &sink(&server, "b")).unwrap();
    assert_eq!(said["there_before"], there);
    assert!(entries(&mut client, "b") == before, "other entries");
    // The server restarts under the writer, which goes on.
    let mut restarts = 0;
    let (said, _) = load_with(&dumped, &sink(&server, "c"), &gate(), &mut |frame| {
        if frame == 5 || frame == 60 {
            server.restart();
            restarts += 1;
        }
    })
    .unwrap();
    assert_eq!((restarts, &said["appended"]), (2, &json!(3009)));
    let mut client = server.client();
    assert!(entries(&mut client, "c") == before, "other entries");
}

/// A connection that is cut at any byte, on either way: also where a batch was applied and its answer was lost.
#[test]
fn connections_that_break_anywhere_lose_and_double_nothing() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 1001, 1000);
    let before = entries(&mut client, "a");
    let broken = |to_server: Option<u64>, to_client: Option<u64>| {
        let flow = |end: Option<u64>| Flow {
            end_after: end.map(|bytes| (bytes, End::Reset)),
            ..Flow::default()
        };
        // Every second connection breaks.
        Proxy::start(&server.addr(), move |connection| match connection % 2 {
            0 => Script {
                to_server: flow(to_server),
                to_client: flow(to_client),
            },
            _ => Script::default(),
        })
    };
    let over = |proxy: &Proxy, key: &str| {
        let url: RedisUrl = format!("redis://{}/{key}", proxy.addr()).parse().unwrap();
        Stream::new(url).with_bounds(Duration::from_secs(5), Duration::from_secs(20))
    };
    let dumped = dump(&source(&server, "a")).unwrap();
    for bytes in [1500, 5000, 100_001, 700_000] {
        let proxy = broken(None, Some(bytes));
        let options = StreamOptions::default();
        let read = dump(&StreamSource::new(over(&proxy, "a"), options).unwrap()).unwrap();
        assert!(read.events() == dumped.events(), "{bytes}");
        assert!(proxy.connections() > 1, "{bytes}");
    }
    let (mut asked, mut cut) = (0, 0);
    // An answer has about 40 bytes an event.
    let ways = (0..12).map(|n| (None, Some(600 + n * 1000)));
    let ways = ways.chain((0..5).map(|n| (Some(300 + n * 180_001), None)));
    for (to_server, to_client) in ways {
        client.words("DEL b");
        let proxy = broken(to_server, to_client);
        let said = load(&dumped, &StreamSink::new(over(&proxy, "b"))).unwrap();
        assert_eq!(said["appended"], 1000);
        assert!(
            entries(&mut client, "b") == before,
            "{to_server:?} {to_client:?}"
        );
        asked += 1;
        cut += u32::from(proxy.connections() > 2);
    }
    assert!(cut > asked / 2, "{cut} of {asked} were cut");
}

#[test]
fn another_writer_is_told() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 2001, 2000);
    let dumped = dump(&source(&server, "a")).unwrap();
    // Behind what was loaded, among what is loaded, and behind all of it.
    for id in ["1-1", "1000000-8", "9000000-1"] {
        client.words("DEL b");
        let loaded = load_with(&dumped, &sink(&server, "b"), &gate(), &mut |frame| {
            if frame == 20 {
                let mut client = server.client();
                let _ = client.try_command(&[b"XADD", b"b", id.as_bytes(), b"k", b"v"]);
                // As does one whose event is gone again.
                client.words(&format!("XDEL b {id}"));
                let _ = client.try_command(&[b"XADD", b"b", b"*", b"k", b"v"]);
            }
        });
        let failed = failure(loaded.map(|(said, _)| said));
        assert_eq!(failed.party(), Party::Sink);
        assert!(
            failed.to_string().contains("has another writer"),
            "{failed}"
        );
    }
    // Before the load.
    client.words("DEL b");
    client.words("XADD b 1500000-0 k v");
    let failed = failure(load(&dumped, &sink(&server, "b")));
    assert!(
        failed.to_string().contains("load into an empty stream"),
        "{failed}"
    );
    // All that was there was deleted.
    client.words("XDEL b 1500000-0");
    let failed = failure(load(&dumped, &sink(&server, "b")));
    assert!(
        failed
            .to_string()
            .contains("cannot take the event 1000-7, since it had one at 1500000-0"),
        "{failed}"
    );
}

#[test]
fn events_of_other_streams_become_fields() {
    let server = Redis::start(&[]);
    let mut client = server.client();
    let event = Event {
        time: Some(-5),
        key: Some(b"subject".to_vec()),
        headers: vec![(b"h".to_vec(), None), (b"h".to_vec(), Some(b"1".to_vec()))],
        payload: Some(vec![0, 255]),
    };
    let empty = (
        Place::sequence(u64::MAX),
        Numbering::Sequence,
        Event::default(),
    );
    let none = (Place::ZERO, Numbering::Sequence, Event::default());
    let dumped = Dump::of(&[
        none,
        (Place::sequence(42), Numbering::Sequence, event),
        empty,
    ]);
    let (_, outcomes) = load_with(&dumped, &sink(&server, "b"), &gate(), &mut |_| ()).unwrap();
    let losses: Vec<_> = outcomes.losses().collect();
    assert_eq!(losses, [("position 0, which Redis cannot have", 1)]);
    let list = |items: &[&[u8]]| {
        RedisReply::List(
            items
                .iter()
                .map(|item| RedisReply::Bytes(item.to_vec()))
                .collect(),
        )
    };
    let entry = |id: &[u8], fields| RedisReply::List(vec![RedisReply::Bytes(id.to_vec()), fields]);
    let first = list(&[
        b"Tipple-Position",
        b"42",
        b"Tipple-Layout",
        b"time key payload null=0",
        b"Tipple-Time",
        b"-5",
        b"Tipple-Key",
        b"subject",
        b"Tipple-Payload",
        b"\x00\xff",
        b"h",
        b"",
        b"h",
        b"1",
    ]);
    let last = list(&[
        b"Tipple-Position",
        b"18446744073709551615",
        b"Tipple-Layout",
        b"",
    ]);
    assert_eq!(
        entries(&mut client, "b"),
        RedisReply::List(vec![
            entry(b"0-42", first),
            entry(b"0-18446744073709551615", last)
        ])
    );
    let said = load(&dumped, &sink(&server, "b")).unwrap();
    assert_eq!(said, json!({"appended": 0, "there_before": 2}));
    // A dump of those is one of this kind of stream, and loaded as it is, again and again.
    let again = dump(&source(&server, "b")).unwrap();
    for appended in [2, 0] {
        let said = load(&again, &sink(&server, "c")).unwrap();
        assert_eq!(
            said,
            json!({"appended": appended, "there_before": 2 - appended})
        );
    }
    assert_eq!(entries(&mut client, "b"), entries(&mut client, "c"));
}

#[test]
fn what_the_server_does_not_take_is_a_loss() {
    let server = Redis::start(&["--proto-max-bulk-len", "1048576"]);
    let mut client = server.client();
    let event = |bytes: usize| Event {
        headers: vec![(b"v".to_vec(), Some(vec![1; bytes]))],
        time: Some(0),
        ..Event::default()
    };
    let sizes = [10, 1 << 20, (1 << 20) + 1, 20];
    let events = sizes.iter().zip(1..).map(|(bytes, number)| {
        (
            Place::time_and_number(0, number),
            Numbering::TimeAndNumber,
            event(*bytes),
        )
    });
    let dumped = Dump::of(&events.collect::<Vec<_>>());
    let (said, outcomes) = load_with(&dumped, &sink(&server, "b"), &gate(), &mut |_| ()).unwrap();
    assert_eq!(said["appended"], 3);
    assert_eq!(outcomes.losses().collect::<Vec<_>>(), [("too large", 1)]);
    assert_eq!(client.words("XLEN b"), RedisReply::Number(3));
}

#[test]
fn a_server_without_memory_gets_all_of_a_batch_or_nothing() {
    let server = Redis::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let mut client = server.client();
    let event = Event {
        headers: vec![(b"v".to_vec(), Some(vec![1; 1000]))],
        time: Some(0),
        ..Event::default()
    };
    let events = (1..20_000).map(|number| {
        (
            Place::time_and_number(0, number),
            Numbering::TimeAndNumber,
            event.clone(),
        )
    });
    let dumped = Dump::of(&events.collect::<Vec<_>>());
    let failed = failure(load(&dumped, &sink(&server, "b")));
    assert!(failed.to_string().contains("maxmemory"), "{failed}");
    client.words("CONFIG SET maxmemory 0");
    let RedisReply::Number(there) = client.words("XLEN b") else {
        panic!("a length")
    };
    assert!(there > 0);
    let said = load(&dumped, &sink(&server, "b")).unwrap();
    assert_eq!(
        said,
        json!({"appended": 19_999 - there, "there_before": there})
    );
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let server = Redis::start(&["--requirepass", "hunter2"]);
    let mut client = server.client();
    fill(&mut client, "a", 1, 3, 1);
    client.words("SET text 1");
    client.words("ACL SETUSER blind on >word ~other* +@all");
    let addr = server.addr();
    let mut told = Vec::new();
    for (credentials, key) in [
        ("", "a"),
        (":wrong@", "a"),
        ("nobody:hunter2@", "a"),
        ("blind:word@", "a"),
        (":hunter2@", "none"),
        (":hunter2@", "text"),
        (":hunter2@", "99/a"),
        (":hunter2@", "a"),
    ] {
        let url: RedisUrl = format!("redis://{credentials}{addr}/{key}")
            .parse()
            .unwrap();
        let source = StreamSource::new(Stream::new(url), StreamOptions::default()).unwrap();
        told.push(match dump(&source) {
            Ok(dumped) => format!("{} events", dumped.events().len()),
            Err(Stop::Failed(failed)) => failed.to_string().replace(&addr, "HOST"),
            Err(Stop::Cancelled(_)) => panic!("nobody cancelled"),
        });
    }
    assert!(
        told.iter().all(|text| !text.contains("hunter2")),
        "{told:?}"
    );
    assert_eq!(
        told,
        [
            r#"cannot look at redis://HOST/a: Redis at HOST says "NOAUTH Authentication required.": give a user and a password"#,
            r#"cannot look at redis://HOST/a: Redis at HOST says "WRONGPASS invalid username-password pair or user is disabled.": check the user and the password"#,
            r#"cannot look at redis://HOST/a: Redis at HOST says "WRONGPASS invalid username-password pair or user is disabled.": check the user and the password"#,
            r#"cannot look at redis://HOST/a: Redis at HOST says "NOPERM this user has no permissions to access one of the keys used as arguments": give a user who may use the commands on streams and this key (ACL SETUSER)"#,
            r#"there is no key redis://HOST/none: check its name and the database, or whether the server came back without its data"#,
            r#"cannot look at redis://HOST/text: Redis at HOST says "WRONGTYPE Operation against a key holding the wrong kind of value": the key is no stream; give the key of a stream"#,
            r#"cannot look at redis://HOST/99/a: Redis at HOST says "ERR DB index is out of range": see the server's own words"#,
            "2 events",
        ]
    );
    // A sink makes its key.
    let url: RedisUrl = format!("redis://:hunter2@{addr}/1/new").parse().unwrap();
    let said = load(&Dump::of(&[]), &StreamSink::new(Stream::new(url))).unwrap();
    assert_eq!(said, json!({"appended": 0, "there_before": 0}));
    assert_ne!(said, Value::Null);
}
