//! Thousands of chunks that were changed at random, always the same ones: what a short run of the
//! fuzz target `chunk_reader` does, in every test run.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tipple_chunk::{Codec, Decoder, FRAME_BYTES_MAX};
use xxhash_rust::xxh64::xxh64;

use crate::memory::peak_of;
use crate::support::*;

#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Number {
        at: prop::sample::Index,
        value: u32,
    },
    Delete {
        at: prop::sample::Index,
        len: usize,
    },
    Copy {
        from: prop::sample::Index,
        to: prop::sample::Index,
        len: usize,
    },
    Insert {
        from: prop::sample::Index,
        to: prop::sample::Index,
        len: usize,
    },
    Cut {
        at: prop::sample::Index,
    },
    /// Makes the checksum of the index right again, so that what comes after it is reached.
    MendIndex,
}

impl Mutation {
    fn any() -> impl Strategy<Value = Mutation> {
        let at = || any::<prop::sample::Index>();
        let value = prop_oneof![
            0..20_u32,
            any::<u32>(),
            prop::sample::select(vec![u32::MAX, 1 << 31, 1 << 20, (1 << 20) + 1, 0x184D_2A57]),
        ];
        prop_oneof![
            4 => (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
            3 => (at(), value).prop_map(|(at, value)| Mutation::Number { at, value }),
            1 => (at(), 1..40_usize).prop_map(|(at, len)| Mutation::Delete { at, len }),
            1 => (at(), at(), 1..60_usize).prop_map(|(from, to, len)| Mutation::Copy { from, to, len }),
            1 => (at(), at(), 1..60_usize).prop_map(|(from, to, len)| Mutation::Insert { from, to, len }),
            1 => at().prop_map(|at| Mutation::Cut { at }),
        ]
    }

    fn apply(&self, file: &mut Vec<u8>) {
        if file.is_empty() {
            return;
        }
        match self {
            Mutation::Flip { at, bit } => {
                let at = at.index(file.len());
                file[at] ^= 1 << bit;
            }
            Mutation::Number { at, value } => {
                let at = at.index(file.len());
                let end = file.len().min(at + 4);
                file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Mutation::Delete { at, len } => {
                let at = at.index(file.len());
                file.drain(at..file.len().min(at + len));
            }
            Mutation::Copy { from, to, len } => {
                let (from, to) = (from.index(file.len()), to.index(file.len()));
                let len = (*len).min(file.len() - from.max(to));
                file.copy_within(from..from + len, to);
            }
            Mutation::Insert { from, to, len } => {
                let (from, to) = (from.index(file.len()), to.index(file.len()));
                let piece = file[from..file.len().min(from + len)].to_vec();
                file.splice(to..to, piece);
            }
            Mutation::Cut { at } => file.truncate(at.index(file.len())),
            Mutation::MendIndex => mend_index(file),
        }
    }
}

fn mend_index(file: &mut [u8]) {
    let Some(at) = file.windows(8).position(|window| window == b"TPLCHUNK") else {
        return;
    };
    let Some(index_at) = at.checked_sub(8) else {
        return;
    };
    let end = file
        .windows(4)
        .rposition(|window| window == 0x184D_2A5E_u32.to_le_bytes());
    let Some(end) = end.filter(|&end| end >= index_at + 24) else {
        return;
    };
    let checksum = xxh64(&file[index_at..end - 8], 0);
    file[end - 8..end].copy_from_slice(&checksum.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 6000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_240_917),
        ..Default::default()
    })]

    #[test]
    fn a_mutated_chunk_gives_nothing_that_was_not_written(
        zstd in any::<bool>(),
        mend in any::<bool>(),
        mutations in prop::collection::vec(Mutation::any(), 1..4),
    ) {
        let codec = if zstd { Codec::Zstd { level: 3 } } else { Codec::None };
        let chunk = TestChunk::small();
        let (original, _) = chunk.write(codec);
        let mut file = original.clone();
        let mend = mend.then_some(Mutation::MendIndex);
        for mutation in mutations.iter().chain(&mend) {
            mutation.apply(&mut file);
        }
        let mut decoder = Decoder::new().unwrap();
        let (frames, peak) = peak_of(|| read_all(&file, None, &mut decoder));
        prop_assert!(peak < (64 << 10) + FRAME_BYTES_MAX);
        for raw in frames.into_iter().flatten().flatten() {
            // An index whose checksum is mended may name the frames in another order, but what a
            // frame gives is always what was written as a frame.
            prop_assert!(chunk.frames.iter().any(|frame| frame.raw == raw));
        }
    }
}
