//! Parses arbitrary bytes as a line of a memcached's listing: no panic, and whatever is read is a key and an expiry time
//! that an item can have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tipple_memcached::{KEY_BYTES_MAX, ListedItem, NEVER};

fuzz_target!(|line: &[u8]| {
    let mut item = ListedItem::default();
    if item.read_line(line).is_ok() {
        assert!((1..=KEY_BYTES_MAX).contains(&item.key().len()));
        assert!(item.exptime >= NEVER);
    }
});
