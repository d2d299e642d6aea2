//! Opens arbitrary bytes as a sealed object and reads what it gives: no panic, no allocation beyond a segment, and nothing
//! that is not of what was sealed. Nobody guesses a tag, so the bytes are also laid over a sealed object: as edits of it.
//!
//! A start corpus: `crates/tipple-chunk/tests/fixtures/v1/example.sealed`.
#![no_main]

use std::io::{Cursor, Read};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tipple_chunk::{Binding, KeyRing, Purpose, SealKey, SealedReader};
use xxhash_rust::xxh64::xxh64;

const SEALED: &[u8] = include_bytes!("../../crates/tipple-chunk/tests/fixtures/v1/example.sealed");
const BINDING: Binding<'static> = Binding {
    purpose: Purpose::Chunk,
    dump: "0123456789abcdef",
    part: "p-00000042",
    number: 7,
};

static KEYS: LazyLock<KeyRing> = LazyLock::new(|| {
    let bytes = std::array::from_fn(|n| n as u8);
    KeyRing::of(SealKey::new("example".parse().expect("a name"), &bytes))
});
static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| read(SEALED).expect("the example opens"));

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // Once more with the right checksum, so that the fields of the header are looked at.
    if let Some(covered) = bytes.get(..136) {
        let mut mended = bytes.to_vec();
        if let Some(checksum) = mended.get_mut(136..144) {
            checksum.copy_from_slice(&xxh64(covered, 0).to_le_bytes());
            check(&mended);
        }
    }
    // Edits: where (3 bytes), what (1 byte); and where it ends.
    let mut edited = SEALED.to_vec();
    for edit in bytes.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize;
        match edited.get_mut(at) {
            Some(byte) => *byte ^= edit[3],
            None => edited.resize(at.min(2 * SEALED.len()), edit[3]),
        }
    }
    check(&edited);
});

fn check(bytes: &[u8]) {
    if let Some(plain) = read(bytes) {
        assert!(bytes == SEALED, "something else opened");
        assert!(plain == *PLAIN);
    }
}

/// All of it, or nothing; whatever came before an error must be the beginning of the example.
fn read(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SealedReader::open(Cursor::new(bytes), &KEYS, &BINDING).ok()?;
    let mut plain = Vec::new();
    match reader.read_to_end(&mut plain) {
        Ok(_) => Some(plain),
        Err(_) => {
            assert!(PLAIN.starts_with(&plain));
            None
        }
    }
}
