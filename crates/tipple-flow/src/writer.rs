//! From records to frames in leased buffers.

use tipple_budget::{Buffer, BufferPool, Gate};

use crate::FRAME_BYTES_MAX;
use crate::failure::Stop;
use crate::position::Position;

/// What a frame is, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpan {
    /// Where in its buffer it begins.
    pub start: usize,
    /// Raw bytes, 1 to [`FRAME_BYTES_MAX`].
    pub bytes: usize,
    /// Records that begin in it.
    pub records: u32,
    /// Where in it the first of them begins.
    pub first_record: Option<u32>,
    /// The position of the first of them.
    pub position: Position,
    /// The position of the last of them.
    pub last_position: Position,
    /// Whether a record that is not at its end goes on in the next frame.
    pub open: bool,
}

impl FrameSpan {
    const EMPTY: Self = Self {
        start: 0,
        bytes: 0,
        records: 0,
        first_record: None,
        position: Position::NONE,
        last_position: Position::NONE,
        open: false,
    };
}

/// A buffer filled with frames. Dropping it gives the buffer back.
#[derive(Debug)]
pub struct Block {
    buffer: Buffer,
    spans: Vec<FrameSpan>,
}

impl Block {
    /// The frames in order.
    pub fn frames(&self) -> impl Iterator<Item = (&[u8], &FrameSpan)> {
        (0..self.spans.len()).filter_map(|n| self.frame(n))
    }

    /// Frame `n` and its raw bytes, if there are so many.
    #[inline]
    pub fn frame(&self, n: usize) -> Option<(&[u8], &FrameSpan)> {
        let span = self.spans.get(n)?;
        Some((&self.buffer[span.start..span.start + span.bytes], span))
    }
}

/// Where filled buffers go. They arrive in the order of the records.
pub trait Drain {
    /// Takes a filled buffer; waits while the one before is still being worked on.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    fn block(&mut self, block: Block) -> Result<(), Stop>;

    /// Forgets everything of this part.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    fn restart(&mut self) -> Result<(), Stop>;
}

/// What a part came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Raw bytes.
    pub bytes: u64,
    /// Raw bytes of the largest record; 0 if nobody kept count.
    pub largest: u64,
}

/// Writes the records of one part into leased buffers, cut into frames.
///
/// Every byte needs room, and room comes from the gate, in steps: that is where a source waits.
pub struct RecordWriter<'a> {
    gate: &'a Gate,
    pool: &'a BufferPool,
    drain: &'a mut dyn Drain,
    buffer: Option<Buffer>,
    filled: usize,
    spans: Vec<FrameSpan>,
    frame: FrameSpan,
    frame_bytes_max: usize,
    // Bytes that the gate has let in and that are not written yet.
    room: usize,
    // What the rates have been charged for: each step pays for the one before, so that they get exact numbers.
    passed: Written,
    // Bytes that the record which was begun still has to get; counted down from `OPEN` if nobody knows how many.
    owed: u64,
    open: bool,
    written: Written,
}

/// Bytes asked of the gate at once: small enough that a pause and a rate bite soon, large enough to cost nothing.
const STEP: usize = 64 << 10;

/// What an open record is owed: more than any record gets.
const OPEN: u64 = u64::MAX;

impl<'a> RecordWriter<'a> {
    /// A writer of one part, which leases its buffers from `pool` and gives them to `drain`.
    pub fn new(gate: &'a Gate, pool: &'a BufferPool, drain: &'a mut dyn Drain) -> Self {
        Self {
            gate,
            pool,
            drain,
            buffer: None,
            filled: 0,
            spans: Vec::new(),
            frame: FrameSpan::EMPTY,
            frame_bytes_max: FRAME_BYTES_MAX,
            room: 0,
            passed: Written::default(),
            owed: 0,
            open: false,
            written: Written::default(),
        }
    }

