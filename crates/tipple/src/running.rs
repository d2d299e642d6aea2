//! A job that is running, with those who watch it and those who may end it.

use std::sync::Arc;

use tipple_budget::Rates;
use tipple_dump::{DumpError, Job};
use tipple_supervise::SuperviseError;

use crate::error::{CliError, Kind};
use crate::output::{Output, watch, watch_files};
use crate::signals::Listening;

/// Runs `work` as a job: its events and its progress are told, and signals reach its gate.
pub(crate) fn run<T>(
    verb: &'static str,
    rates: Rates,
    output: &Arc<Output>,
    work: impl FnOnce(&Job) -> Result<T, DumpError>,
) -> Result<T, CliError> {
    let listener = Arc::clone(output);
    let job = Arc::new(Job::new(rates).on_event(move |event| listener.event(event)));
    let _listening = Listening::start(Arc::clone(&job), Arc::clone(output))?;
    let watching = watch(verb, Arc::clone(&job), output);
    let result = work(&job);
    // The bars are gone before anyone tells how it ended.
    drop(watching);
    result.map_err(|error| match error {
        DumpError::Interrupted => CliError::new(Kind::Interrupted, interrupted(verb)),
        error => error.into(),
    })
}

/// Runs `work` as a job on files: as [`run`], for what `tipple-supervise` does.
pub(crate) fn run_files<T>(
    verb: &'static str,
    limit_bytes: Option<u64>,
    output: &Arc<Output>,
    work: impl FnOnce(&tipple_supervise::Job) -> Result<T, SuperviseError>,
) -> Result<T, CliError> {
    let listener = Arc::clone(output);
    let job = tipple_supervise::Job::new().on_event(move |event| listener.files_event(event));
    let job = Arc::new(job);
    let _listening = Listening::start(Arc::clone(&job), Arc::clone(output))?;
    let watching = watch_files(verb, limit_bytes, Arc::clone(&job), output);
    let result = work(&job);
    drop(watching);
    result.map_err(|error| match (error, verb) {
        (SuperviseError::Interrupted, "load") => CliError::new(
            Kind::Interrupted,
            "interrupted; run the same command again to go on",
        ),
        (SuperviseError::Interrupted, "verify") => CliError::new(Kind::Interrupted, "interrupted"),
        (error, _) => error.into(),
    })
}

/// What the same command would do, run again.
fn interrupted(verb: &str) -> &'static str {
    match verb {
        "dump" => "interrupted; run the same command again to go on",
        "load" => {
            "interrupted; run the same command again: with --state it goes on, without it begins anew"
        }
        "load --from-queue" => {
            "interrupted; run the same command again: it goes on with what is in the queue"
        }
        "copy" => "interrupted; a copy begins anew when it is run again",
        _ => "interrupted",
    }
}
