//! What can be set, under the names that the options have in the original.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::{ErrorKind, SnapshotError};

/// How old a snapshot may be to be loaded. There is no default where it matters: see [`SnapshotOptions::max_age`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxAge {
    /// Outdated data is not harmful.
    Unlimited,
    /// More than 0.
    AtMost(Duration),
}

/// How the frames of a snapshot are compressed, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all: nothing is written and loaded faster.
    #[default]
    None,
    /// LZ4 blocks: for slow disks, and copies that go far. Needs the feature `compression`, also to load them.
    Lz4,
}

/// What becomes of the first update when a snapshot was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUpdateMode {
    /// The start is over at once; the first update comes after a period.
    Skip,
    /// The start waits for an update, and fails with it.
    Required,
    /// The start waits for an update; if that fails, the service goes on with what was loaded.
    BestEffort,
}

/// Of which type the first update after a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstUpdateType {
    /// From nothing.
    Full,
    /// What has changed since the snapshot.
    Incremental,
    /// What has changed since the snapshot, while the start waits, and then a full one at once, while nobody waits: repeated
    /// until one succeeds.
    IncrementalThenAsyncFull,
}

/// Which updates there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateTypes {
    /// Each update is full.
    OnlyFull,
    /// The first update is full, each other one is incremental.
    OnlyIncremental,
    /// Incremental ones, and every `full_update_interval` a full one.
    FullAndIncremental,
}

/// How snapshots are written and read.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotOptions {
    /// Whether snapshots are read and written at all. Default: yes. [`Cache::reconfigure`](crate::Cache::reconfigure) changes
    /// it while the service runs.
    pub enable: bool,
    /// Files are readable by everybody (0444), or by the service's user only (0400); folders are 0755; whatever the umask is.
    /// Default: no.
    pub world_readable: bool,
    /// Part of the file's name: only files of the same version are loaded. Files of a higher one are left alone, so that a
    /// rolled-back service can be rolled forward; of lower ones, `previous_count` stay. Default: 0. A changed type of the value
    /// needs no new version: it is recognized.
    pub format_version: u64,
    /// Older snapshots are not loaded, and are removed; by the time in their name. Must be given unless every start waits for
    /// an update (`FirstUpdateMode::Required`). Default: none given, which then means unlimited.
    pub max_age: Option<MaxAge>,
    /// How many snapshots of this version stay, at least 1. While one is written, there is one more. Default: 1.
    pub max_count: u64,
    /// The least time between the end of an attempt to write a snapshot and the next one. The first one after a start is
    /// immediate. Default: 0. What was updated meanwhile makes one snapshot.
    pub min_interval: Duration,
    /// The original's `fs-task-processor`: snapshots are written on a thread of their own, always; those of caches of the same
    /// name here are written one at a time. Default: none, which is each by itself.
    pub fs_task_processor: Option<String>,
    /// The start waits for an update also where a snapshot was loaded and `first_update_mode` is `Skip`; its failure is a
    /// warning then. Default: no.
    pub wait_for_first_update: bool,
    /// Files are sealed with a key of [`Keys`](crate::Keys): needs the feature `encryption`. Default: no.
    pub encrypted: bool,
    /// What becomes of the first update when a snapshot was loaded. Default: `Required`.
    pub first_update_mode: FirstUpdateMode,
    /// Of which type that update is. Must be given where there are incremental updates and the start waits for one. Default:
    /// none given, which then means `Full`.
    pub first_update_type: Option<FirstUpdateType>,

    /// How many snapshots that another build of the service wrote (of a lower version, or of this one with another type) stay,
    /// so that a service that is rolled back starts warm. Default: 1.
    pub previous_count: u64,
    /// Whether a value without elements replaces a snapshot. Default: no: a source that is empty by mistake would cost the
    /// next start its warmth.
    pub allow_empty: bool,
    /// Each write waits for a random time up to this, once it is due: for fleets that update in step. Default: 0.
    pub write_jitter: Duration,
    /// The most bytes a second that are written. Default: no limit.
    pub write_bytes_per_second: Option<NonZeroU64>,
    /// Encode once more to see whether anything has changed at all, and only rename the snapshot if not. Of maps in hash order,
    /// only unchanged ones are recognized for sure; and only what is compressed as it was. Default: no.
    pub skip_same_content: bool,
    /// How files that are written are compressed; of those that are read, each says it itself. Default: not at all.
    pub compression: Compression,
    /// How many threads decode a snapshot, 1 to 64; each takes up to 8 MiB. Default: those of the machine, at most 4.
    pub decode_threads: usize,
    /// A snapshot whose name is further in the future than this is loaded only if there is no other, and does not count for
    /// `max_count`. Default: 5 minutes.
    pub future_tolerance: Duration,
    /// What the service says about itself in each header: its name and version. Default: nothing.
    pub producer: String,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            enable: true,
            world_readable: false,
            format_version: 0,
            max_age: None,
            max_count: 1,
            min_interval: Duration::ZERO,
            fs_task_processor: None,
            wait_for_first_update: false,
            encrypted: false,
            first_update_mode: FirstUpdateMode::Required,
            first_update_type: None,
            previous_count: 1,
            allow_empty: false,
            write_jitter: Duration::ZERO,
            write_bytes_per_second: None,
            skip_same_content: false,
            compression: Compression::None,
            decode_threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
            future_tolerance: Duration::from_secs(300),
            producer: String::new(),
        }
    }
}

