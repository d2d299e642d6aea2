//! The recorder beside elfo's dumper, a bounded channel with a thread that writes JSON, and tracing: CPU nanoseconds a
//! record, each in a process of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use tipple_recorder::{OnFull, RecordRate, Recorder, RecorderOptions};

use crate::process::{Figures, measure};

const RECORDERS: [&str; 8] = [
    "base",
    "tipple",
    "tipple-zstd",
    "tipple-denied",
    "elfo",
    "elfo-denied",
    "channel",
    "tracing",
];

/// The message: 137 bytes of JSON, in a line of about 300.
#[derive(Clone, Serialize)]
struct Order {
    order_id: u64,
    symbol: String,
    side: Side,
    kind: Kind,
    price: f64,
    quantity: f64,
    client_id: String,
}

#[derive(Clone, Copy, Serialize)]
enum Side {
    Buy,
    Sell,
}

#[derive(Clone, Copy, Serialize)]
enum Kind {
    Limit,
    Market,
}

fn order(number: u64) -> Order {
    let mut client_id = String::with_capacity(24);
    let _ = write!(client_id, "client-{:010}", number % 1_000_003);
    Order {
        order_id: 1_000_000 + number,
        symbol: "BTCUSDT".to_owned(),
        side: if number.is_multiple_of(2) {
            Side::Buy
        } else {
            Side::Sell
        },
        kind: if number.is_multiple_of(3) {
            Kind::Limit
        } else {
            Kind::Market
        },
        price: 64_000.0 + (number % 1000) as f64 * 0.25,
        quantity: 0.001 * (number % 977) as f64,
        client_id,
    }
}

/// CPU nanoseconds of this thread, by the kernel's own accounting.
fn thread_cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .expect("a number")
}

/// Builds and records `records` messages on each of so many threads; gives the CPU of the threads a record.
fn produce(threads: u64, records: u64, record: impl Fn(u64, Order) + Sync) -> f64 {
    let spent: u64 = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                let record = &record;
                scope.spawn(move || {
                    let before = thread_cpu_ns();
                    for number in 0..records {
                        record(thread, order(number));
                    }
                    thread_cpu_ns() - before
                })
            })
            .collect();
        spawned
            .into_iter()
            .map(|thread| thread.join().expect("it recorded"))
            .sum()
    });
    spent as f64 / (threads * records) as f64
}

/// One recorder in this process: its name, threads, records of each, folder. Prints what it took.
pub fn one(args: &[String]) {
    let [name, threads, records, dir] = args else {
        panic!("record-one RECORDER THREADS RECORDS DIR");
    };
    let [threads, records] = [threads, records].map(|number| number.parse().expect("a number"));
    let dir = Path::new(dir);
    let began = Instant::now();
    let (send_ns, written) = match name.as_str() {
        "base" => {
            let numbers = AtomicU64::new(0);
            let ns = produce(threads, records, |_, order| {
                // What every recorder needs: a time and a number.
                std::hint::black_box((
                    &order,
                    SystemTime::now(),
                    numbers.fetch_add(1, Ordering::Relaxed),
                ));
            });
            (ns, threads * records)
        }
        "tipple" | "tipple-zstd" | "tipple-denied" => tipple(name, threads, records, dir),
        "elfo" | "elfo-denied" => elfo(name == "elfo-denied", threads, records, dir),
        "channel" => channel(threads, records, dir),
        "tracing" => tracing_json(threads, records, dir),
        other => panic!("{other}: see bench/README.md"),
    };
    let wall_s = began.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"send_ns": send_ns, "written": written, "wall_s": wall_s})
    );
}

fn tipple(name: &str, threads: u64, records: u64, dir: &Path) -> (f64, u64) {
    let mut options = RecorderOptions::new(dir);
    options.min_free_bytes = 0;
    options.sync = tipple_recorder::Sync::Never;
    options.rotate_bytes = 4 << 30;
    options.on_full = OnFull::Block(Duration::from_secs(60));
    let rate = if name == "tipple-denied" {
        RecordRate(1)
    } else {
        RecordRate::UNLIMITED
    };
    options.config.rate = Some(rate);
    if name == "tipple-zstd" {
        options.codec = "zstd:1".parse().expect("a codec");
    }
    let recorder = Recorder::start(options).expect("it starts");
    let stream = recorder
        .stream("producers")
        .key(0)
        .class("bench")
        .protocol("bench");
    let ns = produce(threads, records, |_, order| stream.sent(&order));
    let report = recorder.shutdown(Duration::from_secs(120));
    assert_eq!(report.attempted, threads * records);
    (ns, report.written)
}

