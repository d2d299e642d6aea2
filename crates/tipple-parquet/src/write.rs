//! Writing a file.

use std::io::{self, Write};

use tipple_chunk::{Codec, Encoder, FRAME_BYTES_MAX, ObjectWriter, Sha256Digest};

use crate::meta::{self, Chunk, RowGroup};
use crate::schema::{Column, Kind, Nesting, Schema, Value};
use crate::{MAGIC, PAGE_BYTES};

/// What a value takes in a page beside its own bytes, at most: its length and its levels.
const BESIDE_VALUE: usize = 8;

/// Writes a file: its row groups, of each one column after the other.
///
/// Holds a page, and what is known of the columns of each row group: a few hundred bytes for each of them.
pub struct FileWriter<'a, W: Write> {
    schema: &'a Schema,
    encoder: &'a mut Encoder,
    scratch: &'a mut Scratch,
    out: ObjectWriter<W>,
    at: u64,
    groups: Vec<RowGroup>,
    /// Of the row group that is being written.
    chunks: Vec<Chunk>,
}

/// The page that is being filled, and what it is compressed to. Used again from file to file.
#[derive(Default)]
pub struct Scratch {
    page: Page,
    stored: Vec<u8>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Of the file.
    pub bytes: u64,
    /// Of the file.
    pub sha256: Sha256Digest,
    /// Of its footer, without its length and the magic.
    pub footer_sha256: Sha256Digest,
    /// Of all pages with their headers, before they were compressed.
    pub raw_bytes: u64,
    /// In all row groups.
    pub rows: u64,
}

impl<'a, W: Write> FileWriter<'a, W> {
    /// Begins a file.
    ///
    /// # Errors
    /// What `out` says, as of all that follows. The file is lost then.
    pub fn begin(
        schema: &'a Schema,
        encoder: &'a mut Encoder,
        scratch: &'a mut Scratch,
        out: W,
    ) -> io::Result<Self> {
        let mut file = Self {
            schema,
            encoder,
            scratch,
            out: ObjectWriter::new(out),
            at: 0,
            groups: Vec::new(),
            chunks: Vec::new(),
        };
        file.write(MAGIC)?;
        Ok(file)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn begin_chunk(&self) -> Chunk {
        Chunk {
            offset: self.at,
            data_offset: self.at,
            values: 0,
            nulls: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            range: None,
        }
    }

    /// The schema's column that comes next in this row group.
    fn next_column(&self) -> &'a Column {
        let column = self.schema.columns.get(self.chunks.len());
        column.expect("a row group has no more columns than the schema")
    }

    /// Begins the next column of this row group.
    ///
    /// # Panics
    /// If there is none.
    pub fn column(&mut self) -> ColumnWriter<'_, 'a, W> {
        let column = self.next_column();
        self.scratch.page.begin(column);
        ColumnWriter {
            chunk: self.begin_chunk(),
            column,
            file: self,
        }
    }

    /// Writes the next column of this row group, in which each of `rows` rows has the same `value`: bytes of a column
    /// that is required.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// If there is no column left.
    pub fn constant(&mut self, value: &[u8], rows: u64) -> io::Result<()> {
        let column = self.next_column();
        let mut chunk = self.begin_chunk();
        self.scratch.page.begin(column);
        self.scratch.page.value(Value::Bytes(value));
        self.page(&mut chunk, meta::DICTIONARY_PAGE, meta::PLAIN)?;
        chunk.data_offset = self.at;
        let page = &mut self.scratch.page;
        page.begin(column);
        // Indices of one bit each, all 0, in one run.
        page.body.push(1);
        let mut run = Run::default();
        run.add(0, rows, &mut page.body);
        run.end(&mut page.body);
        page.values = rows;
        self.page(&mut chunk, meta::DATA_PAGE, meta::RLE_DICTIONARY)?;
        chunk.values = rows;
        self.chunks.push(chunk);
        Ok(())
    }

    /// Ends a row group of so many rows; another one may begin.
    ///
    /// # Panics
    /// If it has not all columns.
    pub fn end_row_group(&mut self, rows: u64) {
        assert_eq!(
            self.chunks.len(),
            self.schema.columns.len(),
            "a row group has all columns"
        );
        let chunks = std::mem::take(&mut self.chunks);
        self.groups.push(RowGroup { rows, chunks });
    }

