//! The thread that writes snapshots: when, and what. Serializing never happens on a thread of the service's runtime.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pace::Cancel;
use crate::seeded::random;
use crate::stats::{Counts, Event, WriteOutcome};
use crate::{
    Dumpable, ErrorKind, Reconfiguration, SnapshotError, SnapshotFolder, SnapshotName,
    SnapshotOptions, ValueTimes,
};

/// A value that is to be in a snapshot.
pub(crate) struct Value<T> {
    pub(crate) value: Arc<T>,
    pub(crate) times: ValueTimes,
    /// Another number for each other value.
    pub(crate) version: u64,
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            ..*self
        }
    }
}

/// What the newest file has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dumped {
    pub(crate) name: SnapshotName,
    pub(crate) version: u64,
    pub(crate) content: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// After one more snapshot, if anything is new.
    AfterLast,
    Now,
}

struct State<T> {
    value: Option<Value<T>>,
    dumped: Option<Dumped>,
    /// When the first update came that no attempt has seen.
    updated_at: Option<Duration>,
    attempt: Option<Attempt>,
    reconfiguration: Reconfiguration,
    /// Snapshots that somebody waits for, and how many of those were attempted.
    wanted: u64,
    done: u64,
    last: Result<WriteOutcome, SnapshotError>,
    stop: Stop,
    has_ended: bool,
}

/// The last attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    ended: Duration,
    has_failed: bool,
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Write,
    /// Until something changes, or at most so long.
    Wait(Option<Duration>),
}

/// When to write: all times from one beginning. `updated_at` is when the first update came that is not written.
fn next(
    now: Duration,
    updated_at: Option<Duration>,
    attempt: Option<Attempt>,
    is_enabled: bool,
    min_interval: Duration,
    jitter: Duration,
) -> Next {
    if !is_enabled {
        return Next::Wait(None);
    }
    let cooled = attempt.map(|attempt| attempt.ended.saturating_add(min_interval));
    let due = match (updated_at, attempt) {
        (Some(updated_at), _) => cooled.unwrap_or_default().max(updated_at),
        // A failed write is repeated without new data, but never in a hurry.
        (None, Some(attempt)) if attempt.has_failed && !min_interval.is_zero() => {
            cooled.unwrap_or_default()
        }
        (None, _) => return Next::Wait(None),
    };
    match due.saturating_add(jitter).checked_sub(now) {
        None | Some(Duration::ZERO) => Next::Write,
        Some(wait) => Next::Wait(Some(wait)),
    }
}

/// Where updates and wishes are left for the thread.
pub(crate) struct Writing<T> {
    folder: SnapshotFolder,
    state: Mutex<State<T>>,
    changed: Condvar,
    cancel: Cancel,
    counts: Arc<Counts>,
    begin: Instant,
    /// What else is done with a new file.
    written: Box<dyn Fn() + Send + Sync>,
}

