//! What the user sees of jobs on files: a spinner or a line now and then, events in JSON, and the report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use tipple_budget::GateState;
use tipple_supervise::{Job, Report};

use crate::output::meter::{Meter, Sample};
use crate::output::watching::{Drawing, Due};
use crate::output::{Answer, Output, Watching};
use crate::units::{bytes, counted, time};

/// Draws for as long as what it returns exists. `limit_bytes`: of the command's folder, if there is a command.
pub(crate) fn watch_files(
    verb: &'static str,
    limit_bytes: Option<u64>,
    job: Arc<Job>,
    output: &Arc<Output>,
) -> Watching {
    let to = Arc::clone(output);
    Watching::start(output, move || Files::new(verb, limit_bytes, job, to))
}

struct Files {
    verb: &'static str,
    limit_bytes: Option<u64>,
    job: Arc<Job>,
    output: Arc<Output>,
    meter: Meter,
    bar: Option<(MultiProgress, ProgressBar)>,
}

impl Drawing for Files {
    fn tick(&mut self, now: Instant, due: &mut Due) {
        let progress = self.job.progress();
        self.meter.add(Sample {
            at: now,
            records: progress.files(),
            bytes: progress.stored_bytes(),
        });
        if self.output.json && due.json(now) {
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
        } else if due.line(now) {
            self.output.stderr(&format!("{}: {text}", self.verb));
        }
    }

    fn end(self) {
        if let Some((all, bar)) = self.bar {
            self.output.close_bars();
            bar.finish_and_clear();
            let _ = all.clear();
        }
    }
}

impl Files {
    fn new(
        verb: &'static str,
        limit_bytes: Option<u64>,
        job: Arc<Job>,
        output: Arc<Output>,
    ) -> Self {
        // A supervised command writes to the same terminal, and a bar would wipe its words away.
        let is_alone = limit_bytes.is_none();
        let bar = (output.progress && output.is_terminal() && is_alone).then(|| {
            let all = output.open_bars();
            let bar = all.add(ProgressBar::new_spinner());
            let template = "{spinner} {prefix} {wide_msg}";
            bar.set_style(ProgressStyle::with_template(template).expect("it is a template"));
            bar.set_prefix(verb);
            (all, bar)
        });
        Self {
            verb,
            limit_bytes,
            job,
            output,
            meter: Meter::default(),
            bar,
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
