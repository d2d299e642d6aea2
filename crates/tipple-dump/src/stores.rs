//! The stores of a job, and what becomes of it when one of them fails.

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
    /// For each member, why it was dropped.
    dropped: Mutex<Vec<Option<String>>>,
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
            dropped: Mutex::new(vec![None; members.len()]),
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

    /// Those that were not dropped, each with its number.
    pub(crate) fn living(&self) -> Vec<(usize, &'a dyn Store)> {
        let dropped = self.dropped();
        let members = self.members.iter().copied().enumerate();
        members
            .filter(|(number, _)| dropped[*number].is_none())
            .collect()
    }

    pub(crate) fn is_living(&self, number: usize) -> bool {
        self.dropped()[number].is_none()
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
        let mut dropped = self.dropped();
        if dropped[number].is_some() {
            return Ok(());
        }
        if dropped.iter().filter(|dropped| dropped.is_none()).count() == 1 {
            return Err(error);
        }
        dropped[number] = Some(error.to_string());
        drop(dropped);
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
            let (number, store) = self.living()[0];
            match act(store) {
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
        let dropped = self.dropped();
        let members = self.members.iter().zip(dropped.iter());
        members
            .filter_map(|(store, reason)| {
                Some(DroppedStore {
                    store: store.url().to_owned(),
                    reason: reason.clone()?,
                })
            })
            .collect()
    }

    fn dropped(&self) -> MutexGuard<'_, Vec<Option<String>>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
