//! Real memcached servers.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::certificate::{self, Certificate};
use crate::process::{ServerProcess, free_port, not_started, on_free_ports, program, signal};
use crate::raw_memcached::RawMemcached;
use crate::wait::wait_for;

const BINARY: &str = "/usr/bin/memcached";
const INSTALL: &str = "apt-get install -y memcached";

/// A memcached server in a temporary folder, ready when `start` returns; killed with SIGKILL when dropped.
#[derive(Debug)]
pub struct Memcached {
    process: ServerProcess,
    listen: Listen,
    args: Vec<String>,
    users: Vec<(String, String)>,
    certificate: Option<Certificate>,
    dir: Arc<TempDir>,
}

#[derive(Clone, Debug)]
enum Listen {
    Tcp(u16),
    // And a second port without TLS, to look inside.
    Tls { tls: u16, plain: u16 },
    Unix(PathBuf),
}

impl Memcached {
    /// Starts one on a free port of 127.0.0.1, with these arguments beside the port's.
    ///
    /// # Panics
    /// If memcached is not installed, refuses the arguments or never answers.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(
            args,
            TempDir::new().unwrap(),
            || Listen::Tcp(free_port()),
            &[],
            None,
        )
    }

    /// Starts one on a unix socket; [`addr`](Self::addr) is the socket's path.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn start_unix(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("memcached.sock");
        Self::start_with(args, dir, || Listen::Unix(socket.clone()), &[], None)
    }

    /// Starts one that wants one of these users and passwords (text protocol only).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn start_with_auth(args: &[&str], users: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        Self::start_with(args, dir, || Listen::Tcp(free_port()), users, None)
    }

    /// Starts one that talks TLS at [`addr`](Self::addr), with a fresh [`certificate`](Self::certificate).
    ///
    /// # Panics
    /// As [`start`](Self::start), or if openssl is not installed.
    #[track_caller]
    pub fn start_with_tls(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let certificate = Certificate::create(dir.path());
        let listen = || Listen::Tls {
            tls: free_port(),
            plain: free_port(),
        };
        Self::start_with(args, dir, listen, &[], Some(certificate))
    }

    #[track_caller]
    fn start_with(
        args: &[&str],
        dir: TempDir,
        listen: impl Fn() -> Listen,
        users: &[(&str, &str)],
        certificate: Option<Certificate>,
    ) -> Self {
        let dir = Arc::new(dir);
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let users: Vec<_> = users
            .iter()
            .map(|(user, password)| ((*user).to_owned(), (*password).to_owned()))
            .collect();
        let lines: String = users.iter().map(|(u, p)| format!("{u}:{p}\n")).collect();
        fs::write(dir.path().join("users"), lines).unwrap();
        let program = format!("memcached {args:?}");
        on_free_ports(&program, "failed to listen", || {
            let listen = listen();
            let process = spawn(
                &args,
                &listen,
                !users.is_empty(),
                certificate.as_ref(),
                dir.path(),
            );
            let mut server = Self {
                process,
                listen,
                args: args.clone(),
                users: users.clone(),
                certificate: certificate.clone(),
                dir: Arc::clone(&dir),
            };
            match server.becomes_ready() {
                true => Ok(server),
                false => Err(read_log(dir.path())),
            }
        })
    }

    /// Waits until this very process answers; `false` if it ended.
    #[track_caller]
    fn becomes_ready(&mut self) -> bool {
        let mut ended = false;
        let what = format!("memcached to answer at {}", self.addr());
        wait_for(&what, || {
            ended = self.process.has_ended();
            ended || self.answers()
        });
        if let (false, Some(certificate)) = (ended, &self.certificate) {
            let addr = self.addr();
            wait_for("memcached to answer over TLS", || {
                answers_over_tls(&addr, certificate)
            });
        }
        !ended
    }

    /// Whether it answers, and is not somebody else who took the port.
    fn answers(&self) -> bool {
        let Ok(mut client) = RawMemcached::try_connect(&self.plain_addr(), self.user()) else {
            return false;
        };
        client.try_stats("").is_ok_and(|stats| {
            stats.get("pid").map(String::as_str) == Some(self.pid().to_string().as_str())
        })
    }

    /// Where clients connect: `127.0.0.1:port`, or the path of the unix socket.
    pub fn addr(&self) -> String {
        match &self.listen {
            Listen::Tcp(port) | Listen::Tls { tls: port, .. } => format!("127.0.0.1:{port}"),
            Listen::Unix(path) => path.display().to_string(),
        }
    }

    /// Where clients connect without TLS: the same but for [`start_with_tls`](Self::start_with_tls).
    pub fn plain_addr(&self) -> String {
        match &self.listen {
            Listen::Tls { plain, .. } => format!("127.0.0.1:{plain}"),
            _ => self.addr(),
        }
    }

    /// The certificate of a server with TLS.
    ///
    /// # Panics
    /// If it is none.
    pub fn certificate(&self) -> &Certificate {
        self.certificate.as_ref().expect("started with TLS")
    }

    pub(crate) fn user(&self) -> Option<(&str, &str)> {
        self.users
            .first()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A folder that lives as long as the server does.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills it with SIGKILL and waits for its end. Idempotent.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts an empty one at the same address.
    ///
    /// # Panics
    /// If it does not come up: somebody else may have taken the port.
    #[track_caller]
    pub fn restart_same_port(&mut self) {
        self.kill();
        if let Listen::Unix(path) = &self.listen {
            let _ = fs::remove_file(path);
        }
        let dir = self.dir.path().to_owned();
        self.process = spawn(
            &self.args,
            &self.listen,
            !self.users.is_empty(),
            self.certificate.as_ref(),
            &dir,
        );
        assert!(
            self.becomes_ready(),
            "memcached did not start again: {}",
            read_log(&dir)
        );
    }

    /// Stops it (SIGSTOP): connections stay open, and nothing is answered.
    #[track_caller]
    pub fn pause(&self) {
        signal(self.pid(), libc::SIGSTOP);
        wait_for("memcached to stop", || self.state() == 'T');
    }

    /// Lets it go on (SIGCONT).
    #[track_caller]
    pub fn resume(&self) {
        signal(self.pid(), libc::SIGCONT);
        wait_for("memcached to go on", || self.state() != 'T');
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rfind(')').expect("the name stands in brackets") + 2;
        stat[after_name..].chars().next().expect("a state")
    }
}

