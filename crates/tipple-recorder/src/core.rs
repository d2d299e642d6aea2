//! What recording threads and the writer share.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::{Config, Level, Settings};
use crate::entry::{EntryRef, HEADER_BYTES};
use crate::handover::{Filled, Filling};
use crate::limit::{Limiter, UNLIMITED};
use crate::loss::{Loss, LossCell, LossLog, Why};
use crate::options::OnFull;
use crate::pool::Pool;
use crate::recorder::{FlushError, RecordingReport};

/// The writer is woken for so many buffers of a thread.
const BUFFERS_PER_WAKE: usize = 4;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A recorder, as its streams and threads know it.
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) on_full: OnFull,
    /// Nothing is written until somebody asks: what is oldest makes room.
    pub(crate) is_flight: bool,
    /// No more records: the writer is about to finish.
    pub(crate) is_closed: AtomicBool,
    pub(crate) threads: Mutex<Vec<Arc<ThreadSide>>>,
    threads_ever: AtomicU64,
    pub(crate) registry: RwLock<Registry>,
    /// Streams that nobody holds any more, and since when.
    pub(crate) retired: Mutex<Vec<(u32, u64)>>,
    config: Mutex<Arc<Config>>,
    /// Goes up with each new configuration.
    pub(crate) config_version: AtomicU64,
    /// A tape of more bytes is of a line that is too long, whatever is in it.
    pub(crate) tape_bytes_max: AtomicUsize,
    pub(crate) losses: Mutex<LossLog>,
    /// Records that made room in a flight recorder.
    pub(crate) overwritten: AtomicU64,
    pub(crate) last_error: Mutex<Option<String>>,
    /// What was last reported: all there is of a writer that is stuck.
    pub(crate) last_report: Mutex<RecordingReport>,
    pub(crate) orders: Mutex<VecDeque<Order>>,
    pub(crate) writer: OnceLock<Thread>,
}

/// What the writer is asked to do.
pub(crate) enum Order {
    /// Write all that was recorded before these ticks.
    Flush {
        ticks: u64,
        done: SyncSender<Result<RecordingReport, FlushError>>,
    },
    /// Begin new files.
    Rotate { done: SyncSender<()> },
    /// Take the configuration file again.
    Reload,
    /// Write what a flight recorder holds.
    Snapshot {
        before: Duration,
        after: Duration,
        done: SyncSender<Result<std::path::PathBuf, FlushError>>,
    },
    /// Write everything, until then, and end.
    Shutdown { deadline: Instant },
}

/// Everything that has a name.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) groups: HashMap<String, Arc<Group>>,
    pub(crate) channels: Vec<Arc<Channel>>,
    /// By number; those of streams that are gone are used again.
    pub(crate) streams: Vec<Option<Arc<StreamMeta>>>,
    free: Vec<u32>,
}

/// Numbers are those of a group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) numbers: Numbers,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    /// The next one. They begin with 1.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        // The strongest order: what the thread looks at next, it sees as it is after it has shown that it is busy.
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn taken(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A group and a class: what settings and limits are of.
pub(crate) struct Channel {
    pub(crate) id: u32,
    pub(crate) group: Arc<Group>,
    pub(crate) class: String,
    level: AtomicU8,
    pub(crate) sample: AtomicU64,
    pub(crate) limiter: Limiter,
    /// Whether anything is said of single messages, so that their names matter.
    pub(crate) has_messages: AtomicBool,
}

impl Channel {
    /// Whether records of this level are recorded.
    #[inline]
    pub(crate) fn lets(&self, level: Level) -> bool {
        level as u8 <= self.level.load(Ordering::Relaxed)
    }

    fn apply(&self, settings: &Settings, has_messages: bool, now: u64) {
        self.sample
            .store(settings.sample_threshold(), Ordering::Relaxed);
        self.limiter.set(settings.rate_or_default(), now);
        self.has_messages.store(has_messages, Ordering::Relaxed);
        self.level
            .store(settings.level_or_default() as u8, Ordering::Relaxed);
    }
}

/// What is said of one message within a channel.
pub(crate) struct MessageRule {
    pub(crate) disabled: bool,
    pub(crate) sample: u64,
    pub(crate) limiter: Option<Limiter>,
}

/// What the lines of a stream have in common.
#[derive(Debug)]
pub(crate) struct StreamMeta {
    pub(crate) id: u32,
    pub(crate) channel: Arc<Channel>,
    pub(crate) key: String,
    pub(crate) protocol: String,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("group", &self.group.name)
            .field("class", &self.class)
            .finish_non_exhaustive()
    }
}

/// What the writer sees of a recording thread.
pub(crate) struct ThreadSide {
    /// Counted from 1; the `th` of its lines.
    pub(crate) number: u64,
    /// It is about to record: what it will commit may be of this very moment.
    pub(crate) is_busy: AtomicBool,
    /// It waits for memory, and will look at the clock again.
    pub(crate) is_waiting: AtomicBool,
    pub(crate) has_ended: AtomicBool,
    /// Buffers that the writer has not taken yet, oldest first; the last one may still be filled.
    pub(crate) queue: Mutex<VecDeque<Filled>>,
    /// What it has lost, by channel.
    pub(crate) cells: Mutex<Vec<(u32, Arc<LossCell>)>>,
}

