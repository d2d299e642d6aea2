//! Writing a file.

use std::io::Write;

use tipple_chunk::{Codec, Encoder, FRAME_BYTES_MAX, Sealed, Sha256Digest};
use tipple_flow::{Failure, Records};

use crate::event::EventRef;
use crate::form::parquet::column::{Column, Nesting, Value, columns};
use crate::form::parquet::meta::{self, Chunk};
use crate::form::parquet::{MAGIC, PAGE_BYTES};
use crate::form::{ObjectWriter, event, not_written};
use crate::place::Numbering;

/// What a row has beside its bytes in the event, at most: fixed columns, lengths and levels of all of them.
const ROW_BYTES: u64 = 128;
/// The same of a header, beside the 8 bytes that it has in the event.
const HEADER_BYTES: u64 = 32;
/// Headers of pages, dictionary, footer: more than all of them.
const OTHER_BYTES: u64 = 256 << 10;

/// zstd grows what it cannot compress by less, headers of pages included.
pub(in crate::form) fn object_bytes_max(bytes_max: u64) -> u64 {
    bytes_max + bytes_max / 64 + OTHER_BYTES
}

/// A page: its values, its levels (which are smaller), and what they are compressed to.
pub(in crate::form) fn encoder_bytes(record_bytes_max: u64) -> u64 {
    3 * (2 * PAGE_BYTES as u64 + record_bytes_max)
}

/// The most bytes of an event before compression.
fn row_bytes_max(event: &EventRef<'_>) -> u64 {
    let headers = event.headers().count() as u64;
    event.bytes().len() as u64 + ROW_BYTES + HEADER_BYTES * headers
}

pub(in crate::form) struct Writer<'a> {
    encoder: Encoder,
    stream: &'a str,
    numbering: Numbering,
    bytes_max: u64,
    page: Page,
    stored: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(in crate::form) fn new(
        encoder: Encoder,
        stream: &'a str,
        numbering: Numbering,
        bytes_max: u64,
    ) -> Self {
        Self {
            encoder,
            stream,
            numbering,
            bytes_max,
            page: Page::default(),
            stored: Vec::new(),
        }
    }

    /// As many as fit, at least one.
    fn fitting<'r>(&self, records: Records<'r>) -> Records<'r> {
        let mut bytes = 0;
        let rows = records.iter().take_while(|record| {
            bytes += row_bytes_max(&event(record));
            bytes <= self.bytes_max
        });
        let rows = rows.count();
        records.split_at(rows.max(1).min(records.len())).0
    }
}

impl ObjectWriter for Writer<'_> {
    fn object(&mut self, records: Records<'_>, out: &mut dyn Write) -> Result<Sealed, Failure> {
        let records = self.fitting(records);
        let mut file = File {
            encoder: &mut self.encoder,
            out: tipple_chunk::ObjectWriter::new(out),
            at: 0,
            page: &mut self.page,
            stored: &mut self.stored,
        };
        file.write(MAGIC)?;
        let mut chunks = Vec::new();
        for column in columns(self.numbering) {
            chunks.push(match column {
                Column::Stream => file.constant(column, self.stream.as_bytes(), records.len())?,
                _ => file.column(column, records)?,
            });
        }
        let footer = meta::footer(&chunks, records.len() as u64, file.codec());
        file.write(&footer)?;
        file.write(&(footer.len() as u32).to_le_bytes())?;
        file.write(MAGIC)?;
        let stored = file.out.finish();
        let position = |record: Option<&[u8]>| {
            let event = event(record.expect("at least one"));
            event
                .place()
                .position(event.numbering())
                .as_bytes()
                .to_vec()
        };
        Ok(Sealed {
            stored_bytes: stored.bytes,
            raw_bytes: chunks.iter().map(|chunk| chunk.raw_bytes).sum(),
            records: records.len() as u64,
            frames: 0,
            sha256: stored.sha256,
            index_sha256: Sha256Digest::of(&footer),
            first_position: position(records.iter().next()),
            last_position: position(records.iter().next_back()),
            begins_inside_record: false,
            ends_inside_record: false,
        })
    }
}

/// A file that is being written.
struct File<'a> {
    encoder: &'a mut Encoder,
    out: tipple_chunk::ObjectWriter<&'a mut dyn Write>,
    at: u64,
    page: &'a mut Page,
    stored: &'a mut Vec<u8>,
}

