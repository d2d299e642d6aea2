//! The report at the end, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tipple_dump::{QueueCounts, Report, VerifyReport};

use crate::output::Answer;
use crate::units::{bytes, count, counted, short_count, time};

/// What was done: "dumped 1,000,000 records in 12 parts", and what there is to know about it.
pub(crate) fn report_text(done: &str, report: &Report) -> String {
    let mut text = format!("{done} {}", counted(report.records, "record"));
    if report.parts > 0 {
        text.push_str(&format!(" in {}", counted(report.parts, "part")));
    }
    if report.chunks > 0 {
        text.push_str(&format!(", {}", counted(report.chunks, "chunk")));
    }
    text.push('\n');
    text.push_str(&losses_text(report));
    for (target, messages) in &report.undelivered {
        text.push_str(&format!(
            "  UNDELIVERED {}: {target}\n",
            counted(*messages, "notification")
        ));
    }
    if let Some(queue) = report.queue.filter(|queue| queue.untold_parts > 0) {
        text.push_str(&format!(
            "  UNTOLD {} whose notifications were not all delivered, and which may be missing\n",
            counted(queue.untold_parts, "part")
        ));
    }
    let mut rows = Answer::default();
    if !report.outcomes.is_empty() {
        rows.row("  left out", causes(&report.outcomes));
    }
    rows.row("  size", size_text(report));
    rows.row("  time", time_text(report));
    rows.row(
        "  memory",
        format!(
            "{} at most, of a budget of {}",
            bytes(report.memory_bytes_max),
            bytes(report.memory_bytes_budget)
        ),
    );
    if report.spool_bytes_max > 0 {
        rows.row(
            "  spool",
            format!(
                "{} reserved at most, of a limit of {}",
                bytes(report.spool_bytes_max),
                bytes(report.spool_bytes_budget)
            ),
        );
    }
    if let Some(queue) = report.queue {
        rows.row("  queue", queue_text(&queue));
    }
    for dropped in &report.dropped_stores {
        rows.row(
            "  DROPPED",
            format!("{}: {}", dropped.store, dropped.reason),
        );
    }
    for (name, said) in [("  source", &report.source), ("  sink", &report.sink)] {
        let said = plain_values(said);
        if !said.is_empty() {
            rows.row(name, said);
        }
    }
    text.push_str(&rows.text());
    text
}

fn queue_text(queue: &QueueCounts) -> String {
    let mut text = format!(
        "{} received, {} applied",
        counted(queue.received, "message"),
        count(queue.applied)
    );
    for (what, messages) in [
        ("inside others", queue.inside),
        ("of a plan that does not count", queue.void),
        ("left there, not of this dump", queue.foreign),
        ("damaged on their way and received again", queue.damaged),
    ] {
        if messages > 0 {
            text.push_str(&format!(", {} {what}", count(messages)));
        }
    }
    text
}

/// Loud, and on its own line; nothing if nothing was lost.
pub(crate) fn losses_text(report: &Report) -> String {
    match report.lost_total() {
        0 => String::new(),
        lost => format!(
            "  LOST {}: {}\n",
            counted(lost, "record"),
            causes(&report.lost)
        ),
    }
}

fn causes(causes: &BTreeMap<String, u64>) -> String {
    let texts: Vec<String> = causes
        .iter()
        .map(|(cause, records)| format!("{cause} {}", count(*records)))
        .collect();
    texts.join(", ")
}

fn size_text(report: &Report) -> String {
    if report.stored_bytes == 0 {
        return bytes(report.raw_bytes);
    }
    let ratio = report.raw_bytes as f64 / report.stored_bytes as f64;
    format!(
        "{} raw, {} stored ({ratio:.1} to 1)",
        bytes(report.raw_bytes),
        bytes(report.stored_bytes)
    )
}

fn time_text(report: &Report) -> String {
    let elapsed = Duration::from_millis(report.elapsed_ms);
    let seconds = elapsed.as_secs_f64().max(0.001);
    format!(
        "{} · {:.1} MiB/s · {} records/s",
        time(elapsed),
        (report.raw_bytes - report.earlier_raw_bytes) as f64 / f64::from(1 << 20) / seconds,
        short_count((report.records - report.earlier_records) as f64 / seconds)
    )
}

/// What the other side said of itself, as far as that is a few plain values: "bytes 1,024, path /tmp/x".
fn plain_values(said: &Value) -> String {
    let fields = match said {
        Value::Object(fields) => fields,
        Value::String(text) => return text.clone(),
        _ => return String::new(),
    };
    let texts: Vec<String> = fields
        .iter()
        .filter_map(|(name, value)| {
            let name = name.replace('_', " ");
            match value {
                Value::String(text) => Some(format!("{name} {text}")),
                Value::Number(number) => Some(match number.as_u64() {
                    Some(n) => format!("{name} {}", count(n)),
                    None => format!("{name} {number}"),
                }),
                Value::Bool(yes) => Some(format!("{name} {}", if *yes { "yes" } else { "no" })),
                _ => None,
            }
        })
        .collect();
    texts.join(", ")
}

/// What a verification found.
pub(crate) fn verify_text(place: &str, verified: &VerifyReport) -> String {
    let mut text = String::new();
    for problem in &verified.problems {
        text.push_str(&format!("  {}: {}\n", problem.object, problem.problem));
    }
    let hidden = verified.problems_total - verified.problems.len() as u64;
    if hidden > 0 {
        text.push_str(&format!("  and {} more\n", count(hidden)));
    }
    let report = &verified.report;
    if verified.problems_total > 0 {
        return text;
    }
    text.push_str(&report_text("verified", report));
    if report.lost_total() > 0 {
        text.push_str("  the dump is as it was written, and says that it lost these records\n");
    }
    if verified.unlisted > 0 {
        text.push_str(&format!(
            "  {} that no record lists, left by unfinished attempts: `tipple prune {place}` shows them\n",
            counted(verified.unlisted, "object")
        ));
    }
    text
}

/// What a job would take.
pub(crate) struct Needs {
    pub(crate) parts: u64,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) memory: String,
    pub(crate) disk: Option<String>,
    pub(crate) time: String,
}

pub(crate) fn dry_run_text(needs: &Needs) -> Answer {
    let known = |n: u64, text: String| if n == 0 { "not known".to_owned() } else { text };
    let mut answer = Answer::default();
    answer
        .row("parts", known(needs.parts, count(needs.parts)))
        .row("records", known(needs.records, count(needs.records)))
        .row("raw bytes", known(needs.raw_bytes, bytes(needs.raw_bytes)));
    if let Some(read_bytes) = needs.read_bytes {
        answer.row("reads", bytes(read_bytes));
    }
    answer
        .row("time", needs.time.clone())
        .row("memory", needs.memory.clone());
    if let Some(disk) = &needs.disk {
        answer.row("disk", disk.clone());
    }
    answer
}
