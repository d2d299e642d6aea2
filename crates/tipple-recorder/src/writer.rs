//! The thread that writes: takes what the recording threads have filled, in the order of time, and puts it into files.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::core::{Core, Order, ThreadSide, first_ticks, locked, next_entry};
use crate::error::RecorderError;
use crate::file::make_folder;
use crate::handover::Filled;
use crate::loss::{Loss, LossReader, Why};
use crate::options::RecorderOptions;
use crate::output::Output;
use crate::recorder::{FlushError, RecordingReport};
use crate::repair;
use crate::watch::ConfigFile;

/// How often what is not urgent is looked at: the configuration, old files, free disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a clock of one processor may be behind that of another, generously.
const SKEW: Duration = Duration::from_micros(50);
/// How long a shutdown waits at a time for threads that are in the midst of a record.
const QUIET_STEP: Duration = Duration::from_millis(1);

/// What a flush is answered with.
type Answer = SyncSender<Result<RecordingReport, FlushError>>;

/// The writer, on its own thread.
pub(crate) struct Writer {
    core: Arc<Core>,
    options: RecorderOptions,
    config_file: Option<ConfigFile>,
    readers: Readers,
    output: Option<Output>,
    /// Until when, in ticks, everything was written.
    written_to: u64,
    flushes: Vec<(u64, Answer)>,
    snapshots: Vec<Snapshot>,
    /// Losses that are not in a file yet.
    losses: Vec<Loss>,
    lost: [u64; Why::ALL.len()],
    looked_at: Instant,
    closing: Option<Instant>,
}

struct Snapshot {
    from: u64,
    due: Instant,
    done: SyncSender<Result<PathBuf, FlushError>>,
}

/// What is read of each recording thread.
struct Readers {
    core: Arc<Core>,
    threads: Vec<Reader>,
    order_window: u64,
    skew: u64,
}

struct Reader {
    side: Arc<ThreadSide>,
    /// Taken from the thread, oldest first, and how much of each was read.
    buffers: VecDeque<(Filled, usize)>,
    cells: Vec<LossReader>,
    /// Of the record that was read last.
    last_ticks: u64,
    is_busy: bool,
    has_ended: bool,
    /// More is in the thread's queue than is taken at a time.
    has_more: bool,
}

impl Readers {
    /// Meets threads that are new, and sees which have ended.
    fn meet(&mut self, now: u64) {
        for reader in &mut self.threads {
            reader.has_ended = reader.side.has_ended.load(Ordering::Acquire);
        }
        let sides = locked(&self.core.threads);
        // Threads are added at the end here and there, and removed here only.
        for side in &sides[self.threads.len().min(sides.len())..] {
            self.threads.push(Reader {
                side: Arc::clone(side),
                buffers: VecDeque::new(),
                cells: Vec::new(),
                last_ticks: now.saturating_sub(self.order_window),
                is_busy: false,
                has_ended: false,
                has_more: false,
            });
        }
    }

    /// Takes buffers of all threads, at most `buffers_max` of each; what is in them is what was committed by `now`.
    fn take(&mut self, buffers_max: usize) {
        for reader in &mut self.threads {
            let side = &reader.side;
            // Before the buffers: what is committed later is of a later time than all of them, if it was not busy.
            let is_waiting = side.is_waiting.load(Ordering::SeqCst);
            reader.is_busy = side.is_busy.load(Ordering::Acquire) && !is_waiting;
            let mut queue = locked(&side.queue);
            while reader.buffers.len() < buffers_max
                && let Some(filled) = queue.pop_front()
            {
                reader.buffers.push_back((filled, 0));
            }
            reader.has_more = !queue.is_empty();
        }
    }

