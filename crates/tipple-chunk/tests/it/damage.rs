//! The damage matrix: whatever is done to a chunk, no wrong byte is handed out.

use std::io::Cursor;

use tipple_chunk::{ChunkError, Codec, Decoder, ErrorKind, Sealed};

use crate::support::*;

const CODECS: [Codec; 2] = [Codec::None, Codec::Zstd { level: 3 }];

/// Asserts that `damaged` is noticed: on opening, or by at least one frame; and that every frame
/// that can be read is right. Returns whether it could be opened.
fn assert_noticed(
    chunk: &TestChunk,
    sealed: &Sealed,
    damaged: &[u8],
    decoder: &mut Decoder,
    what: &str,
) -> bool {
    // With what the part record knows, ...
    let verified = tipple_chunk::verify(Cursor::new(damaged), sealed, decoder, |raw, entry| {
        assert!(raw == chunk.frames[entry.number as usize].raw, "{what}");
        Ok::<_, ChunkError>(())
    });
    assert!(verified.is_err(), "{what}: not noticed by verify");
    // ... and with nothing but the file.
    match read_all(damaged, None, decoder) {
        Err(error) => {
            let kind = error.kind();
            assert!(
                matches!(kind, ErrorKind::Damaged | ErrorKind::TooLarge),
                "{what}: {error}"
            );
            false
        }
        Ok(frames) => {
            assert_eq!(frames.len(), chunk.frames.len(), "{what}");
            assert!(frames.iter().any(Result::is_err), "{what}: not noticed");
            for (number, found) in frames.iter().enumerate() {
                match found {
                    Ok(raw) => assert!(*raw == chunk.frames[number].raw, "{what}: frame {number}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}"),
                }
            }
            true
        }
    }
}

#[test]
fn every_flipped_bit() {
    let chunk = TestChunk::small();
    let mut decoder = Decoder::new().unwrap();
    for codec in CODECS {
        let (mut file, sealed) = chunk.write(codec);
        let data_bytes: usize = Parts::of(&file).frames.iter().map(Vec::len).sum();
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            let what = format!("{codec}, bit {} of byte {}", bit % 8, bit / 8);
            let opened = assert_noticed(&chunk, &sealed, &file, &mut decoder, &what);
            assert_eq!(
                opened,
                bit / 8 < data_bytes || is_frame_checksum(&file, bit / 8),
                "{what}"
            );
            file[bit / 8] ^= 1 << (bit % 8);
        }
        chunk.assert_is(&file, &sealed);
    }
}

/// Whether the byte is part of a data frame's checksum in the seek table: noticed with the frame.
fn is_frame_checksum(file: &[u8], at: usize) -> bool {
    let table_at = file.len() - 17 - 12 * 4;
    at >= table_at + 8 && at < table_at + 8 + 12 * 3 && (at - table_at - 8) % 12 >= 8
}

#[test]
fn every_byte_value_in_the_index_and_the_seek_table() {
    let chunk = TestChunk {
        frames: vec![TestFrame::new(b"x", 1, b"p")],
        ..TestChunk::small()
    };
    let mut decoder = Decoder::new().unwrap();
    let (file, sealed) = chunk.write(Codec::None);
    for at in Parts::of(&file).frames[0].len()..file.len() {
        for value in 0..=255 {
            let mut damaged = file.clone();
            damaged[at] = value;
            if damaged != file {
                assert_noticed(
                    &chunk,
                    &sealed,
                    &damaged,
                    &mut decoder,
                    &format!("{value} at {at}"),
                );
            }
        }
    }
}

#[test]
fn every_truncation_and_every_missing_beginning() {
    let chunk = TestChunk::small();
    let mut decoder = Decoder::new().unwrap();
    for codec in CODECS {
        let (file, sealed) = chunk.write(codec);
        for len in 0..file.len() {
            let what = format!("{codec}, the first {len} bytes");
            assert!(!assert_noticed(
                &chunk,
                &sealed,
                &file[..len],
                &mut decoder,
                &what
            ));
            let what = format!("{codec}, the last {len} bytes");
            assert!(!assert_noticed(
                &chunk,
                &sealed,
                &file[file.len() - len..],
                &mut decoder,
                &what
            ));
        }
    }
}

