//! The content `items`: how an item of a cache looks inside frames. FORMAT.md has the byte table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tipple_flow::{Content, Failure, Party, RecordReader, Stop};

/// The content's name. Stable.
pub const ITEMS_NAME: &str = "items";
/// The version that is written, and the newest that is read. Stable.
pub const ITEMS_VERSION: u16 = 1;
/// Bytes before the key.
pub const HEADER_BYTES: usize = 32;
/// The longest key that memcached has.
pub const KEY_BYTES_MAX: usize = 250;
/// The longest value that a record can hold, whatever its key.
pub const VALUE_BYTES_MAX: u32 = u32::MAX - BODY_BYTES_MIN - KEY_BYTES_MAX as u32;
/// An expiry time that never comes.
pub const NEVER: i64 = -1;

/// What of the header the body length counts: all but itself.
const BODY_BYTES_MIN: u32 = HEADER_BYTES as u32 - 4;
const FETCHED: u8 = 1;

const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize);

/// An item but for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The key, 1 to 250 bytes of any value.
    pub key: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When it expires, in seconds since 1970; [`NEVER`] if never. Not below −1.
    pub exptime: i64,
    /// The server's version number of the value, 0 if not known.
    pub cas: u64,
    /// When it was last read or written, in seconds since 1970, 0 if not known.
    pub last_access: u32,
    /// Whether it was read since it was stored.
    pub fetched: bool,
}

/// The first bytes of a record. The key and the value follow.
///
/// # Panics
/// If the key has no bytes or more than [`KEY_BYTES_MAX`], the value is longer than [`VALUE_BYTES_MAX`], or the expiry
/// time is below −1.
#[inline]
pub fn encode_header(item: &Item<'_>, value_bytes: u32) -> [u8; HEADER_BYTES] {
    assert!(
        (1..=KEY_BYTES_MAX).contains(&item.key.len()),
        "a key of {} bytes",
        item.key.len()
    );
    assert!(
        value_bytes <= VALUE_BYTES_MAX,
        "a value of {value_bytes} bytes"
    );
    assert!(item.exptime >= NEVER, "an exptime of {}", item.exptime);
    let body_bytes = BODY_BYTES_MIN + item.key.len() as u32 + value_bytes;
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&body_bytes.to_le_bytes());
    header[4] = item.key.len() as u8;
    header[5] = if item.fetched { FETCHED } else { 0 };
    header[8..12].copy_from_slice(&item.flags.to_le_bytes());
    header[12..16].copy_from_slice(&item.last_access.to_le_bytes());
    header[16..24].copy_from_slice(&item.exptime.to_le_bytes());
    header[24..32].copy_from_slice(&item.cas.to_le_bytes());
    header
}

#[derive(Clone, Copy)]
struct Header {
    key_bytes: usize,
    value_bytes: u32,
    flags: u32,
    exptime: i64,
    cas: u64,
    last_access: u32,
    fetched: bool,
}

impl Header {
    /// Reads a header; the error says what is wrong with which value.
    #[inline]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let body_bytes = u32_at(0);
        let key_bytes = usize::from(bytes[4]);
        let exptime = u64_at(16) as i64;
        if !(1..=KEY_BYTES_MAX).contains(&key_bytes) {
            return Err(format!("its key length is {key_bytes}, not 1 to 250"));
        }
        if bytes[5] & !FETCHED != 0 {
            return Err(format!("its bits are {:#04x}, not 0 or 1", bytes[5]));
        }
        if bytes[6..8] != [0, 0] {
            return Err(format!(
                "its reserved bytes are {:#04x} {:#04x}, not 0",
                bytes[6], bytes[7]
            ));
        }
        if exptime < NEVER {
            return Err(format!("its exptime is {exptime}, below -1"));
        }
        let Some(value_bytes) = body_bytes.checked_sub(BODY_BYTES_MIN + key_bytes as u32) else {
            return Err(format!(
                "its body length is {body_bytes}, less than header and key need"
            ));
        };
        if value_bytes > VALUE_BYTES_MAX {
            return Err(format!(
                "its value has {value_bytes} bytes, more than {VALUE_BYTES_MAX}"
            ));
        }
        Ok(Self {
            key_bytes,
            value_bytes,
            flags: u32_at(8),
            exptime,
            cas: u64_at(24),
            last_access: u32_at(12),
            fetched: bytes[5] & FETCHED != 0,
        })
    }

    #[inline]
    fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.key_bytes as u64 + u64::from(self.value_bytes)
    }

    #[inline]
    fn item<'b>(&self, key: &'b [u8]) -> Item<'b> {
        Item {
            key,
            flags: self.flags,
            exptime: self.exptime,
            cas: self.cas,
            last_access: self.last_access,
            fetched: self.fetched,
        }
    }
}

