//! Real DuckDB, which reads what tipple writes for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::find_program;

const INSTALL: &str = "python3 -m venv target/tools/duckdb && \
                       target/tools/duckdb/bin/pip install duckdb==2.0.0";

/// Each row becomes an array of its values; numbers and text stay what they are, all else becomes text. No bar: it would be
/// drawn into the rows.
const PROGRAM: &str = "
import duckdb, json, sys
duckdb.sql(\"set timezone='UTC'; set enable_progress_bar=false\")
for row in duckdb.sql(sys.argv[1]).fetchall():
    print(json.dumps([v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for v in row]))
";

/// The rows that DuckDB answers `sql` with, files being named as from `dir`.
///
/// # Panics
/// If DuckDB is not installed, or refuses.
#[track_caller]
pub fn duckdb(dir: &Path, sql: &str) -> Vec<Value> {
    try_duckdb(dir, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The same; what DuckDB says if it refuses.
///
/// # Panics
/// If DuckDB is not installed.
#[track_caller]
pub fn try_duckdb(dir: &Path, sql: &str) -> Result<Vec<Value>, String> {
    let output = Command::new(python())
        .args(["-c", PROGRAM, sql])
        .env_clear()
        .env("HOME", dir)
        .env("TMPDIR", dir)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot start python3 ({error}); install DuckDB: {INSTALL}")
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.contains("No module named 'duckdb'"),
        "DuckDB is missing; install it: {INSTALL}"
    );
    if !output.status.success() {
        return Err(said.into_owned());
    }
    let rows = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let row = |line: &str| serde_json::from_str(line).expect("a row is JSON");
    Ok(rows.lines().map(row).collect())
}

/// That of the environment that `./test` installed DuckDB into, or the one in the path.
fn python() -> PathBuf {
    let python =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/duckdb/bin/python3");
    match python.exists() {
        true => python,
        false => find_program("python3").unwrap_or_else(|| PathBuf::from("python3")),
    }
}
