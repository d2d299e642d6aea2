//! Records through the writer, the frames and the reader, and out again.

use proptest::prelude::*;
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, FRAME_BYTES_MAX, FrameSource, FrameSpan, Position, RecordReader, RecordWriter,
    Stop,
};

#[derive(Default)]
struct Keep {
    frames: Vec<(Vec<u8>, FrameSpan)>,
    at: Option<usize>,
}

impl Drain for Keep {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        self.frames
            .extend(block.frames().map(|(bytes, span)| (bytes.to_vec(), *span)));
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        self.frames.clear();
        Ok(())
    }
}

impl FrameSource for Keep {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.at.map_or(0, |at| at + 1);
        self.at = Some(next);
        Ok(self.frames.get(next).map(|(_, span)| span.records))
    }
    fn bytes(&self) -> &[u8] {
        self.at
            .and_then(|at| self.frames.get(at))
            .map_or(&[], |(bytes, _)| bytes)
    }
}

/// A record that tells its own number and length, so that a shift of one byte is seen.
fn record(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n * 31 + i * 7) as u8).collect()
}

/// Whether the writer is told how long a record will be.
#[derive(Clone, Copy, Debug)]
enum Lengths {
    Told,
    // Of every second record.
    HalfTold,
    Untold,
}

impl Lengths {
    fn told(self, n: usize) -> bool {
        match self {
            Self::Told => true,
            Self::HalfTold => n.is_multiple_of(2),
            Self::Untold => false,
        }
    }
}

fn write(lens: &[usize], buffer_bytes: usize, piece: usize, restart_at: Option<usize>) -> Keep {
    write_with(lens, buffer_bytes, piece, restart_at, Lengths::Told)
}

fn write_with(
    lens: &[usize],
    buffer_bytes: usize,
    piece: usize,
    restart_at: Option<usize>,
    lengths: Lengths,
) -> Keep {
    let gate = Gate::new(Rates::default());
    let memory = Budget::new("memory", 2 * buffer_bytes as u64);
    let pool = BufferPool::new(2, buffer_bytes, &memory).unwrap();
    let mut kept = Keep::default();
    let mut writer = RecordWriter::new(&gate, &pool, &mut kept);
    if let Some(n) = restart_at {
        for len in &lens[..n] {
            writer.record(&[&vec![0xEE; *len]], Position::NONE).unwrap();
        }
        if lengths.told(1) {
            writer.begin(1000, Position::NONE).unwrap();
        } else {
            writer.begin_open(Position::NONE).unwrap();
        }
        writer.append(&[0xEE; 999]).unwrap();
        writer.restart().unwrap();
    }
    for (n, len) in lens.iter().enumerate() {
        let bytes = record(n, *len);
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        let position = Position::from(n as u64);
        if lengths.told(n) {
            writer.record(&pieces, position).unwrap();
            continue;
        }
        writer.begin_open(position).unwrap();
        for piece in pieces {
            writer.append(piece).unwrap();
            writer.append(&[]).unwrap();
        }
        writer.end();
    }
    let written = writer.finish().unwrap();
    assert_eq!(written.records, lens.len() as u64);
    assert_eq!(written.bytes, lens.iter().sum::<usize>() as u64);
    kept
}

