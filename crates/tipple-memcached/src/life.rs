//! Which run of a server it is, and what it holds.

use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

use crate::connection::{Connection, ConnectionError};
use crate::stats::{Incarnation, Stats};
use crate::url::Server;

/// Two runs of a process with the same number (1, in a container) began further apart than this.
const BEGAN_APART_S: u64 = 2;

/// What a load needs to know of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pid: u64,
    started: i64,
    flushes: u64,
    pub items: u64,
    pub evictions: u64,
}

impl Life {
    pub fn read(connection: &mut Connection, gate: Option<&Gate>) -> Result<Self, ConnectionError> {
        let stats = Stats::read(connection, gate)?;
        Ok(Self {
            pid: stats.pid,
            started: stats.started,
            flushes: stats.cmd_flush,
            items: stats.curr_items,
            evictions: stats.evictions,
        })
    }

    /// The same for what outlives this process.
    pub fn incarnation(&self, server: &Server) -> Incarnation {
        Incarnation {
            server: server.to_string(),
            pid: self.pid,
            started: self.started,
            cmd_flush: self.flushes,
        }
    }

    /// # Errors
    /// [`Party::Sink`] if `now` is of another run, or the server was flushed: what it held before is gone, and so is a
    /// part of the load.
    pub fn require_same(&self, now: &Self, server: &Server) -> Result<(), Stop> {
        let what = if self.pid != now.pid || self.started.abs_diff(now.started) > BEGAN_APART_S {
            "restarted"
        } else if self.flushes != now.flushes {
            "flushed"
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Party::Sink,
            format!(
                "memcached at {server} was {what} during the load, and what was loaded into it is gone: run the same load again"
            ),
        )
        .into())
    }
}
