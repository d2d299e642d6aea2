//! A recording as a Parquet file.

use std::io::{self, Write};

use tipple_chunk::{Codec, Encoder};
use tipple_parquet::{FileWriter, Kind, Schema, Scratch, Value};

use super::{Column, ColumnKind, Columns, Fields, text_of};
use crate::search::{Filter, GoOn, search};
use crate::shelf::Shelf;

/// Rows are collected until their cells take so much memory, and become a row group then.
const GROUP_BYTES: usize = 32 << 20;
/// What pages are compressed with.
const CODEC: Codec = Codec::Zstd { level: 3 };

/// Writes the records that `filter` wants as a Parquet file. Gives how many there were.
///
/// A time becomes two columns, since engines differ in what they make of nanoseconds: the time in microseconds (UTC), and
/// one more, of the name and `_nanos`, with all of it. What is not there is null. Rows are held in memory until there are
/// 32 MiB of them, with one record more.
///
/// # Errors
/// As for [`search`]; what `out` says. [`io::ErrorKind::InvalidInput`] if a value is not of its column's type.
pub fn to_parquet(
    shelf: &dyn Shelf,
    filter: &Filter,
    columns: &Columns,
    out: impl Write,
) -> io::Result<u64> {
    let schema = schema(columns)?;
    let mut encoder = Encoder::new(CODEC).map_err(io::Error::other)?;
    let mut scratch = Scratch::default();
    let mut file = FileWriter::begin(&schema, &mut encoder, &mut scratch, out)?;
    let mut group = Group::new(columns);
    search(shelf, filter, |line, _| {
        group.row(&Fields::parse(line)?)?;
        if group.bytes >= GROUP_BYTES {
            group.write(&mut file)?;
        }
        Ok(GoOn::Continue(()))
    })?;
    group.write(&mut file)?;
    Ok(file.finish()?.rows)
}

fn schema(columns: &Columns) -> io::Result<Schema> {
    let mut all: Vec<tipple_parquet::Column> = Vec::new();
    for Column { path, kind } in &columns.0 {
        let kind = match kind {
            ColumnKind::Text => Kind::Text,
            ColumnKind::Json => Kind::Json,
            ColumnKind::Integer => Kind::Signed,
            ColumnKind::Unsigned => Kind::Unsigned,
            ColumnKind::Double => Kind::Double,
            ColumnKind::Bool => Kind::Bool,
            ColumnKind::Time => Kind::Microseconds,
        };
        all.push(tipple_parquet::Column::optional(path, kind));
        if kind == Kind::Microseconds {
            let name = format!("{path}_nanos");
            if columns.0.iter().any(|column| column.path == name) {
                let what = format!("`{name}` is there with `{path}`: leave it out");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
            all.push(tipple_parquet::Column::optional(&name, Kind::Signed));
        }
    }
    Ok(Schema::new("records", all))
}

/// Rows that were not written yet.
struct Group<'a> {
    columns: &'a [Column],
    cells: Vec<Cells>,
    rows: u64,
    /// What cells take, about.
    bytes: usize,
}

/// The values of a column.
#[derive(Default)]
struct Cells {
    numbers: Vec<i64>,
    bytes: Vec<u8>,
    /// Of each row: what is added to the others.
    ends: Vec<End>,
}

/// Where the value of a row ends.
#[derive(Clone, Copy)]
enum End {
    Null,
    /// A number.
    Number,
    /// Bytes, of so many.
    Bytes(usize),
}

impl<'a> Group<'a> {
    fn new(columns: &'a Columns) -> Group<'a> {
        Group {
            columns: &columns.0,
            cells: columns.0.iter().map(|_| Cells::default()).collect(),
            rows: 0,
            bytes: 0,
        }
    }

    fn row(&mut self, fields: &Fields<'_>) -> io::Result<()> {
        for (column, cells) in self.columns.iter().zip(&mut self.cells) {
            let before = cells.bytes.len();
            let end = match fields.at(&column.path) {
                None => End::Null,
                Some(json) => cells.value(column.kind, json).ok_or_else(|| {
                    let group = fields.at("g").map(text_of).unwrap_or_default();
                    let what = format!(
                        "`{}` is {json:.80} in number {} of {group}, which is no {}: give the column another type, or `text`",
                        column.path,
                        fields.at("s").unwrap_or_default(),
                        column.kind.name(),
                    );
                    io::Error::new(io::ErrorKind::InvalidInput, what)
                })?,
            };
            cells.ends.push(end);
            self.bytes += cells.bytes.len() - before + size_of::<End>();
            if matches!(end, End::Number) {
                self.bytes += size_of::<i64>();
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Writes a row group of what there is.
    fn write(&mut self, file: &mut FileWriter<'_, impl Write>) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        for (column, cells) in self.columns.iter().zip(&mut self.cells) {
            match column.kind {
                ColumnKind::Time => {
                    cells.write(file, |ns| ns.div_euclid(1000))?;
                    cells.write(file, |ns| ns)?;
                }
                _ => cells.write(file, |number| number)?,
            }
            cells.numbers.clear();
            cells.bytes.clear();
            cells.ends.clear();
        }
        file.end_row_group(self.rows);
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl ColumnKind {
    fn name(self) -> &'static str {
        let named = ColumnKind::NAMED.iter().find(|(_, kind)| *kind == self);
        named.expect("each has a name").0
    }
}

impl Cells {
    /// Takes a value; `None` if it is not of its kind.
    fn value(&mut self, kind: ColumnKind, json: &str) -> Option<End> {
        let number = match kind {
            ColumnKind::Text => return Some(self.text(&text_of(json))),
            ColumnKind::Json => return Some(self.text(json)),
            ColumnKind::Integer | ColumnKind::Time => json.parse::<i64>().ok()?,
            // The bits of it.
            ColumnKind::Unsigned => json.parse::<u64>().ok()? as i64,
            ColumnKind::Double => serde_json::from_str::<f64>(json).ok()?.to_bits() as i64,
            ColumnKind::Bool => serde_json::from_str::<bool>(json).ok()?.into(),
        };
        self.numbers.push(number);
        Some(End::Number)
    }

    fn text(&mut self, text: &str) -> End {
        self.bytes.extend_from_slice(text.as_bytes());
        End::Bytes(text.len())
    }

    /// Writes the next column of a file: of these values, numbers changed so.
    fn write(
        &self,
        file: &mut FileWriter<'_, impl Write>,
        change: impl Fn(i64) -> i64,
    ) -> io::Result<()> {
        let mut values = file.column();
        let (mut numbers, mut at) = (self.numbers.iter(), 0);
        for end in &self.ends {
            values.value(match end {
                End::Null => None,
                End::Number => numbers.next().map(|number| Value::Number(change(*number))),
                End::Bytes(len) => {
                    at += len;
                    Some(Value::Bytes(&self.bytes[at - len..at]))
                }
            })?;
        }
        values.end()
    }
}
