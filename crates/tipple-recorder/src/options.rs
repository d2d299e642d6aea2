//! How a recorder is set up: what holds for the whole of its life.

use std::path::PathBuf;
use std::time::Duration;

use tipple_chunk::Codec;

use crate::config::Config;
use crate::error::RecorderError;

/// What a thread does that needs memory when the budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// Its record is lost.
    #[default]
    DropNewest,
    /// The oldest records that the writer has not taken yet are lost, a buffer of them at a time.
    DropOldest,
    /// It waits, at most so long for each record; then the record is lost. For programs that had rather be late than
    /// not recorded.
    Block(Duration),
}

/// When files are synced to the disk. What was written and not synced survives a kill of the program, not one of the
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Only by the system, in its own time.
    Never,
    /// When a file is closed, and this often while it is written.
    Every(Duration),
    /// After every write.
    Always,
}

/// What files are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// `CLASS.YYYYMMDDTHHMMSSZ.RUN-NNNN.ndjson` or `.ndjson.zst`, with `.open` after it while it is written: who ships
    /// files finds whole ones only. The time is in UTC; RUN is the same for all files of a recorder.
    #[default]
    Dated,
    /// `CLASS.ndjson`, appended to; opened again on [`reopen`](crate::Recorder::reopen) and when somebody has moved it
    /// away: for logrotate.
    Fixed,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Exactly as elfo writes it, so that what reads elfo's dumps reads these.
    #[default]
    Elfo,
    /// The same with `"h":1` at the end where a field was redacted or the message truncated: by it a player tells what
    /// was hidden from a text that only looks so.
    Marked,
}

/// How a recorder is set up. [`RecorderOptions::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// The folder of the files; made if it is not there. `None`: a flight recorder, which writes nothing until it is
    /// asked for a [snapshot](crate::Recorder::snapshot), and keeps what fits into its memory.
    pub folder: Option<PathBuf>,
    /// Where a flight recorder puts snapshots. Default: the folder for temporary files.
    pub snapshot_folder: PathBuf,
    /// The number of this machine or process among several: a line's `n`. Default 0.
    pub node: u16,
    /// All memory that the recorder may take, in bytes: buffers, what waits for the disk, and the compressor. At least
    /// [`memory_bytes_min`](RecorderOptions::memory_bytes_min). Default 64 MiB. Each thread that records holds a buffer
    /// of 64 KiB (16 KiB with less than 16 MiB).
    pub memory_bytes: u64,
    /// What happens when it is used up. Default [`OnFull::DropNewest`].
    pub on_full: OnFull,
    /// How long a record stays in memory at most, while the disk keeps up: what a kill may cost. Default 200 ms, at
    /// least 1 ms.
    pub write_interval: Duration,
    /// How long a record whose `Serialize` takes its time is waited for, so that lines are sorted. Default 1 s.
    pub order_window: Duration,
    /// Whether files are compressed. Default [`Codec::None`]: plain text. `zstd:1` takes less time than writing what it
    /// saves.
    pub codec: Codec,
    /// What files are called. Default [`Naming::Dated`].
    pub naming: Naming,
    /// How lines are written. Default [`Profile::Elfo`].
    pub profile: Profile,
    /// A file of more bytes is closed, and a new one begun; with [`Naming::Fixed`] never. Default 256 MiB, at least
    /// 64 KiB.
    pub rotate_bytes: u64,
    /// The same after so much time. Default: never.
    pub rotate_every: Option<Duration>,
    /// The sum of the sizes of closed files in the folder beyond which the oldest are deleted. Default: any.
    pub retain_bytes: Option<u64>,
    /// The age beyond which closed files are deleted. Default: any.
    pub retain_age: Option<Duration>,
    /// With less free disk than this, closed files are deleted, the oldest first; when none is left, nothing is recorded
    /// until there is room again. Default 256 MiB.
    pub min_free_bytes: u64,
    /// When files are synced. Default: every second.
    pub sync: Sync,
    /// How many classes may have files at a time; more of them share one. Default 64.
    pub classes_max: usize,
    /// What is recorded, to begin with.
    pub config: Config,
    /// A TOML file with the configuration. It is read at the start and whenever it has changed, which is looked for
    /// every second, and at [`reload_config`](crate::Recorder::reload_config); while it cannot be used, the configuration
    /// before it holds on.
    pub config_file: Option<PathBuf>,
}

