//! Events from text: `tipple append`.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tipple_budget::Gate;
use tipple_flow::{Cause, Failure, Outcomes, Party, Stop};

use crate::event::{EVENT_BYTES_MAX, Event, Header};
use crate::log::LogWriter;

/// Read at a time.
const PIECE_BYTES: usize = 256 << 10;
/// What was read is on the disk so long after it came, about.
const COMMIT_PACE: Duration = Duration::from_millis(50);
/// Bytes at most between two commits.
const BYTES_OF_A_COMMIT: usize = 16 << 20;

/// How the text says events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// A line is the payload of an event, without its newline; its time is that of its arrival.
    Lines,
    /// A line is a JSON object with `key`, `headers`, `payload` and `time`, as [`ReadableEvent`](crate::ReadableEvent) has them, each
    /// of them optional; its `position` is not looked at. Without `time` it is that of its arrival; `null` is none.
    Ndjson,
}

/// What was appended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Appended {
    /// Events, all of them on the disk.
    pub events: u64,
    /// Bytes of them in the log.
    pub bytes: u64,
    /// What was not appended.
    pub outcomes: Outcomes,
}

static TOO_LARGE: Cause = Cause::loss("too large");
static NO_EVENT: Cause = Cause::loss("no event");

/// Appends every line of `input` to `log`, in their order. What has come is durable a moment later, and at least every
/// 16 MiB. `told` gets the first line that is no event, and why.
///
/// # Errors
/// [`Stop::Failed`]: the log cannot be written, or the input not be read; [`Stop::Cancelled`]. What was committed stays,
/// and `appended` counts it.
pub fn append(
    input: impl Read + Send + 'static,
    text: Text,
    log: &mut LogWriter,
    gate: &Gate,
    appended: &mut Appended,
    told: &mut dyn FnMut(u64, &str),
) -> Result<(), Stop> {
    // One piece is read while another is appended. The thread may stay blocked in reading after a cancel.
    let (sender, pieces) = sync_channel(1);
    std::thread::spawn(move || {
        let mut input = input;
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = match input.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(bytes) => {
                    piece.truncate(bytes);
                    Ok(piece)
                }
                Err(error) => Err(error),
            };
            let is_last = !matches!(&read, Ok(piece) if !piece.is_empty());
            if sender.send(read).is_err() || is_last {
                return;
            }
        }
    });
    let mut appending = Appending {
        text,
        log,
        pending: Appended::default(),
        appended,
        lines: 0,
        committed: Instant::now(),
        told,
    };
    appending.all(&pieces, gate)
}

struct Appending<'a> {
    text: Text,
    log: &'a mut LogWriter,
    /// Since the last commit.
    pending: Appended,
    appended: &'a mut Appended,
    lines: u64,
    /// When that was last done.
    committed: Instant,
    told: &'a mut dyn FnMut(u64, &str),
}

