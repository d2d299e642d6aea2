//! What a job would need, before it begins.

use std::ops::ControlFlow;

use serde::Serialize;
use tipple_chunk::{KeyRing, sealed_bytes};
use tipple_flow::Source;
use tipple_store::Store;

use crate::dump::memory_budget;
use crate::error::DumpError;
use crate::job::Job;
use crate::layout;
use crate::open_dump::OpenDump;
use crate::options::DumpOptions;
use crate::verify::VerifyOptions;

/// What a dump would take.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// Parts expected, 0 if nobody knows.
    pub parts: u64,
    /// Records expected, 0 if nobody knows.
    pub records: u64,
    /// Raw bytes expected, 0 if nobody knows.
    pub raw_bytes: u64,
    /// Memory that would be held at most.
    pub memory_bytes: u64,
    /// Local disk for sealed chunks at most, where the stores are not local themselves.
    pub spool_bytes_max: u64,
    /// Local disk for plan objects at most.
    pub plan_bytes_max: u64,
    /// Stored bytes at most: what the raw bytes become if nothing compresses.
    pub stored_bytes_max: u64,
}

/// Asks the source what it expects to give, and adds up what dumping it into `stores` would need. Changes nothing anywhere.
///
/// # Errors
/// [`DumpError`] if the options make no sense or the source cannot be reached.
pub fn dry_run(
    source: &dyn Source,
    stores: &[&dyn Store],
    options: &DumpOptions,
) -> Result<DryRun, DumpError> {
    options.validate()?;
    let estimate = source.check()?;
    let frames = estimate.bytes.div_ceil(tipple_flow::FRAME_BYTES_MAX as u64);
    let stored = options.codec.chunk_bytes_max(estimate.bytes, frames);
    Ok(DryRun {
        parts: estimate.parts,
        records: estimate.records,
        raw_bytes: estimate.bytes,
        memory_bytes: options.memory_bytes(source, stores),
        spool_bytes_max: options.spool_bytes(stores),
        plan_bytes_max: estimate.plan_bytes_max,
        stored_bytes_max: match options.keys {
            None => stored,
            // And a header for every chunk.
            Some(_) => {
                let chunks = estimate.bytes / options.chunk_bytes_max + estimate.parts;
                sealed_bytes(stored).saturating_add(chunks.saturating_mul(sealed_bytes(0)))
            }
        },
    })
}

/// Whether the memory that dumping `source` needs is within the limit that `options` give. [`dump`](crate::dump()) looks
/// itself; this is for whoever must know before there is a store, so what stores hold is left out. `source` was checked.
///
/// # Errors
/// [`DumpError`] if the options make no sense, or the limit is too small: with the number that would do.
pub fn check_memory(source: &dyn Source, options: &DumpOptions) -> Result<(), DumpError> {
    options.validate()?;
    let needed = options.memory_bytes(source, &[]);
    memory_budget(&Job::default(), needed, options.memory_bytes_max).map(drop)
}

/// What reading a dump would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReadDryRun {
    /// Committed parts.
    pub parts: u64,
    /// Records in them.
    pub records: u64,
    /// Raw bytes in them.
    pub raw_bytes: u64,
    /// Bytes that would be read from the store, each once.
    pub read_bytes: u64,
    /// Memory that would be held at most.
    pub memory_bytes: u64,
}

/// What [`verify`](crate::verify()) would take. Reads all that says how much there is, and nothing of the records.
///
/// # Errors
/// [`DumpError`] if there is no dump, or what says how much there is is damaged: `verify` itself tells where.
pub fn verify_dry_run(store: &dyn Store, options: &VerifyOptions) -> Result<ReadDryRun, DumpError> {
    let dump = OpenDump::open(store, true, options.keys.as_ref())?;
    let mut need = ReadDryRun {
        memory_bytes: options.memory_bytes(store),
        read_bytes: small_bytes(&dump, |_| true)?,
        ..ReadDryRun::default()
    };
    for part in dump.parts() {
        let record = dump.record(part)?;
        need.parts += 1;
        need.records = need.records.saturating_add(record.records);
        need.raw_bytes = need.raw_bytes.saturating_add(record.raw_bytes);
        need.read_bytes = need.read_bytes.saturating_add(record.stored_bytes);
    }
    Ok(need)
}

/// What [`list`](crate::list()) would take: it holds about what it reads. Reads HEAD and DONE, and the names of all
/// others; records and raw bytes are those that DONE speaks of.
///
/// # Errors
/// [`DumpError`] if there is no dump.
pub fn list_dry_run(store: &dyn Store, keys: Option<&KeyRing>) -> Result<ReadDryRun, DumpError> {
    let dump = match keys {
        None => OpenDump::look(store)?,
        Some(_) => OpenDump::open(store, true, keys)?,
    };
    let is_read = |name: &str| name.ends_with("/PLANNED") || !name.starts_with("plan/");
    let read_bytes = small_bytes(&dump, |name| is_read(name) && name != layout::SHA256SUMS)?;
    Ok(ReadDryRun {
        parts: dump.parts().len() as u64,
        records: dump.done().map_or(0, |done| done.records),
        raw_bytes: dump.done().map_or(0, |done| done.raw_bytes),
        read_bytes,
        memory_bytes: read_bytes,
    })
}

/// Bytes of all objects of the dump but its chunks, if `counts` takes their names.
fn small_bytes(dump: &OpenDump<'_>, counts: impl Fn(&str) -> bool) -> Result<u64, DumpError> {
    let plan = dump.plan().unwrap_or("none");
    let (parts, plan) = (format!("parts/{plan}-"), format!("plan/{plan}/"));
    let mut bytes = 0_u64;
    for prefix in [
        layout::HEAD,
        layout::DONE,
        layout::SHA256SUMS,
        &parts,
        &plan,
    ] {
        dump.store().list(prefix, &mut |entry| {
            if counts(entry.name.as_ref()) {
                bytes = bytes.saturating_add(entry.bytes);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(bytes)
}
