//! `tipple snapshot`.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tipple_snapshot::tools::{self, SnapshotFile, time_text};
use tipple_snapshot::{Keys, MaxAge, SnapshotError, SnapshotOptions};

use crate::cli::snapshot::{
    CatArgs, DiffArgs, LookArgs, PruneArgs, SealedFlags, SnapshotArgs, SnapshotVerb,
};
use crate::error::{CliError, Kind};
use crate::output::{Answer, Output, print};
use crate::units::{bytes, counted};

const BUFFER_BYTES: usize = 256 << 10;

pub(super) fn run(args: &SnapshotArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    match &args.verb {
        SnapshotVerb::Inspect(args) => inspect(args, output),
        SnapshotVerb::Verify(args) => verify(args, output),
        SnapshotVerb::Cat(args) => cat(args, output),
        SnapshotVerb::Diff(args) => diff(args, output),
        SnapshotVerb::Prune(args) => prune(args, output),
        SnapshotVerb::Rekey(args) => rekey(args, output),
    }
}

/// Where the keys are, and the name that they belong to.
struct Sealed<'a> {
    keys: Keys,
    name: Option<&'a str>,
}

impl<'a> Sealed<'a> {
    fn new(flags: &'a SealedFlags, output: &Output) -> Result<Self, CliError> {
        let keys = match (&flags.secrets, &flags.key.encrypt_key) {
            (Some(secrets), _) => Keys::from_file(secrets),
            (None, Some(file)) => {
                // That it is a key file, and that nobody else can read it.
                crate::ready::keys(&flags.key, output)?;
                Keys::from_key_file(file)
            }
            (None, None) => Keys::none(),
        };
        Ok(Self {
            keys,
            name: flags.name.as_deref(),
        })
    }

    fn open(&self, path: &Path) -> Result<SnapshotFile, SnapshotError> {
        SnapshotFile::open(path, self.name, &self.keys)
    }
}

fn some(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    let found = tools::snapshots(path)?;
    match found.is_empty() {
        true => Err(CliError::usage(format!(
            "there is no snapshot in {}: give the folder of a cache, which is named after it",
            path.display()
        ))),
        false => Ok(found),
    }
}

