//! Measures tipple beside raw clients and the tools before it. Figures are ratios of things measured in the same run.

#![expect(
    clippy::print_stdout,
    reason = "a program whose only purpose is to print figures"
)]

#[cfg(feature = "nats")]
mod async_nats_client;
mod log;
mod memory;
mod nats;
mod process;
mod raw;
#[cfg(feature = "record")]
mod record;
mod s3;
mod server;
mod snapshot;
mod spool;

use std::path::{Path, PathBuf};

use process::{Figures, measure, median, median_of, print_table};
use server::Memcached;

/// What is measured, and how often.
struct Plan {
    items: u64,
    rounds: usize,
    threads: usize,
    dir: PathBuf,
    only: Option<String>,
    tipple: PathBuf,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // The raw clients are processes of their own, so that their CPU is counted like tipple's.
        Some("raw-dump") => raw::dump(&args[1], args[2].parse().expect("threads")),
        Some("raw-load") => {
            let number = |n: usize| args[n].parse().expect("a number");
            raw::load(&args[1], number(2) as usize, number(3), number(4));
        }
        Some("raw-nats-publish") => {
            let number = |n: usize| args[n].parse().expect("a number");
            nats::publish(&args[1], &args[2], number(3), number(4));
        }
        Some("raw-nats-pull") => {
            nats::pull(&args[1], &args[2], args[3].parse().expect("a number"));
        }
        Some("raw-nats-snapshot") => nats::snapshot(&args[1], &args[2], &args[3]),
        Some("raw-nats-restore") => nats::restore(&args[1], &args[2], &args[3]),
        #[cfg(feature = "nats")]
        Some("async-nats-publish") => {
            let number = |n: usize| args[n].parse().expect("a number");
            async_nats_client::publish(&args[1], &args[2], number(3), number(4) as usize);
        }
        #[cfg(feature = "nats")]
        Some("async-nats-pull") => {
            async_nats_client::pull(&args[1], &args[2], args[3].parse().expect("a number"));
        }
        Some("snapshot-memory") => snapshot::memory(&args[1], &args[2], &args[3], &args[4]),
        #[cfg(feature = "record")]
        Some("record-one") => record::one(&args[1..]),
        _ => Plan::parse(&args).run(),
    }
}

