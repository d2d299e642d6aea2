//! Parses arbitrary bytes as replies of a memcached, once whole and once cut in two: no panic, and the cut changes
//! nothing that was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_memcached::{Reply, check_data_end, parse_reply};

fuzz_target!(|input: (usize, &[u8])| {
    let (cut, bytes) = input;
    let whole = read(bytes);
    let cut = read(&bytes[..cut % (bytes.len() + 1)]);
    assert!(whole.starts_with(&cut), "a cut changed what was read");
});

fn read(mut bytes: &[u8]) -> Vec<String> {
    let mut read = Vec::new();
    while let Ok(Some((reply, length))) = parse_reply(bytes) {
        let text = format!("{reply:?}");
        let mut rest = &bytes[length..];
        if let Reply::Value { bytes, .. } = reply {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            let Some((_, after)) = rest.split_at_checked(length) else {
                break;
            };
            let Ok(Some(())) = check_data_end(after) else {
                break;
            };
            rest = &after[2..];
        }
        read.push(text);
        bytes = rest;
    }
    read
}
