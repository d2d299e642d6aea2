//! The pipeline's place, taken by plain memory.

use std::io::Cursor;
use std::path::Path;

use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Content, Drain, FrameSource, NewPart, Outcomes, Part, PartName, PartReader, PlanBody,
    PlanRead, Planner, RecordReader, RecordWriter, Source, Stop, Written,
};
use tipple_lines::Lines;

/// A planned part.
pub struct Plan {
    pub name: PartName,
    pub body: Vec<u8>,
}

impl Plan {
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self {
            name: "0".parse().unwrap(),
            body: body.into(),
        }
    }
}

impl Part for Plan {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(Cursor::new(self.body.clone())))
    }
}

#[derive(Default)]
struct Plans(Vec<Plan>);

impl Planner for Plans {
    fn scratch_dir(&self) -> &Path {
        unreachable!("lines need no scratch")
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::Bytes(body) = part.body else {
            unreachable!("lines plan ranges")
        };
        self.0.push(Plan {
            name: format!("{:08}", self.0.len()).parse().unwrap(),
            body,
        });
        Ok(())
    }
    fn listed(&mut self, _records: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        unreachable!("lines do not break off")
    }
}

pub fn plan(source: &dyn Source) -> Vec<Plan> {
    let mut plans = Plans::default();
    source.plan(&mut plans, &gate()).unwrap();
    plans.0
}

pub fn gate() -> Gate {
    Gate::new(Rates::default())
}

/// The frames of one part.
#[derive(Default)]
pub struct Frames {
    frames: Vec<(Vec<u8>, u32)>,
    /// Of each frame in which a record begins: the first one's position, and its offset in the part.
    pub positions: Vec<(u64, u64)>,
    bytes: u64,
    at: Option<usize>,
}

impl Frames {
    pub fn of(frames: &[(&[u8], u32)]) -> Self {
        Self {
            frames: frames.iter().map(|(b, n)| (b.to_vec(), *n)).collect(),
            ..Self::default()
        }
    }

    pub fn all_bytes(&self) -> Vec<u8> {
        self.frames.iter().flat_map(|(b, _)| b.clone()).collect()
    }

    pub fn rewind(&mut self) {
        self.at = None;
    }
}

impl Drain for Frames {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        for (bytes, span) in block.frames() {
            self.frames.push((bytes.to_vec(), span.records));
            if let Some(offset) = span.first_record {
                let position = span.position.as_bytes().try_into().unwrap();
                self.positions
                    .push((u64::from_be_bytes(position), self.bytes + u64::from(offset)));
            }
            self.bytes += span.bytes as u64;
        }
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        unreachable!("lines go on where they were")
    }
}

impl FrameSource for Frames {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.at.map_or(0, |at| at + 1);
        self.at = Some(next);
        Ok(self.frames.get(next).map(|(_, records)| *records))
    }
    fn bytes(&self) -> &[u8] {
        self.at
            .and_then(|at| self.frames.get(at))
            .map_or(&[], |(bytes, _)| bytes)
    }
}

/// Reads one part into frames, through buffers of `buffer_bytes`.
pub fn read_part(
    source: &dyn Source,
    part: &Plan,
    buffer_bytes: usize,
    gate: &Gate,
) -> Result<(Frames, Written), Stop> {
    read_into(&mut *source.open()?, part, &pool(buffer_bytes), gate)
}

fn pool(buffer_bytes: usize) -> BufferPool {
    let memory = Budget::new("memory", 2 * buffer_bytes as u64);
    BufferPool::new(2, buffer_bytes, &memory).unwrap()
}

fn read_into(
    reader: &mut dyn PartReader,
    part: &Plan,
    pool: &BufferPool,
    gate: &Gate,
) -> Result<(Frames, Written), Stop> {
    let mut frames = Frames::default();
    let mut writer = RecordWriter::new(gate, pool, &mut frames);
    let mut outcomes = Outcomes::default();
    reader.read_part(part, &mut writer, &mut outcomes)?;
    assert_eq!(outcomes.total(), 0);
    let written = writer.finish()?;
    Ok((frames, written))
}

/// All parts of a source by one worker, which must succeed.
pub fn read_all(source: &dyn Source, buffer_bytes: usize) -> Vec<(Frames, Written)> {
    let (gate, pool) = (gate(), pool(buffer_bytes));
    let mut reader = source.open().unwrap();
    plan(source)
        .iter()
        .map(|part| read_into(&mut *reader, part, &pool, &gate).unwrap())
        .collect()
}

/// What all parts together hold, and how many records.
pub fn joined(parts: &[(Frames, Written)]) -> (Vec<u8>, u64) {
    let bytes = parts.iter().flat_map(|(f, _)| f.all_bytes()).collect();
    (bytes, parts.iter().map(|(_, w)| w.records).sum())
}

pub fn lines_of(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

/// What the content reads out of the frames, by each of its three ways, which must agree on the count.
pub fn content_of(frames: &mut Frames) -> (Vec<Vec<u8>>, Vec<String>) {
    let gate = gate();
    let (mut raw, mut json, mut skipped) = (Vec::new(), Vec::new(), 0);
    frames.rewind();
    let mut reader = RecordReader::new(&gate, frames);
    loop {
        let mut line = Vec::new();
        if !Lines.write_raw(&mut reader, &mut line).unwrap().unwrap() {
            break;
        }
        raw.push(line);
    }
    assert_eq!(reader.records(), raw.len() as u64);
    frames.rewind();
    let mut reader = RecordReader::new(&gate, frames);
    loop {
        let mut line = Vec::new();
        if !Lines.write_json(&mut reader, &mut line).unwrap() {
            break;
        }
        json.push(String::from_utf8(line).unwrap());
    }
    frames.rewind();
    let mut reader = RecordReader::new(&gate, frames);
    while Lines.skip(&mut reader).unwrap() {
        skipped += 1;
    }
    assert_eq!((json.len(), skipped), (raw.len(), raw.len()));
    assert_eq!(reader.records(), raw.len() as u64);
    assert!(!reader.in_record());
    (raw, json)
}
