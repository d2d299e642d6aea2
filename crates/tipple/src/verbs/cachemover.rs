//! Folders in the cachemover layout, read without a live system at the other end.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tipple_budget::{Cancelled, Gate};
use tipple_flow::{
    Content, Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink,
    Stop,
};
use tipple_memcached::{ITEMS_NAME, ITEMS_VERSION, ItemsContent};

fn identity(kind: &str) -> Identity {
    Identity {
        kind: kind.to_owned(),
        id: serde_json::Value::Null,
    }
}

/// Reads every item and keeps none.
pub(super) struct Counting;

impl Sink for Counting {
    fn identity(&self) -> Identity {
        identity("verify")
    }
    fn accepts(&self, content: &str, version: u16) -> bool {
        (content, version) == (ITEMS_NAME, ITEMS_VERSION)
    }
    fn ordered(&self) -> bool {
        false
    }
    fn resume(&self) -> Resume {
        Resume::Idempotent
    }
    fn writer_bytes(&self) -> u64 {
        0
    }
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn open<'a>(&'a self, _gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        Ok(Box::new(Counting))
    }
}

impl PartWriter for Counting {
    fn write_part(
        &mut self,
        _part: &PartName,
        records: &mut RecordReader<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        while ItemsContent.skip(records)? {}
        Ok(())
    }
}

/// Writes items as JSON lines.
pub(super) struct Printing<'o> {
    state: Mutex<Printed<'o>>,
}

struct Printed<'o> {
    out: &'o mut (dyn Write + Send),
    left: u64,
    raw: bool,
    ended: Option<End>,
}

/// Why printing ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As many as were asked for.
    Enough,
    /// The reader went away.
    ReaderGone,
}

impl<'o> Printing<'o> {
    /// At most `records_max`, to `out`.
    pub(super) fn new(out: &'o mut (dyn Write + Send), records_max: u64, raw: bool) -> Self {
        Self {
            state: Mutex::new(Printed {
                out,
                left: records_max,
                raw,
                ended: None,
            }),
        }
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.state().ended
    }

    /// What is still buffered.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.state().out.flush()
    }

    fn state(&self) -> MutexGuard<'_, Printed<'o>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Printing<'_> {
    fn identity(&self) -> Identity {
        identity("cat")
    }
    fn accepts(&self, content: &str, version: u16) -> bool {
        Counting.accepts(content, version)
    }
    fn ordered(&self) -> bool {
        true
    }
    fn resume(&self) -> Resume {
        Resume::RestartOnly
    }
    fn writer_bytes(&self) -> u64 {
        0
    }
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn open<'a>(&'a self, _gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        Ok(Box::new(Lines { to: self }))
    }
}

struct Lines<'a, 'o> {
    to: &'a Printing<'o>,
}

impl PartWriter for Lines<'_, '_> {
    fn write_part(
        &mut self,
        _part: &PartName,
        records: &mut RecordReader<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut printed = self.to.state();
        if printed.raw {
            let message = "items have no raw form: leave out --raw";
            return Err(Failure::new(Party::Usage, message).into());
        }
        let mut line = Vec::new();
        loop {
            if printed.left == 0 {
                printed.ended = Some(End::Enough);
                return Err(Cancelled.into());
            }
            line.clear();
            if !ItemsContent.write_json(records, &mut line)? {
                return Ok(());
            }
            line.push(b'\n');
            if let Err(error) = printed.out.write_all(&line) {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    printed.ended = Some(End::ReaderGone);
                    return Err(Cancelled.into());
                }
                let message = format!("cannot write to standard output: {error}");
                return Err(Failure::new(Party::Budget, message).into());
            }
            printed.left -= 1;
        }
    }
}
