//! A live system that is read.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tipple_budget::Gate;

use crate::failure::Stop;
use crate::outcome::Outcomes;
use crate::part::{NewPart, Part};
use crate::writer::RecordWriter;

/// What a system is, so that a dump is never continued from another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The kind of system, such as `memcached`.
    pub kind: String,
    /// What names this one, and every option of the source that shapes the data. Compared as a whole. Never a secret.
    pub id: Value,
}

/// What a source expects to give. All zero if it cannot know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Parts.
    pub parts: u64,
    /// Records.
    pub records: u64,
    /// Raw bytes in frames.
    pub bytes: u64,
    /// The most local disk that planning itself takes (a cache's key files), in bytes.
    pub plan_bytes_max: u64,
}

/// What planning found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What became of records that belong to no part (filtered while listing).
    pub outcomes: Outcomes,
    /// The point in time, or the life, of the source that the plan speaks of. Never a secret.
    pub incarnation: Value,
}

/// Takes the parts of a plan as the source finds them.
pub trait Planner {
    /// A folder for files that become plan objects. Its budget is the source's [`Estimate::plan_bytes_max`].
    fn scratch_dir(&self) -> &Path;

    /// The key with which every file in the scratch folder must be sealed, as `tipple_chunk::Scratch` does it; `None` if
    /// they may be plain. A secret of this process.
    fn scratch_key(&self) -> Option<&[u8; 32]> {
        None
    }

    /// Takes one part. Returns at once: parts become durable, and are worked on, behind the planner's back.
    ///
    /// # Errors
    /// [`Stop`] when the job ended.
    fn add(&mut self, part: NewPart) -> Result<(), Stop>;

    /// Of a source that [`follows`](Source::follows): the plan object that was added last, also by an earlier run; `None` if
    /// there is none. The source goes on behind it.
    ///
    /// # Errors
    /// [`Stop`] when the store fails; the pipeline reports why.
    fn last(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        Ok(None)
    }

    /// Tells how many records have been listed in all so far, for progress.
    fn listed(&mut self, records: u64);

    /// Declares every part added so far void: what found them broke off, and would find some of them again. The plan
    /// begins anew; nothing that was read for a void part counts.
    ///
    /// # Errors
    /// [`Stop::Failed`] where parts that were worked on cannot be taken back, as in a copy.
    fn restart(&mut self) -> Result<(), Stop>;
}

/// A live system that is read. Shared by all workers of a job.
///
/// A job calls, in this order: [`check`](Source::check) once; [`plan`](Source::plan) once on a thread of its
/// own, unless a sealed plan is resumed; meanwhile [`open`](Source::open) once per worker, and that reader's
/// [`read_part`](PartReader::read_part) for part after part; [`finish`](Source::finish) once all parts are
/// committed, before DONE.
pub trait Source: Send + Sync {
    /// What this source is.
    fn identity(&self) -> Identity;

    /// The content that it writes into frames: name and version, such as `("items", 1)`.
    fn content(&self) -> (&'static str, u16);

    /// Whether a killed job can go on where it was. If not (standard input), an unfinished dump starts over.
    fn resumable(&self) -> bool {
        true
    }

    /// Whether it is followed: its plan grows while it is worked on, and [`plan`](Source::plan) returns when it is
    /// interrupted. An interrupted dump goes on behind the last planned part ([`Planner::last`]), followed or, to finish it,
    /// not. Its plan objects must be small, and its parts never void: what they speak of does not change.
    fn follows(&self) -> bool {
        false
    }

    /// Memory that one reader holds at most, in bytes, outside of the leased buffers.
    fn reader_bytes(&self) -> u64;

    /// The most bytes of one record, for a sink that holds whole ones while records are copied to it straight; a copy
    /// refuses a larger one. Default: no bound.
    fn record_bytes_max(&self) -> u64 {
        u64::MAX
    }

    /// Memory that planning holds at most, in bytes.
    fn planner_bytes(&self) -> u64 {
        0
    }

    /// Reaches the system, and says what it expects to give.
    ///
    /// # Errors
    /// [`Stop::Failed`] if it cannot be reached or cannot be dumped.
    fn check(&self) -> Result<Estimate, Stop>;

    /// Finds all parts and hands each to `planner`.
    ///
    /// # Errors
    /// [`Stop`]; the parts handed over so far are void then.
    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop>;

    /// Whether the system is still the one that `incarnation` of a sealed plan speaks of. If not, the job says so
    /// and plans anew: two points in time are never mixed.
    ///
    /// # Errors
    /// [`Stop::Failed`] if it cannot be reached.
    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        let _ = incarnation;
        Ok(true)
    }

    /// Opens a reader for one worker.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the system cannot be reached.
    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop>;

    /// Looks at the system once more when every part is committed: whether it is still the one that was planned, and
    /// how the result compares with what it says of itself. What it returns goes into DONE and the report.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the dump must not be called complete; there will be no DONE.
    fn finish(&self, planned: &Planned, records: u64, outcomes: &Outcomes) -> Result<Value, Stop> {
        let _ = (planned, records, outcomes);
        Ok(Value::Null)
    }
}

/// Reads parts for one worker.
pub trait PartReader {
    /// Writes all records of `part` to `out`, and counts those that it cannot write in `outcomes`.
    ///
    /// Transient failures are the reader's own business: it reconnects, and goes on where it was. If it cannot go on
    /// there, it calls [`RecordWriter::restart`] and begins the part again, `outcomes` included.
    ///
    /// # Errors
    /// [`Stop`]; what was written of the part is void then.
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop>;
}
