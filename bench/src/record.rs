//! The recorder beside elfo's dumper, a bounded channel with a thread that writes JSON, and tracing: CPU nanoseconds a
//! record, each in a process of its own.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;
use tipple_recorder::{Naming, OnFull, RecordRate, Recorder, RecorderOptions, trace};

use crate::Plan;
use crate::process::{Figures, measure, median};

const RECORDERS: [&str; 9] = [
    "base",
    "tipple",
    "tipple-zstd",
    "tipple-denied",
    "tipple-blocked",
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
        "tipple" | "tipple-zstd" | "tipple-denied" | "tipple-search" => {
            tipple(name, threads, records, dir)
        }
        "tipple-blocked" => blocked(threads, records, dir),
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
    if ["tipple-zstd", "tipple-search"].contains(&name) {
        options.codec = "zstd:1".parse().expect("a codec");
    }
    let recorder = Recorder::start(options).expect("it starts");
    let stream = recorder
        .stream("producers")
        .key(0)
        .class("bench")
        .protocol("bench");
    let is_search = name == "tipple-search";
    let ns = produce(threads, records, |_, order| {
        let _trace = is_search.then(|| trace::enter(trace_of(order.order_id)));
        stream.sent(&order);
    });
    let report = recorder.shutdown(Duration::from_secs(120));
    assert_eq!(report.attempted, threads * records);
    (ns, report.written)
}

/// Ten messages have a trace; traces look like those of a tracing library.
fn trace_of(order_id: u64) -> u64 {
    (order_id / 10).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1
}

