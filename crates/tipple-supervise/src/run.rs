//! From what an earlier attempt left to the end of this one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tipple_store::{Store, StoreErrorKind, StoreLock};

use crate::command::Supervised;
use crate::control::{Begin, Control, Driven};
use crate::error::SuperviseError;
use crate::failpoint::failpoint;
use crate::finish;
use crate::folder;
use crate::job::{Event, Job, Report};
use crate::layout::{self, Done, EndedRecord, FileEntry, FileRecord, Format, Head, RunRecord};
use crate::leftovers;
use crate::name::{path_of, written};
use crate::options::SuperviseOptions;
use crate::state::{self, Claim, State};
use crate::watch::Watch;

/// Runs the command, stores every file that it writes, and keeps its folder within the limit.
///
/// After `Ok` with [`Report::done`] the store has every file and DONE, and the folder has none. Without it the command
/// failed: there is no DONE. After `Err` there is none either. In all cases no process of the command is left, and the
/// same call may be made again: a run whose command had ended with exit code 0 is finished from the files that are there,
/// any other one starts over with the next number.
///
/// It waits until the command and all processes that it left behind have ended. The calling thread's priority is raised
/// where this user may do that.
///
/// # Errors
/// [`SuperviseError`], by its kind.
pub fn supervise(
    job: &Job,
    store: &Arc<dyn Store>,
    options: &SuperviseOptions,
) -> Result<Report, SuperviseError> {
    options.validate()?;
    fs::create_dir_all(&options.dir).map_err(SuperviseError::disk("create", &options.dir))?;
    let dir = fs::canonicalize(&options.dir).map_err(SuperviseError::disk("open", &options.dir))?;
    let state_dir = State::path(&dir, options.state.as_deref())?;
    let state_dir =
        std::path::absolute(&state_dir).map_err(SuperviseError::disk("open", &state_dir))?;
    if state_dir.starts_with(&dir) {
        return Err(SuperviseError::Usage(format!(
            "{} is in the command's folder: give a --state outside of it",
            state_dir.display()
        )));
    }
    let state = State::open(&state_dir)?;
    let result = attempt(job, store, options, &dir, &state_dir, &state);
    match result {
        Ok(Report { done: true, .. }) => state.remove()?,
        _ => state.remove_unless_claimed(),
    }
    result
}

fn attempt(
    job: &Job,
    store: &Arc<dyn Store>,
    options: &SuperviseOptions,
    dir: &Path,
    state_dir: &Path,
    state: &State,
) -> Result<Report, SuperviseError> {
    let claim = state.read()?;
    end_survivors(job, claim.as_ref(), options)?;
    let lock = lock_if_any(store.as_ref())?;
    let head = head(store.as_ref(), options, dir, state_dir)?;
    if let Some(claim) = claim.as_ref().filter(|claim| claim.place != head.place) {
        return Err(SuperviseError::Usage(format!(
            "{} belongs to an unfinished run into {}: give that store, or remove what is in the folder and {}",
            dir.display(),
            claim.store,
            state_dir.display()
        )));
    }
    if let Some((done, _)) =
        layout::read_json::<Done>(store.as_ref(), &layout::object(layout::DONE))?
    {
        // Killed after its last act.
        if claim.is_some_and(|claim| claim.run == done.run) {
            folder::remove_empty_folders(dir).map_err(SuperviseError::disk("clear", dir))?;
            state.forget()?;
        }
        return Err(SuperviseError::Usage(format!(
            "{} is finished: choose another folder or prefix",
            store.url()
        )));
    }
    let own = claim.as_ref().map(|claim| claim.run);
    leftovers::remove_or_tell(job, store.as_ref(), lock.is_some(), own)?;
    let mut run = Run {
        job,
        store,
        options,
        dir,
        state,
        claim,
        head,
    };
    let last = last_run(store.as_ref())?;
    let (number, driven, earlier) = run.go(last)?;
    let report = report(job, options, store.as_ref(), number, &driven, earlier);
    if driven.exit.is_some_and(|exit| !exit.is_success()) {
        return Ok(report);
    }
    // Nothing is under way any more: what a lost answer began is seen now. If it cannot be removed, `tipple prune` can.
    let _ = leftovers::remove(store.as_ref(), lock.is_some(), Some(number));
    finish::finish(store.as_ref(), number, &driven.stored, &driven.skipped)?;
    folder::remove_empty_folders(dir).map_err(SuperviseError::disk("clear", dir))?;
    Ok(Report {
        done: true,
        elapsed_ms: job.elapsed().as_millis() as u64,
        ..report
    })
}

