//! Two recordings beside each other.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use serde_json::Value;

use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

/// The most records that two recordings may have to be compared: they are held in memory.
const RECORDS_MAX: usize = 4 << 20;

/// Fields that may differ, by their paths: `m.time`, `m.*.id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(Vec<Vec<String>>);

impl Ignored {
    /// These paths, with `m.` or without it.
    pub fn new<T: AsRef<str>>(paths: impl IntoIterator<Item = T>) -> Ignored {
        let split = |path: T| {
            let path = path.as_ref();
            let path = path.strip_prefix("m.").unwrap_or(path);
            path.split('.').map(str::to_owned).collect()
        };
        Ignored(paths.into_iter().map(split).collect())
    }

    pub(crate) fn matches(&self, path: &[String]) -> bool {
        self.0.iter().any(|ignored| {
            ignored.len() == path.len()
                && ignored
                    .iter()
                    .zip(path)
                    .all(|(ignored, field)| ignored == "*" || ignored == field)
        })
    }

    /// The first place where two messages differ, if there is one: its path, and both values.
    pub(crate) fn difference(&self, left: &Value, right: &Value) -> Option<(String, Value, Value)> {
        self.within(&mut Vec::new(), left, right)
    }

    fn within(
        &self,
        path: &mut Vec<String>,
        left: &Value,
        right: &Value,
    ) -> Option<(String, Value, Value)> {
        if self.matches(path) || left == right {
            return None;
        }
        let at = |path: &[String]| {
            std::iter::once("m")
                .chain(path.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join(".")
        };
        match (left, right) {
            (Value::Object(left), Value::Object(right)) => {
                let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
                for key in keys {
                    path.push(key.clone());
                    let [left, right] =
                        [left, right].map(|map| map.get(key).unwrap_or(&Value::Null));
                    let found = self.within(path, left, right);
                    path.pop();
                    if found.is_some() {
                        return found;
                    }
                }
                None
            }
            (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
                for (place, (left, right)) in left.iter().zip(right).enumerate() {
                    path.push(place.to_string());
                    let found = self.within(path, left, right);
                    path.pop();
                    if found.is_some() {
                        return found;
                    }
                }
                None
            }
            _ => Some((at(path), left.clone(), right.clone())),
        }
    }
}

/// A place where two recordings differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Group, key, class, direction, message: within one of these, records are compared one by one.
    pub stream: String,
    /// The place in it, counted from 1.
    pub place: u64,
    /// The path, and both values; `null` where there is none.
    pub path: String,
    /// The first recording's.
    pub left: Value,
    /// The second's.
    pub right: Value,
}

/// How two recordings differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DiffReport {
    /// Records that are the same.
    pub same: u64,
    /// The first hundred differences.
    pub differences: Vec<Difference>,
    /// All records that differ.
    pub different: u64,
    /// Records that only the first has, by stream.
    pub only_left: BTreeMap<String, u64>,
    /// Records that only the second has, by stream.
    pub only_right: BTreeMap<String, u64>,
}

impl DiffReport {
    /// Whether there is no difference.
    pub fn is_same(&self) -> bool {
        self.different == 0 && self.only_left.is_empty() && self.only_right.is_empty()
    }
}

type Streams = BTreeMap<String, Vec<String>>;

fn streams(shelf: &dyn Shelf, filter: &Filter) -> io::Result<Streams> {
    let mut streams = Streams::new();
    let mut count = 0;
    search(shelf, filter, |_, line| {
        count += 1;
        if count > RECORDS_MAX {
            let reason = format!(
                "more than {RECORDS_MAX} records: compare a part of them, by time or group"
            );
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, reason));
        }
        let direction = line
            .d
            .map_or(String::new(), |direction| format!("{direction:?}"));
        let stream = format!("{}/{} {} {direction} {}", line.g, line.k, line.cl, line.mn);
        let message = line.m.map_or("null", |message| message.get());
        streams.entry(stream).or_default().push(message.to_owned());
        Ok(GoOn::Continue(()))
    })?;
    Ok(streams)
}

/// Compares the messages of two recordings: within each group, key, class, direction and message, one after the other.
/// Times, numbers, threads and traces may differ, and so may what is ignored.
///
/// # Errors
/// As for [`search`]; `OutOfMemory` with more records than are compared at a time.
pub fn diff(
    left: &dyn Shelf,
    right: &dyn Shelf,
    filter: &Filter,
    ignored: &Ignored,
) -> io::Result<DiffReport> {
    let left = streams(left, filter)?;
    let mut right = streams(right, filter)?;
    let mut report = DiffReport::default();
    for (stream, left) in left {
        let right = right.remove(&stream).unwrap_or_default();
        for (place, (left, right)) in left.iter().zip(&right).enumerate() {
            if left == right {
                report.same += 1;
                continue;
            }
            let parse = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
            match ignored.difference(&parse(left), &parse(right)) {
                None => report.same += 1,
                Some((path, left, right)) => {
                    report.different += 1;
                    if report.differences.len() < 100 {
                        report.differences.push(Difference {
                            stream: stream.clone(),
                            place: place as u64 + 1,
                            path,
                            left,
                            right,
                        });
                    }
                }
            }
        }
        let (left, right) = (left.len() as u64, right.len() as u64);
        if left > right {
            report.only_left.insert(stream, left - right);
        } else if right > left {
            report.only_right.insert(stream, right - left);
        }
    }
    let more = right
        .into_iter()
        .map(|(stream, records)| (stream, records.len() as u64));
    report.only_right.extend(more);
    Ok(report)
}
