//! Streams of NATS JetStream: exported and imported, beside clients that do nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use tipple_testkit::{Nats, RawNats};

use crate::process::{measure, median_of, print_table};
use crate::{Plan, memory, remove};

const EVENTS: u64 = 1_000_000;
/// Messages and bytes of a request, and requests that wait at the server: as tipple asks.
const BATCH: u64 = 20_000;
const BATCH_BYTES: u64 = 4 << 20;
const REQUESTS: u64 = 2;
/// Messages that a publisher has on their way.
const WINDOW: u64 = 4096;

pub fn run(plan: &Plan) {
    for bytes in [200, 1024] {
        of_size(plan, bytes);
    }
}

fn of_size(plan: &Plan, bytes: u64) {
    let own = std::env::current_exe().expect("a path");
    let server = Nats::start("");
    let port = server.port().to_string();
    let mut client = RawNats::connect(server.port());
    let numbers = [EVENTS.to_string(), bytes.to_string()];
    let publish = |client: &mut RawNats, by: &str, stream: &str| {
        client.create_stream(stream, json!({ "subjects": [format!("{stream}.>")] }));
        let args = [by, &port, stream, &numbers[0], &numbers[1]];
        measure(&own, &args)
    };
    let (mut published, mut pulled, mut dumped, mut loaded) = (vec![], vec![], vec![], vec![]);
    let (mut snapshots, mut restored) = (vec![], vec![]);
    #[cfg(feature = "nats")]
    let (mut theirs_pulled, mut theirs_published) = (vec![], vec![]);
    publish(&mut client, "raw-nats-publish", "source");
    let dump = plan.fresh("nats");
    let url = |port: u16, stream: &str| format!("nats://127.0.0.1:{port}/{stream}");
    for _ in 0..plan.rounds {
        pulled.push(measure(
            &own,
            &["raw-nats-pull", &port, "source", &numbers[0]],
        ));
        remove(Path::new(&dump));
        let source = url(server.port(), "source");
        let args = [
            "dump",
            &source,
            &dump,
            "--compress",
            "none",
            "--json",
            "--quiet",
        ];
        dumped.push(plan.tipple(&args));
        let records = &dumped.last().expect("pushed").report()["records"];
        assert_eq!(*records, EVENTS, "the dump is not whole");

        published.push(publish(&mut client, "raw-nats-publish", "raw"));
        client.must("STREAM.DELETE.raw", Value::Null);
        #[cfg(feature = "nats")]
        {
            let args = ["async-nats-pull", &port, "source", &numbers[0]];
            theirs_pulled.push(measure(&own, &args));
            theirs_published.push(publish(&mut client, "async-nats-publish", "raw"));
            client.must("STREAM.DELETE.raw", Value::Null);
        }
        // A server of its own, since the stream has the subjects of the first one.
        let target = Nats::start("");
        let args = [
            "load",
            &dump,
            &url(target.port(), "source"),
            "--json",
            "--quiet",
        ];
        loaded.push(plan.tipple(&args));
        let file = format!("{dump}.snapshot");
        snapshots.push(measure(
            &own,
            &["raw-nats-snapshot", &port, "source", &file],
        ));
        let of_snapshot = Nats::start("");
        let target_port = of_snapshot.port().to_string();
        restored.push(measure(
            &own,
            &["raw-nats-restore", &target_port, "source", &file],
        ));
        for name in [&file, &format!("{file}.json")] {
            std::fs::remove_file(name).expect("written before");
        }
        let mut copy = RawNats::connect(of_snapshot.port());
        assert_eq!(copy.state("source")["messages"], EVENTS, "not all restored");
        let mut copy = RawNats::connect(target.port());
        assert_eq!(
            copy.state("source")["messages"],
            EVENTS,
            "the load is not whole"
        );
    }
    remove(Path::new(&dump));
    print_table(
        &format!("NATS, {EVENTS} events of {bytes} bytes"),
        EVENTS,
        "events",
        &[
            ("pull consumer", &pulled),
            ("dump, none", &dumped),
            ("publisher", &published),
            ("load", &loaded),
            ("server's snapshot", &snapshots),
            ("server's restore", &restored),
            #[cfg(feature = "nats")]
            ("async-nats, pull", &theirs_pulled),
            #[cfg(feature = "nats")]
            ("async-nats, publish", &theirs_published),
        ],
    );
    for (name, bare, tipple) in [
        ("bare pull consumer", &pulled, &dumped),
        ("bare publisher", &published, &loaded),
        #[cfg(feature = "nats")]
        ("pull consumer of async-nats", &theirs_pulled, &dumped),
        #[cfg(feature = "nats")]
        ("publisher of async-nats", &theirs_published, &loaded),
    ] {
        let ratio = median_of(bare, |run| run.wall_s) / median_of(tipple, |run| run.wall_s);
        let cpu = median_of(tipple, |run| run.cpu_s) / median_of(bare, |run| run.cpu_s);
        println!("  speed against the {name} (goal >= 0.9): {ratio:.2}; CPU: {cpu:.2}");
    }
    memory::within_budget("dump of NATS", &dumped);
    memory::within_budget("load into NATS", &loaded);
}

