//! A recording as a table.

use std::io::{self, Write};

use serde_json::Value;

use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

/// The columns of a table: fields of lines by their paths, such as `ts`, `mn`, `m.symbol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(Vec<String>);

impl Columns {
    /// These paths.
    ///
    /// # Errors
    /// If one of them is none, or there are none.
    pub fn new(paths: Vec<String>) -> Result<Columns, String> {
        match paths.iter().find(|path| path.split('.').any(str::is_empty)) {
            Some(path) => Err(format!("`{path}` is no path: give one such as `m.symbol`")),
            None if paths.is_empty() => Err("a table needs columns".to_owned()),
            None => Ok(Columns(paths)),
        }
    }
}

impl Default for Columns {
    /// All fields of a line, the message as JSON.
    fn default() -> Columns {
        let all = [
            "ts", "g", "k", "n", "s", "t", "th", "d", "cl", "mn", "mp", "mk", "m", "c",
        ];
        Columns(all.map(str::to_owned).to_vec())
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
    for (at, path) in columns.0.iter().enumerate() {
        cell(path, at, &mut row);
    }
    row.push(b'\n');
    out.write_all(&row)?;
    let report = search(shelf, filter, |text, _| {
        let line: Value = serde_json::from_slice(text).map_err(io::Error::from)?;
        row.clear();
        for (at, path) in columns.0.iter().enumerate() {
            let found = path.split('.').try_fold(&line, |value, field| match value {
                Value::Array(all) => field.parse().ok().and_then(|place: usize| all.get(place)),
                value => value.get(field),
            });
            match found {
                None | Some(Value::Null) => cell("", at, &mut row),
                Some(Value::String(text)) => cell(text, at, &mut row),
                Some(value) => cell(&value.to_string(), at, &mut row),
            }
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
