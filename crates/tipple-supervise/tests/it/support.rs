//! Commands, a sampler, and a store that can be made slow, dead or unreliable.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tipple_store::{
    Access, Capabilities, Leftover, ObjectEntry, ObjectMeta, ObjectName, ObjectRead, Operation,
    Put, Retryable, Store, StoreError, StoreErrorKind, StoreLock, StoreUrl, open_store,
};
use tipple_supervise::{
    Event, Job, Report, RestoreOptions, SuperviseError, SuperviseOptions, restore, supervise,
    verify,
};

pub(crate) const MIB: u64 = 1 << 20;

/// A folder for a command, a store beside it, and what was told.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) options: SuperviseOptions,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Place {
    /// With a shell script that is run in its folder.
    pub(crate) fn new(limit_bytes: u64, script: &str) -> Self {
        Self::with(
            limit_bytes,
            &[
                "sh",
                "-c",
                &format!("cd \"$0\" || exit 9\n{script}"),
                "{dir}",
            ],
        )
    }

    /// With a Python program that is run in its folder.
    pub(crate) fn python(limit_bytes: u64, program: &str) -> Self {
        let program = format!("import os, sys, time, signal\nos.chdir(sys.argv[1])\n{program}");
        Self::with(limit_bytes, &["python3", "-c", &program, "{dir}"])
    }

    fn with(limit_bytes: u64, command: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(&dir.path().join("store"));
        let command = command.iter().map(Into::into).collect();
        let mut options = SuperviseOptions::new(dir.path().join("out"), limit_bytes, command);
        options.grace = Duration::from_secs(2);
        Self {
            dir,
            store: Arc::new(store),
            options,
            events: Arc::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.path("out")
    }

    /// The next run is given this script instead.
    pub(crate) fn script(&mut self, script: &str) {
        self.options.command[2] = format!("cd \"$0\" || exit 9\n{script}").into();
    }

    pub(crate) fn job(&self) -> Job {
        let events = Arc::clone(&self.events);
        Job::new().on_event(move |event| events.lock().unwrap().push(event.clone()))
    }

    pub(crate) fn run(&self) -> Result<Report, SuperviseError> {
        self.run_as(&self.job())
    }

    pub(crate) fn run_as(&self, job: &Job) -> Result<Report, SuperviseError> {
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        supervise(job, &store, &self.options)
    }

    /// Runs it while the folder is sampled; returns the most that was seen too.
    pub(crate) fn sampled(&self) -> (Result<Report, SuperviseError>, u64) {
        let sampler = Sampler::start(self.out());
        let result = self.run();
        (result, sampler.end())
    }

    #[track_caller]
    pub(crate) fn done(&self) -> Report {
        let report = self.run().unwrap_or_else(|error| panic!("{error}"));
        assert!(report.done, "{report:?}");
        self.is_done();
        report
    }

    /// That the store is complete and sound, and that nothing is left anywhere else.
    #[track_caller]
    pub(crate) fn is_done(&self) {
        assert!(self.path("store/DONE").exists());
        let verified = verify(&Job::new(), self.store.as_ref(), 2).unwrap();
        assert_eq!(verified.problems, []);
        let sums = std::process::Command::new("sha256sum")
            .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
            .current_dir(self.path("store"))
            .status();
        assert!(sums.unwrap().success());
        assert!(!self.path("out.tipple").exists());
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }

    /// What is in the command's folder.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.out()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[track_caller]
    pub(crate) fn fails(&self) -> SuperviseError {
        let error = match self.run() {
            Err(error) => error,
            Ok(report) => panic!("{report:?}"),
        };
        assert!(!self.path("store/DONE").exists());
        self.nobody_is_left();
        error
    }

    /// That no process has the folder as its own any more.
    #[track_caller]
    pub(crate) fn nobody_is_left(&self) {
        let out = self.out();
        let left: Vec<_> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == out))
            .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }

    /// What comes back out of the store.
    #[track_caller]
    pub(crate) fn restored(&self) -> BTreeMap<String, Vec<u8>> {
        let target = self.path("restored");
        restore(
            &Job::new(),
            self.store.as_ref(),
            &target,
            &RestoreOptions::default(),
        )
        .unwrap();
        files(&target)
    }

    pub(crate) fn warnings(&self) -> String {
        let events = self.events.lock().unwrap();
        let texts = events.iter().filter_map(|event| match event {
            Event::Warning { message } => Some(format!("{message}\n")),
            _ => None,
        });
        texts.collect()
    }

    pub(crate) fn pauses(&self) -> usize {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter(|event| matches!(event, Event::Pause { .. }))
            .count()
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// Adds up the lengths of all files in a folder, again and again, as somebody outside would.
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Sampler {
    pub(crate) fn start(folder: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(sum(&folder));
                std::thread::sleep(Duration::from_micros(500));
            }
            most
        });
        Self { stop, thread }
    }

    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn sum(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => sum(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The local store, with faults between it and its caller:
/// `slow_ms` before every file is put; `dead`: a put waits until the store lives again or 5 s have passed, and fails;
/// `fails`: so many puts fail before anything was written; `lost_answers`: so many succeed and say that they may not have.
pub(crate) struct FaultyStore {
    inner: Arc<dyn Store>,
    pub(crate) slow_ms: AtomicU64,
    pub(crate) dead: AtomicBool,
    pub(crate) fails: AtomicU32,
    pub(crate) lost_answers: AtomicU32,
    pub(crate) denies: AtomicBool,
    /// Unfinished uploads, as buckets have them.
    pub(crate) uploads: Mutex<Vec<Leftover>>,
    /// Nobody may see those.
    pub(crate) hides_uploads: AtomicBool,
}

impl FaultyStore {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            inner: open_store(
                &StoreUrl::folder(path),
                Access::Write,
                &tipple_store::StoreOptions::default(),
            )
            .unwrap(),
            slow_ms: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            fails: AtomicU32::new(0),
            lost_answers: AtomicU32::new(0),
            denies: AtomicBool::new(false),
            uploads: Mutex::default(),
            hides_uploads: AtomicBool::new(false),
        }
    }

    fn error(&self, retryable: Retryable, reason: &'static str) -> StoreError {
        StoreError::new(StoreErrorKind::Io, Operation::Write, self.url(), reason)
            .with_retryable(retryable)
    }

    fn take_one(counter: &AtomicU32) -> bool {
        counter
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
    }
}

