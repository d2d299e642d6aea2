//! Real Garage servers: S3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

use crate::account::Account;
use crate::process::{ServerProcess, find_program, free_port, listens, on_free_ports, output, run};
use crate::raw_s3::{RawS3, fresh_name};
use crate::wait::wait_for;

const INSTALL: &str = "./test --long, which builds it into target/tools";
const ACCESS_KEY: &str = "GK000102030405060708090a0b";
const SECRET_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// Anything: its nodes are one.
const RPC_SECRET: &str = SECRET_KEY;

/// A Garage server of one node in a temporary folder, ready when `start` returns; killed with SIGKILL when dropped, and
/// with this process. It takes minutes to build, so only long runs start it.
///
/// It checks signatures, payloads and checksums, and ignores the conditions of a PUT: whoever comes last overwrites.
#[derive(Debug)]
pub struct Garage {
    account: Account,
    running: Mutex<Option<(ServerProcess, TempDir)>>,
}

static SHARED: OnceLock<Garage> = OnceLock::new();

impl Garage {
    /// Starts one on free ports of 127.0.0.1.
    ///
    /// # Panics
    /// If Garage is not installed, or never answers.
    #[track_caller]
    pub fn start() -> Self {
        on_free_ports("Garage", "in use", Self::try_start)
    }

    /// The one that all tests of this process share; started by the first, stopped when the process ends.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| {
            crate::process::at_exit(|| {
                if let Some(garage) = SHARED.get() {
                    garage.stop();
                }
            });
            Self::start()
        })
    }

    /// The log, if the process ended.
    #[track_caller]
    fn try_start() -> Result<Self, String> {
        let temporary = TempDir::new().unwrap();
        let dir = temporary.path();
        let (port, rpc_port, admin_port) = (free_port(), free_port(), free_port());
        let config = dir.join("garage.toml");
        let path = dir.display();
        let text = format!(
            r#"metadata_dir = "{path}/meta"
data_dir = "{path}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{RPC_SECRET}"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{port}"

[admin]
api_bind_addr = "127.0.0.1:{admin_port}"
"#
        );
        fs::write(&config, text).unwrap();
        let log = dir.join("garage.log");
        let mut server = command(&config);
        server.arg("server").env("RUST_LOG", "garage=warn");
        let mut server = ServerProcess::start(server, &log, INSTALL);
        let mut ended = false;
        wait_for("Garage to answer", || {
            ended = server.has_ended();
            ended
                || listens(server.pid(), rpc_port)
                    && command(&config)
                        .arg("status")
                        .output()
                        .is_ok_and(|output| output.status.success())
        });
        if ended {
            return Err(fs::read_to_string(&log).unwrap_or_default());
        }
        let id = output(command(&config).args(["node", "id", "-q"]), INSTALL);
        let id = id.trim().split('@').next().unwrap_or_default();
        for args in [
            &["layout", "assign", "-z", "dc1", "-c", "10G", id][..],
            &["layout", "apply", "--version", "1"],
            &[
                "key", "import", "--yes", "-n", "test", ACCESS_KEY, SECRET_KEY,
            ],
            &["key", "allow", "--create-bucket", ACCESS_KEY],
        ] {
            run(command(&config).args(args), INSTALL);
        }
        let garage = Self {
            account: Account {
                endpoint: format!("http://127.0.0.1:{port}"),
                region: "garage".to_owned(),
                access_key: ACCESS_KEY.to_owned(),
                secret_key: SECRET_KEY.to_owned(),
            },
            running: Mutex::new(Some((server, temporary))),
        };
        // The layout takes a moment to be known everywhere.
        let first = RawS3::new(&garage.account, &fresh_name());
        wait_for("Garage to serve S3", || {
            first
                .try_request("PUT", "", &[], &[], &[])
                .is_ok_and(|answer| answer.status == 200)
        });
        Ok(garage)
    }

    /// Where it is, and the key it knows.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Creates a bucket with a name that no other test of this process uses, and looks into it.
    ///
    /// # Panics
    /// If the server refuses.
    #[track_caller]
    pub fn fresh_bucket(&self) -> RawS3 {
        let bucket = RawS3::new(&self.account, &fresh_name());
        bucket.create_bucket();
        bucket
    }

    /// Kills it with SIGKILL: its buckets are gone. Idempotent.
    pub fn stop(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mut server, dir)) = running.take() {
            server.kill();
            // What cannot be removed stays in the system's temporary folder.
            let _ = dir.close();
        }
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The one in the path, or the one that `./test --long` built.
fn command(config: &Path) -> Command {
    let program = find_program("garage").unwrap_or_else(|| {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/garage");
        if built.exists() {
            built
        } else {
            PathBuf::from("garage")
        }
    });
    let mut command = Command::new(program);
    command.env("GARAGE_CONFIG_FILE", config);
    command
}
