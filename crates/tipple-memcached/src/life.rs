//! Which run of a server it is, and what it holds.

use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

use crate::connection::{Connection, ConnectionError};
use crate::url::Server;

/// The longest line of `stats`.
const LINE_BYTES_MAX: usize = 2048;
/// Two runs of a process with the same number (1, in a container) began further apart than this.
const BEGAN_APART_S: u64 = 2;

/// What `stats` says that a load needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    pid: u64,
    began_unix_s: u64,
    flushes: u64,
    pub items: u64,
    pub evictions: u64,
}

impl Life {
    pub fn read(connection: &mut Connection, gate: Option<&Gate>) -> Result<Self, ConnectionError> {
        connection.send(b"stats\r\n", gate)?;
        let (mut life, mut time, mut uptime) = (Self::default(), 0, 0);
        loop {
            let line = connection.read_line(LINE_BYTES_MAX, gate)?;
            if line == b"END" {
                life.began_unix_s = time - uptime.min(time);
                return Ok(life);
            }
            let Some(stat) = line.strip_prefix(b"STAT ") else {
                let reply = crate::connection::shown(line);
                let server = connection.server().clone();
                return Err(ConnectionError::Unexpected {
                    server,
                    reply,
                    expected: "a line of stats",
                });
            };
            let mut words = stat.split(|&b| b == b' ');
            let field = match words.next().unwrap_or_default() {
                b"pid" => &mut life.pid,
                b"time" => &mut time,
                b"uptime" => &mut uptime,
                b"cmd_flush" => &mut life.flushes,
                b"curr_items" => &mut life.items,
                b"evictions" => &mut life.evictions,
                _ => continue,
            };
            let number = words.next().and_then(|word| std::str::from_utf8(word).ok());
            *field = number.and_then(|word| word.parse().ok()).unwrap_or(0);
        }
    }

    /// # Errors
    /// [`Party::Sink`] if `now` is of another run, or the server was flushed: what it held before is gone, and so is a
    /// part of the load.
    pub fn require_same(&self, now: &Self, server: &Server) -> Result<(), Stop> {
        let what = if self.pid != now.pid
            || self.began_unix_s.abs_diff(now.began_unix_s) > BEGAN_APART_S
        {
            "restarted"
        } else if self.flushes != now.flushes {
            "flushed"
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Party::Sink,
            format!(
                "memcached at {server} was {what} during the load, and what was loaded into it is gone: begin the load anew"
            ),
        )
        .into())
    }
}
