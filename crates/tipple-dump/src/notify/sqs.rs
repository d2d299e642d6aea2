//! A queue of SQS, or of a server that speaks its JSON protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_store::StoreOptions;
use tipple_store::http::{Answer, Poster, Request};

use super::message::Message;
use super::retry::{Refused, Retry, Trouble};
use super::target::QueuePlace;

/// What SQS takes at a time.
pub(crate) const BATCH_MAX: usize = 10;
/// What SQS takes at a time, in bytes of all bodies together.
pub(crate) const BATCH_BYTES_MAX: usize = 256 << 10;
/// An answer with ten of the longest messages is shorter.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A queue that was found.
pub(crate) struct Queue {
    poster: Arc<Poster>,
    /// Where requests go to.
    endpoint: String,
    /// Of the endpoint, if its name tells it; otherwise the one of the options.
    region: Option<String>,
    /// What the server calls it.
    url: String,
    is_fifo: bool,
    options: StoreOptions,
}

/// A received message: invisible to others until its time is over, or it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) receipt: String,
    /// Whether the body has the MD5 that the server says of it, if it says one.
    pub(crate) is_whole: bool,
}

impl Queue {
    /// Finds a queue, and makes sure that it is there and lets itself be asked.
    pub(crate) fn open(
        poster: Arc<Poster>,
        place: &QueuePlace,
        options: &StoreOptions,
        gate: &Gate,
    ) -> Result<Self, Refused> {
        let endpoint = match place {
            QueuePlace::At(url) => origin_of(url).to_owned(),
            QueuePlace::Named(_) => named_endpoint(options, poster.region())?,
        };
        let mut queue = Self {
            region: region_of(&endpoint),
            poster,
            endpoint,
            url: String::new(),
            is_fifo: place.is_fifo(),
            options: options.clone(),
        };
        queue.url = match place {
            QueuePlace::At(url) => url.clone(),
            QueuePlace::Named(name) => {
                let found = queue.call("GetQueueUrl", &json!({"QueueName": name}), gate)?;
                match found["QueueUrl"].as_str() {
                    Some(url) => url.to_owned(),
                    None => return Err(Refused::Failed(no_answer_of("GetQueueUrl"))),
                }
            }
        };
        queue.lengths(gate)?;
        Ok(queue)
    }

