//! A pipeline as small as can be: plans, reads every part through small buffers, keeps its frames, and loads them.

use std::io::Cursor;
use std::path::Path;

use serde_json::Value;
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, FrameSource, NewPart, Outcomes, Part, PartName, PlanBody, PlanRead, Planned,
    Planner, RecordReader, RecordWriter, Sink, Source, Stop,
};
use tipple_stream::{Event, EventRef, Numbering, Place};

const BUFFER_BYTES: usize = 64 << 10;

/// A dump in memory.
#[derive(Default)]
pub struct Dump {
    pub parts: Vec<Frames>,
    pub outcomes: Outcomes,
    pub planned: Planned,
    /// What the source said at the end.
    pub said: Value,
}

/// The raw frames of a part, with their numbers of records.
#[derive(Default)]
pub struct Frames {
    frames: Vec<(Vec<u8>, u32)>,
}

/// The plan of a part, as its object has it.
pub struct RangePart {
    name: PartName,
    body: Vec<u8>,
}

impl Dump {
    /// All events with their places, in their order.
    pub fn events(&self) -> Vec<(String, Event)> {
        let mut events = Vec::new();
        for part in &self.parts {
            let bytes = part.frames.iter().flat_map(|(bytes, _)| bytes);
            let bytes: Vec<u8> = bytes.copied().collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize + 4;
                let event = EventRef::parse(&rest[..length]).unwrap();
                events.push((event.place().text(event.numbering()), event.to_event()));
                rest = &rest[length..];
            }
        }
        events
    }

    pub fn outcome(&self, name: &str) -> u64 {
        let mut all = self.outcomes.outcomes().chain(self.outcomes.losses());
        all.find(|(found, _)| *found == name).map_or(0, |(_, n)| n)
    }

    /// A dump of these events.
    pub fn of(events: &[(Place, Numbering, Event)]) -> Self {
        let mut part = Frames::default();
        for (place, numbering, event) in events {
            let mut bytes = Vec::new();
            event.encode(*place, *numbering, &mut bytes).unwrap();
            part.frames.push((bytes, 1));
        }
        Self {
            parts: vec![part],
            ..Self::default()
        }
    }
}

impl Frames {
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

pub fn gate() -> Gate {
    Gate::new(Rates::default())
}

pub fn plan(source: &dyn Source, gate: &Gate) -> Result<(Planned, Vec<RangePart>), Stop> {
    source.check()?;
    let mut plan = Plan(Vec::new());
    let planned = source.plan(&mut plan, gate)?;
    Ok((planned, plan.0))
}

/// `block` is called when a buffer was filled, with how many there were.
pub fn read(
    source: &dyn Source,
    gate: &Gate,
    (planned, parts): (Planned, Vec<RangePart>),
    block: &mut dyn FnMut(usize),
) -> Result<Dump, Stop> {
    let memory = Budget::new("memory", 2 * BUFFER_BYTES as u64);
    let pool = BufferPool::new(2, BUFFER_BYTES, &memory).unwrap();
    let mut dump = Dump {
        planned,
        ..Dump::default()
    };
    let mut records = 0;
    let mut blocks = 0;
    {
        let mut reader = source.open()?;
        for part in &parts {
            let mut kept = Kept(Frames::default(), block, &mut blocks);
            let mut out = RecordWriter::new(gate, &pool, &mut kept);
            let mut outcomes = Outcomes::default();
            reader.read_part(part, &mut out, &mut outcomes)?;
            records += out.finish()?.records;
            dump.parts.push(kept.0);
            dump.outcomes.merge(&outcomes);
        }
    }
    dump.said = source.finish(&dump.planned, records, &dump.outcomes)?;
    Ok(dump)
}

pub fn dump(source: &dyn Source) -> Result<Dump, Stop> {
    let gate = gate();
    read(source, &gate, plan(source, &gate)?, &mut |_| ())
}

/// `frame` is called before each frame, with how many there were.
pub fn load_with(
    dump: &Dump,
    sink: &dyn Sink,
    gate: &Gate,
    frame: &mut dyn FnMut(usize),
) -> Result<(Value, Outcomes), Stop> {
    sink.check()?;
    let mut outcomes = Outcomes::default();
    let mut frames = 0;
    {
        let mut writer = sink.open(gate)?;
        for (n, part) in dump.parts.iter().enumerate() {
            let mut source = Fed {
                frames: &part.frames,
                at: None,
                frame,
                count: &mut frames,
            };
            let mut records = RecordReader::new(gate, &mut source);
            let name = format!("{n:08}").parse().unwrap();
            writer.write_part(&name, &mut records, &mut outcomes)?;
        }
    }
    Ok((sink.finish(&outcomes)?, outcomes))
}

pub fn load(dump: &Dump, sink: &dyn Sink) -> Result<Value, Stop> {
    Ok(load_with(dump, sink, &gate(), &mut |_| ())?.0)
}

struct Plan(Vec<RangePart>);

impl Planner for Plan {
    fn scratch_dir(&self) -> &Path {
        panic!("streams need no scratch folder")
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::Bytes(body) = part.body else {
            panic!("a range is a few bytes")
        };
        let name = format!("{:08}", self.0.len()).parse().unwrap();
        self.0.push(RangePart { name, body });
        Ok(())
    }
    fn listed(&mut self, _records: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        panic!("ranges are not listed again")
    }
}

impl Part for RangePart {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(Cursor::new(self.body.clone())))
    }
}

struct Kept<'k>(Frames, &'k mut dyn FnMut(usize), &'k mut usize);

impl Drain for Kept<'_> {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        *self.2 += 1;
        (self.1)(*self.2);
        let frames = block.frames();
        (self.0.frames).extend(frames.map(|(bytes, span)| (bytes.to_vec(), span.records)));
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        self.0.frames.clear();
        Ok(())
    }
}

struct Fed<'f> {
    frames: &'f [(Vec<u8>, u32)],
    at: Option<usize>,
    frame: &'f mut dyn FnMut(usize),
    count: &'f mut usize,
}

impl FrameSource for Fed<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        (self.frame)(*self.count);
        *self.count += 1;
        let next = self.at.map_or(0, |at| at + 1);
        self.at = Some(next);
        Ok(self.frames.get(next).map(|(_, records)| *records))
    }
    fn bytes(&self) -> &[u8] {
        let frame = self.at.and_then(|at| self.frames.get(at));
        frame.map_or(&[], |(bytes, _)| bytes)
    }
}
