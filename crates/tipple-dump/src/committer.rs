//! From sealed chunks to committed parts: put, then commit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tipple_chunk::Sealed;
use tipple_flow::{Outcomes, Written};
use tipple_store::{ObjectName, Store};

use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, bump};
use crate::layout::{self, ChunkEntry, Format, PartRecord, SealedPart};

/// A part between its first chunk and its commit.
pub(crate) struct OpenPart {
    pub(crate) planned: SealedPart,
    state: Mutex<OpenState>,
}

#[derive(Default)]
struct OpenState {
    /// How often the part was begun again; chunks of earlier attempts do not count.
    attempt: u32,
    in_flight: u32,
    chunks: BTreeMap<u32, ChunkEntry>,
    orphans: Vec<ObjectName>,
    ended: Option<(Written, Outcomes)>,
}

impl OpenPart {
    pub(crate) fn new(planned: SealedPart) -> Self {
        Self {
            planned,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk is on its way to the store. Returns the attempt it belongs to.
    pub(crate) fn send(&self) -> u32 {
        let mut state = self.lock();
        state.in_flight += 1;
        state.attempt
    }

    /// Forgets the chunks so far: the part is begun again.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        state.attempt += 1;
        let chunks = std::mem::take(&mut state.chunks);
        state
            .orphans
            .extend(chunks.values().map(|chunk| layout::object(&chunk.name)));
    }

    /// All chunks were sent. Returns whether all have arrived too: then the part is to be committed.
    pub(crate) fn end(&self, written: Written, outcomes: Outcomes) -> bool {
        let mut state = self.lock();
        state.ended = Some((written, outcomes));
        state.in_flight == 0
    }

    fn arrived(&self, attempt: u32, number: u32, name: &ObjectName, sealed: &Sealed) -> bool {
        let mut state = self.lock();
        state.in_flight -= 1;
        if attempt == state.attempt {
            state.chunks.insert(number, ChunkEntry::new(name, sealed));
        } else {
            state.orphans.push(name.clone());
        }
        state.in_flight == 0 && state.ended.is_some()
    }

    /// The record of a part whose chunks have all arrived, and what earlier attempts left.
    fn record(&self) -> (PartRecord, Vec<ObjectName>) {
        let mut state = self.lock();
        let (written, outcomes) = state.ended.take().expect("only ended parts are committed");
        let numbers: Vec<u32> = state.chunks.keys().copied().collect();
        let chunks: Vec<ChunkEntry> = std::mem::take(&mut state.chunks).into_values().collect();
        let mut orphans = std::mem::take(&mut state.orphans);
        orphans.retain(|orphan| chunks.iter().all(|chunk| chunk.name != orphan.as_ref()));
        let record = PartRecord {
            format: Format::CURRENT,
            part: self.planned.name.clone(),
            records: chunks.iter().map(|chunk| chunk.records).sum(),
            raw_bytes: chunks.iter().map(|chunk| chunk.raw_bytes).sum(),
            stored_bytes: chunks.iter().map(|chunk| chunk.stored_bytes).sum(),
            chunks,
            outcomes,
        };
        // I6: what the source wrote is what the chunks hold, without a gap.
        assert!(
            numbers.iter().copied().eq(0..numbers.len() as u32),
            "I6: part {} has chunks {numbers:?}",
            record.part
        );
        assert_eq!(
            (record.records, record.raw_bytes),
            (written.records, written.bytes),
            "I6: part {} holds something else than was written to it",
            record.part
        );
        (record, orphans)
    }
}

/// Work for a committer.
pub(crate) enum Work {
    /// Puts a sealed chunk, and commits its part if it was the last one.
    Put {
        part: Arc<OpenPart>,
        attempt: u32,
        number: u32,
        path: PathBuf,
        sealed: Sealed,
    },
    /// Commits a part whose chunks have all arrived.
    Commit(Arc<OpenPart>),
}

/// Takes work until all senders are gone. After a failure it still takes, so that no sender waits for ever, but only
/// removes the staged files.
pub(crate) fn run(
    job: &Job,
    store: &dyn Store,
    content: &str,
    work: &Mutex<Receiver<Work>>,
    fail: &dyn Fn(DumpError),
) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(next) = next else { return };
        if job.gate().check().is_err() {
            if let Work::Put { path, .. } = next {
                // Best effort: what stays is a leftover that the next start removes.
                let _ = std::fs::remove_file(path);
            }
            continue;
        }
        if let Err(error) = step(job, store, content, next) {
            fail(error);
        }
    }
}

fn step(job: &Job, store: &dyn Store, content: &str, work: Work) -> Result<(), DumpError> {
    match work {
        Work::Put {
            part,
            attempt,
            number,
            path,
            sealed,
        } => {
            let name = layout::chunk_object(&part.planned.name, number, &sealed.sha256, content);
            failpoint!("putting");
            store.put_file(&name, &path)?;
            failpoint!("put");
            let progress = job.progress();
            bump(&progress.chunks, 1);
            bump(&progress.stored_bytes, sealed.stored_bytes);
            if part.arrived(attempt, number, &name, &sealed) {
                commit(job, store, &part)?;
            }
            Ok(())
        }
        Work::Commit(part) => commit(job, store, &part),
    }
}

/// I1, I3: the part record is written when, and only when, all its chunks are durable.
fn commit(job: &Job, store: &dyn Store, part: &OpenPart) -> Result<(), DumpError> {
    let (record, orphans) = part.record();
    check_planned(store, &part.planned, &record)?;
    failpoint!("committing");
    layout::put_json(store, &layout::part_object(&record.part), &record)?;
    failpoint!("committed");
    for orphan in orphans {
        store.delete(&orphan)?;
    }
    job.progress().parts.fetch_add(1, Ordering::Relaxed);
    job.tell(&Event::Part {
        part: record.part.to_string(),
        records: record.records,
        outcomes: record.outcomes,
    });
    Ok(())
}

/// I6: all that was planned is accounted for. No assertion, since the plan may have come from the store.
pub(crate) fn check_planned(
    store: &dyn Store,
    planned: &SealedPart,
    record: &PartRecord,
) -> Result<(), DumpError> {
    let found = record.records.saturating_add(record.outcomes.total());
    match planned.records {
        Some(records) if records != found => Err(DumpError::Damaged {
            store: store.url().to_owned(),
            object: planned.object().to_string(),
            reason: format!(
                "has {found} records, and {records} were planned; dump again into another folder"
            ),
        }),
        _ => Ok(()),
    }
}

/// The sending half, for lanes.
pub(crate) type WorkSender = SyncSender<Work>;
