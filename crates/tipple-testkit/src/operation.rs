//! What a request asks for.

use crate::http::Head;

/// What a request asks of S3 (in path style) or of SQS (in JSON).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of S3 and SQS")]
pub enum Operation {
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    PutObject,
    CopyObject,
    GetObject,
    HeadObject,
    DeleteObject,
    DeleteObjects,
    /// Of either version.
    ListObjects,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    SendMessage,
    SendMessageBatch,
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    GetQueueUrl,
    GetQueueAttributes,
    CreateQueue,
    /// Whatever is none of these, such as a webhook's.
    Other,
}

impl Operation {
    pub(crate) fn of(head: &Head) -> Self {
        if let Some(action) = head.header("x-amz-target") {
            return Self::of_action(action.rsplit('.').next().unwrap_or_default());
        }
        let (path, query) = split_target(head);
        let asks = |wanted: &str| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some(wanted))
        };
        if [
            "acl",
            "attributes",
            "cors",
            "lifecycle",
            "location",
            "notification",
            "object-lock",
            "policy",
            "tagging",
            "versioning",
            "versions",
        ]
        .into_iter()
        .any(asks)
        {
            return Self::Other;
        }
        let mut names = path.trim_start_matches('/').splitn(2, '/');
        let has_bucket = names.next().is_some_and(|bucket| !bucket.is_empty());
        let has_key = names.next().is_some_and(|key| !key.is_empty());
        let copies = head.header("x-amz-copy-source").is_some();
        match (method(head), has_bucket, has_key) {
            ("PUT", _, true) if asks("partNumber") => Self::UploadPart,
            ("PUT", _, true) if copies => Self::CopyObject,
            ("PUT", _, true) => Self::PutObject,
            ("GET", _, true) if asks("uploadId") => Self::ListParts,
            ("GET", _, true) => Self::GetObject,
            ("HEAD", _, true) => Self::HeadObject,
            ("DELETE", _, true) if asks("uploadId") => Self::AbortMultipartUpload,
            ("DELETE", _, true) => Self::DeleteObject,
            ("POST", _, true) if asks("uploads") => Self::CreateMultipartUpload,
            ("POST", _, true) if asks("uploadId") => Self::CompleteMultipartUpload,
            ("POST", true, false) if asks("delete") => Self::DeleteObjects,
            ("GET", true, false) if asks("uploads") => Self::ListMultipartUploads,
            ("GET", true, false) => Self::ListObjects,
            ("PUT", true, false) => Self::CreateBucket,
            ("HEAD", true, false) => Self::HeadBucket,
            ("DELETE", true, false) => Self::DeleteBucket,
            _ => Self::Other,
        }
    }

    fn of_action(action: &str) -> Self {
        match action {
            "SendMessage" => Self::SendMessage,
            "SendMessageBatch" => Self::SendMessageBatch,
            "ReceiveMessage" => Self::ReceiveMessage,
            "DeleteMessage" => Self::DeleteMessage,
            "DeleteMessageBatch" => Self::DeleteMessageBatch,
            "ChangeMessageVisibility" => Self::ChangeMessageVisibility,
            "ChangeMessageVisibilityBatch" => Self::ChangeMessageVisibilityBatch,
            "GetQueueUrl" => Self::GetQueueUrl,
            "GetQueueAttributes" => Self::GetQueueAttributes,
            "CreateQueue" => Self::CreateQueue,
            _ => Self::Other,
        }
    }
}

pub(crate) fn method(head: &Head) -> &str {
    head.first.split(' ').next().unwrap_or_default()
}

/// The path and the query, as they were written.
pub(crate) fn split_target(head: &Head) -> (&str, &str) {
    let target = head.first.split(' ').nth(1).unwrap_or_default();
    target.split_once('?').unwrap_or((target, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        use Operation as O;
        for (first, wanted) in [
            ("PUT /b", O::CreateBucket),
            ("HEAD /b/", O::HeadBucket),
            ("DELETE /b", O::DeleteBucket),
            ("PUT /b/a/c?x-id=PutObject", O::PutObject),
            ("GET /b/a", O::GetObject),
            ("HEAD /b/a", O::HeadObject),
            ("DELETE /b/a", O::DeleteObject),
            ("POST /b?delete", O::DeleteObjects),
            ("POST /b/?delete=", O::DeleteObjects),
            ("GET /b?list-type=2&prefix=uploads", O::ListObjects),
            ("GET /b?prefix=x", O::ListObjects),
            ("POST /b/a?uploads", O::CreateMultipartUpload),
            ("PUT /b/a?partNumber=1&uploadId=x", O::UploadPart),
            ("POST /b/a?uploadId=x", O::CompleteMultipartUpload),
            ("DELETE /b/a?uploadId=x", O::AbortMultipartUpload),
            ("GET /b/a?uploadId=x", O::ListParts),
            ("GET /b?prefix=&uploads=", O::ListMultipartUploads),
            ("GET /b?location", O::Other),
            ("PUT /b/a?tagging", O::Other),
            ("GET /", O::Other),
            ("POST /hook", O::Other),
            ("POST /hook/of/somebody", O::Other),
        ] {
            assert_eq!(
                read(&format!("{first} HTTP/1.1\r\n\r\n")),
                wanted,
                "{first}"
            );
        }
        let with = |header: &str| read(&format!("PUT /b/a HTTP/1.1\r\n{header}\r\n\r\n"));
        assert_eq!(with("X-Amz-Copy-Source: /b/c"), O::CopyObject);
        assert_eq!(
            with("X-Amz-Target: AmazonSQS.SendMessageBatch"),
            O::SendMessageBatch
        );
        assert_eq!(with("x-amz-target: AmazonSQS.TagQueue"), O::Other);
    }

    fn read(head: &str) -> Operation {
        Operation::of(&Head::read(&mut head.as_bytes()).unwrap().unwrap())
    }
}