/// An item as it was read.
#[derive(Debug)]
pub struct ReadItem<'r> {
    /// All but the value.
    pub item: Item<'r>,
    /// The length of the value.
    pub value_bytes: u32,
    /// The value, if the whole record lies in the frame at hand. Otherwise it comes by [`ItemReader::piece`].
    pub value: Option<&'r [u8]>,
}

/// Reads the items of a part without allocating, whatever their lengths.
///
/// An item that lies in one frame is handed out where it is; of any other, the header and the key are copied to a
/// place of their own and the value comes in pieces.
pub struct ItemReader<'p, 'a> {
    records: &'p mut RecordReader<'a>,
    // Bytes of the frame at hand that were handed out whole, and the records that they are. They are consumed
    // together, since a borrowed item must stay where it is.
    whole_bytes: usize,
    whole_records: u64,
    // Of the record that was begun and is read in pieces.
    begun: bool,
    value_left: u32,
    piece_bytes: usize,
    head: [u8; HEADER_BYTES + KEY_BYTES_MAX],
}

impl<'p, 'a> ItemReader<'p, 'a> {
    /// A reader of the items that `records` has.
    pub fn new(records: &'p mut RecordReader<'a>) -> Self {
        Self {
            records,
            whole_bytes: 0,
            whole_records: 0,
            begun: false,
            value_left: 0,
            piece_bytes: 0,
            head: [0; HEADER_BYTES + KEY_BYTES_MAX],
        }
    }

    /// The next item; `None` at the end of the part. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// [`Stop::Failed`] ([`Party::Content`]) when the bytes are no item; otherwise what the frames fail with.
    #[expect(clippy::should_implement_trait, reason = "it lends")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<ReadItem<'_>>, Stop> {
        if self.begun {
            self.end_begun()?;
        }
        let at_hand = &self.records.fill()?[self.whole_bytes..];
        let at_hand_bytes = at_hand.len() as u64;
        let header = match at_hand.first_chunk() {
            Some(header) => Header::decode(header).map_err(|fault| self.refuse(&fault))?,
            None => return self.begin(),
        };
        if at_hand_bytes < header.record_bytes() {
            return self.begin();
        }
        let start = self.whole_bytes;
        let key_end = start + HEADER_BYTES + header.key_bytes;
        let end = key_end + header.value_bytes as usize;
        self.whole_bytes = end;
        self.whole_records += 1;
        // The very same bytes: nothing was consumed since.
        let bytes = self.records.fill()?;
        Ok(Some(ReadItem {
            item: header.item(&bytes[start + HEADER_BYTES..key_end]),
            value_bytes: header.value_bytes,
            value: Some(&bytes[key_end..end]),
        }))
    }

    /// The next bytes of the value of the item that was handed out without one; empty when all were given.
    ///
    /// # Errors
    /// [`Stop::Failed`] ([`Party::Content`]) if the part ends inside the value.
    pub fn piece(&mut self) -> Result<&[u8], Stop> {
        self.records.consume(self.piece_bytes);
        self.piece_bytes = 0;
        if self.value_left == 0 {
            return Ok(&[]);
        }
        let number = self.number();
        let left = self.value_left;
        let bytes = self.records.fill()?;
        if bytes.is_empty() {
            return Err(ends_inside(number, &format!("its value, {left} bytes short")).into());
        }
        let n = bytes.len().min(left as usize);
        self.value_left -= n as u32;
        self.piece_bytes = n;
        Ok(&bytes[..n])
    }

    /// Consumes what was handed out: afterwards the reader below stands where this one does.
    ///
    /// # Errors
    /// As for [`ItemReader::next`].
    pub fn finish(mut self) -> Result<(), Stop> {
        if self.begun {
            self.end_begun()?;
        }
        self.settle();
        Ok(())
    }

    /// The number of the record that is read now, from 1.
    fn number(&self) -> u64 {
        self.records.records() + self.whole_records + 1
    }

    fn settle(&mut self) {
        if self.whole_records > 0 {
            self.records.consume(self.whole_bytes);
            self.records.end_records(self.whole_records);
            (self.whole_bytes, self.whole_records) = (0, 0);
        }
    }

    #[cold]
    fn end_begun(&mut self) -> Result<(), Stop> {
        self.records.consume(self.piece_bytes);
        self.piece_bytes = 0;
        self.records.skip(u64::from(self.value_left))?;
        self.value_left = 0;
        self.records.end_record();
        self.begun = false;
        Ok(())
    }

    /// The item begins in the frame at hand and goes on behind it, or in the next frame, or there is none.
    #[cold]
    fn begin(&mut self) -> Result<Option<ReadItem<'_>>, Stop> {
        self.settle();
        let at_hand = self.records.fill()?;
        if at_hand.is_empty() {
            return Ok(None);
        }
        // In a fresh frame it may well lie whole.
        if let Some(header) = at_hand.first_chunk::<HEADER_BYTES>()
            && let Ok(header) = Header::decode(header)
            && at_hand.len() as u64 >= header.record_bytes()
        {
            return self.next();
        }
        let number = self.number();
        read_piecewise(self.records, &mut self.head[..HEADER_BYTES])
            .map_err(|stop| stop.unwrap_or_else(|| ends_inside(number, "its header").into()))?;
        let header = Header::decode(self.head.first_chunk().expect("the head has a header"))
            .map_err(|fault| self.refuse(&fault))?;
        let key_end = HEADER_BYTES + header.key_bytes;
        read_piecewise(self.records, &mut self.head[HEADER_BYTES..key_end])
            .map_err(|stop| stop.unwrap_or_else(|| ends_inside(number, "its key").into()))?;
        self.begun = true;
        self.value_left = header.value_bytes;
        Ok(Some(ReadItem {
            item: header.item(&self.head[HEADER_BYTES..key_end]),
            value_bytes: header.value_bytes,
            value: None,
        }))
    }

    #[cold]
    fn refuse(&self, fault: &str) -> Stop {
        Failure::new(
            Party::Content,
            format!(
                "record {} is no item: {fault}; the frames verified, so it was written so: dump it again",
                self.number()
            ),
        )
        .into()
    }
}

