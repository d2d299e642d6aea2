//! A place in a source.

/// An opaque, ordered place in a source: at most 63 bytes, compared as bytes. Empty where a source has none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    bytes: [u8; Position::BYTES_MAX],
    len: u8,
}

impl Position {
    /// The most bytes in a position.
    pub const BYTES_MAX: usize = 63;
    /// The position of a record whose source has none.
    pub const NONE: Self = Self {
        bytes: [0; Self::BYTES_MAX],
        len: 0,
    };

    /// The position with these bytes, if they are at most [`Position::BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut position = Self::NONE;
        position
            .bytes
            .get_mut(..bytes.len())?
            .copy_from_slice(bytes);
        position.len = bytes.len() as u8;
        Some(position)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Eight bytes, big-endian, so that byte order is number order.
impl From<u64> for Position {
    fn from(number: u64) -> Self {
        Self::new(&number.to_be_bytes()).expect("8 <= 63")
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Position({})", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_numbers_and_refuses_what_does_not_fit() {
        assert!(Position::from(255) < Position::from(256));
        assert!(Position::NONE < Position::from(0));
        assert_eq!(Position::new(&[7; 63]).unwrap().as_bytes(), [7; 63]);
        assert_eq!(Position::new(&[7; 64]), None);
    }
}
