//! What a dump finds in its stores, and what it goes on with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::ControlFlow;

use tipple_chunk::Sha256Digest;
use tipple_flow::Source;
use tipple_store::Store;

use crate::committer;
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job};
use crate::layout::{
    self, ContentVersion, FORMAT_MAJOR, FORMAT_MINOR, Format, Head, PartRecord, Sealed, SealedPart,
    Shaping,
};
use crate::open_dump::check_record;
use crate::options::DumpOptions;
use crate::sealing::Sealing;
use crate::stores::Stores;
use crate::sums::check_chunks;

/// What is in the stores of a dump.
pub(crate) struct Found {
    /// The HEAD of the dump to go on with; `None` if all stores are empty.
    head: Option<(Head, Vec<u8>)>,
    /// The key of that dump, if it is sealed.
    sealing: Option<Sealing>,
    /// Stores that are empty.
    empty: Vec<usize>,
    /// Stores where the dump is finished.
    pub(crate) finished: Vec<usize>,
    /// All of them.
    is_finished: bool,
}

enum Held {
    Nothing,
    Unfinished(Head, Vec<u8>),
    Finished(Head, Vec<u8>),
}

impl Found {
    /// Looks at every store, and changes nothing.
    ///
    /// # Errors
    /// `Usage` if one holds a dump of another source or of other options, or something
    /// else, or they hold different dumps; `Store`.
    pub(crate) fn of(
        source: &dyn Source,
        stores: &Stores<'_>,
        options: &DumpOptions,
    ) -> Result<Self, DumpError> {
        let mut found = Self {
            head: None,
            sealing: None,
            empty: Vec::new(),
            finished: Vec::new(),
            is_finished: false,
        };
        for (number, store) in stores.living() {
            let held = match held(store) {
                Ok(held) => held,
                Err(error) => {
                    stores.failed(number, error)?;
                    continue;
                }
            };
            let (head, bytes) = match held {
                Held::Nothing => {
                    found.empty.push(number);
                    continue;
                }
                Held::Unfinished(head, bytes) => (head, bytes),
                Held::Finished(head, bytes) => {
                    found.finished.push(number);
                    (head, bytes)
                }
            };
            match &found.head {
                Some((first, _)) if first.dump != head.dump => {
                    return Err(DumpError::Usage(format!(
                        "{} and an earlier one of the stores hold different dumps: choose another folder for one of them",
                        store.url()
                    )));
                }
                Some((_, first)) if *first != bytes => {
                    return Err(DumpError::Damaged {
                        store: store.url().to_owned(),
                        object: layout::HEAD.to_owned(),
                        reason: "is not that of an earlier one of the stores, which has the same dump; restore it, or choose another folder".to_owned(),
                    });
                }
                Some(_) => {}
                None => found.head = Some((head, bytes)),
            }
        }
        let living = stores.living();
        found.is_finished = found.finished.len() == living.len();
        if let Some((head, bytes)) = &found.head {
            let url = living[0].1.url();
            check_head(url, head, source, options).map_err(|error| match found.is_finished {
                true => finished_error(url),
                false => error,
            })?;
            found.sealing = Sealing::unlock(url, head, bytes, options.keys.as_ref())?;
        }
        Ok(found)
    }

