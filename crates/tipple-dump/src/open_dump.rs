//! A dump that is read: its HEAD, its DONE, its part records.

use std::ops::ControlFlow;

use sha2::{Digest, Sha256};
use tipple_chunk::{KeyRing, Sha256Digest};
use tipple_flow::PartName;
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::DumpError;
use crate::layout::{self, Done, Head, PartRecord, Sealed};
use crate::sealing::Sealing;

/// A dump in a store, opened for reading.
pub struct OpenDump<'a> {
    store: &'a dyn Store,
    sealing: Option<Sealing>,
    head: Head,
    done: Option<Done>,
    plan: Option<String>,
    parts: Vec<PartName>,
}

impl<'a> OpenDump<'a> {
    /// Opens a finished dump; an unfinished one only if `partial`, and then with its committed parts. `keys` are given
    /// if and only if the dump is expected to be sealed.
    ///
    /// # Errors
    /// `Usage` if it is no dump, or unfinished and not `partial`; `Key` if it is sealed and its key is not among `keys`,
    /// or not sealed and there are `keys`; `Damaged`, `Version`, `Store`.
    pub fn open(
        store: &'a dyn Store,
        partial: bool,
        keys: Option<&KeyRing>,
    ) -> Result<Self, DumpError> {
        let head = layout::object(layout::HEAD);
        let sealing = match optional(layout::get_json_bytes(store, &head))? {
            None => None,
            Some(bytes) => {
                let head: Head = layout::parse_json(store, &head, &bytes, None)?;
                Sealing::unlock(store.url(), &head, &bytes, keys)?
            }
        };
        Self::with(store, partial, sealing)
    }

    /// Opens any dump, finished or not, without its key if it is sealed: what it says of itself is not authenticated
    /// then. For those who only look, or only tidy.
    ///
    /// # Errors
    /// As [`open`](OpenDump::open), without `Key`.
    pub fn look(store: &'a dyn Store) -> Result<Self, DumpError> {
        Self::with(store, true, None)
    }

