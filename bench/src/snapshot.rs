//! Snapshots of a cache of a million entries beside what a service does by hand: postcard into a plain file, without a checksum.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tipple_snapshot::{
    Cache, CacheOptions, Compression, Dumpable, Keys, SnapshotFolder, SnapshotOptions, Update,
    UpdateRequest, ValueTimes,
};

use crate::Plan;
use crate::process::{measure, median, own_cpu_s};

const ENTRIES: u64 = 1_000_000;
const MIB: f64 = (1 << 20) as f64;

/// What a cache has of an article: two texts, numbers, and something that is not always there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Dumpable)]
struct Article {
    id: u64,
    title: String,
    price: f64,
    weight: f64,
    stock: Option<u32>,
    seen: u64,
}

type Plain = std::collections::HashMap<String, Article>;
type Seeded = tipple_snapshot::HashMap<String, Article>;

fn articles<S: BuildHasher + Default>(
    entries: u64,
) -> std::collections::HashMap<String, Article, S> {
    let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..entries)
        .map(|n| {
            let article = Article {
                id: n,
                title: format!("title {:<18}", mixed(n) % 1_000_000_000),
                price: n as f64 / 7.0,
                weight: (mixed(n) % 1000) as f64,
                stock: (n % 3 > 0).then_some((mixed(n) >> 40) as u32),
                seen: mixed(n) >> 20,
            };
            (
                format!("article:{:012}", mixed(n) % 1_000_000_000_000),
                article,
            )
        })
        .collect()
}

fn folder(dir: &Path, name: &str, encrypted: bool, decode_threads: usize) -> SnapshotFolder {
    let options = SnapshotOptions {
        encrypted,
        decode_threads,
        compression: match name {
            "lz4" => Compression::Lz4,
            _ => Compression::None,
        },
        ..SnapshotOptions::default()
    };
    let keys = Keys::from_callback(|_| Ok(vec![[7; 32]]));
    SnapshotFolder::new(dir, name, options, keys).expect("options")
}

/// Wall and CPU seconds.
#[derive(Clone, Copy)]
struct Took(f64, f64);

fn timed<R>(work: impl FnOnce() -> R) -> (R, Took) {
    let (begin, cpu) = (Instant::now(), own_cpu_s());
    let done = work();
    let took = Took(begin.elapsed().as_secs_f64(), own_cpu_s() - cpu);
    (done, took)
}

/// A row of the table: medians, and the ratio to the baseline of the same rounds.
struct Row {
    name: &'static str,
    bytes: u64,
    took: Vec<Took>,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            bytes: 0,
            took: Vec::new(),
        }
    }

    fn wall(&self) -> f64 {
        median(self.took.iter().map(|took| took.0))
    }

    fn print(&self, baseline: &Row) {
        println!(
            "  {:<30}{:>8.3}{:>9.2}{:>9.0}{:>9.2}",
            self.name,
            self.wall(),
            median(self.took.iter().map(|took| took.1)),
            self.bytes as f64 / 1e6 / self.wall(),
            self.wall() / baseline.wall()
        );
    }
}

fn heading(what: &str) {
    println!(
        "\n{what:<32}{:>8}{:>9}{:>9}{:>9}",
        "wall s", "CPU s", "MB/s", "ratio"
    );
}

fn write_by_hand(path: &Path, map: &Plain) {
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    postcard::to_io(map, &mut out).expect("it can be written");
    out.flush().expect("it can be written");
}

fn load_by_hand(path: &Path) -> Plain {
    postcard::from_bytes(&std::fs::read(path).expect("a file")).expect("a map")
}

