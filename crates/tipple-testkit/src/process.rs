//! Child processes and what the system says of them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How often a port that somebody else took in between is replaced by another one.
const PORTS_TRIED: usize = 20;

/// Lets `start` start a server on ports that are free, again if somebody else took one in between: its error is the log of a
/// server that ended, which has `in_use` in it if that was why.
///
/// # Panics
/// If it ended for another reason, or 20 times.
#[track_caller]
pub(crate) fn on_free_ports<T>(
    program: &str,
    in_use: &str,
    mut start: impl FnMut() -> Result<T, String>,
) -> T {
    for _ in 0..PORTS_TRIED {
        match start() {
            Ok(server) => return server,
            Err(log) => assert!(log.contains(in_use), "{program} ended: {log}"),
        }
    }
    panic!("no free port after {PORTS_TRIED} tries");
}

/// The most memory the running process `pid` ever had resident, in bytes (`VmHWM`).
///
/// # Panics
/// If there is no such process, or it has ended and has no memory any more.
#[track_caller]
pub fn memory_max(pid: u32) -> u64 {
    try_memory_max(pid)
        .unwrap_or_else(|| panic!("/proc/{pid}/status tells no VmHWM: the process has ended"))
}

/// The same; `None` if there is no such process, or it has ended.
pub fn try_memory_max(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A server: killed with SIGKILL and reaped when dropped, and killed by the system when this process ends in any way.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
}

impl ServerProcess {
    /// Starts `command`, with its output in `log`.
    #[track_caller]
    pub(crate) fn start(mut command: Command, log: &Path, install: &str) -> Self {
        let program = program(&command);
        let log = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        match spawn(command) {
            Ok(child) => Self { child },
            Err(error) => not_started(&program, install, &error),
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

/// Spawns a child that the system kills when this process ends. What counts there is the end of the thread that spawned it
/// (prctl(2), PR_SET_PDEATHSIG), so that is one that never ends by itself.
fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

    let parent = std::process::id();
    // SAFETY: prctl and getppid may be called between fork and exec, and touch no memory of ours.
    unsafe {
        command.pre_exec(move || {
            let kill = libc::SIGKILL as libc::c_ulong;
            if libc::prctl(libc::PR_SET_PDEATHSIG, kill) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from(ErrorKind::NotConnected));
            }
            Ok(())
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                // Whoever ordered it may have panicked.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, spawned) = channel();
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .expect("the spawner never ends");
    spawned.recv().expect("the spawner answers")
}

/// Calls `end` when this process ends in order. It must not panic.
pub(crate) fn at_exit(end: fn()) {
    static ENDS: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

    extern "C" fn call() {
        let ends = std::mem::take(&mut *ENDS.lock().unwrap_or_else(PoisonError::into_inner));
        for end in ends {
            end();
        }
    }

    let mut ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
    if ends.is_empty() {
        // SAFETY: the function is there as long as the process is.
        let result = unsafe { libc::atexit(call) };
        assert_eq!(result, 0, "atexit takes no more");
    }
    ends.push(end);
}

/// A port that nobody listens on: now, and maybe not a moment later.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether it is this process that listens on `port` of 127.0.0.1.
pub(crate) fn listens(pid: u32, port: u16) -> bool {
    // Fields: number, local address, remote address, state (0A: listening), …, the ninth: inode (proc(5)).
    let wanted = format!("0100007F:{port:04X}");
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inode = sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&&*wanted) && fields.get(3) == Some(&"0A"))
            .then(|| format!("socket:[{}]", fields[9]))
    });
    let (Some(inode), Ok(files)) = (inode, fs::read_dir(format!("/proc/{pid}/fd"))) else {
        return false;
    };
    files
        .filter_map(Result::ok)
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == inode.as_str())
}

/// The program in the path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// Runs `command` to its end, which must be a success.
#[track_caller]
pub(crate) fn run(command: &mut Command, install: &str) {
    output(command, install);
}

/// The same; what it prints.
#[track_caller]
pub(crate) fn output(command: &mut Command, install: &str) -> String {
    match command.output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{command:?} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Err(error) => not_started(&program(command), install, &error),
    }
}

pub(crate) fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[track_caller]
pub(crate) fn not_started(program: &str, install: &str, error: &io::Error) -> ! {
    if error.kind() == ErrorKind::NotFound {
        panic!("{program} is not installed; run: {install}");
    }
    panic!("cannot start {program}: {error}");
}
