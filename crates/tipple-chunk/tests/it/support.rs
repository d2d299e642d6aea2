//! Chunks to test with, and ways to take them apart. What takes chunks apart follows FORMAT.md and
//! uses nothing of the crate's own code.

use std::io::Cursor;

use proptest::prelude::*;
use tipple_chunk::{
    ChunkError, ChunkReader, ChunkWriter, Codec, Content, Decoder, Encoder, FRAME_BYTES_MAX,
    FrameMark, Sealed, Sha256Digest,
};
use xxhash_rust::xxh64::xxh64;

pub const CONTENT: Content = Content::new("items", 7);

/// A frame to write, and to find again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestFrame {
    pub raw: Vec<u8>,
    pub records: u32,
    pub first_record: Option<u32>,
    pub position: Vec<u8>,
}

impl TestFrame {
    pub fn new(raw: &[u8], records: u32, position: &[u8]) -> TestFrame {
        TestFrame {
            raw: raw.to_vec(),
            records,
            first_record: (records > 0).then_some(0),
            position: position.to_vec(),
        }
    }

    pub fn mark(&self) -> FrameMark<'_> {
        FrameMark {
            records: self.records,
            first_record: self.first_record,
            position: &self.position,
        }
    }
}

/// A chunk to write, and to find again.
#[derive(Clone, Debug)]
pub struct TestChunk {
    pub frames: Vec<TestFrame>,
    pub begins_inside_record: bool,
    pub ends_inside_record: bool,
    pub last_position: Vec<u8>,
}

impl TestChunk {
    /// Three small frames, the second of which begins no record.
    pub fn small() -> TestChunk {
        TestChunk {
            frames: vec![
                TestFrame::new(b"one fish two fish red fish", 3, b"\0\x01"),
                TestFrame {
                    first_record: None,
                    ..TestFrame::new(b"blue fish blue fish blue", 0, b"")
                },
                TestFrame {
                    first_record: Some(5),
                    ..TestFrame::new(b"fish, black fish", 1, b"\0\x09")
                },
            ],
            begins_inside_record: false,
            ends_inside_record: true,
            last_position: b"\0\x0A".to_vec(),
        }
    }

    pub fn write(&self, codec: Codec) -> (Vec<u8>, Sealed) {
        self.write_with(&mut Encoder::new(codec).unwrap())
    }

    pub fn write_with(&self, encoder: &mut Encoder) -> (Vec<u8>, Sealed) {
        let mut writer = ChunkWriter::new(Vec::new(), encoder, &CONTENT, self.begins_inside_record);
        for frame in &self.frames {
            writer.frame(&frame.raw, frame.mark()).unwrap();
        }
        writer
            .finish(self.ends_inside_record, &self.last_position)
            .unwrap()
    }

    pub fn raw(&self) -> Vec<u8> {
        self.frames
            .iter()
            .flat_map(|frame| frame.raw.clone())
            .collect()
    }

