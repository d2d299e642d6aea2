//! The filling side of a lane: lets the source write part after part, and sends what it wrote to the other side.

use std::cell::RefCell;
use std::io::Read;
use std::sync::mpsc::SyncSender;

use tipple_budget::{BufferPool, Cancelled, Gate};
use tipple_flow::{Block, Drain, Outcomes, RecordWriter, Source, Stop, Written};

use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::layout::SealedPart;
use crate::ledger::Ledger;
use crate::sealing::Sealing;
use crate::stores::Stores;

/// What goes to the other side of a lane, which encodes (dump) or applies (copy). Bounded by the two buffers and the
/// channel's capacity.
pub(crate) enum Message<P> {
    Begin(P),
    Block(Block),
    /// Everything of this part so far is void.
    Restart,
    End(Written, Outcomes),
}

/// How many messages wait for the other side. Blocks are bounded by the buffers; this is for what stands between them.
pub(crate) const MESSAGES_MAX: usize = 4;

/// More than any plan object of a plan that grows.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// Where plan objects are.
#[derive(Clone, Copy)]
pub(crate) struct Plans<'a> {
    pub(crate) stores: &'a Stores<'a>,
    /// The key, if they are sealed.
    pub(crate) sealing: Option<&'a Sealing>,
}

impl Plans<'_> {
    /// What the plan object of a part holds, if there is a part.
    pub(crate) fn body(self, part: Option<&SealedPart>) -> Result<Option<Vec<u8>>, DumpError> {
        let Some(part) = part else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let object = part.object();
        let mut body = self.open(part)?;
        let read = Read::take(&mut body, BODY_BYTES_MAX).read_to_end(&mut bytes);
        match read {
            Ok(_) => Ok(Some(bytes)),
            Err(error) => Err(DumpError::Damaged {
                store: self.stores.living()[0].1.url().to_owned(),
                object: object.to_string(),
                reason: format!("{error}; restore it, or dump again into another folder"),
            }),
        }
    }

    fn open(self, part: &SealedPart) -> Result<Box<dyn tipple_flow::PlanRead>, DumpError> {
        let name = part.object();
        let object = self.stores.open(&name)?;
        Ok(match self.sealing {
            None => Box::new(object),
            Some(sealing) => Box::new(
                sealing
                    .plan_reader(object, &part.name)
                    .map_err(DumpError::chunk(&name))?,
            ),
        })
    }
}

/// Lets `source` write part after part of `ledger`, until there are none left. `begin` makes of a part what the other
/// side needs to know of it.
pub(crate) fn fill<P>(
    gate: &Gate,
    source: &dyn Source,
    plans: Plans<'_>,
    ledger: &Ledger<SealedPart>,
    pool: &BufferPool,
    other_side: &SyncSender<Message<P>>,
    begin: impl Fn(&SealedPart) -> P,
) -> Result<(), DumpError> {
    let mut reader = None;
    while let Some(planned) = ledger.take(gate)? {
        // Opened with the first part, so that a worker without work does not burden the source.
        let reader = match &mut reader {
            Some(reader) => reader,
            None => reader.insert(source.open()?),
        };
        let part = StoredPart::new(plans, &planned);
        let mut drain = ToOtherSide { other_side };
        drain.send(Message::Begin(begin(&planned)))?;
        let mut outcomes = Outcomes::default();
        let mut out = RecordWriter::new(gate, pool, &mut drain);
        let read = reader
            .read_part(&part, &mut out, &mut outcomes)
            .and_then(|()| out.finish());
        let written = part.result(read)?;
        drain.send(Message::End(written, outcomes))?;
    }
    Ok(())
}

/// The drain of a lane's record writer.
struct ToOtherSide<'a, P> {
    other_side: &'a SyncSender<Message<P>>,
}

impl<P> ToOtherSide<'_, P> {
    fn send(&self, message: Message<P>) -> Result<(), Stop> {
        // The other side is gone only after a failure, which it has reported.
        self.other_side.send(message).map_err(|_| Cancelled.into())
    }
}

impl<P> Drain for ToOtherSide<'_, P> {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        failpoint!("fetching");
        self.send(Message::Block(block))
    }

    fn restart(&mut self) -> Result<(), Stop> {
        self.send(Message::Restart)
    }
}

/// A planned part whose plan object is in the stores.
struct StoredPart<'a> {
    plans: Plans<'a>,
    planned: &'a SealedPart,
    error: RefCell<Option<DumpError>>,
}

impl<'a> StoredPart<'a> {
    fn new(plans: Plans<'a>, planned: &'a SealedPart) -> Self {
        Self {
            plans,
            planned,
            error: RefCell::new(None),
        }
    }

    /// What reading the part came to: the store's own error, where the source was only told that it was cancelled.
    fn result<T>(self, read: Result<T, Stop>) -> Result<T, DumpError> {
        match self.error.into_inner() {
            Some(error) => Err(error),
            None => Ok(read?),
        }
    }
}

impl tipple_flow::Part for StoredPart<'_> {
    fn name(&self) -> &tipple_flow::PartName {
        &self.planned.name
    }
    fn open(&self) -> Result<Box<dyn tipple_flow::PlanRead>, Stop> {
        match self.plans.open(self.planned) {
            Ok(object) => Ok(object),
            Err(error) => {
                *self.error.borrow_mut() = Some(error);
                Err(Cancelled.into())
            }
        }
    }
}
