//! What comes last: SHA256SUMS and DONE, from the part records.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tipple_chunk::Sha256Digest;
use tipple_flow::Outcomes;
use tipple_store::{Store, StoreErrorKind};

use crate::error::DumpError;
use crate::layout::{self, Done, Format, Head, PartRecord, Sealed};
use crate::sealing::Sealing;

/// Everything that the part records of a plan say together.
pub(crate) struct Sums {
    pub(crate) parts: u64,
    pub(crate) chunks: u64,
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) outcomes: Outcomes,
    pub(crate) digest: Sha256Digest,
    lines: BTreeMap<String, Sha256Digest>,
}

impl Sums {
    /// Adds up the part records of a sealed plan, as they are in the store.
    pub(crate) fn of(
        store: &dyn Store,
        head: &Head,
        plan: &str,
        sealed: &Sealed,
        sealing: Option<&Sealing>,
    ) -> Result<Self, DumpError> {
        let mut sums = SumsBuilder::default();
        let mut names: Vec<_> = sealed.parts.iter().map(|part| &part.name).collect();
        names.sort_unstable();
        let objects: Vec<_> = names.into_iter().map(layout::part_object).collect();
        let mut chunks = BTreeMap::new();
        layout::each_json_bytes(store, &objects, |object, bytes| {
            let bytes = bytes?;
            let record: PartRecord = layout::parse_json(store, object, &bytes, sealing)?;
            sums.add(object.to_string(), &bytes, &record);
            chunks.extend(record.chunks.into_iter().map(|c| (c.name, c.stored_bytes)));
            Ok(())
        })?;
        // I1, once more: nothing was taken away since.
        check_chunks(store, head, &chunks)?;
        sums.finish(&sealed.planned.outcomes)
            .with_others(store, plan, sealed)
    }

    /// The same with HEAD, PLANNED and the plan objects among the files of `SHA256SUMS`.
    pub(crate) fn with_others(
        mut self,
        store: &dyn Store,
        plan: &str,
        sealed: &Sealed,
    ) -> Result<Self, DumpError> {
        for part in &sealed.parts {
            self.lines.insert(part.object().to_string(), part.sha256);
        }
        for object in [layout::object(layout::HEAD), layout::planned_object(plan)] {
            let bytes = layout::get_json_bytes(store, &object)?;
            self.lines
                .insert(object.to_string(), Sha256Digest::of(&bytes));
        }
        Ok(self)
    }

    /// `SHA256SUMS`: sorted by name, as `sha256sum` prints them.
    pub(crate) fn sha256sums(&self) -> Vec<u8> {
        let mut text = String::new();
        for (name, sha256) in &self.lines {
            text.push_str(&format!("{sha256}  {name}\n"));
        }
        text.into_bytes()
    }

    pub(crate) fn done(&self, plan: &str, source: Value) -> Done {
        Done {
            format: Format::CURRENT,
            plan: plan.to_owned(),
            parts: self.parts,
            chunks: self.chunks,
            records: self.records,
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes,
            lost: self.outcomes.lost(),
            outcomes: self.outcomes.clone(),
            digest: self.digest,
            finished: layout::now(),
            source,
        }
    }

    /// Writes `SHA256SUMS`.
    pub(crate) fn put(&self, store: &dyn Store) -> Result<(), DumpError> {
        put_sha256sums(store, &self.sha256sums())
    }
}

/// One that is there was left by a run that was killed before DONE, maybe with another plan: it says nothing until
/// there is a DONE.
pub(crate) fn put_sha256sums(store: &dyn Store, bytes: &[u8]) -> Result<(), DumpError> {
    let object = layout::object(layout::SHA256SUMS);
    match store.put_if_absent(&object, bytes) {
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => {
            store.delete(&object)?;
            store.put_if_absent(&object, bytes)?;
        }
        put => drop(put?),
    }
    Ok(())
}

/// Whether `chunks` are in the store, each with its length.
///
/// # Errors
/// `Damaged`, `Store`.
pub(crate) fn check_chunks(
    store: &dyn Store,
    head: &Head,
    chunks: &BTreeMap<String, u64>,
) -> Result<(), DumpError> {
    let mut missing: BTreeSet<&str> = chunks.keys().map(String::as_str).collect();
    let mut wrong = None;
    store.list(head.chunks_prefix(), &mut |entry| {
        match chunks.get(entry.name.as_ref()) {
            Some(bytes) if *bytes != entry.bytes => {
                let reason = format!("has {} bytes, and should have {bytes}", entry.bytes);
                wrong = Some((entry.name.to_string(), reason));
                return ControlFlow::Break(());
            }
            _ => missing.remove(entry.name.as_ref()),
        };
        ControlFlow::Continue(())
    })?;
    let missing = missing.first();
    match wrong.or_else(|| Some(((*missing?).to_owned(), "is missing".to_owned()))) {
        None => Ok(()),
        Some((object, reason)) => Err(DumpError::Damaged {
            store: store.url().to_owned(),
            object,
            reason: format!("{reason}; restore it, or dump again into another folder"),
        }),
    }
}

/// Adds part records one by one, in the order of their names.
#[derive(Default)]
pub(crate) struct SumsBuilder {
    digest: Sha256,
    pub(crate) lines: BTreeMap<String, Sha256Digest>,
    parts: u64,
    chunks: u64,
    records: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    outcomes: Outcomes,
}

impl SumsBuilder {
    pub(crate) fn add(&mut self, object: String, bytes: &[u8], record: &PartRecord) {
        let sha256 = Sha256Digest::of(bytes);
        self.digest.update(sha256.as_bytes());
        self.lines.insert(object, sha256);
        for chunk in &record.chunks {
            self.lines.insert(chunk.name.clone(), chunk.sha256);
        }
        self.parts += 1;
        self.chunks += record.chunks.len() as u64;
        self.records = self.records.saturating_add(record.records);
        self.raw_bytes = self.raw_bytes.saturating_add(record.raw_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(record.stored_bytes);
        self.outcomes.merge(&record.outcomes);
    }

    /// The sums, with what became of the records that belong to no part.
    pub(crate) fn finish(mut self, planned: &Outcomes) -> Sums {
        self.outcomes.merge(planned);
        Sums {
            parts: self.parts,
            chunks: self.chunks,
            records: self.records,
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes,
            outcomes: self.outcomes,
            digest: self.digest.into(),
            lines: self.lines,
        }
    }
}