    /// Ends the file.
    ///
    /// # Errors
    /// What `out` says.
    pub fn finish(mut self) -> io::Result<Object> {
        let codec = match self.encoder.codec() {
            Codec::None => meta::UNCOMPRESSED,
            Codec::Zstd { .. } => meta::ZSTD,
        };
        let footer = meta::footer(self.schema, &self.groups, codec);
        self.write(&footer)?;
        self.write(&(footer.len() as u32).to_le_bytes())?;
        self.write(MAGIC)?;
        let stored = self.out.finish();
        let raw_bytes = |group: &RowGroup| group.sum(|chunk| chunk.raw_bytes);
        Ok(Object {
            bytes: stored.bytes,
            sha256: stored.sha256,
            footer_sha256: Sha256Digest::of(&footer),
            raw_bytes: self.groups.iter().map(raw_bytes).sum(),
            rows: self.groups.iter().map(|group| group.rows).sum(),
        })
    }

    /// Writes the page that was filled.
    fn page(&mut self, chunk: &mut Chunk, kind: i32, encoding: i32) -> io::Result<()> {
        let Scratch { page, stored } = &mut *self.scratch;
        page.end();
        let raw_len = page.levels.len() + page.body.len();
        let is_compressed = compress(self.encoder, page, raw_len, stored)?;
        let stored_len = match is_compressed {
            true => stored.len(),
            false => raw_len,
        };
        let header = meta::page_header(kind, page.values, encoding, (raw_len, stored_len));
        let before = self.at;
        self.at += (header.len() + stored_len) as u64;
        self.out.write_all(&header)?;
        let pieces: [&[u8]; 2] = match is_compressed {
            true => [stored, &[]],
            false => [&page.levels, &page.body],
        };
        for piece in pieces {
            self.out.write_all(piece)?;
        }
        chunk.raw_bytes += (header.len() + raw_len) as u64;
        chunk.stored_bytes += self.at - before;
        if kind == meta::DATA_PAGE && encoding == meta::PLAIN {
            chunk.values += page.values;
            chunk.nulls += page.nulls;
        }
        Ok(())
    }
}

/// Compresses the page; `false` if it stays as it is. A page that is larger than a frame becomes several of them, which
/// are one stream to every reader.
fn compress(
    encoder: &mut Encoder,
    page: &mut Page,
    raw_len: usize,
    stored: &mut Vec<u8>,
) -> io::Result<bool> {
    if encoder.codec() == Codec::None {
        return Ok(false);
    }
    let Page { levels, body, .. } = page;
    let frames = match raw_len {
        0..=FRAME_BYTES_MAX => {
            levels.extend_from_slice(body);
            [levels.chunks(FRAME_BYTES_MAX), [].chunks(FRAME_BYTES_MAX)]
        }
        _ => [levels.chunks(FRAME_BYTES_MAX), body.chunks(FRAME_BYTES_MAX)],
    };
    stored.clear();
    stored.reserve_exact(raw_len + raw_len / 128 + 128);
    for frame in frames.into_iter().flatten() {
        let frame = encoder.loose_frame(frame).expect("it compresses");
        stored.extend_from_slice(frame.map_err(io::Error::other)?);
    }
    Ok(true)
}

/// Writes the values of a column in a row group, row by row.
pub struct ColumnWriter<'f, 'a, W: Write> {
    file: &'f mut FileWriter<'a, W>,
    column: &'a Column,
    chunk: Chunk,
}

impl<W: Write> ColumnWriter<'_, '_, W> {
    /// The value of the next row, if it is not null.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// If the column is in a list; if it is required and this is null.
    pub fn value(&mut self, value: Option<Value<'_>>) -> io::Result<()> {
        self.make_room(bytes_of(value))?;
        if let Some(Value::Number(number)) = value {
            self.note(number);
        }
        let page = &mut self.file.scratch.page;
        match self.column.nesting {
            Nesting::Required => assert!(value.is_some(), "{:?} is required", self.column.path),
            Nesting::Optional => {
                let (run, bytes) = &mut page.definition;
                run.add(value.is_some().into(), 1, bytes);
            }
            Nesting::InList => panic!("{:?} is in a list", self.column.path),
        }
        page.item(value);
        Ok(())
    }

