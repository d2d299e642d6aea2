//! What attempts that ended began in the store and did not finish: staged files in a folder, uploads in a bucket.

use std::time::{Duration, SystemTime};

use tipple_store::{Leftover, Store, StoreError, StoreErrorKind};

use crate::error::SuperviseError;
use crate::job::Job;
use crate::layout;

/// An upload of a run that another machine may be at work on is left alone for so long.
const STRANGE_AGE: Duration = Duration::from_secs(24 * 3600);

/// Who began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Whoever had the store's lock.
    Locked,
    /// This run.
    Run(u32),
    /// A run, when it summed up.
    Finishing,
    /// Something else, under the same prefix.
    Foreign,
}

pub(crate) fn whose(leftover: &Leftover) -> Whose {
    let Some(object) = &leftover.object else {
        return Whose::Locked;
    };
    match layout::run_of(object.as_str()) {
        Some(run) => Whose::Run(run),
        None if layout::is_ours(object.as_str()) => Whose::Finishing,
        None => Whose::Foreign,
    }
}

/// Removes what nobody goes on with. The caller uploads nothing meanwhile.
///
/// `is_locked`: the store's lock is held. `own`: a run of this folder, whose supervisor is the caller, so that nobody else
/// uploads for it. A bucket has no lock, so the runs of others may be alive: what they began stays for a day, or until
/// `tipple prune`.
pub(crate) fn remove(
    store: &dyn Store,
    is_locked: bool,
    own: Option<u32>,
) -> Result<(), StoreError> {
    let now = SystemTime::now();
    let is_over = |leftover: &&Leftover| match whose(leftover) {
        Whose::Locked => is_locked,
        Whose::Foreign => false,
        Whose::Run(run) if Some(run) == own => true,
        Whose::Run(_) | Whose::Finishing => leftover.age(now) >= STRANGE_AGE,
    };
    let leftovers = store.leftovers()?;
    let mut over = leftovers.iter().filter(is_over);
    over.try_for_each(|leftover| store.remove_leftover(leftover))
}

/// The same, but what this user may not see or remove is told, and is no error: the rights to list and abort uploads are
/// often not given with the one to put objects, which is all that storing needs.
pub(crate) fn remove_or_tell(
    job: &Job,
    store: &dyn Store,
    is_locked: bool,
    own: Option<u32>,
) -> Result<(), SuperviseError> {
    match remove(store, is_locked, own) {
        Err(error)
            if matches!(
                error.kind(),
                StoreErrorKind::Denied | StoreErrorKind::Unsupported
            ) =>
        {
            job.warn(format!(
                "what an attempt that ended may have left unfinished stays: {error}"
            ));
            Ok(())
        }
        removed => Ok(removed?),
    }
}
