//! `tipple cat`.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;

use tipple_budget::Cancelled;
use tipple_dump::{CatOptions, CopyOptions, DumpError, Job};
use tipple_flow::{Failure, Party, Stop};
use tipple_store::{Access, open_store};
use tipple_stream::{EventRef, Log, LogReader, ReadableEvent, Stream, StreamOptions, StreamUrl};

use crate::cli::CatArgs;
use crate::endpoint::DumpPlace;
use crate::error::{CliError, Kind};
use crate::output::Output;
use crate::ready::{self, CONTENTS, STREAM_FLAGS, Typed};
use crate::verbs::cachemover::Printing;

const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn run(args: &CatArgs, typed: &Typed<'_>, output: &Arc<Output>) -> Result<u8, CliError> {
    if let Some(url) = StreamUrl::parse(&args.store) {
        typed.refuse(&["partial", "parts", "encrypt_key"], "is for dumps")?;
        return stream(&url?, args);
    }
    typed.refuse(STREAM_FLAGS, "is for streams, such as log:FOLDER")?;
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

/// The events of a stream itself.
fn stream(url: &StreamUrl, args: &CatArgs) -> Result<u8, CliError> {
    let StreamUrl::Log(path) = url else {
        return Err(CliError::usage(format!(
            "{url} is not shown: cat reads dumps and log: streams; dump it, and give the dump"
        )));
    };
    let options = StreamOptions {
        from: args.stream.from,
        to: args.stream.to,
        ..StreamOptions::default()
    };
    let log = Log::at(path);
    let span = options.span(&log, &log.look()?)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let mut print = |event: &EventRef<'_>| {
        line.clear();
        match args.raw {
            true => line.extend_from_slice(event.payload().unwrap_or_default()),
            false => serde_json::to_writer(&mut line, &ReadableEvent::from(event))?,
        }
        line.push(b'\n');
        out.write_all(&line)
    };
    // Why no more is to be printed.
    let mut ended = Ok(());
    let read = LogReader::open(path)?.read_with(span, |_, record| {
        let event = EventRef::parse(record).map_err(|why| {
            Failure::new(
                Party::Source,
                format!("{url} holds {why}; restore it from a dump"),
            )
        })?;
        if left > 0 {
            ended = print(&event);
        }
        left = left.saturating_sub(1);
        match left == 0 || ended.is_err() {
            true => Err(Stop::Cancelled(Cancelled)),
            false => Ok(()),
        }
    });
    if let Err(Stop::Failed(failure)) = read {
        return Err(failure.into());
    }
    match ended.and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            // What is still buffered has no reader either.
            drop(out.into_parts());
        }
        Err(error) => {
            let message = format!("cannot write to standard output: {error}");
            return Err(CliError::new(Kind::Budget, message));
        }
        Ok(()) => {}
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
            Kind::Budget,
            format!("cannot write to standard output: {error}"),
        )),
        _ => Ok(()),
    }
}
