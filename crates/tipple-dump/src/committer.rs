//! From sealed chunks to committed parts: for each store, threads that put chunks and write part records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tipple_chunk::Sealed;
use tipple_flow::{Outcomes, PartName, Written};
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, bump};
use crate::lag::ToLag;
use crate::layout::{self, ChunkEntry, Format, PartRecord, SealedPart};
use crate::sealing::Sealing;
use crate::spool::Waiting;
use crate::stores::Stores;

/// A part between its first chunk and its commit in the last store.
pub(crate) struct OpenPart {
    pub(crate) planned: SealedPart,
    state: Mutex<OpenState>,
}

struct OpenState {
    /// Of the last attempt at the part, as they were sealed.
    chunks: BTreeMap<u32, ChunkEntry>,
    /// Chunks of earlier attempts, which do not count.
    void: Vec<ObjectName>,
    /// For each store, chunks that are on their way to it, of all attempts.
    in_flight: Vec<u32>,
    /// For each store, whether a chunk has passed it by.
    missed: Vec<bool>,
    /// Stores that are not done with the part.
    stores_left: usize,
    ended: Option<(Written, Outcomes)>,
}

impl OpenPart {
    /// `strays`: what killed attempts left of it, which does not count if this one makes something else.
    pub(crate) fn new(planned: SealedPart, stores: usize, strays: Vec<ObjectName>) -> Self {
        Self {
            planned,
            state: Mutex::new(OpenState {
                chunks: BTreeMap::new(),
                void: strays,
                in_flight: vec![0; stores],
                missed: vec![false; stores],
                stores_left: stores,
                ended: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sealed chunk is on its way to every store.
    pub(crate) fn send(&self, number: u32, entry: ChunkEntry) {
        let mut state = self.lock();
        state.chunks.insert(number, entry);
        state.in_flight.iter_mut().for_each(|chunks| *chunks += 1);
    }

    /// Forgets the chunks so far: the part is begun again.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        let chunks = std::mem::take(&mut state.chunks);
        let names = chunks.values().map(|chunk| layout::object(&chunk.name));
        state.void.extend(names);
    }

    /// All chunks were sent. Returns the stores where all have arrived too: there the part is to be committed.
    pub(crate) fn end(&self, written: Written, outcomes: Outcomes) -> Vec<usize> {
        let mut state = self.lock();
        state.ended = Some((written, outcomes));
        let in_flight = state.in_flight.iter().enumerate();
        in_flight
            .filter(|(_, chunks)| **chunks == 0)
            .map(|(store, _)| store)
            .collect()
    }

    /// A chunk has arrived in a store. Returns whether it was the last: then the part is to be committed there.
    fn arrived(&self, store: usize) -> bool {
        let mut state = self.lock();
        state.in_flight[store] -= 1;
        state.in_flight[store] == 0 && state.ended.is_some()
    }

    /// A chunk passes a store by, which is behind.
    fn miss(&self, store: usize) {
        self.lock().missed[store] = true;
    }

    fn is_missed(&self, store: usize) -> bool {
        self.lock().missed[store]
    }

    /// A store is done with the part. Returns whether it was the last.
    fn settled(&self) -> bool {
        let mut state = self.lock();
        state.stores_left -= 1;
        state.stores_left == 0
    }

    /// The record of a part whose chunks have all arrived, and what attempts before made. The same for each store.
    pub(crate) fn record(&self) -> (PartRecord, Vec<ObjectName>) {
        let state = self.lock();
        let (written, outcomes) = state
            .ended
            .as_ref()
            .expect("only ended parts are committed");
        let chunks: Vec<ChunkEntry> = state.chunks.values().cloned().collect();
        let void = state.void.clone();
        let record = PartRecord {
            format: Format::CURRENT,
            part: self.planned.name.clone(),
            records: chunks.iter().map(|chunk| chunk.records).sum(),
            raw_bytes: chunks.iter().map(|chunk| chunk.raw_bytes).sum(),
            stored_bytes: chunks.iter().map(|chunk| chunk.stored_bytes).sum(),
            record_bytes_max: written.largest,
            chunks,
            outcomes: outcomes.clone(),
        };
        // I6: what the source wrote is what the chunks hold, without a gap.
        let numbers = state.chunks.keys().copied();
        assert!(
            numbers.eq(0..state.chunks.len() as u32),
            "I6: part {} has chunks {:?}",
            record.part,
            state.chunks.keys()
        );
        assert_eq!(
            (record.records, record.raw_bytes),
            (written.records, written.bytes),
            "I6: part {} holds something else than was written to it",
            record.part
        );
        (record, void)
    }
}

/// A sealed chunk that some stores have still to take.
pub(crate) struct OpenChunk {
    name: ObjectName,
    stored_bytes: u64,
    waiting: Waiting,
    stores_left: AtomicUsize,
}

impl OpenChunk {
    pub(crate) fn new(name: ObjectName, sealed: &Sealed, waiting: Waiting, stores: usize) -> Self {
        Self {
            name,
            stored_bytes: sealed.stored_bytes,
            waiting,
            stores_left: AtomicUsize::new(stores),
        }
    }

    /// A store is done with the chunk. Returns whether it was the last.
    fn settled(&self) -> bool {
        self.stores_left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Work for the committers of one store.
pub(crate) enum Work {
    /// Puts a sealed chunk, and commits its part if it was the last one.
    Put(Arc<OpenPart>, Arc<OpenChunk>),
    /// Commits a part whose chunks have all arrived.
    Commit(Arc<OpenPart>),
}

/// The sending half of each store's queue, for lanes. A queue has no length of its own: what waits in it is in the
/// spool, which has.
#[derive(Clone)]
pub(crate) struct ToCommitters<'a> {
    pub(crate) stores: &'a Stores<'a>,
    pub(crate) queues: Vec<Sender<Work>>,
}

impl ToCommitters<'_> {
    pub(crate) fn put(&self, part: &Arc<OpenPart>, chunk: OpenChunk) -> Result<(), DumpError> {
        let chunk = Arc::new(chunk);
        self.stores.sent();
        for store in 0..self.queues.len() {
            self.send(store, Work::Put(Arc::clone(part), Arc::clone(&chunk)))?;
        }
        Ok(())
    }

    pub(crate) fn commit(&self, part: &Arc<OpenPart>, store: usize) -> Result<(), DumpError> {
        self.send(store, Work::Commit(Arc::clone(part)))
    }

    fn send(&self, store: usize, work: Work) -> Result<(), DumpError> {
        // The other end is gone only after a failure, which it has reported.
        self.queues[store]
            .send(work)
            .map_err(|_| DumpError::Interrupted)
    }
}

/// One thread of those that put and commit in the store `number`.
#[derive(Clone)]
pub(crate) struct Committer<'a> {
    pub(crate) job: &'a Job,
    pub(crate) stores: &'a Stores<'a>,
    pub(crate) number: usize,
    pub(crate) sealing: Option<&'a Sealing>,
    /// Where parts go that all stores have, if anyone is to be told.
    pub(crate) to_notifier: Option<SyncSender<PartName>>,
    /// Whether the store may be left behind: then a part that has passed it by is not done with.
    pub(crate) may_lag: bool,
}

impl Committer<'_> {
    /// Takes work until all senders are gone. After a failure it still takes, so that what waits in the spool goes,
    /// but puts nothing. Parts that have passed the store by go `to_lag`.
    pub(crate) fn run(
        &self,
        work: &Mutex<Receiver<Work>>,
        to_lag: Option<&ToLag>,
        fail: &dyn Fn(DumpError),
    ) {
        loop {
            let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(next) = next else { return };
            match (self.take(next), to_lag) {
                (Ok(Some(missed)), Some(to_lag)) => to_lag.send(missed),
                (Ok(_), _) => {}
                (Err(error), _) => fail(error),
            }
        }
    }

    /// Takes what waits, without waiting.
    pub(crate) fn take_waiting(
        &self,
        work: &Mutex<Receiver<Work>>,
        to_lag: &ToLag,
    ) -> Result<(), DumpError> {
        loop {
            // Whoever has the lock takes it.
            let next = work.try_lock().ok().and_then(|work| work.try_recv().ok());
            let Some(next) = next else { return Ok(()) };
            if let Some(missed) = self.take(next)? {
                to_lag.send(missed);
            }
        }
    }

    /// Returns the part, if it is over and has passed the store by.
    fn take(&self, next: Work) -> Result<Option<Arc<OpenPart>>, DumpError> {
        let is_chunk = matches!(next, Work::Put(..));
        let done = match next {
            _ if self.job.gate().check().is_err() => Ok(None),
            Work::Put(part, chunk) => self.put(&part, chunk),
            Work::Commit(part) => self.commit(&part),
        };
        if is_chunk {
            self.stores.taken(self.number);
        }
        done
    }

    fn put(
        &self,
        part: &Arc<OpenPart>,
        chunk: Arc<OpenChunk>,
    ) -> Result<Option<Arc<OpenPart>>, DumpError> {
        let is_put = self.if_living(|store| {
            failpoint!("putting");
            let sole = self.stores.count() == 1;
            chunk.waiting.put(store, &chunk.name, sole)?;
            failpoint!("put");
            Ok(())
        })?;
        if !is_put {
            part.miss(self.number);
        }
        if chunk.settled() {
            let progress = self.job.progress();
            bump(&progress.chunks, 1);
            bump(&progress.stored_bytes, chunk.stored_bytes);
        }
        // I2: with the last store's share of it, the chunk leaves the spool.
        drop(chunk);
        match part.arrived(self.number) {
            true => self.commit(part),
            false => Ok(None),
        }
    }

    fn commit(&self, part: &Arc<OpenPart>) -> Result<Option<Arc<OpenPart>>, DumpError> {
        let (record, void) = part.record();
        let is_committed = !part.is_missed(self.number)
            && self.if_living(|store| {
                check_planned(store, &part.planned, &record)?;
                let counts = self.write(store, &part.planned, &record)?;
                let listed = counts.as_ref().unwrap_or(&record).names();
                for name in void.iter().filter(|name| !listed.contains(name.as_ref())) {
                    store.delete(name)?;
                }
                Ok(())
            })?;
        if self.may_lag && !is_committed {
            return Ok(Some(Arc::clone(part)));
        }
        self.settle(part, &record);
        Ok(None)
    }

    /// Removes what is in the store of a part and is not what `record` lists, which counts.
    pub(crate) fn remove_void(
        &self,
        part: &OpenPart,
        record: &PartRecord,
    ) -> Result<(), DumpError> {
        let (own, void) = part.record();
        let chunks = own.chunks.iter().map(|chunk| layout::object(&chunk.name));
        let listed = record.names();
        for name in void.into_iter().chain(chunks) {
            if !listed.contains(name.as_ref()) {
                self.stores.get(self.number).delete(&name)?;
            }
        }
        Ok(())
    }

    /// The store is done with the part.
    pub(crate) fn settle(&self, part: &OpenPart, record: &PartRecord) {
        if part.settled() {
            if let Some(to_notifier) = &self.to_notifier {
                // If too many wait, or the notifier was cancelled: what it was not told of it finds at the end.
                let _ = to_notifier.try_send(record.part.clone());
            }
            bump(&self.job.progress().parts, 1);
            self.job.tell(&Event::Part {
                part: record.part.to_string(),
                records: record.records,
                outcomes: record.outcomes.clone(),
            });
        }
    }

    /// I1, I3: the part record is written when, and only when, all its chunks are durable. The first one counts: if
    /// another process has committed the part meanwhile, its record stays and is returned, and what is here only is removed.
    fn write(
        &self,
        store: &dyn Store,
        planned: &SealedPart,
        record: &PartRecord,
    ) -> Result<Option<PartRecord>, DumpError> {
        let mut counts = None;
        let object = layout::part_object(&record.part);
        failpoint!("committing");
        match layout::put_json(store, &object, record, self.sealing) {
            Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::AlreadyExists => {
                let first: PartRecord = layout::read_json(store, &object, self.sealing)?;
                check_planned(store, planned, &first)?;
                let listed = first.names();
                for chunk in &record.chunks {
                    if !listed.contains(chunk.name.as_str()) {
                        store.delete(&layout::object(&chunk.name))?;
                    }
                }
                counts = Some(first);
                self.job.tell(&Event::Warning {
                    message: format!(
                        "part {} was committed to {} by another tipple: that commit counts",
                        record.part,
                        store.url()
                    ),
                });
            }
            written => written?,
        }
        failpoint!("committed");
        Ok(counts)
    }

    /// Nothing is done to a store that was dropped or is behind, and what fails is treated by the policy. Returns whether
    /// it was done.
    fn if_living(
        &self,
        act: impl FnOnce(&dyn Store) -> Result<(), DumpError>,
    ) -> Result<bool, DumpError> {
        if !self.stores.is_living(self.number) {
            return Ok(false);
        }
        match act(self.stores.get(self.number)) {
            Ok(()) => Ok(true),
            Err(error) => self.stores.failed(self.number, error).map(|()| false),
        }
    }
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