pub fn run(plan: &Plan) {
    let dir = plan.fresh("snapshot");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir).expect("a folder");
    let plain: Plain = articles::<RandomState>(ENTRIES);
    let seeded: Seeded = articles(ENTRIES);
    let threads = SnapshotOptions::default().decode_threads;
    let by_hand = dir.join("by-hand");

    let mut writes = [
        Row::new("postcard, plain file"),
        Row::new("tipple, std's HashMap"),
        Row::new("tipple"),
        Row::new("tipple, sealed"),
        Row::new("tipple, lz4"),
    ];
    let mut loads = [
        Row::new("postcard, plain file"),
        Row::new("tipple, std's HashMap"),
        Row::new("tipple, one thread"),
        Row::new("tipple"),
        Row::new("tipple, sealed"),
        Row::new("tipple, lz4"),
    ];
    for _ in 0..plan.rounds {
        let times = ValueTimes::at(SystemTime::now());
        let ((), took) = timed(|| write_by_hand(&by_hand, &plain));
        writes[0].took.push(took);
        writes[0].bytes = std::fs::metadata(&by_hand).expect("it was written").len();
        let (written, took) = timed(|| folder(dir, "std", false, threads).write(&plain, times));
        writes[1].took.push(took);
        writes[1].bytes = written.expect("written").bytes;
        let mut one = |row: usize, name: &str, encrypted| {
            let (written, took) =
                timed(|| folder(dir, name, encrypted, threads).write(&seeded, times));
            writes[row].took.push(took);
            writes[row].bytes = written.expect("written").bytes;
        };
        one(2, "own", false);
        one(3, "sealed", true);
        one(4, "lz4", false);

        let (map, took) = timed(|| load_by_hand(&by_hand));
        loads[0].took.push(took);
        assert_eq!(map.len(), plain.len());
        drop(map);
        let (found, took) = timed(|| folder(dir, "std", false, threads).load::<Plain>());
        loads[1].took.push(took);
        drop(found.loaded.expect("it is there"));
        let mut one = |row: usize, name: &str, encrypted, threads| {
            let (found, took) = timed(|| folder(dir, name, encrypted, threads).load::<Seeded>());
            loads[row].took.push(took);
            let loaded = found.loaded.expect("it is there");
            loads[row].bytes = loaded.bytes;
            assert_eq!(loaded.value.len(), seeded.len());
        };
        one(2, "own", false, 1);
        one(3, "own", false, threads);
        one(4, "sealed", true, threads);
        one(5, "lz4", false, threads);
    }
    loads[0].bytes = writes[0].bytes;
    loads[1].bytes = writes[1].bytes;
    heading("write of 1 M entries");
    writes.iter().for_each(|row| row.print(&writes[0]));
    println!(
        "  sealed / not sealed: {:.2}",
        writes[3].wall() / writes[2].wall()
    );
    heading("load of 1 M entries");
    loads.iter().for_each(|row| row.print(&loads[0]));
    println!(
        "  sealed / not sealed: {:.2}; {threads} threads decode",
        loads[4].wall() / loads[3].wall()
    );

    println!("\npeak memory over the value           1 M    10 M entries, MiB");
    let own = std::env::current_exe().expect("a path");
    let dir_text = dir.to_str().expect("a path in UTF-8");
    for (what, threads) in [("write", "1"), ("load", "1"), ("load", "2"), ("load", "4")] {
        let over = [ENTRIES, 10 * ENTRIES].map(|entries| {
            let entries = entries.to_string();
            if what == "load" {
                // What it loads: of this size.
                measure(
                    &own,
                    &["snapshot-memory", "write", dir_text, threads, &entries],
                );
            }
            let args = ["snapshot-memory", what, dir_text, threads, &entries];
            let report = measure(&own, &args).report().clone();
            report["over"].as_f64().expect("a number")
        });
        let name = match what {
            "write" => what.to_owned(),
            _ => format!("{what}, {threads} threads"),
        };
        println!("  {name:<30}{:>8.1}{:>8.1}", over[0], over[1]);
    }
    reads(plan.rounds);
    crate::remove(dir);
}

/// Reads of a cache beside a bare pointer, in turns.
fn reads(rounds: usize) {
    const READS: u32 = 20_000_000;
    let bare = ArcSwap::from_pointee(vec![1u64, 2, 3]);
    let updater = |_: UpdateRequest<Vec<u64>>| Ok(Update::New(vec![1u64, 2, 3]));
    let cache = Cache::builder("reads", updater)
        .options(CacheOptions::every(Duration::from_secs(3600)))
        .start()
        .expect("it starts");
    let (mut of_bare, mut of_cache) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let ((), took) = timed(|| (0..READS).for_each(|_| _ = black_box(bare.load()[1])));
        of_bare.push(took.0);
        let ((), took) = timed(|| {
            (0..READS).for_each(|_| _ = black_box(cache.get().expect("a value")[1]));
        });
        of_cache.push(took.0);
    }
    let nanos = |times: Vec<f64>| median(times.into_iter()) / f64::from(READS) * 1e9;
    let (of_bare, of_cache) = (nanos(of_bare), nanos(of_cache));
    println!(
        "\nread of a cache: {of_cache:.1} ns, ArcSwap::load: {of_bare:.1} ns, ratio {:.2}",
        of_cache / of_bare
    );
}

/// In a process of its own: how much more it held while it worked than the value takes.
pub fn memory(what: &str, dir: &str, threads: &str, entries: &str) {
    let threads = threads.parse().expect("a number");
    let entries = entries.parse().expect("a number");
    let folder = folder(Path::new(dir), "memory", false, threads);
    let (value, over) = match what {
        "write" => {
            let value: Seeded = articles(entries);
            let before = resident_now();
            forget_peak();
            folder
                .write(&value, ValueTimes::at(SystemTime::now()))
                .expect("written");
            (value, resident_peak() - before)
        }
        _ => {
            let empty = resident_now();
            forget_peak();
            let loaded = folder.load::<Seeded>().loaded.expect("it is there");
            let peak = resident_peak();
            let value = loaded.value;
            // Some keys are there twice.
            assert!(
                value.len() as u64 > entries * 9 / 10,
                "as many as were written"
            );
            // What it takes by itself: memory that was freed meanwhile may be resident still, so by another copy.
            let before = resident_now();
            let copy = value.clone();
            let takes = resident_now() - before;
            drop(copy);
            (value, peak - empty - takes)
        }
    };
    drop(black_box(value));
    println!("{}", serde_json::json!({ "over": over }));
}

fn field(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a field");
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .expect("a value")
        .parse()
        .expect("a number");
    kib * 1024.0 / MIB
}

fn resident_now() -> f64 {
    field("VmRSS:")
}

fn resident_peak() -> f64 {
    field("VmHWM:")
}

/// The peak begins anew (proc(5), clear_refs).
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("one's own");
}
