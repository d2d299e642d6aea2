//! Reading a file that this program wrote: all of it, to see that it is what it should be.

use std::io::{self, Read, SeekFrom};

use tipple_budget::Gate;
use tipple_chunk::{Decoder, FRAME_BYTES_MAX, LooseFrames};
use tipple_flow::{Failure, ObjectContent, ObjectCounts, ObjectRead, Party, RecordReader, Stop};
use tipple_parquet::thrift::{self, Field};
use tipple_parquet::{Kind, MAGIC, meta};

use crate::form::parquet::column::{Column, columns};
use crate::form::parquet::{NAME, VERSION};
use crate::place::{Numbering, Place};

/// More than the footer of any file of ours: there are eleven columns, and one row group.
const FOOTER_BYTES_MAX: u64 = 64 << 10;
/// More than the header of any page of ours.
const PAGE_HEADER_BYTES_MAX: usize = 128;
/// More than a position.
const POSITION_BYTES_MAX: usize = 64;

/// The content `parquet`, version 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parquet;

impl tipple_flow::Content for Parquet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u16 {
        VERSION
    }

    fn skip(&self, _records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        Err(Failure::new(
            Party::Usage,
            format!("there are no frames: {}", self.advice()),
        )
        .into())
    }

    fn write_json(
        &self,
        records: &mut RecordReader<'_>,
        _line: &mut Vec<u8>,
    ) -> Result<bool, Stop> {
        self.skip(records)
    }

    fn objects(&self) -> Option<&dyn ObjectContent> {
        Some(self)
    }
}

impl ObjectContent for Parquet {
    /// A decoder, and what is read of a page before and after it.
    fn reading_bytes(&self) -> u64 {
        tipple_chunk::decoder_bytes() + 2 * FRAME_BYTES_MAX as u64 + FOOTER_BYTES_MAX
    }

    fn count(
        &self,
        object: &mut dyn ObjectRead,
        bytes: u64,
        gate: &Gate,
    ) -> Result<ObjectCounts, Stop> {
        let decoder = Decoder::new()
            .map_err(|error| Failure::new(Party::Budget, "cannot make a decoder").because(error))?;
        let mut file = File {
            object,
            bytes,
            gate,
            decoder,
        };
        file.count().map_err(|why| match why {
            Why::Stop(stop) => stop,
            Why::Not(why) => Failure::new(
                Party::Content,
                format!("it is no Parquet file of tipple: {why}"),
            )
            .into(),
        })
    }

    fn advice(&self) -> &'static str {
        "query it, for example with DuckDB's read_parquet, or dump the stream without --format"
    }
}

/// Why a file was not read to its end.
enum Why {
    Stop(Stop),
    Not(String),
}

impl From<String> for Why {
    fn from(why: String) -> Self {
        Self::Not(why)
    }
}

impl From<&str> for Why {
    fn from(why: &str) -> Self {
        Self::Not(why.to_owned())
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Self {
        Self::Not(format!("cannot be read: {error}"))
    }
}

struct File<'a> {
    object: &'a mut dyn ObjectRead,
    bytes: u64,
    gate: &'a Gate,
    decoder: Decoder,
}

/// What the footer says of a column.
#[derive(Clone, Debug, Default)]
struct Stated {
    physical: i64,
    codec: i64,
    values: i64,
    raw_bytes: i64,
    stored_bytes: i64,
    data_offset: i64,
    dictionary_offset: Option<i64>,
}

