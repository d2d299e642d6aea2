//! Items through frames and back, and bytes that are no items.

use std::path::Path;

use proptest::prelude::*;
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Content, Drain, FrameSource, Party, Position, RecordReader, RecordWriter, Stop,
};
use tipple_memcached::{
    HEADER_BYTES, Item, ItemReader, ItemsContent, NEVER, VALUE_BYTES_MAX, encode_header,
};

/// An item that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub flags: u32,
    pub exptime: i64,
    pub cas: u64,
    pub last_access: u32,
    pub fetched: bool,
}

impl Owned {
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            flags: 0,
            exptime: NEVER,
            cas: 0,
            last_access: 0,
            fetched: false,
        }
    }

    pub fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    pub fn exptime(self, exptime: i64) -> Self {
        Self { exptime, ..self }
    }

    pub fn item(&self) -> Item<'_> {
        Item {
            key: &self.key,
            flags: self.flags,
            exptime: self.exptime,
            cas: self.cas,
            last_access: self.last_access,
            fetched: self.fetched,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = encode_header(&self.item(), self.value.len() as u32);
        [&header[..], &self.key, &self.value].concat()
    }
}

/// The frames of a part.
#[derive(Default)]
pub struct Frames {
    pub frames: Vec<(Vec<u8>, u32)>,
    pub at: Option<usize>,
}

impl Frames {
    /// As the pipeline would cut them with buffers of this size.
    pub fn of(items: &[Owned], buffer_bytes: usize) -> Self {
        Self::written(buffer_bytes, |out| {
            for item in items {
                out.record(&[&item.bytes()], Position::NONE).unwrap();
            }
        })
    }

    pub fn written(buffer_bytes: usize, write: impl FnOnce(&mut RecordWriter<'_>)) -> Self {
        let gate = Gate::new(Rates::default());
        let memory = Budget::new("memory", 2 * buffer_bytes as u64);
        let pool = BufferPool::new(2, buffer_bytes, &memory).unwrap();
        let mut frames = Self::default();
        let mut out = RecordWriter::new(&gate, &pool, &mut frames);
        write(&mut out);
        out.finish().unwrap();
        frames
    }

    /// Any bytes, cut anywhere.
    pub fn raw(bytes: &[u8], frame_bytes: usize) -> Self {
        let frames = bytes.chunks(frame_bytes).map(|bytes| (bytes.to_vec(), 1));
        Self {
            frames: frames.collect(),
            at: None,
        }
    }

    /// The items as they come out.
    pub fn read(&mut self) -> Result<Vec<Owned>, Stop> {
        self.at = None;
        let gate = Gate::new(Rates::default());
        let mut records = RecordReader::new(&gate, self);
        let mut items = ItemReader::new(&mut records);
        let mut all = Vec::new();
        while let Some(read) = items.next()? {
            let item = read.item;
            let mut owned = Owned {
                key: item.key.to_vec(),
                value: read.value.unwrap_or_default().to_vec(),
                flags: item.flags,
                exptime: item.exptime,
                cas: item.cas,
                last_access: item.last_access,
                fetched: item.fetched,
            };
            let value_bytes = read.value_bytes as usize;
            loop {
                let piece = items.piece()?;
                if piece.is_empty() {
                    break;
                }
                owned.value.extend_from_slice(piece);
            }
            assert_eq!(owned.value.len(), value_bytes);
            all.push(owned);
        }
        items.finish()?;
        assert_eq!(records.records(), all.len() as u64);
        assert!(!records.in_record());
        Ok(all)
    }
}

impl Drain for Frames {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        let frames = block.frames();
        self.frames
            .extend(frames.map(|(bytes, span)| (bytes.to_vec(), span.records)));
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        self.frames.clear();
        Ok(())
    }
}

impl FrameSource for Frames {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.at.map_or(0, |at| at + 1);
        self.at = Some(next);
        Ok(self.frames.get(next).map(|(_, records)| *records))
    }
    fn bytes(&self) -> &[u8] {
        let frame = self.at.and_then(|at| self.frames.get(at));
        frame.map_or(&[], |(bytes, _)| bytes)
    }
}

/// Repeatable random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

fn failure(result: Result<Vec<Owned>, Stop>) -> (Party, String) {
    match result {
        Err(Stop::Failed(failure)) => (failure.party(), failure.to_string()),
        Err(stop) => panic!("{stop}"),
        Ok(items) => panic!("{} items", items.len()),
    }
}