fn channel(threads: u64, records: u64, dir: &Path) -> (f64, u64) {
    #[derive(Serialize)]
    struct Line<'a> {
        ts: u64,
        g: &'a str,
        k: &'a str,
        n: u16,
        s: u64,
        t: u64,
        th: u64,
        d: &'a str,
        cl: &'a str,
        mn: &'a str,
        mp: &'a str,
        mk: &'a str,
        m: &'a Order,
    }
    fs::create_dir_all(dir).expect("a folder");
    let (sender, receiver) = crossbeam_channel::bounded::<(u64, u64, u64, Order)>(128 << 10);
    let file = fs::File::create(dir.join("channel.ndjson")).expect("a file");
    let writer = std::thread::spawn(move || {
        let mut out = BufWriter::with_capacity(128 << 10, file);
        let mut written = 0;
        for (ts, s, th, m) in receiver {
            let line = Line {
                ts,
                g: "producers",
                k: "0",
                n: 0,
                s,
                t: 0,
                th,
                d: "Out",
                cl: "bench",
                mn: "Order",
                mp: "bench",
                mk: "Regular",
                m: &m,
            };
            serde_json::to_writer(&mut out, &line).expect("JSON");
            out.write_all(b"\n").expect("a disk");
            written += 1;
        }
        out.flush().expect("a disk");
        written
    });
    let numbers = AtomicU64::new(0);
    let ns = produce(threads, records, |thread, order| {
        let ts = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos() as u64;
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        sender
            .send((ts, number, thread, order))
            .expect("the writer is there");
    });
    drop(sender);
    (ns, writer.join().expect("it wrote"))
}

