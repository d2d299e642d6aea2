//! What several fuzz targets share.

use tipple_flow::{FrameSource, Stop};

/// Bytes, cut into frames.
pub struct Frames<'a> {
    frames: std::slice::Chunks<'a, u8>,
    frame: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Frames of `frame_bytes`, the last one shorter. At least 1.
    pub fn new(bytes: &'a [u8], frame_bytes: usize) -> Self {
        Self {
            frames: bytes.chunks(frame_bytes),
            frame: &[],
        }
    }
}

impl FrameSource for Frames<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        let next = self.frames.next();
        self.frame = next.unwrap_or_default();
        Ok(next.map(|_| 1))
    }
    fn bytes(&self) -> &[u8] {
        self.frame
    }
}
