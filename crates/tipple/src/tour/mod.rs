//! `tipple tour`: the real program on real data, each command shown before it runs.

mod guide;
mod lines;
mod memcached;
mod server;
mod streams;
mod web_log;

use crate::cli::TourArgs;
use crate::error::{CliError, Kind};
use guide::Guide;

pub(crate) fn run(args: &TourArgs) -> Result<u8, CliError> {
    let folder = tempfile::Builder::new()
        .prefix("tipple-tour-")
        .disable_cleanup(args.keep)
        .tempdir()
        .map_err(|error| {
            CliError::new(
                Kind::Budget,
                format!("cannot make a temporary folder: {error}"),
            )
        })?;
    let mut guide = Guide::new(folder.path())?;
    lines::show(&mut guide)?;
    streams::show(&mut guide)?;
    memcached::show(&mut guide)?;
    guide.sum_up();
    if args.keep {
        guide.say(&format!("kept: {}", folder.path().display()));
    }
    Ok(u8::from(guide.any_differs()))
}
