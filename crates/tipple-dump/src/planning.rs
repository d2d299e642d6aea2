//! From a source's parts to plan objects: planned here, published behind the planner's back, then worked on.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tipple_budget::Gate;
use tipple_flow::{NewPart, PlanBody, Planned, Planner, Source, Stop};
use tipple_store::Store;

use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Job, Phase, bump};
use crate::layout::{self, Format, Sealed, SealedPart};
use crate::ledger::Ledger;

/// Parts on their way from the source to the store. Never blocks the source: a stalled listing harms a live server.
pub(crate) struct Planning<'a> {
    pub(crate) plan: &'a str,
    unpublished: Ledger<(SealedPart, PlanBody)>,
    parts: AtomicU64,
    job: &'a Job,
    scratch_dir: &'a Path,
}

impl<'a> Planning<'a> {
    pub(crate) fn new(job: &'a Job, plan: &'a str, scratch_dir: &'a Path) -> Self {
        Self {
            plan,
            unpublished: Ledger::new([]),
            parts: AtomicU64::new(0),
            job,
            scratch_dir,
        }
    }

    /// Lets the source plan on this thread, while another one makes the plan objects durable and hands their parts to
    /// the workers. Returns all parts.
    pub(crate) fn run(
        &self,
        source: &dyn Source,
        store: &dyn Store,
        ready: &Ledger<SealedPart>,
        fail: &(dyn Fn(DumpError) + Sync),
    ) -> Result<(Vec<SealedPart>, Planned), DumpError> {
        let gate = self.job.gate();
        self.job.phase(Phase::Planning);
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| self.publish(store, ready).map_err(fail));
            let planned = self.plan(source, gate);
            if planned.is_err() {
                // The publisher and the workers must not wait for parts that will not come.
                gate.cancel();
            }
            let published = publisher
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // What the publisher failed with it has reported.
            let planned = planned?;
            Ok((published.map_err(|()| DumpError::Interrupted)?, planned))
        })
    }

    fn plan(&self, source: &dyn Source, gate: &Gate) -> Result<Planned, DumpError> {
        let planned = source.plan(&mut ToPublisher { planning: self }, gate);
        self.unpublished.close();
        Ok(planned?)
    }

    fn publish(
        &self,
        store: &dyn Store,
        ready: &Ledger<SealedPart>,
    ) -> Result<Vec<SealedPart>, DumpError> {
        let mut parts = Vec::new();
        while let Some((part, body)) = self.unpublished.take(self.job.gate())? {
            let name = part.object(self.plan);
            match body {
                PlanBody::Bytes(bytes) => store.put_if_absent(&name, &bytes)?,
                PlanBody::File(path) => store.put_file(&name, &path)?,
            };
            failpoint!("planning");
            parts.push(part.clone());
            ready.add(part);
        }
        Ok(parts)
    }

    /// Seals the plan: from now on it is this one that every run works on.
    pub(crate) fn seal(
        &self,
        store: &dyn Store,
        parts: Vec<SealedPart>,
        planned: Planned,
    ) -> Result<Sealed, DumpError> {
        let sealed = Sealed {
            format: Format::CURRENT,
            parts,
            planned,
        };
        store.put_if_absent(
            &layout::planned_object(self.plan),
            &layout::to_json(&sealed),
        )?;
        failpoint!("planned");
        Ok(sealed)
    }
}

struct ToPublisher<'a> {
    planning: &'a Planning<'a>,
}

impl Planner for ToPublisher<'_> {
    fn scratch_dir(&self) -> &Path {
        self.planning.scratch_dir
    }

    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let planning = self.planning;
        planning.job.gate().check()?;
        let number = planning.parts.fetch_add(1, Ordering::Relaxed);
        bump(&planning.job.progress().parts_total, 1);
        let sealed = SealedPart {
            name: layout::part_name(planning.plan, number),
            extension: part.extension.to_owned(),
            records: part.records,
            bytes_estimate: part.bytes_estimate,
        };
        planning.unpublished.add((sealed, part.body));
        Ok(())
    }

    fn listed(&mut self, records: u64) {
        self.planning
            .job
            .progress()
            .listed
            .store(records, Ordering::Relaxed);
    }
}
