//! A dump in a store: which objects there are, how they are called, and what is in them. Stable.
//!
//! | object | written | holds |
//! |---|---|---|
//! | `HEAD.json` | first | [`Head`]: format version, source, content, the options that shape the data |
//! | `plan/<plan>/<part>.<ext>` | before anyone works on the part | what the part is: a range as JSON, or a key file |
//! | `plan/<plan>/PLANNED` | when all parts are there | [`Sealed`]: how many parts, and of which life of the source |
//! | `chunks/<part>-<nnnn>-<sha256, first 32 hex>.<content>.zst` | before the part record | records |
//! | `data/<folder>/<first position>-<part>-<nnnn>-<sha256, first 32 hex>.<ext>` | instead of chunks, if the dump is in a form for other programs | records, in that form: the same as in chunks, each folder's own |
//! | `parts/<part>.json` | when all its chunks are durable | [`PartRecord`]: the commit of a part |
//! | `SHA256SUMS` | when all parts are committed | for `sha256sum -c`: all of the above, of the plan that counts |
//! | `notified/<part>.json` | when all who are to be told took all messages about the part | who took them |
//! | `notified/DONE.json` | the same of the message about DONE, after it | the same |
//! | `DONE` | last, once | [`Done`]: totals, and a digest over the part records |
//!
//! HEAD, PLANNED, part records, what was delivered and DONE are JSON, and each ends with `own_sha256`: the SHA-256 of the object's bytes as
//! they would be with 64 zeros there. So a digit that changed on disk is told from one that was written.
//!
//! `<part>` is `<plan>-<nnnnnnnn>`, so a part tells its plan; a plan without PLANNED is void, and so are its parts.
//! In a sealed dump, chunks and plan objects are sealed, and `.sealed` is added to their names; the JSON objects end with a
//! line more, `mac`, and part records hide positions: `sealing.rs` says how, and the chunk's FORMAT.md with which keys.
//!
//! Whoever queries a dump in such a form reads all that is below `data/`, so nothing else than what counts may be there:
//! what a killed attempt left goes when the dump goes on, at the latest before DONE (`strays.rs`).
//!
//! All of them are written with put-if-absent (I5). Readers accept newer minor versions and refuse newer major
//! ones; writers refuse to go on with anything newer than they are.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::panic::resume_unwind;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tipple_chunk::{ContentName, Sealed as SealedChunk, Sha256Digest};
use tipple_flow::{Identity, NewPart, Outcomes, PartName, PlanBody};
use tipple_store::{Leftover, ObjectName, Store, StoreError, StoreErrorKind};

use crate::error::DumpError;
use crate::sealing::{SEALED, Seal, Sealing, without_mac};

/// Readers refuse other major versions.
pub const FORMAT_MAJOR: u32 = 1;
/// Writers refuse newer minor versions.
pub const FORMAT_MINOR: u32 = 0;

/// The most bytes of a JSON object in a dump that are read: 256 MiB. A PLANNED with a million parts has about 100.
const JSON_BYTES_MAX: u64 = 256 << 20;
/// Objects that are read at once from a store, and by each of the threads that do so one after the other.
const READS_AT_ONCE: usize = 8;
const READS_OF_A_THREAD: usize = 4;

/// The version of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Other ones are refused.
    pub major: u32,
    /// Newer ones are read, and not written over.
    pub minor: u32,
}

impl Format {
    /// The version that this program writes.
    pub const CURRENT: Self = Self {
        major: FORMAT_MAJOR,
        minor: FORMAT_MINOR,
    };
}

/// What is in the frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentVersion {
    /// Such as `items`.
    #[serde(deserialize_with = "content_name")]
    pub name: String,
    /// Its version.
    pub version: u16,
}

/// The options that shape the data: a dump goes on only with the same ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaping {
    /// `none`, or `zstd:<level>`.
    pub compress: String,
    /// The most raw bytes in a chunk.
    pub chunk_bytes: u64,
    /// The form for other programs, such as `parquet`, if it is in one: then objects are below `data/`, and are no chunks,
    /// unless the form says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FormShape>,
}

