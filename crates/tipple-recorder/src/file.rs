//! One file that is being written: lines go in, whole lines come out on disk, whatever happens to the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tipple_chunk::{ChunkWriter, Codec, Content, Encoder, FRAME_BYTES_MAX, FrameMark};

use crate::core::locked;
use crate::error::RecorderError;
use crate::index::{BlockBuilder, RecordingIndex};

/// What recordings are to `tipple-chunk`.
const CONTENT: Content = Content::new("ndjson", 1);
/// Plain text is indexed in blocks of about so many bytes.
const BLOCK_BYTES: usize = FRAME_BYTES_MAX;
/// What a file is called while it is written: its name and this.
pub(crate) const OPEN: &str = ".open";
/// What the index of a file is called: its name and this.
pub(crate) const INDEX: &str = ".idx";

/// The name of the file with something after it.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a chunk's frames go, before they go to the disk.
#[derive(Clone, Default)]
struct Frames(Arc<Mutex<Vec<u8>>>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Form {
    /// Lines as they are. `block_bytes`: of the block that is collected, what is in `pending` already.
    Plain { block_bytes: u64 },
    Zstd {
        writer: Option<Box<ChunkWriter<'static, Frames>>>,
        frames: Frames,
        text: Vec<u8>,
    },
}

/// A file that is being written.
///
/// What is pending was not written, or not as a whole; it is written again from a place where a line, or a frame, ends.
pub(crate) struct RecordingFile {
    file: File,
    /// What it is called when it is closed.
    path: PathBuf,
    path_open: PathBuf,
    form: Form,
    /// So many bytes are whole and in the file.
    good_bytes: u64,
    pending: Vec<u8>,
    /// The file may have more than its good bytes.
    is_torn: bool,
    /// Its end was begun: no more lines.
    is_ending: bool,
    /// What was written may not be on disk, and nobody will ever say so again.
    is_poisoned: bool,
    /// Its name may not be on disk.
    is_new: bool,
    block: BlockBuilder,
    index: RecordingIndex,
    has_index: bool,
    text_bytes: u64,
}

impl Drop for RecordingFile {
    fn drop(&mut self) {
        // Closing would do, but a process that is being started at this moment holds a copy of the descriptor.
        let _ = self.file.unlock();
    }
}

/// Bytes of the names of a block, by number.
pub(crate) struct Named<'a> {
    pub(crate) group: &'a dyn Fn(u32) -> String,
    pub(crate) name: &'a dyn Fn(u32) -> String,
}