/// The usual buffer, and that of small budgets.
const BUFFER_BYTES: usize = 64 << 10;
const BUFFER_BYTES_SMALL: usize = 16 << 10;
/// Budgets of less have small buffers.
const SMALL_BYTES: u64 = 16 << 20;
/// Fewer buffers than these make a recorder that loses more than it writes.
const BUFFERS_MIN: u64 = 16;
/// What waits for the disk: a piece of text twice, once as it grows.
pub(crate) const TEXT_BYTES: u64 = 1 << 20;

impl RecorderOptions {
    /// The defaults, with files in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> RecorderOptions {
        RecorderOptions {
            folder: Some(folder.into()),
            ..RecorderOptions::flight(64 << 20)
        }
    }

    /// The defaults of a flight recorder, with `memory_bytes` of memory.
    pub fn flight(memory_bytes: u64) -> RecorderOptions {
        RecorderOptions {
            folder: None,
            snapshot_folder: std::env::temp_dir(),
            node: 0,
            memory_bytes,
            on_full: OnFull::default(),
            write_interval: Duration::from_millis(200),
            order_window: Duration::from_secs(1),
            codec: Codec::None,
            naming: Naming::default(),
            profile: Profile::default(),
            rotate_bytes: 256 << 20,
            rotate_every: None,
            retain_bytes: None,
            retain_age: None,
            min_free_bytes: 256 << 20,
            sync: Sync::Every(Duration::from_secs(1)),
            classes_max: 64,
            config: Config::default(),
            config_file: None,
        }
    }

    /// What the writer needs of the memory for itself.
    fn writer_bytes(&self) -> u64 {
        let codec = match self.codec {
            Codec::None => 0,
            codec => codec.encoder_bytes() + TEXT_BYTES,
        };
        2 * TEXT_BYTES + codec
    }

    /// The least memory that a recorder with these options can have, in bytes.
    pub fn memory_bytes_min(&self) -> u64 {
        self.writer_bytes() + BUFFERS_MIN * BUFFER_BYTES_SMALL as u64
    }

    /// What is left for buffers, and the size of one.
    pub(crate) fn buffers(&self) -> (u64, usize) {
        let bytes = match self.memory_bytes < SMALL_BYTES {
            true => BUFFER_BYTES_SMALL,
            false => BUFFER_BYTES,
        };
        (self.memory_bytes - self.writer_bytes(), bytes)
    }

    /// Whether a recorder can be made of these.
    ///
    /// # Errors
    /// What cannot be, with the value, and what would do.
    pub fn validate(&self) -> Result<(), RecorderError> {
        let refuse = |what: String| Err(RecorderError::Options { what });
        if self.memory_bytes < self.memory_bytes_min() {
            return refuse(format!(
                "memory of {} bytes is too little: give {} or more",
                self.memory_bytes,
                self.memory_bytes_min()
            ));
        }
        if self.write_interval < Duration::from_millis(1) {
            return refuse("the write interval is below 1 ms".to_owned());
        }
        if self.rotate_bytes < 64 << 10 {
            return refuse(format!(
                "rotation after {} bytes is too often: give 65536 or more",
                self.rotate_bytes
            ));
        }
        if self.classes_max == 0 {
            return refuse("no class may have files: give 1 or more".to_owned());
        }
        if self.naming == Naming::Fixed && self.codec != Codec::None {
            return refuse(
                "files of fixed names are appended to, which compressed files cannot be: give `none`, or dated names"
                    .to_owned(),
            );
        }
        self.codec
            .validate()
            .map_err(|error| RecorderError::Options {
                what: error.to_string(),
            })?;
        self.config.validate()?;
        Ok(())
    }
}
