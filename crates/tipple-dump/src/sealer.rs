//! The encoding side of a lane: makes chunks of the buffers that the filling side sends, or objects in a form for other
//! programs (`objects.rs`).

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use tipple_chunk::{ChunkWriter, Content, Encoder, FrameMark, sealed_bytes};
use tipple_flow::{FrameSpan, Outcomes, Position, Written};

use crate::committer::{OpenChunk, OpenPart, ToCommitters};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::filling::Message;
use crate::job::{Job, bump};
use crate::layout::{self, ChunkEntry};
use crate::objects::Objects;
use crate::sealing::Sealing;
use crate::spool::Spool;

/// What a lane encodes with.
pub(crate) enum Encoding<'a> {
    Chunks(Encoder),
    Objects(Objects<'a>),
}

/// The encoding side of one lane.
pub(crate) struct Sealer<'a> {
    pub(crate) job: &'a Job,
    pub(crate) content: Content,
    /// What the names of chunks end with.
    pub(crate) extension: &'a str,
    pub(crate) sealing: Option<&'a Sealing>,
    pub(crate) chunk_bytes_max: u64,
    pub(crate) spool: &'a Spool,
    /// The room in the spool that a chunk takes at most.
    pub(crate) chunk_room: u64,
    pub(crate) stores: usize,
    pub(crate) work: ToCommitters<'a>,
}

impl Sealer<'_> {
    /// Turns the blocks of part after part into chunks or objects, until the filling side is gone.
    pub(crate) fn run(
        &self,
        encoding: &mut Encoding<'_>,
        messages: Receiver<Message<Arc<OpenPart>>>,
    ) -> Result<(), DumpError> {
        loop {
            match messages.recv() {
                Err(_) => return Ok(()),
                Ok(Message::Begin(part)) => {
                    let mut feed = Feed::new(&messages);
                    let is_whole = match encoding {
                        Encoding::Chunks(encoder) => self.part(encoder, &mut feed, &part)?,
                        Encoding::Objects(objects) => self.objects(objects, &mut feed, &part)?,
                    };
                    if !is_whole {
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
                    for store in part.end(written, outcomes) {
                        self.work.commit(part, store)?;
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
        let gate = self.job.gate();
        let codec = encoder.codec();
        let began = Instant::now();
        let staging = self
            .spool
            .begin(part.planned.name.as_str(), self.chunk_room, gate)?;
        self.job.waited_for_spool(began.elapsed());
        let label = staging.label();
        let (content, name) = (&self.content, &part.planned.name);
        let mut chunk = match self.sealing {
            None => ChunkWriter::new(staging, encoder, content, feed.is_open),
            Some(sealing) => {
                let out = sealing.chunk_writer(staging, name, number);
                let out = out.map_err(DumpError::chunk(&label))?;
                ChunkWriter::sealing(out, encoder, content, feed.is_open)
            }
        };
        let mut last_position = Position::NONE;
        let progress = self.job.progress();
        loop {
            match feed.peek() {
                Next::Frame => {}
                Next::End => break,
                Next::Restart | Next::Gone => return Ok(false),
            }
            // What is filled may take long to encode.
            gate.check()?;
            let (bytes, span) = feed.frame();
            let grown = chunk.raw_bytes() + bytes.len() as u64;
            let room = codec.chunk_bytes_max(grown, u64::from(chunk.frames()) + 1);
            let room = self.sealing.map_or(room, |_| sealed_bytes(room));
            let fits = grown <= self.chunk_bytes_max && room <= self.chunk_room;
            if chunk.frames() > 0 && (!fits || chunk.is_full()) {
                break;
            }
            let mark = FrameMark {
                records: span.records,
                first_record: span.first_record,
                position: span.position.as_bytes(),
            };
            chunk.frame(bytes, mark).map_err(DumpError::chunk(&label))?;
            bump(&progress.raw_bytes, bytes.len() as u64);
            bump(&progress.records, u64::from(span.records));
            last_position = feed.next_frame(last_position);
        }
        failpoint!("sealing");
        let (staging, sealed) = chunk
            .finish(feed.is_open, last_position.as_bytes())
            .map_err(DumpError::chunk(&label))?;
        failpoint!("sealed");
        let name = layout::chunk_object(name, number, &sealed.sha256, self.extension);
        let entry = ChunkEntry::new(&name, &sealed);
        let entry = match self.sealing {
            None => entry,
            Some(sealing) => sealing.close_entry(entry)?,
        };
        part.send(number, entry);
        let chunk = OpenChunk::new(name, &sealed, staging.seal(), self.stores);
        self.work.put(part, chunk)?;
        Ok(true)
    }
}

/// The frames of a part, one by one, out of the messages.
pub(crate) struct Feed<'a> {
    messages: &'a Receiver<Message<Arc<OpenPart>>>,
    now: Option<Message<Arc<OpenPart>>>,
    frame: usize,
    /// Whether the frame before this one ended inside a record.
    is_open: bool,
}

pub(crate) enum Next {
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

    pub(crate) fn peek(&mut self) -> Next {
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

    pub(crate) fn frame(&self) -> (&[u8], &FrameSpan) {
        match &self.now {
            Some(Message::Block(block)) => block.frame(self.frame).expect("peek saw a frame"),
            _ => unreachable!("peek saw no frame"),
        }
    }

    /// Goes on; the buffer goes back to its pool with its last frame. Returns the position of the last record so far.
    pub(crate) fn next_frame(&mut self, last_position: Position) -> Position {
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

    pub(crate) fn take_restart(&mut self) {
        self.now = None;
        self.is_open = false;
    }

    pub(crate) fn take_end(&mut self) -> (Written, Outcomes) {
        match self.now.take() {
            Some(Message::End(written, outcomes)) => (written, outcomes),
            _ => unreachable!("peek saw no end"),
        }
    }
}
