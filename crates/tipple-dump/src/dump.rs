//! The verb `dump`: from a live system into a store.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use tipple_budget::{Budget, BufferPool, Gate, Permit};
use tipple_chunk::{Codec, Content, Encoder};
use tipple_flow::{Estimate, FRAME_BYTES_MAX, Source};
use tipple_store::Store;

use crate::committer::{self, OpenPart, Work};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::filling::{self, MESSAGES_MAX};
use crate::job::{Event, Job, Phase, Report, bump};
use crate::layout::{
    self, ContentVersion, FORMAT_MAJOR, FORMAT_MINOR, Format, Head, PartRecord, Sealed, SealedPart,
    Shaping,
};
use crate::ledger::Ledger;
use crate::open_dump::check_record;
use crate::planning::{self, Planning};
use crate::sealer::Sealer;
use crate::sums::{Sums, check_chunks};

/// How a dump is made.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Workers, 1 to 1024. Default: one per core.
    pub threads: usize,
    /// Bytes of one buffer, 64 KiB to 1 GiB; each worker has two. Default 8 MiB.
    pub buffer_bytes: usize,
    /// The most raw bytes in a chunk, at least a frame (1 MiB). Larger records spill over. Default 64 MiB.
    pub chunk_bytes_max: u64,
    /// How frames are compressed. Default zstd:3.
    pub codec: Codec,
    /// The most memory for all of it; refused at the start if that is too little. Default: what is needed.
    pub memory_bytes_max: Option<u64>,
    /// Where chunks are written before they are put, for stores without a folder of their own. Default: a temporary one.
    pub spool_dir: Option<PathBuf>,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            buffer_bytes: 8 << 20,
            chunk_bytes_max: 64 << 20,
            codec: Codec::Zstd { level: 3 },
            memory_bytes_max: None,
            spool_dir: None,
        }
    }
}

impl DumpOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`DumpError::Usage`] naming the value and the range.
    pub fn validate(&self) -> Result<(), DumpError> {
        check_workers(self.threads, self.buffer_bytes)?;
        if self.chunk_bytes_max < FRAME_BYTES_MAX as u64 {
            return Err(DumpError::Usage(format!(
                "a chunk size of {} bytes is too small: at least one frame, 1MiB",
                self.chunk_bytes_max
            )));
        }
        self.codec
            .validate()
            .map_err(DumpError::chunk("--compress"))
    }

    /// The memory that dumping `source` will hold at most.
    pub fn memory_bytes(&self, source: &dyn Source) -> u64 {
        let lane =
            2 * self.buffer_bytes as u64 + self.codec.encoder_bytes() + source.reader_bytes();
        self.threads as u64 * lane + source.planner_bytes()
    }

    fn shaping(&self) -> Shaping {
        Shaping {
            compress: self.codec.to_string(),
            chunk_bytes: self.chunk_bytes_max,
        }
    }
}

pub(crate) fn check_workers(threads: usize, buffer_bytes: usize) -> Result<(), DumpError> {
    if !(1..=1024).contains(&threads) {
        return Err(DumpError::Usage(format!(
            "{threads} threads: give --threads 1 to 1024"
        )));
    }
    if !(64 << 10..=1 << 30).contains(&buffer_bytes) {
        return Err(DumpError::Usage(format!(
            "a buffer of {buffer_bytes} bytes: give --buffer 64KiB to 1GiB"
        )));
    }
    Ok(())
}

