//! Reads arbitrary bytes, cut into arbitrary frames, as items: no panic, no allocation by a claimed length, and what
//! is read encodes to the same bytes again.
//!
//! A start corpus: `crates/tipple-memcached/tests/fixtures/items-v1.bin`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_budget::{Gate, Rates};
use tipple_flow::RecordReader;
use tipple_fuzz::Frames;
use tipple_memcached::{ItemReader, encode_header};

fuzz_target!(|input: (u16, &[u8])| {
    let (frame_bytes, bytes) = input;
    let mut frames = Frames::new(bytes, usize::from(frame_bytes).max(1));
    let gate = Gate::new(Rates::default());
    let mut records = RecordReader::new(&gate, &mut frames);
    let mut items = ItemReader::new(&mut records);
    let mut at = 0;
    while let Ok(Some(read)) = items.next() {
        let header = encode_header(&read.item, read.value_bytes);
        assert_eq!(bytes[at..at + header.len()], header);
        at += header.len();
        assert_eq!(&bytes[at..at + read.item.key.len()], read.item.key);
        at += read.item.key.len();
        if let Some(value) = read.value {
            assert_eq!(&bytes[at..at + value.len()], value);
        }
        at += read.value_bytes as usize;
    }
});
