//! `tipple record`: flags and answers of the verbs for recordings.

mod args;
mod shelf;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tipple_recorder as rec;
use tipple_recorder::{Filter, FolderShelf, GoOn, RecorderError, Shelf};

pub(crate) use args::RecordArgs;
use args::{PathsArgs, RecordVerb, SearchArgs, TableFormat};

use crate::error::{CliError, EXIT_LOST, Kind};
use crate::output::{Answer, Output, print, print_table};
use crate::units::{bytes, count, counted};

impl From<RecorderError> for CliError {
    fn from(error: RecorderError) -> Self {
        let kind = match &error {
            RecorderError::Damaged { .. } => Kind::Damaged,
            RecorderError::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
                Kind::Budget
            }
            _ => Kind::Usage,
        };
        Self::new(kind, error.to_string())
    }
}

/// What reading a recording ends with.
fn unread(error: io::Error) -> CliError {
    let kind = match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Kind::Damaged,
        ErrorKind::InvalidInput | ErrorKind::NotFound => Kind::Usage,
        ErrorKind::OutOfMemory | ErrorKind::StorageFull => Kind::Budget,
        _ => Kind::Store,
    };
    CliError::new(kind, error.to_string())
}

/// Lines on standard output. A reader that went away has seen enough.
struct Lines<W: Write>(W);

