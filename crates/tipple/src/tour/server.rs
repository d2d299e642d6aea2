//! A memcached of the tour's own, and as much of its protocol as filling it takes.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// A child process that does not outlive this.
pub(super) struct Killed(pub(super) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running memcached on a Unix socket.
pub(super) struct Server {
    socket: PathBuf,
    _child: Killed,
}

const START_MAX: Duration = Duration::from_secs(10);

impl Server {
    /// `None` if memcached is not installed.
    pub(super) fn start(socket: &Path, more: &[&str]) -> io::Result<Option<Self>> {
        let mut command = Command::new("memcached");
        command
            .arg("-s")
            .arg(socket)
            .args(["-m", "256", "-t", "2"])
            .args(more);
        // It refuses to be root unless it is told whom to be.
        if fs::metadata("/proc/self")?.uid() == 0 {
            command.args(["-u", "root"]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match child {
            Ok(child) => Killed(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let begun = Instant::now();
        while UnixStream::connect(socket).is_err() {
            if let Some(status) = child.0.try_wait()? {
                return Err(io::Error::other(format!(
                    "memcached ended at once: {status}"
                )));
            }
            if begun.elapsed() > START_MAX {
                return Err(io::Error::other("memcached does not listen"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(Self {
            socket: socket.to_owned(),
            _child: child,
        }))
    }

    pub(super) fn url(&self) -> String {
        format!("memcached://{}", self.socket.display())
    }

    /// Stores items: key, value, flags, seconds to live (0: for ever).
    pub(super) fn fill(
        &self,
        items: impl Iterator<Item = (Vec<u8>, Vec<u8>, u32, u32)>,
    ) -> io::Result<()> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        let mut batch = Vec::new();
        let mut in_batch = 0;
        let mut items = items.peekable();
        while let Some((key, value, flags, ttl)) = items.next() {
            let key = BASE64_STANDARD.encode(key);
            let size = value.len();
            // Quiet: only what fails is answered, before the answer to the no-op at the end of the batch.
            writeln!(batch, "ms {key} {} b q F{flags} T{ttl}\r", size)?;
            batch.extend_from_slice(&value);
            batch.extend_from_slice(b"\r\n");
            in_batch += 1;
            if in_batch == 500 || items.peek().is_none() {
                batch.extend_from_slice(b"mn\r\n");
                stream.write_all(&batch)?;
                batch.clear();
                in_batch = 0;
                let mut line = String::new();
                replies.read_line(&mut line)?;
                if line != "MN\r\n" {
                    return Err(io::Error::other(format!("memcached answered {line:?}")));
                }
            }
        }
        Ok(())
    }
}
