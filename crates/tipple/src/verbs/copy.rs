//! `tipple copy`.

use std::sync::Arc;

use tipple_budget::Rates;
use tipple_dump::CopyOptions;
use tipple_flow::{Sink, Source};
use tipple_stream::{Origin, StreamOptions};

use crate::cli::{CopyArgs, Mode};
use crate::endpoint::{SinkUrl, SourceUrl};
use crate::error::CliError;
use crate::output::Output;
use crate::ready::{self, MemcachedFlags, MemoryStory, Typed};
use crate::running;
use crate::verbs::dry_run::Expected;
use crate::verbs::{self, finish};

pub(super) fn run(
    args: &CopyArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let from = SourceUrl::parse(&args.source)?.with_tls(ready::tls(&args.connection));
    let to = SinkUrl::parse(&args.sink)?.with_tls(ready::tls(&args.connection));
    typed.fit_source(&from)?;
    typed.fit_sink(&to)?;
    let source_is_memcached = matches!(from, SourceUrl::Memcached(_));
    typed.fit_connections(
        source_is_memcached || matches!(to, SinkUrl::Memcached(_)),
        from.speaks_tls() || to.speaks_tls(),
    )?;
    refuse_two_writers(output, &to)?;
    if args.storing.mode == Mode::Set {
        refuse_overlap(&from, &to)?;
    }
    let memcached = MemcachedFlags {
        connection: &args.connection,
        filter: &args.filter,
    };
    let source = ready::source(
        &from,
        &args.lines,
        &args.stream,
        None,
        &args.listing,
        &memcached,
    )?;
    // A source that can choose does; for all others the sink chooses.
    let filtering = !source_is_memcached;
    let sink = match &to {
        SinkUrl::Stream(to) => {
            let origin = match &from {
                SourceUrl::Stream(from) => from.origin(&StreamOptions {
                    from: args.stream.from,
                    ..StreamOptions::default()
                })?,
                _ => Origin::default(),
            };
            to.sink_like(&origin, args.pace.options())?
        }
        _ => ready::sink(&to, &args.lines_sink, &args.storing, &memcached, filtering)?,
    };
    let options = ready::copy_options(&args.job, &args.buffers)?;
    let rates = ready::job_rates(&args.job)?;
    if args.job.dry_run {
        return dry_run(
            "copy",
            &options,
            source.as_ref(),
            sink.as_ref(),
            rates,
            output,
        );
    }
    // Before the budget is told: what planning holds may depend on what the source turns out to be.
    source.check()?;
    let story = memory_story(&options, source.as_ref(), sink.as_ref());
    output.at_start([
        format!("copying {from} to {to}"),
        format!("memory budget {story}"),
    ]);
    let report = running::run("copy", rates, output, |job| {
        tipple_dump::copy(job, source.as_ref(), sink.as_ref(), &options)
    })?;
    Ok(finish(output, "copied", &report, None))
}

/// Standard output cannot carry records and JSON at once.
pub(super) fn refuse_two_writers(output: &Output, to: &SinkUrl) -> Result<(), CliError> {
    match (output.is_json(), to) {
        (true, SinkUrl::Stdout) => Err(CliError::usage(
            "--json and the sink - would both write to standard output: give lines:FILE as the sink, or leave --json out",
        )),
        _ => Ok(()),
    }
}

/// A copy into a server that it reads would set items again, over what clients have stored since they were read.
fn refuse_overlap(from: &SourceUrl, to: &SinkUrl) -> Result<(), CliError> {
    let (SourceUrl::Memcached(from), SinkUrl::Memcached(to)) = (from, to) else {
        return Ok(());
    };
    match from.servers().iter().find(|one| to.servers().contains(one)) {
        Some(server) => Err(CliError::usage(format!(
            "{server} is both read and written: give --mode add, so that nothing newer is replaced, or name other servers"
        ))),
        None => Ok(()),
    }
}

fn workers(options: &CopyOptions, sink: &dyn Sink) -> usize {
    if sink.ordered() { 1 } else { options.threads }
}

pub(super) fn memory_story(options: &CopyOptions, source: &dyn Source, sink: &dyn Sink) -> String {
    MemoryStory {
        total: options.memory_bytes(source, sink),
        threads: workers(options, sink),
        buffer_bytes: options.buffer_bytes as u64,
        others: &[
            ("reader", source.reader_bytes()),
            (
                "writer",
                sink.writer_bytes() + sink.record_bytes(source.record_bytes_max()),
            ),
        ],
        planner_bytes: source.planner_bytes(),
        shared: &[],
    }
    .to_string()
}

pub(super) fn dry_run(
    verb: &'static str,
    options: &CopyOptions,
    source: &dyn Source,
    sink: &dyn Sink,
    rates: Rates,
    output: &Output,
) -> Result<u8, CliError> {
    let estimate = source.check()?;
    let key_files = estimate.plan_bytes_max;
    let expected = Expected {
        verb,
        parts: estimate.parts,
        records: estimate.records,
        raw_bytes: estimate.bytes,
        reads: None,
        memory_bytes: options.memory_bytes(source, sink),
        memory: memory_story(options, source, sink),
        disk: (key_files > 0).then(|| {
            let text = format!("{} at most, for key files", crate::units::bytes(key_files));
            (key_files, text)
        }),
    };
    verbs::dry_run::tell(output, &expected, rates)
}