impl SnapshotOptions {
    /// For services that start at once with what they had, if it is not older than this, and update it afterwards.
    pub fn warm(max_age: Duration) -> Self {
        Self {
            max_age: Some(MaxAge::AtMost(max_age)),
            first_update_mode: FirstUpdateMode::Skip,
            ..Self::default()
        }
    }

    pub(crate) fn age_max(&self) -> Option<Duration> {
        match self.max_age {
            Some(MaxAge::AtMost(age)) => Some(age),
            Some(MaxAge::Unlimited) | None => None,
        }
    }

    /// Whether they make sense by themselves.
    ///
    /// # Errors
    /// `Usage`: which one does not, and what would.
    pub fn validate(&self) -> Result<(), SnapshotError> {
        if self.age_max() == Some(Duration::ZERO) {
            return usage("max_age must be positive");
        }
        if self.max_count == 0 {
            return usage("max_count must not be 0: give 1 to keep the newest snapshot");
        }
        if !(1..=64).contains(&self.decode_threads) {
            return usage(format!(
                "decode_threads is {}: give 1 to 64",
                self.decode_threads
            ));
        }
        if self.compression != Compression::None && cfg!(not(feature = "compression")) {
            return usage(
                "compression is set, but this program was built without the feature `compression` of tipple-snapshot",
            );
        }
        if self.encrypted && cfg!(not(feature = "encryption")) {
            return usage(
                "encrypted is set, but this program was built without the feature `encryption` of tipple-snapshot",
            );
        }
        Ok(())
    }

    /// Whether they make sense with the updates of the cache. The second of the pair is a warning.
    pub(crate) fn validate_with(
        &self,
        types: UpdateTypes,
    ) -> Result<Option<&'static str>, SnapshotError> {
        self.validate()?;
        let (mode, first) = (self.first_update_mode, self.first_update_type);
        if mode != FirstUpdateMode::Required && self.max_age.is_none() {
            return usage(
                "max_age must be given where a start may go without an update: MaxAge::Unlimited if outdated data is not harmful",
            );
        }
        if types == UpdateTypes::OnlyFull
            && first.is_some_and(|first| first != FirstUpdateType::Full)
        {
            return usage(
                "first_update_type is not Full, but the cache has full updates only: it can't perform the update",
            );
        }
        if types != UpdateTypes::OnlyFull && mode != FirstUpdateMode::Skip && first.is_none() {
            return usage(
                "first_update_type must be given where the start waits for an update: Full, Incremental or IncrementalThenAsyncFull",
            );
        }
        let meaningless = mode == FirstUpdateMode::Skip && first.is_some();
        Ok(meaningless.then_some(
            "first_update_type makes no start wait with FirstUpdateMode::Skip; it says of which type the first periodic update is",
        ))
    }
}

