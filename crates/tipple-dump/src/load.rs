//! The verb `load`: from a dump into a live system.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use tipple_budget::{Budget, Permit};
use tipple_chunk::{Decoder, KeyRing};
use tipple_flow::{Failure, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink};
use tipple_store::Store;

use crate::dump::{FirstFailure, memory_budget};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, Phase, Report, bump};
use crate::layout::PartRecord;
use crate::ledger::Ledger;
use crate::load_state::{Applied, LoadState};
use crate::open_dump::OpenDump;
use crate::options::check_workers;
use crate::part_frames::{PartFrames, reading_bytes};

/// Which parts: by their place among the sorted names, from 0, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRange {
    /// The first.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

/// How a dump is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Workers, 1 to 1024; an ordered sink gets one whatever is given. Default: one per core.
    pub threads: usize,
    /// Load the committed parts of an unfinished dump.
    pub partial: bool,
    /// Only these parts. Default: all.
    pub parts: Option<PartRange>,
    /// A folder for the state that a killed load goes on from. Default: none, a killed load begins anew.
    pub state_dir: Option<PathBuf>,
    /// The most memory for all of it; refused at the start if that is too little. Default: what is needed.
    pub memory_bytes_max: Option<u64>,
    /// The keys of a sealed dump.
    pub keys: Option<KeyRing>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            partial: false,
            parts: None,
            state_dir: None,
            memory_bytes_max: None,
            keys: None,
        }
    }
}

impl LoadOptions {
    /// The memory that loading the dump in `store` into `sink` will hold at most. For a sink that holds whole records, the
    /// part records say how large those are.
    ///
    /// # Errors
    /// As for [`load`], if it comes to that.
    pub fn memory_bytes(&self, store: &dyn Store, sink: &dyn Sink) -> Result<u64, DumpError> {
        let largest = match holds_records(sink) {
            false => 0,
            true => {
                let dump = OpenDump::open(store, self.partial, self.keys.as_ref())?;
                dump.record_bytes_max(&chosen_parts(&dump, self.parts)?)?
            }
        };
        Ok(self.workers(sink) as u64 * self.worker_bytes(store, sink, largest))
    }

    fn worker_bytes(&self, store: &dyn Store, sink: &dyn Sink, record_bytes_max: u64) -> u64 {
        reading_bytes(self.keys.as_ref())
            + sink.writer_bytes()
            + sink.record_bytes(record_bytes_max)
            + store.read_memory_bytes()
    }

    fn workers(&self, sink: &dyn Sink) -> usize {
        if sink.ordered() { 1 } else { self.threads }
    }
}

fn holds_records(sink: &dyn Sink) -> bool {
    sink.record_bytes(1) > 0
}

/// Loads the dump in `store` into `sink`: every record is applied, or counted by cause.
///
/// # Errors
/// [`DumpError`]. What was applied stays applied where the sink is [`Resume::Idempotent`]; with a state folder the same
/// call goes on after the last part that was applied whole. A sink that is [`Resume::PositionReadable`] gets every part
/// again and passes over what it has.
pub fn load(
    job: &Job,
    store: &dyn Store,
    sink: &dyn Sink,
    options: &LoadOptions,
) -> Result<Report, DumpError> {
    check_workers(options.threads, 64 << 10)?;
    let dump = OpenDump::open(store, options.partial, options.keys.as_ref())?;
    dump.check_parts()?;
    check_accepts(&dump, sink)?;
    let mut state = match (&options.state_dir, sink.resume()) {
        (None, _) => None,
        (Some(dir), Resume::Idempotent) => {
            let name = dump
                .done()
                .map_or_else(|| dump.head().dump.clone(), |done| done.digest.to_string());
            Some(LoadState::open(dir, &name, &sink.identity())?)
        }
        (Some(_), Resume::PositionReadable) => {
            return Err(DumpError::Usage(format!(
                "{} tells itself how far a load got: leave out --state",
                sink.identity().kind
            )));
        }
        (Some(_), Resume::RestartOnly) => {
            return Err(DumpError::Usage(format!(
                "{} can only be loaded from the beginning: leave out --state",
                sink.identity().kind
            )));
        }
    };
    let chosen = chosen_parts(&dump, options.parts)?;
    let record_bytes_max = match holds_records(sink) {
        true => dump.record_bytes_max(&chosen)?,
        false => 0,
    };
    let worker_bytes = options.worker_bytes(store, sink, record_bytes_max);
    let memory_bytes = options.workers(sink) as u64 * worker_bytes;
    let memory = memory_budget(job, memory_bytes, options.memory_bytes_max)?;
    sink.check()?;
    if let Some(state) = &mut state {
        begin(job, state, sink)?;
    }
    let loading = Loading {
        job,
        dump: &dump,
        sink,
        options,
        memory: &memory,
        worker_bytes,
        state: state.as_ref(),
        totals: Mutex::default(),
    };
    let todo = loading.begin(chosen)?;
    job.phase(Phase::Working);
    loading.workers(todo)?;
    job.phase(Phase::Finishing);
    let totals = loading.totals.into_inner().expect("no worker panicked");
    let said = sink.finish(&totals.outcomes)?;
    if let Some(state) = state {
        state.finish()?;
    }
    Ok(Report {
        records: totals.records - totals.outcomes.total(),
        chunks: totals.chunks,
        parts: totals.parts,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        earlier_records: totals.earlier_records,
        earlier_raw_bytes: totals.earlier_raw_bytes,
        sink: said,
        ..job.report("load")
    }
    .with_outcomes(&totals.outcomes))
}