/// A connection with the least that a client needs.
struct Bare {
    socket: TcpStream,
    input: Vec<u8>,
    from: usize,
    to: usize,
}

impl Bare {
    fn connect(port: &str) -> Self {
        let socket = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connected");
        socket.set_nodelay(true).expect("a TCP socket");
        let mut bare = Self {
            socket,
            input: vec![0; 256 << 10],
            from: 0,
            to: 0,
        };
        bare.line();
        let hello = r#"{"verbose":false,"headers":true,"no_responders":true}"#;
        bare.send(format!("CONNECT {hello}\r\nSUB bare.* 1\r\n").as_bytes());
        bare
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("sent");
    }

    fn fill(&mut self) {
        self.input.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        let read = self.socket.read(&mut self.input[self.to..]).expect("read");
        assert!(read > 0, "the server closed");
        self.to += read;
    }

    /// A line, without its end.
    fn line(&mut self) -> std::ops::Range<usize> {
        loop {
            let bytes = &self.input[self.from..self.to];
            if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line = self.from..self.from + end - 1;
                self.from += end + 1;
                return line;
            }
            self.fill();
        }
    }

    /// The next message: whether it is one of a stream, and not an answer.
    fn message(&mut self) -> bool {
        loop {
            let line = self.line();
            let line = &self.input[line];
            if line.starts_with(b"PING") {
                self.send(b"PONG\r\n");
                continue;
            }
            let is_event = line.windows(8).any(|word| word == b"$JS.ACK.");
            if !line.starts_with(b"MSG ") && !line.starts_with(b"HMSG ") {
                continue;
            }
            let digits = line.rsplit(|byte| *byte == b' ').next().expect("a length");
            let length = digits
                .iter()
                .fold(0, |n, digit| 10 * n + usize::from(digit - b'0'));
            while self.to - self.from < length + 2 {
                self.fill();
            }
            self.from += length + 2;
            return is_event;
        }
    }
}

/// What comes to the subject that a snapshot or a restore was given.
struct Chunk {
    payload: std::ops::Range<usize>,
    reply: Option<String>,
}

impl Bare {
    /// The next message to `subject`.
    fn chunk(&mut self, subject: &str) -> Chunk {
        loop {
            let line = self.line();
            let line = String::from_utf8_lossy(&self.input[line]).into_owned();
            let words: Vec<&str> = line.split(' ').collect();
            // MSG subject sid [reply] bytes; HMSG subject sid [reply] header-bytes bytes
            let numbers = match words[0] {
                "MSG" => 1,
                "HMSG" => 2,
                "PING" => {
                    self.send(b"PONG\r\n");
                    continue;
                }
                _ => continue,
            };
            let number = |at: usize| words[at].parse::<usize>().expect("a length");
            let bytes = number(words.len() - 1);
            let header_bytes = if numbers == 2 {
                number(words.len() - 2)
            } else {
                0
            };
            while self.to - self.from < bytes + 2 {
                if self.from + bytes + 2 > self.input.len() {
                    self.input.resize(2 * (bytes + 2), 0);
                }
                self.fill();
            }
            let payload = self.from + header_bytes..self.from + bytes;
            self.from += bytes + 2;
            if words[1] == subject {
                let reply = (words.len() == 4 + numbers).then(|| words[3].to_owned());
                return Chunk { payload, reply };
            }
        }
    }
}

/// Takes a snapshot of a stream by the server's own interface, into a file as the server sends it.
pub fn snapshot(port: &str, stream: &str, file: &str) {
    let mut bare = Bare::connect(port);
    let mut out = std::fs::File::create(file).expect("made");
    let ask = json!({ "deliver_subject": "bare.snapshot", "chunk_size": 128 << 10 }).to_string();
    let request = format!(
        "PUB $JS.API.STREAM.SNAPSHOT.{stream} bare.0 {}\r\n{ask}\r\n",
        ask.len()
    );
    bare.send(request.as_bytes());
    let answer = bare.chunk("bare.0");
    std::fs::write(format!("{file}.json"), &bare.input[answer.payload]).expect("written");
    loop {
        let chunk = bare.chunk("bare.snapshot");
        if chunk.payload.is_empty() {
            return;
        }
        out.write_all(&bare.input[chunk.payload]).expect("written");
        if let Some(reply) = chunk.reply {
            bare.send(format!("PUB {reply} 0\r\n\r\n").as_bytes());
        }
    }
}

