//! The verb `prune`: what unfinished attempts left.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tipple_store::{Leftover, ObjectName, Store, StoreErrorKind, StoreLock};

use crate::error::DumpError;
use crate::layout::{self, Head};
use crate::open_dump::{OpenDump, read_optional};

/// What is removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneOptions {
    /// Remove; otherwise only tell.
    pub delete: bool,
    /// Also of an unfinished dump, whose writer might still live: what no record lists. Nothing else is safe then.
    pub force: bool,
    /// Of an unfinished dump, only staged files that have not been written to for so long.
    pub older_than: Option<Duration>,
}

/// Something that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PruneItem {
    /// The object or staged file.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why nothing needs it.
    pub why: &'static str,
}

/// What was found, and removed if that was asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pruned {
    /// All of it, sorted.
    pub items: Vec<PruneItem>,
    /// Whether it was removed.
    pub deleted: bool,
}

/// Finds what unfinished attempts left in `store`: staged files, chunks that no part record lists, parts and plans that
/// do not count. Removes it if asked to. A finished dump keeps every byte that it needs; an unfinished one is left
/// alone unless `force` is given.
///
/// # Errors
/// [`DumpError`]; what was removed before stays removed, and is named in no record.
pub fn prune(store: &dyn Store, options: &PruneOptions) -> Result<Pruned, DumpError> {
    let head: Option<Head> = read_optional(store, &layout::object(layout::HEAD), None)?;
    if head.is_none() {
        return Ok(Pruned::default());
    }
    let dump = OpenDump::look(store)?;
    // A DONE with another digit in it would make all that is needed look unneeded.
    dump.check_parts()?;
    let finished = dump.done().is_some();
    if !finished && options.delete && !options.force {
        return Err(DumpError::Usage(format!(
            "{} is not finished, and its writer may be at work elsewhere: finish it, or give --force",
            store.url()
        )));
    }
    // Nobody else writes here while we look and remove.
    let _lock = if options.delete {
        lock_if_any(store)?
    } else {
        None
    };
    let objects = unneeded_objects(&dump)?;
    let leftovers = stale_leftovers(store, options, finished)?;
    let mut items: Vec<PruneItem> = objects
        .iter()
        .map(|(name, bytes, why)| PruneItem {
            name: name.to_string(),
            bytes: *bytes,
            why,
        })
        .chain(leftovers.iter().map(|leftover| PruneItem {
            name: leftover.name.clone(),
            bytes: leftover.bytes,
            why: match leftover.object {
                Some(_) => "an upload that was begun and not finished",
                None => "staged by an attempt that ended",
            },
        }))
        .collect();
    items.sort_by(|a, b| a.name.cmp(&b.name));
    if options.delete {
        // Read again just before: a name that a record lists by now is not ours to take.
        let dump = OpenDump::look(store)?;
        dump.check_parts()?;
        let listed = listed_chunks(&dump)?;
        for (name, ..) in &objects {
            if !listed.contains(name.as_ref()) {
                store.delete(name)?;
            }
        }
        for leftover in &leftovers {
            store.remove_leftover(leftover)?;
        }
    }
    Ok(Pruned {
        items,
        deleted: options.delete,
    })
}

/// The store's lock. A bucket has none: what is deleted there, no record lists, and put-if-absent is all that writers rely on.
fn lock_if_any(store: &dyn Store) -> Result<Option<StoreLock>, DumpError> {
    match store.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == StoreErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error.into()),
    }
}

type Unneeded = (ObjectName, u64, &'static str);

fn unneeded_objects(dump: &OpenDump<'_>) -> Result<Vec<Unneeded>, DumpError> {
    let listed = listed_chunks(dump)?;
    let finished = dump.done().is_some();
    let plan = dump.plan().unwrap_or_default();
    let mut unneeded = Vec::new();
    dump.store().list("", &mut |entry| {
        let name = entry.name.as_ref();
        let why = match name.split_once('/') {
            Some(("chunks" | "data", _)) if !listed.contains(name) => {
                Some("no part record lists it")
            }
            // Of an unfinished dump, nobody can know which plan will count.
            Some(("parts", part)) if finished && !part.starts_with(&format!("{plan}-")) => {
                Some("a part of a plan that does not count")
            }
            Some(("notified", part))
                if finished && !part.starts_with(&format!("{plan}-")) && part != "DONE.json" =>
            {
                Some("about a part of a plan that does not count")
            }
            Some(("plan", rest)) if finished && !rest.starts_with(&format!("{plan}/")) => {
                Some("a plan that does not count")
            }
            _ => None,
        };
        if let Some(why) = why {
            unneeded.push((entry.name, entry.bytes, why));
        }
        ControlFlow::Continue(())
    })?;
    Ok(unneeded)
}

fn stale_leftovers(
    store: &dyn Store,
    options: &PruneOptions,
    finished: bool,
) -> Result<Vec<Leftover>, DumpError> {
    let now = SystemTime::now();
    let mut leftovers = store.leftovers()?;
    leftovers.retain(layout::is_ours);
    if let (false, Some(age)) = (finished, options.older_than) {
        leftovers.retain(|leftover| leftover.age(now) >= age);
    }
    Ok(leftovers)
}

/// All chunks that any part record lists: of a finished dump those of its plan, of an unfinished one those of all plans.
fn listed_chunks(dump: &OpenDump<'_>) -> Result<BTreeSet<String>, DumpError> {
    let mut listed = BTreeSet::new();
    let mut names = Vec::new();
    let finished = dump.done().is_some();
    let prefix = match (finished, dump.plan()) {
        (true, Some(plan)) => format!("parts/{plan}-"),
        _ => "parts/".to_owned(),
    };
    dump.store().list(&prefix, &mut |entry| {
        names.push(entry.name);
        ControlFlow::Continue(())
    })?;
    for name in names {
        let Some(part) = layout::part_of_object(&name) else {
            continue; // no record, and nobody reads it
        };
        let record = dump.record(&part)?;
        listed.extend(record.chunks.into_iter().map(|chunk| chunk.name));
    }
    Ok(listed)
}
