//! A pipe as a source: one part, read by a thread of its own so that a cancel is noticed while the pipe is silent.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tipple_flow::{Failure, Outcomes, Part, PartReader, Party, Position, RecordWriter, Stop};

use crate::source::Pipe;

/// Bytes read from the pipe at once: what a pipe of Linux holds by default.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks in circulation: one being read into, one being written out, two on their way.
const CHUNKS: usize = 4;
/// How long a cancel may go unnoticed while the pipe is silent.
const TICK: Duration = Duration::from_millis(50);
/// The longest line that is put together before it is written, so that it is not cut between frames: no more than the
/// smallest buffer. A longer one goes into the frames as it comes.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// What one reader holds: the chunks, and the beginning of a line.
pub(crate) const READER_BYTES: u64 = (CHUNK_BYTES * CHUNKS + WHOLE_BYTES_MAX) as u64;

/// Reads a pipe. Only one of the workers' readers ever gets the part.
pub(crate) struct PipeReader<'a> {
    pub(crate) pipe: &'a Pipe,
}

impl PartReader for PipeReader<'_> {
    fn read_part(
        &mut self,
        _part: &dyn Part,
        out: &mut RecordWriter<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let input = self.pipe.take().ok_or_else(|| {
            Failure::new(
                Party::Source,
                "standard input can be read only once: start the dump again from its beginning",
            )
        })?;
        let mut chunks = Chunks::read(input)?;
        let mut lines = LineWriter::default();
        while let Some(chunk) = chunks.next(out)? {
            lines.write(&chunk, out)?;
            chunks.give_back(chunk);
        }
        lines.finish(out)
    }
}

/// The chunks of a pipe, as a thread reads them.
struct Chunks {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
}

impl Chunks {
    /// Starts the thread. It ends with the pipe, or once nobody takes its chunks. After a cancel it may stay blocked
    /// in a read of a silent pipe until the process exits: nothing else can end such a read, and it holds nothing that
    /// matters.
    fn read(mut input: Box<dyn Read + Send>) -> Result<Self, Failure> {
        let (empty, to_fill) = sync_channel::<Vec<u8>>(CHUNKS);
        let (filled, full) = sync_channel(CHUNKS);
        for _ in 0..CHUNKS {
            empty
                .send(Vec::with_capacity(CHUNK_BYTES))
                .expect("the other end is above");
        }
        let read = move || {
            for mut chunk in to_fill {
                chunk.resize(CHUNK_BYTES, 0);
                let result = match read_some(&mut input, &mut chunk) {
                    Ok(0) => return,
                    Ok(n) => {
                        chunk.truncate(n);
                        Ok(chunk)
                    }
                    Err(error) => Err(error),
                };
                let failed = result.is_err();
                if filled.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("lines-stdin".into())
            .spawn(read)
            .map_err(|error| {
                Failure::new(
                    Party::Budget,
                    "cannot start the thread that reads standard input",
                )
                .because(error)
            })?;
        Ok(Self {
            full,
            empty,
            thread: Some(thread),
        })
    }

    /// The next chunk, never empty; `None` at the end of the pipe.
    fn next(&mut self, out: &RecordWriter<'_>) -> Result<Option<Vec<u8>>, Stop> {
        loop {
            out.gate().check()?;
            match self.full.recv_timeout(TICK) {
                Ok(Ok(chunk)) => return Ok(Some(chunk)),
                Ok(Err(error)) => {
                    let message = format!("cannot read standard input: {error}");
                    return Err(Failure::new(Party::Source, message).because(error).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if let Some(thread) = self.thread.take()
                        && thread.join().is_err()
                    {
                        return Err(Failure::new(
                            Party::Source,
                            "reading standard input panicked: what was read of it is void",
                        )
                        .into());
                    }
                    return Ok(None);
                }
            }
        }
    }

    fn give_back(&self, chunk: Vec<u8>) {
        // The thread is gone once the pipe has ended: then nobody needs it.
        let _ = self.empty.send(chunk);
    }
}

fn read_some(input: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Cuts what comes into lines.
#[derive(Default)]
struct LineWriter {
    // Where the line that is not at its end began.
    line: u64,
    // Its beginning, as long as it may still turn out short; then it is open.
    begun: Vec<u8>,
    open: bool,
    at: u64,
}

impl LineWriter {
    fn write(&mut self, mut chunk: &[u8], out: &mut RecordWriter<'_>) -> Result<(), Stop> {
        while let Some(newline) = memchr::memchr(b'\n', chunk) {
            let (end, rest) = chunk.split_at(newline + 1);
            self.at += end.len() as u64;
            if self.open {
                out.append(end)?;
                out.end();
            } else {
                out.record(&[&self.begun, end], Position::from(self.line))?;
            }
            self.begun.clear();
            self.open = false;
            self.line = self.at;
            chunk = rest;
        }
        self.at += chunk.len() as u64;
        if !self.open && self.begun.len() + chunk.len() <= WHOLE_BYTES_MAX {
            self.begun.reserve_exact(WHOLE_BYTES_MAX - self.begun.len());
            self.begun.extend_from_slice(chunk);
            return Ok(());
        }
        if !self.open {
            out.begin_open(Position::from(self.line))?;
            out.append(&self.begun)?;
            self.begun.clear();
            self.open = true;
        }
        out.append(chunk)
    }

    /// Ends the last line, which has no newline.
    fn finish(self, out: &mut RecordWriter<'_>) -> Result<(), Stop> {
        if self.open {
            out.end();
        } else if !self.begun.is_empty() {
            out.record(&[&self.begun], Position::from(self.line))?;
        }
        Ok(())
    }
}
