//! The tape: what a message looks like between the thread that records it and the thread that writes it.
//!
//! A serde `Serializer` that writes one operation after the other into a slice, with nothing allocated, cloned or boxed.
//! Names of structs, fields and variants are `'static`, so that the tape holds their addresses: writing one takes a
//! store, whatever its length. A tape is never written to disk and never leaves the process.
//!
//! | operation | after its byte | JSON |
//! |---|---|---|
//! | `NULL`, `FALSE`, `TRUE` | – | `null`, `false`, `true` |
//! | `U64`, `I64`, `F64` | 8 bytes | a number; floats that are not finite are `null` |
//! | `U128`, `I128` | 16 bytes | a number |
//! | `F32` | 4 bytes | a number |
//! | `STR` | length (4), bytes | a string |
//! | `NAME` | address (8), length (4) | a string: a unit variant |
//! | `BYTES` | length (4), bytes | an array of numbers |
//! | `RAW` | length (4), bytes | the text itself |
//! | `FIELD` | address (8), length (4) | a key |
//! | `KEY` | length (4), bytes | a key |
//! | `MAP`, `END_MAP`, `SEQ`, `END_SEQ` | – | `{`, `}`, `[`, `]` |

use std::fmt::{self, Display, Write as _};
use std::io;

use serde::ser::{self, Serialize};

mod ops;
mod texts;

pub(crate) use ops::{Op, Ops};
use texts::{Key, RawText};

pub(crate) const NULL: u8 = 0;
pub(crate) const FALSE: u8 = 1;
pub(crate) const TRUE: u8 = 2;
pub(crate) const U64: u8 = 3;
pub(crate) const I64: u8 = 4;
pub(crate) const U128: u8 = 5;
pub(crate) const I128: u8 = 6;
pub(crate) const F32: u8 = 7;
pub(crate) const F64: u8 = 8;
pub(crate) const STR: u8 = 9;
pub(crate) const NAME: u8 = 10;
pub(crate) const BYTES: u8 = 11;
pub(crate) const RAW: u8 = 12;
pub(crate) const FIELD: u8 = 13;
pub(crate) const KEY: u8 = 14;
pub(crate) const MAP: u8 = 15;
pub(crate) const END_MAP: u8 = 16;
pub(crate) const SEQ: u8 = 17;
pub(crate) const END_SEQ: u8 = 18;

/// What `serde_json` calls the struct around its `RawValue`: the text in it is JSON already.
const RAW_TOKEN: &str = "$serde_json::private::RawValue";
/// The same of its numbers of any precision.
const NUMBER_TOKEN: &str = "$serde_json::private::Number";

/// What a message says about its own name: that of its type, and of its variant if that is an enum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) name: &'static str,
    pub(crate) variant: &'static str,
}

/// Why there is no tape of a message. One word, so that a `Result` of it comes back in registers.
#[derive(Debug)]
pub(crate) enum TapeError {
    /// It does not fit into the slice.
    Full,
    /// `Serialize` says that it cannot be serialized, or JSON has no such thing.
    #[expect(clippy::box_collection, reason = "one word")]
    Message(Box<String>),
}

impl Display for TapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TapeError::Full => f.write_str("the tape is full"),
            TapeError::Message(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for TapeError {}

impl ser::Error for TapeError {
    fn custom<T: Display>(message: T) -> TapeError {
        TapeError::Message(Box::new(message.to_string()))
    }
}

type Result<T = ()> = std::result::Result<T, TapeError>;

/// Writes a tape into a slice.
pub(crate) struct Tape<'a> {
    out: &'a mut [u8],
    /// So many bytes are written. Of 32 bits, so that what is added to it never overflows, and is held against the room
    /// by one comparison.
    at: u32,
    root: Root,
}

impl<'a> Tape<'a> {
    /// Of `out`, 4 GiB are used at most.
    pub(crate) fn new(out: &'a mut [u8]) -> Tape<'a> {
        let len = out.len().min(u32::MAX as usize);
        Tape {
            out: &mut out[..len],
            at: 0,
            root: Root::default(),
        }
    }

    /// Bytes that were written.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.at as usize
    }

    pub(crate) fn root(&self) -> Root {
        self.root
    }

    /// The next `bytes` of the slice, if it has so many; else nothing changes.
    #[inline(always)]
    fn room(&mut self, bytes: u32) -> Option<&mut [u8]> {
        let at = self.at as usize;
        let end = at + bytes as usize;
        let room = self.out.get_mut(at..end)?;
        // No more than the length of the slice.
        self.at = end as u32;
        Some(room)
    }