fn any_item() -> impl Strategy<Value = Owned> {
    (
        prop::collection::vec(any::<u8>(), 1..=250),
        prop_oneof![0_usize..3, 0_usize..2000, 60_000_usize..200_000],
        any::<u8>(),
        any::<u32>(),
        prop_oneof![Just(NEVER), 0..i64::MAX],
        any::<u64>(),
        any::<u32>(),
        any::<bool>(),
    )
        .prop_map(
            |(key, len, fill, flags, exptime, cas, last_access, fetched)| Owned {
                key,
                value: (0..len).map(|n| fill.wrapping_add(n as u8)).collect(),
                flags,
                exptime,
                cas,
                last_access,
                fetched,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tipple_testkit::cases(100)))]
    #[test]
    fn any_items_come_back_through_any_frames(
        items in prop::collection::vec(any_item(), 0..12),
        frame_bytes in prop_oneof![1_usize..300, 1000_usize..100_000],
    ) {
        prop_assert_eq!(&Frames::of(&items, 64 << 10).read().unwrap(), &items);
        // Also cut where no writer would cut.
        let bytes: Vec<u8> = items.iter().flat_map(Owned::bytes).collect();
        let mut raw = Frames::raw(&bytes, frame_bytes);
        prop_assert_eq!(&raw.read().unwrap(), &items);
        // Skipped, and as JSON, one record at a time.
        let gate = Gate::new(Rates::default());
        raw.at = None;
        let mut records = RecordReader::new(&gate, &mut raw);
        for (n, item) in items.iter().enumerate() {
            if n % 2 == 0 {
                prop_assert!(ItemsContent.skip(&mut records).unwrap());
            } else {
                let mut line = Vec::new();
                prop_assert!(ItemsContent.write_json(&mut records, &mut line).unwrap());
                let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
                prop_assert_eq!(json["cas"].as_u64(), Some(item.cas));
            }
            prop_assert_eq!(records.records(), n as u64 + 1);
        }
        prop_assert!(!ItemsContent.skip(&mut records).unwrap());
    }
}

#[test]
fn values_are_skipped_where_nobody_reads_them() {
    let items: Vec<Owned> = (0..40)
        .map(|n| Owned::new(format!("k{n}"), vec![n; usize::from(n) * 700]))
        .collect();
    let bytes: Vec<u8> = items.iter().flat_map(Owned::bytes).collect();
    let gate = Gate::new(Rates::default());
    for frame_bytes in [1, 7, 1000, 30_000] {
        let mut frames = Frames::raw(&bytes, frame_bytes);
        let mut records = RecordReader::new(&gate, &mut frames);
        let mut reader = ItemReader::new(&mut records);
        for item in &items {
            let read = reader.next().unwrap().unwrap();
            assert_eq!(read.item, item.item());
            if item.key.len() % 2 == 0 && read.value.is_none() {
                // Begun, and left.
                reader.piece().unwrap();
            }
        }
        assert!(reader.next().unwrap().is_none());
    }
}

#[test]
fn json_shows_what_is_text_as_text() {
    let items = [
        Owned {
            cas: u64::MAX,
            last_access: 1_700_000_000,
            fetched: true,
            ..Owned::new("k\"ö", "v\n")
                .flags(u32::MAX)
                .exptime(2_000_000_000)
        },
        Owned::new(b"\xff".to_vec(), b"\x80\x00".to_vec()),
    ];
    let gate = Gate::new(Rates::default());
    let mut frames = Frames::of(&items, 64 << 10);
    let mut records = RecordReader::new(&gate, &mut frames);
    let mut lines = Vec::new();
    while ItemsContent.write_json(&mut records, &mut lines).unwrap() {
        lines.push(b'\n');
    }
    assert_eq!(
        String::from_utf8(lines).unwrap(),
        concat!(
            r#"{"key":"k\"ö","value":"v\n","flags":4294967295,"exptime":2000000000,"cas":18446744073709551615,"last_access":1700000000,"fetched":true}"#,
            "\n",
            r#"{"key":{"base64":"/w=="},"value":{"base64":"gAA="},"flags":0,"exptime":-1,"cas":0,"last_access":null,"fetched":false}"#,
            "\n",
        )
    );
}

