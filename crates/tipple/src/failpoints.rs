//! Moments at which a test kills or stops this process. Only with the feature `failpoints`.
//!
//! `TIPPLE_KILL_AT=name:n` kills it, as `kill -9` would, when the fail point `dump::name` is reached for the n-th time
//! (or `supervise::name`, written out);
//! `TIPPLE_PAUSE_AT=name:n` stops it there for ever. Both say so on standard error first.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{CliError, Kind};

pub(crate) fn arm() -> Result<(), CliError> {
    for (variable, end) in [
        ("TIPPLE_KILL_AT", kill as fn()),
        ("TIPPLE_PAUSE_AT", pause as fn()),
    ] {
        let Ok(moment) = std::env::var(variable) else {
            continue;
        };
        let refused = || {
            CliError::usage(format!(
                "{variable}={moment}: give NAME:N, such as committed:1"
            ))
        };
        let (name, n) = moment.rsplit_once(':').ok_or_else(refused)?;
        let n: u64 = n.parse().map_err(|_| refused())?;
        let point = match name.contains("::") {
            true => name.to_owned(),
            false => format!("dump::{name}"),
        };
        let shown = point.clone();
        let hits = AtomicU64::new(0);
        fail::cfg_callback(point, move || {
            if hits.fetch_add(1, Ordering::SeqCst) + 1 == n {
                let mut stderr = std::io::stderr().lock();
                // Nobody to tell: this process ends here.
                let _ = writeln!(stderr, "failpoint {shown} hit {n}");
                let _ = stderr.flush();
                drop(stderr);
                end();
            }
        })
        .map_err(|error| CliError::new(Kind::Unexpected, format!("{variable}: {error}")))?;
    }
    Ok(())
}

fn kill() {
    signal_hook::low_level::raise(signal_hook::consts::SIGKILL).expect("a signal to oneself");
}

fn pause() {
    loop {
        std::thread::park();
    }
}
