//! The publish sequence on disks that fail. Healthy folders are tested in `tests/it`.
//!
//! Fault model: each system call of the sequence returns an error and does nothing; a failing
//! call fails every time.

use std::cell::RefCell;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::{Retryable, conformance};

fn open(folder: &TempDir, disk: Disk) -> LocalStore {
    let mut store = LocalStore::open(folder.path(), Access::Write).unwrap();
    store.disk = disk;
    store
}

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

fn error<T>(code: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(code))
}

/// The message without the folder's own, random name.
fn text(error: &StoreError, folder: &TempDir) -> String {
    error
        .to_string()
        .replace(folder.path().to_str().unwrap(), "/data/d")
}

/// Nothing is visible and nothing was left.
fn assert_untouched(store: &LocalStore) {
    let mut seen = Vec::new();
    store
        .list("", &mut |entry| {
            seen.push(entry);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, []);
    assert_eq!(store.leftovers().unwrap(), []);
}

/// A file in a folder that is not the store's.
fn outside(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

const SYNC_FAILS: Disk = Disk {
    sync_file: |_| error(libc::EIO),
    ..Disk::REAL
};
const SYNC_FINDS_NO_ROOM: Disk = Disk {
    sync_file: |_| error(libc::ENOSPC),
    ..Disk::REAL
};
const CLOSE_FAILS: Disk = Disk {
    close: |_| error(libc::EIO),
    ..Disk::REAL
};
const FOLDER_SYNC_FAILS: Disk = Disk {
    sync_folder: |_| error(libc::EIO),
    ..Disk::REAL
};
const NO_HARD_LINKS: Disk = Disk {
    hard_link: |_, _| error(libc::EPERM),
    ..Disk::REAL
};
const NEITHER: Disk = Disk {
    hard_link: |_, _| error(libc::EOPNOTSUPP),
    rename_no_replace: |_, _| error(libc::EINVAL),
    ..Disk::REAL
};

#[test]
fn the_steps_come_in_their_order() {
    thread_local! {
        static STEPS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }
    fn step(what: &str, path: &Path) {
        let name = path.file_name().unwrap().to_string_lossy();
        STEPS.with_borrow_mut(|steps| steps.push(format!("{what} {name}")));
    }
    let recorded = Disk {
        sync_file: |file| {
            STEPS.with_borrow_mut(|steps| steps.push("sync".to_owned()));
            (Disk::REAL.sync_file)(file)
        },
        close: |file| {
            STEPS.with_borrow_mut(|steps| steps.push("close".to_owned()));
            (Disk::REAL.close)(file)
        },
        hard_link: |from, to| {
            let linked = (Disk::REAL.hard_link)(from, to);
            step(
                if linked.is_ok() {
                    "link"
                } else {
                    "cannot link"
                },
                to,
            );
            linked
        },
        sync_folder: |folder| {
            step("sync folder", folder);
            (Disk::REAL.sync_folder)(folder)
        },
        ..Disk::REAL
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let mut store = LocalStore::open(&root, Access::Write).unwrap();
    store.disk = recorded;
    let folders = ["sync folder b", "sync folder a", "sync folder root"];

    store.put_if_absent(&name("a/b/c"), b"bytes").unwrap();
    let mut expected = vec!["sync", "close", "cannot link c", "link c"];
    expected.extend(folders);
    assert_eq!(STEPS.take(), expected);

    // Whoever wrote it may have died before these steps.
    store.put_if_absent(&name("a/b/c"), b"bytes").unwrap();
    let mut expected = vec!["sync"];
    expected.extend(folders);
    assert_eq!(STEPS.take(), expected);

    let (_outside, path) = outside(b"bytes");
    let staged = store.staging_dir().unwrap().join("staged");
    fs::rename(&path, &staged).unwrap_or_else(|_| {
        fs::copy(&path, &staged).unwrap();
    });
    store.put_file(&name("a/b/d"), &staged).unwrap();
    let mut expected = vec!["sync", "link d"];
    expected.extend(folders);
    assert_eq!(STEPS.take(), expected);

    store.delete(&name("a/b/c")).unwrap();
    assert_eq!(STEPS.take(), folders);
}

#[test]
fn a_failed_sync_or_close_publishes_nothing_and_says_so() {
    for (disk, kind) in [
        (SYNC_FAILS, StoreErrorKind::NotDurable),
        (CLOSE_FAILS, StoreErrorKind::NotDurable),
        (SYNC_FINDS_NO_ROOM, StoreErrorKind::Full),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder, disk);
        let error = store.put_if_absent(&name("a/b"), b"bytes").unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.is_retryable(), Retryable::Never);
        assert_untouched(&store);

        // Nothing was published, so nothing stands against trying with a new file.
        store.disk = Disk::REAL;
        store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let put = |disk| open(&folder, disk).put_if_absent(&name("a/b"), b"bytes");
    insta::assert_snapshot!(text(&put(SYNC_FAILS).unwrap_err(), &folder), @"cannot write a/b to /data/d: syncing to disk failed: input/output error (the staged file was removed); check the disk and the system log, then run the same command again");
    insta::assert_snapshot!(text(&put(SYNC_FINDS_NO_ROOM).unwrap_err(), &folder), @"cannot write a/b to /data/d: syncing to disk failed: no space left on device (the staged file was removed); free space or choose another folder, then run the same command again");
}

#[test]
fn a_file_that_cannot_be_synced_stays_and_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, SYNC_FAILS);
    let (outside, path) = outside(b"bytes");
    let error = store.put_file(&name("chunk"), &path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotDurable);
    assert_eq!(error.is_retryable(), Retryable::Never);
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
    assert_untouched(&store);
    let text = text(&error, &folder).replace(outside.path().to_str().unwrap(), "/spool");
    insta::assert_snapshot!(text, @"cannot write chunk to /data/d: syncing to disk failed: input/output error (/spool/file must be written again from its start); check the disk and the system log, then run the same command again");
}

