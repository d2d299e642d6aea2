//! A store in a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! `object_store` speaks the protocols. It is told to repeat nothing; what is done after which answer is decided here, since
//! only this layer knows that objects are written once, and that the name of a file that is put says its content.
//!
//! # What is done after which answer
//!
//! | request | answer | then |
//! |---|---|---|
//! | any | no connection; 408, 425, 429, 5xx; 400 `RequestTimeout`; broken off; no answer in time | again, with a fresh signature, after a growing, random pause, or the one that the server asks for; bounded by count and time |
//! | any | 403 `RequestTimeTooSkewed`; expired credentials | once more, with a fresh signature and, where they can be renewed, fresh credentials; then an error that says by how much the clock is off |
//! | any | 401, 403; no such bucket; 301 and other regions | an error with what to set |
//! | put | 400 `BadDigest` and its kind | again: the bytes were damaged on their way, and nothing was stored |
//! | put if absent | broken off, 5xx, 409, 412 | the object is read and compared: the same bytes are success, others are `AlreadyExists`, none: again |
//! | put of a file | the same | its length is compared: its name says its content |
//! | put, server ignores or refuses conditions, single writer | | looked for first, then put without a condition |
//! | put, server checks neither checksum nor signed payload | 2xx | read back and compared; other bytes are deleted, and it is put again |
//! | begin an upload | lost | again; afterwards all other uploads of that name are aborted |
//! | a part | | as any; its bytes stay in their buffers meanwhile |
//! | finish an upload | any error, and any success | the object's length decides; 200 with an error in it counts as one |
//! | part, finish | 404 `NoSuchUpload`, and no object | the upload is begun again, twice at most |
//! | read | broken off, too short | goes on where it broke, if it is still the same object (its ETag) |
//! | list | | each page as any |
//! | delete | 404 | success |
//!
//! # On the way
//!
//! A payload is never without protection: over TLS it has a CRC64NVME, over plain HTTP a CRC64NVME and a signature; for a
//! server that refuses the checksum, a signature in both cases. Whether the server checks them is tried when the store is
//! opened for writing (see `probe`). Google and Azure are sent neither by `object_store`, so everything is read back there.
//!
//! # Bounds
//!
//! Uploads hold `parts_in_flight` buffers of `part_bytes`, for all callers together, allocated once; objects of at most
//! 64 KiB that are put from memory have a copy of their own. An open object holds two blocks of 4 MiB. Answers other than objects are
//! read to 8 MiB. What a server says of sizes is never allocated in advance beyond 1 MiB.

mod answer;
mod client;
mod core;
mod credentials;
mod engine;
mod listing;
mod multipart;
mod orphans;
mod pool;
pub(crate) mod post;
mod probe;
mod put;
mod read;
mod retry;
mod web;
mod wire;
mod xml;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use object_store::PutPayload;

use self::client::Client;
use self::core::Core;
use self::engine::Engine;
use self::multipart::{Cut, UploadFailure, Uploading};
use self::pool::{Content, Pool};
use self::probe::Probed;
use self::put::Same;
use self::read::{BLOCK_BYTES, BLOCKS, RemoteRead};
use self::retry::Bounds;
use crate::error::system_reason;
use crate::name::split_prefix;
use crate::url::BucketPlace;
use crate::{
    Access, Capabilities, ConfirmedBy, Leftover, ObjectEntry, ObjectMeta, ObjectName, ObjectRead,
    Operation, Put, PutIfAbsent, Retryable, Store, StoreError, StoreErrorKind, StoreLock,
    StoreOptions,
};

/// What is put from memory without waiting for an upload buffer.
const SMALL_BYTES: u64 = 64 << 10;

pub(crate) struct RemoteStore {
    core: Arc<Core>,
    engine: Arc<Engine>,
    pool: Arc<Pool>,
    access: Access,
    parts_max: u32,
}

impl RemoteStore {
    /// Looks whether the bucket is there; for writing, tries what the server can do.
    pub(crate) fn open(
        place: &BucketPlace,
        access: Access,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        options.validate()?;
        let url = place.to_string();
        let engine =
            Engine::start().map_err(|source| StoreError::from_io(Operation::Open, &url, source))?;
        let core = |checksum| {
            let client = Client::new(place, options, &url, checksum)?;
            Ok::<_, StoreError>(Core::new(
                url.clone(),
                &place.prefix,
                client,
                Bounds::of(options).for_opening(),
            ))
        };
        let mut opened = core(true)?;
        match access {
            Access::Read => {
                let looked = engine.block_on(opened.look());
                looked.map_err(|failure| opened.error(Operation::Open, &failure))?;
            }
            Access::Write => {
                let probe = |core: &Core| {
                    let probed = engine.block_on(core.probe());
                    probed.map_err(|failure| core.error(Operation::Open, &failure))
                };
                let facts = match probe(&opened)? {
                    Probed::Facts(facts) => facts,
                    Probed::ChecksumRefused => {
                        opened = core(false)?;
                        match probe(&opened)? {
                            Probed::Facts(facts) => facts,
                            Probed::ChecksumRefused => unreachable!("no checksum was sent"),
                        }
                    }
                };
                if !facts.honoured && !options.single_writer {
                    return Err(unfenced(&opened, facts.put_if_absent));
                }
                opened
                    .client
                    .complete_if_absent
                    .store(facts.honoured, Ordering::Relaxed);
                opened.set_facts(facts);
            }
        }
        opened.bounds = Bounds::of(options);
        Ok(Self {
            core: Arc::new(opened),
            engine: Arc::new(engine),
            pool: Pool::new(options.part_bytes as usize, options.parts_in_flight),
            access,
            parts_max: options.parts_max,
        })
    }