fn tracing_json(threads: u64, records: u64, dir: &Path) -> (f64, u64) {
    let appender = tracing_appender::rolling::never(dir, "tracing.ndjson");
    let (writer, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
        .lossy(false)
        .finish(appender);
    tracing_subscriber::fmt().json().with_writer(writer).init();
    let ns = produce(threads, records, |_, order| {
        let body = serde_json::to_string(&order).expect("JSON");
        tracing::info!(g = "producers", mn = "Order", m = body);
    });
    drop(guard);
    (ns, threads * records)
}

fn elfo(denied: bool, threads: u64, records: u64, dir: &Path) -> (f64, u64) {
    use elfo_core::config::AnyConfig;
    use elfo_core::dumping::{Dump, Dumper};
    use elfo_core::{ActorGroup, Topology};

    fs::create_dir_all(dir).expect("a folder");
    // What it dumps of itself goes elsewhere.
    let path = dir.join("bench.ndjson");
    let template = dir.join("{class}.ndjson");
    let path_text = template.to_str().expect("UTF-8");
    let rate = if denied { "1" } else { "1_000_000_000" };
    let config: AnyConfig = toml::from_str(&format!(
        "[system.dumpers]\npath = \"{path_text}\"\n[common]\nsystem.dumping.max_rate = {rate}\n"
    ))
    .expect("a configuration");
    let spent = Arc::new(AtomicU64::new(0));
    let topology = Topology::empty();
    let dumpers = topology.local("system.dumpers");
    let producers = topology.local("producers").entrypoint();
    let configurers = topology.local("system.configurers").entrypoint();
    // The dumper first: one that was made before it is mute for ever.
    dumpers.mount(elfo_dumper::new());
    configurers.mount(elfo_configurer::fixture(&topology, config));
    let told = Arc::clone(&spent);
    let done_path = path.clone();
    producers.mount(ActorGroup::new().stop_order(1).exec(move |context| {
        let (spent, path) = (Arc::clone(&told), done_path.clone());
        async move {
            let scope = elfo_core::scope::expose();
            // Nothing is asked of the runtime meanwhile.
            let scopes: Vec<_> = (0..threads).map(|_| scope.clone()).collect();
            let ns = std::thread::scope(|threads| {
                let spawned: Vec<_> = scopes
                    .into_iter()
                    .map(|scope| {
                        threads.spawn(move || {
                            scope.sync_within(|| {
                                let dumper = Dumper::new("bench");
                                let before = thread_cpu_ns();
                                for number in 0..records {
                                    let order = order(number);
                                    if let Some(permit) = dumper.acquire() {
                                        let mut dump = Dump::builder();
                                        dump.message_name("Order").message_protocol("bench");
                                        // As it does with a message: a clone, erased.
                                        permit.record(dump.finish(order.clone()));
                                    }
                                }
                                thread_cpu_ns() - before
                            })
                        })
                    })
                    .collect();
                spawned
                    .into_iter()
                    .map(|thread| thread.join().expect("it recorded"))
                    .sum::<u64>()
            });
            spent.store(ns, Ordering::Relaxed);
            // A graceful end leaves a backlog behind: wait until all of it is written.
            let mut last = 0;
            let mut same = 0;
            while same < 20 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
                same = if bytes == last { same + 1 } else { 0 };
                last = bytes;
            }
            drop(context);
            std::process::exit({
                let written = count_lines(&path, b"\"cl\":\"bench\"");
                let ns = spent.load(Ordering::Relaxed) as f64 / (threads * records) as f64;
                println!(
                    "{}",
                    json!({"send_ns": ns, "written": written, "wall_s": 0.0})
                );
                0
            });
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(elfo_core::init::start(topology));
    unreachable!("it ends with its figures")
}

fn count_lines(path: &Path, needle: &[u8]) -> u64 {
    use std::io::BufRead;
    let Ok(file) = fs::File::open(path) else {
        return 0;
    };
    let lines = std::io::BufReader::with_capacity(1 << 20, file).split(b'\n');
    let has = |line: &Vec<u8>| line.windows(needle.len()).any(|part| part == needle);
    lines.map_while(Result::ok).filter(has).count() as u64
}

/// All of them, on one thread and on two, the best of some rounds.
pub fn run(args: &[String]) {
    let number = |at: usize, default: u64| {
        args.get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (records, rounds) = (number(0, 1_000_000), number(1, 3));
    let only = args.get(2).map(String::as_str);
    let own = std::env::current_exe().expect("a path");
    let dir = PathBuf::from("/dev/shm");
    println!("{records} records a thread, best of {rounds} rounds, CPU ns a record");
    println!(
        "{:16}{:>8}{:>10}{:>10}{:>12}{:>10}",
        "", "threads", "send", "total", "M lines/s", "RSS MiB"
    );
    for threads in [1, 2] {
        for name in RECORDERS
            .into_iter()
            .filter(|name| only.is_none_or(|only| name.starts_with(only)))
        {
            let mut best: Option<(f64, f64, f64, f64)> = None;
            for _ in 0..rounds {
                let dir = dir.join(format!("tipple-bench-record-{}", std::process::id()));
                let _ = fs::remove_dir_all(&dir);
                let figures: Figures = measure(
                    &own,
                    &[
                        "record-one",
                        name,
                        &threads.to_string(),
                        &records.to_string(),
                        dir.to_str().expect("UTF-8"),
                    ],
                );
                let _ = fs::remove_dir_all(&dir);
                let report = figures.report();
                let all = threads * records;
                if !name.ends_with("denied") {
                    assert_eq!(report["written"].as_u64(), Some(all), "{name} lost records");
                }
                let send = report["send_ns"].as_f64().expect("a number");
                let total = figures.cpu_s * 1e9 / all as f64;
                let rate = all as f64 / figures.wall_s / 1e6;
                let now = (send, total, rate, figures.rss_mib);
                best = Some(best.map_or(now, |best| {
                    (
                        best.0.min(now.0),
                        best.1.min(now.1),
                        best.2.max(now.2),
                        best.3.max(now.3),
                    )
                }));
            }
            let (send, total, rate, rss) = best.expect("a round");
            println!("{name:16}{threads:>8}{send:>10.0}{total:>10.0}{rate:>12.2}{rss:>10.0}");
        }
    }
}
