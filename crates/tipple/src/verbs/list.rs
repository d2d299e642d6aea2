//! `tipple list`.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tipple_dump::{Listing, ReadDryRun};
use tipple_flow::Source;
use tipple_store::{Access, open_store};

use crate::cli::ListArgs;
use crate::endpoint::DumpPlace;
use crate::error::CliError;
use crate::output::{Answer, Output, print, print_table};
use crate::ready::{self, Typed};
use crate::units::{bytes, count, counted};
use crate::verbs::{dry_run, supervise};

pub(super) fn run(
    args: &ListArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    match DumpPlace::parse(&args.store)? {
        DumpPlace::Store(url) => {
            let store = open_store(&url, Access::Read, &ready::store_options())?;
            if supervise::is_files(store.as_ref())? {
                typed.refuse(
                    &["encrypt_key"],
                    "is for dumps, and these are the files of a command",
                )?;
                supervise::list(args, store.as_ref(), output)?;
                return Ok(0);
            }
            let keys = ready::keys(&args.key, output)?;
            if args.dry_run {
                let needs = tipple_dump::list_dry_run(store.as_ref(), keys.as_ref())?;
                return dry_run::tell_reading(output, "list", &needs, false);
            }
            let listing = tipple_dump::list(store.as_ref(), keys.as_ref())?;
            summary(&listing).print(output, &listing)?;
            if args.parts && !output.is_json() {
                parts(&listing)?;
            }
        }
        DumpPlace::Cachemover(folder) => {
            typed.refuse(&["encrypt_key"], "is for dumps of tipple's own layout")?;
            if args.dry_run {
                let estimate = ready::cachemover(&folder, true)?.check()?;
                // Only the names of the files and their lengths.
                let needs = ReadDryRun {
                    parts: estimate.parts,
                    records: estimate.records,
                    raw_bytes: estimate.bytes,
                    ..ReadDryRun::default()
                };
                return dry_run::tell_reading(output, "list", &needs, false);
            }
            cachemover(&folder, output)?;
        }
    }
    Ok(0)
}

fn summary(listing: &Listing) -> Answer {
    let head = &listing.head;
    let sum = |of: fn(&tipple_dump::PartLine) -> u64| {
        listing.parts.iter().map(of).fold(0, u64::saturating_add)
    };
    let (raw, stored) = (sum(|part| part.raw_bytes), sum(|part| part.stored_bytes));
    let mut answer = Answer::default();
    answer.row(
        "source",
        format!("{} {}", head.source.kind, identity_text(&head.source.id)),
    );
    answer.row(
        "content",
        format!("{} version {}", head.content.name, head.content.version),
    );
    if let Some(path) = head
        .shaping
        .format
        .as_ref()
        .and_then(|form| form.path.as_ref())
    {
        answer.row("path", path.clone());
    }
    if let Some(seal) = &head.seal {
        answer.row("sealed", format!("with the key {}", seal.key));
    }
    answer.row("begun", format!("{} by {}", head.started, head.written_by));
    let next = match (&*head.source.kind, head.source.id.as_str()) {
        // A pipe cannot be read twice.
        ("lines", Some("stdin")) => {
            "what was piped into it is not kept; the same `tipple dump` begins anew"
        }
        _ => "the same `tipple dump` goes on",
    };
    match (&listing.done, listing.parts_planned) {
        (Some(done), _) => answer.row("finished", done.finished.clone()),
        (None, Some(planned)) => answer.row(
            "finished",
            format!(
                "no: {} of {} committed; {next}",
                count(listing.parts.len() as u64),
                counted(planned, "part")
            ),
        ),
        (None, None) => answer.row("finished", format!("no; {next}")),
    };
    answer.row("records", count(sum(|part| part.records)));
    answer.row("parts", count(listing.parts.len() as u64));
    answer.row("chunks", count(sum(|part| part.chunks.len() as u64)));
    let ratio = raw as f64 / stored.max(1) as f64;
    answer.row(
        "size",
        format!(
            "{} raw, {} stored ({ratio:.1} to 1, {})",
            bytes(raw),
            bytes(stored),
            head.shaping.compress
        ),
    );
    if let Some(done) = &listing.done {
        let by_cause = |causes: Vec<(&str, u64)>| {
            let texts: Vec<String> = causes
                .iter()
                .map(|(cause, records)| format!("{cause} {}", count(*records)))
                .collect();
            texts.join(", ")
        };
        let outcomes = by_cause(done.outcomes.outcomes().collect());
        if !outcomes.is_empty() {
            answer.row("left out", outcomes);
        }
        match done.lost {
            0 => answer.row("lost", "nothing"),
            _ => answer.row("LOST", by_cause(done.outcomes.losses().collect())),
        };
    }
    answer
}

/// What people call the source: its path, its servers.
fn identity_text(id: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let servers = || {
        let servers: Option<Vec<String>> = id["servers"].as_array()?.iter().map(text).collect();
        Some(servers?.join(", "))
    };
    text(id)
        .or_else(|| text(&id["path"]))
        .or_else(servers)
        .unwrap_or_else(|| id.to_string())
}

fn parts(listing: &Listing) -> Result<(), CliError> {
    print("\n")?;
    let rows: Vec<Vec<String>> = listing
        .parts
        .iter()
        .enumerate()
        .flat_map(|(number, part)| {
            let row = vec![
                format!("{number} {}", part.part),
                count(part.records),
                bytes(part.raw_bytes),
                bytes(part.stored_bytes),
                count(part.lost),
            ];
            let chunks = part.chunks.iter().map(|chunk| vec![format!("  {chunk}")]);
            std::iter::once(row).chain(chunks)
        })
        .collect();
    print_table(&["part", "records", "raw", "stored", "lost"], &rows)
}

fn cachemover(folder: &Path, output: &Output) -> Result<(), CliError> {
    let finished = tipple_memcached::CachemoverSource::open(folder).is_ok();
    let source = ready::cachemover(folder, true)?;
    let estimate = source.check()?;
    let mut answer = Answer::default();
    answer
        .row("layout", "cachemover")
        .row("content", "items")
        .row("finished", if finished { "yes" } else { "no" })
        .row("data files", count(estimate.parts))
        .row("size", bytes(estimate.bytes));
    let value = json!({
        "layout": "cachemover",
        "finished": finished,
        "parts": estimate.parts,
        "records": estimate.records,
        "raw_bytes": estimate.bytes,
    });
    answer.print(output, &value)
}
