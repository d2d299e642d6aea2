//! The verb `dump`: from a live system into one store or several.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tipple_budget::{Budget, BufferPool, Gate, Permit};
use tipple_chunk::{Content, Encoder, Scratch};
use tipple_flow::{Estimate, PartName, Source};
use tipple_store::{Store, StoreErrorKind};

use crate::begin::{self, Found, SealedPlan};
use crate::committer::{Committer, OpenPart, ToCommitters, Work};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::filling::{self, MESSAGES_MAX, Plans};
use crate::job::{Event, Job, Phase, Report, bump};
use crate::lag::{Lag, ToLag};
use crate::layout::{self, Done, Head, PartRecord, Sealed, SealedPart};
use crate::ledger::Ledger;
use crate::notify::{self, Notifier};
use crate::objects::Objects;
use crate::open_dump::OpenDump;
use crate::options::DumpOptions;
use crate::planning::{self, Begun, PlanSeal, Planning};
use crate::replicate::Replicator;
use crate::sealer::{Encoding, Sealer};
use crate::sealing::Sealing;
use crate::spool::{Spool, SpoolPlace};
use crate::stores::Stores;
use crate::strays::{self, Strays};
use crate::sums::Sums;

/// Dumps `source` into every one of `stores`, or goes on with a dump of the same source and options that was broken
/// off. What one store has and another lacks is copied from there. If all stores hold the finished dump, and someone is
/// to be told who was not, that alone is done.
///
/// # Errors
/// [`DumpError`]; there is no DONE then in any store that lacks something, and the same call goes on where it was.
/// `Usage` if all stores hold a finished dump of which all has been told, or one holds a dump of another source or of other options, or
/// something else.
pub fn dump(
    job: &Job,
    source: &dyn Source,
    stores: &[&dyn Store],
    options: &DumpOptions,
) -> Result<Report, DumpError> {
    options.validate()?;
    check_form(source, options)?;
    let store_list = stores;
    let stores = &Stores::new(job, store_list, options.store_policy)?;
    let _locks = stores.lock()?;
    let found = Found::of(source, stores, options)?;
    if let Some((head, sealing)) = found.finished_head() {
        return tell_finished(job, stores, head, options, sealing);
    }
    // What planning holds may depend on what the source turns out to be.
    let estimate = source.check()?;
    let needed = options.memory_bytes(source, store_list);
    let memory = memory_budget(job, needed, options.memory_bytes_max)?;
    let notifier = Notifier::open(job, stores, &options.notify)?;
    let _stores_memory = memory.try_acquire(options.store_memory_bytes(store_list))?;
    let _spool_memory = memory.try_acquire(options.spool_memory_bytes())?;
    let room = Budget::new("spool", options.spool_bytes(store_list));
    if options.spool != SpoolPlace::Memory {
        job.set_spool(&room);
    }
    let (is_fresh, finished) = (found.is_empty(), found.finished.first().copied());
    let (head, sealing) = found.head(source, stores, options)?;
    let sealing = sealing.as_ref();
    let mut notifier = notifier.map(|notifier| notifier.with_sealing(sealing));
    stores.each(|store| tidy(job, store))?;
    let spool = Spool::open(&options.spool, room, store_list)?;
    let replicator = Replicator {
        job,
        stores,
        spool: &spool,
        threads: options.threads,
        sealing,
    };
    if let Some(from) = finished {
        replicator.finished(&head, from)?;
        let undelivered = match notifier {
            Some(notifier) => tell_rest(notifier, stores.get(from), &head, options)?,
            None => BTreeMap::new(),
        };
        return finished_report(job, stores, from, undelivered, sealing);
    }
    let resumed = match is_fresh {
        true => None,
        false => begin::sealed_plan(job, source, stores, &head, sealing)?,
    };
    let plan = match resumed {
        Some(plan) => Plan::resumed(&replicator, &head, plan)?,
        None => match begin::growing_plan(&head, stores)? {
            Some(plan) => Plan::growing(&replicator, &head, plan)?,
            None => Plan::fresh(),
        },
    };
    if let (Some(notifier), false) = (&mut notifier, plan.committed.is_empty()) {
        notifier.resume(&plan.id)?;
    }
    let mut strays = Strays::new();
    if !is_fresh {
        for (number, store) in stores.living() {
            if let Err(error) = strays::tidy(store, &head, &plan.id, &plan.committed, &mut strays) {
                stores.failed(number, error)?;
            }
        }
    }
    tell_start(job, &plan, &estimate, options.threads);
    let run = Run {
        replicator: &replicator,
        job,
        source,
        stores,
        options,
        memory: &memory,
        spool: &spool,
        plan: &plan,
        strays,
        extension: &head.chunk_extension(),
        sealing,
        head: &head,
    };
    let (plan_id, sealed) = run.workers(notifier.as_mut())?;
    replicator.planned(&plan_id, &sealed)?;

    job.phase(Phase::Finishing);
    // Before DONE: who reads DONE, and finds no message any more, has got all there will be.
    if let Some(notifier) = &mut notifier {
        notifier.rest(&head, sealed.parts.iter().map(|part| &part.name))?;
    }
    let of = |store: &dyn Store| Sums::of(store, &head, &plan_id, &sealed, sealing);
    let (summed, sums) = stores.any_numbered(of)?;
    let said = source.finish(&sealed.planned, sums.records, &sums.outcomes)?;
    stores.each_numbered(|number, store| {
        // From what this very store has.
        let own = (number != summed).then(|| of(store)).transpose()?;
        let sums = own.as_ref().unwrap_or(&sums);
        finish(store, &head, &plan_id, sums, &said, sealing)
    })?;
    let undelivered = match notifier {
        Some(notifier) => {
            let done = stores
                .any(|store| layout::read_json(store, &layout::object(layout::DONE), sealing))?;
            notifier.done(&head, &done)?
        }
        None => BTreeMap::new(),
    };
    Ok(Report {
        records: sums.records,
        chunks: sums.chunks,
        parts: sums.parts,
        raw_bytes: sums.raw_bytes,
        stored_bytes: sums.stored_bytes,
        earlier_records: plan.committed.iter().map(|record| record.records).sum(),
        earlier_raw_bytes: plan.committed.iter().map(|record| record.raw_bytes).sum(),
        source: said,
        undelivered,
        dropped_stores: stores.dropped_stores(),
        ..job.report("dump")
    }
    .with_outcomes(&sums.outcomes))
}

