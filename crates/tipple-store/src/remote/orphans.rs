//! Uploads that were begun and neither finished nor aborted: they take room, cost money, and no listing of objects shows
//! them. S3 only: Azure forgets blocks by itself after a week, and Google's are left to a rule of the bucket.

use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use reqsign_core::time::Timestamp;

use super::answer::{Cause, Failure};
use super::client::S3;
use super::core::Core;
use super::retry::Attempts;
use super::retry::ask_for;
use super::xml;
use crate::{Leftover, ObjectName, Operation, StoreError, StoreErrorKind};

/// Between the object and the upload in the name of a leftover.
const MARK: &str = "?uploadId=";

/// An upload that is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upload {
    /// The full key.
    pub(super) key: String,
    pub(super) id: String,
    begun: SystemTime,
}

impl Core {
    /// The unfinished uploads of keys that begin with `prefix`.
    pub(super) async fn uploads(&self, prefix: &str) -> Result<Vec<Upload>, Failure> {
        let Some(s3) = &self.client.s3 else {
            return Ok(Vec::new());
        };
        let mut uploads: Vec<Upload> = Vec::new();
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        loop {
            let query = [
                ("key-marker", key_marker.as_str()),
                ("prefix", prefix),
                ("upload-id-marker", id_marker.as_str()),
                ("uploads", ""),
            ];
            let query: Vec<_> = query
                .into_iter()
                .filter(|(name, value)| *name == "uploads" || !value.is_empty())
                .collect();
            let page = self.ask_s3(s3, "", &query).await?;
            let page = String::from_utf8_lossy(&page);
            for upload in xml::elements(&page, "Upload") {
                uploads.extend(parse(upload));
            }
            if xml::text(&page, "IsTruncated").as_deref() != Some("true") {
                return Ok(uploads);
            }
            let next = |name| xml::text(&page, name).unwrap_or_default();
            let markers = (next("NextKeyMarker"), next("NextUploadIdMarker"));
            if markers == (key_marker, id_marker) {
                return Err(Failure::with_words(
                    Cause::Nonsense,
                    "it gives the same page of uploads for ever",
                ));
            }
            (key_marker, id_marker) = markers;
        }
    }

    /// The bytes of an upload's parts; `None` if it is gone.
    async fn upload_bytes(&self, upload: &Upload) -> Result<Option<u64>, Failure> {
        let Some(s3) = &self.client.s3 else {
            return Ok(None);
        };
        let mut bytes = 0;
        let mut marker = String::new();
        loop {
            let mut query = vec![("uploadId", upload.id.as_str())];
            if !marker.is_empty() {
                query.insert(0, ("part-number-marker", marker.as_str()));
            }
            let page = match self.ask_s3(s3, &upload.key, &query).await {
                Ok(page) => page,
                Err(failure) if matches!(failure.cause, Cause::NoUpload | Cause::NotFound) => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            };
            let page = String::from_utf8_lossy(&page);
            bytes += xml::elements(&page, "Part")
                .filter_map(|part| xml::text(part, "Size")?.parse::<u64>().ok())
                .sum::<u64>();
            let next = xml::text(&page, "NextPartNumberMarker").unwrap_or_default();
            if xml::text(&page, "IsTruncated").as_deref() != Some("true") || next == marker {
                return Ok(Some(bytes));
            }
            marker = next;
        }
    }

    async fn ask_s3(&self, s3: &S3, key: &str, query: &[(&str, &str)]) -> Result<Bytes, Failure> {
        let mut attempts = Attempts::new(self.bounds);
        loop {
            let request = s3.send(Method::GET, key, query, &[], Bytes::new(), None);
            match ask_for(self.bounds.request_time(0), request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => attempts.after(failure).await?,
            };
        }
    }

    /// See [`Store::leftovers`](crate::Store::leftovers).
    pub(super) async fn leftovers(&self) -> Result<Vec<Leftover>, Failure> {
        let mut leftovers = Vec::new();
        for upload in self.uploads(&self.prefix).await? {
            let Some(name) = upload.key.strip_prefix(&self.prefix) else {
                continue;
            };
            // What has another kind of name was not begun by a store.
            let Ok(name) = ObjectName::try_from(name) else {
                continue;
            };
            if let Some(bytes) = self.upload_bytes(&upload).await? {
                let mut leftover =
                    Leftover::new(format!("{name}{MARK}{}", upload.id), bytes, upload.begun);
                leftover.object = Some(name);
                leftovers.push(leftover);
            }
        }
        leftovers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(leftovers)
    }

    /// See [`Store::remove_leftover`](crate::Store::remove_leftover).
    pub(super) async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let operation = Operation::RemoveLeftover;
        let named = |error: StoreError| error.with_object(&leftover.name);
        let parsed = leftover
            .name
            .split_once(MARK)
            .filter(|(_, id)| !id.is_empty())
            .and_then(|(name, id)| Some((ObjectName::try_from(name).ok()?, id)));
        let Some((name, id)) = parsed else {
            let error = self.refuse(
                StoreErrorKind::Invalid,
                operation,
                "it is not the name of a leftover",
            );
            return Err(named(error));
        };
        let path = self.path(operation, &name).map_err(named)?;
        self.abort(&path, id)
            .await
            .map_err(|failure| named(self.error(operation, &failure)))
    }
}

fn parse(upload: &str) -> Option<Upload> {
    let begun = xml::text(upload, "Initiated")
        .and_then(|time| time.parse::<Timestamp>().ok())
        .map_or(SystemTime::UNIX_EPOCH, |time| time.as_system_time());
    Some(Upload {
        key: xml::text(upload, "Key")?,
        id: xml::text(upload, "UploadId")?,
        begun,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_read() {
        let page = "<Upload><Initiator><ID>x</ID></Initiator><Key>a/b&amp;c</Key><UploadId>2~x</UploadId><Initiated>2026-11-20T10:00:00.000Z</Initiated></Upload>";
        let upload = parse(xml::elements(page, "Upload").next().unwrap()).unwrap();
        assert_eq!((upload.key.as_str(), upload.id.as_str()), ("a/b&c", "2~x"));
        let since = upload.begun.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_795_168_800);
        assert_eq!(parse("<Key>a</Key>"), None);
    }
}
