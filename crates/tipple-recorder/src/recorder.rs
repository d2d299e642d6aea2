//! The recorder itself: started, asked, shut down.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::Config;
use crate::core::{Core, Order, locked};
use crate::error::RecorderError;
use crate::loss::Why;
use crate::options::RecorderOptions;
use crate::pool::Pool;
use crate::stream::Stream;
use crate::watch::ConfigFile;
use crate::writer::Writer;

/// Records messages into files, or into memory until it is asked.
///
/// Dropped without [`shutdown`](Recorder::shutdown), it shuts down within 5 seconds, and nobody sees the report.
pub struct Recorder {
    pub(crate) core: Arc<Core>,
    writer: Mutex<Option<WriterThread>>,
    folder: Option<PathBuf>,
}

struct WriterThread {
    thread: JoinHandle<RecordingReport>,
    /// Disconnected at the thread's end.
    ended: Receiver<Infallible>,
}

/// How long after its time a shutdown gives a writer up that is stuck in the disk.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What became of everything that was attempted. `attempted == written + lost + waiting`, and after a shutdown, or a flush
/// during which nobody recorded, `waiting` is 0. What a flight recorder holds is waiting, and what a shutdown left to a
/// writer that is stuck in the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecordingReport {
    /// Numbers that were taken.
    pub attempted: u64,
    /// Records that are in the files.
    pub written: u64,
    /// Records that are not, by cause.
    pub lost: BTreeMap<&'static str, u64>,
    /// Records that are still in memory.
    pub waiting: u64,
    /// Records that a flight recorder has forgotten for newer ones.
    pub overwritten: u64,
    /// Records that were written after a later one.
    pub late: u64,
    /// Files that were closed.
    pub files: u64,
    /// Bytes of text that were written, before compression.
    pub text_bytes: u64,
    /// The most memory that all buffers ever took, in bytes.
    pub buffer_bytes_max: u64,
    /// The last error, of a message that cannot be serialized, of the disk or of the configuration.
    pub last_error: Option<String>,
}

impl RecordingReport {
    /// All that is not settled is waiting.
    pub(crate) fn with_waiting(mut self) -> RecordingReport {
        let settled = self.written + self.lost_total() + self.overwritten;
        self.waiting = self.attempted.saturating_sub(settled);
        self
    }

    /// All records that were lost.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    /// Those lost for one cause.
    pub fn lost_for(&self, why: Why) -> u64 {
        self.lost.get(why.as_str()).copied().unwrap_or(0)
    }
}

/// Why not everything is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// It took longer than it was given.
    #[error("not everything was written in time")]
    Timeout,
    /// The disk is full or failed; it is tried again every second.
    #[error("the disk cannot be written to: {0}")]
    Disk(String),
    /// The recorder was shut down.
    #[error("the recorder was shut down")]
    Closed,
    /// A snapshot is of a flight recorder.
    #[error("only a flight recorder has snapshots: this one writes all the time")]
    NoFlight,
}

impl Recorder {
    /// Starts a recorder: makes its folder, repairs what a crash left there, and starts its writer.
    ///
    /// # Errors
    /// If the options cannot be, or the folder not be written to, or the configuration file not be used.
    pub fn start(options: RecorderOptions) -> Result<Recorder, RecorderError> {
        options.validate()?;
        let (config, file) = match &options.config_file {
            Some(path) => {
                let (file, config) = ConfigFile::open(path)?;
                (config, Some(file))
            }
            None => (options.config.clone(), None),
        };
        let (limit_bytes, buffer_bytes) = options.buffers();
        let core = Arc::new(Core::new(
            Pool::new(limit_bytes, buffer_bytes),
            options.on_full,
            options.folder.is_none(),
            config,
        ));
        let folder = options.folder.clone();
        let writer = Writer::open(Arc::clone(&core), options, file)?;
        let (ends, ended) = sync_channel(0);
        let thread = std::thread::Builder::new()
            .name("tipple-recorder".to_owned())
            .spawn(move || {
                let _ends: SyncSender<Infallible> = ends;
                writer.run()
            })
            .map_err(|source| RecorderError::Io {
                operation: "start a thread for",
                path: folder.clone().unwrap_or_default(),
                source,
            })?;
        let _ = core.writer.set(thread.thread().clone());
        Ok(Recorder {
            core,
            writer: Mutex::new(Some(WriterThread { thread, ended })),
            folder,
        })
    }

    /// A handle to record with. `group` is a line's `g`: what numbers are counted in, and what limits are of.
    pub fn stream(&self, group: &str) -> Stream {
        Stream::new(&self.core, group)
    }

    /// Where the files are.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The configuration that holds.
    pub fn config(&self) -> Config {
        (*self.core.config()).clone()
    }

