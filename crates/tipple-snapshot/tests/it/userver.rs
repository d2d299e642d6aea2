//! The bytes of userver's dumps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tipple_snapshot::userver::{UserverValue, from_bytes, to_bytes};

fn golden<T: UserverValue + PartialEq + Debug>(value: T, hex: &str) {
    let bytes = to_bytes(&value).unwrap();
    let found: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found.join(" "), hex, "{value:?}");
    assert_eq!(from_bytes::<T>(&bytes).unwrap(), value);
    for len in 0..bytes.len() {
        assert!(
            from_bytes::<T>(&bytes[..len]).is_err(),
            "{value:?} from {len} bytes"
        );
    }
}

/// What userver's own code writes.
#[test]
fn golden_bytes_of_the_original() {
    golden(0u64, "00");
    golden(127u64, "7f");
    golden(128u64, "80 80");
    golden(300u64, "81 2c");
    golden(16_383u64, "bf ff");
    golden(16_384u64, "c0 00 40 00");
    golden(65_536u64, "c0 01 00 00");
    golden(0x3EFF_FFFFu64, "fe ff ff ff");
    golden(0x3F00_0000u64, "ff 00 00 00 3f 00 00 00 00");
    golden(u64::from(u32::MAX), "ff ff ff ff ff 00 00 00 00");
    golden(1u64 << 40, "ff 00 00 00 00 00 01 00 00");
    golden(u64::MAX, "ff ff ff ff ff ff ff ff ff");
    golden(-5i32, "ff fb ff ff ff ff ff ff ff");
    golden(i64::MIN, "ff 00 00 00 00 00 00 00 80");
    golden(-5i8, "fb");
    golden(true, "01");
    golden(1.5f32, "00 00 c0 3f");
    golden(vec![1i32, 2, 5], "03 01 02 05");
    golden(
        BTreeMap::from([("a".to_owned(), 1i32), ("b".to_owned(), 2)]),
        "02 01 61 01 01 62 02",
    );
    golden(Some(42i32), "01 2a");
    golden(None::<i32>, "00");
    golden("what".to_owned(), "04 77 68 61 74");
    golden(Duration::from_millis(1), "40 42 0f 00 00 00 00 00");
    golden(
        SystemTime::UNIX_EPOCH - Duration::from_nanos(1),
        "ff ff ff ff ff ff ff ff",
    );
    golden(Arc::new(7u16), "01 07");
    golden((1u16, "x".to_owned()), "01 01 78");
    golden(BTreeSet::from([3u16, 1]), "02 01 03");
    golden(HashMap::from([(1u16, Box::new(2u16))]), "01 01 01 02");
}

#[test]
fn longer_forms_are_read_and_wrong_ones_are_not() {
    assert_eq!(from_bytes::<u16>(&[0x80, 5]).unwrap(), 5);
    assert_eq!(
        from_bytes::<u16>(&[0xFF, 5, 0, 0, 0, 0, 0, 0, 0]).unwrap(),
        5
    );
    fn error<T: UserverValue + Debug>(bytes: &[u8]) -> String {
        from_bytes::<T>(bytes).unwrap_err().to_string()
    }
    assert_eq!(error::<u16>(&[0xC0, 1, 0, 0]), "65536 is no u16");
    assert_eq!(
        error::<u32>(&to_bytes(&-1i32).unwrap()),
        "18446744073709551615 is no u32"
    );
    assert_eq!(error::<bool>(&[2]), "2 stands where 0 or 1 must");
    assert_eq!(error::<String>(&[1, 0xFF]), "a text is no UTF-8");
    assert_eq!(error::<Box<u8>>(&[0]), "a pointer is null");
    assert_eq!(
        error::<u8>(&[1, 2]),
        "unexpected extra data at the end of the dump: 1 of 2 bytes"
    );
    let hostile = [&[0xFF; 9][..], &[0; 20]].concat();
    assert!(error::<Vec<u64>>(&hostile).starts_with("a length of 18446744073709551615, with 20"));
}

proptest! {
    #[test]
    fn any_value_comes_back(value: (Vec<i64>, BTreeMap<String, Option<u32>>, f64), text in ".*") {
        let value = (value.0, value.1, text);
        let back: (Vec<i64>, BTreeMap<String, Option<u32>>, String) = from_bytes(&to_bytes(&value).unwrap()).unwrap();
        prop_assert_eq!(back, value);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = from_bytes::<Vec<(String, Option<i32>)>>(&bytes);
        let _ = from_bytes::<HashMap<u32, Vec<SystemTime>>>(&bytes);
    }
}
