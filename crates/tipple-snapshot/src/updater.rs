//! Who gives a cache its value.

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What an update begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpdateType {
    /// Nothing: the whole value.
    Full,
    /// The value that is there: what has changed since the last update.
    Incremental,
}

/// What is asked of an updater.
#[derive(Debug)]
#[non_exhaustive]
pub struct UpdateRequest<T> {
    /// What to begin with.
    pub kind: UpdateType,
    /// When the last update that did not fail began: ask for what has changed since. It may have been in another process,
    /// whose snapshot was loaded; `None` if there is no value.
    pub last_update: Option<SystemTime>,
    /// When this one begins, in microseconds; the next one is told it as `last_update`.
    pub now: SystemTime,
    /// The value that is there.
    pub current: Option<Arc<T>>,
}

/// What an update gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update<T> {
    /// Another value.
    New(T),
    /// The value that is there is still the right one: its snapshot gets a new name, no more.
    NoChange,
}

/// Gives a cache its value. A function of a request is one.
///
/// It runs on a thread of the cache, one update at a time. A panic in it is a failed update. What is asynchronous is an
/// [`AsyncUpdater`](crate::AsyncUpdater).
pub trait Updater<T>: Send + 'static {
    /// Makes an update.
    ///
    /// # Errors
    /// Whatever went wrong: the value stays, and the next update comes after `exception_interval`.
    fn update(&mut self, request: UpdateRequest<T>) -> Result<Update<T>, BoxError>;

    /// With `has_pre_assign_check`: whether `new` may replace `old`. A value without elements that would replace one with
    /// elements is refused before this is asked, where the cache has snapshots.
    ///
    /// # Errors
    /// Why not: the update has failed then.
    fn pre_assign_check(&self, old: Option<&T>, new: &T) -> Result<(), BoxError> {
        let _ = (old, new);
        Ok(())
    }
}

impl<T, F> Updater<T> for F
where
    F: FnMut(UpdateRequest<T>) -> Result<Update<T>, BoxError> + Send + 'static,
{
    fn update(&mut self, request: UpdateRequest<T>) -> Result<Update<T>, BoxError> {
        self(request)
    }
}
