//! Values that say themselves what they are: what is dumped of types that have only serde. FORMAT.md has the bytes.

#[cfg(feature = "serde")]
mod count;
#[cfg(feature = "serde")]
mod dump;
#[cfg(feature = "serde")]
mod load;
#[cfg(feature = "serde")]
mod wrapped;

#[cfg(feature = "serde")]
pub use wrapped::Serde;

use crate::{Reader, SnapshotError};

/// The first byte of a value. Below `TEXT_SHORT` it is the number itself. Part of the format. Stable.
pub(crate) mod tag {
    /// And the length, below 64.
    pub(crate) const TEXT_SHORT: u8 = 0x80;
    pub(crate) const NONE: u8 = 0xC0;
    pub(crate) const UNIT: u8 = 0xC1;
    pub(crate) const FALSE: u8 = 0xC2;
    pub(crate) const TRUE: u8 = 0xC3;
    /// A varint.
    pub(crate) const UNSIGNED: u8 = 0xC4;
    /// Of a number below 0, the varint of -1 minus it.
    pub(crate) const NEGATIVE: u8 = 0xC5;
    pub(crate) const UNSIGNED_128: u8 = 0xC6;
    pub(crate) const NEGATIVE_128: u8 = 0xC7;
    pub(crate) const F32: u8 = 0xC8;
    pub(crate) const F64: u8 = 0xC9;
    pub(crate) const TEXT: u8 = 0xCA;
    pub(crate) const BYTES: u8 = 0xCB;
    pub(crate) const SOME: u8 = 0xCC;
    /// How many elements there may be, or 0; then they, then `END`.
    pub(crate) const LIST: u8 = 0xCD;
    pub(crate) const MAP: u8 = 0xCE;
    pub(crate) const END: u8 = 0xCF;
}

/// Calls `each` at each element of the list, or at each entry of the map (`true`), that comes next. `false` if it is neither;
/// nothing is read then.
pub(crate) fn elements(
    from: &mut Reader<'_>,
    mut each: impl FnMut(&mut Reader<'_>, bool) -> Result<(), SnapshotError>,
) -> Result<bool, SnapshotError> {
    let is_map = match from.peek()? {
        tag::LIST => false,
        tag::MAP => true,
        _ => return Ok(false),
    };
    from.byte()?;
    from.unsigned()?;
    from.enter()?;
    while from.peek()? != tag::END {
        each(from, is_map)?;
    }
    from.byte()?;
    from.leave();
    Ok(true)
}

#[cold]
pub(crate) fn no_value(tag: u8) -> SnapshotError {
    SnapshotError::damaged(format!("{tag:#04x} begins no value"))
}
