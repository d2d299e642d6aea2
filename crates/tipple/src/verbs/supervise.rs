//! `tipple supervise`, and the other verbs for what it stored.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use tipple_store::{Access, Store, StoreUrl, open_store};
use tipple_supervise::{Report, RestoreOptions, SuperviseOptions};

use crate::cli::{ListArgs, LoadArgs, MydumperFlags, PruneArgs, SuperviseArgs, VerifyArgs};
use crate::config::read_small;
use crate::endpoint::store_url;
use crate::error::{CliError, EXIT_LOST, Kind};
use crate::output::{Answer, Output, files_report_text, print, print_table};
use crate::ready::{self, Typed};
use crate::running::run_files;
use crate::units::{bytes, count, counted};
use crate::verbs::quoted;

const MYDUMPER_FLAGS: &[&str] = &[
    "mysql_host",
    "mysql_port",
    "mysql_user",
    "mysql_password_file",
    "mydumper_chunk_size",
];
const PASSWORD_VARIABLE: &str = "TIPPLE_MYSQL_PASSWORD";

pub(super) fn run(
    args: &SuperviseArgs,
    typed: &Typed<'_>,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let url = store_url(&args.store)?;
    if !args.command.is_empty() {
        typed.refuse(MYDUMPER_FLAGS, "is for mydumper, where no COMMAND is given")?;
    }
    let options = options(args, output)?;
    options.validate()?;
    refuse_overlap(&url, &args.dir)?;
    find(&options.command[0])?;
    typed.fit_stores(std::slice::from_ref(&url))?;
    let store = open_store(&url, Access::Write, &ready::upload_options(&args.upload)?)?;
    let program = Path::new(&options.command[0]).display().to_string();
    output.at_start([
        format!(
            "running {program} in {}, at most {}, into {url}",
            args.dir.display(),
            bytes(options.limit_bytes)
        ),
        format!(
            "memory budget {}",
            bytes(options.memory_bytes() + store.put_memory_bytes())
        ),
    ]);
    let report = run_files("supervise", Some(options.limit_bytes), output, |job| {
        tipple_supervise::supervise(job, &store, &options)
    })?;
    Ok(tell(&report, &url, &program, output))
}

fn options(args: &SuperviseArgs, output: &Output) -> Result<SuperviseOptions, CliError> {
    let mut options = SuperviseOptions::new(&args.dir, args.limit.0, args.command.clone());
    if args.command.is_empty() {
        mydumper(&args.mydumper, &mut options)?;
    }
    options.state.clone_from(&args.state);
    options.threads = args.uploading.threads;
    options.attempts = args.uploading.attempts;
    options.pause_max = args.pausing.pause_max.0;
    options.gentle = args.pausing.gentle;
    options.grace = args.pausing.grace.0;
    options.hold.clone_from(&args.hold);
    // Standard output has JSON only, then.
    options.output_to_stderr = output.is_json();
    Ok(options)
}

/// The command of those who give none.
fn mydumper(flags: &MydumperFlags, options: &mut SuperviseOptions) -> Result<(), CliError> {
    let chunk_mib = flags.mydumper_chunk_size.0 >> 20;
    if chunk_mib == 0 || !flags.mydumper_chunk_size.0.is_multiple_of(1 << 20) {
        return Err(CliError::usage(format!(
            "--mydumper-chunk-size: {} are no whole MiB: give 1MiB or more",
            flags.mydumper_chunk_size
        )));
    }
    let password = match &flags.mysql_password_file {
        Some(path) => Some(read_small(path).map_err(|error| {
            let message = format!("cannot read the password file {}: {error}", path.display());
            CliError::usage(message)
        })?),
        None => env::var(PASSWORD_VARIABLE).ok(),
    };
    if let Some(password) = password {
        // Not among its arguments, where everybody sees it.
        let password = password.trim_end_matches(['\r', '\n']);
        options
            .variables
            .push(("MYSQL_PWD".into(), password.into()));
    }
    let args = [
        "mydumper",
        "--host",
        &flags.mysql_host,
        "--port",
        &flags.mysql_port.to_string(),
        "--user",
        &flags.mysql_user,
        "--chunk-filesize",
        &chunk_mib.to_string(),
        "--outputdir",
        "{dir}",
    ];
    options.command = args.map(OsString::from).to_vec();
    Ok(())
}

