//! The index frame: what a chunk holds, and where. A skippable zstd frame, between the data frames
//! and the seek table.
//!
//! The frame (stable; the meaning of each field is in FORMAT.md):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, 0x184D2A57 |
//! | 4 | 4 | frame size: length of the index frame - 8 |
//! | 8 | 8 | tag, `TPLCHUNK` |
//! | 16 | 1 | format major version, 1 |
//! | 17 | 1 | format minor version, 0 |
//! | 18 | 2 | header length H, 96 |
//! | 20 | 2 | fixed entry length E, 33 |
//! | 22 | 2 | flags: bit 0 begins inside a record, bit 1 ends inside a record |
//! | 24 | 4 | data frames |
//! | 28 | 4 | 0 |
//! | 32 | 8 | raw bytes |
//! | 40 | 8 | records |
//! | 48 | 8 | stored bytes of the data frames, which is the offset of this frame |
//! | 56 | 2 | content version |
//! | 58 | 1 | length of the content name |
//! | 59 | 1 | length L of the last position |
//! | 60 | 4 | 0 |
//! | 64 | 32 | content name, then zeros |
//! | H | | entries |
//! | | L | last position |
//! | end - 8 | 8 | XXH64 (seed 0) of all bytes of this frame before this field |
//!
//! An entry (stable):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | stored length |
//! | 4 | 4 | raw length |
//! | 8 | 4 | records that begin in the frame |
//! | 12 | 4 | offset of the first of them in the raw frame; 0xFFFFFFFF: none |
//! | 16 | 16 | frame digest |
//! | 32 | 1 | length P of the position |
//! | E | P | position |

use xxhash_rust::xxh64::xxh64;

use crate::writer::FrameMark;
use crate::{ChunkError, FrameDigest, Place};
use crate::{Content, ContentName, Damage, FORMAT_MAJOR, FORMAT_MINOR, FRAME_BYTES_MAX, frame};

/// The longest index frame that a reader accepts, in bytes: 254,197 frames without positions.
/// Opening a chunk allocates at most this, a seek table of at most 3 MiB, and at most 40 MiB for
/// their decoded form; for a chunk of 64 full frames it is about 20 KiB in all. It is more than
/// [`INDEX_BYTES_WRITTEN_MAX`] so that writers can become more generous within a major version.
pub const INDEX_BYTES_MAX: u64 = 8 << 20;

/// The longest index frame that is written, in bytes: it is allocated with every encoder. Enough
/// for 31,764 frames without positions (3,639 with the longest ones), where a chunk of 64 MiB has
/// 64 full frames.
pub const INDEX_BYTES_WRITTEN_MAX: u64 = 1 << 20;
const _: () = assert!(INDEX_BYTES_WRITTEN_MAX <= INDEX_BYTES_MAX);

/// The most data frames of a chunk that is written.
pub(crate) const FRAMES_WRITTEN_MAX: u64 = (INDEX_BYTES_WRITTEN_MAX - FIXED_BYTES) / ENTRY_BYTES;
/// The most data frames of a chunk that is read.
pub(crate) const FRAMES_MAX: u64 = (INDEX_BYTES_MAX - FIXED_BYTES) / ENTRY_BYTES;

/// The longest position, in bytes.
pub const POSITION_BYTES_MAX: usize = u8::MAX as usize;

/// An index frame without entries and positions.
pub(crate) const FIXED_BYTES: u64 = (HEADER_BYTES + CHECKSUM_BYTES) as u64;
const ENTRY_BYTES: u64 = 33;
pub(crate) const ENTRY_BYTES_MAX: u64 = ENTRY_BYTES + POSITION_BYTES_MAX as u64;
/// How far one must read to know the version.
pub(crate) const VERSION_BYTES: usize = 18;

const HEADER_BYTES: usize = 96;
const CHECKSUM_BYTES: usize = 8;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A57;
const TAG: [u8; 8] = *b"TPLCHUNK";
const NO_RECORD: u32 = u32::MAX;
const BEGINS_INSIDE_RECORD: u16 = 1;
const ENDS_INSIDE_RECORD: u16 = 2;

/// What the index of a chunk says. Every number in it was checked against the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIndex {
    /// Major and minor version of the chunk's format.
    pub format: (u8, u8),
    /// What the records are.
    pub content: Content,
    /// The chunk begins inside a record that began in the previous chunk of the part.
    pub begins_inside_record: bool,
    /// The chunk ends inside a record that goes on in the next chunk of the part.
    pub ends_inside_record: bool,
    /// The data frames, in order.
    pub frames: Vec<FrameEntry>,
    /// Raw bytes of all frames.
    pub raw_bytes: u64,
    /// Records that begin in this chunk.
    pub records: u64,
    /// Stored bytes of all data frames: the offset of the index frame.
    pub data_bytes: u64,
    /// The position of the last record; empty if the content has none.
    pub last_position: Box<[u8]>,
}

