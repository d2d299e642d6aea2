//! File systems of their own: full, read-only, or another one. These tests mount and so need
//! root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tipple_store::{Access, Put, Retryable, StoreErrorKind};

use crate::{name, names, open, text, try_open};

/// A small file system in memory, unmounted when dropped.
struct Mounted {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Mounted {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mounted = Self::at(folder.path());
        mounted._folder = Some(folder);
        mounted
    }

    fn at(path: &Path) -> Self {
        run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"], path);
        Self {
            path: path.to_owned(),
            _folder: None,
        }
    }

    fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro"], &self.path);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "this test needs root and a system that lets it mount a tmpfs; {program} said: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_full_disk_is_said_and_harms_nothing() {
    let mounted = Mounted::new();
    let store = open(&mounted.path);
    let free_bytes = |store: &dyn tipple_store::Store| {
        store.capabilities().unwrap().free_bytes.expect("a limit")
    };
    let free_bytes_before = free_bytes(&*store);
    assert!(free_bytes_before <= 1 << 20);
    let half = vec![b'x'; 600_000];
    store.put_if_absent(&name("half"), &half).unwrap();
    assert!(free_bytes(&*store) <= free_bytes_before - 600_000);

    let spool = tempfile::tempdir().unwrap();
    let file = spool.path().join("file");
    fs::write(&file, &half).unwrap();
    for put in [
        store.put_if_absent(&name("parts/x.json"), &half),
        store.put_file(&name("parts/x.json"), &file),
    ] {
        let error = put.as_ref().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Full);
        assert_eq!(error.is_retryable(), Retryable::Never);
        insta::allow_duplicates! {
            insta::assert_snapshot!(text(put, &mounted.path), @"cannot write parts/x.json to /data: no space left on device; free space or choose another folder, then run the same command again");
        }
        assert_eq!(store.leftovers().unwrap(), []);
        assert_eq!(names(&*store).unwrap(), ["half"]);
    }
    assert!(fs::read(&file).unwrap() == half);
    assert!(store.get(&name("half"), 600_000).unwrap() == half);

    // A put that was done already needs no room, and room is all that is missing.
    let filler = fs::write(mounted.path.join(".filler"), &half);
    assert_eq!(filler.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    let put = store.put_if_absent(&name("half"), &half).unwrap();
    assert_eq!(put, Put::AlreadySame);
    let _lock = store.lock().unwrap();
    fs::remove_file(mounted.path.join(".filler")).unwrap();
    store.delete(&name("half")).unwrap();
    let put = store.put_file(&name("parts/x.json"), &file).unwrap();
    assert_eq!(put, Put::Created);
    assert!(!file.exists());
}

#[test]
fn a_read_only_file_system_can_be_read() {
    let mounted = Mounted::new();
    let store = open(&mounted.path);
    store.put_if_absent(&name("parts/1"), b"bytes").unwrap();
    mounted.make_read_only();

    let put = store.put_if_absent(&name("parts/2"), b"bytes");
    assert_eq!(put.as_ref().unwrap_err().kind(), StoreErrorKind::Denied);
    insta::assert_snapshot!(text(put, &mounted.path), @"cannot write parts/2 to /data: read-only file system; check who owns the folder, its permissions, and whether its file system is mounted read-only");
    let deleted = store.delete(&name("parts/1"));
    assert_eq!(deleted.unwrap_err().kind(), StoreErrorKind::Denied);

    let reader = try_open(&mounted.path, Access::Read).unwrap();
    assert_eq!(names(&*reader).unwrap(), ["parts/1"]);
    assert_eq!(reader.get(&name("parts/1"), 5).unwrap(), b"bytes");
    reader.capabilities().unwrap();
    assert_eq!(reader.leftovers().unwrap(), []);
    let below = try_open(&mounted.path.join("below"), Access::Write);
    insta::assert_snapshot!(text(below.map(drop), &mounted.path), @"cannot open /data/below: read-only file system; check who owns the folder, its permissions, and whether its file system is mounted read-only");
}

#[test]
fn a_file_of_another_file_system_is_copied_whole() {
    let mounted = Mounted::new();
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let bytes = vec![b'x'; 500_000];
    for (put, object) in [
        (Put::Created, "a/chunk"),
        (Put::AlreadySame, "a/chunk"),
        (Put::Created, "a/other"),
    ] {
        let file = mounted.path.join("file");
        fs::write(&file, &bytes).unwrap();
        assert_eq!(store.put_file(&name(object), &file).unwrap(), put);
        assert!(!file.exists());
        assert!(store.get(&name(object), 500_000).unwrap() == bytes);
        assert_eq!(store.leftovers().unwrap(), []);
    }
}

#[test]
fn a_store_across_file_systems_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put_if_absent(&name("chunks/1"), b"bytes").unwrap();
    store.delete(&name("chunks/1")).unwrap();
    let _mounted = Mounted::at(&folder.path().join("chunks"));
    let put = store.put_if_absent(&name("chunks/1"), b"bytes");
    assert_eq!(
        put.as_ref().unwrap_err().kind(),
        StoreErrorKind::Unsupported
    );
    insta::assert_snapshot!(text(put, folder.path()), @"cannot write chunks/1 to /data: its folder is on another file system than the store's folder; use a store whose folders are on one file system");
    let file = store.staging_dir().unwrap().join("file");
    fs::write(&file, b"bytes").unwrap();
    let put = store.put_file(&name("chunks/1"), &file);
    assert_eq!(put.unwrap_err().kind(), StoreErrorKind::Unsupported);
    assert!(file.exists());
    assert_eq!(names(&*store).unwrap(), [""; 0]);
    assert_eq!(store.leftovers().unwrap().len(), 1);
}
