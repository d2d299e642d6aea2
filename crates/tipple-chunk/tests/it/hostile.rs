//! Files made to hurt: every one is refused, with an error of the right kind, and without
//! allocating what it asks for.

use tipple_chunk::{ChunkError, Codec, Damage, Decoder, ErrorKind, FRAME_BYTES_MAX};

use crate::memory::peak_of;
use crate::support::*;

/// What opening any small file may allocate.
const SMALL: usize = 24 << 10;

fn refused(file: &[u8]) -> ChunkError {
    let (opened, peak) = peak_of(|| open(file, None).map(drop));
    assert!(peak <= SMALL, "allocated {peak} bytes");
    opened.expect_err("refused")
}

fn parts() -> Parts {
    Parts::of(&TestChunk::small().write(Codec::None).0)
}

#[test]
fn frames_that_claim_to_be_huge() {
    for raw_len in [FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let mut parts = parts();
        parts.replace_frame(1, parts.frames[1].clone(), raw_len);
        let error = refused(&parts.join());
        assert!(
            matches!(
                error,
                ChunkError::TooLarge {
                    quantity: "raw length",
                    ..
                }
            ),
            "{error}"
        );
    }
    for stored_len in [FRAME_BYTES_MAX as u32 + 4097, u32::MAX] {
        let mut parts = parts();
        let at = parts.entry_at(0);
        put_u32(&mut parts.index, at, stored_len);
        parts.table[0][0] = stored_len;
        let error = refused(&parts.join());
        assert!(
            matches!(
                error,
                ChunkError::TooLarge {
                    quantity: "stored length",
                    ..
                }
            ),
            "{error}"
        );
    }
    for (at, len) in [(0, 13), (4, 0)] {
        let mut parts = parts();
        let entry_at = parts.entry_at(0);
        put_u32(&mut parts.index, entry_at + at, len);
        assert_eq!(refused(&parts.join()).kind(), ErrorKind::Damaged);
    }
}

#[test]
fn counts_that_claim_to_be_huge() {
    let file = parts().join();
    for count in [0, 1, 3, 5, 1000, 0x1000_0000, u32::MAX] {
        let mut in_table = file.clone();
        let at = in_table.len() - 9;
        put_u32(&mut in_table, at, count);
        assert_eq!(
            refused(&in_table).kind(),
            ErrorKind::Damaged,
            "{count} in the seek table"
        );

        if count == 3 {
            continue; // the truth
        }
        let mut parts = parts();
        put_u32(&mut parts.index, 24, count);
        assert_eq!(
            refused(&parts.join()).kind(),
            ErrorKind::Damaged,
            "{count} in the index"
        );
    }
    for total in [32, 40, 48] {
        for value in [0, u64::MAX] {
            let mut parts = parts();
            put_u64(&mut parts.index, total, value);
            assert_eq!(
                refused(&parts.join()).kind(),
                ErrorKind::Damaged,
                "{value} at {total}"
            );
        }
    }
}

