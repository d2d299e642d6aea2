//! The encoding side of a lane whose dump is in a form for other programs: collects records in a batch, and makes objects
//! of the records of each folder.
//!
//! A batch ends when it is full or its part ends: never by time, and never by how records lie in buffers. So a part that is
//! done again gives the same objects, under the same names.

use std::sync::Arc;
use std::time::Instant;

use tipple_budget::{Gate, Rates};
use tipple_flow::{
    Cause, Failure, Form, FormEncoder, FrameSource, Outcomes, Party, RecordReader, Records, Stop,
    Written,
};

use crate::batch::Batch;
use crate::committer::{OpenChunk, OpenPart};
use crate::error::DumpError;
use crate::failpoint::failpoint;
use crate::job::{Event, Job, bump};
use crate::layout::{self, ChunkEntry};
use crate::sealer::{Feed, Next, Sealer};

/// More objects than this of one part are refused: a folder for each record is a mistake, and a part record lists them all.
const OBJECTS_MAX: u64 = 10_000;

static TOO_LARGE: Cause = Cause::loss("too large");

/// What a lane makes objects with.
pub(crate) struct Objects<'a> {
    form: &'a dyn Form,
    encoder: Box<dyn FormEncoder + Send + 'a>,
    batch: Batch,
}

impl<'a> Objects<'a> {
    pub(crate) fn new(form: &'a dyn Form, bytes_max: u64) -> Result<Self, DumpError> {
        Ok(Self {
            form,
            encoder: form.encoder(bytes_max)?,
            batch: Batch::new(bytes_max),
        })
    }
}

/// What a part came to, as far as it is stored.
#[derive(Default)]
struct Stored {
    objects: u64,
    written: Written,
    outcomes: Outcomes,
}

