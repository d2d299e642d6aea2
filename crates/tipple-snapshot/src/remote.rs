//! Copies of snapshots in a store, so that a service that starts on an empty disk is warm, too.

use std::fs;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tipple_store::{ObjectName, Store, StoreError, StoreErrorKind};

use crate::listing::{COPYING, Health, Listing, to_remove};
use crate::moment::Moment;
use crate::seeded::random;
use crate::stats::{Counts, Event};
use crate::{ErrorKind, SnapshotError, SnapshotFolder, SnapshotName, SnapshotOptions};

/// Where copies of snapshots go: `CACHE/NAME` in a store, which is a folder or a bucket.
///
/// Many processes may share a store: in each interval one of them copies its newest snapshot, whoever is first to put the
/// object `CACHE/turns/NUMBER`, which no store lets two of them do. A start fetches the newest copy if there is nothing newer
/// on the disk, and then loads as ever: a copy that is damaged costs nothing but the time.
#[derive(Clone)]
pub struct RemoteCopies {
    store: Arc<dyn Store>,
    interval: Duration,
    count: u64,
    patience: Duration,
}

impl RemoteCopies {
    /// In this store, at most every 5 minutes, of which 3 stay.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            interval: Duration::from_secs(300),
            count: 3,
            patience: Duration::from_secs(10),
        }
    }

    /// How long a start waits for a store that gives nothing, before it goes on with what the disk has. Default: 10 s. While
    /// bytes of a copy come, it waits for all of them.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// At most one copy in so long, by whichever process; at least a second.
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_secs(1));
        self
    }

    /// How many copies stay, at least 1.
    pub fn keep(mut self, count: u64) -> Self {
        self.count = count.max(1);
        self
    }

    fn name(cache: &str, name: &str) -> Result<ObjectName, SnapshotError> {
        format!("{cache}/{name}").parse().map_err(|error| {
            SnapshotError::new(
                ErrorKind::Usage,
                format!("the cache `{cache}` cannot have copies in a store, by its name"),
            )
            .because(error)
        })
    }

    /// That the cache's name can be one in a store.
    pub(crate) fn check(&self, cache: &str) -> Result<(), SnapshotError> {
        Self::name(cache, "turns").map(drop)
    }

    fn list(&self, cache: &str) -> Result<(Listing, Vec<ObjectName>), SnapshotError> {
        let (mut listing, mut turns) = (Listing::default(), Vec::new());
        let prefix = format!("{cache}/");
        let mut visit = |entry: tipple_store::ObjectEntry| {
            let rest = entry
                .name
                .as_str()
                .strip_prefix(&prefix)
                .unwrap_or_default();
            match rest.starts_with("turns/") {
                true => turns.push(entry.name),
                false => listing.add(Some(rest), rest.into(), entry.bytes),
            }
            ControlFlow::Continue(())
        };
        self.store
            .list(&prefix, &mut visit)
            .map_err(failed("cannot list the copies"))?;
        listing.sort();
        Ok((listing, turns))
    }

    /// Brings the newest copy into the folder, if there is nothing newer. `true` if it did. `fetching` is told of its progress,
    /// and ends it.
    fn fetch(&self, folder: &SnapshotFolder, fetching: &Fetching) -> Result<bool, SnapshotError> {
        let (cache, options) = (folder.cache(), folder.options());
        let newest = |listing: &Listing| {
            listing
                .candidates(options, Moment::now())
                .into_iter()
                .next()
        };
        let Some(copy) = newest(&self.list(cache)?.0) else {
            return Ok(false);
        };
        fetching.goes_on(1)?;
        let local = newest(&Listing::of(folder.path())?);
        if local.is_some_and(|local| local.name.updated >= copy.name.updated) {
            return Ok(false);
        }
        let object = Self::name(cache, &copy.name.to_string())?;
        let mut from = self
            .store
            .open(&object)
            .map_err(failed("cannot open the newest copy"))?;
        folder.adopt(&copy.name, &mut |to| {
            let failed = |error| SnapshotError::io("cannot fetch the newest copy", error);
            let (mut copied, mut piece) = (0, vec![0; PIECE_BYTES]);
            loop {
                let len = match from.read(&mut piece) {
                    Ok(0) => break,
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(failed(error)),
                };
                fetching.goes_on(len as u64)?;
                to.write_all(&piece[..len]).map_err(failed)?;
                copied += len as u64;
            }
            fetching.goes_on(0)?;
            match copied == copy.bytes {
                true => Ok(()),
                false => Err(SnapshotError::new(
                    ErrorKind::Truncated,
                    format!("of a copy of {} bytes, {copied} came", copy.bytes),
                )),
            }
        })?;
        tracing::info!(cache, name = %copy.name, store = self.store.url(), "a copy has been fetched");
        Ok(true)
    }

    /// Copies the newest snapshot, if it is this process's turn. `None` if it is another's.
    fn copy(&self, folder: &SnapshotFolder) -> Result<Option<SnapshotName>, SnapshotError> {
        let cache = folder.cache();
        let now = Moment::now();
        let Some(found) = hold(folder, now)? else {
            return Ok(None);
        };
        let (listing, turns) = self.list(cache)?;
        if listing
            .snapshots
            .iter()
            .any(|copy| copy.name.updated >= found.name.updated)
        {
            return Ok(None);
        }
        let turn = now.0.max(0) as u128 / self.interval.as_micros().max(1);
        let turn = Self::name(cache, &format!("turns/{turn:020}"))?;
        match self
            .store
            .put_if_absent(&turn, format!("{:016x}", random()).as_bytes())
        {
            Ok(_) => {}
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(failed("cannot take a turn")(error)),
        }
        let object = Self::name(cache, &found.name.to_string())?;
        self.store
            .put_copy(&object, &found.path)
            .map_err(failed("cannot copy the snapshot"))?;
        tracing::info!(cache, name = %found.name, store = self.store.url(), "a snapshot has been copied");
        self.clean_up(folder, &found.name, &turn, turns)?;
        Ok(Some(found.name))
    }

    fn clean_up(
        &self,
        folder: &SnapshotFolder,
        written: &SnapshotName,
        turn: &ObjectName,
        turns: Vec<ObjectName>,
    ) -> Result<(), SnapshotError> {
        let options = SnapshotOptions {
            max_count: self.count,
            ..folder.options().clone()
        };
        let (listing, _) = self.list(folder.cache())?;
        let health = |_: &crate::listing::Found| Health::Unknown;
        let remove = to_remove(&listing, &options, Moment::now(), Some(written), health);
        let mut names = Vec::new();
        for (path, ..) in remove {
            names.push(Self::name(folder.cache(), &path.to_string_lossy())?);
        }
        names.extend(
            turns
                .into_iter()
                .filter(|name| name.as_str() < turn.as_str()),
        );
        for name in names {
            self.store
                .delete(&name)
                .map_err(failed("cannot remove an old copy"))?;
        }
        Ok(())
    }
}

