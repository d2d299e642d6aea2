//! Objects of a dump in a form for other programs that do not count: whoever queries it would read them as well.
//!
//! An object counts if the record of its part lists it. What a killed attempt at a part left mostly has the very names of
//! what the next attempt makes, and then counts as well. What has not, because another version of this program wrote it or
//! the source gave something else, is removed: as soon as its part is committed, when the dump goes on, and before DONE.
//! Never before its part is committed, since somebody else may be about to do that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tipple_flow::PartName;
use tipple_store::{ObjectName, Store};

use crate::error::DumpError;
use crate::layout::{self, Head, PartRecord};

/// Objects of attempts that did not end, by part.
pub(crate) type Strays = BTreeMap<PartName, Vec<ObjectName>>;

/// Removes what is left of other attempts at the committed parts of `plan`, and adds to `strays` what is there of parts
/// that are not committed.
pub(crate) fn tidy(
    store: &dyn Store,
    head: &Head,
    plan: &str,
    committed: &[PartRecord],
    strays: &mut Strays,
) -> Result<(), DumpError> {
    if head.shaping.format.is_none() {
        return Ok(());
    }
    let parts: BTreeSet<&PartName> = committed.iter().map(|record| &record.part).collect();
    let chunks = committed.iter().flat_map(|record| &record.chunks);
    let listed: BTreeSet<&str> = chunks.map(|chunk| chunk.name.as_str()).collect();
    for object in unlisted(store, |name| listed.contains(name))? {
        let Some(part) = layout::part_of_form_object(&object) else {
            continue; // none of ours; a verification tells it
        };
        if parts.contains(&part) {
            store.delete(&object)?;
        } else if layout::plan_of(&part) == plan {
            strays.entry(part).or_default().push(object);
        }
    }
    Ok(())
}

/// Removes all objects that `sha256sums` does not list: those of other plans, too. Right before DONE.
pub(crate) fn remove_all(
    store: &dyn Store,
    head: &Head,
    sha256sums: &[u8],
) -> Result<(), DumpError> {
    if head.shaping.format.is_none() {
        return Ok(());
    }
    let lines = sha256sums.split(|byte| *byte == b'\n');
    let names = lines.filter_map(|line| line.splitn(3, |byte| *byte == b' ').nth(2));
    let listed: BTreeSet<&[u8]> = names.collect();
    for object in unlisted(store, |name| listed.contains(name.as_bytes()))? {
        if layout::part_of_form_object(&object).is_some() {
            store.delete(&object)?;
        }
    }
    Ok(())
}

fn unlisted(
    store: &dyn Store,
    is_listed: impl Fn(&str) -> bool,
) -> Result<Vec<ObjectName>, DumpError> {
    let mut unlisted = Vec::new();
    store.list(layout::DATA, &mut |entry| {
        if !is_listed(entry.name.as_ref()) {
            unlisted.push(entry.name);
        }
        ControlFlow::Continue(())
    })?;
    Ok(unlisted)
}