impl File<'_> {
    fn codec(&self) -> i64 {
        match self.encoder.codec() {
            Codec::None => meta::UNCOMPRESSED,
            Codec::Zstd { .. } => meta::ZSTD,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(not_written)
    }

    fn begin(&self, column: Column) -> Chunk {
        Chunk {
            column,
            offset: self.at,
            data_offset: self.at,
            values: 0,
            nulls: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            range: None,
        }
    }

    /// A column of one value: a dictionary of it, and pages that say how often.
    fn constant(&mut self, column: Column, value: &[u8], rows: usize) -> Result<Chunk, Failure> {
        let mut chunk = self.begin(column);
        self.page.begin(Nesting::Required);
        self.page.value(Value::Bytes(value));
        self.page(&mut chunk, meta::DICTIONARY_PAGE, meta::PLAIN)?;
        chunk.data_offset = self.at;
        self.page.begin(Nesting::Required);
        // Indices of one bit each, all 0, in one run.
        self.page.body.push(1);
        let mut run = Run::default();
        run.add(0, rows as u64, &mut self.page.body);
        run.end(&mut self.page.body);
        self.page.values = rows as u64;
        self.page(&mut chunk, meta::DATA_PAGE, meta::RLE_DICTIONARY)?;
        chunk.values = rows as u64;
        Ok(chunk)
    }

    fn column(&mut self, column: Column, records: Records<'_>) -> Result<Chunk, Failure> {
        let mut chunk = self.begin(column);
        let nesting = column.nesting();
        self.page.begin(nesting);
        let mut text = String::new();
        for record in records.iter() {
            let event = event(record);
            // Pages begin with a row.
            if self.page.is_full(column.bytes(&event)) {
                self.page(&mut chunk, meta::DATA_PAGE, meta::PLAIN)?;
                self.page.begin(nesting);
            }
            match nesting {
                Nesting::InList => self.page.list(column, &event),
                _ => {
                    let value = column.of_event(&event, &mut text);
                    if let Some(Value::Number(number)) = value {
                        let (min, max) = chunk.range.unwrap_or((number, number));
                        chunk.range = Some((min.min(number), max.max(number)));
                    }
                    self.page.item(nesting, value);
                }
            }
        }
        self.page(&mut chunk, meta::DATA_PAGE, meta::PLAIN)?;
        Ok(chunk)
    }

    /// Writes the page that was filled.
    fn page(&mut self, chunk: &mut Chunk, kind: i32, encoding: i32) -> Result<(), Failure> {
        self.page.end();
        let raw_len = self.page.levels.len() + self.page.body.len();
        let is_compressed = self.compress(raw_len)?;
        let stored_len = match is_compressed {
            true => self.stored.len(),
            false => raw_len,
        };
        let header = meta::page_header(kind, self.page.values, encoding, (raw_len, stored_len));
        let before = self.at;
        self.at += (header.len() + stored_len) as u64;
        let pieces: [&[u8]; 2] = match is_compressed {
            true => [self.stored, &[]],
            false => [&self.page.levels, &self.page.body],
        };
        (self.out.write_all(&header))
            .and_then(|()| {
                pieces
                    .iter()
                    .try_for_each(|piece| self.out.write_all(piece))
            })
            .map_err(not_written)?;
        chunk.raw_bytes += (header.len() + raw_len) as u64;
        chunk.stored_bytes += self.at - before;
        if kind == meta::DATA_PAGE && encoding == meta::PLAIN {
            chunk.values += self.page.values;
            chunk.nulls += self.page.nulls;
        }
        Ok(())
    }
}

impl File<'_> {
    /// Compresses the page; `false` if it stays as it is. A page that is larger than a frame becomes several of them, which
    /// are one stream to every reader.
    fn compress(&mut self, raw_len: usize) -> Result<bool, Failure> {
        if self.encoder.codec() == Codec::None {
            return Ok(false);
        }
        let Page { levels, body, .. } = &mut *self.page;
        let frames = match raw_len {
            0..=FRAME_BYTES_MAX => {
                levels.extend_from_slice(body);
                [levels.chunks(FRAME_BYTES_MAX), [].chunks(FRAME_BYTES_MAX)]
            }
            _ => [levels.chunks(FRAME_BYTES_MAX), body.chunks(FRAME_BYTES_MAX)],
        };
        self.stored.clear();
        self.stored.reserve_exact(raw_len + raw_len / 128 + 128);
        for frame in frames.into_iter().flatten() {
            let stored = self.encoder.loose_frame(frame).expect("it compresses");
            self.stored.extend_from_slice(stored.map_err(not_written)?);
        }
        Ok(true)
    }
}

/// A page that is being filled.
#[derive(Default)]
struct Page {
    repetition: (Run, Vec<u8>),
    definition: (Run, Vec<u8>),
    max: (u8, u8),
    /// Values that are not null.
    body: Vec<u8>,
    values: u64,
    nulls: u64,
    /// Levels as they stand before the values, when it has ended.
    levels: Vec<u8>,
}

impl Page {
    fn begin(&mut self, nesting: Nesting) {
        self.max = nesting.levels();
        for (run, bytes) in [&mut self.repetition, &mut self.definition] {
            *run = Run::default();
            bytes.clear();
        }
        self.body.clear();
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

    /// A value of a row.
    fn item(&mut self, nesting: Nesting, value: Option<Value<'_>>) {
        if nesting == Nesting::Optional {
            self.definition
                .0
                .add(value.is_some().into(), 1, &mut self.definition.1);
        }
        match value {
            Some(value) => self.value(value),
            None => (self.values, self.nulls) = (self.values + 1, self.nulls + 1),
        }
    }

    /// All values of a row, one for each header.
    fn list(&mut self, column: Column, event: &EventRef<'_>) {
        let mut repetition = 0;
        for (name, value) in event.headers() {
            let value = column.of_header(name, value);
            self.level(repetition, 1 + u8::from(value.is_some()));
            repetition = 1;
            match value {
                Some(value) => self.value(value),
                None => (self.values, self.nulls) = (self.values + 1, self.nulls + 1),
            }
        }
        if repetition == 0 {
            // An empty list.
            self.level(0, 0);
            (self.values, self.nulls) = (self.values + 1, self.nulls + 1);
        }
    }

    fn level(&mut self, repetition: u8, definition: u8) {
        self.repetition.0.add(repetition, 1, &mut self.repetition.1);
        self.definition.0.add(definition, 1, &mut self.definition.1);
    }

    fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Number(number) => self.body.extend_from_slice(&number.to_le_bytes()),
            Value::Bytes(bytes) => {
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
