//! Every type comes back as it was, and in the bytes that FORMAT.md says.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, LinkedList, VecDeque};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroI16, NonZeroU64, Wrapping};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tipple_snapshot::testing::{assert_roundtrip, from_bytes, to_bytes};
use tipple_snapshot::{DEPTH_MAX, Dumpable, ErrorKind, HashMap, HashSet, Schema};

#[derive(Clone, Debug, PartialEq, Dumpable)]
pub(crate) struct Item {
    pub(crate) id: u64,
    pub(crate) title: String,
    pub(crate) price: f64,
    pub(crate) weight: f64,
    pub(crate) stock: Option<u32>,
    pub(crate) seen: u64,
}

#[derive(Clone, Debug, PartialEq, Dumpable)]
enum Shape {
    Nothing,
    Circle(f32),
    Named { name: String, of: Vec<Shape> },
}

#[derive(Clone, Debug, PartialEq, Dumpable)]
struct Pair<A, B>(A, B);

#[derive(Clone, Debug, Default, PartialEq, Dumpable)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Dumpable)]
struct Tree {
    children: Vec<Tree>,
    next: Option<Box<Tree>>,
}

fn golden<T: Dumpable + PartialEq + Debug>(value: T, expected: &[u8]) {
    assert_eq!(to_bytes(&value).unwrap(), expected, "{value:?}");
    assert_roundtrip(&value);
}

/// Frozen: FORMAT.md.
#[test]
fn golden_bytes() {
    golden(0u64, &[0]);
    golden(127u64, &[0x7F]);
    golden(128u64, &[0x80, 1]);
    golden(300u16, &[0xAC, 2]);
    golden(u32::MAX, &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
    golden(
        u64::MAX,
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],
    );
    golden(
        usize::MAX >> 1,
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
    );
    golden(-1i64, &[1]);
    golden(1i64, &[2]);
    golden(-64i32, &[0x7F]);
    golden(
        i64::MIN,
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1],
    );
    let mut widest = [0xFF; 19];
    widest[18] = 3;
    golden(u128::MAX, &widest);
    golden(i128::MIN, &widest);
    golden(200u8, &[200]);
    golden(-2i8, &[0xFE]);
    golden(true, &[1]);
    golden(1.5f32, &[0, 0, 0xC0, 0x3F]);
    golden(-2.0f64, &[0, 0, 0, 0, 0, 0, 0, 0xC0]);
    golden('é', &[0xE9, 1]);
    golden("né".to_owned(), &[3, b'n', 0xC3, 0xA9]);
    golden((), &[]);
    golden(Unit, &[]);
    golden(Some(5u8), &[1, 5]);
    golden(None::<u8>, &[0]);
    golden(Ok::<u8, String>(1), &[0, 1]);
    golden(Err::<u8, String>("x".into()), &[1, 1, b'x']);
    golden(vec![1u16, 2, 5], &[3, 1, 2, 5]);
    golden(vec![1u8, 2, 5], &[3, 1, 2, 5]);
    golden([1u8, 2, 5], &[1, 2, 5]);
    golden(Vec::<u64>::new(), &[0]);
    golden(HashMap::<u64, u64>::default(), &[0]);
    golden(
        BTreeMap::from([("a".to_owned(), 1u8), ("b".to_owned(), 2)]),
        &[2, 1, b'a', 1, 1, b'b', 2],
    );
    golden(BTreeSet::from([3u8, 1]), &[2, 1, 3]);
    golden(Shape::Nothing, &[0]);
    golden(
        Shape::Named {
            name: "x".into(),
            of: vec![Shape::Nothing, Shape::Circle(1.5)],
        },
        &[2, 1, b'x', 2, 0, 1, 0, 0, 0xC0, 0x3F],
    );
    golden(Pair(7u8, true), &[7, 1]);
    golden(Duration::new(3, 200), &[3, 0xC8, 1]);
    golden(SystemTime::UNIX_EPOCH + Duration::from_secs(1), &[2, 0]);
    golden(
        SystemTime::UNIX_EPOCH - Duration::from_nanos(1),
        &[1, 0xFF, 0x93, 0xEB, 0xDC, 3],
    );
    golden(uuid::Uuid::from_bytes([7; 16]), &[7; 16]);
    golden(Ipv4Addr::LOCALHOST, &[127, 0, 0, 1]);
    golden(IpAddr::from(Ipv4Addr::LOCALHOST), &[0, 127, 0, 0, 1]);
    let mut set = HashSet::<u8>::with_hasher(tipple_snapshot::Seeded::with_seed(0x0102_0304));
    set.insert(9);
    golden(set, &[1, 4, 3, 2, 1, 0, 0, 0, 0, 9]);
}

