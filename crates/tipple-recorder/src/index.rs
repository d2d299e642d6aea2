//! What is where in a recording: a file beside it, by which a search skips what cannot match. It can always be made
//! again from the recording, and is believed only if it is of that very length. FORMAT.md has every byte.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read};

use tipple_chunk::Sha256Digest;

/// The first bytes of an index.
const MAGIC: &[u8; 8] = b"TPLRIDX1";
/// The digest at its end.
const DIGEST_BYTES: usize = 32;
/// Bits in the filter for each trace, and how many of them are set: of 300 traces that are not there, one seems to be.
const BITS_PER_TRACE: usize = 12;
const PROBES: u64 = 8;
/// The most names of messages, and of groups, that a block tells; with more, it may hold any.
const NAMES_MAX: usize = 256;
/// The most bytes of an index that is read: what 64 GiB of recording need.
pub(crate) const INDEX_BYTES_MAX: u64 = 1 << 30;

/// What a recording holds, block by block. A block begins and ends with a line, or is a frame of compressed text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingIndex {
    /// Length of the file that the index is of.
    pub file_bytes: u64,
    /// In the order of the file, one after the other.
    pub blocks: Vec<BlockEntry>,
}

/// A piece of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where it begins.
    pub offset: u64,
    /// How long it is in the file, and as text.
    pub stored_bytes: u32,
    /// The length of its text.
    pub text_bytes: u32,
    /// Lines that begin in it.
    pub lines: u32,
    /// Loss records among them.
    pub losses: u32,
    /// The earliest and the latest time of a line, in nanoseconds of Unix time.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
    /// Lines of other than records: of files that begin and end, and of losses.
    pub marks: u32,
    /// The least and the greatest number of each group. Empty with more than 256 groups: it may hold any.
    pub groups: BTreeMap<String, (u64, u64)>,
    /// The names of its messages. Empty with more than 256: it may hold any.
    pub names: BTreeSet<String>,
    /// A filter of its traces.
    pub traces: TraceFilter,
}

/// Which traces may be there: never a wrong no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    words: Vec<u64>,
}

impl TraceFilter {
    fn of(traces: &HashSet<u64>) -> TraceFilter {
        let words = (traces.len() * BITS_PER_TRACE).div_ceil(64);
        let mut filter = TraceFilter {
            words: vec![0; words],
        };
        for &trace in traces {
            for bit in filter.bits(trace) {
                filter.words[bit / 64] |= 1 << (bit % 64);
            }
        }
        filter
    }

    fn bits(&self, trace: u64) -> impl Iterator<Item = usize> + use<> {
        let bits = self.words.len() as u64 * 64;
        let mut hash = trace.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        let step = (hash >> 32) | 1;
        (0..PROBES).map(move |probe| {
            let place = hash.wrapping_add(probe.wrapping_mul(step));
            ((u128::from(place.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(bits)) >> 64)
                as usize
        })
    }

    /// Whether the trace may be there.
    pub fn may_hold(&self, trace: u64) -> bool {
        !self.words.is_empty()
            && self
                .bits(trace)
                .all(|bit| self.words[bit / 64] & (1 << (bit % 64)) != 0)
    }
}

/// Collects what a block holds.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    entry: BlockEntry,
    traces: HashSet<u64, std::hash::BuildHasherDefault<crate::line::Mix>>,
    last_trace: u64,
    /// By the number of the channel or, when a file is read, of the group.
    groups: HashMap<u32, (u64, u64), std::hash::BuildHasherDefault<crate::line::Mix>>,
    last_group: Option<(u32, u64, u64)>,
    names: HashSet<u32, std::hash::BuildHasherDefault<crate::line::Mix>>,
    last_name: Option<u32>,
}

/// What the index tells of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexedLine {
    pub(crate) unix_ns: u64,
    pub(crate) group: u32,
    pub(crate) number: u64,
    pub(crate) trace: u64,
    pub(crate) name: u32,
}