/// Whether `sink` takes what is in the dump.
///
/// # Errors
/// `Usage`, `Version`.
pub(crate) fn check_accepts(dump: &OpenDump<'_>, sink: &dyn Sink) -> Result<(), DumpError> {
    let (url, content) = (dump.store().url(), &dump.head().content);
    if sink.accepts(&content.name, content.version) {
        return Ok(());
    }
    if sink.accepts(&content.name, 1) {
        return Err(Failure::new(
            Party::Version,
            format!(
                "{url} holds {} version {}, which is newer than this program: use a newer tipple",
                content.name, content.version
            ),
        )
        .into());
    }
    if dump.head().shaping.format.is_some() {
        return Err(DumpError::Usage(format!(
            "{url} holds {}, a form for queries that no sink takes: load a dump that was made without --format",
            content.name,
        )));
    }
    Err(DumpError::Usage(format!(
        "{url} holds {} version {}, which a sink of {} does not take",
        content.name,
        content.version,
        sink.identity().kind,
    )))
}

fn begin(job: &Job, state: &mut LoadState, sink: &dyn Sink) -> Result<(), DumpError> {
    let void = state.begin(sink)?;
    if void > 0 {
        // I7: a part is passed over only where it was applied.
        job.tell(&Event::Warning {
            message: format!(
                "the sink was restarted or emptied since an earlier run of this load (parts that went with it: {void}): loading from the beginning"
            ),
        });
    }
    Ok(())
}

pub(crate) fn chosen_parts(
    dump: &OpenDump<'_>,
    range: Option<PartRange>,
) -> Result<Vec<PartName>, DumpError> {
    let parts = dump.parts();
    let Some(PartRange { from, to }) = range else {
        return Ok(parts.to_vec());
    };
    let all = parts.len() as u64;
    if from >= to || to > all {
        return Err(DumpError::Usage(format!(
            "parts {from}..{to}: the dump has {all} parts, so give --parts FROM..TO with FROM < TO <= {all}"
        )));
    }
    Ok(parts[from as usize..to as usize].to_vec())
}

/// Sums over whole parts, for the report: progress also counts what was read of a part that failed later.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) parts: u64,
    pub(crate) chunks: u64,
    /// Read from the dump, applied or not.
    pub(crate) records: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    outcomes: Outcomes,
    earlier_records: u64,
    earlier_raw_bytes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, record: &PartRecord) {
        self.parts += 1;
        self.chunks += record.chunks.len() as u64;
        self.records += record.records;
        self.raw_bytes += record.raw_bytes;
        self.stored_bytes += record.stored_bytes;
    }
}

struct Loading<'a> {
    job: &'a Job,
    dump: &'a OpenDump<'a>,
    sink: &'a dyn Sink,
    options: &'a LoadOptions,
    memory: &'a Budget,
    worker_bytes: u64,
    state: Option<&'a LoadState>,
    totals: Mutex<Totals>,
}

