//! What a server says of itself, and whether it is still the one that it was.

use serde::{Deserialize, Serialize};
use tipple_budget::Gate;
use tipple_flow::{Failure, Party};

use crate::connection::{Connection, ConnectionError, shown};
use crate::reply::{Reply, number, parse_line};

const STAT_LINE_BYTES_MAX: usize = 2048;
/// More lines than any server says, about 150 for both requests: one that never ends is no server of ours.
const STAT_LINES_MAX: u32 = 10_000;
/// Time and uptime are not read at the same instant.
const START_TOLERANCE_S: u64 = 2;

/// The numbers of `stats` and `stats settings` that matter here; 0 where the server does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The server's process.
    pub pid: u64,
    /// Its clock, in seconds since 1970.
    pub time: i64,
    /// When it started, in seconds since 1970.
    pub started: i64,
    /// Items that it holds, expired ones that were not noticed yet included.
    pub curr_items: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Items that it gave up for room.
    pub evictions: u64,
    /// How often it was flushed.
    pub cmd_flush: u64,
    /// The largest item that it takes (`-I`).
    pub item_size_max: u64,
    /// Whether its LRU crawler runs, without which keys cannot be listed.
    pub lru_crawler: bool,
    /// Which protocols it speaks: `auto`, `ascii` or `binary`; as it says.
    pub binding_protocol: String,
}

impl Stats {
    /// Asks for them.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn read(connection: &mut Connection, gate: Option<&Gate>) -> Result<Self, ConnectionError> {
        let mut stats = Self::default();
        let mut uptime = 0;
        for request in ["stats\r\n", "stats settings\r\n"] {
            connection.send(request.as_bytes(), gate)?;
            let mut lines = 0;
            loop {
                let server = connection.server().clone();
                lines += 1;
                if lines > STAT_LINES_MAX {
                    return Err(connection.unexpected("the end of its statistics"));
                }
                let line = connection.read_line(STAT_LINE_BYTES_MAX, gate)?;
                let parsed = parse_line(line).ok();
                let (name, value) = match parsed {
                    Some(Reply::Stat { name, value }) => (name, value),
                    Some(Reply::End) => break,
                    _ => {
                        return Err(ConnectionError::Unexpected {
                            server,
                            reply: shown(line),
                            expected: "its statistics",
                        });
                    }
                };
                let n = number(value).unwrap_or(0);
                match name {
                    b"pid" => stats.pid = n,
                    b"uptime" => uptime = signed(n),
                    b"time" => stats.time = signed(n),
                    b"curr_items" => stats.curr_items = n,
                    b"bytes" => stats.bytes = n,
                    // The settings have one of the same name, which is "on" or "off".
                    b"evictions" if request == "stats\r\n" => stats.evictions = n,
                    b"cmd_flush" => stats.cmd_flush = n,
                    b"item_size_max" => stats.item_size_max = n,
                    b"lru_crawler" => stats.lru_crawler = value == b"yes",
                    b"binding_protocol" => stats.binding_protocol = shown(value),
                    _ => {}
                }
            }
        }
        stats.started = stats.time.saturating_sub(uptime);
        Ok(stats)
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The life of a server that a plan speaks of. Persisted in plans: stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The server, as in a URL.
    pub server: String,
    /// Its process.
    pub pid: u64,
    /// When it started, in seconds since 1970.
    pub started: i64,
    /// How often it had been flushed.
    pub cmd_flush: u64,
}

impl Incarnation {
    /// The life that `stats` of `server` tell of.
    pub fn new(server: String, stats: &Stats) -> Self {
        Self {
            server,
            pid: stats.pid,
            started: stats.started,
            cmd_flush: stats.cmd_flush,
        }
    }

    /// Whether `now` is the same life.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Source`]) that says what happened to the server.
    pub fn check(&self, now: &Self) -> Result<(), Failure> {
        let server = &self.server;
        if self.pid != now.pid || self.started.abs_diff(now.started) > START_TOLERANCE_S {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "memcached at {server} was restarted (pid {} → {}) while it was dumped, so its items are gone: run the same command again to dump what it holds now",
                    self.pid, now.pid
                ),
            ));
        }
        if self.cmd_flush != now.cmd_flush {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "memcached at {server} was flushed (cmd_flush {} → {}) while it was dumped, so its items are gone: run the same command again to dump what it holds now",
                    self.cmd_flush, now.cmd_flush
                ),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_life_is_noticed() {
        let life = Incarnation {
            server: "a:1".into(),
            pid: 7,
            started: 1000,
            cmd_flush: 2,
        };
        for started in [998, 1000, 1002] {
            life.check(&Incarnation {
                started,
                ..life.clone()
            })
            .unwrap();
        }
        for (other, said) in [
            (
                Incarnation {
                    pid: 8,
                    ..life.clone()
                },
                "was restarted (pid 7 → 8)",
            ),
            (
                Incarnation {
                    started: 1003,
                    ..life.clone()
                },
                "was restarted (pid 7 → 7)",
            ),
            (
                Incarnation {
                    cmd_flush: 3,
                    ..life.clone()
                },
                "was flushed (cmd_flush 2 → 3)",
            ),
        ] {
            let failure = life.check(&other).unwrap_err();
            assert_eq!(failure.party(), Party::Source);
            assert!(failure.to_string().contains(said), "{failure}");
        }
    }
}
