//! `tipple dump`.

use std::path::Path;
use std::sync::Arc;

use tipple_dump::DumpOptions;
use tipple_flow::Source;
use tipple_memcached::{CachemoverOptions, CachemoverSink};
use tipple_store::{Access, StoreUrl, open_store};

use crate::cli::{DumpArgs, Layout};
use crate::endpoint::{SourceUrl, store_url};
use crate::error::CliError;
use crate::output::Output;
use crate::ready::{self, MemcachedFlags, MemoryStory, Typed};
use crate::verbs::dry_run::Expected;
use crate::verbs::{copy, dry_run, finish, quoted, supervise};
use crate::{running, units};

pub(super) fn run(
    args: &DumpArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let url = SourceUrl::parse(&args.source)?;
    if let SourceUrl::Cachemover(path) = &url {
        return Err(CliError::usage(format!(
            "{} is a dump already: `tipple load` and `tipple copy` read it",
            path.display()
        )));
    }
    typed.fit_source(&url)?;
    typed.fit_memcached(matches!(url, SourceUrl::Memcached(_)))?;
    let store = store_url(&args.store)?;
    let memcached = MemcachedFlags {
        connection: &args.connection,
        filter: &args.filter,
    };
    let source = ready::source(&url, &args.lines, &args.listing, &memcached)?;
    match args.layout() {
        Layout::Tipple => into_store(args, &url, source.as_ref(), &store, output),
        Layout::Cachemover => {
            let why = "is for --layout tipple";
            typed.refuse(&["compress"], why)?;
            let Some(folder) = store.as_folder() else {
                return Err(CliError::usage(format!(
                    "--layout cachemover writes folders, and {store} is none"
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

fn into_store(
    args: &DumpArgs,
    url: &SourceUrl,
    source: &dyn Source,
    store_url: &StoreUrl,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let options = ready::dump_options(&args.job, &args.buffers, &args.shape)?;
    let rates = ready::job_rates(&args.job)?;
    if args.job.dry_run {
        let needs = tipple_dump::dry_run(source, &options)?;
        let disk = needs.stored_bytes_max + needs.plan_bytes_max;
        let expected = Expected {
            verb: "dump",
            parts: needs.parts,
            records: needs.records,
            raw_bytes: needs.raw_bytes,
            memory_bytes: needs.memory_bytes,
            memory: memory_story(&options, source),
            disk: (needs.raw_bytes > 0).then(|| (disk, disk_text(disk, store_url))),
        };
        return dry_run::tell(output, &expected, rates);
    }
    // Before the store: a mistyped source must not leave a new folder behind. And before the budget is told: what planning
    // holds may depend on what the source turns out to be.
    source.check()?;
    let store = open_store(store_url, Access::Write)?;
    supervise::refuse_files(store.as_ref())?;
    output.at_start([
        format!("dumping {url} to {store_url}"),
        format!("memory budget {}", memory_story(&options, source)),
    ]);
    let report = running::run("dump", rates, output, |job| {
        tipple_dump::dump(job, source, store.as_ref(), &options)
    })?;
    let next = format!("tipple verify {}", quoted(&store_url.to_string()));
    Ok(finish(output, "dumped", &report, Some(next)))
}

fn memory_story(options: &DumpOptions, source: &dyn Source) -> String {
    MemoryStory {
        total: options.memory_bytes(source),
        threads: options.threads,
        buffer_bytes: options.buffer_bytes as u64,
        others: &[
            ("codec", options.codec.encoder_bytes()),
            ("reader", source.reader_bytes()),
        ],
        planner_bytes: source.planner_bytes(),
    }
    .to_string()
}

/// At most so much, of what is free there.
fn disk_text(bytes: u64, store: &StoreUrl) -> String {
    // Opened for reading, so that a dry run leaves nothing behind.
    let free = open_store(store, Access::Read)
        .and_then(|store| store.capabilities())
        .ok()
        .and_then(|capabilities| capabilities.free_bytes);
    let at_most = format!("{} at most, if nothing compresses", units::bytes(bytes));
    match free {
        Some(free) => format!("{at_most}; {} are free", units::bytes(free)),
        None => at_most,
    }
}

fn as_cachemover(
    args: &DumpArgs,
    url: &SourceUrl,
    source: &dyn Source,
    folder: &Path,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let options = ready::copy_options(&args.job, &args.buffers);
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
