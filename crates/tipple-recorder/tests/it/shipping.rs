//! What is in `deploy/recording`: logrotate itself at work, and files that hang together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tipple_recorder::{OnFull, Recorder, RecordingReport, rotate_on_sighup};
use tipple_testkit::wait_for;

use crate::support::{LONG, audit, files, fixed, lines, options, order};

const CHILD: &str = "TIPPLE_RECORDER_TEST_LOGROTATE";

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/recording");
    fs::read_to_string(path.join(name)).unwrap()
}

/// Not a test of its own: a program that records until it is told to end.
#[test]
fn rotated_child() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let place = PathBuf::from(folder);
    let mut options = fixed(&place.join("recording"));
    options.on_full = OnFull::Block(LONG);
    let recorder = Arc::new(Recorder::start(options).unwrap());
    rotate_on_sighup(&recorder).unwrap();
    let streams = ["a", "b"].map(|class| recorder.stream("orders").class(class));
    fs::write(place.join("app.pid"), std::process::id().to_string()).unwrap();
    let mut id = 0;
    while !place.join("end").exists() {
        for _ in 0..100 {
            id += 1;
            streams[id as usize % 2].sent(&order(id));
        }
        // Load enough: all of it is read again.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let report = recorder.shutdown(LONG);
    assert_eq!(report.lost_total(), 0);
    fs::write(place.join("written"), report.written.to_string()).unwrap();
}