/// That there is such a program, before anything is made for it.
fn find(program: &OsStr) -> Result<(), CliError> {
    let path = Path::new(program);
    let found = match path.components().count() {
        1 => env::var_os("PATH")
            .is_none_or(|folders| env::split_paths(&folders).any(|dir| dir.join(path).is_file())),
        _ => path.is_file(),
    };
    match found {
        true => Ok(()),
        false => Err(CliError::usage(format!(
            "there is no program {}: check the command after --, or install it",
            path.display()
        ))),
    }
}

/// What is stored must not be taken for what is to be stored.
fn refuse_overlap(url: &StoreUrl, dir: &Path) -> Result<(), CliError> {
    let whole = |path: &Path| {
        // As far as it exists, without links.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        for folder in path.ancestors() {
            if let Ok(real) = folder.canonicalize() {
                let rest = path.strip_prefix(folder).unwrap_or(Path::new(""));
                return real.join(rest);
            }
        }
        path
    };
    let Some(folder) = url.as_folder() else {
        return Ok(());
    };
    let (store, dir) = (whole(folder), whole(dir));
    match store.starts_with(&dir) || dir.starts_with(&store) {
        true => Err(CliError::usage(format!(
            "--dir {} and the store {url} are in one another: give folders apart",
            dir.display()
        ))),
        false => Ok(()),
    }
}

fn tell(report: &Report, url: &StoreUrl, program: &str, output: &Output) -> u8 {
    let mut text = files_report_text("stored", report);
    if !report.done {
        let exit = report.command.unwrap_or_default();
        let error = CliError::new(
            Kind::Live,
            format!(
                "{program} failed with {exit}: {url} is not complete; run the same command again to start over"
            ),
        );
        output.warn(text.trim_end());
        output.warn(&format!("error: {error}"));
        output.json_report(report, error.kind.exit());
        return error.kind.exit();
    }
    text.push_str(&format!(
        "next: tipple verify {}\n",
        quoted(&url.to_string())
    ));
    let exit = match report.skipped {
        0 => 0,
        _ => EXIT_LOST,
    };
    match exit {
        0 => output.say(text.trim_end()),
        _ => output.warn(text.trim_end()),
    }
    output.json_report(report, exit);
    exit
}

/// Whether the verb is one for files, which the others do not understand.
pub(super) fn is_files(store: &dyn Store) -> Result<bool, CliError> {
    Ok(tipple_supervise::is_files(store)?)
}

/// For verbs that can do nothing with files.
pub(super) fn refuse_files(store: &dyn Store) -> Result<(), CliError> {
    match is_files(store)? {
        true => Err(CliError::usage(format!(
            "{} holds files that `tipple supervise` stored: `tipple load {0} files:FOLDER` brings them back",
            store.url()
        ))),
        false => Ok(()),
    }
}