/// Each snapshot in turn; the worst exit code of them.
fn each(
    args: &LookArgs,
    output: &Arc<Output>,
    mut look: impl FnMut(&Sealed<'_>, &Path) -> Result<Value, CliError>,
) -> Result<u8, CliError> {
    let sealed = Sealed::new(&args.sealed, output)?;
    let (mut reports, mut exit) = (Vec::new(), 0);
    for path in some(&args.path)? {
        match look(&sealed, &path) {
            Ok(report) => reports.push(report),
            Err(error) => {
                exit = exit.max(error.kind.exit());
                if !output.is_json() {
                    output.warn(&format!("error: {error}"));
                }
                reports.push(json!({
                    "path": path.display().to_string(),
                    "error": error.to_string(),
                    "kind": error.kind.name(),
                }));
            }
        }
    }
    output.json_report(&json!({ "snapshots": reports }), exit);
    Ok(exit)
}

fn inspect(args: &LookArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let mut is_first = true;
    each(args, output, |sealed, path| {
        let seen = sealed.open(path)?.inspect();
        let full = seen.full.map(time_text);
        if !output.is_json() {
            let mut answer = Answer::default();
            answer
                .row("snapshot", path.display().to_string())
                .row("cache", &seen.cache)
                .row("type", &seen.schema)
                .row("format version", seen.format_version.to_string())
                .row(
                    "elements",
                    seen.elements
                        .map_or_else(|| "-".to_owned(), |n| n.to_string()),
                )
                .row(
                    "bytes",
                    format!(
                        "{}, {} of value in {}",
                        bytes(seen.stored_bytes),
                        bytes(seen.raw_bytes),
                        counted(seen.frames, "frame")
                    ),
                )
                .row("compression", seen.compression.name())
                .row("sealed", if seen.is_sealed { "yes" } else { "no" })
                .row("written", time_text(seen.written))
                .row("current at", time_text(seen.updated))
                .row("changed at", time_text(seen.modified))
                .row("full at", full.as_deref().unwrap_or("-"))
                .row("producer", &seen.producer)
                .row("fingerprint", format!("{:016x}", seen.fingerprint))
                .row("content", format!("{:032x}", seen.content));
            let gap = if std::mem::take(&mut is_first) {
                ""
            } else {
                "\n"
            };
            print(&format!("{gap}{}", answer.text()))?;
        }
        Ok(json!({
            "path": path.display().to_string(), "cache": seen.cache, "type": seen.schema,
            "format_version": seen.format_version, "elements": seen.elements, "stored_bytes": seen.stored_bytes,
            "raw_bytes": seen.raw_bytes, "frames": seen.frames, "sealed": seen.is_sealed, "compression": seen.compression.name(),
            "written": time_text(seen.written), "updated": time_text(seen.updated),
            "modified": time_text(seen.modified), "full": full, "producer": seen.producer,
            "fingerprint": format!("{:016x}", seen.fingerprint), "content": format!("{:032x}", seen.content),
        }))
    })
}

fn verify(args: &LookArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    each(args, output, |sealed, path| {
        let mut file = sealed.open(path)?;
        file.verify()?;
        let seen = file.inspect();
        output.say(&format!(
            "{}: {} in {}, all as written",
            path.display(),
            bytes(seen.raw_bytes),
            counted(seen.frames, "frame")
        ));
        Ok(json!({
            "path": path.display().to_string(), "raw_bytes": seen.raw_bytes, "frames": seen.frames,
            "elements": seen.elements,
        }))
    })
}

fn cat(args: &CatArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let sealed = Sealed::new(&args.sealed, output)?;
    let newest = some(&args.path)?.remove(0);
    let mut file = sealed.open(&newest)?;
    let mut out = Printing::new();
    let shown = file.cat(&mut out, args.limit.unwrap_or(u64::MAX));
    out.end(shown.map(drop))?;
    Ok(0)
}

fn diff(args: &DiffArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let sealed = Sealed::new(&args.sealed, output)?;
    let (mut old, mut new) = (sealed.open(&args.old)?, sealed.open(&args.new)?);
    let difference = match output.is_json() {
        true => tools::diff(&mut old, &mut new, &mut io::sink())?,
        false => {
            let mut out = Printing::new();
            let found = tools::diff(&mut old, &mut new, &mut out);
            match out.end(found)? {
                Some(difference) => difference,
                None => return Ok(0),
            }
        }
    };
    output.say(&format!(
        "{} added, {} removed, {} changed, {} the same",
        difference.added, difference.removed, difference.changed, difference.same
    ));
    let report = json!({
        "added": difference.added, "removed": difference.removed,
        "changed": difference.changed, "same": difference.same,
    });
    output.json_report(&report, 0);
    Ok(0)
}

fn prune(args: &PruneArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    let sealed = Sealed::new(&args.sealed, output)?;
    let options = SnapshotOptions {
        max_count: args.max_count,
        previous_count: args.previous_count,
        max_age: args.max_age.map(|age| MaxAge::AtMost(age.0)),
        ..SnapshotOptions::default()
    };
    // So that a typing error does not look like a clean folder.
    some(&args.folder)?;
    let pruned = tools::prune(&args.folder, &options, sealed.name, &sealed.keys, args.yes)?;
    if output.is_json() {
        let items: Vec<Value> = pruned
            .iter()
            .map(|item| json!({"path": item.path.display().to_string(), "bytes": item.bytes, "why": item.why}))
            .collect();
        output.json_report(&json!({ "items": items, "deleted": args.yes }), 0);
        return Ok(0);
    }
    let lines: String = pruned
        .iter()
        .map(|item| {
            format!(
                "{}  {}  {}\n",
                item.path.display(),
                bytes(item.bytes),
                item.why
            )
        })
        .collect();
    print(&lines)?;
    let total = counted(pruned.len() as u64, "file");
    output.say(&match (pruned.is_empty(), args.yes) {
        (true, _) => "nothing to prune".to_owned(),
        (false, true) => format!("deleted {total}"),
        (false, false) => format!("{total} that no start needs; --yes deletes them"),
    });
    Ok(0)
}

fn rekey(args: &LookArgs, output: &Arc<Output>) -> Result<u8, CliError> {
    if args.sealed.secrets.is_none() && args.sealed.key.encrypt_key.is_none() {
        return Err(CliError::usage(
            "no keys are given: --secrets FILE or --encrypt-key FILE, the new key before those that open what is there",
        ));
    }
    each(args, output, |sealed, path| {
        let is_new = tools::rekey(path, sealed.name, &sealed.keys)?;
        output.say(&match is_new {
            true => format!("{}: sealed with the first key", path.display()),
            false => format!("{}: the first key has sealed it already", path.display()),
        });
        Ok(json!({ "path": path.display().to_string(), "rekeyed": is_new }))
    })
}

/// Standard output, whose reader may have seen enough.
struct Printing {
    out: BufWriter<io::Stdout>,
    has_ended: bool,
}

impl Printing {
    fn new() -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()),
            has_ended: false,
        }
    }

    /// What came of it; `None` if nobody wanted to know.
    fn end<T>(mut self, done: Result<T, SnapshotError>) -> Result<Option<T>, CliError> {
        if let Err(error) = self.flush()
            && !self.has_ended
        {
            return Err(CliError::new(
                Kind::Budget,
                format!("cannot write to standard output: {error}"),
            ));
        }
        match self.has_ended {
            true => {
                // What is still buffered has no reader either.
                drop(self.out.into_parts());
                Ok(None)
            }
            false => Ok(Some(done?)),
        }
    }
}

impl Write for Printing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.has_ended |= written
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.has_ended |= flushed
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        flushed
    }
}
