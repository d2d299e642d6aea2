//! A memcached of Debian for one measurement.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub struct Memcached {
    child: Child,
    port: u16,
}

impl Memcached {
    pub fn start(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let child = Command::new("memcached")
            .args(["-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()])
            .args(args)
            .spawn()
            .unwrap_or_else(|error| panic!("memcached: {error}: apt-get install -y memcached"));
        let server = Self { child, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(server.addr()).is_err() {
            assert!(Instant::now() < deadline, "memcached does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `curr_items`.
    pub fn items(&self) -> u64 {
        let mut stream = TcpStream::connect(self.addr()).expect("it listens");
        stream.write_all(b"stats\r\n").expect("it listens");
        BufReader::new(stream)
            .lines()
            .map(|line| line.expect("text"))
            .find_map(|line| {
                Some(
                    line.strip_prefix("STAT curr_items ")?
                        .parse()
                        .expect("a number"),
                )
            })
            .expect("curr_items among the stats")
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}
