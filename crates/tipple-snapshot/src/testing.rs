//! For the tests of a service: that its values come back as they were.

use std::fmt::Debug;

use crate::{Dumpable, Reader, SnapshotError, frames};

/// The bytes that `value` has in a snapshot, without anything around them.
///
/// # Errors
/// Those of its `dump`.
pub fn to_bytes<T: Dumpable>(value: &T) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = Vec::new();
    frames::collect(&mut bytes, |to| value.dump(to))?;
    Ok(bytes)
}

/// The value of bytes that [`to_bytes`] gave.
///
/// # Errors
/// `Damaged` if they are no value of this type, or if bytes are left.
pub fn from_bytes<T: Dumpable>(bytes: &[u8]) -> Result<T, SnapshotError> {
    let mut reader = Reader::of_bytes(bytes);
    let value = T::load(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Asserts that `value` is the same after it was dumped and loaded, and that the bytes are the same when it is dumped again
/// in the order in which it was loaded.
///
/// ```
/// tipple_snapshot::testing::assert_roundtrip(&vec![Some("one".to_owned()), None]);
/// ```
///
/// # Panics
/// If it is not; with both values.
#[track_caller]
pub fn assert_roundtrip<T: Dumpable + PartialEq + Debug>(value: &T) {
    let bytes = to_bytes(value).expect("it can be dumped");
    assert!(
        bytes.len() >= T::BYTES_MIN,
        "{value:?} takes {} bytes, fewer than the {} of BYTES_MIN",
        bytes.len(),
        T::BYTES_MIN
    );
    let back: T = from_bytes(&bytes).expect("what was dumped can be loaded");
    assert_eq!(*value, back, "what was loaded is not what was dumped");
    for len in 0..bytes.len().min(4096) {
        assert!(
            from_bytes::<T>(&bytes[..len]).is_err(),
            "{value:?} is loaded from {len} of its {} bytes, too",
            bytes.len()
        );
    }
}