#[test]
fn lengths_of_the_index_that_are_wrong() {
    let file = parts().join();
    let at = file.len() - 21;
    let real = u32_at(&file, at);
    for len in [0, 1, 103, real - 1, real + 1, file.len() as u32, u32::MAX] {
        let mut file = file.clone();
        put_u32(&mut file, at, len);
        let error = refused(&file);
        let field = "length of the index";
        let expected = Damage::Field {
            field,
            found: len.into(),
        };
        let is_impossible = len < 104 || len as usize > file.len();
        let is_expected = matches!(error, ChunkError::Damaged { damage, .. } if damage == expected);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{len}: {error}");
        assert_eq!(
            is_expected,
            is_impossible || len as usize == file.len(),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_gap_between_the_last_frame_and_the_index() {
    let mut parts = parts();
    parts.frames.push(vec![0; 20]);
    let data_bytes = parts.frames.concat().len() as u64;
    put_u64(&mut parts.index, 48, data_bytes);
    let expected = Damage::Mismatch {
        field: "sum of stored lengths",
        expected: data_bytes,
        found: data_bytes - 20,
    };
    let error = refused(&parts.join());
    assert!(
        matches!(error, ChunkError::Damaged { damage, .. } if damage == expected),
        "{error}"
    );
}

#[test]
fn a_frame_without_bytes() {
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
        .unwrap();
    let mut stored = Vec::with_capacity(1 << 10);
    context.compress2(&mut stored, b"").unwrap();
    for stored in [stored, vec![0; 14]] {
        let mut parts = parts();
        parts.replace_frame(1, stored, 0);
        let error = refused(&parts.join());
        assert!(
            matches!(
                error,
                ChunkError::Damaged {
                    damage: Damage::Field { .. },
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_frame_size_of_the_index_that_only_other_readers_would_believe() {
    let parts = parts();
    let mut file = parts.join();
    let begin = parts.frames.concat().len();
    let checksum_at = begin + parts.index.len();
    let size = u32_at(&file, begin + 4);
    put_u32(&mut file, begin + 4, size - 1);
    let checksum = xxhash_rust::xxh64::xxh64(&file[begin..checksum_at], 0);
    put_u64(&mut file, checksum_at, checksum);
    assert_eq!(refused(&file).kind(), ErrorKind::Damaged);
}

#[test]
fn an_index_beyond_the_limit_is_not_read() {
    let mut parts = parts();
    parts.index.resize((8 << 20) + 1, 0);
    let error = refused(&parts.join());
    assert!(
        matches!(
            error,
            ChunkError::TooLarge {
                quantity: "index length",
                ..
            }
        ),
        "{error}"
    );
    // Unless that is what a newer version looks like.
    parts.index[16] = 2;
    assert!(matches!(
        refused(&parts.join()),
        ChunkError::FormatVersion { major: 2, minor: 0 }
    ));

    let mut parts = self::parts();
    parts.table = vec![[1, 1, 1]; 300_000];
    let error = refused(&parts.join());
    assert!(
        matches!(
            error,
            ChunkError::TooLarge {
                quantity: "seek table length",
                ..
            }
        ),
        "{error}"
    );
    parts.index[16] = 2;
    assert!(matches!(
        refused(&parts.join()),
        ChunkError::FormatVersion { major: 2, minor: 0 }
    ));
}

#[test]
fn the_largest_index_costs_what_its_limit_says() {
    // 254,197 frames of one byte: as many as can be.
    let mut parts = parts();
    let stored = parts.frames[0].clone();
    let count = ((8 << 20) - 104) / 33;
    let mut entry = parts.index[96..129].to_vec();
    put_u32(&mut entry, 0, stored.len() as u32);
    entry[32] = 0;
    parts.frames = vec![stored.clone(); count];
    parts.index.truncate(96);
    parts.index[59] = 0;
    parts.index.extend(entry.repeat(count));
    let (raw_len, records) = (u32_at(&entry, 4), u32_at(&entry, 8));
    put_u32(&mut parts.index, 24, count as u32);
    put_u64(&mut parts.index, 32, count as u64 * u64::from(raw_len));
    put_u64(&mut parts.index, 40, count as u64 * u64::from(records));
    put_u64(&mut parts.index, 48, (count * stored.len()) as u64);
    parts.table = vec![[stored.len() as u32, raw_len, parts.table[0][2]]; count];
    parts.table.push([0, 0, 0x51D8_E999]);
    let file = parts.join();
    let (opened, peak) = peak_of(|| open(&file, None));
    assert_eq!(opened.unwrap().index().frames.len(), 254_197);
    assert!(peak <= 40 << 20, "{peak}");
}

/// A frame of 128 KiB blocks that repeat one byte: 4 bytes stored for each.
fn bomb(declared: u32, blocks: usize) -> Vec<u8> {
    let mut stored = vec![0x28, 0xB5, 0x2F, 0xFD, 0xA4];
    stored.extend_from_slice(&declared.to_le_bytes());
    for block in 1..=blocks {
        let header = (128 << 10) << 3 | 1 << 1 | u32::from(block == blocks);
        stored.extend_from_slice(&header.to_le_bytes()[..3]);
        stored.push(b'!');
    }
    let raw = vec![b'!'; blocks << 17];
    stored.extend_from_slice(&(xxhash_rust::xxh64::xxh64(&raw, 0) as u32).to_le_bytes());
    stored
}

#[test]
fn frames_that_decode_to_more_or_less_than_they_say() {
    let mut decoder = Decoder::new().unwrap();
    let mut read = |stored: Vec<u8>, raw_len: u32| {
        let mut parts = parts();
        parts.replace_frame(1, stored, raw_len);
        let file = parts.join();
        let (frames, peak) = peak_of(|| read_all(&file, None, &mut decoder));
        assert!(
            peak <= SMALL + 2 * FRAME_BYTES_MAX,
            "allocated {peak} bytes"
        );
        let mut frames = frames.unwrap();
        assert!(
            frames[0].is_ok() && frames[2].is_ok(),
            "the others can be read"
        );
        frames.swap_remove(1)
    };
    const MIB: u32 = FRAME_BYTES_MAX as u32;
    assert_eq!(
        read(bomb(MIB, 8), MIB).unwrap(),
        vec![b'!'; FRAME_BYTES_MAX]
    );

    for (declared, blocks, raw_len) in [
        (MIB, 9, MIB),
        (MIB, 16, MIB),
        (MIB, 7, MIB),
        (2 * MIB, 16, MIB),
        (u32::MAX, 16, 10),
    ] {
        let error = read(bomb(declared, blocks), raw_len).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Damaged,
            "{declared}, {blocks}, {raw_len}: {error}"
        );
    }
    // A frame, and a frame hidden behind it.
    let hidden = [parts().frames[0].clone(), parts().frames[0].clone()].concat();
    let error = read(hidden, 26).unwrap_err();
    let expected = Damage::Mismatch {
        field: "stored length",
        expected: 84,
        found: 42,
    };
    assert!(
        matches!(error, ChunkError::Damaged { damage, .. } if damage == expected),
        "{error}"
    );
    // Skippable frames hold no data.
    let skippable = [
        &0x184D_2A50_u32.to_le_bytes()[..],
        &12_u32.to_le_bytes(),
        &[0; 12],
    ]
    .concat();
    assert!(read(skippable, 12).is_err());
    // A frame without content checksum, with a reserved bit, with a window of its own.
    for bit in [2, 3, 5] {
        let mut stored = parts().frames[1].clone();
        stored[4] ^= 1 << bit;
        assert!(read(stored, 24).is_err(), "bit {bit}");
    }
    // A content checksum that is wrong, although everything else agrees with it.
    let mut stored = parts().frames[1].clone();
    *stored.last_mut().unwrap() ^= 1;
    let error = read(stored, 24).unwrap_err();
    assert!(
        matches!(
            error,
            ChunkError::Damaged {
                damage: Damage::Undecodable { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn marks_that_do_not_fit_their_frames() {
    for (records, first) in [
        (0, 0),
        (1, u32::MAX),
        (1, 26),
        (27, 0),
        (2, 25),
        (u32::MAX, 25),
    ] {
        let mut parts = parts();
        let at = parts.entry_at(0);
        put_u32(&mut parts.index, at + 8, records);
        put_u32(&mut parts.index, at + 12, first);
        put_u64(&mut parts.index, 40, 1 + u64::from(records));
        let error = refused(&parts.join());
        assert_eq!(
            error.kind(),
            ErrorKind::Damaged,
            "{records} from {first}: {error}"
        );
    }
}

#[test]
fn a_newer_minor_version_is_read() {
    let chunk = TestChunk::small();
    let old = chunk.write(Codec::None).0;
    let mut parts = Parts::of(&old);
    let index = parts.index.clone();
    let mut entries = index[96..].to_vec();
    let last_position = entries.split_off(entries.len() - 2);

    // Longer entries, ...
    let mut longer_entries = Vec::new();
    let mut at = 0;
    for _ in 0..3 {
        let position = usize::from(entries[at + 32]);
        longer_entries.extend_from_slice(&entries[at..at + 33]);
        longer_entries.extend_from_slice(b"new");
        longer_entries.extend_from_slice(&entries[at + 33..at + 33 + position]);
        at += 33 + position;
    }
    // ... a longer header, unknown flags, used reserves, and something at the end.
    parts.index = index[..96].to_vec();
    parts.index[17] = 9;
    parts.index[18] = 100;
    parts.index[20] = 36;
    parts.index[23] = 0x80;
    parts.index[28] = 1;
    parts.index[60] = 1;
    parts.index.extend_from_slice(b"more");
    parts.index.extend_from_slice(&longer_entries);
    parts.index.extend_from_slice(&last_position);
    parts.index.extend_from_slice(b"an extension");
    let file = parts.join();

    let mut decoder = Decoder::new().unwrap();
    let frames = read_all(&file, None, &mut decoder).unwrap();
    let frames: Vec<_> = frames.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        frames,
        chunk
            .frames
            .iter()
            .map(|frame| frame.raw.clone())
            .collect::<Vec<_>>()
    );
    let mut expected = open(&old, None).unwrap().index().clone();
    expected.format = (1, 9);
    assert_eq!(*open(&file, None).unwrap().index(), expected);

    // In this minor version, each of these is damage.
    for (at, value) in [(18, 100), (20, 36), (22, 6), (23, 0x80), (28, 1), (60, 1)] {
        let mut parts = Parts::of(&old);
        parts.index[at] = value;
        assert_eq!(
            refused(&parts.join()).kind(),
            ErrorKind::Damaged,
            "{value} at {at}"
        );
    }
    let mut parts = Parts::of(&old);
    parts.index.push(0);
    assert_eq!(refused(&parts.join()).kind(), ErrorKind::Damaged);
    // Shorter headers and entries are damage in every version.
    for (at, value) in [(18, 95), (18, 0), (20, 32), (20, 0), (18, 255), (20, 255)] {
        let mut parts = Parts::of(&old);
        parts.index[17] = 9;
        parts.index[at] = value;
        assert_eq!(
            refused(&parts.join()).kind(),
            ErrorKind::Damaged,
            "{value} at {at}"
        );
    }
}

#[test]
fn another_major_version_is_refused_as_such() {
    for major in [0, 2, 255] {
        let mut parts = parts();
        parts.index[16] = major;
        parts.index[17] = 3;
        let error = refused(&parts.join());
        assert_eq!(error.kind(), ErrorKind::FormatVersion);
        assert!(
            error
                .to_string()
                .contains(&format!("format version {major}.3")),
            "{error}"
        );
    }
    // Another version whose index is damaged is damage.
    let mut parts = parts();
    parts.index[16] = 2;
    let mut file = parts.join();
    let at = parts.frames.concat().len() + 40;
    file[at] ^= 1;
    assert_eq!(refused(&file).kind(), ErrorKind::Damaged);
}

#[test]
fn files_that_are_no_chunks() {
    let mut context = zstd_safe::CCtx::create();
    let mut plain = Vec::with_capacity(1 << 10);
    context.compress(&mut plain, &[7; 5000], 3).unwrap();
    for file in [
        &b""[..],
        b"text",
        &[0; 200],
        &[0xFF; 200],
        &plain,
        &vec![0xB1; 100_000],
    ] {
        assert_eq!(refused(file).kind(), ErrorKind::Damaged);
    }
    // A seekable file of somebody else's: a seek table, but no index.
    let mut parts = parts();
    parts.index = b"\x57\x2A\x4D\x18....".to_vec();
    parts.index.resize(120, b'.');
    assert_eq!(refused(&parts.join()).kind(), ErrorKind::Damaged);
}
