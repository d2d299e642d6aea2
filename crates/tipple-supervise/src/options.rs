//! What a caller chooses.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::SuperviseError;
use crate::usage;

/// Options of [`supervise`](crate::supervise).
#[derive(Clone, Debug)]
pub struct SuperviseOptions {
    /// The folder that the command writes into. It is created if it does not exist.
    pub dir: PathBuf,
    /// Where it is noted, outside of that folder, whose it is and which processes write there. Default: beside the
    /// folder, with `.tipple` after its name.
    pub state: Option<PathBuf>,
    /// The program and its arguments; `{dir}` in an argument is replaced by the folder.
    pub command: Vec<OsString>,
    /// Variables that are set for the command only.
    pub variables: Vec<(OsString, OsString)>,
    /// The most bytes in the folder. At least [`LIMIT_BYTES_MIN`](Self::LIMIT_BYTES_MIN).
    pub limit_bytes: u64,
    /// Uploads at a time, 1 to 1024. Default: 4.
    pub threads: usize,
    /// The longest pause, from 100 ms. Default: 45 s, less than the 60 s after which MySQL and MariaDB give a client up
    /// that does not read (`net_write_timeout`).
    pub pause_max: Duration,
    /// Pause with SIGTSTP first, which a program may catch.
    pub gentle: bool,
    /// How long the command may take to end after SIGTERM, before SIGKILL. Default: 10 s.
    pub grace: Duration,
    /// Names (with `*` for any characters) that are not taken while the command runs, though closed: they are about to
    /// get another name. Default: `.*`, `*.tmp`, `*.partial`, `*.part`.
    pub hold: Vec<String>,
    /// Tries of one upload, 1 to 1000. Default: 10, for at most 5 minutes.
    pub attempts: u32,
    /// Where the command's standard output goes: to this process's standard error instead of its standard output.
    pub output_to_stderr: bool,
}

impl SuperviseOptions {
    /// The smallest limit: 2 MiB. A sixteenth of it and more is kept free as margin.
    pub const LIMIT_BYTES_MIN: u64 = usage::LIMIT_BYTES_MIN;

    /// The defaults, for this folder, limit and command.
    pub fn new(dir: impl Into<PathBuf>, limit_bytes: u64, command: Vec<OsString>) -> Self {
        Self {
            dir: dir.into(),
            state: None,
            command,
            variables: Vec::new(),
            limit_bytes,
            threads: 4,
            pause_max: Duration::from_secs(45),
            gentle: false,
            grace: Duration::from_secs(10),
            hold: [".*", "*.tmp", "*.partial", "*.part"]
                .map(str::to_owned)
                .to_vec(),
            attempts: 10,
            output_to_stderr: false,
        }
    }

    /// Whether they can work.
    ///
    /// # Errors
    /// `Usage`, or `Budget` for a limit that is smaller than the margin needs.
    pub fn validate(&self) -> Result<(), SuperviseError> {
        let refused = |text: String| Err(SuperviseError::Usage(text));
        if self
            .command
            .first()
            .is_none_or(|program| program.is_empty())
        {
            return refused("no command is given: give it after --".to_owned());
        }
        if self.limit_bytes < usage::LIMIT_BYTES_MIN {
            return Err(SuperviseError::Limit(format!(
                "a limit of {} bytes leaves no room for the margin that is kept free: give at least {} ({} bytes)",
                self.limit_bytes,
                "2MiB",
                usage::LIMIT_BYTES_MIN
            )));
        }
        if !(1..=1024).contains(&self.threads) {
            return refused(format!("{} threads: give 1 to 1024", self.threads));
        }
        if !(1..=1000).contains(&self.attempts) {
            return refused(format!("{} attempts: give 1 to 1000", self.attempts));
        }
        if self.pause_max < Duration::from_millis(100) {
            return refused(format!(
                "a pause of at most {:?}: give 100ms or more",
                self.pause_max
            ));
        }
        Ok(())
    }

    /// The most memory that is held for uploads, beside what the store holds: 64 KiB for each thread.
    pub fn memory_bytes(&self) -> u64 {
        self.threads as u64 * (64 << 10)
    }
}