/// What is read of a copy at a time.
const PIECE_BYTES: usize = 256 << 10;

/// How far a fetch has come, and whether anybody still waits for it.
#[derive(Default)]
struct Fetching {
    progress: AtomicU64,
    is_given_up: AtomicBool,
}

impl Fetching {
    fn goes_on(&self, by: u64) -> Result<(), SnapshotError> {
        self.progress.fetch_add(by, Ordering::Relaxed);
        match self.is_given_up.load(Ordering::Relaxed) {
            true => Err(SnapshotError::new(
                ErrorKind::Cancelled,
                "the start did not wait for the copy any longer",
            )),
            false => Ok(()),
        }
    }
}

/// The newest snapshot, held: a write that replaces it meanwhile takes its name away, but not its bytes.
fn hold(folder: &SnapshotFolder, now: Moment) -> Result<Option<Held>, SnapshotError> {
    let link = folder.path().join(COPYING);
    loop {
        let listing = Listing::of(folder.path())?;
        let Some(found) = listing.candidates(folder.options(), now).into_iter().next() else {
            return Ok(None);
        };
        // What a killed process left.
        let _ = fs::remove_file(&link);
        let held = |path, link| Held {
            name: found.name,
            path,
            link,
        };
        match fs::hard_link(&found.path, &link) {
            Ok(()) => return Ok(Some(held(link.clone(), Some(link)))),
            // It was replaced by a newer one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A disk without links: if it is replaced while it is copied, that copy fails.
            Err(_) => return Ok(Some(held(found.path, None))),
        }
    }
}

