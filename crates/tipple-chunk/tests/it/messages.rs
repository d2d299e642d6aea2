//! Every message, as it is read after "error:".

use std::error::Error as _;
use std::io;

use tipple_chunk::{ChunkError, Damage, ErrorKind, Place, Usage};

#[test]
fn messages() {
    let frame = Place::Frame {
        number: 7,
        offset: 4096,
    };
    let index = Place::Index { offset: 70_000 };
    let table = Place::SeekTable { offset: 71_000 };
    let chunk = Place::Chunk { bytes: 90 };
    let damaged = |place, damage| ChunkError::Damaged { place, damage };
    let usage = ChunkError::Usage;
    for (error, kind, message) in [
        (
            ChunkError::Io {
                operation: "read a frame",
                offset: 4096,
                source: io::ErrorKind::TimedOut.into(),
            },
            ErrorKind::Io,
            "cannot read a frame at byte 4096 of the chunk",
        ),
        (
            damaged(chunk, Damage::TooShort { least: 133 }),
            ErrorKind::Damaged,
            "the chunk is damaged: the chunk of 90 bytes: shorter than the 133 bytes of the smallest chunk",
        ),
        (
            damaged(chunk, Damage::NoSeekTable),
            ErrorKind::Damaged,
            "the chunk is damaged: the chunk of 90 bytes: it does not end with a seek table (it is not a chunk, or its end is missing)",
        ),
        (
            damaged(index, Damage::Constant("tag of the index")),
            ErrorKind::Damaged,
            "the chunk is damaged: the index at byte 70000: the tag of the index is not there",
        ),
        (
            damaged(
                table,
                Damage::Field {
                    field: "flags",
                    found: 8,
                },
            ),
            ErrorKind::Damaged,
            "the chunk is damaged: the seek table at byte 71000: the flags cannot be 8",
        ),
        (
            damaged(
                frame,
                Damage::Mismatch {
                    field: "stored length",
                    expected: 5,
                    found: 6,
                },
            ),
            ErrorKind::Damaged,
            "the chunk is damaged: frame 7 at byte 4096: the stored length should be 5, but is 6",
        ),
        (
            damaged(frame, Damage::Checksum("frame digest")),
            ErrorKind::Damaged,
            "the chunk is damaged: frame 7 at byte 4096: the frame digest does not match its bytes",
        ),
        (
            damaged(index, Damage::CutOff("list of frames")),
            ErrorKind::Damaged,
            "the chunk is damaged: the index at byte 70000: the list of frames is cut off",
        ),
        (
            damaged(
                frame,
                Damage::Undecodable {
                    reason: "Data corruption detected",
                },
            ),
            ErrorKind::Damaged,
            "the chunk is damaged: frame 7 at byte 4096: zstd cannot decode it: Data corruption detected",
        ),
        (
            damaged(chunk, Damage::NotSealed),
            ErrorKind::Damaged,
            "the chunk is damaged: the chunk of 90 bytes: it is not sealed, and should be",
        ),
        (
            damaged(
                Place::Segment {
                    number: 1,
                    offset: 65_696,
                },
                Damage::Tag,
            ),
            ErrorKind::Damaged,
            "the chunk is damaged: segment 1 at byte 65696: its bytes are not those that were sealed (changed, moved, or the end is missing)",
        ),
        (
            damaged(Place::SealHeader, Damage::OtherPlace),
            ErrorKind::Damaged,
            "the chunk is damaged: the header of the seal: it was sealed for another dump, part or number, and moved here",
        ),
        (
            ChunkError::Key {
                id: "backup-2".parse().unwrap(),
                is_there: false,
            },
            ErrorKind::Key,
            "it is sealed with the key `backup-2`, which is not in the key file: give --encrypt-key the file that has it",
        ),
        (
            usage(Usage::KeyId {
                given: "a b".to_owned(),
            }),
            ErrorKind::Usage,
            "\"a b\" cannot name a key: give 1 to 32 of A-Z a-z 0-9 . _ -",
        ),
        (
            ChunkError::FormatVersion { major: 2, minor: 1 },
            ErrorKind::FormatVersion,
            "the chunk has format version 2.1, but only versions 1.x can be read: use a newer version of this program",
        ),
        (
            ChunkError::TooLarge {
                place: frame,
                quantity: "raw length",
                value: 9,
                limit: 8,
            },
            ErrorKind::TooLarge,
            "frame 7 at byte 4096: raw length is 9, but at most 8 is allowed",
        ),
        (
            ChunkError::Codec {
                place: frame,
                operation: "encode it",
                reason: "Allocation error",
            },
            ErrorKind::Codec,
            "frame 7 at byte 4096: zstd cannot encode it: Allocation error",
        ),
        (
            usage(Usage::EmptyFrame),
            ErrorKind::Usage,
            "a frame needs at least one byte",
        ),
        (
            usage(Usage::Mark {
                records: 3,
                first_record: Some(9),
                raw_len: 10,
            }),
            ErrorKind::Usage,
            "3 records from byte 9 on cannot begin in a frame of 10 bytes",
        ),
        (
            usage(Usage::Mark {
                records: 3,
                first_record: None,
                raw_len: 10,
            }),
            ErrorKind::Usage,
            "a frame of 10 bytes is said to begin 3 records, but not where the first one begins",
        ),
        (
            usage(Usage::WriterFailed),
            ErrorKind::Usage,
            "an earlier write to this chunk failed: it must be written again from its beginning",
        ),
    ] {
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), kind);
        assert_eq!(error.source().is_some(), kind == ErrorKind::Io);
    }
}
