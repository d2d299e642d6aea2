//! What a recording says as a whole: how much of what, what is missing, how long answers took.

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::{Deserialize, Serialize};

use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

/// The most rows, runs of numbers and unanswered requests that are kept: beyond it, a recording is analysed in parts.
const KEPT_MAX: usize = 4 << 20;

fn too_many(what: &str) -> io::Error {
    let reason = format!("more than {KEPT_MAX} {what}: look at a part of it, by time or group");
    io::Error::new(io::ErrorKind::OutOfMemory, reason)
}

/// Records of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatsRow {
    /// Group.
    pub group: String,
    /// Class.
    pub class: String,
    /// Message.
    pub name: String,
    /// `In` or `Out`.
    pub direction: String,
    /// Records.
    pub records: u64,
    /// Bytes of their lines.
    pub bytes: u64,
    /// The first and the last time, in nanoseconds of Unix time.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
}

/// How much of what is in a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// By group, class, message and direction; the most first.
    pub rows: Vec<StatsRow>,
    /// All records.
    pub records: u64,
    /// Bytes of all lines of records.
    pub bytes: u64,
    /// What was lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// Lines that are none of a recording.
    pub damaged_lines: u64,
}

/// Counts the records that `filter` wants.
///
/// # Errors
/// As for [`search`]; `OutOfMemory` with more kinds than fit into memory.
pub fn stats(shelf: &dyn Shelf, filter: &Filter) -> io::Result<Stats> {
    let mut stats = Stats::default();
    let mut rows: BTreeMap<(String, String, String, String), StatsRow> = BTreeMap::new();
    let filter = Filter {
        marks: true,
        ..filter.clone()
    };
    let report = search(shelf, &filter, |text, line| {
        if &*line.mk == "Loss" {
            *stats.lost.entry(line.why.to_string()).or_default() += line.count.unwrap_or(0);
        }
        if !line.is_record() {
            return Ok(GoOn::Continue(()));
        }
        let direction = line
            .d
            .map_or(String::new(), |direction| format!("{direction:?}"));
        let key = (
            line.g.to_string(),
            line.cl.to_string(),
            line.mn.to_string(),
            direction,
        );
        if rows.len() > KEPT_MAX {
            return Err(too_many("kinds of records"));
        }
        let row = rows.entry(key).or_insert_with(|| StatsRow {
            first_ns: line.ts,
            ..StatsRow::default()
        });
        row.records += 1;
        row.bytes += text.len() as u64 + 1;
        row.first_ns = row.first_ns.min(line.ts);
        row.last_ns = row.last_ns.max(line.ts);
        Ok(GoOn::Continue(()))
    })?;
    stats.damaged_lines = report.damaged_lines;
    for ((group, class, name, direction), row) in rows {
        stats.records += row.records;
        stats.bytes += row.bytes;
        stats.rows.push(StatsRow {
            group,
            class,
            name,
            direction,
            ..row
        });
    }
    stats.rows.sort_by_key(|row| std::cmp::Reverse(row.records));
    Ok(stats)
}

/// Numbers that are not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first and the last of them, both included.
    pub from: u64,
    /// See `from`.
    pub to: u64,
    /// How many of them loss records account for, by cause.
    pub lost: BTreeMap<String, u64>,
    /// How many nobody accounts for.
    pub unexplained: u64,
}

/// What is missing of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupGaps {
    /// Records that are there.
    pub records: u64,
    /// The greatest number that is there, or was taken as the end of the recording says.
    pub last: u64,
    /// Numbers that are not there, the first thousand runs of them.
    pub gaps: Vec<Gap>,
    /// All numbers that are not there.
    pub missing: u64,
    /// Of those, the ones that no loss record accounts for.
    pub unexplained: u64,
    /// Numbers that are there more than once.
    pub twice: u64,
    /// More losses than numbers are missing where they are said to be.
    pub overcounted: u64,
}

/// What is missing of one run of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunGaps {
    /// By group.
    pub groups: BTreeMap<String, GroupGaps>,
    /// All files of the run end with a line that says so; otherwise the program was killed, or a file is missing, or it
    /// still runs: what was recorded last may be missing without a trace.
    pub is_clean: bool,
    /// Numbers of files that are not there.
    pub missing_files: Vec<String>,
    /// Files that do not end as a file does that was closed.
    pub unclosed_files: Vec<String>,
}

/// What is missing of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GapReport {
    /// By run of a recorder; of lines that belong to none, `""`.
    pub runs: BTreeMap<String, RunGaps>,
    /// Lines that are none of a recording.
    pub damaged_lines: u64,
}

