//! The folder of one cache's snapshots: written, renamed, read, tidied up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::disk::{Disk, Staged};
use crate::frames::Input;
use crate::keys::{Keys, SEAL_MAGIC};
use crate::layout::{self, Header, Opened};
use crate::listing::{CORRUPT, Found, Health, LOCK, Listing, TMP, to_remove};
use crate::moment::Moment;
use crate::pace::{Cancel, Pace};
use crate::{Dumpable, ErrorKind, Schema, SnapshotError, SnapshotName, SnapshotOptions};

/// How long another process may write before it is not waited for any more.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// How often the folder is listed anew when a file was renamed while it was about to be opened.
const LISTINGS_MAX: usize = 5;

/// The snapshots of one value, in `ROOT/NAME/`: what a [`Cache`](crate::Cache) uses, and what a service can use that keeps its
/// value itself.
///
/// ```
/// # fn main() -> Result<(), tipple_snapshot::SnapshotError> {
/// use std::time::SystemTime;
/// use tipple_snapshot::{Keys, SnapshotFolder, SnapshotOptions, ValueTimes};
///
/// # let root = tempfile::tempdir().unwrap();
/// # let root = root.path();
/// let folder = SnapshotFolder::new(root, "sessions", SnapshotOptions::default(), Keys::none())?;
/// folder.write(&vec!["one".to_owned()], ValueTimes::at(SystemTime::now()))?;
///
/// let found = folder.load::<Vec<String>>();
/// assert_eq!(found.loaded.unwrap().value, ["one"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SnapshotFolder {
    path: PathBuf,
    cache: String,
    options: SnapshotOptions,
    keys: Keys,
    disk: Disk,
}

/// How current a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueTimes {
    /// When it was last known to be current: what the file is named after.
    pub updated: SystemTime,
    /// When it last changed.
    pub modified: SystemTime,
    /// When it was last made from nothing but the source.
    pub full: Option<SystemTime>,
}

impl ValueTimes {
    /// All of them are this one.
    pub fn at(time: SystemTime) -> Self {
        Self {
            updated: time,
            modified: time,
            full: Some(time),
        }
    }
}

/// A snapshot that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Its file.
    pub path: PathBuf,
    /// The length of the file.
    pub bytes: u64,
    /// What is equal for equal bytes of the value.
    pub content: u128,
}

/// A value that was loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded<T> {
    /// The value.
    pub value: T,
    /// How current it is: by the file's name, and by what is in it.
    pub times: ValueTimes,
    /// Its name.
    pub name: SnapshotName,
    /// Its file.
    pub path: PathBuf,
    /// The length of the file.
    pub bytes: u64,
    /// What is equal for equal bytes of the value.
    pub content: u128,
    /// It is dated in the future: what has changed since then cannot be asked for.
    pub is_from_future: bool,
}

/// What was found.
#[derive(Debug)]
#[non_exhaustive]
pub struct LoadOutcome<T> {
    /// The newest value that could be loaded.
    pub loaded: Option<Loaded<T>>,
    /// Why newer ones could not.
    pub failures: Vec<SnapshotError>,
}

impl SnapshotFolder {
    /// The snapshots of the cache `name` in `root`. Nothing is read or written yet, and `root` need not exist.
    ///
    /// # Errors
    /// `Usage` if the options or the name make no sense, `Key` if there is no key for what should be sealed.
    pub fn new(
        root: impl AsRef<Path>,
        name: &str,
        options: SnapshotOptions,
        keys: Keys,
    ) -> Result<Self, SnapshotError> {
        options.validate()?;
        let is_name = !name.is_empty()
            && name.len() <= 200
            && !name.starts_with('.')
            && !name.contains(['/', '\0', '\n']);
        if !is_name {
            return Err(SnapshotError::new(
                ErrorKind::Usage,
                format!(
                    "{name:?} cannot name a cache, since it names a folder: give 1 to 200 bytes without a slash, and no dot at the beginning"
                ),
            ));
        }
        #[cfg(feature = "encryption")]
        if options.encrypted {
            keys.check(name)?;
        }
        Ok(Self {
            path: root.as_ref().join(name),
            cache: name.to_owned(),
            options,
            keys,
            disk: Disk::default(),
        })
    }

