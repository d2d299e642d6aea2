//! Signals: end, pause, resume.

use std::sync::Arc;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};
use tipple_dump::{Job, Phase};

use crate::error::{CliError, Kind};
use crate::output::Output;

/// Listens for as long as it exists.
pub(crate) struct Listening {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// SIGINT and SIGTERM cancel `job`, a second one ends the process; SIGUSR1 pauses, SIGUSR2 resumes.
    pub(crate) fn start(job: Arc<Job>, output: Arc<Output>) -> Result<Self, CliError> {
        let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1, SIGUSR2]).map_err(|error| {
            CliError::new(
                Kind::Unexpected,
                format!("cannot listen to signals: {error}"),
            )
        })?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || listen(signals, &job, &output))
            .map_err(|error| {
                CliError::new(Kind::Unexpected, format!("cannot start a thread: {error}"))
            })?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It ends at the close, and prints what it still has to.
            let _ = thread.join();
        }
    }
}

fn listen(mut signals: Signals, job: &Job, output: &Output) {
    let mut interrupted = false;
    for signal in signals.forever() {
        match signal {
            SIGUSR1 => {
                job.gate().pause();
                output.gate_event("paused", "paused; SIGUSR2 lets it go on");
            }
            SIGUSR2 => {
                job.gate().resume();
                output.gate_event("resumed", "resumed");
            }
            // Before its first phase a job has begun nothing, and may be waiting for a server that does not answer.
            _ if interrupted || job.progress().phase() == Phase::Starting => {
                output.ended_at_once();
                std::process::exit(i32::from(Kind::Interrupted.exit()));
            }
            _ => {
                interrupted = true;
                job.gate().cancel();
                output.gate_event(
                    "interrupted",
                    "interrupted, finishing… (once more ends it at once)",
                );
            }
        }
    }
}
