//! The lock between processes.

use std::fs;
use std::path::Path;

use tipple_store::StoreErrorKind;

use crate::child::{self, Running, say, wait_for_parent};
use crate::{open, text};

/// The role of a child: holds the lock.
pub fn lock_and_wait(folder: &str) {
    let _lock = open(Path::new(folder)).lock().unwrap();
    say("locked");
    wait_for_parent();
}

#[test]
fn the_lock_of_another_process_is_named_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut locker = Running::start(child::LOCKER, folder.path().to_str().unwrap());
    assert_eq!(locker.hear().as_deref(), Some("locked"));

    let store = open(folder.path());
    let refused = store.lock();
    let error = refused.as_ref().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Locked);
    let text = text(refused, folder.path()).replace(&locker.id().to_string(), "PID");
    insta::assert_snapshot!(text, @"cannot lock /data: process PID holds the lock; wait until it has ended, or end it");

    locker.kill();
    let _lock = store.lock().unwrap();
}

#[test]
fn the_lock_of_this_process_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // What an earlier holder, with a longer number, has left is no part of ours.
    fs::write(folder.path().join(".tipple/lock"), "99999999999\n").unwrap();
    let _lock = store.lock().unwrap();
    insta::assert_snapshot!(text(store.lock(), folder.path()), @"cannot lock /data: this process holds the lock; finish the other job in this store first");
}

#[test]
fn a_lock_file_that_says_nothing_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let lock = store.lock().unwrap();
    fs::write(folder.path().join(".tipple/lock"), b"\xff\xff").unwrap();
    insta::assert_snapshot!(text(store.lock(), folder.path()), @"cannot lock /data: another process holds the lock; wait until it has ended, or end it");
    drop(lock);
    let _lock = store.lock().unwrap();
}
