//! The verb `copy`: straight from a live system into another, no files in between.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use tipple_budget::{Budget, BufferPool, Cancelled, Permit};
use tipple_flow::{
    Block, Failure, FrameSource, Outcomes, PartWriter, Party, RecordReader, Sink, Source, Stop,
    Written,
};
use tipple_store::{Access, StoreOptions, open_store};

use crate::dump::{FirstFailure, memory_budget, temporary_dir};
use crate::error::DumpError;
use crate::filling::{self, MESSAGES_MAX, Message, Plans};
use crate::job::{Event, Job, Phase, Report, bump};
use crate::layout::{self, SealedPart};
use crate::ledger::Ledger;
use crate::options::check_workers;
use crate::planning::{Begun, Planning};
use crate::stores::Stores;

/// How records are copied.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Workers, 1 to 1024; an ordered sink gets one whatever is given. Default: one per core.
    pub threads: usize,
    /// Bytes of one buffer, 64 KiB to 1 GiB; each worker has two. Default 8 MiB.
    pub buffer_bytes: usize,
    /// The most memory for all of it; refused at the start if that is too little. Default: what is needed.
    pub memory_bytes_max: Option<u64>,
    /// Where a source's key files wait for their turn. Default: a temporary folder.
    pub spool_dir: Option<PathBuf>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            buffer_bytes: 8 << 20,
            memory_bytes_max: None,
            spool_dir: None,
        }
    }
}

impl CopyOptions {
    /// The memory that copying will hold at most.
    pub fn memory_bytes(&self, source: &dyn Source, sink: &dyn Sink) -> u64 {
        let lane = 2 * self.buffer_bytes as u64 + other_bytes(source, sink);
        self.workers(sink) as u64 * lane + source.planner_bytes()
    }

    fn workers(&self, sink: &dyn Sink) -> usize {
        if sink.ordered() { 1 } else { self.threads }
    }
}

/// What one worker holds outside of its buffers.
fn other_bytes(source: &dyn Source, sink: &dyn Sink) -> u64 {
    source.reader_bytes() + sink.writer_bytes() + sink.record_bytes(source.record_bytes_max())
}

/// Copies all records of `source` into `sink`: each is applied, or counted by cause. It keeps nothing, so a copy that
/// was broken off begins anew.
///
/// # Errors
/// [`DumpError`]. What was applied stays applied where the sink is idempotent; other sinks show nothing.
pub fn copy(
    job: &Job,
    source: &dyn Source,
    sink: &dyn Sink,
    options: &CopyOptions,
) -> Result<Report, DumpError> {
    check_workers(options.threads, options.buffer_bytes)?;
    let (name, version) = source.content();
    if !sink.accepts(name, version) {
        return Err(DumpError::Usage(format!(
            "a sink of {} does not take {name} version {version}, which the source gives",
            sink.identity().kind,
        )));
    }
    let estimate = source.check()?;
    sink.check()?;
    let memory = memory_budget(
        job,
        options.memory_bytes(source, sink),
        options.memory_bytes_max,
    )?;
    // Plan objects live in a temporary folder for as long as the copy runs.
    let temporary = temporary_dir(options.spool_dir.as_deref())?;
    let url = format!("file:{}", temporary.path().display());
    let plans = open_store(&url.parse()?, Access::Write, &StoreOptions::default())?;
    let progress = job.progress();
    progress.expect(&estimate);
    job.tell(&Event::Start {
        verb: "copy",
        threads: options.workers(sink),
        memory_bytes_budget: memory.limit(),
        spool_bytes_budget: 0,
        records_estimate: estimate.records,
        raw_bytes_estimate: estimate.bytes,
        parts_committed: 0,
    });
    let copying = Copying {
        job,
        source,
        sink,
        options,
        memory: &memory,
        plans: &Stores::one(job, plans.as_ref()),
        totals: Mutex::default(),
    };
    let planned = copying.workers()?;
    job.phase(Phase::Finishing);
    let mut totals = copying.totals.into_inner().expect("no worker panicked");
    totals.read.merge(&planned.outcomes);
    let source_said = source.finish(&planned, totals.records, &totals.read)?;
    let mut outcomes = totals.read;
    outcomes.merge(&totals.applied);
    sink.told(&source_said);
    let sink_said = sink.finish(&outcomes)?;
    Ok(Report {
        records: totals.records - totals.applied.total(),
        parts: totals.parts,
        raw_bytes: totals.raw_bytes,
        source: source_said,
        sink: sink_said,
        ..job.report("copy")
    }
    .with_outcomes(&outcomes))
}

#[derive(Default)]
struct Totals {
    parts: u64,
    records: u64,
    raw_bytes: u64,
    /// Of the records that the source could not give.
    read: Outcomes,
    /// Of the records that the sink did not take.
    applied: Outcomes,
}

struct Copying<'a> {
    job: &'a Job,
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    options: &'a CopyOptions,
    memory: &'a Budget,
    plans: &'a Stores<'a>,
    totals: Mutex<Totals>,
}

