//! What a job would need, before it begins.

use serde::Serialize;
use tipple_flow::Source;
use tipple_store::Store;

use crate::error::DumpError;
use crate::options::DumpOptions;

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
    Ok(DryRun {
        parts: estimate.parts,
        records: estimate.records,
        raw_bytes: estimate.bytes,
        memory_bytes: options.memory_bytes(source, stores),
        spool_bytes_max: options.spool_bytes(stores),
        plan_bytes_max: estimate.plan_bytes_max,
        stored_bytes_max: options.codec.chunk_bytes_max(estimate.bytes, frames),
    })
}
