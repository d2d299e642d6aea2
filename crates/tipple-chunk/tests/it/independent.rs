//! A reader written from FORMAT.md alone: it shares no code with the crate, so that the document
//! and the crate can only agree if both are right. And the reference reader of seek tables, which
//! is the one in zstd's own sources.

use tipple_chunk::Codec;
use xxhash_rust::xxh64::xxh64;

use crate::support::*;

/// What FORMAT.md says that a chunk says.
#[derive(Debug, PartialEq)]
struct Parsed {
    content: String,
    content_version: u16,
    flags: u16,
    records: u64,
    last_position: Vec<u8>,
    frames: Vec<TestFrame>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// FORMAT.md, "Frames of raw blocks".
fn decode_raw_blocks(stored: &[u8]) -> Vec<u8> {
    assert_eq!(u32_at(stored, 0), 0xFD2F_B528);
    assert_eq!(stored[4], 0xA4);
    let mut raw = Vec::new();
    let mut at = 9;
    loop {
        let header = u32::from_le_bytes([stored[at], stored[at + 1], stored[at + 2], 0]);
        let len = (header >> 3) as usize;
        assert_eq!(header >> 1 & 3, 0, "a raw block");
        raw.extend_from_slice(&stored[at + 3..at + 3 + len]);
        at += 3 + len;
        if header & 1 == 1 {
            break;
        }
        assert_eq!(len, 131_072, "all blocks but the last are full");
    }
    assert_eq!(u32_at(stored, at), xxh64(&raw, 0) as u32);
    assert_eq!(at + 4, stored.len());
    assert_eq!(raw.len(), u32_at(stored, 5) as usize);
    raw
}

/// FORMAT.md, from "The file" to "The seek table".
fn parse(file: &[u8], codec: Codec) -> Parsed {
    let end = file.len();
    assert_eq!(u32_at(file, end - 4), 0x8F92_EAB1);
    assert_eq!(file[end - 5], 0x80);
    let entries = u32_at(file, end - 9) as usize;
    let table_at = end - 17 - 12 * entries;
    assert_eq!(u32_at(file, table_at), 0x184D_2A5E);
    assert_eq!(u32_at(file, table_at + 4) as usize, 12 * entries + 9);
    let index_bytes = u32_at(file, end - 21) as usize;
    assert_eq!(u32_at(file, end - 17), 0);
    assert_eq!(u32_at(file, end - 13), xxh64(b"", 0) as u32);
    let index_at = table_at - index_bytes;

    let index = &file[index_at..table_at];
    assert_eq!(u32_at(index, 0), 0x184D_2A57);
    assert_eq!(u32_at(index, 4) as usize, index_bytes - 8);
    assert_eq!(&index[8..16], b"TPLCHUNK");
    assert_eq!(
        u64_at(index, index_bytes - 8),
        xxh64(&index[..index_bytes - 8], 0)
    );
    assert_eq!((index[16], index[17]), (1, 0));
    let header_bytes = usize::from(u16_at(index, 18));
    let entry_bytes = usize::from(u16_at(index, 20));
    let flags = u16_at(index, 22);
    let frame_count = u32_at(index, 24) as usize;
    assert_eq!(frame_count + 1, entries);
    assert_eq!(u64_at(index, 48) as usize, index_at);
    let content = String::from_utf8(index[64..64 + usize::from(index[58])].to_vec()).unwrap();

    let mut frames = Vec::new();
    let (mut offset, mut at) = (0, header_bytes);
    for number in 0..frame_count {
        let table_entry_at = table_at + 8 + 12 * number;
        let stored = &file[offset..offset + u32_at(index, at) as usize];
        assert_eq!(stored.len(), u32_at(file, table_entry_at) as usize);
        offset += stored.len();
        assert_eq!(
            index[at + 16..at + 32],
            xxhash_rust::xxh3::xxh3_128(stored).to_be_bytes()
        );
        let raw_len = u32_at(index, at + 4) as usize;
        let raw = match codec {
            Codec::None => decode_raw_blocks(stored),
            Codec::Zstd { .. } => {
                let mut raw = vec![0; raw_len];
                assert_eq!(zstd_safe::decompress(&mut raw[..], stored), Ok(raw_len));
                raw
            }
        };
        assert_eq!(raw.len(), raw_len);
        assert_eq!(raw_len, u32_at(file, table_entry_at + 4) as usize);
        assert_eq!(xxh64(&raw, 0) as u32, u32_at(file, table_entry_at + 8));
        let first = u32_at(index, at + 12);
        let position_len = usize::from(index[at + 32]);
        frames.push(TestFrame {
            raw,
            records: u32_at(index, at + 8),
            first_record: (first != 0xFFFF_FFFF).then_some(first),
            position: index[at + entry_bytes..at + entry_bytes + position_len].to_vec(),
        });
        at += entry_bytes + position_len;
    }
    assert_eq!(offset, index_at);
    let last_position = index[at..at + usize::from(index[59])].to_vec();
    assert_eq!(at + last_position.len() + 8, index_bytes);
    assert_eq!(
        u64_at(index, 32),
        frames
            .iter()
            .map(|frame| frame.raw.len() as u64)
            .sum::<u64>()
    );
    Parsed {
        content,
        content_version: u16_at(index, 56),
        flags,
        records: u64_at(index, 40),
        last_position,
        frames,
    }
}

#[test]
fn a_reader_written_from_the_document_reads_every_chunk() {
    for chunk in chunks() {
        for codec in [
            Codec::None,
            Codec::Zstd { level: 1 },
            Codec::Zstd { level: 19 },
        ] {
            let (file, sealed) = chunk.write(codec);
            let expected = Parsed {
                content: "items".into(),
                content_version: 7,
                flags: u16::from(chunk.begins_inside_record)
                    | u16::from(chunk.ends_inside_record) << 1,
                records: sealed.records,
                last_position: chunk.last_position.clone(),
                frames: chunk.frames.clone(),
            };
            assert!(parse(&file, codec) == expected, "{codec}");
        }
    }
}

#[test]
fn every_fixture_is_what_the_document_says() {
    for (name, codec, chunk) in crate::fixtures::all() {
        let parsed = parse(&crate::fixtures::read(name), codec);
        assert_eq!(parsed.frames, chunk.frames, "{name}");
    }
}

#[test]
fn the_reference_reader_of_seek_tables_finds_every_byte() {
    for chunk in chunks() {
        for codec in [Codec::None, Codec::Zstd { level: 3 }] {
            let (file, _) = chunk.write(codec);
            let raw = chunk.raw();
            let mut reader = zstd_safe::seekable::Seekable::create();
            reader.init_buff(&file).unwrap();
            assert_eq!(
                reader.num_frames() as usize,
                chunk.frames.len() + 1,
                "the index is a frame"
            );
            let mut offset = 0;
            for (number, frame) in chunk.frames.iter().enumerate() {
                let number = number as u32;
                assert_eq!(reader.frame_decompressed_size(number), Ok(frame.raw.len()));
                assert_eq!(reader.frame_decompressed_offset(number).unwrap(), offset);
                offset += frame.raw.len() as u64;
                let mut decoded = vec![0; frame.raw.len()];
                assert_eq!(
                    reader.decompress_frame(&mut decoded[..], number),
                    Ok(frame.raw.len())
                );
                assert!(decoded == frame.raw);
            }
            assert_eq!(
                reader.frame_decompressed_size(chunk.frames.len() as u32),
                Ok(0)
            );
            // All of it, and a range that crosses frames.
            for (from, to) in [(0, raw.len()), (raw.len() / 3, raw.len() - raw.len() / 5)] {
                if from == to {
                    continue;
                }
                let mut decoded = vec![0; to - from];
                assert_eq!(
                    reader.decompress(&mut decoded[..], from as u64),
                    Ok(to - from)
                );
                assert!(decoded == raw[from..to]);
            }
        }
    }
}