    /// Messages that are there: visible, received by somebody and not deleted, and delayed. About right, says SQS.
    pub(crate) fn lengths(&self, gate: &Gate) -> Result<u64, Refused> {
        const NAMES: [&str; 3] = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ];
        let body = json!({"QueueUrl": self.url, "AttributeNames": NAMES});
        let answer = self.call("GetQueueAttributes", &body, gate)?;
        let number =
            |name: &&str| -> Option<u64> { answer["Attributes"][*name].as_str()?.parse().ok() };
        // The last one is not everywhere.
        match (number(&NAMES[0]), number(&NAMES[1])) {
            (Some(visible), Some(received)) => {
                let delayed = number(&NAMES[2]).unwrap_or(0);
                Ok(visible.saturating_add(received).saturating_add(delayed))
            }
            _ => Err(Refused::Failed(no_answer_of("GetQueueAttributes"))),
        }
    }

    /// Sends messages, at most [`BATCH_MAX`] and [`BATCH_BYTES_MAX`]; what the server did not take is sent again, alone.
    pub(crate) fn send(
        &self,
        messages: &[Message],
        mut retry: Retry,
        gate: &Gate,
    ) -> Result<(), Refused> {
        let mut left: BTreeMap<String, &Message> = (messages.iter().enumerate())
            .map(|(number, message)| (number.to_string(), message))
            .collect();
        retry.run(gate, || {
            let entries: Vec<Value> = left.iter().map(|(id, m)| self.entry(id, m)).collect();
            let body = json!({"QueueUrl": self.url, "Entries": entries});
            let answer = self.ask("SendMessageBatch", &body, self.options.request_time)?;
            let is_whole = |message: &&Message, taken: &Value| {
                is_body(&message.body, &taken["MD5OfMessageBody"])
            };
            settle(&mut left, &answer, is_whole)
        })
    }

    fn entry(&self, id: &str, message: &Message) -> Value {
        let mut entry = json!({"Id": id, "MessageBody": message.body});
        if self.is_fifo {
            entry["MessageGroupId"] = json!(message.group);
            entry["MessageDeduplicationId"] = json!(message.key);
        }
        entry
    }

    /// Receives up to `max` messages, at most ten, which nobody else sees for `visible_after`. Waits so long for the
    /// first one, at most 20 s. One attempt.
    pub(crate) fn receive(
        &self,
        max: usize,
        wait: Duration,
        visible_after: Duration,
    ) -> Result<Vec<Received>, Trouble> {
        let body = json!({
            "QueueUrl": self.url,
            "MaxNumberOfMessages": max.clamp(1, BATCH_MAX),
            "WaitTimeSeconds": wait.as_secs().min(20),
            "VisibilityTimeout": visible_after.as_secs(),
        });
        let time_max = self.options.request_time + wait;
        let answer = self.ask("ReceiveMessage", &body, time_max)?;
        let text = |message: &Value, name: &str| Some(message[name].as_str()?.to_owned());
        let read = |message: &Value| {
            let body = text(message, "Body")?;
            Some(Received {
                id: text(message, "MessageId")?,
                is_whole: is_body(&body, &message["MD5OfBody"]),
                body,
                receipt: text(message, "ReceiptHandle")?,
            })
        };
        let messages: Option<Vec<_>> = list(&answer, "Messages").iter().map(read).collect();
        messages.ok_or_else(|| Trouble::passing(no_answer_of("ReceiveMessage")))
    }

    /// Deletes a received message. One whose receipt does not hold any more was deleted by an attempt whose answer was
    /// lost, or has been seen by others again, who delete it.
    pub(crate) fn delete(&self, receipt: &str, gate: &Gate) -> Result<(), Refused> {
        let body = json!({"QueueUrl": self.url, "ReceiptHandle": receipt});
        let is_void = |code: &str| {
            let code = code.rsplit('.').next().unwrap_or_default();
            matches!(code, "ReceiptHandleIsInvalid" | "InvalidParameterValue")
        };
        Retry::new(&self.options).run(gate, || {
            match self.ask("DeleteMessage", &body, self.options.request_time) {
                Err(trouble) if is_void(&trouble.code) => Ok(()),
                answer => answer.map(drop),
            }
        })
    }

    /// From now on, received messages are seen by others after `visible_after`. Tried once: what fails is tried again
    /// in time, or somebody else gets the message.
    pub(crate) fn extend(&self, receipts: &[String], visible_after: Duration) {
        for batch in receipts.chunks(BATCH_MAX) {
            let entry = |(number, receipt): (usize, &String)| {
                json!({
                    "Id": number.to_string(),
                    "ReceiptHandle": receipt,
                    "VisibilityTimeout": visible_after.as_secs(),
                })
            };
            let entries: Vec<Value> = batch.iter().enumerate().map(entry).collect();
            let body = json!({"QueueUrl": self.url, "Entries": entries});
            // See above.
            let _ = self.ask(
                "ChangeMessageVisibilityBatch",
                &body,
                self.options.request_time,
            );
        }
    }

    /// Asks until there is an answer.
    fn call(&self, action: &str, body: &Value, gate: &Gate) -> Result<Value, Refused> {
        let time_max = self.options.request_time;
        Retry::new(&self.options).run(gate, || self.ask(action, body, time_max))
    }

    /// Asks once, with a signature of now.
    fn ask(&self, action: &str, body: &Value, time_max: Duration) -> Result<Value, Trouble> {
        let mut request = Request::new(format!("{}/", self.endpoint), body.to_string());
        request.headers = vec![
            ("content-type".into(), "application/x-amz-json-1.0".into()),
            ("x-amz-target".into(), format!("AmazonSQS.{action}")),
        ];
        request.aws_service = Some("sqs".into());
        request.aws_region.clone_from(&self.region);
        request.time_max = time_max;
        request.answer_bytes_max = ANSWER_BYTES_MAX;
        let answer = match self.poster.post(&request) {
            Ok(answer) => answer,
            Err(error) => return Err(Trouble::of_post(&error)),
        };
        if answer.status != 200 {
            return Err(self.refusal(&answer));
        }
        match answer.body.as_slice() {
            [] => Ok(Value::Null),
            body => {
                serde_json::from_slice(body).map_err(|_| Trouble::passing(no_answer_of(action)))
            }
        }
    }

    fn refusal(&self, answer: &Answer) -> Trouble {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let code = said["__type"].as_str().unwrap_or_default();
        let code = plain_code(code.rsplit('#').next().unwrap_or_default());
        let is_expired = code.contains("Expired");
        if is_expired {
            self.poster.forget_credentials();
        }
        let words = match code.rsplit('.').next().unwrap_or_default() {
            "NonExistentQueue" | "QueueDoesNotExist" => {
                format!("({code}): there is no such queue in this account and region")
            }
            "AccessDenied" | "AccessDeniedException" => format!(
                "({code}): it needs sqs:GetQueueUrl and sqs:GetQueueAttributes; to send sqs:SendMessage, to receive sqs:ReceiveMessage, sqs:ChangeMessageVisibility and sqs:DeleteMessage"
            ),
            "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException"
            | "IncompleteSignature"
            | "InvalidSignatureException"
            | "InvalidSecurity" => format!("({code}): the credentials are not accepted"),
            _ => format!("({code})"),
        };
        let mut trouble = Trouble::of_status(answer, (!code.is_empty()).then_some(&*words));
        trouble.passes |= is_expired || is_passing(&code);
        trouble.code = code;
        trouble
    }
}

