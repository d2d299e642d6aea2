//! The files of a recorder: which line goes where, when a file ends, and what happens when the disk says no.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Anchor;
use crate::core::Core;
use crate::entry::EntryRef;
use crate::file::{INDEX, Named, RecordingFile, make_folder, with_suffix};
use crate::index::IndexedLine;
use crate::json;
use crate::line::Lines;
use crate::loss::{Loss, Why};
use crate::names;
use crate::options::{Naming, RecorderOptions, Sync};
use crate::recorder::RecordingReport;

/// So much text makes a write worth its call.
const WRITE_BYTES: usize = 128 << 10;
/// How long the disk is left alone after an error.
const RETRY: Duration = Duration::from_secs(1);
/// A clock that goes back by more than this was set; by less, it was corrected.
const STEP_NS: u64 = 1_000_000_000;
/// Free disk is looked at after so many bytes.
const LOOK_BYTES: u64 = 16 << 20;

pub(crate) struct Output {
    core: Arc<Core>,
    options: RecorderOptions,
    folder: PathBuf,
    is_snapshot: bool,
    /// Of all files of this recorder.
    run: String,
    files_begun: u64,
    lines: Lines,
    classes: Vec<ClassFile>,
    /// By channel, the place of its class.
    class_of: Vec<Option<u32>>,
    anchor: Anchor,
    last_ns: u64,
    last_ticks: u64,
    stuck: Option<Stuck>,
    /// Found out here: of size and disk.
    losses: Vec<Loss>,
    unlooked_bytes: u64,
    written: u64,
    late: u64,
    files_closed: u64,
    text_bytes: u64,
}

/// The disk does not take what it is given.
struct Stuck {
    error: String,
    retry_at: Instant,
}

/// The files of a class: one at a time.
struct ClassFile {
    class: String,
    file: Option<Open>,
    /// Records in lines that are in no frame yet, and in what is pending.
    block: Vec<Loss>,
    pending: Vec<Loss>,
    /// Numbers of it: they go on when the program is started again.
    number: u64,
}

struct Open {
    file: RecordingFile,
    began: Instant,
    /// Since when a line waits for its block to end.
    block_since: Instant,
    synced: Instant,
    unsynced: bool,
}

/// Counts a record among those of its channel.
fn add(counts: &mut Vec<Loss>, channel: u32, number: u64) {
    match counts.iter_mut().rev().find(|loss| loss.channel == channel) {
        Some(loss) => {
            loss.from = loss.from.min(number);
            loss.to = loss.to.max(number);
            loss.count += 1;
        }
        None => counts.push(Loss {
            channel,
            why: Why::Disk,
            from: number,
            to: number,
            count: 1,
        }),
    }
}

impl Output {
    pub(crate) fn new(core: Arc<Core>, options: &RecorderOptions) -> Output {
        let folder = options.folder.clone().unwrap_or_default();
        Output::of(core, options.clone(), folder, false)
    }

    /// For one file of what a flight recorder holds.
    pub(crate) fn snapshot(core: Arc<Core>, options: &RecorderOptions) -> Output {
        let options = RecorderOptions {
            naming: Naming::Dated,
            rotate_bytes: u64::MAX,
            rotate_every: None,
            min_free_bytes: 0,
            ..options.clone()
        };
        let folder = options.snapshot_folder.clone();
        Output::of(core, options, folder, true)
    }

    fn of(core: Arc<Core>, options: RecorderOptions, folder: PathBuf, is_snapshot: bool) -> Output {
        let random = RandomState::new().hash_one(SystemTime::now());
        Output {
            run: format!("{:08x}", random as u32),
            lines: Lines::new(Arc::clone(&core), options.node, options.profile),
            anchor: core.clock.anchor(),
            core,
            options,
            folder,
            is_snapshot,
            files_begun: 0,
            classes: Vec::new(),
            class_of: Vec::new(),
            last_ns: 0,
            last_ticks: 0,
            stuck: None,
            losses: Vec::new(),
            unlooked_bytes: 0,
            written: 0,
            late: 0,
            files_closed: 0,
            text_bytes: 0,
        }
    }

    /// What the disk says, if it says no.
    pub(crate) fn error(&self) -> Option<String> {
        self.stuck.as_ref().map(|stuck| stuck.error.clone())
    }

    pub(crate) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    pub(crate) fn forget_streams(&mut self, streams: &[u32]) {
        self.lines.forget(streams);
    }

    pub(crate) fn report(&self, report: &mut RecordingReport) {
        report.written = self.written;
        report.late = self.late;
        report.files = self.files_closed;
        report.text_bytes = self.text_bytes;
    }

