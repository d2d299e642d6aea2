//! A file as a source: byte ranges as parts, lines read by position.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Failure, NewPart, Outcomes, Part, PartReader, Party, PlanBody, Planner, Position, RecordWriter,
    Stop,
};

use crate::options::LinesOptions;

/// A range of a file, as its plan object has it: the lines that begin at `from` or later and before `to`. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: u64,
    to: u64,
}

impl Range {
    /// More than any range takes as JSON.
    const JSON_BYTES_MAX: u64 = 256;

    fn read(part: &dyn Part, file_bytes: u64) -> Result<Self, Stop> {
        let refuse = |why: String| {
            Failure::new(
                Party::Source,
                format!(
                    "the plan of part {} is no range of this file: {why}; dump into an empty place",
                    part.name()
                ),
            )
        };
        let mut json = Vec::new();
        part.open()?
            .take(Self::JSON_BYTES_MAX)
            .read_to_end(&mut json)
            .map_err(|error| refuse("it cannot be read".into()).because(error))?;
        let range: Self =
            serde_json::from_slice(&json).map_err(|error| refuse(error.to_string()))?;
        if range.from > range.to || range.to > file_bytes {
            return Err(refuse(format!("it has {} bytes, not {range:?}", file_bytes)).into());
        }
        Ok(range)
    }
}

/// A regular file, and what it was when it was opened. Readers share the handle: they read by position.
#[derive(Debug)]
pub(crate) struct LinesFile {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    options: LinesOptions,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    // In two numbers, since nanoseconds in one overflow.
    mtime: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            bytes: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            inode: meta.ino(),
        })
    }
}

impl LinesFile {
    pub(crate) fn open(path: &Path, options: LinesOptions) -> Result<Self, Failure> {
        let fail = |what: &str| {
            let message = format!("cannot {what} {}", path.display());
            move |error: io::Error| {
                Failure::new(Party::Source, format!("{message}: {error}")).because(error)
            }
        };
        let path = fs::canonicalize(path).map_err(fail("find"))?;
        // Looked at before it is opened, since opening a FIFO waits for its writer.
        if !fs::metadata(&path).map_err(fail("look at"))?.is_file() {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "{} is not a regular file: pipe it in, with - as the source",
                    path.display()
                ),
            ));
        }
        let file = File::open(&path).map_err(fail("open"))?;
        let stamp = Stamp::of(&file).map_err(fail("look at"))?;
        Ok(Self {
            file,
            path,
            stamp,
            options,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    pub(crate) fn reader_bytes(&self) -> u64 {
        self.options.read_bytes as u64
    }

    pub(crate) fn id(&self) -> Value {
        let path = match self.path.to_str() {
            Some(path) => json!(path),
            None => {
                json!({ "base64": BASE64_STANDARD.encode(self.path.as_os_str().as_encoded_bytes()) })
            }
        };
        let (seconds, nanos) = self.stamp.mtime;
        json!({
            "path": path,
            "bytes": self.stamp.bytes,
            "mtime_ns": seconds.saturating_mul(1_000_000_000).saturating_add(nanos),
            "inode": self.stamp.inode,
        })
    }

    /// At least one part, so that an empty file is a part of no lines.
    pub(crate) fn parts(&self) -> u64 {
        self.stamp.bytes.div_ceil(self.options.part_bytes).max(1)
    }

    pub(crate) fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<(), Stop> {
        for n in 0..self.parts() {
            gate.check()?;
            let from = n * self.options.part_bytes;
            let to = from
                .saturating_add(self.options.part_bytes)
                .min(self.stamp.bytes);
            planner.add(NewPart {
                body: PlanBody::Bytes(
                    serde_json::to_vec(&Range { from, to }).expect("two numbers into memory"),
                ),
                extension: "json",
                // How many lines begin in a range is only known once it is read.
                records: None,
                bytes_estimate: to - from,
            })?;
        }
        Ok(())
    }

    /// Whether the file is what it was when it was opened.
    pub(crate) fn unchanged(&self) -> Result<(), Failure> {
        let now = Stamp::of(&self.file).map_err(|error| self.unreadable(error))?;
        if now == self.stamp {
            return Ok(());
        }
        Err(self.changed(now.bytes))
    }

    pub(crate) fn reader(&self) -> FileReader<'_> {
        FileReader {
            source: self,
            buffer: vec![0; self.options.read_bytes].into_boxed_slice(),
        }
    }

    /// Reads at `at` what `buffer` takes, at least one byte, and never beyond what the file had when it was opened.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, Failure> {
        let left = usize::try_from(self.stamp.bytes - at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        assert!(wanted > 0, "a read of nothing");
        loop {
            match self.file.read_at(&mut buffer[..wanted], at) {
                Ok(0) => return Err(self.changed(at)),
                Ok(n) => return Ok(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
    }

    fn changed(&self, bytes_now: u64) -> Failure {
        Failure::new(
            Party::Source,
            format!(
                "the file changed while it was dumped: {} had {} bytes and has {bytes_now} now, or was written to; dump it again when nobody writes to it",
                self.path.display(),
                self.stamp.bytes
            ),
        )
    }

    fn unreadable(&self, error: io::Error) -> Failure {
        let message = format!("cannot read {}: {error}", self.path.display());
        Failure::new(Party::Source, message).because(error)
    }
}

/// Reads ranges of a file through one buffer.
pub(crate) struct FileReader<'a> {
    source: &'a LinesFile,
    buffer: Box<[u8]>,
}

impl PartReader for FileReader<'_> {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let range = Range::read(part, self.source.bytes())?;
        if let Some(start) = self.first_line(range, out.gate())? {
            self.lines(start, range.to, out)?;
        }
        // Seen here already, so that hours are not spent on what `finish` would refuse.
        self.source.unchanged()?;
        Ok(())
    }
}

