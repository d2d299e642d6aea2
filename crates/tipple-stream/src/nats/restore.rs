//! What a stream is, beside its messages: its configuration and how far its durable consumers are. A dump says it in its
//! DONE, a load makes the like of it.
//!
//! A stream that a load makes has neither limits nor rules until all messages are there, since those would take away or
//! refuse what is loaded; its description tells that it is not finished. A limit that would take messages away then is
//! raised, and told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tipple_budget::Gate;
use tipple_flow::{Failure, Party, Stop};

use super::api::{Access, ApiError, Asked, StreamInfo, StreamState};
use super::message::origin_of;
use super::read::sequence_at;
use super::wire::{Connection, Trouble};
use super::write::matches;

/// The description of a stream until it is loaded.
const UNFINISHED: &str = "tipple is loading this stream";
/// What a stream is made with at once; everything else comes when it is loaded.
const FROM_THE_START: &[&str] = &[
    "subjects",
    "storage",
    "num_replicas",
    "placement",
    "compression",
];
/// What is not taken over: it names another stream, or would end all writing.
const NEVER: &[&str] = &[
    "name",
    "sealed",
    "mirror",
    "sources",
    "first_seq",
    "template_owner",
];

/// Answers of JetStream that mean something here (errors.json of nats-server).
const NO_CONSUMER: u64 = 10014;
const SUBJECTS_OVERLAP: u64 = 10065;
const REPLICAS: u64 = 10074;

/// What DONE says of a stream, as `nats`. Stable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Described {
    /// As the server has it.
    config: Map<String, Value>,
    /// Of the first message when it was planned, or of the next one.
    first: u64,
    /// Of the last one.
    last: u64,
    messages: u64,
    bytes: u64,
    /// Whether every message from the first to the last is in the dump.
    is_dense: bool,
    consumers: Vec<Consumer>,
    /// Consumers that are gone when nobody uses them.
    ephemeral_consumers: u64,
    /// Why it is not known which consumers there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_consumers: Option<String>,
}

/// A durable consumer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Consumer {
    name: String,
    config: Map<String, Value>,
    /// The first message that it has not done with; none if only its configuration tells where it begins.
    next: Option<u64>,
    /// Messages behind it that were delivered and not acknowledged: they come again, with those that were.
    unacknowledged: u64,
}

/// What a stream was when it was planned.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) stream: String,
    pub(super) created: String,
    #[serde(default)]
    first: u64,
    #[serde(default)]
    last: u64,
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
}

