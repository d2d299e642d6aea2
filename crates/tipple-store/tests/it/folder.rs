//! What can be wrong with a folder.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use tipple_store::{Access, Retryable, StoreErrorKind, StoreOptions, StoreUrl, open_store};

use crate::{name, names, open, text, try_open};

#[test]
fn reading_needs_the_folder_and_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let opened = try_open(&missing, Access::Read).map(drop);
    assert_eq!(
        opened.as_ref().unwrap_err().kind(),
        StoreErrorKind::NotFound
    );
    insta::assert_snapshot!(text(opened, folder.path()), @"cannot open /data/missing: no such file or directory; check the path");
    assert!(!missing.exists());
}

#[test]
fn memory_that_was_never_written_is_not_found() {
    let url: StoreUrl = "memory:never-written".parse().unwrap();
    let opened = open_store(&url, Access::Read, &StoreOptions::default()).map(drop);
    assert_eq!(
        opened.as_ref().unwrap_err().kind(),
        StoreErrorKind::NotFound
    );
    insta::assert_snapshot!(opened.unwrap_err(), @"cannot open memory:never-written: nothing was written to it in this process; check the name");
}

#[test]
fn a_file_where_the_folder_should_be_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"bytes").unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    let opened = |path: &str, access| {
        let opened = try_open(&folder.path().join(path), access).map(drop);
        assert_eq!(opened.as_ref().unwrap_err().kind(), StoreErrorKind::Blocked);
        text(opened, folder.path())
    };
    insta::assert_snapshot!(opened("file", Access::Write), @"cannot open /data/file: /data/file is not a folder; move it away or choose another folder");
    insta::assert_snapshot!(opened("file", Access::Read), @"cannot open /data/file: /data/file is not a folder; move it away or choose another folder");
    insta::assert_snapshot!(opened("file/below", Access::Write), @"cannot open /data/file/below: /data/file is not a folder; move it away or choose another folder");
    insta::assert_snapshot!(opened("file/below", Access::Read), @"cannot open /data/file/below: not a directory; move it away or choose another folder");
    insta::assert_snapshot!(opened("dangling", Access::Write), @"cannot open /data/dangling: /data/dangling is not a folder; move it away or choose another folder");
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[test]
fn a_link_to_the_store_is_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    open(&real);
    symlink(&real, &link).unwrap();
    let store = open(&link);
    store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    assert_eq!(names(&*open(&real)).unwrap(), ["a/b"]);
    // What the link means later is not this store.
    fs::remove_file(&link).unwrap();
    assert_eq!(store.get(&name("a/b"), 5).unwrap(), b"bytes");
}

#[test]
fn the_stores_own_folder_is_no_link() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), folder.path().join(".tipple")).unwrap();
    let opened = try_open(folder.path(), Access::Write).map(drop);
    insta::assert_snapshot!(text(opened, folder.path()), @"cannot open /data: /data/.tipple is not a folder; move it away or choose another folder");
}

#[test]
fn no_link_is_followed_out_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = elsewhere.path().join("precious");
    fs::write(&precious, b"bytes").unwrap();
    let store = open(folder.path());
    symlink(elsewhere.path(), folder.path().join("folder")).unwrap();
    symlink(&precious, folder.path().join("object")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();

    for object in ["folder/precious", "folder/new", "object", "dangling"] {
        let object = name(object);
        let file = store.staging_dir().unwrap().join("file");
        fs::write(&file, b"bytes").unwrap();
        let errors = [
            store.put_if_absent(&object, b"bytes").unwrap_err(),
            store.put_file(&object, &file).unwrap_err(),
            store.get(&object, 5).unwrap_err(),
            store.head(&object).unwrap_err(),
            store.open(&object).map(drop).unwrap_err(),
            store.delete(&object).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), StoreErrorKind::Blocked, "{error}");
            assert_eq!(error.is_retryable(), Retryable::Never, "{error}");
        }
    }
    let seen: Vec<_> = fs::read_dir(elsewhere.path()).unwrap().collect();
    assert_eq!(seen.len(), 1, "something was written through a link");
    assert_eq!(fs::read(precious).unwrap(), b"bytes");
    let put = store.put_if_absent(&name("folder/new"), b"bytes");
    insta::assert_snapshot!(text(put, folder.path()), @"cannot write folder/new to /data: /data/folder is a symbolic link, and none is followed inside a store; move it away or choose another folder");
    insta::assert_snapshot!(text(names(&*store), folder.path()), @"cannot list /data: /data/object is a symbolic link, and none is followed inside a store; move it away or choose another folder");
    let listed = store.list("folder/", &mut |_| panic!("an object behind a link"));
    assert_eq!(listed.unwrap_err().kind(), StoreErrorKind::Blocked);
}

