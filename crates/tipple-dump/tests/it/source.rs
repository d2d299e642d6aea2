//! A source whose every record is known, and a sink that keeps what it gets.
//!
//! A record is `u32 length, u64 number, filler`: it tells which one it is, and whether it was changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_chunk::Scratch;
use tipple_dump::Job;
use tipple_flow::{
    Cause, Content, Estimate, Failure, Identity, NewPart, Outcomes, Part, PartName, PartReader,
    PartWriter, Party, PlanBody, Planned, Planner, Position, RecordReader, RecordWriter, Resume,
    Sink, Source, Stop,
};

pub static GONE: Cause = Cause::outcome("gone");
pub static BROKEN: Cause = Cause::loss("broken");

/// Numbers from 0 on, in parts of equal size.
pub struct Numbers {
    pub records: u64,
    pub part_records: u64,
    /// The length of record n.
    pub bytes: fn(u64) -> usize,
    /// Every n-th record is gone, every n-th is broken.
    pub gone_every: Option<u64>,
    pub broken_every: Option<u64>,
    /// Begin each part twice: the first time half of it is written and forgotten.
    pub restarts: bool,
    pub id: u64,
    pub life: AtomicU64,
    /// Cancel the gate after so many records.
    pub cancel_after: Option<u64>,
    /// Cancel this job when a worker has read its last part.
    pub cancel_when_read: Option<Arc<Job>>,
    pub read: AtomicU64,
    pub fail_finish: AtomicBool,
    /// Break off the plan after so many parts, once.
    pub break_off_after: Option<u64>,
}

impl Numbers {
    pub fn new(records: u64, part_records: u64) -> Self {
        Self {
            records,
            part_records,
            bytes: |n| 20 + (n * 7919 % 300) as usize,
            gone_every: None,
            broken_every: None,
            restarts: false,
            id: 1,
            life: AtomicU64::new(1),
            cancel_after: None,
            cancel_when_read: None,
            read: AtomicU64::new(0),
            fail_finish: AtomicBool::new(false),
            break_off_after: None,
        }
    }

    fn fate(&self, n: u64) -> Option<&'static Cause> {
        let hits = |every: Option<u64>| every.is_some_and(|every| n % every == every - 1);
        if hits(self.gone_every) {
            Some(&GONE)
        } else if hits(self.broken_every) {
            Some(&BROKEN)
        } else {
            None
        }
    }

    /// The numbers that a whole dump holds.
    pub fn expected(&self) -> Vec<u64> {
        (0..self.records)
            .filter(|n| self.fate(*n).is_none())
            .collect()
    }
}

pub fn record(n: u64, len: usize) -> Vec<u8> {
    let len = len.max(12);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend(n.to_le_bytes());
    bytes.extend((12..len).map(|i| (n as usize * 31 + i * 7) as u8));
    bytes
}

impl Source for Numbers {
    fn identity(&self) -> Identity {
        Identity {
            kind: "numbers".to_owned(),
            id: json!(self.id),
        }
    }
    fn content(&self) -> (&'static str, u16) {
        ("numbers", 1)
    }
    fn reader_bytes(&self) -> u64 {
        4096
    }
    fn check(&self) -> Result<Estimate, Stop> {
        Ok(Estimate {
            records: self.records,
            ..Estimate::default()
        })
    }
    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        let mut from = 0;
        let mut break_off_after = self.break_off_after;
        while from < self.records {
            if break_off_after == Some(from / self.part_records) {
                // Not before something was read that must not count.
                while self.read.load(Ordering::Relaxed) == 0 {
                    gate.check()?;
                    std::thread::yield_now();
                }
                planner.restart()?;
                (from, break_off_after) = (0, None);
            }
            let to = (from + self.part_records).min(self.records);
            // Both kinds of plan objects.
            let range = json!([from, to]).to_string();
            let body = if from % 2 == 0 {
                PlanBody::Bytes(range.into_bytes())
            } else {
                let path = planner
                    .scratch_dir()
                    .join(format!("range-{from}-{break_off_after:?}"));
                match planner.scratch_key().map(Scratch::new) {
                    None => std::fs::write(&path, range).unwrap(),
                    Some(scratch) => {
                        let mut out = scratch.writer(File::create(&path).unwrap()).unwrap();
                        out.write_all(range.as_bytes()).unwrap();
                        out.finish().unwrap();
                    }
                }
                PlanBody::File(path)
            };
            planner.add(NewPart {
                body,
                extension: "json",
                records: Some(to - from),
                bytes_estimate: 100,
            })?;
            planner.listed(to);
            from = to;
        }
        Ok(Planned {
            outcomes: Outcomes::default(),
            incarnation: json!(self.life.load(Ordering::Relaxed)),
        })
    }
    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        Ok(*incarnation == json!(self.life.load(Ordering::Relaxed)))
    }
    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(Reading(self)))
    }
    fn finish(&self, _: &Planned, records: u64, outcomes: &Outcomes) -> Result<Value, Stop> {
        if self.fail_finish.load(Ordering::Relaxed) {
            return Err(Failure::new(Party::Source, "the numbers changed").into());
        }
        assert_eq!(records + outcomes.total(), self.records);
        Ok(json!({"said": "goodbye"}))
    }
}

