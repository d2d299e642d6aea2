//! What a line looks like, byte for byte.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Serialize;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tipple_recorder::{Direction, Kind, Stream, trace};

use crate::support::{LONG, files, options, order, start, text};

/// The lines of records that `record` makes, without their times.
fn recorded(record: impl FnOnce(&Stream)) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let recorder = start(folder.path());
    record(&recorder.stream("orders"));
    recorder.shutdown(LONG);
    let text = text(&files(folder.path(), ".ndjson")[0]);
    let records = text.lines().filter(|line| line.contains(",\"s\":"));
    records
        .map(|line| {
            let (ts, rest) = line.split_once(',').unwrap();
            assert!(
                ts.strip_prefix("{\"ts\":").unwrap().parse::<u64>().unwrap()
                    > 1_700_000_000_000_000_000
            );
            format!("{{{rest}")
        })
        .collect()
}

#[derive(Serialize)]
struct Unit;

#[derive(Serialize)]
struct Wrapped(u32);

#[derive(Serialize)]
struct Pair(u8, &'static str);

#[derive(Serialize)]
enum Event {
    Started,
    Moved(i32),
    Both(u8, u8),
    Placed { id: u64 },
}

#[derive(Serialize)]
struct Flat {
    a: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[test]
fn every_kind_of_message_is_a_line_as_elfo_writes_it() {
    let _trace = trace::enter(4_618_619_813_630_050_305);
    let lines = recorded(|stream| {
        let keyed = stream.clone().key(0).class("default").protocol("bench");
        keyed.sent(&order(1));
        stream.received(&Unit);
        stream.record(Direction::Out, Kind::Request(4_294_967_297), &Wrapped(5));
        stream.record(
            Direction::In,
            Kind::Response(4_294_967_297),
            &Pair(1, "\u{1}\"\\\n\u{2028}é"),
        );
        stream.sent(&Event::Started);
        stream.sent(&Event::Moved(-3));
        stream.sent(&Event::Both(1, 2));
        stream.sent(&Event::Placed { id: 9 });
        stream.sent(&Flat {
            a: 1,
            rest: BTreeMap::from([("b".into(), 2)]),
        });
        stream.sent(&RawValue::from_string("{\"x\": [1,\n2]}".into()).unwrap());
        stream.sent("text");
        stream.sent(&Some(order(2)));
        stream
            .clone()
            .named("Other")
            .sent(&vec![f64::NAN, 1e300, 0.1]);
        stream.sent(&());
    });
    let own = r#"{"g":"orders","n":0,"s":N,"t":4618619813630050305,"th":1,"d":D,"cl":"default","mn":M,"mp":"","mk":"#;
    let expected = [
        r#"{"g":"orders","k":"0","n":0,"s":1,"t":4618619813630050305,"th":1,"d":"Out","cl":"default","mn":"Order","mp":"bench","mk":"Regular","m":{"order_id":1,"symbol":"SYM1","side":"Sell","price":0.25,"note":null}}"#.to_owned(),
        own.replace('D', "\"In\"").replace('M', "\"Unit\"") + r#""Regular","m":null}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Wrapped\"") + r#""Request","m":5,"c":4294967297}"#,
        own.replace('D', "\"In\"").replace('M', "\"Pair\"") + "\"Response\",\"m\":[1,\"\\u0001\\\"\\\\\\n\u{2028}é\"],\"c\":4294967297}",
        own.replace('D', "\"Out\"").replace('M', "\"Event::Started\"") + r#""Regular","m":"Started"}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Event::Moved\"") + r#""Regular","m":{"Moved":-3}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Event::Both\"") + r#""Regular","m":{"Both":[1,2]}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Event::Placed\"") + r#""Regular","m":{"Placed":{"id":9}}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Flat\"") + r#""Regular","m":{"a":1,"b":2}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"RawValue\"") + r#""Regular","m":{"x": [1, 2]}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"\"") + r#""Regular","m":"text"}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Order\"") + r#""Regular","m":{"order_id":2,"symbol":"SYM2","side":"Buy","price":0.5,"note":null}}"#,
        own.replace('D', "\"Out\"").replace('M', "\"Other\"") + r#""Regular","m":[null,1e+300,0.1]}"#,
        own.replace('D', "\"Out\"").replace('M', "\"\"") + r#""Regular","m":null}"#,
    ];
    for (at, (line, expected)) in lines.iter().zip(&expected).enumerate() {
        assert_eq!(*line, expected.replace(":N,", &format!(":{},", at + 1)));
    }
    assert_eq!(lines.len(), expected.len());
}

/// Any value that serde can be told of, with every call of a `Serializer`.
#[derive(Clone, Debug)]
pub enum Any {
    Null,
    Bool(bool),
    I64(i64),
    U64(u64),
    I128(i128),
    U128(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Text(String),
    Displayed(String),
    Bytes(Vec<u8>),
    Raw(u64),
    Some(Box<Any>),
    Newtype(Box<Any>),
    UnitVariant,
    NewtypeVariant(Box<Any>),
    Seq(Vec<Any>),
    Tuple(Vec<Any>),
    TupleVariant(Vec<Any>),
    Map(Vec<(Key, Any)>),
    Struct(Box<(Any, Any)>),
    StructVariant(Box<(Any, Any)>),
}

#[derive(Clone, Debug)]
pub enum Key {
    Text(String),
    I64(i64),
    U128(u128),
    Bool(bool),
    Char(char),
    F64(f64),
    F32(f32),
    Variant,
    Newtype(Box<Key>),
    Displayed(String),
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Key::Text(text) => serializer.serialize_str(text),
            Key::I64(number) => serializer.serialize_i64(*number),
            Key::U128(number) => serializer.serialize_u128(*number),
            Key::Bool(value) => serializer.serialize_bool(*value),
            Key::Char(c) => serializer.serialize_char(*c),
            Key::F64(number) => serializer.serialize_f64(*number),
            Key::F32(number) => serializer.serialize_f32(*number),
            Key::Variant => serializer.serialize_unit_variant("E", 0, "vari\"ant"),
            Key::Newtype(inner) => serializer.serialize_newtype_struct("N", inner),
            Key::Displayed(text) => serializer.collect_str(text),
        }
    }
}

impl Serialize for Any {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{
            SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
            SerializeTupleVariant,
        };
        match self {
            Any::Null => serializer.serialize_none(),
            Any::Bool(value) => serializer.serialize_bool(*value),
            Any::I64(number) => match i8::try_from(*number) {
                Ok(number) => serializer.serialize_i8(number),
                Err(_) => serializer.serialize_i64(*number),
            },
            Any::U64(number) => match u16::try_from(*number) {
                Ok(number) => serializer.serialize_u16(number),
                Err(_) => serializer.serialize_u64(*number),
            },
            Any::I128(number) => serializer.serialize_i128(*number),
            Any::U128(number) => serializer.serialize_u128(*number),
            Any::F32(number) => serializer.serialize_f32(*number),
            Any::F64(number) => serializer.serialize_f64(*number),
            Any::Char(c) => serializer.serialize_char(*c),
            Any::Text(text) => serializer.serialize_str(text),
            Any::Displayed(text) => serializer.collect_str(text),
            Any::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Any::Raw(number) => {
                let text = format!("{{ \"raw\" : [{number}, \"x\\n\"] }}");
                RawValue::from_string(text).unwrap().serialize(serializer)
            }
            Any::Some(inner) => serializer.serialize_some(inner),
            Any::Newtype(inner) => serializer.serialize_newtype_struct("N", inner),
            Any::UnitVariant => serializer.serialize_unit_variant("E", 0, "a\"b"),
            Any::NewtypeVariant(inner) => serializer.serialize_newtype_variant("E", 1, "B", inner),
            Any::Seq(all) => {
                let mut seq = serializer.serialize_seq(None)?;
                all.iter().try_for_each(|one| seq.serialize_element(one))?;
                seq.end()
            }
            Any::Tuple(all) => {
                let mut tuple = serializer.serialize_tuple(all.len())?;
                all.iter()
                    .try_for_each(|one| tuple.serialize_element(one))?;
                tuple.end()
            }
            Any::TupleVariant(all) => {
                let mut tuple = serializer.serialize_tuple_variant("E", 2, "C", all.len())?;
                all.iter().try_for_each(|one| tuple.serialize_field(one))?;
                tuple.end()
            }
            Any::Map(all) => {
                let mut map = serializer.serialize_map(Some(all.len()))?;
                all.iter()
                    .try_for_each(|(key, value)| map.serialize_entry(key, value))?;
                map.end()
            }
            Any::Struct(both) => {
                let mut fields = serializer.serialize_struct("S", 2)?;
                fields.serialize_field("first", &both.0)?;
                fields.skip_field("skipped")?;
                fields.serialize_field("sec\nond", &both.1)?;
                fields.end()
            }
            Any::StructVariant(both) => {
                let mut fields = serializer.serialize_struct_variant("E", 3, "D", 2)?;
                fields.serialize_field("first", &both.0)?;
                fields.serialize_field("second", &both.1)?;
                fields.end()
            }
        }
    }
}

