//! The folder layout of Netflix cachemover, both ways: data files of version 0, as a sink and as a source.
//!
//! ```text
//! DIR/datafiles_staging/data_<ip>__<part>_<file>       being written
//! DIR/datafiles_completed/data_<ip>__<part>_<MD5>      whole; MD5 of its bytes, 32 upper-case hex digits
//! DIR/datafiles_completed/METRICS_CHECKPOINT           counters as JSON
//! DIR/datafiles_completed/DONE                         written last: the dump is complete
//! ```
//!
//! A data file is records end to end, big-endian: key length u16, key, expiry u32, flags u32, value length u32, value.
//! FORMAT.md has the table. The expiry is seconds since 1970, all ones for never. Other readers take it for signed, so
//! a time after January 2038 would reach them as one long past, or as never: such items are not written but counted as
//! a loss. When reading, it is taken for unsigned, which is right before 2038 and the only sense it can have after.

mod sink;
mod source;

use std::fs;
use std::io;
use std::path::Path;

use tipple_flow::{Failure, Party};

pub use self::sink::{CachemoverOptions, CachemoverSink};
pub use self::source::CachemoverSource;
use crate::items::KEY_BYTES_MAX;

const COMPLETED: &str = "datafiles_completed";
const METRICS: &str = "METRICS_CHECKPOINT";
const DONE: &str = "DONE";
const DATA_PREFIX: &str = "data_";
const MD5_DIGITS: usize = 32;
/// Expiry, flags, value length.
const TAIL_BYTES: usize = 12;
/// All of a record before its value, at most.
const HEAD_BYTES_MAX: usize = 2 + KEY_BYTES_MAX + TAIL_BYTES;
const EXPIRY_NEVER: u32 = u32::MAX;
/// What a writer gathers before it writes, and a reader reads at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Whether `dir` has this layout, finished or not.
pub fn is_cachemover(dir: &Path) -> bool {
    dir.join(COMPLETED).is_dir()
}

fn hex_upper(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").expect("a String takes all");
        text
    })
}

/// The names in a folder, in no order; none if there is no folder.
fn names(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(disk("list", folder, error)),
    };
    entries
        .map(|entry| match entry {
            Ok(entry) => Ok(entry.file_name().to_string_lossy().into_owned()),
            Err(error) => Err(disk("list", folder, error)),
        })
        .collect()
}

fn disk(verb: &str, path: &Path, error: io::Error) -> Failure {
    Failure::new(
        Party::Budget,
        format!("cannot {verb} {}: {error}", path.display()),
    )
    .because(error)
}
