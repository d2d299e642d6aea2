//! A value in memory, read without locks, updated by a thread, and kept in snapshots.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::reader::DECODER_STACK_BYTES;
use crate::stats::{Counts, Event};
use crate::updating::Updating;
use crate::writing::{Dumped, Value, Writing};
use crate::{
    CacheOptions, Dumpable, ErrorKind, Keys, Reconfiguration, SnapshotError, SnapshotFolder,
    SnapshotOptions, Stats, UpdateType, Updater, WriteOutcome,
};

/// A value in memory that is updated periodically, read without locks, and there again after a restart.
///
/// Clones are the same cache. When the last of them goes, its threads end: a snapshot that is being written is broken off, and
/// an update that is being made is waited for. [`shutdown`](Cache::shutdown) writes one more snapshot first.
pub struct Cache<T> {
    shared: Arc<Shared<T>>,
    /// Ends the threads.
    _owner: Arc<Owner<T>>,
}

impl<T> Clone for Cache<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            _owner: self._owner.clone(),
        }
    }
}

/// What the handles and the threads have in common.
pub(crate) struct Shared<T> {
    pub(crate) name: String,
    pub(crate) value: ArcSwapOption<T>,
    pub(crate) control: Mutex<Control>,
    pub(crate) changed: Condvar,
    listeners: Mutex<Listeners<T>>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) snapshots: Option<Arc<dyn Snapshots<T>>>,
    /// As they were given.
    options: CacheOptions,
}

/// What is asked of the thread that updates.
pub(crate) struct Control {
    /// The strongest update that was asked for since it last looked.
    pub(crate) invalidated: Option<UpdateType>,
    pub(crate) cleared: bool,
    /// Updates that somebody waits for, and how many of those were made.
    pub(crate) wanted: u64,
    pub(crate) done: u64,
    pub(crate) last: Result<(), SnapshotError>,
    pub(crate) reconfigured: Option<CacheOptions>,
    pub(crate) stop: bool,
    pub(crate) has_ended: bool,
}

type Listener<T> = Box<dyn FnMut(&Arc<T>) + Send>;

struct Listeners<T> {
    next: u64,
    all: Vec<(u64, Listener<T>)>,
}

impl<T> Shared<T> {
    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the value, tells the listeners of the new one, and gives back the old one.
    pub(crate) fn publish(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        // Whoever begins to listen meanwhile gets either value, and each of them once.
        let mut listeners = self.listeners();
        let documents = self
            .snapshots
            .as_ref()
            .zip(value.as_ref())
            .and_then(|(snapshots, value)| snapshots.element_count(value));
        self.counts.tell(Event::Documents(documents));
        let old = self.value.swap(value.clone());
        match value {
            Some(value) => {
                for (_, listener) in &mut listeners.all {
                    tell(&self.name, listener, &value);
                }
            }
            None => {
                if let Some(snapshots) = &self.snapshots {
                    snapshots.cleared();
                }
            }
        }
        old
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners<T>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic of a listener concerns nobody else.
fn tell<T>(cache: &str, listener: &mut Listener<T>, value: &Arc<T>) {
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(value)));
    if let Err(panic) = told {
        let error = SnapshotError::panicked("a listener", &*panic);
        tracing::error!(cache, %error, "a listener failed");
    }
}

/// A value that was loaded.
pub(crate) struct LoadedValue<T> {
    pub(crate) value: Value<T>,
    pub(crate) is_from_future: bool,
}

/// The snapshots of a cache, whose type of value need not be dumpable for all that the cache does.
pub(crate) trait Snapshots<T>: Send + Sync {
    fn options(&self) -> SnapshotOptions;
    fn load(&self, version: u64) -> Option<LoadedValue<T>>;
    fn updated(&self, value: Value<T>);
    fn cleared(&self);
    fn element_count(&self, value: &T) -> Option<u64>;
    fn write_now(&self) -> Result<WriteOutcome, SnapshotError>;
    fn reconfigure(&self, reconfiguration: Reconfiguration);
    fn finish(&self, deadline: Instant) -> Result<WriteOutcome, SnapshotError>;
    fn stop(&self);
    fn run(&self);
}

