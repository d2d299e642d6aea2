//! The verb `list`: what is there.

use serde::Serialize;
use tipple_chunk::KeyRing;
use tipple_store::Store;

use crate::error::DumpError;
use crate::layout::{Done, Head};
use crate::open_dump::OpenDump;

/// What is in a dump.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Its HEAD.
    pub head: Head,
    /// Its DONE, if it is finished.
    pub done: Option<Done>,
    /// Parts planned, if the plan was sealed and is still there.
    pub parts_planned: Option<u64>,
    /// Committed parts.
    pub parts: Vec<PartLine>,
}

/// A committed part.
#[derive(Clone, Debug, Serialize)]
pub struct PartLine {
    /// Its name.
    pub part: String,
    /// Its chunks.
    pub chunks: Vec<String>,
    /// Records in them.
    pub records: u64,
    /// Raw bytes in them.
    pub raw_bytes: u64,
    /// Bytes of them.
    pub stored_bytes: u64,
    /// Records lost.
    pub lost: u64,
}

/// Lists a dump, finished or not. A sealed one can be looked at without its key; with `keys`, what it says is also
/// authenticated.
///
/// # Errors
/// `Usage` if it is no dump; `Key` if `keys` are given and are not those of the dump; `Damaged`, `Version`, `Store`.
pub fn list(store: &dyn Store, keys: Option<&KeyRing>) -> Result<Listing, DumpError> {
    let dump = match keys {
        None => OpenDump::look(store)?,
        Some(_) => OpenDump::open(store, true, keys)?,
    };
    let parts = dump
        .parts()
        .iter()
        .map(|part| {
            let record = dump.record(part)?;
            Ok(PartLine {
                part: part.to_string(),
                chunks: record
                    .chunks
                    .iter()
                    .map(|chunk| chunk.name.clone())
                    .collect(),
                records: record.records,
                raw_bytes: record.raw_bytes,
                stored_bytes: record.stored_bytes,
                lost: record.outcomes.lost(),
            })
        })
        .collect::<Result<_, DumpError>>()?;
    let sealed = dump.sealed()?;
    Ok(Listing {
        head: dump.head().clone(),
        done: dump.done().cloned(),
        parts_planned: sealed.map(|sealed| sealed.parts.len() as u64),
        parts,
    })
}
