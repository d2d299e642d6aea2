//! How records look inside frames.

use std::io::{Read, Seek};

use tipple_budget::Gate;

use crate::failure::Stop;
use crate::reader::RecordReader;

/// The layout of one kind of records, for those who read them without a sink: verify, cat.
pub trait Content: Send + Sync {
    /// The content's name, such as `items`. It is in the chunk's index and in its file name. Stable.
    fn name(&self) -> &'static str;

    /// The newest version that this program reads.
    fn version(&self) -> u16;

    /// Reads one record to its end, checking its layout; `false` if there is none left. It must call
    /// [`RecordReader::end_record`].
    ///
    /// # Errors
    /// [`Stop::Failed`] with [`Party::Content`](crate::Party::Content) when the bytes are no such record.
    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop>;

    /// Reads one record and appends it to `line` as one JSON object without a newline; `false` if there is none left.
    ///
    /// # Errors
    /// As for [`Content::skip`].
    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop>;

    /// Reads one record and appends to `bytes` the form in which the source's users know it, such as a text line with
    /// its newline; `None` if the content has no such form.
    ///
    /// # Errors
    /// As for [`Content::skip`].
    fn write_raw(
        &self,
        records: &mut RecordReader<'_>,
        bytes: &mut Vec<u8>,
    ) -> Option<Result<bool, Stop>> {
        let _ = (records, bytes);
        None
    }

    /// How its objects are read, if they are no chunks of frames: then nothing else of this trait is asked but name and
    /// version.
    fn objects(&self) -> Option<&dyn ObjectContent> {
        None
    }
}

/// The layout of a [`Form`](crate::Form) whose objects other programs made up, such as Parquet.
pub trait ObjectContent: Send + Sync {
    /// Memory that reading one object holds at most, in bytes.
    fn reading_bytes(&self) -> u64;

    /// Reads an object of `bytes` from its beginning to its end, decodes all of it, and counts.
    ///
    /// # Errors
    /// [`Stop::Failed`] with [`Party::Content`](crate::Party::Content) when it is no such object;
    /// [`Stop::Cancelled`] when the gate was cancelled.
    fn count(
        &self,
        object: &mut dyn ObjectRead,
        bytes: u64,
        gate: &Gate,
    ) -> Result<ObjectCounts, Stop>;

    /// What to do with such a dump where one of frames is needed: it reads after a colon.
    fn advice(&self) -> &'static str;
}

/// An object that can be read from anywhere.
pub trait ObjectRead: Read + Seek {}

impl<R: Read + Seek> ObjectRead for R {}

/// What an object holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectCounts {
    /// Records.
    pub records: u64,
    /// Bytes before they were compressed.
    pub raw_bytes: u64,
    /// The position of the first record.
    pub first_position: Vec<u8>,
    /// The position of the last record.
    pub last_position: Vec<u8>,
}
