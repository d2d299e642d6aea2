//! The metadata of a file: the schema, and where each column is. And the numbers of the format, for whoever reads one.

use crate::schema::{Column, Kind, Nesting, Schema};
use crate::thrift;

/// Names what made a file, for readers that mend the mistakes of known writers. Nothing that changes from one version of
/// tipple to the next: the same rows give the same bytes.
const CREATED_BY: &[u8] = b"tipple version 1";

/// A physical type.
const BOOLEAN: i32 = 0;
/// A physical type.
pub const INT64: i32 = 2;
/// A physical type.
const DOUBLE: i32 = 5;
/// A physical type.
pub const BYTE_ARRAY: i32 = 6;
const REQUIRED: i32 = 0;
const OPTIONAL: i32 = 1;
const REPEATED: i32 = 2;
const UTF8: i32 = 0;
const CONVERTED_LIST: i32 = 3;
const TIMESTAMP_MICROS: i32 = 10;
const UINT_64: i32 = 14;
const CONVERTED_JSON: i32 = 19;
/// An encoding: values as they are.
pub const PLAIN: i32 = 0;
/// An encoding: of levels.
pub const RLE: i32 = 3;
/// An encoding: numbers of values in a dictionary.
pub const RLE_DICTIONARY: i32 = 8;
/// A codec: none.
pub const UNCOMPRESSED: i64 = 0;
/// A codec: frames of zstd.
pub const ZSTD: i64 = 6;
/// A kind of page: values.
pub const DATA_PAGE: i32 = 0;
/// A kind of page: the values that others number.
pub const DICTIONARY_PAGE: i32 = 2;

/// What was written of a column in a row group.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Where its first page is: the dictionary, if there is one.
    pub(crate) offset: u64,
    /// Where its first data page is.
    pub(crate) data_offset: u64,
    /// Values, nulls among them.
    pub(crate) values: u64,
    pub(crate) nulls: u64,
    /// Pages with their headers, before they were compressed, and after.
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// Of whole numbers and times: the least and the greatest.
    pub(crate) range: Option<(i64, i64)>,
}

/// What was written of some rows: a chunk for each column.
#[derive(Clone, Debug)]
pub(crate) struct RowGroup {
    pub(crate) rows: u64,
    pub(crate) chunks: Vec<Chunk>,
}

impl RowGroup {
    pub(crate) fn sum(&self, of: fn(&Chunk) -> u64) -> u64 {
        self.chunks.iter().map(of).sum()
    }
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
pub(crate) fn footer(schema: &Schema, groups: &[RowGroup], codec: i64) -> Vec<u8> {
    let mut out = thrift::Writer::default();
    out.element(|out| {
        out.i32(1, 1);
        out.structures(2, &elements(schema), |out, element| element.write(out));
        out.i64(3, groups.iter().map(|group| group.rows).sum::<u64>() as i64);
        out.structures(4, groups, |out, group| row_group(out, schema, group, codec));
        out.binary(6, CREATED_BY);
        // How minima and maxima compare: as the types say.
        out.structures(7, &schema.columns, |out, _| out.structure(1, |_| {}));
    });
    out.bytes
}

fn row_group(out: &mut thrift::Writer, schema: &Schema, group: &RowGroup, codec: i64) {
    let columns: Vec<_> = schema.columns.iter().zip(&group.chunks).collect();
    out.structures(1, &columns, |out, (column, chunk)| {
        out.i64(2, chunk.offset as i64);
        out.structure(3, |out| column_meta(out, column, chunk, codec));
    });
    out.i64(2, group.sum(|chunk| chunk.raw_bytes) as i64);
    out.i64(3, group.rows as i64);
    out.i64(
        5,
        group.chunks.first().map_or(0, |chunk| chunk.offset as i64),
    );
    out.i64(6, group.sum(|chunk| chunk.stored_bytes) as i64);
}

fn column_meta(out: &mut thrift::Writer, column: &Column, chunk: &Chunk, codec: i64) {
    let has_dictionary = chunk.offset != chunk.data_offset;
    out.i32(1, physical(column.kind));
    match has_dictionary {
        true => out.i32s(2, &[PLAIN, RLE, RLE_DICTIONARY]),
        false => out.i32s(2, &[PLAIN, RLE]),
    }
    out.binaries(3, &column.path);
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

fn physical(kind: Kind) -> i32 {
    match kind {
        Kind::Signed | Kind::Unsigned | Kind::Microseconds => INT64,
        Kind::Double => DOUBLE,
        Kind::Bool => BOOLEAN,
        Kind::Text | Kind::Json | Kind::Bytes => BYTE_ARRAY,
    }
}

/// A line of the schema: a column, or a group of so many.
enum Element<'a> {
    Root(&'a str, usize),
    /// Of the list, and of what repeats in it.
    List(&'a str),
    Repeated,
    Group(usize),
    Column(&'a Column),
}

fn elements(schema: &Schema) -> Vec<Element<'_>> {
    let in_list = |column: &&Column| column.nesting == Nesting::InList;
    let listed = schema.columns.iter().filter(in_list).count();
    let children = schema.columns.len() - listed + usize::from(listed > 0);
    let mut elements = vec![Element::Root(&schema.name, children)];
    let mut has_list = false;
    for column in &schema.columns {
        if in_list(&column) && !has_list {
            has_list = true;
            elements.extend([
                Element::List(&column.path[0]),
                Element::Repeated,
                Element::Group(listed),
            ]);
        }
        elements.push(Element::Column(column));
    }
    elements
}

impl Element<'_> {
    fn write(&self, out: &mut thrift::Writer) {
        let mut group = |repetition: Option<i32>, name: &str, children: usize| {
            if let Some(repetition) = repetition {
                out.i32(3, repetition);
            }
            out.binary(4, name.as_bytes());
            out.i32(5, children as i32);
        };
        match self {
            Self::Root(name, children) => group(None, name, *children),
            Self::Repeated => group(Some(REPEATED), "list", 1),
            Self::Group(children) => group(Some(REQUIRED), "element", *children),
            Self::List(name) => {
                group(Some(REQUIRED), name, 1);
                out.i32(6, CONVERTED_LIST);
                out.structure(10, |out| out.structure(3, |_| {}));
            }
            Self::Column(column) => {
                let repetition = match column.nesting {
                    Nesting::Required => REQUIRED,
                    Nesting::Optional | Nesting::InList => OPTIONAL,
                };
                let name = column.path.last().expect("a path has steps");
                out.i32(1, physical(column.kind));
                out.i32(3, repetition);
                out.binary(4, name.as_bytes());
                logical(out, column.kind);
            }
        }
    }
}

/// What values mean, in the old way and in the new one.
fn logical(out: &mut thrift::Writer, kind: Kind) {
    match kind {
        Kind::Text => {
            out.i32(6, UTF8);
            out.structure(10, |out| out.structure(1, |_| {}));
        }
        Kind::Json => {
            out.i32(6, CONVERTED_JSON);
            out.structure(10, |out| out.structure(12, |_| {}));
        }
        Kind::Unsigned => {
            out.i32(6, UINT_64);
            out.structure(10, |out| {
                out.structure(10, |out| {
                    out.byte(1, 64);
                    out.boolean(2, false);
                });
            });
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
        Kind::Signed | Kind::Double | Kind::Bool | Kind::Bytes => {}
    }
}
