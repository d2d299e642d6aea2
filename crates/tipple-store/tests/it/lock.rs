//! The lock between processes.

use std::fs;
use std::os::fd::BorrowedFd;
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

/// A process that another thread is just starting has copies of all descriptors until it is what it will be.
#[test]
fn the_lock_ends_with_its_holder_whoever_has_a_copy_of_the_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let lock = store.lock().unwrap();
    let path = folder.path().join(".tipple/lock").canonicalize().unwrap();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let held = descriptors
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == path))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap());
    let held: Vec<i32> = held.collect();
    #[expect(unsafe_code, reason = "what the start of a process does")]
    // SAFETY: the lock has the descriptor, and is there.
    let copy = unsafe { BorrowedFd::borrow_raw(held[0]) }.try_clone_to_owned();
    drop(lock);
    let _lock = store.lock().unwrap();
    drop(copy.unwrap());
}