#[test]
fn an_object_that_cannot_be_synced_is_not_taken_for_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder, Disk::REAL);
    store.put_if_absent(&name("a"), b"bytes").unwrap();
    store.disk = SYNC_FAILS;
    let error = store.put_if_absent(&name("a"), b"bytes").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotDurable);
    insta::assert_snapshot!(text(&error, &folder), @"cannot write a to /data/d: syncing to disk failed: input/output error (the object there was written by an earlier attempt); check the disk and the system log, then run the same command again");
}

#[test]
fn after_a_failed_sync_of_a_folder_nothing_more_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder, FOLDER_SYNC_FAILS);
    let error = store.put_if_absent(&name("a/b"), b"bytes").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotDurable);
    assert_eq!(error.is_retryable(), Retryable::MayHaveBeenApplied);
    insta::assert_snapshot!(text(&error, &folder), @"cannot write a/b to /data/d: syncing to disk failed: input/output error (the folder /data/d/a); check the disk and the system log, then run the same command again");
    assert_eq!(store.leftovers().unwrap(), []);

    // A second sync could succeed without having kept what the first had lost.
    store.disk = Disk::REAL;
    let error = store.put_if_absent(&name("a/b"), b"bytes").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotDurable);
    assert_eq!(error.is_retryable(), Retryable::Never);
    insta::assert_snapshot!(text(&error, &folder), @"cannot write a/b to /data/d: an earlier sync of one of its folders failed; check the disk and the system log, then run the same command again");
    assert_eq!(store.get(&name("a/b"), 10).unwrap(), b"bytes");

    let store = open(&folder, Disk::REAL);
    let put = store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    assert_eq!(put, Put::AlreadySame);
}

#[test]
fn a_file_stays_where_it_was_if_its_folder_cannot_be_synced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, FOLDER_SYNC_FAILS);
    let path = store.staging_dir().unwrap().join("file");
    fs::write(&path, b"bytes").unwrap();
    let error = store.put_file(&name("chunk"), &path).unwrap_err();
    assert_eq!(error.is_retryable(), Retryable::MayHaveBeenApplied);
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
}

