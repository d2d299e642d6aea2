//! The spool: where sealed chunks wait, on bounded disk or in bounded memory, until every store of the job has them.
//!
//! Room is reserved before a byte is written, for the largest chunk that there can be, and shrunk to the chunk's own
//! size when it is sealed; it comes back after the file is gone. So the sum of all files of a spool is never larger
//! than its limit, not by one byte. Whoever finds no room waits: that is how a slow store slows the source.
//!
//! Nothing in a spool outlives its job: a chunk that no part record lists is made again from its part, which is
//! repeatable. What a crash left is removed when the next job with the same stores begins.

use std::fs::{self, File, TryLockError};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use tipple_budget::{Budget, Gate, Permit};
use tipple_chunk::Codec;
use tipple_flow::FRAME_BYTES_MAX;
use tipple_store::{ObjectName, Put, Store, StoreError};

use crate::error::DumpError;
use crate::layout;

/// Where sealed chunks wait for their stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolPlace {
    /// In the folder of a single local store, from where they are published without a copy; otherwise in a folder of
    /// the job's own inside the system's folder for temporary files.
    Default,
    /// In a folder of the job's own inside this one.
    Dir(PathBuf),
    /// In memory, counted by the memory budget: for small chunks.
    Memory,
}

/// The chunks that wait, and the room for them.
pub(crate) struct Spool {
    room: Budget,
    place: Place,
    /// Chunks begun: no two of them share a file.
    begun: AtomicU64,
    /// Those who want to begin one.
    waiting: AtomicUsize,
}

enum Place {
    /// The single store's own staging folder.
    Store(PathBuf),
    Own(OwnDir),
    Memory(OwnDir),
}

impl Spool {
    /// Opens the spool of a job that writes to `stores`, and removes what a crashed one of the same stores left.
    ///
    /// # Errors
    /// `Disk`; `Usage` if a living job uses it.
    pub(crate) fn open(
        place: &SpoolPlace,
        room: Budget,
        stores: &[&dyn Store],
    ) -> Result<Self, DumpError> {
        let staging = match stores {
            [store] => store.staging_dir(),
            _ => None,
        };
        let own = |parent: PathBuf| OwnDir::open(&parent.join(own_name(stores)));
        let place = match (place, staging) {
            (SpoolPlace::Default, Some(dir)) => Place::Store(dir.to_owned()),
            (SpoolPlace::Default, None) => Place::Own(own(std::env::temp_dir())?),
            (SpoolPlace::Dir(dir), _) => Place::Own(own(dir.clone())?),
            // Key files still need a folder.
            (SpoolPlace::Memory, _) => Place::Memory(own(std::env::temp_dir())?),
        };
        Ok(Self {
            room,
            place,
            begun: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// A folder for what is on its way to the stores and is no chunk: key files, which have a budget of their own.
    pub(crate) fn scratch_dir(&self) -> &Path {
        match &self.place {
            Place::Store(dir) => dir,
            Place::Own(own) | Place::Memory(own) => &own.scratch,
        }
    }

    /// Reserves `bytes_max` bytes and begins a chunk of at most that size, waiting for room.
    ///
    /// # Errors
    /// `Interrupted` when the gate was cancelled first; `Disk`.
    ///
    /// # Panics
    /// When `bytes_max` is more than the whole spool.
    pub(crate) fn begin(
        &self,
        label: &str,
        bytes_max: u64,
        gate: &Gate,
    ) -> Result<Staging, DumpError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = self.room.acquire(bytes_max, gate);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = permit?;
        let body = match &self.place {
            Place::Store(dir) => self.create(dir, label)?,
            Place::Own(own) => self.create(&own.chunks, label)?,
            Place::Memory(_) => Body::Memory(Vec::with_capacity(bytes_max as usize)),
        };
        Ok(Staging {
            body,
            written: 0,
            permit,
        })
    }

    fn create(&self, dir: &Path, label: &str) -> Result<Body, DumpError> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{label}-{number}.chunk"));
        let file = File::create_new(&path).map_err(DumpError::disk("create", &path))?;
        Ok(Body::File(StagedFile { path }, Some(file)))
    }

    /// Whether anybody waits for room.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Bytes that may wait in it.
    pub(crate) fn limit(&self) -> u64 {
        self.room.limit()
    }
}

/// The most bytes of a chunk of at most `chunk_bytes_max` raw bytes: what is reserved for one. A chunk ends before a
/// frame that would take it further.
pub(crate) fn chunk_room(codec: Codec, chunk_bytes_max: u64) -> u64 {
    let frames = chunk_bytes_max.div_ceil(FRAME_BYTES_MAX as u64);
    // Twice, and some: buffers need not end where frames would.
    codec.chunk_bytes_max(chunk_bytes_max, 2 * frames + 8)
}

/// A chunk that is being written. Dropped before it is sealed, it leaves nothing.
pub(crate) struct Staging {
    body: Body,
    written: u64,
    permit: Permit,
}

enum Body {
    /// Open until it is sealed.
    File(StagedFile, Option<File>),
    Memory(Vec<u8>),
}

/// A file that goes with this.
struct StagedFile {
    path: PathBuf,
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // Gone already if a store has taken it. Best effort: what stays is removed when the next job begins.
        let _ = fs::remove_file(&self.path);
    }
}

