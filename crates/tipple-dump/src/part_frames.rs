//! The frames of a committed part, verified one by one.

use std::cell::RefCell;

use tipple_budget::Cancelled;
use tipple_chunk::{ChunkReader, Decoder, KeyRing};
use tipple_flow::{FrameSource, Stop};
use tipple_store::StoreErrorKind;

use crate::error::DumpError;
use crate::job::{Progress, bump};
use crate::layout::{self, ChunkEntry, PartRecord};
use crate::open_dump::OpenDump;
use crate::sealing::ChunkInput;

/// Reads the chunks of a part in order, and moves the progress on with every frame. I8: a frame is handed out only after
/// its checksum held, against an index whose digest is in the part record.
pub(crate) struct PartFrames<'a> {
    dump: &'a OpenDump<'a>,
    record: &'a PartRecord,
    content: (&'a str, u16),
    decoder: &'a mut Decoder,
    progress: &'a Progress,
    chunk: usize,
    reader: Option<ChunkReader<ChunkInput>>,
    frame_bytes: usize,
    is_open: bool,
    /// Compare whole chunks with their entries in the part record, too.
    verifies: bool,
    error: &'a RefCell<Option<DumpError>>,
}

impl<'a> PartFrames<'a> {
    /// Frames of `record`. What goes wrong is left in `error`, and the caller is told that it was cancelled.
    pub(crate) fn new(
        dump: &'a OpenDump<'a>,
        record: &'a PartRecord,
        content: (&'a str, u16),
        decoder: &'a mut Decoder,
        progress: &'a Progress,
        error: &'a RefCell<Option<DumpError>>,
    ) -> Self {
        Self {
            dump,
            record,
            content,
            decoder,
            progress,
            chunk: 0,
            reader: None,
            frame_bytes: 0,
            is_open: false,
            verifies: false,
            error,
        }
    }

    /// The same, which also compares every chunk as a whole with what the part record says of it.
    pub(crate) fn verifying(mut self) -> Self {
        self.verifies = true;
        self
    }

    fn next(&mut self) -> Result<Option<u32>, DumpError> {
        loop {
            if self.reader.is_none() {
                let Some(entry) = self.record.chunks.get(self.chunk) else {
                    return if self.is_open {
                        Err(self.damaged(
                            &self.record.chunks[self.chunk - 1].name,
                            "the part ends inside a record",
                        ))
                    } else {
                        Ok(None)
                    };
                };
                self.reader = Some(self.open(entry)?);
            }
            let reader = self.reader.as_mut().expect("opened above");
            let entry = &self.record.chunks[self.chunk];
            match reader
                .next_frame(self.decoder)
                .map_err(DumpError::chunk(&entry.name))?
            {
                Some(frame) => {
                    self.frame_bytes = frame.raw.len();
                    let records = frame.entry.records;
                    bump(&self.progress.records, u64::from(records));
                    bump(&self.progress.raw_bytes, self.frame_bytes as u64);
                    return Ok(Some(records));
                }
                None => {
                    bump(&self.progress.chunks, 1);
                    bump(&self.progress.stored_bytes, entry.stored_bytes);
                    self.is_open = entry.ends_inside;
                    self.chunk += 1;
                    if let Some(mut reader) = self.reader.take()
                        && self.verifies
                    {
                        check_whole(self.dump, entry, &mut reader, self.decoder)?;
                    }
                }
            }
        }
    }

    fn open(&self, entry: &ChunkEntry) -> Result<ChunkReader<ChunkInput>, DumpError> {
        let number = self.chunk as u32;
        let reader = open_chunk(self.dump, self.record, number, self.verifies).map_err(
            |error| match error {
                // A verification has told it already, from the listing.
                DumpError::Store(error)
                    if error.kind() == StoreErrorKind::NotFound && !self.verifies =>
                {
                    self.damaged(
                        &entry.name,
                        "is missing, and its part record lists it; restore it, or dump again into another folder",
                    )
                }
                error => error,
            },
        )?;
        let index = reader.index();
        let (name, version) = self.content;
        if index.content.name != *name || index.content.version > version {
            return Err(self.damaged(
                &entry.name,
                format!(
                    "holds {}, and should hold {name} up to version {version}",
                    index.content
                ),
            ));
        }
        if index.begins_inside_record != self.is_open {
            return Err(self.damaged(&entry.name, "does not begin where the chunk before ends"));
        }
        Ok(reader)
    }

    fn damaged(&self, object: &str, reason: impl Into<String>) -> DumpError {
        self.dump.damaged(object, reason)
    }
}

/// Memory for reading one part after the other.
pub(crate) fn reading_bytes(keys: Option<&KeyRing>) -> u64 {
    tipple_chunk::decoder_bytes() + keys.map_or(0, |_| tipple_chunk::seal_bytes())
}

/// Opens the chunk `number` of a part, with the index that the part record speaks of; `hashing` for who calls
/// [`check_whole`] when all frames were read.
pub(crate) fn open_chunk(
    dump: &OpenDump<'_>,
    record: &PartRecord,
    number: u32,
    hashing: bool,
) -> Result<ChunkReader<ChunkInput>, DumpError> {
    let entry = &record.chunks[number as usize];
    let object = dump.store().open(&layout::object(&entry.name))?;
    let at_entry = || DumpError::chunk(&entry.name);
    let Some(sealing) = dump.sealing() else {
        let input = ChunkInput::Plain(object);
        let reader = ChunkReader::open(input, Some(&entry.index_sha256)).map_err(at_entry())?;
        return Ok(if hashing { reader.hashing() } else { reader });
    };
    let input = sealing
        .chunk_reader(object, &record.part, number)
        .map_err(at_entry())?;
    let input = if hashing { input.hashing() } else { input };
    // The seal says that it is a chunk of this number; which of several attempts at it counts, the part record says.
    let reader = ChunkReader::open(ChunkInput::Sealed(Box::new(input)), None).map_err(at_entry())?;
    if sealing.index_tag(&entry.name, reader.index_sha256()) != entry.index_sha256 {
        return Err(dump.damaged(
            &entry.name,
            "is another chunk than its part record speaks of",
        ));
    }
    Ok(reader)
}

/// Whether a chunk is as a whole the one that its part record speaks of. After all frames were read.
pub(crate) fn check_whole(
    dump: &OpenDump<'_>,
    entry: &ChunkEntry,
    reader: &mut ChunkReader<ChunkInput>,
    decoder: &mut Decoder,
) -> Result<(), DumpError> {
    let at_entry = || DumpError::chunk(&entry.name);
    let sealed = match reader.get_mut() {
        ChunkInput::Plain(_) => reader.sealed(decoder),
        ChunkInput::Sealed(input) => input.stored().map(|stored| reader.sealed_as(stored)),
    };
    let sealed = sealed.map_err(at_entry())?;
    let mut found = ChunkEntry::new(&layout::object(&entry.name), &sealed);
    let expected = match dump.sealing() {
        None => Some(entry.clone()),
        Some(sealing) => {
            found.index_sha256 = sealing.index_tag(&entry.name, &found.index_sha256);
            sealing.open_entry(entry.clone())
        }
    };
    if expected.as_ref() == Some(&found) {
        return Ok(());
    }
    Err(dump.damaged(
        &entry.name,
        match found.sha256 == entry.sha256 {
            true => "is not what its part record says of it".to_owned(),
            false => format!(
                "its {} bytes have the SHA-256 {}, and should have {}",
                found.stored_bytes, found.sha256, entry.sha256
            ),
        },
    ))
}

impl FrameSource for PartFrames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        self.frame_bytes = 0;
        self.next().map_err(|error| {
            *self.error.borrow_mut() = Some(error);
            Cancelled.into()
        })
    }

    fn bytes(&self) -> &[u8] {
        &self.decoder.decoded()[..self.frame_bytes]
    }
}
