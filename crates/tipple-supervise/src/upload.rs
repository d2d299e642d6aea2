//! Finished files on their way into the store: hashed, recorded, put, checked.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tipple_chunk::sha256_of;
use tipple_store::{ObjectName, Retryable, Store, StoreError, StoreErrorKind};

use crate::error::SuperviseError;
use crate::failpoint::failpoint;
use crate::folder::FileState;
use crate::layout::{self, FileEntry, FileRecord, Format};
use crate::name;
use crate::retry::retry;

/// How long uploads that cannot be interrupted are waited for when there is nothing more to gain.
const ABANDON_WAIT: Duration = Duration::from_secs(5);

/// A finished file.
pub(crate) struct Task {
    pub(crate) path: PathBuf,
    pub(crate) state: FileState,
}

/// A file that the store has acknowledged, and that is gone from the folder.
pub(crate) struct Stored {
    pub(crate) entry: FileEntry,
    /// Open, so that whoever else has it open can still be found.
    pub(crate) file: File,
    pub(crate) state: FileState,
}

pub(crate) struct Outcome {
    pub(crate) path: PathBuf,
    pub(crate) result: Result<Stored, SuperviseError>,
}

/// What all uploads share.
pub(crate) struct Upload {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dir: PathBuf,
    pub(crate) run: u32,
    pub(crate) attempts: u32,
    /// No more tries.
    pub(crate) given_up: AtomicBool,
}

/// A bounded number of threads that upload.
pub(crate) struct Uploads {
    shared: Arc<Upload>,
    tasks: Option<SyncSender<Task>>,
    outcomes: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
    in_flight: usize,
}

impl Uploads {
    pub(crate) fn start(shared: Upload, threads: usize) -> Result<Self, SuperviseError> {
        let dir = shared.dir.clone();
        let shared = Arc::new(shared);
        // Never more in flight than threads, so no sender waits.
        let (tasks, receiver) = sync_channel::<Task>(threads);
        let receiver = Arc::new(Mutex::new(receiver));
        let (sender, outcomes) = channel();
        let mut started = Vec::with_capacity(threads);
        for _ in 0..threads {
            let (shared, receiver, sender) = (
                Arc::clone(&shared),
                Arc::clone(&receiver),
                Sender::clone(&sender),
            );
            let thread = thread::Builder::new()
                .name("upload".to_owned())
                .spawn(move || work(&shared, &receiver, &sender))
                .map_err(SuperviseError::disk("start a thread for", &dir))?;
            started.push(thread);
        }
        Ok(Self {
            shared,
            tasks: Some(tasks),
            outcomes,
            threads: started,
            in_flight: 0,
        })
    }

