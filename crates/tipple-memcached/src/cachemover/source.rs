//! Reads the layout.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Estimate, Failure, Identity, NewPart, Outcomes, Part, PartName, PartReader, Party, PlanBody,
    Planned, Planner, Position, RecordWriter, Source, Stop,
};

use super::{
    BUFFER_BYTES, COMPLETED, DATA_PREFIX, DONE, EXPIRY_NEVER, HEAD_BYTES_MAX, MD5_DIGITS, METRICS,
    TAIL_BYTES, hex_upper, is_cachemover, names,
};
use crate::items::{
    HEADER_BYTES, ITEMS_NAME, ITEMS_VERSION, Item, KEY_BYTES_MAX, NEVER, VALUE_BYTES_MAX,
    encode_header,
};

/// A plan object or a DONE larger than this is none.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Reads a folder of this layout. Each data file is a part, and its MD5 is checked before anything of it is given.
#[derive(Debug)]
pub struct CachemoverSource {
    dir: PathBuf,
    // `None`: the dump is not finished, and that is accepted.
    done: Option<String>,
}

impl CachemoverSource {
    /// The finished dump in `dir`.
    ///
    /// # Errors
    /// [`Party::Source`] if there is none.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let source = Self::open_partial(dir)?;
        if source.done.is_none() {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "the dump in {} is not finished ({COMPLETED}/{DONE} is missing): finish it, or read what is there with --partial",
                    source.dir.display()
                ),
            ));
        }
        Ok(source)
    }

    /// The dump in `dir`, or what there is of it: the completed data files.
    ///
    /// # Errors
    /// [`Party::Source`] if `dir` has not this layout.
    pub fn open_partial(dir: &Path) -> Result<Self, Failure> {
        let refused = |path: &Path, error| {
            Failure::new(
                Party::Source,
                format!("{} cannot be read: {error}", path.display()),
            )
        };
        let dir = dir.canonicalize().map_err(|error| refused(dir, error))?;
        if !is_cachemover(&dir) {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "{} is no dump in the cachemover layout: it has no folder {COMPLETED}",
                    dir.display()
                ),
            ));
        }
        let path = dir.join(COMPLETED).join(DONE);
        let done = match open_regular(&path) {
            Ok(file) => {
                let mut text = Vec::new();
                file.take(TEXT_BYTES_MAX)
                    .read_to_end(&mut text)
                    .map_err(|error| refused(&path, error))?;
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(&path, error)),
        };
        Ok(Self { dir, done })
    }

    /// Names and lengths of the data files, sorted by name.
    fn data_files(&self) -> Result<Vec<(String, u64)>, Failure> {
        let folder = self.dir.join(COMPLETED);
        let mut files = Vec::new();
        for name in names(&folder)? {
            if name == DONE || name == METRICS {
                continue;
            }
            if md5_of_name(&name).is_none() {
                return Err(Failure::new(
                    Party::Content,
                    format!(
                        "{} is no data file of the cachemover layout (data_<ip>__<n>_<MD5>): move it away if it does not belong there",
                        folder.join(&name).display()
                    ),
                ));
            }
            let path = folder.join(&name);
            let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, error))?;
            files.push((name, metadata.len()));
        }
        files.sort();
        Ok(files)
    }

    fn keys_dumped(&self) -> Option<u64> {
        let text = self.done.as_ref()?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Total keys dumped: "))?;
        line.trim().parse().ok()
    }
}

/// What a plan object says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartFile {
    file: String,
}

impl Source for CachemoverSource {
    fn identity(&self) -> Identity {
        Identity {
            kind: "cachemover".to_owned(),
            id: json!({ "dir": self.dir.display().to_string() }),
        }
    }

    fn content(&self) -> (&'static str, u16) {
        (ITEMS_NAME, ITEMS_VERSION)
    }

    fn reader_bytes(&self) -> u64 {
        BUFFER_BYTES as u64
    }

