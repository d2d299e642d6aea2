//! Servers that answer what no server should: each is an error, or is read for what it says; nothing panics, allocates what
//! is claimed, or waits for ever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;
use tipple_stream::{Event, Nats, Redis, Stream, StreamOptions, StreamSink, StreamSource, Target};
use tipple_testkit::{Nats as NatsServer, RawNats, Redis as RedisServer};

use crate::harness::{Records, gate, read_parts, record, try_plan, write_all};

const SOON: Duration = Duration::from_millis(200);

/// As many runs as a long test makes.
fn runs(short: u64, long: u64) -> u64 {
    match std::env::var_os("TIPPLE_TEST_LONG") {
        Some(_) => long,
        None => short,
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Passes on what clients say, and changes about one of `one_of` bytes of what the server answers.
fn corrupting(server: SocketAddr, seed: u64, one_of: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, client) in (0..).zip(listener.incoming()) {
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else {
                return;
            };
            let (from_client, to_server) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass(from_client, to_server, |_| {}));
            let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) + number;
            std::thread::spawn(move || {
                pass(server, client, |bytes| {
                    for byte in bytes {
                        if random(&mut state).is_multiple_of(one_of) {
                            *byte = random(&mut state) as u8;
                        }
                    }
                });
            });
        }
    });
    addr
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(&mut [u8])) {
    let mut block = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut block) {
        change(&mut block[..n]);
        if to.write_all(&block[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Says `greeting` to whoever comes, and `answer` whenever something is said.
fn babbling(greeting: &[u8], answer: &[u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (greeting, answer) = (greeting.to_vec(), answer.to_vec());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (greeting, answer) = (greeting.clone(), answer.clone());
            std::thread::spawn(move || -> io::Result<()> {
                let mut client = client;
                client.write_all(&greeting)?;
                let mut block = [0; 4096];
                while client.read(&mut block)? > 0 {
                    client.write_all(&answer)?;
                }
                Ok(())
            });
        }
    });
    addr
}

fn redis(addr: SocketAddr) -> Redis {
    Redis::new(format!("redis://{addr}/key").parse().unwrap()).with_bounds(SOON, SOON)
}

fn nats(addr: SocketAddr) -> Nats {
    Nats::at(format!("nats://{addr}/stream").parse().unwrap()).with_patience(SOON)
}

/// All that can be done with a stream; what comes of it is as it may be. How many of the three ended well.
fn use_all<S: Stream + Target>(new: impl Fn() -> S, records: &Records) -> usize {
    let options = StreamOptions {
        part_bytes: StreamOptions::PART_BYTES_MIN,
        ..StreamOptions::default()
    };
    let asked = new().look().is_ok();
    let source = StreamSource::new(new(), options).unwrap();
    let was_read = try_plan(&source)
        .and_then(|parts| read_parts(&source, &parts, &gate(), |_| {}))
        .is_ok();
    let sink = StreamSink::new(new());
    let was_written = write_all(&sink, records, &gate(), |_| {}).is_ok();
    [asked, was_read, was_written]
        .into_iter()
        .filter(|ended_well| *ended_well)
        .count()
}

fn records() -> Records {
    (1..50)
        .map(|number| {
            let event = Event {
                key: Some(b"stream.a".to_vec()),
                payload: Some(vec![number as u8; 100]),
                ..Event::default()
            };
            record(number, &event)
        })
        .collect()
}

#[test]
fn corrupted_answers_of_redis_are_told_or_read() {
    let server = RedisServer::start(&[]);
    let addr = server.addr().parse().unwrap();
    let mut client = server.client();
    let mut whole = 0;
    for seed in 0..runs(16, 2000) {
        client.words("DEL key");
        for number in 1..200 {
            client.words(&format!("XADD key {number}-0 number {number} again x"));
        }
        // Some answers come through as they are, some do not.
        let addr = corrupting(addr, seed, 200 << (seed % 8));
        whole += use_all(|| redis(addr), &records());
    }
    assert!(whole > 0, "none of it came through");
}

#[test]
fn corrupted_answers_of_nats_are_told_or_read() {
    let server = NatsServer::start("");
    let mut client = RawNats::connect(server.port());
    let addr = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let mut whole = 0;
    for seed in 0..runs(4, 1000) {
        client.create_stream("stream", json!({ "subjects": ["stream.>"] }));
        for number in 0..200_u32 {
            client.publish(
                "stream.x",
                b"NATS/1.0\r\na: b\r\n\r\n",
                &number.to_le_bytes(),
            );
        }
        let addr = corrupting(addr, seed, 2000 << (seed % 8));
        whole += use_all(|| nats(addr), &records());
        client.must("STREAM.DELETE.stream", json!({}));
    }
    assert!(whole > 0, "none of it came through");
}

#[test]
fn nothing_is_believed_that_is_only_claimed() {
    let deep = b"*1\r\n".repeat(100_000);
    let claims: [&[u8]; 12] = [
        b"$99999999999999\r\n",
        b"$-2\r\n",
        b"*99999999999999\r\n",
        b"*18446744073709551616\r\n",
        b":99999999999999999999999\r\n",
        b"*4\r\n$6\r\nlength\r\n:9223372036854775807\r\n$13\r\nentries-added\r\n:-1\r\n",
        b"+\r\n",
        b"-\r\n",
        b"\0\0\0\0",
        b"+OK",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &deep,
    ];
    for answer in claims {
        let addr = babbling(b"", answer);
        assert_eq!(
            use_all(|| redis(addr), &records()),
            0,
            "{}",
            answer.escape_ascii()
        );
    }
    let info = br#"INFO {"server_id":"x","version":"2.9.10","headers":true,"jetstream":true,"max_payload":1048576}"#;
    let hello = [&info[..], b"\r\nPONG\r\n"].concat();
    let endless = [&b"INFO {\"server_id\":\""[..], &vec![b'x'; 8 << 20]].concat();
    let claims: [(&[u8], &[u8]); 10] = [
        (b"", b""),
        (b"INFO\r\n", b"PONG\r\n"),
        (b"INFO {}\r\n", b"PONG\r\n"),
        (b"INFO {\"max_payload\":-1}\r\n", b"PONG\r\n"),
        (&endless, b""),
        (&hello, b"MSG a 1 99999999999999\r\n"),
        (&hello, b"HMSG a 1 10 5\r\nNATS/1.0\r\n\r\n"),
        (&hello, b"HMSG a 1 99999999999999 99999999999999\r\n"),
        (&hello, b"MSG\r\n"),
        (&hello, b"-ERR 'Authorization Violation'\r\n"),
    ];
    for (greeting, answer) in claims {
        let addr = babbling(greeting, answer);
        let said = greeting[..greeting.len().min(80)].escape_ascii();
        assert_eq!(
            use_all(|| nats(addr), &records()),
            0,
            "{said}: {}",
            answer.escape_ascii()
        );
    }
}
