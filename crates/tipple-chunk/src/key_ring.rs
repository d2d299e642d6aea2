//! Keys that chunks are sealed with, and the file that they come in.
//!
//! A key file is text, one key a line:
//!
//! ```text
//! # the key from March on; the old one still opens the older dumps
//! backup-2 3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=
//! backup-1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
//! ```
//!
//! A line is the key's name, spaces or tabs, and 32 bytes in base64 or as 64 hexadecimal digits. Empty lines, and those
//! that begin with `#`, are passed over. The first key seals; all of them open.

use std::fmt;
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{ChunkError, Usage};

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;

/// The name of a key, which every object that was sealed with it tells: 1 to 32 of `A-Z a-z 0-9 . _ -`. It is no secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl KeyId {
    /// The most bytes in a name.
    pub const BYTES_MAX: usize = 32;

    /// A name that nobody chose: `key-` and 8 random hexadecimal digits.
    ///
    /// # Errors
    /// `Io` if the system has no random bytes.
    pub fn random() -> Result<KeyId, ChunkError> {
        let mut bytes = [0; 4];
        fill_random(&mut bytes)?;
        Ok(KeyId(format!("key-{:08x}", u32::from_be_bytes(bytes))))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = ChunkError;

    fn from_str(text: &str) -> Result<KeyId, ChunkError> {
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=KeyId::BYTES_MAX).contains(&text.len()) || !text.bytes().all(is_named) {
            let given = text.chars().take(2 * KeyId::BYTES_MAX).collect();
            return Err(Usage::KeyId { given }.into());
        }
        Ok(KeyId(text.to_owned()))
    }
}

impl TryFrom<String> for KeyId {
    type Error = ChunkError;

    fn try_from(text: String) -> Result<KeyId, ChunkError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({})", self.0)
    }
}

/// A key with its name. Clones share the bytes, which are overwritten with zeros when the last of them is dropped. (What
/// the cipher derives from them for the time of one object is not.)
#[derive(Clone)]
pub struct SealKey {
    id: KeyId,
    bytes: Arc<Zeroizing<[u8; KEY_BYTES]>>,
}

impl SealKey {
    /// The key `id` with these bytes.
    pub fn new(id: KeyId, bytes: &[u8; KEY_BYTES]) -> SealKey {
        let mut own = Arc::new(Zeroizing::new([0; KEY_BYTES]));
        Arc::get_mut(&mut own)
            .expect("nobody else has it yet")
            .copy_from_slice(bytes);
        SealKey { id, bytes: own }
    }

    /// A new key, of the system's random bytes.
    ///
    /// # Errors
    /// `Io` if the system gives none.
    pub fn random(id: KeyId) -> Result<SealKey, ChunkError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        fill_random(&mut *bytes)?;
        Ok(SealKey::new(id, &bytes))
    }

    /// Its name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The key as a line of a key file, its end included. This is the secret itself.
    pub fn to_line(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(BASE64_STANDARD.encode(self.bytes()));
        Zeroizing::new(format!("{} {}\n", self.id, *text))
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.id)
    }
}

/// The keys of a key file: the first seals, all of them open. Its `Debug` shows their names only.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<SealKey>,
}

impl KeyRing {
    /// The most bytes of a key file: 64 KiB, some hundred keys.
    pub const FILE_BYTES_MAX: u64 = 64 << 10;

    /// A ring of one key.
    pub fn of(key: SealKey) -> KeyRing {
        KeyRing { keys: vec![key] }
    }

    /// Reads a key file to its end, of at most [`KeyRing::FILE_BYTES_MAX`] bytes. What was read is overwritten with zeros.
    ///
    /// # Errors
    /// `Io` if it cannot be read; `Usage` if it is longer, or as for [`parse`](KeyRing::parse).
    pub fn read(file: impl Read) -> Result<KeyRing, ChunkError> {
        let most = KeyRing::FILE_BYTES_MAX;
        // Allocated once: what grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(most as usize + 1));
        file.take(most + 1)
            .read_to_end(&mut bytes)
            .map_err(ChunkError::io("read the key file", 0))?;
        if bytes.len() as u64 > most {
            return Err(Usage::KeyFileLength.into());
        }
        KeyRing::parse(&bytes)
    }

    /// The keys in the text of a key file.
    ///
    /// # Errors
    /// `Usage`, with the number of the line that is wrong and never with what is in it: no key at all, a line that is
    /// none, a name that is there twice.
    pub fn parse(file: &[u8]) -> Result<KeyRing, ChunkError> {
        let mut keys: Vec<SealKey> = Vec::new();
        for (number, line) in file.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let wrong = |problem| Usage::KeyLine {
                line: number as u64 + 1,
                problem,
            };
            let key = parse_line(line).map_err(wrong)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(wrong("it names a key that a line before it names already").into());
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(Usage::NoKey.into());
        }
        Ok(KeyRing { keys })
    }

    /// The key that seals: the first.
    pub fn sealing(&self) -> &SealKey {
        &self.keys[0]
    }

    /// The key of this name.
    ///
    /// # Errors
    /// `Key` if there is none.
    pub fn get(&self, id: &KeyId) -> Result<&SealKey, ChunkError> {
        self.keys
            .iter()
            .find(|key| key.id == *id)
            .ok_or_else(|| ChunkError::Key {
                id: id.clone(),
                is_there: false,
            })
    }
}

