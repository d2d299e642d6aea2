//! Readers and writers that do less than they are asked, or fail.

use std::io::{self, Cursor, ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};

use tipple_chunk::{
    ChunkError, ChunkReader, ChunkWriter, Codec, Decoder, Encoder, FRAME_BYTES_MAX, Usage,
};

use crate::support::*;

/// Takes 1 to 7 bytes at a time, across the borders of slices, and is interrupted now and then.
struct Dribble {
    taken: Vec<u8>,
    calls: usize,
}

impl Write for Dribble {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(5) {
            return Err(ErrorKind::Interrupted.into());
        }
        let most = 1 + self.calls % 7;
        let before = self.taken.len();
        self.taken
            .extend(slices.iter().flat_map(|slice| slice.iter()).take(most));
        Ok(self.taken.len() - before)
    }

    fn flush(&mut self) -> io::Result<()> {
        unreachable!("a chunk writer never flushes")
    }
}

#[test]
fn a_writer_that_takes_a_few_bytes_at_a_time() {
    let mut chunk = TestChunk::small();
    chunk
        .frames
        .push(TestFrame::new(&noise(300_000, 5), 1, b"9"));
    for codec in [Codec::None, Codec::Zstd { level: 1 }] {
        let mut encoder = Encoder::new(codec).unwrap();
        let out = Dribble {
            taken: Vec::new(),
            calls: 0,
        };
        let mut writer = ChunkWriter::new(out, &mut encoder, &CONTENT, chunk.begins_inside_record);
        for frame in &chunk.frames {
            writer.frame(&frame.raw, frame.mark()).unwrap();
        }
        let (out, sealed) = writer
            .finish(chunk.ends_inside_record, &chunk.last_position)
            .unwrap();
        assert!(out.taken == chunk.write(codec).0);
        chunk.assert_is(&out.taken, &sealed);
    }
}

/// Counts calls; takes everything.
#[derive(Default)]
struct Calls(usize);

