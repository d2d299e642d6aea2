//! The verb `load` from a queue: chunk by chunk, as a dump tells of them, maybe while it still runs.
//!
//! A message is deleted after its chunk was applied, and is seen by others again if whoever received it ends before: so
//! every chunk is applied at least once, by any number of loaders that share the queue. Records may span chunks: the
//! message of the first chunk of such a run stands for all of it, those of the others for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, SendError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tipple_chunk::{Decoder, KeyRing};
use tipple_flow::{Outcomes, PartName, PartWriter, Resume, Sink};
use tipple_store::http::Poster;
use tipple_store::{Store, StoreErrorKind, StoreOptions};

use crate::dump::{FirstFailure, memory_budget};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, Phase, Report};
use crate::layout::{self, ChunkEntry, Done, Format, PartRecord};
use crate::ledger::Ledger;
use crate::load::{apply, check_accepts};
use crate::notify::delivered_parts;
use crate::notify::sqs::{Queue, Received};
use crate::notify::{NOTICE_VERSION, Notice, NotifyTarget, QueuePlace, Refused, Retry, Trouble};
use crate::open_dump::{OpenDump, read_optional};
use crate::options::check_workers;
use crate::part_frames::reading_bytes;

/// Messages that are left in the queue, because they are not of this dump, are remembered up to so many.
const FOREIGN_MAX: usize = 10_000;
/// So often in a row nothing must be there before the load is at its end: what a queue says of its length is late.
const CALM_MIN: u32 = 2;
/// Once the dump is done, an answer is waited for no longer than this.
const LAST_POLL: Duration = Duration::from_secs(5);
/// While there is work, an answer is waited for no longer than this.
const BUSY_POLL: Duration = Duration::from_secs(1);
/// How soon a cancel is seen.
const TICK: Duration = Duration::from_millis(50);
/// A message that came damaged is seen again after so long.
const DAMAGED_AGAIN: Duration = Duration::from_secs(1);

/// How a dump is loaded from the messages about it.
#[derive(Clone, Debug)]
pub struct QueueLoadOptions {
    /// Workers, 1 to 1024. Default: one per core.
    pub threads: usize,
    /// The most memory for all of it; refused at the start if that is too little. Default: what is needed.
    pub memory_bytes_max: Option<u64>,
    /// A message that was received is seen by other loaders again after so long, should this one be killed, 3 s to 12
    /// hours; it is kept from them for as long as its chunk is being applied. Default: 60 s.
    pub visibility: Duration,
    /// How long the queue may wait for a message before it answers that there is none, up to 20 s. Default: 20 s.
    pub poll: Duration,
    /// Credentials, region and endpoint of the queue, and for how long a request is tried again.
    pub services: StoreOptions,
    /// Opens a sealed dump.
    pub keys: Option<KeyRing>,
}

impl Default for QueueLoadOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes_max: None,
            visibility: Duration::from_secs(60),
            poll: Duration::from_secs(20),
            services: StoreOptions::default(),
            keys: None,
        }
    }
}

impl QueueLoadOptions {
    /// The memory that loading from `store` into `sink` will hold at most.
    pub fn memory_bytes(&self, store: &dyn Store, sink: &dyn Sink) -> u64 {
        let worker_bytes =
            reading_bytes(self.keys.as_ref()) + sink.writer_bytes() + store.read_memory_bytes();
        self.threads as u64 * worker_bytes
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`DumpError::Usage`] naming the value and the range.
    pub fn validate(&self) -> Result<(), DumpError> {
        check_workers(self.threads, 64 << 10)?;
        if !(3..=12 * 3600).contains(&self.visibility.as_secs()) {
            return Err(DumpError::Usage(format!(
                "a visibility of {:?} is out of range: give 3 s to 12 hours",
                self.visibility
            )));
        }
        if self.poll > Duration::from_secs(20) {
            return Err(DumpError::Usage(format!(
                "a poll of {:?} is out of range: give up to 20 s",
                self.poll
            )));
        }
        Ok(())
    }
}