#[test]
fn every_type_comes_back() {
    assert_roundtrip(&VecDeque::from([1u32, 2]));
    assert_roundtrip(&LinkedList::from([1u32, 2]));
    assert_roundtrip(&std::collections::HashMap::from([
        (1u8, vec![1.0f32]),
        (2, vec![]),
    ]));
    assert_roundtrip(&std::collections::HashSet::from([1u8, 2]));
    assert_roundtrip(&HashMap::from_iter((0..100u32).map(|n| (n, n.to_string()))));
    assert_roundtrip(&Box::new(5u8));
    assert_roundtrip(&Arc::new("five".to_owned()));
    assert_roundtrip(&Box::<str>::from("five"));
    assert_roundtrip(&Arc::<[u16]>::from([5, 6]));
    assert_roundtrip(&Cow::<'static, str>::Borrowed("five"));
    assert_roundtrip(&(1u8, 'x', Wrapping(3u16), NonZeroU64::MIN, NonZeroI16::MIN));
    assert_roundtrip(&"[::1]:80".parse::<SocketAddr>().unwrap());
    assert_roundtrip(&Ipv6Addr::LOCALHOST);
    assert_roundtrip(&(1u8..5));
    assert_roundtrip(&(1u8..=5));
    let heap = BinaryHeap::from([3u8, 1, 2]);
    let back: BinaryHeap<u8> = from_bytes(&to_bytes(&heap).unwrap()).unwrap();
    assert_eq!(back.into_sorted_vec(), [1, 2, 3]);
    let nan = f64::from_bits(0x7FF8_0000_0000_1234);
    for odd in [nan, -0.0, f64::INFINITY, f64::MIN_POSITIVE / 2.0] {
        let back: f64 = from_bytes(&to_bytes(&odd).unwrap()).unwrap();
        assert_eq!(back.to_bits(), odd.to_bits());
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![Just(Shape::Nothing), (-1e9f32..1e9).prop_map(Shape::Circle)];
    leaf.prop_recursive(4, 32, 4, |inner| {
        (".*", prop::collection::vec(inner, 0..4)).prop_map(|(name, of)| Shape::Named { name, of })
    })
}

proptest! {
    #[test]
    fn any_value_comes_back(
        a: (u8, u16, u32, u64, u128), b: (i8, i16, i32, i64, i128), text in ".*", bytes: Vec<u8>, shape in shapes(),
        map: BTreeMap<i32, Option<bool>>, nanos in 0u32..1_000_000_000, seconds in -1i64 << 40..1 << 40, c: char,
    ) {
        assert_roundtrip(&(a, b, text, bytes));
        assert_roundtrip(&(shape, map, c, Duration::new(a.3, nanos)));
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let time = match seconds {
            0.. => SystemTime::UNIX_EPOCH + whole,
            _ => SystemTime::UNIX_EPOCH - whole,
        };
        assert_roundtrip(&(time + Duration::from_nanos(nanos.into())));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = from_bytes::<Vec<Shape>>(&bytes);
        let _ = from_bytes::<(HashMap<u8, String>, SystemTime, char)>(&bytes);
        let _ = from_bytes::<(BTreeMap<String, u128>, Option<SocketAddr>)>(&bytes);
    }
}

#[test]
fn what_no_writer_writes_is_refused() {
    fn refused<T: Dumpable + Debug>(bytes: &[u8], why: &str) {
        let error = from_bytes::<T>(bytes).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    refused::<bool>(&[2], "2 stands where 0 or 1 must");
    refused::<Option<u8>>(&[7, 1], "7 stands where 0 or 1 must");
    refused::<Shape>(&[3], "Shape has the variants 0 to 2, but no 3");
    refused::<String>(&[2, 0xFF, 0xFE], "no UTF-8");
    refused::<char>(&[0x80, 0xB0, 3], "55296 is no char");
    refused::<u16>(&[0x80, 0x80, 4], "65536 is no u16");
    refused::<i16>(&[0x80, 0x80, 4], "32768 is no i16");
    refused::<u64>(&[0x80, 0], "more digits");
    refused::<u64>(&[0xFF; 11], "more digits");
    refused::<u64>(
        &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2],
        "more digits",
    );
    refused::<u128>(&[0xFF; 20], "more digits");
    refused::<NonZeroU64>(&[0], "0 is no NonZeroU64");
    refused::<BTreeMap<u8, u8>>(&[2, 1, 1, 1, 2], "a key is there twice");
    refused::<HashSet<u8>>(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], "a key is there twice");
    refused::<Duration>(&[0, 0x80, 0x94, 0xEB, 0xDC, 3], "more than a second");
    refused::<SystemTime>(
        &[
            0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0xFF, 0x93, 0xEB, 0xDC, 3, 0,
        ],
        "bytes are left",
    );
    refused::<Vec<u64>>(&[5, 1], "a length of 5");
    refused::<Vec<(u64, f64)>>(
        &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "a length of 2, of elements of 9 bytes",
    );
    refused::<u8>(&[1, 2], "1 bytes are left");
    refused::<u32>(&[], "ends before it is complete");
}

#[test]
fn depth_is_bounded_on_both_sides() {
    fn deep(levels: u32) -> Tree {
        let leaf = Tree {
            children: vec![],
            next: None,
        };
        (1..levels).fold(leaf, |next, _| Tree {
            children: vec![],
            next: Some(Box::new(next)),
        })
    }
    assert_roundtrip(&deep(DEPTH_MAX));
    let error = to_bytes(&deep(DEPTH_MAX + 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Value);
    let endless: Vec<u8> = [0, 1].repeat(10_000);
    let error = from_bytes::<Tree>(&endless).unwrap_err();
    assert!(
        error.to_string().contains("nested deeper than 128"),
        "{error}"
    );
}

#[test]
fn a_schema_is_what_the_bytes_mean() {
    fn same<A: Dumpable, B: Dumpable>() -> bool {
        Schema::of::<A>().fingerprint() == Schema::of::<B>().fingerprint()
    }
    #[derive(Dumpable)]
    struct Renamed {
        id: u64,
        title: Arc<str>,
        price: f64,
        weight: f64,
        stock: Box<Option<u32>>,
        seen: usize,
    }
    #[derive(Dumpable)]
    struct Swapped {
        id: u64,
        title: String,
        weight: f64,
        price: f64,
        stock: Option<u32>,
        seen: u64,
    }
    assert!(same::<Item, Renamed>());
    assert!(!same::<Item, Swapped>());
    assert!(same::<Vec<u8>, VecDeque<u8>>());
    assert!(same::<BTreeMap<u8, u8>, std::collections::HashMap<u8, u8>>());
    assert!(!same::<BTreeMap<u8, u8>, HashMap<u8, u8>>());
    assert!(!same::<u32, u64>());
    assert!(!same::<Vec<u8>, BTreeSet<u8>>());
    assert!(!same::<[u8; 3], [u8; 4]>());
    assert!(!same::<Option<u8>, bool>());
    assert_eq!(
        Schema::of::<HashMap<String, Item>>().to_string(),
        "map<text, Item { id: u64, title: text, price: f64, weight: f64, stock: option<u32>, seen: u64 }>"
    );
    assert!(Schema::of::<Tree>().to_string().contains('…'));
    // Frozen: a changed fingerprint would make every snapshot that is there one of another type.
    assert_eq!(
        Schema::of::<HashMap<String, Item>>().fingerprint(),
        809_770_620_406_149_056
    );
    let _ = (
        |it: Renamed| (it.id, it.title, it.price, it.weight, it.stock, it.seen),
        |it: Swapped| (it.id, it.title, it.price, it.weight, it.stock, it.seen),
    );
}

#[test]
fn elements_are_counted() {
    assert_eq!(7u8.element_count(), None);
    assert_eq!("text".to_owned().element_count(), None);
    assert_eq!(
        (vec![1u8, 2], 5u8, vec![vec![1u8]]).element_count(),
        Some(3)
    );
    assert_eq!(
        Pair(Vec::<u8>::new(), HashMap::<u8, u8>::default()).element_count(),
        Some(0)
    );
    assert_eq!(Some(Arc::new(vec![1u8])).element_count(), Some(1));
}
