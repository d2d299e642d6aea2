//! Looking at snapshots without the service that wrote them: what `tipple snapshot` does.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_128;

use crate::any;
use crate::folder::{input_of, is_sealed};
use crate::frames::{Frames, Input};
use crate::layout::{self, Opened};
use crate::listing::{CORRUPT, Found, Health, Listing, to_remove};
use crate::moment::Moment;
use crate::render::{Renderer, begin};
use crate::schema::Shape;
use crate::{
    Compression, ErrorKind, Keys, Reader, SnapshotError, SnapshotName, SnapshotOptions, TypeNumber,
};

/// A snapshot that is looked at.
pub struct SnapshotFile {
    path: PathBuf,
    is_sealed: bool,
    stored_bytes: u64,
    input: Box<dyn Input>,
    opened: Opened,
}

/// What a snapshot says about itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The cache's name.
    pub cache: String,
    /// The version that the service gives its own format.
    pub format_version: u64,
    /// Whether it is sealed.
    pub is_sealed: bool,
    /// How its frames are compressed.
    pub compression: Compression,
    /// The length of the file.
    pub stored_bytes: u64,
    /// The length of the encoded value.
    pub raw_bytes: u64,
    /// How many frames it has.
    pub frames: u64,
    /// How many elements its collections have, if it has any.
    pub elements: Option<u64>,
    /// When it was written.
    pub written: SystemTime,
    /// When the value was last known to be current, when it was written. The file's name may say a later time.
    pub updated: SystemTime,
    /// When the value last changed.
    pub modified: SystemTime,
    /// When the value was last made from nothing but the source.
    pub full: Option<SystemTime>,
    /// What tells its type from others.
    pub fingerprint: u64,
    /// What is equal for equal bytes of the value.
    pub content: u128,
    /// What the service said about itself.
    pub producer: String,
    /// Its type.
    pub schema: String,
}

/// How two snapshots differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Entries that only the second has.
    pub added: u64,
    /// Entries that only the first has.
    pub removed: u64,
    /// Entries whose values are different.
    pub changed: u64,
    /// Entries that are the same in both.
    pub same: u64,
}

/// A file that may go, or that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Why.
    pub why: &'static str,
}

impl SnapshotFile {
    /// Opens a snapshot; everything but its frames is verified then. `cache` is the name that it was sealed under; if it is not
    /// given, that of its folder is taken.
    ///
    /// # Errors
    /// `Io`, `Truncated`, `Damaged`, `Layout`, `Key`.
    pub fn open(path: &Path, cache: Option<&str>, keys: &Keys) -> Result<Self, SnapshotError> {
        Self::open_inner(path, cache, keys).map_err(|error| error.at(path))
    }