/// Gives a server what [`snapshot`] has taken.
pub fn restore(port: &str, stream: &str, file: &str) {
    let mut bare = Bare::connect(port);
    let said = std::fs::read(format!("{file}.json")).expect("a snapshot");
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let ask = json!({ "config": said["config"], "state": said["state"] }).to_string();
    let request = format!(
        "PUB $JS.API.STREAM.RESTORE.{stream} bare.0 {}\r\n{ask}\r\n",
        ask.len()
    );
    bare.send(request.as_bytes());
    let answer = bare.chunk("bare.0");
    let answer: Value = serde_json::from_slice(&bare.input[answer.payload]).expect("JSON");
    let subject = answer["deliver_subject"]
        .as_str()
        .expect("accepted")
        .to_owned();
    let mut input = std::fs::File::open(file).expect("a snapshot");
    let mut block = vec![0; 128 << 10];
    loop {
        let bytes = input.read(&mut block).expect("read");
        bare.send(format!("PUB {subject} bare.1 {bytes}\r\n").as_bytes());
        bare.send(&block[..bytes]);
        bare.send(b"\r\n");
        let answer = bare.chunk("bare.1");
        if bytes == 0 {
            let answer: Value = serde_json::from_slice(&bare.input[answer.payload]).expect("JSON");
            assert!(answer["error"].is_null(), "{answer}");
            return;
        }
    }
}

/// Publishes `events` messages of `bytes` bytes, with a window of acknowledgements.
pub fn publish(port: &str, stream: &str, events: u64, bytes: u64) {
    let mut bare = Bare::connect(port);
    let mut block = Vec::new();
    let (mut sent, mut acknowledged) = (0, 0);
    // Incompressible, as the server does not compress either.
    let mut state = 1_u64;
    while acknowledged < events {
        block.clear();
        while sent < events && sent - acknowledged < WINDOW && block.len() < 64 << 10 {
            block.extend_from_slice(format!("PUB {stream}.x bare.{sent} {bytes}\r\n").as_bytes());
            let end = block.len() + bytes as usize;
            while block.len() < end {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                block.extend_from_slice(&state.to_le_bytes());
            }
            block.truncate(end);
            block.extend_from_slice(b"\r\n");
            sent += 1;
        }
        bare.send(&block);
        while acknowledged < events && (sent == events || sent - acknowledged > WINDOW / 2) {
            bare.message();
            acknowledged += 1;
        }
    }
}

/// Reads `events` messages by an ordered pull consumer, and throws them away.
pub fn pull(port: &str, stream: &str, events: u64) {
    let mut bare = Bare::connect(port);
    let create = json!({ "stream_name": stream, "config": {
        "ack_policy": "none", "deliver_policy": "all", "mem_storage": true, "num_replicas": 1,
        "name": "bare", "inactive_threshold": 10_000_000_000_u64, "durable_name": "bare",
    } })
    .to_string();
    let bytes = create.len();
    bare.send(
        format!("PUB $JS.API.CONSUMER.DURABLE.CREATE.{stream}.bare bare.0 {bytes}\r\n{create}\r\n")
            .as_bytes(),
    );
    bare.message();
    let next = json!({ "batch": BATCH, "max_bytes": BATCH_BYTES, "expires": 5_000_000_000_u64 })
        .to_string();
    let bytes = next.len();
    let next = format!("PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.bare bare.1 {bytes}\r\n{next}\r\n");
    for _ in 0..REQUESTS {
        bare.send(next.as_bytes());
    }
    let (mut count, mut of_request) = (0, 0);
    while count < events {
        let is_event = bare.message();
        count += u64::from(is_event);
        of_request += u64::from(is_event);
        // By number, or by a word that its bytes are used up.
        if !is_event || of_request == BATCH {
            of_request = 0;
            bare.send(next.as_bytes());
        }
    }
    bare.send(format!("PUB $JS.API.CONSUMER.DELETE.{stream}.bare bare.2 0\r\n\r\n").as_bytes());
    bare.message();
}
