//! The verb `verify`: every checksum, every count.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde::Serialize;
use tipple_chunk::{Decoder, KeyRing};
use tipple_flow::{Content, ObjectContent, Outcomes, PartName, Party, RecordReader, Stop};
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::cat::known_content;
use crate::dump::{FirstFailure, memory_budget};
use crate::error::{DumpError, ErrorKind};
use crate::job::{Event, Job, Phase, Report, bump};
use crate::layout::{self, ChunkEntry, FORMAT_MINOR, PartRecord, Sealed, SealedPart};
use crate::ledger::Ledger;
use crate::load::Totals;
use crate::open_dump::OpenDump;
use crate::options::check_workers;
use crate::part_frames::{PartFrames, check_whole, open_chunk, reading_bytes};
use crate::sums::SumsBuilder;

/// How deep to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Names, lengths and checksums of the stored bytes.
    Quick,
    /// That, and every frame is decoded and every record read and counted.
    #[default]
    Full,
}

/// What is verified.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// How deep.
    pub depth: Depth,
    /// Accept an unfinished dump, and verify its committed parts.
    pub partial: bool,
    /// Workers, 1 to 1024. Default: one per core.
    pub threads: usize,
    /// The keys of a sealed dump.
    pub keys: Option<KeyRing>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            depth: Depth::Full,
            partial: false,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            keys: None,
        }
    }
}

impl VerifyOptions {
    /// The memory that verifying a dump in `store` will hold at most.
    pub fn memory_bytes(&self, store: &dyn Store) -> u64 {
        self.threads as u64 * (reading_bytes(self.keys.as_ref()) + store.read_memory_bytes())
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a verification came to. The dump is good if and only if there are no problems.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Counts over the parts in which nothing was found; `lost` and `outcomes` are what the dump says of itself.
    #[serde(flatten)]
    pub report: Report,
    /// Everything found, sorted, at most [`VerifyReport::PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many problems there are in all.
    pub problems_total: u64,
    /// Objects that no record lists: harmless, `tipple prune` removes them.
    pub unlisted: u64,
}

impl VerifyReport {
    /// The most problems that are kept one by one.
    pub const PROBLEMS_MAX: usize = 1000;
}

/// Verifies the dump in `store`.
///
/// # Errors
/// [`DumpError`] if it cannot be verified at all: no dump, a newer version, a store that fails. Damage is not an error
/// here: it is in the report.
pub fn verify(
    job: &Job,
    store: &dyn Store,
    contents: &[&dyn Content],
    options: &VerifyOptions,
) -> Result<VerifyReport, DumpError> {
    check_workers(options.threads, 64 << 10)?;
    let found = Found::default();
    let dump = match OpenDump::open(store, true, options.keys.as_ref()) {
        Ok(dump) => dump,
        Err(DumpError::Damaged { object, reason, .. }) => {
            found.add(object, reason);
            return Ok(found.into_report(job.report("verify"), 0));
        }
        Err(error) => return Err(error),
    };
    let content = known_content(&dump, contents)?;
    let objects_bytes = content.objects().map_or(0, |o| o.reading_bytes());
    let memory_bytes = options.memory_bytes(store) + options.threads as u64 * objects_bytes;
    let memory = memory_budget(job, memory_bytes, None)?;
    let _held = memory.try_acquire(memory_bytes)?;
    let progress = job.progress();
    let store_in = |counter: &std::sync::atomic::AtomicU64, n| counter.store(n, Ordering::Relaxed);
    store_in(&progress.parts_total, dump.parts().len() as u64);
    if let Some(done) = dump.done() {
        store_in(&progress.records_estimate, done.records);
        store_in(&progress.raw_bytes_estimate, done.raw_bytes);
    } else if !options.partial {
        found.add(layout::DONE, "is missing: the dump is not complete");
    }
    job.tell(&Event::Start {
        verb: "verify",
        threads: options.threads,
        memory_bytes_budget: memory.limit(),
        spool_bytes_budget: 0,
        records_estimate: progress.records_estimate(),
        raw_bytes_estimate: progress.raw_bytes_estimate(),
        parts_committed: 0,
    });
    let verifying = Verifying {
        job,
        dump: &dump,
        content,
        depth: options.depth,
        found: &found,
        totals: Mutex::default(),
    };
    let sealed = verifying.sealed()?;
    let (sums, unlisted) = verifying.layout(sealed.as_ref(), options.partial)?;
    job.phase(Phase::Working);
    let planned = sealed.map_or_else(Vec::new, |sealed| sealed.parts);
    verifying.workers(planned, options.threads)?;
    let totals = verifying.totals.into_inner().expect("no worker panicked");
    let report = Report {
        records: totals.records,
        chunks: totals.chunks,
        parts: totals.parts,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        ..job.report("verify")
    }
    .with_outcomes(&sums);
    Ok(found.into_report(report, unlisted))
}

/// Problems, from all threads.
#[derive(Default)]
struct Found {
    problems: Mutex<(Vec<Problem>, u64)>,
}

impl Found {
    fn add(&self, object: impl ToString, problem: impl ToString) {
        let mut problems = self.problems.lock().expect("no worker panicked");
        problems.1 += 1;
        if problems.0.len() < VerifyReport::PROBLEMS_MAX {
            problems.0.push(Problem {
                object: object.to_string(),
                problem: problem.to_string(),
            });
        }
    }

