//! What comes last: that everything is there, the manifest, SHA256SUMS, DONE.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tipple_chunk::Sha256Digest;
use tipple_store::{ObjectName, Store};

use crate::error::SuperviseError;
use crate::failpoint::failpoint;
use crate::layout::{self, Done, EndedRecord, FileEntry, Format, Manifest};

/// The names and lengths of the objects of a run's files.
pub(crate) fn stored_objects(
    store: &dyn Store,
    run: u32,
) -> Result<BTreeMap<ObjectName, u64>, SuperviseError> {
    let mut objects = BTreeMap::new();
    store.list(&layout::files_prefix(run), &mut |entry| {
        objects.insert(entry.name, entry.bytes);
        ControlFlow::Continue(())
    })?;
    Ok(objects)
}

/// Completes a run of which every file is stored.
pub(crate) fn finish(
    store: &dyn Store,
    run: u32,
    stored: &BTreeMap<String, FileEntry>,
    skipped: &BTreeSet<String>,
) -> Result<(), SuperviseError> {
    // I1: what the manifest will list is there.
    let objects = stored_objects(store, run)?;
    for entry in stored.values() {
        let there = objects.get(&layout::file_object(run, &entry.path));
        if there != Some(&entry.bytes) {
            return Err(layout::damaged(
                store,
                &entry.object,
                format!(
                    "was stored with {} bytes and is not there like that any more: look who else writes to this place, and run the command again into another one",
                    entry.bytes
                ),
            ));
        }
    }
    // I11: what the command had written when it ended is what is stored.
    let object = layout::ended_object(run);
    let ended = layout::read_json::<EndedRecord>(store, &object)?;
    let missing = ended.iter().flat_map(|(ended, _)| &ended.files);
    if let Some(file) = missing
        .into_iter()
        .find(|file| !stored.contains_key(&file.path))
    {
        return Err(layout::damaged(
            store,
            object.as_str(),
            format!(
                "lists {}, which was not stored: run the command again into another place",
                file.path
            ),
        ));
    }
    failpoint!("summing");
    // A function of the files alone: a later attempt writes the same bytes.
    let manifest = Manifest {
        format: Format::CURRENT,
        run,
        files: stored.values().cloned().collect(),
        skipped: skipped.iter().cloned().collect(),
    };
    layout::put_json(store, &layout::object(layout::MANIFEST), &manifest)?;
    let head = head_bytes(store)?;
    let sums = sha256sums(&head, &manifest);
    layout::put(store, &layout::object(layout::SHA256SUMS), sums.as_bytes())?;
    failpoint!("summed");
    let mut done = Done {
        format: Format::CURRENT,
        run,
        files: manifest.files.len() as u64,
        stored_bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        skipped: manifest.skipped.len() as u64,
        manifest_sha256: Sha256Digest::of(&layout::to_json(&manifest)),
        finished: layout::now(),
        own_sha256: Sha256Digest([0; 32]),
    };
    done.own_sha256 = Sha256Digest::of(&layout::to_json(&done));
    layout::put_json(store, &layout::object(layout::DONE), &done)?;
    failpoint!("done");
    Ok(())
}

pub(crate) fn head_bytes(store: &dyn Store) -> Result<Vec<u8>, SuperviseError> {
    let name = layout::object(layout::HEAD);
    match layout::read_json::<layout::Head>(store, &name)? {
        Some((_, bytes)) => Ok(bytes),
        None => Err(layout::damaged(store, name, "is missing")),
    }
}

/// As `sha256sum` prints them, sorted by name.
pub(crate) fn sha256sums(head: &[u8], manifest: &Manifest) -> String {
    let mut lines = BTreeMap::from([
        (layout::HEAD, Sha256Digest::of(head)),
        (
            layout::MANIFEST,
            Sha256Digest::of(&layout::to_json(manifest)),
        ),
    ]);
    lines.extend(
        manifest
            .files
            .iter()
            .map(|file| (file.object.as_str(), file.sha256)),
    );
    lines
        .iter()
        .map(|(name, sha256)| format!("{sha256}  {name}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use tipple_store::{Access, StoreErrorKind, StoreOptions, StoreUrl, open_store};

    use super::*;
    use crate::layout::EndedFile;

    #[test]
    fn a_file_that_was_there_at_the_end_and_is_not_stored_is_no_done() {
        let dir = tempfile::tempdir().unwrap();
        let url = StoreUrl::folder(dir.path());
        let store = open_store(&url, Access::Write, &StoreOptions::default()).unwrap();
        let ended = EndedRecord {
            format: Format::CURRENT,
            run: 1,
            files: vec![EndedFile {
                path: "late".to_owned(),
                bytes: 5,
                modified_ns: None,
            }],
            skipped: Vec::new(),
        };
        let store = store.as_ref();
        layout::put_json(store, &layout::ended_object(1), &ended).unwrap();
        let error = finish(store, 1, &BTreeMap::new(), &BTreeSet::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("lists late, which was not stored"),
            "{error}"
        );
        let done = store.head(&layout::object(layout::DONE)).unwrap_err();
        assert_eq!(done.kind(), StoreErrorKind::NotFound);
    }
}
