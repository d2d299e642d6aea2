//! Stored files that are read: whether a store holds such, what is there, and whether it is as it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};
use tipple_budget::GateState;
use tipple_chunk::{Sha256Digest, sha256_of};
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::SuperviseError;
use crate::finish;
use crate::job::{Job, Report};
use crate::layout::{self, Done, FileEntry, Head, Manifest};
use crate::leftovers::{self, Whose};
use crate::name::path_of;

/// The most problems that a verification names one by one.
const PROBLEMS_MAX: usize = 100;

/// Whether `store` holds the files of a command, and not a dump or something else.
///
/// # Errors
/// `Store`; what is there and cannot be understood is `false`.
pub fn is_files(store: &dyn Store) -> Result<bool, SuperviseError> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    match store.get(&layout::object(layout::HEAD), 1 << 20) {
        Ok(bytes) => {
            Ok(serde_json::from_slice::<Kind>(&bytes).is_ok_and(|head| head.kind == layout::KIND))
        }
        Err(error)
            if matches!(
                error.kind(),
                StoreErrorKind::NotFound | StoreErrorKind::TooLarge
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// HEAD, if it is one of files.
pub(crate) fn head(store: &dyn Store) -> Result<Option<Head>, SuperviseError> {
    let object = layout::object(layout::HEAD);
    if !is_files(store)? {
        return match store.head(&object) {
            Ok(_) => Err(SuperviseError::Usage(format!(
                "{} is something else than files that `tipple supervise` stored: choose another folder or prefix",
                store.url()
            ))),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    Ok(layout::read_json(store, &object)?.map(|(head, _)| head))
}

/// What is in a place.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// Its HEAD.
    pub head: Head,
    /// Its DONE, if it is finished.
    pub done: Option<Done>,
    /// Runs that were begun.
    pub runs: u64,
    /// The files of the run that counts; of an unfinished place none.
    pub files: Vec<FileEntry>,
}

/// Lists a place, finished or not.
///
/// # Errors
/// `Usage` if it is none; `Damaged`, `Version`, `Store`.
pub fn list(store: &dyn Store) -> Result<Listing, SuperviseError> {
    let head = head(store)?.ok_or_else(|| not_files(store))?;
    let mut runs = BTreeSet::new();
    store.list("runs/", &mut |entry| {
        runs.extend(layout::run_of(entry.name.as_str()));
        ControlFlow::Continue(())
    })?;
    let finished = finished(store)?;
    let (done, files) = match finished {
        Some((done, manifest)) => (Some(done), manifest.files),
        None => (None, Vec::new()),
    };
    Ok(Listing {
        head,
        done,
        runs: runs.len() as u64,
        files,
    })
}

fn not_files(store: &dyn Store) -> SuperviseError {
    SuperviseError::Usage(format!(
        "{} holds no files that `tipple supervise` stored: it has no {}",
        store.url(),
        layout::HEAD
    ))
}

/// DONE and the manifest that it speaks of, each proven to be as it was written; `None` if there is no DONE.
pub(crate) fn finished(store: &dyn Store) -> Result<Option<(Done, Manifest)>, SuperviseError> {
    let object = layout::object(layout::DONE);
    let Some((done, bytes)) = layout::read_json::<Done>(store, &object)? else {
        return Ok(None);
    };
    if !done.is_own(&bytes) {
        return Err(layout::damaged(
            store,
            object,
            "is not as it was written; restore it from a copy",
        ));
    }
    let object = layout::object(layout::MANIFEST);
    let Some((manifest, bytes)) = layout::read_json::<Manifest>(store, &object)? else {
        return Err(layout::damaged(store, object, "is missing"));
    };
    if Sha256Digest::of(&bytes) != done.manifest_sha256 {
        return Err(layout::damaged(
            store,
            object,
            "is not the one that DONE speaks of; restore it from a copy",
        ));
    }
    check(store, &object, &manifest)?;
    Ok(Some((done, manifest)))
}

/// That its paths stay inside a folder and are different ones, whoever wrote it.
fn check(
    store: &dyn Store,
    object: &ObjectName,
    manifest: &Manifest,
) -> Result<(), SuperviseError> {
    let mut before: Option<&str> = None;
    for file in &manifest.files {
        let in_order = before.is_none_or(|before| before < file.path.as_str());
        let own = file.object == layout::file_object(manifest.run, &file.path).as_str();
        if !in_order || !own || path_of(&file.path).is_none() {
            return Err(layout::damaged(
                store,
                object,
                format!(
                    "names {:?}, which no command can have written like that",
                    file.path
                ),
            ));
        }
        before = Some(&file.path);
    }
    Ok(())
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// What was read.
    #[serde(flatten)]
    pub report: Report,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// All of them.
    pub problems_total: u64,
    /// Objects that belong to runs that do not count.
    pub unlisted: u64,
}

/// Reads every file of a finished place and compares it with the manifest.
///
/// # Errors
/// `Usage` if there is nothing to verify, `Damaged` if HEAD, DONE or the manifest cannot be used; `Store`, `Version`,
/// `Interrupted`. Damage of files is in the report.
pub fn verify(
    job: &Job,
    store: &dyn Store,
    threads: usize,
) -> Result<VerifyReport, SuperviseError> {
    head(store)?.ok_or_else(|| not_files(store))?;
    job.progress().begun.store(true, Ordering::Relaxed);
    let Some((done, manifest)) = finished(store)? else {
        return Err(layout::damaged(
            store,
            layout::DONE,
            "is missing: not every file was stored; finish it by running its `tipple supervise` again",
        ));
    };
    let objects = finish::stored_objects(store, done.run)?;
    let problems = Mutex::new((Vec::new(), 0_u64));
    let tell = |object: &str, problem: String| {
        let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.1 += 1;
        if problems.0.len() < PROBLEMS_MAX {
            problems.0.push(Problem {
                object: object.to_owned(),
                problem,
            });
        }
    };
    let sums = layout::object(layout::SHA256SUMS);
    match store.get(&sums, 256 << 20) {
        Ok(bytes)
            if bytes == finish::sha256sums(&finish::head_bytes(store)?, &manifest).as_bytes() => {}
        Ok(_) => tell(
            layout::SHA256SUMS,
            "is not what HEAD and the manifest make it".to_owned(),
        ),
        Err(error) if error.kind() == StoreErrorKind::NotFound => {
            tell(layout::SHA256SUMS, "is missing".to_owned());
        }
        Err(error) => return Err(error.into()),
    }
    if (manifest.run, manifest.files.len() as u64) != (done.run, done.files) {
        tell(layout::DONE, "contradicts the manifest".to_owned());
    }
    let listed: BTreeSet<&str> = manifest
        .files
        .iter()
        .map(|file| file.object.as_str())
        .collect();
    for name in objects
        .keys()
        .filter(|name| !listed.contains(name.as_str()))
    {
        tell(name.as_str(), "is not in the manifest".to_owned());
    }
    each(&manifest.files, threads, |file| {
        if job.gate().state() == GateState::Cancelled {
            return Err(SuperviseError::Interrupted);
        }
        let problem = verify_file(store, file)?;
        if let Some(problem) = problem {
            tell(&file.object, problem);
        } else {
            job.progress().stored(file.bytes);
        }
        Ok(())
    })?;
    let mut unlisted = 0;
    store.list("", &mut |entry| {
        unlisted +=
            u64::from(layout::run_of(entry.name.as_str()).is_some_and(|run| run != done.run));
        ControlFlow::Continue(())
    })?;
    let (mut problems, problems_total) = problems
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    problems.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(VerifyReport {
        report: Report {
            verb: "verify",
            done: true,
            run: done.run,
            files: job.progress().files(),
            stored_bytes: job.progress().stored_bytes(),
            skipped: done.skipped,
            memory_bytes_budget: threads as u64 * ((64 << 10) + store.read_memory_bytes()),
            elapsed_ms: job.elapsed().as_millis() as u64,
            ..Report::default()
        },
        problems,
        problems_total,
        unlisted,
    })
}

fn verify_file(store: &dyn Store, file: &FileEntry) -> Result<Option<String>, SuperviseError> {
    let name = layout::object(&file.object);
    let object = match store.open(&name) {
        Ok(object) => object,
        Err(error) if error.kind() == StoreErrorKind::NotFound => {
            return Ok(Some("is missing".to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(match sha256_of(object) {
        Ok((_, bytes)) if bytes != file.bytes => {
            Some(format!("has {bytes} bytes, and had {}", file.bytes))
        }
        Ok((sha256, _)) if sha256 != file.sha256 => {
            Some("has other bytes than were stored".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(format!("cannot be read: {error}")),
    })
}

/// Calls `work` for each, on so many threads; the first error ends it.
pub(crate) fn each<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<(), SuperviseError> + Sync,
) -> Result<(), SuperviseError> {
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        // Nobody takes another one.
                        next.store(items.len(), Ordering::Relaxed);
                        let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                        first.get_or_insert(error);
                    }
                }
            });
        }
    });
    match first_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
    {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Something that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PruneItem {
    /// The object or staged file.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why nothing needs it.
    pub why: &'static str,
}

/// What was found, and removed if that was asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pruned {
    /// All of it, sorted.
    pub items: Vec<PruneItem>,
    /// Whether it was removed.
    pub deleted: bool,
}

/// Finds what runs that do not count left, and removes it if asked to. Of an unfinished place, whose writer might still
/// live, nothing is removed but with `force`; and then only of runs before the last one.
///
/// # Errors
/// [`SuperviseError`]; what was removed before stays removed.
pub fn prune(store: &dyn Store, delete: bool, force: bool) -> Result<Pruned, SuperviseError> {
    head(store)?.ok_or_else(|| not_files(store))?;
    let finished = finished(store)?;
    if finished.is_none() && delete && !force {
        return Err(SuperviseError::Usage(format!(
            "{} is not finished, and its writer may be at work elsewhere: finish it, or give --force",
            store.url()
        )));
    }
    let _lock = match delete {
        true => crate::run::lock_if_any(store)?,
        false => None,
    };
    let mut found: BTreeMap<ObjectName, (u64, u32)> = BTreeMap::new();
    store.list("", &mut |entry| {
        if let Some(run) = layout::run_of(entry.name.as_str()) {
            found.insert(entry.name, (entry.bytes, run));
        }
        ControlFlow::Continue(())
    })?;
    let counts = match &finished {
        Some((done, _)) => Some(done.run),
        None => found.values().map(|(_, run)| *run).max(),
    };
    // The numbers of runs are never used again, so the records that claim them stay.
    found.retain(|name, (_, run)| Some(*run) != counts && *name != layout::run_object(*run));
    let mut leftovers = store.leftovers()?;
    leftovers.retain(|leftover| match leftovers::whose(leftover) {
        Whose::Locked => true,
        Whose::Run(run) => finished.is_some() || Some(run) != counts,
        Whose::Finishing => finished.is_some(),
        Whose::Foreign => false,
    });
    if delete {
        for name in found.keys() {
            store.delete(name)?;
        }
        for leftover in &leftovers {
            store.remove_leftover(leftover)?;
        }
    }
    let objects = found.into_iter().map(|(name, (bytes, _))| PruneItem {
        name: name.to_string(),
        bytes,
        why: "of a run that does not count",
    });
    let unfinished = leftovers.into_iter().map(|leftover| PruneItem {
        name: leftover.name,
        bytes: leftover.bytes,
        why: match leftover.object {
            Some(_) => "an upload that was begun and not finished",
            None => "staged by an attempt that ended",
        },
    });
    Ok(Pruned {
        items: objects.chain(unfinished).collect(),
        deleted: delete,
    })
}