impl Store for FaultyStore {
    fn url(&self) -> &str {
        self.inner.url()
    }
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.inner.put_if_absent(name, bytes)
    }
    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        std::thread::sleep(Duration::from_millis(self.slow_ms.load(Ordering::SeqCst)));
        for _ in 0..500 {
            if !self.dead.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.dead.load(Ordering::SeqCst) {
            return Err(self.error(Retryable::Safe, "it does not answer"));
        }
        if self.denies.load(Ordering::SeqCst) {
            return Err(self.error(Retryable::Never, "access denied"));
        }
        if Self::take_one(&self.fails) {
            return Err(self.error(Retryable::Safe, "slow down"));
        }
        let put = self.inner.put_file(name, path)?;
        if Self::take_one(&self.lost_answers) {
            return Err(self.error(Retryable::MayHaveBeenApplied, "connection reset"));
        }
        Ok(put)
    }
    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.inner.put_copy(name, path)
    }
    fn staging_dir(&self) -> Option<&Path> {
        self.inner.staging_dir()
    }
    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name, bytes_max)
    }
    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.inner.head(name)
    }
    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError> {
        self.inner.open(name)
    }
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, visit)
    }
    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn lock(&self) -> Result<StoreLock, StoreError> {
        self.inner.lock()
    }
    fn capabilities(&self) -> Result<Capabilities, StoreError> {
        self.inner.capabilities()
    }
    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        if self.hides_uploads.load(Ordering::SeqCst) {
            let kind = StoreErrorKind::Denied;
            return Err(StoreError::new(
                kind,
                Operation::ListLeftovers,
                self.url(),
                "no",
            ));
        }
        let mut leftovers = self.inner.leftovers()?;
        leftovers.extend(self.uploads.lock().unwrap().iter().cloned());
        Ok(leftovers)
    }
    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let mut uploads = self.uploads.lock().unwrap();
        match uploads.iter().position(|upload| upload == leftover) {
            Some(at) => drop(uploads.remove(at)),
            None => self.inner.remove_leftover(leftover)?,
        }
        Ok(())
    }
}
