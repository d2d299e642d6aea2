//! What can go wrong with a chunk, and where in it.

use std::{error, fmt, io};

use crate::{KeyId, KeyRing};

/// The class of a [`ChunkError`], for exit codes and for deciding what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The reader or writer underneath failed. Nothing is known about the chunk itself.
    /// A chunk that was being written must be started again on a new file: never continued.
    Io,
    /// The bytes are not those of a sealed chunk, or no longer. Reading again gives the same
    /// answer unless the transport is at fault; fetch the chunk from another store.
    Damaged,
    /// The chunk was written by a newer major version of the format. It may be in perfect health.
    FormatVersion,
    /// A size is beyond a limit of the format. On writing: the caller's mistake, or a chunk that
    /// is full. On reading: a file that no writer of this format makes, refused before anything
    /// is allocated for it.
    TooLarge,
    /// The key that it takes is not there, or another one of that name. The object may be in perfect health.
    Key,
    /// zstd refused to create a context or to encode.
    Codec,
    /// A value given by the caller makes no sense.
    Usage,
}

/// The error of this crate. The message names the place in the chunk and the sizes involved;
/// the caller adds the name of the file, which this crate does not know.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// See [`ErrorKind::Io`].
    #[error("cannot {operation} at byte {offset} of the chunk")]
    Io {
        /// What was attempted: a verb and its object.
        operation: &'static str,
        /// Where in the chunk, in bytes from its beginning.
        offset: u64,
        /// What the reader or writer said.
        source: io::Error,
    },
    /// See [`ErrorKind::Damaged`].
    #[error("the chunk is damaged: {place}: {damage}")]
    Damaged {
        /// Where in the chunk.
        place: Place,
        /// What is wrong there.
        damage: Damage,
    },
    /// See [`ErrorKind::FormatVersion`].
    #[error(
        "the chunk has format version {major}.{minor}, but only versions {}.x can be read: use a newer version of this program",
        crate::FORMAT_MAJOR
    )]
    FormatVersion {
        /// The major version that the chunk states.
        major: u8,
        /// The minor version that the chunk states.
        minor: u8,
    },
    /// See [`ErrorKind::TooLarge`].
    #[error("{place}: {quantity} is {value}, but at most {limit} is allowed")]
    TooLarge {
        /// Where in the chunk.
        place: Place,
        /// Which quantity, with its unit.
        quantity: &'static str,
        /// The value that was found or given.
        value: u64,
        /// The largest value that is allowed.
        limit: u64,
    },
    /// See [`ErrorKind::Key`].
    #[error("it is sealed with the key `{id}`, {}", match .is_there {
        false => "which is not in the key file: give --encrypt-key the file that has it",
        true => "and the key of that name in the key file is another one: give --encrypt-key the file that has the right one",
    })]
    Key {
        /// The name of the key.
        id: KeyId,
        /// Whether there is a key of that name.
        is_there: bool,
    },
    /// See [`ErrorKind::Codec`].
    #[error("{place}: zstd cannot {operation}: {reason}")]
    Codec {
        /// Where in the chunk.
        place: Place,
        /// What was attempted: a verb and its object.
        operation: &'static str,
        /// zstd's own name of the error.
        reason: &'static str,
    },
    /// See [`ErrorKind::Usage`].
    #[error(transparent)]
    Usage(#[from] Usage),
}

