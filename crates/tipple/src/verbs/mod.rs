//! The verbs: each from its flags to an exit code.

mod account;
mod append;
mod cachemover;
mod cat;
mod copy;
mod doctor;
mod dry_run;
mod dump;
mod keygen;
mod list;
mod load;
mod pages;
mod prune;
mod snapshot;
mod supervise;
mod verify;

use std::sync::Arc;

use clap::ArgMatches;
use tipple_dump::Report;

use crate::cli::Verb;
use crate::error::{CliError, EXIT_LOST};
use crate::output::{Output, report_text};
use crate::ready::Typed;
use crate::tour;

/// How the verb tells what happens.
pub(crate) fn output(verb: &Verb) -> Result<Arc<Output>, CliError> {
    match verb {
        Verb::Dump(args) => Output::new(&args.output, Some(&args.watch)),
        Verb::Load(args) => Output::new(&args.output, Some(&args.watch)),
        Verb::Copy(args) => Output::new(&args.output, Some(&args.watch)),
        Verb::Verify(args) => Output::new(&args.output, Some(&args.watch)),
        Verb::List(args) => Output::new(&args.output, None),
        Verb::Prune(args) => Output::new(&args.output, None),
        Verb::Append(args) => Output::new(&args.output, None),
        Verb::Keygen(args) => Output::new(&args.output, None),
        Verb::Supervise(args) => Output::new(&args.output, Some(&args.watch)),
        Verb::Record(args) => Output::new(args.output(), None),
        Verb::Doctor(args) => Output::new(&args.output, None),
        Verb::Snapshot(args) => Output::new(args.output(), None),
        Verb::Cat(args) => Output::plain(&args.settings),
        Verb::Tour(args) => Output::plain(&args.settings),
        Verb::Completions(_) | Verb::Man(_) => Ok(Arc::new(Output::bare(false))),
    }
}

/// Runs the verb; returns the exit code.
pub(crate) fn run(verb: &Verb, matches: &ArgMatches, output: &Arc<Output>) -> u8 {
    let typed = Typed { matches };
    let result = match verb {
        Verb::Dump(args) => dump::run(args, &typed, output),
        Verb::Load(args) => load::run(args, &typed, output),
        Verb::Copy(args) => copy::run(args, &typed, output),
        Verb::Verify(args) => verify::run(args, &typed, output),
        Verb::List(args) => list::run(args, &typed, output),
        Verb::Cat(args) => cat::run(args, &typed, output),
        Verb::Prune(args) => prune::run(args, &typed, output),
        Verb::Append(args) => append::run(args, output),
        Verb::Keygen(args) => keygen::run(args, output),
        Verb::Supervise(args) => supervise::run(args, &typed, output),
        Verb::Record(args) => crate::record::run(args, output),
        Verb::Doctor(args) => doctor::run(args, &typed, output),
        Verb::Snapshot(args) => snapshot::run(args, output),
        Verb::Tour(args) => tour::run(args),
        Verb::Completions(args) => pages::completions(args),
        Verb::Man(args) => pages::man(args),
    };
    result.unwrap_or_else(|error| {
        output.error(&error);
        error.kind.exit()
    })
}

/// The end of a job that moved records: its report, for people and as JSON, and the exit code.
fn finish(output: &Output, done: &str, report: &Report, next: Option<String>) -> u8 {
    let untold_parts = report.queue.map_or(0, |queue| queue.untold_parts);
    let exit = match report.lost_total() + report.undelivered_total() + untold_parts {
        0 => 0,
        _ => EXIT_LOST,
    };
    let mut text = report_text(done, report);
    if let Some(next) = next {
        text.push_str(&format!("next: {next}\n"));
    }
    match exit {
        0 => output.say(text.trim_end()),
        _ => output.warn(text.trim_end()),
    }
    output.json_report(report, exit);
    exit
}

/// As it can be typed into a shell.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,=+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
