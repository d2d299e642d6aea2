//! The folders of objects, by what is in each event.

use std::fmt::Write as _;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use tipple_chunk::Sha256Digest;

use crate::event::EventRef;

/// What a placeholder writes at most: what is longer is cut, and ends with a digest.
const VALUE_BYTES_MAX: usize = 150;
/// A folder at most: names of objects have 1024 bytes, and what comes before and after it needs some.
const FOLDER_BYTES_MAX: usize = 800;
/// What is between two slashes, at most.
const SEGMENT_BYTES_MAX: usize = 255;
/// What stands for a key or a time that is not there, or is empty: Hive's name for it, which query engines read as null.
const NOTHING: &str = "__HIVE_DEFAULT_PARTITION__";
/// What may follow a % in a time. Nothing below a second, so that the events of a second share their folders.
const DIRECTIVES: &str = "YmdHMSjFGVuy";

/// A template such as `dt={time:%Y-%m-%d}/{key}`: which folder an event belongs into.
///
/// `{time:FORMAT}` is the event's time, UTC, as `strftime` writes it; `{stream}` the stream's name; `{key}` the event's
/// key, `{subject}` the same. In those, each byte that cannot be in a name is written as `_` and two hex digits (0-9A-F),
/// and so is a `_` before two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Time(String),
    Stream,
    Key,
}

impl PathTemplate {
    /// As it was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Appends the folder that `event` of the stream called `stream` belongs into.
    pub(crate) fn write(&self, stream: &str, event: &EventRef<'_>, folder: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => folder.push_str(text),
                Piece::Time(format) => match event.time() {
                    Some(nanoseconds) => write_time(format, nanoseconds, folder),
                    None => folder.push_str(NOTHING),
                },
                Piece::Stream => write_value(stream.as_bytes(), folder),
                Piece::Key => write_value(event.key().unwrap_or_default(), folder),
            }
        }
    }
}

fn write_time(format: &str, nanoseconds: i64, folder: &mut String) {
    let time = Timestamp::from_nanosecond(nanoseconds.into()).expect("64 bits are in range");
    let time = strtime::format(format, &time.to_zoned(TimeZone::UTC));
    folder.push_str(&time.expect("the format was tried when it was read"));
}

fn write_value(value: &[u8], folder: &mut String) {
    if value.is_empty() {
        return folder.push_str(NOTHING);
    }
    let from = folder.len();
    for (at, byte) in value.iter().enumerate() {
        if folder.len() - from > VALUE_BYTES_MAX - 37 && at + 1 < value.len() {
            // Never the same as that of another long value.
            let digest = Sha256Digest::of(value).short();
            write!(folder, "--{digest}").expect("into memory");
            return;
        }
        let is_hex =
            |byte: Option<&u8>| byte.is_some_and(|byte| b"0123456789ABCDEF".contains(byte));
        let is_plain = match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => true,
            b'.' => at > 0,
            b'_' => !(is_hex(value.get(at + 1)) && is_hex(value.get(at + 2))),
            // `=` parts names and values of folders.
            _ => false,
        };
        match is_plain {
            true => folder.push(char::from(*byte)),
            false => write!(folder, "_{byte:02X}").expect("into memory"),
        }
    }
}

/// The same text, checked.
impl FromStr for PathTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!("{text:?} is no path: {why}; give one such as dt={{time:%Y-%m-%d}}/{{key}}")
        };
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (plain, from) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            if !plain.is_empty() {
                pieces.push(Piece::Text(plain.to_owned()));
            }
            rest = from;
            if let Some(inside) = rest.strip_prefix('{') {
                let (placeholder, after) =
                    (inside.split_once('}')).ok_or_else(|| refused("a { has no }"))?;
                pieces.push(placeholder_of(placeholder).map_err(|why| refused(&why))?);
                rest = after;
            } else if !rest.is_empty() {
                return Err(refused("a } has no {"));
            }
        }
        let template = Self {
            text: text.to_owned(),
            pieces,
        };
        template.check().map_err(|why| refused(&why))?;
        Ok(template)
    }
}

fn placeholder_of(placeholder: &str) -> Result<Piece, String> {
    let (name, format) = match placeholder.split_once(':') {
        Some((name, format)) => (name, Some(format)),
        None => (placeholder, None),
    };
    match (name, format) {
        ("stream", None) => Ok(Piece::Stream),
        ("key" | "subject", None) => Ok(Piece::Key),
        ("time", Some(format)) => time_of(format),
        _ => Err(format!(
            "{{{placeholder}}} is none of {{time:FORMAT}}, {{stream}}, {{key}} and {{subject}}"
        )),
    }
}

