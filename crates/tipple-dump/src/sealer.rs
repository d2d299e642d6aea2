//! The encoding side of a lane: makes chunks of the buffers that the filling side sends.

use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tipple_chunk::{ChunkWriter, Content, Encoder, FrameMark};
use tipple_flow::{FrameSpan, Outcomes, Position, Written};

use crate::committer::{OpenPart, Work, WorkSender};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::filling::Message;
use crate::job::{Job, bump};

/// The encoding side of one lane.
pub(crate) struct Sealer<'a> {
    pub(crate) job: &'a Job,
    pub(crate) lane: usize,
    pub(crate) content: Content,
    pub(crate) chunk_bytes_max: u64,
    pub(crate) staging_dir: &'a Path,
    pub(crate) work: WorkSender,
    /// Chunks begun: a part that is begun again must not meet the files of its first attempt, which may still be on
    /// their way to the store.
    pub(crate) begun: Cell<u64>,
}

impl Sealer<'_> {
    /// Turns the blocks of part after part into chunks, until the filling side is gone.
    pub(crate) fn run(
        &self,
        encoder: &mut Encoder,
        messages: Receiver<Message<Arc<OpenPart>>>,
    ) -> Result<(), DumpError> {
        loop {
            match messages.recv() {
                Err(_) => return Ok(()),
                Ok(Message::Begin(part)) => {
                    if !self.part(encoder, &mut Feed::new(&messages), &part)? {
                        return Ok(());
                    }
                }
                Ok(_) => unreachable!("a part's messages come between its Begin and its End"),
            }
        }
    }

    /// One part; `false` if it was broken off.
    fn part(
        &self,
        encoder: &mut Encoder,
        feed: &mut Feed<'_>,
        part: &Arc<OpenPart>,
    ) -> Result<bool, DumpError> {
        let mut chunks = 0;
        loop {
            match feed.peek() {
                Next::Frame => {
                    if self.chunk(encoder, feed, part, chunks)? {
                        chunks += 1;
                    }
                }
                Next::Restart => {
                    feed.take_restart();
                    part.restart();
                    chunks = 0;
                }
                Next::End => {
                    let (written, outcomes) = feed.take_end();
                    if part.end(written, outcomes) {
                        self.send(Work::Commit(Arc::clone(part)))?;
                    }
                    return Ok(true);
                }
                Next::Gone => return Ok(false),
            }
        }
    }

    /// One chunk, from the frame at hand to the last that fits; `false` if the part was begun again or broken off in
    /// the middle, so that there is no chunk.
    fn chunk(
        &self,
        encoder: &mut Encoder,
        feed: &mut Feed<'_>,
        part: &Arc<OpenPart>,
        number: u32,
    ) -> Result<bool, DumpError> {
        let begun = self.begun.get();
        self.begun.set(begun + 1);
        let name = format!("{}-{}-{begun}.chunk", part.planned.name, self.lane);
        let staged = Staged::create(self.staging_dir.join(name))?;
        let file = &staged.file;
        let mut chunk = ChunkWriter::new(file, encoder, &self.content, feed.is_open);
        let mut last_position = Position::NONE;
        let progress = self.job.progress();
        loop {
            match feed.peek() {
                Next::Frame => {}
                Next::End => break,
                Next::Restart | Next::Gone => return Ok(false),
            }
            // What is filled may take long to encode.
            self.job.gate().check()?;
            let (bytes, span) = feed.frame();
            let grown = chunk.raw_bytes() + bytes.len() as u64;
            if chunk.frames() > 0 && (grown > self.chunk_bytes_max || chunk.is_full()) {
                break;
            }
            let mark = FrameMark {
                records: span.records,
                first_record: span.first_record,
                position: span.position.as_bytes(),
            };
            chunk
                .frame(bytes, mark)
                .map_err(DumpError::chunk(staged.path.display()))?;
            bump(&progress.raw_bytes, bytes.len() as u64);
            bump(&progress.records, u64::from(span.records));
            last_position = feed.next_frame(last_position);
        }
        failpoint!("sealing");
        let (_, sealed) = chunk
            .finish(feed.is_open, last_position.as_bytes())
            .map_err(DumpError::chunk(staged.path.display()))?;
        failpoint!("sealed");
        let attempt = part.send();
        self.send(Work::Put {
            part: Arc::clone(part),
            attempt,
            number,
            path: staged.keep(),
            sealed,
        })?;
        Ok(true)
    }

    fn send(&self, work: Work) -> Result<(), DumpError> {
        // The other end is gone only after a failure, which it has reported.
        self.work.send(work).map_err(|_| DumpError::Interrupted)
    }
}

/// A staged file that is removed unless it was sealed.
struct Staged {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Staged {
    fn create(path: PathBuf) -> Result<Self, DumpError> {
        let file = File::create_new(&path).map_err(DumpError::disk("create", &path))?;
        Ok(Self {
            path,
            file,
            kept: false,
        })
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: what stays is a leftover that the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The frames of a part, one by one, out of the messages.
struct Feed<'a> {
    messages: &'a Receiver<Message<Arc<OpenPart>>>,
    now: Option<Message<Arc<OpenPart>>>,
    frame: usize,
    /// Whether the frame before this one ended inside a record.
    is_open: bool,
}

enum Next {
    Frame,
    Restart,
    End,
    Gone,
}

impl<'a> Feed<'a> {
    fn new(messages: &'a Receiver<Message<Arc<OpenPart>>>) -> Self {
        Self {
            messages,
            now: None,
            frame: 0,
            is_open: false,
        }
    }

    fn peek(&mut self) -> Next {
        if self.now.is_none() {
            self.now = self.messages.recv().ok();
            self.frame = 0;
        }
        match &self.now {
            Some(Message::Block(_)) => Next::Frame,
            Some(Message::Restart) => Next::Restart,
            Some(Message::End(..)) => Next::End,
            Some(Message::Begin(_)) => unreachable!("a part begins inside another"),
            None => Next::Gone,
        }
    }

    fn frame(&self) -> (&[u8], &FrameSpan) {
        match &self.now {
            Some(Message::Block(block)) => block.frame(self.frame).expect("peek saw a frame"),
            _ => unreachable!("peek saw no frame"),
        }
    }

    /// Goes on; the buffer goes back to its pool with its last frame. Returns the position of the last record so far.
    fn next_frame(&mut self, last_position: Position) -> Position {
        let Some(Message::Block(block)) = &self.now else {
            unreachable!("peek saw no frame")
        };
        let (_, span) = block.frame(self.frame).expect("peek saw a frame");
        self.is_open = span.open;
        let position = if span.records > 0 {
            span.last_position
        } else {
            last_position
        };
        self.frame += 1;
        if block.frame(self.frame).is_none() {
            self.now = None;
        }
        position
    }

    fn take_restart(&mut self) {
        self.now = None;
        self.is_open = false;
    }

    fn take_end(&mut self) -> (Written, Outcomes) {
        match self.now.take() {
            Some(Message::End(written, outcomes)) => (written, outcomes),
            _ => unreachable!("peek saw no end"),
        }
    }
}
