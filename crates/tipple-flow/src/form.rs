//! Other forms of records, for programs that read objects without tipple.

use std::fmt::Debug;
use std::io::Write;

use tipple_chunk::Sealed;

use crate::failure::{Failure, Stop};
use crate::reader::RecordReader;

/// A form in which other programs read the records of a content, such as JSON lines or Parquet: objects of whole records,
/// in folders by what the records hold.
///
/// The pipeline collects records in a batch, in memory, and lets a [`FormEncoder`] make objects of the records of each
/// folder. `bytes_max` is what it was told to put into an object at most, at least 1 MiB.
pub trait Form: Debug + Send + Sync {
    /// The content that it takes, such as `events`.
    fn takes(&self) -> &'static str;

    /// What its dumps hold, such as `parquet`. Stable.
    fn name(&self) -> &'static str;

    /// The version of that.
    fn version(&self) -> u16;

    /// What the names of objects end with, without a dot in front.
    fn extension(&self) -> &'static str;

    /// The folders of objects, as they were asked for. Shapes the data.
    fn path(&self) -> Option<&str>;

    /// The most bytes of a record: larger ones are lost, and told.
    fn record_bytes_max(&self, bytes_max: u64) -> u64;

    /// The most bytes of a stored object.
    fn object_bytes_max(&self, bytes_max: u64) -> u64;

    /// Memory that an encoder holds at most, in bytes.
    fn encoder_bytes(&self, bytes_max: u64) -> u64;

    /// Makes an encoder, for one worker.
    ///
    /// # Errors
    /// [`Failure`] if there is no memory for it.
    fn encoder(&self, bytes_max: u64) -> Result<Box<dyn FormEncoder + Send + '_>, Failure>;

    /// Begins to read a record: appends its first bytes to `record`, and tells how many there are in all; `None` if there
    /// is none left. The caller reads or skips the rest.
    ///
    /// # Errors
    /// As for [`Content::skip`](crate::Content::skip).
    fn begin_record(
        &self,
        records: &mut RecordReader<'_>,
        record: &mut Vec<u8>,
    ) -> Result<Option<u64>, Stop>;
}

/// Makes objects. The same records always give the same bytes, so that what is done again after a kill has the same name.
pub trait FormEncoder {
    /// The folder that `record` belongs into: segments of an object's name with slashes between them; empty for none.
    ///
    /// # Errors
    /// [`Failure`] if it is no record, or has no place in any object.
    fn folder(&mut self, record: &[u8]) -> Result<&str, Failure>;

    /// What the name of an object begins with whose first record is `record`: sorts as its records do.
    fn stem(&self, record: &[u8]) -> String;

    /// Writes an object of the first of `records`: as many as fit, at least one.
    ///
    /// # Errors
    /// [`Failure`]; what was written is no object then.
    fn object(&mut self, records: Records<'_>, out: &mut dyn Write) -> Result<Sealed, Failure>;
}

/// Where a record is in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: usize,
    /// Its bytes.
    pub bytes: u32,
    /// Which folder of the batch it belongs into.
    pub folder: u32,
}

/// Records of a batch, in order.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Records<'a> {
    /// The records that are at `spans` of `bytes`.
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// One by one.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        let spans = self.spans.iter();
        spans.map(move |span| &bytes[span.start..span.start + span.bytes as usize])
    }

    /// The first `records`, and the others.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn split_at(&self, records: usize) -> (Self, Self) {
        let (first, rest) = self.spans.split_at(records);
        (Self::new(self.bytes, first), Self::new(self.bytes, rest))
    }
}
