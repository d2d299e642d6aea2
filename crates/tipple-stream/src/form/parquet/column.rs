//! The columns, and what of an event is in each.

use crate::event::EventRef;
use crate::place::Numbering;

/// One column. In the order of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// A sequence.
    Position,
    /// An id of Redis, as text.
    PositionText,
    Time,
    TimeNanos,
    Stream,
    Key,
    KeyBytes,
    HeaderName,
    HeaderNameBytes,
    HeaderValue,
    HeaderValueBytes,
    Payload,
}

/// How often a value is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nesting {
    /// In each row.
    Required,
    /// In each row, or null.
    Optional,
    /// Null or not, in each element of a list that each row has.
    InList,
}

impl Nesting {
    /// The highest repetition level and the highest definition level.
    pub(super) fn levels(self) -> (u8, u8) {
        match self {
            Self::Required => (0, 0),
            Self::Optional => (0, 1),
            Self::InList => (1, 2),
        }
    }
}

/// The type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Microseconds,
    Text,
    Bytes,
}

/// A value of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}

/// All columns of a stream that numbers so.
pub(super) fn columns(numbering: Numbering) -> [Column; 11] {
    [
        match numbering {
            Numbering::Sequence => Column::Position,
            Numbering::TimeAndNumber => Column::PositionText,
        },
        Column::Time,
        Column::TimeNanos,
        Column::Stream,
        Column::Key,
        Column::KeyBytes,
        Column::HeaderName,
        Column::HeaderNameBytes,
        Column::HeaderValue,
        Column::HeaderValueBytes,
        Column::Payload,
    ]
}

impl Column {
    /// Where it is in the schema.
    pub(super) fn path(self) -> &'static [&'static str] {
        match self {
            Self::Position | Self::PositionText => &["position"],
            Self::Time => &["time"],
            Self::TimeNanos => &["time_nanos"],
            Self::Stream => &["stream"],
            Self::Key => &["key"],
            Self::KeyBytes => &["key_bytes"],
            Self::HeaderName => &["headers", "list", "element", "name"],
            Self::HeaderNameBytes => &["headers", "list", "element", "name_bytes"],
            Self::HeaderValue => &["headers", "list", "element", "value"],
            Self::HeaderValueBytes => &["headers", "list", "element", "value_bytes"],
            Self::Payload => &["payload"],
        }
    }

    pub(super) fn nesting(self) -> Nesting {
        match self {
            Self::Position | Self::PositionText | Self::Stream => Nesting::Required,
            Self::HeaderName
            | Self::HeaderNameBytes
            | Self::HeaderValue
            | Self::HeaderValueBytes => Nesting::InList,
            _ => Nesting::Optional,
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Position | Self::TimeNanos => Kind::Number,
            Self::Time => Kind::Microseconds,
            Self::PositionText
            | Self::Stream
            | Self::Key
            | Self::HeaderName
            | Self::HeaderValue => Kind::Text,
            Self::KeyBytes | Self::HeaderNameBytes | Self::HeaderValueBytes | Self::Payload => {
                Kind::Bytes
            }
        }
    }

    /// Its value in a header: null in `name` if it is in `name_bytes`, and so on.
    pub(super) fn of_header<'a>(
        self,
        name: &'a [u8],
        value: Option<&'a [u8]>,
    ) -> Option<Value<'a>> {
        let bytes = match self {
            Self::HeaderName | Self::HeaderNameBytes => Some(name),
            _ => value,
        };
        bytes.filter(|bytes| self.takes(bytes)).map(Value::Bytes)
    }

    /// Its value in an event. `text` is for a position that is text.
    pub(super) fn of_event<'a>(
        self,
        event: &EventRef<'a>,
        text: &'a mut String,
    ) -> Option<Value<'a>> {
        match self {
            Self::Position => {
                // What is larger has no folder.
                Some(Value::Number(event.place().parts().1 as i64))
            }
            Self::PositionText => {
                *text = event.place().text(event.numbering());
                Some(Value::Bytes(text.as_bytes()))
            }
            Self::Time => event
                .time()
                .map(|time| Value::Number(time.div_euclid(1000))),
            Self::TimeNanos => event.time().map(Value::Number),
            Self::Payload => event.payload().map(Value::Bytes),
            _ => (event.key().filter(|key| self.takes(key))).map(Value::Bytes),
        }
    }

    /// What it takes of an event in a page, at most.
    pub(super) fn bytes(self, event: &EventRef<'_>) -> usize {
        const LENGTH_AND_LEVELS: usize = 8;
        let of = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) + LENGTH_AND_LEVELS;
        match self {
            Self::HeaderName | Self::HeaderNameBytes => {
                event.headers().map(|(name, _)| of(Some(name))).sum()
            }
            Self::HeaderValue | Self::HeaderValueBytes => {
                event.headers().map(|(_, value)| of(value)).sum()
            }
            Self::Key | Self::KeyBytes => of(event.key()),
            Self::Payload => of(event.payload()),
            // A number; an id of Redis has 41 digits.
            _ => 48 + LENGTH_AND_LEVELS,
        }
    }

    /// Whether bytes that may be text or not are in this column.
    fn takes(self, bytes: &[u8]) -> bool {
        match self.kind() {
            Kind::Text => std::str::from_utf8(bytes).is_ok(),
            _ => std::str::from_utf8(bytes).is_err(),
        }
    }
}
