//! Real Redis servers, and a client that is no client of ours.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{ServerProcess, free_port, listens, on_free_ports, signal};
use crate::wait::wait_for;

// Debian's server is this program under another name. Its own package would start a service of the system.
const SERVER: &str = "/usr/bin/redis-check-rdb";
const INSTALL: &str = "apt-get install -y --no-install-recommends redis-tools";

/// A Redis server in a temporary folder, ready when `start` returns; killed with SIGKILL when dropped. What it
/// acknowledged outlives it (not the machine: nothing is synced).
#[derive(Debug)]
pub struct Redis {
    process: ServerProcess,
    port: u16,
    args: Vec<String>,
    password: Option<String>,
    dir: TempDir,
}

impl Redis {
    /// Starts one on a free port of 127.0.0.1, with these arguments beside.
    ///
    /// # Panics
    /// If it is not installed, refuses the arguments or never answers.
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        let password = args.iter().position(|arg| *arg == "--requirepass");
        let password = password.map(|at| args[at + 1].to_owned());
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let program = format!("redis-server {args:?}");
        on_free_ports(&program, "Address already in use", || {
            let (dir, port) = (TempDir::new().unwrap(), free_port());
            let mut server = Self {
                process: spawn(&dir, port, &args),
                port,
                args: args.clone(),
                password: password.clone(),
                dir,
            };
            match server.becomes_ready() {
                true => Ok(server),
                false => Err(server.log()),
            }
        })
    }

    #[track_caller]
    fn becomes_ready(&mut self) -> bool {
        wait_for("redis-server to answer", || {
            self.process.has_ended()
                || listens(self.process.pid(), self.port)
                    && self.try_client().is_ok_and(|mut client| {
                        client
                            .try_command(&[b"PING"])
                            .is_ok_and(|reply| !reply.is_error())
                    })
        });
        !self.process.has_ended()
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A client of it.
    ///
    /// # Panics
    /// If it cannot be reached.
    #[track_caller]
    pub fn client(&self) -> RawRedis {
        self.try_client().expect("redis-server answers")
    }

    fn try_client(&self) -> io::Result<RawRedis> {
        let mut client = RawRedis::connect(&self.addr())?;
        if let Some(password) = &self.password {
            client.try_command(&[b"AUTH", password.as_bytes()])?;
        }
        Ok(client)
    }

    /// Kills it with SIGKILL and waits for its end. Idempotent.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts it at the same address, with all that was written.
    ///
    /// # Panics
    /// If it does not come up: somebody else may have taken the port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(&self.dir, self.port, &self.args);
        assert!(
            self.becomes_ready(),
            "it did not start again: {}",
            self.log()
        );
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

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

#[track_caller]
fn spawn(dir: &TempDir, port: u16, args: &[String]) -> ServerProcess {
    let mut command = Command::new(SERVER);
    command
        .arg0("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--daemonize", "no", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "no"])
        .arg("--dir")
        .arg(dir.path())
        .args(args);
    ServerProcess::start(command, &dir.path().join("log"), INSTALL)
}

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisReply {
    /// Nothing.
    Null,
    /// A number.
    Number(i64),
    /// A string, or a status.
    Bytes(Vec<u8>),
    /// An error.
    Error(String),
    /// A list.
    List(Vec<RedisReply>),
}

impl RedisReply {
    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// A client that speaks the protocol and knows nothing else.
#[derive(Debug)]
pub struct RawRedis(BufReader<TcpStream>);

impl RawRedis {
    fn connect(addr: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(socket)))
    }

    /// What the server answers to a command.
    ///
    /// # Panics
    /// If it is an error, or does not come.
    #[track_caller]
    pub fn command(&mut self, args: &[&[u8]]) -> RedisReply {
        let reply = self.try_command(args).expect("an answer");
        assert!(!reply.is_error(), "{reply:?}");
        reply
    }

    /// The same for words between single spaces.
    ///
    /// # Panics
    /// As [`command`](Self::command).
    #[track_caller]
    pub fn words(&mut self, words: &str) -> RedisReply {
        let args: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        self.command(&args)
    }

    /// The same, but an error is an answer too.
    ///
    /// # Errors
    /// Of the connection.
    pub fn try_command(&mut self, args: &[&[u8]]) -> io::Result<RedisReply> {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            write!(bytes, "${}\r\n", arg.len())?;
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<RedisReply> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => RedisReply::Bytes(rest.as_bytes().to_vec()),
            "-" => RedisReply::Error(rest.to_owned()),
            ":" => RedisReply::Number(number()?),
            _ if number()? < 0 => RedisReply::Null,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                RedisReply::Bytes(bytes)
            }
            "*" => {
                let list = (0..number()?).map(|_| self.reply());
                RedisReply::List(list.collect::<io::Result<_>>()?)
            }
            _ => return Err(io::Error::other(format!("no reply: {line}"))),
        })
    }
}
