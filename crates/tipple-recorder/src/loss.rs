//! Records that were attempted and are not in the recording: why, how many, and which numbers.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde::{Deserialize, Serialize};

/// Why a record is not in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Why {
    /// The rate of its group and class, or of its message, was used up.
    Rate,
    /// Its trace is not among those that are sampled.
    Sampled,
    /// Its type says that it is not for recordings: [`unrecorded`](crate::unrecorded()).
    Disabled,
    /// The memory budget was used up, by the policy of the recorder.
    Memory,
    /// Its `Serialize` failed or panicked, or JSON has no such thing.
    Error,
    /// Its line is longer than the limit.
    Size,
    /// The disk was full or failed.
    Disk,
    /// The recorder was shut down, or the time that it was given for that was over.
    Shutdown,
}

impl Why {
    /// Each of them, in the order of reports.
    pub const ALL: [Why; 8] = [
        Why::Rate,
        Why::Sampled,
        Why::Disabled,
        Why::Memory,
        Why::Error,
        Why::Size,
        Why::Disk,
        Why::Shutdown,
    ];
    /// How many a recording thread finds out itself: the first ones.
    const OF_THREADS: usize = 5;

    /// As it stands in loss records.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Rate => "rate",
            Why::Sampled => "sampled",
            Why::Disabled => "disabled",
            Why::Memory => "memory",
            Why::Error => "error",
            Why::Size => "size",
            Why::Disk => "disk",
            Why::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `count` numbers of a group between `from` and `to`, both included, are lost. Between them may be numbers that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) channel: u32,
    pub(crate) why: Why,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) count: u64,
}

/// What one thread has lost of one channel, for the writer to see at any time. Only that thread writes, with plain
/// stores: a version before and after tells the reader whether it saw one state.
#[derive(Debug, Default)]
pub(crate) struct LossCell {
    version: AtomicU64,
    runs: [Run; Why::OF_THREADS + 1],
}

/// The losses of one cause.
#[derive(Debug, Default)]
struct Run {
    /// All that were ever lost.
    count: AtomicU64,
    /// The number lost last.
    to: AtomicU64,
    /// Those lost since the thread last recorded something of the channel: the first, and how many.
    run_from: AtomicU64,
    run_count: AtomicU64,
}

/// Threads find these out; the place of their run.
fn place(why: Why) -> usize {
    match why {
        Why::Shutdown => Why::OF_THREADS,
        why => why as usize,
    }
}

impl LossCell {
    /// Only for the thread that owns the cell. `begins`: something was recorded since the last loss of this cause.
    #[inline]
    pub(crate) fn lose(&self, why: Why, number: u64, begins: bool) {
        let run = &self.runs[place(why)];
        let add = |counter: &AtomicU64| {
            counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        };
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        if begins {
            run.run_from.store(number, Ordering::Relaxed);
            run.run_count.store(0, Ordering::Relaxed);
        }
        run.to.store(number, Ordering::Relaxed);
        add(&run.count);
        add(&run.run_count);
        self.version.store(version + 2, Ordering::Release);
    }

    fn read(&self, why: Why) -> RunState {
        let run = &self.runs[place(why)];
        loop {
            let before = self.version.load(Ordering::Acquire);
            let state = RunState {
                count: run.count.load(Ordering::Relaxed),
                to: run.to.load(Ordering::Relaxed),
                run_from: run.run_from.load(Ordering::Relaxed),
                run_count: run.run_count.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return state;
            }
            std::hint::spin_loop();
        }
    }
}

#[derive(Clone, Copy, Default)]
struct RunState {
    count: u64,
    to: u64,
    run_from: u64,
    run_count: u64,
}

/// The reader's memory of a cell.
#[derive(Default)]
pub(crate) struct LossReader {
    seen: [(u64, u64); Why::OF_THREADS + 1],
}

