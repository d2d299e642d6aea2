//! A run of a verb, as those see it who started it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tipple_budget::{Budget, Gate, Rates};
use tipple_flow::Outcomes;

use crate::load_queue::QueueCounts;
use crate::stores::DroppedStore;

/// One run of dump, load, copy or verify: what is shared between the run and whoever watches, pauses or cancels it.
pub struct Job {
    gate: Gate,
    progress: Progress,
    memory: OnceLock<Budget>,
    spool: OnceLock<Budget>,
    spool_waited_us: AtomicU64,
    listener: Box<dyn Fn(&Event) + Send + Sync>,
    begun: Instant,
}

impl Default for Job {
    fn default() -> Self {
        Self::new(Rates::default())
    }
}

impl Job {
    /// A job that keeps to `rates` and tells nobody.
    pub fn new(rates: Rates) -> Self {
        Self {
            gate: Gate::new(rates),
            progress: Progress::default(),
            memory: OnceLock::new(),
            spool: OnceLock::new(),
            spool_waited_us: AtomicU64::new(0),
            listener: Box::new(|_| ()),
            begun: Instant::now(),
        }
    }

    /// Calls `listener` for every event, on the thread where it happened; it must not block for long.
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Box::new(listener);
        self
    }

    /// Pauses, resumes and cancels the job.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Its memory budget, once it was computed.
    pub fn memory(&self) -> Option<&Budget> {
        self.memory.get()
    }

    pub(crate) fn set_memory(&self, budget: &Budget) {
        // A job runs one verb; a second one on the same job keeps the first budget's figures.
        let _ = self.memory.set(budget.clone());
    }

    /// The budget of its spool, once it was computed.
    pub fn spool(&self) -> Option<&Budget> {
        self.spool.get()
    }

    pub(crate) fn set_spool(&self, budget: &Budget) {
        // As with the memory.
        let _ = self.spool.set(budget.clone());
    }

    /// A worker waited so long for room in the spool.
    pub(crate) fn waited_for_spool(&self, time: Duration) {
        bump(&self.spool_waited_us, time.as_micros() as u64);
    }

    pub(crate) fn tell(&self, event: &Event) {
        (self.listener)(event);
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.progress.phase.store(phase as u8, Ordering::Relaxed);
        self.tell(&Event::Phase { phase });
    }

    pub(crate) fn report(&self, verb: &'static str) -> Report {
        Report {
            verb,
            elapsed_ms: self.begun.elapsed().as_millis() as u64,
            waited_ms: self.gate.waited_ms(),
            memory_bytes_budget: self.memory().map_or(0, Budget::limit),
            memory_bytes_max: self.memory().map_or(0, Budget::held_max),
            spool_bytes_budget: self.spool().map_or(0, Budget::limit),
            spool_bytes_max: self.spool().map_or(0, Budget::held_max),
            spool_waited_ms: self.spool_waited_us.load(Ordering::Relaxed) / 1000,
            ..Report::default()
        }
    }
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Phase {
    /// Reaching the other side.
    #[default]
    Starting,
    /// Finding the parts, and working on those found.
    Planning,
    /// Working on the parts.
    Working,
    /// Writing what comes last.
    Finishing,
}

/// Numbers that only grow, read at any time by whoever draws them.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) phase: AtomicU8,
    pub(crate) listed: AtomicU64,
    pub(crate) parts: AtomicU64,
    pub(crate) parts_total: AtomicU64,
    pub(crate) chunks: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) records_estimate: AtomicU64,
    pub(crate) raw_bytes: AtomicU64,
    pub(crate) raw_bytes_estimate: AtomicU64,
    pub(crate) stored_bytes: AtomicU64,
}

