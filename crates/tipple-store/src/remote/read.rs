//! Reading: whole objects in bounded memory, and large ones block by block, the next one fetched ahead.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::task::JoinHandle;

use super::answer::{Cause, Failure};
use super::core::Core;
use super::engine::Engine;
use super::retry::{Attempts, ask};
use crate::{ObjectName, Operation, StoreError, StoreErrorKind};

/// One request of an object that is read in pieces.
pub(super) const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks that an open object holds: the one that is read, and the next one.
pub(super) const BLOCKS: u64 = 2;
/// Allocated before the first byte of an object has arrived.
const FIRST_BYTES_MAX: u64 = 1 << 20;

/// An object as it was when it was opened.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) bytes: u64,
    e_tag: Option<String>,
}

impl Core {
    pub(super) async fn head(&self, path: &Path) -> Result<Version, Failure> {
        let found = super::retry::repeat(self.bounds, 0, || {
            let options = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            self.client.backend.get_opts(path, options)
        });
        let meta = found.await?.meta;
        Ok(Version {
            bytes: meta.size,
            // Some servers answer with an empty one, and no object has that.
            e_tag: meta
                .e_tag
                .filter(|e_tag| !e_tag.trim_matches('"').is_empty()),
        })
    }

    /// All of an object, or its length if that is more than `bytes_max`.
    pub(super) async fn get(
        &self,
        path: &Path,
        bytes_max: u64,
    ) -> Result<Result<Vec<u8>, u64>, Failure> {
        let mut attempts = Attempts::new(self.bounds);
        let mut got = Vec::new();
        let mut version: Option<Version> = None;
        loop {
            let had = got.len();
            match self.get_on(path, &mut version, bytes_max, &mut got).await {
                Ok(None) => return Ok(Ok(got)),
                Ok(Some(too_many)) => return Ok(Err(too_many)),
                Err(failure) => {
                    if got.len() > had {
                        attempts.succeeded();
                    }
                    attempts.after(failure).await?;
                }
            }
        }
    }

    /// Goes on where `got` ends. Returns the length of an object that is too long.
    async fn get_on(
        &self,
        path: &Path,
        version: &mut Option<Version>,
        bytes_max: u64,
        got: &mut Vec<u8>,
    ) -> Result<Option<u64>, Failure> {
        let options = match version {
            Some(version) if got.len() as u64 >= version.bytes => return Ok(None),
            Some(version) => version.options(got.len() as u64..version.bytes),
            None => GetOptions::default(),
        };
        let time = self.bounds.request_time(
            version
                .as_ref()
                .map_or(BLOCK_BYTES, |version| version.bytes - got.len() as u64),
        );
        ask(time, async {
            let found = self.client.backend.get_opts(path, options).await?;
            let bytes = found.meta.size;
            if bytes > bytes_max {
                return Ok(Some(bytes));
            }
            if version.is_none() {
                got.reserve_exact(bytes.min(FIRST_BYTES_MAX) as usize);
                *version = Some(Version {
                    bytes,
                    e_tag: found.meta.e_tag.clone(),
                });
            }
            append(found, bytes - got.len() as u64, got).await?;
            Ok(None)
        })
        .await
    }

    /// One range of an object as it was opened.
    async fn range(
        &self,
        path: &Path,
        version: &Version,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let mut attempts = Attempts::new(self.bounds);
        let length = range.end - range.start;
        let mut got = Vec::with_capacity(length as usize);
        loop {
            let had = got.len() as u64;
            let rest = range.start + had..range.end;
            let time = self.bounds.request_time(rest.end - rest.start);
            let read = ask(time, async {
                let options = version.options(rest.clone());
                let found = self.client.backend.get_opts(path, options).await?;
                append(found, rest.end - rest.start, &mut got).await
            });
            match read.await {
                Ok(()) => return Ok(got),
                Err(failure) => {
                    if got.len() as u64 > had {
                        attempts.succeeded();
                    }
                    attempts.after(failure).await?;
                }
            }
        }
    }
}

impl Version {
    fn options(&self, range: Range<u64>) -> GetOptions {
        GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.e_tag.clone(),
            ..GetOptions::default()
        }
    }
}

