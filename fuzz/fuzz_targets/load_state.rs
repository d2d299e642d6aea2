//! Lets a load go on from a state file of arbitrary bytes, with the first line right or not: no panic, and a load that
//! ends well has applied every record or believes that an earlier one has.
//!
//! The dump that is loaded is the fixture `crates/tipple/tests/fixtures/v1/items`.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;
use tipple_budget::Gate;
use tipple_dump::{ErrorKind, Job, LoadOptions, load};
use tipple_flow::{
    Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink, Stop,
};
use tipple_memcached::ItemReader;
use tipple_store::{Access, open_store};

#[derive(Default)]
struct Count {
    fails: AtomicBool,
    items: AtomicU64,
}

impl Sink for Count {
    fn identity(&self) -> Identity {
        Identity {
            kind: "count".to_owned(),
            id: "it".into(),
        }
    }
    fn accepts(&self, content: &str, version: u16) -> bool {
        (content, version) == ("items", 1)
    }
    fn ordered(&self) -> bool {
        false
    }
    fn resume(&self) -> Resume {
        Resume::Idempotent
    }
    fn writer_bytes(&self) -> u64 {
        0
    }
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn open<'a>(&'a self, _: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        Ok(Box::new(Counting(self)))
    }
}

struct Counting<'a>(&'a Count);

impl PartWriter for Counting<'_> {
    fn write_part(
        &mut self,
        part: &PartName,
        records: &mut RecordReader<'_>,
        _: &mut Outcomes,
    ) -> Result<(), Stop> {
        if self.0.fails.load(Ordering::Relaxed) && part.as_str().ends_with('1') {
            return Err(Failure::new(Party::Sink, "on purpose").into());
        }
        let mut items = ItemReader::new(records);
        while items.next()?.is_some() {
            self.0.items.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn try_load(sink: &Count) -> Result<(), ErrorKind> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crates/tipple/tests/fixtures/v1/items"
    );
    let store = open_store(&dir.parse().expect("a path"), Access::Read, &tipple_store::StoreOptions::default()).expect("the fixture");
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(STATE_DIR.clone()),
        ..LoadOptions::default()
    };
    let loaded = load(&Job::default(), store.as_ref(), sink, &options);
    loaded.map(drop).map_err(|error| error.kind())
}

static STATE_DIR: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("tipple-fuzz-{}", std::process::id())));

/// Where the state is, and what a load that broke off after one part wrote there.
static STATE: LazyLock<(PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let sink = Count::default();
    sink.fails.store(true, Ordering::Relaxed);
    assert_eq!(try_load(&sink), Err(ErrorKind::Live));
    let mut files = std::fs::read_dir(&*STATE_DIR).expect("a folder");
    let path = files.next().expect("a state file").expect("a file").path();
    let bytes = std::fs::read(&path).expect("a state");
    assert_eq!(bytes.split(|byte| *byte == b'\n').count(), 3);
    (path, bytes)
});

fuzz_target!(|input: (u8, &[u8])| {
    let (keep, bytes) = input;
    let (path, good) = &*STATE;
    let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let mut state = lines[..usize::from(keep % 3)].concat();
    state.extend_from_slice(bytes);
    std::fs::write(path, state).expect("a temporary file");
    let sink = Count::default();
    match try_load(&sink) {
        // With its first line, any part may be said to be applied.
        Ok(()) => assert!(keep % 3 > 0 || bytes.contains(&b'\n') || sink.items.into_inner() == 403),
        Err(kind) => assert_eq!(kind, ErrorKind::Usage),
    }
});