    /// Gives all records up to a time at which no earlier one can come any more, in order. Returns that time.
    fn merge(
        &mut self,
        now: u64,
        is_last: bool,
        mut give: impl FnMut(crate::entry::EntryRef<'_>, u64),
    ) -> u64 {
        let mut limit = match is_last {
            true => u64::MAX,
            false => now.saturating_sub(self.skew),
        };
        let window = now.saturating_sub(self.order_window);
        // Each thread's bytes as they are now: one look, so that the loop has an end.
        let mut visible: Vec<VecDeque<(&[u8], usize)>> = Vec::with_capacity(self.threads.len());
        // How much of each buffer is read now, and how many buffers of each thread are done with.
        let mut read: Vec<Vec<usize>> = Vec::with_capacity(self.threads.len());
        let mut done: Vec<usize> = vec![0; self.threads.len()];
        let mut heads = BinaryHeap::new();
        let bound = |reader: &Reader, last_ticks: u64| match () {
            // What is in its queue still is later than this, and not by chance.
            () if reader.has_more => last_ticks,
            () if is_last => u64::MAX,
            () if reader.is_busy => last_ticks.max(window),
            () => u64::MAX,
        };
        let mut last_ticks: Vec<u64> = self
            .threads
            .iter()
            .map(|reader| reader.last_ticks)
            .collect();
        for (at, reader) in self.threads.iter().enumerate() {
            let bytes = reader
                .buffers
                .iter()
                .map(|(filled, read)| &filled.bytes()[*read..]);
            let mut pieces: VecDeque<(&[u8], usize)> = bytes.map(|bytes| (bytes, 0)).collect();
            read.push(vec![0; pieces.len()]);
            match skip_empty(&mut pieces, &mut done[at]) {
                Some(ticks) => heads.push(Reverse((ticks, at))),
                None => limit = limit.min(bound(reader, last_ticks[at])),
            }
            visible.push(pieces);
        }
        while let Some(Reverse((mut ticks, at))) = heads.pop() {
            // As long as this thread is the next one.
            let next = heads.peek().map_or(u64::MAX, |Reverse((ticks, _))| *ticks);
            let number = self.threads[at].side.number;
            let pieces = &mut visible[at];
            loop {
                if ticks > limit {
                    break;
                }
                let Some((bytes, consumed)) = pieces.front_mut() else {
                    break;
                };
                let mut rest = *bytes;
                let entry = next_entry(&mut rest).expect("a head is there");
                give(entry, number);
                last_ticks[at] = ticks;
                *consumed += bytes.len() - rest.len();
                *bytes = rest;
                read[at][done[at]] = *consumed;
                if rest.is_empty() {
                    pieces.pop_front();
                    done[at] += 1;
                }
                match pieces.front() {
                    Some((bytes, _)) if !bytes.is_empty() => {
                        let mut peeked = *bytes;
                        ticks = next_entry(&mut peeked).map_or(u64::MAX, |entry| entry.ticks());
                    }
                    _ => match skip_empty(pieces, &mut done[at]) {
                        Some(later) => ticks = later,
                        None => {
                            limit = limit.min(bound(&self.threads[at], last_ticks[at]));
                            break;
                        }
                    },
                }
                if ticks > next {
                    break;
                }
            }
            if pieces.front().is_some() && ticks <= limit {
                heads.push(Reverse((ticks, at)));
            }
        }
        drop(visible);
        for (at, reader) in self.threads.iter_mut().enumerate() {
            reader.last_ticks = last_ticks[at];
            for ((_, at), consumed) in reader.buffers.iter_mut().zip(&read[at]) {
                *at += consumed;
            }
        }
        limit
    }

    /// Gives back buffers of which everything was read, and forgets threads that have ended.
    fn release(&mut self) {
        for reader in &mut self.threads {
            while let Some((filled, read)) = reader.buffers.front_mut() {
                match filled.whole() {
                    Some(len) if len == *read => {
                        let (filled, _) = reader.buffers.pop_front().expect("it is the front");
                        self.core.pool.give(filled);
                    }
                    _ => break,
                }
            }
        }
    }

    /// Takes what threads have lost since the last time.
    fn losses(&mut self, mut lost: impl FnMut(Loss)) {
        for reader in &mut self.threads {
            let cells = locked(&reader.side.cells);
            reader.cells.resize_with(cells.len(), LossReader::default);
            for ((channel, cell), seen) in cells.iter().zip(&mut reader.cells) {
                seen.take(cell, *channel, &mut lost);
            }
        }
        for loss in locked(&self.core.losses).take() {
            lost(loss);
        }
    }

    /// Forgets threads that have ended and left nothing; after their losses were taken.
    fn forget_ended(&mut self) {
        let mut sides = locked(&self.core.threads);
        let mut at = 0;
        self.threads.retain(|reader| {
            let is_over = reader.has_ended
                && reader.buffers.is_empty()
                && locked(&reader.side.queue).is_empty();
            match is_over {
                true => {
                    sides.remove(at);
                }
                false => at += 1,
            }
            !is_over
        });
    }

    fn is_any_busy(&self) -> bool {
        let busy = |side: &Arc<ThreadSide>| side.is_busy.load(Ordering::SeqCst);
        locked(&self.core.threads).iter().any(busy)
    }

    fn is_empty(&self) -> bool {
        self.threads.iter().all(|reader| {
            !reader.has_more
                && reader
                    .buffers
                    .iter()
                    .all(|(filled, read)| filled.bytes().len() == *read)
        })
    }

    /// When the oldest record that is in memory was recorded.
    fn oldest(&self) -> u64 {
        let sides = locked(&self.core.threads);
        let oldest = sides.iter().filter_map(|side| {
            let queue = locked(&side.queue);
            queue.iter().map(first_ticks).min()
        });
        oldest.min().unwrap_or(u64::MAX)
    }
}

/// Passes over pieces with nothing in them.
fn skip_empty(pieces: &mut VecDeque<(&[u8], usize)>, done: &mut usize) -> Option<u64> {
    while let Some((bytes, _)) = pieces.front() {
        let mut rest = *bytes;
        if let Some(entry) = next_entry(&mut rest) {
            return Some(entry.ticks());
        }
        pieces.pop_front();
        *done += 1;
    }
    None
}

impl Writer {
    /// Makes the folder, and repairs what is in it.
    pub(crate) fn open(
        core: Arc<Core>,
        options: RecorderOptions,
        config_file: Option<ConfigFile>,
    ) -> Result<Writer, RecorderError> {
        if let Some(folder) = &options.folder {
            make_folder(folder).map_err(RecorderError::io("make the folder", folder))?;
            let (_, damaged) = repair::repair_folder(folder)?;
            if let Some(error) = damaged.into_iter().next() {
                // It is kept for who can do more about it, and harms no new file.
                core.note_error(error.to_string());
            }
        }
        Ok(Writer {
            readers: Readers {
                order_window: core.clock.ticks(options.order_window),
                skew: core.clock.ticks(SKEW),
                core: Arc::clone(&core),
                threads: Vec::new(),
            },
            core,
            options,
            config_file,
            output: None,
            written_to: 0,
            flushes: Vec::new(),
            snapshots: Vec::new(),
            losses: Vec::new(),
            lost: [0; Why::ALL.len()],
            looked_at: Instant::now(),
            closing: None,
        })
    }

