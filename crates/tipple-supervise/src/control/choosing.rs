//! Which files are finished: closed by everybody, and then for good.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Control;
use crate::error::SuperviseError;
use crate::folder::{self, FileState, Found};
use crate::job::Event;
use crate::layout::FileEntry;
use crate::name::written;
use crate::upload::{self, Task};
use crate::watch::Happened;
use crate::writers::{FileKey, open_for_writing};

/// A file is left alone for so long after it was closed, so that a change after that has another time of change.
const SETTLE: Duration = Duration::from_millis(20);
/// Files that no event spoke of are looked at so often.
const SWEEP: Duration = Duration::from_millis(300);
/// At least so long between two looks at who has files open; and never more than a tenth of the time.
const SCAN_MIN: Duration = Duration::from_millis(5);

/// A file in the folder that is not stored.
pub(super) struct Known {
    key: FileKey,
    since: Instant,
    /// An event, or an earlier look at who has it open, said that nobody writes to it.
    closed: bool,
    /// It is being stored, as it was then.
    pub(super) taken: Option<FileState>,
}

/// A stored file of which it is still to be seen that nobody has kept it open.
pub(super) struct Check {
    pub(super) path: PathBuf,
    pub(super) entry: FileEntry,
    pub(super) file: File,
    pub(super) state: FileState,
}