    fn add_error(&self, object: impl ToString, error: &DumpError) {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            let more = next.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = next.source();
        }
        // Most errors begin with the object, which stands in front already.
        let object = object.to_string();
        if let Some(rest) = text.strip_prefix(&object) {
            let place = match error {
                DumpError::Damaged { store, .. } => format!(" of {store}: "),
                _ => ": ".to_owned(),
            };
            if let Some(rest) = rest.strip_prefix(&place) {
                text = rest.to_owned();
            }
        }
        self.add(object, text);
    }

    fn into_report(self, report: Report, unlisted: u64) -> VerifyReport {
        let (mut problems, problems_total) =
            self.problems.into_inner().expect("no worker panicked");
        problems.sort_unstable();
        VerifyReport {
            report,
            problems,
            problems_total,
            unlisted,
        }
    }
}

struct Verifying<'a> {
    job: &'a Job,
    dump: &'a OpenDump<'a>,
    content: &'a dyn Content,
    depth: Depth,
    found: &'a Found,
    /// Of the parts that are good.
    totals: Mutex<Totals>,
}

impl Verifying<'_> {
    /// Names and sums: which parts and chunks there should be and are, what DONE and SHA256SUMS say. Returns what became
    /// of records that are not in the chunks, and how many objects nobody lists.
    fn layout(&self, sealed: Option<&Sealed>, partial: bool) -> Result<(Outcomes, u64), DumpError> {
        let (store, found) = (self.dump.store(), self.found);
        let mut sums = SumsBuilder::default();
        let mut listed = BTreeMap::new();
        let mut readable = true;
        let mut parts = self.dump.parts().iter();
        layout::each_json_bytes(store, &self.dump.part_objects(), |object, bytes| {
            let part = parts.next().expect("an object for each part");
            match bytes.and_then(|bytes| Ok((self.dump.parse_record(part, &bytes)?, bytes))) {
                Ok((record, bytes)) => {
                    sums.add(object.to_string(), &bytes, &record);
                    listed.extend(record.chunks.into_iter().map(|c| (c.name, c.stored_bytes)));
                }
                Err(error) => {
                    readable = false;
                    self.note(object, error)?;
                }
            }
            Ok(())
        })?;
        if let Some(sealed) = sealed {
            self.plan(sealed, partial);
        }
        let none = Outcomes::default();
        let sums = sums.finish(sealed.map_or(&none, |sealed| &sealed.planned.outcomes));
        if let (Some(done), Some(sealed), true) = (self.dump.done(), sealed, readable) {
            let says = [
                ("parts", done.parts, sums.parts),
                ("chunks", done.chunks, sums.chunks),
                ("records", done.records, sums.records),
                ("raw bytes", done.raw_bytes, sums.raw_bytes),
                ("stored bytes", done.stored_bytes, sums.stored_bytes),
                ("lost records", done.lost, sums.outcomes.lost()),
            ];
            for (what, done, records) in says {
                if done != records {
                    found.add(
                        layout::DONE,
                        format!("says {done} {what}, and the part records say {records}"),
                    );
                }
            }
            if done.digest != sums.digest {
                found.add(layout::DONE, "its digest is not that of the part records");
            }
            let outcomes = sums.outcomes.clone();
            match sums.with_others(store, &done.plan, sealed) {
                Ok(sums) => self.sha256sums(&sums)?,
                Err(error) => self.note(&layout::object(layout::SHA256SUMS), error)?,
            }
            return Ok((outcomes, self.unlisted(&listed)?));
        }
        Ok((sums.outcomes, self.unlisted(&listed)?))
    }

    /// The plan, if it was sealed.
    fn sealed(&self) -> Result<Option<Sealed>, DumpError> {
        let object = layout::planned_object(self.dump.plan().unwrap_or("none"));
        match self.dump.sealed() {
            Ok(None) if self.dump.done().is_some() => self.found.add(object, "is missing"),
            Ok(sealed) => return Ok(sealed),
            Err(error) => self.note(&object, error)?,
        }
        Ok(None)
    }

    /// Whether the parts are those that were planned.
    fn plan(&self, sealed: &Sealed, partial: bool) {
        let found = self.found;
        let planned: BTreeSet<&PartName> = sealed.parts.iter().map(|part| &part.name).collect();
        let committed: BTreeSet<&PartName> = self.dump.parts().iter().collect();
        if !partial || self.dump.done().is_some() {
            for part in planned.difference(&committed) {
                found.add(
                    layout::part_object(part),
                    "is missing: the part was planned",
                );
            }
        }
        for part in committed.difference(&planned) {
            found.add(
                layout::part_object(part),
                "is one too many: the part was not planned",
            );
        }
    }

    fn sha256sums(&self, sums: &crate::sums::Sums) -> Result<(), DumpError> {
        let store = self.dump.store();
        let object = layout::object(layout::SHA256SUMS);
        let expected = sums.sha256sums();
        if self.dump.head().format.minor > FORMAT_MINOR {
            // A newer minor version may have objects that this one does not know.
            let bytes = layout::get_json_bytes(store, &object)?;
            let lines: BTreeSet<_> = bytes.split(|byte| *byte == b'\n').collect();
            let mut expected = expected.split(|byte| *byte == b'\n');
            if !expected.all(|line| lines.contains(line)) {
                self.found
                    .add(object, "does not say what the part records say");
            }
            return Ok(());
        }
        match store.get(&object, expected.len() as u64) {
            Ok(bytes) if bytes == expected => {}
            Ok(_) => self
                .found
                .add(object, "does not say what the part records say"),
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                self.found.add(object, "is missing");
            }
            Err(error) if error.kind() == StoreErrorKind::TooLarge => {
                self.found
                    .add(object, "is longer than what the part records say");
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Chunks that should be there and are not, or have another length. Returns how many objects nobody lists.
    fn unlisted(&self, listed: &BTreeMap<String, u64>) -> Result<u64, DumpError> {
        let mut seen = BTreeSet::new();
        let mut unlisted = 0;
        let head = self.dump.head();
        // A query reads all that is there.
        let must_be_listed = head.shaping.format.is_some() && self.dump.done().is_some();
        self.dump.store().list(head.chunks_prefix(), &mut |entry| {
            match listed.get(entry.name.as_ref()) {
                Some(bytes) => {
                    if *bytes != entry.bytes {
                        self.found.add(
                            &entry.name,
                            format!("has {} bytes, and should have {bytes}", entry.bytes),
                        );
                    }
                    seen.insert(entry.name.to_string());
                }
                None => {
                    unlisted += 1;
                    if must_be_listed {
                        let problem = "is in no part record, and a query reads it, too; `tipple prune` removes it";
                        self.found.add(&entry.name, problem);
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        for name in listed.keys().filter(|name| !seen.contains(*name)) {
            self.found.add(name, "is missing");
        }
        Ok(unlisted)
    }

    /// `planned` are the parts whose plan objects are looked at too: nobody needs them in a finished dump, but they are
    /// among its files.
    fn workers(&self, planned: Vec<SealedPart>, threads: usize) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let failure = FirstFailure::new(gate);
        let parts = self.dump.parts().iter().cloned().map(Task::Part);
        let ledger = Ledger::new(planned.into_iter().map(Task::Plan).chain(parts));
        ledger.close();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let worked = Decoder::new()
                        .map_err(DumpError::chunk("a decoder"))
                        .and_then(|mut decoder| self.worker(&ledger, &mut decoder));
                    if let Err(error) = worked {
                        failure.set(error);
                    }
                });
            }
        });
        failure.into_result(Some(()))
    }

    fn worker(&self, ledger: &Ledger<Task>, decoder: &mut Decoder) -> Result<(), DumpError> {
        while let Some(task) = ledger.take(self.job.gate())? {
            let part = match task {
                Task::Part(part) => part,
                Task::Plan(planned) => {
                    self.plan_object(&planned)?;
                    continue;
                }
            };
            // What is wrong with the record itself was found before.
            let Ok(record) = self.dump.record(&part) else {
                continue;
            };
            let is_good = match self.depth {
                Depth::Full if self.content.objects().is_some() => self.chunks(&record, decoder)?,
                Depth::Quick => self.chunks(&record, decoder)?,
                Depth::Full => match self.records(&record, decoder) {
                    Ok(()) => true,
                    Err(error) => {
                        // One pass over the records stops at the first damage: look at every chunk by itself.
                        if self.chunks(&record, decoder)? {
                            self.note(&layout::part_object(&part), error)?;
                        }
                        false
                    }
                },
            };
            if is_good {
                self.totals.lock().expect("no worker panicked").add(&record);
            }
            bump(&self.job.progress().parts, 1);
        }
        Ok(())
    }

    fn plan_object(&self, planned: &SealedPart) -> Result<(), DumpError> {
        let (store, gate) = (self.dump.store(), self.job.gate());
        let object = planned.object();
        let checked = match store.open(&object) {
            Ok(input) => planned.check_bytes(store, Gated { input, gate }),
            Err(error) if error.kind() == StoreErrorKind::NotFound => {
                Err(self.dump.damaged(&object, "is missing"))
            }
            Err(error) => Err(error.into()),
        };
        gate.check()?;
        checked.or_else(|error| self.note(&object, error))
    }

    /// Every chunk of a part by itself; whether all are good.
    fn chunks(&self, record: &PartRecord, decoder: &mut Decoder) -> Result<bool, DumpError> {
        let mut are_good = true;
        for number in 0..record.chunks.len() {
            are_good &= self.chunk(record, number as u32, decoder)?;
        }
        Ok(are_good)
    }

    /// One chunk by itself: its stored bytes, and all frames unless that is too deep. Whether it is good.
    fn chunk(
        &self,
        record: &PartRecord,
        number: u32,
        decoder: &mut Decoder,
    ) -> Result<bool, DumpError> {
        let object = layout::object(&record.chunks[number as usize].name);
        match self.chunk_bytes(record, number, &object, decoder) {
            Ok(()) => Ok(true),
            Err(error) => self.note(&object, error).map(|()| false),
        }
    }

    fn chunk_bytes(
        &self,
        record: &PartRecord,
        number: u32,
        object: &ObjectName,
        decoder: &mut Decoder,
    ) -> Result<(), DumpError> {
        let entry = &record.chunks[number as usize];
        let gate = self.job.gate();
        let progress = self.job.progress();
        if self.depth == Depth::Quick {
            self.check_sha256(entry, object)?;
            bump(&progress.chunks, 1);
            bump(&progress.stored_bytes, entry.stored_bytes);
            bump(&progress.records, entry.records);
            bump(&progress.raw_bytes, entry.raw_bytes);
            return Ok(());
        }
        if let Some(objects) = self.content.objects() {
            return self.form_object(objects, entry, object);
        }
        let mut reader = open_chunk(self.dump, record, number, true)?;
        while let Some(frame) = reader
            .next_frame(decoder)
            .map_err(DumpError::chunk(object))?
        {
            let (bytes, records) = (frame.raw.len() as u64, u64::from(frame.entry.records));
            gate.pass(bytes, records)?;
        }
        check_whole(self.dump, entry, &mut reader, decoder)
    }

    /// Whether the stored bytes of an object are those that its part record speaks of.
    fn check_sha256(&self, entry: &ChunkEntry, object: &ObjectName) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let input = self.dump.store().open(object)?;
        let read = tipple_chunk::sha256_of(Gated { input, gate });
        let (sha256, bytes) = read.map_err(|error| match gate.check() {
            Err(cancelled) => cancelled.into(),
            Ok(()) => self
                .dump
                .damaged(object, format!("cannot be read: {error}")),
        })?;
        if sha256 != entry.sha256 {
            return Err(self.dump.damaged(
                object,
                format!(
                    "its {bytes} bytes have the SHA-256 {sha256}, and should have {}",
                    entry.sha256
                ),
            ));
        }
        Ok(())
    }

    /// An object in a form of others: reads all of it twice, once for its checksum and once for its records. I8: what is
    /// decoded was verified.
    fn form_object(
        &self,
        objects: &dyn ObjectContent,
        entry: &ChunkEntry,
        object: &ObjectName,
    ) -> Result<(), DumpError> {
        self.check_sha256(entry, object)?;
        let gate = self.job.gate();
        let mut input = self.dump.store().open(object)?;
        let counted = objects.count(&mut input, entry.stored_bytes, gate);
        let counts = counted.map_err(|stop| match stop {
            Stop::Failed(failure) if failure.party() == Party::Content => {
                self.dump.damaged(object, failure.to_string())
            }
            stop => stop.into(),
        })?;
        let says = (entry.records, entry.raw_bytes);
        let positions = (&entry.first_position, &entry.last_position);
        let found = [counts.first_position, counts.last_position].map(|place| layout::hex(&place));
        if (counts.records, counts.raw_bytes) != says || (&found[0], &found[1]) != positions {
            return Err(self.dump.damaged(
                object,
                format!(
                    "has {} records in {} bytes from {} to {}, and its part record says {} in {} from {} to {}",
                    counts.records, counts.raw_bytes, found[0], found[1], says.0, says.1, positions.0, positions.1
                ),
            ));
        }
        let progress = self.job.progress();
        bump(&progress.chunks, 1);
        bump(&progress.stored_bytes, entry.stored_bytes);
        bump(&progress.records, entry.records);
        bump(&progress.raw_bytes, entry.raw_bytes);
        Ok(())
    }

    /// Reads every record of a part, and compares every chunk with its entry, in one pass.
    fn records(&self, record: &PartRecord, decoder: &mut Decoder) -> Result<(), DumpError> {
        let error = RefCell::new(None);
        let mut frames = PartFrames::new(
            self.dump,
            record,
            (self.content.name(), self.content.version()),
            decoder,
            self.job.progress(),
            &error,
        )
        .verifying();
        let mut records = RecordReader::new(self.job.gate(), &mut frames)
            .with_record_bytes_max(record.record_bytes_max());
        let read = loop {
            match self.content.skip(&mut records) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(stop) => break Err(stop),
            }
        };
        let counts = (records.records(), records.bytes());
        if let Some(error) = error.take() {
            return Err(error);
        }
        read?;
        if counts != (record.records, record.raw_bytes) {
            return Err(self.dump.damaged(
                layout::part_object(&record.part),
                format!(
                    "says {} records in {} bytes, and its chunks hold {} in {}",
                    record.records, record.raw_bytes, counts.0, counts.1
                ),
            ));
        }
        Ok(())
    }

    /// Damage is a finding; anything else ends the verification.
    fn note(&self, object: &ObjectName, error: DumpError) -> Result<(), DumpError> {
        let missing =
            matches!(&error, DumpError::Store(error) if error.kind() == StoreErrorKind::NotFound);
        match error.kind() {
            // The listing has told it already.
            _ if missing => Ok(()),
            ErrorKind::Damaged => {
                self.found.add_error(object, &error);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Work for a worker.
enum Task {
    Plan(SealedPart),
    Part(PartName),
}

/// A reader that ends when the job is cancelled.
struct Gated<'a> {
    input: Box<dyn tipple_store::ObjectRead>,
    gate: &'a tipple_budget::Gate,
}

impl std::io::Read for Gated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        self.gate
            .pass(bytes as u64, 0)
            .map_err(std::io::Error::other)?;
        Ok(bytes)
    }
}