impl FileReader<'_> {
    /// Where in the range a line begins first: at its start, or after the first newline from the byte before it on.
    fn first_line(&mut self, range: Range, gate: &Gate) -> Result<Option<u64>, Stop> {
        if range.from == 0 {
            return Ok((range.to > 0).then_some(0));
        }
        // A newline that is the range's last byte begins a line of the next range.
        let newline = self.find_newline(range.from - 1, range.to - 1, gate)?;
        Ok(newline.map(|at| at + 1))
    }

    /// Where the first newline in `from..to` is. Leaves anything in the buffer.
    fn find_newline(&mut self, from: u64, to: u64, gate: &Gate) -> Result<Option<u64>, Stop> {
        let mut at = from;
        while at < to {
            gate.check()?;
            let n = self.source.read_at(&mut self.buffer, at)?;
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[..n]) {
                let newline = at + found as u64;
                return Ok((newline < to).then_some(newline));
            }
            at += n as u64;
        }
        Ok(None)
    }

    /// Writes the lines that begin in `start..to`, the last of them to its end.
    fn lines(&mut self, start: u64, to: u64, out: &mut RecordWriter<'_>) -> Result<(), Stop> {
        let end = self.source.bytes();
        // The buffer holds `used..filled` of the file from `line` on: the line that is to be written next.
        let (mut line, mut used, mut filled) = (start, 0, 0);
        while line < to {
            let at_hand = &self.buffer[used..filled];
            let whole = match memchr::memchr(b'\n', at_hand) {
                Some(newline) => Some(newline + 1),
                None if line + at_hand.len() as u64 == end => Some(at_hand.len()),
                None => None,
            };
            if let Some(bytes) = whole {
                out.record(&[&at_hand[..bytes]], Position::from(line))?;
                used += bytes;
                line += bytes as u64;
                continue;
            }
            self.buffer.copy_within(used..filled, 0);
            (used, filled) = (0, filled - used);
            if filled < self.buffer.len() {
                let at = line + filled as u64;
                filled += self.source.read_at(&mut self.buffer[filled..], at)?;
            } else {
                line = self.long_line(line, out)?;
                filled = 0;
            }
        }
        Ok(())
    }

    /// Writes a line that is longer than the buffer, and tells where the next one begins: first its length is looked
    /// for ahead, then its bytes go straight into the frames.
    fn long_line(&mut self, line: u64, out: &mut RecordWriter<'_>) -> Result<u64, Stop> {
        let end = self.source.bytes();
        let from = line + self.buffer.len() as u64;
        let next = match self.find_newline(from, end, out.gate())? {
            Some(newline) => newline + 1,
            None => end,
        };
        out.begin(next - line, Position::from(line))?;
        let mut at = line;
        while at < next {
            // Never more than the record is owed, so this stops at its newline.
            let n = self.source.read_at(out.space()?, at)?;
            out.advance(n);
            at += n as u64;
        }
        out.end();
        Ok(next)
    }
}
