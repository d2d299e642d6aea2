//! Runs commands where the reader can see them, and keeps what they proved.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{CliError, Kind};
use crate::verbs::quoted;

pub(super) struct Guide {
    program: PathBuf,
    folder: PathBuf,
    steps: u32,
    proven: Vec<(String, bool)>,
}

/// A tour that cannot go on.
pub(super) fn stuck(what: impl std::fmt::Display) -> CliError {
    CliError::new(Kind::Unexpected, format!("the tour cannot go on: {what}"))
}

impl Guide {
    pub(super) fn new(folder: &Path) -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(stuck)?;
        let guide = Self {
            program,
            folder: folder.to_owned(),
            steps: 0,
            proven: Vec::new(),
        };
        guide.say(&format!("everything is in {}", folder.display()));
        guide.say(&format!("`tipple` is {}", guide.program.display()));
        Ok(guide)
    }

    pub(super) fn say(&self, text: &str) {
        // A tour nobody can see is still checked.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    pub(super) fn step(&mut self, what: &str) {
        self.steps += 1;
        self.say(&format!("\n── {}. {what}", self.steps));
    }

    /// A path in the tour's folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The same as text for a command.
    pub(super) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `tipple` with these arguments, not begun.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        // The reader's own settings would make it another tour.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"TIPPLE_") {
                command.env_remove(name);
            }
        }
        command.env("XDG_CONFIG_HOME", &self.folder);
        command
    }

    pub(super) fn show(&self, program: &str, args: &[&str]) {
        let args: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        self.say(&format!("$ {program} {}", args.join(" ")));
    }

    /// Shows and runs `tipple`; what it prints on standard output is shown too, up to a few lines.
    pub(super) fn tipple(&mut self, args: &[&str], exit: i32) -> Result<Output, CliError> {
        self.show("tipple", args);
        let output = self
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .and_then(|child| child.wait_with_output())
            .map_err(stuck)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        // Of events, the last one: the report.
        let skipped = match args.contains(&"--json") {
            true => stdout.lines().count().saturating_sub(1),
            false => 0,
        };
        for line in stdout.lines().skip(skipped).take(12) {
            let cut: String = line.chars().take(160).collect();
            let more = if cut.len() < line.len() { "…" } else { "" };
            self.say(&format!("{cut}{more}"));
        }
        if output.status.code() != Some(exit) {
            let found = match (output.status.code(), output.status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, signal) => format!("signal {}", signal.unwrap_or(0)),
            };
            self.prove(
                &format!(
                    "`tipple {}` ends with exit code {exit}, not {found}",
                    args[0]
                ),
                false,
            );
        }
        Ok(output)
    }

    /// Shows and runs another program in `folder`, quietly; `None` if it is not installed.
    pub(super) fn tool(
        &self,
        program: &str,
        args: &[&str],
        folder: &Path,
    ) -> Result<Option<bool>, CliError> {
        let run = Command::new(program)
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = match run {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.say(&format!("({program} is not installed: left out)"));
                return Ok(None);
            }
            Err(error) => return Err(stuck(error)),
        };
        let shown = if args.len() > 3 { &args[..2] } else { args };
        let more = if args.len() > 3 { " …" } else { "" };
        self.say(&format!(
            "$ (cd {} && {program} {}{more})",
            quoted(&folder.display().to_string()),
            shown.join(" ")
        ));
        if !output.status.success() {
            self.say(String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(Some(output.status.success()))
    }

    /// Notes what was seen to hold, or not.
    pub(super) fn prove(&mut self, what: &str, holds: bool) {
        self.say(&format!("{} {what}", if holds { "✓" } else { "✗ NOT SO:" }));
        self.proven.push((what.to_owned(), holds));
    }

    pub(super) fn any_differs(&self) -> bool {
        self.proven.iter().any(|(_, holds)| !holds)
    }

    pub(super) fn sum_up(&self) {
        let good = self.proven.iter().filter(|(_, holds)| *holds).count();
        self.say(&format!("\n── {good} of {} proven", self.proven.len()));
        for (what, holds) in &self.proven {
            self.say(&format!("{} {what}", if *holds { "✓" } else { "✗" }));
        }
    }

    /// Whether two files are the same, byte by byte.
    pub(super) fn same_bytes(&self, one: &Path, other: &Path) -> Result<bool, CliError> {
        self.say(&format!("$ cmp {} {}", one.display(), other.display()));
        let (mut one, mut other) = (
            File::open(one).map_err(stuck)?,
            File::open(other).map_err(stuck)?,
        );
        let (mut a, mut b) = (Vec::new(), Vec::new());
        loop {
            a.clear();
            b.clear();
            let from_one = (&mut one)
                .take(1 << 20)
                .read_to_end(&mut a)
                .map_err(stuck)?;
            let from_other = (&mut other)
                .take(1 << 20)
                .read_to_end(&mut b)
                .map_err(stuck)?;
            if a != b {
                return Ok(false);
            }
            if from_one == 0 && from_other == 0 {
                return Ok(true);
            }
        }
    }

    /// The names in a folder, sorted.
    pub(super) fn names(&self, folder: &Path) -> Result<Vec<String>, CliError> {
        let mut names = fs::read_dir(folder)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                    .collect::<io::Result<Vec<_>>>()
            })
            .map_err(stuck)?;
        names.sort_unstable();
        Ok(names)
    }
}
