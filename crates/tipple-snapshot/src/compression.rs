//! Compressed frames. LZ4 is the only codec: it decodes at the speed at which values are made of the bytes, and is one small crate
//! without C; zstd would make files a quarter smaller, and a start twice as slow.

use crate::{Compression, ErrorKind, SnapshotError};

/// How many times as long as its stored bytes a frame may be: what a byte of LZ4 may stand for. Part of the format. Stable.
pub(crate) const RATIO_MAX: u32 = 255;

impl Compression {
    /// In the prelude. Stable.
    pub(crate) fn code(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
        }
    }

    pub(crate) fn of_code(code: u8) -> Result<Self, SnapshotError> {
        match code {
            0 => Ok(Compression::None),
            1 if cfg!(feature = "compression") => Ok(Compression::Lz4),
            1 => Err(SnapshotError::new(
                ErrorKind::Layout,
                "it is compressed with LZ4: build this program with the feature `compression` of tipple-snapshot",
            )),
            other => Err(SnapshotError::new(
                ErrorKind::Layout,
                format!("it is compressed with codec {other}: use a newer version of this program"),
            )),
        }
    }

    /// For people, and for JSON. Stable.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        }
    }
}

/// Puts the compressed form of `raw` into `stored`: `false` if it would not be shorter, or if nothing is to be compressed.
#[cfg(feature = "compression")]
pub(crate) fn compress(compression: Compression, raw: &[u8], stored: &mut Vec<u8>) -> bool {
    if compression == Compression::None {
        return false;
    }
    stored.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    let len =
        lz4_flex::block::compress_into(raw, stored).expect("there is room for the worst case");
    stored.truncate(len);
    len < raw.len()
}

/// Fills `raw` with what is in `stored`; an error if it is not exactly as long.
#[cfg(feature = "compression")]
pub(crate) fn decompress(_: Compression, stored: &[u8], raw: &mut [u8]) -> Result<(), ()> {
    match lz4_flex::block::decompress_into(stored, raw) {
        Ok(len) if len == raw.len() => Ok(()),
        _ => Err(()),
    }
}

#[cfg(not(feature = "compression"))]
pub(crate) fn compress(_: Compression, _: &[u8], _: &mut Vec<u8>) -> bool {
    false
}

#[cfg(not(feature = "compression"))]
pub(crate) fn decompress(_: Compression, _: &[u8], _: &mut [u8]) -> Result<(), ()> {
    unreachable!("`Compression::of_code` refuses such files")
}
