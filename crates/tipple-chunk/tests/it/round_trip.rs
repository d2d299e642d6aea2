//! What was written is what is read.

use proptest::prelude::*;
use tipple_chunk::{
    ChunkError, ChunkWriter, Codec, Encoder, ErrorKind, FRAME_BYTES_MAX, FrameMark,
    INDEX_BYTES_WRITTEN_MAX, POSITION_BYTES_MAX, Usage,
};

use crate::support::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_chunk_is_read_as_it_was_written(chunk in any_chunk(), codec in any_codec()) {
        let (file, sealed) = chunk.write(codec);
        chunk.assert_is(&file, &sealed);
        let raw = chunk.raw().len() as u64;
        prop_assert!(sealed.stored_bytes <= codec.chunk_bytes_max(raw, chunk.frames.len() as u64));
        let first = chunk.frames.first().map_or(&[][..], |frame| &frame.position);
        prop_assert_eq!(&sealed.first_position, first);
        prop_assert_eq!(&sealed.last_position, &chunk.last_position);
        prop_assert_eq!(sealed.begins_inside_record, chunk.begins_inside_record);
        prop_assert_eq!(sealed.ends_inside_record, chunk.ends_inside_record);
    }
}

#[test]
fn an_encoder_leaves_nothing_of_one_chunk_in_the_next() {
    let small = TestChunk::small();
    let large = TestChunk {
        frames: vec![TestFrame::new(&noise(FRAME_BYTES_MAX, 1), 9, &[1; 255]); 3],
        ..TestChunk::small()
    };
    for codec in [
        Codec::None,
        Codec::Zstd { level: 1 },
        Codec::Zstd { level: 19 },
    ] {
        let mut encoder = Encoder::new(codec).unwrap();
        let mut abandoned = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, true);
        abandoned
            .frame(b"never finished", FrameMark::default())
            .unwrap();
        drop(abandoned);
        for chunk in [&small, &large, &small, &large] {
            let (file, sealed) = chunk.write_with(&mut encoder);
            let (fresh, _) = chunk.write(codec);
            assert!(file == fresh);
            chunk.assert_is(&file, &sealed);
        }
    }
}

#[test]
fn the_bound_of_a_chunk_holds_where_it_is_tight() {
    let single_bytes: Vec<_> = (0..300)
        .map(|n| TestFrame::new(&[n as u8], 1, &[7; 255]))
        .collect();
    let full: Vec<_> = (0..4)
        .map(|n| TestFrame::new(&noise(FRAME_BYTES_MAX, n), 1, &[7; 255]))
        .collect();
    let one_over_a_block: Vec<_> = (0..9)
        .map(|n| TestFrame::new(&noise(131_073, n), 1, &[7; 255]))
        .collect();
    for frames in [vec![], single_bytes, full, one_over_a_block] {
        let chunk = TestChunk {
            frames,
            last_position: vec![1; 255],
            ..TestChunk::small()
        };
        let raw_bytes = chunk.raw().len() as u64;
        for codec in [
            Codec::None,
            Codec::Zstd { level: 1 },
            Codec::Zstd { level: -50 },
        ] {
            let (_, sealed) = chunk.write(codec);
            let bound = codec.chunk_bytes_max(raw_bytes, chunk.frames.len() as u64);
            assert!(
                sealed.stored_bytes <= bound,
                "{codec}: {} > {bound}",
                sealed.stored_bytes
            );
            assert!(bound < sealed.stored_bytes + sealed.stored_bytes / 128 + 70 * 300);
        }
    }
    assert_eq!(Codec::None.chunk_bytes_max(u64::MAX, u64::MAX), u64::MAX);
}

#[test]
fn a_chunk_is_full_when_its_index_is() {
    let mut encoder = Encoder::new(Codec::None).unwrap();
    let mut writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
    let mark = FrameMark {
        records: 1,
        first_record: Some(0),
        position: &[1; POSITION_BYTES_MAX],
    };
    while !writer.is_full() {
        writer.frame(b"x", mark).unwrap();
    }
    assert_eq!(writer.frames(), 3639);
    let error = writer.frame(b"x", mark).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    // A refusal is no failure: shorter positions fit for a while, and the chunk is sound.
    while writer.frame(b"y", FrameMark::default()).is_ok() {}
    let frames = writer.frames();
    let (file, sealed) = writer.finish(false, &[2; POSITION_BYTES_MAX]).unwrap();
    assert_eq!(sealed.frames, frames);
    assert!(sealed.stored_bytes <= Codec::None.chunk_bytes_max(u64::from(frames), frames.into()));
    let index_bytes = Parts::of(&file).table.last().unwrap()[0];
    assert!(u64::from(index_bytes) <= INDEX_BYTES_WRITTEN_MAX);
    assert_eq!(
        open(&file, Some(&sealed.index_sha256))
            .unwrap()
            .index()
            .frames
            .len(),
        frames as usize
    );
}

#[test]
fn the_most_frames_fit_the_encoders_memory() {
    let mut encoder = Encoder::new(Codec::None).unwrap();
    let mut writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
    while writer.frame(b"x", FrameMark::default()).is_ok() {}
    let (file, sealed) = writer.finish(false, b"").unwrap();
    assert_eq!(sealed.frames, 31_764);
    assert!(open(&file, None).is_ok());
}

#[test]
fn what_is_no_frame_is_refused_and_the_chunk_goes_on() {
    let mut encoder = Encoder::new(Codec::Zstd { level: 1 }).unwrap();
    let mut writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
    let mark = |records, first_record| FrameMark {
        records,
        first_record,
        position: b"",
    };
    let refused = writer.frame(b"", mark(0, None)).unwrap_err();
    assert!(matches!(refused, ChunkError::Usage(Usage::EmptyFrame)));
    for wrong in [
        mark(1, None),
        mark(0, Some(0)),
        mark(1, Some(4)),
        mark(2, Some(3)),
        mark(5, Some(0)),
        mark(u32::MAX, Some(u32::MAX)),
    ] {
        let refused = writer.frame(b"four", wrong).unwrap_err();
        assert!(
            matches!(refused, ChunkError::Usage(Usage::Mark { .. })),
            "{wrong:?}: {refused}"
        );
    }
    let refused = writer
        .frame(&vec![0; FRAME_BYTES_MAX + 1], mark(0, None))
        .unwrap_err();
    assert!(matches!(
        refused,
        ChunkError::TooLarge {
            quantity: "raw length",
            ..
        }
    ));
    let long = FrameMark {
        position: &[0; POSITION_BYTES_MAX + 1],
        ..FrameMark::default()
    };
    let refused = writer.frame(b"four", long).unwrap_err();
    assert!(matches!(
        refused,
        ChunkError::TooLarge {
            quantity: "position length",
            ..
        }
    ));
    assert_eq!(
        (writer.frames(), writer.stored_bytes(), writer.raw_bytes()),
        (0, 0, 0)
    );
    writer.frame(b"four", mark(4, Some(0))).unwrap();
    let (file, sealed) = writer.finish(false, b"").unwrap();
    assert_eq!(sealed.records, 4);
    assert!(open(&file, Some(&sealed.index_sha256)).is_ok());

    let writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
    let refused = writer.finish(false, &[0; 256]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
}

#[test]
fn there_is_no_frame_after_the_last() {
    let (file, _) = TestChunk::small().write(Codec::None);
    let mut decoder = tipple_chunk::Decoder::new().unwrap();
    let refused = open(&file, None)
        .unwrap()
        .read_frame(3, &mut decoder)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "frame 3 was asked for, but the chunk has 3 frames, counted from 0"
    );
}