fn report(
    job: &Job,
    options: &SuperviseOptions,
    store: &dyn Store,
    run: u32,
    driven: &Driven,
    earlier_files: u64,
) -> Report {
    Report {
        verb: "supervise",
        done: false,
        command: driven.exit,
        run,
        files: driven.stored.len() as u64,
        stored_bytes: driven.stored.values().map(|entry| entry.bytes).sum(),
        earlier_files,
        skipped: driven.skipped.len() as u64,
        pauses: driven.pauses.count,
        paused_ms: driven.pauses.total.as_millis() as u64,
        pause_ms_max: driven.pauses.longest.as_millis() as u64,
        spool_bytes_max: driven.used_max,
        spool_bytes_limit: options.limit_bytes,
        margin_bytes_max: driven.margin_max,
        memory_bytes_budget: options.memory_bytes() + store.put_memory_bytes(),
        elapsed_ms: job.elapsed().as_millis() as u64,
    }
}

/// What a supervisor that was killed left running.
fn end_survivors(
    job: &Job,
    claim: Option<&Claim>,
    options: &SuperviseOptions,
) -> Result<(), SuperviseError> {
    let Some(claim) = claim else {
        return Ok(());
    };
    let mut tree = claim.survivors();
    let members = tree.members();
    if members.is_empty() {
        return Ok(());
    }
    let pids: Vec<i32> = members.iter().map(|member| member.pid).collect();
    job.warn(format!(
        "ending processes of an earlier run, whose tipple was killed: {pids:?}"
    ));
    tree.end(options.grace, &mut || true).map_err(|left| {
        SuperviseError::Command(format!(
            "cannot end processes of an earlier run: {:?}; end them, then run the same command again",
            left.pids
        ))
    })
}

