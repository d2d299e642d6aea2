//! What comes last: SHA256SUMS and DONE, from the part records.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tipple_chunk::Sha256Digest;
use tipple_flow::Outcomes;
use tipple_store::Store;

use crate::error::DumpError;
use crate::layout::{self, Done, Format, PartRecord, Sealed};

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
    pub(crate) fn of(store: &dyn Store, plan: &str, sealed: &Sealed) -> Result<Self, DumpError> {
        let mut sums = SumsBuilder::default();
        let mut names: Vec<_> = sealed.parts.iter().map(|part| &part.name).collect();
        names.sort_unstable();
        for name in names {
            let object = layout::part_object(name);
            let bytes = layout::get_json_bytes(store, &object)?;
            let record: PartRecord = layout::parse_json(store, &object, &bytes)?;
            sums.add(object.to_string(), &bytes, &record);
        }
        sums.finish(&sealed.planned.outcomes)
            .with_others(store, plan)
    }

    /// The same with HEAD and PLANNED among the files of `SHA256SUMS`.
    pub(crate) fn with_others(mut self, store: &dyn Store, plan: &str) -> Result<Self, DumpError> {
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
        let mut done = Done {
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
            own_sha256: Sha256Digest([0; 32]),
        };
        done.own_sha256 = Sha256Digest::of(&layout::to_json(&done));
        done
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
