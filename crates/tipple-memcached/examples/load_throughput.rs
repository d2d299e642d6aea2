//! How fast items load, beside a raw client that checks nothing.
//!
//! `cargo run --release -p tipple-memcached --example load_throughput [ITEMS] [CONNECTIONS] [ROUNDS]`
//!
//! Starts a memcached of its own for every run: a raw pipelined client (`set … noreply`, and `ms … q`, one mark at the
//! end, nothing kept, nothing looked at), then the sink, in turn. All get the same bytes of requests or frames,
//! prepared before the clock starts.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tipple_budget::{Gate, Rates};
use tipple_flow::{FRAME_BYTES_MAX, FrameSource, Outcomes, RecordReader, Sink, Stop};
use tipple_memcached::{Item, MemcachedOptions, MemcachedSink, NEVER, SinkOptions, encode_header};

struct Server {
    child: Child,
    place: String,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Command::new("/usr/bin/memcached")
            .args(["-u", "root", "-l", "127.0.0.1", "-m", "4096", "-t", "4"])
            .args(["-p", &port.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("memcached starts");
        let place = format!("127.0.0.1:{port}");
        while TcpStream::connect(&place).is_err() {
            std::thread::yield_now();
        }
        Self { child, place }
    }

    fn items(&self) -> u64 {
        let mut stream = TcpStream::connect(&self.place).expect("connects");
        stream.write_all(b"stats\r\n").expect("sends");
        for line in BufReader::new(stream).lines() {
            let line = line.expect("reads");
            if let Some(items) = line.strip_prefix("STAT curr_items ") {
                return items.parse().expect("a number");
            }
        }
        0
    }

    /// Processor time so far, in seconds.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        ticks(&stat.expect("it runs"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ticks(stat: &str) -> f64 {
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let tick = |n: usize| fields[n].parse::<f64>().unwrap_or(0.0);
    (tick(11) + tick(12)) / 100.0
}

fn own_cpu_s() -> f64 {
    ticks(&std::fs::read_to_string("/proc/self/stat").expect("we run"))
}

struct Set {
    frames: Vec<Vec<u8>>,
    records: Vec<u32>,
    sets: Vec<u8>,
    mss: Vec<u8>,
}

/// Items number `first`, `first + step`, … below `count`, of 100 to 1000 bytes.
fn set(first: usize, step: usize, count: usize) -> Set {
    let mut set = Set {
        frames: vec![],
        records: vec![],
        sets: vec![],
        mss: vec![],
    };
    let (mut frame, mut records) = (Vec::new(), 0);
    let value: Vec<u8> = (0..1000).map(|n| (n * 7) as u8).collect();
    for n in (first..count).step_by(step) {
        let len = 100 + n * 7919 % 901;
        let key = format!("key:{n:09}");
        let flags = (n % 3) as u32;
        let exptime = if n % 2 == 0 { NEVER } else { 2_000_000_000 };
        let item = Item {
            key: key.as_bytes(),
            flags,
            exptime,
            cas: n as u64,
            last_access: 0,
            fetched: false,
        };
        let header = encode_header(&item, len as u32);
        if frame.len() + 1300 > FRAME_BYTES_MAX {
            set.frames.push(std::mem::take(&mut frame));
            set.records.push(std::mem::take(&mut records));
        }
        for piece in [&header[..], item.key, &value[..len]] {
            frame.extend_from_slice(piece);
        }
        records += 1;
        let time = exptime.max(0);
        let head = format!("set {key} {flags} {time} {len} noreply\r\n");
        let meta = format!("ms {key} {len} T{time} F{flags} q\r\n");
        for (out, head) in [(&mut set.sets, head), (&mut set.mss, meta)] {
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(&value[..len]);
            out.extend_from_slice(b"\r\n");
        }
    }
    set.frames.push(frame);
    set.records.push(records);
    set
}

struct Frames<'a>(&'a Set, usize);

impl FrameSource for Frames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        self.1 += 1;
        Ok(self.0.records.get(self.1 - 1).copied())
    }
    fn bytes(&self) -> &[u8] {
        let frame = self.1.checked_sub(1).and_then(|n| self.0.frames.get(n));
        frame.map_or(&[], Vec::as_slice)
    }
}

fn raw(place: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(place).expect("connects");
    stream.set_nodelay(true).expect("a socket");
    for piece in bytes.chunks(128 << 10) {
        stream.write_all(piece).expect("sends");
    }
    stream.write_all(b"mn\r\n").expect("sends");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("reads");
    assert_eq!(line, "MN\r\n");
}

fn sink(place: &str, sets: &[Set]) {
    let url = format!("memcached://{place}").parse().expect("a URL");
    let sink = MemcachedSink::new(url, MemcachedOptions::default(), SinkOptions::default())
        .expect("a sink");
    sink.check().expect("it is there");
    let gate = Gate::new(Rates::default());
    std::thread::scope(|scope| {
        for set in sets {
            let (sink, gate) = (&sink, &gate);
            scope.spawn(move || {
                let mut frames = Frames(set, 0);
                let mut records = RecordReader::new(gate, &mut frames);
                let mut writer = sink.open(gate).expect("a writer");
                let mut outcomes = Outcomes::default();
                writer
                    .write_part(&"0".parse().expect("a name"), &mut records, &mut outcomes)
                    .expect("loads");
                assert_eq!(outcomes.total(), 0);
            });
        }
    });
    sink.finish(&Outcomes::default()).expect("finishes");
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>());
    let mut arg = |default| args.next().map_or(default, |arg| arg.expect("a number"));
    let (count, connections, rounds) = (arg(1_500_000), arg(1), arg(3));
    let sets: Vec<Set> = (0..connections)
        .map(|first| set(first, connections, count))
        .collect();
    let mut best = [Duration::MAX; 3];
    for round in 0..rounds {
        for (n, name) in ["set noreply", "ms q", "sink"].into_iter().enumerate() {
            let server = Server::start();
            let (start, cpu) = (Instant::now(), own_cpu_s());
            if name == "sink" {
                sink(&server.place, &sets);
            } else {
                std::thread::scope(|scope| {
                    for set in &sets {
                        let place = &server.place;
                        let bytes = if n == 0 { &set.sets } else { &set.mss };
                        scope.spawn(move || raw(place, bytes));
                    }
                });
            }
            let elapsed = start.elapsed();
            best[n] = best[n].min(elapsed);
            assert_eq!(server.items(), count as u64);
            println!(
                "round {round}  {name:12} {:6.2} s  {:8.0} items/s  client CPU {:5.2} s  server CPU {:5.2} s",
                elapsed.as_secs_f64(),
                count as f64 / elapsed.as_secs_f64(),
                own_cpu_s() - cpu,
                server.cpu_s(),
            );
        }
    }
    for (n, name) in ["set noreply", "ms q"].into_iter().enumerate() {
        println!(
            "best sink / best {name}: {:.2}",
            best[n].as_secs_f64() / best[2].as_secs_f64()
        );
    }
}