impl Plan {
    fn parse(args: &[String]) -> Self {
        let mut plan = Self {
            items: 1_500_000,
            rounds: 5,
            threads: 4,
            dir: "/dev/shm".into(),
            only: None,
            tipple: std::env::current_exe()
                .expect("a path")
                .with_file_name("tipple"),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--items" => plan.items = value.parse().expect("a number"),
                "--rounds" => plan.rounds = value.parse().expect("a number"),
                "--threads" => plan.threads = value.parse().expect("a number"),
                "--dir" => plan.dir = value.into(),
                "--only" => plan.only = Some(value.clone()),
                _ => panic!("{arg}: see bench/README.md"),
            }
        }
        plan
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }

    fn run(&self) {
        println!(
            "{} items, {} threads and connections on each side, {} rounds, dumps in {}",
            self.items,
            self.threads,
            self.rounds,
            self.dir.display()
        );
        if self.wants("dump") || self.wants("load") || self.wants("tools") {
            let full = Memcached::start(&["-m", "4096", "-t", "4"]);
            self.raw_load(&full, self.items);
            if self.wants("dump") {
                self.dump(&full);
            }
            if self.wants("load") {
                self.load(&full);
            }
            if self.wants("tools") {
                self.tools(&full);
            }
        }
        if self.wants("memory") {
            memory::run(self);
        }
        if self.wants("log") {
            log::run(self);
        }
        if self.wants("nats") {
            nats::run(self);
        }
        if self.wants("s3") {
            s3::run(self);
        }
        if self.wants("spool") {
            spool::run(self);
        }
        if self.wants("snapshot") {
            snapshot::run(self);
        }
        // Only if it is asked for: it needs a hundred crates that nothing else needs.
        #[cfg(feature = "record")]
        record::run(self);
    }

    fn raw_load(&self, server: &Memcached, items: u64) -> Figures {
        let own = std::env::current_exe().expect("a path");
        let seed = 1;
        measure(
            &own,
            &[
                "raw-load",
                &server.addr(),
                &self.threads.to_string(),
                &items.to_string(),
                &seed.to_string(),
            ],
        )
    }

    fn tipple(&self, args: &[&str]) -> Figures {
        measure(&self.tipple, args)
    }

    fn fresh(&self, name: &str) -> String {
        let dir = self
            .dir
            .join(format!("tipple-bench-{}-{name}", std::process::id()));
        remove(&dir);
        dir.to_str().expect("a path in UTF-8").to_owned()
    }

    fn dump(&self, full: &Memcached) {
        let own = std::env::current_exe().expect("a path");
        let threads = self.threads.to_string();
        let url = format!("memcached://{}", full.addr());
        let (mut raw, mut none, mut zstd) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            raw.push(measure(&own, &["raw-dump", &full.addr(), &threads]));
            let fetched = &raw.last().expect("pushed").report()["items"];
            assert_eq!(*fetched, self.items, "the raw client did not fetch all");
            for (compress, figures) in [("none", &mut none), ("zstd:1", &mut zstd)] {
                let dir = self.fresh(compress);
                figures.push(self.tipple(&[
                    "dump",
                    &url,
                    &dir,
                    "--threads",
                    &threads,
                    "--compress",
                    compress,
                    "--json",
                    "--quiet",
                ]));
                let report = figures.last().expect("pushed").report();
                assert_eq!(
                    report["records"], self.items,
                    "the dump is not whole: {report}"
                );
                self.tipple(&["verify", &dir, "--json", "--quiet"]);
                remove(Path::new(&dir));
            }
        }
        let raw_said = |field: &'static str| {
            median(
                raw.iter()
                    .map(|run| run.report()[field].as_f64().expect("a number")),
            )
        };
        let (fetch_s, list_s) = (raw_said("fetch_s"), raw_said("list_s"));
        let (fetch_cpu, list_cpu) = (raw_said("fetch_cpu_s"), raw_said("list_cpu_s"));
        println!("\ndump                         wall s   client CPU s    items/s   max RSS MiB");
        let row = |name: &str, wall: f64, cpu: f64, rss: Option<f64>| {
            println!(
                "  {name:<26} {wall:>6.2} {cpu:>14.2} {:>10.0} {:>13}",
                self.items as f64 / wall,
                rss.map_or(String::new(), |rss| format!("{rss:.0}"))
            );
        };
        row("raw client, fetch only", fetch_s, fetch_cpu, None);
        row(
            "raw client, list + fetch",
            fetch_s + list_s,
            fetch_cpu + list_cpu,
            None,
        );
        for (name, figures) in [("tipple, none", &none), ("tipple, zstd:1", &zstd)] {
            row(
                name,
                median_of(figures, |f| f.wall_s),
                median_of(figures, |f| f.cpu_s),
                Some(median_of(figures, |f| f.rss_mib)),
            );
        }
        let (wall, cpu) = (
            median_of(&none, |f| f.wall_s),
            median_of(&none, |f| f.cpu_s),
        );
        println!(
            "  items/s of tipple none, against the raw client that lists and fetches (goal >= 0.85): {:.2}",
            (fetch_s + list_s) / wall
        );
        println!(
            "  items/s of tipple none, against fetching alone, keys given:                           {:.2}",
            fetch_s / wall
        );
        println!(
            "  CPU of tipple none, against fetching alone (goal <= 2.4):                             {:.2}",
            cpu / fetch_cpu
        );
        println!(
            "  CPU of tipple none, against the raw client that lists and fetches:                    {:.2}",
            cpu / (fetch_cpu + list_cpu)
        );
        memory::within_budget("dump none", &none);
        memory::within_budget("dump zstd:1", &zstd);
    }

    fn load(&self, full: &Memcached) {
        let threads = self.threads.to_string();
        let dir = self.fresh("load");
        self.tipple(&[
            "dump",
            &format!("memcached://{}", full.addr()),
            &dir,
            "--threads",
            &threads,
            "--compress",
            "none",
            "--quiet",
        ]);
        let (mut raw, mut tipple) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let empty = Memcached::start(&["-m", "4096", "-t", "4"]);
            raw.push(self.raw_load(&empty, self.items));
            assert_eq!(empty.items(), self.items);
            drop(empty);
            let empty = Memcached::start(&["-m", "4096", "-t", "4"]);
            let url = format!("memcached://{}", empty.addr());
            tipple.push(self.tipple(&[
                "load",
                &dir,
                &url,
                "--threads",
                &threads,
                "--json",
                "--quiet",
            ]));
            assert_eq!(empty.items(), self.items);
        }
        remove(Path::new(&dir));
        print_table(
            "load",
            self.items,
            "items",
            &[("raw set noreply", &raw), ("tipple", &tipple)],
        );
        println!(
            "  items/s of tipple, against the raw client that checks nothing (goal >= 0.85): {:.2}",
            median_of(&raw, |f| f.wall_s) / median_of(&tipple, |f| f.wall_s)
        );
        memory::within_budget("load", &tipple);
    }

    fn tools(&self, full: &Memcached) {
        let tool = Path::new("/usr/share/memcached/scripts/memcached-tool");
        assert!(tool.exists(), "apt-get install -y memcached");
        let figures = measure(
            Path::new("sh"),
            &[
                "-c",
                &format!("exec {} {} dump >/dev/null", tool.display(), full.addr()),
            ],
        );
        print_table(
            "memcached-tool",
            self.items,
            "items",
            &[("dump", &[figures])],
        );
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}
