//! Real MiniStack servers: S3 and SQS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tempfile::TempDir;

use crate::account::Account;
use crate::process::{ServerProcess, find_program, free_port, listens, on_free_ports};
use crate::raw_s3::RawS3;
use crate::raw_sqs::RawSqs;
use crate::wait::wait_for;

const INSTALL: &str = "python3 -m venv target/tools/ministack && \
                       target/tools/ministack/bin/pip install ministack==1.5.33";

/// A MiniStack server in a temporary folder, ready when `start` returns; killed with SIGKILL when dropped, and with this
/// process.
///
/// It serves S3 and SQS, honours conditions and checks checksums, and keeps four times the bytes of every object in memory.
/// It knows access keys but checks no signatures, no clocks and no minimum size of parts: [`Ceph`](crate::Ceph) does.
#[derive(Debug)]
pub struct MiniStack {
    account: Account,
    process: Mutex<ServerProcess>,
    dir: Mutex<Option<TempDir>>,
}

static SHARED: OnceLock<MiniStack> = OnceLock::new();

impl MiniStack {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If MiniStack is not installed, or never answers.
    #[track_caller]
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (port, process) = on_free_ports("MiniStack", "in use", || {
            let port = free_port();
            let mut process = spawn(port, dir.path());
            match becomes_ready(&mut process, port) {
                true => Ok((port, process)),
                false => Err(read_log(dir.path())),
            }
        });
        Self {
            account: account(port),
            process: Mutex::new(process),
            dir: Mutex::new(Some(dir)),
        }
    }

    /// The one that all tests of this process share; started by the first, stopped when the process ends.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| {
            crate::process::at_exit(|| {
                if let Some(server) = SHARED.get() {
                    server.stop();
                }
            });
            Self::start()
        })
    }

    /// Where it is, and the key it knows.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Creates a bucket, and looks into it.
    ///
    /// # Panics
    /// If it exists, or the server refuses the name.
    #[track_caller]
    pub fn create_bucket(&self, name: &str) -> RawS3 {
        let bucket = RawS3::new(&self.account, name);
        bucket.create_bucket();
        bucket
    }

    /// Creates a bucket with a name that no other test of this process uses.
    #[track_caller]
    pub fn fresh_bucket(&self) -> RawS3 {
        self.create_bucket(&crate::raw_s3::fresh_name())
    }

    /// Creates a queue with the usual visibility timeout of 30 s, and looks into it.
    ///
    /// # Panics
    /// If the server refuses the name.
    #[track_caller]
    pub fn create_queue(&self, name: &str) -> RawSqs {
        RawSqs::create(&self.account, name, 30)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Kills it with SIGKILL: its buckets and queues are gone. Idempotent.
    pub fn stop(&self) {
        self.process().kill();
        let dir = self
            .dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(dir);
    }

    fn process(&self) -> MutexGuard<'_, ServerProcess> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MiniStack {
    fn drop(&mut self) {
        self.stop();
    }
}

fn account(port: u16) -> Account {
    Account {
        endpoint: format!("http://127.0.0.1:{port}"),
        region: "us-east-1".to_owned(),
        access_key: "testtest".to_owned(),
        secret_key: "testtesttest".to_owned(),
    }
}

#[track_caller]
fn spawn(port: u16, dir: &Path) -> ServerProcess {
    let account = account(port);
    let mut command = program();
    // Nothing of the caller's environment may reach it: it would use its Docker, its proxies, its keys.
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("TMPDIR", dir)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BIND_HOST", "127.0.0.1")
        .env("MINISTACK_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("SERVICES", "s3,sqs,sts,iam")
        .env("LOG_LEVEL", "WARNING")
        .env("DOCKER_HOST", "unix:///nonexistent.sock")
        .env("AUTH", "true")
        .env("AWS_ACCESS_KEY_ID", account.access_key)
        .env("AWS_SECRET_ACCESS_KEY", account.secret_key)
        .current_dir(dir);
    ServerProcess::start(command, &dir.join("ministack.log"), INSTALL)
}

/// The one that `./test` installed, or the one in the path.
#[track_caller]
fn program() -> Command {
    // By its Python: the script names the folder it was installed in, which may have moved.
    let python =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/ministack/bin/python3");
    if python.exists() {
        let mut command = Command::new(python);
        command.args(["-m", "ministack"]);
        return command;
    }
    Command::new(find_program("ministack").unwrap_or_else(|| PathBuf::from("ministack")))
}

/// Waits until this very process answers; `false` if it ended.
#[track_caller]
fn becomes_ready(process: &mut ServerProcess, port: u16) -> bool {
    let mut ended = false;
    let bucket = RawS3::new(&account(port), "");
    wait_for(&format!("MiniStack to answer at port {port}"), || {
        ended = process.has_ended();
        ended
            || listens(process.pid(), port)
                && bucket
                    .try_request("GET", "", &[], &[], &[])
                    .is_ok_and(|answer| answer.status == 200)
    });
    !ended
}

fn read_log(dir: &Path) -> String {
    fs::read_to_string(dir.join("ministack.log")).unwrap_or_default()
}
