//! A run, as those see it who started it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tipple_budget::{Gate, Rates};

/// What is shared between a run and whoever watches, pauses or cancels it.
pub struct Job {
    gate: Gate,
    progress: Progress,
    listener: Box<dyn Fn(&Event) + Send + Sync>,
    begun: Instant,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            gate: Gate::new(Rates::default()),
            progress: Progress::default(),
            listener: Box::new(|_| ()),
            begun: Instant::now(),
        }
    }
}

impl Job {
    /// A job that tells nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `listener` for every event, on the thread where it happened; it must not block for long.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Box::new(listener);
        self
    }

    /// Pauses, resumes and cancels the run: a pause stops the command's processes, a cancel ends them.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Since it was made.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn tell(&self, event: &Event) {
        (self.listener)(event);
    }

    pub(crate) fn warn(&self, message: impl Into<String>) {
        self.tell(&Event::Warning {
            message: message.into(),
        });
    }
}

/// Numbers to be read at any time by whoever draws them.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) begun: AtomicBool,
    pub(crate) paused: AtomicBool,
    pub(crate) ended: AtomicBool,
    pub(crate) used_bytes: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
    pub(crate) uploading: AtomicU64,
}

impl Progress {
    /// Whether the command was started, or an earlier run is being finished.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
    /// Whether the command's processes are stopped.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
    /// Whether the command has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
    /// Bytes in the folder.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
    /// Files stored, or verified or restored.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }
    /// Their bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }
    /// Uploads at work.
    pub fn uploading(&self) -> u64 {
        self.uploading.load(Ordering::Relaxed)
    }

    pub(crate) fn stored(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Something worth telling.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// The command is about to start, or a run whose command has ended is being finished.
    Start {
        /// The verb.
        verb: &'static str,
        /// The run's number.
        run: u32,
        /// Whether the command runs: not if it ended in an earlier run.
        command: bool,
        /// Files that an earlier attempt at this run has stored.
        files_stored: u64,
        /// The most bytes in the folder.
        limit_bytes: u64,
    },
    /// The command's processes are stopped, since the folder is nearly full.
    Pause {
        /// Bytes in the folder.
        used_bytes: u64,
        /// What is kept free.
        margin_bytes: u64,
    },
    /// They go on.
    Resume {
        /// Bytes in the folder.
        used_bytes: u64,
        /// How long they were stopped.
        paused_ms: u64,
    },
    /// A file is stored, and gone from the folder.
    File {
        /// Its path, in its written form.
        path: String,
        /// Its length.
        bytes: u64,
    },
    /// The command has ended.
    Ended {
        /// How.
        #[serde(flatten)]
        exit: CommandExit,
    },
    /// Something that the user should know, and that does not end the run.
    Warning {
        /// What.
        message: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandExit {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl CommandExit {
    /// Whether it ended with 0.
    pub fn is_success(self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for CommandExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("no exit code"),
        }
    }
}

/// What a run came to. The last line of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The verb.
    pub verb: &'static str,
    /// Whether DONE was written. `false`: the command failed.
    pub done: bool,
    /// How the command ended; `None` if it had ended in an earlier run.
    pub command: Option<CommandExit>,
    /// The run's number.
    pub run: u32,
    /// Files stored, restored or verified.
    pub files: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Of those files, what an earlier attempt had stored, or what was there already.
    pub earlier_files: u64,
    /// What was neither a file nor a folder, and was not stored.
    pub skipped: u64,
    /// How often the command was stopped.
    pub pauses: u64,
    /// For how long, in all.
    pub paused_ms: u64,
    /// The longest pause.
    pub pause_ms_max: u64,
    /// The most bytes in the folder.
    pub spool_bytes_max: u64,
    /// The limit.
    pub spool_bytes_limit: u64,
    /// The most margin that was kept free.
    pub margin_bytes_max: u64,
    /// The most memory for uploads.
    pub memory_bytes_budget: u64,
    /// From start to end.
    pub elapsed_ms: u64,
}
