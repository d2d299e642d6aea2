//! Signals, for programs that have no handlers of their own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::recorder::{FlushError, Recorder};

/// From now on, `SIGHUP` closes the files of `recorder` and begins new ones, which is what logrotate wants of it, and takes
/// the configuration file again, which is what an operator wants of it. Ends with the recorder.
///
/// # Errors
/// If the signal cannot be listened for.
pub fn rotate_on_sighup(recorder: &Arc<Recorder>) -> io::Result<()> {
    on_signal(recorder, SIGHUP, |recorder| {
        recorder.reload_config();
        recorder.reopen();
    })
}

/// From now on, `signal` (such as `SIGUSR1`) writes what a flight recorder holds of the time from `before` ago to `after`
/// from then, and the path is told to `told`. Ends with the recorder.
///
/// # Errors
/// If the signal cannot be listened for.
pub fn snapshot_on_signal(
    recorder: &Arc<Recorder>,
    signal: i32,
    before: Duration,
    after: Duration,
    told: impl Fn(Result<PathBuf, FlushError>) + Send + 'static,
) -> io::Result<()> {
    on_signal(recorder, signal, move |recorder| {
        told(recorder.snapshot(before, after));
    })
}

fn on_signal(
    recorder: &Arc<Recorder>,
    signal: i32,
    act: impl Fn(&Recorder) + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::new([signal])?;
    let recorder = Arc::downgrade(recorder);
    std::thread::Builder::new()
        .name("tipple-signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                match recorder.upgrade() {
                    Some(recorder) => act(&recorder),
                    None => return,
                }
            }
        })?;
    Ok(())
}