impl GapReport {
    /// Whether every number is there or accounted for, and every file ends as it should.
    pub fn is_whole(&self) -> bool {
        self.damaged_lines == 0
            && self.runs.values().all(|run| {
                run.is_clean
                    && run
                        .groups
                        .values()
                        .all(|group| group.unexplained + group.twice + group.overcounted == 0)
            })
    }
}

/// Numbers that are there, as runs: first to last.
#[derive(Default)]
struct Numbers {
    runs: BTreeMap<u64, u64>,
    count: u64,
    twice: u64,
    losses: Vec<(u64, u64, u64, String)>,
    taken: u64,
}

impl Numbers {
    fn add(&mut self, number: u64) -> io::Result<()> {
        self.count += 1;
        let before = self.runs.range_mut(..=number).next_back();
        if let Some((_, last)) = before {
            if number <= *last {
                self.twice += 1;
                return Ok(());
            }
            if *last + 1 == number {
                *last = number;
                // Two runs may have met.
                if let Some(end) = self.runs.remove(&(number + 1)) {
                    let (_, last) = self
                        .runs
                        .range_mut(..=number)
                        .next_back()
                        .expect("it grew just now");
                    *last = end;
                }
                return Ok(());
            }
        }
        let end = self.runs.remove(&(number + 1)).unwrap_or(number);
        self.runs.insert(number, end);
        match self.runs.len() > KEPT_MAX {
            true => Err(too_many("runs of numbers")),
            false => Ok(()),
        }
    }

    fn gaps(mut self) -> GroupGaps {
        let greatest = self.runs.values().next_back().copied().unwrap_or(0);
        let lost_last = self
            .losses
            .iter()
            .map(|(_, to, _, _)| *to)
            .max()
            .unwrap_or(0);
        let last = greatest.max(self.taken).max(lost_last);
        let mut report = GroupGaps {
            records: self.count,
            last,
            twice: self.twice,
            ..GroupGaps::default()
        };
        // Missing numbers, in runs.
        let mut missing = Vec::new();
        let mut next = 1;
        for (&first, &end) in &self.runs {
            if first > next {
                missing.push((next, first - 1));
            }
            next = end + 1;
        }
        if next <= last {
            missing.push((next, last));
        }
        report.missing = missing.iter().map(|(from, to)| to - from + 1).sum();
        // Losses whose ranges touch belong together: what one of them counts may lie anywhere in it.
        self.losses.sort_by_key(|(from, ..)| *from);
        let mut losses = self.losses.into_iter().peekable();
        let mut missing = missing.into_iter().peekable();
        let push = |gap: Gap, report: &mut GroupGaps| {
            report.unexplained += gap.unexplained;
            if report.gaps.len() < 1000 {
                report.gaps.push(gap);
            }
        };
        while let Some((mut from, mut to, count, why)) = losses.next() {
            let mut lost = BTreeMap::from([(why, count)]);
            while let Some((next, ..)) = losses.peek() {
                // A gap that begins in one and ends in the next holds them together, too.
                let joined = missing
                    .peek()
                    .is_some_and(|_| *next <= to || next - 1 == to);
                if !joined {
                    break;
                }
                let (next, end, count, why) = losses.next().expect("it was peeked at");
                from = from.min(next);
                to = to.max(end);
                *lost.entry(why).or_default() += count;
            }
            // Numbers missing before it, and in it.
            let mut inside = 0;
            let (mut first, mut end) = (u64::MAX, 0);
            while let Some(&(gap_from, gap_to)) = missing.peek() {
                if gap_from > to {
                    break;
                }
                missing.next();
                if gap_from < from {
                    let before = (gap_to.min(from - 1)) - gap_from + 1;
                    push(
                        Gap {
                            from: gap_from,
                            to: gap_to.min(from - 1),
                            lost: BTreeMap::new(),
                            unexplained: before,
                        },
                        &mut report,
                    );
                }
                if gap_to >= from {
                    let (inner_from, inner_to) = (gap_from.max(from), gap_to.min(to));
                    inside += inner_to - inner_from + 1;
                    first = first.min(inner_from);
                    end = end.max(inner_to);
                    if gap_to > to {
                        // The rest of it lies behind this loss.
                        let rest = (to + 1, gap_to);
                        let mut others: Vec<_> = std::iter::once(rest).chain(missing).collect();
                        others.sort_unstable();
                        missing = others.into_iter().peekable();
                        break;
                    }
                }
            }
            let counted: u64 = lost.values().sum();
            report.overcounted += counted.saturating_sub(inside);
            if inside > 0 {
                push(
                    Gap {
                        from: first,
                        to: end,
                        lost,
                        unexplained: inside.saturating_sub(counted),
                    },
                    &mut report,
                );
            }
        }
        for (from, to) in missing {
            push(
                Gap {
                    from,
                    to,
                    lost: BTreeMap::new(),
                    unexplained: to - from + 1,
                },
                &mut report,
            );
        }
        report
    }
}

