//! Parses arbitrary bytes as a key file: no panic, and a ring that survives its own text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_chunk::KeyRing;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ring) = KeyRing::parse(bytes) {
        let line = ring.sealing().to_line();
        let again = KeyRing::parse(line.as_bytes()).expect("its own line");
        assert_eq!(again.sealing().id(), ring.sealing().id());
        assert_eq!(*again.sealing().to_line(), *line);
    }
});
