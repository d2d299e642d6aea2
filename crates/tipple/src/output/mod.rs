//! What the user sees: progress, reports, JSON, the log.
//!
//! Standard output has data and answers; everything else goes to standard error. All of it goes through [`Output`], so
//! that a line never tears a bar apart.

mod answer;
mod files;
mod log;
mod meter;
mod progress;
mod report;
mod watching;

use std::io::{self, IsTerminal, Write};
use std::process::exit;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;
use serde_json::json;
use tipple_dump::Event;
use tipple_flow::Outcomes;

use crate::cli::{Level, OutputFlags, SettingFlags, WatchFlags};
use crate::error::{CliError, Kind};

pub(crate) use answer::{Answer, print_table};
pub(crate) use files::{files_report_text, watch_files};
use log::Log;
pub(crate) use progress::watch;
pub(crate) use report::{Needs, dry_run_text, report_text, verify_text};
use watching::Watching;

/// The last line of JSON of a job that came to its end.
#[derive(Serialize)]
struct ReportLine<'a, T> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a T,
    exit: u8,
}

/// The last line of JSON of one that did not.
#[derive(Serialize)]
struct ErrorLine {
    event: &'static str,
    kind: &'static str,
    exit: u8,
    message: String,
}

/// Where everything that is told goes.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    progress: bool,
    log: Option<Log>,
    /// Bars, on a terminal.
    bars: Mutex<Option<MultiProgress>>,
    /// Lines for when the job begins.
    at_start: Mutex<Vec<String>>,
}

impl Output {
    /// `watch`: `None` for verbs without progress.
    pub(crate) fn new(
        flags: &OutputFlags,
        watch: Option<&WatchFlags>,
    ) -> Result<Arc<Self>, CliError> {
        Self::with(flags.json, flags.quiet, watch, &flags.settings)
    }

    /// For verbs that have nothing to tell but their data.
    pub(crate) fn plain(settings: &SettingFlags) -> Result<Arc<Self>, CliError> {
        Self::with(false, true, None, settings)
    }

    fn with(
        json: bool,
        quiet: bool,
        watch: Option<&WatchFlags>,
        settings: &SettingFlags,
    ) -> Result<Arc<Self>, CliError> {
        let log = settings
            .log_file
            .as_deref()
            .map(|path| Log::open(path, settings.log_level))
            .transpose()?;
        Ok(Arc::new(Self {
            json,
            quiet,
            progress: watch.is_some_and(|watch| !quiet && !watch.no_progress),
            log,
            bars: Mutex::default(),
            at_start: Mutex::default(),
        }))
    }