/// What became of the messages of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueCounts {
    /// Received, each time anew.
    pub received: u64,
    /// Their chunk, or the run of chunks that it begins, was applied.
    pub applied: u64,
    /// Their chunk is applied with the one that its first record begins in.
    pub inside: u64,
    /// Their chunk is of a plan that does not count.
    pub void: u64,
    /// The dump's last message.
    pub done: u64,
    /// Left in the queue: not about this dump.
    pub foreign: u64,
    /// Came with another body than they were sent with, by their MD5: not looked at, and received again.
    pub damaged: u64,
    /// Parts of the dump that were not wholly told of: `tipple load` without a queue applies them.
    pub untold_parts: u64,
}

/// Loads the dump in `store` into `sink`, as the messages in `queue` tell of its chunks, until the dump is done and
/// nothing is left in the queue. The dump may still be running; it must have begun.
///
/// # Errors
/// [`DumpError`]. `Usage` if the sink is ordered or not [`Resume::Idempotent`], since messages come in any order, and may
/// come twice. What was applied stays applied, and the same call goes on with what is in the queue.
pub fn load_from_queue(
    job: &Job,
    store: &dyn Store,
    queue: &NotifyTarget,
    sink: &dyn Sink,
    options: &QueueLoadOptions,
) -> Result<Report, DumpError> {
    options.validate()?;
    let place = queue_place(queue)?;
    if sink.ordered() || sink.resume() != Resume::Idempotent {
        return Err(DumpError::Usage(format!(
            "a sink of {} cannot be loaded from a queue, where chunks come in any order, and may come twice: load the finished dump without --from-queue",
            sink.identity().kind
        )));
    }
    let dump = OpenDump::open(store, true, options.keys.as_ref())?;
    check_accepts(&dump, sink)?;
    let memory_bytes = options.memory_bytes(store, sink);
    let memory = memory_budget(job, memory_bytes, options.memory_bytes_max)?;
    let _held = memory.try_acquire(memory_bytes)?;
    let poster = Arc::new(Poster::new(&options.services)?);
    let failed = |refused| DumpError::notify(queue, refused);
    let link = Queue::open(poster, place, &options.services, job.gate()).map_err(failed)?;
    sink.check()?;
    job.tell(&Event::Start {
        verb: "load",
        threads: options.threads,
        memory_bytes_budget: memory.limit(),
        spool_bytes_budget: 0,
        records_estimate: 0,
        raw_bytes_estimate: 0,
        parts_committed: 0,
    });
    let loading = QueueLoading {
        job,
        dump: &dump,
        sink,
        options,
        target: queue,
        queue: Arc::new(link),
        done: OnceLock::new(),
        waiting: Ledger::new([]),
        hand: Mutex::default(),
        totals: Mutex::default(),
    };
    job.phase(Phase::Working);
    loading.run()?;
    job.phase(Phase::Finishing);
    let untold_parts = loading.untold_parts()?;
    let totals = (loading.totals.into_inner()).unwrap_or_else(PoisonError::into_inner);
    let said = sink.finish(&totals.outcomes)?;
    Ok(Report {
        records: totals.records - totals.outcomes.total(),
        chunks: totals.chunks,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        queue: Some(QueueCounts {
            untold_parts,
            ..totals.messages
        }),
        sink: said,
        ..job.report("load")
    }
    .with_outcomes(&totals.outcomes))
}

fn queue_place(queue: &NotifyTarget) -> Result<&QueuePlace, DumpError> {
    queue.queue().ok_or_else(|| {
        DumpError::Usage(format!(
            "{queue} is no queue to load from: give sqs://NAME, sqs://HOST/ACCOUNT/NAME, or sqs://https://… with its URL"
        ))
    })
}

/// Messages that this loader has received and not let go of.
#[derive(Default)]
struct Hand {
    /// Receipts, by the order in which they came.
    held: BTreeMap<u64, String>,
    next: u64,
    /// Ids of messages that are not of this dump.
    foreign: BTreeSet<String>,
    /// How often messages came with another body than they were sent with, by their ids.
    damaged: BTreeMap<String, u32>,
}

/// A message in hand.
struct Held {
    number: u64,
    message: Received,
}

/// Sums over what was applied, for the report.
#[derive(Default)]
struct Totals {
    chunks: u64,
    records: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    outcomes: Outcomes,
    messages: QueueCounts,
}

/// What there is to do about a message.
enum Task {
    /// A run of chunks that begins with the message's, as a part of its own.
    Apply(PartRecord),
    Inside,
    Void,
    Done,
    /// Not ours, and why.
    Leave(String),
}

