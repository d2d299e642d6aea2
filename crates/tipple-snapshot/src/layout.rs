//! The layout of a file: prelude and header, frames, index, footer. FORMAT.md has every byte.

use std::io::{SeekFrom, Write};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::frames::{self, ENTRY_BYTES, FrameEntry, FrameMark, FrameSink, Frames, Input, reading};
use crate::moment::Moment;
use crate::{Compression, Dumpable, ErrorKind, Reader, Schema, SnapshotError, Writer, compression};

/// The major version of the layout that is written, and the only one that is read.
pub(crate) const LAYOUT_MAJOR: u8 = 1;
pub(crate) const LAYOUT_MINOR: u8 = 0;

/// Begins every file: not text, and damaged by whoever thinks it is.
const MAGIC: [u8; 8] = *b"\x89TPS\r\n\x1a\n";
const END_MAGIC: [u8; 8] = *b"\x89TPSEND\n";
const PRELUDE_BYTES: usize = 32;
pub(crate) const FOOTER_BYTES: usize = 64;
/// Bounds what a reader allocates for a header.
const HEADER_BYTES_MAX: usize = 4 << 20;
/// The shortest file: a header of nothing, and a footer.
const FILE_BYTES_MIN: u64 = (PRELUDE_BYTES + FOOTER_BYTES) as u64;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cache: String,
    pub(crate) format_version: u64,
    /// When it was written.
    pub(crate) written: Moment,
    /// When the value was last known to be current, at that time: the name may say a later one.
    pub(crate) updated: Moment,
    /// When the value last changed.
    pub(crate) modified: Moment,
    /// When the value was last made from nothing but the source.
    pub(crate) full: Option<Moment>,
    pub(crate) elements: Option<u64>,
    pub(crate) fingerprint: u64,
    /// What the service says about itself: its version.
    pub(crate) producer: String,
    pub(crate) schema: Schema,
    /// Stands in the prelude: whoever cannot decompress need not read on.
    pub(crate) compression: Compression,
}

impl Header {
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.text(&self.cache)?;
        to.unsigned(self.format_version)?;
        for moment in [self.written, self.updated, self.modified] {
            to.signed(moment.0)?;
        }
        self.full.map(|full| full.0).dump(to)?;
        self.elements.dump(to)?;
        to.bytes(&self.fingerprint.to_le_bytes())?;
        to.text(&self.producer)?;
        self.schema.dump(to)
    }

    fn load(from: &mut Reader<'_>, compression: Compression) -> Result<Header, SnapshotError> {
        Ok(Header {
            cache: from.text()?,
            format_version: from.unsigned()?,
            written: Moment(from.signed()?),
            updated: Moment(from.signed()?),
            modified: Moment(from.signed()?),
            full: Option::<i64>::load(from)?.map(Moment),
            elements: Option::load(from)?,
            fingerprint: u64::from_le_bytes(from.array()?),
            producer: from.text()?,
            schema: Schema::load(from)?,
            compression,
        })
    }

    /// Prelude and header.
    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        frames::collect(&mut body, |to| self.dump(to)).expect("memory takes everything");
        let mut bytes = vec![0; PRELUDE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = LAYOUT_MAJOR;
        bytes[9] = LAYOUT_MINOR;
        bytes[10] = self.compression.code();
        bytes[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let digest = header_digest(&bytes);
        bytes[24..32].copy_from_slice(&digest.to_le_bytes());
        bytes
    }
}

/// Over the prelude without its digest, and the header.
fn header_digest(bytes: &[u8]) -> u64 {
    let mut covered = bytes.to_vec();
    covered[24..32].fill(0);
    xxh3_64(&covered)
}

/// What became of a file that was written to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    /// Equal if the encoded value is.
    pub(crate) content: u128,
}