impl File<'_> {
    fn count(&mut self) -> Result<ObjectCounts, Why> {
        let footer = self.footer()?;
        let (rows, stated) = parse_footer(&footer)?;
        let mut counts = ObjectCounts {
            records: rows as u64,
            ..ObjectCounts::default()
        };
        let mut at = MAGIC.len() as u64;
        let numbering = numbering(&stated)?;
        for (column, stated) in columns(numbering).into_iter().zip(&stated) {
            if stated.dictionary_offset.unwrap_or(stated.data_offset) as u64 != at {
                return Err(format!("column {column:?} is not where the footer says").into());
            }
            let read = self.column(column, stated, at)?;
            if read.rows != counts.records || read.values != stated.values as u64 {
                return Err(format!(
                    "column {column:?} has {} rows and {} values, and the footer says {rows} and {}",
                    read.rows, read.values, stated.values
                )
                .into());
            }
            if let Some((first, last)) = read.positions {
                counts.first_position = first.position(numbering).as_bytes().to_vec();
                counts.last_position = last.position(numbering).as_bytes().to_vec();
            }
            counts.raw_bytes += read.raw_bytes;
            at += stated.stored_bytes as u64;
        }
        let end = self.bytes - footer.len() as u64 - 8;
        match at == end {
            true => Ok(counts),
            false => {
                Err(format!("its columns end at byte {at}, and its footer begins at {end}").into())
            }
        }
    }

    fn footer(&mut self) -> Result<Vec<u8>, Why> {
        let mut magic = [0; 4];
        self.object.seek(SeekFrom::Start(0))?;
        self.object.read_exact(&mut magic)?;
        let mut end = [0; 8];
        self.object
            .seek(SeekFrom::Start(self.bytes.saturating_sub(8)))?;
        self.object.read_exact(&mut end)?;
        if magic != *MAGIC || end[4..] != *MAGIC {
            return Err("it does not begin and end with PAR1".into());
        }
        let len = u64::from(u32::from_le_bytes(end[..4].try_into().expect("4 bytes")));
        if len > FOOTER_BYTES_MAX.min(self.bytes.saturating_sub(12)) {
            return Err(format!("its footer would have {len} bytes").into());
        }
        let mut footer = vec![0; len as usize];
        self.object.seek(SeekFrom::Start(self.bytes - 8 - len))?;
        self.object.read_exact(&mut footer)?;
        Ok(footer)
    }

    fn column(&mut self, column: Column, stated: &Stated, from: u64) -> Result<Tally, Why> {
        let mut all = Tally::default();
        let mut at = 0;
        while at < stated.stored_bytes as u64 {
            if let Err(cancelled) = self.gate.check() {
                return Err(Why::Stop(cancelled.into()));
            }
            self.object.seek(SeekFrom::Start(from + at))?;
            let mut bytes = Vec::with_capacity(PAGE_HEADER_BYTES_MAX);
            (&mut *self.object)
                .take(PAGE_HEADER_BYTES_MAX as u64)
                .read_to_end(&mut bytes)?;
            let header = PageHeader::parse(&bytes)?;
            let end = at + header.bytes as u64 + header.stored as u64;
            if end > stated.stored_bytes as u64 {
                return Err(
                    format!("a page of column {column:?} is longer than the column").into(),
                );
            }
            self.object
                .seek(SeekFrom::Start(from + at + header.bytes as u64))?;
            let page = (&mut *self.object).take(header.stored as u64);
            let passed = self.gate.pass(header.stored as u64, 0);
            passed.map_err(|cancelled| Why::Stop(cancelled.into()))?;
            match stated.codec {
                meta::UNCOMPRESSED => all.page(column, &header, page)?,
                meta::ZSTD => {
                    let mut page = Inflated {
                        frames: LooseFrames::new(page),
                        decoder: &mut self.decoder,
                        at: 0,
                        len: 0,
                    };
                    all.page(column, &header, &mut page)?;
                }
                other => return Err(format!("it is compressed in way {other}").into()),
            }
            all.raw_bytes += header.bytes as u64 + header.raw as u64;
            at = end;
        }
        match all.raw_bytes == stated.raw_bytes as u64 {
            true => Ok(all),
            false => Err(format!(
                "column {column:?} has {} bytes, and the footer says {}",
                all.raw_bytes, stated.raw_bytes
            )
            .into()),
        }
    }
}

/// How its stream numbers, by the type of the first column.
fn numbering(stated: &[Stated]) -> Result<Numbering, String> {
    match stated.first().map(|stated| stated.physical as i32) {
        Some(meta::INT64) => Ok(Numbering::Sequence),
        Some(meta::BYTE_ARRAY) => Ok(Numbering::TimeAndNumber),
        _ => Err("it has no column of positions".to_owned()),
    }
}

/// What was read of a column.
#[derive(Default)]
struct Tally {
    rows: u64,
    values: u64,
    raw_bytes: u64,
    /// The first and the last position.
    positions: Option<(Place, Place)>,
}

