//! The loop that looks at the folder, stops and continues the command, and decides what is finished.

mod choosing;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use choosing::{Check, Known};
use tipple_budget::GateState;
use tipple_store::Store;

use crate::command::Supervised;
use crate::error::SuperviseError;
use crate::failpoint::failpoint;
use crate::folder::{self, Found};
use crate::job::{CommandExit, Event, Job};
use crate::layout::{self, EndedFile, EndedRecord, FileEntry, Format};
use crate::name::{shown, written};
use crate::options::SuperviseOptions;
use crate::pause::Pauses;
use crate::processes::Unstoppable;
use crate::upload::{Stored, Upload, Uploads};
use crate::usage::Usage;
use crate::watch::Watch;

/// How often the processes are looked for that the command has left.
const MEMBERS_EVERY: Duration = Duration::from_millis(20);
/// How often those are looked for that stopped too late, after gentle pauses.
const LATE_EVERY: Duration = Duration::from_millis(250);
/// While the command is stopped.
const LOOK_PAUSED: Duration = Duration::from_millis(5);

pub(crate) struct Control<'a> {
    options: &'a SuperviseOptions,
    job: &'a Job,
    store: &'a Arc<dyn Store>,
    dir: &'a Path,
    run: u32,
    command: Option<Supervised>,
    watch: Watch,
    pub(crate) usage: Usage,
    uploads: Uploads,
    known: HashMap<PathBuf, Known>,
    queue: VecDeque<PathBuf>,
    checks: Vec<Check>,
    pub(crate) stored: BTreeMap<String, FileEntry>,
    pub(crate) skipped: BTreeSet<String>,
    pub(crate) pauses: Pauses,
    exit: Option<CommandExit>,
    ended: bool,
    left_told: bool,
    unwatched_told: bool,
    members_at: Instant,
    sweep_at: Instant,
    scan_at: Instant,
    /// Scans since the command was stopped that found nothing to take.
    idle_scans: u32,
    last_taken: Instant,
}

/// What a run begins with.
pub(crate) struct Begin {
    pub(crate) run: u32,
    /// `None`: the command ended in an earlier attempt.
    pub(crate) command: Option<Supervised>,
    pub(crate) watch: Watch,
    pub(crate) stored: BTreeMap<String, FileEntry>,
    pub(crate) skipped: BTreeSet<String>,
}

impl<'a> Control<'a> {
    pub(crate) fn new(
        options: &'a SuperviseOptions,
        job: &'a Job,
        store: &'a Arc<dyn Store>,
        dir: &'a Path,
        begin: Begin,
    ) -> Result<Self, SuperviseError> {
        let shared = Upload {
            store: Arc::clone(store),
            dir: dir.to_owned(),
            run: begin.run,
            attempts: options.attempts,
            given_up: false.into(),
        };
        let now = Instant::now();
        let uploads = Uploads::start(shared, options.threads);
        let ended = begin.command.is_none();
        let mut control = Self {
            options,
            job,
            store,
            dir,
            run: begin.run,
            command: begin.command,
            watch: begin.watch,
            usage: Usage::new(options.limit_bytes, now),
            uploads: uploads?,
            known: HashMap::new(),
            queue: VecDeque::new(),
            checks: Vec::new(),
            stored: begin.stored,
            skipped: begin.skipped,
            pauses: Pauses::default(),
            exit: None,
            ended,
            left_told: false,
            unwatched_told: false,
            members_at: now,
            sweep_at: now,
            scan_at: now,
            idle_scans: 0,
            last_taken: now,
        };
        if control.command.is_some() {
            prefer_this_thread();
        }
        control.job.progress().ended.store(ended, Ordering::Relaxed);
        control.usage.going_on(Instant::now());
        Ok(control)
    }