#[test]
fn logrotate_takes_files_away_and_every_record_is_in_one_of_them() {
    let place = TempDir::new().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("recording")).unwrap();
    let config = shipped("logrotate.conf")
        .replace(
            "/var/lib/app/recording",
            path("recording").to_str().unwrap(),
        )
        .replace("/run/app.pid", path("app.pid").to_str().unwrap());
    fs::write(path("conf"), config).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shipping::rotated_child", "--nocapture"])
        .env(CHILD, place.path())
        .spawn()
        .unwrap();
    for _ in 0..6 {
        let both = ["a", "b"].map(|class| path("recording").join(format!("{class}.ndjson")));
        wait_for("both files, with something in them", || {
            let has = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.len() > 10_000);
            both.iter().all(has)
        });
        let rotated = Command::new("logrotate")
            .arg("--force")
            .arg("--state")
            .arg(path("state"))
            .arg(path("conf"))
            .output()
            .unwrap_or_else(|error| panic!("apt-get install -y logrotate: {error}"));
        let said = String::from_utf8_lossy(&rotated.stderr);
        assert!(rotated.status.success() && said.is_empty(), "{said}");
    }
    fs::write(path("end"), "").unwrap();
    assert!(child.wait().unwrap().success());
    let packed: Vec<PathBuf> = fs::read_dir(path("recording"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect();
    assert_eq!(packed.len(), 10);
    let unpacked = Command::new("gzip").arg("-d").args(&packed).status();
    assert!(unpacked.unwrap().success());
    let report = RecordingReport {
        attempted: fs::read_to_string(path("written"))
            .unwrap()
            .parse()
            .unwrap(),
        written: fs::read_to_string(path("written"))
            .unwrap()
            .parse()
            .unwrap(),
        ..Default::default()
    };
    audit(&lines(&path("recording")), &report);
}

/// The columns of the table, but for those that ClickHouse computes.
fn columns() -> BTreeSet<String> {
    let sql = shipped("clickhouse.sql");
    let (_, table) = sql.split_once("CREATE TABLE recording\n(\n").unwrap();
    let (table, _) = table.split_once("\n)\n").unwrap();
    let definitions = table.lines().map(str::trim).filter(|line| {
        let is_column = !line.starts_with("--") && !line.starts_with("INDEX");
        is_column && !line.contains("MATERIALIZED")
    });
    definitions
        .map(|line| line.split_whitespace().next().unwrap().replace('`', ""))
        .collect()
}

/// A recording with lines of every kind.
fn recorded(folder: &Path) {
    let mut options = options(folder);
    options.profile = tipple_recorder::Profile::Marked;
    options.config.rate = Some(tipple_recorder::RecordRate(50));
    options.config.redact = [("m.symbol".to_owned(), tipple_recorder::Redaction::Hide)].into();
    let recorder = Recorder::start(options).unwrap();
    let stream = recorder.stream("or\"ders").key(7).trace(u64::MAX);
    for id in 0..100 {
        let kind = tipple_recorder::Kind::Request(u64::MAX - id);
        stream.record(tipple_recorder::Direction::In, kind, &order(id));
    }
    let others = recorder.stream("others").class("b");
    others.sent("text\n\u{e9}");
    others.sent(&(1.0, None::<u8>, i128::MIN));
    recorder.shutdown(LONG);
}

#[test]
fn the_table_has_a_column_for_each_field_of_a_line() {
    let folder = TempDir::new().unwrap();
    recorded(folder.path());
    let fields: BTreeSet<String> = lines(folder.path())
        .iter()
        .flat_map(|line| line.as_object().unwrap().keys().cloned())
        .collect();
    assert_eq!(fields, columns());
}

/// ClickHouse as a library. It wants `pyarrow` to be there, for what is not used here. Arguments: the table, the query
/// and the settings that lines come with, the lines.
const CLICKHOUSE: &str = r#"
import sys, types
sys.modules["pyarrow"] = types.ModuleType("pyarrow")
sys.modules["pyarrow"].__getattr__ = lambda name: None
from chdb import session
table, query, settings, lines = sys.argv[1:]
clickhouse = session.Session()
clickhouse.query(table)
insert, form = query.split(" FORMAT ")
clickhouse.query(f"{insert} SETTINGS {settings} FORMAT {form} " + open(lines).read())
print(clickhouse.query("SELECT * EXCEPT time, toUnixTimestamp64Nano(time) = ts AS is_time FROM recording "
    "SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow"))
"#;

#[test]
fn clickhouse_takes_every_line_as_it_is() {
    let folder = TempDir::new().unwrap();
    recorded(folder.path());
    let all: String = files(folder.path(), ".ndjson")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let path = folder.path().join("all");
    fs::write(&path, &all).unwrap();
    // The query and the settings that vector sends lines with.
    let vector = shipped("vector.yaml");
    let uri = vector.split_once("/?query=").unwrap().1;
    let mut parts = uri.lines().next().unwrap().split('&');
    let query = parts.next().unwrap().replace("%20", " ");
    let settings: Vec<&str> = parts.collect();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
    let output = Command::new(tools.join("chdb/bin/python3"))
        .args(["-c", CLICKHOUSE, &shipped("clickhouse.sql"), &query])
        .arg(settings.join(", "))
        .arg(&path)
        .env_clear()
        .env("TMPDIR", folder.path())
        .current_dir(folder.path())
        .output()
        .unwrap_or_else(|error| panic!("./test installs ClickHouse: {error}"));
    let told = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{said}");
    let rows: BTreeSet<String> = told.trim().lines().map(str::to_owned).collect();
    assert_eq!(rows.len(), all.lines().count());
    for line in all.lines() {
        let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(line).unwrap();
        let is_it = |row: &&String| {
            let row: BTreeMap<&str, &RawValue> = serde_json::from_str(row).unwrap();
            row["is_time"].get() == "1"
                && fields.iter().all(|(name, value)| {
                    // What is no text becomes the text that it is in the line.
                    let text = serde_json::to_string(value.get()).unwrap();
                    let value: Value = serde_json::from_str(value.get()).unwrap();
                    let row: Value = serde_json::from_str(row[name].get()).unwrap();
                    row == value || row == serde_json::from_str::<Value>(&text).unwrap()
                })
        };
        assert_eq!(rows.iter().filter(is_it).count(), 1, "{line}\n{told}");
    }
}

#[test]
fn a_program_gets_few_crates_with_it() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "tipple-recorder"])
        .args(["--edges", "normal", "--prefix", "none", "--no-dedupe"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let crates: BTreeSet<&str> = std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .collect();
    assert!(
        (20..40).contains(&crates.len()),
        "{}: {crates:?}",
        crates.len()
    );
}
