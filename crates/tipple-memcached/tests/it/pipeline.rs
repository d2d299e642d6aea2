//! A pipeline as small as can be: plans, reads every part through small buffers, and keeps the items.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, NewPart, Outcomes, Part, PartName, PlanBody, PlanRead, Planned, Planner,
    RecordWriter, Source, Stop,
};
use tipple_memcached::{
    MemcachedOptions, MemcachedSource, MemcachedUrl, RetryOptions, SourceOptions,
};

use crate::items::{Frames, Owned};

pub const BUFFER_BYTES: usize = 64 << 10;

/// What a dump came to.
#[derive(Debug)]
pub struct Dumped {
    pub items: Vec<Owned>,
    pub outcomes: Outcomes,
    pub planned: Planned,
    pub parts: usize,
    pub report: Value,
    /// How often a part was begun again.
    pub restarts: usize,
}

impl Dumped {
    /// The items by key, each once.
    pub fn by_key(&self) -> std::collections::BTreeMap<&[u8], &Owned> {
        let map: std::collections::BTreeMap<_, _> = self
            .items
            .iter()
            .map(|item| (&item.key[..], item))
            .collect();
        assert_eq!(map.len(), self.items.len(), "a key was dumped twice");
        map
    }

    pub fn outcome(&self, name: &str) -> u64 {
        let mut all = self.outcomes.outcomes().chain(self.outcomes.losses());
        all.find(|(found, _)| *found == name).map_or(0, |(_, n)| n)
    }
}

/// Things that happen while a job runs. Each is told how often it was called before.
pub struct Hooks<'h> {
    pub listed: &'h mut dyn FnMut(u64),
    pub planned: &'h mut dyn FnMut(),
    pub block: &'h mut dyn FnMut(usize),
    pub read: &'h mut dyn FnMut(),
}

/// Options that give up soon.
pub fn quick() -> MemcachedOptions {
    MemcachedOptions {
        retry: RetryOptions {
            // A server crawls by itself now and then, and is busy for as long.
            attempts_max: 40,
            pause: std::time::Duration::from_millis(1),
            pause_max: std::time::Duration::from_millis(10),
            ..RetryOptions::default()
        },
        ..MemcachedOptions::default()
    }
}

pub fn source(url: &MemcachedUrl, options: SourceOptions) -> MemcachedSource {
    MemcachedSource::new(url.clone(), quick(), options).unwrap()
}

pub fn dump(source: &MemcachedSource) -> Result<Dumped, Stop> {
    let gate = Gate::new(Rates::default());
    let mut hooks = Hooks {
        listed: &mut |_| (),
        planned: &mut || (),
        block: &mut |_| (),
        read: &mut || (),
    };
    run(source, &gate, &mut hooks)
}

pub fn run(source: &MemcachedSource, gate: &Gate, hooks: &mut Hooks<'_>) -> Result<Dumped, Stop> {
    let scratch = tempfile::tempdir().unwrap();
    let estimate = source.check()?;
    let mut plan = Plan {
        dir: scratch.path(),
        parts: Vec::new(),
        hooks,
    };
    let planned = source.plan(&mut plan, gate)?;
    let parts = plan.parts;
    let on_disk: u64 = parts
        .iter()
        .map(|part| part.path.metadata().unwrap().len())
        .sum();
    assert!(
        on_disk <= estimate.plan_bytes_max,
        "{on_disk} bytes of key files"
    );
    assert_eq!(
        std::fs::read_dir(&scratch).unwrap().count(),
        parts.len(),
        "nothing is left over"
    );
    (hooks.planned)();

    let memory = Budget::new("memory", 2 * BUFFER_BYTES as u64);
    let pool = BufferPool::new(2, BUFFER_BYTES, &memory).unwrap();
    let mut dumped = Dumped {
        items: Vec::new(),
        outcomes: planned.outcomes.clone(),
        planned,
        parts: parts.len(),
        report: Value::Null,
        restarts: 0,
    };
    {
        let mut reader = source.open()?;
        let mut blocks = 0;
        for part in &parts {
            let mut kept = Kept {
                frames: Frames::default(),
                block: hooks.block,
                blocks: &mut blocks,
                restarts: &mut dumped.restarts,
            };
            let mut out = RecordWriter::new(gate, &pool, &mut kept);
            let mut outcomes = Outcomes::default();
            reader.read_part(part, &mut out, &mut outcomes)?;
            let written = out.finish()?;
            assert_eq!(Some(written.records + outcomes.total()), part.records);
            dumped.items.extend(kept.frames.read()?);
            dumped.outcomes.merge(&outcomes);
        }
    }
    (hooks.read)();
    let records = dumped.items.len() as u64;
    dumped.report = source.finish(&dumped.planned, records, &dumped.outcomes)?;
    Ok(dumped)
}

struct Plan<'p, 'h> {
    dir: &'p Path,
    parts: Vec<KeyFilePart>,
    hooks: &'p mut Hooks<'h>,
}

impl Planner for Plan<'_, '_> {
    fn scratch_dir(&self) -> &Path {
        self.dir
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::File(path) = part.body else {
            panic!("a key file is a file")
        };
        assert_eq!(path.parent(), Some(self.dir));
        assert_eq!(part.extension, "keys.zst");
        assert!(part.records.unwrap() > 0);
        let name = format!("{:08}", self.parts.len()).parse().unwrap();
        self.parts.push(KeyFilePart {
            name,
            path,
            records: part.records,
        });
        Ok(())
    }
    fn listed(&mut self, records: u64) {
        (self.hooks.listed)(records);
    }
    fn restart(&mut self) -> Result<(), Stop> {
        // They are the planner's: void, but its own to remove.
        for part in self.parts.drain(..) {
            std::fs::remove_file(&part.path).unwrap();
        }
        Ok(())
    }
}

struct KeyFilePart {
    name: PartName,
    path: PathBuf,
    records: Option<u64>,
}

impl Part for KeyFilePart {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(File::open(&self.path).unwrap()))
    }
}

struct Kept<'k> {
    frames: Frames,
    block: &'k mut dyn FnMut(usize),
    blocks: &'k mut usize,
    restarts: &'k mut usize,
}

impl Drain for Kept<'_> {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        (self.block)(*self.blocks);
        *self.blocks += 1;
        self.frames.block(block)
    }
    fn restart(&mut self) -> Result<(), Stop> {
        *self.restarts += 1;
        self.frames.restart()
    }
}
