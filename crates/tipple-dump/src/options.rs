//! How a dump is made, and what it then needs.

use std::sync::Arc;
use std::time::Duration;

use tipple_chunk::{Codec, KeyRing, seal_bytes, sealed_bytes};
use tipple_flow::{FRAME_BYTES_MAX, Form, Source};
use tipple_store::Store;

use crate::batch::batch_bytes;
use crate::error::DumpError;
use crate::layout::{FormShape, Shaping};
use crate::notify::NotifyOptions;
use crate::spool::{SpoolPlace, chunk_room};
use crate::stores::StorePolicy;

/// The spool of a dump into a remote store has at least so much by default.
const REMOTE_SPOOL_BYTES: u64 = 1 << 30;

/// How a dump is made.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// Workers, 1 to 1024. Default: one per core.
    pub threads: usize,
    /// Bytes of one buffer, 64 KiB to 1 GiB; each worker has two. Default 8 MiB.
    pub buffer_bytes: usize,
    /// The most raw bytes in a chunk, at least a frame (1 MiB). Larger records spill over. Default 64 MiB.
    pub chunk_bytes_max: u64,
    /// How frames are compressed. Default zstd:3.
    pub codec: Codec,
    /// The most memory for all of it; refused at the start if that is too little. Default: what is needed.
    pub memory_bytes_max: Option<u64>,
    /// Where sealed chunks wait for their stores.
    pub spool: SpoolPlace,
    /// The most bytes that wait in the spool, at least two chunks per worker. Default: three chunks per worker, and for
    /// remote stores at least 1 GiB. With [`SpoolPlace::Memory`]: two chunks per worker.
    pub spool_bytes_max: Option<u64>,
    /// What becomes of the job when one of several stores fails.
    pub store_policy: StorePolicy,
    /// With several stores: one that holds up the others for so long is left behind, and catches up from another store.
    /// Default: never, the others wait.
    pub detach_after: Option<Duration>,
    /// Seals the dump with the first of these keys. A dump that was begun with any of them goes on with that one.
    pub keys: Option<KeyRing>,
    /// Writes objects in this form, for programs that read them without tipple, instead of chunks. Default: chunks.
    pub form: Option<Arc<dyn Form>>,
    /// Who is told of what is in the stores.
    pub notify: NotifyOptions,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            buffer_bytes: 8 << 20,
            chunk_bytes_max: 64 << 20,
            codec: Codec::Zstd { level: 3 },
            memory_bytes_max: None,
            spool: SpoolPlace::Default,
            spool_bytes_max: None,
            store_policy: StorePolicy::All,
            detach_after: None,
            keys: None,
            form: None,
            notify: NotifyOptions::default(),
        }
    }
}

