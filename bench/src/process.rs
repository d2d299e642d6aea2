//! A process from outside: how long, how much CPU, how much memory.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a process took.
pub struct Figures {
    pub wall_s: f64,
    /// User and system, from the kernel's accounting of children that were waited for.
    pub cpu_s: f64,
    /// The high-water mark of its resident memory.
    pub rss_mib: f64,
    stdout: String,
}

impl Figures {
    /// What it printed.
    #[cfg(feature = "record")]
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// The last line of its output, as JSON.
    pub fn report(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{last:?}: {error}"))
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be run, or fails: a figure of a failed run would be worthless.
pub fn measure(program: &Path, args: &[&str]) -> Figures {
    measure_command(Command::new(program).args(args))
}

/// The same, with an environment of its own.
///
/// # Panics
/// As [`measure`].
pub fn measure_command(command: &mut Command) -> Figures {
    // Without the environment: there are secrets in it.
    let name = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect::<Vec<_>>()
        .join(OsStr::new(" "))
        .to_string_lossy()
        .into_owned();
    let cpu_before = children_cpu_s();
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}: see bench/README.md"));
    let mut out = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).expect("UTF-8");
        text
    });
    let mut rss_kib = 0;
    let status = loop {
        // The mark only grows, so what matters is to look once more shortly before the end.
        rss_kib = rss_kib.max(rss_max_kib(child.id()).unwrap_or(0));
        match child.try_wait().expect("our own child") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let wall_s = start.elapsed().as_secs_f64();
    assert!(status.success(), "{name}: {status}");
    Figures {
        wall_s,
        cpu_s: children_cpu_s() - cpu_before,
        rss_mib: rss_kib as f64 / 1024.0,
        stdout: reader.join().expect("the reader ended"),
    }
}

/// The median; of an even number, the higher of the two in the middle.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The median of one figure of several runs.
pub fn median_of(runs: &[Figures], what: fn(&Figures) -> f64) -> f64 {
    median(runs.iter().map(what))
}

/// Prints the medians of runs that moved `amount` of `unit` each, a row for each name.
pub fn print_table(title: &str, amount: u64, unit: &str, rows: &[(&str, &[Figures])]) {
    let (per_second, memory) = (format!("{unit}/s"), "max RSS MiB");
    println!("\n{title:<34} wall s   CPU s {per_second:>11} {memory:>13}");
    for (name, runs) in rows {
        let wall = median_of(runs, |run| run.wall_s);
        println!(
            "  {name:<32} {wall:>6.2} {:>7.2} {:>11.0} {:>13.0}",
            median_of(runs, |run| run.cpu_s),
            amount as f64 / wall,
            median_of(runs, |run| run.rss_mib)
        );
    }
}

fn rss_max_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Fields 16 and 17 of /proc/self/stat (proc(5)), in ticks of 10 ms.
fn children_cpu_s() -> f64 {
    cpu_fields(15, 16)
}

/// Fields 14 and 15: the CPU of this process.
pub fn own_cpu_s() -> f64 {
    cpu_fields(13, 14)
}

fn cpu_fields(first: usize, second: usize) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The second field is the program's name in parentheses; after it come the fields from the third on.
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 1..]
        .split_whitespace()
        .collect();
    let ticks = |n: usize| fields[n - 2].parse::<f64>().expect("ticks");
    (ticks(first) + ticks(second)) / 100.0
}
