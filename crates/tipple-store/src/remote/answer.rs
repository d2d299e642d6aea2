//! What a server answered, and what it means.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, SystemTime};

use object_store::client::{HttpError, HttpErrorKind};

/// The longest text of a server that is repeated to a user, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

tokio::task_local! {
    /// What the request of this task was answered, noted by the client below `object_store`,
    /// which passes on only some of it.
    pub(super) static SEEN: RefCell<Seen>;
}

/// What is known of the last answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The status, if an answer came.
    pub(super) status: Option<u16>,
    /// S3's error code, such as `SlowDown`.
    pub(super) code: String,
    /// The server's words, on one line.
    pub(super) message: String,
    /// How long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// The region in which the server says that the bucket is.
    pub(super) region: Option<String>,
    /// Seconds by which the server's clock is ahead of ours.
    pub(super) ahead_seconds: Option<i64>,
    /// No connection was made, or broke before an answer came.
    pub(super) transport: Option<(HttpErrorKind, String)>,
}

impl Seen {
    /// Notes the head of an answer.
    pub(super) fn head(&mut self, status: u16, headers: &http::HeaderMap, now: SystemTime) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        self.status = Some(status);
        self.transport = None;
        self.retry_after = text("retry-after")
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        self.region = text("x-amz-bucket-region").map(|region| one_line(region, 64));
        self.ahead_seconds = text("date")
            .and_then(|date| reqsign_core::time::Timestamp::parse_rfc2822(date).ok())
            .map(|date| {
                let now = now.duration_since(SystemTime::UNIX_EPOCH);
                date.as_second() - now.map_or(0, |now| now.as_secs() as i64)
            });
    }

    /// Notes the body of an error.
    pub(super) fn error_body(&mut self, body: &[u8]) {
        let body = String::from_utf8_lossy(body);
        let field = |name: &str| super::xml::text(&body, name);
        self.code = field("Code").map_or_else(String::new, |code| one_line(&code, 64));
        self.message =
            field("Message").map_or_else(String::new, |words| one_line(&words, MESSAGE_CHARS_MAX));
        if let Some(region) = field("Region") {
            self.region = Some(one_line(&region, 64));
        }
    }

    /// Notes that there is no answer, or no whole one.
    pub(super) fn broken(&mut self, error: &HttpError) {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let mut words = one_line(&cause.to_string(), MESSAGE_CHARS_MAX);
        if let Some(at) = words.find(" (os error ") {
            words.truncate(at);
        }
        self.transport = Some((error.kind(), words));
    }
}

/// Why a request did not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No such object.
    NotFound,
    /// No such bucket.
    NoBucket,
    /// No such upload: it was completed or aborted.
    NoUpload,
    /// The condition did not hold: the object exists (put) or is another (get).
    Condition,
    /// Two conditional puts met; whether one won is not known.
    Conflict,
    /// The server does not know how.
    NotImplemented,
    /// The credentials are good, and this is not allowed; or they are wrong.
    Denied,
    /// The credentials are too old.
    Expired,
    /// No credentials were found.
    NoCredentials,
    /// The clocks differ too much.
    Skewed,
    /// The bucket is in another region, or behind another endpoint.
    Elsewhere,
    /// What arrived is not what was sent.
    Damaged,
    /// Too much at once, or an error of the server.
    Busy,
    /// No connection.
    Unreachable,
    /// The connection broke.
    Broken,
    /// No answer in time.
    TimedOut,
    /// No room.
    Full,
    /// An answer that makes no sense.
    Nonsense,
    /// Refused for another reason.
    Refused,
}

/// Whether, and how, a request may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Nothing was applied.
    Safe,
    /// It may have been applied.
    Ambiguous,
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) cause: Cause,
    pub(super) seen: Box<Seen>,
    /// How often it was tried, if more than once.
    pub(super) attempts: u32,
}

impl Failure {
    pub(super) fn new(cause: Cause, seen: Seen) -> Self {
        Self {
            cause,
            seen: Box::new(seen),
            attempts: 1,
        }
    }

    /// A failure with nothing of a server to it.
    pub(super) fn with_words(cause: Cause, words: impl fmt::Display) -> Self {
        let seen = Seen {
            message: one_line(&words.to_string(), MESSAGE_CHARS_MAX),
            ..Seen::default()
        };
        Self::new(cause, seen)
    }

    /// What `error` means, with what was seen below `object_store`.
    pub(super) fn of(error: &object_store::Error, seen: Seen) -> Self {
        if let Some((kind, _)) = &seen.transport {
            let cause = match kind {
                HttpErrorKind::Connect => Cause::Unreachable,
                HttpErrorKind::Timeout => Cause::TimedOut,
                _ => Cause::Broken,
            };
            return Self::new(cause, seen);
        }
        let Some(status) = seen.status else {
            // Nothing was sent: signing failed, or there is nothing to sign with.
            return match root(error).strip_prefix(super::credentials::NONE) {
                Some(why) => Self::with_words(Cause::NoCredentials, why),
                None => Self::with_words(Cause::Nonsense, root(error)),
            };
        };
        if (200..300).contains(&status) && seen.code.is_empty() {
            let words = root(error);
            return Self::new(
                Cause::Nonsense,
                Seen {
                    message: one_line(&words, MESSAGE_CHARS_MAX),
                    ..seen
                },
            );
        }
        Self::new(cause_of(status, &seen.code), seen)
    }

    /// A request that was signed here, and not answered.
    pub(super) fn of_broken(seen: Seen) -> Self {
        let cause = match &seen.transport {
            Some((HttpErrorKind::Connect, _)) => Cause::Unreachable,
            Some((HttpErrorKind::Timeout, _)) => Cause::TimedOut,
            _ => Cause::Broken,
        };
        Self::new(cause, seen)
    }

