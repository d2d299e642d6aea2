//! What a command's files look like in a store: which objects there are, how they are called, and what is in them.
//! Stable.
//!
//! | object | written | holds |
//! |---|---|---|
//! | `HEAD.json` | first | [`Head`]: format version, that these are files, which program wrote them |
//! | `runs/<run>.json` | before the command starts | claims the run's number: 0001, 0002 … |
//! | `records/<run>/<name>.json` | before a file is put | the file's path, object, length and SHA-256 |
//! | `files/<run>/<name>` | when the file is finished | the file, byte by byte |
//! | `runs/<run>.ended.json` | when the command has ended with exit code 0 | every file of the run: so the run can be finished without it |
//! | `manifest.json` | when all files are stored | [`Manifest`]: every file of the run that counts |
//! | `SHA256SUMS` | then | for `sha256sum -c`: HEAD, manifest, files |
//! | `DONE` | last, once | [`Done`]: which run counts, totals, digests of the manifest and of itself |
//!
//! `<name>` is the path in its written form, see `name.rs`. All of them are put only if absent. A run whose command did
//! not end with exit code 0 never counts; the next one has the next number, so that no two runs are mixed. Readers accept
//! newer minor versions and refuse newer major ones.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tipple_chunk::Sha256Digest;
use tipple_store::{ObjectName, Store, StoreErrorKind};

use crate::error::SuperviseError;
use crate::name;
use crate::retry::retry;

/// Readers refuse other major versions.
pub const FORMAT_MAJOR: u32 = 1;
/// Writers refuse newer minor versions.
pub const FORMAT_MINOR: u32 = 0;

/// What `HEAD.json` says of the kind of place.
pub(crate) const KIND: &str = "files";

/// The most bytes of a JSON object that are read: 256 MiB, about a million files.
const JSON_BYTES_MAX: u64 = 256 << 20;

pub(crate) const HEAD: &str = "HEAD.json";
pub(crate) const DONE: &str = "DONE";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const SHA256SUMS: &str = "SHA256SUMS";

/// The version of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// `HEAD.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The layout's version.
    pub format: Format,
    /// `files`.
    pub kind: String,
    /// Program and version.
    pub written_by: String,
    /// A random name of this place, 16 hex digits.
    pub place: String,
    /// The file name of the program that wrote the files. Its arguments are not kept: they may hold secrets.
    pub program: String,
    /// When it was begun, UTC.
    pub started: String,
}

/// `runs/<run>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) format: Format,
    pub(crate) run: u32,
    pub(crate) mark: String,
    pub(crate) started: String,
}

/// A stored file, in `records/` and in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below the command's folder, in its written form.
    pub path: String,
    /// The object that holds it.
    pub object: String,
    /// Its length.
    pub bytes: u64,
    /// Of its contents.
    pub sha256: Sha256Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    pub(crate) format: Format,
    #[serde(flatten)]
    pub(crate) file: FileEntry,
}

/// A file of a run whose command has ended: stored by then, or still in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndedFile {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Of one that was in the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) modified_ns: Option<i64>,
}

/// `runs/<run>.ended.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndedRecord {
    pub(crate) format: Format,
    pub(crate) run: u32,
    pub(crate) files: Vec<EndedFile>,
    /// What is neither a file nor a folder, and is not stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) skipped: Vec<String>,
}

/// `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout's version.
    pub format: Format,
    /// The run that counts.
    pub run: u32,
    /// Its files, sorted by path.
    pub files: Vec<FileEntry>,
    /// What was neither a file nor a folder, in its written form, and was not stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
}

/// `DONE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The layout's version.
    pub format: Format,
    /// The run that counts.
    pub run: u32,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// What was neither a file nor a folder, and was not stored.
    pub skipped: u64,
    /// Of `manifest.json`.
    pub manifest_sha256: Sha256Digest,
    /// When it was finished, UTC.
    pub finished: String,
    /// SHA-256 of the object's bytes as they would be with 64 zeros here.
    pub own_sha256: Sha256Digest,
}

impl Done {
    /// Whether `bytes`, that this was read from, are those that were written.
    pub(crate) fn is_own(&self, bytes: &[u8]) -> bool {
        let own = self.own_sha256.to_string();
        let text = String::from_utf8_lossy(bytes).replace(&own, &"0".repeat(own.len()));
        Sha256Digest::of(text.as_bytes()) == self.own_sha256
    }
}

pub(crate) fn object(name: &str) -> ObjectName {
    name.parse().expect("the layout's own names")
}