#[test]
fn without_hard_links_every_rule_holds() {
    // In memory where there is such a folder: no disk to wait for, and the files that the rules
    // publish come from another file system.
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    conformance::check(&|place, access| {
        let mut store = LocalStore::open(&folder.path().join(place), access).unwrap();
        store.disk = NO_HARD_LINKS;
        Arc::new(store)
    });
}

#[test]
fn every_refusal_of_hard_links_is_known() {
    let refusals: [fn(&Path, &Path) -> io::Result<()>; 4] = [
        |_, _| error(libc::EPERM),
        |_, _| error(libc::EOPNOTSUPP),
        |_, _| error(libc::EMLINK),
        |_, _| error(libc::ENOSYS),
    ];
    for hard_link in refusals {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk {
            hard_link,
            ..Disk::REAL
        };
        let store = open(&folder, disk);
        store.put_if_absent(&name("a"), b"bytes").unwrap();
        let description = store.capabilities().unwrap().description;
        assert!(description.contains("renaming"), "{description}");
    }
}

#[test]
fn a_file_system_without_both_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, NEITHER);
    let (_outside, path) = outside(b"bytes");
    let error = store.put_if_absent(&name("a/b"), b"bytes").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    insta::assert_snapshot!(text(&error, &folder), @"cannot write a/b to /data/d: its file system can neither make hard links nor rename without overwriting, so it cannot keep two writers apart; choose a folder on another file system");
    let error = store.put_file(&name("a/b"), &path).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    assert!(path.exists());
    let error = store.capabilities().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    insta::assert_snapshot!(text(&error, &folder), @"cannot find out what /data/d can do: its file system can neither make hard links nor rename without overwriting, so it cannot keep two writers apart; choose a folder on another file system");
    assert_untouched(&store);
}

#[test]
fn a_disk_that_overwrites_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk {
        hard_link: |from, to| fs::copy(from, to).map(drop),
        ..Disk::REAL
    };
    let capabilities = open(&folder, disk).capabilities().unwrap();
    assert_eq!(capabilities.put_if_absent, PutIfAbsent::Ignored);
}

#[test]
fn a_copied_file_is_compared_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk {
        // Another file system, and another writer who is faster.
        hard_link: |from, to| {
            if from.ends_with("file") {
                fs::write(to, b"bytes")?;
                return error(libc::EXDEV);
            }
            (Disk::REAL.hard_link)(from, to)
        },
        ..Disk::REAL
    };
    let store = open(&folder, disk);
    let (_outside, path) = outside(b"bytes");
    let put = store.put_file(&name("chunk"), &path).unwrap();
    assert_eq!(put, Put::AlreadySame);
    assert!(!path.exists());
    assert_eq!(store.leftovers().unwrap(), []);
}

#[test]
fn a_new_store_is_synced_in_every_folder_above_it() {
    thread_local! {
        static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }
    let recorded = Disk {
        sync_folder: |folder| {
            SYNCED.with_borrow_mut(|synced| synced.push(folder.to_owned()));
            (Disk::REAL.sync_folder)(folder)
        },
        ..Disk::REAL
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b/c");
    LocalStore::open_on(&root, Access::Write, recorded).unwrap();
    let above = ["a/b", "a", ""].map(|above| folder.path().join(above));
    assert_eq!(SYNCED.take(), above);
    // Whoever made it may have died before syncing.
    LocalStore::open_on(&root, Access::Write, recorded).unwrap();
    assert_eq!(SYNCED.take(), [folder.path().join("a/b")]);
    LocalStore::open_on(&root, Access::Read, recorded).unwrap();
    assert_eq!(SYNCED.take(), [""; 0].map(PathBuf::from));

    let root = folder.path().join("d");
    let opened = LocalStore::open_on(&root, Access::Write, FOLDER_SYNC_FAILS).map(drop);
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotDurable);
    insta::assert_snapshot!(text(&error, &folder), @"cannot open /data/d/d: syncing to disk failed: input/output error (the folder /data/d); check the disk and the system log, then run the same command again");
}
