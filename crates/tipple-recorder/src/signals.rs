//! Signals, for programs that have no handlers of their own.

use std::io;
use std::sync::Arc;

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::recorder::Recorder;

/// From now on, `SIGHUP` closes the files of `recorder` and begins new ones: what logrotate sends. Ends with the recorder.
///
/// # Errors
/// If the signal cannot be listened for.
pub fn rotate_on_sighup(recorder: &Arc<Recorder>) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP])?;
    let recorder = Arc::downgrade(recorder);
    std::thread::Builder::new()
        .name("tipple-signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                match recorder.upgrade() {
                    Some(recorder) => recorder.reopen(),
                    None => return,
                }
            }
        })?;
    Ok(())
}