impl Sealer<'_> {
    /// One part; `false` if it was broken off.
    pub(crate) fn objects(
        &self,
        objects: &mut Objects<'_>,
        feed: &mut Feed<'_>,
        part: &Arc<OpenPart>,
    ) -> Result<bool, DumpError> {
        loop {
            let mut stored = Stored::default();
            objects.batch.clear();
            let mut frames = Frames {
                job: self.job,
                feed,
                has_frame: false,
            };
            // The filling side passed the gate for these bytes already.
            let open = Gate::new(Rates::default());
            let mut records = RecordReader::new(&open, &mut frames);
            let collected = self.collect(objects, &mut records, part, &mut stored);
            let read = (records.records(), records.bytes());
            match collected {
                Ok(()) => {}
                Err(DumpError::Interrupted) => {
                    self.job.gate().check()?;
                    match feed.peek() {
                        Next::Restart => {
                            feed.take_restart();
                            part.restart();
                            continue;
                        }
                        _ => return Ok(false),
                    }
                }
                Err(error) => return Err(error),
            }
            let (written, mut outcomes) = feed.take_end();
            // I6: all of the part was read, and each record of it is stored, or counted.
            assert_eq!(
                read,
                (written.records, written.bytes),
                "I6: part {} was not read to its end",
                part.planned.name
            );
            assert_eq!(
                stored.written.records + stored.outcomes.total(),
                written.records,
                "I6: part {} has other records in its objects than were written to it",
                part.planned.name
            );
            outcomes.merge(&stored.outcomes);
            for store in part.end(stored.written, outcomes) {
                self.work.commit(part, store)?;
            }
            return Ok(true);
        }
    }

    /// All records of a part. `Interrupted` if the part was begun again or broken off, or the job was.
    fn collect(
        &self,
        objects: &mut Objects<'_>,
        records: &mut RecordReader<'_>,
        part: &Arc<OpenPart>,
        stored: &mut Stored,
    ) -> Result<(), DumpError> {
        let bytes_max = objects.batch.record_bytes_max(objects.form);
        let mut head = Vec::new();
        loop {
            head.clear();
            let Some(bytes) = objects.form.begin_record(records, &mut head)? else {
                break;
            };
            if bytes > bytes_max {
                records.skip(bytes - head.len() as u64)?;
                records.end_record();
                self.lose(part, bytes, bytes_max, stored);
                continue;
            }
            if !objects.batch.fits(bytes) {
                self.store(objects, part, stored)?;
            }
            records.read_exact(objects.batch.begin(&head, bytes as usize))?;
            records.end_record();
            let folder = objects.encoder.folder(objects.batch.begun())?;
            objects.batch.add(folder);
        }
        self.store(objects, part, stored)
    }

    /// A record that is in no object. The first of a part is told.
    fn lose(&self, part: &OpenPart, bytes: u64, bytes_max: u64, stored: &mut Stored) {
        if stored.outcomes.lost() == 0 {
            let message = format!(
                "part {} has a record of {bytes} bytes, which is lost: in this --format and with --chunk-size {} the most is {bytes_max}",
                part.planned.name, self.chunk_bytes_max
            );
            self.job.tell(&Event::Warning { message });
        }
        stored.outcomes.count(&TOO_LARGE);
    }

    /// Makes objects of the batch, and empties it.
    fn store(
        &self,
        objects: &mut Objects<'_>,
        part: &Arc<OpenPart>,
        stored: &mut Stored,
    ) -> Result<(), DumpError> {
        if objects.batch.is_empty() {
            return Ok(());
        }
        if stored.objects + objects.batch.folders() as u64 > OBJECTS_MAX {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "--path gives more than {OBJECTS_MAX} objects for one part: choose one with fewer folders, and dump into an empty place",
                ),
            )
            .into());
        }
        for (folder, records) in objects.batch.by_folder() {
            let mut rest = records;
            while !rest.is_empty() {
                let taken = self.object(objects.encoder.as_mut(), folder, rest, part, stored)?;
                (_, rest) = rest.split_at(taken);
            }
        }
        objects.batch.clear();
        Ok(())
    }

    /// One object of the first of `records`; returns how many are in it.
    fn object(
        &self,
        encoder: &mut (dyn FormEncoder + Send + '_),
        folder: &str,
        records: Records<'_>,
        part: &Arc<OpenPart>,
        stored: &mut Stored,
    ) -> Result<usize, DumpError> {
        let (gate, part_name) = (self.job.gate(), &part.planned.name);
        gate.check()?;
        let began = Instant::now();
        let mut staging = self
            .spool
            .begin(part_name.as_str(), self.chunk_room, gate)?;
        self.job.waited_for_spool(began.elapsed());
        failpoint!("sealing");
        let sealed = encoder.object(records, &mut staging)?;
        failpoint!("sealed");
        let stem = encoder.stem(records.iter().next().expect("at least one"));
        let number = stored.objects as u32;
        let name = layout::form_object(
            folder,
            &stem,
            part_name,
            number,
            &sealed.sha256,
            self.extension,
        )?;
        stored.objects += 1;
        stored.written.records += sealed.records;
        stored.written.bytes += sealed.raw_bytes;
        part.send(number, ChunkEntry::new(&name, &sealed));
        let object = OpenChunk::new(name, &sealed, staging.seal(), self.stores);
        self.work.put(part, object)?;
        Ok(sealed.records as usize)
    }
}

/// The frames of a part that is being written on the other thread.
struct Frames<'f, 'a> {
    job: &'f Job,
    feed: &'f mut Feed<'a>,
    has_frame: bool,
}

impl FrameSource for Frames<'_, '_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        if self.has_frame {
            self.feed.next_frame(tipple_flow::Position::NONE);
            self.has_frame = false;
        }
        match self.feed.peek() {
            Next::Frame => {
                self.has_frame = true;
                // What is filled may take long to encode.
                self.job.gate().check()?;
                let (bytes, span) = self.feed.frame();
                let progress = self.job.progress();
                bump(&progress.raw_bytes, bytes.len() as u64);
                bump(&progress.records, u64::from(span.records));
                Ok(Some(span.records))
            }
            Next::End => Ok(None),
            // Whoever collects asks the feed why.
            Next::Restart | Next::Gone => Err(tipple_budget::Cancelled.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self.has_frame {
            true => self.feed.frame().0,
            false => &[],
        }
    }
}
