//! Looks at, reads and writes a stream at a server of NATS, and of Redis, that answers with arbitrary bytes and hangs up:
//! no panic, no wait, no memory by a claimed length. Run it with `-detect_leaks=0`: the server's threads are not waited
//! for.
#![no_main]

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tipple_budget::{Gate, Rates};
use tipple_stream::{Nats, Redis, Stream, Target};

/// What the server says.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            std::thread::spawn(move || serve(client));
        }
    });
    addr
});

/// The client may hang up at any time: that is its right.
fn serve(mut client: TcpStream) -> Option<()> {
    let answer = ANSWER.lock().expect("no panic").clone();
    client.write_all(&answer).ok()?;
    client.shutdown(Shutdown::Write).ok()?;
    std::io::copy(&mut client, &mut std::io::sink())
        .ok()
        .map(drop)
}

/// What a server of NATS says before anything else, and that it lets the client in.
const GREETING: &[u8] =
    b"INFO {\"version\":\"2.9.10\",\"headers\":true,\"max_payload\":1048576}\r\nPONG\r\n";

fuzz_target!(|input: (u8, &[u8])| {
    let (mode, bytes) = input;
    let is_nats = mode & 1 == 0;
    let mut answer = Vec::new();
    if is_nats && mode & 2 == 0 {
        answer.extend_from_slice(GREETING);
    }
    answer.extend_from_slice(bytes);
    *ANSWER.lock().expect("no panic") = answer;
    let gate = Gate::new(Rates::default());
    let soon = Duration::ZERO;
    if is_nats {
        let url = format!("nats://{}/S", *SERVER).parse().expect("a URL");
        let nats = Nats::at(url).with_patience(soon);
        let _ = nats.look();
        let _ = Target::open(&nats, &gate).map(|mut appender| appender.tail().map(drop));
    } else {
        let url = format!("redis://{}/s", *SERVER).parse().expect("a URL");
        let redis = Redis::new(url).with_bounds(Duration::from_secs(1), soon);
        let _ = redis.look();
        let _ = Target::open(&redis, &gate).map(|mut appender| appender.tail().map(drop));
    }
});