impl Life {
    pub(super) fn of(stream: &str, info: &StreamInfo) -> Self {
        let StreamState {
            messages,
            bytes,
            last_seq,
            ..
        } = info.state;
        Self {
            stream: stream.to_owned(),
            created: info.created.clone(),
            first: info.state.first(),
            last: last_seq,
            messages,
            bytes,
        }
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    created: String,
    #[serde(default)]
    config: Map<String, Value>,
    delivered: Delivered,
    ack_floor: Delivered,
    #[serde(default)]
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Delivered {
    consumer_seq: u64,
    stream_seq: u64,
}

#[derive(Deserialize)]
struct ConsumerPage {
    total: u64,
    #[serde(default)]
    consumers: Vec<ConsumerInfo>,
}

#[derive(Deserialize)]
struct Configured {
    config: Map<String, Value>,
}

impl Described {
    /// What `life` has become; `records` of it were dumped, if that was all.
    pub(super) fn read(access: &Access, life: Life, records: Option<u64>) -> Result<Self, Stop> {
        let stream = &access.url.stream;
        let asked = access.once(None, |connection| {
            connection.ask::<Configured>(&format!("STREAM.INFO.{stream}"), &Value::Null, None)
        })?;
        let config = asked.map_err(|error| access.answered(&error))?.config;
        let span = (life.last + 1).saturating_sub(life.first);
        let mut described = Self {
            config,
            first: life.first,
            last: life.last,
            messages: records.unwrap_or(life.messages),
            bytes: life.bytes,
            is_dense: records == Some(span),
            consumers: Vec::new(),
            ephemeral_consumers: 0,
            no_consumers: None,
        };
        let found = access.once(None, |connection| {
            match consumers_of(access, connection, life.last) {
                // Whoever may not ask does not get them.
                Err(Trouble::Refused(why)) => Ok(Ok(Err(why))),
                found => Ok(found?.map(Ok)),
            }
        })?;
        match found {
            Ok(Ok((durable, ephemeral))) => {
                described.consumers = durable;
                described.ephemeral_consumers = ephemeral;
            }
            Ok(Err(why)) => described.no_consumers = Some(why),
            Err(error) => described.no_consumers = Some(error.description),
        }
        Ok(described)
    }

    /// What DONE says; none if it is of no stream of NATS.
    pub(super) fn of(said: &Value) -> Option<Self> {
        serde_json::from_value(said.get("nats")?.clone()).ok()
    }
}

/// Durable consumers, and how many others there are.
fn consumers_of(
    access: &Access,
    connection: &mut Connection,
    last: u64,
) -> Asked<(Vec<Consumer>, u64)> {
    let stream = &access.url.stream;
    let (mut durable, mut ephemeral, mut offset) = (Vec::new(), 0, 0);
    loop {
        let what = format!("CONSUMER.LIST.{stream}");
        let page: ConsumerPage = match connection.ask(&what, &json!({ "offset": offset }), None)? {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        let is_last = page.consumers.is_empty();
        offset += page.consumers.len() as u64;
        for info in page.consumers {
            if !info.config.contains_key("durable_name") {
                ephemeral += 1;
                continue;
            }
            let next = match next_of(access, connection, &info)? {
                Ok(next) => next,
                Err(error) => return Ok(Err(error)),
            };
            durable.push(Consumer {
                // What the dump has is what it may have seen.
                next: next.map(|next| next.min(last + 1)),
                unacknowledged: info.num_ack_pending,
                name: info.name,
                config: info.config,
            });
        }
        if is_last || offset >= page.total {
            return Ok(Ok((durable, ephemeral)));
        }
    }
}

/// The first message that a consumer has not done with.
fn next_of(
    access: &Access,
    connection: &mut Connection,
    info: &ConsumerInfo,
) -> Asked<Option<u64>> {
    let text = |field: &str| info.config.get(field).and_then(Value::as_str);
    let policy = text("deliver_policy").unwrap_or("all");
    if info.ack_floor.consumer_seq > 0 {
        return Ok(Ok(Some(info.ack_floor.stream_seq + 1)));
    }
    if policy == "last_per_subject" {
        return Ok(Ok(None));
    }
    if info.delivered.consumer_seq == 0 {
        return Ok(Ok(Some(info.delivered.stream_seq + 1)));
    }
    // Some were delivered and none acknowledged: where it began.
    let mut at = |time: &str| -> Asked<Option<u64>> { sequence_at(access, connection, time) };
    Ok(match policy {
        "by_start_sequence" => Ok(info.config.get("opt_start_seq").and_then(Value::as_u64)),
        "by_start_time" => match text("opt_start_time") {
            Some(time) => at(time)?,
            None => Ok(None),
        },
        "new" => at(&info.created)?,
        "last" => at(&info.created)?.map(|next| next.map(|next| next.saturating_sub(1).max(1))),
        _ => Ok(Some(1)),
    })
}

/// What a load does with the stream itself.
impl Access {
    /// That the stream can be loaded into; `None` if there is none, and it is to be made.
    pub(super) fn look_before_load(
        &self,
        like: Option<&Described>,
        gate: Option<&Gate>,
    ) -> Result<Option<StreamInfo>, Stop> {
        let stream = &self.url.stream;
        let asked = self.once(gate, |connection| connection.stream_info(stream, gate))?;
        let info = match (asked, like) {
            (Ok(info), _) => info,
            (Err(error), like) if error.err_code == super::api::STREAM_NOT_FOUND => {
                let Some(like) = like else {
                    return Err(self
                        .failure("there is no such stream: make it (nats stream add), or load all of a finished dump of NATS, which makes it")
                        .into());
                };
                for from in ["mirror", "sources"] {
                    if like.config.get(from).is_some_and(|from| !from.is_null()) {
                        return Err(self
                            .failure("there is no such stream, and the one that was dumped got its messages from another: make it with their subjects (nats stream add)")
                            .into());
                    }
                }
                return Ok(None);
            }
            (Err(error), _) => return Err(self.answered(&error).into()),
        };
        super::write::check(self, &info)?;
        if let Some(like) = like.filter(|_| !is_unfinished(&info)) {
            self.fits(&info, like)?;
        }
        Ok(Some(info))
    }

    /// Whether a stream that somebody else made keeps what is loaded.
    fn fits(&self, info: &StreamInfo, like: &Described) -> Result<(), Failure> {
        let config = &info.config;
        let refuse = |why: String| {
            Err(Failure::new(
                Party::Usage,
                format!("cannot load into {}: {why}", self.url),
            ))
        };
        let of = |field: &str| like.config.get(field).and_then(Value::as_i64).unwrap_or(-1);
        let per_subject = of("max_msgs_per_subject");
        let is_less = |limit: i64, needed: i64| limit > 0 && (needed < 1 || limit < needed);
        let messages = i64::try_from(like.messages).unwrap_or(i64::MAX);
        let bytes = i64::try_from(like.bytes).unwrap_or(i64::MAX);
        for (name, limit, needed) in [
            ("max_msgs", config.max_msgs, messages.max(1)),
            ("max_bytes", config.max_bytes, bytes.max(1)),
            (
                "max_msgs_per_subject",
                config.max_msgs_per_subject,
                per_subject,
            ),
        ] {
            if is_less(limit, needed) {
                let needed = match needed {
                    1.. => format!("the dump needs {needed}"),
                    _ => "the stream that was dumped has no such limit".to_owned(),
                };
                return refuse(format!(
                    "its {name} is {limit}, and {needed}: raise it (nats stream edit), or load into a stream that is not there yet, which is made"
                ));
            }
        }
        let subjects = like.config.get("subjects").and_then(Value::as_array);
        for subject in subjects.into_iter().flatten().filter_map(Value::as_str) {
            let filters = &config.subjects;
            if !filters.iter().any(|filter| covers(filter, subject)) {
                return refuse(format!(
                    "it does not listen to the subject {subject:?} of the stream that was dumped: add it (nats stream edit --subjects)"
                ));
            }
        }
        Ok(())
    }

    /// Makes the stream without limits; if the one that was dumped had no holes, and the server can, with its sequences.
    pub(super) fn make(&self, like: &Described, gate: Option<&Gate>) -> Result<StreamInfo, Stop> {
        let stream = &self.url.stream;
        let mut config = Map::new();
        for field in FROM_THE_START {
            if let Some(value) = like.config.get(*field) {
                config.insert((*field).to_owned(), value.clone());
            }
        }
        config.insert("name".to_owned(), json!(stream));
        config.insert("retention".to_owned(), json!("limits"));
        config.insert("description".to_owned(), json!(UNFINISHED));
        if like.is_dense && like.first > 1 {
            // Since NATS 2.10; those before know no such field.
            config.insert("first_seq".to_owned(), json!(like.first));
        }
        let create = format!("STREAM.CREATE.{stream}");
        loop {
            let asked = self.once(gate, |connection| {
                connection.ask::<Configured>(&create, &Value::Object(config.clone()), gate)
            })?;
            match asked {
                Ok(_) => break,
                // One server alone: a copy to look at.
                Err(error) if error.err_code == REPLICAS && replicas(&config) > 1 => {
                    config.insert("num_replicas".to_owned(), json!(1));
                }
                Err(error) if error.err_code == SUBJECTS_OVERLAP => {
                    return Err(self
                        .failure("it is not there, and cannot be made, since another stream of the account has its subjects: load into another server or account")
                        .into());
                }
                Err(error) => return Err(self.answered(&error).into()),
            }
        }
        self.look(gate)
    }

    /// Makes the stream, when all messages are there, what the one was that was dumped: its configuration, and its durable
    /// consumers where they were. What is there already is left as it is.
    pub(super) fn finish(&self, like: &Described) -> Result<Value, Stop> {
        let info = match self.look_before_load(Some(like), None)? {
            Some(info) => info,
            // A dump without a message.
            None => self.make(like, None)?,
        };
        let mut remarks = Vec::new();
        let is_ours = is_unfinished(&info);
        if is_ours {
            self.configure(like, &info.state, &mut remarks)?;
        }
        let (mut made, mut there_before) = (0_u64, 0_u64);
        for consumer in &like.consumers {
            match self.restore(consumer, &info.state, &mut remarks)? {
                true => made += 1,
                false => there_before += 1,
            }
        }
        if let Some(why) = &like.no_consumers {
            remarks.push(format!("the dump has no consumers ({why})"));
        }
        let mut said = json!({
            "stream_made": is_ours,
            "consumers_made": made,
            "consumers_there_before": there_before,
            "ephemeral_consumers_not_kept": like.ephemeral_consumers,
        });
        if !remarks.is_empty() {
            said["remarks"] = json!(remarks.join("; "));
        }
        Ok(said)
    }

    fn configure(
        &self,
        like: &Described,
        state: &StreamState,
        remarks: &mut Vec<String>,
    ) -> Result<(), Stop> {
        let stream = &self.url.stream;
        let config = self.config()?;
        let mut wanted = like.config.clone();
        for field in NEVER {
            wanted.remove(*field);
        }
        for field in ["name", "num_replicas", "first_seq"] {
            if let Some(value) = config.get(field) {
                wanted.insert(field.to_owned(), value.clone());
            }
        }
        if replicas(&like.config) > replicas(&config) {
            remarks.push(format!(
                "it has 1 replica, not {}, since the server is alone",
                replicas(&like.config)
            ));
        }
        // What was written has two headers more, and perhaps longer names of headers.
        for field in ["max_msgs", "max_bytes", "max_msgs_per_subject"] {
            let limit = wanted.get(field).and_then(Value::as_i64).unwrap_or(-1);
            let least = match field {
                _ if limit < 1 => continue,
                "max_msgs" => state.messages,
                "max_bytes" => state.bytes,
                _ => self.most_of_a_subject()?,
            };
            if limit.unsigned_abs() < least {
                remarks.push(format!(
                    "its {field} is {least}, not {limit}, so that nothing of what was loaded goes"
                ));
                wanted.insert(field.to_owned(), json!(least));
            }
        }
        if like.is_dense && like.messages > 0 && state.first() != like.first {
            remarks.push(format!(
                "its messages are {} to {}, not {} to {}, since this server cannot begin there (NATS 2.10 can)",
                state.first(), state.last_seq, like.first, like.last
            ));
        }
        if like.config.get("sealed") == Some(&Value::Bool(true)) {
            remarks.push("it is not sealed".to_owned());
        }
        wanted.entry("description").or_insert(json!(""));
        let update = format!("STREAM.UPDATE.{stream}");
        let asked = self.once(None, |connection| {
            connection.ask::<Configured>(&update, &Value::Object(wanted.clone()), None)
        })?;
        let got = asked.map_err(|error| self.answered(&error))?.config;
        remarks.extend(not_kept("it", &wanted, &got));
        Ok(())
    }

    fn config(&self) -> Result<Map<String, Value>, Stop> {
        let info = format!("STREAM.INFO.{}", self.url.stream);
        let asked = self.once(None, |connection| {
            connection.ask::<Configured>(&info, &Value::Null, None)
        })?;
        Ok(asked.map_err(|error| self.answered(&error))?.config)
    }

    /// How many messages the subject has that has most of them.
    fn most_of_a_subject(&self) -> Result<u64, Stop> {
        let info = format!("STREAM.INFO.{}", self.url.stream);
        let (mut most, mut offset) = (0, 0);
        loop {
            let body = json!({ "subjects_filter": ">", "offset": offset });
            let asked = self.once(None, |connection| {
                connection.ask::<Subjects>(&info, &body, None)
            })?;
            let page = asked.map_err(|error| self.answered(&error))?;
            let subjects = page.state.subjects;
            most = subjects.values().copied().max().unwrap_or(0).max(most);
            offset += subjects.len() as u64;
            if subjects.is_empty() || offset >= page.total {
                return Ok(most);
            }
        }
    }

    /// Makes the consumer, if it is not there.
    fn restore(
        &self,
        consumer: &Consumer,
        state: &StreamState,
        remarks: &mut Vec<String>,
    ) -> Result<bool, Stop> {
        let (stream, name) = (&self.url.stream, &consumer.name);
        let info = format!("CONSUMER.INFO.{stream}.{name}");
        let asked = self.once(None, |connection| {
            connection.ask::<Value>(&info, &Value::Null, None)
        })?;
        match asked {
            Ok(_) => return Ok(false),
            Err(error) if error.err_code == NO_CONSUMER => {}
            Err(error) => return Err(self.answered(&error).into()),
        }
        let mut config = consumer.config.clone();
        if let Some(next) = consumer.next {
            let next = self.mapped(next, state)?;
            config.remove("opt_start_time");
            config.insert("deliver_policy".to_owned(), json!("by_start_sequence"));
            config.insert("opt_start_seq".to_owned(), json!(next));
        }
        let create = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
        let make = |config: &Map<String, Value>| {
            let body = json!({ "stream_name": stream, "config": config });
            self.once(None, |connection| {
                connection.ask::<Configured>(&create, &body, None)
            })
        };
        let mut asked = make(&config)?;
        if asked.is_err() && replicas(&config) > 1 {
            config.insert("num_replicas".to_owned(), json!(0));
            asked = make(&config)?;
        }
        let got = asked
            .map_err(|error: ApiError| {
                self.failure(&format!(
                    "all messages are there, but the consumer {name:?} cannot be made: the server says {:?} (error {}); make it by hand, beginning at message {}, and run the same command again",
                    error.description, error.err_code, config.get("opt_start_seq").unwrap_or(&json!(1))
                ))
            })?
            .config;
        remarks.extend(not_kept(&format!("consumer {name}"), &config, &got));
        Ok(true)
    }

    /// The sequence here of the first message that was `place` or behind it there: what was loaded tells where it came
    /// from, in order.
    fn mapped(&self, place: u64, state: &StreamState) -> Result<u64, Stop> {
        let stream = &self.url.stream;
        let asked = self.once(None, |connection| {
            let (mut low, mut high) = (state.first(), state.last_seq + 1);
            // All before `low` are before the place; the message at `high`, if there is one, is not.
            while low < high {
                let middle = low + (high - low) / 2;
                let which = json!({ "seq": middle, "next_by_subj": ">" });
                let stored = match connection.stored(stream, &which, None)? {
                    Ok(stored) => stored,
                    Err(error) => return Ok(Err(error)),
                };
                match stored.map(|stored| (stored.sequence, origin_of(&stored))) {
                    Some((sequence, Some(origin))) if origin < place => low = sequence + 1,
                    _ => high = middle,
                }
            }
            Ok(Ok(low))
        })?;
        asked.map_err(|error| self.answered(&error).into())
    }
}

#[derive(Deserialize)]
struct Subjects {
    /// Of subjects; servers that tell all at once say nothing.
    #[serde(default)]
    total: u64,
    state: SubjectState,
}

#[derive(Deserialize)]
struct SubjectState {
    #[serde(default)]
    subjects: std::collections::HashMap<String, u64>,
}

fn is_unfinished(info: &StreamInfo) -> bool {
    info.config.description == UNFINISHED
}

fn replicas(config: &Map<String, Value>) -> i64 {
    let number = config.get("num_replicas").and_then(Value::as_i64);
    number.unwrap_or(0)
}

/// What a server that knows less did not take.
fn not_kept(of: &str, wanted: &Map<String, Value>, got: &Map<String, Value>) -> Option<String> {
    let nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64().is_some_and(|number| number <= 0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        Value::Bool(true) => false,
    };
    let is_lost =
        |(name, value): &(&String, &Value)| !nothing(value) && got.get(*name).is_none_or(nothing);
    let lost: Vec<&str> = (wanted.iter())
        .filter(is_lost)
        .map(|(name, _)| name.as_str())
        .collect();
    (!lost.is_empty()).then(|| {
        format!(
            "{of} has no {}, which this server does not know",
            lost.join(", ")
        )
    })
}

/// Whether everything that `subject`, perhaps with wildcards, stands for is meant by `filter`.
fn covers(filter: &str, subject: &str) -> bool {
    // A `*` of the subject as a word is only meant by a wildcard, and so is a `>`, by another one.
    let last = subject.rsplit('.').next();
    let is_open = |text: &str| text.rsplit('.').next() == Some(">");
    (last != Some(">") || is_open(filter)) && matches(filter.as_bytes(), subject.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_cover_what_is_narrower() {
        for (filter, subject, is) in [
            ("a.>", "a.>", true),
            ("a.>", "a.b.>", true),
            (">", "a.>", true),
            ("a.*", "a.>", false),
            ("a.*", "a.*", true),
            ("a.b", "a.*", false),
            ("a.*", "a.b", true),
            ("a.b.>", "a.>", false),
        ] {
            assert_eq!(covers(filter, subject), is, "{filter} {subject}");
        }
    }
}
