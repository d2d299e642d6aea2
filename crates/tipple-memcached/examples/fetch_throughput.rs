//! What fetching costs: items a second and CPU seconds of the client, beside a client that throws all replies away.
//!
//! ```text
//! memcached -l 127.0.0.1 -p 22122 -t 4 -m 2048 &
//! cargo run --release -p tipple-memcached --example fetch_throughput -- memcached://127.0.0.1:22122
//! ```
#![expect(clippy::print_stdout, reason = "it is what an example is for")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, NewPart, Outcomes, Part, PartName, PlanBody, PlanRead, Planner, RecordWriter,
    Source, Stop,
};
use tipple_memcached::{
    Connection, MemcachedOptions, MemcachedSource, MemcachedUrl, Reply, SourceOptions, parse_reply,
};

const ITEMS: usize = 1_500_000;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let url: MemcachedUrl = std::env::args()
        .nth(1)
        .ok_or("give memcached://host:port")?
        .parse()?;
    fill(&url)?;
    for _ in 0..3 {
        measure("raw, values thrown away", || raw(&url))?;
        measure("the source: list and fetch", || source(&url))?;
    }
    Ok(())
}

fn measure(name: &str, run: impl FnOnce() -> Result<u64, Failed>) -> Result<(), Failed> {
    let (start, before) = (Instant::now(), cpu()?);
    let items = run()?;
    let (elapsed, after) = (start.elapsed().as_secs_f64(), cpu()?);
    println!(
        "{name}: {items} items, {elapsed:.2} s, {:.0} items/s, CPU {:.2} s user {:.2} s system",
        items as f64 / elapsed,
        after.0 - before.0,
        after.1 - before.1
    );
    Ok(())
}

/// User and system seconds of this process, in ticks of 10 ms.
fn cpu() -> Result<(f64, f64), Failed> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
    Ok((
        fields[12].parse::<f64>()? / 100.0,
        fields[13].parse::<f64>()? / 100.0,
    ))
}

/// 100 to 1000 random bytes each, half of them with an expiry time.
fn fill(url: &MemcachedUrl) -> Result<(), Failed> {
    let mut connection =
        Connection::connect(&url.servers()[0], &MemcachedOptions::default(), None)?;
    let mut state = 1_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let noise: Vec<u8> = (0..(1 << 20)).map(|_| random() as u8).collect();
    for batch in 0..ITEMS / 1000 {
        let mut request = Vec::new();
        for i in batch * 1000..(batch + 1) * 1000 {
            let length = 100 + (random() % 900) as usize;
            let at = random() as usize % (noise.len() - length);
            let exptime = if i % 2 == 0 { 0 } else { 100_000 };
            request.extend(
                format!("set user:profile:{i:09} 0 {exptime} {length} noreply\r\n").bytes(),
            );
            request.extend(&noise[at..at + length]);
            request.extend(b"\r\n");
        }
        request.extend(b"mn\r\n");
        connection.send(&request, None)?;
        connection.read_line(100, None)?;
    }
    Ok(())
}

/// The same requests, the same buffer, and nothing is done with the replies.
fn raw(url: &MemcachedUrl) -> Result<u64, Failed> {
    let mut connection =
        Connection::connect(&url.servers()[0], &MemcachedOptions::default(), None)?;
    let (mut asked, mut answered, mut items) = (0, 0, 0);
    let mut skip = 0;
    while answered < ITEMS {
        if asked - answered <= 500 {
            let until = (asked + 500).min(ITEMS);
            for i in asked..until {
                let outbox = connection.outbox();
                outbox.extend(b"mg user:profile:");
                let digits: [u8; 9] =
                    std::array::from_fn(|n| b'0' + (i / 10_usize.pow(8 - n as u32) % 10) as u8);
                outbox.extend(digits);
                outbox.extend(b" f t c v u O0000\r\n");
            }
            asked = until;
            connection.push()?;
        }
        connection.fill(None)?;
        loop {
            let n = skip.min(connection.buffered().len());
            connection.consume(n);
            skip -= n;
            if skip > 0 {
                break;
            }
            let Some((reply, length)) = parse_reply(connection.buffered())? else {
                break;
            };
            if let Reply::Value { bytes, .. } = reply {
                skip = bytes as usize + 2;
                items += 1;
            }
            connection.consume(length);
            answered += 1;
        }
    }
    Ok(items)
}

fn source(url: &MemcachedUrl) -> Result<u64, Failed> {
    let source = MemcachedSource::new(
        url.clone(),
        MemcachedOptions::default(),
        SourceOptions::default(),
    )?;
    let dir = tempfile::tempdir()?;
    let gate = Gate::new(Rates::default());
    source.check()?;
    let mut plan = Plan {
        dir: dir.path().to_owned(),
        parts: Vec::new(),
    };
    measure("  listing", || {
        source.plan(&mut plan, &gate)?;
        Ok(plan.parts.len() as u64)
    })?;
    let pool = BufferPool::new(2, 8 << 20, &Budget::new("memory", 16 << 20))?;
    let mut reader = source.open()?;
    let mut records = 0;
    for part in &plan.parts {
        let mut nothing = Nothing;
        let mut out = RecordWriter::new(&gate, &pool, &mut nothing);
        reader.read_part(part, &mut out, &mut Outcomes::default())?;
        records += out.finish()?.records;
    }
    Ok(records)
}

struct Nothing;

impl Drain for Nothing {
    fn block(&mut self, _block: Block) -> Result<(), Stop> {
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}

struct Plan {
    dir: PathBuf,
    parts: Vec<KeyFilePart>,
}

impl Planner for Plan {
    fn scratch_dir(&self) -> &Path {
        &self.dir
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        if let PlanBody::File(path) = part.body {
            let name = format!("{:08}", self.parts.len()).parse()?;
            self.parts.push(KeyFilePart { name, path });
        }
        Ok(())
    }
    fn listed(&mut self, _records: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        self.parts.clear();
        Ok(())
    }
}

struct KeyFilePart {
    name: PartName,
    path: PathBuf,
}

impl Part for KeyFilePart {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        let file = File::open(&self.path).expect("it was written by the plan");
        Ok(Box::new(file))
    }
}