/// Whether the form that was asked for is one of what `source` gives.
fn check_form(source: &dyn Source, options: &DumpOptions) -> Result<(), DumpError> {
    match &options.form {
        Some(form) if form.takes() != source.content().0 => Err(DumpError::Usage(format!(
            "{} is a form of {}, and the source gives {}: leave out --format and --path",
            form.name(),
            form.takes(),
            source.content().0
        ))),
        _ => Ok(()),
    }
}

/// Removes what earlier attempts at this dump began and did not finish. What this user may not see or remove is told, and
/// is no error: the rights to list and abort uploads are often not given with the one to put objects.
fn tidy(job: &Job, store: &dyn Store) -> Result<(), DumpError> {
    let removed = store.leftovers().and_then(|leftovers| {
        let mut ours = leftovers.iter().filter(|one| layout::is_ours(one));
        ours.try_for_each(|leftover| store.remove_leftover(leftover))
    });
    match removed {
        Err(error)
            if matches!(
                error.kind(),
                StoreErrorKind::Denied | StoreErrorKind::Unsupported
            ) =>
        {
            let message =
                format!("what an attempt that ended may have left unfinished stays: {error}");
            job.tell(&Event::Warning { message });
            Ok(())
        }
        removed => Ok(removed?),
    }
}

/// I3: DONE, last.
fn finish(
    store: &dyn Store,
    head: &Head,
    plan: &str,
    sums: &Sums,
    said: &serde_json::Value,
    sealing: Option<&Sealing>,
) -> Result<(), DumpError> {
    failpoint!("summing");
    strays::remove_all(store, head, &sums.sha256sums())?;
    sums.put(store)?;
    failpoint!("summed");
    let done = sums.done(plan, said.clone());
    let object = layout::object(layout::DONE);
    match layout::put_json(store, &object, &done, sealing) {
        // Another process has finished the same dump a moment ago: its DONE differs in the time alone.
        Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::AlreadyExists => {
            let first: Done = layout::read_json(store, &object, sealing)?;
            if (&first.plan, first.digest) != (&done.plan, done.digest) {
                return Err(error.into());
            }
        }
        put => put?,
    }
    failpoint!("done");
    Ok(())
}

/// Tells of a dump that is finished in all stores, as far as that was not done yet.
fn tell_finished(
    job: &Job,
    stores: &Stores<'_>,
    head: &Head,
    options: &DumpOptions,
    sealing: Option<&Sealing>,
) -> Result<Report, DumpError> {
    let (number, store) = stores.living()[0];
    let done: Done = layout::read_json(store, &layout::object(layout::DONE), sealing)?;
    if options.notify.targets.is_empty() || notify::is_all_delivered(stores, &done)? {
        return Err(begin::finished_error(store.url()));
    }
    let notifier = Notifier::open(job, stores, &options.notify)?.expect("there are targets");
    job.phase(Phase::Finishing);
    let undelivered = tell_rest(notifier.with_sealing(sealing), store, head, options)?;
    finished_report(job, stores, number, undelivered, sealing)
}

