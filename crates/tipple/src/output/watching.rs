//! The thread that shows how far a job is.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::output::Output;

const TICK: Duration = Duration::from_millis(100);
const JSON_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown of a job.
pub(super) trait Drawing {
    /// Ten times a second; `due` says what else than bars it is time for.
    fn tick(&mut self, now: Instant, due: &mut Due);

    /// Leaves nothing on the terminal.
    fn end(self);
}

/// What comes less often than a tick.
pub(super) struct Due {
    json_at: Instant,
    line_at: Instant,
}

impl Due {
    /// Whether a line of JSON is, once a second; then the next one is not before another second.
    pub(super) fn json(&mut self, now: Instant) -> bool {
        Self::is_due(&mut self.json_at, JSON_EVERY, now)
    }

    /// Whether a line of text is where there are no bars, every five seconds.
    pub(super) fn line(&mut self, now: Instant) -> bool {
        Self::is_due(&mut self.line_at, LINE_EVERY, now)
    }

    fn is_due(last: &mut Instant, every: Duration, now: Instant) -> bool {
        let is_due = now.duration_since(*last) >= every;
        if is_due {
            *last = now;
        }
        is_due
    }
}

/// Draws for as long as it exists.
pub(crate) struct Watching {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Shows what `begin` makes, if anybody wants to see it.
    pub(super) fn start<D: Drawing>(
        output: &Output,
        begin: impl FnOnce() -> D + Send + 'static,
    ) -> Self {
        if !output.progress && !output.json {
            return Self {
                stop: None,
                thread: None,
            };
        }
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut drawing = begin();
            let now = Instant::now();
            let mut due = Due {
                json_at: now,
                line_at: now,
            };
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                drawing.tick(Instant::now(), &mut due);
            }
            drawing.end();
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A display that panicked has said so, and must not end the job.
            let _ = thread.join();
        }
    }
}