pub(crate) fn run_object(run: u32) -> ObjectName {
    object(&format!("runs/{run:04}.json"))
}

pub(crate) fn ended_object(run: u32) -> ObjectName {
    object(&format!("runs/{run:04}.ended.json"))
}

pub(crate) fn files_prefix(run: u32) -> String {
    format!("files/{run:04}/")
}

pub(crate) fn file_object(run: u32, written: &str) -> ObjectName {
    name::object(&format!("files/{run:04}"), written, "")
}

pub(crate) fn record_object(run: u32, written: &str) -> ObjectName {
    name::object(&format!("records/{run:04}"), written, ".json")
}

/// The run that an object belongs to, if it is one of a run.
pub(crate) fn run_of(object: &str) -> Option<u32> {
    let (folder, rest) = object.split_once('/')?;
    if !["files", "records", "runs"].contains(&folder) {
        return None;
    }
    rest.split(['/', '.']).next()?.parse().ok()
}

/// Whether an object is one that this program writes. In a bucket, others may upload under the same prefix.
pub(crate) fn is_ours(object: &str) -> bool {
    run_of(object).is_some() || [HEAD, MANIFEST, SHA256SUMS, DONE].contains(&object)
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain values serialize");
    bytes.push(b'\n');
    bytes
}

/// Tries of a call that writes an object of the layout itself.
const ATTEMPTS: u32 = 10;

/// Writes a JSON object of the layout once, with retries.
pub(crate) fn put_json<T: Serialize>(
    store: &dyn Store,
    name: &ObjectName,
    value: &T,
) -> Result<(), SuperviseError> {
    let bytes = to_json(value);
    if bytes.len() as u64 > JSON_BYTES_MAX {
        return Err(SuperviseError::Usage(format!(
            "{name} would have {} bytes, and {JSON_BYTES_MAX} is the most: let the command write fewer, larger files",
            bytes.len()
        )));
    }
    put(store, name, &bytes)
}

/// Writes an object of the layout once, with retries.
pub(crate) fn put(
    store: &dyn Store,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<(), SuperviseError> {
    retry(ATTEMPTS, &|| false, || store.put_if_absent(name, bytes))?;
    Ok(())
}

/// Reads a JSON object of the layout; `None` if there is none. The format is looked at before anything else, so that a
/// newer version is told apart from damage.
pub(crate) fn read_json<T: DeserializeOwned>(
    store: &dyn Store,
    name: &ObjectName,
) -> Result<Option<(T, Vec<u8>)>, SuperviseError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: Format,
    }
    let bytes = match store.get(name, JSON_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == StoreErrorKind::TooLarge => {
            return Err(damaged(
                store,
                name,
                "is not what tipple wrote (it is too long)",
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let foreign = |error: serde_json::Error| {
        damaged(store, name, format!("is not what tipple wrote ({error})"))
    };
    let Versioned { format } = serde_json::from_slice(&bytes).map_err(foreign)?;
    if format.major != FORMAT_MAJOR {
        return Err(newer(store, name, format));
    }
    Ok(Some((
        serde_json::from_slice(&bytes).map_err(foreign)?,
        bytes,
    )))
}

pub(crate) fn newer(store: &dyn Store, name: &ObjectName, format: Format) -> SuperviseError {
    SuperviseError::Version {
        store: store.url().to_owned(),
        object: name.to_string(),
        major: format.major,
        minor: format.minor,
    }
}

pub(crate) fn damaged(
    store: &dyn Store,
    name: impl ToString,
    reason: impl Into<String>,
) -> SuperviseError {
    SuperviseError::Damaged {
        store: store.url().to_owned(),
        object: name.to_string(),
        reason: reason.into(),
    }
}

pub(crate) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// 16 hex digits that no two runs share.
pub(crate) fn random_hex() -> String {
    format!("{:016x}", random())
}

pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's only source of randomness: each RandomState has fresh keys from the system.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_tell_their_run() {
        for (object, run) in [
            ("files/0001/a/b", Some(1)),
            ("records/0012/a.json", Some(12)),
            ("runs/0003.json", Some(3)),
            ("runs/0003.ended.json", Some(3)),
            ("HEAD.json", None),
            ("files/x/a", None),
            ("other/0001/a", None),
        ] {
            assert_eq!(run_of(object), run, "{object}");
            assert_eq!(is_ours(object), run.is_some() || object == HEAD, "{object}");
        }
    }
}
