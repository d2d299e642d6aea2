//! Real Ceph clusters of one node: S3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

use crate::account::Account;
use crate::certificate::Certificate;
use crate::process::{ServerProcess, free_port, listens, on_free_ports, run};
use crate::raw_s3::{RawS3, fresh_name};
use crate::wait::wait_for;

const INSTALL: &str =
    "apt-get install -y --no-install-recommends ceph-mon ceph-osd ceph-common radosgw";
/// Held in memory, and taken from it only as objects arrive.
const STORE_BYTES_MAX: u64 = 4 << 30;

/// A Ceph monitor, its object server and its S3 gateway, everything in one temporary folder and the objects in memory;
/// ready when `start` returns, in about a second. Killed with SIGKILL when dropped, and with this process.
///
/// It checks signatures, clocks, the SHA-256 of payloads, the minimum size of parts and the conditions of a PUT. It ignores
/// the other checksums, and the conditions of a completed multipart upload. Accounts do not see each other's buckets.
#[derive(Debug)]
pub struct Ceph {
    account: Account,
    tls_port: u16,
    certificate: Certificate,
    conf: PathBuf,
    running: Mutex<Option<Running>>,
}

/// Ends in this order: what depends on the others first.
#[derive(Debug)]
struct Running {
    gateway: ServerProcess,
    osd: ServerProcess,
    mon: ServerProcess,
    dir: TempDir,
}

static SHARED: OnceLock<Ceph> = OnceLock::new();

impl Ceph {
    /// Starts one on free ports of 127.0.0.1.
    ///
    /// # Panics
    /// If Ceph is not installed, or never answers.
    #[track_caller]
    pub fn start() -> Self {
        on_free_ports("Ceph", "already in use", Self::try_start)
    }

    /// The one that all tests of this process share; started by the first, stopped when the process ends.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| {
            crate::process::at_exit(|| {
                if let Some(ceph) = SHARED.get() {
                    ceph.stop();
                }
            });
            Self::start()
        })
    }

    /// The logs, if a process ended.
    #[track_caller]
    fn try_start() -> Result<Self, String> {
        let temporary = TempDir::new().unwrap();
        let dir = temporary.path();
        let (mon_port, port, tls_port) = (free_port(), free_port(), free_port());
        let conf = dir.join("ceph.conf");
        let mon_addr = format!("[v2:127.0.0.1:{mon_port}]");
        for name in ["mon", "osd", "gateway"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(&conf, configuration(dir, &mon_addr)).unwrap();
        let certificate = Certificate::create(dir);
        create_keys(&conf, &dir.join("keyring"));
        let monmap = dir.join("monmap");
        run(
            command("monmaptool", &conf)
                .args(["--create", "--fsid", CLUSTER, "--addv", "a", &mon_addr])
                .arg(&monmap),
            INSTALL,
        );
        run(
            command("ceph-mon", &conf)
                .args(["--mkfs", "-i", "a", "--monmap"])
                .arg(&monmap),
            INSTALL,
        );
        let server = |program: &str, args: &[&str]| {
            let mut command = command(program, &conf);
            // In the foreground, so that it is our child.
            command.arg("-f").args(args);
            ServerProcess::start(command, &dir.join(format!("{program}.log")), INSTALL)
        };
        let logs = || {
            ["ceph-mon", "ceph-osd", "radosgw"]
                .map(|name| fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default())
                .concat()
        };
        let mut mon = server("ceph-mon", &["-i", "a"]);
        let mut ended = false;
        wait_for("Ceph's monitor to listen", || {
            ended = mon.has_ended();
            ended || listens(mon.pid(), mon_port)
        });
        if ended {
            return Err(logs());
        }
        run(
            command("ceph", &conf).args(["--connect-timeout", "60", "osd", "new", OSD]),
            INSTALL,
        );
        run(
            command("ceph-osd", &conf).args(["--mkfs", "-i", "0", "--osd-uuid", OSD]),
            INSTALL,
        );
        let mut osd = server("ceph-osd", &["-i", "0"]);
        let listen = format!(
            "beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} \
             ssl_certificate={} ssl_private_key={}",
            certificate.cert.display(),
            certificate.key.display()
        );
        let mut gateway = server(
            "radosgw",
            &["-n", "client.admin", "--rgw-frontends", &listen],
        );
        wait_for("Ceph's gateway to listen", || {
            ended = mon.has_ended() || osd.has_ended() || gateway.has_ended();
            ended || listens(gateway.pid(), port)
        });
        if ended {
            return Err(logs());
        }
        let ceph = Self {
            account: create_user(&conf, port, "owner"),
            tls_port,
            certificate,
            conf,
            running: Mutex::new(Some(Running {
                gateway,
                osd,
                mon,
                dir: temporary,
            })),
        };
        // The first bucket and the first object make the cluster's pools.
        let first = ceph.fresh_bucket();
        first.put("first", b"");
        first.delete("first");
        Ok(ceph)
    }

    /// Where it is, and the key of its first user.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The same over TLS, with a [`certificate`](Self::certificate) that no client knows yet. [`RawS3`] speaks no TLS.
    pub fn tls_account(&self) -> Account {
        self.account
            .at(&format!("https://127.0.0.1:{}", self.tls_port))
    }

    /// What clients of [`tls_account`](Self::tls_account) must trust.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Creates another user, who may not look into the buckets of others.
    ///
    /// # Panics
    /// If there is one of this name.
    #[track_caller]
    pub fn create_user(&self, name: &str) -> Account {
        Account {
            endpoint: self.account.endpoint.clone(),
            ..create_user(&self.conf, 0, name)
        }
    }

    /// From now on a user's key is known, and is not accepted.
    ///
    /// # Panics
    /// If there is no such user.
    #[track_caller]
    pub fn suspend_user(&self, name: &str) {
        run(
            command("radosgw-admin", &self.conf).args(["user", "suspend", "--uid", name]),
            INSTALL,
        );
    }

    /// Creates a bucket of the first user, and looks into it.
    ///
    /// # Panics
    /// If the server refuses the name.
    #[track_caller]
    pub fn create_bucket(&self, name: &str) -> RawS3 {
        let bucket = RawS3::new(&self.account, name);
        bucket.create_bucket();
        bucket
    }

    /// Creates a bucket with a name that no other test of this process uses.
    #[track_caller]
    pub fn fresh_bucket(&self) -> RawS3 {
        self.create_bucket(&fresh_name())
    }

    /// The pids of the gateway, the object server and the monitor; none after [`stop`](Self::stop).
    pub fn pids(&self) -> Vec<u32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or_else(Vec::new, |running| {
            [&running.gateway, &running.osd, &running.mon]
                .map(ServerProcess::pid)
                .to_vec()
        })
    }

    /// Kills it with SIGKILL: its buckets are gone. Idempotent.
    pub fn stop(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut running) = running.take() {
            running.gateway.kill();
            running.osd.kill();
            running.mon.kill();
            // What cannot be removed stays in the system's temporary folder.
            let _ = running.dir.close();
        }
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        self.stop();
    }
}

