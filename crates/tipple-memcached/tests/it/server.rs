//! A real memcached for a test: started on a free port or a Unix socket, killed when dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tipple_memcached::{MemcachedUrl, Server};

const PROGRAM: &str = "/usr/bin/memcached";

/// A running memcached.
pub struct Memcached {
    child: Child,
    server: Server,
    args: Vec<String>,
}

impl Memcached {
    /// Starts one on a free port of 127.0.0.1 with more arguments, such as `["-m", "256"]`, and waits until it answers.
    pub fn start(args: &[&str]) -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let server = Server::Tcp {
                host: "127.0.0.1".into(),
                port,
            };
            // Another test may have taken the port meanwhile: then it ends, and another port is tried.
            if let Some(started) = Self::try_start(server, args) {
                return started;
            }
        }
    }

    /// Starts one on the Unix socket `path`.
    pub fn start_unix(path: PathBuf, args: &[&str]) -> Self {
        Self::try_start(Server::Unix(path), args).expect("memcached starts on a new socket")
    }

    fn try_start(server: Server, args: &[&str]) -> Option<Self> {
        let mut command = Command::new(PROGRAM);
        command.args(["-u", "root", "-U", "0"]);
        match &server {
            Server::Tcp { port, .. } => command.args(["-l", "127.0.0.1", "-p", &port.to_string()]),
            Server::Unix(path) => command.args(["-s", path.to_str().unwrap()]),
        };
        let child = command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{PROGRAM}: {error}: install it with `apt-get install memcached`")
            });
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut started = Self {
            child,
            server,
            args,
        };
        loop {
            if started.child.try_wait().unwrap().is_some() {
                return None;
            }
            if started.accepts() {
                return Some(started);
            }
            std::thread::yield_now();
        }
    }

    fn accepts(&mut self) -> bool {
        let connected = match &self.server {
            Server::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).is_ok(),
            Server::Unix(path) => UnixStream::connect(path).is_ok(),
        };
        // Somebody else may listen there: ours would have ended.
        connected && self.child.try_wait().unwrap().is_none()
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its URL.
    pub fn url(&self) -> MemcachedUrl {
        url(&[self])
    }

    /// A plain connection of the test's own.
    pub fn peer(&self) -> Peer {
        Peer::connect(&self.server)
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills it and starts an empty one at the same place with the same arguments.
    pub fn restart(&mut self) {
        self.kill();
        if let Server::Unix(path) = &self.server {
            let _ = std::fs::remove_file(path);
        }
        let args: Vec<String> = self.args.clone();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        *self = loop {
            if let Some(started) = Self::try_start(self.server.clone(), &args) {
                break started;
            }
        };
    }

    /// Stops it as a debugger would, until what it returns is dropped.
    pub fn stop(&self) -> Stopped {
        Stopped::new(self.child.id())
    }
}

/// A process that does not run for now.
pub struct Stopped {
    pid: u32,
}

impl Stopped {
    fn new(pid: u32) -> Self {
        Self::signal(pid, "-STOP");
        Self { pid }
    }

    fn signal(pid: u32, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        Self::signal(self.pid, "-CONT");
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One URL of all of them.
pub fn url(servers: &[&Memcached]) -> MemcachedUrl {
    let places: Vec<_> = servers
        .iter()
        .map(|running| running.server.to_string())
        .collect();
    format!("memcached://{}", places.join(",")).parse().unwrap()
}

/// A byte stream of either kind of socket.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A test's own connection: says exact bytes, reads exact bytes.
pub struct Peer {
    wire: BufReader<Box<dyn Wire>>,
}

impl Peer {
    /// Connects without TLS.
    pub fn connect(server: &Server) -> Self {
        let wire: Box<dyn Wire> = match server {
            Server::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).unwrap();
                stream.set_nodelay(true).unwrap();
                Box::new(stream)
            }
            Server::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
        };
        Self {
            wire: BufReader::new(wire),
        }
    }

    /// Sends `bytes`.
    pub fn say(&mut self, bytes: &[u8]) {
        self.wire.get_mut().write_all(bytes).unwrap();
    }

    /// Reads a line, without its line end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.wire.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\n"), "the server closed the connection");
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Reads exactly so many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.wire.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends a line and reads a line.
    pub fn ask(&mut self, line: &str) -> String {
        self.say(format!("{line}\r\n").as_bytes());
        self.line()
    }

    /// Sets an item by the text protocol.
    pub fn set(&mut self, key: &str, value: &[u8], flags: u32, exptime: i64) {
        self.say(format!("set {key} {flags} {exptime} {}\r\n", value.len()).as_bytes());
        self.say(value);
        self.say(b"\r\n");
        assert_eq!(self.line(), "STORED", "{key}");
    }

    /// Sets an item by the binary protocol, which takes any key of 1 to 250 bytes. On a connection of its own.
    pub fn set_binary(&mut self, key: &[u8], value: &[u8], flags: u32, exptime: u32) {
        let mut request = vec![0x80, 0x01];
        request.extend((key.len() as u16).to_be_bytes());
        request.extend([8, 0, 0, 0]);
        request.extend(((8 + key.len() + value.len()) as u32).to_be_bytes());
        request.extend([0; 12]);
        request.extend(flags.to_be_bytes());
        request.extend(exptime.to_be_bytes());
        request.extend(key);
        request.extend(value);
        self.say(&request);
        let reply = self.bytes(24);
        assert_eq!(
            &reply[..8],
            [0x81, 0x01, 0, 0, 0, 0, 0, 0],
            "status of a binary set"
        );
        let body = u32::from_be_bytes(reply[8..12].try_into().unwrap());
        self.bytes(body as usize);
    }

    /// A number that `stats` tells.
    pub fn stat(&mut self, name: &str) -> u64 {
        self.say(b"stats\r\n");
        let mut found = None;
        loop {
            let line = self.line();
            if line == "END" {
                return found.unwrap_or_else(|| panic!("no stat {name}"));
            }
            if let Some(value) = line.strip_prefix(&format!("STAT {name} ")) {
                found = Some(value.parse().unwrap());
            }
        }
    }
}
