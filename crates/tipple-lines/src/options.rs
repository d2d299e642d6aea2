//! What a user may choose.

use tipple_flow::{Failure, Party};

/// Options of [`LinesSource`](crate::LinesSource) and [`LinesSink`](crate::LinesSink).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinesOptions {
    /// Bytes of a file in one part, at least 1. Default 256 MiB. A line belongs to the part in whose range it begins.
    pub part_bytes: u64,
    /// Bytes of the one buffer a reader holds, 1 to [`READ_BYTES_MAX`](Self::READ_BYTES_MAX). Default 256 KiB. No
    /// limit on lines: a longer one is read twice, once for its length.
    pub read_bytes: usize,
    /// Whether an existing target is replaced. Default false: it is refused.
    pub overwrite: bool,
}

impl LinesOptions {
    /// The most that `read_bytes` may be: 256 KiB.
    pub const READ_BYTES_MAX: usize = 256 << 10;

    /// Whether every option is in its range.
    ///
    /// # Errors
    /// [`Failure`] of [`Party::Usage`] that names the option and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        if self.part_bytes == 0 {
            return Err(Failure::new(
                Party::Usage,
                "a part of 0 bytes holds no line: give --part-size at least 1 byte",
            ));
        }
        if !(1..=Self::READ_BYTES_MAX).contains(&self.read_bytes) {
            return Err(Failure::new(
                Party::Usage,
                format!(
                    "a read buffer of {} bytes is out of range: give it 1 to {} bytes",
                    self.read_bytes,
                    Self::READ_BYTES_MAX
                ),
            ));
        }
        Ok(())
    }
}

impl Default for LinesOptions {
    fn default() -> Self {
        Self {
            part_bytes: 256 << 20,
            read_bytes: Self::READ_BYTES_MAX,
            overwrite: false,
        }
    }
}