/// Tells of everything in a finished dump that was not told yet. Returns how many messages each target did not get.
fn tell_rest(
    mut notifier: Notifier<'_>,
    store: &dyn Store,
    head: &Head,
    options: &DumpOptions,
) -> Result<BTreeMap<String, u64>, DumpError> {
    let dump = OpenDump::open(store, false, options.keys.as_ref())?;
    dump.check_parts()?;
    let done = dump.done().expect("only finished dumps are opened");
    notifier.resume(&done.plan)?;
    notifier.rest(head, dump.parts().iter())?;
    notifier.done(head, done)
}

/// What a dump came to that an earlier run had finished in the store `from`, and that the others have now too.
fn finished_report(
    job: &Job,
    stores: &Stores<'_>,
    from: usize,
    undelivered: BTreeMap<String, u64>,
    sealing: Option<&Sealing>,
) -> Result<Report, DumpError> {
    let done: Done = layout::read_json(stores.get(from), &layout::object(layout::DONE), sealing)?;
    Ok(Report {
        records: done.records,
        chunks: done.chunks,
        parts: done.parts,
        raw_bytes: done.raw_bytes,
        stored_bytes: done.stored_bytes,
        earlier_records: done.records,
        earlier_raw_bytes: done.raw_bytes,
        source: done.source.clone(),
        undelivered,
        dropped_stores: stores.dropped_stores(),
        ..job.report("dump")
    }
    .with_outcomes(&done.outcomes))
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

/// A plan: a fresh one, or a sealed or growing one with what every store has of it.
struct Plan {
    id: String,
    sealed: Option<Sealed>,
    /// The parts so far of one that grows.
    grown: Vec<SealedPart>,
    committed: Vec<PartRecord>,
}

impl Plan {
    fn fresh() -> Self {
        Self {
            id: layout::random_hex(8),
            sealed: None,
            grown: Vec::new(),
            committed: Vec::new(),
        }
    }

    fn growing(
        replicator: &Replicator<'_>,
        head: &Head,
        plan: SealedPlan,
    ) -> Result<Self, DumpError> {
        Ok(Self {
            committed: replicator.plan(head, &plan)?,
            id: plan.id,
            sealed: None,
            grown: plan.sealed.parts,
        })
    }

    fn resumed(
        replicator: &Replicator<'_>,
        head: &Head,
        plan: SealedPlan,
    ) -> Result<Self, DumpError> {
        Ok(Self {
            committed: replicator.plan(head, &plan)?,
            id: plan.id,
            sealed: Some(plan.sealed),
            grown: Vec::new(),
        })
    }
}

fn tell_start(job: &Job, plan: &Plan, estimate: &Estimate, threads: usize) {
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
        None => {
            progress.expect(estimate);
            bump(&progress.parts_total, plan.grown.len() as u64);
        }
    }
    job.tell(&Event::Start {
        verb: "dump",
        threads,
        memory_bytes_budget: job.memory().map_or(0, Budget::limit),
        spool_bytes_budget: job.spool().map_or(0, Budget::limit),
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
    stores: &'a Stores<'a>,
    options: &'a DumpOptions,
    memory: &'a Budget,
    spool: &'a Spool,
    plan: &'a Plan,
    /// What killed attempts at parts left, of a dump in a form for other programs.
    strays: Strays,
    /// What the names of chunks end with.
    extension: &'a str,
    sealing: Option<&'a Sealing>,
    head: &'a Head,
    replicator: &'a Replicator<'a>,
}

impl Run<'_> {
    /// Plans and works on all parts that are not committed yet; returns the sealed plan.
    fn workers(&self, notifier: Option<&mut Notifier<'_>>) -> Result<(String, Sealed), DumpError> {
        let gate = self.job.gate();
        let failure = FirstFailure::new(gate);
        let lanes = self.lanes()?;
        let _planner: Permit = self
            .memory
            .try_acquire(self.options.planner_bytes(self.source))?;
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
                .chain(&self.plan.grown)
                .filter(|part| !committed.contains(&part.name))
                .cloned(),
        );
        let (to_committers, queues): (Vec<_>, Vec<_>) = (0..self.stores.count())
            .map(|_| {
                let (to_committers, work) = channel::<Work>();
                // Gone with the last committer, so that no sender waits for one that panicked.
                (to_committers, Arc::new(Mutex::new(work)))
            })
            .unzip();
        let to_committers = ToCommitters {
            stores: self.stores,
            queues: to_committers,
        };
        let fail = |error| failure.set(error);
        let (name, version) = self.options.content(self.source);
        let content = Content::new(name, version);
        let seal = match self.sealing {
            None => None,
            Some(sealing) => Some(PlanSeal {
                sealing,
                scratch: Scratch::random().map_err(DumpError::chunk("--encrypt-key"))?,
            }),
        };
        let plans = Plans {
            stores: self.stores,
            sealing: self.sealing,
        };
        let planning = Planning::new(
            self.job,
            Begun {
                plan: self.plan.id.clone(),
                parts: self.plan.grown.clone(),
                last: plans.body(self.plan.grown.last())?,
            },
            self.spool.scratch_dir(),
            seal,
            &ready,
            true,
        );
        let (to_notifier, told) = match notifier {
            Some(notifier) => {
                let (to_notifier, parts) = notify::to_notifier();
                (Some(to_notifier), Some((notifier, parts)))
            }
            None => (None, None),
        };
        let earlier: Vec<PartName> = committed.into_iter().cloned().collect();

        let sealed = std::thread::scope(|scope| {
            if let Some((notifier, parts)) = told {
                let (head, earlier) = (self.head, &earlier);
                scope.spawn(move || notifier.run(head, earlier, &parts));
            }
            for (pool, mut encoding, permit) in lanes {
                let (to_encoder, messages) = sync_channel(MESSAGES_MAX);
                let sealer = Sealer {
                    job: self.job,
                    content,
                    extension: self.extension,
                    sealing: self.sealing,
                    chunk_bytes_max: self.options.chunk_bytes_max,
                    spool: self.spool,
                    chunk_room: self.options.chunk_room(),
                    stores: self.stores.count(),
                    work: to_committers.clone(),
                };
                let (ready, fail) = (&ready, &fail);
                scope.spawn(move || {
                    let _permit = permit;
                    if let Err(error) = sealer.run(&mut encoding, messages) {
                        fail(error);
                    }
                });
                scope.spawn(move || {
                    let filled = filling::fill(
                        gate,
                        self.source,
                        plans,
                        ready,
                        &pool,
                        &to_encoder,
                        |part| {
                            let strays = self.strays.get(&part.name).cloned();
                            let strays = strays.unwrap_or_default();
                            Arc::new(OpenPart::new(part.clone(), self.stores.count(), strays))
                        },
                    );
                    if let Err(error) = filled {
                        fail(error);
                    }
                });
            }
            drop(to_committers);
            for (number, work) in queues.into_iter().enumerate() {
                let detach_after = self.options.detach_after;
                let detach_after = detach_after.filter(|_| self.stores.count() > 1);
                let committer = || Committer {
                    job: self.job,
                    stores: self.stores,
                    number,
                    sealing: self.sealing,
                    to_notifier: to_notifier.clone(),
                    may_lag: detach_after.is_some(),
                };
                let to_lag = detach_after.map(|detach_after| {
                    let (to_lag, missed) = channel();
                    let to_lag = ToLag::new(to_lag);
                    let watching = Lag {
                        committer: committer(),
                        replicator: self.replicator,
                        detach_after,
                    };
                    let (bringing, missing) = (watching.clone(), Arc::clone(to_lag.missing()));
                    let (fail, work, said) = (&fail, Arc::clone(&work), to_lag.clone());
                    scope.spawn(move || {
                        if let Err(error) = watching.watch(&work, &said) {
                            fail(error);
                        }
                    });
                    scope.spawn(move || {
                        if let Err(error) = bringing.bring_all(&missed, &missing) {
                            fail(error);
                        }
                    });
                    to_lag
                });
                for _ in 0..self.options.threads {
                    let (work, fail) = (Arc::clone(&work), &fail);
                    let (committer, to_lag) = (committer(), to_lag.clone());
                    scope.spawn(move || committer.run(&work, to_lag.as_ref(), fail));
                }
            }
            // Gone with the last committer: then the notifier has heard of everything.
            drop(to_notifier);
            let sealed = match &self.plan.sealed {
                Some(sealed) => Ok((self.plan.id.clone(), sealed.clone())),
                None => planning
                    .run(self.source, self.stores, &fail)
                    .and_then(|whole| planning::seal(self.stores, whole, self.sealing)),
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

    /// Two buffers and what to encode with for each worker, all allocated now, all accounted for.
    fn lanes(&self) -> Result<Vec<(BufferPool, Encoding<'_>, Permit)>, DumpError> {
        let options = self.options;
        let (codec, buffer_bytes) = (options.codec, options.buffer_bytes);
        let other_bytes =
            options.encoding_bytes() + self.source.reader_bytes() + options.sealing_bytes();
        (0..self.options.threads)
            .map(|_| {
                let pool = BufferPool::new(2, buffer_bytes, self.memory)?;
                let permit = self.memory.try_acquire(other_bytes)?;
                let encoding = match options.form.as_deref() {
                    Some(form) => Encoding::Objects(Objects::new(form, options.chunk_bytes_max)?),
                    None => {
                        let encoder = Encoder::new(codec);
                        Encoding::Chunks(encoder.map_err(DumpError::chunk("--compress"))?)
                    }
                };
                Ok((pool, encoding, permit))
            })
            .collect()
    }
}