impl Copying<'_> {
    fn workers(&self) -> Result<tipple_flow::Planned, DumpError> {
        let gate = self.job.gate();
        let failure = FirstFailure::new(gate);
        let scratch_dir = (self.plans.get(0).staging_dir()).expect("a local folder");
        let ready = Ledger::new([]);
        let plan = layout::random_hex(8);
        let planning = Planning::new(
            self.job,
            Begun::empty(plan),
            scratch_dir,
            None,
            &ready,
            false,
        );
        let _planner = self.memory.try_acquire(self.source.planner_bytes())?;
        let other_bytes = other_bytes(self.source, self.sink);
        let lanes = (0..self.options.workers(self.sink))
            .map(|_| {
                let pool = BufferPool::new(2, self.options.buffer_bytes, self.memory)?;
                Ok((pool, self.memory.try_acquire(other_bytes)?))
            })
            .collect::<Result<Vec<(BufferPool, Permit)>, DumpError>>()?;
        let fail = |error| failure.set(error);
        let planned = std::thread::scope(|scope| {
            for (pool, permit) in lanes {
                let (to_sink, messages) = sync_channel(MESSAGES_MAX);
                let (ready, fail) = (&ready, &fail);
                scope.spawn(move || {
                    let _permit = permit;
                    if let Err(error) = self.apply(messages) {
                        fail(error);
                    }
                });
                scope.spawn(move || {
                    let begin = SealedPart::clone;
                    let plans = Plans {
                        stores: self.plans,
                        sealing: None,
                    };
                    if let Err(error) =
                        filling::fill(gate, self.source, plans, ready, &pool, &to_sink, begin)
                    {
                        fail(error);
                    }
                });
            }
            let planned = planning.run(self.source, self.plans, &fail);
            ready.close();
            match planned {
                Ok(whole) => {
                    self.job.phase(Phase::Working);
                    Some(whole.planned)
                }
                Err(error) => {
                    fail(error);
                    None
                }
            }
        });
        failure.into_result(planned)
    }

    fn apply(&self, messages: Receiver<Message<SealedPart>>) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let mut writer = None;
        while let Ok(message) = messages.recv() {
            let Message::Begin(part) = message else {
                unreachable!("a part's messages come between its Begin and its End")
            };
            let writer = match &mut writer {
                Some(writer) => writer,
                None => writer.insert(self.sink.open(gate)?),
            };
            self.apply_part(writer.as_mut(), &part, &messages)?;
        }
        Ok(())
    }

    fn apply_part(
        &self,
        writer: &mut (dyn PartWriter + '_),
        planned: &SealedPart,
        messages: &Receiver<Message<SealedPart>>,
    ) -> Result<(), DumpError> {
        let part = &planned.name;
        let mut frames = BlockFrames {
            job: self.job,
            messages,
            block: None,
            frame: 0,
            ended: None,
        };
        let mut applied = Outcomes::default();
        // The filling side passed the gate for these bytes already.
        let mut records = RecordReader::inside(self.job.gate(), &mut frames)
            .with_record_bytes_max(self.source.record_bytes_max());
        writer.write_part(part, &mut records, &mut applied)?;
        let read = (records.records(), records.bytes());
        let Some((written, outcomes)) = frames.ended else {
            return Err(Failure::new(
                Party::Sink,
                format!("the sink stopped in the middle of part {part}"),
            )
            .into());
        };
        // I6: all of the part went to the sink, and nothing else.
        assert_eq!(
            read,
            (written.records, written.bytes),
            "I6: part {part} was not read to its end"
        );
        if let Some(records) = planned.records {
            assert_eq!(
                written.records + outcomes.total(),
                records,
                "I6: part {part} does not account for every record that was planned"
            );
        }
        bump(&self.job.progress().parts, 1);
        let mut totals = self.totals.lock().expect("no worker panicked");
        totals.parts += 1;
        totals.records += written.records;
        totals.raw_bytes += written.bytes;
        totals.read.merge(&outcomes);
        totals.applied.merge(&applied);
        drop(totals);
        let records = written.records - applied.total();
        let mut outcomes = outcomes;
        outcomes.merge(&applied);
        self.job.tell(&Event::Part {
            part: part.to_string(),
            records,
            outcomes,
        });
        Ok(())
    }
}

/// The frames of a part that is being written on the other thread. They never left this process's memory, so there is
/// no checksum to verify.
struct BlockFrames<'a> {
    job: &'a Job,
    messages: &'a Receiver<Message<SealedPart>>,
    block: Option<Block>,
    frame: usize,
    ended: Option<(Written, Outcomes)>,
}

impl FrameSource for BlockFrames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        self.frame += 1;
        loop {
            if let Some(block) = &self.block {
                if let Some((bytes, span)) = block.frame(self.frame) {
                    let progress = self.job.progress();
                    bump(&progress.raw_bytes, bytes.len() as u64);
                    bump(&progress.records, u64::from(span.records));
                    return Ok(Some(span.records));
                }
                self.block = None;
            }
            if self.ended.is_some() {
                return Ok(None);
            }
            match self.messages.recv() {
                Ok(Message::Block(block)) => (self.block, self.frame) = (Some(block), 0),
                Ok(Message::End(written, outcomes)) => self.ended = Some((written, outcomes)),
                Ok(Message::Restart) => return Err(broke_off().into()),
                Ok(Message::Begin(_)) => unreachable!("a part begins inside another"),
                Err(_) => return Err(Cancelled.into()),
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.block
            .as_ref()
            .and_then(|block| block.frame(self.frame))
            .map_or(&[], |(bytes, _)| bytes)
    }
}

/// What was applied of a part cannot be taken back.
fn broke_off() -> Failure {
    Failure::new(
        Party::Source,
        "the source broke off in the middle of a record that was being copied; what was applied stays: run the same command again, or dump and load instead, which can go on in the middle",
    )
}
