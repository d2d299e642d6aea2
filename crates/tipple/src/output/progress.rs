//! Progress: bars on a terminal, a line now and then elsewhere, events in JSON.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tipple_budget::GateState;
use tipple_dump::{Job, Phase};

use crate::output::meter::{Meter, Sample, Share};
use crate::output::watching::{Drawing, Due};
use crate::output::{Output, Watching};
use crate::units;

/// Draws for as long as what it returns exists.
pub(crate) fn watch(verb: &'static str, job: Arc<Job>, output: &Arc<Output>) -> Watching {
    let to = Arc::clone(output);
    Watching::start(output, move || Records::new(verb, job, to))
}

/// A line of JSON, once a second. Totals are 0 if nobody knows them.
#[derive(Serialize)]
struct ProgressLine {
    event: &'static str,
    state: &'static str,
    listed: u64,
    parts: u64,
    parts_total: u64,
    chunks: u64,
    records: u64,
    records_estimate: u64,
    raw_bytes: u64,
    raw_bytes_estimate: u64,
    stored_bytes: u64,
    memory_bytes_held: u64,
    memory_bytes_budget: u64,
    spool_bytes_held: u64,
    spool_bytes_budget: u64,
    elapsed_ms: u64,
}

struct Records {
    verb: &'static str,
    job: Arc<Job>,
    output: Arc<Output>,
    meter: Meter,
    began: Instant,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    bar: ProgressBar,
    details: [ProgressBar; 2],
    is_spinner: bool,
}

impl Drawing for Records {
    fn tick(&mut self, now: Instant, due: &mut Due) {
        let progress = self.job.progress();
        self.meter.add(Sample {
            at: now,
            records: progress.records(),
            bytes: progress.raw_bytes(),
        });
        if self.output.json && due.json(now) {
            self.json(now);
        }
        // Before it begins there is nothing to draw, and other lines come.
        if !self.output.progress || progress.phase() == Phase::Starting {
            return;
        }
        let share = self.share();
        let pace = self.pace(share.as_ref());
        let details = [self.parts(), self.amounts()];
        if let Some(bars) = &mut self.bars {
            bars.draw(self.verb, share.as_ref(), &pace, details);
        } else if due.line(now) {
            let percent = share.as_ref().map_or(String::new(), |share| {
                format!("{:.0}% · ", share.fraction() * 100.0)
            });
            let [parts, amounts] = details;
            self.output.stderr(&format!(
                "{}: {percent}{pace} · {parts} · {amounts}",
                self.verb
            ));
        }
    }

    fn end(self) {
        if let Some(bars) = self.bars {
            self.output.close_bars();
            bars.bar.finish_and_clear();
            for detail in &bars.details {
                detail.finish_and_clear();
            }
            let _ = bars.all.clear();
            let _ = std::io::stderr().flush();
        }
    }
}

impl Records {
    fn new(verb: &'static str, job: Arc<Job>, output: Arc<Output>) -> Self {
        let bars = (output.progress && output.is_terminal()).then(|| Bars::new(output.open_bars()));
        Self {
            verb,
            job,
            output,
            meter: Meter::default(),
            began: Instant::now(),
            bars,
        }
    }

    /// Of bytes where their number is known, else of records, else of parts.
    fn share(&self) -> Option<Share> {
        let progress = self.job.progress();
        let (records_rate, bytes_rate) = self.meter.rates();
        let share = |done, total, per_second| Share {
            done,
            total,
            per_second,
        };
        if progress.raw_bytes_estimate() > 0 {
            let total = progress.raw_bytes_estimate();
            Some(share(progress.raw_bytes(), total, bytes_rate))
        } else if progress.records_estimate() > 0 {
            let total = progress.records_estimate();
            Some(share(progress.records(), total, records_rate))
        } else if progress.phase() != Phase::Planning && progress.parts_total() > 1 {
            Some(share(progress.parts(), progress.parts_total(), 0.0))
        } else {
            None
        }
    }

    /// How much, how fast, how long still: what must fit beside a bar on 80 columns.
    fn pace(&self, share: Option<&Share>) -> String {
        let progress = self.job.progress();
        let (_, bytes_rate) = self.meter.rates();
        let bytes = match progress.raw_bytes_estimate() {
            0 => units::bytes(progress.raw_bytes()),
            total => format!(
                "{} of {}",
                units::bytes(progress.raw_bytes()),
                units::bytes(total.max(progress.raw_bytes()))
            ),
        };
        let mut text = format!("{bytes} · {:.1} MiB/s", bytes_rate / f64::from(1 << 20));
        if self.job.gate().state() == GateState::Open
            && let Some(left) = share.and_then(Share::left)
        {
            text.push_str(" · ETA ");
            text.push_str(&units::time(left));
        }
        text
    }