    #[cfg(test)]
    fn on(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(feature = "store")]
    pub(crate) fn cache(&self) -> &str {
        &self.cache
    }

    pub(crate) fn options(&self) -> &SnapshotOptions {
        &self.options
    }

    /// Writes a snapshot, and removes what is then needed no more. `Ok` means that it is durable, under its name. After an
    /// error, the snapshots that were there are there.
    ///
    /// Waits up to 5 s for another process that writes into the same folder.
    ///
    /// # Errors
    /// `Io`, `Busy`, `Key`, `Value`; `EmptyValue` if the value has no elements, and that is not allowed; `Panic` if its `dump`
    /// panicked.
    pub fn write<T: Dumpable>(
        &self,
        value: &T,
        times: ValueTimes,
    ) -> Result<WrittenSnapshot, SnapshotError> {
        self.write_unless(value, times, &Cancel::default())
    }

    pub(crate) fn write_unless<T: Dumpable>(
        &self,
        value: &T,
        times: ValueTimes,
        cancel: &Cancel,
    ) -> Result<WrittenSnapshot, SnapshotError> {
        let elements = value.element_count();
        if elements == Some(0) && !self.options.allow_empty {
            return Err(SnapshotError::new(
                ErrorKind::EmptyValue,
                "the value has no elements, and allow_empty is off: the snapshot that is there stays",
            ));
        }
        self.disk.create_folder(&self.path)?;
        let _lock = self.lock(cancel)?;
        let schema = Schema::of::<T>();
        self.clean_up(&schema, None);
        let name = SnapshotName::new(times.updated, self.options.format_version);
        let header = Header {
            cache: self.cache.clone(),
            format_version: self.options.format_version,
            written: Moment::now(),
            updated: name.updated,
            modified: Moment::of(times.modified),
            full: times.full.map(Moment::of),
            elements,
            fingerprint: schema.fingerprint(),
            producer: self.options.producer.clone(),
            schema: schema.clone(),
            compression: self.options.compression,
        };
        let path = self.path.join(name.to_string());
        let staged = Staged::create(
            &self.disk,
            self.path.join(format!("{name}{TMP}")),
            Pace::new(self.options.write_bytes_per_second),
            cancel,
        )?;
        let dumped = catch_unwind(AssertUnwindSafe(|| self.fill(staged, &header, value)));
        let (staged, written) =
            dumped.map_err(|panic| SnapshotError::panicked("dumping the value", &*panic))??;
        let bytes = staged.publish(&path, self.mode())?;
        self.clean_up(&schema, Some(&name));
        tracing::info!(cache = %self.cache, path = %path.display(), bytes, "a new dump has been written");
        Ok(WrittenSnapshot {
            name,
            path,
            bytes,
            content: written.content,
        })
    }

    fn fill<T: Dumpable>(
        &self,
        mut staged: Staged,
        header: &Header,
        value: &T,
    ) -> Result<(Staged, layout::Written), SnapshotError> {
        #[cfg(feature = "encryption")]
        if self.options.encrypted {
            let version = self.options.format_version;
            let mut sealing = crate::keys::Sealing::new(staged, &self.keys, &self.cache, version)?;
            let written = layout::write(&mut sealing, header, value)?;
            return Ok((sealing.finish()?, written));
        }
        let written = layout::write(&mut staged, header, value)?;
        Ok((staged, written))
    }