/// Dumps `source` into `store`, or goes on with a dump of the same source and options that was broken off.
///
/// # Errors
/// [`DumpError`]; there is no DONE then, and the same call goes on where it was. `Usage` if the store holds a finished
/// dump, one of another source or of other options, or something else.
pub fn dump(
    job: &Job,
    source: &dyn Source,
    store: &dyn Store,
    options: &DumpOptions,
) -> Result<Report, DumpError> {
    options.validate()?;
    let _lock = store.lock()?;
    let head = find_head(source, store, options)?;
    // What planning holds may depend on what the source turns out to be.
    let estimate = source.check()?;
    let memory = memory_budget(job, options.memory_bytes(source), options.memory_bytes_max)?;
    if head.is_none() {
        create_head(source, store, options)?;
    }
    for leftover in store.leftovers()? {
        store.remove_leftover(&leftover)?;
    }
    let resumed = match &head {
        Some(head) => resumable_plan(job, source, store, head)?,
        None => None, // the store was empty
    };
    let plan = resumed.unwrap_or_else(Plan::fresh);
    tell_start(job, &plan, &estimate, options, &memory);

    let (spool, _temporary) = staging(store, options.spool_dir.as_deref())?;
    let run = Run {
        job,
        source,
        store,
        options,
        memory: &memory,
        staging_dir: &spool,
        plan: &plan,
    };
    let (plan_id, sealed) = run.workers()?;

    job.phase(Phase::Finishing);
    let sums = Sums::of(store, &plan_id, &sealed)?;
    let said = source.finish(&sealed.planned, sums.records, &sums.outcomes)?;
    failpoint!("summing");
    sums.put(store)?;
    failpoint!("summed");
    let done = sums.done(&plan_id, said.clone());
    layout::put_json(store, &layout::object(layout::DONE), &done)?;
    failpoint!("done");
    Ok(Report {
        records: sums.records,
        chunks: sums.chunks,
        parts: sums.parts,
        raw_bytes: sums.raw_bytes,
        stored_bytes: sums.stored_bytes,
        earlier_records: plan.committed.iter().map(|record| record.records).sum(),
        earlier_raw_bytes: plan.committed.iter().map(|record| record.raw_bytes).sum(),
        source: said,
        ..job.report("dump")
    }
    .with_outcomes(&sums.outcomes))
}

