//! Signals: end, pause, resume.

use std::sync::Arc;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};
use tipple_budget::Gate;
use tipple_dump::Phase;

use crate::error::{CliError, Kind};
use crate::output::Output;

/// What signals reach.
pub(crate) trait Job: Send + Sync + 'static {
    fn gate(&self) -> &Gate;
    /// Whether there is anything to finish.
    fn has_begun(&self) -> bool;
    /// Whether something must not run on while this process is suspended, or after it was hung up.
    const GUARDS: bool;
}

impl Job for tipple_dump::Job {
    const GUARDS: bool = false;
    fn gate(&self) -> &Gate {
        self.gate()
    }
    fn has_begun(&self) -> bool {
        self.progress().phase() != Phase::Starting
    }
}

impl Job for tipple_supervise::Job {
    const GUARDS: bool = true;
    fn gate(&self) -> &Gate {
        self.gate()
    }
    fn has_begun(&self) -> bool {
        self.progress().has_begun()
    }
}

/// Listens for as long as it exists.
pub(crate) struct Listening {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// SIGINT and SIGTERM cancel `job`, a second one ends the process; SIGUSR1 pauses, SIGUSR2 resumes.
    ///
    /// A job that guards something is not suspended by SIGTSTP, and SIGHUP cancels it too, unless it was ignored before
    /// (nohup).
    pub(crate) fn start<J: Job>(job: Arc<J>, output: Arc<Output>) -> Result<Self, CliError> {
        let mut heard = vec![SIGINT, SIGTERM, SIGUSR1, SIGUSR2];
        if J::GUARDS {
            heard.push(SIGTSTP);
            if !is_ignored(SIGHUP) {
                heard.push(SIGHUP);
            }
        }
        let signals = Signals::new(heard).map_err(|error| {
            CliError::new(
                Kind::Unexpected,
                format!("cannot listen to signals: {error}"),
            )
        })?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || listen(signals, job.as_ref(), &output))
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

/// Whether whoever started this process has it ignore a signal.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn listen(mut signals: Signals, job: &impl Job, output: &Output) {
    let mut interrupted = false;
    for signal in signals.forever() {
        match signal {
            SIGUSR1 => {
                job.gate().pause();
                output.gate_event("paused", "paused; SIGUSR2 lets it go on");
            }
            SIGTSTP => output.warn(
                "not suspended, since the command would run on alone; SIGUSR1 pauses both, SIGUSR2 lets them go on",
            ),
            SIGUSR2 => {
                job.gate().resume();
                output.gate_event("resumed", "resumed");
            }
            // Before its first phase a job has begun nothing, and may be waiting for a server that does not answer.
            _ if interrupted || !job.has_begun() => {
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