/// What the index says about one data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// The frame's number, from 0.
    pub number: u32,
    /// Where the stored frame begins, in bytes from the beginning of the chunk.
    pub offset: u64,
    /// Where its raw bytes begin among the raw bytes of the chunk.
    pub raw_offset: u64,
    /// Length of the stored frame, in bytes.
    pub stored_len: u32,
    /// Length of the raw bytes: 1 to [`FRAME_BYTES_MAX`].
    pub raw_len: u32,
    /// Records that begin in this frame.
    pub records: u32,
    /// Where the first of them begins in the raw bytes; `None` if `records` is 0.
    pub first_record: Option<u32>,
    /// The digest of the stored frame.
    pub digest: FrameDigest,
    /// Low 32 bits of the XXH64 of the raw bytes, from the seek table.
    pub checksum: u32,
    /// The position of the first record; empty if the content has none.
    pub position: Box<[u8]>,
}

impl FrameEntry {
    /// The frame as a place, for errors.
    pub fn place(&self) -> Place {
        Place::Frame {
            number: self.number,
            offset: self.offset,
        }
    }
}

/// Begins an index frame in `index`. Its header is filled in by [`finish`].
pub(crate) fn begin(index: &mut Vec<u8>) {
    index.clear();
    index.resize(HEADER_BYTES, 0);
}

/// How long the index frame becomes if an entry with a position of `position_len` bytes is added
/// to `index` and the last position is as long as can be.
pub(crate) fn bytes_with(index: &[u8], position_len: usize) -> u64 {
    (index.len() + position_len + POSITION_BYTES_MAX + CHECKSUM_BYTES) as u64 + ENTRY_BYTES
}

/// Appends the entry of a frame.
pub(crate) fn push(
    index: &mut Vec<u8>,
    stored_len: u32,
    raw_len: u32,
    mark: &FrameMark<'_>,
    digest: FrameDigest,
) {
    let first_record = mark.first_record.unwrap_or(NO_RECORD);
    for field in [stored_len, raw_len, mark.records, first_record] {
        index.extend_from_slice(&field.to_le_bytes());
    }
    index.extend_from_slice(&digest.0);
    index.push(mark.position.len() as u8);
    index.extend_from_slice(mark.position);
}

/// What the header of an index says about the chunk as a whole.
pub(crate) struct Totals<'a> {
    pub(crate) content: Content,
    pub(crate) begins_inside_record: bool,
    pub(crate) ends_inside_record: bool,
    pub(crate) frames: u32,
    pub(crate) raw_bytes: u64,
    pub(crate) records: u64,
    pub(crate) data_bytes: u64,
    pub(crate) last_position: &'a [u8],
}

/// Fills in the header and ends the index frame.
pub(crate) fn finish(index: &mut Vec<u8>, totals: &Totals<'_>) {
    index.extend_from_slice(totals.last_position);
    let frame_size = (index.len() + CHECKSUM_BYTES - 8) as u32;
    let mut flags = 0;
    if totals.begins_inside_record {
        flags |= BEGINS_INSIDE_RECORD;
    }
    if totals.ends_inside_record {
        flags |= ENDS_INSIDE_RECORD;
    }
    let name = totals.content.name;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    header.extend_from_slice(&frame_size.to_le_bytes());
    header.extend_from_slice(&TAG);
    header.extend_from_slice(&[FORMAT_MAJOR, FORMAT_MINOR]);
    header.extend_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
    header.extend_from_slice(&(ENTRY_BYTES as u16).to_le_bytes());
    header.extend_from_slice(&flags.to_le_bytes());
    header.extend_from_slice(&totals.frames.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&totals.raw_bytes.to_le_bytes());
    header.extend_from_slice(&totals.records.to_le_bytes());
    header.extend_from_slice(&totals.data_bytes.to_le_bytes());
    header.extend_from_slice(&totals.content.version.to_le_bytes());
    header.extend_from_slice(&[name.as_str().len() as u8, totals.last_position.len() as u8]);
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(name.padded());
    index[..HEADER_BYTES].copy_from_slice(&header);
    let checksum = xxh64(index, 0);
    index.extend_from_slice(&checksum.to_le_bytes());
}

/// Says whether the beginning of an index frame is of a version that cannot be read.
/// For index frames that are refused for another reason, which a newer version may explain.
pub(crate) fn foreign_version(head: &[u8; VERSION_BYTES]) -> Option<ChunkError> {
    let ours = head[..4] == SKIPPABLE_MAGIC.to_le_bytes() && head[8..16] == TAG;
    let [major, minor] = [head[16], head[17]];
    (ours && major != FORMAT_MAJOR).then_some(ChunkError::FormatVersion { major, minor })
}