impl Loading<'_> {
    /// Tells the start, and returns the parts that earlier runs have not applied.
    fn begin(&self, chosen: Vec<PartName>) -> Result<Vec<PartName>, DumpError> {
        let progress = self.job.progress();
        progress
            .parts_total
            .store(chosen.len() as u64, Ordering::Relaxed);
        if let (Some(done), None) = (self.dump.done(), self.options.parts) {
            progress
                .records_estimate
                .store(done.records, Ordering::Relaxed);
            progress
                .raw_bytes_estimate
                .store(done.raw_bytes, Ordering::Relaxed);
        }
        let mut todo = Vec::new();
        for part in chosen {
            let applied = self.state.and_then(|state| state.applied().get(&part));
            let Some(applied) = applied else {
                todo.push(part);
                continue;
            };
            let record = self.dump.record(&part)?;
            if (applied.records, applied.raw_bytes) != (record.records, record.raw_bytes)
                || applied.outcomes.total() > record.records
            {
                let dir = self.options.state_dir.as_deref().unwrap_or(Path::new(""));
                return Err(DumpError::Usage(format!(
                    "the state file in {} says of part {part} what cannot be of this dump: remove it to load from the beginning",
                    dir.display()
                )));
            }
            bump(&progress.records, applied.records);
            bump(&progress.raw_bytes, applied.raw_bytes);
            self.count(&record, &applied.outcomes);
            let mut totals = self.totals.lock().expect("no worker panicked");
            totals.earlier_records += applied.records - applied.outcomes.total();
            totals.earlier_raw_bytes += applied.raw_bytes;
        }
        self.job.tell(&Event::Start {
            verb: "load",
            threads: self.options.workers(self.sink),
            memory_bytes_budget: self.memory.limit(),
            spool_bytes_budget: 0,
            records_estimate: progress.records_estimate(),
            raw_bytes_estimate: progress.raw_bytes_estimate(),
            parts_committed: progress.parts(),
        });
        Ok(todo)
    }

    fn count(&self, record: &PartRecord, outcomes: &Outcomes) {
        bump(&self.job.progress().parts, 1);
        let mut totals = self.totals.lock().expect("no worker panicked");
        totals.add(record);
        totals.outcomes.merge(outcomes);
    }

    fn workers(&self, todo: Vec<PartName>) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let failure = FirstFailure::new(gate);
        let ledger = Ledger::new(todo);
        ledger.close();
        let lanes = (0..self.options.workers(self.sink))
            .map(|_| {
                let permit = self.memory.try_acquire(self.worker_bytes)?;
                let decoder = Decoder::new().map_err(DumpError::chunk("a decoder"))?;
                Ok((permit, decoder))
            })
            .collect::<Result<Vec<(Permit, Decoder)>, DumpError>>()?;
        std::thread::scope(|scope| {
            for (permit, mut decoder) in lanes {
                let (ledger, failure) = (&ledger, &failure);
                scope.spawn(move || {
                    let _permit = permit;
                    if let Err(error) = self.worker(ledger, &mut decoder) {
                        failure.set(error);
                    }
                });
            }
        });
        failure.into_result(Some(()))
    }

    fn worker(&self, ledger: &Ledger<PartName>, decoder: &mut Decoder) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let mut writer = None;
        while let Some(part) = ledger.take(gate)? {
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(self.sink.open(gate)?),
            };
            let record = self.dump.record(&part)?;
            let outcomes = apply(self.job, self.dump, writer.as_mut(), &record, decoder)?;
            failpoint!("applied");
            if let Some(state) = self.state {
                state.add(&Applied {
                    part: part.clone(),
                    records: record.records,
                    raw_bytes: record.raw_bytes,
                    outcomes: outcomes.clone(),
                })?;
            }
            self.count(&record, &outcomes);
            self.job.tell(&Event::Part {
                part: part.to_string(),
                records: record.records - outcomes.total(),
                outcomes,
            });
        }
        Ok(())
    }
}

/// Applies the chunks that `record` lists: all of a part, or a run of its chunks that begins and ends with a record.
/// Returns what the sink did not take.
pub(crate) fn apply(
    job: &Job,
    dump: &OpenDump<'_>,
    writer: &mut (dyn PartWriter + '_),
    record: &PartRecord,
    decoder: &mut Decoder,
) -> Result<Outcomes, DumpError> {
    let content = &dump.head().content;
    let error = RefCell::new(None);
    let mut frames = PartFrames::new(
        dump,
        record,
        (&content.name, content.version),
        decoder,
        job.progress(),
        &error,
    );
    let mut records =
        RecordReader::new(job.gate(), &mut frames).with_record_bytes_max(record.record_bytes_max());
    let mut outcomes = Outcomes::default();
    let written = writer.write_part(&record.part, &mut records, &mut outcomes);
    let read = (records.records(), records.bytes());
    if let Some(error) = error.take() {
        return Err(error);
    }
    written?;
    // I6: all of it went to the sink, and nothing else.
    if read != (record.records, record.raw_bytes) {
        return Err(dump.damaged(
            crate::layout::part_object(&record.part),
            format!(
                "says {} records in {} bytes, and its chunks gave {} in {}",
                record.records, record.raw_bytes, read.0, read.1
            ),
        ));
    }
    Ok(outcomes)
}
