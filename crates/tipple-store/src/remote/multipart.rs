//! What is larger than a part: several requests, several of them under way.
//!
//! Not every server honours the condition of the request that finishes an upload. So this is for names that are content:
//! whatever two writers put there is the same.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use futures_util::StreamExt;
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutPayload};

use super::answer::{Again, Cause, Failure};
use super::core::Core;
use super::engine::Engine;
use super::pool::{Content, Pool};
use super::put::{PutFailure, Same, There};
use super::retry::{Attempts, ask, repeat};
use crate::Put;

/// An upload that somebody aborted is begun again so often.
const UPLOADS_MAX: u32 = 3;
/// Read at a time when a file is compared with what is stored.
const COMPARE_BYTES: usize = 64 << 10;

/// How a file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    bytes: u64,
    part_bytes: u64,
    parts: u64,
}

impl Cut {
    /// Parts of one buffer, or of as many as it takes to stay within `parts_max`.
    ///
    /// # Errors
    /// The buffers are not enough for one such part: the smallest part size that would do.
    pub(super) fn of(
        bytes: u64,
        buffer_bytes: u64,
        buffers_max: usize,
        parts_max: u32,
    ) -> Result<Self, u64> {
        let buffers = bytes
            .div_ceil(buffer_bytes.saturating_mul(u64::from(parts_max)))
            .max(1);
        if buffers > buffers_max as u64 {
            let least = bytes
                .div_ceil(u64::from(parts_max))
                .div_ceil(buffers_max as u64);
            // In whole MiB, as people write it.
            return Err(least.div_ceil(1 << 20) << 20);
        }
        let part_bytes = buffers * buffer_bytes;
        Ok(Self {
            bytes,
            part_bytes,
            parts: bytes.div_ceil(part_bytes).max(1),
        })
    }

    fn part(&self, number: u64) -> (u64, u64) {
        let offset = number * self.part_bytes;
        (offset, (self.bytes - offset).min(self.part_bytes))
    }
}

/// Why an upload failed.
pub(super) enum UploadFailure {
    Put(PutFailure),
    /// The local file cannot be read.
    File(io::Error),
}

impl From<PutFailure> for UploadFailure {
    fn from(failure: PutFailure) -> Self {
        Self::Put(failure)
    }
}

impl From<Failure> for UploadFailure {
    fn from(failure: Failure) -> Self {
        Self::Put(failure.into())
    }
}

/// One file on its way.
pub(super) struct Uploading<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) engine: &'a Engine,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) path: &'a Path,
    pub(super) content: Content<'a>,
    pub(super) cut: Cut,
    pub(super) same: Same,
}

type PartResult = (u64, Result<PartId, Failure>);

