//! The thread that updates a cache.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::cache::Shared;
use crate::moment::Moment;
use crate::plan::Plan;
use crate::stats::Event;
use crate::writing::Value;
use crate::{
    BoxError, CacheOptions, ErrorKind, FirstUpdateMode, FirstUpdateType, SnapshotError, Update,
    UpdateRequest, UpdateType, Updater, ValueTimes,
};

/// A clock that went back by no more than this is not believed: times of updates never go back.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

pub(crate) struct Updating<T, U> {
    shared: Arc<Shared<T>>,
    updater: U,
    options: CacheOptions,
    plan: Plan,
    begin: Instant,
    last_update: Option<Moment>,
    modified: Option<Moment>,
    full: Option<Moment>,
    version: u64,
    failed_in_a_row: u64,
    /// The start has made an incremental update: a full one follows at once.
    then_full: bool,
    /// Values that were replaced, while somebody still reads them.
    retired: Vec<Arc<T>>,
}

impl<T: Send + Sync + 'static, U: Updater<T>> Updating<T, U> {
    pub(crate) fn new(shared: Arc<Shared<T>>, updater: U, options: CacheOptions) -> Self {
        Self {
            shared,
            updater,
            plan: Plan::new(options.clone()),
            options,
            begin: Instant::now(),
            last_update: None,
            modified: None,
            full: None,
            version: 0,
            failed_in_a_row: 0,
            then_full: false,
            retired: Vec::new(),
        }
    }

    /// The thread. Tells whether the start has succeeded, as soon as it is known.
    pub(crate) fn run(mut self, started: impl FnOnce(Result<(), SnapshotError>)) {
        let start = self.start();
        let has_started = start.is_ok();
        started(start);
        if has_started {
            self.go_on();
        }
        let mut control = self.shared.control();
        control.has_ended = true;
        self.shared.changed.notify_all();
    }

    fn start(&mut self) -> Result<(), SnapshotError> {
        let mode = self.load();
        let waits = match mode {
            None => self.options.updates_enabled || !self.options.first_update_fail_ok,
            Some((mode, must_wait)) => mode != FirstUpdateMode::Skip || must_wait,
        };
        if !waits {
            return Ok(());
        }
        let kind = self.plan.next(self.begin.elapsed());
        let updated = self.update(kind);
        self.then_full = self.plan.first_is_over();
        let Err(error) = updated else {
            return Ok(());
        };
        let may_fail = mode.is_some_and(|(mode, _)| mode != FirstUpdateMode::Required)
            || self.options.first_update_fail_ok;
        match may_fail {
            true => {
                tracing::warn!(cache = %self.shared.name, %error, "the first update failed: going on without it");
                Ok(())
            }
            false => Err(error),
        }
    }

    /// Loads a snapshot. If there is one: what becomes of the first update, and whether to wait for it all the same.
    fn load(&mut self) -> Option<(FirstUpdateMode, bool)> {
        let snapshots = self.shared.snapshots.clone()?;
        let options = snapshots.options();
        let answer = (
            options.first_update_mode,
            options.wait_for_first_update,
            options.first_update_type.unwrap_or(FirstUpdateType::Full),
        );
        let loaded = snapshots.load(self.version + 1)?;
        self.version += 1;
        let times = loaded.value.times;
        let now = Moment::now();
        self.last_update = (!loaded.is_from_future).then(|| Moment::of(times.updated));
        self.modified = Some(Moment::of(times.modified));
        self.full = times.full.map(Moment::of);
        let full_age = times
            .full
            .and_then(|full| now.time().duration_since(full).ok());
        self.plan.loaded(
            answer.2,
            full_age,
            !loaded.is_from_future,
            self.begin.elapsed(),
        );
        self.publish(loaded.value.value);
        Some((answer.0, answer.1))
    }

    fn go_on(&mut self) {
        let mut last = (Instant::now(), Instant::now());
        let mut period = self.plan.period(self.failed_in_a_row > 0);
        // After an incremental update that the start waited for.
        let mut at_once = std::mem::take(&mut self.then_full);
        loop {
            let from = match self.options.is_strong_period {
                true => last.0,
                false => last.1,
            };
            let due = match (at_once, self.options.updates_enabled) {
                (true, _) => Some(Instant::now()),
                (false, true) => from.checked_add(period),
                (false, false) => None,
            };
            let wanted = match self.wait(due) {
                Wake::Update(wanted) => wanted,
                Wake::Reconfigured => {
                    period = self.plan.period(self.failed_in_a_row > 0);
                    continue;
                }
                Wake::End => return,
            };
            let begin = Instant::now();
            let kind = self.plan.next(self.begin.elapsed());
            let result = self.update(kind);
            at_once = self.plan.first_is_over();
            last = (begin, Instant::now());
            period = self.plan.period(result.is_err());
            let mut control = self.shared.control();
            control.last = result;
            control.done = wanted;
            self.shared.changed.notify_all();
        }
    }

    /// Until `due`, or until somebody asks for something.
    fn wait(&mut self, due: Option<Instant>) -> Wake {
        let shared = self.shared.clone();
        let mut control = shared.control();
        loop {
            if control.stop {
                return Wake::End;
            }
            if let Some(options) = control.reconfigured.take() {
                self.plan.reconfigured(options.clone());
                self.options = options;
                return Wake::Reconfigured;
            }
            if std::mem::take(&mut control.cleared) {
                self.modified = None;
                self.last_update = None;
                self.plan.cleared();
            }
            if let Some(kind) = control.invalidated.take() {
                self.plan.invalidate(kind);
                return Wake::Update(control.wanted);
            }
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                return Wake::Update(control.wanted);
            }
            // Dropping a large value takes long: nobody should wait for it, neither a reader nor who holds the lock.
            drop(control);
            self.retired.retain(|value| Arc::strong_count(value) > 1);
            control = shared.control();
            if control.stop
                || control.cleared
                || control.invalidated.is_some()
                || control.reconfigured.is_some()
            {
                continue;
            }
            let look = (!self.retired.is_empty())
                .then(|| now.checked_add(self.options.additional_cleanup_interval))
                .flatten();
            let until = [due, look].into_iter().flatten().min();
            control = match until {
                None => shared
                    .changed
                    .wait(control)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let span = until.saturating_duration_since(now);
                    shared
                        .changed
                        .wait_timeout(control, span)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    fn update(&mut self, kind: UpdateType) -> Result<(), SnapshotError> {
        let (now, begin) = (not_before(self.last_update, Moment::now()), Instant::now());
        self.shared.counts.tell(Event::Updating(kind));
        match self.try_update(kind, now) {
            Ok(is_new) => {
                self.last_update = Some(now);
                if kind == UpdateType::Full {
                    self.full = Some(now);
                }
                if is_new {
                    self.modified = Some(now);
                }
                self.plan.succeeded(kind, self.begin.elapsed());
                self.failed_in_a_row = 0;
                self.shared.counts.tell(Event::Updated {
                    kind,
                    is_new,
                    began: now.time(),
                    took: begin.elapsed(),
                });
                self.tell_writer(now);
                Ok(())
            }
            Err(error) => {
                self.failed(kind, &error);
                Err(error)
            }
        }
    }

    /// `true` if there is another value.
    fn try_update(&mut self, kind: UpdateType, now: Moment) -> Result<bool, SnapshotError> {
        let request = UpdateRequest {
            kind,
            last_update: self.last_update.map(Moment::time),
            now: now.time(),
            current: self.shared.value.load_full(),
        };
        let update = catch_unwind(AssertUnwindSafe(|| self.updater.update(request)))
            .map_err(|panic| SnapshotError::panicked("the updater", &*panic))?
            .map_err(failed_update)?;
        match update {
            Update::NoChange => Ok(false),
            Update::New(value) => {
                if self.options.has_pre_assign_check {
                    self.check(&value)?;
                }
                self.version += 1;
                self.publish(Arc::new(value));
                Ok(true)
            }
        }
    }

    fn check(&self, new: &T) -> Result<(), SnapshotError> {
        let old = self.shared.value.load_full();
        let count = |value: &T| {
            let snapshots = self.shared.snapshots.as_ref()?;
            snapshots.element_count(value)
        };
        if count(new) == Some(0) && old.as_deref().and_then(count).is_some_and(|old| old > 0) {
            return Err(SnapshotError::new(
                ErrorKind::Update,
                format!(
                    "overwriting the cache `{}` with empty data is not allowed: has_pre_assign_check is set",
                    self.shared.name
                ),
            ));
        }
        catch_unwind(AssertUnwindSafe(|| {
            self.updater.pre_assign_check(old.as_deref(), new)
        }))
        .map_err(|panic| SnapshotError::panicked("pre_assign_check", &*panic))?
        .map_err(failed_update)
    }

    fn publish(&mut self, value: Arc<T>) {
        self.retired.extend(self.shared.publish(Some(value)));
    }

    fn tell_writer(&mut self, now: Moment) {
        let Some(snapshots) = &self.shared.snapshots else {
            return;
        };
        let Some(value) = self.shared.value.load_full() else {
            tracing::warn!(cache = %self.shared.name, "no successful updates have been performed");
            return;
        };
        let time = |moment: Option<Moment>| moment.unwrap_or(now).time();
        snapshots.updated(Value {
            value,
            times: ValueTimes {
                updated: now.time(),
                modified: time(self.modified),
                full: self.full.map(Moment::time),
            },
            version: self.version,
        });
    }

    fn failed(&mut self, kind: UpdateType, error: &SnapshotError) {
        self.failed_in_a_row += 1;
        let alert_at = self.options.alert_on_failing_to_update_times;
        let is_alert = alert_at > 0 && self.failed_in_a_row >= alert_at;
        let (cache, times) = (&self.shared.name, self.failed_in_a_row);
        match is_alert {
            true => tracing::error!(%cache, %error, times, "cache_update_error"),
            false => tracing::warn!(%cache, %error, times, "an update failed"),
        }
        self.shared
            .counts
            .tell(Event::UpdateFailed { kind, is_alert });
        if self.options.failed_updates_before_expiration == Some(self.failed_in_a_row) {
            tracing::warn!(%cache, times, "the value has expired");
            self.shared.counts.tell(Event::Expired);
            self.retired.extend(self.shared.publish(None));
            self.last_update = None;
            self.plan.cleared();
        }
    }
}

/// When an update begins: never before the one before it, as far as a clock that was put right allows.
fn not_before(last: Option<Moment>, now: Moment) -> Moment {
    match last {
        Some(last) if last > now && last <= now.after(CLOCK_TOLERANCE) => last,
        _ => now,
    }
}

/// What ends a wait.
enum Wake {
    /// An update, which those wait for who asked until this number.
    Update(u64),
    /// The intervals may be others.
    Reconfigured,
    End,
}

fn failed_update(error: BoxError) -> SnapshotError {
    SnapshotError::new(ErrorKind::Update, "the update failed").because(error)
}

/// The time of a request, for tests of updaters.
impl<T> UpdateRequest<T> {
    /// A request as a cache makes it.
    pub fn new(kind: UpdateType, last_update: Option<SystemTime>, current: Option<Arc<T>>) -> Self {
        Self {
            kind,
            last_update,
            now: Moment::now().time(),
            current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_a_little_is_not_believed() {
        let at = |seconds: i64| Moment(seconds * 1_000_000);
        assert_eq!(not_before(None, at(5)), at(5));
        assert_eq!(not_before(Some(at(3)), at(5)), at(5));
        assert_eq!(not_before(Some(at(7)), at(5)), at(7));
        assert_eq!(not_before(Some(at(305)), at(5)), at(305));
        // It was wrong before.
        assert_eq!(not_before(Some(at(306)), at(5)), at(5));
    }
}