    /// A round begins.
    pub(crate) fn begin(&mut self, anchor: Anchor) {
        self.anchor = anchor;
        self.lines.refresh();
        if self
            .stuck
            .as_ref()
            .is_some_and(|stuck| Instant::now() >= stuck.retry_at)
        {
            self.retry();
        }
    }

    fn stick(&mut self, error: impl ToString) {
        let error = error.to_string();
        self.core.note_error(error.clone());
        self.stuck = Some(Stuck {
            error,
            retry_at: Instant::now() + RETRY,
        });
    }

    /// Tries the disk again.
    fn retry(&mut self) {
        if let Err(error) = self.check_free() {
            return self.stick(error);
        }
        self.stuck = None;
        for at in 0..self.classes.len() {
            let is_ending = |open: &Open| open.file.is_ending();
            match self.classes[at].file.as_ref().is_some_and(is_ending) {
                true => self.close_file(at),
                false => self.write(at),
            }
        }
    }

    fn class_at(&mut self, channel: u32) -> usize {
        let at = channel as usize;
        if let Some(Some(class)) = self.class_of.get(at) {
            return *class as usize;
        }
        if self.class_of.len() <= at {
            self.class_of.resize(at + 1, None);
        }
        let class = match self.is_snapshot {
            true => "snapshot".to_owned(),
            false => self.core.registry().channels[at].class.clone(),
        };
        let found = self.classes.iter().position(|file| file.class == class);
        let place = found.unwrap_or_else(|| {
            // More of them share the last one's file.
            if self.classes.len() < self.options.classes_max {
                self.classes.push(ClassFile {
                    class,
                    file: None,
                    block: Vec::new(),
                    pending: Vec::new(),
                    number: 0,
                });
            }
            self.classes.len() - 1
        });
        self.class_of[at] = Some(place as u32);
        place
    }

    /// One record.
    pub(crate) fn record(&mut self, entry: EntryRef<'_>, thread: u64) {
        let ticks = entry.ticks();
        let mut unix_ns = self.anchor.unix_ns(ticks);
        if ticks < self.last_ticks {
            self.late += 1;
        } else {
            self.last_ticks = ticks;
            if unix_ns < self.last_ns {
                if self.last_ns - unix_ns > STEP_NS {
                    // Whoever set the clock back gets new files: each of them is sorted.
                    self.rotate();
                } else {
                    unix_ns = self.last_ns;
                }
            }
            self.last_ns = unix_ns;
        }
        let channel = self.lines.channel(entry.stream());
        let at = self.class_at(channel);
        if self.stuck.is_none() && self.classes[at].file.is_none() {
            self.create(at);
        }
        if self.stuck.is_some() {
            return add(&mut self.losses, channel, entry.number());
        }
        let class = &mut self.classes[at];
        let open = class.file.as_mut().expect("it was created");
        let text = open.file.text();
        let start = text.len();
        match self.lines.append(entry, unix_ns, thread, text) {
            Err(channel) => self.losses.push(Loss {
                channel,
                why: Why::Size,
                from: entry.number(),
                to: entry.number(),
                count: 1,
            }),
            Ok(facts) => {
                let bytes = text.len() - start;
                open.file.block().line(IndexedLine {
                    unix_ns,
                    group: facts.channel,
                    number: entry.number(),
                    trace: entry.trace(),
                    name: facts.name,
                });
                add(&mut class.block, facts.channel, entry.number());
                self.appended(at, bytes);
            }
        }
    }

    /// After bytes were appended to the file of a class.
    fn appended(&mut self, at: usize, bytes: usize) {
        self.text_bytes += bytes as u64;
        let (lines, registry) = (&self.lines, &self.core);
        let class = &mut self.classes[at];
        let open = class.file.as_mut().expect("something was appended to it");
        if open.file.block().is_first() {
            open.block_since = Instant::now();
        }
        open.file.appended(
            bytes,
            &Named {
                group: &|channel| {
                    registry.registry().channels[channel as usize]
                        .group
                        .name
                        .clone()
                },
                name: &|name| lines.name(name).to_owned(),
            },
        );
        if !open.file.has_open_block() {
            move_counts(&mut class.block, &mut class.pending);
        }
        if open.file.pending_bytes() >= WRITE_BYTES {
            self.write(at);
            self.rotate_if_due(at);
        }
    }

