//! A queue, seen from outside of the code under test.

use serde_json::{Value, json};

use crate::account::{Account, Request};

/// One queue of an SQS server. Every request has a connection of its own, and is tried once.
#[derive(Clone, Debug)]
pub struct RawSqs {
    account: Account,
    url: String,
}

/// A received message: invisible to others until its time is over, or it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The server's id.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// What deletes it.
    pub receipt: String,
}

impl RawSqs {
    /// Looks into the queue at `url`.
    pub fn new(account: &Account, url: &str) -> Self {
        Self {
            account: account.clone(),
            url: url.to_owned(),
        }
    }

    /// Creates a queue, one that keeps an order if its name ends with `.fifo`. Messages that are received and not deleted appear again after `visibility_timeout_s`.
    ///
    /// # Panics
    /// As all below: if the server does not do it.
    #[track_caller]
    pub fn create(account: &Account, name: &str, visibility_timeout_s: u32) -> Self {
        let mut queue = Self::new(account, "");
        let mut attributes = json!({"VisibilityTimeout": visibility_timeout_s.to_string()});
        if name.ends_with(".fifo") {
            attributes["FifoQueue"] = json!("true");
        }
        let answer = queue.call(
            "CreateQueue",
            json!({"QueueName": name, "Attributes": attributes}),
        );
        answer["QueueUrl"]
            .as_str()
            .expect("a URL")
            .clone_into(&mut queue.url);
        queue
    }

    /// The queue's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    #[track_caller]
    fn call(&self, action: &str, body: Value) -> Value {
        let answer = self.account.request(&Request {
            service: "sqs",
            method: "POST",
            path: "/",
            query: &[],
            headers: &[
                ("content-type", "application/x-amz-json-1.0"),
                ("x-amz-target", &format!("AmazonSQS.{action}")),
            ],
            body: body.to_string().as_bytes(),
        });
        let answer = answer.unwrap_or_else(|error| panic!("{action} {}: {error}", self.url));
        let text = answer.text();
        assert_eq!(answer.status, 200, "{action} {}: {text}", self.url);
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{action}: {error}: {text}"))
    }

    /// Sends a message.
    #[track_caller]
    pub fn send(&self, body: &str) {
        self.call(
            "SendMessage",
            json!({"QueueUrl": self.url, "MessageBody": body}),
        );
    }

    /// Receives up to ten messages, without waiting for any.
    #[track_caller]
    pub fn receive(&self) -> Vec<Message> {
        let answer = self.call(
            "ReceiveMessage",
            json!({"QueueUrl": self.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}),
        );
        let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
        let text = |message: &Value, field: &str| {
            let text = message[field].as_str();
            text.unwrap_or_else(|| panic!("no {field} in {message}"))
                .to_owned()
        };
        messages
            .iter()
            .map(|message| Message {
                id: text(message, "MessageId"),
                body: text(message, "Body"),
                receipt: text(message, "ReceiptHandle"),
            })
            .collect()
    }

    /// Deletes a received message.
    #[track_caller]
    pub fn delete(&self, message: &Message) {
        self.call(
            "DeleteMessage",
            json!({"QueueUrl": self.url, "ReceiptHandle": message.receipt}),
        );
    }

    /// Receives and deletes until nothing is visible; the bodies, in the order they came.
    #[track_caller]
    pub fn drain(&self) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            let messages = self.receive();
            if messages.is_empty() {
                return bodies;
            }
            for message in messages {
                self.delete(&message);
                bodies.push(message.body);
            }
        }
    }

    /// Messages that could be received now, and those that somebody received and has not deleted.
    #[track_caller]
    pub fn lengths(&self) -> (u64, u64) {
        let (visible, invisible) = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
        );
        let answer = self.call(
            "GetQueueAttributes",
            json!({"QueueUrl": self.url, "AttributeNames": [visible, invisible]}),
        );
        let number = |name: &str| {
            let text = answer["Attributes"][name].as_str().expect("an attribute");
            text.parse().expect("a number")
        };
        (number(visible), number(invisible))
    }
}