impl Core {
    pub(crate) fn new(pool: Pool, on_full: OnFull, is_flight: bool, config: Config) -> Core {
        static RECORDERS: AtomicU64 = AtomicU64::new(1);
        let tape_bytes_max = AtomicUsize::new(tape_bytes_max(&config, pool.buffer_bytes));
        Core {
            id: RECORDERS.fetch_add(1, Ordering::Relaxed),
            clock: Clock::new(),
            pool,
            on_full,
            is_flight,
            is_closed: AtomicBool::new(false),
            threads: Mutex::default(),
            threads_ever: AtomicU64::new(0),
            registry: RwLock::default(),
            retired: Mutex::default(),
            config: Mutex::new(Arc::new(config)),
            config_version: AtomicU64::new(1),
            tape_bytes_max,
            losses: Mutex::default(),
            overwritten: AtomicU64::new(0),
            last_error: Mutex::default(),
            last_report: Mutex::default(),
            orders: Mutex::default(),
            writer: OnceLock::new(),
        }
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&locked(&self.config))
    }

    /// The configuration holds from now on.
    pub(crate) fn configure(&self, config: Config) {
        let mut held = locked(&self.config);
        self.tape_bytes_max.store(
            tape_bytes_max(&config, self.pool.buffer_bytes),
            Ordering::Relaxed,
        );
        *held = Arc::new(config);
        let registry = self.registry();
        let now = self.clock.now();
        for channel in &registry.channels {
            let settings = held.of_channel(&channel.group.name, &channel.class);
            channel.apply(&settings, !held.messages.is_empty(), now);
        }
        self.config_version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn registry(&self) -> std::sync::RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream, of a channel that may be there already.
    pub(crate) fn stream(
        &self,
        group: &str,
        class: &str,
        key: &str,
        protocol: &str,
    ) -> Arc<StreamMeta> {
        // In this order everywhere: the configuration, then the registry.
        let config = locked(&self.config);
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let registry = &mut *registry;
        let found = registry
            .channels
            .iter()
            .find(|channel| channel.group.name == group && channel.class == class);
        let channel = match found {
            Some(channel) => Arc::clone(channel),
            None => {
                let group = registry.groups.entry(group.to_owned()).or_insert_with(|| {
                    Arc::new(Group {
                        name: group.to_owned(),
                        numbers: Numbers::default(),
                    })
                });
                let (now, second) = (self.clock.now(), self.clock.ticks(Duration::from_secs(1)));
                let channel = Arc::new(Channel {
                    id: registry.channels.len() as u32,
                    group: Arc::clone(group),
                    class: class.to_owned(),
                    level: AtomicU8::new(0),
                    sample: AtomicU64::new(u64::MAX),
                    limiter: Limiter::new(UNLIMITED, now, second),
                    has_messages: AtomicBool::new(false),
                });
                let settings = config.of_channel(&group.name, class);
                channel.apply(&settings, !config.messages.is_empty(), now);
                registry.channels.push(Arc::clone(&channel));
                channel
            }
        };
        let id = registry.free.pop().unwrap_or_else(|| {
            registry.streams.push(None);
            registry.streams.len() as u32 - 1
        });
        let meta = Arc::new(StreamMeta {
            id,
            channel,
            key: key.to_owned(),
            protocol: protocol.to_owned(),
        });
        registry.streams[id as usize] = Some(Arc::clone(&meta));
        meta
    }

    /// Forgets streams that nobody holds, of which everything was written up to `ticks`. Gives their numbers.
    pub(crate) fn forget_streams(&self, ticks: u64) -> Vec<u32> {
        let mut gone = Vec::new();
        locked(&self.retired).retain(|&(id, since)| {
            let is_old = since < ticks;
            if is_old {
                gone.push(id);
            }
            !is_old
        });
        if !gone.is_empty() {
            let mut registry = self
                .registry
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for &id in &gone {
                registry.streams[id as usize] = None;
                registry.free.push(id);
            }
        }
        gone
    }

    /// What holds for a message, if anything is said of it.
    pub(crate) fn message_rule(&self, protocol: &str, name: &str) -> Option<MessageRule> {
        let settings = self.config().of_message(protocol, name)?;
        let (now, second) = (self.clock.now(), self.clock.ticks(Duration::from_secs(1)));
        Some(MessageRule {
            disabled: settings.disabled == Some(true),
            sample: settings.sample_threshold(),
            limiter: settings.rate.map(|rate| Limiter::new(rate.0, now, second)),
        })
    }

    pub(crate) fn register(&self) -> Arc<ThreadSide> {
        let side = Arc::new(ThreadSide {
            number: self.threads_ever.fetch_add(1, Ordering::Relaxed) + 1,
            is_busy: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            queue: Mutex::default(),
            cells: Mutex::default(),
        });
        locked(&self.threads).push(Arc::clone(&side));
        side
    }

    pub(crate) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    pub(crate) fn order(&self, order: Order) {
        locked(&self.orders).push_back(order);
        self.wake();
    }

    /// A buffer for a thread, in the way that the recorder has for when there is none.
    pub(crate) fn buffer(&self, side: &ThreadSide, bytes: usize) -> Option<Filling> {
        let ends = self.pool.take(bytes).or_else(|| match self.on_full {
            _ if self.is_flight => self.take_oldest(bytes),
            OnFull::DropNewest => None,
            OnFull::DropOldest => self.take_oldest(bytes),
            OnFull::Block(longest) => {
                self.wake();
                side.is_waiting.store(true, Ordering::SeqCst);
                let ends = self.pool.wait(bytes, Instant::now() + longest);
                side.is_waiting.store(false, Ordering::SeqCst);
                ends
            }
        });
        let (filling, filled) = ends?;
        let queue_len = {
            let mut queue = locked(&side.queue);
            queue.push_back(filled);
            queue.len()
        };
        // A call for each buffer would cost the thread more than its records do.
        let is_worth_it = queue_len.is_multiple_of(BUFFERS_PER_WAKE) || self.pool.is_low();
        if queue_len > 1 && is_worth_it && !self.is_flight {
            self.wake();
        }
        Some(filling)
    }

    /// Room for `bytes` at the cost of the oldest records that the writer has not taken yet.
    fn take_oldest(&self, bytes: usize) -> Option<(Filling, Filled)> {
        loop {
            let filled = self.pop_oldest()?;
            self.account_dropped(&filled);
            self.pool.give(filled);
            // Another thread may be faster; then the next oldest goes.
            if let Some(ends) = self.pool.take(bytes) {
                return Some(ends);
            }
        }
    }

    fn pop_oldest(&self) -> Option<Filled> {
        let threads = locked(&self.threads);
        let oldest = threads.iter().filter_map(|side| {
            let mut queue = locked(&side.queue);
            let front = queue.front_mut()?;
            front.whole()?;
            Some((first_ticks(front), side))
        });
        let (_, side) = oldest.min_by_key(|(ticks, _)| *ticks)?;
        let mut queue = locked(&side.queue);
        queue.front_mut()?.whole()?;
        queue.pop_front()
    }

    /// The records of a buffer make room.
    fn account_dropped(&self, filled: &Filled) {
        let registry = self.registry();
        let mut rest = filled.bytes();
        let mut losses = locked(&self.losses);
        while let Some(entry) = next_entry(&mut rest) {
            if self.is_flight {
                self.overwritten.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let Some(meta) = &registry.streams[entry.stream() as usize] else {
                unreachable!("a stream is known as long as there are records of it")
            };
            losses.add(Loss {
                channel: meta.channel.id,
                why: Why::Memory,
                from: entry.number(),
                to: entry.number(),
                count: 1,
            });
        }
    }

    /// Numbers that were taken, of all groups.
    pub(crate) fn attempted(&self) -> u64 {
        let registry = self.registry();
        registry
            .groups
            .values()
            .map(|group| group.numbers.taken())
            .sum()
    }

    pub(crate) fn attempted_by_group(&self) -> BTreeMap<String, u64> {
        let registry = self.registry();
        registry
            .groups
            .values()
            .map(|group| (group.name.clone(), group.numbers.taken()))
            .collect()
    }

    /// Of a writer that is stuck in the disk: what it said last, and all numbers that were taken.
    pub(crate) fn stuck_report(&self) -> RecordingReport {
        let error = "the disk has not ended a write long after the time of the shutdown: what is waiting may still be written, or be lost";
        RecordingReport {
            attempted: self.attempted(),
            last_error: Some(error.to_owned()),
            ..locked(&self.last_report).clone()
        }
        .with_waiting()
    }

    pub(crate) fn note_error(&self, error: String) {
        *locked(&self.last_error) = Some(error);
    }
}

/// The next entry of what was committed to a buffer; `rest` must begin with one.
#[inline]
pub(crate) fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<EntryRef<'a>> {
    #[expect(unsafe_code, reason = "buffers hold entries of this process only")]
    // SAFETY: what is committed to a buffer is whole entries, and `rest` goes from one to the next.
    let entry = unsafe { EntryRef::first(rest) }?;
    *rest = &rest[entry.len()..];
    Some(entry)
}

/// When the first record of a buffer was recorded.
pub(crate) fn first_ticks(filled: &Filled) -> u64 {
    let mut rest = filled.bytes();
    next_entry(&mut rest).map_or(u64::MAX, |entry| entry.ticks())
}

/// No operation of a tape takes more than five times the bytes of its JSON: a number of one digit and its comma take nine.
fn tape_bytes_max(config: &Config, buffer_bytes: usize) -> usize {
    (config.max_size_max() * 5 + HEADER_BYTES).max(buffer_bytes)
}