/// A form for other programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormShape {
    /// Its name.
    pub name: String,
    /// What the names of its objects end with.
    pub extension: String,
    /// The folders of its objects, as they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// `HEAD.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The layout's version.
    pub format: Format,
    /// Program and version.
    pub written_by: String,
    /// A random name of this dump, 16 hex digits.
    pub dump: String,
    /// When it was begun, UTC.
    pub started: String,
    /// The source.
    pub source: Identity,
    /// What is in the frames.
    pub content: ContentVersion,
    /// The options that shape the data.
    pub shaping: Shaping,
    /// Its plan grows: parts that were planned count without PLANNED, which is written when the source is no longer
    /// followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
    /// How the dump is sealed, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

impl Head {
    /// The plan of a dump that follows its source: the same for every run.
    pub(crate) fn growing_plan(&self) -> Option<&str> {
        // 16 hex digits were written; whoever wrote others has no such plan.
        self.follows.then(|| self.dump.get(..8)).flatten()
    }

    /// What the names of chunks end with.
    pub(crate) fn chunk_extension(&self) -> String {
        if let Some(form) = &self.shaping.format {
            return form.extension.clone();
        }
        let sealed = self.seal.as_ref().map_or("", |_| SEALED);
        format!("{}.zst{sealed}", self.content.name)
    }

    /// Below this are chunks, or objects in a form for other programs.
    pub(crate) fn chunks_prefix(&self) -> &'static str {
        match self.shaping.format {
            None => CHUNKS,
            Some(_) => DATA,
        }
    }

    /// Whether chunk `number` of `part` may be called so; otherwise what it should be called.
    pub(crate) fn check_chunk_name(
        &self,
        part: &PartName,
        number: u32,
        chunk: &ChunkEntry,
    ) -> Result<(), String> {
        let extension = self.chunk_extension();
        if self.shaping.format.is_none() {
            let name = chunk_object(part, number, &chunk.sha256, &extension);
            return match *name.as_ref() == *chunk.name {
                true => Ok(()),
                false => Err(name.to_string()),
            };
        }
        let end = form_object_end(part, number, &chunk.sha256, &extension);
        let is_named = chunk.name.starts_with(DATA) && chunk.name.ends_with(&end);
        match is_named && chunk.name.parse::<ObjectName>().is_ok() {
            true => Ok(()),
            false => Err(format!("{DATA}…{end}")),
        }
    }
}

/// A part in PLANNED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPart {
    /// Its name.
    pub name: PartName,
    /// Its plan object's extension.
    pub extension: String,
    /// How many records it must account for, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// About how many raw bytes it gives.
    pub bytes_estimate: u64,
    /// Of its plan object.
    pub sha256: Sha256Digest,
}

impl SealedPart {
    /// The part that a source planned, under its name, with the extension of its plan object.
    ///
    /// # Errors
    /// `Disk` if the file that becomes its plan object cannot be read.
    pub(crate) fn new(
        name: PartName,
        part: &NewPart,
        extension: String,
    ) -> Result<Self, DumpError> {
        let sha256 = match &part.body {
            PlanBody::Bytes(bytes) => Sha256Digest::of(bytes),
            PlanBody::File(path) => File::open(path)
                .and_then(tipple_chunk::sha256_of)
                .map(|(sha256, _)| sha256)
                .map_err(DumpError::disk("read", path))?,
        };
        Ok(Self {
            name,
            extension,
            records: part.records,
            bytes_estimate: part.bytes_estimate,
            sha256,
        })
    }

    pub(crate) fn object(&self) -> ObjectName {
        object(&self.object_name())
    }

    /// Whether its plan object is the one that was planned.
    ///
    /// # Errors
    /// `Damaged`, `Store`.
    pub(crate) fn check(&self, store: &dyn Store) -> Result<(), DumpError> {
        self.check_bytes(store, store.open(&self.object())?)
    }

