//! Certificates for servers on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// An authority of our own and a certificate it signed for `localhost` and `127.0.0.1`, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The authority's certificate: what a client trusts.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes them in `dir` with the openssl command.
    ///
    /// # Panics
    /// If it is not installed or fails.
    #[track_caller]
    pub fn create(dir: &Path) -> Self {
        let at = |name: &str| dir.join(name);
        let made = Self {
            ca: at("ca.pem"),
            cert: at("server.pem"),
            key: at("server.key"),
        };
        let key_kind = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
        ];
        let openssl = || {
            let mut command = Command::new("openssl");
            command.args(["req", "-x509"]).args(key_kind);
            command
        };
        run(
            openssl()
                .args(["-subj", "/CN=Tipple test authority"])
                .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
                .arg("-keyout")
                .arg(at("ca.key"))
                .arg("-out")
                .arg(&made.ca),
            INSTALL,
        );
        run(
            openssl()
                .args(["-subj", "/CN=localhost"])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
                .arg("-CA")
                .arg(&made.ca)
                .arg("-CAkey")
                .arg(at("ca.key"))
                .arg("-keyout")
                .arg(&made.key)
                .arg("-out")
                .arg(&made.cert),
            INSTALL,
        );
        made
    }
}

pub(crate) const INSTALL: &str = "apt-get install -y openssl";
