//! A chunk is an immutable file of records: a standard zstd file of small, independent frames with
//! an index. `zstd -t`, `zstd -dc` and every other zstd tool read it; this crate also reads single
//! frames of it, and verifies each of them before it decodes it. FORMAT.md has every byte.
//!
//! - [`ChunkWriter`] writes a chunk with an [`Encoder`], and ends with its [`Sealed`]: lengths,
//!   counts, positions and the SHA-256 of all bytes, which is the chunk's name.
//! - [`ChunkReader`] opens a chunk from its end and reads any [frame](ChunkReader::read_frame)
//!   with a [`Decoder`]; [`verify`] reads all of it, [`sha256_of`] only its digest.
//!
//! All memory is known before it is allocated ([`Codec::encoder_bytes`], [`decoder_bytes`],
//! [`INDEX_BYTES_MAX`]), and so is the disk that a chunk can take ([`Codec::chunk_bytes_max`]).
//!
//! A chunk can be sealed: [`ChunkWriter::sealing`] writes it through a [`SealWriter`], a [`SealedReader`] under a
//! [`ChunkReader`] reads it, with a key of a [`KeyRing`]. Sealed bytes are encrypted and authenticated, and open only as
//! what they were sealed as ([`Binding`]). A [`DumpKey`] protects the small objects beside them.
//!
//! This crate must never name a file, open a socket or read a clock: it works on `Read`, `Write`
//! and `Seek`. It must never hand out a byte of a frame that is not verified as a whole, never
//! allocate what a file asks for before that is held against a limit, and never panic about bytes
//! that it reads. It does not know what a record is.
//!
//! ```
//! use std::io::Cursor;
//! use tipple_chunk::{ChunkReader, ChunkWriter, Codec, Content, Decoder, Encoder, FrameMark};
//!
//! const CONTENT: Content = Content::new("lines", 1);
//!
//! # fn main() -> Result<(), tipple_chunk::ChunkError> {
//! let mut encoder = Encoder::new(Codec::Zstd { level: 3 })?;
//! let mut writer = ChunkWriter::new(Vec::new(), &mut encoder, &CONTENT, false);
//! let mark = FrameMark { records: 2, first_record: Some(0), position: b"1" };
//! writer.frame(b"one\ntwo\n", mark)?;
//! let (file, sealed) = writer.finish(false, b"2")?;
//! assert_eq!(sealed.records, 2);
//! assert_eq!(sealed.stored_bytes, file.len() as u64);
//!
//! let mut decoder = Decoder::new()?;
//! let mut reader = ChunkReader::open(Cursor::new(file), Some(&sealed.index_sha256))?;
//! assert_eq!(reader.index().content, CONTENT);
//! assert_eq!(reader.read_frame(0, &mut decoder)?, b"one\ntwo\n");
//! # Ok(())
//! # }
//! ```

mod codec;
mod content;
mod digest;
mod dump_key;
mod error;
mod frame;
mod index;
mod key_ring;
mod loose;
mod output;
mod reader;
mod scratch;
mod seal;
mod seal_writer;
mod sealed_reader;
mod seek_table;
mod writer;

pub use codec::{Codec, Decoder, Encoder, LEVEL_DEFAULT, LEVEL_MAX, LEVEL_MIN, decoder_bytes};
pub use content::{CONTENT_NAME_BYTES_MAX, Content, ContentName};
pub use digest::{FrameDigest, Sha256Digest, sha256_of};
pub use dump_key::{DumpKey, DumpSalt};
pub use error::{ChunkError, Damage, ErrorKind, Place, Usage};
use index::FRAMES_WRITTEN_MAX;
pub use index::{
    ChunkIndex, FrameEntry, INDEX_BYTES_MAX, INDEX_BYTES_WRITTEN_MAX, POSITION_BYTES_MAX,
};
pub use key_ring::{KeyId, KeyRing, SealKey};
pub use loose::{LooseFrame, LooseFrames};
pub use output::ObjectWriter;
pub use reader::{ChunkReader, Frame, verify};
pub use scratch::Scratch;
pub use seal::{Binding, Purpose, seal_bytes, sealed_bytes};
pub use seal_writer::{SealWriter, StoredObject};
pub use sealed_reader::SealedReader;
pub use writer::{ChunkWriter, FrameMark, Sealed};

/// The most raw bytes of a frame: what a reader needs for each of its two buffers, give or take,
/// and what a damaged byte costs at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// The major version of the format that this crate writes, and the only one that it reads.
pub const FORMAT_MAJOR: u8 = 1;

/// The minor version of the format that this crate writes. It reads newer ones, too.
pub const FORMAT_MINOR: u8 = 0;
