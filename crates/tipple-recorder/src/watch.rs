//! The file with the configuration, looked at now and then.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{Config, ConfigError};
use crate::error::RecorderError;

/// The most bytes of a configuration: 1 MiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A file, and how it looked when it was read last.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    seen: Option<Look>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl ConfigFile {
    /// Reads the file for the first time.
    pub(crate) fn open(path: &Path) -> Result<(ConfigFile, Config), RecorderError> {
        let mut file = ConfigFile {
            path: path.to_owned(),
            seen: None,
        };
        file.seen = file.look();
        let config = file.read()?;
        Ok((file, config))
    }

    fn look(&self) -> Option<Look> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(&self.path).ok()?;
        Some(Look {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    }

    fn read(&self) -> Result<Config, RecorderError> {
        let mut text = String::new();
        fs::File::open(&self.path)
            .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text))
            .map_err(RecorderError::io("read the configuration", &self.path))?;
        if text.len() as u64 > CONFIG_BYTES_MAX {
            let message = format!(
                "{} has more than {CONFIG_BYTES_MAX} bytes",
                self.path.display()
            );
            return Err(ConfigError(message).into());
        }
        text.parse().map_err(|ConfigError(reason)| {
            ConfigError(format!("{}: {reason}", self.path.display())).into()
        })
    }

    /// The next look takes the file, however it looks.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }

    /// The configuration, if the file looks another way than when it was read last.
    pub(crate) fn changed(&mut self) -> Option<Result<Config, RecorderError>> {
        let look = self.look();
        if look == self.seen {
            return None;
        }
        self.seen = look;
        Some(self.read())
    }
}
