//! How frames are encoded, and what an encoder and a decoder need of memory and disk.

use std::fmt;
use std::str::FromStr;

use zstd_safe::{CCtx, CParameter, DCtx, zstd_sys};

use crate::{
    ChunkError, Damage, FRAME_BYTES_MAX, FRAMES_WRITTEN_MAX, INDEX_BYTES_WRITTEN_MAX, Place, Usage,
    frame, index, seek_table,
};

/// The lowest (fastest) zstd level.
pub const LEVEL_MIN: i32 = -131_072;
/// The highest zstd level.
pub const LEVEL_MAX: i32 = 22;
/// The level of `zstd` without a level.
pub const LEVEL_DEFAULT: i32 = 3;

/// Every frame is one window, so that its header states its exact size and a reader needs no
/// memory beyond the frame itself.
const WINDOW_LOG: u32 = FRAME_BYTES_MAX.ilog2();
const _: () = assert!(1 << WINDOW_LOG == FRAME_BYTES_MAX);

/// How frames are encoded. Text form: `none`, `zstd` (level 3), `zstd:LEVEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// zstd frames of raw blocks: nothing is compressed, nothing is copied.
    None,
    /// zstd frames.
    Zstd {
        /// 1 to 22; -131072 to -1 for more speed.
        level: i32,
    },
}

