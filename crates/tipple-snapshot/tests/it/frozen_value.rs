//! The value of the fixtures. Also a part of the program for a big-endian machine.

use std::time::{Duration, SystemTime};

use tipple_snapshot::{Dumpable, HashMap, Seeded};

/// Never to be changed.
#[derive(Debug, Dumpable, PartialEq)]
pub(crate) struct Frozen {
    id: u64,
    names: HashMap<String, Option<i32>>,
    list: Vec<u16>,
    kind: Kind,
}

#[derive(Debug, Dumpable, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Until { time: SystemTime },
}

pub(crate) fn value() -> Frozen {
    let mut names = HashMap::with_hasher(Seeded::with_seed(7));
    names.insert("only".to_owned(), Some(-5));
    Frozen {
        id: 300,
        names,
        // A section of two frames.
        list: (0..100_000u32).map(|n| n as u16).collect(),
        kind: Kind::Until {
            time: SystemTime::UNIX_EPOCH + Duration::new(5, 6),
        },
    }
}

/// Of its file.
pub(crate) const NAME: &str = "2020-10-28T174608.907090Z-v3";
