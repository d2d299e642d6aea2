//! A NATS client that shares no code with the one under test, and sends any bytes as headers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait_for_some;

/// More than any answer of a server that works takes.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A message as it was delivered or stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsMessage {
    /// Its subject.
    pub subject: String,
    /// Its header block, byte for byte, from `NATS/1.0` to the empty line; empty without headers.
    pub headers: Vec<u8>,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct RawNats {
    socket: BufReader<TcpStream>,
    port: u16,
    /// What `CONNECT` says beside what it always says.
    fields: Value,
    requests: u64,
}

impl RawNats {
    /// Connects to 127.0.0.1.
    ///
    /// # Panics
    /// If there is no NATS server.
    #[track_caller]
    pub fn connect(port: u16) -> Self {
        Self::connect_as(port, json!({}))
    }

    /// The same with more fields for `CONNECT`, such as `auth_token`.
    ///
    /// # Panics
    /// If there is no NATS server.
    #[track_caller]
    pub fn connect_as(port: u16, fields: Value) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(ANSWER_TIME)).unwrap();
        let mut hello = json!({ "verbose": false, "headers": true, "no_responders": true });
        for (name, value) in fields.as_object().unwrap() {
            hello[name] = value.clone();
        }
        let mut client = Self {
            socket: BufReader::new(socket),
            port,
            fields,
            requests: 0,
        };
        assert!(client.line().unwrap().starts_with("INFO "));
        client.send(format!("CONNECT {hello}\r\nSUB _INBOX.raw{}.* 1\r\n", client.id()).as_bytes());
        client
    }

    /// Whether somebody speaks NATS there.
    pub(crate) fn answers(port: u16) -> bool {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let mut start = [0; 5];
        socket.read_exact(&mut start).is_ok() && &start == b"INFO "
    }

    fn id(&self) -> u16 {
        self.socket.get_ref().local_addr().unwrap().port()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.get_mut().write_all(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.socket.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the server closed the connection: {line}"),
            )),
        }
    }

    /// Publishes with a header block, from `NATS/1.0` to the empty line, or none; nothing is waited for.
    pub fn publish(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        self.publish_to(subject, "", headers, payload).unwrap();
    }

    fn publish_to(
        &mut self,
        subject: &str,
        reply: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> io::Result<()> {
        let all = headers.len() + payload.len();
        let mut bytes = match headers.is_empty() {
            true => format!("PUB {subject} {reply} {all}\r\n"),
            false => format!("HPUB {subject} {reply} {} {all}\r\n", headers.len()),
        }
        .into_bytes();
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.try_send(&bytes)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn request(&mut self, subject: &str, headers: &[u8], payload: &[u8]) -> NatsMessage {
        self.try_request(subject, headers, payload).unwrap()
    }

    fn try_request(
        &mut self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
    ) -> io::Result<NatsMessage> {
        self.requests += 1;
        let reply = format!("_INBOX.raw{}.{}", self.id(), self.requests);
        self.publish_to(subject, &reply, headers, payload)?;
        loop {
            let (message, _) = self.next()?;
            if message.subject == reply {
                return Ok(message);
            }
        }
    }

    /// The next messages of a durable pull consumer, each with the subject that acknowledges it.
    ///
    /// # Panics
    /// If there are not so many.
    #[track_caller]
    pub fn pull(
        &mut self,
        stream: &str,
        consumer: &str,
        count: usize,
    ) -> Vec<(NatsMessage, String)> {
        self.requests += 1;
        let reply = format!("_INBOX.raw{}.{}", self.id(), self.requests);
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let body = json!({ "batch": count, "no_wait": true }).to_string();
        self.publish_to(&next, &reply, b"", body.as_bytes())
            .unwrap();
        let pulled = |client: &mut Self| {
            let (message, acknowledge) = client.next().unwrap();
            assert_ne!(message.subject, reply, "{consumer}: {message:?}");
            (message, acknowledge)
        };
        (0..count).map(|_| pulled(self)).collect()
    }

    fn next(&mut self) -> io::Result<(NatsMessage, String)> {
        loop {
            let line = self.line()?;
            let words: Vec<_> = line.split_whitespace().collect();
            match words[0] {
                "PING" => self.try_send(b"PONG\r\n")?,
                "MSG" | "HMSG" => {
                    let number = |at: usize| words[at].parse::<usize>().unwrap();
                    let all = number(words.len() - 1);
                    let header_bytes = match words[0] {
                        "HMSG" => number(words.len() - 2),
                        _ => 0,
                    };
                    let mut body = vec![0; all + 2];
                    self.socket.read_exact(&mut body)?;
                    let sizes = if words[0] == "HMSG" { 2 } else { 1 };
                    let reply = words[3..words.len() - sizes].concat();
                    let message = NatsMessage {
                        subject: words[1].to_owned(),
                        headers: body[..header_bytes].to_vec(),
                        payload: body[header_bytes..all].to_vec(),
                    };
                    return Ok((message, reply));
                }
                "INFO" | "PONG" | "+OK" => {}
                _ => panic!("the server says {line}"),
            }
        }
    }

    /// Asks JetStream `$JS.API.<what>`; the answer as it is.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn ask(&mut self, what: &str, body: Value) -> Value {
        self.try_to_ask(what, &body).unwrap()
    }

    fn try_to_ask(&mut self, what: &str, body: &Value) -> io::Result<Value> {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let answer = self.try_request(&format!("$JS.API.{what}"), b"", body.as_bytes())?;
        Ok(serde_json::from_slice(&answer.payload)
            .unwrap_or_else(|error| panic!("{what}: {error}: {answer:?}")))
    }

    /// Asks for what is stored, again and again while a cluster says that it has no leader, or says nothing.
    #[track_caller]
    fn ask_until_led(&mut self, what: &str, body: &Value) -> Value {
        wait_for_some(what, || match self.try_to_ask(what, body) {
            Ok(answer) => (answer["error"]["code"] != 503).then_some(answer),
            Err(_) => {
                *self = Self::connect_as(self.port, self.fields.clone());
                None
            }
        })
    }

    /// The same over a connection of its own; `None` if no answer comes in a second, as from a cluster that has no leader.
    pub fn try_ask(port: u16, what: &str, body: &Value) -> Option<Value> {
        let mut client = Self::connect(port);
        let socket = client.socket.get_ref();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let reply = format!("_INBOX.raw{}.0", client.id());
        let body = body.to_string();
        let sent = client.publish_to(&format!("$JS.API.{what}"), &reply, b"", body.as_bytes());
        sent.ok()?;
        loop {
            let mut line = String::new();
            client.socket.read_line(&mut line).ok()?;
            let mut words = line.split_whitespace();
            if words.next()? == "MSG" {
                let mut answer = vec![0; words.next_back()?.parse().ok()?];
                client.socket.read_exact(&mut answer).ok()?;
                return serde_json::from_slice(&answer).ok();
            }
        }
    }

    /// The same, which must work.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn must(&mut self, what: &str, body: Value) -> Value {
        let answer = self.ask(what, body);
        assert!(answer["error"].is_null(), "{what}: {answer}");
        answer
    }

    /// Makes a stream of files, with these fields beside, such as `subjects`.
    ///
    /// # Panics
    /// If the server does not want it.
    #[track_caller]
    pub fn create_stream(&mut self, name: &str, fields: Value) {
        let mut config =
            json!({ "name": name, "retention": "limits", "storage": "file", "num_replicas": 1 });
        for (field, value) in fields.as_object().unwrap() {
            config[field] = value.clone();
        }
        self.must(&format!("STREAM.CREATE.{name}"), config);
    }

    /// What a stream holds: the field `state` of its info.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn state(&mut self, stream: &str) -> Value {
        let info = self.ask_until_led(&format!("STREAM.INFO.{stream}"), &Value::Null);
        assert!(info["error"].is_null(), "{stream}: {info}");
        info["state"].clone()
    }

    /// Publishes to a stream, and waits until it is stored; its sequence.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn store(&mut self, subject: &str, headers: &[u8], payload: &[u8]) -> u64 {
        let answer = self.request(subject, headers, payload);
        let value: Value = serde_json::from_slice(&answer.payload)
            .unwrap_or_else(|_| panic!("{subject}: {answer:?}"));
        value["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("{subject}: {value}"))
    }

    /// Waits until the server has read everything that was sent.
    ///
    /// # Panics
    /// If it does not answer.
    #[track_caller]
    pub fn flush(&mut self) {
        self.send(b"PING\r\n");
        loop {
            match self.line().unwrap().as_str() {
                "PONG" => return,
                "PING" => self.send(b"PONG\r\n"),
                line => assert!(line.starts_with("INFO "), "{line}"),
            }
        }
    }

    /// Every message of a stream in order, with its sequence, each asked for by itself.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn all(&mut self, stream: &str) -> Vec<(u64, NatsMessage)> {
        use base64::Engine;
        use base64::prelude::BASE64_STANDARD;
        let state = self.state(stream);
        let mut all = Vec::new();
        for sequence in state["first_seq"].as_u64().unwrap()..=state["last_seq"].as_u64().unwrap() {
            let answer = self.ask_until_led(
                &format!("STREAM.MSG.GET.{stream}"),
                &json!({ "seq": sequence }),
            );
            if answer["error"]["err_code"] == 10037 {
                continue;
            }
            assert!(answer["error"].is_null(), "{stream} {sequence}: {answer}");
            let message = &answer["message"];
            let bytes = |field: &str| {
                BASE64_STANDARD
                    .decode(message[field].as_str().unwrap_or_default())
                    .unwrap()
            };
            let message = NatsMessage {
                subject: message["subject"].as_str().unwrap().to_owned(),
                headers: bytes("hdrs"),
                payload: bytes("data"),
            };
            all.push((sequence, message));
        }
        all
    }
}
