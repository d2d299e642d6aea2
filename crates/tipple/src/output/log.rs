//! The log file: what happened, a line each.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::cli::Level;
use crate::error::{CliError, Kind};

/// A file that lines are appended to.
pub(crate) struct Log {
    file: Mutex<File>,
    level: Level,
}

impl Log {
    pub(crate) fn open(path: &Path, level: Level) -> Result<Self, CliError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| {
                let message = format!("cannot open the log file {}: {error}", path.display());
                CliError::new(Kind::Budget, message)
            })?;
        Ok(Self {
            file: Mutex::new(file),
            level,
        })
    }

    /// One line, if it is important enough. A log that cannot be written does not end a job.
    pub(crate) fn line(&self, level: Level, text: &str) {
        if level > self.level {
            return;
        }
        let name = match level {
            Level::Error => "ERROR",
            Level::Warn => "WARN ",
            Level::Info => "INFO ",
            Level::Debug => "DEBUG",
        };
        let line = format!("{:.3} {name} {text}\n", jiff::Timestamp::now());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(line.as_bytes());
    }
}