impl Tally {
    /// Reads a page to its end.
    fn page(&mut self, column: Column, header: &PageHeader, page: impl Read) -> Result<(), Why> {
        let mut page = Counted {
            input: page,
            left: header.raw as u64,
        };
        match (header.kind, header.encoding) {
            (meta::DICTIONARY_PAGE, meta::PLAIN) => {
                self.values(column, header.values as u64, &mut page)?
            }
            (meta::DATA_PAGE, meta::RLE_DICTIONARY) => {
                // One bit each; all of them are the first.
                let mut width = [0];
                page.read_exact(&mut width)?;
                let left = page.left;
                let zeros = runs(&mut page, left, 0)?;
                if (width, zeros) != ([1], (header.values as u64, header.values as u64)) {
                    return Err(format!("column {column:?} has other values than one").into());
                }
                self.rows += zeros.0;
                self.values += zeros.0;
            }
            (meta::DATA_PAGE, meta::PLAIN) => {
                let (repetition, definition) = column.nesting().levels();
                let mut rows = header.values as u64;
                if repetition > 0 {
                    rows = levels(&mut page, header.values as u64, 0)?;
                }
                let mut there = header.values as u64;
                if definition > 0 {
                    there = levels(&mut page, header.values as u64, definition)?;
                }
                self.values(column, there, &mut page)?;
                self.rows += rows;
                self.values += header.values as u64;
            }
            (kind, encoding) => {
                return Err(format!(
                    "column {column:?} has a page of kind {kind}, encoding {encoding}"
                )
                .into());
            }
        }
        // That nothing is left in what is compressed, either.
        let mut rest = [0];
        match (page.left, page.input.read(&mut rest)?) {
            (0, 0) => Ok(()),
            _ => Err(format!("a page of column {column:?} has more than its values").into()),
        }
    }

    /// Reads so many values.
    fn values(
        &mut self,
        column: Column,
        values: u64,
        page: &mut Counted<impl Read>,
    ) -> Result<(), Why> {
        for _ in 0..values {
            match column.kind() {
                Kind::Signed | Kind::Microseconds => {
                    let mut number = [0; 8];
                    page.read_exact(&mut number)?;
                    if column == Column::Position {
                        self.position(Place::sequence(i64::from_le_bytes(number) as u64));
                    }
                }
                Kind::Text | Kind::Bytes => {
                    let mut len = [0; 4];
                    page.read_exact(&mut len)?;
                    let len = u64::from(u32::from_le_bytes(len));
                    if column == Column::PositionText {
                        self.position(position_text(page, len)?);
                    } else {
                        page.skip(len)?;
                    }
                }
                kind => unreachable!("events have no column of {kind:?}"),
            }
        }
        Ok(())
    }

    fn position(&mut self, place: Place) {
        let first = self.positions.map_or(place, |(first, _)| first);
        self.positions = Some((first, place));
    }
}

fn position_text(page: &mut impl Read, len: u64) -> Result<Place, Why> {
    if len > POSITION_BYTES_MAX as u64 {
        return Err(format!("a position has {len} bytes").into());
    }
    let mut text = vec![0; len as usize];
    page.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.parse::<Place>()?)
}

/// Levels of `values` values; how many of them are `counted`.
fn levels(page: &mut Counted<impl Read>, values: u64, counted: u8) -> Result<u64, Why> {
    let mut len = [0; 4];
    page.read_exact(&mut len)?;
    let (all, count) = runs(page, u32::from_le_bytes(len).into(), counted)?;
    match all == values {
        true => Ok(count),
        false => Err(format!("a page of {values} values has levels of {all}").into()),
    }
}

