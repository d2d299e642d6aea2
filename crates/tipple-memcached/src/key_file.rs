//! Key files: the plan of a dump of a cache. Persisted: stable.
//!
//! A key file is a chunk of content `keys`, version 1. It lists keys of one server, in no order. No record is cut: every
//! frame begins at a record, but for the first, which begins with the file's head. The head is no record and is not
//! counted as one. Numbers are little-endian; `varint` is LEB128 of at most 10 bytes (7 bits a byte, low bits first, the
//! top bit says that more follow); `zigzag` is a varint of `(n << 1) ^ (n >> 63)`.
//!
//! Head:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | n: length of the server's name |
//! | 2 | n | the server, as in a URL, UTF-8 |
//! | 2 + n | 8 | base: the server's clock when the listing began, seconds since 1970, signed |
//!
//! Record:
//!
//! | size | field | meaning |
//! |---|---|---|
//! | 1 | bits | 1: it was read since it was stored; 2: it never expires; 4: its last access is not known; the rest 0 |
//! | 1 | k | length of the key, 1 to 250 |
//! | k | key | |
//! | varint | item bytes | all that the item takes in the server, 0 if not known |
//! | varint | cas | the version number of its value, 0 if not known |
//! | zigzag | access | base − last access; absent with bit 4 |
//! | zigzag | expiry | expiry − base; absent with bit 2 |

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use tipple_chunk::{
    ChunkError, ChunkReader, ChunkWriter, Codec, Content, Decoder, Encoder, ErrorKind, FrameMark,
    Scratch,
};
use tipple_flow::{Failure, Party};

use crate::items::{HEADER_BYTES, KEY_BYTES_MAX, NEVER};
use crate::metadump::ListedItem;

/// What a key file is. Stable.
pub const KEYS: Content = Content::new("keys", 1);
/// The extension of key files. Stable.
pub const KEYS_EXTENSION: &str = "keys.zst";

/// Fast enough to keep up with a listing; keys have much in common.
const CODEC: Codec = Codec::Zstd { level: -1 };
const FRAME_BYTES: usize = 256 << 10;
const _: () = assert!(FRAME_BYTES + RECORD_BYTES_MAX <= tipple_chunk::FRAME_BYTES_MAX);
const VARINT_BYTES_MAX: usize = 10;
/// The longest record.
const RECORD_BYTES_MAX: usize = 2 + KEY_BYTES_MAX + 4 * VARINT_BYTES_MAX;
/// The longest name of a server: a host name or the path of a socket has less.
const SERVER_BYTES_MAX: usize = 4096;
/// What an item takes beside key and value: its header, its version number, the key's NUL, the value's CR LF.
const ITEM_OVERHEAD_BYTES: u64 = 48 + 8 + 1 + 2;

const FETCHED: u8 = 1;
const NO_EXPIRY: u8 = 2;
const NO_ACCESS: u8 = 4;

/// About how long the value of an item is; four bytes too long if it has client flags, and far off if it is on an
/// external disk of the server.
pub(crate) fn value_bytes_estimate(item: &ListedItem) -> u64 {
    item.item_bytes
        .saturating_sub(ITEM_OVERHEAD_BYTES + item.key().len() as u64)
}

/// Why bytes are no key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The chunk cannot be read.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// Another content.
    #[error("it holds {0}, not keys")]
    Content(Content),
    /// A newer version.
    #[error(
        "it holds keys version {0}, and this program reads version 1: use a newer version of it"
    )]
    Version(u16),
    /// A head or a record that is none.
    #[error("its {0}")]
    Record(&'static str),
}

impl KeyFileError {
    pub(crate) fn into_failure(self, name: &str) -> Failure {
        let party = match &self {
            Self::Version(_) => Party::Version,
            Self::Chunk(error) if error.kind() == ErrorKind::FormatVersion => Party::Version,
            _ => Party::Content,
        };
        Failure::new(
            party,
            format!("the key file of part {name} cannot be read: {self}; start another dump"),
        )
    }
}

/// A key file that was written.
#[derive(Debug)]
pub(crate) struct KeyFile {
    pub path: PathBuf,
    pub keys: u64,
    pub stored_bytes: u64,
    /// Raw bytes of the items that it lists.
    pub items_bytes: u64,
}