    /// Loss records of what was lost; what cannot be written now stays.
    pub(crate) fn losses(&mut self, losses: &mut Vec<Loss>) {
        if losses.len() > 64 {
            // Many pieces of a few stories.
            let mut log = crate::loss::LossLog::default();
            losses.sort_by_key(|loss| (loss.channel, loss.why, loss.from));
            for loss in losses.drain(..) {
                log.join(loss);
            }
            *losses = log.take();
        }
        let unix_ns = self.now_ns();
        let mut left = Vec::new();
        for loss in losses.drain(..) {
            let at = self.class_at(loss.channel);
            if self.stuck.is_none() && self.classes[at].file.is_none() {
                self.create(at);
            }
            if self.stuck.is_some() {
                left.push(loss);
                continue;
            }
            let (group, class) = {
                let registry = self.core.registry();
                let channel = &registry.channels[loss.channel as usize];
                (channel.group.name.clone(), channel.class.clone())
            };
            let mut line = format!("{{\"ts\":{unix_ns},\"g\":").into_bytes();
            json::string(&group, &mut line);
            line.extend_from_slice(format!(",\"n\":{},\"cl\":", self.options.node).as_bytes());
            json::string(&class, &mut line);
            let Loss {
                from,
                to,
                count,
                why,
                ..
            } = loss;
            line.extend_from_slice(
                format!(",\"mk\":\"Loss\",\"from\":{from},\"to\":{to},\"count\":{count},\"why\":\"{why}\"}}\n")
                    .as_bytes(),
            );
            self.mark(at, &line, unix_ns, true);
        }
        *losses = left;
    }

    /// The time of a line that is no record's: not before those that are there.
    fn now_ns(&mut self) -> u64 {
        self.last_ns = self.last_ns.max(self.anchor.unix_ns);
        if self.is_snapshot {
            return self.anchor.unix_ns;
        }
        self.last_ns
    }

    fn mark(&mut self, at: usize, line: &[u8], unix_ns: u64, is_loss: bool) {
        let Some(open) = &mut self.classes[at].file else {
            return;
        };
        open.file.text().extend_from_slice(line);
        open.file.block().mark(unix_ns, is_loss);
        self.appended(at, line.len());
    }

    fn create(&mut self, at: usize) {
        let unix_ns = match self.last_ns {
            0 => self.anchor.unix_ns,
            last => last,
        };
        let class = self.classes[at].class.clone();
        // Somebody may have removed the folder.
        if let Err(error) = make_folder(&self.folder) {
            return self.stick(format!("{}: {error}", self.folder.display()));
        }
        let zstd = self.options.codec != tipple_chunk::Codec::None;
        let created = match self.options.naming {
            Naming::Fixed => RecordingFile::append(&self.folder.join(names::fixed(&class))),
            Naming::Dated => {
                let name = names::dated(&class, unix_ns, &self.run, self.files_begun + 1, zstd);
                RecordingFile::create(&self.folder.join(name), self.options.codec)
            }
        };
        match created {
            Err(error) => self.stick(error),
            Ok(file) => {
                let now = Instant::now();
                // One that could not be created is not missed by anybody.
                self.files_begun += 1;
                self.classes[at].number += 1;
                self.classes[at].file = Some(Open {
                    file,
                    began: now,
                    block_since: now,
                    synced: now,
                    unsynced: false,
                });
                let number = self.classes[at].number;
                let mut line =
                    format!("{{\"ts\":{unix_ns},\"n\":{},\"cl\":", self.options.node).into_bytes();
                json::string(&class, &mut line);
                line.extend_from_slice(
                    format!(
                        ",\"mk\":\"Open\",\"run\":\"{}\",\"file\":{number}}}\n",
                        self.run
                    )
                    .as_bytes(),
                );
                self.mark(at, &line, unix_ns, false);
            }
        }
    }

    /// Gives what is pending to the disk.
    fn write(&mut self, at: usize) {
        if self.stuck.is_some() {
            return;
        }
        let class = &mut self.classes[at];
        let Some(open) = &mut class.file else { return };
        let bytes = open.file.pending_bytes() as u64;
        let written = open.file.write();
        open.unsynced |= bytes > 0;
        match written {
            Ok(()) => {
                self.written += class
                    .pending
                    .drain(..)
                    .map(|counts| counts.count)
                    .sum::<u64>();
                self.unlooked_bytes += bytes;
                if self.options.sync == Sync::Always {
                    self.sync(at);
                }
            }
            Err(error) => {
                let path = open.file.path_open().display().to_string();
                self.stick(format!("cannot write {path}: {error}"));
            }
        }
        if self.unlooked_bytes >= LOOK_BYTES {
            self.look_at_disk();
        }
    }

