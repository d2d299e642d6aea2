//! The stores of a job, and what becomes of it when one of them fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tipple_store::{ObjectName, ObjectRead, Store, StoreErrorKind, StoreLock};

use crate::error::DumpError;
use crate::job::{Event, Job};

/// What becomes of a job with several stores when one of them fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorePolicy {
    /// The job fails.
    #[default]
    All,
    /// That store is dropped: it gets no DONE and is named in the report. The job fails with the last one.
    Any,
}

/// A store that the job went on without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedStore {
    /// Which.
    pub store: String,
    /// Why.
    pub reason: String,
}

/// The stores of a job.
pub(crate) struct Stores<'a> {
    job: &'a Job,
    members: Vec<&'a dyn Store>,
    policy: StorePolicy,
    states: Mutex<Vec<State>>,
    /// For each member, chunks that are on their way to it.
    backlogs: Vec<AtomicUsize>,
}

/// How a store is used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// As a store of the job: it gets everything when it is made.
    Steady,
    /// The same, after it was behind: plan objects of that time may be missing until the end.
    CaughtUp,
    /// It holds nobody up: what it misses is copied from another store ([`crate::lag`]).
    Behind,
    /// Not any more, and why.
    Dropped(String),
}

impl State {
    fn is_living(&self) -> bool {
        matches!(self, Self::Steady | Self::CaughtUp)
    }
}