impl Control<'_> {
    pub(super) fn follow(&mut self, event: Happened) -> Result<(), SuperviseError> {
        let appeared = matches!(event, Happened::Appeared(_));
        let (path, replaced) = match event {
            Happened::Closed(path) => {
                if let Some(known) = self.known.get_mut(&path)
                    && known.taken.is_none()
                {
                    known.closed = true;
                    known.since = Instant::now();
                } else if !self.known.contains_key(&path) {
                    self.expect(path);
                }
                return Ok(());
            }
            Happened::Moved(path) => {
                self.expect_closed(&path);
                (path, true)
            }
            Happened::Appeared(path) => (path, true),
            Happened::MovedAway(path) => (path, false),
        };
        if self
            .known
            .get(&path)
            .is_some_and(|known| known.taken.is_some())
        {
            let path = self.dir.join(path);
            return Err(match appeared {
                true => upload::written_again(&path),
                false => upload::changed(&path),
            });
        }
        let gone = self.checks.iter().any(|check| check.path == path)
            || self.stored.contains_key(&written(&path));
        if replaced && gone {
            return Err(upload::written_again(&self.dir.join(path)));
        }
        if !replaced {
            self.known.remove(&path);
        }
        Ok(())
    }

    /// A closed file that no look has found yet: its key is filled in by the next one.
    fn expect(&mut self, path: PathBuf) {
        let known = Known {
            key: (0, 0),
            since: Instant::now(),
            closed: true,
            taken: None,
        };
        self.known.insert(path, known);
    }

    fn expect_closed(&mut self, path: &Path) {
        if self
            .known
            .get(path)
            .is_none_or(|known| known.taken.is_none())
        {
            self.expect(path.to_owned());
        }
    }

    /// Finds out which files nobody writes to any more.
    pub(super) fn choose(&mut self, found: &[Found]) -> Result<(), SuperviseError> {
        let now = Instant::now();
        let mut here: HashSet<&Path> = HashSet::with_capacity(found.len());
        for file in found.iter().filter(|file| file.is_regular) {
            here.insert(&file.path);
            self.meet(file, now)?;
        }
        self.known
            .retain(|path, known| known.taken.is_some() || here.contains(path.as_path()));
        let sweep = self.ended
            || now.duration_since(self.sweep_at) >= SWEEP
            || (self.pauses.is_paused() && self.idle_scans < 2);
        let waiting: Vec<(PathBuf, FileKey)> = self
            .known
            .iter()
            .filter(|(path, known)| {
                known.taken.is_none()
                    && now.duration_since(known.since) >= SETTLE
                    && (known.closed || sweep)
                    && (self.ended || !self.is_held(path))
            })
            .map(|(path, known)| (path.clone(), known.key))
            .collect();
        let settled = self
            .known
            .values()
            .all(|known| now.duration_since(known.since) >= SETTLE);
        if waiting.is_empty() && self.checks.is_empty() {
            self.idle_scans += u32::from(self.pauses.is_paused() && settled);
            return Ok(());
        }
        if now < self.scan_at {
            return Ok(());
        }
        let keys: HashSet<FileKey> = waiting
            .iter()
            .map(|(_, key)| *key)
            .chain(self.checks.iter().map(|check| check.state.key))
            .collect();
        let members = match (&mut self.command, self.ended) {
            (Some(command), false) => command.tree.members(),
            _ => Vec::new(),
        };
        let open = open_for_writing(&keys, &members);
        self.scan_at = Instant::now() + SCAN_MIN.max(now.elapsed() * 10);
        if sweep {
            self.sweep_at = now;
        }
        self.settle_checks(&open)?;
        let mut took = false;
        for (path, key) in waiting {
            let known = self.known.get_mut(&path).expect("listed above");
            match open.get(&key) {
                None if known.closed => {
                    took = true;
                    // As it is now that nobody writes to it.
                    known.taken = state_of(&self.dir.join(&path)).filter(|state| state.key == key);
                    if known.taken.is_some() {
                        self.queue.push_back(path);
                    }
                }
                // The next look takes it: one alone may have come between its creation and the first write.
                None => {
                    took = true;
                    known.closed = true;
                }
                Some(pid) if self.ended => {
                    return Err(SuperviseError::Command(format!(
                        "process {pid}, which is not one of the command's, still writes to {}",
                        self.dir.join(path).display()
                    )));
                }
                Some(_) => known.closed = false,
            }
        }
        self.idle_scans = match took {
            true => 0,
            false => self.idle_scans + u32::from(self.pauses.is_paused() && settled),
        };
        Ok(())
    }

    /// A file that a look has found.
    fn meet(&mut self, file: &Found, now: Instant) -> Result<(), SuperviseError> {
        match self.known.get_mut(&file.path) {
            Some(known) if known.key == file.state.key => {}
            Some(known) if known.taken.is_some() => {
                return Err(upload::written_again(&self.dir.join(&file.path)));
            }
            Some(known) => {
                // Renamed into this place, or seen first by an event.
                known.key = file.state.key;
            }
            None => {
                if self.stored.contains_key(&written(&file.path)) {
                    return Err(upload::written_again(&self.dir.join(&file.path)));
                }
                let known = Known {
                    key: file.state.key,
                    since: now,
                    closed: false,
                    taken: None,
                };
                self.known.insert(file.path.clone(), known);
            }
        }
        Ok(())
    }

    fn is_held(&self, path: &Path) -> bool {
        path.components().any(|part| {
            self.options
                .hold
                .iter()
                .any(|pattern| folder::fits(part.as_os_str(), pattern))
        })
    }

    /// Files that were stored count when nobody has kept them open for writing.
    fn settle_checks(&mut self, open: &HashMap<FileKey, i32>) -> Result<(), SuperviseError> {
        for check in std::mem::take(&mut self.checks) {
            let path = self.dir.join(&check.path);
            let meta = check
                .file
                .metadata()
                .map_err(SuperviseError::disk("look at", &path))?;
            let same = FileState::of(&meta).is_same_content(&check.state);
            if open.contains_key(&check.state.key) || !same {
                return Err(upload::changed(&path));
            }
            let bytes = check.entry.bytes;
            self.job.progress().stored(bytes);
            self.job.tell(&Event::File {
                path: check.entry.path.clone(),
                bytes,
            });
            self.stored.insert(check.entry.path.clone(), check.entry);
        }
        Ok(())
    }

    pub(super) fn dispatch(&mut self) {
        while self.uploads.has_room()
            && let Some(path) = self.queue.pop_front()
        {
            let taken = self.known.get(&path).and_then(|known| known.taken);
            if let Some(state) = taken {
                self.uploads.give(Task { path, state });
            }
        }
    }
}

/// `None` if there is no such regular file.
fn state_of(path: &Path) -> Option<FileState> {
    let meta = fs::symlink_metadata(path).ok()?;
    meta.is_file().then(|| FileState::of(&meta))
}