impl Write for Calls {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        unreachable!("one vectored write instead of many")
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0 += 1;
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn one_write_for_a_block_or_a_frame_and_one_for_the_end() {
    // A raw frame of 1 MiB has 8 blocks of 128 KiB.
    for (codec, writes) in [(Codec::None, 3 * 8 + 1), (Codec::Zstd { level: 1 }, 3 + 1)] {
        let mut encoder = Encoder::new(codec).unwrap();
        let mut writer = ChunkWriter::new(Calls::default(), &mut encoder, &CONTENT, false);
        let raw = noise(FRAME_BYTES_MAX, 1);
        for _ in 0..3 {
            writer.frame(&raw, Default::default()).unwrap();
        }
        let (calls, _) = writer.finish(false, b"").unwrap();
        assert_eq!(calls.0, writes);
    }
}

/// Takes so many bytes, then fails; or, full, takes none.
struct Full {
    room: usize,
    error: Option<ErrorKind>,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        match self.error {
            Some(kind) if taken == 0 => Err(kind.into()),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_at_any_byte_poisons_the_chunk() {
    let chunk = TestChunk::small();
    for (error, seen) in [
        (Some(ErrorKind::StorageFull), ErrorKind::StorageFull),
        (None, ErrorKind::WriteZero),
    ] {
        let (file, _) = chunk.write(Codec::None);
        let data_bytes: usize = Parts::of(&file).frames.iter().map(Vec::len).sum();
        for room in 0..file.len() {
            let mut encoder = Encoder::new(Codec::None).unwrap();
            let mut writer = ChunkWriter::new(Full { room, error }, &mut encoder, &CONTENT, false);
            let mut written = 0;
            let failure = chunk.frames.iter().find_map(|frame| {
                written = writer.stored_bytes();
                writer.frame(&frame.raw, frame.mark()).err()
            });
            let failure = match failure {
                Some(failure) => {
                    assert!(room < data_bytes);
                    assert_eq!(writer.stored_bytes(), written, "counts only whole frames");
                    let again = writer.frame(b"again", Default::default()).unwrap_err();
                    assert!(matches!(again, ChunkError::Usage(Usage::WriterFailed)));
                    let end = writer.finish(false, b"").map(|_| ()).unwrap_err();
                    assert!(matches!(end, ChunkError::Usage(Usage::WriterFailed)));
                    failure
                }
                None => {
                    assert!(room >= data_bytes);
                    writer
                        .finish(chunk.ends_inside_record, &chunk.last_position)
                        .map(|_| ())
                        .unwrap_err()
                }
            };
            assert!(
                matches!(&failure, ChunkError::Io { source, .. } if source.kind() == seen),
                "room for {room}: {failure}"
            );
            // The encoder is none the worse.
            assert!(chunk.write_with(&mut encoder).0 == file);
        }
    }
}

/// Counts reads and seeks; reads at most `most` bytes at a time; fails at byte `fails_at`.
struct Watched<'f> {
    file: Cursor<&'f [u8]>,
    reads: Vec<(u64, usize)>,
    seeks: usize,
    most: usize,
    fails_at: u64,
}

impl<'f> Watched<'f> {
    fn new(file: &'f [u8]) -> Watched<'f> {
        Watched {
            file: Cursor::new(file),
            reads: Vec::new(),
            seeks: 0,
            most: usize::MAX,
            fails_at: u64::MAX,
        }
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let at = self.file.position();
        let len = bytes.len().min(self.most);
        self.reads.push((at, len));
        if (at..at + len as u64).contains(&self.fails_at) {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.reads.len().is_multiple_of(7) && self.most < 100 {
            return Err(ErrorKind::Interrupted.into());
        }
        self.file.read(&mut bytes[..len])
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.seeks += 1;
        self.file.seek(to)
    }
}

#[test]
fn reading_in_order_takes_one_read_for_each_frame_and_no_seeks() {
    let mut chunk = TestChunk::small();
    chunk
        .frames
        .extend((0..5).map(|seed| TestFrame::new(&noise(200_000, seed), 1, &[3; 255])));
    let (file, sealed) = chunk.write(Codec::None);
    let mut decoder = Decoder::new().unwrap();
    let mut reader = ChunkReader::open(Watched::new(&file), None).unwrap();
    while reader.next_frame(&mut decoder).unwrap().is_some() {}
    let watched = reader.into_inner();
    assert_eq!(
        watched.reads.len(),
        1 + chunk.frames.len(),
        "{:?}",
        watched.reads
    );
    assert_eq!(
        watched.seeks, 3,
        "to the end, to the index, to the beginning"
    );
    let mut at = 0;
    for read in &watched.reads[1..] {
        assert_eq!(read.0, at);
        at += read.1 as u64;
    }

    let mut reader = ChunkReader::open(Watched::new(&file), None).unwrap();
    let found = reader
        .verify_all(&mut decoder, |_, _| Ok::<_, ChunkError>(()))
        .unwrap();
    assert_eq!(found, sealed);
    let watched = reader.into_inner();
    assert_eq!(watched.seeks, 3);
    assert_eq!(watched.reads.len(), 1 + chunk.frames.len() + 1);
}

#[test]
fn a_long_index_takes_two_reads() {
    let chunk = TestChunk {
        frames: (0..100)
            .map(|n| TestFrame::new(&[n], 1, &[n; 255]))
            .collect(),
        ..TestChunk::small()
    };
    let (file, sealed) = chunk.write(Codec::None);
    let reader = ChunkReader::open(Watched::new(&file), Some(&sealed.index_sha256)).unwrap();
    assert_eq!(reader.into_inner().reads.len(), 2);
    chunk.assert_is(&file, &sealed);
}

#[test]
fn a_reader_that_gives_a_few_bytes_at_a_time() {
    let chunk = TestChunk::small();
    let (file, _) = chunk.write(Codec::Zstd { level: 1 });
    let mut decoder = Decoder::new().unwrap();
    for most in 1..9 {
        let mut reader = ChunkReader::open(
            Watched {
                most,
                ..Watched::new(&file)
            },
            None,
        )
        .unwrap();
        for frame in &chunk.frames {
            assert_eq!(
                reader.next_frame(&mut decoder).unwrap().unwrap().raw,
                frame.raw
            );
        }
    }
}

#[test]
fn a_read_that_fails_costs_only_its_frame() {
    let chunk = TestChunk {
        frames: (0..3)
            .map(|seed| TestFrame::new(&noise(30_000, seed), 1, b"p"))
            .collect(),
        ..TestChunk::small()
    };
    let (file, _) = chunk.write(Codec::None);
    let mut decoder = Decoder::new().unwrap();
    let entries = open(&file, None).unwrap().index().frames.clone();
    for (failing, entry) in entries.iter().enumerate().take(2) {
        let fails_at = entry.offset + 7;
        let mut reader = ChunkReader::open(
            Watched {
                fails_at,
                ..Watched::new(&file)
            },
            None,
        )
        .unwrap();
        for (number, frame) in chunk.frames.iter().enumerate() {
            match reader.read_frame(number, &mut decoder) {
                Ok(raw) => assert!(number != failing && raw == frame.raw),
                Err(error) => {
                    assert_eq!(number, failing);
                    assert!(
                        matches!(error, ChunkError::Io { offset, .. } if offset == entry.offset)
                    );
                }
            }
        }
        // next_frame stays where the error is.
        for _ in 0..failing {
            reader.next_frame(&mut decoder).unwrap().unwrap();
        }
        assert!(reader.next_frame(&mut decoder).is_err());
        assert!(reader.next_frame(&mut decoder).is_err());
    }
    let fails_at = file.len() as u64 - 1;
    let error = ChunkReader::open(
        Watched {
            fails_at,
            ..Watched::new(&file)
        },
        None,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot read the end at byte {} of the chunk",
            file.len() - (16 << 10)
        )
    );
}

#[test]
fn a_file_that_shrinks_after_it_was_opened() {
    let (file, _) = TestChunk::small().write(Codec::None);
    let mut decoder = Decoder::new().unwrap();
    let mut temporary = tempfile::tempfile().unwrap();
    temporary.write_all(&file).unwrap();
    let mut reader = ChunkReader::open(temporary.try_clone().unwrap(), None).unwrap();
    temporary.set_len(50).unwrap();
    assert!(reader.read_frame(0, &mut decoder).is_ok());
    let error = reader.read_frame(1, &mut decoder).unwrap_err();
    assert!(
        matches!(error, ChunkError::Io { offset: 42, .. }),
        "{error}"
    );
    temporary.set_len(0).unwrap();
    temporary.rewind().unwrap();
    temporary.write_all(&file).unwrap();
    assert!(
        reader.read_frame(1, &mut decoder).is_ok(),
        "an error is no end"
    );
}
