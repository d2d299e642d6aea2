//! Data frames: the zstd frames that hold the raw bytes.
//!
//! Every data frame, whatever encoded it (stable):
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | 0xFD2FB528 |
//! | 4 | 1 | descriptor | `ss100100`: single segment, content checksum, no dictionary; `ss` says how long the next field is |
//! | 5 | 1, 2, 4 or 8 | content size | raw length; the two-byte form is less 256 |
//! | | | blocks | as in RFC 8878, section 3.1.1.2 |
//! | end - 4 | 4 | checksum | low 32 bits of XXH64 (seed 0) of the raw bytes |
//!
//! A frame of [`Codec::None`](crate::Codec::None), byte for byte (stable):
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | magic | 0xFD2FB528 |
//! | 4 | 1 | descriptor | 0xA4: content size of 4 bytes, single segment, content checksum |
//! | 5 | 4 | content size | raw length |
//! | 9 | 3 | block header | bit 0: last block; bits 1-2: 0, raw; bits 3-23: length of the block |
//! | 12 | ≤ 131,072 | block | the next raw bytes; all blocks but the last are full |
//! | … | | | more block headers and blocks |
//! | end - 4 | 4 | checksum | low 32 bits of XXH64 (seed 0) of the raw bytes |

use xxhash_rust::xxh64::xxh64;

use crate::{Damage, FRAME_BYTES_MAX};

/// The longest stored frame, in bytes: zstd's own bound for [`FRAME_BYTES_MAX`] raw bytes.
pub(crate) const STORED_BYTES_MAX: usize = FRAME_BYTES_MAX + (FRAME_BYTES_MAX >> 8);
/// The shortest stored frame, in bytes: header, one block with one byte, checksum.
pub(crate) const STORED_BYTES_MIN: usize = 6 + BLOCK_HEADER_BYTES + 1 + CHECKSUM_BYTES;

/// The longest block that zstd allows.
pub(crate) const BLOCK_BYTES_MAX: usize = 128 << 10;
pub(crate) const BLOCK_HEADER_BYTES: usize = 3;
/// What a frame of raw blocks has besides its blocks.
pub(crate) const RAW_FRAME_BYTES: usize = RAW_HEADER_BYTES + CHECKSUM_BYTES;

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
const CHECKSUM_BYTES: usize = 4;
const RAW_HEADER_BYTES: usize = 9;
const RAW_DESCRIPTOR: u8 = 0b1010_0100;
const BLOCKS_MAX: usize = FRAME_BYTES_MAX / BLOCK_BYTES_MAX;
/// Header, every block with its own header, checksum.
const _: () = assert!(BLOCKS_MAX * BLOCK_BYTES_MAX == FRAME_BYTES_MAX);

/// The low 32 bits of XXH64: zstd's content checksum, and the seek table's.
pub(crate) fn checksum_of(raw: &[u8]) -> u32 {
    checksum(xxh64(raw, 0))
}

/// The same of an XXH64 that was taken piece by piece.
pub(crate) fn checksum(hash: u64) -> u32 {
    hash as u32
}

/// How long `raw_len` bytes are as a frame of raw blocks.
pub(crate) fn raw_blocks_bytes(raw_len: usize) -> usize {
    RAW_FRAME_BYTES + raw_len.div_ceil(BLOCK_BYTES_MAX) * BLOCK_HEADER_BYTES + raw_len
}

/// What stands before each block of a frame of raw blocks: before the first one the frame's header, too. The blocks
/// themselves stay where they are.
pub(crate) struct RawBlocks<'a> {
    raw: &'a [u8],
    header: [u8; RAW_HEADER_BYTES],
    block_headers: [[u8; BLOCK_HEADER_BYTES]; BLOCKS_MAX],
}