impl<T: Dumpable + Sync> Writing<T> {
    pub(crate) fn new(
        folder: SnapshotFolder,
        counts: Arc<Counts>,
        written: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            folder,
            state: Mutex::new(State {
                value: None,
                dumped: None,
                updated_at: None,
                attempt: None,
                reconfiguration: Reconfiguration::default(),
                wanted: 0,
                done: 0,
                last: Ok(WriteOutcome::UpToDate),
                stop: Stop::No,
                has_ended: false,
            }),
            changed: Condvar::new(),
            cancel: Cancel::default(),
            counts,
            begin: Instant::now(),
            written: Box::new(written),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn folder(&self) -> &SnapshotFolder {
        &self.folder
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled(&self.state())
    }

    fn options(&self) -> &SnapshotOptions {
        self.folder.options()
    }

    fn enabled(&self, state: &State<T>) -> bool {
        let now = state.reconfiguration.dumps_enabled;
        now.unwrap_or(self.options().enable)
    }

    pub(crate) fn reconfigure(&self, reconfiguration: Reconfiguration) {
        self.state().reconfiguration = reconfiguration;
        self.changed.notify_all();
    }

    /// The value came from this file: it is not written back.
    pub(crate) fn loaded(&self, value: Value<T>, dumped: Dumped) {
        let mut state = self.state();
        state.value = Some(value);
        state.dumped = Some(dumped);
    }

    /// The value is this one, at this time.
    pub(crate) fn updated(&self, value: Value<T>) {
        let mut state = self.state();
        state.value = Some(value);
        state.updated_at.get_or_insert_with(|| self.begin.elapsed());
        self.changed.notify_all();
    }

    /// There is no value. The snapshot that is there stays as it is: it must not seem to be fresh.
    pub(crate) fn cleared(&self) {
        let mut state = self.state();
        state.value = None;
        state.updated_at = None;
    }

    /// Asks for a snapshot at once, and waits for it.
    pub(crate) fn write_now(&self) -> Result<WriteOutcome, SnapshotError> {
        let mut state = self.state();
        if !self.enabled(&state) {
            return Err(SnapshotError::new(
                ErrorKind::Usage,
                "snapshots are switched off: set `enable`, or `dumps_enabled` when reconfiguring",
            ));
        }
        state.wanted += 1;
        let own = state.wanted;
        self.changed.notify_all();
        while state.done < own && !state.has_ended {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match state.done < own {
            true => Err(ended()),
            false => state.last.clone(),
        }
    }

    /// One more snapshot if anything is new, until `deadline`; then a write is broken off. `Ok` if nothing is left to write.
    pub(crate) fn finish(&self, deadline: Instant) -> Result<WriteOutcome, SnapshotError> {
        let mut state = self.state();
        if state.stop == Stop::No {
            state.stop = Stop::AfterLast;
        }
        self.changed.notify_all();
        while !state.has_ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                drop(state);
                self.stop();
                state = self.state();
                while !state.has_ended {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                break;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.last.clone()
    }

    /// At once; a write that is under way is broken off between frames.
    pub(crate) fn stop(&self) {
        self.state().stop = Stop::Now;
        self.cancel.cancel();
        self.changed.notify_all();
    }

    /// The thread.
    pub(crate) fn run(&self) {
        let mut jitter = self.jitter();
        while let Some((value, wanted)) = self.wait(jitter) {
            let written = self.write(&value);
            if let Err(error) = &written {
                tracing::error!(path = %self.folder.path().display(), %error, "failed to write a dump");
                self.counts.tell(Event::WriteFailed(error.kind()));
            }
            let mut state = self.state();
            state.attempt = Some(Attempt {
                ended: self.begin.elapsed(),
                has_failed: written.is_err(),
            });
            state.last = written;
            // Who asked before it began has an answer.
            state.done = wanted;
            self.changed.notify_all();
            jitter = self.jitter();
        }
        self.state().has_ended = true;
        self.changed.notify_all();
    }

    fn jitter(&self) -> Duration {
        match self.options().write_jitter.as_nanos() as u64 {
            0 => Duration::ZERO,
            nanos => Duration::from_nanos(random() % nanos),
        }
    }

    /// Until something is to be written; `None` is the end.
    fn wait(&self, jitter: Duration) -> Option<(Option<Value<T>>, u64)> {
        let mut state = self.state();
        loop {
            let is_enabled = self.enabled(&state);
            let has_news = state.updated_at.is_some()
                || state.attempt.is_some_and(|attempt| attempt.has_failed);
            let next = match state.stop {
                Stop::Now => return None,
                Stop::AfterLast if is_enabled && has_news => {
                    state.stop = Stop::Now;
                    Next::Write
                }
                Stop::AfterLast => return None,
                Stop::No if state.wanted > state.done => Next::Write,
                Stop::No => {
                    let min_interval = state.reconfiguration.min_dump_interval;
                    next(
                        self.begin.elapsed(),
                        state.updated_at,
                        state.attempt,
                        is_enabled,
                        min_interval.unwrap_or(self.options().min_interval),
                        jitter,
                    )
                }
            };
            state = match next {
                Next::Write => {
                    state.updated_at = None;
                    return Some((state.value.clone(), state.wanted));
                }
                Next::Wait(None) => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(span)) => {
                    self.changed
                        .wait_timeout(state, span)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    fn write(&self, value: &Option<Value<T>>) -> Result<WriteOutcome, SnapshotError> {
        let Some(value) = value else {
            return Err(SnapshotError::new(
                ErrorKind::Empty,
                "not ready to write a dump: there is no value",
            ));
        };
        let _turn = self.options().fs_task_processor.as_deref().map(Turn::take);
        let begin = Instant::now();
        let (outcome, dumped, bytes) = self.dump(value)?;
        self.state().dumped = dumped;
        self.counts.tell(Event::Wrote {
            outcome,
            took: begin.elapsed(),
            bytes,
            updated: value.times.updated,
        });
        if outcome == WriteOutcome::Written {
            (self.written)();
        }
        Ok(outcome)
    }

    fn dump(&self, value: &Value<T>) -> Result<(WriteOutcome, Option<Dumped>, u64), SnapshotError> {
        let dumped = self.state().dumped;
        let mut is_same = dumped.is_some_and(|dumped| dumped.version == value.version);
        if !is_same
            && self.options().skip_same_content
            && let Some(dumped) = &dumped
        {
            let content = crate::layout::content(&*value.value, self.options().compression)?;
            is_same = content == dumped.content;
        }
        if let Some(dumped) = dumped.filter(|_| is_same) {
            let name = SnapshotName::new(value.times.updated, dumped.name.format_version);
            let at = |name| Dumped {
                name,
                version: value.version,
                ..dumped
            };
            if name == dumped.name && self.folder.path().join(name.to_string()).exists() {
                tracing::debug!("skipped dump, because nothing has been updated");
                return Ok((WriteOutcome::UpToDate, Some(at(name)), 0));
            }
            match self
                .folder
                .bump_unless(&dumped.name, value.times.updated, &self.cancel)
            {
                Ok(bumped) => {
                    return Ok((WriteOutcome::Bumped, Some(at(bumped.name)), bumped.bytes));
                }
                Err(error) => {
                    tracing::warn!(%error, "the previous dump has suddenly disappeared. A new dump will be created.");
                }
            }
        }
        let written = self
            .folder
            .write_unless(&*value.value, value.times, &self.cancel);
        match written {
            Ok(written) => {
                let dumped = Dumped {
                    name: written.name,
                    version: value.version,
                    content: written.content,
                };
                Ok((WriteOutcome::Written, Some(dumped), written.bytes))
            }
            Err(error) if error.kind() == ErrorKind::EmptyValue => {
                tracing::warn!(%error, "an empty value was not written");
                Ok((WriteOutcome::Empty, dumped, 0))
            }
            Err(error) => Err(error),
        }
    }
}

fn ended() -> SnapshotError {
    SnapshotError::new(ErrorKind::Cancelled, "the cache was shut down")
}

/// Caches that name the same `fs_task_processor` write one at a time.
struct Turn(&'static Mutex<bool>, &'static Condvar);

impl Turn {
    fn take(name: &str) -> Turn {
        type Turns = BTreeMap<String, (&'static Mutex<bool>, &'static Condvar)>;
        static TURNS: Mutex<Turns> = Mutex::new(BTreeMap::new());
        let (is_taken, freed) = *TURNS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name.to_owned())
            // As many as there are names in the program's settings: for its life.
            .or_insert_with(|| (Box::leak(Box::default()), Box::leak(Box::default())));
        let guard = is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guard = freed
            .wait_while(guard, |is_taken| *is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        *guard = true;
        Turn(is_taken, freed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ended(seconds: u64, has_failed: bool) -> Option<Attempt> {
        Some(Attempt {
            ended: s(seconds),
            has_failed,
        })
    }

    #[test]
    fn when_to_write() {
        let none = Duration::ZERO;
        // The first one at once; nothing without an update.
        assert_eq!(next(s(5), Some(s(5)), None, true, s(60), none), Next::Write);
        assert_eq!(next(s(5), None, None, true, s(60), none), Next::Wait(None));
        // Then from the end of an attempt, whether it has failed or not.
        for has_failed in [false, true] {
            let attempt = ended(10, has_failed);
            assert_eq!(
                next(s(20), Some(s(15)), attempt, true, s(60), none),
                Next::Wait(Some(s(50)))
            );
            assert_eq!(
                next(s(70), Some(s(15)), attempt, true, s(60), none),
                Next::Write
            );
        }
        // An update long after it is written at once.
        assert_eq!(
            next(s(500), Some(s(500)), ended(10, false), true, s(60), none),
            Next::Write
        );
        // A failed one is repeated without an update, if there is an interval.
        let failed = ended(10, true);
        assert_eq!(
            next(s(20), None, failed, true, s(60), none),
            Next::Wait(Some(s(50)))
        );
        assert_eq!(next(s(70), None, failed, true, s(60), none), Next::Write);
        assert_eq!(
            next(s(70), None, failed, true, none, none),
            Next::Wait(None)
        );
        assert_eq!(
            next(s(70), Some(s(70)), failed, true, none, none),
            Next::Write
        );
        // Switched off.
        assert_eq!(
            next(s(70), Some(s(1)), failed, false, none, none),
            Next::Wait(None)
        );
        // Jitter comes on top, also for the first.
        assert_eq!(
            next(s(5), Some(s(5)), None, true, s(60), s(3)),
            Next::Wait(Some(s(3)))
        );
        assert_eq!(next(s(8), Some(s(5)), None, true, s(60), s(3)), Next::Write);
    }

    #[test]
    fn one_at_a_time() {
        let turn = Turn::take("one_at_a_time");
        let other = Turn::take("another");
        let (to, from) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _turn = Turn::take("one_at_a_time");
            to.send(()).unwrap();
        });
        assert!(from.try_recv().is_err());
        drop(turn);
        from.recv().unwrap();
        waiting.join().unwrap();
        drop(other);
    }
}