struct Reading<'a>(&'a Numbers);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(job) = &self.0.cancel_when_read {
            job.gate().cancel();
        }
    }
}

impl PartReader for Reading<'_> {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        self.0.read_part(part, out, outcomes)
    }
}

impl Numbers {
    fn read_part(
        &self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let (from, to): (u64, u64) = serde_json::from_reader(part.open()?).unwrap();
        if self.restarts {
            for n in from..from + (to - from) / 2 {
                out.record(&[&record(n + 1_000_000, (self.bytes)(n))], Position::NONE)?;
            }
            out.begin(100, Position::NONE)?;
            out.append(&[0; 99])?;
            out.restart()?;
        }
        for n in from..to {
            if let Some(cause) = self.fate(n) {
                outcomes.count(cause);
                continue;
            }
            let read = self.read.fetch_add(1, Ordering::Relaxed);
            if self.cancel_after == Some(read) {
                out.gate().cancel();
            }
            let bytes = record(n, (self.bytes)(n));
            let (head, tail) = bytes.split_at(12);
            out.record(&[head, tail], Position::from(n))?;
        }
        Ok(())
    }
}

pub struct NumbersContent;

/// Reads one record and returns its number; panics on anything that was never written.
pub fn read_record(records: &mut RecordReader<'_>) -> Result<Option<u64>, Stop> {
    if records.fill()?.is_empty() {
        return Ok(None);
    }
    let mut head = [0; 12];
    records.read_exact(&mut head)?;
    let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let n = u64::from_le_bytes(head[4..].try_into().unwrap());
    let mut rest = vec![0; len - 12];
    records.read_exact(&mut rest)?;
    assert!(record(n, len)[12..] == rest, "record {n} was changed");
    records.end_record();
    Ok(Some(n))
}

impl Content for NumbersContent {
    fn name(&self) -> &'static str {
        "numbers"
    }
    fn version(&self) -> u16 {
        1
    }
    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        Ok(read_record(records)?.is_some())
    }
    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop> {
        let n = read_record(records)?;
        line.extend(n.iter().flat_map(|n| n.to_string().into_bytes()));
        Ok(n.is_some())
    }
}

/// Keeps the number of each record, and how often it came.
pub struct Keep {
    pub numbers: Mutex<BTreeMap<u64, u64>>,
    pub order: Mutex<Vec<u64>>,
    pub ordered: bool,
    pub refuse_every: Option<u64>,
    pub fail_at: Option<u64>,
    pub resume: Resume,
    /// What it keeps is gone with its life.
    pub life: AtomicU64,
    /// Called with every number before it is kept.
    pub look: Box<dyn Fn(u64) + Send + Sync>,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            numbers: Mutex::default(),
            order: Mutex::default(),
            ordered: false,
            refuse_every: None,
            fail_at: None,
            resume: Resume::Idempotent,
            life: AtomicU64::new(1),
            look: Box::new(|_| ()),
        }
    }
}

pub static REFUSED: Cause = Cause::loss("refused");

impl Keep {
    pub fn numbers(&self) -> Vec<u64> {
        let numbers = self.numbers.lock().unwrap();
        assert!(numbers.values().all(|times| *times == 1), "applied twice");
        numbers.keys().copied().collect()
    }
}

impl Sink for Keep {
    fn identity(&self) -> Identity {
        Identity {
            kind: "keep".to_owned(),
            id: json!("it"),
        }
    }
    fn accepts(&self, content: &str, version: u16) -> bool {
        content == "numbers" && version == 1
    }
    fn ordered(&self) -> bool {
        self.ordered
    }
    fn resume(&self) -> Resume {
        self.resume
    }
    fn writer_bytes(&self) -> u64 {
        1000
    }
    fn check(&self) -> Result<(), Stop> {
        Ok(())
    }
    fn incarnation(&self) -> Result<Value, Stop> {
        Ok(json!(self.life.load(Ordering::Relaxed)))
    }
    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        Ok(*incarnation == self.incarnation()?)
    }
    fn open<'a>(&'a self, _: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        Ok(Box::new(self))
    }
}

impl PartWriter for &Keep {
    fn write_part(
        &mut self,
        _: &PartName,
        records: &mut RecordReader<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        while let Some(n) = read_record(records)? {
            (self.look)(n);
            if self.fail_at == Some(n) {
                return Err(Failure::new(Party::Sink, format!("cannot keep {n}")).into());
            }
            if self.refuse_every.is_some_and(|every| n % every == 0) {
                outcomes.count(&REFUSED);
                continue;
            }
            *self.numbers.lock().unwrap().entry(n).or_default() += 1;
            self.order.lock().unwrap().push(n);
        }
        Ok(())
    }
}