impl<'a> RawBlocks<'a> {
    /// Frames `raw`, 1 to [`FRAME_BYTES_MAX`] bytes.
    pub(crate) fn new(raw: &'a [u8]) -> RawBlocks<'a> {
        assert!(!raw.is_empty() && raw.len() <= FRAME_BYTES_MAX);
        let mut header = [0; RAW_HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = RAW_DESCRIPTOR;
        header[5..].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        let mut block_headers = [[0; BLOCK_HEADER_BYTES]; BLOCKS_MAX];
        let blocks = raw.chunks(BLOCK_BYTES_MAX);
        let last = blocks.len() - 1;
        for (number, (header, block)) in block_headers.iter_mut().zip(blocks).enumerate() {
            let value = (block.len() as u32) << 3 | u32::from(number == last);
            header.copy_from_slice(&value.to_le_bytes()[..BLOCK_HEADER_BYTES]);
        }
        RawBlocks {
            raw,
            header,
            block_headers,
        }
    }

    /// All blocks in order, each after what stands before it. The frame ends with its checksum after the last one.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = ([&[u8]; 2], &'a [u8])> {
        let blocks = self.raw.chunks(BLOCK_BYTES_MAX);
        let headers = self.block_headers.iter().enumerate();
        headers.zip(blocks).map(|((number, header), block)| {
            let frame_header: &[u8] = if number == 0 { &self.header } else { &[] };
            ([frame_header, header], block)
        })
    }
}

/// The content checksum that a stored frame ends with. At least [`STORED_BYTES_MIN`] bytes.
pub(crate) fn stored_checksum(stored: &[u8]) -> u32 {
    let (_, checksum) = stored
        .split_last_chunk()
        .expect("a stored frame has its minimum length");
    u32::from_le_bytes(*checksum)
}

/// Checks that `stored` is one data frame, and no more than one, that declares `raw_len`.
/// What its blocks hold is for the decoder to say.
pub(crate) fn check_header(stored: &[u8], raw_len: u32) -> Result<(), Damage> {
    let after_magic = stored
        .strip_prefix(&MAGIC)
        .ok_or(Damage::Constant("magic number of a zstd frame"))?;
    let (&descriptor, after) = after_magic
        .split_first()
        .ok_or(Damage::CutOff("frame header"))?;
    if descriptor & 0b0011_1111 != 0b0010_0100 {
        return Err(Damage::Field {
            field: "frame descriptor",
            found: descriptor.into(),
        });
    }
    let content_size = match descriptor >> 6 {
        0 => after.first().map(|&byte| u64::from(byte)),
        1 => after
            .first_chunk()
            .map(|bytes| u64::from(u16::from_le_bytes(*bytes)) + 256),
        2 => after
            .first_chunk()
            .map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        _ => after.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
    };
    let content_size = content_size.ok_or(Damage::CutOff("frame header"))?;
    if content_size != u64::from(raw_len) {
        return Err(Damage::Mismatch {
            field: "content size",
            expected: raw_len.into(),
            found: content_size,
        });
    }
    let frame_len =
        zstd_safe::find_frame_compressed_size(stored).map_err(|code| Damage::Undecodable {
            reason: zstd_safe::get_error_name(code),
        })?;
    if frame_len != stored.len() {
        return Err(Damage::Mismatch {
            field: "stored length",
            expected: stored.len() as u64,
            found: frame_len as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(raw: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        for (headers, block) in RawBlocks::new(raw).blocks() {
            stored.extend(headers.concat());
            stored.extend(block);
        }
        stored.extend(checksum_of(raw).to_le_bytes());
        stored
    }

    #[test]
    fn zstd_decodes_raw_blocks_of_every_shape() {
        let raw: Vec<u8> = (0..FRAME_BYTES_MAX).map(|at| (at % 251) as u8).collect();
        for len in [
            1,
            2,
            255,
            256,
            257,
            BLOCK_BYTES_MAX - 1,
            BLOCK_BYTES_MAX,
            BLOCK_BYTES_MAX + 1,
        ]
        .into_iter()
        .chain((2..=BLOCKS_MAX).map(|blocks| blocks * BLOCK_BYTES_MAX))
        {
            let raw = &raw[..len];
            let stored = stored(raw);
            assert_eq!(stored.len(), raw_blocks_bytes(len));
            assert_eq!(check_header(&stored, len as u32), Ok(()));
            assert_eq!(stored_checksum(&stored), checksum_of(raw));
            let mut decoded = vec![0; len];
            assert_eq!(zstd_safe::decompress(&mut decoded[..], &stored), Ok(len));
            assert!(decoded == raw);
        }
    }

    #[test]
    fn every_form_of_content_size() {
        for (len, form) in [(1, 0), (255, 0), (256, 1), (65_791, 1), (65_792, 2)] {
            let raw = vec![7; len];
            let mut context = zstd_safe::CCtx::create();
            context
                .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
                .unwrap();
            let mut stored = Vec::with_capacity(1 << 10);
            context.compress2(&mut stored, &raw).unwrap();
            assert_eq!(stored[4] >> 6, form);
            assert_eq!(check_header(&stored, len as u32), Ok(()));
            assert!(check_header(&stored, len as u32 + 1).is_err());
        }
    }

    #[test]
    fn what_is_not_exactly_one_data_frame_is_refused() {
        let one = stored(b"some bytes");
        assert_eq!(check_header(&one, 10), Ok(()));
        let two = [one.clone(), one.clone()].concat();
        assert!(matches!(
            check_header(&two, 10),
            Err(Damage::Mismatch {
                field: "stored length",
                ..
            })
        ));
        for cut in 0..one.len() {
            assert!(check_header(&one[..cut], 10).is_err(), "{cut}");
        }
        for (bit, name) in [
            (0, "dictionary"),
            (2, "checksum"),
            (3, "reserved"),
            (5, "single segment"),
        ] {
            let mut other = one.clone();
            other[4] ^= 1 << bit;
            assert!(
                matches!(check_header(&other, 10), Err(Damage::Field { .. })),
                "{name}"
            );
        }
        let skippable = [0x57, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 1, 1];
        assert!(matches!(
            check_header(&skippable, 2),
            Err(Damage::Constant(_))
        ));
    }
}