pub(super) fn verify(
    args: &VerifyArgs,
    store: &dyn Store,
    place: &str,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    let threads = ready::threads(&args.threads);
    let verified = run_files("verify", None, output, |job| {
        tipple_supervise::verify(job, store, threads)
    })?;
    let mut text = String::new();
    for problem in &verified.problems {
        text.push_str(&format!("  {}: {}\n", problem.object, problem.problem));
    }
    let hidden = verified.problems_total - verified.problems.len() as u64;
    if hidden > 0 {
        text.push_str(&format!("  and {} more\n", count(hidden)));
    }
    if verified.problems_total > 0 {
        let error = CliError::new(
            Kind::Damaged,
            format!(
                "{place} is damaged or not complete: {}",
                counted(verified.problems_total, "problem")
            ),
        );
        output.warn(text.trim_end());
        output.warn(&format!("error: {error}"));
        output.json_report(&verified, error.kind.exit());
        return Ok(error.kind.exit());
    }
    text.push_str(&files_report_text("verified", &verified.report));
    if verified.unlisted > 0 {
        text.push_str(&format!(
            "  {} of runs that do not count: `tipple prune {}` shows them\n",
            counted(verified.unlisted, "object"),
            quoted(place)
        ));
    }
    output.say(text.trim_end());
    output.json_report(&verified, 0);
    Ok(0)
}

pub(super) fn load(
    args: &LoadArgs,
    typed: &Typed<'_>,
    store: &dyn Store,
    target: &Path,
    output: &Arc<Output>,
) -> Result<u8, CliError> {
    typed.refuse(
        &["parts", "partial", "state", "rate", "memory", "dry_run"],
        "is for dumps of records, and these are files",
    )?;
    let options = RestoreOptions {
        threads: ready::threads(&args.job.threads),
        overwrite: args.lines.overwrite,
    };
    output.at_start([format!("loading {} into {}", store.url(), target.display())]);
    let report = run_files("load", None, output, |job| {
        tipple_supervise::restore(job, store, target, &options)
    })?;
    output.say(files_report_text("loaded", &report).trim_end());
    output.json_report(&report, 0);
    Ok(0)
}

pub(super) fn list(args: &ListArgs, store: &dyn Store, output: &Output) -> Result<(), CliError> {
    let listing = tipple_supervise::list(store)?;
    let total = listing.files.iter().map(|file| file.bytes).sum();
    let mut answer = Answer::default();
    answer
        .row("content", format!("files of {}", listing.head.program))
        .row(
            "begun",
            format!("{} by {}", listing.head.started, listing.head.written_by),
        );
    match &listing.done {
        Some(done) => answer.row("finished", done.finished.clone()),
        None => answer.row("finished", "no; run the same `tipple supervise` again"),
    };
    answer
        .row("runs", count(listing.runs))
        .row("files", count(listing.files.len() as u64))
        .row("size", bytes(total));
    if let Some(done) = listing.done.as_ref().filter(|done| done.skipped > 0) {
        answer.row(
            "SKIPPED",
            format!("{}: neither files nor folders", done.skipped),
        );
    }
    answer.print(output, &listing)?;
    if args.parts && !output.is_json() && !listing.files.is_empty() {
        print("\n")?;
        let rows: Vec<Vec<String>> = listing
            .files
            .iter()
            .map(|file| {
                vec![
                    file.path.clone(),
                    bytes(file.bytes),
                    file.sha256.to_string(),
                ]
            })
            .collect();
        print_table(&["file", "size", "sha256"], &rows)?;
    }
    Ok(())
}

pub(super) fn prune(
    args: &PruneArgs,
    url: &StoreUrl,
    store: &dyn Store,
) -> Result<tipple_dump::Pruned, CliError> {
    if args.older_than.is_some() {
        return Err(CliError::usage(
            "--older-than is for dumps of records, and these are files",
        ));
    }
    let pruned = match args.yes && !args.dry_run {
        true => {
            let store = open_store(url, Access::Write, &ready::fenced(&args.fence))?;
            tipple_supervise::prune(store.as_ref(), true, args.force)?
        }
        false => tipple_supervise::prune(store, false, args.force)?,
    };
    let item = |item: tipple_supervise::PruneItem| tipple_dump::PruneItem {
        name: item.name,
        bytes: item.bytes,
        why: item.why,
    };
    Ok(tipple_dump::Pruned {
        items: pruned.items.into_iter().map(item).collect(),
        deleted: pruned.deleted,
    })
}