    #[inline(always)]
    fn op(&mut self, op: u8) -> Result {
        self.put([op])
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Result {
        let room = self.room(N as u32).ok_or(TapeError::Full)?;
        room.copy_from_slice(&bytes);
        Ok(())
    }

    /// An operation and its operand, held against the room in one step.
    #[inline(always)]
    fn fixed<const N: usize>(&mut self, op: u8, operand: [u8; N]) -> Result {
        let room = self.room(1 + N as u32).ok_or(TapeError::Full)?;
        room[0] = op;
        room[1..].copy_from_slice(&operand);
        Ok(())
    }

    #[inline(always)]
    fn text(&mut self, op: u8, text: &[u8]) -> Result {
        let bytes = u32::try_from(text.len())
            .ok()
            .and_then(|len| len.checked_add(TEXT_BYTES as u32));
        let room = bytes.and_then(|bytes| self.room(bytes));
        match room.and_then(<[u8]>::split_first_chunk_mut) {
            Some((head, room)) => {
                *head = text_head(op, text.len() as u32);
                room.copy_from_slice(text);
                Ok(())
            }
            None => self.cut_text(op, text),
        }
    }

    /// As much of a text as there is room for: what is truncated shows it.
    #[cold]
    fn cut_text(&mut self, op: u8, text: &[u8]) -> Result {
        if let (Some(room), Ok(text)) = (
            (self.out.len() - self.len()).checked_sub(TEXT_BYTES),
            std::str::from_utf8(text),
        ) && op == STR
        {
            let len = text.floor_char_boundary(room);
            self.text(op, &text.as_bytes()[..len])?;
        }
        Err(TapeError::Full)
    }

    /// A name by its address.
    #[inline(always)]
    fn name(&mut self, op: u8, name: &'static str) -> Result {
        let mut operand = [0; 12];
        operand[..8].copy_from_slice(&address(name).to_le_bytes());
        operand[8..].copy_from_slice(&(name.len() as u32).to_le_bytes());
        self.fixed(op, operand)
    }

    /// The same as `text`, of something that is displayed.
    fn display(&mut self, op: u8, value: &(impl Display + ?Sized)) -> Result {
        self.composed(op, |text| write!(text, "{value}").is_ok())
    }

    /// The same as `text`, of what `write` writes; it says whether it could. If not, nothing changes.
    fn composed(&mut self, op: u8, write: impl FnOnce(&mut Text<'_>) -> bool) -> Result {
        let at = self.len();
        let Some((head, room)) = self.out[at..].split_first_chunk_mut() else {
            return Err(TapeError::Full);
        };
        let mut text = Text {
            room,
            len: 0,
            is_full: false,
        };
        if !write(&mut text) {
            return Err(match text.is_full {
                true => TapeError::Full,
                false => {
                    ser::Error::custom("a Display implementation returned an error unexpectedly")
                }
            });
        }
        // No more than the length of the slice.
        let len = text.len as u32;
        *head = text_head(op, len);
        self.at += TEXT_BYTES as u32 + len;
        Ok(())
    }

    #[inline(always)]
    fn note(&mut self, name: &'static str, variant: &'static str) {
        if self.at == 0 && self.root.name.is_empty() {
            self.root = Root { name, variant };
        }
    }
}

/// What is before the bytes of a text: the operation, and their number.
const TEXT_BYTES: usize = 5;

#[inline(always)]
fn text_head(op: u8, len: u32) -> [u8; TEXT_BYTES] {
    let [a, b, c, d] = len.to_le_bytes();
    [op, a, b, c, d]
}

/// A text on its way into the tape.
struct Text<'r> {
    room: &'r mut [u8],
    len: usize,
    /// What tells a tape that is full from a `Display` that failed.
    is_full: bool,
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.room.get_mut(self.len..self.len + text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                self.len += text.len();
                Ok(())
            }
            None => {
                self.is_full = true;
                Err(fmt::Error)
            }
        }
    }
}

impl io::Write for Text<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        self.write_str(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn address(text: &'static str) -> u64 {
    text.as_ptr().expose_provenance() as u64
}

/// The name that [`Tape::name`] has written.
///
/// # Safety
/// `address` and `len` must be those that this process wrote for a `&'static str`.
#[expect(
    unsafe_code,
    reason = "the tape holds names by their addresses, which is what makes it fast"
)]
pub(crate) unsafe fn name_at(address: u64, len: u32) -> &'static str {
    if len == 0 {
        return "";
    }
    let start = std::ptr::with_exposed_provenance(address as usize);
    // SAFETY: by the caller's promise these are the parts of a string that lives as long as the process.
    unsafe { std::str::from_utf8_unchecked(std::slice::from_raw_parts(start, len as usize)) }
}

/// A name as it is stored in the header of a record.
pub(crate) fn name_parts(name: &'static str) -> (u64, u32) {
    (address(name), name.len() as u32)
}