    /// State and parts.
    fn parts(&self) -> String {
        let progress = self.job.progress();
        let mut text = self.state().to_owned();
        if progress.listed() > 0 && progress.phase() == Phase::Planning {
            text.push_str(&format!(" · listed {}", units::count(progress.listed())));
        }
        if progress.parts_total() > 0 {
            text.push_str(&format!(
                " · parts {} of {}",
                units::count(progress.parts()),
                units::count(progress.parts_total())
            ));
        }
        text
    }

    /// Records, disk, memory.
    fn amounts(&self) -> String {
        let progress = self.job.progress();
        let (records_rate, _) = self.meter.rates();
        let mut text = format!(
            "{} · {}/s",
            units::counted(progress.records(), "record"),
            units::short_count(records_rate)
        );
        if progress.stored_bytes() > 0 {
            text.push_str(&format!(
                " · stored {}",
                units::bytes(progress.stored_bytes())
            ));
        }
        if let Some(memory) = self.job.memory() {
            text.push_str(&format!(
                " · memory {} of {}",
                units::bytes(memory.held()),
                units::bytes(memory.limit())
            ));
        }
        if let Some(spool) = self.job.spool() {
            text.push_str(&format!(
                " · spool {} of {}",
                units::bytes(spool.held()),
                units::bytes(spool.limit())
            ));
        }
        text
    }

    fn state(&self) -> &'static str {
        match (self.job.gate().state(), self.job.progress().phase()) {
            (GateState::Paused, _) => "paused",
            (GateState::Cancelled, _) => "stopping",
            (GateState::Open, Phase::Starting) => "starting",
            (GateState::Open, Phase::Planning) => "planning",
            (GateState::Open, Phase::Working) => "working",
            (GateState::Open, Phase::Finishing) => "finishing",
        }
    }

    fn json(&self, now: Instant) {
        let progress = self.job.progress();
        let (memory, spool) = (self.job.memory(), self.job.spool());
        self.output.json(&ProgressLine {
            event: "progress",
            state: self.state(),
            listed: progress.listed(),
            parts: progress.parts(),
            parts_total: progress.parts_total(),
            chunks: progress.chunks(),
            records: progress.records(),
            records_estimate: progress.records_estimate(),
            raw_bytes: progress.raw_bytes(),
            raw_bytes_estimate: progress.raw_bytes_estimate(),
            stored_bytes: progress.stored_bytes(),
            memory_bytes_held: memory.map_or(0, |memory| memory.held()),
            memory_bytes_budget: memory.map_or(0, |memory| memory.limit()),
            spool_bytes_held: spool.map_or(0, |spool| spool.held()),
            spool_bytes_budget: spool.map_or(0, |spool| spool.limit()),
            elapsed_ms: now.duration_since(self.began).as_millis() as u64,
        });
    }
}

impl Bars {
    fn new(all: MultiProgress) -> Self {
        let bar = all.add(ProgressBar::new(1000));
        let details = [(); 2].map(|()| {
            let detail = all.add(ProgressBar::new(0));
            detail.set_style(style("  {wide_msg}"));
            detail
        });
        bar.set_style(style("{spinner} {prefix} {wide_msg}"));
        Self {
            all,
            bar,
            details,
            is_spinner: true,
        }
    }

    fn draw(&mut self, verb: &str, share: Option<&Share>, pace: &str, details: [String; 2]) {
        if self.is_spinner != share.is_none() {
            self.is_spinner = share.is_none();
            self.bar.set_style(match share {
                Some(_) => {
                    style("{spinner} {prefix} {bar:16} {wide_msg}").progress_chars("█▉▊▋▌▍▎▏░")
                }
                None => style("{spinner} {prefix} {wide_msg}"),
            });
        }
        self.bar.set_prefix(verb.to_owned());
        let message = match share {
            Some(share) => {
                let fraction = share.fraction();
                self.bar.set_position((fraction * 1000.0) as u64);
                format!("{:>3.0}% · {pace}", fraction * 100.0)
            }
            None => pace.to_owned(),
        };
        self.bar.set_message(message);
        self.bar.tick();
        for (detail, text) in self.details.iter().zip(details) {
            detail.set_message(text);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are templates")
}