/// Writes the file of a value. Until it returns `Ok`, what was written is no snapshot.
pub(crate) fn write<T: Dumpable>(
    out: &mut dyn Write,
    header: &Header,
    value: &T,
) -> Result<Written, SnapshotError> {
    let compression = header.compression;
    let header = header.to_bytes();
    if header.len() - PRELUDE_BYTES > HEADER_BYTES_MAX {
        return Err(SnapshotError::value(
            "the names in the schema are longer than 4 MiB",
        ));
    }
    out.write_all(&header).map_err(writing)?;
    let mut file = FileFrames {
        out,
        at: header.len() as u64,
        raw_bytes: 0,
        index: Vec::new(),
        compression,
        stored: Vec::new(),
    };
    let mut writer = Writer::new(&mut file);
    value.dump(&mut writer)?;
    writer.finish()?;
    let content = xxh3_128(&file.index);
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&file.at.to_le_bytes());
    footer[8..12].copy_from_slice(&((file.index.len() / ENTRY_BYTES) as u32).to_le_bytes());
    footer[16..24].copy_from_slice(&file.raw_bytes.to_le_bytes());
    footer[24..32].copy_from_slice(&header[24..32]);
    footer[32..48].copy_from_slice(&content.to_le_bytes());
    let digest = xxh3_64(&footer[..48]);
    footer[48..56].copy_from_slice(&digest.to_le_bytes());
    footer[56..].copy_from_slice(&END_MAGIC);
    file.out.write_all(&file.index).map_err(writing)?;
    file.out.write_all(&footer).map_err(writing)?;
    Ok(Written { content })
}

/// What `write` would give as [`Written::content`], without writing.
pub(crate) fn content<T: Dumpable>(
    value: &T,
    compression: Compression,
) -> Result<u128, SnapshotError> {
    let mut frames = FileFrames {
        out: &mut std::io::sink(),
        at: 0,
        raw_bytes: 0,
        index: Vec::new(),
        compression,
        stored: Vec::new(),
    };
    let mut writer = Writer::new(&mut frames);
    value.dump(&mut writer)?;
    writer.finish()?;
    Ok(xxh3_128(&frames.index))
}

fn writing(error: std::io::Error) -> SnapshotError {
    match error.downcast::<SnapshotError>() {
        // The file underneath was told to stop.
        Ok(error) => error,
        Err(error) => SnapshotError::io("cannot write the snapshot", error),
    }
}

struct FileFrames<'a> {
    out: &'a mut dyn Write,
    at: u64,
    raw_bytes: u64,
    index: Vec<u8>,
    compression: Compression,
    /// Room for a compressed frame.
    stored: Vec<u8>,
}

impl FrameSink for FileFrames<'_> {
    fn frame(&mut self, raw: &[u8], mark: FrameMark) -> Result<(), SnapshotError> {
        // What does not get shorter stays as it is.
        let stored = match compression::compress(self.compression, raw, &mut self.stored) {
            true => &self.stored[..],
            false => raw,
        };
        let entry = FrameEntry::new(stored, raw.len(), mark);
        self.index.extend_from_slice(&entry.to_bytes());
        self.out.write_all(stored).map_err(writing)?;
        self.at += stored.len() as u64;
        self.raw_bytes += raw.len() as u64;
        Ok(())
    }
}

/// A file whose header, index and footer are verified.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) header: Header,
    pub(crate) entries: Vec<FrameEntry>,
    pub(crate) frames_begin: u64,
    pub(crate) content: u128,
}

