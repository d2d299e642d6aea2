//! Parquet files, written column by column. Records of several kinds become rows of such files; what is a row is the
//! business of whoever writes them.
//!
//! What is written of the format (<https://parquet.apache.org/docs/file-format/>) is what every reader knows: data pages of
//! version 1, PLAIN values, RLE levels, a dictionary for a column that is constant, ZSTD or no compression, minimum and
//! maximum of numbers. A row group is written one column after the other, so that a page is all that is held in memory
//! beside the rows themselves, which the caller has.
//!
//! # Example
//! ```
//! use tipple_chunk::{Codec, Encoder};
//! use tipple_parquet::{Column, FileWriter, Kind, Scratch, Schema, Value};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let columns = vec![Column::required("number", Kind::Signed), Column::optional("name", Kind::Text)];
//! let schema = Schema::new("fruits", columns);
//! let (mut encoder, mut scratch) = (Encoder::new(Codec::Zstd { level: 1 })?, Scratch::default());
//! let mut bytes = Vec::new();
//! let mut file = FileWriter::begin(&schema, &mut encoder, &mut scratch, &mut bytes)?;
//! for _row_group in 0..2 {
//!     let mut numbers = file.column();
//!     (0..3).try_for_each(|number| numbers.value(Some(Value::Number(number))))?;
//!     numbers.end()?;
//!     let mut names = file.column();
//!     [Some("tea"), None, Some("")].iter().try_for_each(|name| names.value(name.map(|name| Value::Bytes(name.as_bytes()))))?;
//!     names.end()?;
//!     file.end_row_group(3);
//! }
//! let object = file.finish()?;
//! assert_eq!((object.rows, object.bytes), (6, bytes.len() as u64));
//! # Ok(())
//! # }
//! ```

pub mod meta;
mod schema;
pub mod thrift;
mod write;

pub use schema::{Column, Kind, Nesting, Schema, Value};
pub use write::{ColumnWriter, FileWriter, Object, Scratch};

/// What a file begins and ends with.
pub const MAGIC: &[u8; 4] = b"PAR1";

/// A page ends before a value that would make it larger, so only a page of one row can be. 1 MiB.
pub const PAGE_BYTES: usize = tipple_chunk::FRAME_BYTES_MAX;