/// Collects the keys of one server and writes a key file whenever there are enough. Holds
/// [`KeyFileWriter::memory_bytes`] at most.
pub(crate) struct KeyFileWriter {
    dir: PathBuf,
    scratch: Option<Scratch>,
    // Names of files of different servers must differ.
    stem: String,
    files: u32,
    server: String,
    base: i64,
    encoder: Encoder,
    raw: Vec<u8>,
    file_bytes_max: usize,
    // The ends of the frames before the one that is being filled, each with its records.
    frames: Vec<(usize, u32)>,
    frame_begin: usize,
    frame_records: u32,
    items_bytes: u64,
}

impl KeyFileWriter {
    pub fn memory_bytes(file_bytes: u64) -> u64 {
        file_bytes
            + (RECORD_BYTES_MAX + SERVER_BYTES_MAX) as u64
            + CODEC.encoder_bytes()
            + tipple_chunk::seal_bytes()
    }

    /// Files in `dir`, sealed if there is a `scratch` key for that.
    pub fn new(
        dir: &Path,
        scratch: Option<Scratch>,
        stem: String,
        server: String,
        base: i64,
        file_bytes: u64,
    ) -> Result<Self, ChunkError> {
        assert!(server.len() <= SERVER_BYTES_MAX);
        let file_bytes_max = usize::try_from(file_bytes).expect("validated");
        let mut writer = Self {
            dir: dir.to_owned(),
            scratch,
            stem,
            files: 0,
            server,
            base,
            encoder: Encoder::new(CODEC)?,
            raw: Vec::with_capacity(file_bytes_max + RECORD_BYTES_MAX + SERVER_BYTES_MAX),
            file_bytes_max,
            frames: Vec::new(),
            frame_begin: 0,
            frame_records: 0,
            items_bytes: 0,
        };
        writer.begin();
        Ok(writer)
    }

    /// Takes a key. The file, if it is full with it.
    pub fn add(&mut self, item: &ListedItem) -> Result<Option<KeyFile>, Failure> {
        encode(item, self.base, &mut self.raw);
        self.frame_records += 1;
        let record_bytes = (HEADER_BYTES + item.key().len()) as u64;
        // Saturating: the server's numbers may be anything.
        self.items_bytes = self
            .items_bytes
            .saturating_add(record_bytes)
            .saturating_add(value_bytes_estimate(item));
        if self.raw.len() >= self.file_bytes_max {
            return self.flush();
        }
        if self.raw.len() - self.frame_begin >= FRAME_BYTES {
            self.end_frame();
        }
        Ok(None)
    }

    /// The file of what is left, if anything is.
    pub fn flush(&mut self) -> Result<Option<KeyFile>, Failure> {
        self.end_frame();
        if self.frames.is_empty() {
            return Ok(None);
        }
        let path = self
            .dir
            .join(format!("{}-{:06}.{KEYS_EXTENSION}", self.stem, self.files));
        self.files += 1;
        let (keys, stored_bytes) = self.write(&path).map_err(|error| {
            Failure::new(
                Party::Budget,
                format!(
                    "cannot write the key file {}: check the local disk",
                    path.display()
                ),
            )
            .because(error)
        })?;
        let items_bytes = self.items_bytes;
        self.begin();
        Ok(Some(KeyFile {
            path,
            keys,
            stored_bytes,
            items_bytes,
        }))
    }

    fn begin(&mut self) {
        self.raw.clear();
        self.raw.extend((self.server.len() as u16).to_le_bytes());
        self.raw.extend(self.server.as_bytes());
        self.raw.extend(self.base.to_le_bytes());
        self.frames.clear();
        self.frame_begin = 0;
        self.frame_records = 0;
        self.items_bytes = 0;
    }

    fn end_frame(&mut self) {
        if self.frame_records > 0 {
            self.frames.push((self.raw.len(), self.frame_records));
            self.frame_begin = self.raw.len();
            self.frame_records = 0;
        }
    }

    fn write(&mut self, path: &Path) -> Result<(u64, u64), ChunkError> {
        let create = File::create_new(path);
        let file = create.map_err(|source| ChunkError::Io {
            operation: "create the file",
            offset: 0,
            source,
        })?;
        let encoder = &mut self.encoder;
        let mut chunk = match &self.scratch {
            None => ChunkWriter::new(file, encoder, &KEYS, false),
            Some(scratch) => ChunkWriter::sealing(scratch.writer(file)?, encoder, &KEYS, false),
        };
        let mut first_record = 2 + self.server.len() + 8;
        let mut begin = 0;
        for &(end, records) in &self.frames {
            let mark = FrameMark {
                records,
                first_record: Some(first_record as u32),
                position: b"",
            };
            chunk.frame(&self.raw[begin..end], mark)?;
            (begin, first_record) = (end, 0);
        }
        let (_, sealed) = chunk.finish(false, b"")?;
        Ok((sealed.records, sealed.stored_bytes))
    }
}

