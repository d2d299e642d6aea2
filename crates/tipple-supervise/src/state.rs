//! Whose the folder is, noted on the local disk: so that no two supervisors write there, the processes of one that was
//! killed are found, and nobody's files are deleted by mistake.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::SuperviseError;
use crate::processes::{Process, Tree};

const LOCK: &str = "lock";
const CLAIM: &str = "run.json";
const NEW: &str = "run.json.new";

/// Which run the folder belongs to, and its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// The store, for messages.
    pub(crate) store: String,
    /// The place in it, from its HEAD.
    pub(crate) place: String,
    pub(crate) run: u32,
    /// In the environment of all processes of the run.
    pub(crate) mark: String,
    /// The boot and the process namespace that the numbers below are from.
    pub(crate) system: String,
    /// Pid and start of the command's first process.
    pub(crate) leader: Option<(i32, u64)>,
}

impl Claim {
    /// The processes of that run that are still alive.
    pub(crate) fn survivors(&self) -> Tree {
        let leader = self.leader.filter(|(pid, started)| {
            // The same number on another boot, or later, is another process.
            self.system == system() && Process::find(*pid).is_some_and(|p| p.started == *started)
        });
        Tree::new(&self.mark, leader)
    }
}

/// What pids and start times mean something in.
pub(crate) fn system() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {}", boot.trim(), space.display())
}

/// The state folder, locked as long as this exists.
pub(crate) struct State {
    dir: PathBuf,
    lock: File,
}

impl Drop for State {
    fn drop(&mut self) {
        // Closing would do, but a process that is being started at this moment holds a copy of the descriptor.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

impl State {
    /// Beside `folder`, unless `chosen`.
    pub(crate) fn path(folder: &Path, chosen: Option<&Path>) -> Result<PathBuf, SuperviseError> {
        match (chosen, folder.file_name(), folder.parent()) {
            (Some(chosen), ..) => Ok(chosen.to_owned()),
            (None, Some(name), Some(parent)) => {
                let mut name = OsString::from(name);
                name.push(".tipple");
                Ok(parent.join(name))
            }
            _ => Err(SuperviseError::Usage(format!(
                "{} cannot be the command's folder: give one of its own",
                folder.display()
            ))),
        }
    }

    /// Opens it, and creates it if it does not exist.
    pub(crate) fn open(dir: &Path) -> Result<Self, SuperviseError> {
        fs::create_dir_all(dir).map_err(SuperviseError::disk("create the state folder", dir))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(SuperviseError::disk("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(SuperviseError::Usage(format!(
                    "{} is in use by another tipple: wait for it, or give another --dir",
                    dir.display()
                )));
            }
            Err(error) => return Err(SuperviseError::disk("lock", &path)(error.into())),
        }
        Ok(Self {
            dir: dir.to_owned(),
            lock,
        })
    }

    /// What was noted; `None` if nothing was.
    pub(crate) fn read(&self) -> Result<Option<Claim>, SuperviseError> {
        let path = self.dir.join(CLAIM);
        let failed = |source| SuperviseError::disk("read", &path)(source);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| {
                failed(io::Error::new(io::ErrorKind::InvalidData, error))
            })?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Notes it durably: whole, or as it was before.
    pub(crate) fn write(&self, claim: &Claim) -> Result<(), SuperviseError> {
        let path = self.dir.join(CLAIM);
        let write = || {
            let new = self.dir.join(NEW);
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(claim)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(SuperviseError::disk("write", &path))
    }

    /// Removes the folder if nothing is noted in it.
    pub(crate) fn remove_unless_claimed(self) {
        if matches!(self.read(), Ok(None)) {
            // It is not in anybody's way.
            let _ = self.remove();
        }
    }

    /// The folder belongs to no run any more.
    pub(crate) fn forget(&self) -> Result<(), SuperviseError> {
        self.remove_files(&[CLAIM])
    }

    /// Nothing is left to note.
    pub(crate) fn remove(self) -> Result<(), SuperviseError> {
        self.remove_files(&[CLAIM, NEW, LOCK])?;
        // One that the user made and put other things into stays.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }

    fn remove_files(&self, names: &[&str]) -> Result<(), SuperviseError> {
        for name in names {
            let path = self.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SuperviseError::disk("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_supervisor() {
        let dir = tempfile::tempdir().unwrap();
        let path = State::path(&dir.path().join("out"), None).unwrap();
        assert_eq!(path, dir.path().join("out.tipple"));
        let state = State::open(&path).unwrap();
        let other = State::open(&path).err().unwrap().to_string();
        assert!(other.contains("in use by another tipple"), "{other}");
        assert_eq!(state.read().unwrap(), None);
        let claim = Claim {
            store: "/s".to_owned(),
            place: "p".to_owned(),
            run: 3,
            mark: "m".to_owned(),
            system: system(),
            leader: Some((1, 2)),
        };
        state.write(&claim).unwrap();
        assert_eq!(state.read().unwrap(), Some(claim));
        state.remove().unwrap();
        assert!(!path.exists());
        State::path(Path::new("/"), None).unwrap_err();
    }
}