/// Takes exactly `bytes` bytes of an answer; what has arrived when it breaks off stays.
async fn append(
    found: object_store::GetResult,
    bytes: u64,
    got: &mut Vec<u8>,
) -> object_store::Result<()> {
    let mut stored = found.into_stream();
    let mut left = bytes as usize;
    while let Some(piece) = stored.next().await {
        let piece = piece?;
        if piece.len() > left {
            break; // more than was announced: not believed
        }
        got.extend_from_slice(&piece);
        left -= piece.len();
    }
    match left {
        0 => Ok(()),
        _ => Err(object_store::Error::Generic {
            store: "remote",
            source: "it sent another number of bytes than it announced".into(),
        }),
    }
}

/// A block on its way.
type Fetching = JoinHandle<Result<Vec<u8>, Failure>>;

/// An open object. See [`Store::open`](crate::Store::open).
pub(super) struct RemoteRead {
    pub(super) core: Arc<Core>,
    pub(super) engine: Arc<Engine>,
    pub(super) name: ObjectName,
    pub(super) path: Path,
    pub(super) version: Version,
    pub(super) at: u64,
    /// Where it begins, and its bytes.
    pub(super) block: Option<(u64, Vec<u8>)>,
    /// The block behind it, when the object is read in its order.
    pub(super) next: Option<(u64, Fetching)>,
}

impl RemoteRead {
    fn in_block(&self) -> Option<&[u8]> {
        let (start, bytes) = self.block.as_ref()?;
        let skip = self.at.checked_sub(*start)?;
        bytes.get(skip as usize..).filter(|rest| !rest.is_empty())
    }

    fn range_from(&self, start: u64) -> Range<u64> {
        start..(start + BLOCK_BYTES).min(self.version.bytes)
    }

    /// Makes `block` hold `at`.
    fn fetch(&mut self) -> Result<(), Failure> {
        let last_end = self
            .block
            .take()
            .map(|(start, bytes)| start + bytes.len() as u64);
        let ahead = match self.next.take() {
            Some((start, fetching)) if start == self.at => Some(fetching),
            Some((_, fetching)) => {
                fetching.abort(); // somebody looks elsewhere
                None
            }
            None => None,
        };
        let bytes = match ahead {
            Some(fetching) => self
                .engine
                .block_on(fetching)
                .unwrap_or_else(|error| match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => unreachable!("nobody aborts the block that is waited for"),
                })?,
            None => {
                let range = self.range_from(self.at);
                let read = self.core.range(&self.path, &self.version, range);
                self.engine.block_on(read)?
            }
        };
        let end = self.at + bytes.len() as u64;
        // Once two blocks were read in their order, the third is fetched ahead: a look at the end costs no more than that.
        if last_end == Some(self.at) && end < self.version.bytes {
            let (core, path, version) = (
                Arc::clone(&self.core),
                self.path.clone(),
                self.version.clone(),
            );
            let range = self.range_from(end);
            let fetching = async move { core.range(&path, &version, range).await };
            self.next = Some((end, self.engine.spawn(fetching)));
        }
        self.block = Some((self.at, bytes));
        Ok(())
    }
}

impl Read for RemoteRead {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.version.bytes || into.is_empty() {
            return Ok(0);
        }
        if self.in_block().is_none()
            && let Err(failure) = self.fetch()
        {
            let error = self
                .core
                .error(Operation::Read, &failure)
                .with_object(&self.name);
            return Err(io_error(error, failure.cause));
        }
        let block = self.in_block().expect("it was fetched");
        let length = block.len().min(into.len());
        into[..length].copy_from_slice(&block[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

fn io_error(error: StoreError, cause: Cause) -> io::Error {
    let kind = match (error.kind(), cause) {
        (StoreErrorKind::NotFound, _) => io::ErrorKind::NotFound,
        (StoreErrorKind::Denied, _) => io::ErrorKind::PermissionDenied,
        (_, Cause::TimedOut) => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Seek for RemoteRead {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.version.bytes.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "there is nothing before the first byte",
            )
        })?;
        Ok(self.at)
    }
}

impl Drop for RemoteRead {
    fn drop(&mut self) {
        if let Some((_, fetching)) = &self.next {
            fetching.abort();
        }
    }
}
