//! The pipeline's place, taken by plain memory.

use std::io::Cursor;
use std::path::Path;

use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, FrameSource, NewPart, Outcomes, Part, PartName, PlanBody, PlanRead, Planner,
    RecordReader, RecordWriter, Sink, Source, Stop,
};
use tipple_stream::{Event, EventRef, Numbering, Place};

/// Small, so that something happens in the middle of everything.
const BUFFER_BYTES: usize = 64 << 10;

/// A planned part.
pub struct Plan {
    name: PartName,
    body: Vec<u8>,
}

impl Part for Plan {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(Cursor::new(self.body.clone())))
    }
}

struct Plans<'a> {
    plans: Vec<Plan>,
    /// When a part was planned.
    act: Box<dyn FnMut() + 'a>,
}

impl Planner for Plans<'_> {
    fn scratch_dir(&self) -> &Path {
        unreachable!("streams need no scratch")
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::Bytes(body) = part.body else {
            unreachable!("streams plan ranges")
        };
        let name = format!("{:08}", self.plans.len()).parse().unwrap();
        self.plans.push(Plan { name, body });
        (self.act)();
        Ok(())
    }
    fn listed(&mut self, _records: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        unreachable!("streams do not break off")
    }
}

pub fn gate() -> Gate {
    Gate::new(Rates::default())
}

pub fn plan(source: &dyn Source) -> Vec<Plan> {
    try_plan(source).unwrap()
}

pub fn try_plan(source: &dyn Source) -> Result<Vec<Plan>, Stop> {
    plan_watched(source, || {})
}

/// The same; `act` when a part was planned.
pub fn plan_watched(source: &dyn Source, act: impl FnMut()) -> Result<Vec<Plan>, Stop> {
    let mut plans = Plans {
        plans: Vec::new(),
        act: Box::new(act),
    };
    source.plan(&mut plans, &gate())?;
    Ok(plans.plans)
}

/// Frames, and what happens when one of them comes or goes.
pub struct Frames<'a> {
    frames: Vec<(Vec<u8>, u32)>,
    at: Option<usize>,
    act: Box<dyn FnMut(usize) + 'a>,
}

impl<'a> Frames<'a> {
    fn new(act: impl FnMut(usize) + 'a) -> Self {
        Self {
            frames: Vec::new(),
            at: None,
            act: Box::new(act),
        }
    }
}

impl Drain for Frames<'_> {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        for (bytes, span) in block.frames() {
            (self.act)(self.frames.len());
            self.frames.push((bytes.to_vec(), span.records));
        }
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        unreachable!("streams go on where they were")
    }
}

impl FrameSource for Frames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.at.map_or(0, |at| at + 1);
        self.at = Some(next);
        (self.act)(next);
        Ok(self.frames.get(next).map(|(_, records)| *records))
    }
    fn bytes(&self) -> &[u8] {
        let frame = self.at.and_then(|at| self.frames.get(at));
        frame.map_or(&[], |(bytes, _)| bytes)
    }
}

fn pool() -> BufferPool {
    let memory = Budget::new("memory", 2 * BUFFER_BYTES as u64);
    BufferPool::new(2, BUFFER_BYTES, &memory).unwrap()
}

/// Encoded events, in their order.
pub type Records = Vec<Vec<u8>>;

/// Reads planned parts with one reader; `act` with the number of each frame.
pub fn read_parts(
    source: &dyn Source,
    parts: &[Plan],
    gate: &Gate,
    mut act: impl FnMut(usize),
) -> Result<(Records, Outcomes), Stop> {
    let pool = pool();
    let (mut bytes, mut outcomes) = (Vec::new(), Outcomes::default());
    let mut reader = source.open()?;
    for part in parts {
        let mut frames = Frames::new(&mut act);
        let mut writer = RecordWriter::new(gate, &pool, &mut frames);
        reader.read_part(part, &mut writer, &mut outcomes)?;
        writer.finish()?;
        bytes.extend(frames.frames.iter().flat_map(|(bytes, _)| bytes.clone()));
    }
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    while let Some(length) = rest.first_chunk::<4>() {
        let (record, next) = rest.split_at(4 + u32::from_le_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = next;
    }
    Ok((records, outcomes))
}

/// All of a source.
pub fn read_all(source: &dyn Source) -> (Records, Outcomes) {
    read_parts(source, &plan(source), &gate(), |_| {}).unwrap()
}

/// Writes events as one part; `act` with the number of each frame.
pub fn write_all(
    sink: &dyn Sink,
    records: &Records,
    gate: &Gate,
    act: impl FnMut(usize),
) -> Result<(u64, Outcomes), Stop> {
    let pool = pool();
    let mut frames = Frames::new(|_| {});
    let all_open = self::gate();
    let mut writer = RecordWriter::new(&all_open, &pool, &mut frames);
    for record in records {
        let place = EventRef::parse(record).unwrap().place().parts().1;
        writer.record(&[record], place.into()).unwrap();
    }
    writer.finish().unwrap();
    let mut frames = Frames {
        act: Box::new(act),
        ..frames
    };
    let mut outcomes = Outcomes::default();
    sink.check()?;
    let mut writer = sink.open(gate)?;
    let mut reader = RecordReader::new(gate, &mut frames);
    writer.write_part(&"0".parse().unwrap(), &mut reader, &mut outcomes)?;
    drop(writer);
    let told = sink.finish(&outcomes)?;
    Ok((told["appended"].as_u64().unwrap(), outcomes))
}

/// An event as a record.
pub fn record(sequence: u64, event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    (event.encode(Place::sequence(sequence), Numbering::Sequence, &mut bytes)).unwrap();
    bytes
}