#[test]
fn an_object_and_a_folder_of_one_name_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let memory: StoreUrl = "memory:exclusion".parse().unwrap();
    for store in [
        open(folder.path()),
        open_store(&memory, Access::Write, &StoreOptions::default()).unwrap(),
    ] {
        store.put_if_absent(&name("a/b/c"), b"bytes").unwrap();
        store.put_if_absent(&name("a/b-c"), b"bytes").unwrap();
        let blocked = StoreErrorKind::Blocked;
        for taken in ["a", "a/b", "a/b/c/d", "a/b-c/d/e"] {
            let error = store.put_if_absent(&name(taken), b"").unwrap_err();
            assert_eq!(error.kind(), blocked, "{error}");
        }
        for taken in ["a", "a/b"] {
            let taken = name(taken);
            assert_eq!(store.get(&taken, 10).unwrap_err().kind(), blocked);
            assert_eq!(store.head(&taken).unwrap_err().kind(), blocked);
            assert_eq!(store.open(&taken).map(drop).unwrap_err().kind(), blocked);
            assert_eq!(store.delete(&taken).unwrap_err().kind(), blocked);
        }
        assert_eq!(names(&*store).unwrap(), ["a/b-c", "a/b/c"]);
        assert_eq!(store.leftovers().unwrap(), []);
    }
    let store = open(folder.path());
    let put = store.put_if_absent(&name("a/b"), b"bytes");
    insta::assert_snapshot!(text(put, folder.path()), @"cannot write a/b to /data: /data/a/b is a folder; move it away or choose another folder");
    let put = store.put_if_absent(&name("a/b/c/d"), b"bytes");
    insta::assert_snapshot!(text(put, folder.path()), @"cannot write a/b/c/d to /data: /data/a/b/c is an object, not a folder; move it away or choose another folder");
}

#[test]
fn what_is_no_object_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir_all(folder.path().join(".git/objects")).unwrap();
    for file in [
        ".hidden",
        "a/.hidden",
        ".git/objects/x",
        "two words",
        "caf\u{e9}",
    ] {
        fs::write(folder.path().join(file), b"bytes").unwrap();
    }
    fs::write(folder.path().join(OsStr::from_bytes(b"\xff")), b"bytes").unwrap();
    assert_eq!(names(&*store).unwrap(), ["a/b"]);

    let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();
    insta::assert_snapshot!(text(names(&*store), folder.path()), @"cannot list /data: /data/socket is neither a regular file nor a folder; move it away or choose another folder");
    let got = store.get(&name("socket"), 10);
    assert_eq!(got.unwrap_err().kind(), StoreErrorKind::Blocked);
}

#[test]
fn a_huge_object_is_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let huge = fs::File::create(folder.path().join("huge")).unwrap();
    huge.set_len(1 << 42).unwrap();
    let got = store.get(&name("huge"), 1 << 30);
    assert_eq!(got.as_ref().unwrap_err().kind(), StoreErrorKind::TooLarge);
    insta::assert_snapshot!(text(got, folder.path()), @"cannot read huge from /data: it has 4398046511104 bytes, 1073741824 are allowed");
}

#[test]
fn an_object_is_not_consumed_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    let path = folder.path().join("a/b");
    for target in ["a/b", "a/c"] {
        let put = store.put_file(&name(target), &path);
        assert_eq!(put.unwrap_err().kind(), StoreErrorKind::LocalFile);
    }
    insta::assert_snapshot!(text(store.put_file(&name("c"), &path), folder.path()), @"cannot write c to /data: /data/a/b is inside the store");
    assert_eq!(names(&*store).unwrap(), ["a/b"]);
}

#[test]
fn a_half_done_publish_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let staged = store.staging_dir().unwrap().join("staged");
    fs::write(&staged, b"bytes").unwrap();
    // What a kill between publishing and unstaging leaves: one file with two names.
    fs::hard_link(&staged, folder.path().join("chunk")).unwrap();
    let put = store.put_file(&name("chunk"), &staged).unwrap();
    assert_eq!(put, tipple_store::Put::AlreadySame);
    assert!(!staged.exists());
    assert_eq!(store.get(&name("chunk"), 5).unwrap(), b"bytes");
}

#[test]
fn objects_are_plain_files_that_others_may_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put_if_absent(&name("a/b"), b"bytes").unwrap();
    let meta = fs::metadata(folder.path().join("a/b")).unwrap();
    // The umask may take bits away.
    assert_eq!(meta.permissions().mode() & 0o7777 & !0o644, 0);
    assert_eq!(fs::read(folder.path().join("a/b")).unwrap(), b"bytes");
}

#[test]
fn the_conflict_says_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.put_if_absent(&name("DONE"), b"12345").unwrap();
    let put = |bytes| text(store.put_if_absent(&name("DONE"), bytes), folder.path());
    insta::assert_snapshot!(put(b"1234567"), @"cannot write DONE to /data: it exists with 5 bytes, these are 7 bytes; objects are never overwritten: choose another folder or prefix");
    insta::assert_snapshot!(put(b"54321"), @"cannot write DONE to /data: it exists with other content of the same 5 bytes; objects are never overwritten: choose another folder or prefix");
}

#[test]
fn a_staging_folder_that_was_removed_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fs::remove_dir_all(folder.path().join(".tipple")).unwrap();
    let put = store.put_if_absent(&name("a"), b"bytes");
    insta::assert_snapshot!(text(put, folder.path()), @"cannot write a to /data: /data/.tipple/staging was removed while the store was used; run the same command again");
}