/// Reads a key file, frame by frame.
pub struct KeyFileReader<R> {
    chunk: ChunkReader<R>,
    server: String,
    base: i64,
    // Of the frame that comes next: where its records begin.
    head_bytes: usize,
}

impl<R: Read + Seek> KeyFileReader<R> {
    /// Opens the key file that `input` is.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open(input: R, decoder: &mut Decoder) -> Result<Self, KeyFileError> {
        let mut chunk = ChunkReader::open(input, None)?;
        let content = chunk.index().content;
        if content.name != KEYS.name {
            return Err(KeyFileError::Content(content));
        }
        if content.version != KEYS.version {
            return Err(KeyFileError::Version(content.version));
        }
        if chunk.index().frames.is_empty() {
            return Err(KeyFileError::Record("head is missing"));
        }
        let first = chunk.read_frame(0, decoder)?;
        let mut rest = first;
        let length = take(&mut rest, 2)?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let server = std::str::from_utf8(take(&mut rest, length)?)
            .map_err(|_| KeyFileError::Record("server's name is no text"))?
            .to_owned();
        let base = take(&mut rest, 8)?;
        let base = i64::from_le_bytes(base.try_into().expect("8 bytes"));
        let head_bytes = first.len() - rest.len();
        Ok(Self {
            chunk,
            server,
            base,
            head_bytes,
        })
    }

    /// The server whose keys these are.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.chunk.index().records
    }

    /// The keys of the next frame; `None` after the last.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn next_frame<'d>(
        &mut self,
        decoder: &'d mut Decoder,
    ) -> Result<Option<Keys<'d>>, KeyFileError> {
        let Some(frame) = self.chunk.next_frame(decoder)? else {
            return Ok(None);
        };
        let records = frame.entry.records;
        let rest = &frame.raw[std::mem::take(&mut self.head_bytes)..];
        Ok(Some(Keys {
            rest,
            left: records,
            base: self.base,
        }))
    }
}

/// The keys of one frame.
#[derive(Clone, Debug)]
pub struct Keys<'d> {
    rest: &'d [u8],
    left: u32,
    base: i64,
}

impl Keys<'_> {
    /// Reads the next key; `false` after the last.
    ///
    /// # Errors
    /// [`KeyFileError::Record`].
    #[inline]
    pub fn next(&mut self, item: &mut ListedItem) -> Result<bool, KeyFileError> {
        if self.left == 0 {
            if self.rest.is_empty() {
                return Ok(false);
            }
            return Err(KeyFileError::Record("frame goes on after its last record"));
        }
        self.left -= 1;
        decode(&mut self.rest, self.base, item)?;
        Ok(true)
    }

    /// Whether all were read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

/// Appends the record of `item`.
pub(crate) fn encode(item: &ListedItem, base: i64, out: &mut Vec<u8>) {
    let never = item.exptime == NEVER;
    let unknown = item.last_access == 0;
    let bits = if item.fetched { FETCHED } else { 0 }
        | if never { NO_EXPIRY } else { 0 }
        | if unknown { NO_ACCESS } else { 0 };
    out.push(bits);
    out.push(item.key().len() as u8);
    out.extend_from_slice(item.key());
    put_varint(item.item_bytes, out);
    put_varint(item.cas, out);
    if !unknown {
        put_varint(zigzag(base.wrapping_sub(i64::from(item.last_access))), out);
    }
    if !never {
        put_varint(zigzag(item.exptime.wrapping_sub(base)), out);
    }
}

/// Reads a record from the beginning of `bytes`, and goes on after it.
#[inline]
pub(crate) fn decode(
    bytes: &mut &[u8],
    base: i64,
    item: &mut ListedItem,
) -> Result<(), KeyFileError> {
    let head = take(bytes, 2)?;
    let (bits, length) = (head[0], usize::from(head[1]));
    if bits & !(FETCHED | NO_EXPIRY | NO_ACCESS) != 0 {
        return Err(KeyFileError::Record("record has unknown bits"));
    }
    if !(1..=KEY_BYTES_MAX).contains(&length) {
        return Err(KeyFileError::Record(
            "record has a key of a length that no key has",
        ));
    }
    item.set_key(take(bytes, length)?);
    item.fetched = bits & FETCHED != 0;
    item.item_bytes = varint(bytes)?;
    item.cas = varint(bytes)?;
    item.last_access = 0;
    if bits & NO_ACCESS == 0 {
        let time = base.wrapping_sub(unzigzag(varint(bytes)?));
        item.last_access = match u32::try_from(time) {
            Ok(time) if time != 0 => time,
            _ => {
                return Err(KeyFileError::Record(
                    "record has an access time out of range",
                ));
            }
        };
    }
    item.exptime = NEVER;
    if bits & NO_EXPIRY == 0 {
        item.exptime = base.wrapping_add(unzigzag(varint(bytes)?));
        if item.exptime < 0 {
            return Err(KeyFileError::Record(
                "record has an expiry time out of range",
            ));
        }
    }
    Ok(())
}

