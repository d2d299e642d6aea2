//! Runs the binary in a folder of its own, with an environment of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A folder that commands run in.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// Runs a command that is killed at a moment, such as `put:2`; what it said on standard error.
#[cfg(feature = "failpoints")]
#[track_caller]
pub(crate) fn kill_at(mut command: Command, moment: &str) -> String {
    use std::os::unix::process::ExitStatusExt;

    let killed = command.env("TIPPLE_KILL_AT", moment).output().unwrap();
    let said = String::from_utf8_lossy(&killed.stderr).into_owned();
    assert_eq!(
        killed.status.signal(),
        Some(9),
        "{moment} was not hit (build with --features tipple/failpoints): {said}"
    );
    said
}

/// What a command came to.
pub(crate) struct Ran {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        // Without symbolic links, as the sources name their files.
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipple"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.finish(self.command(args).stdout(Stdio::piped()), b"")
    }

    /// Another program, in the same surroundings.
    pub(crate) fn run_program(&self, program: &Path, args: &[&str]) -> Ran {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null());
        self.finish(&mut command, b"")
    }

    pub(crate) fn run_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        let mut command = self.command(args);
        command.envs(variables.iter().copied());
        self.finish(&mut command, b"")
    }

    /// With `input` on standard input.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        self.finish(self.command(args).stdin(Stdio::piped()), input)
    }

    fn finish(&self, command: &mut Command, input: &[u8]) -> Ran {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        Ran {
            exit: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: self.redact(&String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// Starts a command whose events are read one by one.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    /// What differs from run to run becomes a word, and the same word every time.
    pub(crate) fn redact(&self, text: &str) -> String {
        let dir = self.path("");
        let dir = dir.to_str().unwrap().trim_end_matches('/');
        let mut redacted = String::new();
        for line in text.replace(dir, "[DIR]").lines() {
            match line.split_once("  time  ") {
                Some(_) => redacted.push_str("  time    [TIME]"),
                None => redacted.push_str(line),
            }
            redacted.push('\n');
        }
        redacted
    }
}

impl Ran {
    /// That it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.exit, Some(0), "{}", self.stderr);
        self
    }

    /// The lines of standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
            .collect()
    }

    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let last = self.json().pop().expect("a last line");
        assert_eq!(last["event"], "report", "{last}");
        last
    }
}

/// A command that is running with `--json`.
pub(crate) struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// The next event; `None` at the end.
    pub(crate) fn event(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next event of that name.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        loop {
            let event = self
                .event()
                .unwrap_or_else(|| panic!("no event {name} came"));
            if event["event"] == name {
                return event;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// The last event, and the exit code.
    pub(crate) fn end(mut self) -> (Value, Option<i32>) {
        let mut last = Value::Null;
        while let Some(event) = self.event() {
            last = event;
        }
        let exit = self.child.wait().unwrap().code();
        (last, exit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of all kinds: empty, long, not UTF-8; the last one without a newline.
pub(crate) fn some_lines(bytes: usize) -> Vec<u8> {
    let mut lines = b"first\n\nblank above, not UTF-8: \xff\xfe\0\r\n".to_vec();
    let mut n = 0_u32;
    while lines.len() < bytes {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        lines.extend_from_slice(
            format!("line {n:08x} {}\n", "é".repeat(n as usize >> 27)).as_bytes(),
        );
    }
    lines.extend_from_slice(b"the last line has no newline");
    lines
}

/// Makes a finished dump look like one that was broken off just before its end.
pub(crate) fn unfinish(dump: &Path) {
    fs::remove_file(dump.join("DONE")).unwrap();
}
