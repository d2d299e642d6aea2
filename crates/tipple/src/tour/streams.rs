//! An embedded stream: appended to, dumped while it grows, replayed into another one, exactly once.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::error::CliError;
use crate::tour::guide::{Guide, stuck};
use crate::tour::lines::last_json;

const EVENTS: u64 = 200_000;

pub(super) fn show(guide: &mut Guide) -> Result<(), CliError> {
    let stream = format!("log:{}", guide.text("stream"));
    guide.step("An embedded stream: append events to it, one JSON object a line");
    write_orders(&guide.path("orders.ndjson"), 0..EVENTS)?;
    append(guide, &stream)?;

    guide.step("Dump it, and look into it");
    let dump = guide.text("events");
    guide.tipple(&["dump", &stream, &dump], 0)?;
    let verified = guide.tipple(&["verify", &dump, "--json"], 0)?;
    let report = last_json(&verified.stdout);
    guide.prove(
        "the dump has every event of the stream",
        report["records"] == EVENTS && report["problems_total"] == 0,
    );
    guide.tipple(&["cat", &dump, "--limit", "2"], 0)?;

    guide.step("Load it into another stream, twice: the stream itself tells how far a load got");
    let copy = format!("log:{}", guide.text("copy"));
    guide.tipple(&["load", &dump, &copy], 0)?;
    guide.tipple(&["load", &dump, &copy], 0)?;
    let (one, other) = (shown(guide, &stream, "one")?, shown(guide, &copy, "other")?);
    let same = guide.same_bytes(Path::new(&one), Path::new(&other))?;
    guide.prove(
        "the other stream has the same events, each of them once",
        same,
    );

    guide.step("Let the stream grow, and dump what is new");
    write_orders(&guide.path("orders.ndjson"), EVENTS..EVENTS + EVENTS / 10)?;
    append(guide, &stream)?;
    let newer = guide.text("newer");
    let from = (EVENTS + 1).to_string();
    let dumped = guide.tipple(&["dump", &stream, &newer, "--from", &from, "--json"], 0)?;
    guide.prove(
        "a range of a stream is dumped by its positions",
        last_json(&dumped.stdout)["records"] == EVENTS / 10,
    );
    guide.tipple(&["load", &newer, &copy], 0)?;
    let (one, other) = (shown(guide, &stream, "one")?, shown(guide, &copy, "other")?);
    let same = guide.same_bytes(Path::new(&one), Path::new(&other))?;
    guide.prove("both streams are the same again", same);
    Ok(())
}

/// Orders of a shop, as its programs would append them.
fn write_orders(path: &Path, numbers: std::ops::Range<u64>) -> Result<(), CliError> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(File::create(path).map_err(stuck)?);
    for number in numbers {
        let order = json!({
            "key": format!("customer-{}", number % 977),
            "headers": [["type", "order"], ["shop", (number % 7).to_string()]],
            "payload": format!("order {number}: {} pieces", number * 31 % 100),
        });
        writeln!(out, "{order}").map_err(stuck)?;
    }
    out.flush().map_err(stuck)
}

fn append(guide: &mut Guide, stream: &str) -> Result<(), CliError> {
    let input = guide.path("orders.ndjson");
    let args = ["append", stream, "--format", "ndjson"];
    guide.say(&format!(
        "$ tipple {} < {}",
        args.join(" "),
        input.display()
    ));
    let status = guide
        .command(&args)
        .stdin(File::open(&input).map_err(stuck)?)
        .stderr(Stdio::inherit())
        .status()
        .map_err(stuck)?;
    guide.prove("every line became an event", status.success());
    Ok(())
}

/// All events of a stream, as JSON, in a file.
fn shown(guide: &mut Guide, stream: &str, name: &str) -> Result<String, CliError> {
    let path = guide.text(name);
    guide.say(&format!("$ tipple cat {stream} > {path}"));
    let status = guide
        .command(&["cat", stream])
        .stdout(File::create(&path).map_err(stuck)?)
        .stderr(Stdio::inherit())
        .status()
        .map_err(stuck)?;
    if !status.success() {
        guide.prove("`tipple cat` shows a stream", false);
    }
    Ok(path)
}
