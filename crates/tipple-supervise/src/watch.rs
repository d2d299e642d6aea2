//! What happens to the names in the folder, as inotify tells it.
//!
//! It is a help, not the proof: a file is taken only after the system's lists said that nobody has it open for writing
//! (`writers.rs`), and what events miss (the queue overflowed, a folder could not be watched), a look at the folder finds.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::folder::each_folder;

/// What happened to a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Someone who could write to the file closed it.
    Closed(PathBuf),
    /// The name came into being, or now names another file.
    Appeared(PathBuf),
    /// A file was renamed into this name.
    Moved(PathBuf),
    /// The file got another name, or left the folder.
    MovedAway(PathBuf),
}

pub(crate) struct Watch {
    inotify: OwnedFd,
    root: PathBuf,
    folders: HashMap<i32, PathBuf>,
    /// A folder could not be watched, and why.
    pub(crate) unwatched: Option<io::Error>,
    /// Times that the queue overflowed.
    pub(crate) overflows: u64,
}

impl Watch {
    /// Watches `root` and the folders in it.
    pub(crate) fn start(root: &Path) -> io::Result<Self> {
        let mut watch = Self {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            root: root.to_owned(),
            folders: HashMap::new(),
            unwatched: None,
            overflows: 0,
        };
        watch.add(Path::new(""));
        Ok(watch)
    }

    /// Watches a folder and those in it. What was created in them before, a look at the folder finds.
    fn add(&mut self, folder: &Path) {
        let mut folders = Vec::new();
        // One that is gone needs no watching.
        let _ = each_folder(&self.root.join(folder), |below| {
            folders.push(folder.join(below));
            Ok(())
        });
        for folder in folders {
            let flags = WatchFlags::CREATE
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW
                | WatchFlags::EXCL_UNLINK;
            match inotify::add_watch(&self.inotify, self.root.join(&folder), flags) {
                Ok(id) => {
                    self.folders.insert(id, folder);
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => self.unwatched = Some(error.into()),
            }
        }
    }

    /// Waits until something happens, or for so long.
    pub(crate) fn wait(&self, at_most: Duration) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: at_most.as_secs() as i64,
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What has happened since the last call, in order.
    pub(crate) fn drain(&mut self) -> io::Result<Vec<Happened>> {
        let mut happened = Vec::new();
        let mut new_folders = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.overflows += 1;
                new_folders.push(PathBuf::new());
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
                continue;
            }
            let (Some(folder), Some(name)) = (self.folders.get(&event.wd()), event.file_name())
            else {
                continue;
            };
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            if flags.contains(ReadFlags::ISDIR) {
                if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                    new_folders.push(path);
                }
            } else if flags.contains(ReadFlags::CLOSE_WRITE) {
                happened.push(Happened::Closed(path));
            } else if flags.contains(ReadFlags::MOVED_TO) {
                happened.push(Happened::Moved(path));
            } else if flags.contains(ReadFlags::MOVED_FROM) {
                happened.push(Happened::MovedAway(path));
            } else if flags.contains(ReadFlags::CREATE) {
                happened.push(Happened::Appeared(path));
            }
        }
        for folder in new_folders {
            self.add(&folder);
        }
        Ok(happened)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn next(watch: &mut Watch) -> Vec<Happened> {
        tipple_testkit::wait_for_some("an event", || {
            let happened = watch.drain().unwrap();
            (!happened.is_empty()).then_some(happened)
        })
    }

    #[test]
    fn names_in_all_folders_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        let mut watch = Watch::start(dir.path()).unwrap();
        fs::write(dir.path().join("old/a"), "x").unwrap();
        assert_eq!(
            next(&mut watch),
            [
                Happened::Appeared("old/a".into()),
                Happened::Closed("old/a".into())
            ]
        );
        fs::create_dir(dir.path().join("new")).unwrap();
        assert_eq!(watch.drain().unwrap(), []);
        fs::rename(dir.path().join("old/a"), dir.path().join("new/b")).unwrap();
        assert_eq!(
            next(&mut watch),
            [
                Happened::MovedAway("old/a".into()),
                Happened::Moved("new/b".into())
            ]
        );
        // A folder that is renamed is known by its new name.
        fs::rename(dir.path().join("new"), dir.path().join("newer")).unwrap();
        assert_eq!(watch.drain().unwrap(), []);
        fs::write(dir.path().join("newer/c"), "x").unwrap();
        assert_eq!(
            next(&mut watch),
            [
                Happened::Appeared("newer/c".into()),
                Happened::Closed("newer/c".into())
            ]
        );
        assert_eq!(watch.overflows, 0);
    }
    #[test]
    fn when_the_queue_overflows_all_folders_are_watched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::start(dir.path()).unwrap();
        let events = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let file = dir.path().join("file");
        // Two events each, of which no two that follow each other are the same.
        for _ in 0..events.trim().parse::<u64>().unwrap() / 2 + 10 {
            fs::write(&file, "").unwrap();
            fs::remove_file(&file).unwrap();
        }
        fs::create_dir(dir.path().join("unseen")).unwrap();
        watch.drain().unwrap();
        assert_eq!(watch.overflows, 1);
        fs::write(dir.path().join("unseen/a"), "").unwrap();
        assert_eq!(
            next(&mut watch),
            [
                Happened::Appeared("unseen/a".into()),
                Happened::Closed("unseen/a".into())
            ]
        );
    }
}
