//! A bucket, seen from outside of the code under test.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::account::{Account, Request};
use crate::http::Response;

/// One bucket of an S3 server. Every request has a connection of its own, and is tried once.
#[derive(Clone, Debug)]
pub struct RawS3 {
    account: Account,
    bucket: String,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its name.
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

/// A multipart upload that was neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upload {
    /// The name that the object would get.
    pub key: String,
    /// The server's id of it.
    pub id: String,
}

impl RawS3 {
    /// Looks into `bucket`, which need not be there yet.
    pub fn new(account: &Account, bucket: &str) -> Self {
        Self {
            account: account.clone(),
            bucket: bucket.to_owned(),
        }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// Sends any signed request and returns the answer, whatever its status. The key and the query are given unencoded;
    /// an empty key means the bucket.
    ///
    /// # Panics
    /// If there is no whole answer.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, key, query, headers, body)
            .unwrap_or_else(|error| panic!("{method} {}{key}: {error}", self.url("")))
    }

    /// As [`request`](Self::request), with the failures of a connection as errors.
    pub fn try_request(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let path = match key {
            "" => format!("/{}", self.bucket),
            _ => format!("/{}/{key}", self.bucket),
        };
        self.account.request(&Request {
            service: "s3",
            method,
            path: &path,
            query,
            headers,
            body,
        })
    }

    #[track_caller]
    fn succeeds(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let answer = self.request(method, key, query, headers, body);
        assert!(
            answer.status / 100 == 2,
            "{method} {}{key} {query:?}: {} {}",
            self.url(""),
            answer.status,
            answer.text()
        );
        answer
    }

    /// Creates the bucket.
    ///
    /// # Panics
    /// As all below: if the server does not do it.
    #[track_caller]
    pub fn create_bucket(&self) {
        self.succeeds("PUT", "", &[], &[], &[]);
    }

    /// Stores an object, over one that is there.
    #[track_caller]
    pub fn put(&self, key: &str, body: &[u8]) {
        self.succeeds("PUT", key, &[], &[], body);
    }

    /// The bytes of an object; `None` if there is none.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        if self.request("HEAD", key, &[], &[], &[]).status == 404 {
            return None;
        }
        Some(self.succeeds("GET", key, &[], &[], &[]).body)
    }

    /// Removes an object. One that is not there is no error.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.succeeds("DELETE", key, &[], &[], &[]);
    }

    /// All objects whose names start so, in the server's order.
    #[track_caller]
    pub fn list(&self, prefix: &str) -> Vec<Object> {
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            if let Some(token) = &token {
                query.push(("continuation-token", token));
            }
            let page = self.succeeds("GET", "", &query, &[], &[]).text();
            objects.extend(elements(&page, "Contents").map(|object| Object {
                key: element(object, "Key"),
                bytes: element(object, "Size").parse().expect("a length"),
            }));
            if element(&page, "IsTruncated") != "true" {
                return objects;
            }
            token = Some(element(&page, "NextContinuationToken"));
        }
    }

    /// The names of all objects that start so, in the server's order.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let objects = self.list(prefix);
        objects.into_iter().map(|object| object.key).collect()
    }

    /// The multipart uploads under way for names that start so: at most 1,000.
    #[track_caller]
    pub fn uploads(&self, prefix: &str) -> Vec<Upload> {
        let query = [("uploads", ""), ("prefix", prefix)];
        let page = self.succeeds("GET", "", &query, &[], &[]).text();
        assert_ne!(element(&page, "IsTruncated"), "true", "more than one page");
        elements(&page, "Upload")
            .map(|upload| Upload {
                key: element(upload, "Key"),
                id: element(upload, "UploadId"),
            })
            .collect()
    }

    /// Begins a multipart upload.
    #[track_caller]
    pub fn create_upload(&self, key: &str) -> Upload {
        let answer = self.succeeds("POST", key, &[("uploads", "")], &[], &[]);
        Upload {
            key: key.to_owned(),
            id: element(&answer.text(), "UploadId"),
        }
    }

    /// Sends a part, and returns its ETag as the server wrote it. Parts are numbered from 1.
    #[track_caller]
    pub fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> String {
        let number = number.to_string();
        let query = [("partNumber", &*number), ("uploadId", &*upload.id)];
        let answer = self.succeeds("PUT", &upload.key, &query, &[], body);
        answer.header("etag").expect("an ETag").to_owned()
    }

    /// Completes a multipart upload of the parts 1, 2 and so on, and returns the answer, whatever its status.
    #[track_caller]
    pub fn complete_upload(&self, upload: &Upload, etags: &[String]) -> Response {
        let parts: String = (1..)
            .zip(etags)
            .map(|(number, etag)| {
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let query = [("uploadId", &*upload.id)];
        self.request("POST", &upload.key, &query, &[], body.as_bytes())
    }

    /// Aborts a multipart upload.
    #[track_caller]
    pub fn abort_upload(&self, upload: &Upload) {
        let query = [("uploadId", &*upload.id)];
        self.succeeds("DELETE", &upload.key, &query, &[], &[]);
    }
}

/// A bucket's name that no other call in this process gives.
pub(crate) fn fresh_name() -> String {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    format!("bucket-{}", GIVEN.fetch_add(1, Ordering::Relaxed))
}

/// What stands between `<name>` and `</name>`, each time.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (inside, after) = after.split_once(&close)?;
        rest = after;
        Some(inside)
    })
}

/// The text of the first element of this name; empty if there is none.
fn element(xml: &str, name: &str) -> String {
    let text = elements(xml, name).next().unwrap_or_default();
    let mut unescaped = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        unescaped.push_str(before);
        let (entity, after) = after.split_once(';').expect("an entity ends");
        let number = |digits: &str, radix| {
            let code = u32::from_str_radix(digits, radix).ok();
            code.and_then(char::from_u32).expect("a character")
        };
        unescaped.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => match entity.strip_prefix("#x") {
                Some(hex) => number(hex, 16),
                None => number(entity.strip_prefix('#').expect("a known entity"), 10),
            },
        });
        rest = after;
    }
    unescaped + rest
}