/// Stable: whoever changes the layout must make a new version of it.
#[test]
fn the_frozen_fixture_reads_as_ever() {
    let expected = [
        Owned {
            key: b"k".to_vec(),
            value: b"v".to_vec(),
            flags: 0x0102_0304,
            exptime: 0x0506_0708_090A_0B0C,
            cas: 0x0D0E_0F10_1112_1314,
            last_access: 0x1516_1718,
            fetched: true,
        },
        Owned::new(b"\x00\r\n\xff".to_vec(), Vec::new()),
        Owned::new(vec![b'x'; 250], vec![0xAB; 300]).exptime(0),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/items-v1.bin");
    let bytes: Vec<u8> = expected.iter().flat_map(Owned::bytes).collect();
    let frozen = std::fs::read(path).unwrap();
    assert_eq!(frozen, bytes, "what is written");
    assert_eq!(Frames::raw(&frozen, 1 << 20).read().unwrap(), expected);
    // The first record, byte by byte, as FORMAT.md has it.
    assert_eq!(
        frozen[..34],
        [
            30, 0, 0, 0, 1, 1, 0, 0, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0xC, 0xB, 0xA, 9, 8, 7, 6,
            5, 0x14, 0x13, 0x12, 0x11, 0x10, 0xF, 0xE, 0xD, b'k', b'v'
        ]
    );
}

#[test]
fn what_is_no_item_is_named_with_its_number() {
    let good = Owned::new("key", "value").bytes();
    for (at, byte, named) in [
        (4, 0, "its key length is 0, not 1 to 250"),
        (4, 251, "its key length is 251, not 1 to 250"),
        (5, 2, "its bits are 0x02"),
        (6, 1, "its reserved bytes are 0x01 0x00"),
        (7, 9, "its reserved bytes are 0x00 0x09"),
        (16, 0xFE, "its exptime is -2, below -1"),
        (
            0,
            30,
            "its body length is 30, less than header and key need",
        ),
    ] {
        let mut bytes = [good.clone(), good.clone()].concat();
        bytes[good.len() + at] = byte;
        for frame_bytes in [5, good.len(), 1 << 20] {
            let (party, message) = failure(Frames::raw(&bytes, frame_bytes).read());
            assert_eq!(party, Party::Content);
            assert!(
                message.starts_with(&format!("record 2 is no item: {named}")),
                "{message}"
            );
        }
    }
    // Longer than any value can be written.
    let mut bytes = good.clone();
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let (party, message) = failure(Frames::raw(&bytes, 1 << 20).read());
    assert_eq!(party, Party::Content);
    assert!(
        message.contains("is no item: its value has ")
            && message.contains("bytes, more than 4294967017"),
        "{message}"
    );
    // A length that promises more than there is costs nothing but the error.
    let mut bytes = good.clone();
    let longest = 28 + u32::from(good[4]) + VALUE_BYTES_MAX;
    bytes[..4].copy_from_slice(&longest.to_le_bytes());
    for (cut, inside) in [
        (bytes.len(), "its value"),
        (34, "its key"),
        (7, "its header"),
    ] {
        let (party, message) = failure(Frames::raw(&bytes[..cut], 1 << 20).read());
        assert_eq!(party, Party::Content);
        assert!(
            message.starts_with(&format!("the part ends inside record 1, in {inside}")),
            "{message}"
        );
    }
}

#[test]
fn mutated_bytes_never_panic() {
    let mut random = Random(0x1717);
    let good: Vec<u8> = (0..8)
        .flat_map(|n| Owned::new(random.bytes(1 + n * 35), random.bytes(n * 40)).bytes())
        .collect();
    let (mut read, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random(seed);
        let mut bytes = good.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.below(256) as u8,
                2 => drop(bytes.drain(at..)),
                _ => drop(bytes.splice(at..at, random.bytes(3))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        match Frames::raw(&bytes, 1 + random.below(400)).read() {
            Ok(_) => read += 1,
            Err(Stop::Failed(failure)) => {
                assert_eq!(failure.party(), Party::Content, "seed {seed}");
                refused += 1;
            }
            Err(stop) => panic!("seed {seed}: {stop}"),
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

#[test]
fn headers_refuse_what_no_item_has() {
    let panics = |item: Owned, value_bytes| {
        std::panic::catch_unwind(|| encode_header(&item.item(), value_bytes)).is_err()
    };
    assert!(panics(Owned::new("", ""), 0));
    assert!(panics(Owned::new(vec![0; 251], ""), 0));
    assert!(panics(Owned::new("k", "").exptime(-2), 0));
    assert!(panics(Owned::new("k", ""), VALUE_BYTES_MAX + 1));
    assert!(!panics(Owned::new(vec![0; 250], ""), VALUE_BYTES_MAX));
    let bytes = Owned::new("k", "vv").bytes();
    assert_eq!(bytes.len(), HEADER_BYTES + 3);
}