/// Opens a file: everything but its frames is verified then. Allocates no more than the file has bytes.
pub(crate) fn open(input: &mut dyn Input) -> Result<Opened, SnapshotError> {
    let file_bytes = input.seek(SeekFrom::End(0)).map_err(reading(0))?;
    if file_bytes < FILE_BYTES_MIN {
        return Err(SnapshotError::new(
            ErrorKind::Truncated,
            format!("it has {file_bytes} bytes, fewer than the shortest snapshot"),
        ));
    }
    let mut read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        input.seek(SeekFrom::Start(at)).map_err(reading(at))?;
        input.read_exact(&mut bytes).map_err(reading(at))?;
        Ok::<_, SnapshotError>(bytes)
    };
    let prelude = read(0, PRELUDE_BYTES)?;
    if prelude[..8] != MAGIC {
        return Err(SnapshotError::damaged(
            "it does not begin as a snapshot does",
        ));
    }
    if prelude[8] != LAYOUT_MAJOR {
        return Err(SnapshotError::new(
            ErrorKind::Layout,
            format!(
                "it has layout {}.{}, but only {LAYOUT_MAJOR}.x can be read: use a newer version of this program",
                prelude[8], prelude[9]
            ),
        ));
    }
    let footer_at = file_bytes - FOOTER_BYTES as u64;
    let footer = read(footer_at, FOOTER_BYTES)?;
    if footer[56..] != END_MAGIC {
        return Err(SnapshotError::new(
            ErrorKind::Truncated,
            "it has no footer: its end is missing",
        ));
    }
    let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().expect("8 bytes"));
    if xxh3_64(&footer[..48]) != number(48) {
        return Err(SnapshotError::damaged("the footer is damaged"));
    }
    let header_bytes = u32::from_le_bytes(prelude[12..16].try_into().expect("4 bytes")) as usize;
    let frames_begin = (PRELUDE_BYTES + header_bytes) as u64;
    let frame_count = u32::from_le_bytes(footer[8..12].try_into().expect("4 bytes"));
    let (index_at, index_bytes) = (number(0), u64::from(frame_count) * ENTRY_BYTES as u64);
    // Nothing is allocated before it is known to be there.
    if header_bytes > HEADER_BYTES_MAX
        || frames_begin > index_at
        || index_at.checked_add(index_bytes) != Some(footer_at)
    {
        return Err(SnapshotError::damaged(format!(
            "a header of {header_bytes} bytes, and an index of {index_bytes} at {index_at}, do not fit into {file_bytes} bytes"
        )));
    }
    let header = read(0, PRELUDE_BYTES + header_bytes)?;
    if header[24..32] != footer[24..32] || header_digest(&header).to_le_bytes() != header[24..32] {
        return Err(SnapshotError::damaged("the header is damaged"));
    }
    // Not before the digest says that it is none of damage: another program may be able to read it.
    let compression = Compression::of_code(header[10])?;
    let index = read(index_at, index_bytes as usize)?;
    let content = xxh3_128(&index);
    if content.to_le_bytes() != footer[32..48] {
        return Err(SnapshotError::damaged("the index is damaged"));
    }
    let mut entries = Vec::with_capacity(frame_count as usize);
    let (mut stored, mut raw) = (0u64, 0u64);
    for entry in index.chunks_exact(ENTRY_BYTES) {
        let entry = FrameEntry::from_bytes(entry.try_into().expect("an entry"), compression)?;
        stored += u64::from(entry.stored_bytes);
        raw += u64::from(entry.raw_bytes);
        entries.push(entry);
    }
    if frames_begin + stored != index_at || raw != number(16) {
        return Err(SnapshotError::damaged(
            "the frames of the index are not those of the file",
        ));
    }
    let mut reader = Reader::of_bytes(&header[PRELUDE_BYTES..]);
    let header = Header::load(&mut reader, compression)?;
    // A newer minor version may add fields.
    if !reader.in_memory().is_empty() && prelude[9] == LAYOUT_MINOR {
        return Err(SnapshotError::damaged("the header is longer than it says"));
    }
    Ok(Opened {
        header,
        entries,
        frames_begin,
        content,
    })
}

impl Opened {
    /// The value. All frames were verified before it is returned.
    pub(crate) fn value<T: Dumpable>(
        &self,
        input: &mut dyn Input,
        threads: usize,
    ) -> Result<T, SnapshotError> {
        let frames = Frames::new(
            input,
            self.frames_begin,
            self.entries.clone(),
            threads,
            self.header.compression,
        );
        let mut reader = Reader::new(&frames);
        let value = T::load(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}