impl Progress {
    /// What the source expects to give.
    pub(crate) fn expect(&self, estimate: &tipple_flow::Estimate) {
        self.records_estimate
            .store(estimate.records, Ordering::Relaxed);
        self.raw_bytes_estimate
            .store(estimate.bytes, Ordering::Relaxed);
    }
    /// What the job is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            1 => Phase::Planning,
            2 => Phase::Working,
            3 => Phase::Finishing,
            _ => Phase::Starting,
        }
    }
    /// Records listed by planning so far.
    pub fn listed(&self) -> u64 {
        self.listed.load(Ordering::Relaxed)
    }
    /// Parts finished.
    pub fn parts(&self) -> u64 {
        self.parts.load(Ordering::Relaxed)
    }
    /// Parts known so far.
    pub fn parts_total(&self) -> u64 {
        self.parts_total.load(Ordering::Relaxed)
    }
    /// Chunks stored or read.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }
    /// Records passed.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
    /// Records expected, 0 if nobody knows.
    pub fn records_estimate(&self) -> u64 {
        self.records_estimate.load(Ordering::Relaxed)
    }
    /// Raw bytes passed.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes.load(Ordering::Relaxed)
    }
    /// Raw bytes expected, 0 if nobody knows.
    pub fn raw_bytes_estimate(&self) -> u64 {
        self.raw_bytes_estimate.load(Ordering::Relaxed)
    }
    /// Bytes stored or read.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }
}

/// `counter += n`, for the counters of [`Progress`].
pub(crate) fn bump(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Something worth telling.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The job knows its bounds and begins.
    Start {
        /// The verb.
        verb: &'static str,
        /// Workers.
        threads: usize,
        /// The most memory it will hold.
        memory_bytes_budget: u64,
        /// The most bytes that its spool will hold, 0 if it has none.
        spool_bytes_budget: u64,
        /// Records expected.
        records_estimate: u64,
        /// Raw bytes expected.
        raw_bytes_estimate: u64,
        /// Parts that an earlier run committed.
        parts_committed: u64,
    },
    /// A new phase.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A part is finished.
    Part {
        /// Its name.
        part: String,
        /// Records in it.
        records: u64,
        /// Its outcomes and losses.
        #[serde(flatten)]
        outcomes: Outcomes,
    },
    /// A chunk, or a run of chunks that records span, was applied by a load from a queue.
    Chunk {
        /// The first chunk.
        chunk: String,
        /// Records of it that were applied.
        records: u64,
        /// Its outcomes and losses.
        #[serde(flatten)]
        outcomes: Outcomes,
    },
    /// Something that the user should know, and that does not end the job.
    Warning {
        /// What.
        message: String,
    },
}

/// What a job came to. The last line of `--json`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The verb.
    pub verb: &'static str,
    /// Records stored, applied or verified.
    pub records: u64,
    /// Chunks.
    pub chunks: u64,
    /// Parts.
    pub parts: u64,
    /// Raw bytes.
    pub raw_bytes: u64,
    /// Stored bytes.
    pub stored_bytes: u64,
    /// Records lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// Records that were rightly not stored or applied, by cause.
    pub outcomes: BTreeMap<String, u64>,
    /// Of those records and raw bytes, what earlier runs had done: the time below is that of the last one.
    pub earlier_records: u64,
    /// See [`Report::earlier_records`].
    pub earlier_raw_bytes: u64,
    /// From start to end.
    pub elapsed_ms: u64,
    /// How long workers waited for pauses and rates, summed.
    pub waited_ms: u64,
    /// The memory budget.
    pub memory_bytes_budget: u64,
    /// The most memory held of it.
    pub memory_bytes_max: u64,
    /// The limit of the spool: sealed chunks that wait for a store, and those being written.
    pub spool_bytes_budget: u64,
    /// The most bytes that were reserved in it.
    pub spool_bytes_max: u64,
    /// How long workers waited for room in it, summed.
    pub spool_waited_ms: u64,
    /// Messages that were not delivered, by target; the same call sends them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub undelivered: BTreeMap<String, u64>,
    /// What became of the messages of a queue that was loaded from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueCounts>,
    /// Stores that failed and that the job went on without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped_stores: Vec<DroppedStore>,
    /// What the source said at the end.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub source: Value,
    /// What the sink said at the end.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub sink: Value,
}

impl Report {
    /// Messages that were not delivered, to all targets together.
    pub fn undelivered_total(&self) -> u64 {
        self.undelivered.values().sum()
    }

    /// Records lost, by all causes.
    pub fn lost_total(&self) -> u64 {
        self.lost.values().sum()
    }

    pub(crate) fn with_outcomes(mut self, outcomes: &Outcomes) -> Self {
        let owned = |(name, records): (&str, u64)| (name.to_owned(), records);
        self.lost = outcomes.losses().map(owned).collect();
        self.outcomes = outcomes.outcomes().map(owned).collect();
        self
    }
}