/// How a cache is updated.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheOptions {
    /// The time between updates, more than 0, counted from the end of one to the beginning of the next. Default: 1 minute.
    pub update_interval: Duration,
    /// Each interval is up to so much shorter or longer, at random; less than the interval, or else a tenth of it is taken.
    /// Default: a tenth of the interval.
    pub update_jitter: Option<Duration>,
    /// With `FullAndIncremental`: the time between full updates. Default: none.
    pub full_update_interval: Option<Duration>,
    /// The same for them. Default: a tenth of it.
    pub full_update_jitter: Option<Duration>,
    /// The time to the next update after one that failed. Default: `update_interval`.
    pub exception_interval: Option<Duration>,
    /// Which updates there are. Default: `FullAndIncremental` if `full_update_interval` is given, otherwise `OnlyFull`.
    pub update_types: Option<UpdateTypes>,
    /// Whether there are periodic updates. Without, the first one is made all the same, unless it may fail. Default: yes.
    pub updates_enabled: bool,
    /// The service starts with an empty cache if its first update fails. Default: no.
    pub first_update_fail_ok: bool,
    /// The period is counted from the beginning of an update. Default: no.
    pub is_strong_period: bool,
    /// After so many failed updates in a row, at least 1, the cache is empty. Default: never.
    pub failed_updates_before_expiration: Option<u64>,
    /// Ask [`Updater::pre_assign_check`](crate::Updater::pre_assign_check) before a value is replaced. Default: no.
    pub has_pre_assign_check: bool,
    /// After so many failed updates in a row, [`Stats::is_alert`](crate::Stats::is_alert) is set and an error is logged.
    /// Default: 0, which is never.
    pub alert_on_failing_to_update_times: u64,
    /// How often it is looked whether an old value is used no longer: the cache's thread drops it then, never a reader.
    /// Default: 10 s.
    pub additional_cleanup_interval: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            update_interval: Duration::from_secs(60),
            update_jitter: None,
            full_update_interval: None,
            full_update_jitter: None,
            exception_interval: None,
            update_types: None,
            updates_enabled: true,
            first_update_fail_ok: false,
            is_strong_period: false,
            failed_updates_before_expiration: None,
            has_pre_assign_check: false,
            alert_on_failing_to_update_times: 0,
            additional_cleanup_interval: Duration::from_secs(10),
        }
    }
}

impl CacheOptions {
    /// Every so often.
    pub fn every(update_interval: Duration) -> Self {
        Self {
            update_interval,
            ..Self::default()
        }
    }

    pub(crate) fn types(&self) -> UpdateTypes {
        self.update_types
            .unwrap_or(match self.full_update_interval {
                Some(_) => UpdateTypes::FullAndIncremental,
                None => UpdateTypes::OnlyFull,
            })
    }

    /// Whether they make sense.
    ///
    /// # Errors
    /// `Usage`: which one does not, and what would.
    pub fn validate(&self) -> Result<(), SnapshotError> {
        if self.update_interval.is_zero() {
            return usage("update_interval must be positive");
        }
        if self.full_update_interval == Some(Duration::ZERO) {
            return usage("full_update_interval must be positive");
        }
        if self.exception_interval == Some(Duration::ZERO) {
            return usage("exception_interval must be positive");
        }
        if self.failed_updates_before_expiration == Some(0) {
            return usage("failed_updates_before_expiration must not be 0: None is never");
        }
        match (self.types(), self.full_update_interval) {
            (UpdateTypes::FullAndIncremental, None) => {
                usage("update_types is FullAndIncremental: full_update_interval must be given")
            }
            (UpdateTypes::OnlyFull | UpdateTypes::OnlyIncremental, Some(_)) => usage(
                "full_update_interval is given, but update_types is not FullAndIncremental: remove one of them",
            ),
            _ => Ok(()),
        }
    }
}

/// What is changed while the service runs: the original's `USERVER_DUMPS` and `USERVER_CACHES`. What is `None` is as the
/// options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconfiguration {
    /// Instead of [`SnapshotOptions::enable`].
    pub dumps_enabled: Option<bool>,
    /// Instead of [`SnapshotOptions::min_interval`].
    pub min_dump_interval: Option<Duration>,
    /// Instead of [`CacheOptions::update_interval`].
    pub update_interval: Option<Duration>,
    /// Instead of [`CacheOptions::update_jitter`].
    pub update_jitter: Option<Duration>,
    /// Instead of [`CacheOptions::full_update_interval`].
    pub full_update_interval: Option<Duration>,
    /// Instead of [`CacheOptions::full_update_jitter`].
    pub full_update_jitter: Option<Duration>,
    /// Instead of [`CacheOptions::exception_interval`].
    pub exception_interval: Option<Duration>,
    /// Instead of [`CacheOptions::updates_enabled`].
    pub updates_enabled: Option<bool>,
    /// Instead of [`CacheOptions::alert_on_failing_to_update_times`].
    pub alert_on_failing_to_update_times: Option<u64>,
}

impl Reconfiguration {
    pub(crate) fn is_about_snapshots(&self) -> bool {
        self.dumps_enabled.is_some() || self.min_dump_interval.is_some()
    }