    fn with(
        store: &'a dyn Store,
        partial: bool,
        sealing: Option<Sealing>,
    ) -> Result<Self, DumpError> {
        let url = store.url();
        let key = sealing.as_ref();
        let done: Option<Done> = read_optional(store, &layout::object(layout::DONE), key)?;
        let head: Option<Head> = read_optional(store, &layout::object(layout::HEAD), key)?;
        let head = head.ok_or_else(|| match done {
            // It was a dump.
            Some(_) => DumpError::Damaged {
                store: url.to_owned(),
                object: layout::HEAD.to_owned(),
                reason: "is missing".to_owned(),
            },
            None => DumpError::Usage(format!("{url} is no dump: it has no {}", layout::HEAD)),
        })?;
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
                parts.extend(layout::part_of_object(&entry.name));
                ControlFlow::Continue(())
            })?;
        }
        parts.sort_unstable();
        Ok(Self {
            store,
            sealing,
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

    /// Its key, if it is sealed and was opened with it.
    pub(crate) fn sealing(&self) -> Option<&Sealing> {
        self.sealing.as_ref()
    }

    /// Its HEAD.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Its DONE, if it is finished.
    pub fn done(&self) -> Option<&Done> {
        self.done.as_ref()
    }

    /// The plan that counts: that of DONE, or of an unfinished dump the one with the most committed parts.
    pub fn plan(&self) -> Option<&str> {
        self.plan.as_deref()
    }

    /// The committed parts of its plan, sorted.
    pub fn parts(&self) -> &[PartName] {
        &self.parts
    }

    /// Whether all part records are as they were when the dump was finished. Nothing is read from a dump, or
    /// pruned, before this held: a missing part would be a silent loss.
    ///
    /// # Errors
    /// `Damaged`, `Store`.
    pub fn check_parts(&self) -> Result<(), DumpError> {
        let Some(done) = &self.done else {
            return Ok(());
        };
        let mut digest = Sha256::new();
        layout::each_json_bytes(self.store, &self.part_objects(), |_, bytes| {
            digest.update(Sha256Digest::of(&bytes?).as_bytes());
            Ok(())
        })?;
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
        let bytes = layout::get_json_bytes(self.store, &layout::part_object(part))?;
        self.parse_record(part, &bytes)
    }

    /// A part record, given what is in its object.
    ///
    /// # Errors
    /// `Damaged`, `Version`.
    pub(crate) fn parse_record(
        &self,
        part: &PartName,
        bytes: &[u8],
    ) -> Result<PartRecord, DumpError> {
        let object = layout::part_object(part);
        let record = layout::parse_json(self.store, &object, bytes, self.sealing())?;
        check_record(self.store, &self.head, part, &record)?;
        Ok(record)
    }

    /// No record of these parts has more raw bytes; 0 if there are none.
    ///
    /// # Errors
    /// As for [`OpenDump::record`].
    pub(crate) fn record_bytes_max(&self, parts: &[PartName]) -> Result<u64, DumpError> {
        let objects: Vec<_> = parts.iter().map(layout::part_object).collect();
        let (mut largest, mut names) = (0, parts.iter());
        layout::each_json_bytes(self.store, &objects, |_, bytes| {
            let part = names.next().expect("one of each");
            let record = self.parse_record(part, &bytes?)?;
            largest = largest.max(record.record_bytes_max());
            Ok(())
        })?;
        Ok(largest)
    }

    /// The objects of [`OpenDump::parts`], in their order.
    pub(crate) fn part_objects(&self) -> Vec<ObjectName> {
        self.parts.iter().map(layout::part_object).collect()
    }

    /// The sealed plan; `None` if none was sealed.
    ///
    /// # Errors
    /// `Damaged`, `Version`, `Store`.
    pub fn sealed(&self) -> Result<Option<Sealed>, DumpError> {
        match &self.plan {
            Some(plan) => read_optional(self.store, &layout::planned_object(plan), self.sealing()),
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
}

/// Whether `record` can be the record of `part`: its name, its sums, the names of its chunks.
///
/// # Errors
/// `Damaged`.
pub(crate) fn check_record(
    store: &dyn Store,
    head: &Head,
    part: &PartName,
    record: &PartRecord,
) -> Result<(), DumpError> {
    let damaged = |reason: String| DumpError::Damaged {
        store: store.url().to_owned(),
        object: layout::part_object(part).to_string(),
        reason,
    };
    if record.part != *part {
        return Err(damaged(format!("is the record of part {}", record.part)));
    }
    // `None` if it is more than any sum that was written.
    let sum = |of: fn(&layout::ChunkEntry) -> u64| {
        let mut chunks = record.chunks.iter();
        chunks.try_fold(0_u64, |sum, chunk| sum.checked_add(of(chunk)))
    };
    if sum(|chunk| chunk.records) != Some(record.records)
        || sum(|chunk| chunk.raw_bytes) != Some(record.raw_bytes)
        || sum(|chunk| chunk.stored_bytes) != Some(record.stored_bytes)
    {
        return Err(damaged(
            "its totals are not the sums of its chunks".to_owned(),
        ));
    }
    for (number, chunk) in record.chunks.iter().enumerate() {
        if let Err(name) = head.check_chunk_name(part, number as u32, chunk) {
            return Err(damaged(format!(
                "chunk {number} is called {:?}, and should be {name}",
                chunk.name
            )));
        }
    }
    Ok(())
}

/// Whether `store` holds a finished dump: DONE is there, and nothing else is looked at.
///
/// # Errors
/// `Store`.
pub fn is_finished(store: &dyn Store) -> Result<bool, DumpError> {
    layout::exists(store, &layout::object(layout::DONE))
}

/// Reads an object of the layout; `None` if it is not there.
pub(crate) fn read_optional<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    object: &ObjectName,
    sealing: Option<&Sealing>,
) -> Result<Option<T>, DumpError> {
    optional(layout::read_json(store, object, sealing))
}

fn optional<T>(read: Result<T, DumpError>) -> Result<Option<T>, DumpError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of an unfinished dump: a sealed plan before any other, whose parts are void; then the one with the most committed
/// parts.
fn latest_plan(store: &dyn Store) -> Result<Option<String>, DumpError> {
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    store.list("parts/", &mut |entry| {
        if let Some(part) = layout::part_of_object(&entry.name)
            && !layout::plan_of(&part).is_empty()
        {
            let plan = layout::plan_of(&part).to_owned();
            *counts.entry(plan).or_default() += 1;
        }
        ControlFlow::Continue(())
    })?;
    let mut latest = None;
    for (plan, parts) in counts {
        let is_sealed = layout::exists(store, &layout::planned_object(&plan))?;
        latest = latest.max(Some((is_sealed, parts, plan)));
    }
    Ok(latest.map(|(_, _, plan)| plan))
}
