//! Where a chunk's bytes go: straight out, or sealed. The digest is always of what is stored.

use std::io::{self, IoSlice, Write};

use sha2::{Digest as _, Sha256};

use crate::{ChunkError, SealWriter, StoredObject};

pub(crate) enum Output<W: Write> {
    Plain { out: W, sha256: Sha256, bytes: u64 },
    Sealed(SealWriter<W>),
}

impl<W: Write> Output<W> {
    pub(crate) fn plain(out: W) -> Output<W> {
        Output::Plain {
            out,
            sha256: Sha256::new(),
            bytes: 0,
        }
    }

    pub(crate) fn write_all(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        match self {
            Output::Plain { out, sha256, bytes } => {
                for slice in &*slices {
                    sha256.update(&**slice);
                    *bytes += slice.len() as u64;
                }
                write_all(out, slices)
            }
            Output::Sealed(out) => slices.iter().try_for_each(|slice| out.write_all(slice)),
        }
    }

    pub(crate) fn finish(self) -> Result<(W, StoredObject), ChunkError> {
        match self {
            Output::Plain { out, sha256, bytes } => {
                let sha256 = sha256.into();
                Ok((out, StoredObject { bytes, sha256 }))
            }
            Output::Sealed(out) => out.finish(),
        }
    }
}

/// Writes all of `slices`, however many calls it takes. The standard library's
/// `Write::write_all_vectored` is not stable.
fn write_all<W: Write>(out: &mut W, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0); // drops empty slices at the front
    while !slices.is_empty() {
        match out.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes an object that is no chunk, and knows its digest at the end.
pub struct ObjectWriter<W: Write>(Output<W>);

impl<W: Write> ObjectWriter<W> {
    /// Begins an object. `out` gets what is written as it comes.
    pub fn new(out: W) -> ObjectWriter<W> {
        ObjectWriter(Output::plain(out))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What `out` says. The object is lost then.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(&mut [IoSlice::new(bytes)])
    }

    /// What was written.
    pub fn finish(self) -> StoredObject {
        match self.0 {
            Output::Plain { sha256, bytes, .. } => StoredObject {
                bytes,
                sha256: sha256.into(),
            },
            Output::Sealed(_) => unreachable!("begun as plain"),
        }
    }
}