#[derive(Default)]
struct RunState {
    groups: HashMap<String, Numbers>,
    /// By class: numbers of files, and whether they were closed.
    files: BTreeMap<String, BTreeMap<u64, bool>>,
    has_end: bool,
}

/// What the last line of a run says: how many numbers each group took.
#[derive(Deserialize)]
struct Taken(HashMap<String, u64>);

/// Looks for numbers that are missing: in every run, group by group, held against its loss records. All files of the
/// recording must be on the shelf; what was deleted by retention is missing, too.
///
/// # Errors
/// As for [`search`]; `OutOfMemory` with more gaps than fit into memory.
pub fn gaps(shelf: &dyn Shelf) -> io::Result<GapReport> {
    let mut report = GapReport::default();
    let mut runs: BTreeMap<String, RunState> = BTreeMap::new();
    for name in shelf.names()? {
        // Lines belong to the file that they are in, and that to a run.
        let one = One {
            shelf,
            name: name.clone(),
        };
        let mut run = String::new();
        let filter = Filter {
            marks: true,
            ..Filter::default()
        };
        let searched = search(&one, &filter, |_, line| {
            match &*line.mk {
                "Open" | "Close" => {
                    run = line.run.to_string();
                    let state = runs.entry(run.clone()).or_default();
                    let files = state.files.entry(line.cl.to_string()).or_default();
                    let is_closed = &*line.mk == "Close";
                    files.insert(line.file.unwrap_or(0), is_closed);
                    if is_closed && &*line.why == "shutdown" {
                        state.has_end = true;
                    }
                    if let Some(numbers) = line.numbers
                        && let Ok(Taken(taken)) = serde_json::from_str(numbers.get())
                    {
                        for (group, count) in taken {
                            state.groups.entry(group).or_default().taken = count;
                        }
                    }
                }
                "Loss" => {
                    let state = runs.entry(run.clone()).or_default();
                    let numbers = state.groups.entry(line.g.to_string()).or_default();
                    let (from, to) = (line.from.unwrap_or(0), line.to.unwrap_or(0));
                    numbers
                        .losses
                        .push((from, to, line.count.unwrap_or(0), line.why.to_string()));
                    if numbers.losses.len() > KEPT_MAX {
                        return Err(too_many("losses"));
                    }
                }
                _ => {
                    let state = match runs.get_mut(&run) {
                        Some(state) => state,
                        None => runs.entry(run.clone()).or_default(),
                    };
                    let numbers = match state.groups.get_mut(&*line.g) {
                        Some(numbers) => numbers,
                        None => state.groups.entry(line.g.to_string()).or_default(),
                    };
                    numbers.add(line.s.unwrap_or(0))?;
                }
            }
            Ok(GoOn::Continue(()))
        })?;
        report.damaged_lines += searched.damaged_lines;
    }
    for (run, state) in runs {
        let mut gaps = RunGaps {
            is_clean: state.has_end,
            ..RunGaps::default()
        };
        for (class, files) in &state.files {
            let last = files.keys().next_back().copied().unwrap_or(0);
            for number in 1..=last.min(KEPT_MAX as u64) {
                match files.get(&number) {
                    Some(true) => {}
                    Some(false) => gaps.unclosed_files.push(format!("{class} {number}")),
                    None => gaps.missing_files.push(format!("{class} {number}")),
                }
            }
        }
        gaps.is_clean &= gaps.unclosed_files.is_empty() && gaps.missing_files.is_empty();
        gaps.groups = state
            .groups
            .into_iter()
            .map(|(group, numbers)| (group, numbers.gaps()))
            .collect();
        report.runs.insert(run, gaps);
    }
    Ok(report)
}

/// One recording of a shelf.
struct One<'a> {
    shelf: &'a dyn Shelf,
    name: String,
}

impl Shelf for One<'_> {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(vec![self.name.clone()])
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn crate::shelf::ReadSeek>> {
        self.shelf.open(name)
    }

    fn index(&self, name: &str) -> io::Result<Option<Box<dyn io::Read>>> {
        self.shelf.index(name)
    }
}