/// The store's lock. `None` where the store has no locks: then the run's number, put if absent, is what two writers meet at.
pub(crate) fn lock_if_any(store: &dyn Store) -> Result<Option<StoreLock>, SuperviseError> {
    match store.lock() {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == StoreErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads HEAD, or writes it into an empty store.
fn head(
    store: &dyn Store,
    options: &SuperviseOptions,
    dir: &Path,
    state_dir: &Path,
) -> Result<Head, SuperviseError> {
    let object = layout::object(layout::HEAD);
    let program = Path::new(&options.command[0])
        .file_name()
        .unwrap_or(OsStr::new("?"))
        .to_string_lossy()
        .into_owned();
    let url = store.url();
    let Some(head) = crate::place::head(store)? else {
        let mut other = None;
        store.list("", &mut |entry| {
            other = Some(entry.name);
            ControlFlow::Break(())
        })?;
        if let Some(other) = other {
            return Err(SuperviseError::Usage(format!(
                "{url} is not empty and was not written by `tipple supervise` (it holds {other}): choose an empty folder or prefix"
            )));
        }
        // Before anything is written: a folder that is not the command's own stays as it is.
        check_unclaimed(dir, state_dir)?;
        let head = Head {
            format: Format::CURRENT,
            kind: layout::KIND.to_owned(),
            written_by: concat!("tipple ", env!("CARGO_PKG_VERSION")).to_owned(),
            place: layout::random_hex(),
            program,
            started: layout::now(),
        };
        layout::put_json(store, &object, &head)?;
        failpoint!("begun");
        return Ok(head);
    };
    if head.format > Format::CURRENT {
        return Err(layout::newer(store, &object, head.format));
    }
    if head.program != program {
        return Err(SuperviseError::Usage(format!(
            "{url} holds files of {}, and this is {program}: choose another folder or prefix",
            head.program
        )));
    }
    Ok(head)
}

fn check_unclaimed(dir: &Path, state_dir: &Path) -> Result<(), SuperviseError> {
    let mut entries = fs::read_dir(dir).map_err(SuperviseError::disk("read", dir))?;
    let claimed = state_dir.join("run.json").exists();
    match entries.next() {
        Some(Ok(entry)) if !claimed => Err(SuperviseError::Usage(format!(
            "{} is not empty (it holds {}): give the command an empty folder, since everything in it is stored and removed",
            dir.display(),
            entry.file_name().to_string_lossy()
        ))),
        _ => Ok(()),
    }
}

/// The last run that was begun, if there is one.
fn last_run(store: &dyn Store) -> Result<Option<u32>, SuperviseError> {
    let mut last = None;
    store.list("runs/", &mut |entry| {
        last = last.max(layout::run_of(entry.name.as_str()));
        ControlFlow::Continue(())
    })?;
    Ok(last)
}

struct Run<'a> {
    job: &'a Job,
    store: &'a Arc<dyn Store>,
    options: &'a SuperviseOptions,
    dir: &'a Path,
    state: &'a State,
    claim: Option<Claim>,
    head: Head,
}

impl Run<'_> {
    /// The run's number, what came of it, and how many files an earlier attempt had stored.
    fn go(&mut self, last: Option<u32>) -> Result<(u32, Driven, u64), SuperviseError> {
        if let Some(last) = last {
            if let Some(begin) = self.ended(last)? {
                let earlier = begin.stored.len() as u64;
                return Ok((last, self.drive(begin)?, earlier));
            }
            self.job.warn(format!(
                "run {last} was broken off before its command had ended: starting over as run {}, and `tipple prune` removes what the other one left",
                last + 1
            ));
        }
        let begin = self.start(last.unwrap_or(0) + 1)?;
        Ok((begin.run, self.drive(begin)?, 0))
    }

    fn drive(&self, begin: Begin) -> Result<Driven, SuperviseError> {
        let progress = self.job.progress();
        for entry in begin.stored.values() {
            progress.stored(entry.bytes);
        }
        progress.begun.store(true, Ordering::Relaxed);
        self.job.tell(&Event::Start {
            verb: "supervise",
            run: begin.run,
            command: begin.command.is_some(),
            files_stored: begin.stored.len() as u64,
            limit_bytes: self.options.limit_bytes,
        });
        Control::new(self.options, self.job, self.store, self.dir, begin)?.drive()
    }

    /// A new run of the command, in a folder that holds nothing of another one.
    fn start(&mut self, run: u32) -> Result<Begin, SuperviseError> {
        match &self.claim {
            Some(_) => folder::clear(self.dir).map_err(SuperviseError::disk("clear", self.dir))?,
            None => check_unclaimed(self.dir, Path::new("/nowhere"))?,
        }
        let mut claim = Claim {
            store: self.store.url().to_owned(),
            place: self.head.place.clone(),
            run,
            mark: layout::random_hex(),
            system: state::system(),
            leader: None,
        };
        let record = RunRecord {
            format: Format::CURRENT,
            run,
            mark: claim.mark.clone(),
            started: layout::now(),
        };
        layout::put_json(self.store.as_ref(), &layout::run_object(run), &record)?;
        // The mark is noted before any process has it.
        self.state.write(&claim)?;
        failpoint!("claimed");
        let watch = Watch::start(self.dir).map_err(SuperviseError::disk("watch", self.dir))?;
        let started = Supervised::start(self.options, self.dir, &claim.mark);
        if started.is_err() {
            // Nothing was written that would be this run's.
            self.state.forget()?;
        }
        let mut command = started?;
        failpoint!("spawned");
        claim.leader = Some((command.leader.pid, command.leader.started));
        if let Err(error) = self.state.write(&claim) {
            // Nobody would find it again. It has only begun; the error says what matters.
            let _ = command.end(std::time::Duration::ZERO, &mut || false);
            return Err(error);
        }
        Ok(Begin {
            run,
            command: Some(command),
            watch,
            stored: BTreeMap::new(),
            skipped: BTreeSet::new(),
        })
    }

    /// A run whose command has ended with 0, if every file of it is in the store or, unchanged, in the folder.
    fn ended(&self, run: u32) -> Result<Option<Begin>, SuperviseError> {
        let store = self.store.as_ref();
        let Some((ended, _)) = layout::read_json::<EndedRecord>(store, &layout::ended_object(run))?
        else {
            return Ok(None);
        };
        let is_its_folder = self.claim.as_ref().is_some_and(|claim| claim.run == run);
        let objects = finish::stored_objects(store, run)?;
        let mut stored = BTreeMap::new();
        let mut missing = Vec::new();
        for file in &ended.files {
            let Some(path) = path_of(&file.path) else {
                let object = layout::ended_object(run);
                return Err(layout::damaged(
                    store,
                    object,
                    format!("names {:?}, which is no path", file.path),
                ));
            };
            if let Some(entry) = self.entry(run, &file.path)?
                && objects.get(&layout::file_object(run, &file.path)) == Some(&entry.bytes)
            {
                // Stored; a copy that is still here was about to go.
                if is_its_folder {
                    self.remove(&path)?;
                }
                stored.insert(entry.path.clone(), entry);
                continue;
            }
            if !is_its_folder || !self.is_here(&path, file.bytes, file.modified_ns) {
                missing.push(file.path.clone());
            }
        }
        if let Some(first) = missing.first() {
            self.job.warn(format!(
                "{} of run {run} are neither stored nor in {} as they were ({first}, for one)",
                missing.len(),
                self.dir.display()
            ));
            return Ok(None);
        }
        let skipped: BTreeSet<String> = ended.skipped.into_iter().collect();
        self.check_nothing_else(&ended.files, &skipped)?;
        let watch = Watch::start(self.dir).map_err(SuperviseError::disk("watch", self.dir))?;
        Ok(Some(Begin {
            run,
            command: None,
            watch,
            stored,
            skipped,
        }))
    }

    fn entry(&self, run: u32, path: &str) -> Result<Option<FileEntry>, SuperviseError> {
        let store = self.store.as_ref();
        let object = layout::record_object(run, path);
        let Some((record, _)) = layout::read_json::<FileRecord>(store, &object)? else {
            return Ok(None);
        };
        if record.file.path != path {
            return Err(layout::damaged(
                store,
                object,
                "is the record of another file",
            ));
        }
        Ok(Some(record.file))
    }

    fn is_here(&self, path: &Path, bytes: u64, modified_ns: Option<i64>) -> bool {
        let Ok(meta) = fs::symlink_metadata(self.dir.join(path)) else {
            return false;
        };
        let state = folder::FileState::of(&meta);
        let same_time = modified_ns.is_none_or(|time| i128::from(time) == state.modified_ns);
        meta.is_file() && state.bytes == bytes && same_time
    }

    fn remove(&self, path: &Path) -> Result<(), SuperviseError> {
        let path = self.dir.join(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(SuperviseError::disk("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// What came into the folder after the command had ended is not the command's.
    fn check_nothing_else(
        &self,
        files: &[layout::EndedFile],
        skipped: &BTreeSet<String>,
    ) -> Result<(), SuperviseError> {
        let of_run: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let found = folder::walk(self.dir).map_err(SuperviseError::disk("look into", self.dir))?;
        let stranger: Option<PathBuf> = found.into_iter().map(|file| file.path).find(|path| {
            let text = written(path);
            !of_run.contains(text.as_str()) && !skipped.contains(&text)
        });
        match stranger {
            Some(path) => Err(SuperviseError::Usage(format!(
                "{} is not a file of the run that is to be finished: move it away",
                self.dir.join(path).display()
            ))),
            None => Ok(()),
        }
    }
}