impl Default for Codec {
    /// `zstd:3`
    fn default() -> Codec {
        Codec::Zstd {
            level: LEVEL_DEFAULT,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Codec::None => f.write_str("none"),
            Codec::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Codec {
    type Err = ChunkError;

    fn from_str(text: &str) -> Result<Codec, ChunkError> {
        match text.split_once(':') {
            None if text == "none" => Ok(Codec::None),
            None if text == "zstd" => Ok(Codec::default()),
            Some(("zstd", level)) => {
                let refused = || Usage::Level {
                    given: level.to_owned(),
                };
                let codec = Codec::Zstd {
                    level: level.parse().map_err(|_| refused())?,
                };
                codec.validate()?;
                Ok(codec)
            }
            _ => Err(Usage::CodecName {
                given: text.to_owned(),
            }
            .into()),
        }
    }
}

impl Codec {
    /// Whether an encoder for this codec can be made.
    ///
    /// # Errors
    /// `Usage` if the level is not one of zstd's.
    pub fn validate(&self) -> Result<(), ChunkError> {
        match *self {
            Codec::None => Ok(()),
            Codec::Zstd { level } if level != 0 && (LEVEL_MIN..=LEVEL_MAX).contains(&level) => {
                Ok(())
            }
            Codec::Zstd { level } => Err(Usage::Level {
                given: level.to_string(),
            }
            .into()),
        }
    }

    /// The most memory that one [`Encoder`] uses, in bytes, known before it is made: its codec
    /// context, its scratch buffer, and the index and seek table that it collects.
    pub fn encoder_bytes(&self) -> u64 {
        let tables = INDEX_BYTES_WRITTEN_MAX + seek_table::bytes(FRAMES_WRITTEN_MAX);
        let codec = match *self {
            Codec::None => 0,
            Codec::Zstd { level } => context_bytes(level) + frame::STORED_BYTES_MAX as u64,
        };
        tables + codec
    }

    /// The most bytes that a frame of `raw_len` bytes takes when it is stored.
    pub fn stored_bytes_max(&self, raw_len: usize) -> usize {
        match self {
            Codec::None => frame::raw_blocks_bytes(raw_len),
            Codec::Zstd { .. } => zstd_safe::compress_bound(raw_len),
        }
    }

    /// The most bytes of a whole stored chunk of at most `raw_bytes` raw bytes in at most
    /// `frames` frames, whatever their sizes and positions. For reserving disk before writing.
    pub fn chunk_bytes_max(&self, raw_bytes: u64, frames: u64) -> u64 {
        // Sums over frames of any sizes, from the bounds of a single frame: a frame has at most
        // one block that is not full; compress_bound(n) is at most n + n / 256 + 64.
        let per_frame = match self {
            Codec::None => frame::RAW_FRAME_BYTES + frame::BLOCK_HEADER_BYTES,
            Codec::Zstd { .. } => 64,
        } as u64;
        let growth = match self {
            Codec::None => {
                raw_bytes / frame::BLOCK_BYTES_MAX as u64 * frame::BLOCK_HEADER_BYTES as u64
            }
            Codec::Zstd { .. } => raw_bytes / 256,
        };
        let index = (frames.saturating_mul(index::ENTRY_BYTES_MAX))
            .saturating_add(index::FIXED_BYTES + index::POSITION_BYTES_MAX as u64)
            .min(INDEX_BYTES_WRITTEN_MAX);
        raw_bytes
            .saturating_add(growth)
            .saturating_add(frames.saturating_mul(per_frame))
            .saturating_add(index)
            .saturating_add(seek_table::bytes(frames.min(FRAMES_WRITTEN_MAX)))
    }
}

/// The most memory that one [`Decoder`] uses, in bytes. The index of the chunk that is read is
/// not part of it (see [`INDEX_BYTES_MAX`](crate::INDEX_BYTES_MAX)).
pub fn decoder_bytes() -> u64 {
    // SAFETY: takes nothing, reads no memory of ours: it is a sum of constants of the C library.
    let context = unsafe { zstd_sys::ZSTD_estimateDCtxSize() };
    (context + frame::STORED_BYTES_MAX + FRAME_BYTES_MAX) as u64
}

/// The most memory of a context that encodes frames of 1 to [`FRAME_BYTES_MAX`] bytes.
///
/// zstd chooses its tables by level and by size class of the input (up to 16 KiB, 128 KiB,
/// 256 KiB, more), and a context that has met them all is as large as its largest.
fn context_bytes(level: i32) -> u64 {
    let size_classes = [16 << 10, 128 << 10, 256 << 10, FRAME_BYTES_MAX as u64];
    let largest = size_classes.map(|source_bytes| {
        // SAFETY: both take plain numbers by value and compute a number from them.
        unsafe {
            let mut parameters = zstd_sys::ZSTD_getCParams(level, source_bytes, 0);
            parameters.windowLog = WINDOW_LOG;
            zstd_sys::ZSTD_estimateCCtxSize_usingCParams(parameters) as u64
        }
    });
    largest.into_iter().max().unwrap_or(0)
}

/// Encodes frames. Holds everything that writing chunks needs of memory
/// ([`Codec::encoder_bytes`]), all of it allocated by [`Encoder::new`]; to be used for one chunk
/// after the other.
pub struct Encoder {
    codec: Codec,
    zstd: Option<Zstd>,
    /// The index frame of the chunk being written.
    pub(crate) index: Vec<u8>,
    /// The seek table of the chunk being written.
    pub(crate) seek_table: Vec<u8>,
}

struct Zstd {
    context: CCtx<'static>,
    scratch: Box<[u8]>,
}

impl Encoder {
    /// Allocates an encoder.
    ///
    /// # Errors
    /// `Usage` if the level is not one of zstd's; `Codec` if zstd cannot allocate.
    pub fn new(codec: Codec) -> Result<Encoder, ChunkError> {
        codec.validate()?;
        let zstd = match codec {
            Codec::None => None,
            Codec::Zstd { level } => Some(Zstd::new(level)?),
        };
        Ok(Encoder {
            codec,
            zstd,
            index: Vec::with_capacity(INDEX_BYTES_WRITTEN_MAX as usize),
            seek_table: Vec::with_capacity(seek_table::bytes(FRAMES_WRITTEN_MAX) as usize),
        })
    }

    /// The codec that the encoder was made for.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Compresses `raw`, 1 to [`FRAME_BYTES_MAX`] bytes, for a file that is no chunk and holds zstd frames; `None` if this
    /// encoder does not compress.
    ///
    /// # Errors
    /// `Codec` if zstd refuses.
    pub fn loose_frame(&mut self, raw: &[u8]) -> Option<Result<&[u8], ChunkError>> {
        let place = Place::Frame {
            number: 0,
            offset: 0,
        };
        self.compress(raw, place)
    }

    /// The stored frame of `raw`, if this encoder compresses. `None`: store raw blocks.
    pub(crate) fn compress(
        &mut self,
        raw: &[u8],
        place: Place,
    ) -> Option<Result<&[u8], ChunkError>> {
        self.zstd.as_mut().map(|zstd| zstd.compress(raw, place))
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

impl Zstd {
    fn new(level: i32) -> Result<Zstd, ChunkError> {
        let place = Place::Frame {
            number: 0,
            offset: 0,
        };
        let refused = |operation| {
            move |code| ChunkError::Codec {
                place,
                operation,
                reason: zstd_safe::get_error_name(code),
            }
        };
        let mut context = CCtx::try_create().ok_or(ChunkError::Codec {
            place,
            operation: "create an encoder",
            reason: "Allocation error : not enough memory",
        })?;
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::WindowLog(WINDOW_LOG),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(true),
        ] {
            context
                .set_parameter(parameter)
                .map_err(refused("set up an encoder"))?;
        }
        let mut scratch = vec![0; frame::STORED_BYTES_MAX].into_boxed_slice();
        // zstd allocates its tables at the first frame: let that be a frame of ours, now, so that
        // memory that is not there is missed here and not in the middle of a dump.
        context
            .compress2(&mut scratch[..], &vec![0; FRAME_BYTES_MAX])
            .map_err(refused("allocate its tables"))?;
        Ok(Zstd { context, scratch })
    }

    fn compress(&mut self, raw: &[u8], place: Place) -> Result<&[u8], ChunkError> {
        let stored_len = self
            .context
            .compress2(&mut self.scratch[..], raw)
            .map_err(|code| ChunkError::Codec {
                place,
                operation: "encode it",
                reason: zstd_safe::get_error_name(code),
            })?;
        Ok(&self.scratch[..stored_len])
    }
}

/// Decodes frames. Holds a codec context and buffers for one stored and one raw frame
/// ([`decoder_bytes`]), all of it allocated by [`Decoder::new`]; to be used for one chunk after
/// the other.
pub struct Decoder {
    context: DCtx<'static>,
    pub(crate) stored: Box<[u8]>,
    pub(crate) raw: Box<[u8]>,
}

impl Decoder {
    /// Allocates a decoder.
    ///
    /// # Errors
    /// `Codec` if zstd cannot allocate.
    pub fn new() -> Result<Decoder, ChunkError> {
        let context = DCtx::try_create().ok_or(ChunkError::Codec {
            place: Place::Frame {
                number: 0,
                offset: 0,
            },
            operation: "create a decoder",
            reason: "Allocation error : not enough memory",
        })?;
        Ok(Decoder {
            context,
            stored: vec![0; frame::STORED_BYTES_MAX].into_boxed_slice(),
            raw: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
        })
    }

    /// The frame that was read last begins here, for those who cannot keep the borrow that
    /// [`ChunkReader::read_frame`](crate::ChunkReader::read_frame) returned; how long it is, they
    /// know from there. After an error there is nothing meaningful here.
    pub fn decoded(&self) -> &[u8] {
        &self.raw
    }

    /// Decodes the first `stored_len` bytes of `stored` into the first `raw_len` bytes of `raw`,
    /// which zstd cannot overrun, and gives the decoded length.
    pub(crate) fn decode(
        &mut self,
        stored_len: usize,
        raw_len: usize,
    ) -> Result<usize, &'static str> {
        self.context
            .decompress(&mut self.raw[..raw_len], &self.stored[..stored_len])
            .map_err(zstd_safe::get_error_name)
    }
}

impl Decoder {
    /// Decodes one whole stored frame that no chunk's index vouches for: it must state its size, be no larger than a
    /// frame of ours, and fit its own checksum.
    ///
    /// # Errors
    /// `Damaged` otherwise.
    pub fn decode_loose(&mut self, stored: &[u8]) -> Result<&[u8], ChunkError> {
        let place = Place::Frame {
            number: 0,
            offset: 0,
        };
        let damaged = |reason| ChunkError::Damaged {
            place,
            damage: Damage::Undecodable { reason },
        };
        let raw_len = match zstd_safe::get_frame_content_size(stored) {
            Ok(Some(len)) if len <= FRAME_BYTES_MAX as u64 => len as usize,
            _ => return Err(damaged("it states no size, or too large a one")),
        };
        match self.context.decompress(&mut self.raw[..raw_len], stored) {
            Ok(len) if len == raw_len => Ok(&self.raw[..len]),
            Ok(_) => Err(damaged("it has another size than it states")),
            Err(code) => Err(damaged(zstd_safe::get_error_name(code))),
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        for (text, codec) in [
            ("none", Codec::None),
            ("zstd", Codec::Zstd { level: 3 }),
            ("zstd:1", Codec::Zstd { level: 1 }),
            ("zstd:22", Codec::Zstd { level: 22 }),
            ("zstd:-131072", Codec::Zstd { level: -131_072 }),
        ] {
            assert_eq!(text.parse::<Codec>().unwrap(), codec);
            assert_eq!(codec.to_string().parse::<Codec>().unwrap(), codec);
        }
    }

    #[test]
    fn what_is_no_codec_is_refused_with_its_name_and_the_range() {
        for text in ["", "gzip", "None", "zstd3", "none:1", "gzip:1"] {
            assert_eq!(
                text.parse::<Codec>().unwrap_err().to_string(),
                format!("`{text}` is no compression: give `none`, `zstd` or `zstd:LEVEL`")
            );
        }
        for level in ["", "0", "23", "-131073", "fast", "99999999999", "1 ", "1:2"] {
            assert_eq!(
                format!("zstd:{level}")
                    .parse::<Codec>()
                    .unwrap_err()
                    .to_string(),
                format!(
                    "`{level}` is no zstd level: give 1 to 22, or -131072 to -1 for more speed"
                )
            );
        }
        assert!(Encoder::new(Codec::Zstd { level: 0 }).is_err());
    }

    #[test]
    fn the_levels_are_those_of_the_library() {
        assert_eq!(LEVEL_MIN, zstd_safe::min_c_level());
        assert_eq!(LEVEL_MAX, zstd_safe::max_c_level());
    }

    #[test]
    fn the_largest_stored_frame_is_the_librarys_bound() {
        assert_eq!(
            frame::STORED_BYTES_MAX,
            zstd_safe::compress_bound(FRAME_BYTES_MAX)
        );
        assert!(frame::raw_blocks_bytes(FRAME_BYTES_MAX) <= frame::STORED_BYTES_MAX);
    }

    /// Bytes that no encoder shortens (xorshift64).
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    #[test]
    fn no_context_outgrows_its_estimate() {
        let noise = noise(FRAME_BYTES_MAX);
        let text = b"all work and no play ".repeat(FRAME_BYTES_MAX / 21);
        let place = Place::Frame {
            number: 0,
            offset: 0,
        };
        for level in (1..=LEVEL_MAX).chain([-1, -5, -100, LEVEL_MIN]) {
            let mut encoder = Encoder::new(Codec::Zstd { level }).unwrap();
            let new = encoder.zstd.as_ref().unwrap().context.sizeof();
            for len in [
                1,
                16 << 10,
                (16 << 10) + 1,
                128 << 10,
                256 << 10,
                257 << 10,
                FRAME_BYTES_MAX,
            ] {
                for raw in [&noise[..len], &text[..len.min(text.len())]] {
                    let stored = encoder.compress(raw, place).unwrap().unwrap().len();
                    assert!(stored <= encoder.codec().stored_bytes_max(raw.len()));
                    let used = encoder.zstd.as_ref().unwrap().context.sizeof() as u64;
                    assert!(
                        used <= context_bytes(level),
                        "level {level}, {len} bytes: {used}"
                    );
                }
            }
            let used = encoder.zstd.as_ref().unwrap().context.sizeof();
            assert!(
                used <= new,
                "level {level}: allocated after new: {new} -> {used}"
            );
        }
    }

    #[test]
    fn no_decoder_outgrows_its_estimate() {
        let mut decoder = Decoder::new().unwrap();
        let mut encoder = Encoder::new(Codec::Zstd { level: 19 }).unwrap();
        let text = b"all work and no play ".repeat(50_000);
        let raw = &text[..FRAME_BYTES_MAX];
        let place = Place::Frame {
            number: 0,
            offset: 0,
        };
        let stored = encoder.compress(raw, place).unwrap().unwrap();
        decoder.stored[..stored.len()].copy_from_slice(stored);
        assert_eq!(decoder.decode(stored.len(), raw.len()), Ok(raw.len()));
        let buffers = decoder.stored.len() + decoder.raw.len();
        assert!((decoder.context.sizeof() + buffers) as u64 <= decoder_bytes());
    }
}