    /// The values of the next row, one for each element of its list.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// If the column is in no list.
    pub fn list<'v>(
        &mut self,
        values: impl Iterator<Item = Option<Value<'v>>> + Clone,
    ) -> io::Result<()> {
        assert_eq!(self.column.nesting, Nesting::InList);
        // Pages begin with a row.
        self.make_room(values.clone().map(bytes_of).sum())?;
        let page = &mut self.file.scratch.page;
        let mut repetition = 0;
        for value in values {
            page.level(repetition, 1 + u8::from(value.is_some()));
            page.item(value);
            repetition = 1;
        }
        if repetition == 0 {
            // An empty list.
            page.level(0, 0);
            page.item(None);
        }
        Ok(())
    }

    /// Ends the page if so many bytes might make it too large.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if self.file.scratch.page.is_full(bytes) {
            self.end_page()?;
            self.file.scratch.page.begin(self.column);
        }
        Ok(())
    }

    fn end_page(&mut self) -> io::Result<()> {
        self.file
            .page(&mut self.chunk, meta::DATA_PAGE, meta::PLAIN)
    }

    /// Notes the least and the greatest of numbers that have an order.
    fn note(&mut self, number: i64) {
        let (min, max) = self.chunk.range.unwrap_or((number, number));
        let range = match self.column.kind {
            Kind::Unsigned => (
                (min as u64).min(number as u64) as i64,
                (max as u64).max(number as u64) as i64,
            ),
            Kind::Signed | Kind::Microseconds => (min.min(number), max.max(number)),
            _ => return,
        };
        self.chunk.range = Some(range);
    }

    /// Ends the column.
    ///
    /// # Errors
    /// What `out` says.
    pub fn end(mut self) -> io::Result<()> {
        self.end_page()?;
        self.file.chunks.push(self.chunk);
        Ok(())
    }
}

/// What a value takes in a page, at most.
fn bytes_of(value: Option<Value<'_>>) -> usize {
    let bytes = match value {
        Some(Value::Bytes(bytes)) => bytes.len(),
        Some(Value::Number(_)) => size_of::<i64>(),
        None => 0,
    };
    bytes + BESIDE_VALUE
}

/// A page that is being filled.
#[derive(Default)]
struct Page {
    repetition: (Run, Vec<u8>),
    definition: (Run, Vec<u8>),
    /// The highest levels.
    max: (u8, u8),
    /// Values that are not null.
    body: Vec<u8>,
    /// Values are bits of the body: so many are in its last byte.
    bits: Option<u8>,
    values: u64,
    nulls: u64,
    /// Levels as they stand before the values, when it has ended.
    levels: Vec<u8>,
}

impl Page {
    fn begin(&mut self, column: &Column) {
        self.max = column.nesting.levels();
        for (run, bytes) in [&mut self.repetition, &mut self.definition] {
            *run = Run::default();
            bytes.clear();
        }
        self.body.clear();
        self.bits = (column.kind == Kind::Bool).then_some(0);
        (self.values, self.nulls) = (0, 0);
    }

    /// Whether `bytes` more might make it too large.
    fn is_full(&self, bytes: usize) -> bool {
        self.values > 0 && self.level_bytes() + self.body.len() + bytes > PAGE_BYTES
    }

    /// What levels take, with lengths and runs that were not ended.
    fn level_bytes(&self) -> usize {
        self.repetition.1.len() + self.definition.1.len() + 32
    }

    fn level(&mut self, repetition: u8, definition: u8) {
        self.repetition.0.add(repetition, 1, &mut self.repetition.1);
        self.definition.0.add(definition, 1, &mut self.definition.1);
    }

    fn item(&mut self, value: Option<Value<'_>>) {
        match value {
            Some(value) => self.value(value),
            None => (self.values, self.nulls) = (self.values + 1, self.nulls + 1),
        }
    }

    fn value(&mut self, value: Value<'_>) {
        match (value, &mut self.bits) {
            (Value::Number(bit), Some(bits)) => {
                if *bits == 0 {
                    self.body.push(0);
                }
                let byte = self.body.last_mut().expect("pushed with the first bit");
                *byte |= u8::from(bit != 0) << *bits;
                *bits = (*bits + 1) % 8;
            }
            (Value::Number(number), None) => self.body.extend_from_slice(&number.to_le_bytes()),
            (Value::Bytes(bytes), _) => {
                if bytes.len() > PAGE_BYTES / 8 {
                    // Not twice as much as is needed.
                    self.body.reserve_exact(4 + bytes.len());
                }
                self.body
                    .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.body.extend_from_slice(bytes);
            }
        }
        self.values += 1;
    }

    fn end(&mut self) {
        self.levels.clear();
        let levels = [
            (self.max.0, &mut self.repetition),
            (self.max.1, &mut self.definition),
        ];
        for (max, (run, bytes)) in levels {
            if max > 0 {
                run.end(bytes);
                self.levels
                    .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.levels.extend_from_slice(bytes);
            }
        }
    }
}

/// A run of equal numbers of at most 8 bits: its length twice, then the number.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    number: u8,
    length: u64,
}

impl Run {
    fn add(&mut self, number: u8, times: u64, bytes: &mut Vec<u8>) {
        if self.number != number {
            self.end(bytes);
            self.number = number;
        }
        self.length += times;
    }

    fn end(&mut self, bytes: &mut Vec<u8>) {
        let mut length = std::mem::take(&mut self.length) << 1;
        if length == 0 {
            return;
        }
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.extend([length as u8, self.number]);
    }
}