struct Kept<T> {
    writing: Writing<T>,
    counts: Arc<Counts>,
    #[cfg(feature = "store")]
    copying: Option<Arc<crate::remote::Copying>>,
}

impl<T: Dumpable + Sync> Kept<T> {
    #[cfg(not(feature = "store"))]
    fn new(folder: SnapshotFolder, counts: Arc<Counts>, _: &Remote) -> Result<Self, SnapshotError> {
        Ok(Self {
            writing: Writing::new(folder, counts.clone(), || {}),
            counts,
        })
    }

    #[cfg(feature = "store")]
    fn new(
        folder: SnapshotFolder,
        counts: Arc<Counts>,
        remote: &Remote,
    ) -> Result<Self, SnapshotError> {
        let copying = match remote {
            None => None,
            Some(copies) => {
                copies.check(folder.cache())?;
                let copies = copies.clone();
                let (folder, counts) = (folder.clone(), counts.clone());
                Some(crate::remote::Copying::start(copies, folder, counts)?)
            }
        };
        let own = copying.clone();
        let writing = Writing::new(folder, counts.clone(), move || {
            if let Some(copying) = &own {
                copying.has_new();
            }
        });
        Ok(Self {
            writing,
            counts,
            copying,
        })
    }
}

/// Where copies go.
#[cfg(feature = "store")]
type Remote = Option<crate::RemoteCopies>;
#[cfg(not(feature = "store"))]
type Remote = ();

impl<T: Dumpable + Sync> Snapshots<T> for Kept<T> {
    fn options(&self) -> SnapshotOptions {
        self.writing.folder().options().clone()
    }

    fn load(&self, version: u64) -> Option<LoadedValue<T>> {
        if !self.writing.is_enabled() {
            tracing::debug!(path = %self.writing.folder().path().display(), "snapshots are switched off");
            return None;
        }
        let begin = Instant::now();
        #[cfg(feature = "store")]
        if let Some(copying) = &self.copying {
            copying.fetch();
        }
        let found = self.writing.folder().load::<T>();
        for failure in &found.failures {
            self.counts.tell(Event::LoadFailed(failure.kind()));
        }
        let loaded = found.loaded?;
        self.counts.tell(Event::Loaded {
            took: begin.elapsed(),
            bytes: loaded.bytes,
            updated: loaded.times.updated,
        });
        let value = Value {
            value: Arc::new(loaded.value),
            times: loaded.times,
            version,
        };
        let dumped = Dumped {
            name: loaded.name,
            version,
            content: loaded.content,
        };
        self.writing.loaded(value.clone(), dumped);
        Some(LoadedValue {
            value,
            is_from_future: loaded.is_from_future,
        })
    }

    fn updated(&self, value: Value<T>) {
        self.writing.updated(value);
    }

    fn cleared(&self) {
        self.writing.cleared();
    }

    fn element_count(&self, value: &T) -> Option<u64> {
        value.element_count()
    }

    fn write_now(&self) -> Result<WriteOutcome, SnapshotError> {
        self.writing.write_now()
    }

    fn reconfigure(&self, reconfiguration: Reconfiguration) {
        self.writing.reconfigure(reconfiguration);
    }

    fn finish(&self, deadline: Instant) -> Result<WriteOutcome, SnapshotError> {
        let written = self.writing.finish(deadline);
        #[cfg(feature = "store")]
        if let Some(copying) = &self.copying {
            copying.finish(deadline);
        }
        written
    }

    fn stop(&self) {
        #[cfg(feature = "store")]
        if let Some(copying) = &self.copying {
            copying.stop();
        }
        self.writing.stop();
    }

    fn run(&self) {
        self.writing.run();
    }
}

