//! `tipple load`.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tipple_dump::{CopyOptions, LoadOptions, NotifyTarget, OpenDump};
use tipple_flow::Sink;
use tipple_store::{Access, Store, StoreUrl, open_store};
use tipple_stream::Origin;

use crate::cli::LoadArgs;
use crate::endpoint::{DumpPlace, SinkUrl};
use crate::error::CliError;
use crate::output::Output;
use crate::ready::{self, MemcachedFlags, Typed};
use crate::verbs::dry_run::Expected;
use crate::verbs::{account, copy, dry_run, finish, quoted, supervise};
use crate::{running, units};

pub(super) fn run(
    args: &LoadArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let Some(account) = account::of(&args.sink) else {
        return one(args, &args.store, &args.sink, typed, output);
    };
    typed.refuse(
        &["from_queue", "parts", "partial", "dry_run"],
        "is for one stream",
    )?;
    account::load(&args.store, account, output, |store, sink| {
        one(args, store, sink, typed, output)
    })
}

/// Loads `store` into `sink`, and takes everything else from `args`.
fn one(
    args: &LoadArgs,
    store: &OsStr,
    sink: &OsStr,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let place = DumpPlace::parse(store)?;
    let to = SinkUrl::parse(sink)?.with_tls(ready::tls(&args.connection));
    typed.fit_sink(&to)?;
    typed.fit_connections(matches!(to, SinkUrl::Memcached(_)), to.speaks_tls())?;
    copy::refuse_two_writers(output, &to)?;
    let queue = ready::from_queue(&args.from_queue)?;
    match &queue {
        Some(_) => typed.refuse(
            &["parts", "partial", "state", "dry_run"],
            "is for a load without --from-queue",
        )?,
        None => typed.refuse(&["queue_visibility"], "is for --from-queue")?,
    }
    let memcached = MemcachedFlags {
        connection: &args.connection,
        filter: &args.filter,
    };
    if let (SinkUrl::Files(target), DumpPlace::Store(url)) = (&to, &place) {
        typed.refuse(&["from_queue"], "is for dumps of records")?;
        let store = open_store(url, Access::Read, &ready::store_options())?;
        typed.refuse(
            &["encrypt_key"],
            "is for dumps, and these are the files of a command",
        )?;
        return supervise::load(args, typed, store.as_ref(), target, output);
    }
    let sink = match (&to, &place) {
        (SinkUrl::Stream(to), DumpPlace::Store(url)) => {
            to.sink_like(&origin(args, url, output)?, args.pace.options())?
        }
        _ => ready::sink(&to, &args.lines, &args.storing, &memcached, true)?,
    };
    match &place {
        DumpPlace::Store(url) => {
            let store = open_store(url, Access::Read, &ready::store_options())?;
            supervise::refuse_files(store.as_ref())?;
            if let Some(queue) = &queue {
                output.at_start([format!("loading {place} into {to}, as {queue} tells of it")]);
                return from_queue(args, store.as_ref(), queue, sink.as_ref(), output);
            }
            output.at_start([format!("loading {place} into {to}")]);
            from_store(args, store.as_ref(), sink.as_ref(), output)
        }
        DumpPlace::Cachemover(folder) => {
            typed.refuse(
                &["parts", "state", "encrypt_key", "from_queue"],
                "is for dumps of tipple's own layout",
            )?;
            output.at_start([format!("loading {place}, a cachemover folder, into {to}")]);
            from_cachemover(args, folder, sink.as_ref(), output)
        }
    }
}

/// What a whole dump tells of the stream that it was made of; nothing of any other, which the load itself refuses or takes.
fn origin(args: &LoadArgs, url: &StoreUrl, output: &Arc<Output>) -> Result<Origin, CliError> {
    let store = open_store(url, Access::Read, &ready::store_options())?;
    let keys = ready::keys(&args.key, output)?;
    let dump = OpenDump::open(store.as_ref(), true, keys.as_ref());
    let dump = dump.ok().filter(|_| args.parts.parts.is_none());
    Ok(dump.map_or_else(Origin::default, |dump| {
        let said = dump.done().map_or(Value::Null, |done| done.source.clone());
        Origin::new(&dump.head().source.id, said)
    }))
}