    fn rotate_if_due(&mut self, at: usize) {
        let Some(open) = &self.classes[at].file else {
            return;
        };
        let is_dated = self.options.naming == Naming::Dated;
        let (bytes, _) = open.file.bytes();
        let is_old = |every: Duration| open.began.elapsed() >= every;
        let is_due = is_dated
            && (bytes >= self.options.rotate_bytes
                || open.file.is_full()
                || self.options.rotate_every.is_some_and(is_old));
        if is_due {
            self.end_file(at, "rotate", None);
        }
    }

    /// All files end; the next record begins new ones.
    pub(crate) fn rotate(&mut self) {
        for at in 0..self.classes.len() {
            self.end_file(at, "rotate", None);
        }
    }

    /// Writes the last line of a file, and closes it. While the disk says no, it stays open.
    fn end_file(&mut self, at: usize, why: &str, numbers: Option<&[u8]>) {
        if self.stuck.is_some() {
            return;
        }
        match &self.classes[at].file {
            None => return,
            // It has that line.
            Some(open) if open.file.is_ending() => return self.close_file(at),
            Some(_) => {}
        }
        let unix_ns = self.now_ns();
        let class = &mut self.classes[at];
        if let Some(open) = &mut class.file {
            open.file.begin_end();
        }
        let mut line =
            format!("{{\"ts\":{unix_ns},\"n\":{},\"cl\":", self.options.node).into_bytes();
        json::string(&class.class, &mut line);
        line.extend_from_slice(
            format!(
                ",\"mk\":\"Close\",\"run\":\"{}\",\"file\":{},\"why\":\"{why}\"",
                self.run, class.number
            )
            .as_bytes(),
        );
        if let Some(numbers) = numbers {
            line.extend_from_slice(b",\"numbers\":");
            line.extend_from_slice(numbers);
        }
        line.extend_from_slice(b"}\n");
        self.mark(at, &line, unix_ns, false);
        self.close_file(at);
    }

    fn close_file(&mut self, at: usize) {
        if self.stuck.is_some() {
            return;
        }
        let (lines, core) = (&self.lines, &self.core);
        let class = &mut self.classes[at];
        let Some(open) = &mut class.file else { return };
        let named = Named {
            group: &|channel| {
                core.registry().channels[channel as usize]
                    .group
                    .name
                    .clone()
            },
            name: &|name| lines.name(name).to_owned(),
        };
        move_counts(&mut class.block, &mut class.pending);
        match open.file.close(self.options.sync != Sync::Never, &named) {
            Ok(()) => {
                self.written += class
                    .pending
                    .drain(..)
                    .map(|counts| counts.count)
                    .sum::<u64>();
                class.file = None;
                self.files_closed += 1;
                self.look_at_disk();
            }
            Err(error) => {
                let path = open.file.path_open().display().to_string();
                self.stick(format!("cannot close {path}: {error}"));
            }
        }
    }

    /// A round ends: what came in it is written if it waited long enough, or somebody asks.
    pub(crate) fn end(&mut self, is_asked: bool) {
        for at in 0..self.classes.len() {
            let (lines, core) = (&self.lines, &self.core);
            let class = &mut self.classes[at];
            let Some(open) = &mut class.file else {
                continue;
            };
            let is_old = open.block_since.elapsed() >= self.options.write_interval;
            if open.file.has_open_block() && (is_asked || is_old) {
                open.file.end_block(&Named {
                    group: &|channel| {
                        core.registry().channels[channel as usize]
                            .group
                            .name
                            .clone()
                    },
                    name: &|name| lines.name(name).to_owned(),
                });
                move_counts(&mut class.block, &mut class.pending);
            }
            if open.file.pending_bytes() > 0 {
                self.write(at);
            }
            self.sync_if_due(at);
            self.rotate_if_due(at);
        }
    }

    fn sync_if_due(&mut self, at: usize) {
        let Some(open) = &mut self.classes[at].file else {
            return;
        };
        if let Sync::Every(every) = self.options.sync
            && open.synced.elapsed() >= every
        {
            open.synced = Instant::now();
            self.sync(at);
        }
    }

    /// Syncs what was written. A file that cannot be synced ends: what comes goes into another one.
    fn sync(&mut self, at: usize) {
        let Some(open) = &mut self.classes[at].file else {
            return;
        };
        if !open.unsynced || self.stuck.is_some() {
            return;
        }
        open.unsynced = false;
        if let Err(error) = open.file.sync() {
            let path = open.file.path_open().display().to_string();
            if !open.file.is_ending() {
                self.end_file(at, "rotate", None);
            }
            self.stick(format!("cannot sync {path}: {error}"));
        }
    }

