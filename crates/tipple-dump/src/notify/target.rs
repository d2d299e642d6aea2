//! Where notifications go to, parsed at the edge.

use std::fmt;
use std::str::FromStr;

use crate::error::DumpError;

/// The longest URL that is taken.
const URL_BYTES_MAX: usize = 2048;

/// A queue or a webhook.
///
/// | written as | is |
/// |---|---|
/// | `sqs://NAME` | the SQS queue of that name, at `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL`, or the region's endpoint |
/// | `sqs://HOST/ACCOUNT/NAME` | the queue with the URL `https://HOST/ACCOUNT/NAME` |
/// | `sqs://http://HOST/…`, `sqs://https://HOST/…` | the queue with that URL |
/// | `https://…`, `http://…` | a webhook: each message is POSTed there |
///
/// The URL of a webhook may hold a secret: only its scheme and host are ever shown.
///
/// ```
/// use tipple_dump::NotifyTarget;
///
/// let hook: NotifyTarget = "https://hooks.example.com/T0/hunter2".parse()?;
/// assert_eq!(hook.to_string(), "https://hooks.example.com/…");
/// assert!("sqs:queue".parse::<NotifyTarget>().is_err());
/// # Ok::<(), tipple_dump::DumpError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct NotifyTarget(Place);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Queue(QueuePlace),
    /// The whole URL.
    Webhook(String),
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum QueuePlace {
    Named(String),
    /// The queue's URL.
    At(String),
}

impl NotifyTarget {
    /// Whether it is a queue: messages can be received from there.
    pub fn is_queue(&self) -> bool {
        matches!(self.0, Place::Queue(_))
    }

    pub(crate) fn queue(&self) -> Option<&QueuePlace> {
        match &self.0 {
            Place::Queue(place) => Some(place),
            Place::Webhook(_) => None,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl QueuePlace {
    /// A queue that keeps an order, and drops what it has seen.
    pub(crate) fn is_fifo(&self) -> bool {
        let (Self::Named(name) | Self::At(name)) = self;
        name.ends_with(".fifo")
    }
}

impl FromStr for NotifyTarget {
    type Err = DumpError;

    /// # Errors
    /// `Usage` for everything else; the text is not repeated, since it may hold a secret.
    fn from_str(text: &str) -> Result<Self, DumpError> {
        if text.len() > URL_BYTES_MAX {
            return Err(refused("it is longer than 2048 bytes"));
        }
        if let Some(queue) = text.strip_prefix("sqs://") {
            return queue_place(queue).map(|place| Self(Place::Queue(place)));
        }
        let Some((_, rest)) = web_url(text) else {
            return Err(refused("it begins with none of these"));
        };
        let authority = authority_of(rest);
        check_authority(authority)?;
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(refused(
                "a URL has no spaces, and is ASCII: write others as %XX",
            ));
        }
        Ok(Self(Place::Webhook(text.to_owned())))
    }
}

fn queue_place(text: &str) -> Result<QueuePlace, DumpError> {
    let is_name = |name: &str| {
        let plain = name.strip_suffix(".fifo").unwrap_or(name);
        (1..=80).contains(&name.len())
            && !plain.is_empty()
            && (plain.chars()).all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    if is_name(text) {
        return Ok(QueuePlace::Named(text.to_owned()));
    }
    let (scheme, rest) = web_url(text).unwrap_or(("https://", text));
    let mut steps = rest.split('/');
    let authority = steps.next().unwrap_or_default();
    check_authority(authority)?;
    let path: Vec<&str> = steps.collect();
    let is_step = |step: &&str| {
        !step.is_empty()
            && (step.chars()).all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match path.split_last() {
        Some((name, account)) if is_name(name) && account.iter().all(is_step) => {
            Ok(QueuePlace::At(format!("{scheme}{rest}")))
        }
        _ => Err(refused(
            "a queue's name is 1 to 80 of A-Z a-z 0-9 - _, and .fifo at its end",
        )),
    }
}

/// The scheme with its slashes, and the rest.
fn web_url(text: &str) -> Option<(&'static str, &str)> {
    ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?)))
}

fn authority_of(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn check_authority(authority: &str) -> Result<(), DumpError> {
    if authority.contains('@') {
        return Err(refused(
            "credentials do not belong into it: those of queues come from variables or profiles",
        ));
    }
    let is_host =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if authority.is_empty() || authority.starts_with(':') || !authority.chars().all(is_host) {
        return Err(refused("it has no host, or a malformed one"));
    }
    Ok(())
}

/// What is wrong may be a secret: nothing of it is repeated.
fn refused(reason: &str) -> DumpError {
    DumpError::Usage(format!(
        "a target of notifications cannot be used: {reason}; give sqs://NAME, sqs://HOST/ACCOUNT/NAME, sqs://https://… with a queue's URL, or https://… for a webhook"
    ))
}

impl fmt::Display for NotifyTarget {
    /// A queue as it was given; of a webhook its scheme and host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Queue(QueuePlace::Named(name)) => write!(f, "sqs://{name}"),
            Place::Queue(QueuePlace::At(url)) => {
                write!(f, "sqs://{}", url.strip_prefix("https://").unwrap_or(url))
            }
            Place::Webhook(url) => {
                let (scheme, rest) = web_url(url).expect("checked when it was parsed");
                write!(f, "{scheme}{}/…", authority_of(rest))
            }
        }
    }
}

