//! Events as Parquet files: written here, and read back here to verify them.
//!
//! What is written of the format (<https://parquet.apache.org/docs/file-format/>) is what every reader knows: one row
//! group, data pages of version 1, PLAIN values, RLE levels, a dictionary for the one column that is constant, ZSTD or no
//! compression, minimum and maximum of numbers.

mod column;
mod meta;
mod read;
mod thrift;
mod write;

pub use read::Parquet;
pub(super) use write::{Writer, encoder_bytes, object_bytes_max};

pub(super) const NAME: &str = "parquet";
pub(super) const VERSION: u16 = 1;

/// What a file begins and ends with.
const MAGIC: &[u8; 4] = b"PAR1";

/// A page ends before a value that would make it larger, so only a page of one row can be.
const PAGE_BYTES: usize = tipple_chunk::FRAME_BYTES_MAX;