    /// The HEAD, and the key, of the dump that is finished in all stores, if it is.
    pub(crate) fn finished_head(&self) -> Option<(&Head, Option<&Sealing>)> {
        let (head, _) = self.head.as_ref()?;
        self.is_finished.then_some((head, self.sealing.as_ref()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Makes sure that every store has the HEAD: a new one if none has any. Returns it with the dump's key, if it is
    /// sealed.
    pub(crate) fn head(
        self,
        source: &dyn Source,
        stores: &Stores<'_>,
        options: &DumpOptions,
    ) -> Result<(Head, Option<Sealing>), DumpError> {
        let (head, bytes, sealing) = match self.head {
            Some((head, bytes)) => (head, bytes, self.sealing),
            None => {
                let (head, sealing) = new_head(source, options)?;
                let name = layout::object(layout::HEAD);
                let bytes = layout::to_closed_json(&name, &head, sealing.as_ref());
                (head, bytes, sealing)
            }
        };
        for number in self.empty {
            if stores.is_living(number) {
                let store = stores.get(number);
                if let Err(error) = store.put_if_absent(&layout::object(layout::HEAD), &bytes) {
                    stores.failed(number, error.into())?;
                }
            }
        }
        failpoint!("begun");
        Ok((head, sealing))
    }
}

/// Nothing is left to be done for it.
pub(crate) fn finished_error(url: &str) -> DumpError {
    DumpError::Usage(format!(
        "{url} holds a finished dump: choose another folder, or look at this one with `tipple verify {url}`"
    ))
}

fn held(store: &dyn Store) -> Result<Held, DumpError> {
    let (mut has_head, mut has_done, mut other) = (false, false, None);
    // DONE and HEAD.json sort before all other names of a dump, so this looks at three of them.
    store.list("", &mut |entry| {
        match entry.name.as_ref() {
            layout::HEAD => has_head = true,
            layout::DONE => has_done = true,
            name => {
                other.get_or_insert_with(|| name.to_owned());
                if has_head || name > layout::HEAD {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    if !has_head {
        return match other {
            None if !has_done => Ok(Held::Nothing),
            name => Err(DumpError::Usage(format!(
                "{} is not empty and not a dump (it holds {}): choose an empty folder",
                store.url(),
                name.as_deref().unwrap_or(layout::DONE)
            ))),
        };
    }
    let object = layout::object(layout::HEAD);
    let bytes = layout::get_json_bytes(store, &object)?;
    // Whether it is authentic is looked at when the key is known.
    let head: Head = layout::parse_json(store, &object, &bytes, None)?;
    if has_done {
        return Ok(Held::Finished(head, bytes));
    }
    if (head.format.major, head.format.minor) > (FORMAT_MAJOR, FORMAT_MINOR) {
        return Err(layout::newer(store, &object, head.format, "writes"));
    }
    Ok(Held::Unfinished(head, bytes))
}

/// Whether the dump of `head` is one of this source with these options.
fn check_head(
    url: &str,
    head: &Head,
    source: &dyn Source,
    options: &DumpOptions,
) -> Result<(), DumpError> {
    let (found, wanted) = (&head.source, &source.identity());
    if found != wanted {
        return Err(DumpError::Usage(format!(
            "{url} is an unfinished dump of another source: it has {} {}, and this is {} {}; choose another folder",
            found.kind, found.id, wanted.kind, wanted.id
        )));
    }
    // Before the content, which is another one then as well.
    let format = |shaping: &Shaping| match &shaping.format {
        None => "no --format".to_owned(),
        Some(form) => match &form.path {
            None => format!("--format {}", form.name),
            Some(path) => format!("--format {} --path '{path}'", form.name),
        },
    };
    let (found, wanted) = (&head.shaping, options.shaping());
    if found.format != wanted.format {
        return Err(DumpError::Usage(format!(
            "{url} was begun with {}, and this is {}: give the same options, or choose another folder",
            format(found),
            format(&wanted)
        )));
    }
    let (found, wanted) = (&head.content, options.content(source));
    if (found.name.as_str(), found.version) != wanted {
        return Err(DumpError::Usage(format!(
            "{url} was begun with {} version {}, and this program writes {} version {}: choose another folder",
            found.name, found.version, wanted.0, wanted.1
        )));
    }
    if source.follows() && !head.follows {
        return Err(DumpError::Usage(format!(
            "{url} was begun without --follow, and is finished without it: leave it out, or choose another folder"
        )));
    }
    let wanted = options.shaping();
    if head.shaping != wanted {
        return Err(DumpError::Usage(format!(
            "{url} was begun with --compress {} --chunk-size {}, and this is --compress {} --chunk-size {}: give the same options, or choose another folder",
            head.shaping.compress, head.shaping.chunk_bytes, wanted.compress, wanted.chunk_bytes
        )));
    }
    Ok(())
}

fn new_head(
    source: &dyn Source,
    options: &DumpOptions,
) -> Result<(Head, Option<Sealing>), DumpError> {
    let (name, version) = options.content(source);
    let dump = layout::random_hex(16);
    let (sealing, seal) = match &options.keys {
        None => (None, None),
        Some(keys) => {
            let (sealing, seal) = Sealing::begin(keys, &dump)?;
            (Some(sealing), Some(seal))
        }
    };
    let head = Head {
        format: Format::CURRENT,
        written_by: concat!("tipple ", env!("CARGO_PKG_VERSION")).to_owned(),
        dump,
        started: layout::now(),
        source: source.identity(),
        content: ContentVersion {
            name: name.to_owned(),
            version,
        },
        shaping: options.shaping(),
        follows: source.follows(),
        seal,
    };
    Ok((head, sealing))
}

/// A sealed plan of an earlier run, and the store it was found in.
pub(crate) struct SealedPlan {
    pub(crate) id: String,
    pub(crate) sealed: Sealed,
    pub(crate) store: usize,
}

/// The sealed plan of an earlier run, if the source is still the one that it speaks of.
pub(crate) fn sealed_plan(
    job: &Job,
    source: &dyn Source,
    stores: &Stores<'_>,
    head: &Head,
    sealing: Option<&Sealing>,
) -> Result<Option<SealedPlan>, DumpError> {
    for (number, store) in stores.living() {
        match sealed_plan_in(job, source, store, head.growing_plan(), sealing) {
            Ok(Some((id, sealed))) => {
                return Ok(Some(SealedPlan {
                    id,
                    sealed,
                    store: number,
                }));
            }
            Ok(None) => {}
            Err(error) => stores.failed(number, error)?,
        }
    }
    Ok(None)
}

/// What has been planned of a dump that follows its source, and the store that knows most of it. Not for a plan that
/// was sealed.
pub(crate) fn growing_plan(
    head: &Head,
    stores: &Stores<'_>,
) -> Result<Option<SealedPlan>, DumpError> {
    let Some(plan) = head.growing_plan() else {
        return Ok(None);
    };
    let mut most: Option<SealedPlan> = None;
    for (number, store) in stores.living() {
        match growing_plan_in(store, plan) {
            Ok(parts) => {
                if most
                    .as_ref()
                    .is_none_or(|most| most.sealed.parts.len() < parts.len())
                {
                    most = Some(SealedPlan {
                        id: plan.to_owned(),
                        sealed: Sealed {
                            format: Format::CURRENT,
                            parts,
                            planned: tipple_flow::Planned::default(),
                        },
                        store: number,
                    });
                }
            }
            Err(error) => stores.failed(number, error)?,
        }
    }
    Ok(most)
}

fn growing_plan_in(store: &dyn Store, plan: &str) -> Result<Vec<SealedPart>, DumpError> {
    let mut objects = BTreeMap::new();
    store.list(&format!("plan/{plan}/"), &mut |entry| {
        objects.insert(entry.name.clone(), entry.bytes);
        ControlFlow::Continue(())
    })?;
    let mut parts = Vec::with_capacity(objects.len());
    let damaged = |object: &dyn Display, reason: &str| DumpError::Damaged {
        store: store.url().to_owned(),
        object: object.to_string(),
        reason: format!("{reason}; restore it, or dump again into another folder"),
    };
    let names: Vec<_> = objects.into_keys().collect();
    layout::each_json_bytes(store, &names, |object, bytes| {
        let Some((number, name, extension)) = layout::part_of_plan_object(plan, object) else {
            return Err(damaged(object, "is no part of this plan"));
        };
        // Eight digits sort; more of them sort elsewhere, and are put in order below.
        parts.push((
            number,
            SealedPart {
                name,
                extension: extension.to_owned(),
                records: None,
                bytes_estimate: 0,
                sha256: Sha256Digest::of(&bytes?),
            },
        ));
        Ok(())
    })?;
    parts.sort_by_key(|(number, _)| *number);
    // Each was put only after the one before.
    if let Some((place, _)) = (0..)
        .zip(&parts)
        .find(|(place, (number, _))| place != number)
    {
        return Err(damaged(
            &layout::part_name(plan, place),
            "is missing from the plan",
        ));
    }
    Ok(parts.into_iter().map(|(_, part)| part).collect())
}

fn sealed_plan_in(
    job: &Job,
    source: &dyn Source,
    store: &dyn Store,
    growing: Option<&str>,
    sealing: Option<&Sealing>,
) -> Result<Option<(String, Sealed)>, DumpError> {
    let mut plans = BTreeSet::new();
    let mut sealed_plans = BTreeSet::new();
    store.list("plan/", &mut |entry| {
        let mut steps = entry.name.as_ref().split('/').skip(1);
        if let (Some(plan), Some(last)) = (steps.next(), steps.next()) {
            plans.insert(plan.to_owned());
            if last == "PLANNED" {
                sealed_plans.insert(plan.to_owned());
            }
        }
        ControlFlow::Continue(())
    })?;
    let warn = |message: String| job.tell(&Event::Warning { message });
    for id in sealed_plans {
        let sealed: Sealed = layout::read_json(store, &layout::planned_object(&id), sealing)?;
        if source.resumable() && source.is_same(&sealed.planned.incarnation)? {
            check_plan(store, &id, &sealed)?;
            return Ok(Some((id, sealed)));
        }
        // I7: never two points in time in one dump.
        warn(format!(
            "the source is not the one that plan {id} was made from, or cannot be read twice: starting over; what was dumped of that plan stays until `tipple prune`"
        ));
    }
    for id in plans {
        // One that grows goes on.
        if growing != Some(&*id) && !layout::exists(store, &layout::planned_object(&id))? {
            warn(format!(
                "plan {id} was broken off before it was whole: planning again"
            ));
        }
    }
    Ok(None)
}

/// Whether the parts of a sealed plan are those whose plan objects are in the store.
fn check_plan(store: &dyn Store, plan: &str, sealed: &Sealed) -> Result<(), DumpError> {
    let planned = layout::planned_object(plan);
    let damaged = |part: &dyn Display, what: &str| DumpError::Damaged {
        store: store.url().to_owned(),
        object: planned.to_string(),
        reason: format!("{part} {what}; restore it, or dump again into another folder"),
    };
    let mut objects = BTreeSet::new();
    for part in &sealed.parts {
        if layout::plan_of(&part.name) != plan {
            return Err(damaged(&part.name, "is no part of this plan"));
        }
        objects.insert(part.object());
    }
    let mut stray = None;
    store.list(&format!("plan/{plan}/"), &mut |entry| {
        if entry.name != planned && !objects.remove(&entry.name) {
            stray = Some(entry.name);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    match (stray, objects.first()) {
        (Some(object), _) => return Err(damaged(&object, "was planned, and it does not say so")),
        (None, Some(object)) => return Err(damaged(object, "is missing")),
        (None, None) => {}
    }
    sealed.parts.iter().try_for_each(|part| part.check(store))
}

/// The part records of a plan in a store, checked against HEAD and plan.
pub(crate) fn committed_parts(
    store: &dyn Store,
    head: &Head,
    plan: &str,
    sealed: &Sealed,
    sealing: Option<&Sealing>,
) -> Result<Vec<PartRecord>, DumpError> {
    let mut parts = Vec::new();
    store.list(&format!("parts/{plan}-"), &mut |entry| {
        parts.extend(layout::part_of_object(&entry.name));
        ControlFlow::Continue(())
    })?;
    let objects: Vec<_> = parts.iter().map(layout::part_object).collect();
    let mut records = Vec::with_capacity(parts.len());
    layout::each_json_bytes(store, &objects, |object, bytes| {
        let record = layout::parse_json(store, object, &bytes?, sealing)?;
        check_record(store, head, &parts[records.len()], &record)?;
        records.push(record);
        Ok(())
    })?;
    check_committed(store, head, sealed, &records)?;
    Ok(records)
}

fn check_committed(
    store: &dyn Store,
    head: &Head,
    sealed: &Sealed,
    committed: &[PartRecord],
) -> Result<(), DumpError> {
    let planned: BTreeMap<_, _> = sealed.parts.iter().map(|part| (&part.name, part)).collect();
    for record in committed {
        if let Some(part) = planned.get(&record.part) {
            committer::check_planned(store, part, record)?;
        }
    }
    let chunks = committed.iter().flat_map(|record| &record.chunks);
    let chunks = chunks.map(|chunk| (chunk.name.clone(), chunk.stored_bytes));
    check_chunks(store, head, &chunks.collect())
}