    /// Takes in a file that came from elsewhere, under its name. Nothing of it is verified yet: loading does that.
    #[cfg(feature = "store")]
    pub(crate) fn adopt(
        &self,
        name: &SnapshotName,
        fill: &mut dyn FnMut(&mut dyn io::Write) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.disk.create_folder(&self.path)?;
        let cancel = Cancel::default();
        let _lock = self.lock(&cancel)?;
        let tmp = self.path.join(format!("{name}{TMP}"));
        // Under the lock, nobody else writes it.
        let _ = self.disk.remove(&tmp);
        let mut staged = Staged::create(&self.disk, tmp, Pace::new(None), &cancel)?;
        fill(&mut staged)?;
        staged
            .publish(&self.path.join(name.to_string()), self.mode())
            .map(drop)
    }

    fn mode(&self) -> u32 {
        match self.options.world_readable {
            true => 0o444,
            false => 0o400,
        }
    }

    /// Gives the snapshot `name` a newer time, since its value is still current then. Costs no more than a rename.
    ///
    /// # Errors
    /// `Io`, also if it is not there any more; `Busy`. It is then as it was.
    pub fn bump(
        &self,
        name: &SnapshotName,
        updated: SystemTime,
    ) -> Result<WrittenSnapshot, SnapshotError> {
        self.bump_unless(name, updated, &Cancel::default())
    }

    pub(crate) fn bump_unless(
        &self,
        name: &SnapshotName,
        updated: SystemTime,
        cancel: &Cancel,
    ) -> Result<WrittenSnapshot, SnapshotError> {
        let to = SnapshotName::new(updated, name.format_version);
        let (old, new) = (
            self.path.join(name.to_string()),
            self.path.join(to.to_string()),
        );
        let failed = |error| SnapshotError::io("cannot rename the snapshot", error).at(&old);
        let _lock = self.lock(cancel)?;
        let bytes = fs::symlink_metadata(&old).map_err(failed)?.len();
        if old != new {
            self.disk.rename(&old, &new).map_err(failed)?;
            self.disk.sync_folder(&self.path)?;
        }
        tracing::info!(cache = %self.cache, from = %old.display(), to = %new.display(), "renamed dump");
        Ok(WrittenSnapshot {
            name: to,
            path: new,
            bytes,
            content: 0,
        })
    }

    /// Loads the newest snapshot that is whole, of this version, of this type, of a key that is there, and not too old. What is
    /// damaged is set aside as `NAME.corrupt`. Nothing of a value is handed out before all of its file was verified.
    pub fn load<T: Dumpable>(&self) -> LoadOutcome<T> {
        let schema = Schema::of::<T>().fingerprint();
        let mut found = LoadOutcome {
            loaded: None,
            failures: Vec::new(),
        };
        let mut tried: Vec<SnapshotName> = Vec::new();
        for _ in 0..LISTINGS_MAX {
            let now = Moment::now();
            let listing = match Listing::of(&self.path) {
                Ok(listing) => listing,
                Err(error) => {
                    tracing::error!(cache = %self.cache, %error, "error while reading a dump");
                    found.failures.push(error);
                    return found;
                }
            };
            self.tell_of_others(&listing, now);
            let mut has_moved = false;
            for candidate in listing.candidates(&self.options, now) {
                if tried.contains(&candidate.name) {
                    continue;
                }
                let read = catch_unwind(AssertUnwindSafe(|| self.read(&candidate, schema)));
                let read = read.unwrap_or_else(|panic| {
                    Err(SnapshotError::panicked("loading the value", &*panic))
                });
                match read {
                    Ok(Some((value, times, content))) => {
                        tracing::info!(cache = %self.cache, path = %candidate.path.display(), "a dump has been loaded successfully");
                        found.loaded = Some(Loaded {
                            value,
                            times,
                            content,
                            name: candidate.name,
                            is_from_future: candidate.name.updated
                                > now.after(self.options.future_tolerance),
                            path: candidate.path,
                            bytes: candidate.bytes,
                        });
                        return found;
                    }
                    // Another process has bumped or removed it.
                    Ok(None) => has_moved = true,
                    Err(error) => {
                        let error = error.at(&candidate.path);
                        tracing::error!(cache = %self.cache, %error, "error while reading a dump");
                        if error.kind().is_damage() {
                            self.set_aside(&candidate);
                        }
                        tried.push(candidate.name);
                        found.failures.push(error);
                    }
                }
            }
            if !has_moved {
                break;
            }
        }
        tracing::info!(cache = %self.cache, path = %self.path.display(), "no usable dumps found");
        found
    }