    /// Until everything is stored, or the command has failed, which is in what it returns.
    ///
    /// After an error no process of the command is left, and no upload is begun any more.
    pub(crate) fn drive(mut self) -> Result<Driven, SuperviseError> {
        let result = loop {
            match self.turn() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let failed = self.exit.is_some_and(|exit| !exit.is_success());
        if result.is_ok() && !failed {
            self.uploads.finish();
        } else {
            // What may have filled the folder must not go on; what was interrupted may end in peace.
            let peaceful = !matches!(
                result,
                Err(SuperviseError::Limit(_) | SuperviseError::StoreTooSlow(_))
            );
            if let Some(command) = &mut self.command {
                let grace = match peaceful {
                    true => self.options.grace,
                    false => Duration::ZERO,
                };
                let (dir, most) = (self.dir, self.options.limit_bytes - self.usage.floor());
                let mut may_go_on = || {
                    folder::walk(dir).is_ok_and(|found| {
                        found.iter().map(|file| file.state.counted()).sum::<u64>() < most
                    })
                };
                if let Err(left) = command.end(grace, &mut may_go_on) {
                    self.job.warn(format!(
                        "cannot end all processes of the command: {}",
                        pids(&left)
                    ));
                }
            }
            self.uploads.abandon();
        }
        result?;
        Ok(Driven {
            stored: self.stored,
            skipped: self.skipped,
            exit: self.exit,
            pauses: self.pauses,
            used_max: self.usage.used_max(),
            margin_max: self.usage.margin_max(),
        })
    }

    /// One look. `true`: that was the last one.
    fn turn(&mut self) -> Result<bool, SuperviseError> {
        let wait = match self.pauses.is_paused() || self.command.is_none() {
            true => LOOK_PAUSED,
            false => self.usage.until_next(),
        };
        self.watch.wait(wait).map_err(self.failed("watch"))?;
        if self.job.gate().state() == GateState::Cancelled {
            return Err(SuperviseError::Interrupted);
        }
        let happened = self.watch.drain().map_err(self.failed("watch"))?;
        for event in happened {
            self.follow(event)?;
        }
        self.collect()?;
        let mut found = self.look()?;
        if !self.ended && !self.pauses.is_paused() {
            let asked = self.job.gate().state() == GateState::Paused;
            if asked || !self.usage.has_some_room() {
                self.pause(asked)?;
                found = self.look()?;
            }
        }
        if self.options.gentle && self.pauses.count > 0 && !self.pauses.is_paused() {
            self.go_on_late();
        }
        failpoint!("looked");
        let had_ended = self.ended;
        self.end_of_command()?;
        if self.ended && !had_ended {
            // What the command wrote last came after the look above.
            found = self.look()?;
        }
        if self.exit.is_some_and(|exit| !exit.is_success()) {
            return Ok(true);
        }
        self.choose(&found)?;
        self.dispatch();
        if self.pauses.is_paused() {
            self.perhaps_go_on(&found)?;
        }
        let busy =
            self.uploads.in_flight() > 0 || !self.queue.is_empty() || !self.checks.is_empty();
        Ok(self.ended && !busy && !found.iter().any(|file| file.is_regular))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> SuperviseError {
        SuperviseError::disk(operation, self.dir)
    }

    /// What uploads have come to.
    fn collect(&mut self) -> Result<(), SuperviseError> {
        while let Some(outcome) = self.uploads.take() {
            let Stored { entry, file, state } = outcome.result?;
            self.known.remove(&outcome.path);
            self.checks.push(Check {
                path: outcome.path,
                entry,
                file,
                state,
            });
            self.last_taken = Instant::now();
            self.usage.relax();
        }
        self.job
            .progress()
            .uploading
            .store(self.uploads.in_flight() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Looks at the folder, and that its limit holds.
    fn look(&mut self) -> Result<Vec<Found>, SuperviseError> {
        let began = Instant::now();
        let found = folder::walk(self.dir).map_err(self.failed("look into"))?;
        self.usage.sample(&found, began, Instant::now());
        self.job
            .progress()
            .used_bytes
            .store(self.usage.used(), Ordering::Relaxed);
        if !self.ended
            && self.usage.is_over()
            && let Some(largest) = found.iter().max_by_key(|file| file.state.counted())
        {
            return Err(self.over(largest));
        }
        if let (Some(error), false) = (&self.watch.unwatched, self.unwatched_told) {
            self.unwatched_told = true;
            self.job.warn(format!(
                "cannot watch every folder in {}: {error}; files are found more slowly (fs.inotify.max_user_watches)",
                self.dir.display()
            ));
        }
        Ok(found)
    }

    fn over(&self, largest: &Found) -> SuperviseError {
        let (limit, used) = (self.options.limit_bytes, self.usage.used());
        let place = self.dir.join(&largest.path);
        let (place, dir) = (place.display(), self.dir.display());
        let bytes = largest.state.counted();
        if bytes > limit {
            return SuperviseError::Limit(format!(
                "{place} alone has {bytes} bytes, and the limit is {limit}: let the command write smaller files, or give --limit {} or more",
                enough(bytes.max(used))
            ));
        }
        let rate = (self.usage.rate() / f64::from(1 << 20)) as u64;
        SuperviseError::Limit(format!(
            "{dir} has {used} bytes, and the limit is {limit}: the command writes faster (about {rate} MiB/s) than it can be stopped; give --limit {} or more",
            enough(used)
        ))
    }

    fn pause(&mut self, asked: bool) -> Result<(), SuperviseError> {
        let Some(command) = &mut self.command else {
            return Ok(());
        };
        let stopped = command.stop(self.options.gentle).map_err(|left| {
            SuperviseError::Command(format!(
                "cannot stop all processes of the command: {}",
                pids(&left)
            ))
        })?;
        self.usage.stopped(stopped);
        self.pauses.begin(asked);
        self.idle_scans = 0;
        self.job.progress().paused.store(true, Ordering::Relaxed);
        self.job.tell(&Event::Pause {
            used_bytes: self.usage.used(),
            margin_bytes: self.usage.margin(),
        });
        Ok(())
    }

    fn go_on(&mut self) {
        if let Some(command) = &mut self.command {
            command.tree.go_on();
        }
        let paused = self.pauses.end();
        self.usage.going_on(Instant::now());
        self.job.progress().paused.store(false, Ordering::Relaxed);
        self.job.tell(&Event::Resume {
            used_bytes: self.usage.used(),
            paused_ms: paused.as_millis() as u64,
        });
    }

    fn go_on_late(&mut self) {
        if self.members_at.elapsed() >= LATE_EVERY
            && let Some(command) = &mut self.command
        {
            self.members_at = Instant::now();
            command.tree.go_on_late();
        }
    }

    /// Decides how a pause goes on.
    fn perhaps_go_on(&mut self, found: &[Found]) -> Result<(), SuperviseError> {
        if self.job.gate().state() == GateState::Paused {
            self.pauses.is_asked();
            return Ok(());
        }
        let waiting = self.known.values().any(|known| known.taken.is_some());
        let busy = waiting || self.uploads.in_flight() > 0 || !self.queue.is_empty();
        let idle = !busy && self.checks.is_empty() && self.idle_scans >= 2;
        if self.usage.has_room() || (idle && self.usage.has_some_room()) || self.pauses.was_asked()
        {
            self.go_on();
        } else if idle {
            if !self.usage.squeeze() {
                return Err(self.stuck(found));
            }
            self.go_on();
        } else if self.pauses.lasts() > self.options.pause_max.mul_f64(0.8) {
            // A sign of life for whoever waits for the command, as long as there is any room for it.
            if self.usage.squeeze() {
                self.go_on();
            } else if self.pauses.lasts() > self.options.pause_max {
                return Err(self.too_slow());
            }
        }
        Ok(())
    }

    fn stuck(&self, found: &[Found]) -> SuperviseError {
        let used = self.usage.used();
        let largest = found.iter().max_by_key(|file| file.state.counted());
        let names = largest.map(|file| shown(&file.path)).unwrap_or_default();
        SuperviseError::Limit(format!(
            "{} has {used} bytes of {} and nothing in it can be stored, since the command has everything open or will rename it (the largest is {names}): let it write smaller files, or give --limit {} or more",
            self.dir.display(),
            self.options.limit_bytes,
            enough(used)
        ))
    }

    fn too_slow(&self) -> SuperviseError {
        SuperviseError::StoreTooSlow(format!(
            "{} took no file for {} s while {} was full, and a longer pause could cost the command its connections: check the store, or give a longer --pause-max",
            self.store.url(),
            self.last_taken.elapsed().as_secs(),
            self.dir.display()
        ))
    }

    fn end_of_command(&mut self) -> Result<(), SuperviseError> {
        let Some(command) = &mut self.command else {
            return Ok(());
        };
        if self.ended {
            return Ok(());
        }
        let dir = self.dir;
        let Some(exit) = command
            .exit()
            .map_err(SuperviseError::disk("wait for the writer of", dir))?
        else {
            return Ok(());
        };
        if self.exit.is_none() {
            self.exit = Some(exit);
            self.job.tell(&Event::Ended { exit });
            self.members_at = Instant::now();
        } else if self.members_at.elapsed() < MEMBERS_EVERY {
            return Ok(());
        }
        if !exit.is_success() {
            return Ok(());
        }
        self.members_at = Instant::now();
        let members = command.tree.members();
        if !members.is_empty() {
            if !self.left_told {
                self.left_told = true;
                let pids: Vec<i32> = members.iter().map(|member| member.pid).collect();
                self.job.warn(format!(
                    "the command has ended and left processes behind, which are waited for: {pids:?}"
                ));
            }
            return Ok(());
        }
        self.command_is_over()
    }

    /// From here on everything in the folder is finished, and the run can be completed without the command.
    fn command_is_over(&mut self) -> Result<(), SuperviseError> {
        self.ended = true;
        self.pauses.end();
        self.job.progress().paused.store(false, Ordering::Relaxed);
        self.job.progress().ended.store(true, Ordering::Relaxed);
        failpoint!("ending");
        self.collect()?;
        let found = folder::walk(self.dir).map_err(self.failed("look into"))?;
        let mut files: BTreeMap<String, EndedFile> = BTreeMap::new();
        let stored = self
            .stored
            .values()
            .map(|entry| (entry.path.clone(), entry.bytes));
        let checked = self
            .checks
            .iter()
            .map(|check| (check.entry.path.clone(), check.entry.bytes));
        let taken = self
            .known
            .iter()
            .filter_map(|(path, known)| Some((written(path), known.taken.as_ref()?.bytes)));
        for (path, bytes) in stored.chain(checked).chain(taken) {
            let file = EndedFile {
                path: path.clone(),
                bytes,
                modified_ns: None,
            };
            files.insert(path, file);
        }
        for file in &found {
            let path = written(&file.path);
            if file.is_regular {
                let modified_ns = i64::try_from(file.state.modified_ns).ok();
                let file = EndedFile {
                    path: path.clone(),
                    bytes: file.state.bytes,
                    modified_ns,
                };
                files.insert(path, file);
            } else {
                self.job.warn(format!(
                    "{} is neither a file nor a folder, and is not stored",
                    self.dir.join(&file.path).display()
                ));
                self.skipped.insert(path);
            }
        }
        let record = EndedRecord {
            format: Format::CURRENT,
            run: self.run,
            files: files.into_values().collect(),
            skipped: self.skipped.iter().cloned().collect(),
        };
        layout::put_json(
            self.store.as_ref(),
            &layout::ended_object(self.run),
            &record,
        )?;
        failpoint!("ended");
        Ok(())
    }
}

/// What came of a run.
pub(crate) struct Driven {
    pub(crate) stored: BTreeMap<String, FileEntry>,
    pub(crate) skipped: BTreeSet<String>,
    /// `None`: the command had ended before.
    pub(crate) exit: Option<CommandExit>,
    pub(crate) pauses: Pauses,
    pub(crate) used_max: u64,
    pub(crate) margin_max: u64,
}

fn pids(left: &Unstoppable) -> String {
    let pids: Vec<String> = left.pids.iter().map(i32::to_string).collect();
    pids.join(", ")
}

/// A limit that would do for so many bytes: twice as much, in whole MiB.
fn enough(bytes: u64) -> String {
    format!("{}MiB", bytes.saturating_mul(2).div_ceil(1 << 20))
}

/// So that the command is stopped in time on a busy machine. Where this user may not, the margin is larger instead.
fn prefer_this_thread() {
    let _ = rustix::process::setpriority_process(None, -10);
}
