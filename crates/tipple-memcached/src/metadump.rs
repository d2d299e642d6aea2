//! One line of `lru_crawler metadump`: `key=<uriencoded> exp=<-1|unix> la=<unix> cas=<n> fetch=yes|no cls=<n> size=<n> …`
//!
//! Fields are read by name, in any order; unknown ones and spaces at the end are ignored.

use crate::items::{KEY_BYTES_MAX, NEVER};
use crate::reply::{hexadecimal_digit, number};

/// The longest line that is understood: every byte of the longest key encoded, and all the fields there are, twice over.
pub const METADUMP_LINE_BYTES_MAX: usize = 2048;

/// An item as the listing tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedItem {
    key: [u8; KEY_BYTES_MAX],
    key_bytes: u8,
    /// When it expires, in seconds since 1970; [`NEVER`] if never.
    pub exptime: i64,
    /// When it was last read or written, 0 if not told.
    pub last_access: u32,
    /// The version number of its value, 0 if not told.
    pub cas: u64,
    /// Whether it was read since it was stored.
    pub fetched: bool,
    /// All bytes that it takes: header, key and value. 0 if not told.
    pub item_bytes: u64,
}

impl Default for ListedItem {
    fn default() -> Self {
        Self {
            key: [0; KEY_BYTES_MAX],
            key_bytes: 0,
            exptime: NEVER,
            last_access: 0,
            cas: 0,
            fetched: false,
            item_bytes: 0,
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No `key=`, or a key that is empty, too long, or wrongly encoded.
    #[error("its key is missing or no key")]
    Key,
    /// `exp=` is missing.
    #[error("its expiry time is missing")]
    Expiry,
    /// A number that is none.
    #[error("one of its numbers is none")]
    Number,
}

impl ListedItem {
    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_bytes)]
    }

    /// Sets the key.
    ///
    /// # Panics
    /// If it is longer than [`KEY_BYTES_MAX`].
    #[inline]
    pub(crate) fn set_key(&mut self, key: &[u8]) {
        self.key[..key.len()].copy_from_slice(key);
        self.key_bytes = key.len() as u8;
    }

    /// Reads a line without its line end.
    ///
    /// # Errors
    /// [`LineError`]; what `self` holds then means nothing.
    pub fn read_line(&mut self, line: &[u8]) -> Result<(), LineError> {
        self.key_bytes = 0;
        self.last_access = 0;
        self.cas = 0;
        self.fetched = false;
        self.item_bytes = 0;
        let mut exptime = None;
        let mut rest = line;
        while !rest.is_empty() {
            let (field, after) = match memchr::memchr(b' ', rest) {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &[][..]),
            };
            rest = after;
            if let Some(value) = field.strip_prefix(b"key=") {
                self.decode_key(value)?;
            } else if let Some(value) = field.strip_prefix(b"exp=") {
                exptime = Some(match value {
                    b"-1" => NEVER,
                    _ => decimal(value)?.try_into().map_err(|_| LineError::Number)?,
                });
            } else if let Some(value) = field.strip_prefix(b"la=") {
                // Past 2106 it is not told.
                self.last_access = u32::try_from(decimal(value)?).unwrap_or(0);
            } else if let Some(value) = field.strip_prefix(b"cas=") {
                self.cas = decimal(value)?;
            } else if let Some(value) = field.strip_prefix(b"size=") {
                self.item_bytes = decimal(value)?;
            } else if field == b"fetch=yes" {
                self.fetched = true;
            }
        }
        if self.key_bytes == 0 {
            return Err(LineError::Key);
        }
        self.exptime = exptime.ok_or(LineError::Expiry)?;
        Ok(())
    }

    fn decode_key(&mut self, mut encoded: &[u8]) -> Result<(), LineError> {
        let mut length = 0;
        while let Some((&byte, after)) = encoded.split_first() {
            let (byte, after) = match (byte, after) {
                (b'%', [high, low, after @ ..]) => {
                    match (hexadecimal_digit(*high), hexadecimal_digit(*low)) {
                        (Some(high), Some(low)) => (high << 4 | low, after),
                        _ => return Err(LineError::Key),
                    }
                }
                (b'%', _) => return Err(LineError::Key),
                plain => plain,
            };
            *self.key.get_mut(length).ok_or(LineError::Key)? = byte;
            length += 1;
            encoded = after;
        }
        self.key_bytes = length as u8;
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Result<u64, LineError> {
    number(digits).ok_or(LineError::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &[u8]) -> Result<ListedItem, LineError> {
        let mut item = ListedItem::default();
        item.set_key(b"of the line before");
        item.read_line(line).map(|()| item)
    }

    #[test]
    fn fields_are_read_by_name() {
        let old = read(b"key=a%20b%2Fc%0d%0A exp=2000000000 la=1700000000 cas=18446744073709551615 fetch=yes cls=1 size=64").unwrap();
        assert_eq!(old.key(), b"a b/c\r\n");
        assert_eq!(
            (old.exptime, old.last_access),
            (2_000_000_000, 1_700_000_000)
        );
        assert_eq!((old.cas, old.fetched, old.item_bytes), (u64::MAX, true, 64));
        let new = read(b"size=64 new=x exp=-1 key=k fetch=no ext_page=1  ").unwrap();
        assert_eq!(
            (new.key(), new.exptime, new.fetched),
            (&b"k"[..], NEVER, false)
        );
        assert_eq!((new.cas, new.last_access), (0, 0), "not told");
    }

    #[test]
    fn what_is_no_item_is_an_error() {
        let long = [b"key=".to_vec(), b"%61".repeat(251), b" exp=-1".to_vec()].concat();
        for (line, error) in [
            (&b"exp=-1"[..], LineError::Key),
            (b"", LineError::Key),
            (b"key= exp=-1", LineError::Key),
            (b"key=a% exp=-1", LineError::Key),
            (b"key=a%0 exp=-1", LineError::Key),
            (b"key=a%g0 exp=-1", LineError::Key),
            (&long, LineError::Key),
            (b"key=a", LineError::Expiry),
            (b"key=a exp=", LineError::Number),
            (b"key=a exp=-2", LineError::Number),
            (b"key=a exp=9223372036854775808", LineError::Number),
            (b"key=a exp=-1 cas=18446744073709551616", LineError::Number),
            (b"key=a exp=-1 size=x", LineError::Number),
        ] {
            assert_eq!(read(line), Err(error), "{}", line.escape_ascii());
        }
        let one_less = [&long[..4], &long[7..]].concat();
        assert_eq!(read(&one_less).unwrap().key().len(), 250);
    }

    proptest! {
        #[test]
        fn any_key_in_either_case_comes_back(
            key in prop::collection::vec(any::<u8>(), 1..=250),
            lower: bool,
            exptime in -1_i64..,
        ) {
            let encoded: String = key
                .iter()
                .map(|b| if lower { format!("%{b:02x}") } else { format!("%{b:02X}") })
                .collect();
            let item = read(format!("key={encoded} exp={exptime} ").as_bytes()).unwrap();
            prop_assert_eq!(item.key(), &key[..]);
            prop_assert_eq!(item.exptime, exptime);
        }

        #[test]
        fn no_bytes_panic(
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
            cut in any::<usize>(),
        ) {
            let mut line = b"key=a%20b exp=2000000000 la=1700000000 cas=1 fetch=yes cls=1 size=64 ".to_vec();
            for (at, byte) in changes {
                let at = at % line.len();
                line[at] = byte;
            }
            line.truncate(cut % (line.len() + 1));
            if let Ok(item) = read(&line) {
                prop_assert!(!item.key().is_empty());
                prop_assert!(item.exptime >= NEVER);
            }
        }
    }
}