impl ChunkError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ChunkError::Io { .. } => ErrorKind::Io,
            ChunkError::Damaged { .. } => ErrorKind::Damaged,
            ChunkError::FormatVersion { .. } => ErrorKind::FormatVersion,
            ChunkError::TooLarge { .. } => ErrorKind::TooLarge,
            ChunkError::Key { .. } => ErrorKind::Key,
            ChunkError::Codec { .. } => ErrorKind::Codec,
            ChunkError::Usage(_) => ErrorKind::Usage,
        }
    }

    /// Where in the chunk, if the error has a place.
    pub fn place(&self) -> Option<Place> {
        match self {
            ChunkError::Damaged { place, .. }
            | ChunkError::TooLarge { place, .. }
            | ChunkError::Codec { place, .. } => Some(*place),
            ChunkError::Io { .. }
            | ChunkError::FormatVersion { .. }
            | ChunkError::Key { .. }
            | ChunkError::Usage(_) => None,
        }
    }

    pub(crate) fn io(operation: &'static str, offset: u64) -> impl FnOnce(io::Error) -> ChunkError {
        // A sealed reader underneath knows what is wrong.
        move |source| match source.downcast::<ChunkError>() {
            Ok(error) => error,
            Err(source) => ChunkError::Io {
                operation,
                offset,
                source,
            },
        }
    }

    pub(crate) fn damaged(place: Place) -> impl Fn(Damage) -> ChunkError {
        move |damage| ChunkError::Damaged { place, damage }
    }
}

/// A place in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The chunk as a whole, with its length.
    Chunk {
        /// Length of the file, in bytes.
        bytes: u64,
    },
    /// A data frame.
    Frame {
        /// The frame's number, from 0.
        number: u32,
        /// Where the stored frame begins, in bytes from the beginning of the chunk.
        offset: u64,
    },
    /// The index frame.
    Index {
        /// Where the index frame begins, in bytes from the beginning of the chunk.
        offset: u64,
    },
    /// The seek table.
    SeekTable {
        /// Where the seek table's frame begins, in bytes from the beginning of the chunk.
        offset: u64,
    },
    /// The header of a sealed chunk.
    SealHeader,
    /// A segment of a sealed chunk.
    Segment {
        /// The segment's number, from 0.
        number: u64,
        /// Where it begins, in bytes from the beginning of the sealed chunk.
        offset: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Chunk { bytes } => write!(f, "the chunk of {bytes} bytes"),
            Place::Frame { number, offset } => write!(f, "frame {number} at byte {offset}"),
            Place::Index { offset } => write!(f, "the index at byte {offset}"),
            Place::SeekTable { offset } => write!(f, "the seek table at byte {offset}"),
            Place::SealHeader => f.write_str("the header of the seal"),
            Place::Segment { number, offset } => write!(f, "segment {number} at byte {offset}"),
        }
    }
}