/// Whether `body` has this MD5, in hex. Not every server says one.
fn is_body(body: &str, md5: &Value) -> bool {
    match md5 {
        Value::Null => true,
        Value::String(md5) => {
            let digest = Md5::digest(body.as_bytes());
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            hex.eq_ignore_ascii_case(md5)
        }
        _ => false,
    }
}

/// Takes out of `left` what the server took as it was sent, by its answer to a batch.
///
/// # Errors
/// What became of one that is still there.
fn settle<T>(
    left: &mut BTreeMap<String, T>,
    answer: &Value,
    is_whole: impl Fn(&T, &Value) -> bool,
) -> Result<(), Trouble> {
    let id_of = |entry: &Value| entry["Id"].as_str().unwrap_or_default().to_owned();
    let mut is_damaged = false;
    for taken in list(answer, "Successful") {
        let id = id_of(taken);
        if left.get(&id).is_some_and(|sent| !is_whole(sent, taken)) {
            is_damaged = true;
        } else {
            left.remove(&id);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let is_left = |entry: &&Value| left.contains_key(&id_of(entry));
    // One that can never go well before any that may.
    let is_lasting = |entry: &&Value| {
        entry["SenderFault"].as_bool() == Some(true)
            && !is_passing(entry["Code"].as_str().unwrap_or_default())
    };
    let failed: Vec<&Value> = list(answer, "Failed").iter().filter(is_left).collect();
    let refused = |entry: &Value| {
        let code = plain_code(entry["Code"].as_str().unwrap_or_default());
        format!("a message was refused ({code})")
    };
    match (failed.iter().copied().find(is_lasting), failed.first()) {
        (Some(entry), _) => Err(Trouble::lasting(refused(entry))),
        (None, Some(entry)) => Err(Trouble::passing(refused(entry))),
        // Who receives it finds no sense in it; the one that is sent again is another message.
        (None, None) if is_damaged => Err(Trouble::passing(
            "a message arrived with another body than it was sent with (by its MD5)",
        )),
        (None, None) => Err(Trouble::passing(
            "the queue did not say what became of a message",
        )),
    }
}

/// Whether what a server says with this code passes by itself, whatever the status.
fn is_passing(code: &str) -> bool {
    [
        "Throttl",
        "Skewed",
        "RequestTimeout",
        "ServiceUnavailable",
        "InternalError",
        "InternalFailure",
        "SlowDown",
    ]
    .iter()
    .any(|sign| code.contains(sign))
}

/// A code as it may be shown: what a server sends may be anything.
fn plain_code(code: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    code.chars().filter(is_plain).take(80).collect()
}

fn no_answer_of(action: &str) -> String {
    format!("what answers is no SQS: its answer to {action} makes no sense")
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

/// `https://HOST` of `https://HOST/…`.
fn origin_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where queues are found by name.
fn named_endpoint(options: &StoreOptions, region: &str) -> Result<String, Refused> {
    let given = ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL"]
        .into_iter()
        .find_map(|name| Some((name, options.variable(name)?)));
    let Some((name, url)) = given else {
        let domain = match region.starts_with("cn-") {
            true => "amazonaws.com.cn",
            false => "amazonaws.com",
        };
        return Ok(format!("https://sqs.{region}.{domain}"));
    };
    let url = url.trim_end_matches('/');
    let is_web = url.starts_with("http://") || url.starts_with("https://");
    // Not repeated: it may hold a password.
    match is_web && !url.contains(['@', '?', '#']) {
        true => Ok(url.to_owned()),
        false => Err(Refused::Failed(format!(
            "{name} is no http:// or https:// URL without credentials"
        ))),
    }
}

/// The region that an endpoint of AWS is in.
fn region_of(endpoint: &str) -> Option<String> {
    let host = endpoint.split_once("://")?.1;
    let host = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let region = match host.split_once('.')? {
        ("sqs" | "sqs-fips", region) => region,
        (region, "queue") => region,
        _ => return None,
    };
    (!region.contains('.')).then(|| region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_read_from_hosts_of_aws() {
        let region = |url: &str| region_of(origin_of(url));
        for (url, wanted) in [
            ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1")),
            (
                "https://sqs-fips.us-gov-west-1.amazonaws.com/1/q",
                Some("us-gov-west-1"),
            ),
            (
                "https://sqs.cn-north-1.amazonaws.com.cn/1/q",
                Some("cn-north-1"),
            ),
            (
                "https://eu-west-1.queue.amazonaws.com/1/q",
                Some("eu-west-1"),
            ),
            ("https://queue.amazonaws.com/1/q", None),
            ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q", None),
            ("http://127.0.0.1:4566/000000000000/q", None),
        ] {
            assert_eq!(region(url).as_deref(), wanted, "{url}");
        }
    }

    #[test]
    fn only_what_a_batch_did_not_take_is_left() {
        let left = || BTreeMap::from(["0", "1", "2"].map(|id| (id.to_owned(), ())));
        let settled = |answer: Value| {
            let mut left = left();
            let trouble = settle(&mut left, &answer, |(), _| true).err();
            let left: Vec<String> = left.into_keys().collect();
            (left.concat(), trouble)
        };
        let taken =
            |ids: &[&str]| -> Vec<Value> { ids.iter().map(|id| json!({"Id": id})).collect() };
        assert_eq!(
            settled(json!({"Successful": taken(&["2", "0", "1"])})),
            (String::new(), None)
        );
        let busy = json!({"Id": "1", "SenderFault": false, "Code": "InternalError"});
        assert_eq!(
            settled(json!({"Successful": taken(&["0", "2"]), "Failed": [busy]})),
            (
                "1".into(),
                Some(Trouble::passing("a message was refused (InternalError)"))
            )
        );
        // One that is ours to blame ends it, whatever else could be tried again.
        let bad = json!({"Id": "2", "SenderFault": true, "Code": "InvalidMessageContents\u{1b}"});
        assert_eq!(
            settled(json!({"Successful": taken(&["0"]), "Failed": [busy, bad]})),
            (
                "12".into(),
                Some(Trouble::lasting(
                    "a message was refused (InvalidMessageContents)"
                ))
            )
        );
        let slow = json!({"Id": "2", "SenderFault": true, "Code": "ThrottlingException"});
        assert!(settled(json!({"Failed": [slow]})).1.unwrap().passes);
        // Nothing is taken for delivered that was not called so.
        for answer in [json!({}), json!(null), json!({"Successful": [{"Id": "7"}]})] {
            let (left, trouble) = settled(answer);
            assert_eq!(left, "012");
            assert!(trouble.unwrap().passes);
        }
    }

    #[test]
    fn bodies_are_what_their_md5_says() {
        let abc = json!("900150983CD24FB0D6963F7D28E17F72");
        assert!(is_body("abc", &abc) && is_body("abc", &Value::Null));
        for (body, md5) in [("abd", &abc), ("abc", &json!("")), ("abc", &json!(7))] {
            assert!(!is_body(body, md5), "{body} {md5}");
        }
        // What arrived with another body is sent again, and what comes with it is not.
        let mut left = BTreeMap::from([("0".to_owned(), "abc"), ("1".to_owned(), "abd")]);
        let taken = ["0", "1"].map(|id| json!({"Id": id, "MD5OfMessageBody": abc}));
        let is_whole = |body: &&str, taken: &Value| is_body(body, &taken["MD5OfMessageBody"]);
        let trouble = settle(&mut left, &json!({"Successful": taken}), is_whole).unwrap_err();
        assert!(trouble.passes && trouble.reason.contains("another body"));
        assert_eq!(left.into_keys().collect::<String>(), "1");
    }

    #[test]
    fn queues_by_name_are_where_the_variables_say() {
        let endpoint = |name: &str, value: &str| {
            let options = StoreOptions::default()
                .with_variables([("AWS_ENDPOINT_URL", "http://general:1/"), (name, value)]);
            named_endpoint(&options, "eu-west-1")
        };
        assert_eq!(
            endpoint("AWS_ENDPOINT_URL_SQS", "http://q:2").unwrap(),
            "http://q:2"
        );
        assert_eq!(endpoint("AWS_REGION", "x").unwrap(), "http://general:1");
        assert_eq!(
            named_endpoint(&StoreOptions::default(), "eu-west-1").unwrap(),
            "https://sqs.eu-west-1.amazonaws.com"
        );
        assert_eq!(
            named_endpoint(&StoreOptions::default(), "cn-north-1").unwrap(),
            "https://sqs.cn-north-1.amazonaws.com.cn"
        );
        let refused = endpoint("AWS_ENDPOINT_URL_SQS", "http://u:hunter2@q").unwrap_err();
        let Refused::Failed(reason) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(
            reason,
            "AWS_ENDPOINT_URL_SQS is no http:// or https:// URL without credentials"
        );
    }
}