    /// Until the recorder is shut down.
    pub(crate) fn run(mut self) -> RecordingReport {
        if self.options.folder.is_some() {
            self.output = Some(Output::new(Arc::clone(&self.core), &self.options));
        }
        loop {
            let began = Instant::now();
            self.take_orders();
            if began.duration_since(self.looked_at) >= LOOK_EVERY {
                self.looked_at = began;
                self.look();
            }
            if let Some(deadline) = self.closing {
                return self.close(deadline);
            }
            let worked = match self.core.is_flight {
                true => self.fly(),
                false => self.tick(false),
            };
            if !worked {
                let next = self.snapshots.iter().map(|snapshot| snapshot.due).min();
                let mut until = self.options.write_interval;
                if let Some(due) = next {
                    until = until.min(due.saturating_duration_since(Instant::now()));
                }
                if !self.flushes.is_empty() {
                    // The moment that somebody waits for is not over on every processor yet.
                    until = until.min(QUIET_STEP);
                }
                // Whoever wants something wakes it; so does who fills buffers.
                std::thread::park_timeout(until);
            }
        }
    }

    fn take_orders(&mut self) {
        loop {
            let order = locked(&self.core.orders).pop_front();
            match order {
                None => return,
                Some(Order::Flush { ticks, done }) => self.flushes.push((ticks, done)),
                Some(Order::Rotate { done }) => {
                    self.tick(false);
                    if let Some(output) = &mut self.output {
                        output.rotate();
                    }
                    let _ = done.try_send(());
                }
                Some(Order::Reload) => {
                    if let Some(file) = &mut self.config_file {
                        file.forget();
                    }
                    self.look_at_config();
                }
                Some(Order::Snapshot {
                    before,
                    after,
                    done,
                }) => {
                    let clock = &self.core.clock;
                    self.snapshots.push(Snapshot {
                        from: clock.now().saturating_sub(clock.ticks(before)),
                        due: Instant::now() + after,
                        done,
                    });
                }
                Some(Order::Shutdown { deadline }) => self.closing = Some(deadline),
            }
        }
    }