    fn check_writable(&self, operation: Operation) -> Result<(), StoreError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(self
                .core
                .refuse(
                    StoreErrorKind::Denied,
                    operation,
                    "it was opened for reading",
                )
                .with_next_step("open it for writing")),
        }
    }

    fn local_file(&self, name: &ObjectName, reason: String) -> StoreError {
        self.core
            .refuse(StoreErrorKind::LocalFile, Operation::Write, reason)
            .with_object(name)
    }

    fn unreadable(
        &self,
        name: &ObjectName,
        path: &Path,
        verb: &str,
        error: io::Error,
    ) -> StoreError {
        let reason = format!(
            "cannot {verb} {}: {}",
            path.display(),
            system_reason(&error)
        );
        self.local_file(name, reason).with_source(error)
    }

    /// The file, which is a regular one, and its length.
    fn open_file(&self, name: &ObjectName, path: &Path) -> Result<(File, u64), StoreError> {
        let unreadable = |error| self.unreadable(name, path, "read", error);
        let no_file = || self.local_file(name, format!("{} is not a regular file", path.display()));
        // Looked at first, so that a pipe without a writer does not keep us waiting.
        if !fs::symlink_metadata(path).map_err(unreadable)?.is_file() {
            return Err(no_file());
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        match meta.is_file() {
            true => Ok((file, meta.len())),
            false => Err(no_file()),
        }
    }

    fn put_large(
        &self,
        name: &ObjectName,
        path: &object_store::path::Path,
        content: Content<'_>,
        bytes: u64,
        same: Same,
    ) -> Result<Put, UploadOutcome> {
        let cut = Cut::of(
            bytes,
            self.pool.buffer_bytes(),
            self.pool.buffers_max(),
            self.parts_max,
        )
        .map_err(|least| {
            let reason = format!(
                "{bytes} bytes in at most {} parts need larger parts than the upload buffers hold",
                self.parts_max
            );
            UploadOutcome::Store(
                self.core
                    .refuse(StoreErrorKind::TooLarge, Operation::Write, reason)
                    .with_object(name)
                    .with_next_step(format!(
                        "give an upload part size of at least {}MiB",
                        least >> 20
                    )),
            )
        })?;
        let uploading = Uploading {
            core: &self.core,
            engine: &self.engine,
            pool: &self.pool,
            path,
            content,
            cut,
            same,
        };
        uploading.run().map_err(|failure| match failure {
            UploadFailure::Put(failure) => {
                UploadOutcome::Store(self.core.put_error(name, bytes, &failure))
            }
            UploadFailure::File(error) => UploadOutcome::File(error),
        })
    }
}

/// Whose fault a failed upload is.
enum UploadOutcome {
    Store(StoreError),
    File(io::Error),
}

fn unfenced(core: &Core, put_if_absent: PutIfAbsent) -> StoreError {
    let reason = match put_if_absent {
        PutIfAbsent::Refused => {
            "the server refuses conditional puts, so two writers could overwrite each other's objects"
        }
        _ => {
            "the server ignores the condition of conditional puts, so two writers could overwrite each other's objects"
        }
    };
    core.refuse(StoreErrorKind::Unsupported, Operation::Open, reason)
        .with_next_step("if nobody else writes there, give --single-writer")
}