    /// Asserts that `file` holds exactly this chunk.
    pub fn assert_is(&self, file: &[u8], sealed: &Sealed) {
        let mut decoder = Decoder::new().unwrap();
        let mut reader = open(file, Some(&sealed.index_sha256)).unwrap();
        let index = reader.index().clone();
        assert_eq!(index.content, CONTENT);
        assert_eq!(index.begins_inside_record, self.begins_inside_record);
        assert_eq!(index.ends_inside_record, self.ends_inside_record);
        assert_eq!(*index.last_position, *self.last_position);
        assert_eq!(index.frames.len(), self.frames.len());
        let (mut raw_bytes, mut records) = (0, 0);
        for (entry, frame) in index.frames.iter().zip(&self.frames) {
            assert_eq!(entry.raw_offset, raw_bytes);
            assert_eq!(entry.records, frame.records);
            assert_eq!(entry.first_record, frame.first_record);
            assert_eq!(*entry.position, *frame.position);
            assert_eq!(entry.raw_len as usize, frame.raw.len());
            raw_bytes += frame.raw.len() as u64;
            records += u64::from(frame.records);
        }
        assert_eq!((index.raw_bytes, index.records), (raw_bytes, records));
        // In order, ...
        for frame in &self.frames {
            let found = reader.next_frame(&mut decoder).unwrap().unwrap();
            assert!(found.raw == frame.raw);
        }
        assert!(reader.next_frame(&mut decoder).unwrap().is_none());
        // ... in reverse, ...
        for (number, frame) in self.frames.iter().enumerate().rev() {
            assert!(reader.read_frame(number, &mut decoder).unwrap() == frame.raw);
        }
        // ... and as a whole.
        let mut raw = Vec::new();
        tipple_chunk::verify(Cursor::new(file), sealed, &mut decoder, |frame, entry| {
            assert_eq!(entry.raw_offset, raw.len() as u64);
            raw.extend_from_slice(frame);
            Ok::<_, ChunkError>(())
        })
        .unwrap();
        assert!(raw == self.raw());
        assert_eq!(sealed.sha256, Sha256Digest::of(file));
        assert_eq!(sealed.stored_bytes, file.len() as u64);
        assert_eq!((sealed.raw_bytes, sealed.records), (raw_bytes, records));
        assert_eq!(sealed.frames as usize, self.frames.len());
    }
}

pub fn open<'f>(
    file: &'f [u8],
    index: Option<&Sha256Digest>,
) -> Result<ChunkReader<Cursor<&'f [u8]>>, ChunkError> {
    ChunkReader::open(Cursor::new(file), index)
}

/// Opens `file` and reads all frames: the raw bytes of each, or its error.
pub fn read_all(
    file: &[u8],
    index: Option<&Sha256Digest>,
    decoder: &mut Decoder,
) -> Result<Vec<Result<Vec<u8>, ChunkError>>, ChunkError> {
    let mut reader = open(file, index)?;
    let frames = reader.index().frames.len();
    Ok((0..frames)
        .map(|n| reader.read_frame(n, decoder).map(<[u8]>::to_vec))
        .collect())
}

/// Chunks of all kinds: small, with large and odd frames, empty.
pub fn chunks() -> Vec<TestChunk> {
    let small = TestChunk::small();
    let large = TestChunk {
        frames: vec![
            TestFrame::new(&noise(FRAME_BYTES_MAX, 3), 1000, &[1; 255]),
            TestFrame::new(&b"to and fro ".repeat(20_000), 20_000, b"2"),
            TestFrame::new(&vec![0; FRAME_BYTES_MAX], 1, b""),
            TestFrame::new(b"x", 1, b""),
            TestFrame::new(&noise(131_073, 4), 0, b""),
        ],
        begins_inside_record: true,
        ..small.clone()
    };
    vec![
        small.clone(),
        large,
        TestChunk {
            frames: vec![],
            ..small
        },
    ]
}

/// Bytes that no encoder shortens (xorshift64).
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A chunk taken apart; its parts can be changed one by one and put together again.
#[derive(Clone)]
pub struct Parts {
    pub frames: Vec<Vec<u8>>,
    /// The index frame without its checksum.
    pub index: Vec<u8>,
    /// Stored length, raw length and checksum of each frame, the index frame included.
    pub table: Vec<[u32; 3]>,
}

impl Parts {
    pub fn of(file: &[u8]) -> Parts {
        let entries = u32_at(file, file.len() - 9) as usize;
        let table_at = file.len() - 17 - 12 * entries;
        let table: Vec<[u32; 3]> = (0..entries)
            .map(|n| [0, 4, 8].map(|field| u32_at(file, table_at + 8 + 12 * n + field)))
            .collect();
        let mut at = 0;
        let mut frames: Vec<_> = table
            .iter()
            .map(|entry| {
                let frame = file[at..at + entry[0] as usize].to_vec();
                at += frame.len();
                frame
            })
            .collect();
        let mut index = frames.pop().unwrap();
        index.truncate(index.len() - 8);
        Parts {
            frames,
            index,
            table,
        }
    }