/// What is wrong with the bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// There are fewer bytes than the smallest chunk has.
    TooShort {
        /// The length of the smallest chunk, in bytes.
        least: u64,
    },
    /// The last bytes are not the footer of a seek table: not a chunk, or cut off.
    NoSeekTable,
    /// Bytes that are the same in every chunk are different.
    Constant(&'static str),
    /// A field has a value that it cannot have.
    Field {
        /// The field's name in FORMAT.md.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// Two statements about the same thing disagree.
    Mismatch {
        /// What both are about.
        field: &'static str,
        /// What the rest of the chunk, or the caller, says.
        expected: u64,
        /// What is said here.
        found: u64,
    },
    /// A checksum or digest does not match the bytes it covers.
    Checksum(&'static str),
    /// It does not begin as a sealed object.
    NotSealed,
    /// A tag does not hold: these are not the bytes that were sealed, or not in this place.
    Tag,
    /// It was sealed as another object.
    OtherPlace,
    /// A list ends before its last element is complete.
    CutOff(&'static str),
    /// The stored bytes are as they were written, but zstd cannot decode them.
    Undecodable {
        /// zstd's own name of the error.
        reason: &'static str,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::TooShort { least } => {
                write!(f, "shorter than the {least} bytes of the smallest chunk")
            }
            Damage::NoSeekTable => f.write_str(
                "it does not end with a seek table (it is not a chunk, or its end is missing)",
            ),
            Damage::Constant(field) => write!(f, "the {field} is not there"),
            Damage::Field { field, found } => write!(f, "the {field} cannot be {found}"),
            Damage::Mismatch {
                field,
                expected,
                found,
            } => {
                write!(f, "the {field} should be {expected}, but is {found}")
            }
            Damage::Checksum(what) => write!(f, "the {what} does not match its bytes"),
            Damage::NotSealed => f.write_str("it is not sealed, and should be"),
            Damage::Tag => f.write_str(
                "its bytes are not those that were sealed (changed, moved, or the end is missing)",
            ),
            Damage::OtherPlace => {
                f.write_str("it was sealed for another dump, part or number, and moved here")
            }
            Damage::CutOff(what) => write!(f, "the {what} is cut off"),
            Damage::Undecodable { reason } => write!(f, "zstd cannot decode it: {reason}"),
        }
    }
}

/// A value that the caller should not have given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The text names no codec.
    CodecName {
        /// The text.
        given: String,
    },
    /// The level is not one of zstd's.
    Level {
        /// The level, as it was given.
        given: String,
    },
    /// The text cannot be the name of a content.
    ContentName {
        /// The text.
        given: String,
    },
    /// The text is not 64 hexadecimal digits.
    Digest {
        /// The text.
        given: String,
    },
    /// The text cannot be the name of a key.
    KeyId {
        /// The text, or its beginning.
        given: String,
    },
    /// A line of a key file is no key.
    KeyLine {
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A key file that is too long.
    KeyFileLength,
    /// A key file without a key.
    NoKey,
    /// A frame without bytes.
    EmptyFrame,
    /// The mark does not fit its frame: `first_record` must be there if and only if
    /// `records > 0`, and all records must begin inside the frame.
    Mark {
        /// The mark's record count.
        records: u32,
        /// The mark's first record.
        first_record: Option<u32>,
        /// The frame's length, in bytes.
        raw_len: u64,
    },
    /// A write to this chunk has failed before.
    WriterFailed,
    /// The chunk has no frame of this number.
    NoSuchFrame {
        /// The number that was asked for.
        number: u64,
        /// How many frames there are.
        frames: u64,
    },
}

impl error::Error for Usage {}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Usage::CodecName { given } => {
                write!(f, "`{given}` is no compression: give `none`, `zstd` or `zstd:LEVEL`")
            }
            Usage::Level { given } => write!(
                f,
                "`{given}` is no zstd level: give 1 to {}, or {} to -1 for more speed",
                crate::LEVEL_MAX,
                crate::LEVEL_MIN
            ),
            Usage::ContentName { given } => write!(
                f,
                "`{given}` cannot name a content: give 1 to {} of a-z, 0-9, `-`, `_` and `.`",
                crate::CONTENT_NAME_BYTES_MAX
            ),
            Usage::Digest { given } => {
                write!(f, "`{given}` is no SHA-256 digest: give 64 hexadecimal digits")
            }
            Usage::KeyId { given } => write!(
                f,
                "{given:?} cannot name a key: give 1 to {} of A-Z a-z 0-9 . _ -",
                KeyId::BYTES_MAX
            ),
            Usage::KeyLine { line, problem } => {
                write!(f, "line {line} of the key file is no key: {problem}")
            }
            Usage::KeyFileLength => write!(
                f,
                "the key file is longer than {} bytes: it is none",
                KeyRing::FILE_BYTES_MAX
            ),
            Usage::NoKey => f.write_str("the key file holds no key: `tipple keygen FILE` makes one"),
            Usage::EmptyFrame => f.write_str("a frame needs at least one byte"),
            Usage::Mark { records, first_record: Some(first), raw_len } => write!(
                f,
                "{records} records from byte {first} on cannot begin in a frame of {raw_len} bytes"
            ),
            Usage::Mark { records, first_record: None, raw_len } => write!(
                f,
                "a frame of {raw_len} bytes is said to begin {records} records, but not where the first one begins"
            ),
            Usage::WriterFailed => {
                f.write_str("an earlier write to this chunk failed: it must be written again from its beginning")
            }
            Usage::NoSuchFrame { number, frames } => {
                write!(f, "frame {number} was asked for, but the chunk has {frames} frames, counted from 0")
            }
        }
    }
}
