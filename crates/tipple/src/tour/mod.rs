//! `tipple tour`.

use crate::cli::TourArgs;
use crate::error::CliError;

pub(crate) fn run(_args: &TourArgs) -> Result<u8, CliError> {
    Ok(0)
}
