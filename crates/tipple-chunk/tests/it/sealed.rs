//! Sealed chunks: what is written is read, in any order, and what was touched gives nothing.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use proptest::prelude::*;
use tipple_chunk::{
    Binding, ChunkError, ChunkReader, ChunkWriter, Codec, Damage, Decoder, Encoder, ErrorKind,
    FrameMark, KeyRing, Place, Purpose, SealKey, SealWriter, SealedReader, Sha256Digest,
    StoredObject, seal_bytes, sealed_bytes,
};

use crate::memory::peak_of;
use crate::support::*;

pub const SEGMENT: usize = 65_536;
pub const BINDING: Binding<'static> = Binding {
    purpose: Purpose::Chunk,
    dump: "0123456789abcdef",
    part: "p-00000042",
    number: 7,
};

pub fn key(id: &str, byte: u8) -> SealKey {
    SealKey::new(id.parse().unwrap(), &[byte; 32])
}

pub fn ring() -> KeyRing {
    KeyRing::of(key("k", 1))
}

pub fn seal(plain: &[u8], binding: &Binding<'_>) -> (Vec<u8>, StoredObject) {
    let mut writer = SealWriter::new(Vec::new(), &key("k", 1), binding).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn open(sealed: &[u8]) -> Result<SealedReader<Cursor<&[u8]>>, ChunkError> {
    SealedReader::open(Cursor::new(sealed), &ring(), &BINDING)
}

/// Everything that can be had of `sealed`, from its beginning on.
fn read(sealed: &[u8]) -> Result<Vec<u8>, (Vec<u8>, ChunkError)> {
    let mut plain = Vec::new();
    let mut reader = open(sealed).map_err(|error| (Vec::new(), error))?;
    match reader.read_to_end(&mut plain) {
        Ok(_) => Ok(plain),
        Err(error) => Err((plain, error.downcast().expect("a chunk error"))),
    }
}

/// A file of some segments, each with its tag, behind its header.
fn segments(sealed: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (header, body) = sealed.split_at(144);
    let segments = body.chunks(SEGMENT + 16).map(<[u8]>::to_vec).collect();
    (header.to_vec(), segments)
}

#[test]
fn every_length_around_the_borders_of_segments() {
    for len in [
        0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 131_071, 131_072, 131_073, 200_000,
    ] {
        let plain = noise(len, len as u64);
        let (sealed, stored) = seal(&plain, &BINDING);
        assert_eq!(sealed.len() as u64, sealed_bytes(len as u64), "{len}");
        assert_eq!(stored.bytes, sealed.len() as u64);
        assert_eq!(stored.sha256, Sha256Digest::of(&sealed));
        assert_eq!(open(&sealed).unwrap().plain_bytes(), len as u64);
        assert!(read(&sealed).unwrap() == plain, "{len}");
    }
}

#[test]
fn two_seals_of_the_same_bytes_have_nothing_in_common_and_hide_them() {
    let plain = b"the plain text of a record, ".repeat(5000);
    let ([one, two], marker) = ([0, 1].map(|_| seal(&plain, &BINDING).0), b"plain text");
    for sealed in [&one, &two] {
        assert!(!sealed.windows(marker.len()).any(|window| window == marker));
    }
    let same = one[144..].iter().zip(&two[144..]).filter(|(a, b)| a == b);
    // One in 256, by chance.
    assert!(same.count() < one.len() / 128);
}

#[test]
fn a_sealed_chunk_is_read_as_a_chunk_and_what_it_says_is_about_the_sealed_bytes() {
    for codec in [Codec::None, Codec::Zstd { level: 1 }] {
        let mut encoder = Encoder::new(codec).unwrap();
        let out = SealWriter::new(Vec::new(), &key("k", 1), &BINDING).unwrap();
        let mut writer = ChunkWriter::sealing(out, &mut encoder, &CONTENT, false);
        let frames: Vec<Vec<u8>> = (1..5).map(|n| noise(50_000 * n, n as u64)).collect();
        for raw in &frames {
            let mark = FrameMark {
                records: 1,
                first_record: Some(0),
                position: b"p",
            };
            writer.frame(raw, mark).unwrap();
        }
        let (file, sealed) = writer.finish(false, b"p").unwrap();
        assert_eq!(sealed.stored_bytes, file.len() as u64);
        assert_eq!(sealed.sha256, Sha256Digest::of(&file));

        let mut decoder = Decoder::new().unwrap();
        // In any order.
        let input = open(&file).unwrap().hashing();
        let mut reader = ChunkReader::open(input, Some(&sealed.index_sha256)).unwrap();
        for number in [3, 0, 2, 1] {
            let raw = reader.read_frame(number, &mut decoder).unwrap();
            assert!(raw == frames[number]);
        }
        // In one pass, with the digest of what is stored.
        for raw in &frames {
            assert!(reader.next_frame(&mut decoder).unwrap().unwrap().raw == raw);
        }
        let stored = reader.get_mut().stored().unwrap();
        assert_eq!(reader.sealed_as(stored), sealed);
        // And without any frame read.
        assert_eq!(open(&file).unwrap().hashing().stored().unwrap(), stored);

        // What the seal finds, the chunk tells as it is.
        let mut damaged = file.clone();
        damaged[144 + SEGMENT + 16] ^= 1;
        let mut reader = ChunkReader::open(open(&damaged).unwrap(), None).unwrap();
        let error = reader.verify_all(&mut decoder, |_, _| Ok::<_, ChunkError>(()));
        assert_eq!(
            error.unwrap_err().place(),
            Some(Place::Segment {
                number: 1,
                offset: 65_696
            })
        );
    }
}

#[test]
fn a_plain_chunk_is_not_taken_for_a_sealed_one_nor_the_other_way_round() {
    let (plain, _) = TestChunk::small().write(Codec::None);
    let (_, error) = read(&plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        error
            .to_string()
            .ends_with("it is not sealed, and should be"),
        "{error}"
    );
    let (sealed, _) = seal(&plain, &BINDING);
    let error = ChunkReader::open(Cursor::new(&sealed), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[test]
fn a_wrong_key_is_told_from_a_missing_one_and_from_damage() {
    let (sealed, _) = seal(b"x", &BINDING);
    let told = |ring: KeyRing, sealed: &[u8]| {
        let error = SealedReader::open(Cursor::new(sealed), &ring, &BINDING).unwrap_err();
        (error.kind(), error.to_string())
    };
    let missing = told(KeyRing::of(key("other", 1)), &sealed);
    let wrong = told(KeyRing::of(key("k", 2)), &sealed);
    assert_eq!(
        [missing, wrong],
        [
            (
                ErrorKind::Key,
                "it is sealed with the key `k`, which is not in the key file: give --encrypt-key the file that has it".to_owned()
            ),
            (
                ErrorKind::Key,
                "it is sealed with the key `k`, and the key of that name in the key file is another one: give --encrypt-key the file that has the right one".to_owned()
            ),
        ]
    );
    // Every byte of the header, with the right key and with a wrong one: damage, but for a key's name that is one.
    for at in 0..144 {
        for ring in [ring(), KeyRing::of(key("k", 2))] {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            let (kind, message) = told(ring, &damaged);
            let expected = match at {
                8 => ErrorKind::FormatVersion,
                _ => ErrorKind::Damaged,
            };
            assert_eq!(kind, expected, "byte {at}: {message}");
        }
    }
}

#[test]
fn a_ring_with_the_old_key_and_the_new_one_reads_both() {
    let (old, new) = (key("old", 1), key("new", 2));
    let ring = format!("{}{}", *new.to_line(), *old.to_line());
    let ring = KeyRing::parse(ring.as_bytes()).unwrap();
    for key in [&old, &new] {
        let mut writer = SealWriter::new(Vec::new(), key, &BINDING).unwrap();
        writer.write_all(b"text").unwrap();
        let (sealed, _) = writer.finish().unwrap();
        let mut reader = SealedReader::open(Cursor::new(sealed), &ring, &BINDING).unwrap();
        let mut plain = String::new();
        reader.read_to_string(&mut plain).unwrap();
        assert_eq!(plain, "text");
    }
    assert_eq!(ring.sealing().id().as_str(), "new");
}

#[test]
fn an_object_opens_only_as_what_it_was_sealed_as() {
    let (sealed, _) = seal(b"x", &BINDING);
    for other in [
        Binding {
            dump: "0123456789abcdee",
            ..BINDING
        },
        Binding {
            part: "p-00000043",
            ..BINDING
        },
        Binding {
            number: 8,
            ..BINDING
        },
        Binding {
            purpose: Purpose::Plan,
            ..BINDING
        },
        // The border between the names counts.
        Binding {
            dump: "0123456789abcdefp",
            part: "-00000042",
            ..BINDING
        },
    ] {
        let error = SealedReader::open(Cursor::new(&sealed), &ring(), &other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chunk is damaged: the header of the seal: it was sealed for another dump, part or number, and moved here"
        );
    }
}

#[test]
fn every_byte_flipped() {
    let plain = noise(300, 1);
    let (sealed, _) = seal(&plain, &BINDING);
    for at in 0..sealed.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = sealed.clone();
            damaged[at] ^= bit;
            let (released, _) = read(&damaged).unwrap_err();
            assert!(released.is_empty(), "byte {at}");
        }
    }
}

#[test]
fn every_truncation_and_any_extension_is_found_before_anything_is_released() {
    let short = seal(&noise(200, 2), &BINDING).0;
    for len in 0..short.len() {
        open(&short[..len]).expect_err("cut");
    }
    let plain = noise(3 * SEGMENT + 100, 3);
    let (sealed, _) = seal(&plain, &BINDING);
    let border = |segments: usize| 144 + segments * (SEGMENT + 16);
    for len in [1, 2, 3].into_iter().flat_map(|n| {
        [
            border(n) - 1,
            border(n),
            border(n) + 1,
            border(n) + 16,
            border(n) + 17,
        ]
    }) {
        open(&sealed[..len]).expect_err("cut");
    }
    // A whole number of segments, too: no segment but the last one was sealed as such.
    let (whole, _) = seal(&plain[..2 * SEGMENT], &BINDING);
    open(&whole[..border(1)]).expect_err("cut");
    for more in [
        vec![0],
        vec![0; 16],
        vec![0; 17],
        noise(SEGMENT + 16, 4),
        whole[144..].to_vec(),
        sealed[border(3)..].to_vec(),
    ] {
        for sealed in [&sealed, &whole, &short] {
            open(&[sealed, more.as_slice()].concat()).expect_err("longer");
        }
    }
}

#[test]
fn segments_that_are_moved_doubled_or_brought_from_elsewhere_give_nothing() {
    let plain = noise(4 * SEGMENT, 5);
    let (header, own) = segments(&seal(&plain, &BINDING).0);
    let (other_header, other) = segments(&seal(&plain, &BINDING).0);
    let join = |header: &[u8], segments: &[&Vec<u8>]| {
        let segments = segments.iter().flat_map(|segment| segment.iter().copied());
        header.iter().copied().chain(segments).collect::<Vec<u8>>()
    };
    assert!(read(&join(&header, &[&own[0], &own[1], &own[2], &own[3]])).unwrap() == plain);
    for (segments, released) in [
        (vec![&own[1], &own[0], &own[2], &own[3]], 0), // swapped
        (vec![&own[0], &own[2], &own[1], &own[3]], 1),
        (vec![&own[0], &own[1], &own[3], &own[2]], 0), // the last one, so nothing at all
        (vec![&own[0], &own[0], &own[2], &own[3]], 1), // one twice
        (vec![&own[0], &own[1], &own[1], &own[2], &own[3]], 0),
        (vec![&own[0], &own[2], &own[3]], 0), // one gone
        (vec![&own[0], &other[1], &own[2], &own[3]], 1), // of another seal of the same bytes
        (vec![&own[0], &own[1], &own[2], &other[3]], 0),
    ] {
        let (plain_of, error) = read(&join(&header, &segments)).unwrap_err();
        assert!(plain_of == plain[..released * SEGMENT], "{error}");
        let ChunkError::Damaged {
            place: Place::Segment { .. },
            damage: Damage::Tag,
        } = error
        else {
            panic!("{error}");
        };
    }
    read(&join(&other_header, &[&own[0], &own[1], &own[2], &own[3]])).unwrap_err();
}

/// A header that says something else and has the right checksum: no allocation of what it says, no panic.
#[test]
fn a_hostile_header_is_bounded() {
    let (sealed, _) = seal(&noise(1000, 6), &BINDING);
    for (at, bytes, message) in [
        // Newer, so it is read: but it is not the header that was sealed.
        (
            9,
            vec![7],
            "segment 0 at byte 144: its bytes are not those that were sealed",
        ),
        (10, vec![2], "the cipher cannot be 2"),
        (11, vec![0], "the name of a key is not there"),
        (11, vec![33], "the name of a key is not there"),
        (11, vec![2], "the name of a key is not there"),
        (56, vec![0xFF], "the name of a key is not there"),
        (12, vec![0xFF; 4], "the segment length cannot be 4294967295"),
        (
            12,
            vec![0, 0, 0, 0x80],
            "the segment length cannot be 2147483648",
        ),
        (12, vec![0; 4], "the segment length cannot be 0"),
        (12, vec![0, 8, 0, 0], "the segment length cannot be 2048"),
        (
            12,
            vec![0, 0x30, 0, 0],
            "the segment length cannot be 12288",
        ),
        (16, vec![1], "the reserved field cannot be 1"),
        (
            12,
            vec![0, 0x10, 0, 0],
            "segment 0 at byte 144: its bytes are not those that were sealed",
        ),
    ] {
        let mut hostile = sealed.clone();
        hostile[at..at + bytes.len()].copy_from_slice(&bytes);
        let checksum = xxhash_rust::xxh64::xxh64(&hostile[..136], 0);
        hostile[136..144].copy_from_slice(&checksum.to_le_bytes());
        let (error, peak) = peak_of(|| open(&hostile).unwrap_err().to_string());
        assert!(error.contains(message), "{error}");
        assert!(peak < 8 << 10, "{peak}");
    }
}

#[test]
fn memory_is_one_segment() {
    let plain = noise(20 * SEGMENT + 1, 7);
    let ((sealed, _), peak) = peak_of(|| {
        let out = Cursor::new(Vec::with_capacity(21 * (SEGMENT + 16) + 200));
        let mut writer = SealWriter::new(out, &key("k", 1), &BINDING).unwrap();
        writer.write_all(&plain).unwrap();
        let (out, stored) = writer.finish().unwrap();
        (out.into_inner(), stored)
    });
    assert!(
        peak as u64 - 21 * (SEGMENT as u64 + 16) - 200 <= seal_bytes(),
        "{peak}"
    );
    let (read, peak) = peak_of(|| std::io::copy(&mut open(&sealed).unwrap(), &mut std::io::sink()));
    assert_eq!(read.unwrap(), plain.len() as u64);
    assert!(peak as u64 <= seal_bytes() + (8 << 10), "{peak}"); // io::copy has a buffer of its own
}

#[test]
fn a_write_that_failed_leaves_no_object() {
    #[derive(Debug)]
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = SealWriter::new(Full(SEGMENT), &key("k", 1), &BINDING).unwrap();
    let error = writer.write_all(&vec![0; SEGMENT + 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    writer.finish().expect_err("it has failed before");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn what_is_sealed_in_any_pieces_is_read_in_any_pieces(
        len in prop_oneof![0..3000_usize, prop::sample::select(vec![65_535, 65_536, 65_537, 131_072, 150_000])],
        seed in any::<u64>(),
        pieces in prop::collection::vec(1..100_000_usize, 1..5),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 0..70_000_usize), 1..20),
    ) {
        let plain = noise(len, seed);
        let mut writer = SealWriter::new(Vec::new(), &key("k", 1), &BINDING).unwrap();
        let (mut rest, mut pieces) = (&plain[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            writer.write_all(piece).unwrap();
            writer.flush().unwrap();
            rest = more;
        }
        let (sealed, _) = writer.finish().unwrap();
        let mut reader = open(&sealed).unwrap();
        for (at, want) in reads {
            let at = at.index(len + 1);
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut part = Vec::new();
            (&mut reader).take(want as u64).read_to_end(&mut part).unwrap();
            prop_assert!(part == plain[at..len.min(at + want)]);
        }
        let end = reader.seek(SeekFrom::End(-(len.min(5) as i64))).unwrap();
        let mut part = Vec::new();
        reader.read_to_end(&mut part).unwrap();
        prop_assert!(part == plain[end as usize..]);
        prop_assert!(reader.seek(SeekFrom::Current(-(len as i64) - 1)).is_err());
    }

    #[test]
    fn whatever_is_changed_nothing_comes_out_that_was_not_sealed(
        len in 0..200_000_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let plain = noise(len, 9);
        let (sealed, _) = seal(&plain, &BINDING);
        let mut damaged = sealed.clone();
        for (at, by) in changes {
            let at = at.index(damaged.len());
            damaged[at] ^= by;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        prop_assume!(damaged != sealed);
        let (released, _) = read(&damaged).unwrap_err();
        prop_assert!(plain.starts_with(&released));
        prop_assert!(released.len() % SEGMENT == 0);
    }
}