impl<W: Write> Lines<W> {
    fn line(&mut self, line: &[u8]) -> io::Result<GoOn> {
        match self
            .0
            .write_all(line)
            .and_then(|()| self.0.write_all(b"\n"))
        {
            Ok(()) => Ok(GoOn::Continue(())),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(GoOn::Break(())),
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn run(args: &RecordArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    match &args.verb {
        RecordVerb::Search(args) => search(args, output),
        RecordVerb::Follow(args) => follow(args),
        RecordVerb::Stats(args) => stats(args, output),
        RecordVerb::Gaps(args) => gaps(args, output),
        RecordVerb::Pair(args) => pair(args, output),
        RecordVerb::Sort(args) => sort(args, output),
        RecordVerb::Repair(args) => repair(args, output),
        RecordVerb::Index(args) => index(args, output),
        RecordVerb::Convert(args) => convert(args, output),
        RecordVerb::Diff(args) => diff(args, output),
    }
}

fn search(args: &SearchArgs, output: &Output) -> Result<u8, CliError> {
    let (shelf, filter) = (shelf::open(&args.paths.paths)?, args.filter.filter()?);
    let mut out = Lines(BufWriter::with_capacity(64 << 10, io::stdout().lock()));
    let mut left = args.limit.unwrap_or(u64::MAX);
    let report = rec::search(shelf.as_ref(), &filter, |line, _| {
        if left == 0 {
            return Ok(GoOn::Break(()));
        }
        left -= 1;
        out.line(line)
    })
    .map_err(unread)?;
    match out.0.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(unread(error)),
        _ => {}
    }
    if report.damaged_lines > 0 {
        output.warn(&format!(
            "warning: {} no recording's: `tipple record repair` cuts torn ends",
            counted(report.damaged_lines, "line is")
        ));
        return Ok(EXIT_LOST);
    }
    Ok(0)
}

fn follow(args: &args::FollowArgs) -> Result<u8, CliError> {
    let filter = args.filter.filter()?;
    let mut follower = rec::Follower::new(&args.folder)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut out = Lines(io::stdout().lock());
    while left > 0 {
        let told = follower
            .poll(&filter, |line, _| {
                left -= 1;
                match out.line(line)? {
                    told if left > 0 => Ok(told),
                    _ => Ok(GoOn::Break(())),
                }
            })
            .map_err(unread)?;
        if told.is_break() || out.0.flush().is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(0)
}

fn stats(args: &SearchArgs, output: &Output) -> Result<u8, CliError> {
    let (shelf, filter) = (shelf::open(&args.paths.paths)?, args.filter.filter()?);
    let stats = rec::stats(shelf.as_ref(), &filter).map_err(unread)?;
    if output.is_json() {
        output.json_report(&stats, 0);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = stats
        .rows
        .iter()
        .take(args.limit.unwrap_or(u64::MAX) as usize)
        .map(|row| {
            let seconds = (row.last_ns - row.first_ns) as f64 / 1e9;
            let rate = match row.records {
                1 => String::new(),
                records => format!("{:.1}", records as f64 / seconds.max(1e-9)),
            };
            vec![
                format!("{} {} {} {}", row.group, row.class, row.direction, row.name),
                count(row.records),
                bytes(row.bytes),
                rate,
            ]
        })
        .collect();
    print_table(
        &[
            "group, class, direction, message",
            "records",
            "size",
            "a second",
        ],
        &rows,
    )?;
    let mut text = format!("{} records, {}\n", count(stats.records), bytes(stats.bytes));
    for (why, lost) in &stats.lost {
        text.push_str(&format!("LOST {why}: {}\n", count(*lost)));
    }
    print(&text)?;
    Ok(0)
}

fn gaps(args: &PathsArgs, output: &Output) -> Result<u8, CliError> {
    let shelf = shelf::open(&args.paths)?;
    let report = rec::gaps(shelf.as_ref()).map_err(unread)?;
    let exit = if report.is_whole() { 0 } else { EXIT_LOST };
    if output.is_json() {
        output.json_report(&report, exit);
        return Ok(exit);
    }
    let mut text = String::new();
    for (run, gaps) in &report.runs {
        let name = if run.is_empty() { "(no run)" } else { run };
        let end = match gaps.is_clean {
            true => "ended cleanly",
            false => "DID NOT END CLEANLY: what was recorded last may be missing",
        };
        text.push_str(&format!("run {name}: {end}\n"));
        for (what, files) in [
            ("missing", &gaps.missing_files),
            ("not closed", &gaps.unclosed_files),
        ] {
            if !files.is_empty() {
                text.push_str(&format!("  files {what}: {}\n", files.join(", ")));
            }
        }
        for (group, gaps) in &gaps.groups {
            text.push_str(&format!(
                "  {group}: {} of {} there, {} missing, {} of them UNEXPLAINED\n",
                count(gaps.records),
                count(gaps.last),
                count(gaps.missing),
                count(gaps.unexplained)
            ));
            if gaps.twice > 0 {
                text.push_str(&format!("    {} there TWICE\n", count(gaps.twice)));
            }
            for gap in gaps.gaps.iter().take(20) {
                let mut why: Vec<String> = gap
                    .lost
                    .iter()
                    .map(|(why, lost)| format!("{why} {lost}"))
                    .collect();
                if gap.unexplained > 0 {
                    why.push(format!("UNEXPLAINED {}", gap.unexplained));
                }
                text.push_str(&format!(
                    "    {} to {}: {}\n",
                    gap.from,
                    gap.to,
                    why.join(", ")
                ));
            }
            if gaps.gaps.len() > 20 {
                text.push_str("    and more: --json tells a thousand\n");
            }
        }
    }
    if report.damaged_lines > 0 {
        text.push_str(&format!(
            "{} no recording's\n",
            counted(report.damaged_lines, "line is")
        ));
    }
    print(&text)?;
    Ok(exit)
}

fn pair(args: &SearchArgs, output: &Output) -> Result<u8, CliError> {
    let (shelf, filter) = (shelf::open(&args.paths.paths)?, args.filter.filter()?);
    let report = rec::pair(shelf.as_ref(), &filter).map_err(unread)?;
    if output.is_json() {
        output.json_report(&report, 0);
        return Ok(0);
    }
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1e3);
    let rows: Vec<Vec<String>> = report
        .latencies
        .iter()
        .map(|(name, l)| {
            vec![
                name.clone(),
                count(l.pairs),
                us(l.p50_ns),
                us(l.p90_ns),
                us(l.p99_ns),
                us(l.max_ns),
            ]
        })
        .collect();
    print_table(
        &[
            "group and request",
            "pairs",
            "p50 µs",
            "p90 µs",
            "p99 µs",
            "max µs",
        ],
        &rows,
    )?;
    print(&format!(
        "{} unanswered, {} unasked\n",
        count(report.unanswered),
        count(report.unasked)
    ))?;
    Ok(0)
}

/// Standard output, or a new file that is there as a whole or not at all.
fn to_file_or_stdout<T>(
    file: Option<&PathBuf>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, CliError> {
    let Some(path) = file else {
        let mut out = BufWriter::new(io::stdout().lock());
        return match write(&mut out) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                // It has seen enough, and nothing comes after it.
                std::process::exit(0)
            }
            done => done.map_err(unread),
        };
    };
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let unwritable = |error: io::Error| {
        CliError::new(
            Kind::Budget,
            format!("cannot write {}: {error}", path.display()),
        )
    };
    let mut staged =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(".".as_ref())).map_err(unwritable)?;
    let done = write(&mut staged).map_err(unread)?;
    staged.as_file().sync_all().map_err(unwritable)?;
    staged
        .persist_noclobber(path)
        .map_err(|error| match error.error.kind() {
            ErrorKind::AlreadyExists => {
                CliError::usage(format!("{} exists: choose another file", path.display()))
            }
            _ => unwritable(error.error),
        })?;
    Ok(done)
}

fn sort(args: &args::SortArgs, output: &Output) -> Result<u8, CliError> {
    let (shelf, filter) = (
        shelf::open(&args.search.paths.paths)?,
        args.search.filter.filter()?,
    );
    let filter = Filter {
        marks: true,
        ..filter
    };
    let memory = usize::try_from(args.memory.0).unwrap_or(usize::MAX);
    let report = to_file_or_stdout(args.output_file.as_ref(), |out| {
        rec::sort(shelf.as_ref(), &filter, memory, tempfile::tempfile, out)
    })?;
    done(
        output,
        args.output_file.is_some(),
        &report,
        format!(
            "sorted {}, {} out of place",
            counted(report.lines, "line"),
            count(report.misplaced)
        ),
    );
    Ok(0)
}

/// What was done: standard output is free for it only if the data went elsewhere.
fn done(output: &Output, is_free: bool, report: &impl Serialize, text: String) {
    if output.is_json() && is_free {
        output.json_report(report, 0);
    }
    output.say(&text);
}

fn repair(args: &args::RepairArgs, output: &Output) -> Result<u8, CliError> {
    #[derive(Default, Serialize)]
    struct Report {
        repaired: Vec<rec::Repaired>,
        damaged: Vec<String>,
    }
    let mut report = Report::default();
    for path in &args.paths {
        if path.is_dir() {
            let (repaired, damaged) = rec::repair_folder(path)?;
            report.repaired.extend(repaired);
            report
                .damaged
                .extend(damaged.iter().map(ToString::to_string));
        } else {
            report.repaired.extend(rec::repair_file(path)?);
        }
    }
    let exit = if report.damaged.is_empty() {
        0
    } else {
        Kind::Damaged.exit()
    };
    for file in &report.repaired {
        output.say(&format!(
            "{}: {} cut off",
            file.path.display(),
            bytes(file.cut_bytes)
        ));
    }
    for damaged in &report.damaged {
        output.warn(&format!("error: {damaged}"));
    }
    if report.repaired.is_empty() && report.damaged.is_empty() {
        output.say("nothing to repair");
    }
    output.json_report(&report, exit);
    Ok(exit)
}

fn index(args: &args::RepairArgs, output: &Output) -> Result<u8, CliError> {
    let shelf = FolderShelf::open(&args.paths)?;
    let mut files = 0;
    for path in shelf.files() {
        // What is still written gets its index when it is closed.
        if path
            .extension()
            .is_some_and(|extension| extension == "open")
        {
            continue;
        }
        let index = rec::index_of(path)?;
        rec::put_index(path, &index).map_err(|error| {
            CliError::new(
                Kind::Budget,
                format!("cannot write the index of {}: {error}", path.display()),
            )
        })?;
        files += 1;
    }
    output.say(&format!("indexed {}", counted(files, "file")));
    output.json_report(&serde_json::json!({"verb": "index", "files": files}), 0);
    Ok(0)
}

fn convert(args: &args::ConvertArgs, output: &Output) -> Result<u8, CliError> {
    let (shelf, filter) = (
        shelf::open(&args.search.paths.paths)?,
        args.search.filter.filter()?,
    );
    let columns = match args.columns.is_empty() {
        true => rec::Columns::default(),
        false => rec::Columns::new(args.columns.clone()).map_err(CliError::usage)?,
    };
    let records = to_file_or_stdout(args.output_file.as_ref(), |out| match args.table_format() {
        TableFormat::Csv => rec::to_csv(shelf.as_ref(), &filter, &columns, out),
        TableFormat::Parquet => rec::to_parquet(shelf.as_ref(), &filter, &columns, out),
    })?;
    let report = serde_json::json!({"verb": "convert", "records": records});
    done(
        output,
        args.output_file.is_some(),
        &report,
        format!("converted {}", counted(records, "record")),
    );
    Ok(0)
}

fn diff(args: &args::DiffArgs, output: &Output) -> Result<u8, CliError> {
    let filter = args.filter.filter()?;
    let open = |path: &std::ffi::OsString| shelf::open(std::slice::from_ref(path));
    let (left, right): (Box<dyn Shelf>, Box<dyn Shelf>) = (open(&args.left)?, open(&args.right)?);
    let ignored = rec::Ignored::new(&args.ignore);
    let report = rec::diff(left.as_ref(), right.as_ref(), &filter, &ignored).map_err(unread)?;
    let exit = if report.is_same() {
        0
    } else {
        Kind::Damaged.exit()
    };
    if output.is_json() {
        output.json_report(&report, exit);
        return Ok(exit);
    }
    let mut answer = Answer::default();
    answer
        .row("same", count(report.same))
        .row("different", count(report.different));
    for (what, streams) in [
        ("only left", &report.only_left),
        ("only right", &report.only_right),
    ] {
        for (stream, records) in streams {
            answer.row(what, format!("{stream}: {}", counted(*records, "record")));
        }
    }
    for difference in &report.differences {
        answer.row(
            format!("{} {}", difference.stream, difference.place),
            format!(
                "{}: {} / {}",
                difference.path, difference.left, difference.right
            ),
        );
    }
    answer.print(output, &report)?;
    Ok(exit)
}