pub fn anything() -> impl Strategy<Value = Any> {
    let key = prop_oneof![
        any::<String>().prop_map(Key::Text),
        any::<i64>().prop_map(Key::I64),
        any::<u128>().prop_map(Key::U128),
        any::<bool>().prop_map(Key::Bool),
        any::<char>().prop_map(Key::Char),
        any::<f64>().prop_map(Key::F64),
        any::<f32>().prop_map(Key::F32),
        Just(Key::Variant),
        any::<String>().prop_map(|text| Key::Newtype(Box::new(Key::Text(text)))),
        any::<String>().prop_map(Key::Displayed),
    ];
    let leaf = prop_oneof![
        Just(Any::Null),
        any::<bool>().prop_map(Any::Bool),
        any::<i64>().prop_map(Any::I64),
        any::<u64>().prop_map(Any::U64),
        any::<i128>().prop_map(Any::I128),
        any::<u128>().prop_map(Any::U128),
        any::<f32>().prop_map(Any::F32),
        any::<f64>().prop_map(Any::F64),
        any::<char>().prop_map(Any::Char),
        any::<String>().prop_map(Any::Text),
        any::<String>().prop_map(Any::Displayed),
        any::<Vec<u8>>().prop_map(Any::Bytes),
        any::<u64>().prop_map(Any::Raw),
        Just(Any::UnitVariant),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let many = prop::collection::vec(inner.clone(), 0..5);
        let both = (inner.clone(), inner.clone()).prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(Any::Some),
            boxed.clone().prop_map(Any::Newtype),
            boxed.prop_map(Any::NewtypeVariant),
            many.clone().prop_map(Any::Seq),
            many.clone().prop_map(Any::Tuple),
            many.prop_map(Any::TupleVariant),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(Any::Map),
            both.clone().prop_map(Any::Struct),
            both.prop_map(Any::StructVariant),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(tipple_testkit::cases(12)) })]

    /// Some hundred values at a time, since each case starts a recorder.
    #[test]
    fn the_message_is_what_serde_json_writes_of_it(values in prop::collection::vec(anything(), 1..300)) {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.config.max_size = Some(tipple_recorder::Bytes(8 << 20));
        let recorder = tipple_recorder::Recorder::start(options).unwrap();
        let stream = recorder.stream("any");
        let mut expected = Vec::new();
        for value in &values {
            // Only a key that is no text, or no finite number, cannot be written; both must find it so.
            stream.sent(value);
            expected.push(serde_json::to_string(value).ok());
        }
        let report = recorder.shutdown(LONG);
        let refused = expected.iter().filter(|json| json.is_none()).count() as u64;
        prop_assert_eq!(report.lost_for(tipple_recorder::Why::Error), refused);
        prop_assert_eq!(report.written + refused, values.len() as u64);
        let all = files(folder.path(), ".ndjson").first().map(|path| text(path)).unwrap_or_default();
        let mut lines = all.lines().filter(|line| line.contains(",\"s\":"));
        for json in expected.into_iter().flatten() {
            let line = lines.next().unwrap();
            let (_, message) = line.split_once(",\"m\":").unwrap();
            prop_assert_eq!(message, json + "}");
        }
    }
}