    /// The same of `bytes`, that were read from there.
    pub(crate) fn check_bytes(&self, store: &dyn Store, bytes: impl Read) -> Result<(), DumpError> {
        let damaged = |reason: String| DumpError::Damaged {
            store: store.url().to_owned(),
            object: self.object_name(),
            reason: format!("{reason}; restore it, or dump again into another folder"),
        };
        let (sha256, bytes) = tipple_chunk::sha256_of(bytes)
            .map_err(|error| damaged(format!("cannot be read: {error}")))?;
        if sha256 != self.sha256 {
            return Err(damaged(format!(
                "its {bytes} bytes have the SHA-256 {sha256}, and should have {}",
                self.sha256
            )));
        }
        Ok(())
    }

    fn object_name(&self) -> String {
        let plan = plan_of(&self.name);
        format!("plan/{plan}/{}.{}", self.name, self.extension)
    }
}

/// `plan/<plan>/PLANNED`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// The layout's version.
    pub format: Format,
    /// All parts.
    #[serde(deserialize_with = "sealed_parts")]
    pub parts: Vec<SealedPart>,
    /// Records that belong to no part, by cause.
    #[serde(flatten)]
    pub planned: tipple_flow::Planned,
}

/// A chunk in a part record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// The object's name.
    pub name: String,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// Raw bytes in its frames.
    pub raw_bytes: u64,
    /// Records that begin in it.
    pub records: u64,
    /// Frames.
    pub frames: u32,
    /// Of the stored bytes.
    pub sha256: Sha256Digest,
    /// Of the chunk's index frame, so that ranged reads are verified. In a sealed dump a tag of that.
    pub index_sha256: Sha256Digest,
    /// Of the first record that begins in it, in hex. In a sealed dump sealed, as is the last one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first_position: String,
    /// Of the last record that begins in it, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_position: String,
    /// It begins inside a record of the chunk before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins_inside: bool,
    /// Its last record goes on in the next chunk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_inside: bool,
}

impl ChunkEntry {
    pub(crate) fn new(name: &ObjectName, sealed: &SealedChunk) -> Self {
        Self {
            name: name.to_string(),
            stored_bytes: sealed.stored_bytes,
            raw_bytes: sealed.raw_bytes,
            records: sealed.records,
            frames: sealed.frames,
            sha256: sealed.sha256,
            index_sha256: sealed.index_sha256,
            first_position: hex(&sealed.first_position),
            last_position: hex(&sealed.last_position),
            begins_inside: sealed.begins_inside_record,
            ends_inside: sealed.ends_inside_record,
        }
    }
}

/// `parts/<part>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// The layout's version.
    pub format: Format,
    /// The part's name, which tells its plan.
    pub part: PartName,
    /// Its chunks in order.
    pub chunks: Vec<ChunkEntry>,
    /// Records in its chunks.
    pub records: u64,
    /// Raw bytes in its chunks.
    pub raw_bytes: u64,
    /// Bytes of its chunks.
    pub stored_bytes: u64,
    /// Raw bytes of its largest record, which is what a sink that holds whole records must have memory for; 0 if nobody
    /// kept count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub record_bytes_max: u64,
    /// What became of the records that are not in its chunks.
    #[serde(flatten)]
    pub outcomes: Outcomes,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl PartRecord {
    /// No record of it has more raw bytes.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        match self.record_bytes_max {
            0 => self.raw_bytes,
            bytes => bytes,
        }
    }

    /// The names of its chunks.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let chunks = self.chunks.iter();
        chunks.map(|chunk| chunk.name.as_str()).collect()
    }
}

/// `DONE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The layout's version.
    pub format: Format,
    /// The plan that counts.
    #[serde(deserialize_with = "plan_name")]
    pub plan: String,
    /// Its parts.
    pub parts: u64,
    /// Their chunks.
    pub chunks: u64,
    /// Records in the chunks.
    pub records: u64,
    /// Raw bytes in the chunks.
    pub raw_bytes: u64,
    /// Bytes of the chunks.
    pub stored_bytes: u64,
    /// Records lost, by all causes.
    pub lost: u64,
    /// What became of the records that are not in the chunks.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// SHA-256 over the SHA-256 digests (32 bytes each) of the part records, in the order of the parts' names.
    pub digest: Sha256Digest,
    /// When it was finished, UTC.
    pub finished: String,
    /// What the source said at the end.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub source: Value,
}

// Names that become names of objects are checked where they are read: what a dump says may be anything.