    /// Another configuration holds from now on. What a configuration file says later wins over it.
    ///
    /// # Errors
    /// If it cannot be: the one before holds on.
    pub fn configure(&self, config: Config) -> Result<(), RecorderError> {
        config.validate()?;
        self.core.configure(config);
        Ok(())
    }

    /// Waits until everything is written that was recorded before the call, at most `timeout`, and reports.
    ///
    /// # Errors
    /// `Timeout`, `Disk`, `Closed`.
    pub fn flush(&self, timeout: Duration) -> Result<RecordingReport, FlushError> {
        let (done, answer) = sync_channel(1);
        let ticks = self.core.clock.now();
        self.ask(Order::Flush { ticks, done })?;
        wait(&answer, timeout)?
    }

    /// Closes the files, and begins new ones with the next record.
    ///
    /// # Errors
    /// `Timeout` after 30 seconds, `Closed`.
    pub fn rotate(&self) -> Result<(), FlushError> {
        let (done, answer) = sync_channel(1);
        self.ask(Order::Rotate { done })?;
        wait(&answer, Duration::from_secs(30))
    }

    /// The same without waiting: for handlers of signals and whoever has moved a file of a [fixed](crate::Naming::Fixed)
    /// name away.
    pub fn reopen(&self) {
        let (done, _) = sync_channel(1);
        let _ = self.ask(Order::Rotate { done });
    }

    /// Takes the [configuration file](crate::RecorderOptions::config_file) again without waiting, also if it looks as it did:
    /// watching sees its time, length and inode only. If it is wrong, what held before goes on to hold, and the report
    /// tells.
    pub fn reload_config(&self) {
        let _ = self.ask(Order::Reload);
    }

    /// Writes what a flight recorder holds of the time from `before` ago to `after` from now, once that has come, into
    /// a file, and gives its path. What was written stays in memory, too.
    ///
    /// # Errors
    /// `NoFlight`, `Disk`, `Closed`; `Timeout` 60 seconds after it should have been there.
    pub fn snapshot(&self, before: Duration, after: Duration) -> Result<PathBuf, FlushError> {
        if !self.core.is_flight {
            return Err(FlushError::NoFlight);
        }
        let (done, answer) = sync_channel(1);
        self.ask(Order::Snapshot {
            before,
            after,
            done,
        })?;
        wait(&answer, after + Duration::from_secs(60))?
    }

    /// When a thread panics from now on, what a flight recorder holds of the last `before` is written, and its path told
    /// to `told`; then what was to happen at a panic before happens.
    pub fn snapshot_on_panic(
        self: &Arc<Self>,
        before: Duration,
        told: impl Fn(Result<PathBuf, FlushError>) + Send + std::marker::Sync + 'static,
    ) {
        let recorder = Arc::downgrade(self);
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Some(recorder) = recorder.upgrade() {
                told(recorder.snapshot(before, Duration::ZERO));
            }
            next(panic);
        }));
    }

    /// What became of everything so far, without waiting for anything: a moment's figures.
    ///
    /// # Errors
    /// `Closed`; `Timeout` if the writer is stuck in the disk for 5 seconds.
    pub fn report(&self) -> Result<RecordingReport, FlushError> {
        let (done, answer) = sync_channel(1);
        self.ask(Order::Flush { ticks: 0, done })?;
        wait(&answer, Duration::from_secs(5))?
    }

    fn ask(&self, order: Order) -> Result<(), FlushError> {
        if self.core.is_closed.load(Ordering::SeqCst) {
            return Err(FlushError::Closed);
        }
        self.core.order(order);
        Ok(())
    }

    /// Records nothing more, writes everything that was recorded within `timeout`, closes the files and reports. What
    /// could not be written by then is lost with the cause `shutdown`, or `disk` if that is why.
    ///
    /// A write that the system does not end (a network file system without its server, say) is waited for 5 seconds longer.
    /// Then its thread is left alone: what it may still write is `waiting` in the report, and `last_error` says so.
    pub fn shutdown(&self, timeout: Duration) -> RecordingReport {
        let deadline = Instant::now() + timeout;
        self.core.is_closed.store(true, Ordering::SeqCst);
        self.core.pool.close();
        self.core.order(Order::Shutdown { deadline });
        let Some(WriterThread { thread, ended }) = locked(&self.writer).take() else {
            return RecordingReport::default();
        };
        match ended.recv_timeout(timeout.saturating_add(STUCK_AFTER)) {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Timeout) => self.core.stuck_report(),
            Err(RecvTimeoutError::Disconnected) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

fn wait<T>(answer: &Receiver<T>, timeout: Duration) -> Result<T, FlushError> {
    answer.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => FlushError::Timeout,
        RecvTimeoutError::Disconnected => FlushError::Closed,
    })
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let is_running = locked(&self.writer).is_some();
        if is_running && !std::thread::panicking() {
            self.shutdown(Duration::from_secs(5));
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}
