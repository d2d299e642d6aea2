//! The frames of a committed part, verified one by one.

use std::cell::RefCell;

use tipple_budget::Cancelled;
use tipple_chunk::{ChunkReader, Decoder, Sealed};
use tipple_flow::{FrameSource, Stop};
use tipple_store::{ObjectRead, Store, StoreErrorKind};

use crate::error::DumpError;
use crate::job::{Progress, bump};
use crate::layout::{self, ChunkEntry, PartRecord};

/// Reads the chunks of a part in order, and moves the progress on with every frame. I8: a frame is handed out only after
/// its checksum held, against an index whose digest is in the part record.
pub(crate) struct PartFrames<'a> {
    store: &'a dyn Store,
    record: &'a PartRecord,
    content: (&'a str, u16),
    decoder: &'a mut Decoder,
    progress: &'a Progress,
    chunk: usize,
    reader: Option<ChunkReader<Box<dyn ObjectRead>>>,
    frame_bytes: usize,
    is_open: bool,
    /// Compare whole chunks with their entries in the part record, too.
    verifies: bool,
    error: &'a RefCell<Option<DumpError>>,
}

impl<'a> PartFrames<'a> {
    /// Frames of `record`. What goes wrong is left in `error`, and the caller is told that it was cancelled.
    pub(crate) fn new(
        store: &'a dyn Store,
        record: &'a PartRecord,
        content: (&'a str, u16),
        decoder: &'a mut Decoder,
        progress: &'a Progress,
        error: &'a RefCell<Option<DumpError>>,
    ) -> Self {
        Self {
            store,
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
                        let sealed = reader
                            .sealed(self.decoder)
                            .map_err(DumpError::chunk(&entry.name))?;
                        check_entry(self.store, entry, &sealed)?;
                    }
                }
            }
        }
    }

    fn open(&self, entry: &ChunkEntry) -> Result<ChunkReader<Box<dyn ObjectRead>>, DumpError> {
        let object = self
            .store
            .open(&layout::object(&entry.name))
            .map_err(|error| match error.kind() {
                // A verification has told it already, from the listing.
                StoreErrorKind::NotFound if !self.verifies => self.damaged(
                    &entry.name,
                    "is missing, and its part record lists it; restore it, or dump again into another folder",
                ),
                _ => error.into(),
            })?;
        let reader = ChunkReader::open(object, Some(&entry.index_sha256))
            .map_err(DumpError::chunk(&entry.name))?;
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
        Ok(if self.verifies {
            reader.hashing()
        } else {
            reader
        })
    }

    fn damaged(&self, object: &str, reason: impl Into<String>) -> DumpError {
        DumpError::Damaged {
            store: self.store.url().to_owned(),
            object: object.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Whether a chunk is the one that its part record speaks of.
pub(crate) fn check_entry(
    store: &dyn Store,
    entry: &ChunkEntry,
    sealed: &Sealed,
) -> Result<(), DumpError> {
    let found = ChunkEntry::new(&layout::object(&entry.name), sealed);
    if found == *entry {
        return Ok(());
    }
    Err(DumpError::Damaged {
        store: store.url().to_owned(),
        object: entry.name.clone(),
        reason: match found.sha256 == entry.sha256 {
            true => "is not what its part record says of it".to_owned(),
            false => format!(
                "its {} bytes have the SHA-256 {}, and should have {}",
                found.stored_bytes, found.sha256, entry.sha256
            ),
        },
    })
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
