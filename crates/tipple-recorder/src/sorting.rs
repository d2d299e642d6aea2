//! Recordings of others, put in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufRead, BufReader, Seek, Write};

use crate::search::{Filter, GoOn, Line, search};
use crate::shelf::Shelf;

/// What was sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SortReport {
    /// Lines.
    pub lines: u64,
    /// Lines that were written before an earlier one.
    pub misplaced: u64,
    /// Pieces that did not fit into memory together.
    pub runs: u64,
}

/// Writes all lines of all recordings that `filter` wants in the order of time; those of the same time stay in the order
/// of the shelf. What does not fit into `memory_bytes` waits in temporary files.
///
/// # Errors
/// As for [`search`]; what `out` or a temporary file says.
pub fn sort(
    shelf: &dyn Shelf,
    filter: &Filter,
    memory_bytes: usize,
    mut temporary: impl FnMut() -> io::Result<std::fs::File>,
    mut out: impl Write,
) -> io::Result<SortReport> {
    let mut report = SortReport::default();
    let mut last = 0;
    let mut text: Vec<u8> = Vec::new();
    let mut lines: Vec<(u64, usize, usize)> = Vec::new();
    let mut runs: Vec<std::fs::File> = Vec::new();
    search(shelf, filter, |line, parsed| {
        report.lines += 1;
        report.misplaced += u64::from(parsed.ts < last);
        last = last.max(parsed.ts);
        lines.push((parsed.ts, text.len(), line.len() + 1));
        text.extend_from_slice(line);
        text.push(b'\n');
        if text.len() + lines.len() * size_of::<(u64, usize, usize)>() >= memory_bytes {
            let mut file = temporary()?;
            write_run(&mut lines, &text, &mut file)?;
            file.rewind()?;
            runs.push(file);
            lines.clear();
            text.clear();
        }
        Ok(GoOn::Continue(()))
    })?;
    if runs.is_empty() {
        write_run(&mut lines, &text, &mut out)?;
        out.flush()?;
        return Ok(report);
    }
    if !lines.is_empty() {
        let mut file = temporary()?;
        write_run(&mut lines, &text, &mut file)?;
        file.rewind()?;
        runs.push(file);
    }
    drop((lines, text));
    report.runs = runs.len() as u64;
    merge(runs, &mut out)?;
    out.flush()?;
    Ok(report)
}

fn write_run(
    lines: &mut [(u64, usize, usize)],
    text: &[u8],
    out: &mut impl Write,
) -> io::Result<()> {
    lines.sort_by_key(|(ts, at, _)| (*ts, *at));
    let mut out = io::BufWriter::new(out);
    for (_, at, len) in lines {
        out.write_all(&text[*at..*at + *len])?;
    }
    out.flush()
}

fn merge(runs: Vec<std::fs::File>, out: &mut impl Write) -> io::Result<()> {
    let mut inputs: Vec<_> = runs.into_iter().map(BufReader::new).collect();
    let mut heads = BinaryHeap::new();
    let next = |inputs: &mut Vec<BufReader<std::fs::File>>,
                at: usize|
     -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut line = Vec::new();
        if inputs[at].read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let ts = Line::parse(&line).map_err(io::Error::from)?.ts;
        Ok(Some((ts, line)))
    };
    for at in 0..inputs.len() {
        if let Some((ts, line)) = next(&mut inputs, at)? {
            heads.push(Reverse((ts, at, line)));
        }
    }
    let mut out = io::BufWriter::new(out);
    while let Some(Reverse((_, at, line))) = heads.pop() {
        out.write_all(&line)?;
        if let Some((ts, line)) = next(&mut inputs, at)? {
            heads.push(Reverse((ts, at, line)));
        }
    }
    out.flush()
}