/// Where chunks and key files are staged: the store's own folder, or the given one, or a temporary one.
fn staging(
    store: &dyn Store,
    spool_dir: Option<&Path>,
) -> Result<(PathBuf, Option<tempfile::TempDir>), DumpError> {
    if let Some(dir) = store.staging_dir() {
        return Ok((dir.to_owned(), None));
    }
    let temporary = temporary_dir(spool_dir)?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// A folder that is removed at the end.
pub(crate) fn temporary_dir(spool_dir: Option<&Path>) -> Result<tempfile::TempDir, DumpError> {
    let parent = spool_dir.map_or_else(std::env::temp_dir, Path::to_owned);
    tempfile::TempDir::with_prefix_in("tipple-", &parent)
        .map_err(DumpError::disk("create a folder in", &parent))
}

pub(crate) fn memory_budget(
    job: &Job,
    needed: u64,
    limit: Option<u64>,
) -> Result<Budget, DumpError> {
    let memory = Budget::new("memory", limit.unwrap_or(needed));
    // Refused here as a whole, so that the message has the number that would do.
    drop(memory.try_acquire(needed)?);
    job.set_memory(&memory);
    Ok(memory)
}

/// The HEAD of the dump to go on with; `None` if the store is empty.
fn find_head(
    source: &dyn Source,
    store: &dyn Store,
    options: &DumpOptions,
) -> Result<Option<Head>, DumpError> {
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
    let url = store.url();
    if has_done {
        return Err(DumpError::Usage(format!(
            "{url} holds a finished dump: choose another folder, or look at this one with `tipple verify {url}`"
        )));
    }
    if !has_head {
        return match other {
            None => Ok(None),
            Some(name) => Err(DumpError::Usage(format!(
                "{url} is not empty and not a dump (it holds {name}): choose an empty folder"
            ))),
        };
    }
    let object = layout::object(layout::HEAD);
    let head: Head = layout::read_json(store, &object)?;
    if (head.format.major, head.format.minor) > (FORMAT_MAJOR, FORMAT_MINOR) {
        return Err(layout::newer(store, &object, head.format, "writes"));
    }
    let (found, wanted) = (&head.source, &source.identity());
    if found != wanted {
        return Err(DumpError::Usage(format!(
            "{url} is an unfinished dump of another source: it has {} {}, and this is {} {}; choose another folder",
            found.kind, found.id, wanted.kind, wanted.id
        )));
    }
    let (found, wanted) = (&head.content, source.content());
    if (found.name.as_str(), found.version) != wanted {
        return Err(DumpError::Usage(format!(
            "{url} was begun with {} version {}, and this program writes {} version {}: choose another folder",
            found.name, found.version, wanted.0, wanted.1
        )));
    }
    let wanted = options.shaping();
    if head.shaping != wanted {
        return Err(DumpError::Usage(format!(
            "{url} was begun with --compress {} --chunk-size {}, and this is --compress {} --chunk-size {}: give the same options, or choose another folder",
            head.shaping.compress, head.shaping.chunk_bytes, wanted.compress, wanted.chunk_bytes
        )));
    }
    Ok(Some(head))
}

fn create_head(
    source: &dyn Source,
    store: &dyn Store,
    options: &DumpOptions,
) -> Result<(), DumpError> {
    let (name, version) = source.content();
    let head = Head {
        format: Format::CURRENT,
        written_by: concat!("tipple ", env!("CARGO_PKG_VERSION")).to_owned(),
        dump: layout::random_hex(16),
        started: layout::now(),
        source: source.identity(),
        content: ContentVersion {
            name: name.to_owned(),
            version,
        },
        shaping: options.shaping(),
    };
    layout::put_json(store, &layout::object(layout::HEAD), &head)?;
    failpoint!("begun");
    Ok(())
}

/// A plan: a fresh one, or a sealed one with what is committed of it.
struct Plan {
    id: String,
    sealed: Option<Sealed>,
    committed: Vec<PartRecord>,
}

impl Plan {
    fn fresh() -> Self {
        Self {
            id: layout::random_hex(8),
            sealed: None,
            committed: Vec::new(),
        }
    }
}

/// The sealed plan of an earlier run, if the source is still the one that it speaks of.
fn resumable_plan(
    job: &Job,
    source: &dyn Source,
    store: &dyn Store,
    head: &Head,
) -> Result<Option<Plan>, DumpError> {
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
        let sealed: Sealed = layout::read_json(store, &layout::planned_object(&id))?;
        if source.resumable() && source.is_same(&sealed.planned.incarnation)? {
            check_plan(store, &id, &sealed)?;
            let committed = committed_parts(store, head, &id)?;
            check_committed(store, &sealed, &committed)?;
            return Ok(Some(Plan {
                id,
                sealed: Some(sealed),
                committed,
            }));
        }
        // I7: never two points in time in one dump.
        warn(format!(
            "the source is not the one that plan {id} was made from, or cannot be read twice: starting over; what was dumped of that plan stays until `tipple prune`"
        ));
    }
    for id in plans {
        if !layout::exists(store, &layout::planned_object(&id))? {
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

fn committed_parts(
    store: &dyn Store,
    head: &Head,
    plan: &str,
) -> Result<Vec<PartRecord>, DumpError> {
    let mut parts = Vec::new();
    store.list(&format!("parts/{plan}-"), &mut |entry| {
        parts.extend(layout::part_of_object(&entry.name));
        ControlFlow::Continue(())
    })?;
    parts
        .iter()
        .map(|part| {
            let record = layout::read_json(store, &layout::part_object(part))?;
            check_record(store, head, part, &record)?;
            Ok(record)
        })
        .collect()
}

fn check_committed(
    store: &dyn Store,
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
    check_chunks(store, &chunks.collect())
}

fn tell_start(job: &Job, plan: &Plan, estimate: &Estimate, options: &DumpOptions, memory: &Budget) {
    let progress = job.progress();
    let store = |counter: &std::sync::atomic::AtomicU64, n| counter.store(n, Ordering::Relaxed);
    for record in &plan.committed {
        bump(&progress.parts, 1);
        bump(&progress.chunks, record.chunks.len() as u64);
        bump(&progress.records, record.records);
        bump(&progress.raw_bytes, record.raw_bytes);
        bump(&progress.stored_bytes, record.stored_bytes);
    }
    match &plan.sealed {
        Some(sealed) => {
            store(&progress.parts_total, sealed.parts.len() as u64);
            // Estimates: whatever PLANNED says, they are shown and nothing else.
            let sum = |of: fn(&SealedPart) -> u64| {
                let parts = sealed.parts.iter();
                parts.fold(0_u64, |sum, part| sum.saturating_add(of(part)))
            };
            let records = sum(|part| part.records.unwrap_or(0));
            store(&progress.listed, records);
            store(&progress.records_estimate, records);
            store(
                &progress.raw_bytes_estimate,
                sum(|part| part.bytes_estimate),
            );
        }
        None => progress.expect(estimate),
    }
    job.tell(&Event::Start {
        verb: "dump",
        threads: options.threads,
        memory_bytes_budget: memory.limit(),
        records_estimate: progress.records_estimate(),
        raw_bytes_estimate: progress.raw_bytes_estimate(),
        parts_committed: plan.committed.len() as u64,
    });
}

/// The first failure of any thread; it also cancels all others.
pub(crate) struct FirstFailure<'a> {
    gate: &'a Gate,
    error: Mutex<Option<DumpError>>,
}

impl<'a> FirstFailure<'a> {
    pub(crate) fn new(gate: &'a Gate) -> Self {
        Self {
            gate,
            error: Mutex::new(None),
        }
    }

    /// Keeps the first error that is one; those who were merely cancelled by it add nothing.
    pub(crate) fn set(&self, error: DumpError) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None => *first = Some(error),
            Some(DumpError::Interrupted) => *first = Some(error),
            Some(_) => {}
        }
        self.gate.cancel();
    }

    /// `value` if nothing failed.
    pub(crate) fn into_result<T>(self, value: Option<T>) -> Result<T, DumpError> {
        match self
            .error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => value.ok_or(DumpError::Interrupted),
        }
    }
}

