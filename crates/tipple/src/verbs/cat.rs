//! `tipple cat`.

use std::io::{self, BufWriter, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use tipple_dump::{CatOptions, CopyOptions, DumpError, Job};
use tipple_store::{Access, open_store};

use crate::cli::CatArgs;
use crate::endpoint::DumpPlace;
use crate::error::CliError;
use crate::output::Output;
use crate::ready::{self, CONTENTS, Typed};
use crate::verbs::cachemover::Printing;

const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn run(args: &CatArgs, typed: &Typed<'_>, output: &Arc<Output>) -> Result<u8, CliError> {
    match DumpPlace::parse(&args.store)? {
        DumpPlace::Store(url) => {
            let store = open_store(&url, Access::Read, &ready::store_options())?;
            crate::verbs::supervise::refuse_files(store.as_ref())?;
            let options = CatOptions {
                partial: args.parts.partial,
                parts: args.parts.parts,
                records_max: args.limit,
                raw: args.raw,
                keys: ready::keys(&args.key, output)?,
            };
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
            let shown = tipple_dump::cat(
                &Job::default(),
                store.as_ref(),
                CONTENTS,
                &mut out,
                &options,
            );
            match shown {
                // The reader has seen enough.
                Err(DumpError::Disk { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
                    // What is still buffered has no reader either.
                    drop(out.into_parts());
                }
                shown => drop(shown?),
            }
        }
        DumpPlace::Cachemover(folder) => {
            typed.refuse(
                &["parts", "encrypt_key"],
                "is for dumps of tipple's own layout",
            )?;
            cachemover(args, &folder)?;
        }
    }
    Ok(0)
}

fn cachemover(args: &CatArgs, folder: &Path) -> Result<(), CliError> {
    let source = ready::cachemover(folder, args.parts.partial)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
    let sink = Printing::new(&mut out, args.limit.unwrap_or(u64::MAX), args.raw);
    let copied = tipple_dump::copy(&Job::default(), &source, &sink, &CopyOptions::default());
    match (copied, sink.ended()) {
        (_, Some(_)) | (Ok(_), None) => {}
        (Err(error), None) => return Err(error.into()),
    }
    match sink.flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::new(
            crate::error::Kind::Budget,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}
