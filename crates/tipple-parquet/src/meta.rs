//! The metadata of a file: the schema, and where each column is.

use crate::form::parquet::column::{Column, Kind, Nesting};
use crate::form::parquet::thrift;

/// Names what made a file, for readers that mend the mistakes of known writers. Nothing that changes from one version of
/// tipple to the next: the same events give the same bytes.
const CREATED_BY: &[u8] = b"tipple version 1";

// Numbers of the format.
pub(super) const INT64: i32 = 2;
pub(super) const BYTE_ARRAY: i32 = 6;
const REQUIRED: i32 = 0;
const OPTIONAL: i32 = 1;
const REPEATED: i32 = 2;
const UTF8: i32 = 0;
const CONVERTED_LIST: i32 = 3;
const TIMESTAMP_MICROS: i32 = 10;
pub(super) const PLAIN: i32 = 0;
pub(super) const RLE: i32 = 3;
pub(super) const RLE_DICTIONARY: i32 = 8;
pub(super) const UNCOMPRESSED: i64 = 0;
pub(super) const ZSTD: i64 = 6;
pub(super) const DATA_PAGE: i32 = 0;
pub(super) const DICTIONARY_PAGE: i32 = 2;

/// What was written of a column.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) column: Column,
    /// Where its first page is: the dictionary, if there is one.
    pub(super) offset: u64,
    /// Where its first data page is.
    pub(super) data_offset: u64,
    /// Values, nulls among them.
    pub(super) values: u64,
    pub(super) nulls: u64,
    /// Pages with their headers, before they were compressed, and after.
    pub(super) raw_bytes: u64,
    pub(super) stored_bytes: u64,
    /// Of numbers.
    pub(super) range: Option<(i64, i64)>,
}

/// The header of a page of `raw` bytes that are stored in `stored`.
pub(super) fn page_header(
    kind: i32,
    values: u64,
    encoding: i32,
    (raw, stored): (usize, usize),
) -> Vec<u8> {
    let mut out = thrift::Writer::default();
    out.element(|out| {
        out.i32(1, kind);
        out.i32(2, raw as i32);
        out.i32(3, stored as i32);
        let fields = |out: &mut thrift::Writer| {
            out.i32(1, values as i32);
            out.i32(2, encoding);
            if kind == DATA_PAGE {
                out.i32(3, RLE);
                out.i32(4, RLE);
            }
        };
        out.structure(if kind == DATA_PAGE { 5 } else { 7 }, fields);
    });
    out.bytes
}

/// What a file ends with, but for the length of this and the magic.
pub(super) fn footer(chunks: &[Chunk], rows: u64, codec: i64) -> Vec<u8> {
    let mut out = thrift::Writer::default();
    out.element(|out| {
        out.i32(1, 1);
        out.structures(2, &schema(chunks), |out, element| element.write(out));
        out.i64(3, rows as i64);
        out.structures(4, &[()], |out, ()| row_group(out, chunks, rows, codec));
        out.binary(6, CREATED_BY);
        // How minima and maxima compare: as the types say.
        out.structures(7, chunks, |out, _| out.structure(1, |_| {}));
    });
    out.bytes
}

fn row_group(out: &mut thrift::Writer, chunks: &[Chunk], rows: u64, codec: i64) {
    let sum = |of: fn(&Chunk) -> u64| chunks.iter().map(of).sum::<u64>() as i64;
    out.structures(1, chunks, |out, chunk| {
        out.i64(2, chunk.offset as i64);
        out.structure(3, |out| column_meta(out, chunk, codec));
    });
    out.i64(2, sum(|chunk| chunk.raw_bytes));
    out.i64(3, rows as i64);
    out.i64(5, chunks.first().map_or(0, |chunk| chunk.offset as i64));
    out.i64(6, sum(|chunk| chunk.stored_bytes));
}

fn column_meta(out: &mut thrift::Writer, chunk: &Chunk, codec: i64) {
    let has_dictionary = chunk.offset != chunk.data_offset;
    out.i32(1, physical(chunk.column));
    match has_dictionary {
        true => out.i32s(2, &[PLAIN, RLE, RLE_DICTIONARY]),
        false => out.i32s(2, &[PLAIN, RLE]),
    }
    out.binaries(3, chunk.column.path());
    out.i32(4, codec as i32);
    out.i64(5, chunk.values as i64);
    out.i64(6, chunk.raw_bytes as i64);
    out.i64(7, chunk.stored_bytes as i64);
    out.i64(9, chunk.data_offset as i64);
    if has_dictionary {
        out.i64(11, chunk.offset as i64);
    }
    out.structure(12, |out| {
        out.i64(3, chunk.nulls as i64);
        if let Some((min, max)) = chunk.range {
            out.binary(5, &max.to_le_bytes());
            out.binary(6, &min.to_le_bytes());
        }
    });
}

fn physical(column: Column) -> i32 {
    match column.kind() {
        Kind::Number | Kind::Microseconds => INT64,
        Kind::Text | Kind::Bytes => BYTE_ARRAY,
    }
}

/// A line of the schema: a column, or a group of so many.
enum Element {
    Root(usize),
    /// Of the list, and of what repeats in it.
    List,
    Repeated,
    Group(usize),
    Column(Column),
}

fn schema(chunks: &[Chunk]) -> Vec<Element> {
    let in_list = |chunk: &&Chunk| chunk.column.nesting() == Nesting::InList;
    let listed = chunks.iter().filter(in_list).count();
    let mut schema = vec![Element::Root(chunks.len() - listed + 1)];
    let mut has_list = false;
    for chunk in chunks {
        if in_list(&chunk) && !has_list {
            has_list = true;
            schema.extend([Element::List, Element::Repeated, Element::Group(listed)]);
        }
        schema.push(Element::Column(chunk.column));
    }
    schema
}

impl Element {
    fn write(&self, out: &mut thrift::Writer) {
        let mut group = |repetition: Option<i32>, name: &str, children: usize| {
            if let Some(repetition) = repetition {
                out.i32(3, repetition);
            }
            out.binary(4, name.as_bytes());
            out.i32(5, children as i32);
        };
        match self {
            Self::Root(children) => group(None, "events", *children),
            Self::Repeated => group(Some(REPEATED), "list", 1),
            Self::Group(children) => group(Some(REQUIRED), "element", *children),
            Self::List => {
                group(Some(REQUIRED), "headers", 1);
                out.i32(6, CONVERTED_LIST);
                out.structure(10, |out| out.structure(3, |_| {}));
            }
            Self::Column(column) => {
                let repetition = match column.nesting() {
                    Nesting::Required => REQUIRED,
                    Nesting::Optional | Nesting::InList => OPTIONAL,
                };
                let name = column.path().last().expect("a path has steps");
                out.i32(1, physical(*column));
                out.i32(3, repetition);
                out.binary(4, name.as_bytes());
                match column.kind() {
                    Kind::Text => {
                        out.i32(6, UTF8);
                        out.structure(10, |out| out.structure(1, |_| {}));
                    }
                    Kind::Microseconds => {
                        out.i32(6, TIMESTAMP_MICROS);
                        out.structure(10, |out| {
                            out.structure(8, |out| {
                                out.boolean(1, true);
                                out.structure(2, |out| out.structure(2, |_| {}));
                            });
                        });
                    }
                    Kind::Number | Kind::Bytes => {}
                }
            }
        }
    }
}
