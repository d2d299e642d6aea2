//! How records look inside frames.

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
}
