//! The seek table: the last frame of a chunk, as zstd's seekable format 0.1.0 defines it
//! (<https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md>),
//! so that other readers of that format find every frame.
//!
//! With N frames before it, the index frame being the last of them (stable):
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | 0x184D2A5E, a skippable frame |
//! | 4 | 4 | frame size | 12 × N + 9: what follows |
//! | 8 | 12 × N | entries | one for each frame before this one, in order |
//! | 8 + 12 × N | 4 | frame count | N |
//! | 12 + 12 × N | 1 | descriptor | 0x80: the entries have checksums |
//! | 13 + 12 × N | 4 | magic | 0x8F92EAB1 |
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | stored length | of the frame, headers included |
//! | 4 | 4 | raw length | 0 for the index frame |
//! | 8 | 4 | checksum | low 32 bits of XXH64 (seed 0) of the raw bytes |

use crate::index::FrameEntry;
use crate::{Damage, frame};

/// Length of an entry, in bytes.
pub(crate) const ENTRY_BYTES: u64 = 12;
/// Length of the seek table's end that says how long the seek table and the index frame are.
pub(crate) const FOOT_BYTES: usize = ENTRY_BYTES as usize + FOOTER_BYTES;

const HEADER_BYTES: usize = 8;
const FOOTER_BYTES: usize = 9;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const DESCRIPTOR: u8 = 0x80;

/// How long the seek table of a chunk of `frames` data frames is.
pub(crate) const fn bytes(frames: u64) -> u64 {
    (HEADER_BYTES + FOOTER_BYTES) as u64 + (frames + 1) * ENTRY_BYTES
}

/// Begins a seek table in `table`.
pub(crate) fn begin(table: &mut Vec<u8>) {
    table.clear();
    table.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]); // the frame size: known at the end
}

/// Appends the entry of a frame.
pub(crate) fn push(table: &mut Vec<u8>, stored_len: u32, raw_len: u32, checksum: u32) {
    for field in [stored_len, raw_len, checksum] {
        table.extend_from_slice(&field.to_le_bytes());
    }
}

/// Appends the entry of the index frame, and ends the seek table of `frames` data frames.
pub(crate) fn finish(table: &mut Vec<u8>, index_bytes: u32, frames: u32) {
    push(table, index_bytes, 0, frame::checksum_of(&[]));
    table.extend_from_slice(&(frames + 1).to_le_bytes());
    table.push(DESCRIPTOR);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    let frame_size = (table.len() - HEADER_BYTES) as u32;
    table[4..HEADER_BYTES].copy_from_slice(&frame_size.to_le_bytes());
}

/// What the end of a seek table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foot {
    /// Length of the whole seek table, in bytes.
    pub(crate) table_bytes: u64,
    /// Length of the index frame, in bytes.
    pub(crate) index_bytes: u64,
}

impl Foot {
    /// Reads the last bytes of a file. Nothing that they say is believed yet.
    pub(crate) fn decode(foot: &[u8; FOOT_BYTES]) -> Result<Foot, Damage> {
        if field(foot, FOOT_BYTES - 4) != SEEKABLE_MAGIC {
            return Err(Damage::NoSeekTable);
        }
        let descriptor = foot[FOOT_BYTES - 5];
        if descriptor != DESCRIPTOR {
            return Err(Damage::Field {
                field: "seek table descriptor",
                found: descriptor.into(),
            });
        }
        let frames = field(foot, FOOT_BYTES - 9);
        if frames == 0 {
            return Err(Damage::Field {
                field: "frame count of the seek table",
                found: 0,
            });
        }
        Ok(Foot {
            table_bytes: bytes(u64::from(frames) - 1),
            index_bytes: field(foot, 0).into(),
        })
    }
}

/// Holds the seek table against the frames of the index, and adds its checksums to them.
/// `table` is as long as its foot says.
pub(crate) fn check(
    table: &[u8],
    index_bytes: u64,
    frames: &mut [FrameEntry],
) -> Result<(), Damage> {
    let entries = (table.len() - HEADER_BYTES - FOOTER_BYTES) / ENTRY_BYTES as usize;
    if field(table, 0) != SKIPPABLE_MAGIC {
        return Err(Damage::Constant("magic number of the seek table"));
    }
    expect(
        "frame size of the seek table",
        table.len() as u64 - HEADER_BYTES as u64,
        field(table, 4),
    )?;
    expect(
        "frame count of the seek table",
        frames.len() as u64 + 1,
        entries as u32,
    )?;
    let mut entry_at = HEADER_BYTES;
    for frame in frames {
        expect(
            "stored length in the seek table",
            frame.stored_len.into(),
            field(table, entry_at),
        )?;
        expect(
            "raw length in the seek table",
            frame.raw_len.into(),
            field(table, entry_at + 4),
        )?;
        frame.checksum = field(table, entry_at + 8);
        entry_at += ENTRY_BYTES as usize;
    }
    expect(
        "index length in the seek table",
        index_bytes,
        field(table, entry_at),
    )?;
    expect(
        "raw length of the index in the seek table",
        0,
        field(table, entry_at + 4),
    )?;
    expect(
        "checksum of the index in the seek table",
        frame::checksum_of(&[]).into(),
        field(table, entry_at + 8),
    )
}

fn expect(field: &'static str, expected: u64, found: u32) -> Result<(), Damage> {
    let found = u64::from(found);
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

/// The number at `at`, which the caller knows to be inside.
fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_data_frames_byte_for_byte() {
        let mut table = Vec::new();
        begin(&mut table);
        finish(&mut table, 0x0102, 0);
        let expected = [
            0x5E, 0x2A, 0x4D, 0x18, 21, 0, 0, 0, // skippable frame
            2, 1, 0, 0, 0, 0, 0, 0, 0x99, 0xE9, 0xD8, 0x51, // the index frame
            1, 0, 0, 0, 0x80, 0xB1, 0xEA, 0x92, 0x8F, // footer
        ];
        assert_eq!(table, expected);
        assert_eq!(table.len() as u64, bytes(0));
        let foot = Foot::decode(table.last_chunk().unwrap()).unwrap();
        assert_eq!(
            foot,
            Foot {
                table_bytes: bytes(0),
                index_bytes: 0x0102
            }
        );
        assert_eq!(check(&table, 0x0102, &mut []), Ok(()));
        for bit in 0..table.len() * 8 {
            table[bit / 8] ^= 1 << (bit % 8);
            let foot = Foot::decode(table.last_chunk().unwrap());
            let refused = match foot {
                Ok(foot) if foot.table_bytes == bytes(0) => check(&table, 0x0102, &mut []).is_err(),
                _ => true,
            };
            assert!(refused, "bit {bit}");
            table[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
