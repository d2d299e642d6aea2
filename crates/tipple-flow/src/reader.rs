//! From verified frames to records.

use tipple_budget::Gate;

use crate::failure::{Failure, Party, Stop};

/// Where a [`RecordReader`] gets its frames: verified, in order.
pub trait FrameSource {
    /// Goes to the next frame, which is never empty, and tells how many records begin in it; `None` at the end of the part. I8: what [`bytes`](Self::bytes) shows afterwards has
    /// been verified.
    ///
    /// # Errors
    /// [`Stop`] when a frame cannot be had; the pipeline reports why.
    fn advance(&mut self) -> Result<Option<u32>, Stop>;

    /// The raw bytes of the frame that `advance` went to. Empty before the first one and after the last one.
    fn bytes(&self) -> &[u8];
}

/// Reads the byte stream of one part. Frames pass the gate one by one: that is where a sink waits.
pub struct RecordReader<'a> {
    gate: &'a Gate,
    /// Frames that have passed the gate elsewhere do not pass it again.
    is_inside: bool,
    frames: &'a mut dyn FrameSource,
    at: usize,
    in_record: bool,
    records: u64,
    bytes: u64,
    record_bytes_max: u64,
}

impl<'a> RecordReader<'a> {
    /// A reader of the part that `frames` gives.
    pub fn new(gate: &'a Gate, frames: &'a mut dyn FrameSource) -> Self {
        Self {
            gate,
            is_inside: false,
            frames,
            at: 0,
            in_record: false,
            records: 0,
            bytes: 0,
            record_bytes_max: u64::MAX,
        }
    }

    /// The same for frames that have passed the gate already.
    pub fn inside(gate: &'a Gate, frames: &'a mut dyn FrameSource) -> Self {
        Self {
            is_inside: true,
            ..Self::new(gate, frames)
        }
    }

    /// The same of records that are said to have at most `bytes` each: there is memory for no more.
    pub fn with_record_bytes_max(self, bytes: u64) -> Self {
        Self {
            record_bytes_max: bytes,
            ..self
        }
    }

    /// Whether there is memory for a record of `bytes`. Who holds whole records must ask before it takes any.
    ///
    /// # Errors
    /// [`Failure`]: it is larger than was said before.
    pub fn check_record_bytes(&self, bytes: u64) -> Result<(), Failure> {
        let (most, number) = (self.record_bytes_max, self.records);
        match (bytes <= most, self.is_inside) {
            (true, _) => Ok(()),
            (false, true) => Err(Failure::new(
                Party::Budget,
                format!(
                    "a record of {bytes} bytes came, and records of this source are copied straight up to {most}: dump the source and load the dump, which tells how large its records are"
                ),
            )),
            (false, false) => Err(Failure::new(
                Party::Content,
                format!(
                    "record {number} of the part has {bytes} bytes, and its part record speaks of {most} at most: it was written so; dump it again"
                ),
            )),
        }
    }

    /// The bytes at hand, at least one unless the part is at its end.
    ///
    /// # Errors
    /// [`Stop`] when there is no next frame to be had.
    #[inline]
    pub fn fill(&mut self) -> Result<&[u8], Stop> {
        if self.at == self.frames.bytes().len() {
            self.next_frame()?;
        }
        Ok(&self.frames.bytes()[self.at..])
    }

    /// Goes on by `bytes` of those at hand.
    ///
    /// # Panics
    /// If there are not so many at hand.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.frames.bytes().len() - self.at);
        self.in_record |= bytes > 0;
        self.at += bytes;
        self.bytes += bytes as u64;
    }

    /// Fills `out`, across frames if need be.
    ///
    /// # Errors
    /// [`Stop::Failed`] ([`Party::Content`]) if the part ends before.
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<(), Stop> {
        let mut filled = 0;
        while filled < out.len() {
            let at_hand = self.fill()?;
            if at_hand.is_empty() {
                return Err(self.ends_inside("a record").into());
            }
            let n = at_hand.len().min(out.len() - filled);
            out[filled..filled + n].copy_from_slice(&at_hand[..n]);
            self.consume(n);
            filled += n;
        }
        Ok(())
    }

    /// Goes on by `bytes`, across frames if need be.
    ///
    /// # Errors
    /// [`Stop::Failed`] ([`Party::Content`]) if the part ends before.
    pub fn skip(&mut self, mut bytes: u64) -> Result<(), Stop> {
        while bytes > 0 {
            let at_hand = self.fill()?.len();
            if at_hand == 0 {
                return Err(self.ends_inside("a record").into());
            }
            let n = usize::try_from(bytes).unwrap_or(usize::MAX).min(at_hand);
            self.consume(n);
            bytes -= n as u64;
        }
        Ok(())
    }

    /// Says that a record was read to its end.
    #[inline]
    pub fn end_record(&mut self) {
        self.in_record = false;
        self.records += 1;
    }

    /// Says that `records` records were read to their ends at once.
    pub fn end_records(&mut self, records: u64) {
        self.in_record = false;
        self.records += records;
    }

    /// Records read to their ends.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Raw bytes read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a record was begun and not ended.
    pub fn in_record(&self) -> bool {
        self.in_record
    }

    fn ends_inside(&self, what: &str) -> Failure {
        Failure::new(
            Party::Content,
            format!(
                "the part ends inside {what}, after {} records and {} bytes: the frames verified, so it was written so; dump it again",
                self.records, self.bytes
            ),
        )
    }

    #[cold]
    fn next_frame(&mut self) -> Result<(), Stop> {
        self.gate.check()?;
        self.at = 0;
        if let Some(records) = self.frames.advance()?
            && !self.is_inside
        {
            self.gate
                .pass(self.frames.bytes().len() as u64, u64::from(records))?;
        }
        Ok(())
    }
}