impl fmt::Debug for NotifyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<NotifyTarget>().unwrap().to_string()
    }

    #[test]
    fn queues_and_webhooks_are_told_apart() {
        assert_eq!(shown("sqs://warm"), "sqs://warm");
        assert_eq!(shown("sqs://warm.fifo"), "sqs://warm.fifo");
        assert_eq!(
            shown("sqs://sqs.eu-west-1.amazonaws.com/123456789012/warm"),
            "sqs://sqs.eu-west-1.amazonaws.com/123456789012/warm"
        );
        assert_eq!(
            shown("sqs://https://sqs.eu-west-1.amazonaws.com/123456789012/warm"),
            "sqs://sqs.eu-west-1.amazonaws.com/123456789012/warm"
        );
        assert_eq!(
            shown("sqs://http://127.0.0.1:4566/000000000000/warm"),
            "sqs://http://127.0.0.1:4566/000000000000/warm"
        );
        assert_eq!(shown("http://[::1]:80?token=hunter2"), "http://[::1]:80/…");
        let fifo: NotifyTarget = "sqs://h/1/q.fifo".parse().unwrap();
        assert!(matches!(fifo.place(), Place::Queue(place) if place.is_fifo()));
        assert!(fifo.is_queue());
        assert!(!"https://h".parse::<NotifyTarget>().unwrap().is_queue());
    }

    #[test]
    fn nothing_of_what_is_refused_is_repeated() {
        for text in [
            "",
            "hunter2",
            "sqs:hunter2",
            "sqs://",
            "sqs://.fifo",
            "sqs://a b",
            "sqs://host/hunter2!",
            "sqs://host/1/",
            "sqs://key:hunter2@host/1/q",
            "sqs://https://host/1/q?hunter2",
            "https://",
            "https:///hunter2",
            "https://user:hunter2@host/",
            "https://host/hunter2 x",
            "https://host/hünter2",
            "ftp://hunter2/",
            "HTTPS://hunter2/",
        ] {
            let error = text.parse::<NotifyTarget>().unwrap_err();
            assert!(matches!(error, DumpError::Usage(_)), "{text}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{text}: {error}");
        }
        let error = format!("https://host/{}", "x".repeat(URL_BYTES_MAX));
        assert!(error.parse::<NotifyTarget>().is_err());
    }

    #[test]
    fn secrets_of_webhooks_are_not_shown() {
        let hook: NotifyTarget = "https://h/services/hunter2?key=hunter2".parse().unwrap();
        assert_eq!(format!("{hook} {hook:?}"), "https://h/… https://h/…");
    }
}