/// Runs in the next `bytes`: how many numbers, and how many of those are `counted`.
fn runs(page: &mut Counted<impl Read>, bytes: u64, counted: u8) -> Result<(u64, u64), Why> {
    let end = page
        .left
        .checked_sub(bytes)
        .ok_or("its levels are longer than their page")?;
    let (mut all, mut count) = (0_u64, 0_u64);
    while page.left > end {
        let mut length = 0_u64;
        let mut byte = [0x80];
        for shift in (0..63).step_by(7) {
            page.read_exact(&mut byte)?;
            length |= u64::from(byte[0] & 0x7F) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        if byte[0] >= 0x80 || length & 1 != 0 {
            return Err("its levels are no runs".into());
        }
        page.read_exact(&mut byte)?;
        all = all.saturating_add(length >> 1);
        if byte[0] == counted {
            count = count.saturating_add(length >> 1);
        }
    }
    match page.left == end {
        true => Ok((all, count)),
        false => Err("a run of its levels goes on behind them".into()),
    }
}

/// A page of which so many bytes are still to be read.
struct Counted<R> {
    input: R,
    left: u64,
}

impl<R: Read> Counted<R> {
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        self.left = (self.left.checked_sub(out.len() as u64))
            .ok_or_else(|| io::Error::other("a page has fewer bytes than its values"))?;
        self.input.read_exact(out)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.left = (self.left.checked_sub(bytes))
            .ok_or_else(|| io::Error::other("a page has fewer bytes than its values"))?;
        match io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(out.len());
        let read = self.input.read(&mut out[..n])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// What zstd frames hold, one after the other.
struct Inflated<'d, R> {
    frames: LooseFrames<R>,
    decoder: &'d mut Decoder,
    at: usize,
    len: usize,
}

impl<R: Read> Read for Inflated<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.len {
            let frame = self
                .frames
                .next_frame(self.decoder)
                .map_err(io::Error::other)?;
            let Some(frame) = frame else { return Ok(0) };
            (self.at, self.len) = (0, frame.raw.len());
        }
        let n = out.len().min(self.len - self.at);
        out[..n].copy_from_slice(&self.decoder.decoded()[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

struct PageHeader {
    /// Of the header itself.
    bytes: usize,
    kind: i32,
    raw: u32,
    stored: u32,
    values: u32,
    encoding: i32,
}

impl PageHeader {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut input = thrift::Reader::new(bytes);
        let mut numbers = [None; 6];
        let mut last = 0;
        while let Some(field) = input.field(&mut last)? {
            match field {
                (number @ 1..=3, _) => numbers[number as usize - 1] = Some(input.number(field)?),
                (5 | 7, thrift::STRUCT) => {
                    let mut last = 0;
                    while let Some(field) = input.field(&mut last)? {
                        match field.0 {
                            number @ 1..=2 => {
                                numbers[number as usize + 2] = Some(input.number(field)?);
                            }
                            _ => input.skip(field)?,
                        }
                    }
                }
                _ => input.skip(field)?,
            }
        }
        let number = |at: usize| numbers[at].ok_or("a page says too little of itself");
        let size = |at: usize| {
            let size = i32::try_from(number(at)?).ok().filter(|size| *size >= 0);
            size.map(|size| size as u32)
                .ok_or("a page has an impossible size")
        };
        Ok(Self {
            bytes: input.read(),
            kind: number(0)? as i32,
            raw: size(1)?,
            stored: size(2)?,
            values: size(3)?,
            encoding: number(4)? as i32,
        })
    }
}

/// Rows, and what is said of each column.
fn parse_footer(footer: &[u8]) -> Result<(i64, Vec<Stated>), String> {
    let mut input = thrift::Reader::new(footer);
    let (mut rows, mut columns) = (None, Vec::new());
    let mut last = 0;
    while let Some(field) = input.field(&mut last)? {
        match field.0 {
            3 => rows = Some(input.number(field)?),
            4 => {
                let (kind, groups) = input.list(field)?;
                if (kind, groups) != (thrift::STRUCT, 1) {
                    return Err(format!("it has {groups} row groups"));
                }
                columns = row_group(&mut input)?;
            }
            _ => input.skip(field)?,
        }
    }
    let rows = rows
        .filter(|rows| *rows > 0)
        .ok_or("it says no number of rows")?;
    Ok((rows, columns))
}

fn row_group(input: &mut thrift::Reader<'_>) -> Result<Vec<Stated>, String> {
    let mut columns = Vec::new();
    let mut last = 0;
    while let Some(field) = input.field(&mut last)? {
        match field.0 {
            1 => {
                let (kind, len) = input.list(field)?;
                if (kind, len) != (thrift::STRUCT, 11) {
                    return Err(format!("it has {len} columns"));
                }
                for _ in 0..len {
                    columns.push(column_chunk(input)?);
                }
            }
            _ => input.skip(field)?,
        }
    }
    Ok(columns)
}

fn column_chunk(input: &mut thrift::Reader<'_>) -> Result<Stated, String> {
    let mut stated = Stated::default();
    let mut last = 0;
    while let Some(field) = input.field(&mut last)? {
        match field {
            (3, thrift::STRUCT) => {
                let mut last = 0;
                while let Some(field) = input.field(&mut last)? {
                    stated.field(input, field)?;
                }
            }
            _ => input.skip(field)?,
        }
    }
    let numbers = [
        stated.values,
        stated.raw_bytes,
        stated.stored_bytes,
        stated.data_offset,
    ];
    match numbers.iter().all(|number| (0..1 << 48).contains(number)) {
        true => Ok(stated),
        false => Err("its footer has an impossible number".to_owned()),
    }
}

impl Stated {
    fn field(&mut self, input: &mut thrift::Reader<'_>, field: Field) -> Result<(), String> {
        let number = match field.0 {
            1 => &mut self.physical,
            4 => &mut self.codec,
            5 => &mut self.values,
            6 => &mut self.raw_bytes,
            7 => &mut self.stored_bytes,
            9 => &mut self.data_offset,
            11 => self.dictionary_offset.insert(0),
            _ => return input.skip(field),
        };
        *number = input.number(field)?;
        Ok(())
    }
}