    fn open_inner(path: &Path, cache: Option<&str>, keys: &Keys) -> Result<Self, SnapshotError> {
        let failed = |error| SnapshotError::io("cannot open the file", error);
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(SnapshotError::new(
                ErrorKind::Usage,
                "it is no file: give a snapshot in it",
            ));
        }
        let is_sealed = is_sealed(&mut file)?;
        let (cache, version) = match is_sealed {
            true => (cache_of(path, cache)?, name_of(path)?.format_version()),
            false => (String::new(), 0),
        };
        let mut input = input_of(file, keys, &cache, version)?;
        let opened = layout::open(&mut *input)?;
        Ok(Self {
            path: path.to_owned(),
            is_sealed,
            stored_bytes: metadata.len(),
            input,
            opened,
        })
    }

    /// What it says about itself.
    pub fn inspect(&self) -> Inspection {
        let header = &self.opened.header;
        Inspection {
            cache: header.cache.clone(),
            format_version: header.format_version,
            is_sealed: self.is_sealed,
            compression: header.compression,
            stored_bytes: self.stored_bytes,
            raw_bytes: self
                .opened
                .entries
                .iter()
                .map(|entry| u64::from(entry.raw_bytes))
                .sum(),
            frames: self.opened.entries.len() as u64,
            elements: header.elements,
            written: header.written.time(),
            updated: header.updated.time(),
            modified: header.modified.time(),
            full: header.full.map(Moment::time),
            fingerprint: header.fingerprint,
            content: self.opened.content,
            producer: header.producer.clone(),
            schema: header.schema.to_string(),
        }
    }

    /// Verifies every frame, and reads the whole value by the schema in the file.
    ///
    /// # Errors
    /// `Damaged`, `Truncated`, `Io`: at which byte.
    pub fn verify(&mut self) -> Result<(), SnapshotError> {
        let path = self.path.clone();
        let read = self.read(false, |renderer, root, reader| {
            renderer.value(root, reader, &mut std::io::sink())
        });
        read.map_err(|error| error.at(&path))
    }

    fn read<R>(
        &mut self,
        sorted: bool,
        work: impl FnOnce(&Renderer<'_>, TypeNumber, &mut Reader<'_>) -> Result<R, SnapshotError>,
    ) -> Result<R, SnapshotError> {
        let opened = &self.opened;
        let frames = Frames::new(
            &mut *self.input,
            opened.frames_begin,
            opened.entries.clone(),
            1,
            opened.header.compression,
        );
        let mut reader = Reader::new(&frames);
        let renderer = Renderer::new(&opened.header.schema, reader.bytes_left(), sorted);
        let done = work(&renderer, opened.header.schema.root(), &mut reader)?;
        reader.finish()?;
        Ok(done)
    }

    /// Prints the value as JSON: an object a line for each entry of a map, a value a line for each element of another
    /// collection, and anything else as one line. At most `lines_max` lines.
    ///
    /// # Errors
    /// As [`verify`](SnapshotFile::verify); `Io` if it cannot be printed.
    pub fn cat(&mut self, out: &mut dyn Write, lines_max: u64) -> Result<u64, SnapshotError> {
        let mut lines = 0;
        let shown = self.lines(&mut |line| {
            if lines == lines_max {
                return Err(enough());
            }
            lines += 1;
            out.write_all(line)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|error| SnapshotError::io("cannot print", error))
        });
        match shown {
            Err(error) if error.kind() == ErrorKind::Cancelled => Ok(lines),
            Err(error) => Err(error.at(&self.path)),
            Ok(()) => Ok(lines),
        }
    }

    /// Gives each line. Holds one of them.
    fn lines(
        &mut self,
        each: &mut dyn FnMut(&[u8]) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.read(false, |renderer, root, reader| {
            let mut line = Vec::new();
            let mut tell = |line: &mut Vec<u8>| {
                let told = each(line);
                line.clear();
                told
            };
            match renderer.schema.shape(root) {
                Shape::Map { key, value, seeded } => {
                    let count = begin(reader, *seeded)?;
                    reader.elements_with(count, |from| {
                        renderer.entry(*key, *value, from, &mut line)?;
                        tell(&mut line)
                    })
                }
                Shape::Set { of, seeded } => {
                    let count = begin(reader, *seeded)?;
                    reader.elements_with(count, |from| {
                        renderer.value(*of, from, &mut line)?;
                        tell(&mut line)
                    })
                }
                Shape::Sequence(of) if *renderer.schema.shape(*of) != Shape::U8 => {
                    let count = reader.count(1)?;
                    reader.elements_with(count, |from| {
                        renderer.value(*of, from, &mut line)?;
                        tell(&mut line)
                    })
                }
                Shape::Any => {
                    let are_lines = any::elements(reader, |from, is_map| {
                        renderer.any_element(is_map, from, &mut line)?;
                        tell(&mut line)
                    })?;
                    if are_lines {
                        return Ok(());
                    }
                    renderer.any(reader, &mut line)?;
                    tell(&mut line)
                }
                _ => {
                    renderer.value(root, reader, &mut line)?;
                    tell(&mut line)
                }
            }
        })
    }

    /// Gives each entry: where it is, as text, and the digest of its value. Collections that are the value, or a field of it,
    /// have an entry for each element; everything else is one.
    fn entries(
        &mut self,
        each: &mut dyn FnMut(&str, u128) -> Result<(), SnapshotError>,
    ) -> Result<(), SnapshotError> {
        self.read(true, |renderer, root, reader| {
            match renderer.schema.shape(root) {
                Shape::Struct { fields, .. } => {
                    for (name, of) in fields {
                        collection(renderer, *of, &format!("{name} "), reader, each)?;
                    }
                    Ok(())
                }
                _ => collection(renderer, root, "", reader, each),
            }
        })
    }
}

fn enough() -> SnapshotError {
    SnapshotError::new(ErrorKind::Cancelled, "enough was shown")
}

