//! How fast chunks are written and read on this machine, in MB of raw bytes per second and core:
//! `cargo run --release -p tipple-chunk --example throughput`.
#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use std::hint::black_box;
use std::io::{self, Cursor, IoSlice, Write};
use std::time::Instant;

use sha2::{Digest, Sha256};
use tipple_chunk::{
    Binding, ChunkError, ChunkReader, ChunkWriter, Codec, Content, Decoder, Encoder,
    FRAME_BYTES_MAX, FrameMark, KeyRing, Purpose, SealKey, SealWriter, SealedReader, verify,
};

const CONTENT: Content = Content::new("example", 1);
const BINDING: Binding<'static> = Binding {
    purpose: Purpose::Chunk,
    dump: "example",
    part: "example",
    number: 0,
};
const FRAMES: usize = 64;
const ROUNDS: usize = 8;

/// Takes everything and keeps nothing, so that only the encoder is measured.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(black_box(slices).iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), ChunkError> {
    let raw = records();
    let bytes = raw.len();

    measure("sha256 alone", bytes, || {
        black_box(Sha256::digest(&raw));
    });
    measure("sha256 of each MiB twice", bytes, || {
        let mut whole = Sha256::new();
        for frame in raw.chunks(FRAME_BYTES_MAX) {
            black_box(Sha256::digest(frame));
            whole.update(frame);
        }
        black_box(whole.finalize());
    });
    measure("xxh64 alone", bytes, || {
        black_box(xxhash_rust::xxh64::xxh64(&raw, 0));
    });
    measure("seal, with the sha256", bytes, || {
        seal(Nowhere, &raw).expect("seals");
    });
    let sealed = seal(Vec::new(), &raw)?;
    measure("open what was sealed", bytes, || {
        let input = Cursor::new(&sealed);
        let mut reader = SealedReader::open(input, &KeyRing::of(key()), &BINDING).expect("opens");
        io::copy(&mut reader, &mut io::sink()).expect("reads");
    });

    for codec in [
        Codec::None,
        Codec::Zstd { level: -5 },
        Codec::Zstd { level: 1 },
        Codec::default(),
    ] {
        let mut encoder = Encoder::new(codec)?;
        let mut decoder = Decoder::new()?;
        println!();
        measure(&format!("encode {codec}"), bytes, || {
            encode(Nowhere, &mut encoder, &raw).expect("encodes");
        });
        let (file, sealed) = {
            let mut writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
            fill(&mut writer, &raw)?;
            writer.finish(false, b"")?
        };
        measure(&format!("read frames {codec}"), bytes, || {
            let mut reader = ChunkReader::open(Cursor::new(&file), None).expect("opens");
            while let Some(frame) = reader.next_frame(&mut decoder).expect("reads") {
                black_box(frame.raw);
            }
        });
        measure(&format!("verify {codec}"), bytes, || {
            verify(Cursor::new(&file), &sealed, &mut decoder, |_, _| {
                Ok::<_, ChunkError>(())
            })
            .expect("verifies");
        });
        println!(
            "{:<28} {:>8.3}   encoder {} KiB, decoder {} KiB",
            format!("ratio {codec}"),
            bytes as f64 / file.len() as f64,
            codec.encoder_bytes() >> 10,
            tipple_chunk::decoder_bytes() >> 10,
        );
    }
    Ok(())
}

fn key() -> SealKey {
    SealKey::new("example".parse().expect("a name"), &[7; 32])
}

fn seal<W: Write>(out: W, plain: &[u8]) -> Result<W, ChunkError> {
    let mut writer = SealWriter::new(out, &key(), &BINDING)?;
    writer.write_all(plain).expect("takes everything");
    writer.finish().map(|(out, _)| out)
}

fn encode<W: Write>(out: W, encoder: &mut Encoder, raw: &[u8]) -> Result<(), ChunkError> {
    let mut writer = ChunkWriter::new(out, encoder, &CONTENT, false);
    fill(&mut writer, raw)?;
    writer.finish(false, b"").map(drop)
}

fn fill<W: Write>(writer: &mut ChunkWriter<'_, W>, raw: &[u8]) -> Result<(), ChunkError> {
    let mark = FrameMark {
        records: 1,
        first_record: Some(0),
        position: b"",
    };
    raw.chunks(FRAME_BYTES_MAX)
        .try_for_each(|frame| writer.frame(frame, mark))
}

/// Prints the best of some rounds.
fn measure(what: &str, bytes: usize, mut work: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    println!("{what:<28} {:>8.0} MB/s", bytes as f64 / best / 1e6);
}

/// 64 MiB that look like a cache's items: keys that repeat much, values that repeat little.
fn records() -> Vec<u8> {
    let mut raw = Vec::with_capacity(FRAMES * FRAME_BYTES_MAX + 1024);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    while raw.len() < FRAMES * FRAME_BYTES_MAX {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let user = state % 1_000_000;
        raw.extend_from_slice(format!("user:{user:08}:profile {{\"id\":{user},\"token\":\"{state:016x}\",\"visits\":{}}}\n", user % 97).as_bytes());
    }
    raw.truncate(FRAMES * FRAME_BYTES_MAX);
    raw
}
