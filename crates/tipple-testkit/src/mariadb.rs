//! Real MariaDB servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::{ServerProcess, free_port, not_started, on_free_ports, run};
use crate::wait::wait_for;

const SERVER: &str = "/usr/sbin/mariadbd";
const INSTALL: &str =
    "apt-get install -y --no-install-recommends mariadb-server-core mariadb-client-core";

/// A MariaDB server with its own data in a temporary folder, ready when `start` returns; killed with SIGKILL when
/// dropped. Its user `root` needs no password on the socket; over TCP there are only users that a test creates.
#[derive(Debug)]
pub struct MariaDb {
    process: ServerProcess,
    port: u16,
    dir: TempDir,
}

impl MariaDb {
    /// Starts one on a free port of 127.0.0.1, and on a socket, with these arguments beside.
    ///
    /// # Panics
    /// If it is not installed, refuses the arguments or never answers.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut install = Command::new("mariadb-install-db");
        install
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args(["--skip-test-db", "--user=root"])
            .arg(format!("--datadir={}", dir.path().join("data").display()));
        run(&mut install, INSTALL);
        let program = format!("mariadbd {args:?}");
        let (process, port) = on_free_ports(&program, "Address already in use", || {
            let port = free_port();
            let mut process = spawn(dir.path(), port, args);
            let socket = dir.path().join("sock");
            wait_for("mariadbd to answer", || {
                process.has_ended() || answers(&socket)
            });
            match process.has_ended() {
                true => Err(fs::read_to_string(dir.path().join("log")).unwrap_or_default()),
                false => Ok((process, port)),
            }
        });
        Self { process, port, dir }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Runs statements as root; returns the rows, a line each, columns between tabs.
    ///
    /// # Panics
    /// If a statement fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let mut command = client(&self.socket());
        let output = match command.arg("-e").arg(statements).output() {
            Ok(output) => output,
            Err(error) => not_started("mariadb", INSTALL, &error),
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The checksums of the tables of a database, as the server computes them over all rows.
    #[track_caller]
    pub fn checksums(&self, database: &str) -> Vec<(String, String)> {
        let tables = self.sql(&format!("show tables from `{database}`"));
        let checksum = |table: &str| {
            let row = self.sql(&format!("checksum table `{database}`.`{table}` extended"));
            row.trim().rsplit('\t').next().unwrap().to_owned()
        };
        tables
            .lines()
            .map(|table| (table.to_owned(), checksum(table)))
            .collect()
    }
}

fn client(socket: &Path) -> Command {
    let mut command = Command::new("mariadb");
    command
        .args([
            "--no-defaults",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ])
        .arg(format!("--socket={}", socket.display()));
    command
}

fn answers(socket: &Path) -> bool {
    let mut command = client(socket);
    match command.args(["-e", "select 1"]).output() {
        Ok(output) => output.status.success(),
        Err(error) => not_started("mariadb", INSTALL, &error),
    }
}

#[track_caller]
fn spawn(dir: &Path, port: u16, args: &[&str]) -> ServerProcess {
    let at = |option: &str, name: &str| format!("--{option}={}", dir.join(name).display());
    let mut command = Command::new(SERVER);
    command
        .args(["--no-defaults", "--user=root", "--bind-address=127.0.0.1"])
        .args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"])
        .args([
            at("datadir", "data"),
            at("socket", "sock"),
            at("pid-file", "pid"),
        ])
        .arg(format!("--port={port}"))
        .args(args);
    ServerProcess::start(command, &dir.join("log"), INSTALL)
}