#[inline]
fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], KeyFileError> {
    let (taken, rest) = bytes
        .split_at_checked(length)
        .ok_or(KeyFileError::Record("last record is cut off"))?;
    *bytes = rest;
    Ok(taken)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn varint(bytes: &mut &[u8]) -> Result<u64, KeyFileError> {
    let mut value = 0;
    for (n, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if n == VARINT_BYTES_MAX - 1 && bits > 1 {
            break;
        }
        value |= bits << (7 * n);
        if byte < 0x80 {
            *bytes = &bytes[n + 1..];
            return Ok(value);
        }
    }
    Err(KeyFileError::Record("record has a number without an end"))
}

fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// Items with every kind of field, at both ends of its range.
    fn frozen_items() -> Vec<ListedItem> {
        type Row = (&'static [u8], i64, u32, u64, bool, u64);
        let rows: [Row; 6] = [
            (b"plain", NEVER, 1_750_000_000, 1, false, 77),
            (
                b"nl\r\nflush_all\r\nx",
                1_750_000_600,
                1_749_999_000,
                2,
                true,
                1000,
            ),
            (&[0; 250], 0, 0, u64::MAX, true, u64::MAX),
            (&[0xFF], 1_749_999_999, 1, 0, false, 0),
            (b" ", 4_102_444_800, u32::MAX, 1 << 63, false, 1 << 30),
            (b"user:\xC3\xA9", i64::MAX, 1_750_000_001, 300, true, 128),
        ];
        rows.map(|(key, exptime, last_access, cas, fetched, item_bytes)| {
            let mut item = ListedItem::default();
            (item.exptime, item.last_access, item.cas) = (exptime, last_access, cas);
            (item.fetched, item.item_bytes) = (fetched, item_bytes);
            item.set_key(key);
            item
        })
        .to_vec()
    }

    #[test]
    fn the_frozen_key_file_is_read() {
        let file = include_bytes!("../tests/fixtures/keys-v1.keys.zst");
        let items = frozen_items();
        let mut at = 0;
        read(file, |item| {
            assert!(same(item, &items[at]), "key {at}");
            at += 1;
        })
        .unwrap();
        assert_eq!(at, items.len());
    }

    fn any_item() -> impl Strategy<Value = ListedItem> {
        (
            prop::collection::vec(any::<u8>(), 1..=250),
            prop_oneof![Just(NEVER), 0..i64::MAX, 1_700_000_000_i64..1_800_000_000],
            any::<u32>(),
            any::<u64>(),
            any::<bool>(),
            any::<u64>(),
        )
            .prop_map(|(key, exptime, last_access, cas, fetched, item_bytes)| {
                let mut item = ListedItem::default();
                (item.exptime, item.last_access, item.cas) = (exptime, last_access, cas);
                (item.fetched, item.item_bytes) = (fetched, item_bytes);
                item.set_key(&key);
                item
            })
    }

    fn same(a: &ListedItem, b: &ListedItem) -> bool {
        let fields = |i: &ListedItem| (i.exptime, i.last_access, i.cas, i.fetched, i.item_bytes);
        a.key() == b.key() && fields(a) == fields(b)
    }

    fn write(items: &[ListedItem], file_bytes: u64) -> Vec<(Vec<u8>, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = KeyFileWriter::new(
            dir.path(),
            None,
            "s".into(),
            "a:1".into(),
            1_750_000_000,
            file_bytes,
        )
        .unwrap();
        let mut files = Vec::new();
        for item in items {
            files.extend(writer.add(item).unwrap());
        }
        files.extend(writer.flush().unwrap());
        assert!(writer.flush().unwrap().is_none());
        assert!(writer.raw.capacity() as u64 <= KeyFileWriter::memory_bytes(file_bytes));
        files
            .into_iter()
            .map(|file| {
                let bytes = std::fs::read(&file.path).unwrap();
                assert_eq!(bytes.len() as u64, file.stored_bytes);
                assert!(file.stored_bytes <= file.keys * (RECORD_BYTES_MAX as u64 + 8) + 1024);
                (bytes, file.keys)
            })
            .collect()
    }

    #[test]
    fn a_sealed_key_file_shows_no_key_and_opens_with_its_scratch_key() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::random().unwrap();
        let mut writer = KeyFileWriter::new(
            dir.path(),
            Some(scratch.clone()),
            "s".into(),
            "a:1".into(),
            0,
            1 << 20,
        )
        .unwrap();
        let mut item = ListedItem::default();
        item.set_key(b"plain-key");
        writer.add(&item).unwrap();
        let file = writer.flush().unwrap().unwrap();
        let bytes = std::fs::read(&file.path).unwrap();
        assert_eq!(bytes.len() as u64, file.stored_bytes);
        assert_eq!(memchr::memmem::find(&bytes, b"plain-key"), None);
        let mut plain = Vec::new();
        let mut reader = scratch.reader(Cursor::new(bytes)).unwrap();
        reader.read_to_end(&mut plain).unwrap();
        let mut found = Vec::new();
        read(&plain, |item| found.push(item.key().to_vec())).unwrap();
        assert_eq!(found, [b"plain-key"]);
    }

    fn read(file: &[u8], mut each: impl FnMut(&ListedItem)) -> Result<(), KeyFileError> {
        let mut decoder = Decoder::new().unwrap();
        let mut reader = KeyFileReader::open(Cursor::new(file), &mut decoder)?;
        assert_eq!(reader.server(), "a:1");
        let mut item = ListedItem::default();
        while let Some(mut keys) = reader.next_frame(&mut decoder)? {
            while keys.next(&mut item)? {
                each(&item);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn keys_come_back_in_files_of_any_size(
            items in prop::collection::vec(any_item(), 0..400),
            file_bytes in 1024_u64..100_000,
        ) {
            let mut read_back = Vec::new();
            for (file, keys) in write(&items, file_bytes) {
                let before = read_back.len();
                read(&file, |item| read_back.push(item.clone())).unwrap();
                prop_assert_eq!((read_back.len() - before) as u64, keys);
            }
            prop_assert_eq!(read_back.len(), items.len());
            prop_assert!(read_back.iter().zip(&items).all(|(a, b)| same(a, b)));
        }

        #[test]
        fn changed_records_never_panic(
            item in any_item(),
            changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
            cut in any::<usize>(),
        ) {
            let mut bytes = Vec::new();
            encode(&item, 1_750_000_000, &mut bytes);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut % (bytes.len() + 1));
            let mut read = ListedItem::default();
            let mut rest = &bytes[..];
            if decode(&mut rest, 1_750_000_000, &mut read).is_ok() {
                prop_assert!(read.exptime >= NEVER && !read.key().is_empty());
            }
        }
    }

    #[test]
    fn many_frames_are_one_file() {
        let mut item = ListedItem::default();
        item.set_key(b"key");
        let files = write(&vec![item; 100_000], 4 << 20);
        assert_eq!(files.len(), 1);
        let chunk = ChunkReader::open(Cursor::new(&files[0].0), None).unwrap();
        let begins: Vec<_> = chunk
            .index()
            .frames
            .iter()
            .map(|f| f.first_record)
            .collect();
        let head_bytes = 2 + "a:1".len() as u32 + 8;
        assert!(begins.len() > 2);
        assert_eq!(begins[0], Some(head_bytes));
        assert!(begins[1..].iter().all(|begin| *begin == Some(0)));
        let mut keys = 0;
        read(&files[0].0, |_| keys += 1).unwrap();
        assert_eq!(keys, 100_000);
        let mut damaged = files[0].0.clone();
        let middle = damaged.len() / 3;
        damaged[middle] ^= 1;
        let failure = read(&damaged, |_| ()).unwrap_err().into_failure("7");
        assert_eq!(failure.party(), Party::Content);
        assert!(failure.to_string().contains("part 7"), "{failure}");
    }

    #[test]
    fn a_newer_version_says_so() {
        let newer = Content::new("keys", 2);
        let mut encoder = Encoder::new(CODEC).unwrap();
        let chunk = ChunkWriter::new(Vec::new(), &mut encoder, &newer, false);
        let (file, _) = chunk.finish(false, b"").unwrap();
        let mut decoder = Decoder::new().unwrap();
        let refusal = KeyFileReader::open(Cursor::new(file), &mut decoder)
            .map(drop)
            .unwrap_err();
        assert_eq!(refusal.into_failure("1").party(), Party::Version);
    }
}