fn collection(
    renderer: &Renderer<'_>,
    of: TypeNumber,
    place: &str,
    reader: &mut Reader<'_>,
    each: &mut dyn FnMut(&str, u128) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let text = |of: TypeNumber, from: &mut Reader<'_>| {
        let mut text = Vec::new();
        renderer.value(of, from, &mut text)?;
        Ok::<_, SnapshotError>(text)
    };
    let named = |key: Vec<u8>| format!("{place}{}", String::from_utf8_lossy(&key));
    match renderer.schema.shape(of) {
        Shape::Map { key, value, seeded } => {
            let count = begin(reader, *seeded)?;
            reader.elements_with(count, |from| {
                let name = named(text(*key, from)?);
                each(&name, xxh3_128(&text(*value, from)?))
            })
        }
        Shape::Set { of, seeded } => {
            let count = begin(reader, *seeded)?;
            reader.elements_with(count, |from| each(&named(text(*of, from)?), 0))
        }
        Shape::Sequence(of) if *renderer.schema.shape(*of) != Shape::U8 => {
            let count = reader.count(1)?;
            let mut number = 0u64;
            reader.elements_with(count, |from| {
                let name = named(format!("[{number}]").into_bytes());
                number += 1;
                each(&name, xxh3_128(&text(*of, from)?))
            })
        }
        Shape::Any => {
            let mut number = 0u64;
            let are_elements = any::elements(reader, |from, is_map| {
                let text = |from: &mut Reader<'_>| {
                    let mut text = Vec::new();
                    renderer.any(from, &mut text)?;
                    Ok::<_, SnapshotError>(text)
                };
                let name = match is_map {
                    true => named(text(from)?),
                    false => named(format!("[{number}]").into_bytes()),
                };
                number += 1;
                each(&name, xxh3_128(&text(from)?))
            })?;
            if are_elements {
                return Ok(());
            }
            let digest = xxh3_128(&text(of, reader)?);
            each(place.trim_end(), digest)
        }
        _ => {
            let digest = xxh3_128(&text(of, reader)?);
            each(place.trim_end(), digest)
        }
    }
}

/// Prints what is different, a line each: `+ KEY`, `- KEY`, `~ KEY`. Holds 48 bytes for each entry of the first. The order of maps
/// does not count, that of lists does.
///
/// # Errors
/// As [`SnapshotFile::verify`]; `Schema` if they are of different types.
pub fn diff(
    first: &mut SnapshotFile,
    second: &mut SnapshotFile,
    out: &mut dyn Write,
) -> Result<Difference, SnapshotError> {
    let (a, b) = (&first.opened.header, &second.opened.header);
    if a.schema.fingerprint() != b.schema.fingerprint() {
        return Err(SnapshotError::new(
            ErrorKind::Schema,
            format!("they are of different types: {} and {}", a.schema, b.schema),
        ));
    }
    let mut difference = Difference::default();
    let mut print = |sign: char, key: &str| {
        writeln!(out, "{sign} {key}").map_err(|error| SnapshotError::io("cannot print", error))
    };
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: SnapshotError| error.at(&path)
    };
    let mut known: HashMap<u128, u128> = HashMap::new();
    first
        .entries(&mut |key, value| {
            known.insert(xxh3_128(key.as_bytes()), value);
            Ok(())
        })
        .map_err(at(&first.path))?;
    second
        .entries(
            &mut |key, value| match known.remove(&xxh3_128(key.as_bytes())) {
                None => {
                    difference.added += 1;
                    print('+', key)
                }
                Some(before) if before != value => {
                    difference.changed += 1;
                    print('~', key)
                }
                Some(_) => {
                    difference.same += 1;
                    Ok(())
                }
            },
        )
        .map_err(at(&second.path))?;
    if !known.is_empty() {
        first
            .entries(
                &mut |key, _| match known.contains_key(&xxh3_128(key.as_bytes())) {
                    false => Ok(()),
                    true => {
                        difference.removed += 1;
                        print('-', key)
                    }
                },
            )
            .map_err(at(&first.path))?;
    }
    Ok(difference)
}

/// The snapshots of a folder, the newest first; or the one that `path` is. What is damaged and set aside is not among them.
///
/// # Errors
/// `Io` if the folder cannot be listed or is not there.
pub fn snapshots(path: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| SnapshotError::io("cannot look at it", error).at(path))?;
    if metadata.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let listing = Listing::of(path)?;
    Ok(listing
        .snapshots
        .into_iter()
        .map(|found| found.path)
        .collect())
}