    fn look_at_config(&mut self) {
        match self.config_file.as_mut().and_then(ConfigFile::changed) {
            Some(Ok(config)) => self.core.configure(config),
            Some(Err(error)) => self.core.note_error(error.to_string()),
            None => {}
        }
    }

    /// What is not urgent.
    fn look(&mut self) {
        self.look_at_config();
        let now = self.core.clock.now();
        for channel in &self.core.registry().channels {
            channel.limiter.fill(now);
        }
        let gone_before = match self.core.is_flight {
            true => self.readers.oldest(),
            false => self.written_to,
        };
        let gone = self.core.forget_streams(gone_before);
        if let Some(output) = &mut self.output {
            output.forget_streams(&gone);
            output.look();
        }
        self.readers.forget_ended();
        self.note_report();
    }

    /// For a shutdown that finds the writer stuck.
    fn note_report(&self) {
        let report = self.report();
        *locked(&self.core.last_report) = report;
    }

    /// One round: says whether there is more to do at once.
    fn tick(&mut self, is_last: bool) -> bool {
        let Some(output) = &mut self.output else {
            return false;
        };
        let anchor = self.core.clock.anchor();
        let now = anchor.ticks;
        // The other side shows that it is busy, takes its number, and only then looks at the clock.
        fence(Ordering::SeqCst);
        self.readers.meet(now);
        let (limit_bytes, buffer_bytes) = self.options.buffers();
        let threads = self.readers.threads.len().max(1);
        let buffers_max = (limit_bytes as usize / buffer_bytes / 4 / threads).max(2);
        self.readers.take(buffers_max);
        output.begin(anchor);
        let limit = self
            .readers
            .merge(now, is_last, |entry, thread| output.record(entry, thread));
        self.readers.release();
        for loss in output.take_losses() {
            count(&mut self.lost, &loss);
            self.losses.push(loss);
        }
        let lost = &mut self.lost;
        let losses = &mut self.losses;
        self.readers.losses(|loss| {
            count(lost, &loss);
            losses.push(loss);
        });
        output.losses(&mut self.losses);
        let is_asked = is_last || self.flushes.iter().any(|(ticks, _)| *ticks <= limit);
        output.end(is_asked);
        self.written_to = limit;
        self.answer(limit);
        self.readers.threads.iter().any(|reader| reader.has_more)
    }

    fn answer(&mut self, limit: u64) {
        if self.flushes.iter().all(|(ticks, _)| *ticks > limit) {
            return;
        }
        let error = self.output.as_ref().and_then(Output::error);
        let report = self.report();
        self.flushes.retain(|(ticks, done)| {
            if *ticks > limit {
                return true;
            }
            // Who only asks for figures gets them.
            let answer = match (&error, *ticks) {
                (Some(error), 1..) => Err(FlushError::Disk(error.clone())),
                _ => Ok(report.clone()),
            };
            let _ = done.try_send(answer);
            false
        });
    }

    fn report(&self) -> RecordingReport {
        let mut report = RecordingReport {
            attempted: self.core.attempted(),
            overwritten: self.core.overwritten.load(Ordering::Relaxed),
            buffer_bytes_max: self.core.pool.bytes_max(),
            last_error: locked(&self.core.last_error).clone(),
            ..RecordingReport::default()
        };
        for why in Why::ALL {
            if self.lost[why as usize] > 0 {
                report.lost.insert(why.as_str(), self.lost[why as usize]);
            }
        }
        if let Some(output) = &self.output {
            output.report(&mut report);
        }
        report.with_waiting()
    }

