//! Several stores: what one of them has and another lacks is copied from there, never dumped again from a source that
//! has moved on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tipple_chunk::Sha256Digest;
use tipple_flow::PartName;
use tipple_store::{ObjectName, Store};

use crate::begin::{self, SealedPlan};
use crate::dump::FirstFailure;
use crate::error::DumpError;
use crate::job::Job;
use crate::layout::{self, ChunkEntry, Done, Head, PartRecord, Sealed, SealedPart};
use crate::sealing::Sealing;
use crate::spool::Spool;
use crate::stores::Stores;
use crate::strays;
use crate::sums::put_sha256sums;

/// Read from a store at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Which store failed, and why.
pub(crate) type StoreFailure = (usize, DumpError);

/// Brings the stores of a job to the same state.
pub(crate) struct Replicator<'a> {
    pub(crate) job: &'a Job,
    pub(crate) stores: &'a Stores<'a>,
    pub(crate) spool: &'a Spool,
    pub(crate) threads: usize,
    pub(crate) sealing: Option<&'a Sealing>,
}

/// A part that some stores have, and those that lack it.
struct Uneven {
    record: PartRecord,
    from: usize,
    to: Vec<usize>,
}

impl Replicator<'_> {
    /// Gives every store the sealed plan `plan` and all parts of it that any of them has. Returns the records of the
    /// parts that all living stores have then.
    pub(crate) fn plan(
        &self,
        head: &Head,
        plan: &SealedPlan,
    ) -> Result<Vec<PartRecord>, DumpError> {
        self.plan_objects(&plan.id, &plan.sealed, plan.store)?;
        self.parts(head, &plan.id, &plan.sealed)
    }

    /// Gives every store the dump that is finished in the store `from`.
    pub(crate) fn finished(&self, head: &Head, from: usize) -> Result<(), DumpError> {
        let store = self.stores.get(from);
        let done: Done = layout::read_json(store, &layout::object(layout::DONE), self.sealing)?;
        let planned = layout::planned_object(&done.plan);
        let sealed: Sealed = layout::read_json(store, &planned, self.sealing)?;
        self.plan_objects(&done.plan, &sealed, from)?;
        self.parts(head, &done.plan, &sealed)?;
        let done = layout::object(layout::DONE);
        let done_bytes = layout::get_json_bytes(store, &done)?;
        let sums = layout::get_json_bytes(store, &layout::object(layout::SHA256SUMS))?;
        for (number, to) in self.stores.living() {
            if number != from {
                let put = strays::remove_all(to, head, &sums)
                    .and_then(|()| put_sha256sums(to, &sums))
                    .and_then(|()| Ok(to.put_if_absent(&done, &done_bytes)?));
                if let Err(error) = put {
                    self.stores.failed(number, error)?;
                }
            }
        }
        Ok(())
    }

    fn plan_objects(&self, plan: &str, sealed: &Sealed, from: usize) -> Result<(), DumpError> {
        let prefix = format!("plan/{plan}/");
        let planned = layout::planned_object(plan);
        let list = |number: usize| {
            let mut objects = BTreeSet::new();
            let listed = self.stores.get(number).list(&prefix, &mut |entry| {
                objects.insert(entry.name);
                ControlFlow::Continue(())
            });
            listed
                .map(|()| objects)
                .map_err(|error| (number, error.into()))
        };
        let mut all = match list(from) {
            Ok(all) => all,
            // The plan was read from there a moment ago, and no other store is known to have it.
            Err((_, error)) => return Err(error),
        };
        // A plan that grows has none yet.
        let is_sealed = all.remove(&planned);
        for (to, _) in self.stores.living() {
            if to == from {
                continue;
            }
            let copied = list(to).and_then(|there| {
                for object in all.difference(&there) {
                    self.job
                        .gate()
                        .check()
                        .map_err(|error| (to, error.into()))?;
                    self.object(from, to, object)?;
                }
                let to_store = self.stores.get(to);
                (sealed.parts.iter())
                    .try_for_each(|part| part.check(to_store))
                    .map_err(|error| (to, error))?;
                // Last: it says that all the others are there.
                match is_sealed && !there.contains(&planned) {
                    true => self.object(from, to, &planned),
                    false => Ok(()),
                }
            });
            if let Err((number, error)) = copied {
                self.stores.failed(number, error)?;
                if number == from {
                    return Err(DumpError::Interrupted);
                }
            }
        }
        Ok(())
    }

    /// Copies an object of any size through a file.
    fn object(&self, from: usize, to: usize, name: &ObjectName) -> Result<(), StoreFailure> {
        let file_name = format!("{to}-{}", name.as_str().replace('/', "_"));
        let path = self.spool.scratch_dir().join(file_name);
        let mut object =
            (self.stores.get(from).open(name)).map_err(|error| (from, error.into()))?;
        let disk = |operation| {
            let path = path.clone();
            move |error: io::Error| (to, DumpError::disk(operation, &path)(error))
        };
        let copied = File::create(&path)
            .and_then(|mut file| io::copy(&mut object, &mut file))
            .map_err(disk("write"))
            .and_then(|_| {
                let put = self.stores.get(to).put_file(name, &path);
                put.map_err(|error| (to, error.into()))
            });
        if copied.is_err() {
            // Best effort: what stays is removed when the next job begins.
            let _ = fs::remove_file(&path);
        }
        copied.map(drop)
    }

    fn parts(
        &self,
        head: &Head,
        plan: &str,
        sealed: &Sealed,
    ) -> Result<Vec<PartRecord>, DumpError> {
        let mut records: BTreeMap<PartName, (PartRecord, BTreeSet<usize>)> = BTreeMap::new();
        for (number, store) in self.stores.living() {
            match begin::committed_parts(store, head, plan, sealed, self.sealing) {
                Ok(committed) => {
                    for record in committed {
                        let name = record.part.clone();
                        let (_, holders) = records
                            .entry(name)
                            .or_insert_with(|| (record, BTreeSet::new()));
                        holders.insert(number);
                    }
                }
                Err(error) => self.stores.failed(number, error)?,
            }
        }
        let living = self.stores.living();
        let uneven = records.values().filter_map(|(record, holders)| {
            let lacks = |number: &usize| !holders.contains(number);
            let to: Vec<usize> = living
                .iter()
                .map(|(number, _)| *number)
                .filter(lacks)
                .collect();
            let from = *holders
                .iter()
                .find(|number| self.stores.is_living(**number))?;
            (!to.is_empty()).then(|| Uneven {
                record: record.clone(),
                from,
                to,
            })
        });
        let uneven: Vec<Uneven> = uneven.collect();
        for (part, number) in self.copy(uneven)? {
            records.entry(part).and_modify(|(_, holders)| {
                holders.insert(number);
            });
        }
        let living = self.stores.living();
        let everywhere =
            |holders: &BTreeSet<usize>| living.iter().all(|(number, _)| holders.contains(number));
        Ok(records
            .into_values()
            .filter(|(_, holders)| everywhere(holders))
            .map(|(record, _)| record)
            .collect())
    }

    /// Copies parts, several at a time; returns which went where.
    fn copy(&self, uneven: Vec<Uneven>) -> Result<Vec<(PartName, usize)>, DumpError> {
        let failure = FirstFailure::new(self.job.gate());
        let copied = Mutex::new(Vec::new());
        let threads = self.threads.min(uneven.len());
        let todo = Mutex::new(uneven.into_iter());
        let lock = |todo: &Mutex<std::vec::IntoIter<Uneven>>| {
            todo.lock().unwrap_or_else(PoisonError::into_inner).next()
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(part) = lock(&todo) {
                        let result = self.part(&part).or_else(|(number, error)| {
                            self.stores.failed(number, error).map(|()| Vec::new())
                        });
                        match result {
                            Ok(stores) => copied
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .extend(
                                    stores.into_iter().map(|to| (part.record.part.clone(), to)),
                                ),
                            Err(error) => return failure.set(error),
                        }
                    }
                });
            }
        });
        failure.into_result(Some(()))?;
        Ok(copied.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies one part that `from` has, and its plan object, into the store `to`.
    pub(crate) fn bring(
        &self,
        planned: &SealedPart,
        record: &PartRecord,
        from: usize,
        to: usize,
    ) -> Result<(), StoreFailure> {
        self.object(from, to, &planned.object())?;
        self.part(&Uneven {
            record: record.clone(),
            from,
            to: vec![to],
        })
        .map(drop)
    }

    /// Gives stores that have caught up the plan objects that they missed.
    pub(crate) fn planned(&self, plan: &str, sealed: &Sealed) -> Result<(), DumpError> {
        match self.stores.any_caught_up() {
            true => self.plan_objects(plan, sealed, self.stores.steady_first()[0]),
            false => Ok(()),
        }
    }

    fn part(&self, part: &Uneven) -> Result<Vec<usize>, StoreFailure> {
        for chunk in &part.record.chunks {
            self.chunk(part, chunk)?;
        }
        let object = layout::part_object(&part.record.part);
        let bytes = layout::get_json_bytes(self.stores.get(part.from), &object)
            .map_err(|error| (part.from, error))?;
        for &to in &part.to {
            let put = self.stores.get(to).put_if_absent(&object, &bytes);
            put.map_err(|error| (to, error.into()))?;
        }
        Ok(part.to.clone())
    }

    /// I1: what is put is what the part record says, down to its SHA-256.
    fn chunk(&self, part: &Uneven, chunk: &ChunkEntry) -> Result<(), StoreFailure> {
        let from = self.stores.get(part.from);
        let at_from = |error: DumpError| (part.from, error);
        let name = layout::object(&chunk.name);
        if chunk.stored_bytes > self.spool.limit() {
            return Err(at_from(DumpError::Usage(format!(
                "{name} of {} has {} bytes, and the spool holds {}: give a larger --spool-limit",
                from.url(),
                chunk.stored_bytes,
                self.spool.limit()
            ))));
        }
        let mut staging = self
            .spool
            .begin(
                part.record.part.as_str(),
                chunk.stored_bytes,
                self.job.gate(),
            )
            .map_err(at_from)?;
        let damaged = || {
            at_from(DumpError::Damaged {
                store: from.url().to_owned(),
                object: name.to_string(),
                reason: "is not what its part record says; restore it, or take this store out of the command"
                    .to_owned(),
            })
        };
        let mut object = from.open(&name).map_err(|error| at_from(error.into()))?;
        let (mut sha256, mut left) = (Sha256::new(), chunk.stored_bytes);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.job
                .gate()
                .check()
                .map_err(|error| at_from(error.into()))?;
            let read = read(from, &name, &mut *object, &mut piece).map_err(at_from)?;
            if read == 0 {
                break;
            }
            left = left.checked_sub(read as u64).ok_or_else(damaged)?;
            sha256.update(&piece[..read]);
            io::Write::write_all(&mut staging, &piece[..read]).map_err(|error| {
                at_from(DumpError::disk("write", Path::new(&staging.label()))(error))
            })?;
        }
        if left != 0 || Sha256Digest::from(sha256) != chunk.sha256 {
            return Err(damaged());
        }
        let waiting = staging.seal();
        for &to in &part.to {
            let put = waiting.put(self.stores.get(to), &name, false);
            put.map_err(|error| (to, error.into()))?;
        }
        Ok(())
    }
}

fn read(
    store: &dyn Store,
    name: &ObjectName,
    object: &mut dyn Read,
    piece: &mut [u8],
) -> Result<usize, DumpError> {
    loop {
        match object.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(|error| DumpError::reading(store, name, error)),
        }
    }
}
