//! `tipple dump`.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use tipple_budget::Rates;
use tipple_dump::{DumpOptions, SpoolPlace};
use tipple_flow::Source;
use tipple_memcached::{CachemoverOptions, CachemoverSink};
use tipple_store::{Access, Store, StoreOptions, StoreUrl, open_store};

use crate::cli::{DumpArgs, Layout};
use crate::endpoint::{SourceUrl, store_url};
use crate::error::CliError;
use crate::output::Output;
use crate::ready::{self, MemcachedFlags, MemoryStory, Typed};
use crate::verbs::dry_run::Expected;
use crate::verbs::{account, copy, dry_run, finish, quoted, supervise};
use crate::{running, units};

pub(super) fn run(
    args: &DumpArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let Some(account) = account::of(&args.source) else {
        return one(args, &args.source, &args.stores, typed, output);
    };
    if args.follow.follow {
        return Err(CliError::usage(
            "--follow is for one stream: give nats://HOST:PORT/STREAM",
        ));
    }
    typed.refuse(&["archive", "dry_run", "from", "to"], "is for one stream")?;
    let is_silent = args.notify.notify.iter().all(|url| url.is_empty());
    let tls = ready::tls(&args.connection);
    account::dump(account, &args.stores, tls, output, |source, stores| {
        let urls = stores.iter().map(|store| store_url(store));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        // Of an earlier run of the same command.
        if is_silent && are_finished(&urls, &ready::store_options()) {
            output.say(&format!("{}: finished already", joined(&urls)));
            return Ok(0);
        }
        one(args, source, stores, typed, output)
    })
}

/// Dumps `source` into `stores`, and takes everything else from `args`.
fn one(
    args: &DumpArgs,
    source: &OsStr,
    stores: &[OsString],
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let url = SourceUrl::parse(source)?.with_tls(ready::tls(&args.connection));
    if let SourceUrl::Cachemover(path) = &url {
        return Err(CliError::usage(format!(
            "{} is a dump already: `tipple load` and `tipple copy` read it",
            path.display()
        )));
    }
    typed.fit_source(&url)?;
    typed.fit_connections(matches!(url, SourceUrl::Memcached(_)), url.speaks_tls())?;
    let stores: Vec<StoreUrl> = (stores.iter())
        .map(|store| store_url(store))
        .collect::<Result<_, _>>()?;
    typed.fit_stores(&stores)?;
    let memcached = MemcachedFlags {
        connection: &args.connection,
        filter: &args.filter,
    };
    let source = ready::source(
        &url,
        &args.lines,
        &args.stream,
        Some(&args.follow),
        &args.listing,
        &memcached,
    )?;
    match args.layout() {
        Layout::Tipple => into_stores(args, &url, source.as_ref(), &stores, output),
        Layout::Cachemover => {
            let why = "is for --layout tipple";
            typed.refuse(
                &[
                    "compress",
                    "spool_limit",
                    "store_policy",
                    "detach_after",
                    "notify",
                    "notify_format",
                ],
                why,
            )?;
            // Wherever it was given: nobody who has a key wants plain files.
            if args.key.encrypt_key.is_some() {
                return Err(CliError::usage(
                    "--layout cachemover cannot be sealed: leave out --encrypt-key, or the layout",
                ));
            }
            if args.notify.notify.iter().any(|url| !url.is_empty()) {
                output.warn("warning: nobody is told of a dump in the cachemover layout: what TIPPLE_NOTIFY or the settings file says is not heeded");
            }
            let folder = match &stores[..] {
                [store] => store.as_folder(),
                _ => None,
            };
            let Some(folder) = folder else {
                return Err(CliError::usage(format!(
                    "--layout cachemover writes one folder, and {} is none",
                    joined(&stores)
                )));
            };
            as_cachemover(args, &url, source.as_ref(), folder, output)
        }
    }
}

impl DumpArgs {
    fn layout(&self) -> Layout {
        self.shape.layout
    }
}

fn joined(stores: &[StoreUrl]) -> String {
    let stores: Vec<String> = stores.iter().map(StoreUrl::to_string).collect();
    stores.join(" and ")
}

fn into_stores(
    args: &DumpArgs,
    url: &SourceUrl,
    source: &dyn Source,
    urls: &[StoreUrl],
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let keys = ready::keys(&args.key, output)?;
    let (job, buffers) = (&args.job, &args.buffers);
    let form = ready::form(url, &args.form, &args.shape)?;
    let options = ready::dump_options(
        job,
        buffers,
        &args.shape,
        &args.spool,
        &args.notify,
        keys,
        form,
    )?;
    let store_options = ready::upload_options(&args.upload)?;
    let rates = ready::job_rates(&args.job)?;
    if args.job.dry_run {
        return dry_run(&options, &store_options, rates, source, urls, output);
    }
    // Before the stores: neither a mistyped source nor a budget that is too small must leave a new folder behind. And before
    // the budget is told: what planning holds may depend on what the source turns out to be.
    // A finished dump is told of without it: the source may be long gone.
    if options.notify.targets.is_empty() || !are_finished(urls, &store_options) {
        source.check()?;
    }
    tipple_dump::check_memory(source, &options)?;
    let opened = (urls.iter())
        .map(|url| open_store(url, Access::Write, &store_options))
        .collect::<Result<Vec<_>, _>>()?;
    let stores: Vec<&dyn Store> = opened.iter().map(|store| store.as_ref()).collect();
    for store in &stores {
        supervise::refuse_files(*store)?;
    }
    output.at_start([
        format!("dumping {url} to {}", joined(urls)),
        format!("memory budget {}", memory_story(&options, source, &stores)),
        spool_story(&options, &stores),
    ]);
    if let Some(story) = notify_story(&options) {
        output.at_start([story]);
    }
    let report = running::run("dump", rates, output, |job| {
        tipple_dump::dump(job, source, &stores, &options)
    })?;
    let is_dropped = |url: &&StoreUrl| {
        let url = url.to_string();
        report
            .dropped_stores
            .iter()
            .any(|dropped| dropped.store == url)
    };
    let kept = urls.iter().find(|url| !is_dropped(url)).unwrap_or(&urls[0]);
    let mut next = format!("tipple verify {}", quoted(&kept.to_string()));
    if let Some(file) = &args.key.encrypt_key {
        let file = quoted(&file.display().to_string());
        next.push_str(&format!(" --encrypt-key {file}"));
    }
    if report.undelivered_total() > 0 {
        next.push_str("; the same command again sends what was not delivered");
    }
    Ok(finish(output, "dumped", &report, Some(next)))
}