    /// A flight recorder: says whether there is more to do at once.
    fn fly(&mut self) -> bool {
        let now = self.core.clock.now();
        self.readers.meet(now);
        let lost = &mut self.lost;
        // There is no file to tell them to: the report does.
        self.readers.losses(|loss| count(lost, &loss));
        self.answer(u64::MAX);
        let at = Instant::now();
        let (due, later) = std::mem::take(&mut self.snapshots)
            .into_iter()
            .partition(|snapshot| snapshot.due <= at);
        self.snapshots = later;
        let due: Vec<Snapshot> = due;
        for snapshot in due {
            let written = self.snapshot(snapshot.from);
            let _ = snapshot.done.try_send(written.map_err(FlushError::Disk));
        }
        false
    }

    /// Writes a file of what is in memory, and leaves it there.
    fn snapshot(&mut self, from: u64) -> Result<PathBuf, String> {
        let folder = &self.options.snapshot_folder;
        make_folder(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut output = Output::snapshot(Arc::clone(&self.core), &self.options);
        let anchor = self.core.clock.anchor();
        self.readers.take(usize::MAX);
        output.begin(anchor);
        self.readers.merge(anchor.ticks, true, |entry, thread| {
            if entry.ticks() >= from {
                output.record(entry, thread);
            }
        });
        for reader in &mut self.readers.threads {
            let mut queue = locked(&reader.side.queue);
            while let Some((filled, _)) = reader.buffers.pop_back() {
                queue.push_front(filled);
            }
        }
        output.close_snapshot()
    }

    /// Writes everything, until `deadline`, and reports.
    fn close(mut self, deadline: Instant) -> RecordingReport {
        // Threads that began a record before it was closed end it; those that begin now see that it is.
        while self.readers.is_any_busy() && Instant::now() < deadline {
            std::thread::park_timeout(QUIET_STEP);
        }
        if self.core.is_flight {
            self.fly();
            self.answer(u64::MAX);
            return self.report();
        }
        loop {
            self.tick(true);
            self.note_report();
            let is_stuck = self
                .output
                .as_ref()
                .is_some_and(|output| output.error().is_some());
            if self.readers.is_empty() && !is_stuck && self.losses.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                break;
            }
            if is_stuck {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        self.lose_rest();
        if let Some(output) = &mut self.output {
            output.close(deadline);
            for loss in output.take_losses() {
                count(&mut self.lost, &loss);
            }
        }
        for (_, done) in self.flushes.drain(..) {
            let _ = done.try_send(Err(FlushError::Closed));
        }
        self.report()
    }

    /// What is still in memory when time is over.
    fn lose_rest(&mut self) {
        let why = match self.output.as_ref().and_then(Output::error) {
            Some(_) => Why::Disk,
            None => Why::Shutdown,
        };
        let mut by_channel: HashMap<u32, Loss> = HashMap::new();
        let registry = self
            .core
            .registry
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            self.readers.take(usize::MAX);
            let mut any = false;
            self.readers.merge(0, true, |entry, _| {
                any = true;
                let Some(meta) = &registry.streams[entry.stream() as usize] else {
                    unreachable!("a stream is known as long as there are records of it")
                };
                let number = entry.number();
                let loss = by_channel.entry(meta.channel.id).or_insert(Loss {
                    channel: meta.channel.id,
                    why,
                    from: number,
                    to: number,
                    count: 0,
                });
                loss.from = loss.from.min(number);
                loss.to = loss.to.max(number);
                loss.count += 1;
            });
            if !any {
                break;
            }
        }
        drop(registry);
        for loss in by_channel.into_values() {
            count(&mut self.lost, &loss);
            self.losses.push(loss);
        }
        let (lost, losses) = (&mut self.lost, &mut self.losses);
        self.readers.losses(|loss| {
            count(lost, &loss);
            losses.push(loss);
        });
        if let Some(output) = &mut self.output {
            output.losses(&mut self.losses);
        }
    }
}

fn count(lost: &mut [u64; Why::ALL.len()], loss: &Loss) {
    lost[loss.why as usize] += loss.count;
}