impl DumpOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`DumpError::Usage`] naming the value and the range; [`DumpError::Spool`] if the spool is too small.
    pub fn validate(&self) -> Result<(), DumpError> {
        check_workers(self.threads, self.buffer_bytes)?;
        if self.chunk_bytes_max < FRAME_BYTES_MAX as u64 {
            return Err(DumpError::Usage(format!(
                "a chunk size of {} bytes is too small: at least one frame, 1MiB",
                self.chunk_bytes_max
            )));
        }
        self.codec
            .validate()
            .map_err(DumpError::chunk("--compress"))?;
        if let (Some(form), Some(_)) = (&self.form, &self.keys) {
            return Err(DumpError::Usage(format!(
                "a dump as {} cannot be sealed, since what queries it could not read it: leave out --encrypt-key, or --format and --path",
                form.name()
            )));
        }
        let least = self.chunks_bytes(2);
        match self.spool_bytes_max {
            Some(limit) if limit < least => Err(DumpError::Spool {
                limit,
                least,
                threads: self.threads,
            }),
            _ => Ok(()),
        }
    }

    /// The memory that dumping `source` into `stores` will hold at most.
    pub fn memory_bytes(&self, source: &dyn Source, stores: &[&dyn Store]) -> u64 {
        let lane = 2 * self.buffer_bytes as u64 + self.encoding_bytes() + source.reader_bytes();
        let lane = lane + self.sealing_bytes();
        self.threads as u64 * lane
            + self.planner_bytes(source)
            + self.spool_memory_bytes()
            + self.store_memory_bytes(stores)
    }

    /// The memory that each worker holds to encode: a codec; or a batch of records, and what makes objects of them.
    pub fn encoding_bytes(&self) -> u64 {
        match &self.form {
            None => self.codec.encoder_bytes(),
            Some(form) => {
                batch_bytes(self.chunk_bytes_max) + form.encoder_bytes(self.chunk_bytes_max)
            }
        }
    }

    /// What the dump of `source` holds: name and version.
    pub(crate) fn content(&self, source: &dyn Source) -> (&'static str, u16) {
        match &self.form {
            None => source.content(),
            Some(form) => (form.name(), form.version()),
        }
    }

    /// The memory that planning `source` holds.
    pub fn planner_bytes(&self, source: &dyn Source) -> u64 {
        source.planner_bytes() + self.sealing_bytes()
    }

    /// The memory that each worker holds for sealing: a chunk, and the plan object of its part. And that planning holds:
    /// a plan object as it comes, and as it goes.
    pub fn sealing_bytes(&self) -> u64 {
        self.keys.as_ref().map_or(0, |_| 2 * seal_bytes())
    }

    /// The memory that chunks wait in: 0 if they wait on disk.
    pub fn spool_memory_bytes(&self) -> u64 {
        match self.spool {
            SpoolPlace::Memory => self.spool_bytes(&[]),
            _ => 0,
        }
    }

    /// The memory that the stores themselves hold: for uploads, and for reading plan objects back.
    pub fn store_memory_bytes(&self, stores: &[&dyn Store]) -> u64 {
        let of = |store: &&dyn Store| {
            store.put_memory_bytes() + self.threads as u64 * store.read_memory_bytes()
        };
        stores.iter().map(of).sum()
    }

    /// The limit of the spool.
    pub fn spool_bytes(&self, stores: &[&dyn Store]) -> u64 {
        let remote = stores.iter().any(|store| store.staging_dir().is_none());
        match (self.spool_bytes_max, &self.spool) {
            (Some(limit), _) => limit,
            (None, SpoolPlace::Memory) => self.chunks_bytes(2),
            (None, _) if remote => self.chunks_bytes(3).max(REMOTE_SPOOL_BYTES),
            (None, _) => self.chunks_bytes(3),
        }
    }

    /// The room that one chunk takes at most.
    pub(crate) fn chunk_room(&self) -> u64 {
        if let Some(form) = &self.form {
            return form.object_bytes_max(self.chunk_bytes_max);
        }
        let room = chunk_room(self.codec, self.chunk_bytes_max);
        self.keys.as_ref().map_or(room, |_| sealed_bytes(room))
    }

    fn chunks_bytes(&self, per_thread: u64) -> u64 {
        self.chunk_room()
            .saturating_mul(per_thread * self.threads as u64)
    }

    pub(crate) fn shaping(&self) -> Shaping {
        Shaping {
            compress: self.codec.to_string(),
            chunk_bytes: self.chunk_bytes_max,
            format: self.form.as_ref().map(|form| FormShape {
                name: form.name().to_owned(),
                extension: form.extension().to_owned(),
                path: form.path().map(str::to_owned),
            }),
        }
    }
}

pub(crate) fn check_workers(threads: usize, buffer_bytes: usize) -> Result<(), DumpError> {
    if !(1..=1024).contains(&threads) {
        return Err(DumpError::Usage(format!(
            "{threads} threads: give --threads 1 to 1024"
        )));
    }
    if !(64 << 10..=1 << 30).contains(&buffer_bytes) {
        return Err(DumpError::Usage(format!(
            "a buffer of {buffer_bytes} bytes: give --buffer 64KiB to 1GiB"
        )));
    }
    Ok(())
}
