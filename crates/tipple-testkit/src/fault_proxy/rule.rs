//! What is spoiled, and how.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::http::Head;
use crate::operation::{Operation, method};

/// Which requests are spoiled, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    operation: Option<Operation>,
    path: String,
    pub(super) which: RangeInclusive<u64>,
    pub(super) fault: Fault,
}

impl Rule {
    /// Spoils these requests of `operation`, counted from 1 when the rule is set.
    pub fn on(operation: Operation, which: RangeInclusive<u64>, fault: Fault) -> Self {
        Self {
            operation: Some(operation),
            path: String::new(),
            which,
            fault,
        }
    }

    /// Spoils every request of `operation`.
    pub fn always(operation: Operation, fault: Fault) -> Self {
        Self::on(operation, 1..=u64::MAX, fault)
    }

    /// Spoils these requests, whatever they ask.
    pub fn on_any(which: RangeInclusive<u64>, fault: Fault) -> Self {
        Self {
            operation: None,
            ..Self::on(Operation::Other, which, fault)
        }
    }

    /// Only counts requests whose path contains this text, as the request writes it.
    pub fn with_path(mut self, text: &str) -> Self {
        text.clone_into(&mut self.path);
        self
    }

    pub(super) fn counts(&self, operation: Operation, path: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation) && path.contains(&self.path)
    }
}

/// What becomes of a request. A fault at a byte needs that byte: a shorter body passes untouched, and is no hit.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The body is read to its end; the server never sees the request; this is the answer. The connection goes on.
    Refuse(Refusal),
    /// The same, but the answer comes before any of the body is read, and is the last on this connection.
    RefuseEarly(Refusal),
    /// The connection is reset as soon as the head was read; the server never sees the request.
    Reset,
    /// The server gets the head and so many bytes of the body; then both connections are reset.
    ResetRequest(u64),
    /// After so many bytes of the body nothing more passes until [`FaultProxy::release`].
    StallRequest(u64),
    /// All bits of this byte of the body are turned over.
    FlipRequest(u64),
    /// The first text becomes the second, as long, wherever it comes in the body, which is still what its format wants.
    SwapInRequest(&'static str, &'static str),
    /// The body passes at so many bytes a second.
    SlowRequest(u64),
    /// The server gets the request this much later.
    Delay(Duration),
    /// The server gets and answers the request; the client's connection is reset without a byte of the answer.
    LoseAnswer,
    /// The server gets and answers the request; the answer waits for [`FaultProxy::release`].
    HoldAnswer,
    /// The client gets so many bytes of the answer's body, and then a reset.
    ResetAnswer(u64),
    /// The client gets so many bytes of the answer's body, and then an orderly end.
    CutAnswer(u64),
    /// After so many bytes of the answer's body nothing more passes until [`FaultProxy::release`].
    StallAnswer(u64),
    /// All bits of this byte of the answer's body are turned over.
    FlipAnswer(u64),
    /// As [`SwapInRequest`](Self::SwapInRequest), in the answer's body.
    SwapInAnswer(&'static str, &'static str),
    /// The answer's body passes at so many bytes a second.
    SlowAnswer(u64),
}

/// What a server says when it does not do what it is asked: in XML to S3, in JSON to SQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The error's code.
    pub code: &'static str,
    /// What it says to people.
    pub message: &'static str,
    /// Headers that come with it.
    pub headers: &'static [(&'static str, &'static str)],
}

impl Refusal {
    /// 500: something broke inside.
    pub const INTERNAL_ERROR: Self = Self::new(500, "InternalError", "We encountered an error.");
    /// 503: too many requests.
    pub const SLOW_DOWN: Self = Self::new(503, "SlowDown", "Please reduce your request rate.");
    /// The same, with `Retry-After: 1`.
    pub const SLOW_DOWN_RETRY_AFTER: Self = Self {
        headers: &[("retry-after", "1")],
        ..Self::SLOW_DOWN
    };
    /// 403: not allowed.
    pub const ACCESS_DENIED: Self = Self::new(403, "AccessDenied", "Access Denied");
    /// 400: the session's time is over.
    pub const EXPIRED_TOKEN: Self =
        Self::new(400, "ExpiredToken", "The provided token has expired.");
    /// 403: the clocks are more than 15 minutes apart.
    pub const REQUEST_TIME_TOO_SKEWED: Self = Self::new(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    );
    /// 400: the body did not come in time.
    pub const REQUEST_TIMEOUT: Self = Self::new(
        400,
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout period.",
    );
    /// 400: what arrived is not what was sent.
    pub const BAD_DIGEST: Self = Self::new(
        400,
        "BadDigest",
        "The checksum you specified did not match what we received.",
    );
    /// 404: no such bucket.
    pub const NO_SUCH_BUCKET: Self =
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist");
    /// 404: no such upload: it was completed or aborted.
    pub const NO_SUCH_UPLOAD: Self =
        Self::new(404, "NoSuchUpload", "The specified upload does not exist.");
    /// 409: another conditional request for the same name is under way.
    pub const CONDITIONAL_REQUEST_CONFLICT: Self = Self::new(
        409,
        "ConditionalRequestConflict",
        "The conditional request cannot succeed due to a conflicting operation against this resource.",
    );
    /// 412: the condition does not hold.
    pub const PRECONDITION_FAILED: Self = Self::new(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
    );
    /// 501: a server that knows no conditions.
    pub const NOT_IMPLEMENTED: Self = Self::new(
        501,
        "NotImplemented",
        "A header you provided implies functionality that is not implemented",
    );
    /// 301: the bucket is in eu-central-1.
    pub const WRONG_REGION: Self = Self {
        headers: &[("x-amz-bucket-region", "eu-central-1")],
        ..Self::new(
            301,
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified endpoint.",
        )
    };

    /// One without headers.
    pub const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self {
            status,
            code,
            message,
            headers: &[],
        }
    }

    /// The same body under another status: S3 may fail to complete an upload after it has said 200.
    pub const fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(super) fn answer(&self, head: &Head, closes: bool) -> Vec<u8> {
        let Self { code, message, .. } = self;
        let (kind, body) = if head.header("x-amz-target").is_some() {
            let body = serde_json::json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": message});
            ("application/x-amz-json-1.0", body.to_string())
        } else {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
                 <Message>{message}</Message><RequestId>fault</RequestId></Error>"
            );
            ("application/xml", body)
        };
        let mut answer = format!(
            "HTTP/1.1 {} {code}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n",
            self.status,
            body.len()
        );
        for (name, value) in self.headers {
            answer += &format!("{name}: {value}\r\n");
        }
        if closes {
            answer += "connection: close\r\n";
        }
        answer += "\r\n";
        if method(head) != "HEAD" {
            answer += &body;
        }
        answer.into_bytes()
    }
}
