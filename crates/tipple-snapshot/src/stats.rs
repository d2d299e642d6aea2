//! What has happened to a cache: counted by outcome, for whoever wants to be woken when snapshots stop being written.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::{ErrorKind, UpdateType};

/// Counts and times of a cache since its start. A copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Whether the first value came from a snapshot.
    pub is_loaded_from_dump: bool,
    /// Whether the value is still that one.
    pub is_current_from_dump: bool,
    /// How long loading took, if there was a snapshot.
    pub load_duration: Option<Duration>,
    /// Snapshots that could not be loaded, by cause.
    pub load_failures: BTreeMap<&'static str, u64>,
    /// Snapshots that were written as a whole.
    pub writes: u64,
    /// Snapshots that were only renamed, since the value was still the same.
    pub bumps: u64,
    /// Writes that failed, by cause.
    pub write_failures: BTreeMap<&'static str, u64>,
    /// Values without elements, which did not replace a snapshot.
    pub empty_values: u64,
    /// What the last whole write took.
    pub last_write_duration: Option<Duration>,
    /// The length of the last file that was written or loaded.
    pub last_write_bytes: Option<u64>,
    /// When the value of the newest snapshot was last known to be current: its age is that of what a restart begins with.
    pub newest_snapshot: Option<SystemTime>,
    /// Snapshots that this process copied into a store.
    pub copies: u64,
    /// Copies that failed, by cause.
    pub copy_failures: BTreeMap<&'static str, u64>,
    /// Full updates.
    pub full: UpdateStats,
    /// Incremental updates.
    pub incremental: UpdateStats,
    /// Failed updates in a row.
    pub failed_in_a_row: u64,
    /// Times that the value was taken away, since updates had failed for too long.
    pub expirations: u64,
    /// Updates have failed as often as `alert_on_failing_to_update_times` says.
    pub is_alert: bool,
    /// When the last update that did not fail began.
    pub last_successful_update: Option<SystemTime>,
    /// How long the last update took.
    pub last_update_duration: Option<Duration>,
    /// How many elements the value has, if it has collections and the cache has snapshots.
    pub current_documents: Option<u64>,
}

/// Counts of one type of updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpdateStats {
    /// Updates that were begun.
    pub attempts: u64,
    /// Those that said that nothing has changed.
    pub no_changes: u64,
    /// Those that failed.
    pub failures: u64,
}

/// What became of a snapshot that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// A new file is there.
    Written,
    /// The value is the same: the file that was there has a new name.
    Bumped,
    /// The newest file has this very value and time.
    UpToDate,
    /// The value has no elements: the file that was there stays.
    Empty,
}

/// What happened, for the counts.
pub(crate) enum Event {
    Loaded {
        took: Duration,
        bytes: u64,
        updated: SystemTime,
    },
    LoadFailed(ErrorKind),
    Wrote {
        outcome: WriteOutcome,
        took: Duration,
        bytes: u64,
        updated: SystemTime,
    },
    WriteFailed(ErrorKind),
    /// Whether it was this process's turn.
    #[cfg(feature = "store")]
    Copied(bool),
    #[cfg(feature = "store")]
    CopyFailed(ErrorKind),
    Updating(UpdateType),
    Updated {
        kind: UpdateType,
        is_new: bool,
        began: SystemTime,
        took: Duration,
    },
    UpdateFailed {
        kind: UpdateType,
        is_alert: bool,
    },
    Expired,
    Documents(Option<u64>),
}

/// Counts, and tells the metrics of the process.
#[derive(Debug)]
pub(crate) struct Counts {
    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "the label of metrics")
    )]
    cache: String,
    stats: Mutex<Stats>,
}

impl Counts {
    pub(crate) fn new(cache: &str) -> Self {
        Self {
            cache: cache.to_owned(),
            stats: Mutex::default(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn tell(&self, event: Event) {
        #[cfg(feature = "metrics")]
        crate::metrics::tell(&self.cache, &event);
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = &mut *stats;
        let of = |kind| match kind {
            UpdateType::Full => 0,
            UpdateType::Incremental => 1,
        };
        let updates = [&mut stats.full, &mut stats.incremental];
        match event {
            Event::Loaded {
                took,
                bytes,
                updated,
            } => {
                stats.is_loaded_from_dump = true;
                stats.is_current_from_dump = true;
                stats.load_duration = Some(took);
                stats.last_write_bytes = Some(bytes);
                stats.newest_snapshot = Some(updated);
            }
            Event::LoadFailed(kind) => {
                *stats.load_failures.entry(kind.name()).or_default() += 1;
            }
            Event::Wrote {
                outcome,
                took,
                bytes,
                updated,
            } => match outcome {
                WriteOutcome::Written => {
                    stats.writes += 1;
                    stats.last_write_duration = Some(took);
                    stats.last_write_bytes = Some(bytes);
                    stats.newest_snapshot = Some(updated);
                }
                WriteOutcome::Bumped => {
                    stats.bumps += 1;
                    stats.newest_snapshot = Some(updated);
                }
                WriteOutcome::UpToDate => {}
                WriteOutcome::Empty => stats.empty_values += 1,
            },
            Event::WriteFailed(kind) => {
                *stats.write_failures.entry(kind.name()).or_default() += 1;
            }
            #[cfg(feature = "store")]
            Event::Copied(was_own) => stats.copies += u64::from(was_own),
            #[cfg(feature = "store")]
            Event::CopyFailed(kind) => {
                *stats.copy_failures.entry(kind.name()).or_default() += 1;
            }
            Event::Updating(kind) => updates[of(kind)].attempts += 1,
            Event::Updated {
                kind,
                is_new,
                began,
                took,
            } => {
                updates[of(kind)].no_changes += u64::from(!is_new);
                stats.is_current_from_dump &= !is_new;
                stats.failed_in_a_row = 0;
                stats.is_alert = false;
                stats.last_successful_update = Some(began);
                stats.last_update_duration = Some(took);
            }
            Event::UpdateFailed { kind, is_alert } => {
                updates[of(kind)].failures += 1;
                stats.failed_in_a_row += 1;
                stats.is_alert = is_alert;
            }
            Event::Expired => stats.expirations += 1,
            Event::Documents(documents) => stats.current_documents = documents,
        }
    }
}
