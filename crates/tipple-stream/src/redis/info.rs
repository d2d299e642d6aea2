//! What Redis says of a stream.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::connection::{Talk, Trouble};
use super::groups::Group;
use crate::place::{Numbering, Place};

/// A stream as XINFO tells it: the life of a source, and what a target restores beside the events. Stable: part of a
/// dump's plan and of its DONE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Info {
    /// Events that are there.
    pub length: u64,
    /// The first and the last of them.
    #[serde(with = "id::optional")]
    pub first: Option<Place>,
    #[serde(with = "id::optional")]
    pub last: Option<Place>,
    /// The largest id that an event ever had.
    #[serde(with = "id")]
    pub last_generated: Place,
    /// Events that were ever added.
    pub entries_added: u64,
    /// The largest id that was deleted (not trimmed).
    #[serde(with = "id")]
    pub max_deleted: Place,
    /// Not of a life, which each range of a plan carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
}

pub(super) mod id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::place::{Numbering, Place};

    pub fn serialize<S: Serializer>(place: &Place, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&place.text(Numbering::TimeAndNumber))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Place, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }

    pub mod optional {
        use super::*;

        pub fn serialize<S: Serializer>(place: &Option<Place>, to: S) -> Result<S::Ok, S::Error> {
            match place {
                Some(place) => super::serialize(place, to),
                None => to.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Place>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            text.map(|text| text.parse().map_err(D::Error::custom))
                .transpose()
        }
    }
}

/// Names are any bytes.
pub(super) mod name {
    use serde::{Deserializer, Serializer, de::Error};

    use super::*;

    pub fn serialize<S: Serializer>(name: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64_STANDARD.encode(name))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64_STANDARD.decode(text).map_err(D::Error::custom)
    }
}

impl Info {
    /// What there is of `key` without its groups; `None` if there is no such key.
    pub fn read(talk: &mut Talk<'_>, key: &[u8]) -> Result<Option<Self>, Trouble> {
        talk.send(&[b"XINFO", b"STREAM", key])?;
        let fields = match talk.list() {
            Err(Trouble::Refused(text)) if text.starts_with("ERR no such key") => return Ok(None),
            fields => fields? / 2,
        };
        let mut info = Self::default();
        let (mut added, mut deleted) = (None, None);
        for _ in 0..fields {
            let field = talk.short()?;
            match &field[..] {
                b"length" => info.length = number(&field, talk)?,
                b"entries-added" => added = Some(number(&field, talk)?),
                b"last-generated-id" => info.last_generated = next_id(talk)?,
                b"max-deleted-entry-id" => deleted = Some(next_id(talk)?),
                b"first-entry" => info.first = entry(talk)?,
                b"last-entry" => info.last = entry(talk)?,
                _ => talk.skip()?,
            }
        }
        match (added, deleted) {
            (Some(added), Some(deleted)) => {
                (info.entries_added, info.max_deleted) = (added, deleted);
                Ok(Some(info))
            }
            _ => Err(Trouble::Refused(
                "it is older than Redis 7.0, and does not tell what was ever added to a stream"
                    .into(),
            )),
        }
    }

    /// Right after the largest id that an event ever had.
    pub fn end(&self) -> Place {
        self.last_generated.next()
    }

    /// Whether `now` can be the same stream, later.
    ///
    /// Redis gives a key no identity that outlives a restart, so this looks for what cannot be: counts and ids that went
    /// back; the event that was last, gone though neither deleted nor trimmed; more new events than were added since.
    /// It cannot see a key that was made anew if more was added to it, and taken away again, than the old one ever had.
    pub fn can_become(&self, now: &Self) -> bool {
        let went_back = now.entries_added < self.entries_added
            || now.last_generated < self.last_generated
            || now.max_deleted < self.max_deleted;
        if went_back {
            return false;
        }
        let added = now.entries_added - self.entries_added;
        let all_new = now.first.is_none_or(|first| first > self.last_generated);
        let none_new = now.last_generated == self.last_generated;
        if all_new {
            // What was there has been taken away, and all that is there was added since.
            return now.length <= added && (!none_new || added == 0);
        }
        (added == 0) == none_new
    }
}

pub(super) fn number(field: &[u8], talk: &mut Talk<'_>) -> Result<u64, Trouble> {
    talk.answer()?
        .number()
        .ok_or_else(|| Trouble::Protocol(format!("no number as {}", field.escape_ascii())))
}

/// An id that comes next.
pub(super) fn next_id(talk: &mut Talk<'_>) -> Result<Place, Trouble> {
    let text = talk.short()?;
    let place = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.parse().ok());
    place.ok_or_else(|| Trouble::Protocol(format!("{} where an id should be", text.escape_ascii())))
}

/// The id of an event that comes next, of which the rest is passed over.
fn entry(talk: &mut Talk<'_>) -> Result<Option<Place>, Trouble> {
    if talk.is_null()? {
        return Ok(None);
    }
    talk.list()?;
    let place = next_id(talk)?;
    talk.skip()?;
    Ok(Some(place))
}

/// How an id is written in a command.
pub(super) fn text(place: Place) -> Vec<u8> {
    place.text(Numbering::TimeAndNumber).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(length: u64, added: u64, first: u64, last: u64) -> Info {
        let place = |ms| Place::time_and_number(ms, 0);
        Info {
            length,
            first: (length > 0).then(|| place(first)),
            last: (length > 0).then(|| place(last)),
            last_generated: place(last),
            entries_added: added,
            ..Info::default()
        }
    }

    #[test]
    fn a_stream_that_went_on_is_told_from_one_that_was_made_anew() {
        let planned = info(10, 15, 100, 200);
        for (same, now) in [
            (true, info(10, 15, 100, 200)),
            (true, info(12, 17, 100, 300)),
            (true, info(2, 15, 190, 200)),
            // All trimmed, and five added.
            (true, info(5, 20, 210, 300)),
            (true, info(0, 15, 0, 200)),
            // Went back: an older state was restored, or the key is another one.
            (false, info(9, 14, 100, 190)),
            (false, info(3, 3, 300, 302)),
            (false, info(10, 15, 20, 90)),
            // As many as before, and more; but they are all new, and cannot have been added since.
            (false, info(17, 17, 300, 400)),
            // More were added, but nothing came after the last one.
            (false, info(12, 17, 100, 200)),
            (false, info(10, 15, 100, 300)),
        ] {
            assert_eq!(planned.can_become(&now), same, "{now:?}");
        }
        let mut now = info(9, 15, 100, 200);
        now.max_deleted = Place::time_and_number(150, 0);
        assert!(planned.can_become(&now));
        assert!(!now.can_become(&planned));
    }

    #[test]
    fn what_a_plan_keeps_is_read_again() {
        let mut info = info(3, 5, 1, u64::MAX);
        info.groups.push(Group {
            name: vec![0, 0xff],
            entries_read: None,
            ..Group::default()
        });
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(serde_json::from_value::<Info>(json).unwrap(), info);
    }
}