impl Appending<'_> {
    fn all(
        &mut self,
        pieces: &Receiver<Result<Vec<u8>, std::io::Error>>,
        gate: &Gate,
    ) -> Result<(), Stop> {
        // Of a line that has not ended; of one that is too large, nothing.
        let (mut begun, mut overlong) = (Vec::new(), false);
        loop {
            if let Err(cancelled) = gate.check() {
                // What was taken is kept; what is still in the pipe is not ours.
                self.commit()?;
                return Err(cancelled.into());
            }
            let piece = match pieces.recv_timeout(COMMIT_PACE) {
                Ok(piece) => piece.map_err(|error| {
                    Failure::new(
                        Party::Source,
                        format!("cannot read standard input: {error}"),
                    )
                    .because(error)
                })?,
                Err(RecvTimeoutError::Timeout) => {
                    self.commit()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the last piece is empty or an error")
                }
            };
            if piece.is_empty() {
                if overlong || !begun.is_empty() {
                    self.line(&begun, overlong)?;
                }
                return self.commit();
            }
            let mut lines = piece.split_inclusive(|byte| *byte == b'\n');
            for line in &mut lines {
                let Some(whole) = line.strip_suffix(b"\n") else {
                    overlong |= begun.len() + line.len() > EVENT_BYTES_MAX;
                    match overlong {
                        true => begun = Vec::new(),
                        false => begun.extend_from_slice(line),
                    }
                    break;
                };
                if begun.is_empty() && !overlong {
                    self.line(whole, false)?;
                    continue;
                }
                overlong |= begun.len() + whole.len() > EVENT_BYTES_MAX;
                begun.extend_from_slice(if overlong { b"" } else { whole });
                self.line(&begun, overlong)?;
                begun = Vec::new();
                overlong = false;
            }
            self.commit_if_due()?;
        }
    }

    fn line(&mut self, line: &[u8], overlong: bool) -> Result<(), Stop> {
        self.lines += 1;
        if overlong {
            self.lost(&TOO_LARGE, "it is too large");
            return Ok(());
        }
        let event = match self.text {
            Text::Lines => Ok(Event {
                time: Some(now()),
                payload: Some(line.to_vec()),
                ..Event::default()
            }),
            Text::Ndjson => from_json(line),
        };
        match event {
            Err(why) => self.lost(&NO_EVENT, &why),
            Ok(event) => match self.log.push(&event)? {
                None => self.lost(&TOO_LARGE, "it is too large"),
                Some(_) => {
                    self.pending.events += 1;
                    self.pending.bytes += line.len() as u64;
                }
            },
        }
        if self.pending.bytes >= BYTES_OF_A_COMMIT as u64 {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits if the last time was a while ago: lines may come without a pause.
    fn commit_if_due(&mut self) -> Result<(), Stop> {
        match self.committed.elapsed() >= COMMIT_PACE {
            true => self.commit(),
            false => Ok(()),
        }
    }

    fn lost(&mut self, cause: &Cause, why: &str) {
        if self.appended.outcomes.lost() == 0 {
            (self.told)(self.lines, why);
        }
        self.appended.outcomes.count(cause);
    }

    fn commit(&mut self) -> Result<(), Stop> {
        self.log.commit()?;
        self.committed = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        self.appended.events += pending.events;
        self.appended.bytes += pending.bytes;
        Ok(())
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// The event that a line of NDJSON says.
fn from_json(line: &[u8]) -> Result<Event, String> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("it is no JSON: {error}"))?;
    let Value::Object(fields) = value else {
        return Err("it is no JSON object".into());
    };
    let mut event = Event {
        time: Some(now()),
        ..Event::default()
    };
    for (name, value) in fields {
        match name.as_str() {
            "position" => {}
            "key" => event.key = bytes(value, "key")?,
            "payload" => event.payload = bytes(value, "payload")?,
            "time" => event.time = time(value)?,
            "headers" => event.headers = headers(value)?,
            _ => return Err(format!("there is no field {name:?} of an event")),
        }
    }
    Ok(event)
}

/// A string, `{"base64":"…"}`, or null.
fn bytes(value: Value, what: &str) -> Result<Option<Vec<u8>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.into_bytes())),
        Value::Object(fields) if fields.len() == 1 => {
            let text = fields.get("base64").and_then(Value::as_str);
            let decoded = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
            decoded
                .map(Some)
                .ok_or_else(|| format!("its {what} is no string and no {{\"base64\":\"…\"}}"))
        }
        _ => Err(format!(
            "its {what} is no string and no {{\"base64\":\"…\"}}"
        )),
    }
}

fn time(value: Value) -> Result<Option<i64>, String> {
    let text = match &value {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        _ => return Err("its time is no string, such as \"2026-11-21T12:00:00Z\"".into()),
    };
    let time: Result<jiff::Timestamp, _> = text.parse();
    let time = time.map_err(|error| format!("its time {text:?} is none: {error}"))?;
    let time = i64::try_from(time.as_nanosecond());
    (time.map(Some)).map_err(|_| format!("its time {text} is not within 1677 and 2262"))
}

/// An array of arrays of a name and a value.
fn headers(value: Value) -> Result<Vec<Header>, String> {
    let wrong = || "its headers are no array of [name, value]".to_owned();
    let Value::Array(all) = value else {
        return Err(wrong());
    };
    let header = |value: Value| {
        let Value::Array(pair) = value else {
            return Err(wrong());
        };
        let [name, value] = <[Value; 2]>::try_from(pair).map_err(|_| wrong())?;
        let name = bytes(name, "header's name")?.ok_or_else(wrong)?;
        Ok((name, bytes(value, "header's value")?))
    };
    all.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{EventRef, Numbering, Place, ReadableEvent};

    proptest! {
        #[test]
        fn what_cat_prints_can_be_appended(
            time in any::<Option<i64>>(),
            key in proptest::option::of(vec(any::<u8>(), 0..9)),
            headers in vec((vec(any::<u8>(), 0..9), proptest::option::of(vec(any::<u8>(), 0..9))), 0..3),
            payload in proptest::option::of(vec(any::<u8>(), 0..9)),
        ) {
            let event = Event { time, key, headers, payload };
            let mut bytes = Vec::new();
            event.encode(Place::sequence(1), Numbering::Sequence, &mut bytes).unwrap();
            let read = EventRef::parse(&bytes).unwrap();
            let line = serde_json::to_vec(&ReadableEvent::from(&read)).unwrap();
            prop_assert_eq!(from_json(&line), Ok(event));
        }
    }

    #[test]
    fn what_is_no_event_is_told() {
        for line in [
            "",
            "1",
            "[]",
            "{",
            r#"{"payloda":"x"}"#,
            r#"{"key":1}"#,
            r#"{"time":1}"#,
            r#"{"time":"now"}"#,
            r#"{"headers":{}}"#,
            r#"{"headers":[["a"]]}"#,
            r#"{"headers":[[null,"a"]]}"#,
            r#"{"payload":{"base64":"?"}}"#,
        ] {
            assert!(from_json(line.as_bytes()).is_err(), "{line}");
        }
    }
}