    /// Where the entry of frame `number` is in the index.
    pub fn entry_at(&self, number: usize) -> usize {
        (0..number).fold(96, |at, _| at + 33 + usize::from(self.index[at + 32]))
    }

    /// Puts the parts together; the frame sizes, the checksum of the index and the last entry of
    /// the seek table are made right.
    pub fn join(&self) -> Vec<u8> {
        let mut index = self.index.clone();
        let index_bytes = index.len() + 8;
        put_u32(&mut index, 4, index_bytes as u32 - 8);
        let checksum = xxh64(&index, 0);
        index.extend_from_slice(&checksum.to_le_bytes());
        let mut table = self.table.clone();
        if let Some(last) = table.last_mut() {
            last[0] = index_bytes as u32;
        }
        let mut file = self.frames.concat();
        file.extend_from_slice(&index);
        file.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
        file.extend_from_slice(&(12 * table.len() as u32 + 9).to_le_bytes());
        for field in table.as_flattened() {
            file.extend_from_slice(&field.to_le_bytes());
        }
        file.extend_from_slice(&(table.len() as u32).to_le_bytes());
        file.push(0x80);
        file.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
        file
    }

    /// Replaces a stored frame by another one that declares `raw_len`, everywhere.
    pub fn replace_frame(&mut self, number: usize, stored: Vec<u8>, raw_len: u32) {
        let checksum = u32_at(&stored, stored.len() - 4);
        let at = self.entry_at(number);
        put_u32(&mut self.index, at, stored.len() as u32);
        put_u32(&mut self.index, at + 4, raw_len);
        self.index[at + 16..at + 32]
            .copy_from_slice(&xxhash_rust::xxh3::xxh3_128(&stored).to_be_bytes());
        self.table[number] = [stored.len() as u32, raw_len, checksum];
        self.frames[number] = stored;
        let data_bytes = self.frames.iter().map(|frame| frame.len() as u64).sum();
        let entries = &self.table[..self.table.len() - 1];
        let raw_bytes = entries.iter().map(|entry| u64::from(entry[1])).sum();
        put_u64(&mut self.index, 48, data_bytes);
        put_u64(&mut self.index, 32, raw_bytes);
    }
}

pub fn any_codec() -> impl Strategy<Value = Codec> {
    prop_oneof![
        3 => Just(Codec::None),
        2 => Just(Codec::Zstd { level: 1 }),
        1 => (-7..=9).prop_filter("0 is no level", |&l| l != 0).prop_map(|level| Codec::Zstd { level }),
    ]
}

pub fn any_frame() -> impl Strategy<Value = TestFrame> {
    let len = prop_oneof![
        8 => 1..5000_usize,
        1 => prop::sample::select(vec![
            1, 255, 256, 257, 65_791, 65_792, 131_071, 131_072, 131_073, 262_145,
            FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX,
        ]),
    ];
    let raw = prop_oneof![
        (len.clone(), any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        (len, any::<u64>(), 1..64_usize).prop_map(|(len, seed, period)| {
            noise(period, seed).into_iter().cycle().take(len).collect()
        }),
    ];
    let position = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 1..20),
        prop::collection::vec(any::<u8>(), 255),
    ];
    (
        raw,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<bool>(),
        position,
    )
        .prop_map(|(raw, first, more, begins_records, position)| {
            let first = first.index(raw.len());
            let records = 1 + more.index(raw.len() - first) as u32;
            TestFrame {
                first_record: begins_records.then_some(first as u32),
                records: if begins_records { records } else { 0 },
                raw,
                position,
            }
        })
}

pub fn any_chunk() -> impl Strategy<Value = TestChunk> {
    let last_position = prop::collection::vec(any::<u8>(), 0..=255);
    (
        prop::collection::vec(any_frame(), 0..6),
        any::<[bool; 2]>(),
        last_position,
    )
        .prop_map(
            |(frames, [begins_inside_record, ends_inside_record], last_position)| TestChunk {
                frames,
                begins_inside_record,
                ends_inside_record,
                last_position,
            },
        )
}