impl BlockBuilder {
    pub(crate) fn is_empty(&self) -> bool {
        self.entry.lines == 0
    }

    /// Whether nothing but one line is in it.
    pub(crate) fn is_first(&self) -> bool {
        self.entry.lines == 1
    }

    fn time(&mut self, unix_ns: u64) {
        let entry = &mut self.entry;
        if entry.lines == 0 {
            entry.first_ns = unix_ns;
            entry.last_ns = unix_ns;
        }
        entry.first_ns = entry.first_ns.min(unix_ns);
        entry.last_ns = entry.last_ns.max(unix_ns);
        entry.lines += 1;
    }

    #[inline]
    pub(crate) fn line(&mut self, line: IndexedLine) {
        self.time(line.unix_ns);
        if line.trace != self.last_trace {
            self.traces.insert(line.trace);
            self.last_trace = line.trace;
        }
        match &mut self.last_group {
            Some((group, least, greatest)) if *group == line.group => {
                *least = (*least).min(line.number);
                *greatest = (*greatest).max(line.number);
            }
            _ => {
                self.end_group();
                self.last_group = Some((line.group, line.number, line.number));
            }
        }
        if self.last_name != Some(line.name) {
            self.names.insert(line.name);
            self.last_name = Some(line.name);
        }
    }

    fn end_group(&mut self) {
        if let Some((group, least, greatest)) = self.last_group.take() {
            let range = self.groups.entry(group).or_insert((least, greatest));
            range.0 = range.0.min(least);
            range.1 = range.1.max(greatest);
        }
    }

    pub(crate) fn mark(&mut self, unix_ns: u64, is_loss: bool) {
        self.time(unix_ns);
        self.entry.marks += 1;
        self.entry.losses += u32::from(is_loss);
    }

    /// The block that was collected, and an empty one in its place.
    pub(crate) fn finish(
        &mut self,
        offset: u64,
        stored_bytes: u32,
        text_bytes: u32,
        mut group: impl FnMut(u32) -> String,
        mut name: impl FnMut(u32) -> String,
    ) -> BlockEntry {
        self.end_group();
        let mut entry = std::mem::take(&mut self.entry);
        entry.offset = offset;
        entry.stored_bytes = stored_bytes;
        entry.text_bytes = text_bytes;
        for (id, (least, greatest)) in self.groups.drain() {
            let range = entry.groups.entry(group(id)).or_insert((least, greatest));
            range.0 = range.0.min(least);
            range.1 = range.1.max(greatest);
        }
        entry.names = self.names.drain().map(&mut name).collect();
        if entry.groups.len() > NAMES_MAX {
            entry.groups.clear();
        }
        if entry.names.len() > NAMES_MAX {
            entry.names.clear();
        }
        let traces: HashSet<u64> = self.traces.drain().collect();
        entry.traces = TraceFilter::of(&traces);
        self.last_trace = 0;
        self.last_name = None;
        entry
    }
}

