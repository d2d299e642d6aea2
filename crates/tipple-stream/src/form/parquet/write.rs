//! Writing a file.

use std::io::{self, Write};

use tipple_chunk::{Encoder, Sealed};
use tipple_flow::{Failure, Records};
use tipple_parquet::{FileWriter, Nesting, PAGE_BYTES, Schema, Scratch};

use crate::event::EventRef;
use crate::form::parquet::column::{Column, columns, schema};
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
    schema: Schema,
    scratch: Scratch,
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
            schema: schema(numbering),
            scratch: Scratch::default(),
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
        let rows = records.len() as u64;
        let mut file = FileWriter::begin(&self.schema, &mut self.encoder, &mut self.scratch, out)
            .map_err(not_written)?;
        for column in columns(self.numbering) {
            match column {
                Column::Stream => file.constant(self.stream.as_bytes(), rows),
                _ => write_column(&mut file, column, records),
            }
            .map_err(not_written)?;
        }
        file.end_row_group(rows);
        let object = file.finish().map_err(not_written)?;
        let position = |record: Option<&[u8]>| {
            let event = event(record.expect("at least one"));
            event
                .place()
                .position(event.numbering())
                .as_bytes()
                .to_vec()
        };
        Ok(Sealed {
            stored_bytes: object.bytes,
            raw_bytes: object.raw_bytes,
            records: rows,
            frames: 0,
            sha256: object.sha256,
            index_sha256: object.footer_sha256,
            first_position: position(records.iter().next()),
            last_position: position(records.iter().next_back()),
            begins_inside_record: false,
            ends_inside_record: false,
        })
    }
}

fn write_column(
    file: &mut FileWriter<'_, &mut dyn Write>,
    column: Column,
    records: Records<'_>,
) -> io::Result<()> {
    let mut values = file.column();
    let mut text = String::new();
    for record in records.iter() {
        let event = event(record);
        match column.nesting() {
            Nesting::InList => {
                let headers = event.headers();
                values.list(headers.map(|(name, value)| column.of_header(name, value)))?;
            }
            _ => values.value(column.of_event(&event, &mut text))?,
        }
    }
    values.end()
}
