//! The columns, and what of an event is in each.

use tipple_parquet::{Kind, Nesting, Schema, Value};

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

/// The rows of such a stream.
pub(super) fn schema(numbering: Numbering) -> Schema {
    let column = |column: Column| tipple_parquet::Column {
        path: column
            .path()
            .iter()
            .map(|step| (*step).to_owned())
            .collect(),
        nesting: column.nesting(),
        kind: column.kind(),
    };
    Schema::new("events", columns(numbering).map(column).into())
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
            Self::Position | Self::TimeNanos => Kind::Signed,
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

    /// Whether bytes that may be text or not are in this column.
    fn takes(self, bytes: &[u8]) -> bool {
        match self.kind() {
            Kind::Text => std::str::from_utf8(bytes).is_ok(),
            _ => std::str::from_utf8(bytes).is_err(),
        }
    }
}