// Clusters never meet, so these may be the same for all.
const CLUSTER: &str = "6f8bd7a0-5d3c-4d7e-9c64-0a6f3a1d2b01";
const OSD: &str = "6f8bd7a0-5d3c-4d7e-9c64-0a6f3a1d2b02";

fn configuration(dir: &Path, mon_addr: &str) -> String {
    let dir = dir.display();
    // One copy of everything. A monitor proposes changes once a second unless told otherwise, and the gateway makes a
    // dozen of them at its first start.
    format!(
        "[global]
fsid = {CLUSTER}
mon host = {mon_addr}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {dir}
admin socket =
pid file =
log file =
log to stderr = true
err to stderr = true
mon cluster log file =
crash dir = {dir}
keyring = {dir}/keyring
mon data = {dir}/mon
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
mon max pg per osd = 1000
paxos propose interval = 0.02
paxos min wait = 0.01
osd data = {dir}/osd
osd objectstore = memstore
memstore device bytes = {STORE_BYTES_MAX}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rgw data = {dir}/gateway
rgw thread pool size = 64
debug default = 0
"
    )
}

#[track_caller]
fn create_keys(conf: &Path, keyring: &Path) {
    let all = "allow *";
    for (name, allowed) in [
        ("mon.", &[("mon", all)][..]),
        ("client.admin", &[("mon", all), ("osd", all), ("mgr", all)]),
        ("osd.0", &[("mon", "allow profile osd"), ("osd", all)]),
    ] {
        let mut command = command("ceph-authtool", conf);
        if !keyring.exists() {
            command.arg("--create-keyring");
        }
        command.arg(keyring).args(["--gen-key", "-n", name]);
        for (service, what) in allowed {
            command.args(["--cap", service, what]);
        }
        run(&mut command, INSTALL);
    }
}

#[track_caller]
fn create_user(conf: &Path, port: u16, name: &str) -> Account {
    let account = Account {
        endpoint: format!("http://127.0.0.1:{port}"),
        region: "us-east-1".to_owned(),
        access_key: format!("key-of-{name}"),
        secret_key: format!("secret-of-{name}"),
    };
    run(
        command("radosgw-admin", conf)
            .args(["user", "create", "--uid", name, "--display-name", name])
            .args(["--access-key", &account.access_key])
            .args(["--secret", &account.secret_key]),
        INSTALL,
    );
    account
}

/// A program of this cluster, and of no other that the environment may name.
fn command(program: &str, conf: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("CEPH_CONF", conf)
        .env_remove("CEPH_ARGS")
        .env_remove("CEPH_KEYRING");
    command
}