impl Uploading<'_> {
    /// Uploads the file. After an error nothing of it is left, unless aborting failed too.
    pub(super) fn run(&self) -> Result<Put, UploadFailure> {
        match self.engine.block_on(self.there_again())? {
            There::Nothing => {}
            There::Same => return Ok(Put::AlreadySame),
            There::Other(bytes) => return Err(PutFailure::Taken(bytes).into()),
        }
        let mut uploads = 0;
        loop {
            uploads += 1;
            match self.once() {
                // Somebody took it for a leftover.
                Err(UploadFailure::Put(PutFailure::Failed { failure, .. }))
                    if failure.cause == Cause::NoUpload && uploads < UPLOADS_MAX => {}
                done => return done,
            }
        }
    }

    fn once(&self) -> Result<Put, UploadFailure> {
        let (id, orphaned) = self.engine.block_on(self.create())?;
        let done = self
            .parts(&id)
            .and_then(|parts| self.engine.block_on(self.complete(&id, parts)))
            .and_then(|put| self.confirm(put));
        if done.is_err() {
            // Best effort: what stays is a leftover.
            let _ = self.engine.block_on(self.abort(&id));
        }
        if orphaned {
            self.engine.block_on(self.abort_others(&id));
        }
        done
    }

    /// The upload's id, and whether an answer was lost that may have named another one.
    async fn create(&self) -> Result<(String, bool), Failure> {
        let mut attempts = Attempts::new(self.core.bounds);
        let mut orphaned = false;
        loop {
            let create = self.core.client.backend.create_multipart(self.path);
            match ask(self.core.bounds.request_time(0), create).await {
                Ok(id) => return Ok((id, orphaned)),
                Err(failure) => {
                    orphaned |= failure.again() == Again::Ambiguous;
                    attempts.after(failure).await?
                }
            };
        }
    }

    /// Reads and sends all parts, as many at once as there are buffers.
    fn parts(&self, id: &str) -> Result<Vec<PartId>, UploadFailure> {
        let (sender, results) = mpsc::channel::<PartResult>();
        let mut parts: Vec<Option<PartId>> = vec![None; self.cut.parts as usize];
        let mut failed: Option<UploadFailure> = None;
        let mut under_way = Vec::new();
        for number in 0..self.cut.parts {
            let (offset, length) = self.cut.part(number);
            // Waits for buffers, and so for parts before, of this file or of others.
            let payload = match self.pool.read(self.content, offset, length) {
                Ok(payload) => payload,
                Err(error) => {
                    failed = Some(UploadFailure::File(error));
                    break;
                }
            };
            if let Err(failure) = arrived(&results, &mut parts, false) {
                failed = Some(failure.into());
                break;
            }
            let (core, path, id) = (Arc::clone(self.core), self.path.clone(), id.to_owned());
            let sender = sender.clone();
            under_way.push(self.engine.spawn(async move {
                let part = put_part(&core, &path, id, number, payload).await;
                // Nobody listens after another part has failed.
                let _ = sender.send((number, part));
            }));
        }
        drop(sender);
        if failed.is_none() {
            failed = arrived(&results, &mut parts, true).err().map(Into::into);
        }
        match failed {
            None => Ok(parts
                .into_iter()
                .map(|part| part.expect("all arrived"))
                .collect()),
            Some(failure) => {
                for part in &under_way {
                    part.abort();
                }
                Err(failure)
            }
        }
    }

    /// Makes one object of the parts. Whatever the answer, the object decides: it is there, or it is not.
    async fn complete(&self, id: &str, parts: Vec<PartId>) -> Result<Put, UploadFailure> {
        let mut attempts = Attempts::new(self.core.bounds);
        let mut maybe_applied = false;
        let id = id.to_owned();
        // Servers put large objects together at their leisure.
        let time = self.core.bounds.request_time(self.cut.bytes);
        loop {
            let backend = &self.core.client.backend;
            let complete = backend.complete_multipart(self.path, &id, parts.clone());
            let failure = match ask(time, complete).await {
                Ok(_) => match self.completed().await? {
                    Ok(put) => return Ok(put),
                    Err(failure) => failure,
                },
                Err(failure) => {
                    let refused = failure.cause == Cause::Condition;
                    maybe_applied |= failure.again() == Again::Ambiguous;
                    match self.there().await {
                        Ok(There::Same) if refused && !maybe_applied => {
                            return Ok(Put::AlreadySame);
                        }
                        Ok(There::Same) => return Ok(Put::Created),
                        Ok(There::Other(bytes)) => return Err(PutFailure::Taken(bytes).into()),
                        Err(error @ UploadFailure::File(_)) => return Err(error),
                        // Nothing there, or not known: a refusal for something that is not there is a conflict.
                        Ok(There::Nothing) | Err(_) if refused => {
                            Failure::new(Cause::Conflict, *failure.seen)
                        }
                        Ok(There::Nothing) | Err(_) => failure,
                    }
                }
            };
            if let Err(failure) = attempts.after(failure).await {
                let failed = PutFailure::Failed {
                    failure,
                    maybe_applied,
                };
                return Err(failed.into());
            }
        }
    }

    /// After the server said that it made the object.
    async fn completed(&self) -> Result<Result<Put, Failure>, UploadFailure> {
        let words = match self.there_again().await? {
            There::Same => return Ok(Ok(Put::Created)),
            There::Other(bytes) => {
                format!("it made an object of {bytes} of {} bytes", self.cut.bytes)
            }
            There::Nothing => "it put the parts together, and has no object".to_owned(),
        };
        Ok(Err(Failure::with_words(Cause::Nonsense, words)))
    }

    /// Where the server checks nothing, reads the object back.
    fn confirm(&self, put: Put) -> Result<Put, UploadFailure> {
        if put != Put::Created || !self.core.facts().read_back {
            return Ok(put);
        }
        match self.engine.block_on(self.is_stored()) {
            Ok(true) => Ok(put),
            Ok(false) => {
                self.engine.block_on(self.core.remove(self.path))?;
                Err(Failure::with_words(Cause::Damaged, "it stored other bytes").into())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether the object's bytes are these.
    async fn is_stored(&self) -> Result<bool, UploadFailure> {
        let time = self.core.bounds.request_time(self.cut.bytes);
        let mut attempts = Attempts::new(self.core.bounds);
        loop {
            let mut content = Compared::new(self.content);
            let mut unreadable = None;
            let read = ask(time, async {
                let found = self
                    .core
                    .client
                    .backend
                    .get_opts(self.path, GetOptions::default())
                    .await?;
                let mut stored = found.into_stream();
                while let Some(piece) = stored.next().await {
                    match content.starts_with(&piece?) {
                        Ok(true) => {}
                        Ok(false) => return Ok(false),
                        Err(error) => {
                            unreadable = Some(error);
                            return Ok(false);
                        }
                    }
                }
                Ok(content.at == self.cut.bytes)
            });
            match (read.await, unreadable) {
                (_, Some(error)) => return Err(UploadFailure::File(error)),
                (Ok(same), None) => return Ok(same),
                (Err(failure), None) => attempts.after(failure).await?,
            };
        }
    }

    /// What is there, asked once, but for bytes that must be compared.
    async fn there(&self) -> Result<There, UploadFailure> {
        match self.core.length_there(self.path, self.cut.bytes).await? {
            There::Same if self.same == Same::Bytes && !self.is_stored().await? => {
                Ok(There::Other(self.cut.bytes))
            }
            there => Ok(there),
        }
    }

    async fn there_again(&self) -> Result<There, UploadFailure> {
        let mut attempts = Attempts::new(self.core.bounds);
        loop {
            match self.there().await {
                Err(UploadFailure::Put(PutFailure::Failed { failure, .. })) => {
                    attempts.after(failure).await?;
                }
                there => return there,
            }
        }
    }

    async fn abort(&self, id: &str) -> Result<(), Failure> {
        self.core.abort(self.path, id).await
    }

    /// Aborts what a lost answer of ours began. Another writer of the same content loses its upload, and begins it again.
    async fn abort_others(&self, id: &str) {
        let Ok(uploads) = self.core.uploads(self.path.as_ref()).await else {
            return;
        };
        for upload in uploads {
            if upload.key == self.path.as_ref() && upload.id != id {
                let _ = self.abort(&upload.id).await;
            }
        }
    }
}

impl Core {
    pub(super) async fn abort(&self, path: &Path, id: &str) -> Result<(), Failure> {
        let id = id.to_owned();
        let aborted = repeat(self.bounds, 0, || {
            self.client.backend.abort_multipart(path, &id)
        })
        .await;
        match aborted {
            Err(failure) if !matches!(failure.cause, Cause::NoUpload | Cause::NotFound) => {
                Err(failure)
            }
            _ => Ok(()),
        }
    }

    async fn length_there(&self, path: &Path, bytes: u64) -> Result<There, Failure> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let head = self.client.backend.get_opts(path, options);
        match ask(self.bounds.request_time(0), head).await {
            Ok(found) if found.meta.size == bytes => Ok(There::Same),
            Ok(found) => Ok(There::Other(found.meta.size)),
            Err(failure) if failure.cause == Cause::NotFound => Ok(There::Nothing),
            Err(failure) => Err(failure),
        }
    }
}

/// Sends one part, with a fresh signature each time.
async fn put_part(
    core: &Core,
    path: &Path,
    id: String,
    number: u64,
    payload: PutPayload,
) -> Result<PartId, Failure> {
    let bytes = payload.content_length() as u64;
    repeat(core.bounds, bytes, || {
        core.client
            .backend
            .put_part(path, &id, number as usize, payload.clone())
    })
    .await
}

/// Notes the parts that have arrived; with `all`, waits for the rest.
fn arrived(
    results: &Receiver<PartResult>,
    parts: &mut [Option<PartId>],
    all: bool,
) -> Result<(), Failure> {
    loop {
        let next = match all {
            true => results.recv().ok(),
            false => results.try_recv().ok(),
        };
        let Some((number, part)) = next else {
            return Ok(());
        };
        parts[number as usize] = Some(part?);
    }
}

/// Content that is compared piece by piece.
struct Compared<'a> {
    content: Content<'a>,
    at: u64,
    buffer: Box<[u8]>,
}

