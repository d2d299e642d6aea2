//! What was delivered: `notified/<part>.json` and `notified/DONE.json` in the stores.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use tipple_flow::PartName;
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::DumpError;
use crate::layout::{self, Done, Format};
use crate::stores::Stores;

/// All targets took all messages of a part, or the last message of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivered {
    format: Format,
    /// Who took them, as far as it is no secret.
    targets: Vec<String>,
    messages: u64,
    /// When the last one was taken, UTC.
    delivered: String,
}

impl Delivered {
    pub(super) fn now(targets: Vec<String>, messages: u64) -> Self {
        Self {
            format: Format::CURRENT,
            targets,
            messages,
            delivered: layout::now(),
        }
    }

    /// Writes it to every living store. The first one counts. Not authenticated in a sealed dump: whoever forges it can
    /// keep a message back, and change no data.
    pub(super) fn put(&self, stores: &Stores<'_>, object: &ObjectName) -> Result<(), DumpError> {
        stores.each(|store| match layout::put_json(store, object, self, None) {
            Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::AlreadyExists => Ok(()),
            put => put,
        })
    }
}

/// The parts of `plan` whose messages were all delivered, by what `store` knows.
pub(crate) fn delivered_parts(
    store: &dyn Store,
    plan: &str,
) -> Result<BTreeSet<PartName>, DumpError> {
    let mut parts = BTreeSet::new();
    store.list(&format!("{}{plan}-", layout::NOTIFIED), &mut |entry| {
        parts.extend(layout::notified_part(&entry.name));
        ControlFlow::Continue(())
    })?;
    Ok(parts)
}

/// The same by what any living store knows.
pub(super) fn delivered_anywhere(
    stores: &Stores<'_>,
    plan: &str,
) -> Result<BTreeSet<PartName>, DumpError> {
    let mut parts = BTreeSet::new();
    stores.each(|store| {
        parts.append(&mut delivered_parts(store, plan)?);
        Ok(())
    })?;
    Ok(parts)
}

/// Whether nothing of the finished dump is left to be told.
pub(crate) fn is_all_delivered(stores: &Stores<'_>, done: &Done) -> Result<bool, DumpError> {
    let mut is_done = false;
    stores.each(|store| {
        is_done |= layout::exists(store, &layout::notified_done())?;
        Ok(())
    })?;
    Ok(is_done && delivered_anywhere(stores, &done.plan)?.len() as u64 >= done.parts)
}
