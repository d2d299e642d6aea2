//! A recording as a table.

#[cfg(feature = "parquet")]
mod parquet;

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

#[cfg(feature = "parquet")]
pub use parquet::to_parquet;

/// The columns of a table: fields of lines by their paths, such as `ts`, `mn`, `m.symbol`, `m.lines.0`.
///
/// A column has a type, of which CSV knows nothing: `m.price:double`. Types are `text` (the default: text as it is,
/// everything else as JSON), `json`, `integer`, `unsigned`, `double`, `bool`, and `time`, of nanoseconds since 1970. Fields
/// that each line has are of their own types, and `m` is `json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(Vec<Column>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    path: String,
    kind: ColumnKind,
}

/// What values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColumnKind {
    Text,
    Json,
    Integer,
    Unsigned,
    Double,
    Bool,
    Time,
}

impl ColumnKind {
    const NAMED: [(&'static str, ColumnKind); 7] = [
        ("text", ColumnKind::Text),
        ("json", ColumnKind::Json),
        ("integer", ColumnKind::Integer),
        ("unsigned", ColumnKind::Unsigned),
        ("double", ColumnKind::Double),
        ("bool", ColumnKind::Bool),
        ("time", ColumnKind::Time),
    ];

    /// Of a field that says nothing else.
    fn of(path: &str) -> ColumnKind {
        match path {
            "ts" => ColumnKind::Time,
            "n" | "s" | "t" | "th" | "c" => ColumnKind::Unsigned,
            "m" => ColumnKind::Json,
            _ => ColumnKind::Text,
        }
    }
}

impl Columns {
    /// These paths, each with its type behind a colon if it has another one.
    ///
    /// # Errors
    /// If one of them is none, or comes twice; if there are none.
    pub fn new(paths: Vec<String>) -> Result<Columns, String> {
        let mut columns: Vec<Column> = Vec::new();
        for path in paths {
            let named = path.rsplit_once(':').and_then(|(path, kind)| {
                let (_, kind) = ColumnKind::NAMED.iter().find(|(name, _)| *name == kind)?;
                Some((path.to_owned(), *kind))
            });
            let (path, kind) = named.unwrap_or_else(|| {
                let kind = ColumnKind::of(&path);
                (path, kind)
            });
            if path.split('.').any(str::is_empty) {
                return Err(format!("`{path}` is no path: give one such as `m.symbol`"));
            }
            if columns.iter().any(|column| column.path == path) {
                return Err(format!("`{path}` is there twice: give it once"));
            }
            columns.push(Column { path, kind });
        }
        match columns.is_empty() {
            true => Err("a table needs columns".to_owned()),
            false => Ok(Columns(columns)),
        }
    }
}

impl Default for Columns {
    /// All fields of a line, the message as JSON.
    fn default() -> Columns {
        let all = [
            "ts", "g", "k", "n", "s", "t", "th", "d", "cl", "mn", "mp", "mk", "m", "c",
        ];
        Columns::new(all.map(str::to_owned).to_vec()).expect("they are paths")
    }
}

/// The fields of an object, each as it stands there.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields<'de>, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(16);
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

/// A name that is borrowed if nothing in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Fields<'a> {
    fn parse(line: &'a [u8]) -> io::Result<Fields<'a>> {
        serde_json::from_slice(line).map_err(io::Error::from)
    }

    /// The JSON at the end of a path; `None` if there is nothing, or null.
    fn at(&self, path: &str) -> Option<&'a str> {
        let mut steps = path.split('.');
        let mut value = self.field(steps.next()?)?;
        for step in steps {
            value = match value.get().as_bytes().first()? {
                b'{' => {
                    let fields: Fields<'a> = serde_json::from_str(value.get()).ok()?;
                    fields.field(step)?
                }
                b'[' => {
                    let all: Vec<&'a RawValue> = serde_json::from_str(value.get()).ok()?;
                    all.get(step.parse::<usize>().ok()?).copied()?
                }
                _ => return None,
            };
        }
        Some(value.get()).filter(|json| *json != "null")
    }

    fn field(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(field, _)| field == name)?;
        Some(value)
    }
}

/// JSON as text: what a string holds, everything else as it is.
fn text_of(json: &str) -> Cow<'_, str> {
    match json.starts_with('"') {
        true => {
            serde_json::from_str::<Name<'_>>(json).map_or(Cow::Borrowed(json), |Name(text)| text)
        }
        false => Cow::Borrowed(json),
    }
}

/// Writes the records that `filter` wants as CSV (RFC 4180, lines end with a line feed), with a line of names. Text
/// stands as it is, what is not there is empty, everything else is JSON. Gives how many records it wrote.
///
/// # Errors
/// As for [`search`]; what `out` says.
pub fn to_csv(
    shelf: &dyn Shelf,
    filter: &Filter,
    columns: &Columns,
    mut out: impl Write,
) -> io::Result<u64> {
    let mut row = Vec::new();
    for (at, column) in columns.0.iter().enumerate() {
        cell(&column.path, at, &mut row);
    }
    row.push(b'\n');
    out.write_all(&row)?;
    let report = search(shelf, filter, |line, _| {
        let fields = Fields::parse(line)?;
        row.clear();
        for (at, column) in columns.0.iter().enumerate() {
            let json = fields.at(&column.path).unwrap_or_default();
            cell(&text_of(json), at, &mut row);
        }
        row.push(b'\n');
        out.write_all(&row)?;
        Ok(GoOn::Continue(()))
    })?;
    out.flush()?;
    Ok(report.matches)
}

fn cell(text: &str, at: usize, row: &mut Vec<u8>) {
    if at > 0 {
        row.push(b',');
    }
    match text.contains([',', '"', '\n', '\r']) {
        true => {
            row.push(b'"');
            row.extend_from_slice(text.replace('"', "\"\"").as_bytes());
            row.push(b'"');
        }
        false => row.extend_from_slice(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_as_they_stand() {
        let line = br#"{"s":7,"m":{"a.b":1,"big":170141183460469231731687303715884105727,"l":[[],{"x":"\u00e9\n"}],"no":null}}"#;
        let fields = Fields::parse(line).unwrap();
        let at = |path: &str| fields.at(path).map(|json| text_of(json).into_owned());
        assert_eq!(at("s").unwrap(), "7");
        assert_eq!(
            at("m.big").unwrap(),
            "170141183460469231731687303715884105727"
        );
        assert_eq!(at("m.l.1.x").unwrap(), "é\n");
        assert_eq!(at("m.l.1").unwrap(), r#"{"x":"\u00e9\n"}"#);
        for path in ["m.no", "m.l.2", "m.l.x", "s.x", "x", "m.a"] {
            assert_eq!(at(path), None, "{path}");
        }
    }

    #[test]
    fn a_column_is_a_path_and_maybe_a_type() {
        let columns =
            |paths: &[&str]| Columns::new(paths.iter().map(|path| (*path).to_owned()).collect());
        let Columns(all) = columns(&["ts", "m.a:b", "m.price:double", "t:text"]).unwrap();
        let kinds: Vec<_> = all
            .iter()
            .map(|column| (&*column.path, column.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                ("ts", ColumnKind::Time),
                ("m.a:b", ColumnKind::Text),
                ("m.price", ColumnKind::Double),
                ("t", ColumnKind::Text)
            ]
        );
        assert!(columns(&[]).is_err());
        assert!(columns(&["m..a"]).unwrap_err().contains("`m..a`"));
        assert!(columns(&["s", "s:text"]).unwrap_err().contains("twice"));
    }
}