fn content_name<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    let name = String::deserialize(text)?;
    match name.parse::<ContentName>() {
        Ok(_) => Ok(name),
        Err(_) => Err(D::Error::custom(format!("{name:?} is no content's name"))),
    }
}

fn plan_name<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    let name = String::deserialize(text)?;
    match name.parse::<PartName>() {
        Ok(_) => Ok(name),
        Err(_) => Err(D::Error::custom(format!("{name:?} is no plan's name"))),
    }
}

fn sealed_parts<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<SealedPart>, D::Error> {
    let parts = Vec::<SealedPart>::deserialize(list)?;
    let mut names = BTreeSet::new();
    for part in &parts {
        if part.object_name().parse::<ObjectName>().is_err() {
            let (name, extension) = (&part.name, &part.extension);
            return Err(D::Error::custom(format!(
                "no plan has a part {name} with the extension {extension:?}"
            )));
        }
        if !names.insert(&part.name) {
            return Err(D::Error::custom(format!(
                "part {} is there twice",
                part.name
            )));
        }
    }
    Ok(parts)
}

pub(crate) const HEAD: &str = "HEAD.json";
pub(crate) const DONE: &str = "DONE";
pub(crate) const SHA256SUMS: &str = "SHA256SUMS";

/// A name made of parts that are safe by their types.
pub(crate) fn object(name: &str) -> ObjectName {
    name.parse()
        .unwrap_or_else(|error| panic!("a name of the layout is not one of a store: {error}"))
}

pub(crate) fn planned_object(plan: &str) -> ObjectName {
    object(&format!("plan/{plan}/PLANNED"))
}

pub(crate) fn part_object(part: &PartName) -> ObjectName {
    object(&format!("parts/{part}.json"))
}

/// Chunks lie here.
pub(crate) const CHUNKS: &str = "chunks/";
/// Objects in a form for other programs lie here.
pub(crate) const DATA: &str = "data/";

/// What was delivered of notifications lies here.
pub(crate) const NOTIFIED: &str = "notified/";

/// What was delivered of the messages about a part.
pub(crate) fn notified_object(part: &PartName) -> ObjectName {
    object(&format!("{NOTIFIED}{part}.json"))
}

/// The same of the message about DONE.
pub(crate) fn notified_done() -> ObjectName {
    object(&format!("{NOTIFIED}{DONE}.json"))
}

/// The part whose [`notified_object`] `object` is, if it is one.
pub(crate) fn notified_part(object: &ObjectName) -> Option<PartName> {
    let name = object.as_ref().strip_prefix(NOTIFIED)?;
    name.strip_suffix(".json")?.parse().ok()
}

pub(crate) fn part_name(plan: &str, number: u64) -> PartName {
    format!("{plan}-{number:08}")
        .parse()
        .expect("hex, a dash and digits")
}

/// The part of `plan` whose plan object `object` is, with its number and extension.
pub(crate) fn part_of_plan_object<'a>(
    plan: &str,
    object: &'a ObjectName,
) -> Option<(u64, PartName, &'a str)> {
    let name = object.as_ref().strip_prefix("plan/")?.strip_prefix(plan)?;
    let (name, extension) = name.strip_prefix('/')?.split_once('.')?;
    let number = name.strip_prefix(plan)?.strip_prefix('-')?.parse().ok()?;
    let part = part_name(plan, number);
    (part.as_str() == name).then_some((number, part, extension))
}

/// The part whose record `object` is, if it is one.
pub(crate) fn part_of_object(object: &ObjectName) -> Option<PartName> {
    let name = object.as_ref().strip_prefix("parts/")?;
    name.strip_suffix(".json")?.parse().ok()
}

/// The plan that a part belongs to.
pub(crate) fn plan_of(part: &PartName) -> &str {
    part.as_str().rsplit_once('-').map_or("", |(plan, _)| plan)
}

pub(crate) fn chunk_object(
    part: &PartName,
    number: u32,
    sha256: &Sha256Digest,
    extension: &str,
) -> ObjectName {
    object(&format!(
        "chunks/{part}-{number:04}-{}.{extension}",
        sha256.short()
    ))
}

