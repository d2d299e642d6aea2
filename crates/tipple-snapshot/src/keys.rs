//! Where the keys of sealed snapshots come from.

#[cfg(feature = "encryption")]
pub use sealing::{KEY_BYTES, KEYS_MEMBER};
#[cfg(feature = "encryption")]
pub(crate) use sealing::{Sealing, open_sealed};

use std::fmt;

/// The keys of sealed snapshots, by the names of caches. They are asked for again for each snapshot that is written or read, so
/// that a new key needs no restart. The first key of a cache seals, all of its keys open.
#[derive(Clone, Default)]
pub struct Keys {
    #[cfg(feature = "encryption")]
    source: Option<sealing::Source>,
}

impl Keys {
    /// No key: what is sealed cannot be read.
    pub fn none() -> Self {
        Self::default()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Begins every sealed file.
pub(crate) const SEAL_MAGIC: &[u8; 8] = b"TPLSEALD";

#[cfg(feature = "encryption")]
mod sealing {
    use std::fs::File;
    use std::io::{self, Read};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use serde_json::Value;
    use tipple_chunk::{Binding, ChunkError, KeyRing, Purpose, SealWriter, SealedReader};

    use crate::base64::to_base64;
    use crate::{ErrorKind, Keys, SnapshotError};

    /// The length of a key: that of AES-256.
    pub const KEY_BYTES: usize = 32;
    /// The member of a secrets file that has the keys.
    pub const KEYS_MEMBER: &str = "CACHE_DUMP_SECRET_KEYS";
    /// A secrets file that is longer is none.
    const SECRETS_BYTES_MAX: u64 = 16 << 20;

    type Callback = dyn Fn(&str) -> Result<Vec<[u8; KEY_BYTES]>, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync;

    #[derive(Clone)]
    pub(super) enum Source {
        File(PathBuf),
        Variable(String),
        KeyFile(PathBuf),
        Callback(Arc<Callback>),
    }

    fn key_error(message: impl Into<String>) -> SnapshotError {
        SnapshotError::new(ErrorKind::Key, message)
    }

    impl Keys {
        /// Of a file of secrets, `{"CACHE_DUMP_SECRET_KEYS": {"prices": "base64 of 32 bytes"}}`; for rotation, a cache has a
        /// list of keys: the first seals, all of them open. Other members are passed over.
        pub fn from_file(path: impl Into<PathBuf>) -> Keys {
            Keys {
                source: Some(Source::File(path.into())),
            }
        }

        /// Of an environment variable that holds the same as such a file.
        pub fn from_variable(name: impl Into<String>) -> Keys {
            Keys {
                source: Some(Source::Variable(name.into())),
            }
        }

        /// Of a key file as `tipple keygen` makes it: the same keys for all caches.
        pub fn from_key_file(path: impl Into<PathBuf>) -> Keys {
            Keys {
                source: Some(Source::KeyFile(path.into())),
            }
        }

        /// Of whatever gives the keys of a cache: the first seals, all of them open.
        pub fn from_callback(
            keys: impl Fn(
                &str,
            )
                -> Result<Vec<[u8; KEY_BYTES]>, Box<dyn std::error::Error + Send + Sync>>
            + Send
            + Sync
            + 'static,
        ) -> Keys {
            Keys {
                source: Some(Source::Callback(Arc::new(keys))),
            }
        }

        /// That there are keys for this cache, and that they are ones.
        ///
        /// # Errors
        /// `Key`: what is missing or wrong; never what is in it.
        pub fn check(&self, cache: &str) -> Result<(), SnapshotError> {
            self.ring(cache).map(drop)
        }

        pub(crate) fn ring(&self, cache: &str) -> Result<KeyRing, SnapshotError> {
            match &self.source {
                None => Err(key_error(format!(
                    "no keys were given for the cache `{cache}`: give Keys::from_file, or --secrets or --encrypt-key"
                ))),
                Some(Source::File(path)) => {
                    let secrets = read_file(path)?;
                    ring_of(&secrets, cache, &format!("{}", path.display()))
                }
                Some(Source::Variable(name)) => {
                    let secrets = std::env::var(name).map_err(|_| {
                        key_error(format!(
                            "the variable {name} is not set: it should hold the keys"
                        ))
                    })?;
                    ring_of(secrets.as_bytes(), cache, &format!("the variable {name}"))
                }
                Some(Source::KeyFile(path)) => KeyRing::parse(&read_file(path)?)
                    .map_err(|error| key_error(format!("{}: {error}", path.display()))),
                Some(Source::Callback(keys)) => {
                    let keys = keys(cache).map_err(|error| {
                        key_error(format!("the keys of the cache `{cache}` cannot be had"))
                            .because(error)
                    })?;
                    ring_of_keys(keys.iter().map(|key| to_base64(key)).collect(), cache)
                }
            }
        }
    }

    fn read_file(path: &Path) -> Result<Vec<u8>, SnapshotError> {
        let failed = |error| key_error("cannot read the keys").because(error).at(path);
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(SECRETS_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > SECRETS_BYTES_MAX {
            return Err(key_error("it is longer than 16 MiB: no file of secrets").at(path));
        }
        Ok(bytes)
    }

    fn ring_of(secrets: &[u8], cache: &str, place: &str) -> Result<KeyRing, SnapshotError> {
        // What serde_json says about it may have a piece of it.
        let secrets: Value = serde_json::from_slice(secrets).map_err(|error| {
            key_error(format!(
                "{place} is no JSON: see line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        let keys = secrets.get(KEYS_MEMBER).and_then(|keys| keys.get(cache));
        let texts = match keys {
            Some(Value::String(key)) => vec![key.clone()],
            Some(Value::Array(keys)) if !keys.is_empty() => keys
                .iter()
                .map(|key| key.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or_else(|| {
                    key_error(format!(
                        "{place}: the keys of the cache `{cache}` in {KEYS_MEMBER} must be texts"
                    ))
                })?,
            Some(_) => {
                return Err(key_error(format!(
                    "{place}: {KEYS_MEMBER} must give the cache `{cache}` a key in base64, or a list of them"
                )));
            }
            None => {
                return Err(key_error(format!(
                    "{place}: the key of the cache `{cache}` is not found in {KEYS_MEMBER}"
                )));
            }
        };
        ring_of_keys(texts, cache)
    }

    /// Each key gets a name that tells it from others, and nothing about it.
    fn ring_of_keys(texts: Vec<String>, cache: &str) -> Result<KeyRing, SnapshotError> {
        let mut lines = String::new();
        for (n, text) in texts.iter().enumerate() {
            let number = n + 1;
            if text.len() != 44 {
                return Err(key_error(format!(
                    "key {number} of the cache `{cache}` must be {KEY_BYTES} bytes in base64, which are 44 characters, and has {}",
                    text.len()
                )));
            }
            let digest = tipple_chunk::sha256_of(
                &mut format!("tipple snapshot key name\0{text}").as_bytes(),
            )
            .map_err(|error| key_error(error.to_string()))?
            .0
            .to_string();
            lines.push_str(&format!("{} {text}\n", &digest[..16]));
        }
        KeyRing::parse(lines.as_bytes()).map_err(|_| {
            key_error(format!(
                "a key of the cache `{cache}` is no base64 of {KEY_BYTES} bytes, or is given twice"
            ))
        })
    }

    fn version_text(format_version: u64) -> String {
        format!("v{format_version}")
    }

    fn binding<'a>(cache: &'a str, version: &'a str) -> Binding<'a> {
        Binding {
            purpose: Purpose::Snapshot,
            dump: cache,
            part: version,
            number: 0,
        }
    }

    /// Seals what is written.
    pub(crate) struct Sealing<W: io::Write>(SealWriter<W>);

    impl<W: io::Write> Sealing<W> {
        pub(crate) fn new(
            out: W,
            keys: &Keys,
            cache: &str,
            format_version: u64,
        ) -> Result<Self, SnapshotError> {
            let ring = keys.ring(cache)?;
            let version = version_text(format_version);
            SealWriter::new(out, ring.sealing(), &binding(cache, &version))
                .map(|writer| Self(writer.without_digest()))
                .map_err(told)
        }

        pub(crate) fn finish(self) -> Result<W, SnapshotError> {
            self.0.close().map(|(out, _)| out).map_err(told)
        }
    }

    impl<W: io::Write> io::Write for Sealing<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    pub(crate) fn open_sealed<R: Read + io::Seek>(
        file: R,
        keys: &Keys,
        cache: &str,
        format_version: u64,
    ) -> Result<SealedReader<R>, SnapshotError> {
        let version = version_text(format_version);
        SealedReader::open(file, &keys.ring(cache)?, &binding(cache, &version)).map_err(told)
    }

    /// In the words of snapshots.
    fn told(error: ChunkError) -> SnapshotError {
        match error {
            ChunkError::Key { id, is_there } => key_error(format!(
                "it is sealed with the key `{id}`, {}",
                match is_there {
                    true => "and the key of that name is another one",
                    false => "which is not among the keys: give the key that sealed it, too",
                }
            )),
            ChunkError::Io {
                operation, source, ..
            } => match source.downcast::<SnapshotError>() {
                Ok(error) => error,
                Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    SnapshotError::new(ErrorKind::Truncated, "the sealed file ends too early")
                }
                Err(source) => SnapshotError::io(format!("cannot {operation}"), source),
            },
            ChunkError::Damaged {
                damage: tipple_chunk::Damage::TooShort { .. },
                ..
            } => SnapshotError::new(
                ErrorKind::Truncated,
                "the sealed file ends within its header",
            ),
            ChunkError::Damaged { place, damage } => {
                SnapshotError::damaged(format!("{place}: {damage}"))
            }
            ChunkError::FormatVersion { major, minor } => SnapshotError::new(
                ErrorKind::Layout,
                format!(
                    "it is sealed by version {major}.{minor} of sealing: use a newer version of this program"
                ),
            ),
            error => SnapshotError::damaged(error.to_string()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn keys_by_the_names_of_caches() {
            let one = to_base64(&[1; 32]);
            let two = to_base64(&[2; 32]);
            let secrets = format!(
                r#"{{"other": 1, "{KEYS_MEMBER}": {{"a": "{one}", "b": ["{two}", "{one}"], "short": "AAAA", "no": [], "n": [1]}}}}"#
            );
            let ring = |cache| ring_of(secrets.as_bytes(), cache, "secrets.json");
            let name = |cache| ring(cache).unwrap().sealing().id().to_string();
            assert_ne!(name("a"), name("b"));
            // The same key has the same name wherever it stands.
            assert!(
                ring("b")
                    .unwrap()
                    .get(ring("a").unwrap().sealing().id())
                    .is_ok()
            );
            let error = |cache| ring(cache).map(drop).unwrap_err().to_string();
            assert_eq!(
                error("short"),
                "key 1 of the cache `short` must be 32 bytes in base64, which are 44 characters, and has 4"
            );
            assert!(error("c").contains("`c` is not found in CACHE_DUMP_SECRET_KEYS"));
            assert!(error("no").contains("or a list of them"));
            assert!(error("n").contains("must be texts"));
            let no_json = ring_of(b"{\"hunter2\" 1}", "a", "secrets.json")
                .map(drop)
                .unwrap_err();
            assert_eq!(
                no_json.to_string(),
                "secrets.json is no JSON: see line 1, column 12"
            );
        }
    }
}
