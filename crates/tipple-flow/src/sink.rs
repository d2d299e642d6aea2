//! A live system that is written back to.

use serde_json::Value;
use tipple_budget::Gate;

use crate::failure::Stop;
use crate::outcome::Outcomes;
use crate::part::PartName;
use crate::reader::RecordReader;
use crate::source::Identity;

/// What a sink can make of a load that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Applying a record twice is the same as once: parts that were not finished are applied again.
    Idempotent,
    /// The sink tells how far it got.
    PositionReadable,
    /// Only from the beginning: nothing of an unfinished load is visible.
    RestartOnly,
}

/// A live system that is written to. Shared by all workers of a job.
///
/// A job calls [`check`](Sink::check) once; if it keeps its state, [`is_same`](Sink::is_same) or
/// [`incarnation`](Sink::incarnation); [`open`](Sink::open) once per worker, and that writer's
/// [`write_part`](PartWriter::write_part) for part after part; [`finish`](Sink::finish) once all parts are applied.
pub trait Sink: Send + Sync {
    /// What this sink is.
    fn identity(&self) -> Identity;

    /// Whether it takes records of this content and version.
    fn accepts(&self, content: &str, version: u16) -> bool;

    /// Whether it needs the records in the source's order: then there is one worker, and parts come in the order of
    /// their names.
    fn ordered(&self) -> bool;

    /// What it can make of a load that was killed.
    fn resume(&self) -> Resume;

    /// Memory that one writer holds at most, in bytes.
    fn writer_bytes(&self) -> u64;

    /// Memory that one writer holds at most beside, in bytes, for records of up to `record_bytes_max`. Default: 0, for one
    /// that holds no whole records. One that does asks [`RecordReader::check_record_bytes`] before it takes any.
    fn record_bytes(&self, record_bytes_max: u64) -> u64 {
        let _ = record_bytes_max;
        0
    }

    /// Reaches the system.
    ///
    /// # Errors
    /// [`Stop::Failed`] if it cannot be reached or cannot be written.
    fn check(&self) -> Result<(), Stop>;

    /// The life of the system, as [`check`](Sink::check) found it, that parts are applied to: what it holds is gone with
    /// it. Kept in the state of a load. Null for what has no lives. Never a secret.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the system does not tell.
    fn incarnation(&self) -> Result<Value, Stop> {
        Ok(Value::Null)
    }

    /// Whether the system, as [`check`](Sink::check) found it, is still in the life that `incarnation` speaks of. If
    /// not, the job says so and applies every part again: what was applied to another life is not there.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the system does not tell.
    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        let _ = incarnation;
        Ok(true)
    }

    /// Opens a writer for one worker. `gate` tells it when the job is cancelled.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the system cannot be reached.
    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop>;

    /// Takes what the source of a copy says of itself at the end, as DONE of a dump would have it; before
    /// [`finish`](Sink::finish).
    fn told(&self, said: &Value) {
        let _ = said;
    }

    /// Makes everything visible. `outcomes` is what became of all records of the job that were not applied; of a copy,
    /// also of those that the source did not give. What it returns goes into the report.
    ///
    /// # Errors
    /// [`Stop::Failed`] if the load must not be called complete.
    fn finish(&self, outcomes: &Outcomes) -> Result<Value, Stop> {
        let _ = outcomes;
        Ok(Value::Null)
    }
}

/// Writes parts for one worker.
pub trait PartWriter {
    /// Applies all records, to the last one acknowledged, and counts those that were not applied in `outcomes`.
    ///
    /// # Errors
    /// [`Stop`]; the part is not finished then.
    fn write_part(
        &mut self,
        part: &PartName,
        records: &mut RecordReader<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop>;
}