impl RecordingFile {
    /// Creates the file `path`, under another name until it is closed.
    pub(crate) fn create(path: &Path, codec: Codec) -> Result<RecordingFile, RecorderError> {
        let path_open = with_suffix(path, OPEN);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path_open)
            .map_err(RecorderError::io("create", &path_open))?;
        // Held as long as it is written: so that nobody repairs it meanwhile.
        let _ = file.try_lock();
        RecordingFile::of(file, path, path_open, codec, 0)
    }

    /// Opens or creates the file `path` to append to it.
    pub(crate) fn append(path: &Path) -> Result<RecordingFile, RecorderError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .read(true)
            .open(path)
            .map_err(RecorderError::io("open", path))?;
        let _ = file.try_lock();
        // A pipe has no end to look at.
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let bytes = match is_regular {
            true => {
                crate::repair::cut_torn_line(&file).map_err(RecorderError::io("repair", path))?
            }
            false => 0,
        };
        RecordingFile::of(file, path, path.to_owned(), Codec::None, bytes)
    }

    fn of(
        file: File,
        path: &Path,
        path_open: PathBuf,
        codec: Codec,
        bytes: u64,
    ) -> Result<RecordingFile, RecorderError> {
        let form = match codec {
            Codec::None => Form::Plain { block_bytes: 0 },
            codec => {
                let encoder = Encoder::new(codec).map_err(|error| RecorderError::Options {
                    what: error.to_string(),
                })?;
                let frames = Frames::default();
                Form::Zstd {
                    writer: Some(Box::new(ChunkWriter::owning(
                        frames.clone(),
                        Box::new(encoder),
                        &CONTENT,
                    ))),
                    frames,
                    text: Vec::with_capacity(FRAME_BYTES_MAX),
                }
            }
        };
        Ok(RecordingFile {
            file,
            path: path.to_owned(),
            has_index: path_open != path,
            path_open,
            form,
            good_bytes: bytes,
            pending: Vec::new(),
            is_torn: false,
            is_ending: false,
            is_poisoned: false,
            is_new: true,
            block: BlockBuilder::default(),
            index: RecordingIndex::default(),
            text_bytes: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is while it is written.
    pub(crate) fn path_open(&self) -> &Path {
        &self.path_open
    }

    /// Bytes of it on disk, and of text in it.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.good_bytes, self.text_bytes)
    }

    /// Whether somebody has moved or deleted the file.
    pub(crate) fn is_gone(&self) -> bool {
        let Ok(ours) = self.file.metadata() else {
            return true;
        };
        match fs::metadata(&self.path_open) {
            Ok(there) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// What lines are appended to.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        match &mut self.form {
            Form::Plain { .. } => &mut self.pending,
            Form::Zstd { text, .. } => text,
        }
    }

    pub(crate) fn block(&mut self) -> &mut BlockBuilder {
        &mut self.block
    }

    /// After lines of `bytes` were appended: makes blocks of what is enough for one.
    pub(crate) fn appended(&mut self, bytes: usize, named: &Named<'_>) {
        self.text_bytes += bytes as u64;
        match &mut self.form {
            Form::Plain { block_bytes } => {
                *block_bytes += bytes as u64;
                if *block_bytes >= BLOCK_BYTES as u64 {
                    self.end_block(named);
                }
            }
            Form::Zstd { text, .. } => {
                // With the line that does not fit into the frame any more in the next one.
                if text.len() > FRAME_BYTES_MAX - FRAME_BYTES_MAX / 16 {
                    self.end_block(named);
                }
            }
        }
    }

    /// What waits to be written.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Lines that are in no frame yet.
    pub(crate) fn has_open_block(&self) -> bool {
        match &self.form {
            Form::Plain { .. } => false,
            Form::Zstd { text, .. } => !text.is_empty(),
        }
    }

    /// Ends the block, so that what is in it can be written.
    pub(crate) fn end_block(&mut self, named: &Named<'_>) {
        if self.block.is_empty() {
            return;
        }
        match &mut self.form {
            Form::Plain { block_bytes } => {
                let end = self.good_bytes + self.pending.len() as u64;
                let bytes = std::mem::take(block_bytes);
                let len = u32::try_from(bytes).unwrap_or(u32::MAX);
                let entry = self
                    .block
                    .finish(end - bytes, len, len, named.group, named.name);
                self.index.blocks.push(entry);
            }
            Form::Zstd {
                writer,
                frames,
                text,
            } => {
                let writer = writer
                    .as_mut()
                    .expect("it is there until the file is closed");
                let offset = self.good_bytes + self.pending.len() as u64;
                let lines = memchr::memchr_iter(b'\n', text).count() as u32;
                // A line that is longer than a frame goes on in the next ones.
                for (at, piece) in text.chunks(FRAME_BYTES_MAX).enumerate() {
                    let mark = match at {
                        0 => FrameMark {
                            records: lines,
                            first_record: Some(0),
                            position: &[],
                        },
                        _ => FrameMark::default(),
                    };
                    writer
                        .frame(piece, mark)
                        .expect("memory takes what a frame may be");
                }
                let mut frames = locked(&frames.0);
                let entry = self.block.finish(
                    offset,
                    frames.len() as u32,
                    text.len() as u32,
                    named.group,
                    named.name,
                );
                self.index.blocks.push(entry);
                self.pending.append(&mut frames);
                text.clear();
            }
        }
    }

    /// Whether the file can take no more, whatever its size.
    pub(crate) fn is_full(&self) -> bool {
        match &self.form {
            Form::Plain { .. } => false,
            Form::Zstd { writer, .. } => writer.as_ref().is_some_and(|writer| writer.is_full()),
        }
    }

    /// Writes all that is pending. After an error all of it is pending still, and the file ends with a whole line or
    /// frame as soon as the disk lets it be cut.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.cut()?;
            self.is_torn = false;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&self.pending) {
            self.is_torn = true;
            if self.cut().is_ok() {
                self.is_torn = false;
            }
            return Err(error);
        }
        self.good_bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Cuts what is behind the last whole line. A file that somebody has made shorter stays so.
    fn cut(&self) -> io::Result<()> {
        let bytes = self.file.metadata()?.len();
        self.file.set_len(self.good_bytes.min(bytes))
    }

    /// An error of a sync is told once: the system forgets it, and says of the same file later that all is well. Such a
    /// file is to be closed.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        // A pipe has nothing to sync.
        if self.is_poisoned || !self.file.metadata()?.is_file() {
            return Ok(());
        }
        let synced = self.file.sync_data().and_then(|()| self.sync_name());
        self.is_poisoned = synced.is_err();
        synced
    }

    /// The bytes of a new file are of no use without its name, which is in its folder.
    fn sync_name(&mut self) -> io::Result<()> {
        if self.is_new {
            sync_folder_of(&self.path_open)?;
            self.is_new = false;
        }
        Ok(())
    }

    /// It is given its last line now.
    pub(crate) fn begin_end(&mut self) {
        self.is_ending = true;
    }

    /// Whether its end was begun.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Writes what is left, the chunk's own index and the index beside the file, and gives the file its name. After an
    /// error it can be tried again, or left as it is: whole up to its last line or frame, and repaired at the next start.
    /// So is one that could not be synced: nobody is to take it for a whole one before that.
    pub(crate) fn close(&mut self, sync: bool, named: &Named<'_>) -> io::Result<()> {
        self.end_block(named);
        self.write()?;
        if let Form::Zstd { writer, frames, .. } = &mut self.form
            && let Some(writer) = writer.take()
        {
            writer
                .finish(false, &[])
                .map_err(|error| io::Error::other(error.to_string()))?;
            self.pending.append(&mut locked(&frames.0));
        }
        self.write()?;
        if sync {
            self.sync()?;
        }
        if !self.has_index || self.is_poisoned {
            return Ok(());
        }
        self.index.file_bytes = self.good_bytes;
        put_index(&self.path, &self.index)?;
        fs::rename(&self.path_open, &self.path)?;
        match sync {
            true => sync_folder_of(&self.path),
            false => Ok(()),
        }
    }

    /// Gives up what cannot be written.
    pub(crate) fn abandon(&mut self) {
        if self.is_torn {
            let _ = self.cut();
        }
        self.pending.clear();
    }
}

/// Syncs the names in the folder of a file.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a folder and those that it is in, so that they are there after a loss of power, too.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => sync_folder_of(path),
        // Somebody else was first.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts an index beside the file `path`, as a whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn put_index(path: &Path, index: &RecordingIndex) -> io::Result<()> {
    let path = with_suffix(path, INDEX);
    let path_open = with_suffix(&path, OPEN);
    fs::write(&path_open, index.encode())?;
    fs::rename(&path_open, &path)
}