impl<'t, 'a> ser::Serializer for &'t mut Tape<'a> {
    type Ok = ();
    type Error = TapeError;
    type SerializeSeq = Sequence<'t, 'a>;
    type SerializeTuple = Sequence<'t, 'a>;
    type SerializeTupleStruct = Sequence<'t, 'a>;
    type SerializeTupleVariant = Sequence<'t, 'a>;
    type SerializeMap = Fields<'t, 'a>;
    type SerializeStruct = Fields<'t, 'a>;
    type SerializeStructVariant = Fields<'t, 'a>;

    #[inline]
    fn serialize_bool(self, value: bool) -> Result {
        self.op(if value { TRUE } else { FALSE })
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result {
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result {
        self.fixed(I64, value.to_le_bytes())
    }

    #[inline]
    fn serialize_i128(self, value: i128) -> Result {
        self.fixed(I128, value.to_le_bytes())
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result {
        self.serialize_u64(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result {
        self.fixed(U64, value.to_le_bytes())
    }

    #[inline]
    fn serialize_u128(self, value: u128) -> Result {
        self.fixed(U128, value.to_le_bytes())
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result {
        self.fixed(F32, value.to_le_bytes())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result {
        self.fixed(F64, value.to_le_bytes())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result {
        self.text(STR, value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result {
        self.text(BYTES, value)
    }

    #[inline]
    fn serialize_none(self) -> Result {
        self.op(NULL)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result {
        self.op(NULL)
    }

    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result {
        self.note(name, "");
        self.op(NULL)
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result {
        self.note(name, variant);
        self.name(NAME, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result {
        self.note(name, "");
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        self.note(name, variant);
        self.op(MAP)?;
        self.name(FIELD, variant)?;
        value.serialize(&mut *self)?;
        self.op(END_MAP)
    }

    #[inline]
    fn serialize_seq(self, _len: Option<usize>) -> Result<Sequence<'t, 'a>> {
        self.op(SEQ)?;
        Ok(Sequence {
            tape: self,
            in_variant: false,
        })
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Sequence<'t, 'a>> {
        self.serialize_seq(Some(len))
    }

    #[inline]
    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Sequence<'t, 'a>> {
        self.note(name, "");
        self.serialize_seq(Some(len))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Sequence<'t, 'a>> {
        self.note(name, variant);
        self.op(MAP)?;
        self.name(FIELD, variant)?;
        self.op(SEQ)?;
        Ok(Sequence {
            tape: self,
            in_variant: true,
        })
    }

    #[inline]
    fn serialize_map(self, _len: Option<usize>) -> Result<Fields<'t, 'a>> {
        self.op(MAP)?;
        Ok(Fields {
            tape: self,
            kind: FieldsKind::Plain,
        })
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _len: usize) -> Result<Fields<'t, 'a>> {
        // Checked by its first byte, since a name of Rust's cannot begin so.
        if name.as_bytes().first() == Some(&b'$') && (name == RAW_TOKEN || name == NUMBER_TOKEN) {
            return Ok(Fields {
                tape: self,
                kind: FieldsKind::Raw,
            });
        }
        self.note(name, "");
        self.serialize_map(None)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Fields<'t, 'a>> {
        self.note(name, variant);
        self.op(MAP)?;
        self.name(FIELD, variant)?;
        self.op(MAP)?;
        Ok(Fields {
            tape: self,
            kind: FieldsKind::Variant,
        })
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result {
        self.display(STR, value)
    }
}

/// A sequence, or a tuple of a variant.
pub(crate) struct Sequence<'t, 'a> {
    tape: &'t mut Tape<'a>,
    in_variant: bool,
}

impl Sequence<'_, '_> {
    #[inline]
    fn close(self) -> Result {
        self.tape.op(END_SEQ)?;
        match self.in_variant {
            true => self.tape.op(END_MAP),
            false => Ok(()),
        }
    }
}

impl ser::SerializeSeq for Sequence<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTuple for Sequence<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTupleStruct for Sequence<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTupleVariant for Sequence<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldsKind {
    Plain,
    Variant,
    /// The text of the only field is JSON.
    Raw,
}

/// A map, a struct, or a struct of a variant.
pub(crate) struct Fields<'t, 'a> {
    tape: &'t mut Tape<'a>,
    kind: FieldsKind,
}

impl Fields<'_, '_> {
    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        if self.kind == FieldsKind::Raw {
            return value.serialize(RawText(&mut *self.tape));
        }
        self.tape.name(FIELD, key)?;
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn close(self) -> Result {
        match self.kind {
            FieldsKind::Plain => self.tape.op(END_MAP),
            FieldsKind::Variant => self.tape.put([END_MAP, END_MAP]),
            FieldsKind::Raw => Ok(()),
        }
    }
}

impl ser::SerializeMap for Fields<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        key.serialize(Key(&mut *self.tape))
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut *self.tape)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        self.field(key, value)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeStructVariant for Fields<'_, '_> {
    type Ok = ();
    type Error = TapeError;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        self.field(key, value)
    }

    #[inline]
    fn end(self) -> Result {
        self.close()
    }
}