/// `Err(None)` if the part ends before `out` is full.
fn read_piecewise(records: &mut RecordReader<'_>, out: &mut [u8]) -> Result<(), Option<Stop>> {
    let mut filled = 0;
    while filled < out.len() {
        let at_hand = records.fill().map_err(Some)?;
        if at_hand.is_empty() {
            return Err(None);
        }
        let n = at_hand.len().min(out.len() - filled);
        out[filled..filled + n].copy_from_slice(&at_hand[..n]);
        records.consume(n);
        filled += n;
    }
    Ok(())
}

fn ends_inside(number: u64, what: &str) -> Failure {
    Failure::new(
        Party::Content,
        format!(
            "the part ends inside record {number}, in {what}; the frames verified, so it was written so: dump it again"
        ),
    )
}

/// The content `items`, for those who read items without a sink.
#[derive(Clone, Copy, Debug, Default)]
pub struct ItemsContent;

impl Content for ItemsContent {
    fn name(&self) -> &'static str {
        ITEMS_NAME
    }

    fn version(&self) -> u16 {
        ITEMS_VERSION
    }

    fn skip(&self, records: &mut RecordReader<'_>) -> Result<bool, Stop> {
        let mut items = ItemReader::new(records);
        if items.next()?.is_none() {
            return Ok(false);
        }
        while !items.piece()?.is_empty() {}
        items.finish()?;
        Ok(true)
    }

    /// `{"key":…,"value":…,"flags":…,"exptime":…,"cas":…,"last_access":…,"fetched":…}`. The line holds the whole
    /// value, so it takes the memory that the value needs.
    fn write_json(&self, records: &mut RecordReader<'_>, line: &mut Vec<u8>) -> Result<bool, Stop> {
        let mut items = ItemReader::new(records);
        let Some(read) = items.next()? else {
            return Ok(false);
        };
        line.extend_from_slice(b"{\"key\":");
        write_bytes(line, read.item.key);
        line.extend_from_slice(b",\"value\":");
        let Item {
            flags,
            exptime,
            cas,
            last_access,
            fetched,
            ..
        } = read.item;
        match read.value {
            Some(value) => write_bytes(line, value),
            None => {
                // Grows with what is there, not with what the header claims.
                let mut value = Vec::new();
                loop {
                    let piece = items.piece()?;
                    if piece.is_empty() {
                        break;
                    }
                    value.extend_from_slice(piece);
                }
                write_bytes(line, &value);
            }
        }
        let last_access = match last_access {
            0 => "null".to_owned(),
            seconds => seconds.to_string(),
        };
        line.extend_from_slice(
            format!(
                ",\"flags\":{flags},\"exptime\":{exptime},\"cas\":{cas},\"last_access\":{last_access},\"fetched\":{fetched}}}"
            )
            .as_bytes(),
        );
        items.finish()?;
        Ok(true)
    }
}

/// A JSON string if the bytes are UTF-8, `{"base64":"…"}` if not.
fn write_bytes(line: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_writer(line, text).expect("a string has a JSON form"),
        Err(_) => {
            line.extend_from_slice(b"{\"base64\":\"");
            line.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            line.extend_from_slice(b"\"}");
        }
    }
}
