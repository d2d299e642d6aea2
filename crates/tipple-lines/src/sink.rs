//! Lines as a sink.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tipple_budget::Gate;
use tipple_flow::{
    Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink, Stop,
};

use crate::options::LinesOptions;

/// Lines into a file or to standard output, in the source's order.
///
/// A file is written beside its target as `.tipple-<pid>-<random>.tmp` and takes the target's name once it is whole
/// and on disk. If the load fails, the temporary file is removed and an old target is as it was; after a `kill -9` the
/// temporary file stays, and nothing reads it. A target that is replaced keeps its permissions, not its owner; one that
/// is a symbolic link stays a link, and the file it leads to is replaced.
///
/// Standard output gets the bytes at once. A reader that stops reading without closing holds up the load, and a cancel
/// is noticed only once it reads on.
#[derive(Debug)]
pub struct LinesSink {
    output: Output,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Output {
    File { target: PathBuf, overwrite: bool },
    Stdout,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    bytes: u64,
    // The part whose last line had no newline: no line may follow it.
    unended: Option<PartName>,
}

#[derive(Debug)]
enum Stage {
    New,
    Temporary(NamedTempFile),
    Straight(Straight),
    // Nothing more may be written: everything is visible, or nothing will ever be.
    Over,
}

/// Standard output, or what a test puts in its place.
struct Straight(Box<dyn Write + Send>);

impl std::fmt::Debug for Straight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Straight")
    }
}

impl LinesSink {
    /// A sink that makes the file at `path`. Nothing is created yet.
    ///
    /// # Errors
    /// [`Failure`]: an option out of range, or a path that cannot name a file in an existing folder.
    pub fn file(path: &Path, options: LinesOptions) -> Result<Self, Failure> {
        options.validate()?;
        Ok(Self::new(
            Output::File {
                target: resolve(path)?,
                overwrite: options.overwrite,
            },
            Stage::New,
        ))
    }

    /// A sink that writes to standard output.
    ///
    /// # Errors
    /// [`Failure`] of [`Party::Sink`] if there is none.
    pub fn stdout() -> Result<Self, Failure> {
        // A handle of our own: the standard one looks for newlines to flush at.
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|error| {
            Failure::new(
                Party::Sink,
                format!("cannot write to standard output: {error}"),
            )
            .because(error)
        })?;
        Ok(Self::stream(File::from(stdout)))
    }

    /// A sink that writes to any stream, the way of [`LinesSink::stdout`].
    pub fn stream(output: impl Write + Send + 'static) -> Self {
        Self::new(Output::Stdout, Stage::Straight(Straight(Box::new(output))))
    }

    fn new(output: Output, stage: Stage) -> Self {
        Self {
            output,
            state: Mutex::new(State {
                stage,
                bytes: 0,
                unended: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the temporary file, once.
    fn start(&self, state: &mut State) -> Result<(), Failure> {
        if let (Output::File { target, .. }, Stage::New) = (&self.output, &state.stage) {
            let mode = old_target(target)?.map_or(0o666, |_| 0o600);
            let temporary = tempfile::Builder::new()
                .prefix(&format!(".tipple-{}-", std::process::id()))
                .suffix(".tmp")
                .permissions(Permissions::from_mode(mode))
                .tempfile_in(target.parent().expect("resolved with its folder"))
                .map_err(|error| self.failed("create a temporary file beside", error))?;
            state.stage = Stage::Temporary(temporary);
        }
        Ok(())
    }

    /// Gives the temporary file, which is whole, the target's name.
    fn publish(
        &self,
        temporary: NamedTempFile,
        target: &Path,
        overwrite: bool,
    ) -> Result<(), Failure> {
        if let Some(old) = old_target(target)?
            && overwrite
        {
            temporary
                .as_file()
                .set_permissions(old)
                .map_err(|error| self.failed("set the permissions of", error))?;
        }
        temporary
            .as_file()
            .sync_all()
            .map_err(|error| self.failed("flush", error))?;
        // Closes it. From here on, an error drops the path, which removes the file.
        let path = temporary.into_temp_path();
        let named = if overwrite {
            path.persist(target)
        } else {
            path.persist_noclobber(target)
        };
        named.map_err(|error| match error.error.kind() {
            ErrorKind::AlreadyExists => exists(target),
            _ => self.failed("rename the finished file to", error.error),
        })?;
        let folder = target.parent().expect("resolved with its folder");
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| self.failed("flush the folder of", error))
    }

    fn failed(&self, what: &str, error: io::Error) -> Failure {
        let target = match &self.output {
            Output::File { target, .. } => target.display().to_string(),
            Output::Stdout => "standard output".into(),
        };
        Failure::new(Party::Sink, format!("cannot {what} {target}: {error}")).because(error)
    }
}

impl Sink for LinesSink {
    fn identity(&self) -> Identity {
        Identity {
            kind: crate::NAME.into(),
            id: match &self.output {
                Output::File { target, .. } => json!({ "path": target.to_string_lossy() }),
                Output::Stdout => json!("stdout"),
            },
        }
    }

    fn accepts(&self, content: &str, version: u16) -> bool {
        content == crate::NAME && version == crate::VERSION
    }

    fn ordered(&self) -> bool {
        true
    }

    fn resume(&self) -> Resume {
        Resume::RestartOnly
    }

    /// Nothing: the bytes go from the frame to the system.
    fn writer_bytes(&self) -> u64 {
        0
    }

    fn check(&self) -> Result<(), Stop> {
        if let Output::File { target, overwrite } = &self.output
            && old_target(target)?.is_some()
            && !overwrite
        {
            return Err(exists(target).into());
        }
        Ok(())
    }

    fn open<'a>(&'a self, _gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        self.check()?;
        self.start(&mut self.state())?;
        Ok(Box::new(LinesWriter { sink: self }))
    }

    fn finish(&self, _outcomes: &Outcomes) -> Result<Value, Stop> {
        let mut state = self.state();
        self.start(&mut state)?;
        match (
            std::mem::replace(&mut state.stage, Stage::Over),
            &self.output,
        ) {
            (Stage::Temporary(temporary), Output::File { target, overwrite }) => {
                self.publish(temporary, target, *overwrite)?;
            }
            (Stage::Straight(mut straight), _) => straight
                .0
                .flush()
                .map_err(|error| self.write_failed(state.bytes, error))?,
            (Stage::New | Stage::Temporary(_) | Stage::Over, _) => {
                panic!("a load that failed or was finished was finished")
            }
        }
        Ok(json!({ "bytes": state.bytes }))
    }
}

struct LinesWriter<'a> {
    sink: &'a LinesSink,
}