    /// What is told if not even the flags could be understood.
    pub(crate) fn bare(json: bool) -> Self {
        Self {
            json,
            quiet: false,
            progress: false,
            log: None,
            bars: Mutex::default(),
            at_start: Mutex::default(),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Lines to be told when the job begins, and not if it is refused.
    pub(crate) fn at_start(&self, lines: impl IntoIterator<Item = String>) {
        let mut at_start = self.at_start.lock().unwrap_or_else(PoisonError::into_inner);
        at_start.extend(lines);
    }

    /// Where bars are drawn: from now on, lines go above them.
    fn open_bars(&self) -> MultiProgress {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        *self.bars.lock().unwrap_or_else(PoisonError::into_inner) = Some(bars.clone());
        bars
    }

    fn close_bars(&self) {
        *self.bars.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A line on standard error, above the bars.
    fn stderr(&self, text: &str) {
        let text = without_orders(text);
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        // A terminal that is gone must not end the job.
        let write = || {
            let _ = writeln!(io::stderr().lock(), "{text}");
        };
        match &*bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// For people; not with `--quiet`.
    pub(crate) fn say(&self, text: &str) {
        self.log(Level::Info, text);
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// For people, always.
    pub(crate) fn warn(&self, text: &str) {
        self.log(Level::Warn, text);
        self.stderr(text);
    }

    fn log(&self, level: Level, text: &str) {
        let text = without_orders(text);
        if let Some(log) = &self.log {
            for line in text.lines() {
                log.line(level, line.trim_end());
            }
        }
    }

    /// One line of JSON, with `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) {
        if !self.json {
            return;
        }
        let mut line = serde_json::to_vec(value).expect("plain values serialize");
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        // Whoever does not read on does not want to know.
        let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    }

    /// What a job tells.
    pub(crate) fn event(&self, event: &Event) {
        self.json(event);
        match event {
            Event::Start {
                parts_committed, ..
            } => {
                let lines = std::mem::take(
                    &mut *self.at_start.lock().unwrap_or_else(PoisonError::into_inner),
                );
                for line in lines {
                    self.say(&line);
                }
                if *parts_committed > 0 {
                    self.say(&format!(
                        "going on where it was: {} done already",
                        crate::units::counted(*parts_committed, "part")
                    ));
                }
            }
            Event::Phase { phase } => {
                self.log(Level::Debug, &format!("phase {phase:?}").to_lowercase())
            }
            Event::Part {
                part,
                records,
                outcomes,
            } => {
                self.log(Level::Debug, &format!("part {part}: {records} records"));
                self.losses(&format!("part {part}"), outcomes);
            }
            Event::Chunk {
                chunk,
                records,
                outcomes,
            } => {
                self.log(Level::Debug, &format!("chunk {chunk}: {records} records"));
                self.losses(&format!("chunk {chunk}"), outcomes);
            }
            Event::Warning { message } => self.warn(&format!("warning: {message}")),
        }
    }

    fn losses(&self, of: &str, outcomes: &Outcomes) {
        if outcomes.lost() > 0 {
            let causes: Vec<_> = outcomes
                .losses()
                .map(|(cause, records)| format!("{cause} {records}"))
                .collect();
            self.log(Level::Warn, &format!("{of} lost {}", causes.join(", ")));
        }
    }

    /// What a job on files tells.
    pub(crate) fn files_event(&self, event: &tipple_supervise::Event) {
        use tipple_supervise::Event as E;
        self.json(event);
        match event {
            E::Start {
                run,
                command,
                files_stored,
                ..
            } => {
                let lines = std::mem::take(
                    &mut *self.at_start.lock().unwrap_or_else(PoisonError::into_inner),
                );
                for line in lines {
                    self.say(&line);
                }
                if !command {
                    self.say(&format!(
                        "run {run} had ended: finishing it, {} stored already",
                        crate::units::counted(*files_stored, "file")
                    ));
                }
            }
            E::Pause { used_bytes, .. } => self.log(
                Level::Debug,
                &format!("paused at {}", crate::units::bytes(*used_bytes)),
            ),
            E::Resume { paused_ms, .. } => {
                self.log(Level::Debug, &format!("resumed after {paused_ms} ms"));
            }
            E::File { path, bytes } => {
                self.log(Level::Debug, &format!("stored {path}: {bytes} bytes"));
            }
            E::Ended { exit } => self.log(Level::Info, &format!("the command ended: {exit}")),
            E::Warning { message } => self.warn(&format!("warning: {message}")),
            _ => {}
        }
    }

    /// The gate was used: `{"event":"paused"}` and a line.
    pub(crate) fn gate_event(&self, event: &str, text: &str) {
        self.json(&json!({ "event": event }));
        self.say(text);
    }

    /// The process ends here, by a signal.
    pub(crate) fn ended_at_once(&self) {
        self.error(&CliError::new(
            Kind::Interrupted,
            "interrupted; run the same command again",
        ));
    }

    /// The one line of an error, and its last line of JSON.
    pub(crate) fn error(&self, error: &CliError) {
        let line = format!("error: {error}");
        self.log(Level::Error, &line);
        self.stderr(&line);
        self.json(&ErrorLine {
            event: "error",
            kind: error.kind.name(),
            exit: error.kind.exit(),
            message: error.to_string(),
        });
    }

    /// The last line of JSON of a job that came to its end.
    pub(crate) fn json_report(&self, report: &impl Serialize, exit: u8) {
        self.json(&ReportLine {
            event: "report",
            report,
            exit,
        });
    }

    fn is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }
}

/// Text with nothing in it that a terminal would obey: names and messages in it may come from anyone's dump or server.
fn without_orders(text: &str) -> String {
    text.replace(
        |c: char| c.is_control() && !matches!(c, '\n' | '\t'),
        "\u{FFFD}",
    )
}

/// Data on standard output. A reader that went away has seen enough: the process ends, quietly.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit(0),
        Err(error) => Err(CliError::new(
            Kind::Budget,
            format!("cannot write to standard output: {error}"),
        )),
    }
}