/// How long responses to one kind of request took, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// Requests with a response.
    pub pairs: u64,
    /// The median.
    pub p50_ns: u64,
    /// Nine of ten took no longer.
    pub p90_ns: u64,
    /// 99 of a hundred took no longer.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Requests and responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairReport {
    /// By group and message of the request.
    pub latencies: BTreeMap<String, Latencies>,
    /// Requests without a response.
    pub unanswered: u64,
    /// Responses without a request before them.
    pub unasked: u64,
}

/// Puts requests and responses together: of one group, with the same number, the request in one direction and the
/// response in the other. So each side is measured by itself: that of who asks, and that of who answers.
///
/// # Errors
/// As for [`search`]; `OutOfMemory` with more requests than fit into memory.
pub fn pair(shelf: &dyn Shelf, filter: &Filter) -> io::Result<PairReport> {
    let mut report = PairReport::default();
    let mut open: HashMap<(String, u64, bool), (u64, String)> = HashMap::new();
    let mut took: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut pairs = 0;
    search(shelf, filter, |_, line| {
        let (Some(id), Some(direction)) = (line.c, line.d) else {
            return Ok(GoOn::Continue(()));
        };
        let is_out = direction == crate::Direction::Out;
        match &*line.mk {
            "Request" => {
                open.insert(
                    (line.g.to_string(), id, is_out),
                    (line.ts, format!("{} {}", line.g, line.mn)),
                );
            }
            "Response" => match open.remove(&(line.g.to_string(), id, !is_out)) {
                Some((asked, name)) => {
                    pairs += 1;
                    took.entry(name)
                        .or_default()
                        .push(line.ts.saturating_sub(asked));
                }
                None => report.unasked += 1,
            },
            _ => {}
        }
        match open.len() + pairs > 4 * KEPT_MAX {
            true => Err(too_many("requests")),
            false => Ok(GoOn::Continue(())),
        }
    })?;
    report.unanswered = open.len() as u64;
    for (name, mut times) in took {
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let latencies = Latencies {
            pairs: times.len() as u64,
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            max_ns: at(1.0),
        };
        report.latencies.insert(name, latencies);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps_of(there: &[u64], losses: &[(u64, u64, u64)], taken: u64) -> GroupGaps {
        let mut numbers = Numbers {
            taken,
            ..Numbers::default()
        };
        for &number in there {
            numbers.add(number).unwrap();
        }
        for &(from, to, count) in losses {
            numbers.losses.push((from, to, count, "rate".to_owned()));
        }
        numbers.gaps()
    }

    #[test]
    fn numbers_join_in_any_order() {
        for there in [
            [1, 2, 3, 4, 5],
            [5, 4, 3, 2, 1],
            [1, 3, 5, 2, 4],
            [2, 4, 1, 5, 3],
        ] {
            let gaps = gaps_of(&there, &[], 5);
            assert_eq!((gaps.records, gaps.missing, gaps.twice), (5, 0, 0));
            assert!(gaps.gaps.is_empty());
        }
        assert_eq!(gaps_of(&[1, 2, 2, 1], &[], 2).twice, 2);
    }

    #[test]
    fn gaps_are_held_against_losses() {
        let told = |there: &[u64], losses: &[(u64, u64, u64)], taken| {
            let gaps = gaps_of(there, losses, taken);
            (gaps.missing, gaps.unexplained, gaps.overcounted)
        };
        assert_eq!(told(&[1, 2, 5], &[(3, 4, 2)], 5), (2, 0, 0));
        assert_eq!(told(&[1, 2, 5], &[(3, 4, 1)], 5), (2, 1, 0));
        assert_eq!(told(&[1, 2, 5], &[(3, 4, 3)], 5), (2, 0, 1));
        assert_eq!(told(&[1, 2, 5], &[], 5), (2, 2, 0));
        // At the end, told by the last line of the run only.
        assert_eq!(told(&[1, 2], &[], 9), (7, 7, 0));
        assert_eq!(told(&[1, 2], &[(3, 9, 7)], 9), (7, 0, 0));
        // Two threads lost numbers of the same range, one of them between records that are there.
        assert_eq!(told(&[1, 4, 8], &[(2, 6, 3), (3, 7, 2)], 8), (5, 0, 0));
        // A gap before a loss, within one, and behind it.
        assert_eq!(told(&[1, 10], &[(4, 6, 3)], 10), (8, 5, 0));
        assert_eq!(told(&[1, 20], &[(4, 6, 3), (10, 12, 3)], 20), (18, 12, 0));
    }
}