/// The name of an object in a form for other programs.
///
/// # Errors
/// `Usage` if stores take no such name.
pub(crate) fn form_object(
    folder: &str,
    stem: &str,
    part: &PartName,
    number: u32,
    sha256: &Sha256Digest,
    extension: &str,
) -> Result<ObjectName, DumpError> {
    let slash = if folder.is_empty() { "" } else { "/" };
    let end = form_object_end(part, number, sha256, extension);
    Ok(format!("{DATA}{folder}{slash}{stem}{end}").parse()?)
}

fn form_object_end(part: &PartName, number: u32, sha256: &Sha256Digest, extension: &str) -> String {
    format!("-{part}-{number:04}-{}.{extension}", sha256.short())
}

/// The part that an object in a form for other programs is of, if it is one of this layout.
pub(crate) fn part_of_form_object(object: &ObjectName) -> Option<PartName> {
    let last = object.segments().last()?;
    let (name, _) = last.split_once('.')?;
    let mut steps = name.rsplitn(5, '-');
    let (_sha256, _number, part, plan) =
        (steps.next()?, steps.next()?, steps.next()?, steps.next()?);
    // And there must be a first position.
    steps.next()?;
    format!("{plan}-{part}").parse().ok()
}

/// Writes a JSON object of the layout once (I5).
///
/// # Errors
/// `Usage` if it is longer than readers take, so that nothing is written that could not be read back.
pub(crate) fn put_json<T: Serialize>(
    store: &dyn Store,
    name: &ObjectName,
    value: &T,
    sealing: Option<&Sealing>,
) -> Result<(), DumpError> {
    let bytes = to_closed_json(name, value, sealing);
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(DumpError::Usage(format!(
            "{name} would have {} bytes, and {JSON_BYTES_MAX} is the most: give a larger --chunk-size, and larger parts",
            bytes.len()
        )));
    }
    store.put_if_absent(name, &bytes)?;
    Ok(())
}

/// Whether a leftover is one of a dump. In a bucket, others may upload under the same prefix; a folder's staging files are
/// all the store's own.
pub(crate) fn is_ours(leftover: &Leftover) -> bool {
    leftover.object.as_ref().is_none_or(|object| {
        let folder = object.segments().next();
        matches!(folder, Some("chunks" | "data" | "plan"))
    })
}

/// Whether an object is there.
pub(crate) fn exists(store: &dyn Store, name: &ObjectName) -> Result<bool, DumpError> {
    match store.head(name) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == tipple_store::StoreErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An object's bytes, with a mac if the dump is sealed.
pub(crate) fn to_closed_json<T: Serialize>(
    name: &ObjectName,
    value: &T,
    sealing: Option<&Sealing>,
) -> Vec<u8> {
    let json = to_json(value);
    match sealing {
        None => json,
        Some(sealing) => sealing.close_json(name, json),
    }
}

/// 64 of them stand where an object's own digest will be.
const NO_DIGEST: [u8; 64] = [b'0'; 64];

pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Own<'a, T> {
        #[serde(flatten)]
        value: &'a T,
        own_sha256: Sha256Digest,
    }
    let own = Own {
        value,
        own_sha256: Sha256Digest([0; 32]),
    };
    let mut bytes = serde_json::to_vec_pretty(&own).expect("plain values serialize");
    bytes.push(b'\n');
    let sha256 = Sha256Digest::of(&bytes).to_string();
    let place = last_place(&bytes, &NO_DIGEST).expect("it was just written");
    bytes[place..][..sha256.len()].copy_from_slice(sha256.as_bytes());
    bytes
}

/// Whether `bytes` are those that were written, if `own_sha256` is what they say of themselves.
fn is_own(bytes: &[u8], own_sha256: &Sha256Digest) -> bool {
    let own = own_sha256.to_string();
    let Some(place) = last_place(bytes, own.as_bytes()) else {
        return false;
    };
    let mut sha256 = Sha256::new();
    sha256.update(&bytes[..place]);
    sha256.update(NO_DIGEST);
    sha256.update(&bytes[place + own.len()..]);
    Sha256Digest::from(sha256) == *own_sha256
}