struct QueueLoading<'a> {
    job: &'a Job,
    dump: &'a OpenDump<'a>,
    sink: &'a dyn Sink,
    options: &'a QueueLoadOptions,
    target: &'a NotifyTarget,
    queue: Arc<Queue>,
    /// Once the dump is done.
    done: OnceLock<Done>,
    waiting: Ledger<Held>,
    hand: Mutex<Hand>,
    totals: Mutex<Totals>,
}

impl QueueLoading<'_> {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, refused: Refused) -> DumpError {
        DumpError::notify(self.target, refused)
    }

    fn run(&self) -> Result<(), DumpError> {
        let failure = FirstFailure::new(self.job.gate());
        let decoders = (0..self.options.threads)
            .map(|_| Decoder::new().map_err(DumpError::chunk("a decoder")))
            .collect::<Result<Vec<Decoder>, DumpError>>()?;
        let (ended, end) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Ends with the sender, which says nothing.
                let pause = self.options.visibility / 3;
                while end.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    self.keep(self.options.visibility);
                }
            });
            let workers: Vec<_> = decoders
                .into_iter()
                .map(|mut decoder| {
                    let failure = &failure;
                    scope.spawn(move || {
                        if let Err(error) = self.worker(&mut decoder) {
                            failure.set(error);
                        }
                    })
                })
                .collect();
            let has_ended = || workers.iter().any(|worker| worker.is_finished());
            if let Err(error) = self.receive(&has_ended) {
                failure.set(error);
            }
            self.waiting.close();
            for worker in workers {
                worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
            drop(ended);
        });
        // Others may have at once what this one did not get to.
        self.keep(Duration::ZERO);
        failure.into_result(Some(()))
    }

    /// Keeps messages in hand from being seen by others for so long from now on.
    fn keep(&self, visibility: Duration) {
        let receipts: Vec<String> = self.hand().held.values().cloned().collect();
        self.queue.extend(&receipts, visibility);
    }

    /// Receives until the dump is done and nothing is left, or a worker has `ended` before.
    fn receive(&self, has_ended: &dyn Fn() -> bool) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let hand_max = 2 * self.options.threads;
        let mut calm = 0;
        loop {
            if has_ended() {
                // It failed, or panicked with a message in hand: nobody would ever finish.
                gate.cancel();
            }
            gate.check()?;
            let in_hand = self.hand().held.len();
            if in_hand >= hand_max {
                std::thread::sleep(TICK);
                continue;
            }
            let messages = self.receive_some(hand_max - in_hand, in_hand == 0)?;
            let mut is_calm = true;
            for message in messages {
                is_calm &= self.hand().foreign.contains(&message.id);
                match message.is_whole {
                    true => self.take(message),
                    false => self.give_back(message)?,
                }
            }
            if is_calm && self.is_empty()? {
                calm += 1;
            } else {
                calm = 0;
            }
            if calm >= CALM_MIN {
                return Ok(());
            }
        }
    }

    fn take(&self, message: Received) {
        self.totals().messages.received += 1;
        let mut hand = self.hand();
        if hand.foreign.contains(&message.id) {
            return;
        }
        let number = hand.next;
        hand.next += 1;
        hand.held.insert(number, message.receipt.clone());
        drop(hand);
        self.waiting.add(Held { number, message });
    }

    /// What is not what was sent says nothing: it is received again, by whomever.
    fn give_back(&self, message: Received) -> Result<(), DumpError> {
        let mut totals = self.totals();
        totals.messages.received += 1;
        totals.messages.damaged += 1;
        drop(totals);
        let attempts = {
            let mut hand = self.hand();
            let is_full = hand.damaged.len() > FOREIGN_MAX;
            let attempts = hand.damaged.entry(message.id.clone()).or_default();
            *attempts += 1;
            match is_full {
                true => u32::MAX,
                false => *attempts,
            }
        };
        if attempts >= self.options.services.attempts_max {
            let reason = format!(
                "a message came with another body than it was sent with, by its MD5, again and again (id {:?}); look at what is between this machine and the queue, or load the finished dump without --from-queue",
                message.id
            );
            return Err(self.failed(Refused::Failed(reason)));
        }
        if attempts == 1 {
            let message = format!(
                "a message in {} came with another body than it was sent with, by its MD5: it is received again",
                self.target
            );
            self.job.tell(&Event::Warning { message });
        }
        self.queue.extend(&[message.receipt], DAMAGED_AGAIN);
        Ok(())
    }

    /// `is_idle`: nothing is in hand.
    fn receive_some(&self, max: usize, is_idle: bool) -> Result<Vec<Received>, DumpError> {
        let mut retry = Retry::new(&self.options.services);
        loop {
            match self.receive_once(max, is_idle)? {
                Ok(messages) => return Ok(messages),
                Err(trouble) => {
                    let waited = retry.after(trouble, self.job.gate());
                    waited.map_err(|refused| self.failed(refused))?;
                }
            }
        }
    }

    /// A long poll cannot be broken off, so it is left behind by a cancel: on a thread of its own, and only while
    /// nothing is in hand, since it would receive what is given back then.
    fn receive_once(
        &self,
        max: usize,
        is_idle: bool,
    ) -> Result<Result<Vec<Received>, Trouble>, DumpError> {
        let (answered, answer) = channel();
        let queue = Arc::clone(&self.queue);
        let visibility = self.options.visibility;
        let poll_max = match (is_idle, self.done.get()) {
            (false, _) => BUSY_POLL,
            (true, Some(_)) => LAST_POLL,
            (true, None) => self.options.poll,
        };
        let poll = self.options.poll.min(poll_max);
        std::thread::spawn(move || {
            let received = queue.receive(max, poll, visibility);
            if let Err(SendError(Ok(unwanted))) = answered.send(received) {
                let receipts = unwanted.into_iter().map(|message| message.receipt);
                queue.extend(&receipts.collect::<Vec<_>>(), Duration::ZERO);
            }
        });
        loop {
            if is_idle {
                self.job.gate().check()?;
            }
            match answer.recv_timeout(TICK) {
                Ok(received) => return Ok(received),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(DumpError::Interrupted),
            }
        }
    }

    /// Whether the dump is done, and no message about it is left, here or with another loader.
    fn is_empty(&self) -> Result<bool, DumpError> {
        if self.done.get().is_none() {
            let object = layout::object(layout::DONE);
            let done: Option<Done> =
                read_optional(self.dump.store(), &object, self.dump.sealing())?;
            let Some(done) = done else { return Ok(false) };
            self.done.get_or_init(|| done);
        }
        let foreign = {
            let hand = self.hand();
            if !hand.held.is_empty() {
                return Ok(false);
            }
            hand.foreign.len() as u64
        };
        let lengths = self.queue.lengths(self.job.gate());
        Ok(lengths.map_err(|refused| self.failed(refused))? <= foreign)
    }

    fn worker(&self, decoder: &mut Decoder) -> Result<(), DumpError> {
        let gate = self.job.gate();
        let mut writer = None;
        // Most messages are about the part of the one before.
        let mut last: Option<PartRecord> = None;
        while let Some(held) = self.waiting.take(gate)? {
            let task = self.task(&held.message, &mut last)?;
            if let Task::Apply(run) = &task {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.sink.open(gate)?),
                };
                self.apply(writer.as_mut(), run, decoder)?;
                failpoint!("applied");
            }
            if let Task::Leave(why) = task {
                self.leave(held, &why)?;
                continue;
            }
            let deleted = self.queue.delete(&held.message.receipt, gate);
            deleted.map_err(|refused| self.failed(refused))?;
            let mut totals = self.totals();
            match task {
                Task::Apply(_) => totals.messages.applied += 1,
                Task::Inside => totals.messages.inside += 1,
                Task::Void => totals.messages.void += 1,
                Task::Done => totals.messages.done += 1,
                Task::Leave(_) => unreachable!("it was left above"),
            }
            drop(totals);
            self.hand().held.remove(&held.number);
        }
        Ok(())
    }

    /// Leaves a message to whom it may concern: it is seen again when its time is over.
    fn leave(&self, held: Held, why: &str) -> Result<(), DumpError> {
        let mut hand = self.hand();
        hand.held.remove(&held.number);
        if hand.foreign.len() == FOREIGN_MAX {
            return Err(DumpError::Usage(format!(
                "{} has more than {FOREIGN_MAX} messages that are not about the dump in {}: give a queue of its own",
                self.target,
                self.dump.store().url()
            )));
        }
        if hand.foreign.insert(held.message.id) {
            drop(hand);
            self.totals().messages.foreign += 1;
            let message = format!("a message in {} is left there: {why}", self.target);
            self.job.tell(&Event::Warning { message });
        }
        Ok(())
    }

    fn task(&self, message: &Received, last: &mut Option<PartRecord>) -> Result<Task, DumpError> {
        let leave = |why: &str| Ok(Task::Leave(why.to_owned()));
        let Ok(notice) = serde_json::from_str::<Notice>(&message.body) else {
            return leave("it is no notification of tipple in the format json");
        };
        if notice.version != NOTICE_VERSION {
            return Ok(Task::Leave(format!(
                "it has version {}, and this program reads {NOTICE_VERSION}",
                notice.version
            )));
        }
        if notice.dump != self.dump.head().dump {
            return leave("it is about another dump");
        }
        let part = match (notice.event.as_str(), notice.part) {
            ("done", _) => return Ok(Task::Done),
            ("chunk", Some(part)) => part,
            _ => return leave("it tells of something that this program does not know"),
        };
        if let Some(done) = self.done.get()
            && layout::plan_of(&part) != done.plan
        {
            return Ok(Task::Void);
        }
        if last.as_ref().is_none_or(|record| record.part != part) {
            *last = match self.dump.record(&part) {
                Ok(record) => Some(record),
                Err(DumpError::Store(error)) if error.kind() == StoreErrorKind::NotFound => {
                    return leave("its part is not in the store");
                }
                Err(error) => return Err(error),
            };
        }
        let record = last.as_ref().expect("read above");
        let is_it = |chunk: &ChunkEntry| chunk.sha256 == notice.id;
        match record.chunks.iter().position(is_it) {
            None => leave("its chunk is not in the record of its part"),
            Some(at) if record.chunks[at].begins_inside => Ok(Task::Inside),
            Some(at) => Ok(Task::Apply(run_of(record, at))),
        }
    }

    fn apply(
        &self,
        writer: &mut (dyn PartWriter + '_),
        run: &PartRecord,
        decoder: &mut Decoder,
    ) -> Result<(), DumpError> {
        let outcomes = apply(self.job, self.dump, writer, run, decoder)?;
        let mut totals = self.totals();
        totals.chunks += run.chunks.len() as u64;
        totals.records += run.records;
        totals.raw_bytes += run.raw_bytes;
        totals.stored_bytes += run.stored_bytes;
        totals.outcomes.merge(&outcomes);
        drop(totals);
        self.job.tell(&Event::Chunk {
            chunk: run.chunks[0].name.clone(),
            records: run.records - outcomes.total(),
            outcomes,
        });
        Ok(())
    }

    /// Parts of the dump, which is done, that no target took all messages of. I6: they may be missing in the sink.
    fn untold_parts(&self) -> Result<u64, DumpError> {
        let store = self.dump.store();
        let done = self
            .done
            .get()
            .expect("the load ends when the dump is done");
        let mut parts: BTreeSet<PartName> = BTreeSet::new();
        store.list(&format!("parts/{}-", done.plan), &mut |entry| {
            parts.extend(layout::part_of_object(&entry.name));
            ControlFlow::Continue(())
        })?;
        let told = delivered_parts(store, &done.plan)?;
        Ok(parts.difference(&told).count() as u64)
    }
}

/// The chunks from `at` on that records go on in, as a part of their own.
fn run_of(record: &PartRecord, at: usize) -> PartRecord {
    let chunks = &record.chunks[at..];
    let goes_on = chunks.iter().take_while(|chunk| chunk.ends_inside).count();
    let chunks = chunks[..chunks.len().min(goes_on + 1)].to_vec();
    PartRecord {
        format: Format::CURRENT,
        part: record.part.clone(),
        records: chunks.iter().map(|chunk| chunk.records).sum(),
        raw_bytes: chunks.iter().map(|chunk| chunk.raw_bytes).sum(),
        stored_bytes: chunks.iter().map(|chunk| chunk.stored_bytes).sum(),
        record_bytes_max: record.record_bytes_max,
        chunks,
        outcomes: Outcomes::default(),
    }
}
