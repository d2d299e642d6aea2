//! What every part of a remote store shares: the client, the bounds, names and errors.

use std::sync::OnceLock;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::answer::{Again, Cause, Failure};
use super::client::Client;
use super::retry::{Bounds, repeat};
use crate::error::conflict;
use crate::name::NAME_BYTES_MAX;
use crate::{
    ConfirmedBy, ObjectName, Operation, PutIfAbsent, Retryable, StoreError, StoreErrorKind,
};

use super::put::PutFailure;

/// The client of a bucket and what is known of it.
pub(super) struct Core {
    /// As its user wrote it.
    pub(super) url: String,
    /// What stands before each name: empty, or a prefix that ends with `/`.
    pub(super) prefix: String,
    pub(super) client: Client,
    pub(super) bounds: Bounds,
    facts: OnceLock<Facts>,
}

/// What was found out by trying, when the store was opened for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) put_if_absent: PutIfAbsent,
    pub(super) confirmed_by: ConfirmedBy,
    /// Conditional puts are used.
    pub(super) honoured: bool,
    /// Each put is read back.
    pub(super) read_back: bool,
}

impl Facts {
    pub(super) fn new(put_if_absent: PutIfAbsent, confirmed_by: ConfirmedBy) -> Self {
        Self {
            put_if_absent,
            confirmed_by,
            honoured: put_if_absent == PutIfAbsent::Honoured,
            read_back: confirmed_by == ConfirmedBy::ReadingBack,
        }
    }
}

impl Core {
    pub(super) fn new(url: String, prefix: &str, client: Client, bounds: Bounds) -> Self {
        let prefix = match prefix {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Self {
            url,
            prefix,
            client,
            bounds,
            facts: OnceLock::new(),
        }
    }

    /// Of a store that is only read: nothing.
    pub(super) fn facts(&self) -> Facts {
        const NONE: Facts = Facts {
            put_if_absent: PutIfAbsent::NotProbed,
            confirmed_by: ConfirmedBy::NotProbed,
            honoured: false,
            read_back: true,
        };
        self.facts.get().copied().unwrap_or(NONE)
    }

    pub(super) fn set_facts(&self, facts: Facts) {
        let set = self.facts.set(facts);
        assert!(set.is_ok(), "a store is probed once");
    }

    /// Where an object is in the bucket.
    pub(super) fn path(&self, operation: Operation, name: &ObjectName) -> Result<Path, StoreError> {
        let name_bytes_max = self.name_bytes_max();
        if name.as_str().len() > name_bytes_max {
            let reason = format!(
                "its name is longer than the {name_bytes_max} bytes that the prefix leaves"
            );
            return Err(self
                .refuse(StoreErrorKind::Invalid, operation, reason)
                .with_object(name));
        }
        Ok(self.key(name.as_str()))
    }

    /// Where something with a plain name is.
    pub(super) fn key(&self, name: &str) -> Path {
        Path::parse(format!("{}{name}", self.prefix)).expect("a prefix and a name are plain")
    }

    pub(super) fn name_bytes_max(&self) -> usize {
        NAME_BYTES_MAX - self.prefix.len()
    }

    /// Deletes what is there; nothing is there after `Ok`.
    pub(super) async fn remove(&self, path: &Path) -> Result<(), Failure> {
        let backend = &self.client.backend;
        match repeat(self.bounds, 0, || {
            ObjectStoreExt::delete(&**backend as &dyn ObjectStore, path)
        })
        .await
        {
            Err(failure) if failure.cause != Cause::NotFound => Err(failure),
            _ => Ok(()),
        }
    }

    pub(super) fn refuse(
        &self,
        kind: StoreErrorKind,
        operation: Operation,
        reason: impl Into<std::borrow::Cow<'static, str>>,
    ) -> StoreError {
        StoreError::new(kind, operation, &self.url, reason)
    }

    /// The error of a request that failed.
    pub(super) fn error(&self, operation: Operation, failure: &Failure) -> StoreError {
        use Cause as C;
        let kind = match failure.cause {
            C::NotFound | C::NoBucket => StoreErrorKind::NotFound,
            C::NotImplemented => StoreErrorKind::Unsupported,
            C::Denied | C::Expired | C::NoCredentials | C::Skewed | C::Elsewhere => {
                StoreErrorKind::Denied
            }
            C::Full => StoreErrorKind::Full,
            C::NoUpload
            | C::Condition
            | C::Conflict
            | C::Damaged
            | C::Busy
            | C::Unreachable
            | C::Broken
            | C::TimedOut
            | C::Nonsense
            | C::Refused => StoreErrorKind::Io,
        };
        let error = self
            .refuse(kind, operation, failure.words())
            .with_retryable(match failure.again() {
                Again::Never => Retryable::Never,
                Again::Safe => Retryable::Safe,
                // Reading and listing change nothing.
                Again::Ambiguous => match operation {
                    Operation::Write | Operation::Delete | Operation::RemoveLeftover => {
                        Retryable::MayHaveBeenApplied
                    }
                    _ => Retryable::Safe,
                },
            });
        match self.next_step(failure) {
            Some(next) => error.with_next_step(next),
            None => error,
        }
    }

    fn next_step(&self, failure: &Failure) -> Option<String> {
        use Cause as C;
        let whereabouts = &self.client.whereabouts;
        let given = self
            .client
            .s3
            .as_ref()
            .is_none_or(|s3| s3.credentials().are_given());
        Some(match failure.cause {
            C::NoBucket => {
                format!("make it, or check its name and where it is looked for: {whereabouts}")
            }
            C::Denied => format!("check the credentials and what they allow ({whereabouts})"),
            C::Expired if given => {
                "set new credentials, then run the same command again".to_owned()
            }
            C::Expired => {
                "renew them, such as with `aws sso login`, then run the same command again"
                    .to_owned()
            }
            C::NoCredentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE".to_owned()
            }
            C::Skewed => "set the clock, then run the same command again".to_owned(),
            C::Elsewhere => match &failure.seen.region {
                Some(region)
                    if self
                        .client
                        .s3
                        .as_ref()
                        .is_some_and(|s3| s3.region() != region) =>
                {
                    format!("set AWS_REGION={region}")
                }
                _ => format!(
                    "set AWS_REGION or AWS_ENDPOINT_URL; it was looked for in {whereabouts}"
                ),
            },
            C::Unreachable => format!("check the network and the endpoint ({whereabouts})"),
            C::Full => "make room there, then run the same command again".to_owned(),
            C::Damaged
            | C::Busy
            | C::Broken
            | C::TimedOut
            | C::Nonsense
            | C::Conflict
            | C::NoUpload => "run the same command again when the server is well".to_owned(),
            C::NotFound | C::Condition | C::NotImplemented | C::Refused => return None,
        })
    }

    /// The error of a put of `bytes` bytes.
    pub(super) fn put_error(
        &self,
        name: &ObjectName,
        bytes: u64,
        failure: &PutFailure,
    ) -> StoreError {
        let error = match failure {
            PutFailure::Taken(there) => self.refuse(
                StoreErrorKind::AlreadyExists,
                Operation::Write,
                conflict(*there, bytes),
            ),
            PutFailure::Failed {
                failure,
                maybe_applied,
            } => {
                let error = self.error(Operation::Write, failure);
                match maybe_applied {
                    true => error.with_retryable(Retryable::MayHaveBeenApplied),
                    false => error,
                }
            }
        };
        error.with_object(name)
    }
}
