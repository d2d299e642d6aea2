//! From a source's parts to plan objects: planned here, published behind the planner's back, then worked on.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tipple_chunk::Scratch;
use tipple_flow::{Failure, NewPart, PartName, Party, PlanBody, Planned, Planner, Source, Stop};
use tipple_store::ObjectName;

use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, Phase, bump};
use crate::layout::{self, Format, Sealed, SealedPart};
use crate::ledger::Ledger;
use crate::sealing::{SEALED, Sealing};
use crate::stores::Stores;

/// Parts on their way from the source to the store. Never blocks the source: a stalled listing harms a live server.
pub(crate) struct Planning<'a> {
    job: &'a Job,
    scratch_dir: &'a Path,
    seal: Option<PlanSeal<'a>>,
    ready: &'a Ledger<SealedPart>,
    unpublished: Ledger<(PartName, NewPart)>,
    numbering: Mutex<Numbering>,
    /// What earlier runs have planned.
    begun: Begun,
    /// Whether parts that were worked on can be taken back.
    revocable: bool,
}

/// What plan objects are sealed with, if the dump is: for good in the stores, and on their way there.
pub(crate) struct PlanSeal<'a> {
    pub(crate) sealing: &'a Sealing,
    pub(crate) scratch: Scratch,
}

/// A plan that is empty, or one that grows, as far as it has grown.
pub(crate) struct Begun {
    pub(crate) plan: String,
    pub(crate) parts: Vec<SealedPart>,
    /// The last plan object.
    pub(crate) last: Option<Vec<u8>>,
}

impl Begun {
    /// The beginning of a plan.
    pub(crate) fn empty(plan: String) -> Self {
        Self {
            plan,
            parts: Vec::new(),
            last: None,
        }
    }
}

/// How the next part is called.
struct Numbering {
    plan: String,
    parts: u64,
}

/// A plan that is whole.
pub(crate) struct Whole {
    pub(crate) plan: String,
    pub(crate) parts: Vec<SealedPart>,
    pub(crate) planned: Planned,
}

impl<'a> Planning<'a> {
    pub(crate) fn new(
        job: &'a Job,
        begun: Begun,
        scratch_dir: &'a Path,
        seal: Option<PlanSeal<'a>>,
        ready: &'a Ledger<SealedPart>,
        revocable: bool,
    ) -> Self {
        Self {
            job,
            scratch_dir,
            seal,
            ready,
            unpublished: Ledger::new([]),
            numbering: Mutex::new(Numbering {
                plan: begun.plan.clone(),
                parts: begun.parts.len() as u64,
            }),
            begun,
            revocable,
        }
    }

    /// Lets the source plan on this thread, while another one makes the plan objects durable and hands their parts to
    /// the workers.
    pub(crate) fn run(
        &self,
        source: &dyn Source,
        stores: &Stores<'_>,
        fail: &(dyn Fn(DumpError) + Sync),
    ) -> Result<Whole, DumpError> {
        let gate = self.job.gate();
        self.job.phase(Phase::Planning);
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| self.publish(stores).map_err(fail));
            let planned = source.plan(&mut ToPublisher { planning: self }, gate);
            self.unpublished.close();
            if planned.is_err() {
                // The publisher and the workers must not wait for parts that will not come.
                gate.cancel();
            }
            let published = publisher
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What the publisher failed with it has reported.
            let planned = planned?;
            let mut parts = published.map_err(|()| DumpError::Interrupted)?;
            let plan = self.numbering().plan.clone();
            parts.retain(|part| layout::plan_of(&part.name) == plan);
            Ok(Whole {
                plan,
                parts,
                planned,
            })
        })
    }

    fn publish(&self, stores: &Stores<'_>) -> Result<Vec<SealedPart>, DumpError> {
        let mut parts = self.begun.parts.clone();
        while let Some((name, new)) = self.unpublished.take(self.job.gate())? {
            let mut extension = new.extension.to_owned();
            let new = match &self.seal {
                None => new,
                Some(PlanSeal { sealing, scratch }) => {
                    extension.push_str(SEALED);
                    let body = sealing.plan_object(&name, new.body, scratch)?;
                    NewPart { body, ..new }
                }
            };
            let part = SealedPart::new(name, &new, extension)?;
            let name = part.object();
            match new.body {
                PlanBody::Bytes(bytes) => stores.each(|store| {
                    store.put_if_absent(&name, &bytes)?;
                    Ok(())
                })?,
                PlanBody::File(path) => publish_file(stores, &name, &path)?,
            }
            failpoint!("planning");
            parts.push(part.clone());
            // A restart takes back what is ready; it must not come in between.
            let numbering = self.numbering();
            if layout::plan_of(&part.name) == numbering.plan {
                self.ready.add(part);
            }
        }
        Ok(parts)
    }

    fn numbering(&self) -> MutexGuard<'_, Numbering> {
        self.numbering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key file is no longer on this disk when every store has it.
fn publish_file(stores: &Stores<'_>, name: &ObjectName, path: &Path) -> Result<(), DumpError> {
    if stores.count() == 1 {
        stores.get(0).put_file(name, path)?;
        return Ok(());
    }
    stores.each(|store| {
        store.put_copy(name, path)?;
        Ok(())
    })?;
    std::fs::remove_file(path).map_err(DumpError::disk("remove", path))
}

/// Seals a plan: from now on it is this one that every run works on.
pub(crate) fn seal(
    stores: &Stores<'_>,
    whole: Whole,
    sealing: Option<&Sealing>,
) -> Result<(String, Sealed), DumpError> {
    let sealed = Sealed {
        format: Format::CURRENT,
        parts: whole.parts,
        planned: whole.planned,
    };
    let object = layout::planned_object(&whole.plan);
    stores.each(|store| layout::put_json(store, &object, &sealed, sealing))?;
    failpoint!("planned");
    Ok((whole.plan, sealed))
}

struct ToPublisher<'a> {
    planning: &'a Planning<'a>,
}

impl Planner for ToPublisher<'_> {
    fn scratch_dir(&self) -> &Path {
        self.planning.scratch_dir
    }

    fn scratch_key(&self) -> Option<&[u8; 32]> {
        self.planning.seal.as_ref().map(|seal| seal.scratch.key())
    }

    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let planning = self.planning;
        planning.job.gate().check()?;
        let mut numbering = planning.numbering();
        let name = layout::part_name(&numbering.plan, numbering.parts);
        numbering.parts += 1;
        drop(numbering);
        bump(&planning.job.progress().parts_total, 1);
        planning.unpublished.add((name, part));
        Ok(())
    }

    fn last(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        Ok(self.planning.begun.last.clone())
    }

    fn listed(&mut self, records: u64) {
        self.planning
            .job
            .progress()
            .listed
            .store(records, Ordering::Relaxed);
    }

    fn restart(&mut self) -> Result<(), Stop> {
        let planning = self.planning;
        if !planning.revocable {
            return Err(Failure::new(
                Party::Source,
                "the listing of the source broke off, and parts of it are copied already; run the same command again, or dump and load instead",
            )
            .into());
        }
        let message = "the listing of the source broke off: planning again; what was dumped of the broken plan stays until `tipple prune`";
        planning.job.tell(&Event::Warning {
            message: message.to_owned(),
        });
        let mut numbering = planning.numbering();
        *numbering = Numbering {
            plan: layout::random_hex(8),
            parts: 0,
        };
        planning.ready.clear();
        planning
            .job
            .progress()
            .parts_total
            .store(0, Ordering::Relaxed);
        Ok(())
    }
}