/// Everything that the threads of a dump share.
struct Run<'a> {
    job: &'a Job,
    source: &'a dyn Source,
    store: &'a dyn Store,
    options: &'a DumpOptions,
    memory: &'a Budget,
    staging_dir: &'a Path,
    plan: &'a Plan,
}

impl Run<'_> {
    /// Plans and works on all parts that are not committed yet; returns the sealed plan.
    fn workers(&self) -> Result<(String, Sealed), DumpError> {
        let gate = self.job.gate();
        let failure = FirstFailure::new(gate);
        let lanes = self.lanes()?;
        let _planner: Permit = self.memory.try_acquire(self.source.planner_bytes())?;
        let committed: BTreeSet<_> = self
            .plan
            .committed
            .iter()
            .map(|record| &record.part)
            .collect();
        let ready = Ledger::new(
            self.plan
                .sealed
                .iter()
                .flat_map(|sealed| &sealed.parts)
                .filter(|part| !committed.contains(&part.name))
                .cloned(),
        );
        let (to_committers, work) = sync_channel::<Work>(self.options.threads);
        // Gone with the last committer, so that no sender waits for one that panicked.
        let work = Arc::new(Mutex::new(work));
        let fail = |error| failure.set(error);
        let (name, version) = self.source.content();
        let content = Content::new(name, version);
        let planning = Planning::new(
            self.job,
            self.plan.id.clone(),
            self.staging_dir,
            &ready,
            true,
        );

        let sealed = std::thread::scope(|scope| {
            for (lane, (pool, mut encoder, permit)) in lanes.into_iter().enumerate() {
                let (to_encoder, messages) = sync_channel(MESSAGES_MAX);
                let sealer = Sealer {
                    job: self.job,
                    lane,
                    content,
                    chunk_bytes_max: self.options.chunk_bytes_max,
                    staging_dir: self.staging_dir,
                    work: to_committers.clone(),
                    begun: Cell::new(0),
                };
                let (ready, fail) = (&ready, &fail);
                scope.spawn(move || {
                    let _permit = permit;
                    if let Err(error) = sealer.run(&mut encoder, messages) {
                        fail(error);
                    }
                });
                scope.spawn(move || {
                    let filled = filling::fill(
                        gate,
                        self.source,
                        self.store,
                        ready,
                        &pool,
                        &to_encoder,
                        |part| Arc::new(OpenPart::new(part.clone())),
                    );
                    if let Err(error) = filled {
                        fail(error);
                    }
                });
            }
            drop(to_committers);
            for _ in 0..self.options.threads {
                let (work, fail) = (Arc::clone(&work), &fail);
                scope.spawn(move || committer::run(self.job, self.store, name, &work, fail));
            }
            drop(work);
            let sealed = match &self.plan.sealed {
                Some(sealed) => Ok((self.plan.id.clone(), sealed.clone())),
                None => planning
                    .run(self.source, self.store, &fail)
                    .and_then(|whole| planning::seal(self.store, whole)),
            };
            ready.close();
            match sealed {
                Ok(sealed) => {
                    self.job.phase(Phase::Working);
                    Some(sealed)
                }
                Err(error) => {
                    fail(error);
                    None
                }
            }
        });
        let sealed = failure.into_result(sealed)?;
        // Committers pass over what they get after a cancel, so not all that was sealed is in the store.
        gate.check()?;
        Ok(sealed)
    }

    /// Two buffers and an encoder for each worker, all allocated now, all accounted for.
    fn lanes(&self) -> Result<Vec<(BufferPool, Encoder, Permit)>, DumpError> {
        let (codec, buffer_bytes) = (self.options.codec, self.options.buffer_bytes);
        let other_bytes = codec.encoder_bytes() + self.source.reader_bytes();
        (0..self.options.threads)
            .map(|_| {
                let pool = BufferPool::new(2, buffer_bytes, self.memory)?;
                let permit = self.memory.try_acquire(other_bytes)?;
                let encoder = Encoder::new(codec).map_err(DumpError::chunk("--compress"))?;
                Ok((pool, encoder, permit))
            })
            .collect()
    }
}