/// Into a pipe that nobody reads: how much memory that takes, and the thread that records.
fn blocked(threads: u64, records: u64, dir: &Path) -> (f64, u64) {
    fs::create_dir_all(dir).expect("a folder");
    let made = std::process::Command::new("mkfifo")
        .arg(dir.join("bench.ndjson"))
        .status();
    assert!(made.expect("mkfifo").success());
    let mut options = RecorderOptions::new(dir);
    options.min_free_bytes = 0;
    options.naming = Naming::Fixed;
    options.config.rate = Some(RecordRate::UNLIMITED);
    let recorder = Recorder::start(options).expect("it starts");
    let stream = recorder.stream("producers").class("bench");
    let ns = produce(threads, records, |_, order| stream.sent(&order));
    // Its writer waits for the disk for ever.
    std::mem::forget(recorder);
    (ns, 0)
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
    let (done, result) = std::sync::mpsc::channel();
    let topology = Topology::empty();
    let dumpers = topology.local("system.dumpers");
    let producers = topology.local("producers").entrypoint();
    let configurers = topology.local("system.configurers").entrypoint();
    // The dumper first: one that was made before it is mute for ever.
    dumpers.mount(elfo_dumper::new());
    configurers.mount(elfo_configurer::fixture(&topology, config));
    producers.mount(ActorGroup::new().exec(move |context| {
        let (done, path) = (done.clone(), path.clone());
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
            let written = count_lines(&path, b"\"cl\":\"bench\"");
            let _ = done.send((ns as f64 / (threads * records) as f64, written));
        }
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.spawn(elfo_core::init::start(topology));
    let result = result.recv().expect("it ends with its figures");
    runtime.shutdown_background();
    result
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

/// What a recorder took, the best of its rounds.
#[derive(Clone, Copy)]
struct Best {
    send_ns: f64,
    total_ns: f64,
    mega_lines: f64,
    rss_mib: f64,
}

impl Best {
    fn of(self, other: Option<Best>) -> Best {
        let other = other.unwrap_or(self);
        Best {
            send_ns: self.send_ns.min(other.send_ns),
            total_ns: self.total_ns.min(other.total_ns),
            mega_lines: self.mega_lines.max(other.mega_lines),
            rss_mib: self.rss_mib.max(other.rss_mib),
        }
    }
}

/// What the recorder is to reach, and what it has.
struct Goal {
    what: String,
    found: f64,
    /// `found` is to be at most this, or at least.
    bound: f64,
    is_least: bool,
}

impl Goal {
    fn at_most(what: impl Into<String>, found: f64, bound: f64) -> Goal {
        Goal {
            what: what.into(),
            found,
            bound,
            is_least: false,
        }
    }

    fn at_least(what: impl Into<String>, found: f64, bound: f64) -> Goal {
        Goal {
            is_least: true,
            ..Goal::at_most(what, found, bound)
        }
    }

    fn print(&self) {
        let (holds, bound) = match self.is_least {
            true => (self.found >= self.bound, "at least"),
            false => (self.found <= self.bound, "at most"),
        };
        let told = if holds { "holds" } else { "MISSED" };
        println!(
            "{told:8}{}: {:.3}, {bound} {}",
            self.what, self.found, self.bound
        );
    }
}

/// The memory that the recorder has as its default, and what the program around it may take, in MiB.
const BLOCKED_MIB_MAX: f64 = 64.0 + 16.0;

/// All of them, one after the other in each round, on one thread and on two; then a search.
pub fn run(plan: &Plan) {
    if plan.only.as_deref() != Some("record") {
        return;
    }
    println!(
        "{} records a thread, best of {} rounds, CPU ns a record",
        plan.items, plan.rounds
    );
    println!(
        "{:16}{:>8}{:>10}{:>10}{:>12}{:>10}",
        "", "threads", "send", "total", "M lines/s", "RSS MiB"
    );
    let mut goals = Vec::new();
    for threads in [1, 2] {
        let mut best: [Option<Best>; RECORDERS.len()] = [None; RECORDERS.len()];
        for _ in 0..plan.rounds {
            for (best, name) in best.iter_mut().zip(RECORDERS) {
                *best = Some(round(plan, name, threads).of(*best));
            }
        }
        let best = best.map(|best| best.expect("a round"));
        for (name, best) in RECORDERS.iter().zip(best) {
            println!(
                "{name:16}{threads:>8}{:>10.0}{:>10.0}{:>12.2}{:>10.0}",
                best.send_ns, best.total_ns, best.mega_lines, best.rss_mib
            );
        }
        let of = |name: &str| {
            best[RECORDERS
                .iter()
                .position(|one| *one == name)
                .expect("one of them")]
        };
        let (base, tipple, elfo) = (of("base"), of("tipple"), of("elfo"));
        let net = |name: &str| of(name).send_ns - base.send_ns;
        println!(
            "net of the message: send {:.0} ns, elfo's {:.0} ns",
            net("tipple"),
            net("elfo")
        );
        let on = |what: &str| format!("{what}, {threads} threads");
        let total = tipple.total_ns / elfo.total_ns;
        goals.extend([
            Goal::at_most(on("ns to send, net of the message"), net("tipple"), 60.0),
            Goal::at_most(
                on("ns to be denied, net of the message"),
                net("tipple-denied"),
                15.0,
            ),
            Goal::at_most(on("all of the CPU, of elfo's"), total, 0.45),
            Goal::at_least(on("million lines a second"), tipple.mega_lines, 1.5),
            Goal::at_most(
                on("MiB while the disk is blocked"),
                of("tipple-blocked").rss_mib,
                BLOCKED_MIB_MAX,
            ),
        ]);
    }
    let search = search(plan);
    goals.push(Goal::at_most("a search, of `zstd -dc | grep`", search, 0.1));
    goals.iter().for_each(Goal::print);
}

/// One recorder, once, in a process of its own.
fn round(plan: &Plan, name: &str, threads: u64) -> Best {
    let dir = plan
        .dir
        .join(format!("tipple-bench-record-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let figures = record_into(&dir, name, threads, plan.items);
    let _ = fs::remove_dir_all(&dir);
    let report = figures.report();
    let all = threads * plan.items;
    if !name.ends_with("denied") && !name.ends_with("blocked") {
        assert_eq!(report["written"].as_u64(), Some(all), "{name} lost records");
    }
    Best {
        send_ns: report["send_ns"].as_f64().expect("a number"),
        total_ns: figures.cpu_s * 1e9 / all as f64,
        mega_lines: all as f64 / figures.wall_s / 1e6,
        rss_mib: figures.rss_mib,
    }
}

fn record_into(dir: &Path, name: &str, threads: u64, records: u64) -> Figures {
    let own = std::env::current_exe().expect("a path");
    let dir = dir.to_str().expect("UTF-8");
    measure(
        &own,
        &[
            "record-one",
            name,
            &threads.to_string(),
            &records.to_string(),
            dir,
        ],
    )
}

/// A trace in a compressed recording, beside `zstd -dc` and `grep`, which read all of it: the ratio.
fn search(plan: &Plan) -> f64 {
    let dir = plan
        .dir
        .join(format!("tipple-bench-search-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let lines = 4 * plan.items;
    record_into(&dir, "tipple-search", 1, lines);
    let dir_text = dir.to_str().expect("UTF-8");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for at in 1..=plan.rounds as u64 {
        // Another place each time.
        let trace = trace_of(1_000_000 + lines * at / (plan.rounds as u64 + 1));
        let found = plan.tipple(&["record", "search", dir_text, "--trace", &trace.to_string()]);
        let command = format!("zstd -dcq {dir_text}/*.zst | grep -F '\"t\":{trace},'");
        let grep = measure(Path::new("sh"), &["-c", &command]);
        assert_eq!(found.stdout(), grep.stdout());
        assert_eq!(found.stdout().lines().count(), 10);
        ours.push(found.wall_s);
        theirs.push(grep.wall_s);
    }
    let _ = fs::remove_dir_all(&dir);
    let (ours, theirs) = (median(ours.into_iter()), median(theirs.into_iter()));
    println!(
        "a trace in {:.1} M lines: {ours:.3} s, zstd -dc | grep {theirs:.3} s: {:.3} of it",
        lines as f64 / 1e6,
        ours / theirs
    );
    ours / theirs
}