    pub(crate) fn has_room(&self) -> bool {
        self.in_flight < self.threads.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn give(&mut self, task: Task) {
        let tasks = self.tasks.as_ref().expect("not finished");
        tasks.send(task).expect("threads take tasks until the end");
        self.in_flight += 1;
    }

    /// One that has ended, if any has.
    pub(crate) fn take(&mut self) -> Option<Outcome> {
        match self.outcomes.try_recv() {
            Ok(outcome) => {
                self.in_flight -= 1;
                Some(outcome)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                // A thread that panicked gives no outcome, and would be waited for in vain.
                if let Some(n) = self.threads.iter().position(JoinHandle::is_finished)
                    && let Err(panic) = self.threads.swap_remove(n).join()
                {
                    resume_unwind(panic);
                }
                None
            }
        }
    }

    /// Ends the threads, of which none has work.
    pub(crate) fn finish(mut self) {
        drop(self.tasks.take());
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    }

    /// Ends the threads without another try. A call of the store that cannot be interrupted is left behind after 5 s.
    pub(crate) fn abandon(mut self) {
        self.shared.given_up.store(true, Ordering::Relaxed);
        drop(self.tasks.take());
        let since = Instant::now();
        while self.threads.iter().any(|thread| !thread.is_finished())
            && since.elapsed() < ABANDON_WAIT
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn work(shared: &Upload, tasks: &Mutex<Receiver<Task>>, outcomes: &Sender<Outcome>) {
    loop {
        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else {
            return;
        };
        let result = shared.upload(&task);
        let outcome = Outcome {
            path: task.path,
            result,
        };
        if outcomes.send(outcome).is_err() {
            return; // nobody waits any more
        }
    }
}

impl Upload {
    fn upload(&self, task: &Task) -> Result<Stored, SuperviseError> {
        let path = self.dir.join(&task.path);
        // Not through a link, and not waiting for a pipe, if somebody has put one there.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(&path)
            .map_err(|error| self.gone(task, &error))?;
        self.check(task, &file)?;
        let (sha256, bytes) = sha256_of(&file).map_err(SuperviseError::disk("read", &path))?;
        self.check(task, &file)?;
        if bytes != task.state.bytes {
            return Err(self.changed(task));
        }
        let written = name::written(&task.path);
        let object = layout::file_object(self.run, &written);
        let entry = FileEntry {
            object: object.to_string(),
            path: written,
            bytes,
            sha256,
        };
        failpoint!("recording");
        self.record(task, &entry)?;
        failpoint!("putting");
        self.put(task, &object, bytes)?;
        failpoint!("put");
        // Whether anybody wrote to it meanwhile, or still can, is looked at when the file is counted as stored.
        Ok(Stored {
            entry,
            file,
            state: task.state,
        })
    }

    /// Before the file itself, so that a crash leaves no object of which nobody knows what it should be.
    fn record(&self, task: &Task, entry: &FileEntry) -> Result<(), SuperviseError> {
        let record = FileRecord {
            format: Format::CURRENT,
            file: entry.clone(),
        };
        let name = layout::record_object(self.run, &entry.path);
        let bytes = layout::to_json(&record);
        self.again_and_again(|| self.store.put_if_absent(&name, &bytes).map(|_| ()))
            .map_err(|error| match error.kind() {
                StoreErrorKind::AlreadyExists => written_again(&self.dir.join(&task.path)),
                _ => error.into(),
            })
    }

    fn put(&self, task: &Task, object: &ObjectName, bytes: u64) -> Result<(), SuperviseError> {
        let path = self.dir.join(&task.path);
        let mut ambiguous = false;
        self.again_and_again(|| {
            match self.store.put_file(object, &path) {
                Ok(_) => Ok(()),
                // A put that seemed to fail may have taken the file: then the object is there.
                Err(error)
                    if ambiguous
                        && error.kind() == StoreErrorKind::LocalFile
                        && self
                            .store
                            .head(object)
                            .is_ok_and(|meta| meta.bytes == bytes) =>
                {
                    Ok(())
                }
                Err(error) => {
                    ambiguous |= error.is_retryable() == Retryable::MayHaveBeenApplied;
                    Err(error)
                }
            }
        })
        .map_err(|error| match error.kind() {
            StoreErrorKind::AlreadyExists => written_again(&path),
            StoreErrorKind::LocalFile if !path.exists() => self.changed(task),
            _ => error.into(),
        })?;
        // The store removes the file after its acknowledgement; one that has kept it has not.
        match fs::symlink_metadata(&path) {
            Ok(meta) if FileState::of(&meta).key == task.state.key => {
                fs::remove_file(&path).map_err(SuperviseError::disk("remove", &path))
            }
            _ => Ok(()),
        }
    }

    fn again_and_again(
        &self,
        call: impl FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let given_up = || self.given_up.load(Ordering::Relaxed);
        retry(self.attempts, &given_up, call)
    }

    fn check(&self, task: &Task, file: &File) -> Result<(), SuperviseError> {
        let meta = file
            .metadata()
            .map_err(SuperviseError::disk("look at", &self.dir.join(&task.path)))?;
        match FileState::of(&meta).is_same_content(&task.state) {
            true => Ok(()),
            false => Err(self.changed(task)),
        }
    }

    fn gone(&self, task: &Task, error: &std::io::Error) -> SuperviseError {
        match error.kind() {
            std::io::ErrorKind::NotFound => self.changed(task),
            _ => SuperviseError::Command(format!(
                "cannot read {}, which the command wrote: {error}",
                self.dir.join(&task.path).display()
            )),
        }
    }

    fn changed(&self, task: &Task) -> SuperviseError {
        changed(&self.dir.join(&task.path))
    }
}

pub(crate) fn changed(path: &std::path::Path) -> SuperviseError {
    SuperviseError::Command(format!(
        "{} was changed, renamed or removed after everybody had closed it, while it was being stored: name it with --hold if the command comes back to such files",
        path.display()
    ))
}

pub(crate) fn written_again(path: &std::path::Path) -> SuperviseError {
    SuperviseError::Command(format!(
        "{} was written again after everybody had closed it and it was taken: name it with --hold if the command comes back to such files",
        path.display()
    ))
}
