//! Lines as a source.

use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Estimate, Failure, Identity, NewPart, Outcomes, PartReader, PlanBody, Planned, Planner, Source,
    Stop,
};

use crate::file::LinesFile;
use crate::options::LinesOptions;
use crate::pipe::{self, PipeReader};

/// The lines of a file or of standard input.
///
/// A file is identified by its path, size, time of change and inode, and is refused once any of them differs: on
/// resume, and at the end of the dump. Its parts are byte ranges; a part holds the lines that begin in its range, so a
/// range in the middle of a long line gives an empty part. What is written into the file within one tick of the
/// system's clock after it was opened, without a change of its size, cannot be seen.
///
/// Standard input is one part, and an unfinished dump of it starts over.
#[derive(Debug)]
pub struct LinesSource {
    input: Input,
}

#[derive(Debug)]
enum Input {
    File(LinesFile),
    Pipe(Pipe),
}

/// A stream that can be read once.
pub(crate) struct Pipe(Mutex<Option<Box<dyn Read + Send>>>);

impl Pipe {
    pub(crate) fn take(&self) -> Option<Box<dyn Read + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl LinesSource {
    /// The lines of the file at `path`, as it is now.
    ///
    /// # Errors
    /// [`Failure`]: an option out of range, no such file, or not a regular one.
    pub fn file(path: &Path, options: LinesOptions) -> Result<Self, Failure> {
        options.validate()?;
        Ok(Self {
            input: Input::File(LinesFile::open(path, options)?),
        })
    }

    /// The lines of standard input. After a cancel, a thread may stay blocked reading it until the process exits.
    pub fn stdin() -> Self {
        Self::pipe(std::io::stdin())
    }

    /// The lines of any stream, read the way of [`LinesSource::stdin`].
    pub fn pipe(input: impl Read + Send + 'static) -> Self {
        Self {
            input: Input::Pipe(Pipe(Mutex::new(Some(Box::new(input))))),
        }
    }
}

impl Source for LinesSource {
    fn identity(&self) -> Identity {
        Identity {
            kind: crate::NAME.into(),
            id: match &self.input {
                Input::File(file) => file.id(),
                Input::Pipe(_) => json!("stdin"),
            },
        }
    }

    fn content(&self) -> (&'static str, u16) {
        (crate::NAME, crate::VERSION)
    }

    fn resumable(&self) -> bool {
        matches!(self.input, Input::File(_))
    }

    fn reader_bytes(&self) -> u64 {
        match &self.input {
            Input::File(file) => file.reader_bytes(),
            Input::Pipe(_) => pipe::READER_BYTES,
        }
    }

    fn check(&self) -> Result<Estimate, Stop> {
        let (parts, bytes) = match &self.input {
            Input::File(file) => {
                file.unchanged()?;
                (file.parts(), file.bytes())
            }
            Input::Pipe(_) => (1, 0),
        };
        Ok(Estimate {
            parts,
            bytes,
            ..Estimate::default()
        })
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        match &self.input {
            Input::File(file) => file.plan(planner, gate)?,
            Input::Pipe(_) => planner.add(NewPart {
                body: PlanBody::Bytes(br#"{"input":"stdin"}"#.to_vec()),
                extension: "json",
                records: None,
                bytes_estimate: 0,
            })?,
        }
        Ok(Planned {
            outcomes: Outcomes::default(),
            incarnation: self.identity().id,
        })
    }

    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        Ok(self.resumable() && self.identity().id == *incarnation)
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(match &self.input {
            Input::File(file) => Box::new(file.reader()),
            Input::Pipe(pipe) => Box::new(PipeReader { pipe }),
        })
    }

    fn finish(
        &self,
        _planned: &Planned,
        _records: u64,
        _outcomes: &Outcomes,
    ) -> Result<Value, Stop> {
        match &self.input {
            Input::File(file) => {
                file.unchanged()?;
                Ok(json!({ "bytes": file.bytes() }))
            }
            Input::Pipe(_) => Ok(Value::Null),
        }
    }
}
