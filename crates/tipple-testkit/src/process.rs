//! Child processes and what the system says of them.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The most memory the running process `pid` ever had resident, in bytes (`VmHWM`).
///
/// # Panics
/// If there is no such process, or it has ended and has no memory any more.
#[track_caller]
pub fn memory_max(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {path}: {error}; did the process end?"));
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("{path} tells no VmHWM: the process has ended"));
    kib * 1024
}

/// Sends `signal` (such as `libc::SIGTERM`) to the process `pid`.
///
/// # Panics
/// If there is no such process.
#[track_caller]
pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("pids are small");
    assert!(pid > 0, "0 and below are groups of processes");
    // SAFETY: kill takes two numbers and touches no memory of ours.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A server: killed with SIGKILL and reaped when dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    /// Starts `command`, with its output in `log`.
    #[track_caller]
    pub(crate) fn start(command: &mut Command, log: &Path, install: &str) -> Self {
        let log = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        match child {
            Ok(child) => Self { child },
            Err(error) => not_started(command, install, &error),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Idempotent.
    pub(crate) fn kill(&mut self) {
        // Fails only if it was reaped before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end, which must be a success.
#[track_caller]
pub(crate) fn run(command: &mut Command, install: &str) {
    match command.output() {
        Ok(output) => assert!(
            output.status.success(),
            "{command:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => not_started(command, install, &error),
    }
}

#[track_caller]
pub(crate) fn not_started(command: &Command, install: &str, error: &std::io::Error) -> ! {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        panic!("{program} is not installed; run: {install}");
    }
    panic!("cannot start {program}: {error}");
}
