//! Values of types that have only serde.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tipple_snapshot::testing::{assert_roundtrip, from_bytes, to_bytes};
use tipple_snapshot::tools::{Difference, SnapshotFile, diff};
use tipple_snapshot::{Dumpable, ErrorKind, Keys, Serde, SnapshotOptions, ValueTimes};

use crate::memory;
use crate::support::{HOUR, Place};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    numbers: (u8, i8, u16, i16, u32, i32, u64, i64),
    wide: (u128, u128, i128, i128),
    floats: (f32, f64, f64),
    texts: (String, char, String),
    options: [Option<Option<u32>>; 3],
    nothing: (),
    unit: Unit,
    wrapped: Wrapped,
    pairs: BTreeMap<(i32, bool), Vec<Unit>>,
    by_number: HashMap<i64, String>,
    addresses: Vec<IpAddr>,
    variants: Vec<Plain>,
    tagged: Vec<Tagged>,
    adjacent: Vec<Adjacent>,
    untagged: Vec<Untagged>,
    span: Duration,
    time: SystemTime,
    id: uuid::Uuid,
    bytes: Bytes,
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Box<u16>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Plain {
    Nothing,
    One(Option<u8>),
    Two(u8, String),
    Named { a: u8, b: Vec<Plain> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Tagged {
    Nothing,
    PerMinute { limit: u32, of: Option<IpAddr> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Nothing,
    One(i64),
    Two(u8, u8),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(i64),
    Text(String),
    List(Vec<Untagged>),
}

/// As `serde_bytes` does.
#[derive(Clone, Debug, PartialEq)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        from.deserialize_byte_buf(Visitor)
    }
}

fn everything() -> Everything {
    let nested = Plain::Named {
        a: 200,
        b: vec![Plain::Nothing, Plain::Two(1, "é".into())],
    };
    Everything {
        numbers: (
            255,
            -128,
            65_535,
            i16::MIN,
            u32::MAX,
            -1,
            u64::MAX,
            i64::MIN,
        ),
        wide: (u128::MAX, 7, i128::MIN, -7),
        floats: (1.5, f64::NEG_INFINITY, -0.0),
        texts: (String::new(), 'ß', "x".repeat(300_000)),
        options: [None, Some(None), Some(Some(128))],
        nothing: (),
        unit: Unit,
        wrapped: Wrapped(Box::new(300)),
        pairs: [((-5, true), vec![Unit, Unit]), ((0, false), vec![])].into(),
        by_number: [(-1, "a".into()), (1 << 40, "b".into())].into(),
        addresses: vec!["::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        variants: vec![
            Plain::Nothing,
            Plain::One(None),
            Plain::One(Some(3)),
            nested,
        ],
        tagged: vec![
            Tagged::Nothing,
            Tagged::PerMinute {
                limit: 60,
                of: Some("::2".parse().unwrap()),
            },
        ],
        adjacent: vec![Adjacent::Nothing, Adjacent::One(-3), Adjacent::Two(1, 2)],
        untagged: vec![
            Untagged::Number(-9),
            Untagged::List(vec![Untagged::Text("t".into())]),
        ],
        span: Duration::new(3, 200),
        time: SystemTime::UNIX_EPOCH + Duration::new(1 << 31, 5),
        id: uuid::Uuid::from_u128(7 << 100),
        bytes: Bytes(vec![0, 255, 7]),
        more: [("z".into(), serde_json::json!({"a": [1, null, {"b": 2.5}]}))].into(),
    }
}

#[test]
fn all_of_serde_comes_back() {
    assert_roundtrip(&Serde(everything()));
    assert_roundtrip(&vec![Some(Serde(everything())); 3]);
}

/// The bytes of FORMAT.md.
#[test]
fn golden_bytes_of_any() {
    fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + Send + 'static>(
        value: T,
        expected: &[u8],
    ) {
        let value = Serde(value);
        assert_eq!(to_bytes(&value).unwrap(), expected, "{value:?}");
        assert_eq!(from_bytes::<Serde<T>>(expected).unwrap(), value);
    }
    golden(127u8, &[0x7F]);
    golden(128u64, &[0xC4, 0x80, 1]);
    golden(-1i8, &[0xC5, 0]);
    golden(i64::MIN, b"\xC5\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F");
    golden(-300i128, &[0xC5, 0xAB, 2]);
    golden(1u128 << 64, b"\xC6\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02");
    golden(
        i128::from(i64::MIN) - 1,
        b"\xC7\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    );
    golden((true, false), &[0xCD, 2, 0xC3, 0xC2, 0xCF]);
    golden(1.5f32, &[0xC8, 0, 0, 0xC0, 0x3F]);
    golden(-0.5f64, &[0xC9, 0, 0, 0, 0, 0, 0, 0xE0, 0xBF]);
    golden("é".to_owned(), &[0x82, 0xC3, 0xA9]);
    golden("x".repeat(64), &[&[0xCA, 64], &[b'x'; 64][..]].concat());
    golden(Bytes(vec![1]), &[0xCB, 1, 1]);
    golden(
        (None::<u8>, Some(None::<u8>), ()),
        &[0xCD, 3, 0xC0, 0xCC, 0xC0, 0xC1, 0xCF],
    );
    golden(
        BTreeMap::from([("a".to_owned(), 1)]),
        &[0xCE, 1, 0x81, b'a', 1, 0xCF],
    );
    golden(Plain::Nothing, b"\x87Nothing");
    golden(Plain::One(None), b"\xCE\x01\x83One\xC0\xCF");
    golden(
        Plain::Named { a: 1, b: vec![] },
        b"\xCE\x01\x85Named\xCE\x02\x81a\x01\x81b\xCD\x00\xCF\xCF\xCF",
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Before {
    name: String,
    count: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct After {
    count: Option<u64>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(rename = "name")]
    title: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Other {
    name: Vec<u8>,
}

/// What serde can make of an old snapshot is made of it; what it cannot is tried no further, and left as it is.
#[test]
fn a_changed_type_reads_what_was_there() {
    let place = Place::new();
    let options = || SnapshotOptions {
        max_count: 5,
        ..SnapshotOptions::default()
    };
    let before = Serde(Before {
        name: "one".into(),
        count: 3,
    });
    let folder = place.folder(options());
    let at = |hours: u32| ValueTimes::at(SystemTime::now() - hours * HOUR);
    let old = folder
        .write(&Serde(Other { name: vec![7] }), at(2))
        .unwrap();
    let new = folder.write(&before, at(1)).unwrap();
    let after = folder.load::<Serde<After>>().loaded.unwrap();
    assert_eq!(after.value.title, "one");
    assert_eq!((after.value.count, after.value.tags.len()), (Some(3), 0));
    let found = folder.load::<Serde<Other>>();
    assert_eq!(found.loaded.unwrap().path, old.path);
    assert_eq!(found.failures[0].kind(), ErrorKind::Schema);
    assert_eq!(
        found.failures[0].to_string(),
        format!(
            "{}: the value does not fit its type: invalid type: string \"one\", expected a sequence",
            new.path.display()
        )
    );
    assert!(old.path.exists() && new.path.exists());
}

#[test]
fn elements_of_serde_are_counted() {
    fn count<T: Serialize + DeserializeOwned + Send + 'static>(value: T) -> Option<u64> {
        Serde(value).element_count()
    }
    assert_eq!(count(vec![1, 2]), Some(2));
    assert_eq!(count(HashMap::<u8, u8>::new()), Some(0));
    assert_eq!(count(Some((vec![1], [2, 3], "x", 4).0)), Some(1));
    assert_eq!(
        count((vec![1u8], BTreeMap::from([(1, 1)]), "x".to_owned())),
        Some(2)
    );
    assert_eq!(count("text".to_owned()), None);
    assert_eq!(
        count(Plain::Named {
            a: 1,
            b: vec![Plain::Nothing]
        }),
        Some(1)
    );
    // One whose length is told too late.
    assert_eq!(count(everything()), None);
    // So a source that is empty by mistake costs no snapshot.
    let place = Place::new();
    let folder = place.folder(SnapshotOptions::default());
    let error = folder
        .write(
            &Serde(HashMap::<u8, u8>::new()),
            ValueTimes::at(SystemTime::now()),
        )
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptyValue);
}

#[test]
fn a_map_of_serde_is_never_held_twice() {
    type Map = Serde<HashMap<u64, (String, u64)>>;
    let place = Place::new();
    let folder = place.folder(SnapshotOptions::default());
    let map: Map = Serde(
        (0..100_000u64)
            .map(|n| (n, (format!("{n:032}"), n)))
            .collect(),
    );
    let before = memory::peak_begin();
    folder
        .write(&map, ValueTimes::at(SystemTime::now()))
        .unwrap();
    let peak = memory::peak_since(before);
    assert!(peak < 2 << 20, "writing held {peak} bytes");
    let before = memory::peak_begin();
    let loaded = folder.load::<Map>().loaded.unwrap().value;
    let peak = memory::peak_since(before);
    // Serde reserves as it goes: a table that grows is there twice.
    let value = memory::peak_begin();
    let mut copy = HashMap::new();
    copy.extend(loaded.iter().map(|(key, value)| (*key, value.clone())));
    let value = memory::peak_since(value);
    assert!(
        peak < value + (4 << 20),
        "loading held {peak} bytes for a value of {value}"
    );
    assert!(copy == *map);
}

#[test]
fn hostile_bytes_of_any_are_refused() {
    fn refused<T: DeserializeOwned + Serialize + std::fmt::Debug + Send + 'static>(
        bytes: &[u8],
        why: &str,
    ) {
        let before = memory::peak_begin();
        let error = from_bytes::<Serde<T>>(bytes).unwrap_err();
        assert!(memory::peak_since(before) < 64 << 10, "{bytes:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let endless = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
    let claims = |tag: u8| [&[tag], &endless[..], &[1; 9]].concat();
    refused::<String>(&claims(0xCA), "a length of 18446744073709551615");
    refused::<Bytes>(&claims(0xCB), "a length of 18446744073709551615");
    refused::<Vec<[u64; 32]>>(&claims(0xCD), "invalid type: integer `1`");
    refused::<Vec<u64>>(&claims(0xCD), "the value ends before it is complete");
    refused::<HashMap<u8, u64>>(&claims(0xCE), "the value ends before it is complete");
    refused::<u8>(&[0xC4, 0x80, 2], "invalid value: integer `256`");
    refused::<i64>(&claims(0xC5)[..11], "0xc5 begins no value");
    refused::<u8>(&[0xD0], "0xd0 begins no value");
    refused::<Vec<u8>>(&[0xCF], "0xcf begins no value");
    refused::<String>(&[0x81, 0xFF], "no UTF-8");
    refused::<(u8, u8)>(&[0xCD, 2, 1, 2, 3, 0xCF], "it has more elements");
    refused::<u8>(&[1, 1], "1 bytes are left");
    refused::<Plain>(b"\xCE\x01\x83One\xC0\x83Two\xC0\xCF", "more than one value");
    refused::<Plain>(b"\x84Four", "unknown variant `Four`");
    refused::<serde_json::Value>(
        &[&[0xCD, 1].repeat(200)[..], &[0xCF; 200]].concat(),
        "nested deeper than 128",
    );
    let deep = (0..200).fold(serde_json::Value::Null, |inner, _| vec![inner].into());
    assert_eq!(to_bytes(&Serde(deep)).unwrap_err().kind(), ErrorKind::Value);
}

#[test]
fn tools_show_any_value() {
    let place = Place::new();
    let folder = place.folder(SnapshotOptions {
        max_count: 9,
        ..SnapshotOptions::default()
    });
    type Map = BTreeMap<i8, Tagged>;
    let write = |hours: u32, map: Map| {
        let times = ValueTimes::at(SystemTime::now() - hours * HOUR);
        folder.write(&Serde(map), times).unwrap().path
    };
    let limit = |limit| Tagged::PerMinute { limit, of: None };
    let old = write(
        2,
        [(-1, limit(5)), (2, Tagged::Nothing), (3, limit(1))].into(),
    );
    let new = write(
        1,
        [(-1, limit(6)), (2, Tagged::Nothing), (4, limit(1))].into(),
    );
    let open = |path| SnapshotFile::open(path, None, &Keys::none()).unwrap();
    let mut out = Vec::new();
    open(&old).verify().unwrap();
    open(&old).cat(&mut out, 9).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"key":-1,"value":{"kind":"per-minute","limit":5,"of":null}}
{"key":2,"value":{"kind":"nothing"}}
{"key":3,"value":{"kind":"per-minute","limit":1,"of":null}}
"#
    );
    assert_eq!(open(&old).inspect().schema, "any");
    let mut out = Vec::new();
    let difference = diff(&mut open(&old), &mut open(&new), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "~ -1\n+ 4\n- 3\n");
    let expected = Difference {
        added: 1,
        removed: 1,
        changed: 1,
        same: 1,
    };
    assert_eq!(difference, expected);
}

/// As JSON prints it, whatever it is.
#[test]
fn any_value_is_printed_as_json() {
    let place = Place::new();
    let folder = place.folder(SnapshotOptions {
        allow_empty: true,
        ..SnapshotOptions::default()
    });
    let printed = |value: &serde_json::Value| {
        let written = folder
            .write(
                // In another collection, so that it stays on its line.
                &vec![Serde(value.clone())],
                ValueTimes::at(SystemTime::now()),
            )
            .unwrap();
        let mut file = SnapshotFile::open(&written.path, None, &Keys::none()).unwrap();
        let mut out = Vec::new();
        file.cat(&mut out, 9).unwrap();
        serde_json::from_slice::<serde_json::Value>(&out).unwrap()
    };
    for value in [
        serde_json::json!({"a": {}, "b": [], "c": [[], [1, -300, 2.5, "é\n\"", null, true]]}),
        serde_json::json!({"a": {"b": {"c": u64::MAX}}, "d": "x".repeat(100)}),
        serde_json::json!(null),
    ] {
        assert_eq!(printed(&value), value);
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e300..1e300f64).prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..6)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_comes_back(value in json()) {
        assert_roundtrip(&Serde(value));
    }

    #[test]
    fn no_bytes_of_any_make_it_panic(bytes: Vec<u8>) {
        let _ = from_bytes::<Serde<serde_json::Value>>(&bytes);
        let _ = from_bytes::<Serde<Everything>>(&bytes);
        let _ = from_bytes::<Serde<Vec<Plain>>>(&bytes);
    }
}
