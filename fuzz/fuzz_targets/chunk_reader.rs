//! Opens arbitrary bytes as a chunk and reads all of its frames: no panic, no allocation beyond
//! the limits, and no frame that is not as long as the index says.
//!
//! A start corpus: `crates/tipple-chunk/tests/fixtures/v1`.
#![no_main]

use std::cell::RefCell;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tipple_chunk::{ChunkError, ChunkReader, Decoder};

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new().expect("memory for a decoder"));
}

fuzz_target!(|bytes: &[u8]| {
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
        let verified = reader.verify_all(decoder, |_, _| Ok::<_, ChunkError>(()));
        if let Ok(sealed) = verified {
            assert_eq!(sealed.stored_bytes, bytes.len() as u64);
        }
    });
});
