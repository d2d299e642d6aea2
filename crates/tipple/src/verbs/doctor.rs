//! `tipple doctor`.

use std::sync::Arc;

use serde_json::{Value, json};
use tipple_flow::Source;
use tipple_lines::{LinesOptions, LinesSource};
use tipple_memcached::{CachemoverSource, MemcachedUrl, Verdict};
use tipple_store::{
    Access, ConfirmedBy, PutIfAbsent, StoreErrorKind, StoreOptions, StoreUrl, open_store,
};
use tipple_stream::StreamOptions;

use crate::cli::DoctorArgs;
use crate::endpoint::{SourceUrl, store_url};
use crate::error::{CliError, Kind};
use crate::output::{Answer, Output, print};
use crate::ready::{self, Typed};
use crate::units::{bytes, count};

pub(super) fn run(
    args: &DoctorArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let text = args.what.to_string_lossy();
    let is_source = text == "-"
        || ["memcached:", "memcacheds:", "lines:"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
    let url = SourceUrl::parse(&args.what);
    if let Ok(SourceUrl::Memcached(url)) = &url {
        return servers(url, args, output);
    }
    typed.fit_connections(false, url.as_ref().is_ok_and(SourceUrl::speaks_tls))?;
    let mut answer = Answer::default();
    let (value, exit) = match url {
        Ok(url) => (source(&url, &mut answer)?, 0),
        Err(error) if is_source => return Err(error),
        Err(_) => store(&store_url(&args.what)?, &mut answer)?,
    };
    match output.is_json() {
        true => output.json_report(&value, exit),
        false => print(&answer.text())?,
    }
    Ok(exit)
}

/// Each server as its crate describes it; one that cannot be dumped makes the exit code that of a failed source.
fn servers(url: &MemcachedUrl, args: &DoctorArgs, output: &Output) -> Result<u8, CliError> {
    let diagnoses = tipple_memcached::doctor(url, &ready::connection(&args.connection)?)?;
    let bad = diagnoses.iter().any(|one| one.verdict == Verdict::Bad);
    let exit = if bad { Kind::Live.exit() } else { 0 };
    match output.is_json() {
        true => output.json_report(
            &json!({ "source": url.to_string(), "servers": diagnoses }),
            exit,
        ),
        false => print(
            &diagnoses
                .iter()
                .map(ToString::to_string)
                .collect::<String>(),
        )?,
    }
    Ok(exit)
}

/// What there is to say, and the exit code.
fn store(url: &StoreUrl, answer: &mut Answer) -> Result<(Value, u8), CliError> {
    // It must exist: a question makes no folder.
    let read_only = open_store(url, Access::Read, &ready::store_options())?;
    // Someone else's folder opens, and refuses what is written to it.
    // Whatever it answers is told, not refused.
    let options = StoreOptions {
        single_writer: true,
        ..ready::store_options()
    };
    let tried = open_store(url, Access::Write, &options).and_then(|store| store.capabilities());
    let (can, writable) = match tried {
        Ok(can) => (can, true),
        Err(error) if error.kind() == StoreErrorKind::Denied => (read_only.capabilities()?, false),
        Err(error) => return Err(error.into()),
    };
    let absent = match can.put_if_absent {
        PutIfAbsent::Honoured => "an object is never overwritten: tried, and refused",
        PutIfAbsent::Ignored => {
            "OVERWRITES objects: two writers would destroy each other's work; --single-writer says that there is one"
        }
        PutIfAbsent::Refused => {
            "cannot refuse to overwrite: --single-writer says that there is one writer"
        }
        PutIfAbsent::NotProbed => "not tried",
    };
    answer
        .row("store", url.to_string())
        .row("is", can.description.clone())
        .row("writable", if writable { "yes" } else { "no" })
        .row("conditions", absent)
        .row(
            "durable",
            if can.durable {
                "yes"
            } else {
                "no: gone with this process"
            },
        )
        .row(
            "free",
            can.free_bytes
                .map_or_else(|| "no limit known".to_owned(), bytes),
        );
    let confirmed = can.confirmed_by.map(|by| match by {
        ConfirmedBy::Checksum => (
            "checksum",
            "the server checks a CRC64NVME of each put: tried with a wrong one",
        ),
        ConfirmedBy::SignedPayload => (
            "signed_payload",
            "the server checks the signed SHA-256 of each put: tried with a wrong one",
        ),
        ConfirmedBy::NotProbed => ("not_probed", "not tried"),
        // Also of what a later version of the store says, which this program cannot judge.
        _ => (
            "reading_back",
            "the server checks no checksum: each put is read back",
        ),
    });
    if let Some((_, words)) = confirmed {
        answer.row("checksums", words);
    }
    if !can.lock {
        answer.row(
            "lock",
            "none: writers are kept apart by the conditions alone",
        );
    }
    let exit = match can.put_if_absent {
        PutIfAbsent::Honoured | PutIfAbsent::NotProbed => 0,
        PutIfAbsent::Ignored | PutIfAbsent::Refused => Kind::Store.exit(),
    };
    let value = json!({
        "store": url.to_string(),
        "description": can.description,
        "writable": writable,
        "put_if_absent": format!("{:?}", can.put_if_absent).to_lowercase(),
        "durable": can.durable,
        "free_bytes": can.free_bytes,
        "lock": can.lock,
        "confirmed_by": confirmed.map(|(name, _)| name),
    });
    Ok((value, exit))
}

fn source(url: &SourceUrl, answer: &mut Answer) -> Result<Value, CliError> {
    let estimate = match url {
        SourceUrl::Lines(path) => LinesSource::file(path, LinesOptions::default())?.check()?,
        SourceUrl::Stream(url) => url.source(StreamOptions::default())?.check()?,
        SourceUrl::Cachemover(path) => CachemoverSource::open_partial(path)?.check()?,
        SourceUrl::Memcached(_) | SourceUrl::Stdin => {
            return Err(CliError::usage(
                "standard input can only be read: there is nothing to ask it",
            ));
        }
    };
    answer
        .row("source", url.to_string())
        .row("is", url.kind())
        .row("size", bytes(estimate.bytes))
        .row("parts", count(estimate.parts));
    if estimate.records > 0 {
        answer.row("records", count(estimate.records));
    }
    Ok(json!({
        "source": url.to_string(),
        "kind": url.kind(),
        "raw_bytes": estimate.bytes,
        "records": estimate.records,
        "parts": estimate.parts,
    }))
}