    /// The options as they are then.
    pub(crate) fn of_updates(&self, options: &CacheOptions) -> Result<CacheOptions, SnapshotError> {
        let own = options.clone();
        let options = CacheOptions {
            update_interval: self.update_interval.unwrap_or(own.update_interval),
            update_jitter: self.update_jitter.or(own.update_jitter),
            full_update_interval: self.full_update_interval.or(own.full_update_interval),
            full_update_jitter: self.full_update_jitter.or(own.full_update_jitter),
            exception_interval: self.exception_interval.or(own.exception_interval),
            // Which updates there are does not change.
            update_types: Some(own.types()),
            updates_enabled: self.updates_enabled.unwrap_or(own.updates_enabled),
            alert_on_failing_to_update_times: self
                .alert_on_failing_to_update_times
                .unwrap_or(own.alert_on_failing_to_update_times),
            ..own
        };
        options.validate()?;
        Ok(options)
    }
}

fn usage<T>(message: impl Into<String>) -> Result<T, SnapshotError> {
    Err(SnapshotError::new(ErrorKind::Usage, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of the original, a to e.
    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let with = |change: fn(&mut SnapshotOptions)| {
            let mut options = SnapshotOptions::default();
            change(&mut options);
            options
        };
        let text = |options: &SnapshotOptions, types| match options.validate_with(types) {
            Ok(None) => String::new(),
            Ok(Some(warning)) => format!("warning: {warning}"),
            Err(error) => error.to_string(),
        };
        use {FirstUpdateMode as Mode, FirstUpdateType as Type, UpdateTypes as Types};
        assert_eq!(text(&SnapshotOptions::default(), Types::OnlyFull), "");
        let skip = with(|options| options.first_update_mode = Mode::Skip);
        assert!(text(&skip, Types::OnlyFull).starts_with("max_age must be given"));
        let unlimited = SnapshotOptions {
            max_age: Some(MaxAge::Unlimited),
            ..skip
        };
        assert_eq!(text(&unlimited, Types::OnlyIncremental), "");
        let meaningless = SnapshotOptions {
            first_update_type: Some(Type::Full),
            ..unlimited
        };
        assert!(text(&meaningless, Types::OnlyFull).starts_with("warning: first_update_type"));
        let cannot = with(|options| options.first_update_type = Some(Type::Incremental));
        assert!(text(&cannot, Types::OnlyFull).ends_with("it can't perform the update"));
        assert_eq!(text(&cannot, Types::OnlyIncremental), "");
        let missing = text(&SnapshotOptions::default(), Types::FullAndIncremental);
        assert!(missing.starts_with("first_update_type must be given"));
        let no_age = with(|options| options.max_age = Some(MaxAge::AtMost(Duration::ZERO)));
        assert_eq!(text(&no_age, Types::OnlyFull), "max_age must be positive");
        let no_count = with(|options| options.max_count = 0);
        assert!(text(&no_count, Types::OnlyFull).starts_with("max_count must not be 0"));
        let threads = with(|options| options.decode_threads = 65);
        assert_eq!(
            text(&threads, Types::OnlyFull),
            "decode_threads is 65: give 1 to 64"
        );
    }

    #[test]
    fn intervals_and_types_must_fit() {
        let second = Duration::from_secs(1);
        let with = |change: fn(&mut CacheOptions)| {
            let mut options = CacheOptions::default();
            change(&mut options);
            options.validate().map(|()| options.types())
        };
        assert_eq!(with(|_| {}).unwrap(), UpdateTypes::OnlyFull);
        assert_eq!(
            with(|options| options.full_update_interval = Some(Duration::from_secs(9))).unwrap(),
            UpdateTypes::FullAndIncremental
        );
        for wrong in [
            (|options| options.update_interval = Duration::ZERO) as fn(&mut CacheOptions),
            |options| options.full_update_interval = Some(Duration::ZERO),
            |options| options.exception_interval = Some(Duration::ZERO),
            |options| options.failed_updates_before_expiration = Some(0),
            |options| options.update_types = Some(UpdateTypes::FullAndIncremental),
            |options| {
                options.update_types = Some(UpdateTypes::OnlyFull);
                options.full_update_interval = Some(Duration::from_secs(9));
            },
        ] {
            assert_eq!(with(wrong).unwrap_err().kind(), ErrorKind::Usage);
        }
        assert_eq!(CacheOptions::every(second).update_interval, second);
    }
}