fn read_log(dir: &Path) -> String {
    fs::read_to_string(dir.join("memcached.log")).unwrap_or_default()
}

#[track_caller]
fn spawn(
    args: &[String],
    listen: &Listen,
    auth: bool,
    certificate: Option<&Certificate>,
    dir: &Path,
) -> ServerProcess {
    let mut command = Command::new(BINARY);
    // SAFETY: geteuid only returns a number.
    if unsafe { libc::geteuid() } == 0 {
        command.args(["-u", "root"]);
    }
    match listen {
        Listen::Tcp(port) => command.args(["-l", "127.0.0.1", "-p", &port.to_string()]),
        Listen::Tls { tls, plain } => {
            command.args(["-l", &format!("127.0.0.1:{tls},notls:127.0.0.1:{plain}")])
        }
        Listen::Unix(path) => command.arg("-s").arg(path),
    };
    if auth {
        command.arg("-Y").arg(dir.join("users"));
    }
    if let Some(Certificate { cert, key, .. }) = certificate {
        let files = format!(
            "ssl_chain_cert={},ssl_key={}",
            cert.display(),
            key.display()
        );
        command.args(["-Z", "-o", &files]);
    }
    command.args(args);
    ServerProcess::start(command, &dir.join("memcached.log"), INSTALL)
}

fn answers_over_tls(addr: &str, certificate: &Certificate) -> bool {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-connect",
            addr,
            "-CAfile",
        ])
        .arg(&certificate.ca)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => not_started(&program(&command), certificate::INSTALL, &error),
    };
    let mut stdin = child.stdin.take().expect("piped");
    // It may have ended without reading: then its output tells.
    let _ = stdin.write_all(b"version\r\nquit\r\n");
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    output.stdout.starts_with(b"VERSION")
}