/// Decodes the index frame that begins at `offset` of the chunk. Allocates at most in proportion
/// to its length.
pub(crate) fn decode(index: &[u8], offset: u64) -> Result<ChunkIndex, ChunkError> {
    let damaged = ChunkError::damaged(Place::Index { offset });
    let (covered, checksum) = index
        .split_last_chunk()
        .ok_or_else(|| damaged(Damage::CutOff("index")))?;
    let mut fields = Fields {
        rest: covered,
        what: "header of the index",
    };
    let header = Header::decode(&mut fields, index.len(), &damaged)?;
    // After the version, in every version: an index that is whole is of the version that it says.
    if u64::from_le_bytes(*checksum) != xxh64(covered, 0) {
        return Err(damaged(Damage::Checksum("checksum of the index")));
    }
    if header.format.0 != FORMAT_MAJOR {
        let (major, minor) = header.format;
        return Err(ChunkError::FormatVersion { major, minor });
    }
    let header = header.rest(&mut fields, offset).map_err(&damaged)?;
    let frames = header.entries(&mut fields, offset)?;
    fields.what = "last position";
    let last_position = fields
        .take(header.last_position_len.into())
        .map_err(&damaged)?
        .into();
    if !header.is_newer && !fields.rest.is_empty() {
        let found = fields.rest.len() as u64;
        return Err(damaged(Damage::Mismatch {
            field: "bytes left over",
            expected: 0,
            found,
        }));
    }
    Ok(ChunkIndex {
        format: header.format,
        content: header.content,
        begins_inside_record: header.flags & BEGINS_INSIDE_RECORD != 0,
        ends_inside_record: header.flags & ENDS_INSIDE_RECORD != 0,
        frames,
        raw_bytes: header.raw_bytes,
        records: header.records,
        data_bytes: header.data_bytes,
        last_position,
    })
}

/// The fields that are the same in every version.
struct Header {
    format: (u8, u8),
}

/// The fields of this major version.
struct HeaderV1 {
    format: (u8, u8),
    is_newer: bool,
    entry_bytes: u16,
    flags: u16,
    frames: u32,
    raw_bytes: u64,
    records: u64,
    data_bytes: u64,
    content: Content,
    last_position_len: u8,
}

impl Header {
    fn decode(
        fields: &mut Fields<'_>,
        index_bytes: usize,
        damaged: impl Fn(Damage) -> ChunkError,
    ) -> Result<Header, ChunkError> {
        let mut read = || -> Result<Header, Damage> {
            if fields.u32()? != SKIPPABLE_MAGIC {
                return Err(Damage::Constant("magic number of the index"));
            }
            expect(
                "frame size of the index",
                index_bytes as u64 - 8,
                fields.u32()?.into(),
            )?;
            if fields.array()? != TAG {
                return Err(Damage::Constant("tag of the index"));
            }
            Ok(Header {
                format: (fields.u8()?, fields.u8()?),
            })
        };
        read().map_err(damaged)
    }

    fn rest(self, fields: &mut Fields<'_>, offset: u64) -> Result<HeaderV1, Damage> {
        let is_newer = self.format.1 > FORMAT_MINOR;
        // Newer minors may have longer headers and entries, other flags, and use what is reserved.
        let at_least = |field, least: u16, found: u16| {
            if found == least || is_newer && found > least {
                Ok(found)
            } else {
                Err(Damage::Mismatch {
                    field,
                    expected: least.into(),
                    found: found.into(),
                })
            }
        };
        let reserved = |found: u32| {
            let found = u64::from(found);
            if found == 0 || is_newer {
                Ok(())
            } else {
                Err(Damage::Field {
                    field: "reserved field of the index",
                    found,
                })
            }
        };
        let header_bytes = at_least(
            "header length of the index",
            HEADER_BYTES as u16,
            fields.u16()?,
        )?;
        let entry_bytes = at_least(
            "entry length of the index",
            ENTRY_BYTES as u16,
            fields.u16()?,
        )?;
        let flags = fields.u16()?;
        if !is_newer && flags & !(BEGINS_INSIDE_RECORD | ENDS_INSIDE_RECORD) != 0 {
            return Err(Damage::Field {
                field: "flags",
                found: flags.into(),
            });
        }
        let frames = fields.u32()?;
        reserved(fields.u32()?)?;
        let raw_bytes = fields.u64()?;
        let records = fields.u64()?;
        let data_bytes = fields.u64()?;
        expect("stored bytes of all frames", offset, data_bytes)?;
        let version = fields.u16()?;
        let name_len = fields.u8()?;
        let last_position_len = fields.u8()?;
        reserved(fields.u32()?)?;
        let name = ContentName::from_padded(&fields.array()?, name_len)
            .ok_or(Damage::Constant("name of the content"))?;
        fields.take(usize::from(header_bytes) - HEADER_BYTES)?;
        Ok(HeaderV1 {
            format: self.format,
            is_newer,
            entry_bytes,
            flags,
            frames,
            raw_bytes,
            records,
            data_bytes,
            content: Content { name, version },
            last_position_len,
        })
    }
}