    /// What an answer to a request that was signed here means.
    pub(super) fn of_status(seen: Seen) -> Self {
        let cause = seen
            .status
            .map_or(Cause::Broken, |status| cause_of(status, &seen.code));
        Self::new(cause, seen)
    }

    pub(super) fn again(&self) -> Again {
        use Cause as C;
        match self.cause {
            C::Unreachable | C::Damaged => Again::Safe,
            C::Busy | C::Broken | C::TimedOut | C::Nonsense | C::Conflict => Again::Ambiguous,
            // A request that waited for a connection for too long has an old signature: a new one may do.
            C::Skewed | C::Expired => Again::Safe,
            C::NotFound
            | C::NoBucket
            | C::NoUpload
            | C::Condition
            | C::NotImplemented
            | C::Denied
            | C::NoCredentials
            | C::Elsewhere
            | C::Full
            | C::Refused => Again::Never,
        }
    }

    /// Why, for people: completes "cannot … because".
    pub(super) fn words(&self) -> String {
        let seen = &self.seen;
        let said = || match (seen.code.as_str(), seen.message.as_str()) {
            ("", "") => String::new(),
            ("", words) => format!(" ({words})"),
            (code, "") => format!(" ({code})"),
            (code, words) => format!(" ({code}: {})", words.trim_end_matches('.')),
        };
        let status = || match seen.status {
            Some(status) => format!("the server answered {status}{}", said()),
            None => format!("no answer{}", said()),
        };
        let broken = |what: &str| match &seen.transport {
            Some((_, words)) if !words.is_empty() => format!("{what}: {words}"),
            _ => what.to_owned(),
        };
        let mut text = match self.cause {
            Cause::NotFound => "there is no such object".to_owned(),
            Cause::NoBucket => "there is no such bucket".to_owned(),
            Cause::NoUpload => "the upload was aborted by somebody else".to_owned(),
            Cause::Condition => "it was replaced by another object meanwhile".to_owned(),
            Cause::NotImplemented => format!("the server does not know how{}", said()),
            Cause::Denied => format!("access denied{}", said()),
            Cause::Expired => format!("the credentials have expired{}", said()),
            Cause::NoCredentials => format!("no credentials were found{}", said()),
            Cause::Skewed => match seen.ahead_seconds {
                Some(ahead) if ahead.abs() >= 60 => format!(
                    "this machine's clock is {} {} the server's",
                    duration(ahead.unsigned_abs()),
                    if ahead > 0 { "behind" } else { "ahead of" }
                ),
                _ => format!(
                    "this machine's clock and the server's differ too much{}",
                    said()
                ),
            },
            Cause::Elsewhere => match &seen.region {
                Some(region) => format!("the bucket is in the region {region}"),
                None => format!(
                    "the bucket is in another region, or behind another endpoint{}",
                    said()
                ),
            },
            Cause::Damaged => format!("what arrived at the server is not what was sent{}", said()),
            Cause::Unreachable => broken("no connection"),
            Cause::Broken => broken("the connection broke"),
            Cause::TimedOut => "no answer in time".to_owned(),
            Cause::Full => format!("there is no room{}", said()),
            Cause::Nonsense => format!("the server's answer makes no sense{}", said()),
            Cause::Busy | Cause::Conflict | Cause::Refused => status(),
        };
        if self.attempts > 1 {
            text.push_str(&format!(", {} times", self.attempts));
        }
        text
    }
}

fn cause_of(status: u16, code: &str) -> Cause {
    match code {
        "NoSuchBucket" | "ContainerNotFound" => return Cause::NoBucket,
        "NoSuchUpload" => return Cause::NoUpload,
        "NoSuchKey" | "BlobNotFound" => return Cause::NotFound,
        "PreconditionFailed" | "BlobAlreadyExists" => return Cause::Condition,
        "ConditionalRequestConflict" | "OperationAborted" => return Cause::Conflict,
        "NotImplemented" => return Cause::NotImplemented,
        "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException" => return Cause::Expired,
        "RequestTimeTooSkewed" | "RequestExpired" => return Cause::Skewed,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => return Cause::Elsewhere,
        "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "Md5Mismatch"
        | "Crc64Mismatch" => return Cause::Damaged,
        "RequestTimeout" | "SlowDown" | "InternalError" | "ServiceUnavailable" | "ServerBusy"
        | "OperationTimedOut" => return Cause::Busy,
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => return Cause::Full,
        "AccessDenied"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "AllAccessDisabled"
        | "AccountProblem" => return Cause::Denied,
        _ => {}
    }
    match status {
        // An error that began well: a finished upload is answered before it is finished.
        200..=299 => Cause::Busy,
        301 | 302 | 307 | 308 => Cause::Elsewhere,
        401 | 403 => Cause::Denied,
        404 | 410 => Cause::NotFound,
        408 | 425 | 429 => Cause::Busy,
        304 | 412 => Cause::Condition,
        409 => Cause::Conflict,
        501 | 405 => Cause::NotImplemented,
        507 => Cause::Full,
        500.. => Cause::Busy,
        _ => Cause::Refused,
    }
}

/// The words at the bottom of an error of `object_store`.
fn root(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7199 => format!("{} minutes", seconds / 60),
        7200..=172_799 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Printable, on one line, at most so long.
pub(super) fn one_line(text: &str, chars_max: usize) -> String {
    let printable = |c: char| match c {
        c if c.is_control() => ' ',
        c => c,
    };
    let words: Vec<String> = text
        .chars()
        .take(chars_max)
        .map(printable)
        .collect::<String>()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    words.join(" ")
}
