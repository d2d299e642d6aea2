//! The content `lines`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tipple_flow::{Content, RecordReader, Stop};

/// The content `lines`, version 1. The crate's doc has its layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Content for Lines {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn version(&self) -> u16 {
        crate::VERSION
    }

    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        read_line(records, |_| {})
    }

    /// `{"line":"…"}` without the newline; `{"line":{"base64":"…"}}` if it is not UTF-8. Holds the whole line in memory.
    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop> {
        let mut bytes = Vec::new();
        if !read_line(records, |piece| bytes.extend_from_slice(piece))? {
            return Ok(false);
        }
        bytes.pop_if(|last| *last == b'\n');
        let object = match String::from_utf8(bytes) {
            Ok(text) => json!({ "line": text }),
            Err(error) => json!({ "line": { "base64": BASE64_STANDARD.encode(error.as_bytes()) } }),
        };
        serde_json::to_writer(line, &object).expect("strings into memory");
        Ok(true)
    }

    fn write_raw(
        &self,
        records: &mut RecordReader<'_>,
        bytes: &mut Vec<u8>,
    ) -> Option<Result<bool, Stop>> {
        Some(read_line(records, |piece| bytes.extend_from_slice(piece)))
    }
}

/// Reads one line to its end, its newline included, and shows its pieces; `false` if there is none left.
fn read_line(records: &mut RecordReader<'_>, mut piece: impl FnMut(&[u8])) -> Result<bool, Stop> {
    loop {
        let at_hand = records.fill()?;
        if at_hand.is_empty() {
            // Only the last line of a source has no newline.
            let unended = records.in_record();
            if unended {
                records.end_record();
            }
            return Ok(unended);
        }
        let newline = memchr::memchr(b'\n', at_hand);
        let bytes = newline.map_or(at_hand.len(), |at| at + 1);
        piece(&at_hand[..bytes]);
        records.consume(bytes);
        if newline.is_some() {
            records.end_record();
            return Ok(true);
        }
    }
}
