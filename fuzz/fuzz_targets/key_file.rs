//! Reads arbitrary bytes as the records of a key file, in a chunk whose checksums are right: no panic, and whatever is
//! read is a key and an expiry time that an item can have.
#![no_main]

use std::cell::RefCell;
use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use tipple_chunk::{ChunkWriter, Codec, Decoder, Encoder, FRAME_BYTES_MAX, FrameMark};
use tipple_memcached::{KEY_BYTES_MAX, KEYS, KeyFileReader, ListedItem, NEVER};

thread_local! {
    static CODECS: RefCell<(Encoder, Decoder)> = RefCell::new((
        Encoder::new(Codec::None).expect("memory for an encoder"),
        Decoder::new().expect("memory for a decoder"),
    ));
}

fuzz_target!(|input: (u8, &[u8])| {
    let (records, raw) = input;
    if raw.is_empty() || raw.len() > FRAME_BYTES_MAX {
        return;
    }
    CODECS.with_borrow_mut(|(encoder, decoder)| {
        let mut chunk = ChunkWriter::new(Vec::new(), encoder, &KEYS, false);
        let records = u32::from(records);
        let mark = FrameMark {
            records,
            first_record: (records > 0).then_some(0),
            position: b"",
        };
        if chunk.frame(raw, mark).is_err() {
            return;
        }
        let (file, _) = chunk.finish(false, b"").expect("a vector takes it");
        let Ok(mut reader) = KeyFileReader::open(Cursor::new(file), decoder) else {
            return;
        };
        let mut item = ListedItem::default();
        while let Ok(Some(mut keys)) = reader.next_frame(decoder) {
            while let Ok(true) = keys.next(&mut item) {
                assert!((1..=KEY_BYTES_MAX).contains(&item.key().len()));
                assert!(item.exptime >= NEVER);
            }
        }
    });
});
