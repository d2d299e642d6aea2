//! A store that holds up the others is left behind: what is made meanwhile passes it by, and it catches up from another
//! store, at its own pace, while the job goes on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tipple_flow::PartName;
use tipple_store::StoreErrorKind;

use crate::committer::{Committer, OpenPart, Work};
use crate::error::DumpError;
use crate::job::Event;
use crate::layout::{self, PartRecord};
use crate::replicate::Replicator;

/// How often it is looked whether a store holds up the others, and whether another one has a part by now.
const TICK: Duration = Duration::from_millis(100);
/// Parts that a store may be behind: each is held in memory.
const MISSED_MAX: usize = 10_000;

/// Where it is said which parts have passed a store by.
#[derive(Clone)]
pub(crate) struct ToLag {
    parts: Sender<Arc<OpenPart>>,
    /// Parts that were said and are not in the store yet.
    missing: Arc<AtomicUsize>,
}

impl ToLag {
    pub(crate) fn new(parts: Sender<Arc<OpenPart>>) -> Self {
        Self {
            parts,
            missing: Arc::default(),
        }
    }

    pub(crate) fn send(&self, part: Arc<OpenPart>) {
        self.missing.fetch_add(1, Ordering::SeqCst);
        // The other end is gone only after a failure, which it has reported.
        let _ = self.parts.send(part);
    }

    pub(crate) fn missing(&self) -> &Arc<AtomicUsize> {
        &self.missing
    }
}

/// One of several stores that may be left behind. Two threads look after it: one that watches, and waits for no store; and
/// one that brings the store what it has missed.
#[derive(Clone)]
pub(crate) struct Lag<'a> {
    pub(crate) committer: Committer<'a>,
    pub(crate) replicator: &'a Replicator<'a>,
    /// How long it may hold up the others.
    pub(crate) detach_after: Duration,
}

impl Lag<'_> {
    /// Leaves the store behind and takes it back, until its committers are gone, which share `work`. While it is behind,
    /// what waits there passes it by, also if all committers are held up.
    ///
    /// # Errors
    /// `Usage` if it is too far behind; `Interrupted`.
    pub(crate) fn watch(
        &self,
        work: &Arc<Mutex<Receiver<Work>>>,
        to_lag: &ToLag,
    ) -> Result<(), DumpError> {
        let (stores, number) = (self.committer.stores, self.committer.number);
        let mut held_up_since = None;
        while Arc::strong_count(work) > 1 {
            self.committer.job.gate().wait(TICK)?;
            if !stores.is_behind(number) {
                self.leave_if_due(&mut held_up_since);
                continue;
            }
            self.committer.take_waiting(work, to_lag)?;
            let missing = to_lag.missing().load(Ordering::SeqCst);
            if missing > MISSED_MAX {
                return Err(self.too_far());
            }
            if missing == 0 && stores.has_all(number) {
                self.take_back();
            }
        }
        Ok(())
    }

    fn leave_if_due(&self, held_up_since: &mut Option<Instant>) {
        let (stores, number) = (self.committer.stores, self.committer.number);
        if !(self.replicator.spool.is_awaited() && stores.holds_up(number)) {
            *held_up_since = None;
        } else if held_up_since.get_or_insert_with(Instant::now).elapsed() >= self.detach_after {
            stores.leave_behind(number);
            self.say("holds up the others: it is left behind, and catches up from another store");
        }
    }

    fn take_back(&self) {
        self.committer.stores.catch_up(self.committer.number);
        self.say("has caught up");
    }

    /// Brings the store what it has missed, until nobody can say of more.
    ///
    /// # Errors
    /// What the store policy makes of a store that fails; `Interrupted`.
    pub(crate) fn bring_all(
        &self,
        parts: &Receiver<Arc<OpenPart>>,
        missing: &AtomicUsize,
    ) -> Result<(), DumpError> {
        for part in parts {
            while !self.bring(&part)? {
                self.committer.job.gate().wait(TICK)?;
            }
            missing.fetch_sub(1, Ordering::SeqCst);
        }
        if self.committer.stores.is_behind(self.committer.number) {
            self.take_back();
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        let store = self.committer.stores.get(self.committer.number);
        self.committer.job.tell(&Event::Warning {
            message: format!("{} {what}", store.url()),
        });
    }

    /// Brings a part from another store. Returns whether any has it yet.
    fn bring(&self, part: &OpenPart) -> Result<bool, DumpError> {
        self.committer.job.gate().check()?;
        let (stores, number) = (self.committer.stores, self.committer.number);
        if stores.is_dropped(number) {
            self.committer.settle(part, &part.record().0);
            return Ok(true);
        }
        for from in stores.steady_first() {
            let record = match self.committed(from, &part.planned.name) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) => {
                    stores.failed(from, error)?;
                    continue;
                }
            };
            let brought = self
                .replicator
                .bring(&part.planned, &record, from, number)
                .and_then(|()| {
                    let removed = self.committer.remove_void(part, &record);
                    removed.map_err(|error| (number, error))
                });
            match brought {
                Ok(()) => {}
                Err((failed, error)) => stores.failed(failed, error)?,
            }
            if !stores.is_dropped(from) {
                self.committer.settle(part, &record);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn committed(&self, store: usize, part: &PartName) -> Result<Option<PartRecord>, DumpError> {
        let store = self.committer.stores.get(store);
        match layout::read_json(store, &layout::part_object(part), self.committer.sealing) {
            Ok(record) => Ok(Some(record)),
            Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn too_far(&self) -> DumpError {
        DumpError::Usage(format!(
            "{} is more than {MISSED_MAX} parts behind: give larger parts, or leave it out of the command; given again later, it gets what it lacks",
            self.committer.stores.get(self.committer.number).url()
        ))
    }
}