impl Store for RemoteStore {
    fn url(&self) -> &str {
        &self.core.url
    }

    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)
            .map_err(|error| error.with_object(name))?;
        let path = self.core.path(Operation::Write, name)?;
        let content = Content::Memory(bytes);
        const MEMORY: &str = "memory can be read to its end";
        let payload = match bytes.len() as u64 {
            // Part records do not wait for buffers behind chunks.
            0..=SMALL_BYTES => PutPayload::from_bytes(Bytes::copy_from_slice(bytes)),
            length if length <= self.pool.buffer_bytes() => {
                self.pool.read(content, 0, length).expect(MEMORY)
            }
            length => {
                return self
                    .put_large(name, &path, content, length, Same::Bytes)
                    .map_err(|outcome| match outcome {
                        UploadOutcome::Store(error) => error,
                        UploadOutcome::File(_) => unreachable!("{MEMORY}"),
                    });
            }
        };
        self.engine
            .block_on(self.core.put(&path, &payload, Same::Bytes))
            .map_err(|failure| self.core.put_error(name, bytes.len() as u64, &failure))
    }

    fn put_file(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        let put = self.put_copy(name, path)?;
        fs::remove_file(path).map_err(|error| {
            self.unreadable(name, path, "remove", error)
                .with_retryable(Retryable::MayHaveBeenApplied)
        })?;
        Ok(put)
    }

    fn put_copy(&self, name: &ObjectName, path: &Path) -> Result<Put, StoreError> {
        self.check_writable(Operation::Write)
            .map_err(|error| error.with_object(name))?;
        let key = self.core.path(Operation::Write, name)?;
        let (file, bytes) = self.open_file(name, path)?;
        let unreadable = |error| self.unreadable(name, path, "read", error);
        if bytes <= self.pool.buffer_bytes() {
            let payload = self
                .pool
                .read(Content::File(&file), 0, bytes)
                .map_err(unreadable)?;
            return self
                .engine
                .block_on(self.core.put(&key, &payload, Same::Length))
                .map_err(|failure| self.core.put_error(name, bytes, &failure));
        }
        self.put_large(name, &key, Content::File(&file), bytes, Same::Length)
            .map_err(|outcome| match outcome {
                UploadOutcome::Store(error) => error,
                UploadOutcome::File(error) => unreadable(error),
            })
    }

    fn put_memory_bytes(&self) -> u64 {
        self.pool.buffer_bytes() * self.pool.buffers_max() as u64
    }

    fn read_memory_bytes(&self) -> u64 {
        BLOCKS * BLOCK_BYTES
    }

    fn staging_dir(&self) -> Option<&Path> {
        None
    }

    fn get(&self, name: &ObjectName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.core.path(Operation::Read, name)?;
        match self.engine.block_on(self.core.get(&path, bytes_max)) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(bytes)) => {
                let reason = format!("it has {bytes} bytes, {bytes_max} are allowed");
                Err(self
                    .core
                    .refuse(StoreErrorKind::TooLarge, Operation::Read, reason)
                    .with_object(name))
            }
            Err(failure) => Err(self.core.error(Operation::Read, &failure).with_object(name)),
        }
    }

    fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let path = self.core.path(Operation::Read, name)?;
        match self.engine.block_on(self.core.head(&path)) {
            Ok(version) => Ok(ObjectMeta::new(version.bytes)),
            Err(failure) => Err(self.core.error(Operation::Read, &failure).with_object(name)),
        }
    }

    fn open(&self, name: &ObjectName) -> Result<Box<dyn ObjectRead>, StoreError> {
        let path = self.core.path(Operation::Read, name)?;
        let version = self
            .engine
            .block_on(self.core.head(&path))
            .map_err(|failure| self.core.error(Operation::Read, &failure).with_object(name))?;
        Ok(Box::new(RemoteRead {
            core: Arc::clone(&self.core),
            engine: Arc::clone(&self.engine),
            name: name.clone(),
            path,
            version,
            at: 0,
            block: None,
            next: None,
        }))
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectEntry) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if split_prefix(prefix).is_none() {
            return Err(self
                .core
                .refuse(
                    StoreErrorKind::Invalid,
                    Operation::List,
                    "no object name starts like this",
                )
                .with_object(format_args!("{prefix:?}")));
        }
        self.core
            .list(&self.engine, prefix, visit)
            .map_err(|failure| self.core.error(Operation::List, &failure))
    }

    fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.check_writable(Operation::Delete)
            .map_err(|error| error.with_object(name))?;
        let path = self.core.path(Operation::Delete, name)?;
        self.engine
            .block_on(self.core.remove(&path))
            .map_err(|failure| {
                self.core
                    .error(Operation::Delete, &failure)
                    .with_object(name)
            })
    }

    fn lock(&self) -> Result<StoreLock, StoreError> {
        self.check_writable(Operation::Lock)?;
        Err(self.core.refuse(
            StoreErrorKind::Unsupported,
            Operation::Lock,
            "a bucket has no locks: put-if-absent keeps writers apart",
        ))
    }

    fn capabilities(&self) -> Result<Capabilities, StoreError> {
        let facts = self.core.facts();
        let confirmed = match facts.confirmed_by {
            ConfirmedBy::Checksum => "each put has a CRC64NVME that the server checks",
            ConfirmedBy::SignedPayload => "each put has a signed SHA-256 that the server checks",
            ConfirmedBy::ReadingBack => "each put is read back",
            ConfirmedBy::NotProbed => "nothing was tried",
        };
        let whereabouts = &self.core.client.whereabouts;
        let mut can = Capabilities::new(
            facts.put_if_absent,
            true,
            format!("a bucket ({whereabouts}); {confirmed}"),
        );
        can.lock = false;
        can.name_bytes_max = self.core.name_bytes_max();
        can.confirmed_by = Some(facts.confirmed_by);
        Ok(can)
    }

    fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        self.engine
            .block_on(self.core.leftovers())
            .map_err(|failure| self.core.error(Operation::ListLeftovers, &failure))
    }

    fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        self.check_writable(Operation::RemoveLeftover)
            .map_err(|error| error.with_object(&leftover.name))?;
        self.engine.block_on(self.core.remove_leftover(leftover))
    }
}