    fn tell_of_others(&self, listing: &Listing, now: Moment) {
        for found in &listing.snapshots {
            let (path, version) = (found.path.display(), found.name.format_version);
            if version != self.options.format_version {
                tracing::info!(cache = %self.cache, %path, "Ignoring dump: its format version ({version}) != current");
            } else if self
                .options
                .age_max()
                .is_some_and(|age| found.name.updated < now.before(age))
            {
                tracing::info!(cache = %self.cache, %path, "Ignoring dump: its age is greater than max_age");
            }
        }
        for path in &listing.unrelated {
            tracing::warn!(cache = %self.cache, path = %path.display(), "Unrelated file in the dump directory");
        }
    }

    fn read<T: Dumpable>(
        &self,
        candidate: &Found,
        fingerprint: u64,
    ) -> Result<Option<(T, ValueTimes, u128)>, SnapshotError> {
        let Some(mut input) = self.open(candidate)? else {
            return Ok(None);
        };
        let opened = self.opened(candidate, &mut *input)?;
        if opened.header.fingerprint != fingerprint {
            return Err(SnapshotError::new(
                ErrorKind::Schema,
                format!(
                    "it holds {}, and the cache has {}: it is left for the build that wrote it",
                    opened.header.schema,
                    Schema::of::<T>()
                ),
            ));
        }
        let value = opened.value(&mut *input, self.options.decode_threads)?;
        let times = ValueTimes {
            updated: candidate.name.updated(),
            modified: opened.header.modified.time(),
            full: opened.header.full.map(Moment::time),
        };
        Ok(Some((value, times, opened.content)))
    }

    /// The file, of which nothing was verified unless it is sealed. `None` if it is gone.
    fn open(&self, candidate: &Found) -> Result<Option<Box<dyn Input>>, SnapshotError> {
        let mut file = match File::open(&candidate.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SnapshotError::io("cannot open the file", error)),
        };
        open_input(&mut file, &self.options)?;
        input_of(file, &self.keys, &self.cache, candidate.name.format_version).map(Some)
    }

    fn opened(&self, candidate: &Found, input: &mut dyn Input) -> Result<Opened, SnapshotError> {
        let opened = layout::open(input)?;
        let header = &opened.header;
        if header.format_version != candidate.name.format_version {
            return Err(SnapshotError::damaged(format!(
                "its header says format version {}",
                header.format_version
            )));
        }
        if header.cache != self.cache {
            return Err(SnapshotError::new(
                ErrorKind::Schema,
                format!("it is a snapshot of the cache `{}`", header.cache),
            ));
        }
        Ok(opened)
    }

    /// A damaged file gets another name, so that it is not tried for ever. Where that is not possible, it is tried again.
    fn set_aside(&self, found: &Found) {
        let aside = self.path.join(format!("{}{CORRUPT}", found.name));
        match self.disk.rename(&found.path, &aside) {
            Ok(()) => {
                tracing::warn!(cache = %self.cache, path = %aside.display(), "a damaged dump has been set aside");
            }
            Err(error) => {
                tracing::warn!(cache = %self.cache, path = %found.path.display(), %error, "a damaged dump cannot be set aside");
            }
        }
    }

    fn lock(&self, cancel: &Cancel) -> Result<File, SnapshotError> {
        let path = self.path.join(LOCK);
        let failed = |error| SnapshotError::io("cannot lock the folder", error).at(&path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if begin.elapsed() > LOCK_WAIT => {
                    return Err(SnapshotError::new(
                        ErrorKind::Busy,
                        "another process is writing into the folder",
                    )
                    .at(&self.path));
                }
                Err(TryLockError::WouldBlock) => cancel.sleep(LOCK_POLL)?,
            }
        }
    }

    /// Removes what may go. A failure costs disk space only.
    fn clean_up(&self, schema: &Schema, written: Option<&SnapshotName>) {
        let listing = match Listing::of(&self.path) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::error!(cache = %self.cache, %error, "cannot clean up");
                return;
            }
        };
        let fingerprint = schema.fingerprint();
        let health = |found: &Found| self.health(found, fingerprint);
        let remove = to_remove(&listing, &self.options, Moment::now(), written, health);
        for (path, _, why) in remove {
            match self.disk.remove(&path) {
                Ok(()) => {
                    tracing::debug!(cache = %self.cache, path = %path.display(), why = why.text(), "removed");
                }
                Err(error) => {
                    tracing::error!(cache = %self.cache, path = %path.display(), %error, "cannot remove");
                }
            }
        }
    }

    /// By header, index and footer; not by frames, which would cost as much as loading it.
    fn health(&self, found: &Found, fingerprint: u64) -> Health {
        let opened = self.open(found).and_then(|input| match input {
            Some(mut input) => self.opened(found, &mut *input).map(Some),
            None => Ok(None),
        });
        match opened {
            Ok(Some(opened)) if opened.header.fingerprint == fingerprint => Health::Good,
            Ok(Some(_)) => Health::OtherSchema,
            Ok(None) => Health::Unknown,
            Err(error) if error.kind().is_damage() => Health::Damaged,
            Err(_) => Health::Unknown,
        }
    }
}

