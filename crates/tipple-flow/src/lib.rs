//! The seam: what a source, a sink and a content are, and how records pass between them and the pipeline.
//!
//! A [`Source`] plans [`Part`]s and writes their records into a [`RecordWriter`]; a [`Sink`] reads records
//! from a [`RecordReader`]; a [`Content`] knows how records look inside frames, a [`Form`] how other programs read
//! them. None of them ever sees a file, a store or another of its kind, and this crate does no I/O: it is traits, plain values, and the
//! two ends of a byte stream that is cut into frames.
//!
//! A part is one stream of bytes. It is cut into *frames* of at most [`FRAME_BYTES_MAX`], between records
//! where a record fits in a frame, inside a record where it does not, so that no buffer or frame size ever
//! limits a record.
//!
//! ```
//! use tipple_budget::{Budget, BufferPool, Gate, Rates};
//! use tipple_flow::{Block, Drain, Position, RecordWriter, Stop};
//!
//! /// Keeps what it gets. The pipeline's drain encodes chunks instead.
//! struct Keep(Vec<Vec<u8>>);
//! impl Drain for Keep {
//!     fn block(&mut self, block: Block) -> Result<(), Stop> {
//!         self.0.extend(block.frames().map(|(bytes, _)| bytes.to_vec()));
//!         Ok(())
//!     }
//!     fn restart(&mut self) -> Result<(), Stop> {
//!         self.0.clear();
//!         Ok(())
//!     }
//! }
//!
//! let gate = Gate::new(Rates::default());
//! let pool = BufferPool::new(2, 64 << 10, &Budget::new("memory", 128 << 10))?;
//! let mut kept = Keep(Vec::new());
//! let mut writer = RecordWriter::new(&gate, &pool, &mut kept);
//! writer.record(&[b"one ", b"record"], Position::NONE)?;
//! assert_eq!(writer.finish()?.records, 1);
//! assert_eq!(kept.0, [b"one record"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod content;
mod failure;
mod form;
mod outcome;
mod part;
mod position;
mod reader;
mod sink;
mod source;
mod writer;

pub use content::{Content, ObjectContent, ObjectCounts, ObjectRead};
pub use failure::{Failure, Party, Stop};
pub use form::{Form, FormEncoder, Records, Span};
pub use outcome::{Cause, CauseKind, Outcomes};
pub use part::{NewPart, Part, PartName, PlanBody, PlanRead};
pub use position::Position;
pub use reader::{FrameSource, RecordReader};
pub use sink::{PartWriter, Resume, Sink};
pub use source::{Estimate, Identity, PartReader, Planned, Planner, Source};
pub use writer::{Block, Drain, FrameSpan, RecordWriter, Written};

/// The most raw bytes in a frame: 1 MiB. The chunk format has the same limit.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
