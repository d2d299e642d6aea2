//! What is inside the frames: a name and a version, chosen by the crate that writes the records.

use std::fmt;
use std::str::FromStr;

use crate::{ChunkError, Usage};

/// The longest name of a content, in bytes.
pub const CONTENT_NAME_BYTES_MAX: usize = 32;

/// What the records of a chunk are. Says nothing to this crate; it is kept in the index so that a
/// reader can refuse what it does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The kind of the records, such as `items`.
    pub name: ContentName,
    /// The version of their encoding.
    pub version: u16,
}

impl Content {
    /// The content `name`, version `version`.
    ///
    /// # Panics
    /// If `name` is not a [`ContentName`]; in a constant, at compile time.
    pub const fn new(name: &str, version: u16) -> Content {
        match ContentName::try_new(name) {
            Some(name) => Content { name, version },
            None => panic!("a content's name is 1 to 32 of a-z, 0-9, `-`, `_` and `.`"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {}", self.name, self.version)
    }
}

/// The name of a content: 1 to 32 of `a-z`, `0-9`, `-`, `_` and `.`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentName {
    /// Zeros after the name: what the index stores.
    padded: [u8; CONTENT_NAME_BYTES_MAX],
    len: u8,
}

impl ContentName {
    /// `name`, if it can be one.
    pub const fn try_new(name: &str) -> Option<ContentName> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > CONTENT_NAME_BYTES_MAX {
            return None;
        }
        let mut padded = [0; CONTENT_NAME_BYTES_MAX];
        let mut at = 0;
        while at < bytes.len() {
            if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.') {
                return None;
            }
            padded[at] = bytes[at];
            at += 1;
        }
        Some(ContentName {
            padded,
            len: bytes.len() as u8,
        })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let name = &self.padded[..usize::from(self.len)];
        std::str::from_utf8(name).expect("try_new admits ASCII only")
    }

    pub(crate) fn padded(&self) -> &[u8; CONTENT_NAME_BYTES_MAX] {
        &self.padded
    }

    /// The name that `padded` stores, if its first `len` bytes are one and the rest is zeros.
    pub(crate) fn from_padded(
        padded: &[u8; CONTENT_NAME_BYTES_MAX],
        len: u8,
    ) -> Option<ContentName> {
        let name = padded.get(..usize::from(len))?;
        let name = ContentName::try_new(std::str::from_utf8(name).ok()?)?;
        (name.padded == *padded).then_some(name)
    }
}

impl fmt::Display for ContentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ContentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl FromStr for ContentName {
    type Err = ChunkError;

    fn from_str(text: &str) -> Result<ContentName, ChunkError> {
        ContentName::try_new(text).ok_or_else(|| {
            Usage::ContentName {
                given: text.to_owned(),
            }
            .into()
        })
    }
}

impl PartialEq<str> for ContentName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for ContentName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["items", "tsv", "a", "row-based_2.x", &"z".repeat(32)] {
            let parsed: ContentName = name.parse().unwrap();
            assert_eq!(parsed, *name);
            assert_eq!(
                ContentName::from_padded(parsed.padded(), name.len() as u8),
                Some(parsed)
            );
        }
        for name in ["", "Items", "a b", "é", "a\0", &"z".repeat(33)] {
            assert_eq!(
                name.parse::<ContentName>().unwrap_err().to_string(),
                format!(
                    "`{name}` cannot name a content: give 1 to 32 of a-z, 0-9, `-`, `_` and `.`"
                )
            );
        }
    }

    #[test]
    fn padding_is_zeros() {
        let mut padded = *ContentName::try_new("items").unwrap().padded();
        for len in [0, 4, 6, 33, 255] {
            assert_eq!(ContentName::from_padded(&padded, len), None);
        }
        padded[31] = 1;
        assert_eq!(ContentName::from_padded(&padded, 5), None);
    }
}
