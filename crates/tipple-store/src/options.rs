//! What remote stores are told beyond their URL.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{Operation, StoreError, StoreErrorKind};

/// What a store is told beyond its URL. A local folder needs none of it.
///
/// ```
/// use tipple_store::StoreOptions;
///
/// let options = StoreOptions::default().with_variables([
///     ("AWS_ENDPOINT_URL", "http://127.0.0.1:4567"),
///     ("AWS_ACCESS_KEY_ID", "id"),
///     ("AWS_SECRET_ACCESS_KEY", "hunter2"),
///     ("EDITOR", "vi"), // no business of a store
/// ]);
/// assert!(!format!("{options:?}").contains("hunter2"));
/// assert_eq!(options.put_memory_bytes(), 64 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Credentials, regions, endpoints and proxies. Default: none.
    pub variables: Variables,
    /// Nobody else writes under the prefix. Needed where the server does not honour
    /// put-if-absent; wrong if somebody does. Default: false.
    pub single_writer: bool,
    /// One part of an upload, and the size of an upload buffer, 5 MiB to 5 GiB. A file of at most so many bytes
    /// is put in one request. Default: 16 MiB.
    pub part_bytes: u64,
    /// Upload buffers, and so the parts that are under way at the same time for all callers
    /// together, 1 to 256. Default: 4.
    pub parts_in_flight: usize,
    /// The most parts of one upload that the provider allows, 1 to 10,000. Parts of a large file
    /// are made larger, so that they are enough. Default: 10,000.
    pub parts_max: u32,
    /// Attempts at one request, the first included, at least 1. Default: 10.
    pub attempts_max: u32,
    /// How long after its first failure a request is tried again. Default: 5 minutes.
    pub retry_time: Duration,
    /// The mean of the first pause between attempts; the next ones grow to at most 20 s.
    /// Default: 200 ms.
    pub retry_pause: Duration,
    /// How long a request may take, and beside it one second for each 128 KiB that it moves.
    /// Default: 30 s.
    pub request_time: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            variables: Variables::default(),
            single_writer: false,
            part_bytes: 16 << 20,
            parts_in_flight: 4,
            parts_max: 10_000,
            attempts_max: 10,
            retry_time: Duration::from_secs(300),
            retry_pause: Duration::from_millis(200),
            request_time: Duration::from_secs(30),
        }
    }
}

impl StoreOptions {
    /// The smallest part that S3 accepts.
    pub const PART_BYTES_MIN: u64 = 5 << 20;
    /// The largest part that S3 accepts.
    pub const PART_BYTES_MAX: u64 = 5 << 30;
    /// The most parts in flight.
    pub const PARTS_IN_FLIGHT_MAX: usize = 256;
    /// The most parts of one upload that S3 accepts.
    pub const PARTS_MAX: u32 = 10_000;

    /// The same with these variables, of which only those that stores understand are kept:
    /// credentials, region and endpoint (`AWS_…`, `GOOGLE_…`, `AZURE_…`), the home folder for
    /// `~/.aws`, and proxies. Empty values count as not given.
    #[must_use]
    pub fn with_variables<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in variables {
            let (name, value) = (name.into(), value.into());
            if Self::understands(&name) && !value.is_empty() {
                self.variables.0.insert(name, value);
            }
        }
        self
    }

    /// Whether a variable of this name says something to a store.
    pub fn understands(name: &str) -> bool {
        ["AWS_", "AZURE_", "GOOGLE_"]
            .iter()
            .any(|cloud| name.starts_with(cloud))
            || matches!(
                name,
                "HOME"
                    | "HTTPS_PROXY"
                    | "HTTP_PROXY"
                    | "NO_PROXY"
                    | "https_proxy"
                    | "http_proxy"
                    | "no_proxy"
            )
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.0.get(name).map(String::as_str)
    }

    /// All variables, sorted by name.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What the upload buffers of one remote store take. A folder takes nothing.
    pub fn put_memory_bytes(&self) -> u64 {
        self.part_bytes.saturating_mul(self.parts_in_flight as u64)
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Invalid`](StoreErrorKind::Invalid): names the value and its range.
    pub fn validate(&self) -> Result<(), StoreError> {
        let mib = |bytes: u64| bytes >> 20;
        let refused = if !(Self::PART_BYTES_MIN..=Self::PART_BYTES_MAX).contains(&self.part_bytes) {
            format!(
                "an upload part of {} bytes is not within {} MiB and {} MiB",
                self.part_bytes,
                mib(Self::PART_BYTES_MIN),
                mib(Self::PART_BYTES_MAX)
            )
        } else if !(1..=Self::PARTS_IN_FLIGHT_MAX).contains(&self.parts_in_flight) {
            format!(
                "{} upload parts in flight are not within 1 and {}",
                self.parts_in_flight,
                Self::PARTS_IN_FLIGHT_MAX
            )
        } else if !(1..=Self::PARTS_MAX).contains(&self.parts_max) {
            format!(
                "{} parts of an upload are not within 1 and {}",
                self.parts_max,
                Self::PARTS_MAX
            )
        } else if self.attempts_max == 0 {
            "0 attempts are none".to_owned()
        } else {
            return Ok(());
        };
        Err(StoreError::new(
            StoreErrorKind::Invalid,
            Operation::Open,
            "a remote store",
            refused,
        ))
    }
}

/// Names and values, some of them secret: see [`StoreOptions::with_variables`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl fmt::Debug for Variables {
    /// The names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusal = |change: fn(&mut StoreOptions)| {
            let mut options = StoreOptions::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        StoreOptions::default().validate().unwrap();
        insta::assert_snapshot!(refusal(|o| o.part_bytes = 1 << 20), @"cannot open a remote store: an upload part of 1048576 bytes is not within 5 MiB and 5120 MiB");
        insta::assert_snapshot!(refusal(|o| o.part_bytes = u64::MAX), @"cannot open a remote store: an upload part of 18446744073709551615 bytes is not within 5 MiB and 5120 MiB");
        insta::assert_snapshot!(refusal(|o| o.parts_in_flight = 0), @"cannot open a remote store: 0 upload parts in flight are not within 1 and 256");
        insta::assert_snapshot!(refusal(|o| o.parts_max = 10_001), @"cannot open a remote store: 10001 parts of an upload are not within 1 and 10000");
        insta::assert_snapshot!(refusal(|o| o.attempts_max = 0), @"cannot open a remote store: 0 attempts are none");
    }

    #[test]
    fn only_variables_of_stores_are_kept() {
        let options = StoreOptions::default().with_variables([
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", ""),
            ("PATH", "/bin"),
            ("HOME", "/root"),
        ]);
        let kept: Vec<_> = options.variables().collect();
        assert_eq!(kept, [("AWS_REGION", "eu-west-1"), ("HOME", "/root")]);
    }
}
