//! What the tests share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tipple_recorder::{Recorder, RecorderOptions, RecordingReport};

/// Longer than anything takes on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub order_id: u64,
    pub symbol: String,
    pub side: Side,
    pub price: f64,
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Side {
    Buy,
    Sell,
}

pub fn order(order_id: u64) -> Order {
    Order {
        order_id,
        symbol: format!("SYM{}", order_id % 7),
        side: if order_id.is_multiple_of(2) {
            Side::Buy
        } else {
            Side::Sell
        },
        price: order_id as f64 / 4.0,
        note: None,
    }
}

/// Options for a test: any disk will do, and nothing is lost to a rate.
pub fn options(folder: &Path) -> RecorderOptions {
    let mut options = RecorderOptions::new(folder);
    options.min_free_bytes = 0;
    options.config.rate = Some(tipple_recorder::RecordRate::UNLIMITED);
    options
}

/// The same, with one file whose name stays.
pub fn fixed(folder: &Path) -> RecorderOptions {
    RecorderOptions {
        naming: tipple_recorder::Naming::Fixed,
        ..options(folder)
    }
}

pub fn start(folder: &Path) -> Recorder {
    Recorder::start(options(folder)).unwrap()
}

/// All files of a folder whose names end so, by name.
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    files.sort();
    files
}

/// The text of a file; compressed ones by the `zstd` of the system.
pub fn text(path: &Path) -> String {
    if path.to_str().unwrap().contains(".zst") {
        let output = std::process::Command::new("zstd")
            .args(["-dcq"])
            .arg(path)
            .output()
            .unwrap_or_else(|error| panic!("apt-get install -y zstd: {error}"));
        return String::from_utf8(output.stdout).unwrap();
    }
    fs::read_to_string(path).unwrap()
}

/// All lines of all files, each parsed: what is cut anywhere fails the test.
pub fn lines(folder: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for path in files(folder, "") {
        let name = path.to_str().unwrap();
        if name.contains(".idx") || !name.contains(".ndjson") {
            continue;
        }
        let text = text(&path);
        assert!(text.is_empty() || text.ends_with('\n'), "{name} is torn");
        for line in text.lines() {
            all.push(
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("{name}: {error}: {line}")),
            );
        }
    }
    all
}

/// Those that are records.
pub fn records(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["s"].is_u64()).collect()
}

/// That every number is there once, or in a loss record that counts it; of every group.
pub fn audit(lines: &[Value], report: &RecordingReport) {
    use std::collections::{BTreeMap, BTreeSet};
    let mut seen: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for line in records(lines) {
        let group = line["g"].as_str().unwrap();
        assert!(
            seen.entry(group)
                .or_default()
                .insert(line["s"].as_u64().unwrap()),
            "twice: {line}"
        );
    }
    let written: usize = seen.values().map(BTreeSet::len).sum();
    assert_eq!(written as u64, report.written);
    let mut lost = BTreeMap::new();
    for line in lines.iter().filter(|line| line["mk"] == "Loss") {
        let (from, to) = (line["from"].as_u64().unwrap(), line["to"].as_u64().unwrap());
        let count = line["count"].as_u64().unwrap();
        assert!(from <= to && count <= to - from + 1, "{line}");
        *lost
            .entry(line["why"].as_str().unwrap().to_owned())
            .or_insert(0) += count;
        let group = line["g"].as_str().unwrap();
        let there = seen
            .get(group)
            .map_or(0, |seen| seen.range(from..=to).count() as u64);
        assert!(
            count <= to - from + 1 - there,
            "{line} counts what is there"
        );
    }
    let told: BTreeMap<String, u64> = report
        .lost
        .iter()
        .map(|(why, count)| ((*why).to_owned(), *count))
        .collect();
    assert_eq!(lost, told);
    assert_eq!(report.attempted, report.written + report.lost_total());
    assert_eq!(report.waiting, 0);
}

/// Builds a library that stands before the program's own calls, from the source beside these tests.
pub fn shim(place: &Path, source: &str) -> PathBuf {
    let shim = place.join(source).with_extension("so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(source);
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&shim)
        .arg(source)
        .arg("-ldl")
        .output()
        .unwrap_or_else(|error| panic!("apt-get install -y build-essential: {error}"));
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    shim
}
