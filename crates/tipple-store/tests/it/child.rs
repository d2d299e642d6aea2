//! Other processes: this test binary, started again as something else.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The roles of children.
pub const WRITER: &str = "writer";
pub const STAGER: &str = "stager";
pub const LOCKER: &str = "locker";
pub const STRANGER: &str = "stranger";

const ROLE: &str = "TIPPLE_STORE_TEST_ROLE";
const ARGUMENT: &str = "TIPPLE_STORE_TEST_ARGUMENT";

/// How a line starts by which a child says what it has done.
const SAYS: &str = "child says: ";

#[test]
#[ignore = "the entry of the processes that other tests start"]
fn entry() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    let argument = env::var(ARGUMENT).unwrap();
    match &*role {
        WRITER => crate::killed::write_until_killed(&argument),
        STAGER => crate::killed::stage_and_wait(&argument),
        LOCKER => crate::lock::lock_and_wait(&argument),
        STRANGER => crate::denied::try_everything(&argument),
        _ => panic!("no role is called {role}"),
    }
}

/// For children: says `line` to the parent, at once. The test harness does not get in between.
pub fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(format!("\n{SAYS}{line}\n").as_bytes())
        .unwrap();
    stdout.flush().unwrap();
}

/// For children: waits until the parent is gone or kills this process.
pub fn wait_for_parent() {
    let _ = io::stdin().read(&mut [0]);
}

/// A running child. Killed and waited for when dropped.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(role: &str, argument: &str) -> Self {
        Self::start_from(&env::current_exe().unwrap(), role, argument, None)
    }

    /// As user and group 65534 (`nobody`), from a copy of this binary in `folder`, which that
    /// user can get at.
    pub fn start_as_nobody(role: &str, argument: &str, folder: &Path) -> Self {
        let copy = folder.join("test-binary");
        // By another process: a file that any process has open for writing cannot be run, and
        // children that other tests start just now inherit what this process has open.
        let copied = Command::new("cp")
            .arg(env::current_exe().unwrap())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success(), "cannot copy the test binary");
        Self::start_from(&copy, role, argument, Some(65534))
    }

    fn start_from(binary: &Path, role: &str, argument: &str, user: Option<u32>) -> Self {
        let mut command = Command::new(binary);
        command
            .args(["--exact", "child::entry", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(ARGUMENT, argument)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary.display()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next thing the child says; `None` once it has ended. Waits.
    pub fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line without its end was cut off by a kill.
            if let Some(said) = line.strip_prefix(SAYS).and_then(|l| l.strip_suffix('\n')) {
                return Some(said.to_owned());
            }
        }
    }

    /// Sends SIGKILL, and returns once the process is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