/// Tells what may go from a folder by `options` (of which `max_age`, `max_count`, `previous_count`, `future_tolerance` count),
/// and removes it if `delete` is set. The newest version that is there is the current one, and so is the type of the newest
/// snapshot of it that can be read.
///
/// # Errors
/// `Io`, also if something cannot be removed.
pub fn prune(
    folder: &Path,
    options: &SnapshotOptions,
    cache: Option<&str>,
    keys: &Keys,
    delete: bool,
) -> Result<Vec<Pruned>, SnapshotError> {
    options.validate()?;
    let listing = Listing::of(folder)?;
    let versions = listing
        .snapshots
        .iter()
        .map(|found| found.name.format_version);
    let Some(format_version) = versions.max() else {
        // Whether anything else may go cannot be told from a folder that may be none of ours.
        return Ok(Vec::new());
    };
    let options = SnapshotOptions {
        format_version,
        ..options.clone()
    };
    let mut current = None;
    let health = |found: &Found| match SnapshotFile::open(&found.path, cache, keys) {
        Ok(file) => {
            let own = file.opened.header.fingerprint;
            match *current.get_or_insert(own) == own {
                true => Health::Good,
                false => Health::OtherSchema,
            }
        }
        Err(error) if error.kind().is_damage() => Health::Damaged,
        Err(_) => Health::Unknown,
    };
    let remove = to_remove(&listing, &options, Moment::now(), None, health);
    let mut pruned = Vec::with_capacity(remove.len());
    for (path, bytes, why) in remove {
        if delete {
            std::fs::remove_file(&path)
                .map_err(|error| SnapshotError::io("cannot remove it", error).at(&path))?;
        }
        pruned.push(Pruned {
            path,
            bytes,
            why: why.text(),
        });
    }
    Ok(pruned)
}

/// The name that a file was sealed under.
fn cache_of(path: &Path, cache: Option<&str>) -> Result<String, SnapshotError> {
    let folder = || {
        let path = path.canonicalize().ok()?;
        Some(path.parent()?.file_name()?.to_str()?.to_owned())
    };
    cache.map(str::to_owned).or_else(folder).ok_or_else(|| {
        SnapshotError::new(
            ErrorKind::Usage,
            "the name of its cache cannot be told from its folder: give --name",
        )
    })
}

fn name_of(path: &Path) -> Result<SnapshotName, SnapshotError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    name.strip_suffix(CORRUPT).unwrap_or(name).parse()
}

/// Seals a snapshot with the first key of `keys`: one that another of them has sealed, or that is not sealed. Its name and mode
/// stay. `false` if that key has sealed it already.
///
/// # Errors
/// `Damaged` and others as [`SnapshotFile::verify`], before anything is written; `Io`. It is then as it was.
#[cfg(feature = "encryption")]
pub fn rekey(path: &Path, cache: Option<&str>, keys: &Keys) -> Result<bool, SnapshotError> {
    rekey_inner(path, cache, keys).map_err(|error| error.at(path))
}

#[cfg(feature = "encryption")]
fn rekey_inner(path: &Path, cache: Option<&str>, keys: &Keys) -> Result<bool, SnapshotError> {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::PermissionsExt;

    let failed = |error| SnapshotError::io("cannot read the file", error);
    let name = name_of(path)?;
    let cache = cache_of(path, cache)?;
    let mut file = SnapshotFile::open(path, Some(&cache), keys)?;
    if !file.is_sealed && file.opened.header.cache != cache {
        return Err(SnapshotError::new(
            ErrorKind::Usage,
            format!(
                "it is a snapshot of the cache `{}`: give --name",
                file.opened.header.cache
            ),
        ));
    }
    if file.is_sealed {
        // The name of the key stands in the header of the seal.
        let mut header = [0; 88];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut header))
            .map_err(failed)?;
        let ring = keys.ring(&cache)?;
        let first = ring.sealing().id().as_str().as_bytes();
        if header[56..].starts_with(first) && header[11] as usize == first.len() {
            return Ok(false);
        }
    }
    // What is damaged must not become a file that looks sound.
    file.verify()?;
    let mode = std::fs::metadata(path)
        .map_err(failed)?
        .permissions()
        .mode()
        & 0o777;
    let mut staged = path.as_os_str().to_owned();
    staged.push(crate::listing::TMP);
    let staged = crate::disk::Staged::create(
        &crate::disk::Disk::default(),
        staged.into(),
        crate::pace::Pace::new(None),
        &crate::pace::Cancel::default(),
    )?;
    let mut sealing = crate::keys::Sealing::new(staged, keys, &cache, name.format_version())?;
    file.input.seek(SeekFrom::Start(0)).map_err(failed)?;
    std::io::copy(&mut file.input, &mut sealing)
        .map_err(|error| SnapshotError::io("cannot copy the file", error))?;
    sealing.finish()?.publish(path, mode)?;
    Ok(true)
}

/// The text of a time, as names of snapshots have it.
pub fn time_text(time: SystemTime) -> String {
    Moment::of(time).to_string()
}
