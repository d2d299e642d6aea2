//! Recordings in files, or in a store.

use std::ffi::OsString;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use tipple_recorder::{FolderShelf, ReadSeek, Shelf, is_recording_name};
use tipple_store::{Access, ObjectName, Store, StoreErrorKind, open_store};

use crate::endpoint::store_url;
use crate::error::CliError;
use crate::ready;

/// What was typed: paths, or one place in a store.
pub(crate) fn open(paths: &[OsString]) -> Result<Box<dyn Shelf>, CliError> {
    let is_store = |path: &&OsString| {
        path.to_str()
            .is_some_and(|text| text.contains("://") && !text.starts_with("file:"))
    };
    if !paths.iter().any(|path| is_store(&path)) {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        return Ok(Box::new(FolderShelf::open(&paths)?));
    }
    let [place] = paths else {
        return Err(CliError::usage(
            "several recordings of which one is in a store: give that one alone",
        ));
    };
    let url = store_url(place)?;
    let store = open_store(&url, Access::Read, &ready::store_options())?;
    let mut names = Vec::new();
    store.list("", &mut |entry| {
        if is_recording_name(entry.name.as_str()) {
            names.push(entry.name);
        }
        ControlFlow::Continue(())
    })?;
    if names.is_empty() {
        return Err(CliError::usage(format!(
            "{url} has no recordings: objects whose names end with .ndjson or .ndjson.zst"
        )));
    }
    Ok(Box::new(StoreShelf { store, names }))
}

/// Objects of a store, of which only what is needed is read.
struct StoreShelf {
    store: Arc<dyn Store>,
    names: Vec<ObjectName>,
}

impl StoreShelf {
    fn object(&self, name: &str) -> io::Result<&ObjectName> {
        let found = self.names.iter().find(|object| object.as_str() == name);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Shelf for StoreShelf {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self
            .names
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek>> {
        let object = self
            .store
            .open(self.object(name)?)
            .map_err(io::Error::other)?;
        Ok(Box::new(object))
    }

    fn index(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        let name: ObjectName = format!("{name}.idx").parse().map_err(io::Error::other)?;
        match self.store.open(&name) {
            Ok(object) => Ok(Some(Box::new(object))),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