fn time_of(format: &str) -> Result<Piece, String> {
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char == '%' && !chars.next().is_some_and(|next| DIRECTIVES.contains(next)) {
            let known: String = DIRECTIVES.chars().map(|next| format!(" %{next}")).collect();
            return Err(format!("the time {format:?} takes{known}, and no other %"));
        }
    }
    match format.contains('%') {
        true => Ok(Piece::Time(format.to_owned())),
        false => Err("a time needs a format, such as {time:%Y-%m-%d}".to_owned()),
    }
}

impl PathTemplate {
    /// Whether what it makes are folders in every store.
    fn check(&self) -> Result<(), String> {
        // The longest there can be. What placeholders write can stand anywhere in a segment.
        let mut folder = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => folder.push_str(text),
                Piece::Time(format) => write_time(format, 0, &mut folder),
                Piece::Stream | Piece::Key => folder.push_str(&"x".repeat(VALUE_BYTES_MAX)),
            }
        }
        if folder.len() > FOLDER_BYTES_MAX {
            return Err(format!(
                "it may have {} bytes, and {FOLDER_BYTES_MAX} is the most",
                folder.len()
            ));
        }
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "._=-/".contains(char);
        if let Some(char) = folder.chars().find(|char| !is_plain(*char)) {
            return Err(format!(
                "{char:?} is none of A-Z a-z 0-9 . _ = - / outside of braces"
            ));
        }
        for segment in folder.split('/') {
            if segment.is_empty() {
                return Err("it is empty, or has / at an end or twice".to_owned());
            }
            if segment.starts_with('.') {
                return Err("a folder begins with a dot".to_owned());
            }
            if segment.len() > SEGMENT_BYTES_MAX {
                return Err(format!(
                    "a folder may have {} bytes, and {SEGMENT_BYTES_MAX} is the most: put / between the placeholders",
                    segment.len()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::place::{Numbering, Place};

    fn folder(template: &str, time: Option<i64>, key: Option<&[u8]>) -> String {
        let event = Event {
            time,
            key: key.map(<[u8]>::to_vec),
            ..Event::default()
        };
        let mut bytes = Vec::new();
        event
            .encode(Place::sequence(1), Numbering::Sequence, &mut bytes)
            .unwrap();
        let mut folder = String::new();
        let template: PathTemplate = template.parse().unwrap();
        template.write("a/b", &EventRef::parse(&bytes).unwrap(), &mut folder);
        folder
    }

    #[test]
    fn each_event_has_its_own_folder() {
        let template = "dt={time:%Y-%m-%d}/hour={time:%H}/{stream}/k={key}";
        let midnight = 1_795_219_200_000_000_000;
        assert_eq!(
            folder(template, Some(midnight), Some(b"orders.eu")),
            "dt=2026-11-21/hour=00/a_2Fb/k=orders.eu"
        );
        assert_eq!(
            folder(template, Some(midnight - 1), Some(b"")),
            "dt=2026-11-20/hour=23/a_2Fb/k=__HIVE_DEFAULT_PARTITION__"
        );
        assert_eq!(
            folder("{time:%Y}/{subject}", None, None),
            "__HIVE_DEFAULT_PARTITION__/__HIVE_DEFAULT_PARTITION__"
        );
        assert_eq!(folder("{time:%Y}", Some(i64::MIN), None), "1677");
        assert_eq!(folder("{time:%Y}", Some(i64::MAX), None), "2262");
    }

    #[test]
    fn no_two_keys_share_a_folder() {
        for (key, name) in [
            (&b"my_topic"[..], "my_topic"),
            (b"my_AAtopic", "my_5FAAtopic"),
            (b"a=b", "a_3Db"),
            (b"..", "_2E."),
            (b"../x", "_2E._2Fx"),
            ("ü".as_bytes(), "_C3_BC"),
            (b"%2F", "_252F"),
        ] {
            assert_eq!(folder("{key}", None, Some(key)), name);
        }
        let [long, other] = [b'x', b'y'].map(|last| {
            let mut key = vec![b'/'; 1000];
            key.push(last);
            folder("{key}", None, Some(&key))
        });
        assert!(long.len() <= VALUE_BYTES_MAX && long != other, "{long}");
        assert_eq!(long[..99], other[..99]);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [
            "",
            "/",
            "a//b",
            "/a",
            "a/",
            "..",
            "a/.b",
            "{",
            "}",
            "a}",
            "{key",
            "{}",
            "{time}",
            "{time:}",
            "{time:x}",
            "{time:%N}",
            "{time:%}",
            "{key:x}",
            "{other}",
            "a b",
            "ü",
            "{key}{key}",
            "{time:%Y %m}",
            "{time:%H:%M}",
            "%Y",
        ] {
            let error = bad.parse::<PathTemplate>().unwrap_err();
            assert!(
                error.starts_with(&format!("{bad:?} is no path: ")),
                "{error}"
            );
        }
        assert!(
            "{key}/"
                .repeat(6)
                .trim_end_matches('/')
                .parse::<PathTemplate>()
                .is_err()
        );
    }
}