struct Held {
    name: SnapshotName,
    path: PathBuf,
    link: Option<PathBuf>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
        }
    }
}

fn failed(what: &'static str) -> impl FnOnce(StoreError) -> SnapshotError {
    move |error| SnapshotError::new(ErrorKind::Io, what).because(error)
}

#[derive(Default)]
struct State {
    has_new: bool,
    is_copying: bool,
    stop: bool,
}

/// Copies on a thread of its own: a store that is slow or away holds up no snapshot.
pub(crate) struct Copying {
    copies: RemoteCopies,
    folder: SnapshotFolder,
    counts: Arc<Counts>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Copying {
    pub(crate) fn start(
        copies: RemoteCopies,
        folder: SnapshotFolder,
        counts: Arc<Counts>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let copying = Arc::new(Self {
            copies,
            folder,
            counts,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = copying.clone();
        thread::Builder::new()
            .name(format!("copy-{}", copying.folder.cache()))
            .spawn(move || own.run())
            .map_err(|error| SnapshotError::io("cannot start a thread", error))?;
        Ok(copying)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is newer than what the disk has. A failure is counted, and costs no more than a start that is less warm.
    pub(crate) fn fetch(&self) {
        if let Err(error) = self.fetch_patiently() {
            tracing::error!(%error, "error while fetching a copy");
            self.counts.tell(Event::LoadFailed(error.kind()));
        }
    }

    /// A store that is away may take minutes to say so: that is nothing to wait for.
    fn fetch_patiently(&self) -> Result<(), SnapshotError> {
        let fetching = Arc::new(Fetching::default());
        let (to, from) = sync_channel(1);
        let (copies, folder, own) = (self.copies.clone(), self.folder.clone(), fetching.clone());
        thread::Builder::new()
            .name(format!("fetch-{}", self.folder.cache()))
            .spawn(move || {
                // It may be waited for no longer.
                let _ = to.send(copies.fetch(&folder, &own));
            })
            .map_err(|error| SnapshotError::io("cannot start a thread", error))?;
        let mut seen = 0;
        loop {
            match from.recv_timeout(self.copies.patience) {
                Ok(fetched) => return fetched.map(drop),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(SnapshotError::new(
                        ErrorKind::Panic,
                        "the thread that fetches a copy has panicked",
                    ));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = fetching.progress.load(Ordering::Relaxed);
                    if std::mem::replace(&mut seen, now) != now {
                        continue;
                    }
                    fetching.is_given_up.store(true, Ordering::Relaxed);
                    return Err(SnapshotError::new(
                        ErrorKind::Io,
                        format!(
                            "the store gave nothing for {:?}: going on with what the disk has",
                            self.copies.patience
                        ),
                    ));
                }
            }
        }
    }

    /// There is a new snapshot.
    pub(crate) fn has_new(&self) {
        self.state().has_new = true;
        self.changed.notify_all();
    }

    /// Waits until what is new was copied; not after `deadline`.
    pub(crate) fn finish(&self, deadline: Instant) {
        let mut state = self.state();
        while state.has_new || state.is_copying {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// No copy is begun any more. One that is under way is not waited for: a store may take minutes to fail, and what it gets
    /// is whole or not there.
    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        loop {
            let mut state = self.state();
            while !state.has_new && !state.stop {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            state.has_new = false;
            state.is_copying = true;
            drop(state);
            match self.copies.copy(&self.folder) {
                Ok(copied) => self.counts.tell(Event::Copied(copied.is_some())),
                Err(error) => {
                    tracing::error!(%error, "error while copying a snapshot");
                    self.counts.tell(Event::CopyFailed(error.kind()));
                }
            }
            self.state().is_copying = false;
            self.changed.notify_all();
        }
    }
}
