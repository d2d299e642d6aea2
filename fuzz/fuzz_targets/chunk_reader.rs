//! Opens arbitrary bytes as a chunk and reads all of its frames: no panic, no allocation beyond
//! the limits, and no frame that is not as long as the index says.
//!
//! A start corpus: `crates/tipple-chunk/tests/fixtures/v1`.
#![no_main]

use std::cell::RefCell;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tipple_chunk::{ChunkError, ChunkReader, Decoder};
use xxhash_rust::xxh64::xxh64;

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new().expect("memory for a decoder"));
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // No fuzzer guesses a checksum: once more with the right one, so that the index is parsed.
    if let Some(mended) = mend_index(bytes) {
        read(&mended);
    }
});

fn read(bytes: &[u8]) {
    let Ok(mut reader) = ChunkReader::open(Cursor::new(bytes), None) else {
        return;
    };
    DECODER.with_borrow_mut(|decoder| {
        let frames = reader.index().frames.clone();
        for (number, entry) in frames.iter().enumerate() {
            if let Ok(raw) = reader.read_frame(number, decoder) {
                assert_eq!(raw.len(), entry.raw_len as usize);
            }
        }
        if let Ok(sealed) = reader.verify_all(decoder, |_, _| Ok::<_, ChunkError>(())) {
            assert_eq!(sealed.stored_bytes, bytes.len() as u64);
        }
    });
}

/// The same bytes with the right checksum at the end of the index, if they have an index.
fn mend_index(bytes: &[u8]) -> Option<Vec<u8>> {
    let from_end = |back: usize| {
        let at = bytes.len().checked_sub(back)?;
        Some(u32::from_le_bytes(*bytes[at..].first_chunk()?) as usize)
    };
    let table_bytes = from_end(9)?.checked_mul(12)? + 17;
    let end = bytes.len().checked_sub(table_bytes)?;
    let begin = end.checked_sub(from_end(21)?)?;
    let checksum_at = end.checked_sub(8).filter(|&at| at >= begin)?;
    let mut mended = bytes.to_vec();
    let checksum = xxh64(&bytes[begin..checksum_at], 0);
    mended[checksum_at..end].copy_from_slice(&checksum.to_le_bytes());
    Some(mended)
}