impl HeaderV1 {
    fn entries(&self, fields: &mut Fields<'_>, offset: u64) -> Result<Vec<FrameEntry>, ChunkError> {
        let damaged = ChunkError::damaged(Place::Index { offset });
        fields.what = "list of frames";
        // Before anything is allocated: as many entries as stated must fit into the bytes there are.
        if u64::from(self.frames) * u64::from(self.entry_bytes) > fields.rest.len() as u64 {
            return Err(damaged(Damage::CutOff(fields.what)));
        }
        let mut frames = Vec::with_capacity(self.frames as usize);
        let (mut stored, mut raw, mut records) = (0, 0, 0);
        for number in 0..self.frames {
            let entry = self.entry(fields, number, stored, raw).map_err(&damaged)?;
            check_entry(&entry)?;
            // No overflow: fewer than 2^32 frames of lengths below 2^21.
            stored += u64::from(entry.stored_len);
            raw += u64::from(entry.raw_len);
            records += u64::from(entry.records);
            frames.push(entry);
        }
        for (field, expected, found) in [
            ("sum of stored lengths", self.data_bytes, stored),
            ("sum of raw lengths", self.raw_bytes, raw),
            ("sum of records", self.records, records),
        ] {
            expect(field, expected, found).map_err(&damaged)?;
        }
        Ok(frames)
    }

    fn entry(
        &self,
        fields: &mut Fields<'_>,
        number: u32,
        offset: u64,
        raw_offset: u64,
    ) -> Result<FrameEntry, Damage> {
        let [stored_len, raw_len, records, first_record] =
            [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        let digest = FrameDigest(fields.array()?);
        let position_len = fields.u8()?;
        fields.take(usize::from(self.entry_bytes) - ENTRY_BYTES as usize)?;
        let position = fields.take(position_len.into())?.into();
        Ok(FrameEntry {
            number,
            offset,
            raw_offset,
            stored_len,
            raw_len,
            records,
            first_record: (first_record != NO_RECORD).then_some(first_record),
            digest,
            checksum: 0, // the seek table knows it
            position,
        })
    }
}

/// Checks an entry by itself.
fn check_entry(entry: &FrameEntry) -> Result<(), ChunkError> {
    let place = entry.place();
    let sizes = [
        (
            "stored length",
            entry.stored_len,
            frame::STORED_BYTES_MIN,
            frame::STORED_BYTES_MAX,
        ),
        ("raw length", entry.raw_len, 1, FRAME_BYTES_MAX),
    ];
    for (quantity, len, least, limit) in sizes {
        let (value, limit) = (u64::from(len), limit as u64);
        if value > limit {
            return Err(ChunkError::TooLarge {
                place,
                quantity,
                value,
                limit,
            });
        }
        if value < least as u64 {
            return Err(ChunkError::damaged(place)(Damage::Field {
                field: quantity,
                found: value,
            }));
        }
    }
    if !mark_fits(entry.records, entry.first_record, entry.raw_len.into()) {
        let found = entry.records.into();
        return Err(ChunkError::damaged(place)(Damage::Field {
            field: "record count",
            found,
        }));
    }
    Ok(())
}

/// Whether `records` records can begin in a frame of `raw_len` bytes, the first at `first_record`.
/// Every record has at least one byte.
pub(crate) fn mark_fits(records: u32, first_record: Option<u32>, raw_len: u64) -> bool {
    match first_record {
        None => records == 0,
        Some(first) => records > 0 && u64::from(first) + u64::from(records) <= raw_len,
    }
}

fn expect(field: &'static str, expected: u64, found: u64) -> Result<(), Damage> {
    if found == expected {
        Ok(())
    } else {
        Err(Damage::Mismatch {
            field,
            expected,
            found,
        })
    }
}

/// Takes fields off the beginning of bytes, if they are there.
struct Fields<'a> {
    rest: &'a [u8],
    /// What is being read, for the error.
    what: &'static str,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Damage::CutOff(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Damage::CutOff(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Damage> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Damage> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.array().map(u64::from_le_bytes)
    }
}