impl<'a> Stores<'a> {
    /// # Errors
    /// `Usage` if there is none, or one twice.
    pub(crate) fn new(
        job: &'a Job,
        members: &[&'a dyn Store],
        policy: StorePolicy,
    ) -> Result<Self, DumpError> {
        if members.is_empty() {
            return Err(DumpError::Usage("no store was given".to_owned()));
        }
        for (number, store) in members.iter().enumerate() {
            if members[..number]
                .iter()
                .any(|other| other.url() == store.url())
            {
                return Err(DumpError::Usage(format!(
                    "{} is given twice: name each store once",
                    store.url()
                )));
            }
        }
        Ok(Self {
            job,
            members: members.to_vec(),
            policy,
            states: Mutex::new(vec![State::Steady; members.len()]),
            backlogs: members.iter().map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    /// A single one.
    pub(crate) fn one(job: &'a Job, store: &'a dyn Store) -> Self {
        Self::new(job, &[store], StorePolicy::All).expect("one store, once")
    }

    /// How many there are, dropped ones included.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn get(&self, number: usize) -> &'a dyn Store {
        self.members[number]
    }

    /// Those that were not dropped and are not behind, each with its number.
    pub(crate) fn living(&self) -> Vec<(usize, &'a dyn Store)> {
        let states = self.states();
        let members = self.members.iter().copied().enumerate();
        members
            .filter(|(number, _)| states[*number].is_living())
            .collect()
    }

    pub(crate) fn is_living(&self, number: usize) -> bool {
        self.states()[number].is_living()
    }

    pub(crate) fn is_behind(&self, number: usize) -> bool {
        self.states()[number] == State::Behind
    }

    pub(crate) fn is_dropped(&self, number: usize) -> bool {
        matches!(self.states()[number], State::Dropped(_))
    }

    /// Those that have had everything from the beginning, the others behind them.
    pub(crate) fn steady_first(&self) -> Vec<usize> {
        let states = self.states();
        let mut numbers: Vec<usize> = (0..states.len())
            .filter(|number| states[*number].is_living())
            .collect();
        numbers.sort_by_key(|number| states[*number] != State::Steady);
        numbers
    }

    /// Whether a store was behind that has caught up.
    pub(crate) fn any_caught_up(&self) -> bool {
        self.states().contains(&State::CaughtUp)
    }

    /// A chunk is on its way to every store.
    pub(crate) fn sent(&self) {
        for backlog in &self.backlogs {
            backlog.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A store is done with a chunk.
    pub(crate) fn taken(&self, number: usize) {
        self.backlogs[number].fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether no chunk is on its way to this store.
    pub(crate) fn has_all(&self, number: usize) -> bool {
        self.backlogs[number].load(Ordering::Relaxed) == 0
    }

    /// Whether chunks wait for this store alone: another one, which has had everything from the beginning, waits for more.
    pub(crate) fn holds_up(&self, number: usize) -> bool {
        let states = self.states();
        let waits =
            |other: usize| other != number && states[other] == State::Steady && self.has_all(other);
        states[number].is_living() && !self.has_all(number) && (0..states.len()).any(waits)
    }

    /// From here on it holds nobody up. Nothing happens to one that was dropped.
    pub(crate) fn leave_behind(&self, number: usize) {
        let mut states = self.states();
        if states[number].is_living() {
            states[number] = State::Behind;
        }
    }

    /// It has all that it missed. Nothing happens to one that was dropped.
    pub(crate) fn catch_up(&self, number: usize) {
        let mut states = self.states();
        if states[number] == State::Behind {
            states[number] = State::CaughtUp;
        }
    }

    /// A store failed. `Ok`: the job goes on without it.
    ///
    /// # Errors
    /// `error` itself if the job cannot: by the policy, because it was the last store, or because the error is not
    /// the store's.
    pub(crate) fn failed(&self, number: usize, error: DumpError) -> Result<(), DumpError> {
        let DumpError::Store(cause) = &error else {
            return Err(error);
        };
        if self.policy == StorePolicy::All || cause.kind() == StoreErrorKind::LocalFile {
            return Err(error);
        }
        let mut states = self.states();
        if matches!(states[number], State::Dropped(_)) {
            return Ok(());
        }
        let others = states.iter().enumerate();
        if !(others.filter(|(other, _)| *other != number)).any(|(_, state)| state.is_living()) {
            return Err(error);
        }
        states[number] = State::Dropped(error.to_string());
        drop(states);
        self.job.tell(&Event::Warning {
            message: format!("going on without {}: {error}", self.members[number].url()),
        });
        Ok(())
    }

    /// Does `act` to every living store in turn; a store that fails is treated by the policy.
    pub(crate) fn each(
        &self,
        mut act: impl FnMut(&dyn Store) -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        self.each_numbered(|_, store| act(store))
    }

    /// The same, with the number of each store.
    pub(crate) fn each_numbered(
        &self,
        mut act: impl FnMut(usize, &dyn Store) -> Result<(), DumpError>,
    ) -> Result<(), DumpError> {
        for (number, store) in self.living() {
            if let Err(error) = act(number, store) {
                self.failed(number, error)?;
            }
        }
        Ok(())
    }

    /// What `act` gives for the first living store that does not fail.
    pub(crate) fn any<T>(
        &self,
        act: impl FnMut(&dyn Store) -> Result<T, DumpError>,
    ) -> Result<T, DumpError> {
        Ok(self.any_numbered(act)?.1)
    }

    /// The same, with the number of that store.
    pub(crate) fn any_numbered<T>(
        &self,
        mut act: impl FnMut(&dyn Store) -> Result<T, DumpError>,
    ) -> Result<(usize, T), DumpError> {
        loop {
            // There is one: the last is never dropped.
            let number = self.steady_first()[0];
            match act(self.get(number)) {
                Ok(value) => return Ok((number, value)),
                Err(error) => self.failed(number, error)?,
            }
        }
    }

    /// Opens an object that every living store has.
    pub(crate) fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, DumpError> {
        self.any(|store| Ok(store.open(name)?))
    }

    /// Locks those stores that can be.
    ///
    /// # Errors
    /// `Store` if someone holds the lock of one.
    pub(crate) fn lock(&self) -> Result<Vec<StoreLock>, DumpError> {
        let mut locks = Vec::new();
        for store in &self.members {
            match store.lock() {
                Ok(lock) => locks.push(lock),
                // Two writers of one prefix in a bucket are kept apart by put-if-absent alone.
                Err(error) if error.kind() == StoreErrorKind::Unsupported => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(locks)
    }

    /// The stores that the job went on without.
    pub(crate) fn dropped_stores(&self) -> Vec<DroppedStore> {
        let states = self.states();
        let members = self.members.iter().zip(states.iter());
        members
            .filter_map(|(store, state)| match state {
                State::Dropped(reason) => Some(DroppedStore {
                    store: store.url().to_owned(),
                    reason: reason.clone(),
                }),
                _ => None,
            })
            .collect()
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
