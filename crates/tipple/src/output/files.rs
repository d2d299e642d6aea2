//! What the user sees of jobs on files: a spinner or a line now and then, events in JSON, and the report.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tipple_budget::GateState;
use tipple_supervise::{Job, Report};

use crate::output::meter::{Meter, Sample};
use crate::output::{Answer, Output};
use crate::units::{bytes, counted, time};

const TICK: Duration = Duration::from_millis(100);
const JSON_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Draws for as long as it exists.
pub(crate) struct WatchingFiles {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl WatchingFiles {
    /// `limit_bytes`: of the command's folder, if there is a command.
    pub(crate) fn start(
        verb: &'static str,
        limit_bytes: Option<u64>,
        job: Arc<Job>,
        output: Arc<Output>,
    ) -> Self {
        if !output.progress && !output.json {
            return Self {
                stop: None,
                thread: None,
            };
        }
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut drawing = Drawing::new(verb, limit_bytes, &job, &output);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                drawing.tick(Instant::now());
            }
            drawing.end();
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for WatchingFiles {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A display that panicked has said so, and must not end the job.
            let _ = thread.join();
        }
    }
}

struct Drawing<'a> {
    verb: &'static str,
    limit_bytes: Option<u64>,
    job: &'a Job,
    output: &'a Output,
    meter: Meter,
    json_at: Instant,
    line_at: Instant,
    bar: Option<(MultiProgress, ProgressBar)>,
}

impl<'a> Drawing<'a> {
    fn new(verb: &'static str, limit_bytes: Option<u64>, job: &'a Job, output: &'a Output) -> Self {
        let now = Instant::now();
        // A supervised command writes to the same terminal, and a bar would wipe its words away.
        let is_alone = limit_bytes.is_none();
        let bar = (output.progress && output.is_terminal() && is_alone).then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            let bar = all.add(ProgressBar::new_spinner());
            let template = "{spinner} {prefix} {wide_msg}";
            bar.set_style(ProgressStyle::with_template(template).expect("it is a template"));
            bar.set_prefix(verb);
            (all, bar)
        });
        if let Some((all, _)) = &bar {
            *output.bars.lock().unwrap_or_else(PoisonError::into_inner) = Some(all.clone());
        }
        Self {
            verb,
            limit_bytes,
            job,
            output,
            meter: Meter::default(),
            json_at: now,
            line_at: now,
            bar,
        }
    }

    fn tick(&mut self, now: Instant) {
        let progress = self.job.progress();
        self.meter.add(Sample {
            at: now,
            records: progress.files(),
            bytes: progress.stored_bytes(),
        });
        if self.output.json && now.duration_since(self.json_at) >= JSON_EVERY {
            self.json_at = now;
            self.output.json(&json!({
                "event": "progress",
                "state": self.state(),
                "files": progress.files(),
                "stored_bytes": progress.stored_bytes(),
                "uploading": progress.uploading(),
                "spool_bytes_used": progress.used_bytes(),
                "spool_bytes_limit": self.limit_bytes,
                "elapsed_ms": self.job.elapsed().as_millis() as u64,
            }));
        }
        if !self.output.progress || !progress.has_begun() {
            return;
        }
        let text = self.text();
        if let Some((_, bar)) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if now.duration_since(self.line_at) >= LINE_EVERY {
            self.line_at = now;
            self.output.stderr(&format!("{}: {text}", self.verb));
        }
    }

    fn text(&self) -> String {
        let progress = self.job.progress();
        let (_, rate) = self.meter.rates();
        let used = match self.limit_bytes {
            Some(limit) => format!(
                "{} · {} of {} · ",
                self.state(),
                bytes(progress.used_bytes()),
                bytes(limit)
            ),
            None => String::new(),
        };
        format!(
            "{used}{}, {} · {:.1} MiB/s",
            counted(progress.files(), "file"),
            bytes(progress.stored_bytes()),
            rate / f64::from(1 << 20)
        )
    }

    fn state(&self) -> &'static str {
        let progress = self.job.progress();
        match self.job.gate().state() {
            GateState::Cancelled => "stopping",
            _ if !progress.has_begun() => "starting",
            _ if progress.is_paused() => "paused",
            _ if progress.has_ended() => "finishing",
            _ => "working",
        }
    }

    fn end(self) {
        if let Some((all, bar)) = self.bar {
            let mut shared = self
                .output
                .bars
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *shared = None;
            bar.finish_and_clear();
            let _ = all.clear();
        }
    }
}

/// "stored 12 files, 3.4 MiB", and what there is to know about it.
pub(crate) fn files_report_text(did: &str, report: &Report) -> String {
    let mut text = format!(
        "{did} {}, {}\n",
        counted(report.files, "file"),
        bytes(report.stored_bytes)
    );
    let mut rows = Answer::default();
    if report.earlier_files > 0 {
        rows.row(
            "  before",
            format!(
                "{} were there already",
                counted(report.earlier_files, "file")
            ),
        );
    }
    if report.skipped > 0 {
        rows.row(
            "  SKIPPED",
            format!("{}: neither files nor folders", report.skipped),
        );
    }
    if let Some(exit) = report.command {
        rows.row("  command", exit.to_string());
    }
    if report.spool_bytes_limit > 0 {
        rows.row(
            "  folder",
            format!(
                "{} at most, of {}",
                bytes(report.spool_bytes_max),
                bytes(report.spool_bytes_limit)
            ),
        );
        rows.row(
            "  pauses",
            match report.pauses {
                0 => "none".to_owned(),
                pauses => format!(
                    "{pauses}, {} in all, the longest {}",
                    time(Duration::from_millis(report.paused_ms)),
                    time(Duration::from_millis(report.pause_ms_max))
                ),
            },
        );
    }
    rows.row("  time", time(Duration::from_millis(report.elapsed_ms)));
    text.push_str(&rows.text());
    text
}
