//! Text lines as a source, a sink and a content: a file, standard input, standard output.
//!
//! # The content `lines`, version 1 (stable)
//! A record is one line, its `\n` included. Only the last line of a source may lack it. Lines are bytes: `\r`, NUL and
//! what is not UTF-8 are kept as they are. The frames hold the lines and nothing else:
//!
//! | offset | size | field | meaning |
//! |---|---|---|---|
//! | 0 | n >= 0 | text | any bytes but `\n` |
//! | n | 1 | end | `\n`; absent in the last record if the source does not end with one (then n >= 1) |
//!
//! So what `zstd -dc` gives for all chunks in order is the source, byte for byte. The position of a record is its
//! offset in the source.
//!
//! This crate never meets a store or a chunk, and never interprets a line.
//!
//! ```
//! use std::io::Write;
//! use tipple_budget::{Budget, BufferPool, Gate, Rates};
//! use tipple_flow::Source;
//! use tipple_lines::{LinesOptions, LinesSource};
//!
//! let mut file = tempfile::NamedTempFile::new()?;
//! file.write_all(b"one\ntwo\nthree")?;
//! let source = LinesSource::file(file.path(), LinesOptions::default())?;
//! assert_eq!(source.check()?.bytes, 13);
//! assert_eq!(source.content(), ("lines", 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod content;
mod file;
mod options;
mod pipe;
mod sink;
mod source;

pub use content::Lines;
pub use options::LinesOptions;
pub use sink::LinesSink;
pub use source::LinesSource;

/// The content's name. Stable.
pub(crate) const NAME: &str = "lines";
/// The content's version. Stable.
pub(crate) const VERSION: u16 = 1;