fn last_place(bytes: &[u8], digest: &[u8]) -> Option<usize> {
    bytes
        .windows(digest.len())
        .rposition(|window| window == digest)
}

/// Reads a JSON object of the layout. The format is looked at before anything else, so that a newer version is
/// told apart from damage; then whether the bytes are those that were written, by their mac if the dump is sealed.
pub(crate) fn read_json<T: DeserializeOwned>(
    store: &dyn Store,
    name: &ObjectName,
    sealing: Option<&Sealing>,
) -> Result<T, DumpError> {
    parse_json(store, name, &get_json_bytes(store, name)?, sealing)
}

pub(crate) fn get_json_bytes(store: &dyn Store, name: &ObjectName) -> Result<Vec<u8>, DumpError> {
    store
        .get(name, JSON_BYTES_MAX)
        .map_err(|error: StoreError| match error.kind() {
            StoreErrorKind::TooLarge => DumpError::Damaged {
                store: store.url().to_owned(),
                object: name.to_string(),
                reason: format!(
                    "is not what tipple wrote (more than {JSON_BYTES_MAX} bytes); restore it, or dump again into another folder"
                ),
            },
            _ => error.into(),
        })
}

/// Gives `act` what [`get_json_bytes`] reads of each object, in their order. A store far away is asked for several of
/// them at a time: a dump has as many part records as parts, and each is a round trip.
pub(crate) fn each_json_bytes(
    store: &dyn Store,
    names: &[ObjectName],
    mut act: impl FnMut(&ObjectName, Result<Vec<u8>, DumpError>) -> Result<(), DumpError>,
) -> Result<(), DumpError> {
    for names in names.chunks(READS_AT_ONCE * READS_OF_A_THREAD) {
        let read = |name| get_json_bytes(store, name);
        std::thread::scope(|scope| {
            let mut shares = names.chunks(READS_OF_A_THREAD);
            // The last share is for this thread, so that a few objects cost no other.
            let own = shares.next_back().unwrap_or_default();
            let others: Vec<_> = shares
                .map(|names| scope.spawn(move || names.iter().map(read).collect::<Vec<_>>()))
                .collect();
            let own: Vec<_> = own.iter().map(read).collect();
            let read = others
                .into_iter()
                .flat_map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .chain(own);
            (names.iter().zip(read)).try_for_each(|(name, bytes)| act(name, bytes))
        })?;
    }
    Ok(())
}

pub(crate) fn parse_json<T: DeserializeOwned>(
    store: &dyn Store,
    name: &ObjectName,
    bytes: &[u8],
    sealing: Option<&Sealing>,
) -> Result<T, DumpError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: Format,
        // Whatever a newer version calls by that name.
        #[serde(default)]
        own_sha256: Value,
    }
    let damaged = |why: &dyn Display| DumpError::Damaged {
        store: store.url().to_owned(),
        object: name.to_string(),
        reason: format!(
            "is not what tipple wrote ({why}); restore it, or dump again into another folder"
        ),
    };
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
    if versioned.format.major != FORMAT_MAJOR {
        return Err(newer(store, name, versioned.format, "reads"));
    }
    if let Some(sealing) = sealing {
        sealing.check_json(store.url(), name, bytes)?;
    }
    let without_mac = without_mac(bytes);
    let bytes = without_mac.as_deref().unwrap_or(bytes);
    let own: Sha256Digest =
        serde_json::from_value(versioned.own_sha256).map_err(|error| damaged(&error))?;
    if !is_own(bytes, &own) {
        return Err(damaged(&"its own_sha256 is that of other bytes"));
    }
    serde_json::from_slice(bytes).map_err(|error| damaged(&error))
}

pub(crate) fn newer(
    store: &dyn Store,
    name: &ObjectName,
    format: Format,
    verb: &'static str,
) -> DumpError {
    DumpError::Version {
        store: store.url().to_owned(),
        object: name.to_string(),
        major: format.major,
        minor: format.minor,
        verb,
    }
}

pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Hex digits that no two runs share.
pub(crate) fn random_hex(digits: usize) -> String {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's only source of randomness: each RandomState has fresh keys from the system.
    let number = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    format!("{number:016x}")[..digits].to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
