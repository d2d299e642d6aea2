//! Chunks of every format version, frozen: they were written once and are never written again.
//! What they hold must be read for ever; and raw blocks are the same bytes for ever.

use tipple_chunk::{Codec, FRAME_BYTES_MAX, Sha256Digest};

use crate::support::*;

/// Name, codec and contents of every fixture.
pub fn all() -> Vec<(&'static str, Codec, TestChunk)> {
    let text = b"It was the best of times, it was the worst of times. ";
    let none = TestChunk {
        frames: vec![
            TestFrame::new(text, 1, b"\0\0\0\0\0\0\0\x01"),
            TestFrame::new(&text.repeat(6), 6, b"\0\0\0\0\0\0\0\x02"),
            TestFrame::new(b"x", 1, &[0xFF; 255]),
        ],
        begins_inside_record: false,
        ends_inside_record: false,
        last_position: b"\0\0\0\0\0\0\0\x09".to_vec(),
    };
    let spanning = TestChunk {
        frames: vec![
            TestFrame {
                records: 2,
                first_record: Some(20),
                ..TestFrame::new(text, 2, b"k1")
            },
            TestFrame::new(text, 0, b""),
            TestFrame {
                records: 1,
                first_record: Some(52),
                ..TestFrame::new(text, 1, b"k3")
            },
        ],
        begins_inside_record: true,
        ends_inside_record: true,
        last_position: b"k3".to_vec(),
    };
    let empty = TestChunk {
        frames: vec![],
        last_position: vec![],
        ..none.clone()
    };
    let mut zstd = none.clone();
    zstd.frames
        .push(TestFrame::new(&text.repeat(1000), 1000, b""));
    vec![
        ("none.zst", Codec::None, none),
        ("none-spanning.zst", Codec::None, spanning.clone()),
        ("none-empty.zst", Codec::None, empty),
        ("zstd.zst", Codec::Zstd { level: 3 }, zstd),
        ("zstd-spanning.zst", Codec::Zstd { level: 19 }, spanning),
    ]
}

pub fn read(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/v1/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_fixture_is_read() {
    for (name, codec, chunk) in all() {
        let file = read(name);
        let index_sha256 = *open(&file, None)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .index_sha256();
        let (_, mut sealed) = chunk.write(codec);
        // What zstd makes of the raw bytes may change with its version; nothing else may.
        sealed.sha256 = Sha256Digest::of(&file);
        sealed.stored_bytes = file.len() as u64;
        sealed.index_sha256 = index_sha256;
        chunk.assert_is(&file, &sealed);
        assert_eq!(open(&file, None).unwrap().index().format, (1, 0));
    }
}

#[test]
fn raw_blocks_are_written_as_ever() {
    for (name, codec, chunk) in all() {
        if codec == Codec::None {
            assert!(chunk.write(codec).0 == read(name), "{name}");
        }
    }
    // Too large to be kept as a file: frames of many blocks.
    let chunk = TestChunk {
        frames: [131_071, 131_072, 131_073, FRAME_BYTES_MAX]
            .map(|len| TestFrame::new(&noise(len, len as u64), 1, b"p"))
            .to_vec(),
        ..TestChunk::small()
    };
    assert_eq!(
        chunk.write(Codec::None).1.sha256.to_string(),
        "c490d03cab293ed1a6eed3e76ca7deb0aefa573ffd118f2cc07cb2043c5a3884"
    );
}