impl RecordingIndex {
    /// The index as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let text = |text: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            for field in [block.offset, block.first_ns, block.last_ns] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            for field in [
                block.stored_bytes,
                block.text_bytes,
                block.lines,
                block.losses,
                block.marks,
                block.groups.len() as u32,
                block.names.len() as u32,
                block.traces.words.len() as u32,
            ] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            for (group, (least, greatest)) in &block.groups {
                text(group, &mut out);
                out.extend_from_slice(&least.to_le_bytes());
                out.extend_from_slice(&greatest.to_le_bytes());
            }
            for name in &block.names {
                text(name, &mut out);
            }
            for word in &block.traces.words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        let digest = Sha256Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    /// Reads an index; allocates no more than it has bytes.
    ///
    /// # Errors
    /// `InvalidData` if it is not whole, not of this version, or says what cannot be.
    pub fn decode(bytes: &[u8]) -> io::Result<RecordingIndex> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let Some((body, digest)) = bytes
            .len()
            .checked_sub(DIGEST_BYTES)
            .map(|at| bytes.split_at(at))
        else {
            return Err(damaged("the index is cut off"));
        };
        if !body.starts_with(MAGIC) {
            return Err(damaged("this is no index of a recording"));
        }
        if Sha256Digest::of(body).as_bytes() != digest {
            return Err(damaged("the index is damaged: its digest is another"));
        }
        let mut fields = Fields {
            rest: &body[MAGIC.len()..],
        };
        fields
            .index()
            .ok_or_else(|| damaged("the index says what cannot be"))
    }
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }

    fn index(&mut self) -> Option<RecordingIndex> {
        let file_bytes = self.u64()?;
        let count = self.u32()?;
        let mut blocks = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let block = self.block()?;
            if block.offset < end {
                return None;
            }
            end = block.offset.checked_add(block.stored_bytes.into())?;
            blocks.push(block);
        }
        (end <= file_bytes && self.rest.is_empty()).then_some(RecordingIndex { file_bytes, blocks })
    }

    fn block(&mut self) -> Option<BlockEntry> {
        let mut block = BlockEntry {
            offset: self.u64()?,
            first_ns: self.u64()?,
            last_ns: self.u64()?,
            stored_bytes: self.u32()?,
            text_bytes: self.u32()?,
            lines: self.u32()?,
            losses: self.u32()?,
            marks: self.u32()?,
            ..BlockEntry::default()
        };
        let [groups, names, words] = [self.u32()?, self.u32()?, self.u32()?];
        for _ in 0..groups {
            let group = self.text()?;
            block.groups.insert(group, (self.u64()?, self.u64()?));
        }
        for _ in 0..names {
            block.names.insert(self.text()?);
        }
        let words = self.take((words as usize).checked_mul(8)?)?;
        block.traces.words = words
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
            .collect();
        Some(block)
    }
}

/// Reads an index of bounded size.
pub(crate) fn read(input: impl Read) -> io::Result<RecordingIndex> {
    let mut bytes = Vec::new();
    input.take(INDEX_BYTES_MAX).read_to_end(&mut bytes)?;
    RecordingIndex::decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> RecordingIndex {
        let mut builder = BlockBuilder::default();
        let mut blocks = Vec::new();
        for block in 0..3_u64 {
            for line in 0..1000_u64 {
                builder.line(IndexedLine {
                    unix_ns: block * 1000 + line,
                    group: (line % 2) as u32,
                    number: line,
                    trace: block << 32 | line,
                    name: (line % 3) as u32,
                });
            }
            builder.mark(block * 1000, true);
            blocks.push(builder.finish(
                block * 10,
                10,
                20,
                |id| format!("g{id}"),
                |id| format!("n{id}"),
            ));
        }
        RecordingIndex {
            file_bytes: 30,
            blocks,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let index = index();
        assert_eq!(index.blocks[1].groups["g1"], (1, 999));
        assert_eq!(index.blocks[2].names.len(), 3);
        assert_eq!((index.blocks[0].lines, index.blocks[0].losses), (1001, 1));
        assert_eq!(RecordingIndex::decode(&index.encode()).unwrap(), index);
    }

    #[test]
    fn every_trace_is_found_and_few_others() {
        let index = index();
        for block in 0..3_u64 {
            for line in 0..1000 {
                // The trace 0 is none.
                let trace = block << 32 | line;
                assert!(trace == 0 || index.blocks[block as usize].traces.may_hold(trace));
            }
        }
        let wrong = (0..100_000_u64)
            .filter(|trace| index.blocks[0].traces.may_hold(trace + (9 << 40)))
            .count();
        assert!(wrong < 1000, "{wrong}");
    }

    #[test]
    fn damage_is_seen_at_every_byte_and_length() {
        let whole = index().encode();
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(RecordingIndex::decode(&bytes).is_err(), "{at}");
            assert!(RecordingIndex::decode(&whole[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_length_that_is_not_there_is_not_allocated() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&100_u64.to_le_bytes());
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        let digest = Sha256Digest::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        assert!(RecordingIndex::decode(&bytes).is_err());
    }
}