/// Ends the threads of a cache when its last handle goes.
struct Owner<T> {
    shared: Arc<Shared<T>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop_update: Option<Box<dyn Fn() + Send + Sync>>,
}

impl<T> Owner<T> {
    fn stop_updates(&self) {
        self.shared.control().stop = true;
        self.shared.changed.notify_all();
        if let Some(stop) = &self.stop_update {
            stop();
        }
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        self.stop_updates();
        if let Some(snapshots) = &self.shared.snapshots {
            snapshots.stop();
        }
        let threads = self.threads.get_mut();
        for thread in threads.unwrap_or_else(PoisonError::into_inner).drain(..) {
            // An updater or a listener may have had the last handle.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// What a cache is to be.
#[must_use = "nothing happens before it is started"]
pub struct CacheBuilder<T, U> {
    name: String,
    updater: U,
    options: CacheOptions,
    snapshots: Option<Kind<T>>,
    listeners: Vec<Listener<T>>,
    keys: Keys,
    remote: Remote,
    stop_update: Option<Box<dyn Fn() + Send + Sync>>,
}

type Open<T> =
    fn(SnapshotFolder, Arc<Counts>, &Remote) -> Result<Arc<dyn Snapshots<T>>, SnapshotError>;

/// Where and how there are snapshots; made when all else is known.
struct Kind<T> {
    root: PathBuf,
    options: SnapshotOptions,
    open: Open<T>,
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// A cache of this name, whose value comes from `updater`.
    pub fn builder<U: Updater<T>>(name: impl Into<String>, updater: U) -> CacheBuilder<T, U> {
        CacheBuilder {
            name: name.into(),
            updater,
            options: CacheOptions::default(),
            snapshots: None,
            listeners: Vec::new(),
            keys: Keys::none(),
            remote: Remote::default(),
            stop_update: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The value. Never waits. Hold it shortly; [`get_arc`](Cache::get_arc) is for keeping it.
    ///
    /// # Errors
    /// `Empty` if there is none: no update has succeeded yet, the value has expired, or it was cleared.
    #[inline]
    pub fn get(&self) -> Result<ValueGuard<T>, SnapshotError> {
        let guard = self.shared.value.load();
        match guard.is_some() {
            true => Ok(ValueGuard(guard)),
            false => Err(self.empty()),
        }
    }

    /// The value, to keep.
    ///
    /// # Errors
    /// As [`get`](Cache::get).
    pub fn get_arc(&self) -> Result<Arc<T>, SnapshotError> {
        self.shared.value.load_full().ok_or_else(|| self.empty())
    }

    #[cold]
    fn empty(&self) -> SnapshotError {
        SnapshotError::new(
            ErrorKind::Empty,
            format!("the cache `{}` is empty", self.shared.name),
        )
    }

    /// Has an update made, now, and waits for it. Calls that come while one is made share the next one.
    ///
    /// # Errors
    /// `Update`, `Panic`: what went wrong; the value is as it was. `Cancelled` if the cache ends first.
    pub fn update_now(&self, kind: UpdateType) -> Result<(), SnapshotError> {
        let mut control = self.ask(kind);
        control.wanted += 1;
        let own = control.wanted;
        while control.done < own && !control.has_ended {
            control = self
                .shared
                .changed
                .wait(control)
                .unwrap_or_else(PoisonError::into_inner);
        }
        match control.done < own {
            true => Err(SnapshotError::new(
                ErrorKind::Cancelled,
                "the cache was shut down",
            )),
            false => control.last.clone(),
        }
    }

    /// Asks for an update, and does not wait. Several calls make one update; a full one stays asked for until one succeeds.
    pub fn invalidate(&self, kind: UpdateType) {
        drop(self.ask(kind));
    }

    fn ask(&self, kind: UpdateType) -> MutexGuard<'_, Control> {
        let mut control = self.shared.control();
        if control.invalidated != Some(UpdateType::Full) {
            control.invalidated = Some(kind);
        }
        self.shared.changed.notify_all();
        control
    }

    /// Takes the value away. The snapshot that is there stays as it is, and the next update is a full one.
    pub fn clear(&self) {
        self.shared.control().cleared = true;
        drop(self.shared.publish(None));
        self.shared.changed.notify_all();
    }

    /// Calls `listener` with the value that is there, if there is one, and with each later one, before anything else happens.
    /// It must not be slow, and must not listen to the same cache. It is called until what is returned is dropped.
    #[must_use = "dropping it ends the listening"]
    pub fn listen(&self, listener: impl FnMut(&Arc<T>) + Send + 'static) -> Listening<T> {
        let mut listener: Listener<T> = Box::new(listener);
        let mut listeners = self.shared.listeners();
        if let Some(value) = self.shared.value.load_full() {
            tell(&self.shared.name, &mut listener, &value);
        }
        let number = listeners.next;
        listeners.next += 1;
        listeners.all.push((number, listener));
        Listening {
            shared: self.shared.clone(),
            number,
        }
    }

    /// Writes a snapshot now, whatever `min_interval` says, and waits for it.
    ///
    /// # Errors
    /// Why it could not be written; the snapshots that were there are there. `Usage` if the cache has none.
    pub fn write_snapshot_now(&self) -> Result<WriteOutcome, SnapshotError> {
        self.snapshots()?.write_now()
    }

    /// Changes what can be changed while the service runs: at once, all of it. What is `None` is as the options say, also where
    /// an earlier call said something else. The time to the next update counts from the last one, whichever interval held then.
    ///
    /// # Errors
    /// `Usage` if the options that it makes would be refused at a start, or if it is about snapshots and the cache has none.
    /// Everything is then as it was.
    pub fn reconfigure(&self, reconfiguration: Reconfiguration) -> Result<(), SnapshotError> {
        let options = reconfiguration.of_updates(&self.shared.options)?;
        match &self.shared.snapshots {
            Some(snapshots) => snapshots.reconfigure(reconfiguration),
            None if reconfiguration.is_about_snapshots() => return self.snapshots().map(|_| ()),
            None => {}
        }
        self.shared.control().reconfigured = Some(options);
        self.shared.changed.notify_all();
        Ok(())
    }

    fn snapshots(&self) -> Result<&Arc<dyn Snapshots<T>>, SnapshotError> {
        self.shared.snapshots.as_ref().ok_or_else(|| {
            SnapshotError::new(
                ErrorKind::Usage,
                format!("the cache `{}` has no snapshots", self.shared.name),
            )
        })
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.counts.stats()
    }

    /// Ends the updates and writes one more snapshot if anything is new, within `timeout`; what is not written then is broken
    /// off, and the snapshot that was there stays. The value can still be read. An update that is being made is not waited for.
    ///
    /// # Errors
    /// Why the last snapshot could not be written.
    pub fn shutdown(&self, timeout: Duration) -> Result<WriteOutcome, SnapshotError> {
        self._owner.stop_updates();
        match &self.shared.snapshots {
            None => Ok(WriteOutcome::UpToDate),
            Some(snapshots) => {
                let deadline = Instant::now().checked_add(timeout);
                let far = || Instant::now() + Duration::from_secs(1 << 30);
                snapshots.finish(deadline.unwrap_or_else(far))
            }
        }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({})", self.shared.name)
    }
}

impl<T: Send + Sync + 'static, U: Updater<T>> CacheBuilder<T, U> {
    /// How it is updated.
    pub fn options(mut self, options: CacheOptions) -> Self {
        self.options = options;
        self
    }

    /// Keeps snapshots in the folder `root/NAME`, which is made if it is not there.
    pub fn snapshots(mut self, root: impl Into<PathBuf>, options: SnapshotOptions) -> Self
    where
        T: Dumpable,
    {
        self.snapshots = Some(Kind {
            root: root.into(),
            options,
            open: |folder, counts, remote| Ok(Arc::new(Kept::new(folder, counts, remote)?)),
        });
        self
    }

    /// Copies of snapshots in a store, for starts on an empty disk.
    #[cfg(feature = "store")]
    pub fn remote(mut self, copies: crate::RemoteCopies) -> Self {
        self.remote = Some(copies);
        self
    }

    /// The keys of sealed snapshots.
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Calls `listener` with each value from the first one on, also with the one that is loaded.
    pub fn listen(mut self, listener: impl FnMut(&Arc<T>) + Send + 'static) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn stopping(mut self, stop: impl Fn() + Send + Sync + 'static) -> Self {
        self.stop_update = Some(Box::new(stop));
        self
    }

    /// Loads the newest good snapshot, makes the first update if it must, and starts the cache's threads. Waits for all that;
    /// in asynchronous code, use [`start_async`](CacheBuilder::start_async).
    ///
    /// # Errors
    /// `Usage`, `Key` if the options make no sense; why the first update failed, where it may not.
    pub fn start(self) -> Result<Cache<T>, SnapshotError> {
        self.options.validate()?;
        let counts = Arc::new(Counts::new(&self.name));
        let snapshots = match self.snapshots {
            None => None,
            Some(kind) => {
                let warning = kind.options.validate_with(self.options.types())?;
                if let Some(warning) = warning {
                    tracing::warn!(cache = %self.name, "{warning}");
                }
                let folder = SnapshotFolder::new(kind.root, &self.name, kind.options, self.keys)?;
                Some((kind.open)(folder, counts.clone(), &self.remote)?)
            }
        };
        let listeners = (0..).zip(self.listeners).collect::<Vec<_>>();
        let shared = Arc::new(Shared {
            name: self.name,
            value: ArcSwapOption::empty(),
            control: Mutex::new(Control {
                invalidated: None,
                cleared: false,
                wanted: 0,
                done: 0,
                last: Ok(()),
                reconfigured: None,
                stop: false,
                has_ended: false,
            }),
            changed: Condvar::new(),
            listeners: Mutex::new(Listeners {
                next: listeners.len() as u64,
                all: listeners,
            }),
            counts,
            snapshots,
            options: self.options.clone(),
        });
        // From here on, whatever returns ends the threads.
        let cache = Cache {
            shared: shared.clone(),
            _owner: Arc::new(Owner {
                shared: shared.clone(),
                threads: Mutex::default(),
                stop_update: self.stop_update,
            }),
        };
        if let Some(snapshots) = shared.snapshots.clone() {
            cache.spawn("dump", move || snapshots.run())?;
        }
        let (to, started) = sync_channel(1);
        let updating = Updating::new(shared, self.updater, self.options);
        cache.spawn("update", move || {
            updating.run(move |start| {
                // It waits.
                let _ = to.send(start);
            });
        })?;
        started.recv().unwrap_or_else(|_| {
            Err(SnapshotError::new(
                ErrorKind::Panic,
                "the thread that updates the cache has panicked",
            ))
        })?;
        Ok(cache)
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    fn spawn(&self, task: &str, run: impl FnOnce() + Send + 'static) -> Result<(), SnapshotError> {
        let thread = thread::Builder::new()
            .name(format!("{task}-{}", self.shared.name))
            .stack_size(DECODER_STACK_BYTES)
            .spawn(run)
            .map_err(|error| SnapshotError::io("cannot start a thread", error))?;
        self._owner
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }
}

/// The value of a cache, as it was when it was asked for.
pub struct ValueGuard<T>(arc_swap::Guard<Option<Arc<T>>>);

impl<T> Deref for ValueGuard<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().expect("it was there when it was made")
    }
}

impl<T: fmt::Debug> fmt::Debug for ValueGuard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Somebody listens to a cache, until this is dropped.
pub struct Listening<T> {
    shared: Arc<Shared<T>>,
    number: u64,
}

impl<T> Drop for Listening<T> {
    fn drop(&mut self) {
        let mut listeners = self.shared.listeners();
        listeners.all.retain(|(number, _)| *number != self.number);
    }
}