    fn check(&self) -> Result<Estimate, Stop> {
        let files = self.data_files()?;
        Ok(Estimate {
            parts: files.len() as u64,
            records: self.keys_dumped().unwrap_or(0),
            bytes: files.iter().map(|(_, bytes)| bytes).sum(),
            plan_bytes_max: 0,
        })
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        for (file, bytes_estimate) in self.data_files()? {
            gate.check()?;
            let body = serde_json::to_vec(&PartFile { file }).expect("a text has a JSON form");
            planner.add(NewPart {
                body: PlanBody::Bytes(body),
                extension: "json",
                records: None,
                bytes_estimate,
            })?;
        }
        Ok(Planned::default())
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(CachemoverReader {
            folder: self.dir.join(COMPLETED),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        }))
    }

    fn finish(&self, _planned: &Planned, records: u64, outcomes: &Outcomes) -> Result<Value, Stop> {
        let found = records + outcomes.total();
        match self.keys_dumped() {
            // More is no sign of harm: a dump that was resumed counts from its resumption only.
            Some(dumped) if found < dumped => Err(Failure::new(
                Party::Content,
                format!(
                    "the data files in {} hold {found} items, but its {DONE} speaks of {dumped}: data files are missing",
                    self.dir.display()
                ),
            )
            .into()),
            dumped => Ok(json!({ "keys_dumped": dumped })),
        }
    }
}

struct CachemoverReader {
    folder: PathBuf,
    buffer: Box<[u8]>,
}

impl PartReader for CachemoverReader {
    fn read_part(
        &mut self,
        part: &dyn Part,
        out: &mut RecordWriter<'_>,
        _outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let mut body = Vec::new();
        part.open()?
            .take(TEXT_BYTES_MAX)
            .read_to_end(&mut body)
            .map_err(|error| bad_plan(part.name(), error))?;
        let PartFile { file: name } =
            serde_json::from_slice(&body).map_err(|error| bad_plan(part.name(), error))?;
        // The name has no slash, or it would be no data file's: nothing outside of the folder is ever opened.
        let md5 = md5_of_name(&name)
            .ok_or_else(|| bad_plan(part.name(), format!("{name:?} is no data file")))?;
        let path = self.folder.join(&name);
        let mut file = open_regular(&path).map_err(|error| unreadable(&path, error))?;
        let bytes = self.verify(&mut file, &path, md5, out.gate())?;
        let mut records = Records {
            file: Buffered {
                file,
                buffer: &mut self.buffer,
                at: 0,
                end: 0,
            },
            path: &path,
            offset: 0,
            bytes,
            number: 0,
        };
        while records.copy_one(out)? {}
        Ok(())
    }
}

impl CachemoverReader {
    /// Reads the whole file against the MD5 in its name, and tells its length.
    fn verify(
        &mut self,
        file: &mut File,
        path: &Path,
        md5: &str,
        gate: &Gate,
    ) -> Result<u64, Stop> {
        let (mut digest, mut bytes) = (Md5::new(), 0);
        loop {
            gate.check()?;
            let n = file
                .read(&mut self.buffer)
                .map_err(|error| unreadable(path, error))?;
            if n == 0 {
                break;
            }
            digest.update(&self.buffer[..n]);
            bytes += n as u64;
        }
        let actual = hex_upper(&digest.finalize());
        if actual != md5 {
            return Err(Failure::new(
                Party::Content,
                format!(
                    "{} is damaged: the MD5 of its {bytes} bytes is {actual}, not the one in its name; fetch it again from where it came",
                    path.display()
                ),
            )
            .into());
        }
        file.rewind().map_err(|error| unreadable(path, error))?;
        Ok(bytes)
    }
}

/// A file read through a buffer that is not its own.
struct Buffered<'a> {
    file: File,
    buffer: &'a mut [u8],
    at: usize,
    end: usize,
}

impl Read for Buffered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            if out.len() >= self.buffer.len() {
                return self.file.read(out);
            }
            self.at = 0;
            self.end = self.file.read(self.buffer)?;
        }
        let n = out.len().min(self.end - self.at);
        out[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// The records of a data file whose MD5 is right.
struct Records<'a> {
    file: Buffered<'a>,
    path: &'a Path,
    offset: u64,
    bytes: u64,
    number: u64,
}

