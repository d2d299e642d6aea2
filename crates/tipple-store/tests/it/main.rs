//! What the stores promise, against real folders, file systems and processes.
//!
//! Fault model: the disk is full, read-only or another one; the folder is someone else's or not a
//! folder; the process is killed at any moment. Calls that fail on their own are tested beside
//! the code.
//!
//! A bucket: MiniStack and Ceph are the servers; between them and the store is a proxy that loses, delays, cuts and changes
//! requests and answers, and answers in the server's place.

mod child;
mod denied;
mod disk;
mod faults;
mod folder;
mod killed;
mod lock;
mod remote;
mod rules;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use tipple_store::{Access, ObjectName, Store, StoreError, StoreOptions, StoreUrl, open_store};

fn try_open(folder: &Path, access: Access) -> Result<Arc<dyn Store>, StoreError> {
    open_store(&StoreUrl::folder(folder), access, &StoreOptions::default())
}

fn open(folder: &Path) -> Arc<dyn Store> {
    try_open(folder, Access::Write).unwrap()
}

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

fn names(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    store.list("", &mut |entry| {
        names.push(entry.name.into());
        ControlFlow::Continue(())
    })?;
    Ok(names)
}

/// The error of `result`, as its user reads it, with `folder` called `/data`.
#[track_caller]
fn text<T>(result: Result<T, StoreError>, folder: &Path) -> String {
    let Err(error) = result else {
        panic!("it succeeded");
    };
    error.to_string().replace(folder.to_str().unwrap(), "/data")
}