    /// What is looked at every second: files that somebody moved, that are old, that are too many.
    pub(crate) fn look(&mut self) {
        for at in 0..self.classes.len() {
            let Some(open) = &mut self.classes[at].file else {
                continue;
            };
            if open.file.is_gone() {
                // What is in it is where whoever moved it wants it; what is not yet, goes there, too.
                self.write(at);
                if self.stuck.is_none() {
                    self.classes[at].file = None;
                    self.classes[at].block.clear();
                }
                continue;
            }
            self.rotate_if_due(at);
        }
        self.look_at_disk();
    }

    fn look_at_disk(&mut self) {
        self.unlooked_bytes = 0;
        if self.is_snapshot {
            return;
        }
        if let Err(error) = self.check_free() {
            self.stick(error);
        }
    }

    /// Deletes what is too much, and says whether there is disk enough then.
    fn check_free(&self) -> Result<(), String> {
        let options = &self.options;
        let folder = |error: io::Error| format!("{}: {error}", self.folder.display());
        let free = names::free_bytes(&self.folder).map_err(folder)?;
        let missing = options.min_free_bytes.saturating_sub(free);
        if missing == 0 && options.retain_bytes.is_none() && options.retain_age.is_none() {
            return Ok(());
        }
        let files = names::closed(&self.folder).map_err(folder)?;
        let surplus = names::surplus(
            &files,
            SystemTime::now(),
            options.retain_bytes,
            options.retain_age,
            missing,
        );
        for file in &files[..surplus] {
            std::fs::remove_file(&file.path).map_err(folder)?;
            let _ = std::fs::remove_file(with_suffix(&file.path, INDEX));
        }
        let free = names::free_bytes(&self.folder).map_err(folder)?;
        if free < options.min_free_bytes {
            return Err(format!(
                "{}: {free} bytes of disk are free, and {} are to be",
                self.folder.display(),
                options.min_free_bytes
            ));
        }
        Ok(())
    }

    /// The end: closes all files, trying until `deadline`; what cannot be written by then is lost.
    pub(crate) fn close(&mut self, deadline: Instant) {
        let mut numbers = Vec::new();
        json::plain(&self.core.attempted_by_group(), &mut numbers);
        // Of each class, whether its last line was given to a file.
        let mut is_said = vec![false; self.classes.len()];
        loop {
            for (at, is_said) in is_said.iter_mut().enumerate() {
                let is_ending = |open: &Open| open.file.is_ending();
                let file = self.classes[at].file.as_ref();
                match file.map(is_ending) {
                    Some(true) => self.close_file(at),
                    // Its last file was closed by a rotation: somewhere it must stand that the run has ended.
                    None if !*is_said && self.stuck.is_none() => self.create(at),
                    _ => {}
                }
                if !*is_said && self.stuck.is_none() && self.classes[at].file.is_some() {
                    *is_said = true;
                    self.end_file(at, "shutdown", Some(&numbers));
                }
            }
            let is_closed = self.classes.iter().all(|class| class.file.is_none());
            let is_over = is_closed && is_said.iter().all(|is_said| *is_said);
            if is_over || Instant::now() >= deadline {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
            if self.stuck.is_some() {
                self.retry();
            }
        }
        for class in &mut self.classes {
            if let Some(open) = &mut class.file {
                open.file.abandon();
            }
            class.file = None;
            self.losses.append(&mut class.pending);
            self.losses.append(&mut class.block);
        }
    }

    /// The file of a snapshot.
    pub(crate) fn close_snapshot(mut self) -> Result<PathBuf, String> {
        if self.classes.is_empty() {
            // Nothing was recorded: a file that says so is better than none.
            self.classes.push(ClassFile {
                class: "snapshot".to_owned(),
                file: None,
                block: Vec::new(),
                pending: Vec::new(),
                number: 0,
            });
        }
        if self.classes[0].file.is_none() {
            self.create(0);
        }
        let path = self.classes[0]
            .file
            .as_ref()
            .map(|open| open.file.path().to_owned());
        self.end_file(0, "snapshot", None);
        match (self.error(), path) {
            (None, Some(path)) => Ok(path),
            (error, _) => Err(error.unwrap_or_else(|| "there is no file".to_owned())),
        }
    }
}

fn move_counts(from: &mut Vec<Loss>, to: &mut Vec<Loss>) {
    for counts in from.drain(..) {
        match to.iter_mut().find(|there| there.channel == counts.channel) {
            Some(there) => {
                there.from = there.from.min(counts.from);
                there.to = there.to.max(counts.to);
                there.count += counts.count;
            }
            None => to.push(counts),
        }
    }
}