#[test]
fn bytes_too_many_or_too_few_anywhere() {
    let chunk = TestChunk::small();
    let mut decoder = Decoder::new().unwrap();
    for codec in CODECS {
        let (file, sealed) = chunk.write(codec);
        for at in 0..=file.len() {
            for extra in [&b"\0"[..], b"\xFF", b"more bytes", &file] {
                let damaged = [&file[..at], extra, &file[at..]].concat();
                let what = format!("{codec}, {} bytes inserted at {at}", extra.len());
                let opened = assert_noticed(&chunk, &sealed, &damaged, &mut decoder, &what);
                assert!(!opened, "{what}");
            }
            for missing in 1..=(file.len() - at).min(20) {
                let damaged = [&file[..at], &file[at + missing..]].concat();
                let what = format!("{codec}, {missing} bytes missing at {at}");
                assert_noticed(&chunk, &sealed, &damaged, &mut decoder, &what);
            }
        }
    }
}

#[test]
fn frames_duplicated_deleted_and_reordered() {
    let chunk = TestChunk {
        // Two of the same length, so that they can trade places unnoticed by any length.
        frames: vec![
            TestFrame::new(b"aaaaaaaa", 1, b"1"),
            TestFrame::new(b"bbbbbbbb", 1, b"2"),
            TestFrame::new(b"cccccccccc", 1, b"3"),
        ],
        ..TestChunk::small()
    };
    let mut decoder = Decoder::new().unwrap();
    for codec in CODECS {
        let (file, sealed) = chunk.write(codec);
        let parts = Parts::of(&file);
        let with = |frames: &[usize]| {
            let frames = frames.iter().map(|&n| parts.frames[n].clone()).collect();
            Parts {
                frames,
                ..parts.clone()
            }
            .join()
        };
        assert!(with(&[0, 1, 2]) == file, "taken apart and put together");
        for frames in [
            &[1, 0, 2][..],
            &[0, 0, 2],
            &[0, 1],
            &[1, 2],
            &[0, 1, 1, 2],
            &[2, 1, 0],
            &[],
        ] {
            let what = format!("{codec}, frames {frames:?}");
            assert_noticed(&chunk, &sealed, &with(frames), &mut decoder, &what);
        }
    }
}

#[test]
fn a_chunk_forged_to_be_consistent_is_stopped_by_the_digest_of_the_index() {
    let chunk = TestChunk::small();
    let mut decoder = Decoder::new().unwrap();
    let (file, sealed) = chunk.write(Codec::None);
    let mut parts = Parts::of(&file);
    let mut other = TestChunk::small();
    other.frames[0].raw[0] = b'O';
    let (forged, forged_sealed) = other.write(Codec::None);
    parts.replace_frame(0, Parts::of(&forged).frames[0].clone(), 26);
    assert!(parts.join() == forged, "the forgery is a chunk");
    assert!(
        read_all(&forged, None, &mut decoder)
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );

    let error = open(&forged, Some(&sealed.index_sha256)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(open(&file, Some(&forged_sealed.index_sha256)).is_err());
}

#[test]
fn verify_compares_everything_it_is_told() {
    let chunk = TestChunk::small();
    let mut decoder = Decoder::new().unwrap();
    let (file, sealed) = chunk.write(Codec::None);
    let mut verify = |expected: &Sealed| {
        tipple_chunk::verify(Cursor::new(&file), expected, &mut decoder, |_, _| {
            Ok::<_, ChunkError>(())
        })
    };
    verify(&sealed).unwrap();
    let mut wrong = vec![sealed.clone(); 10];
    wrong[0].stored_bytes += 1;
    wrong[1].raw_bytes += 1;
    wrong[2].records += 1;
    wrong[3].frames += 1;
    wrong[4].sha256.0[31] ^= 1;
    wrong[5].index_sha256.0[31] ^= 1;
    wrong[6].first_position.push(0);
    wrong[7].last_position.push(0);
    wrong[8].begins_inside_record ^= true;
    wrong[9].ends_inside_record ^= true;
    for (number, wrong) in wrong.iter().enumerate() {
        let error = verify(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{number}: {error}");
    }
}

#[test]
fn what_the_callback_refuses_ends_the_pass() {
    #[derive(Debug)]
    enum Stop {
        Chunk,
        Mine(u32),
    }
    impl From<ChunkError> for Stop {
        fn from(_: ChunkError) -> Stop {
            Stop::Chunk
        }
    }
    let (file, sealed) = TestChunk::small().write(Codec::None);
    let mut decoder = Decoder::new().unwrap();
    let stopped = tipple_chunk::verify(Cursor::new(&file), &sealed, &mut decoder, |_, entry| {
        if entry.number == 1 {
            Err(Stop::Mine(entry.number))
        } else {
            Ok(())
        }
    });
    assert!(matches!(stopped, Err(Stop::Mine(1))));
    let mut damaged = file;
    damaged[9] ^= 1;
    let stopped = tipple_chunk::verify(Cursor::new(&damaged), &sealed, &mut decoder, |_, _| Ok(()));
    assert!(matches!(stopped, Err(Stop::Chunk)));
}