fn check(lens: &[usize], buffer_bytes: usize, mut kept: Keep) {
    let frame_bytes_max = buffer_bytes.min(FRAME_BYTES_MAX);
    // Every mark is true: walk the records beside the frames.
    let mut starts = lens.iter().scan(0, |at, len| {
        let start = *at;
        *at += len;
        Some(start)
    });
    let (mut begin, mut n, mut next) = (0, 0_u64, starts.next());
    for (bytes, span) in &kept.frames {
        assert!(!bytes.is_empty() && bytes.len() <= frame_bytes_max);
        let (first, first_n) = (next, n);
        let mut records = 0;
        while next.is_some_and(|start| start < begin + bytes.len()) {
            (records, n) = (records + 1, n + 1);
            next = starts.next();
        }
        assert_eq!(span.records, records);
        if records > 0 {
            assert_eq!(span.first_record, Some((first.unwrap() - begin) as u32));
            assert_eq!(span.position, Position::from(first_n));
        } else {
            assert_eq!(span.first_record, None);
        }
        begin += bytes.len();
        let ends_between = next.map_or(begin == lens.iter().sum::<usize>(), |start| start == begin);
        assert_eq!(span.open, !ends_between);
    }
    // And the bytes come back.
    let gate = Gate::new(Rates::default());
    let mut reader = RecordReader::new(&gate, &mut kept);
    for (n, len) in lens.iter().enumerate() {
        let mut bytes = vec![0; *len];
        if n % 5 == 4 {
            reader.skip(*len as u64).unwrap();
        } else {
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes == record(n, *len), "record {n} came back changed");
        }
        reader.end_record();
    }
    assert!(reader.fill().unwrap().is_empty());
    assert!(reader.read_exact(&mut [0]).is_err());
    assert_eq!(reader.records(), lens.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tipple_testkit::cases(200)))]
    #[test]
    fn any_records_come_back_through_any_buffer(
        lens in prop::collection::vec(prop_oneof![1_usize..50, 1_usize..5000, 60_000_usize..140_000], 0..60),
        buffer_bytes in prop_oneof![Just(64_usize << 10), 64_usize << 10..200 << 10],
        piece in prop_oneof![1_usize..40, 1000_usize..200_000],
        restart in any::<bool>(),
        lengths in prop_oneof![Just(Lengths::Told), Just(Lengths::HalfTold), Just(Lengths::Untold)],
    ) {
        let restart_at = restart.then_some(lens.len() / 2);
        check(&lens, buffer_bytes, write_with(&lens, buffer_bytes, piece, restart_at, lengths));
    }
}

#[test]
fn a_record_of_many_buffers_and_records_at_every_limit() {
    let frame = FRAME_BYTES_MAX;
    for lens in [
        vec![9 * frame + 17],
        vec![frame, frame, frame - 1, 1, 1, frame + 1, 1],
        vec![frame - 1, 2, frame * 2, 5, frame * 4],
        vec![1; 4097],
    ] {
        for buffer_bytes in [frame, 2 * frame, 2 * frame + 1, 3 * frame - 1] {
            for lengths in [Lengths::Told, Lengths::HalfTold, Lengths::Untold] {
                check(
                    &lens,
                    buffer_bytes,
                    write_with(&lens, buffer_bytes, 65_537, None, lengths),
                );
            }
        }
    }
}

/// Drives a writer through a mistake, which must panic.
fn misuse(mistake: impl FnOnce(&mut RecordWriter<'_>)) {
    let gate = Gate::new(Rates::default());
    let pool = BufferPool::new(1, 64 << 10, &Budget::new("memory", 64 << 10)).unwrap();
    let mut kept = Keep::default();
    mistake(&mut RecordWriter::new(&gate, &pool, &mut kept));
}

#[test]
#[should_panic(expected = "a record has no bytes")]
fn an_open_record_needs_a_byte() {
    misuse(|writer| {
        writer.begin_open(Position::NONE).unwrap();
        writer.append(&[]).unwrap();
        writer.end();
    });
}

#[test]
#[should_panic(expected = "a record was begun inside another")]
fn an_open_record_must_be_ended() {
    misuse(|writer| {
        writer.begin_open(Position::NONE).unwrap();
        writer.append(&[1]).unwrap();
        writer.begin_open(Position::NONE).unwrap();
    });
}

#[test]
#[should_panic(expected = "an open record gets its bytes by append")]
fn an_open_record_has_no_space_ahead() {
    misuse(|writer| {
        writer.begin_open(Position::NONE).unwrap();
        writer.space().unwrap();
    });
}

#[test]
fn a_small_record_is_never_cut() {
    let kept = write(&vec![1000; 5000], 3 << 20, 1000, None);
    assert!(kept.frames.iter().all(|(_, span)| !span.open));
    // Nor is room wasted: only the last frame of a buffer, and of the part, is shorter.
    let full = |(bytes, _): &&(Vec<u8>, FrameSpan)| bytes.len() > FRAME_BYTES_MAX - 1000;
    assert!(kept.frames.iter().filter(full).count() * 3 >= kept.frames.len() * 2);
}

#[test]
#[should_panic(expected = "a record got less than it was begun with")]
fn a_restart_forgets_that_a_record_was_open() {
    misuse(|writer| {
        writer.begin_open(Position::NONE).unwrap();
        writer.restart().unwrap();
        writer.begin(2, Position::NONE).unwrap();
        writer.append(&[1]).unwrap();
        writer.end();
    });
}
