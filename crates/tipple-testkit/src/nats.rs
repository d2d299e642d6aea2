//! Real NATS servers.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{PORTS_TRIED, ServerProcess, free_port};
use crate::raw_nats::RawNats;
use crate::wait::wait_for;

const SERVER: &str = "/usr/sbin/nats-server";
const INSTALL: &str = "apt-get install -y --no-install-recommends nats-server";

/// A NATS server with JetStream, with its own store in a temporary folder, ready when `start` returns; killed with SIGKILL
/// when dropped.
#[derive(Debug)]
pub struct Nats {
    process: ServerProcess,
    port: u16,
    config: String,
    dir: TempDir,
}

impl Nats {
    /// Starts one on a free port of 127.0.0.1, with these lines of configuration beside.
    ///
    /// # Panics
    /// If it is not installed, refuses the configuration or never answers.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        let mut dir = TempDir::new().unwrap();
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            let process = spawn(&dir, port, config);
            let mut server = Self {
                process,
                port,
                config: config.to_owned(),
                dir,
            };
            if server.becomes_ready() {
                return server;
            }
            let log = fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(
                log.contains("address already in use"),
                "nats-server ended: {log}"
            );
            dir = server.dir;
        }
        panic!("no free port after {PORTS_TRIED} tries");
    }

    /// Kills it with SIGKILL, if it runs.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it, and starts it again: the same port, the same store.
    ///
    /// # Panics
    /// If it does not come back.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.dir, self.port, &self.config);
        assert!(self.becomes_ready(), "nats-server did not come back");
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it answers; `false` if it ended.
    #[track_caller]
    fn becomes_ready(&mut self) -> bool {
        wait_for("nats-server to be ready", || {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            self.process.has_ended() || log.contains("Server is ready")
        });
        !self.process.has_ended() && RawNats::answers(self.port)
    }
}

#[track_caller]
fn spawn(dir: &TempDir, port: u16, config: &str) -> ServerProcess {
    let path = dir.path().join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n{config}\n",
        dir.path().display()
    );
    fs::write(&path, text).unwrap();
    let mut command = Command::new(SERVER);
    command.arg("-c").arg(path);
    ServerProcess::start(command, &dir.path().join("log"), INSTALL)
}
