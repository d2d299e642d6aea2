//! A dump that is read: its HEAD, its DONE, its part records.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};
use tipple_chunk::Sha256Digest;
use tipple_flow::PartName;
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::DumpError;
use crate::layout::{self, Done, Head, PartRecord, Sealed};

/// A dump in a store, opened for reading.
pub struct OpenDump<'a> {
    store: &'a dyn Store,
    head: Head,
    done: Option<Done>,
    plan: Option<String>,
    parts: Vec<PartName>,
}

impl<'a> OpenDump<'a> {
    /// Opens a finished dump; an unfinished one only if `partial`, and then with its committed parts.
    ///
    /// # Errors
    /// `Usage` if it is no dump, or unfinished and not `partial`; `Damaged`, `Version`, `Store`.
    pub fn open(store: &'a dyn Store, partial: bool) -> Result<Self, DumpError> {
        let url = store.url();
        let head: Head = read_optional(store, &layout::object(layout::HEAD))?.ok_or_else(|| {
            DumpError::Usage(format!("{url} is no dump: it has no {}", layout::HEAD))
        })?;
        let done: Option<Done> = read_optional(store, &layout::object(layout::DONE))?;
        if done.is_none() && !partial {
            return Err(DumpError::Usage(format!(
                "{url} is not complete: it has no DONE; finish it by running its `tipple dump` again, or give --partial for the parts that are committed"
            )));
        }
        let plan = match &done {
            Some(done) => Some(done.plan.clone()),
            None => latest_plan(store)?,
        };
        let mut parts = Vec::new();
        if let Some(plan) = &plan {
            store.list(&format!("parts/{plan}-"), &mut |entry| {
                let name = entry.name.as_ref();
                let part = name
                    .strip_prefix("parts/")
                    .and_then(|name| name.strip_suffix(".json"))
                    .and_then(|name| name.parse().ok());
                parts.extend(part);
                ControlFlow::Continue(())
            })?;
        }
        parts.sort_unstable();
        Ok(Self {
            store,
            head,
            done,
            plan,
            parts,
        })
    }

    /// The store it is in.
    pub fn store(&self) -> &'a dyn Store {
        self.store
    }

    /// Its HEAD.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Its DONE, if it is finished.
    pub fn done(&self) -> Option<&Done> {
        self.done.as_ref()
    }

    /// The plan that counts: that of DONE, or the sealed one with the most committed parts.
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    /// The committed parts of its plan, sorted.
    pub fn parts(&self) -> &[PartName] {
        &self.parts
    }

    /// Whether all part records are there as they were when the dump was finished. Nothing is read from a dump before
    /// this held: a missing part would be a silent loss.
    ///
    /// # Errors
    /// `Damaged`, `Store`.
    pub fn check_parts(&self) -> Result<(), DumpError> {
        let Some(done) = &self.done else {
            return Ok(());
        };
        let mut digest = Sha256::new();
        for part in &self.parts {
            let bytes = layout::get_json_bytes(self.store, &layout::part_object(part))?;
            digest.update(Sha256Digest::of(&bytes).as_bytes());
        }
        if Sha256Digest::from(digest) != done.digest {
            return Err(self.damaged(
                "parts/",
                format!(
                    "its {} part records are not the {} that DONE speaks of; `tipple verify` tells which are missing or changed",
                    self.parts.len(),
                    done.parts
                ),
            ));
        }
        Ok(())
    }

    /// A part record.
    ///
    /// # Errors
    /// `Damaged`, `Version`, `Store`.
    pub fn record(&self, part: &PartName) -> Result<PartRecord, DumpError> {
        let object = layout::part_object(part);
        let record: PartRecord = layout::read_json(self.store, &object)?;
        self.check_record(part, &record)?;
        Ok(record)
    }

    /// The sealed plan.
    ///
    /// # Errors
    /// `Damaged`, `Version`, `Store`; `Usage` if no plan was sealed.
    pub fn sealed(&self) -> Result<Option<Sealed>, DumpError> {
        match &self.plan {
            Some(plan) => read_optional(self.store, &layout::planned_object(plan)),
            None => Ok(None),
        }
    }

    pub(crate) fn damaged(&self, object: impl ToString, reason: impl Into<String>) -> DumpError {
        DumpError::Damaged {
            store: self.store.url().to_owned(),
            object: object.to_string(),
            reason: reason.into(),
        }
    }

    fn check_record(&self, part: &PartName, record: &PartRecord) -> Result<(), DumpError> {
        let object = layout::part_object(part);
        if record.part != *part {
            return Err(self.damaged(object, format!("is the record of part {}", record.part)));
        }
        let sum = |of: fn(&layout::ChunkEntry) -> u64| record.chunks.iter().map(of).sum::<u64>();
        if sum(|chunk| chunk.records) != record.records
            || sum(|chunk| chunk.raw_bytes) != record.raw_bytes
            || sum(|chunk| chunk.stored_bytes) != record.stored_bytes
        {
            return Err(self.damaged(object, "its totals are not the sums of its chunks"));
        }
        for (number, chunk) in record.chunks.iter().enumerate() {
            let named =
                layout::chunk_object(part, number as u32, &chunk.sha256, &self.head.content.name);
            if *named.as_ref() != *chunk.name {
                return Err(self.damaged(
                    object,
                    format!(
                        "chunk {number} is called {}, and should be {named}",
                        chunk.name
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Reads an object of the layout; `None` if it is not there.
pub(crate) fn read_optional<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    object: &ObjectName,
) -> Result<Option<T>, DumpError> {
    match layout::read_json(store, object) {
        Ok(value) => Ok(Some(value)),
        Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of an unfinished dump: the plan with the most committed parts, sealed or not.
fn latest_plan(store: &dyn Store) -> Result<Option<String>, DumpError> {
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    store.list("parts/", &mut |entry| {
        let part = entry
            .name
            .as_ref()
            .strip_prefix("parts/")
            .unwrap_or_default();
        if let Some((plan, _)) = part.rsplit_once('-') {
            *counts.entry(plan.to_owned()).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    Ok(counts
        .into_iter()
        .max_by_key(|(_, parts)| *parts)
        .map(|(plan, _)| plan))
}