/// Refuses a plain file where only sealed ones may be believed.
fn open_input(file: &mut File, options: &SnapshotOptions) -> Result<(), SnapshotError> {
    if options.encrypted && !is_sealed(file)? {
        return Err(SnapshotError::new(
            ErrorKind::Key,
            "it is not sealed, and `encrypted` is set: anybody could have written it",
        ));
    }
    Ok(())
}

pub(crate) fn is_sealed(file: &mut File) -> Result<bool, SnapshotError> {
    let failed = |error| SnapshotError::io("cannot read the file", error);
    let mut magic = Vec::with_capacity(SEAL_MAGIC.len());
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut begin = file.take(SEAL_MAGIC.len() as u64);
    begin.read_to_end(&mut magic).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(magic == SEAL_MAGIC)
}

/// What the layout reads: the file, or what comes out of its seal.
pub(crate) fn input_of(
    mut file: File,
    keys: &Keys,
    cache: &str,
    format_version: u64,
) -> Result<Box<dyn Input>, SnapshotError> {
    if !is_sealed(&mut file)? {
        return Ok(Box::new(file));
    }
    #[cfg(feature = "encryption")]
    {
        let sealed = crate::keys::open_sealed(file, keys, cache, format_version)?;
        Ok(Box::new(sealed))
    }
    #[cfg(not(feature = "encryption"))]
    {
        let _ = (keys, cache, format_version);
        Err(SnapshotError::new(
            ErrorKind::Key,
            "it is sealed, and this program was built without the feature `encryption` of tipple-snapshot",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::disk::Step;

    fn folder(root: &Path, disk: Disk) -> SnapshotFolder {
        SnapshotFolder::new(root, "words", SnapshotOptions::default(), Keys::none())
            .unwrap()
            .on(disk)
    }

    fn words(word: &str) -> Vec<String> {
        vec![word.to_owned(); 20_000]
    }

    fn at(seconds: u64) -> ValueTimes {
        ValueTimes::at(SystemTime::now() - Duration::from_secs(seconds))
    }

    /// The order that makes a file durable before it has its name, and the old one go only after that.
    #[test]
    fn the_order_of_a_write() {
        let root = tempfile::tempdir().unwrap();
        let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
        let noted = steps.clone();
        let disk = Disk::probed(move |step| {
            noted.lock().unwrap().push(step);
            Ok(())
        });
        let folder = folder(root.path(), disk);
        folder.write(&words("old"), at(60)).unwrap();
        let first = std::mem::take(&mut *steps.lock().unwrap());
        folder.write(&words("new"), at(0)).unwrap();
        let mut second = std::mem::take(&mut *steps.lock().unwrap());
        use Step::*;
        let mut expected = vec![
            CreateFolder,
            CreateFile,
            Write,
            SetMode,
            SyncFile,
            Rename,
            SyncFolder,
        ];
        let mut first_steps = first;
        first_steps.dedup();
        assert_eq!(first_steps, expected);
        second.dedup();
        expected.remove(0);
        expected.push(Remove);
        assert_eq!(second, expected);
        let name = folder.load::<Vec<String>>().loaded.unwrap().name;
        folder.bump(&name, SystemTime::now()).unwrap();
        assert_eq!(*steps.lock().unwrap(), [Rename, SyncFolder]);
    }

    /// Faults: each step in turn fails, once or from then on, with each of the errors that disks give. What was there is there,
    /// or the new one is; nothing else is left but what the next write removes.
    #[test]
    fn whatever_fails_a_good_snapshot_is_there() {
        let errors = [28, 13, 5, 18, 30]; // ENOSPC, EACCES, EIO, EXDEV, EROFS
        let mut failed_steps = 0;
        for fault in 0..40 {
            for (error, for_ever) in errors
                .iter()
                .flat_map(|error| [(*error, false), (*error, true)])
            {
                let root = tempfile::tempdir().unwrap();
                let sound = folder(root.path(), Disk::default());
                sound.write(&words("old"), at(60)).unwrap();
                let count = Mutex::new(0);
                let disk = Disk::probed(move |_| {
                    let mut count = count.lock().unwrap();
                    *count += 1;
                    match *count - 1 == fault || (for_ever && *count > fault) {
                        true => Err(io::Error::from_raw_os_error(error)),
                        false => Ok(()),
                    }
                });
                let written = folder(root.path(), disk).write(&words("new"), at(0));
                failed_steps += u32::from(written.is_err());
                let found = sound.load::<Vec<String>>();
                assert!(found.failures.is_empty(), "{:?}", found.failures);
                let value = found.loaded.unwrap().value;
                match &written {
                    Ok(_) => assert_eq!(value, words("new"), "fault {fault}"),
                    // It may have its name already, when only the folder could not be synced.
                    Err(_) => assert!(value == words("old") || value == words("new")),
                }
                sound.write(&words("next"), at(0)).unwrap();
                let left = fs::read_dir(sound.path()).unwrap().count();
                assert_eq!(left, 2, "one snapshot and the lock");
            }
        }
        assert!(failed_steps > 50, "{failed_steps}");
    }

    /// Where a damaged file cannot be set aside, the older one is loaded all the same.
    #[test]
    fn a_folder_that_cannot_be_changed_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let options = SnapshotOptions {
            max_count: 2,
            ..SnapshotOptions::default()
        };
        let sound = SnapshotFolder::new(root.path(), "words", options, Keys::none()).unwrap();
        sound.write(&words("old"), at(60)).unwrap();
        let newer = sound.write(&words("new"), at(0)).unwrap();
        fs::remove_file(&newer.path).unwrap();
        fs::write(&newer.path, "damaged").unwrap();
        let read_only = sound
            .clone()
            .on(Disk::probed(|_| Err(io::Error::from_raw_os_error(30))));
        for _ in 0..2 {
            let found = read_only.load::<Vec<String>>();
            assert_eq!(found.failures.len(), 1);
            assert_eq!(found.loaded.unwrap().value, words("old"));
        }
        assert!(newer.path.exists());
    }

    #[test]
    fn a_write_that_is_told_to_stop_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        let told = cancel.clone();
        let disk = Disk::probed(move |step| {
            if step == Step::Write {
                told.cancel();
            }
            Ok(())
        });
        let folder = folder(root.path(), disk);
        let error = folder
            .write_unless(&words("new"), at(0), &cancel)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the lock");
    }
}