    /// The gate, so that a source can look whether the job still runs while it waits for its system.
    pub fn gate(&self) -> &'a Gate {
        self.gate
    }

    /// Records ended so far.
    pub fn records(&self) -> u64 {
        self.written.records
    }

    /// Writes a whole record from its pieces.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    #[inline]
    pub fn record(&mut self, pieces: &[&[u8]], position: Position) -> Result<(), Stop> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.begin(bytes, position)?;
        for piece in pieces {
            self.append(piece)?;
        }
        self.end();
        Ok(())
    }

    /// Begins a record of exactly `bytes`, at least 1.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    ///
    /// # Panics
    /// If the record before was not ended, or this one has no bytes: then no frame could say where it begins.
    #[inline]
    pub fn begin(&mut self, bytes: u64, position: Position) -> Result<(), Stop> {
        assert_eq!(self.owed, 0, "a record was begun inside another");
        assert!(bytes > 0, "a record has no bytes");
        // Cut between records where they fit in a frame; a larger one begins where it is and goes on.
        if self.frame.bytes > 0
            && self.frame.bytes as u64 + bytes > self.frame_bytes_max as u64
            && bytes <= self.frame_bytes_max as u64
        {
            self.cut_frame();
        }
        if let Some(buffer) = &self.buffer
            && self.filled as u64 + bytes > buffer.len() as u64
            && bytes <= self.frame_bytes_max as u64
        {
            self.cut_block()?;
        }
        self.mark(position)?;
        self.owed = bytes;
        self.written.largest = self.written.largest.max(bytes);
        Ok(())
    }

    /// Begins a record whose length is not known yet, for sources that cannot look ahead (a pipe). It gets its bytes
    /// by [`append`](Self::append), at least one, until [`end`](Self::end).
    ///
    /// It begins where the one before ended, and may be cut between frames even where it would fit in one: prefer
    /// [`begin`](Self::begin) wherever the length is at hand.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    ///
    /// # Panics
    /// If the record before was not ended.
    pub fn begin_open(&mut self, position: Position) -> Result<(), Stop> {
        assert_eq!(self.owed, 0, "a record was begun inside another");
        self.mark(position)?;
        self.owed = OPEN;
        self.open = true;
        Ok(())
    }

    /// Writes a piece of the record that was begun.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    ///
    /// # Panics
    /// If the record gets more than it was begun with.
    #[inline]
    pub fn append(&mut self, mut piece: &[u8]) -> Result<(), Stop> {
        while !piece.is_empty() {
            let space = self.room_for_more()?;
            let n = space.len().min(piece.len());
            space[..n].copy_from_slice(&piece[..n]);
            piece = &piece[n..];
            self.advance(n);
        }
        Ok(())
    }

    /// Room for the next bytes of the record that was begun, never empty: what a source reads into directly. The
    /// bytes count once [`advance`](Self::advance) is called.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    ///
    /// # Panics
    /// If the record was begun by [`begin_open`](Self::begin_open): room may cost a cut, and a cut says whether the
    /// record goes on, which only the one who has its next byte knows.
    #[inline]
    pub fn space(&mut self) -> Result<&mut [u8], Stop> {
        assert!(!self.open, "an open record gets its bytes by append");
        self.room_for_more()
    }

    // Only for a record that surely gets at least one more byte: a cut made here marks it as going on.
    #[inline]
    fn room_for_more(&mut self) -> Result<&mut [u8], Stop> {
        if self.frame.bytes == self.frame_bytes_max || self.filled == self.buffer_bytes() {
            self.next_frame()?;
        }
        if self.room == 0 {
            self.pass()?;
        }
        let frame_left = self.frame_bytes_max - self.frame.bytes;
        let owed = usize::try_from(self.owed).unwrap_or(usize::MAX);
        let buffer = self.buffer.as_mut().expect("a begun record has a buffer");
        let left = buffer.len() - self.filled;
        let n = frame_left.min(left).min(self.room).min(owed.max(1));
        Ok(&mut buffer[self.filled..self.filled + n])
    }

    /// Counts `bytes` that were written into [`space`](Self::space).
    ///
    /// # Panics
    /// If the record gets more than it was begun with.
    #[inline]
    pub fn advance(&mut self, bytes: usize) {
        assert!(
            bytes as u64 <= self.owed,
            "a record got more than it was begun with"
        );
        self.owed -= bytes as u64;
        self.room -= bytes;
        self.filled += bytes;
        self.frame.bytes += bytes;
        self.written.bytes += bytes as u64;
    }

    /// Ends the record.
    ///
    /// # Panics
    /// If it got less than it was begun with, or was open and got nothing.
    #[inline]
    pub fn end(&mut self) {
        if self.open {
            assert!(self.owed < OPEN, "a record has no bytes");
            self.written.largest = self.written.largest.max(OPEN - self.owed);
            self.owed = 0;
            self.open = false;
        }
        assert_eq!(self.owed, 0, "a record got less than it was begun with");
        self.written.records += 1;
    }

    /// Forgets everything written of this part, also what was given to the drain, and a record half written.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    pub fn restart(&mut self) -> Result<(), Stop> {
        self.buffer = None;
        self.filled = 0;
        self.spans.clear();
        self.frame = FrameSpan::EMPTY;
        self.owed = 0;
        self.open = false;
        self.passed = Written::default();
        self.written = Written::default();
        self.drain.restart()
    }

    /// Gives the last, partly filled buffer to the drain.
    ///
    /// # Errors
    /// [`Stop::Cancelled`] when the job ended.
    ///
    /// # Panics
    /// If a record is not ended.
    pub fn finish(mut self) -> Result<Written, Stop> {
        assert_eq!(self.owed, 0, "the last record was not ended");
        self.cut_block()?;
        self.pass()?;
        Ok(self.written)
    }

    // Marks that a record begins at the next byte, in a frame that has room for it.
    #[inline]
    fn mark(&mut self, position: Position) -> Result<(), Stop> {
        if self.buffer.is_none() {
            self.lease()?;
        } else if self.frame.bytes == self.frame_bytes_max || self.filled == self.buffer_bytes() {
            self.next_frame()?;
        }
        self.frame.first_record.get_or_insert_with(|| {
            self.frame.position = position;
            self.frame.bytes as u32
        });
        self.frame.records += 1;
        self.frame.last_position = position;
        Ok(())
    }

    fn buffer_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    #[cold]
    fn lease(&mut self) -> Result<(), Stop> {
        let buffer = self.pool.lease(self.gate)?;
        self.frame_bytes_max = buffer.len().min(FRAME_BYTES_MAX);
        self.buffer = Some(buffer);
        Ok(())
    }

    #[cold]
    fn pass(&mut self) -> Result<(), Stop> {
        let bytes = self.written.bytes - self.passed.bytes;
        let records = self.written.records - self.passed.records;
        self.gate.pass(bytes, records)?;
        self.passed = self.written;
        self.room = STEP;
        Ok(())
    }

    #[cold]
    fn next_frame(&mut self) -> Result<(), Stop> {
        self.cut_frame();
        if self.filled == self.buffer_bytes() {
            self.cut_block()?;
            self.lease()?;
        }
        Ok(())
    }

    fn cut_frame(&mut self) {
        if self.frame.bytes > 0 {
            self.frame.open = self.owed > 0;
            self.frame.start = self.filled - self.frame.bytes;
            self.spans.push(self.frame);
        }
        self.frame = FrameSpan::EMPTY;
    }

    #[cold]
    fn cut_block(&mut self) -> Result<(), Stop> {
        self.cut_frame();
        let Some(buffer) = self.buffer.take() else {
            return Ok(());
        };
        self.filled = 0;
        let spans = std::mem::take(&mut self.spans);
        if spans.is_empty() {
            return Ok(());
        }
        self.drain.block(Block { buffer, spans })
    }
}