fn parse_line(line: &[u8]) -> Result<SealKey, &'static str> {
    const FORM: &str =
        "give the key's name, a space, and 32 bytes in base64 or as 64 hexadecimal digits";
    let line = std::str::from_utf8(line).map_err(|_| "it is not text")?;
    let mut words = line.split_ascii_whitespace();
    let (Some(id), Some(secret), None) = (words.next(), words.next(), words.next()) else {
        return Err(FORM);
    };
    let id = id
        .parse()
        .map_err(|_| "a key's name has 1 to 32 of A-Z a-z 0-9 . _ -")?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if secret.len() == 2 * KEY_BYTES {
        for (byte, pair) in bytes.iter_mut().zip(secret.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
            *byte = digit(pair[0]).ok_or(FORM)? << 4 | digit(pair[1]).ok_or(FORM)?;
        }
    } else {
        // The decoder wants room for whatever the length could mean.
        let mut room = Zeroizing::new([0; KEY_BYTES + 4]);
        match BASE64_STANDARD.decode_slice(secret, &mut *room) {
            Ok(KEY_BYTES) => bytes.copy_from_slice(&room[..KEY_BYTES]),
            _ => return Err(FORM),
        }
    }
    Ok(SealKey::new(id, &bytes))
}

/// Fills `bytes` with the system's random bytes.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), ChunkError> {
    ring::rand::SystemRandom::new()
        .fill(bytes)
        .map_err(|_| ChunkError::Io {
            operation: "get random bytes from the system",
            offset: 0,
            source: std::io::ErrorKind::Unsupported.into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn counted() -> [u8; 32] {
        std::array::from_fn(|n| n as u8)
    }

    #[test]
    fn both_forms_of_a_key_are_read_and_the_first_key_seals() {
        let file = format!(
            "# new\r\n\n  k.2\t{HEX}  \r\nk-1 {BASE64}\n#{HEX}\nK_0 {}",
            HEX.to_uppercase()
        );
        let ring = KeyRing::parse(file.as_bytes()).unwrap();
        assert_eq!(ring.sealing().id().as_str(), "k.2");
        for id in ["k.2", "k-1", "K_0"] {
            assert_eq!(*ring.get(&id.parse().unwrap()).unwrap().bytes(), counted());
        }
        assert_eq!(
            ring.get(&"k3".parse().unwrap()).unwrap_err().to_string(),
            "it is sealed with the key `k3`, which is not in the key file: give --encrypt-key the file that has it"
        );
    }

    #[test]
    fn a_key_survives_its_line_and_two_random_ones_differ() {
        let key = SealKey::random("x".parse().unwrap()).unwrap();
        let read = KeyRing::parse(key.to_line().as_bytes()).unwrap();
        assert_eq!(read.sealing().bytes(), key.bytes());
        let other = SealKey::random("x".parse().unwrap()).unwrap();
        assert_ne!(other.bytes(), key.bytes());
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line_and_never_shown() {
        let long = "x".repeat(33);
        for wrong in [
            format!("good {HEX}\nbad {}", &HEX[1..]),
            format!("good {HEX}\nbad {}g", &HEX[1..]),
            format!("good {HEX}\nbad {HEX}00"),
            format!("good {HEX}\nbad {}", &BASE64[..40]),
            format!("good {HEX}\nbad {BASE64}AAAA"),
            format!("good {HEX}\nbad {}", BASE64.replace('A', "*")),
            format!("good {HEX}\n{HEX}"),
            format!("good {HEX}\nb a {HEX}"),
            format!("good {HEX}\nb/d {HEX}"),
            format!("good {HEX}\n{long} {HEX}"),
            format!("good {HEX}\ngood {BASE64}"),
        ] {
            let error = KeyRing::parse(wrong.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with("line 2 of the key file is no key: "),
                "{error}"
            );
            assert!(
                !error.contains(&HEX[1..9]) && !error.contains(&BASE64[..9]),
                "{error}"
            );
        }
        assert!(
            KeyRing::parse(b"a \xFF")
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
        for empty in [&b""[..], b"\n # nothing\n"] {
            let error = KeyRing::parse(empty).unwrap_err().to_string();
            assert_eq!(
                error,
                "the key file holds no key: `tipple keygen FILE` makes one"
            );
        }
    }

    #[test]
    fn a_key_file_without_an_end_is_refused() {
        let endless = std::io::repeat(b'\n');
        let error = KeyRing::read(endless).unwrap_err().to_string();
        assert_eq!(error, "the key file is longer than 65536 bytes: it is none");
        let line = format!("{} {HEX}", KeyId::random().unwrap());
        let ring = KeyRing::read(line.as_bytes()).unwrap();
        assert_eq!(*ring.sealing().bytes(), counted());
        assert_ne!(KeyId::random().unwrap(), *ring.sealing().id());
    }

    #[test]
    fn debug_shows_no_secret() {
        let ring = KeyRing::parse(format!("k {HEX}").as_bytes()).unwrap();
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: [SealKey(k)] }");
    }
}
