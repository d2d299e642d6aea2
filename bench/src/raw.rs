//! The raw clients: as little as a correct program can do. They are what tipple is measured against.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use crate::process::own_cpu_s;

const BATCH: usize = 200;
const IN_FLIGHT: usize = 8;

/// Lists all keys, then fetches them over one connection per thread, with 8 batches of 200 in flight, and throws the
/// values away. Prints what each took.
pub fn dump(addr: &str, threads: usize) {
    let (start, cpu) = (Instant::now(), own_cpu_s());
    let keys = list(addr);
    let (list_s, list_cpu_s) = (start.elapsed().as_secs_f64(), own_cpu_s() - cpu);
    let (start, cpu) = (Instant::now(), own_cpu_s());
    let share = keys.len().div_ceil(threads);
    let items: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = keys
            .chunks(share.max(1))
            .map(|keys| scope.spawn(move || fetch(addr, keys)))
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().expect("fetched"))
            .sum()
    });
    println!(
        r#"{{"items":{items},"list_s":{list_s},"list_cpu_s":{list_cpu_s},"fetch_s":{},"fetch_cpu_s":{}}}"#,
        start.elapsed().as_secs_f64(),
        own_cpu_s() - cpu
    );
}

fn list(addr: &str) -> Vec<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream
        .write_all(b"lru_crawler metadump hash\r\n")
        .expect("sent");
    let mut buffer = vec![0; 1 << 20];
    let (mut keys, mut filled) = (Vec::new(), 0);
    loop {
        let n = stream.read(&mut buffer[filled..]).expect("read");
        assert!(n > 0, "the server closed");
        filled += n;
        let mut at = 0;
        while let Some(len) = buffer[at..filled].iter().position(|b| *b == b'\n') {
            let line = &buffer[at..at + len];
            if line.starts_with(b"END") {
                return keys;
            }
            // The bench's keys need no decoding.
            let key = line.strip_prefix(b"key=").expect("a key");
            let end = key
                .iter()
                .position(|b| *b == b' ')
                .expect("a line of fields");
            keys.push(key[..end].to_vec());
            at += len + 1;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

fn fetch(addr: &str, keys: &[Vec<u8>]) -> usize {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut buffer = vec![0_u8; 256 << 10];
    let mut request = Vec::new();
    let mut batches = keys.chunks(BATCH);
    let (mut in_flight, mut items, mut filled, mut skip) = (0, 0, 0, 0);
    loop {
        while in_flight < IN_FLIGHT {
            let Some(batch) = batches.next() else { break };
            request.clear();
            for key in batch {
                request.extend_from_slice(b"mg ");
                request.extend_from_slice(key);
                request.extend_from_slice(b" k f t v u q\r\n");
            }
            request.extend_from_slice(b"mn\r\n");
            stream.write_all(&request).expect("sent");
            in_flight += 1;
        }
        if in_flight == 0 {
            return items;
        }
        let n = stream.read(&mut buffer[filled..]).expect("read");
        assert!(n > 0, "the server closed");
        filled += n;
        let mut at = 0;
        loop {
            let step = skip.min(filled - at);
            at += step;
            skip -= step;
            let Some(end) = buffer[at..filled].iter().position(|b| *b == b'\n') else {
                break;
            };
            let line = &buffer[at..at + end];
            at += end + 1;
            if let Some(rest) = line.strip_prefix(b"VA ") {
                let digits = rest.iter().take_while(|b| b.is_ascii_digit());
                skip = digits.fold(0, |n, b| n * 10 + usize::from(b - b'0')) + 2;
                items += 1;
            } else {
                assert!(line.starts_with(b"MN"), "{}", line.escape_ascii());
                in_flight -= 1;
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// Sets `items` items of 100 to 1000 bytes, half of them with a time to live, over one connection per thread, with
/// `noreply`, and waits for the last one to be there.
pub fn load(addr: &str, threads: usize, items: u64, seed: u64) {
    let noise = noise(seed);
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            let noise = &noise;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(addr).expect("connected");
                stream.set_nodelay(true).expect("a TCP socket");
                let mut out = Vec::with_capacity(300 << 10);
                for n in (thread..items).step_by(threads) {
                    let len = 100 + (n.wrapping_mul(2_654_435_761) >> 7) as usize % 901;
                    let expiry = if n % 2 == 0 { 0 } else { 86_400 };
                    write!(out, "set key_{n:012} 0 {expiry} {len} noreply\r\n").expect("memory");
                    let from = (n.wrapping_mul(40_503) % (noise.len() as u64 - 1000)) as usize;
                    out.extend_from_slice(&noise[from..from + len]);
                    out.extend_from_slice(b"\r\n");
                    if out.len() > 256 << 10 {
                        stream.write_all(&out).expect("sent");
                        out.clear();
                    }
                }
                finish(&mut stream, &mut out);
            });
        }
    });
}

/// Bytes that no compressor shrinks to nothing, nor leaves alone: half of the entropy of a text.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..4 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b"abcdefghijklmnopqrstuvwxyz0123456789{}:,\"_-./ ETAOIN0123456789ab"
                [(state >> 40) as usize % 64]
        })
        .collect()
}

/// Sets `items` small items.
pub fn small(addr: &str, threads: usize, items: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads as u64 {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(addr).expect("connected");
                let mut out = Vec::with_capacity(300 << 10);
                for n in (thread..items).step_by(threads) {
                    write!(out, "set small_{n:012} 0 0 16 noreply\r\n{n:016}\r\n").expect("memory");
                    if out.len() > 256 << 10 {
                        stream.write_all(&out).expect("sent");
                        out.clear();
                    }
                }
                finish(&mut stream, &mut out);
            });
        }
    });
}

/// Sets `items` items of `bytes` each.
pub fn large(addr: &str, items: u64, bytes: usize) {
    let noise = noise(7);
    let mut stream = TcpStream::connect(addr).expect("connected");
    for n in 0..items {
        write!(stream, "set large_{n} 0 0 {bytes} noreply\r\n").expect("sent");
        let mut left = bytes;
        while left > 0 {
            let step = left.min(noise.len());
            stream.write_all(&noise[..step]).expect("sent");
            left -= step;
        }
        stream.write_all(b"\r\n").expect("sent");
    }
    finish(&mut stream, &mut Vec::new());
}

/// Sends the rest and a `mn`, and waits for its answer: then everything before it is done.
fn finish(stream: &mut TcpStream, out: &mut Vec<u8>) {
    out.extend_from_slice(b"mn\r\n");
    stream.write_all(out).expect("sent");
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).expect("the last one arrived");
    assert_eq!(reply, *b"MN\r\n");
}
