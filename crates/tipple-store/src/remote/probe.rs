//! What the server really does, tried on an object of our own when a store is opened for writing.
//!
//! | request | answer | means |
//! |---|---|---|
//! | PUT, if absent | 2xx | may be written to |
//! | | 501, 405 | knows no conditions: tried again without |
//! | | 400 and the like, with a checksum | refuses the checksum's header: it is left out, payloads are signed |
//! | PUT, if absent, again | 412, 304, 409 | honours put-if-absent |
//! | | 2xx | ignores it |
//! | PUT with a wrong CRC64NVME | 400 | checks checksums |
//! | PUT signed with a wrong SHA-256 | 400, 403 | checks payloads |
//! | DELETE | | nothing of it is left |

use std::process;

use bytes::Bytes;
use http::Method;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};

use super::answer::{Again, Cause, Failure};
use super::client::S3;
use super::core::{Core, Facts};
use super::retry::{Attempts, ask, ask_for, random};
use crate::{ConfirmedBy, PutIfAbsent};

const FIRST: &[u8] = b"tipple tries what this store can do; this object may be deleted";
const SECOND: &[u8] = b"tipple tries whether this store overwrites; this object may be deleted";

/// What came of it.
pub(super) enum Probed {
    Facts(Facts),
    /// The server refuses requests with a checksum: make the client without.
    ChecksumRefused,
}

impl Core {
    /// Tries all of it, on a name of its own that is free again afterwards.
    pub(super) async fn probe(&self) -> Result<Probed, Failure> {
        let path = self.key(&format!(
            ".tipple/probe-{}-{:016x}",
            process::id(),
            random()
        ));
        let probed = self.probe_on(&path).await;
        match probed {
            Ok(probed) => {
                self.remove(&path).await?;
                Ok(probed)
            }
            Err(failure) => {
                // Best effort: there is a first error to tell.
                let _ = self.remove(&path).await;
                Err(failure)
            }
        }
    }

    async fn probe_on(&self, path: &Path) -> Result<Probed, Failure> {
        let s3 = self.client.s3.as_ref();
        let put_if_absent = match self.probe_put(path, FIRST, PutMode::Create).await {
            Ok(()) => match self.probe_put(path, SECOND, PutMode::Create).await {
                Ok(()) => PutIfAbsent::Ignored,
                Err(failure) if matches!(failure.cause, Cause::Condition | Cause::Conflict) => {
                    PutIfAbsent::Honoured
                }
                Err(failure) if failure.cause == Cause::NotImplemented => PutIfAbsent::Refused,
                Err(failure) => return Err(failure),
            },
            // Its own attempt, whose answer was lost.
            Err(failure) if failure.cause == Cause::Condition => PutIfAbsent::Honoured,
            Err(failure) if failure.cause == Cause::NotImplemented => {
                match self.probe_put(path, FIRST, PutMode::Overwrite).await {
                    Ok(()) => PutIfAbsent::Refused,
                    Err(failure) if self.blames_checksum(&failure) => {
                        return Ok(Probed::ChecksumRefused);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Err(failure) if self.blames_checksum(&failure) => return Ok(Probed::ChecksumRefused),
            Err(failure) => return Err(failure),
        };
        let confirmed_by = match s3 {
            Some(s3) if s3.protection.checksum && self.refuses_wrong_checksum(s3, path).await? => {
                ConfirmedBy::Checksum
            }
            Some(s3) if s3.protection.signed && self.refuses_wrong_digest(s3, path).await? => {
                ConfirmedBy::SignedPayload
            }
            _ => ConfirmedBy::ReadingBack,
        };
        Ok(Probed::Facts(Facts::new(put_if_absent, confirmed_by)))
    }

    /// Whether leaving the checksum out may help: the request was understood and refused, for no reason of its sender.
    fn blames_checksum(&self, failure: &Failure) -> bool {
        let sent = self
            .client
            .s3
            .as_ref()
            .is_some_and(|s3| s3.protection.checksum);
        sent && matches!(
            failure.cause,
            Cause::Refused | Cause::NotImplemented | Cause::Damaged
        )
    }

    async fn probe_put(
        &self,
        path: &Path,
        bytes: &'static [u8],
        mode: PutMode,
    ) -> Result<(), Failure> {
        let mut attempts = Attempts::new(self.bounds);
        loop {
            let payload = PutPayload::from_static(bytes);
            let options = PutOptions::from(mode.clone());
            let put = self.client.backend.put_opts(path, payload, options);
            let failure = match ask(self.bounds.request_time(0), put).await {
                Ok(_) => return Ok(()),
                // Two conditional puts never meet here: a server that answers so has the object.
                Err(failure) if failure.cause == Cause::Conflict => return Err(failure),
                // Some say 501 to everything that they do not know, and no later attempt changes that.
                Err(failure) if failure.cause == Cause::Damaged => return Err(failure),
                Err(failure) => failure,
            };
            attempts.after(failure).await?;
        }
    }

    async fn refuses_wrong_checksum(&self, s3: &S3, path: &Path) -> Result<bool, Failure> {
        // The CRC64NVME of nothing.
        let wrong = [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=".to_owned())];
        self.refuses(s3, path, &wrong, None).await
    }

    async fn refuses_wrong_digest(&self, s3: &S3, path: &Path) -> Result<bool, Failure> {
        self.refuses(s3, path, &[], Some([0; 32])).await
    }

    /// Whether a put with something wrong in it is refused.
    async fn refuses(
        &self,
        s3: &S3,
        path: &Path,
        headers: &[(&'static str, String)],
        digest: Option<[u8; 32]>,
    ) -> Result<bool, Failure> {
        let mut attempts = Attempts::new(self.bounds);
        loop {
            let payload = Bytes::from_static(SECOND);
            let put = s3.send(Method::PUT, path.as_ref(), &[], headers, payload, digest);
            let failure = match ask_for(self.bounds.request_time(0), put).await {
                Ok(_) => return Ok(false),
                Err(failure) => failure,
            };
            match failure.seen.status {
                Some(400..=499)
                    if failure.again() == Again::Never || failure.cause == Cause::Damaged =>
                {
                    return Ok(true);
                }
                _ => attempts.after(failure).await?,
            };
        }
    }

    /// Whether the bucket is there and may be listed.
    pub(super) async fn look(&self) -> Result<(), Failure> {
        self.page("", None, Some(1)).await.map(drop)
    }
}