fn from_store(
    args: &LoadArgs,
    store: &dyn Store,
    sink: &dyn Sink,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let options = {
        let keys = ready::keys(&args.key, output)?;
        ready::load_options(&args.job, &args.parts, args.state.as_deref(), keys)
    };
    let rates = ready::job_rates(&args.job)?;
    let memory_bytes = options.memory_bytes(store, sink)?;
    if args.job.dry_run {
        let (parts, records, raw_bytes) = extent(store, &options)?;
        let expected = Expected {
            verb: "load",
            parts,
            records,
            raw_bytes,
            reads: None,
            memory_bytes,
            memory: units::bytes(memory_bytes),
            disk: None,
        };
        return dry_run::tell(output, &expected, rates);
    }
    output.at_start([format!("memory budget {}", units::bytes(memory_bytes))]);
    let report = running::run("load", rates, output, |job| {
        tipple_dump::load(job, store, sink, &options)
    })?;
    Ok(finish(output, "loaded", &report, None))
}

fn from_queue(
    args: &LoadArgs,
    store: &dyn Store,
    queue: &NotifyTarget,
    sink: &dyn Sink,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let options = {
        let keys = ready::keys(&args.key, output)?;
        ready::queue_load_options(&args.job, &args.from_queue, keys)?
    };
    let rates = ready::job_rates(&args.job)?;
    let memory_bytes = options.memory_bytes(store, sink);
    output.at_start([format!("memory budget {}", units::bytes(memory_bytes))]);
    let report = running::run("load --from-queue", rates, output, |job| {
        tipple_dump::load_from_queue(job, store, queue, sink, &options)
    })?;
    let is_untold = report.queue.is_some_and(|queue| queue.untold_parts > 0);
    let next = is_untold.then(|| {
        let (store, sink) = (args.store.to_string_lossy(), args.sink.to_string_lossy());
        format!("tipple load {} {}", quoted(&store), quoted(&sink))
    });
    Ok(finish(output, "loaded", &report, next))
}

/// Parts, records and raw bytes of what would be loaded.
fn extent(store: &dyn Store, options: &LoadOptions) -> Result<(u64, u64, u64), CliError> {
    let dump = OpenDump::open(store, options.partial, options.keys.as_ref())?;
    let chosen = match options.parts {
        None => dump.parts(),
        Some(range) => {
            let all = dump.parts().len() as u64;
            if range.to > all {
                return Err(CliError::usage(format!(
                    "parts {}..{}: the dump has {all} parts",
                    range.from, range.to
                )));
            }
            &dump.parts()[range.from as usize..range.to as usize]
        }
    };
    let (mut records, mut raw_bytes) = (0, 0);
    for part in chosen {
        let record = dump.record(part)?;
        records += record.records;
        raw_bytes += record.raw_bytes;
    }
    Ok((chosen.len() as u64, records, raw_bytes))
}

fn from_cachemover(
    args: &LoadArgs,
    folder: &Path,
    sink: &dyn Sink,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let source = ready::cachemover(folder, args.parts.partial)?;
    let options = CopyOptions {
        threads: ready::threads(&args.job.threads),
        memory_bytes_max: args.job.memory.map(|size| size.0),
        ..CopyOptions::default()
    };
    let rates = ready::job_rates(&args.job)?;
    if args.job.dry_run {
        return copy::dry_run("load", &options, &source, sink, rates, output);
    }
    let story = copy::memory_story(&options, &source, sink);
    output.at_start([format!("memory budget {story}")]);
    let mut report = running::run("load", rates, output, |job| {
        tipple_dump::copy(job, &source, sink, &options)
    })?;
    report.verb = "load";
    Ok(finish(output, "loaded", &report, None))
}