/// Whether all of them hold a finished dump, as far as can be seen.
fn are_finished(urls: &[StoreUrl], store_options: &StoreOptions) -> bool {
    urls.iter().all(|url| {
        let store = open_store(url, Access::Read, store_options);
        store.is_ok_and(|store| tipple_dump::is_finished(store.as_ref()).unwrap_or(false))
    })
}

fn notify_story(options: &DumpOptions) -> Option<String> {
    let targets = options.notify.targets.iter().map(ToString::to_string);
    let targets: Vec<String> = targets.collect();
    (!targets.is_empty()).then(|| format!("telling {}", targets.join(" and ")))
}

fn dry_run(
    options: &DumpOptions,
    store_options: &StoreOptions,
    rates: Rates,
    source: &dyn Source,
    urls: &[StoreUrl],
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    // Opened for reading, so that a dry run leaves nothing behind; a store that is not there yet holds nothing either.
    let opened: Vec<_> = (urls.iter())
        .filter_map(|url| open_store(url, Access::Read, store_options).ok())
        .collect();
    let stores: Vec<&dyn Store> = opened.iter().map(|store| store.as_ref()).collect();
    let needs = tipple_dump::dry_run(source, &stores, options)?;
    let disk = needs.stored_bytes_max + needs.plan_bytes_max;
    let expected = Expected {
        verb: "dump",
        parts: needs.parts,
        records: needs.records,
        raw_bytes: needs.raw_bytes,
        reads: None,
        memory_bytes: needs.memory_bytes,
        memory: memory_story(options, source, &stores),
        // How much longer events get in another form, only their form knows.
        disk: (needs.raw_bytes > 0 && options.form.is_none())
            .then(|| (disk, disk_text(disk, &stores))),
    };
    dry_run::tell(output, &expected, rates)
}

fn memory_story(options: &DumpOptions, source: &dyn Source, stores: &[&dyn Store]) -> String {
    MemoryStory {
        total: options.memory_bytes(source, stores),
        threads: options.threads,
        buffer_bytes: options.buffer_bytes as u64,
        others: &[
            (
                options.form.as_ref().map_or("codec", |form| form.name()),
                options.encoding_bytes(),
            ),
            ("reader", source.reader_bytes()),
            ("sealing", options.sealing_bytes()),
        ],
        planner_bytes: options.planner_bytes(source),
        shared: &[
            ("spool", options.spool_memory_bytes()),
            ("uploads", options.store_memory_bytes(stores)),
        ],
    }
    .to_string()
}

fn spool_story(options: &DumpOptions, stores: &[&dyn Store]) -> String {
    let limit = units::bytes(options.spool_bytes(stores));
    match &options.spool {
        SpoolPlace::Memory => "spool none: chunks wait in memory".to_owned(),
        SpoolPlace::Default => format!("spool {limit} at most"),
        SpoolPlace::Dir(dir) => format!("spool {limit} at most, in {}", dir.display()),
    }
}

/// At most so much, of what is free there.
fn disk_text(bytes: u64, stores: &[&dyn Store]) -> String {
    let at_most = format!("{} at most, if nothing compresses", units::bytes(bytes));
    let free = stores.iter().filter_map(|store| {
        let free = store.capabilities().ok()?.free_bytes?;
        Some(format!("; {} are free", units::bytes(free)))
    });
    at_most + &free.collect::<String>()
}

fn as_cachemover(
    args: &DumpArgs,
    url: &SourceUrl,
    source: &dyn Source,
    folder: &Path,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let options = ready::copy_options(&args.job, &args.buffers)?;
    let rates = ready::job_rates(&args.job)?;
    let sink = CachemoverSink::create(
        folder,
        CachemoverOptions {
            data_file_bytes_max: args.shape.chunk_size.0,
            ..CachemoverOptions::default()
        },
    )?;
    if args.job.dry_run {
        return copy::dry_run("dump", &options, source, &sink, rates, output);
    }
    // Before the budget is told, as above.
    source.check()?;
    let story = copy::memory_story(&options, source, &sink);
    output.at_start([
        format!(
            "dumping {url} to {}, in the cachemover layout",
            folder.display()
        ),
        format!("memory budget {story}"),
    ]);
    let mut report = running::run("dump", rates, output, |job| {
        tipple_dump::copy(job, source, &sink, &options)
    })?;
    report.verb = "dump";
    let next = format!("tipple verify {}", quoted(&folder.display().to_string()));
    Ok(finish(output, "dumped", &report, Some(next)))
}
