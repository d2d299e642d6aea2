//! `tipple verify`.

use std::sync::Arc;

use tipple_budget::Rates;
use tipple_dump::{CopyOptions, Depth, VerifyOptions, VerifyReport};
use tipple_memcached::CachemoverSource;
use tipple_store::{Access, open_store};

use crate::cli::VerifyArgs;
use crate::endpoint::DumpPlace;
use crate::error::{CliError, Kind};
use crate::output::{Output, verify_text};
use crate::ready::{self, CONTENTS, Typed};
use crate::running;
use crate::verbs::cachemover::Counting;
use crate::verbs::{copy, dry_run, quoted, supervise};

pub(super) fn run(
    args: &VerifyArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let place = DumpPlace::parse(&args.store)?;
    let verified = match &place {
        DumpPlace::Store(url) => {
            let store = open_store(url, Access::Read, &ready::store_options())?;
            if supervise::is_files(store.as_ref())? {
                typed.refuse(
                    &["encrypt_key"],
                    "is for dumps, and these are the files of a command",
                )?;
                return supervise::verify(args, store.as_ref(), &place.to_string(), output);
            }
            let options = VerifyOptions {
                depth: if args.quick {
                    Depth::Quick
                } else {
                    Depth::Full
                },
                partial: args.partial,
                threads: ready::threads(&args.threads),
                keys: ready::keys(&args.key, output)?,
            };
            if args.dry_run {
                let needs = tipple_dump::verify_dry_run(store.as_ref(), &options)?;
                return dry_run::tell_reading(output, "verify", &needs, !args.quick);
            }
            running::run("verify", Rates::default(), output, |job| {
                tipple_dump::verify(job, store.as_ref(), CONTENTS, &options)
            })?
        }
        DumpPlace::Cachemover(folder) => {
            typed.refuse(&["encrypt_key"], "is for dumps of tipple's own layout")?;
            let source = ready::cachemover(folder, args.partial)?;
            let options = CopyOptions {
                threads: ready::threads(&args.threads),
                ..CopyOptions::default()
            };
            if args.dry_run {
                let rates = Rates::default();
                return copy::dry_run("verify", &options, &source, &Counting, rates, output);
            }
            read_cachemover(&source, &options, output)?
        }
    };
    Ok(tell(&place.to_string(), &verified, output))
}

/// Reads every data file: its MD5 is checked by the source, its records here.
fn read_cachemover(
    source: &CachemoverSource,
    options: &CopyOptions,
    output: &Arc<Output>,
) -> Result<VerifyReport, CliError> {
    let mut report = running::run("verify", Rates::default(), output, |job| {
        tipple_dump::copy(job, source, &Counting, options)
    })?;
    report.verb = "verify";
    Ok(VerifyReport {
        report,
        problems: Vec::new(),
        problems_total: 0,
        unlisted: 0,
    })
}

fn tell(place: &str, verified: &VerifyReport, output: &Output) -> u8 {
    let text = verify_text(&quoted(place), verified);
    match verified.problems_total {
        0 => {
            output.say(text.trim_end());
            output.json_report(verified, 0);
            0
        }
        problems => {
            let error = CliError::new(
                Kind::Damaged,
                format!(
                    "{place} is damaged or not complete: {}",
                    crate::units::counted(problems, "problem")
                ),
            );
            output.warn(text.trim_end());
            output.warn(&format!("error: {error}"));
            output.json_report(verified, error.kind.exit());
            error.kind.exit()
        }
    }
}
