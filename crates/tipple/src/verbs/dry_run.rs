//! `--dry-run`: what a job would take.

use std::time::Duration;

use serde_json::json;
use tipple_budget::Rates;
use tipple_dump::ReadDryRun;

use crate::error::CliError;
use crate::output::{Needs, Output, dry_run_text};
use crate::units;

/// Raw bytes a second, where nobody gave a rate.
const ASSUMED: u64 = 100 << 20;

/// What a job expects.
pub(super) struct Expected {
    pub(super) verb: &'static str,
    pub(super) parts: u64,
    pub(super) records: u64,
    pub(super) raw_bytes: u64,
    /// Bytes that a verb reads which works on a dump.
    pub(super) reads: Option<Reads>,
    pub(super) memory_bytes: u64,
    pub(super) memory: String,
    /// Bytes at most, and a note on them.
    pub(super) disk: Option<(u64, String)>,
}

/// What a verb reads that works on a dump.
#[derive(Clone, Copy)]
pub(super) struct Reads {
    pub(super) bytes: u64,
    /// Whether it makes raw bytes of them, which takes longer.
    pub(super) are_decoded: bool,
}

/// Tells it.
pub(super) fn tell(output: &Output, expected: &Expected, rates: Rates) -> Result<u8, CliError> {
    let bytes_rate = rates.bytes_per_second;
    let bytes = match expected.reads {
        Some(reads) if !reads.are_decoded => reads.bytes,
        _ => expected.raw_bytes,
    };
    let by_bytes = bytes as f64 / bytes_rate.unwrap_or(ASSUMED) as f64;
    let by_records = rates
        .records_per_second
        .map_or(0.0, |rate| expected.records as f64 / rate as f64);
    let seconds = by_bytes.max(by_records);
    let time = match (seconds > 0.0, bytes_rate.or(rates.records_per_second)) {
        (false, _) => "not known".to_owned(),
        (true, Some(_)) => format!("about {} at --rate", shown(seconds)),
        (true, None) => format!(
            "about {} at an assumed {}/s",
            shown(seconds),
            units::bytes(ASSUMED)
        ),
    };
    let needs = Needs {
        parts: expected.parts,
        records: expected.records,
        raw_bytes: expected.raw_bytes,
        read_bytes: expected.reads.map(|reads| reads.bytes),
        memory: expected.memory.clone(),
        disk: expected.disk.as_ref().map(|(_, text)| text.clone()),
        time,
    };
    let value = json!({
        "verb": expected.verb,
        "dry_run": true,
        "parts": expected.parts,
        "records": expected.records,
        "raw_bytes": expected.raw_bytes,
        "read_bytes": expected.reads.map(|reads| reads.bytes),
        "memory_bytes": expected.memory_bytes,
        "disk_bytes_max": expected.disk.as_ref().map(|(bytes, _)| bytes),
        "elapsed_ms_estimate": (seconds * 1000.0) as u64,
        "rate_bytes_assumed": bytes_rate.is_none().then_some(ASSUMED),
    });
    dry_run_text(&needs).print(output, &value)?;
    Ok(0)
}

fn shown(seconds: f64) -> String {
    // What a rate of 1/s makes of a large source is still a number.
    units::time(Duration::from_secs_f64(seconds.min(1e9)))
}

/// What a verb that works on a dump expects, and tells it.
pub(super) fn tell_reading(
    output: &Output,
    verb: &'static str,
    needs: &ReadDryRun,
    are_decoded: bool,
) -> Result<u8, CliError> {
    let expected = Expected {
        verb,
        parts: needs.parts,
        records: needs.records,
        raw_bytes: needs.raw_bytes,
        reads: Some(Reads {
            bytes: needs.read_bytes,
            are_decoded,
        }),
        memory_bytes: needs.memory_bytes,
        memory: units::bytes(needs.memory_bytes),
        disk: None,
    };
    tell(output, &expected, Rates::default())
}