impl Records<'_> {
    fn copy_one(&mut self, out: &mut RecordWriter<'_>) -> Result<bool, Stop> {
        if self.offset == self.bytes {
            return Ok(false);
        }
        let mut head = [0; HEAD_BYTES_MAX];
        let left = self.bytes - self.offset;
        self.read(&mut head[..2], left, "key length")?;
        let key_bytes = usize::from(u16::from_be_bytes([head[0], head[1]]));
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(self.damaged(&format!("its key length is {key_bytes}, not 1 to 250")));
        }
        let head_bytes = 2 + key_bytes + TAIL_BYTES;
        let key_end = 2 + key_bytes;
        self.read(&mut head[2..head_bytes], left - 2, "key and lengths")?;
        let field = |n: usize| {
            let at = key_end + 4 * n;
            u32::from_be_bytes(head[at..at + 4].try_into().expect("4 bytes"))
        };
        let [expiry, flags, value_bytes] = [field(0), field(1), field(2)];
        let left = left - head_bytes as u64;
        if u64::from(value_bytes) > left {
            return Err(self.damaged(&format!(
                "its value length is {value_bytes}, with {left} bytes left in the file"
            )));
        }
        if value_bytes > VALUE_BYTES_MAX {
            return Err(self.damaged(&format!(
                "its value length is {value_bytes}, above {VALUE_BYTES_MAX}"
            )));
        }
        let item = Item {
            key: &head[2..key_end],
            flags,
            exptime: match expiry {
                EXPIRY_NEVER => NEVER,
                time => i64::from(time),
            },
            cas: 0,
            last_access: 0,
            fetched: false,
        };
        out.begin(
            (HEADER_BYTES + key_bytes) as u64 + u64::from(value_bytes),
            Position::NONE,
        )?;
        out.append(&encode_header(&item, value_bytes))?;
        out.append(item.key)?;
        self.copy_value(value_bytes, out)?;
        out.end();
        self.offset += head_bytes as u64 + u64::from(value_bytes);
        self.number += 1;
        Ok(true)
    }

    fn copy_value(&mut self, value_bytes: u32, out: &mut RecordWriter<'_>) -> Result<(), Stop> {
        let mut left = value_bytes as usize;
        while left > 0 {
            let space = out.space()?;
            let n = space.len().min(left);
            let n = self
                .file
                .read(&mut space[..n])
                .map_err(|error| unreadable(self.path, error))?;
            if n == 0 {
                return Err(self.damaged("the file became shorter while it was read"));
            }
            out.advance(n);
            left -= n;
        }
        Ok(())
    }

    fn read(&mut self, out: &mut [u8], left: u64, what: &str) -> Result<(), Stop> {
        if (out.len() as u64) > left {
            return Err(self.damaged(&format!("the file ends in its {what}")));
        }
        match self.file.read_exact(out) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("the file became shorter while it was read"))
            }
            Err(error) => Err(unreadable(self.path, error).into()),
        }
    }

    fn damaged(&self, fault: &str) -> Stop {
        Failure::new(
            Party::Content,
            format!(
                "{}, record {} at offset {}: {fault}; the MD5 is right, so it was written so: dump it again",
                self.path.display(),
                self.number + 1,
                self.offset
            ),
        )
        .into()
    }
}

/// The MD5 in a data file's name: `data_<ip>__<n>_<MD5>`.
fn md5_of_name(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(DATA_PREFIX)?;
    let (place, md5) = rest.rsplit_once('_')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let fits = !place.contains(['/', '\0']) && md5.len() == MD5_DIGITS && md5.bytes().all(hex);
    fits.then_some(md5)
}

/// Opens a regular file for reading: a pipe in its place would be waited for without end.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    Failure::new(
        Party::Source,
        format!("cannot read {}: {error}", path.display()),
    )
    .because(error)
}

fn bad_plan(
    part: &PartName,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Failure {
    Failure::new(
        Party::Content,
        format!("the plan of part {part} does not name a data file: start the job over"),
    )
    .because(cause)
}