impl PartWriter for LinesWriter<'_> {
    fn write_part(
        &mut self,
        part: &PartName,
        records: &mut RecordReader<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut state = self.sink.state();
        let written = self.sink.write_lines(&mut state, part, records);
        if written.is_err() {
            // Drops, and so removes, the temporary file: nobody can go on with it.
            state.stage = Stage::Over;
        }
        written
    }
}

impl LinesSink {
    fn write_lines(
        &self,
        state: &mut State,
        part: &PartName,
        records: &mut RecordReader<'_>,
    ) -> Result<(), Stop> {
        let State {
            stage,
            bytes,
            unended,
        } = state;
        let output: &mut dyn Write = match stage {
            Stage::Temporary(temporary) => temporary.as_file_mut(),
            Stage::Straight(straight) => &mut straight.0,
            Stage::New | Stage::Over => panic!("a part came outside of a load"),
        };
        loop {
            let at_hand = records.fill()?;
            if at_hand.is_empty() {
                break;
            }
            if let Some(before) = &unended {
                return Err(Failure::new(
                    Party::Content,
                    format!("part {before} ends without a newline, and part {part} goes on with another line: they would become one; dump it again"),
                )
                .into());
            }
            output
                .write_all(at_hand)
                .map_err(|error| self.write_failed(*bytes, error))?;
            *bytes += at_hand.len() as u64;
            let lines = memchr::memchr_iter(b'\n', at_hand).count() as u64;
            let ended = memchr::memrchr(b'\n', at_hand).map_or(0, |newline| newline + 1);
            let begun = at_hand.len() - ended;
            if lines > 0 {
                records.consume(ended);
                records.end_records(lines);
            }
            records.consume(begun);
        }
        if records.in_record() {
            records.end_record();
            *unended = Some(part.clone());
        }
        Ok(())
    }

    fn write_failed(&self, bytes: u64, error: io::Error) -> Failure {
        if error.kind() == ErrorKind::BrokenPipe {
            return Failure::new(
                Party::Sink,
                format!("the reader of standard output went away before the end (after at least {bytes} bytes): the load is not complete"),
            )
            .because(error);
        }
        self.failed("write to", error)
    }
}

/// Where the file goes: links followed, its folder made absolute.
fn resolve(path: &Path) -> Result<PathBuf, Failure> {
    let fail = |error: io::Error| {
        Failure::new(
            Party::Sink,
            format!("cannot find where {} leads: {error}", path.display()),
        )
        .because(error)
    };
    if path.symlink_metadata().is_ok() {
        return fs::canonicalize(path).map_err(fail);
    }
    let name = path
        .file_name()
        .ok_or_else(|| Failure::new(Party::Usage, format!("{} names no file", path.display())))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok(fs::canonicalize(folder).map_err(fail)?.join(name))
}

/// The permissions of what is at `target`; `None` if nothing is.
fn old_target(target: &Path) -> Result<Option<Permissions>, Failure> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_file() => Ok(Some(meta.permissions())),
        Ok(_) => Err(Failure::new(
            Party::Usage,
            format!(
                "{} is not a regular file: use - as the sink and redirect standard output",
                target.display()
            ),
        )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(
            Party::Sink,
            format!("cannot look at {}: {error}", target.display()),
        )
        .because(error)),
    }
}

fn exists(target: &Path) -> Failure {
    Failure::new(
        Party::Usage,
        format!(
            "{} exists: remove it, name another file, or give --overwrite",
            target.display()
        ),
    )
}