impl<'a> Compared<'a> {
    fn new(content: Content<'a>) -> Self {
        Self {
            content,
            at: 0,
            buffer: vec![0; COMPARE_BYTES].into_boxed_slice(),
        }
    }

    fn starts_with(&mut self, piece: &[u8]) -> io::Result<bool> {
        for piece in piece.chunks(COMPARE_BYTES) {
            let buffer = &mut self.buffer[..piece.len()];
            match self.content.read_exact_at(buffer, self.at) {
                Ok(()) if buffer == piece => self.at += piece.len() as u64,
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_grow_with_the_file() {
        let cut = |bytes, parts_max| Cut::of(bytes, 16 * MIB, 4, parts_max);
        let parts = |cut: Cut| (cut.parts, cut.part_bytes / MIB);
        assert_eq!(parts(cut(17 * MIB, 10_000).unwrap()), (2, 16));
        assert_eq!(parts(cut(32 * MIB, 10_000).unwrap()), (2, 16));
        assert_eq!(parts(cut(64 * MIB, 2).unwrap()), (2, 32));
        assert_eq!(parts(cut(64 * MIB + 1, 2).unwrap()), (2, 48));
        assert_eq!(parts(cut(400_000 * MIB, 10_000).unwrap()), (8334, 48));
        // Larger parts than there are buffers for: the size of a buffer that would do.
        assert_eq!(cut(129 * MIB, 2), Err(17 * MIB));
        assert!(Cut::of(129 * MIB, 17 * MIB, 4, 2).is_ok());
        assert_eq!(cut(u64::MAX, 1), Err(1 << 62));
    }

    #[test]
    fn parts_cover_the_file() {
        for bytes in [1, 16 * MIB, 16 * MIB + 1, 100 * MIB - 1] {
            let cut = Cut::of(bytes, 16 * MIB, 4, 3).unwrap();
            let mut end = 0;
            for number in 0..cut.parts {
                let (offset, length) = cut.part(number);
                assert_eq!(offset, end);
                assert!(length > 0 && length <= cut.part_bytes);
                end += length;
            }
            assert_eq!(end, bytes);
            assert!(cut.parts <= 3);
        }
    }
}