impl Staging {
    /// What it is called in messages.
    pub(crate) fn label(&self) -> String {
        match &self.body {
            Body::File(staged, _) => staged.path.display().to_string(),
            Body::Memory(_) => "a chunk in memory".to_owned(),
        }
    }

    /// Ends the writing and gives back the room that was not needed.
    pub(crate) fn seal(mut self) -> Waiting {
        self.permit.shrink(self.written);
        let body = match self.body {
            Body::File(staged, _) => Body::File(staged, None),
            memory => memory,
        };
        Waiting {
            body,
            _permit: self.permit,
        }
    }
}

impl Write for Staging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        // I4: what is on disk never passes what was reserved for it.
        assert!(
            self.written + bytes as u64 <= self.permit.bytes(),
            "I4: a chunk of more than {} bytes in the spool",
            self.permit.bytes()
        );
        let written = match &mut self.body {
            Body::File(_, file) => file
                .as_mut()
                .expect("open until it is sealed")
                .write_vectored(slices)?,
            Body::Memory(memory) => {
                slices
                    .iter()
                    .for_each(|slice| memory.extend_from_slice(slice));
                bytes
            }
        };
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sealed chunk on its way to the stores. Its file, and then its room, goes when it is dropped (I2): the last store
/// that is done with it does that.
pub(crate) struct Waiting {
    body: Body,
    /// After `body`: room comes back when the file is gone.
    _permit: Permit,
}

impl Waiting {
    /// Puts it into `store`; `sole` if no other store needs it.
    ///
    /// # Errors
    /// As [`Store::put_file`].
    pub(crate) fn put(
        &self,
        store: &dyn Store,
        name: &ObjectName,
        sole: bool,
    ) -> Result<Put, StoreError> {
        match &self.body {
            Body::File(staged, _) if sole => store.put_file(name, &staged.path),
            Body::File(staged, _) => store.put_copy(name, &staged.path),
            Body::Memory(bytes) => store.put_if_absent(name, bytes),
        }
    }
}

/// A folder of this job's own, locked, and removed at its end.
struct OwnDir {
    path: PathBuf,
    chunks: PathBuf,
    scratch: PathBuf,
    _lock: File,
}

impl OwnDir {
    fn open(path: &Path) -> Result<Self, DumpError> {
        let (chunks, scratch) = (path.join("chunks"), path.join("scratch"));
        fs::create_dir_all(path).map_err(DumpError::disk("create", path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(DumpError::disk("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DumpError::Usage(format!(
                    "another tipple dumps to the same stores and uses the spool {}: wait until it has ended, or end it",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(DumpError::disk("lock", &lock_path)(error));
            }
        }
        for dir in [&chunks, &scratch] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(DumpError::disk("empty", dir)(error));
                }
                _ => fs::create_dir(dir).map_err(DumpError::disk("create", dir))?,
            }
        }
        Ok(Self {
            path: path.to_owned(),
            chunks,
            scratch,
            _lock: lock,
        })
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        // Best effort: what stays is removed when the next job of the same stores begins.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The same for every job that writes to the same stores, so that a crashed one's is found again.
fn own_name(stores: &[&dyn Store]) -> String {
    let mut sha256 = Sha256::new();
    for store in stores {
        sha256.update(store.url());
        sha256.update([0]);
    }
    format!("tipple-spool-{}", layout::hex(&sha256.finalize()[..8]))
}