impl LossReader {
    /// Gives what was lost since it was asked last.
    pub(crate) fn take(&mut self, cell: &LossCell, channel: u32, mut lost: impl FnMut(Loss)) {
        let of_threads = &Why::ALL[..Why::OF_THREADS];
        for &why in of_threads.iter().chain(&[Why::Shutdown]) {
            let (count_seen, to_seen) = &mut self.seen[place(why)];
            let state = cell.read(why);
            let mut count = state.count - *count_seen;
            if count == 0 {
                continue;
            }
            let loss = |from, to, count| Loss {
                channel,
                why,
                from,
                to,
                count,
            };
            if state.run_count < count {
                // There was a run before this one, of which no more is known than where it must lie.
                count -= state.run_count;
                lost(loss(*to_seen + 1, state.run_from - 1, count));
                count = state.run_count;
                lost(loss(state.run_from, state.to, count));
            } else {
                let from = state.run_from.max(*to_seen + 1);
                lost(loss(from, state.to, count));
            }
            *count_seen = state.count;
            *to_seen = state.to;
        }
    }
}

/// What is lost elsewhere than on a recording thread's own account, until it is written.
#[derive(Debug, Default)]
pub(crate) struct LossLog {
    losses: Vec<Loss>,
}

/// Beyond these, losses of the same kind are put together.
const LOSSES_MAX: usize = 4096;

impl LossLog {
    pub(crate) fn add(&mut self, loss: Loss) {
        let full = self.losses.len() >= LOSSES_MAX;
        let same = |old: &&mut Loss| {
            old.channel == loss.channel
                && old.why == loss.why
                && (full || old.to + 1 == loss.from || loss.to + 1 == old.from)
        };
        // Usually the last one: numbers are lost one after the other.
        let found = match full {
            true => self.losses.iter_mut().rev().find(same),
            false => self.losses.iter_mut().rev().take(8).find(same),
        };
        match found {
            Some(old) => {
                old.from = old.from.min(loss.from);
                old.to = old.to.max(loss.to);
                old.count += loss.count;
            }
            // Full of other kinds: as many as there are kinds, which is bounded by the channels.
            None => self.losses.push(loss),
        }
    }

    /// The same, put together with the last one if that is of the same kind, whatever lies between.
    pub(crate) fn join(&mut self, loss: Loss) {
        match self.losses.last_mut() {
            Some(old) if old.channel == loss.channel && old.why == loss.why => {
                old.from = old.from.min(loss.from);
                old.to = old.to.max(loss.to);
                old.count += loss.count;
            }
            _ => self.losses.push(loss),
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(reader: &mut LossReader, cell: &LossCell) -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        reader.take(cell, 7, |loss| {
            assert_eq!((loss.channel, loss.why), (7, Why::Rate));
            all.push((loss.from, loss.to, loss.count));
        });
        all
    }

    #[test]
    fn a_run_is_told_once_and_goes_on() {
        let (cell, mut reader) = (LossCell::default(), LossReader::default());
        assert_eq!(taken(&mut reader, &cell), []);
        cell.lose(Why::Rate, 5, true);
        cell.lose(Why::Rate, 6, false);
        assert_eq!(taken(&mut reader, &cell), [(5, 6, 2)]);
        assert_eq!(taken(&mut reader, &cell), []);
        cell.lose(Why::Rate, 8, false);
        assert_eq!(taken(&mut reader, &cell), [(7, 8, 1)]);
        cell.lose(Why::Rate, 20, true);
        assert_eq!(taken(&mut reader, &cell), [(20, 20, 1)]);
    }

    #[test]
    fn several_runs_between_two_looks_are_told_with_all_their_numbers() {
        let (cell, mut reader) = (LossCell::default(), LossReader::default());
        for (number, begins) in [(3, true), (4, false), (7, true), (9, true), (10, false)] {
            cell.lose(Why::Rate, number, begins);
        }
        assert_eq!(taken(&mut reader, &cell), [(1, 8, 3), (9, 10, 2)]);
    }

    #[test]
    fn a_full_log_keeps_counts_and_bounds() {
        let mut log = LossLog::default();
        for number in 0..3 * LOSSES_MAX as u64 {
            // Every other number, so that none joins the one before.
            log.add(Loss {
                channel: 1,
                why: Why::Memory,
                from: number * 2 + 1,
                to: number * 2 + 1,
                count: 1,
            });
        }
        let losses = log.take();
        assert!(losses.len() <= LOSSES_MAX);
        assert_eq!(
            losses.iter().map(|loss| loss.count).sum::<u64>(),
            3 * LOSSES_MAX as u64
        );
        assert_eq!(losses.iter().map(|loss| loss.from).min(), Some(1));
        assert_eq!(
            losses.iter().map(|loss| loss.to).max(),
            Some(6 * LOSSES_MAX as u64 - 1)
        );
    }
}
