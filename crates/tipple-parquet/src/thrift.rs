//! The part of Thrift's compact protocol that Parquet's metadata needs.

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
/// A kind of field.
pub const I32: u8 = 5;
/// A kind of field.
pub const I64: u8 = 6;
const DOUBLE: u8 = 7;
/// A kind of field.
pub const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
/// A kind of field.
pub const STRUCT: u8 = 12;

/// Deeper than Parquet's metadata goes.
const DEPTH_MAX: usize = 16;

/// Writes structs. Fields come in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    /// The last field of each struct that is open.
    last: Vec<i16>,
}

impl Writer {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn zigzag(&mut self, number: i64) {
        self.varint((number << 1 ^ number >> 63) as u64);
    }

    fn field(&mut self, id: i16, kind: u8) {
        let last = self.last.last_mut().expect("a field is inside a struct");
        let step = id - *last;
        *last = id;
        assert!((1..=15).contains(&step), "fields in their order");
        self.bytes.push((step as u8) << 4 | kind);
    }

    fn list(&mut self, id: i16, kind: u8, len: usize) {
        self.field(id, LIST);
        match len {
            0..15 => self.bytes.push((len as u8) << 4 | kind),
            _ => {
                self.bytes.push(0xF0 | kind);
                self.varint(len as u64);
            }
        }
    }

    fn raw_binary(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A struct that is no field: the outermost one, or an element of a list.
    pub(crate) fn element(&mut self, fields: impl FnOnce(&mut Self)) {
        self.last.push(0);
        fields(self);
        self.last.pop();
        self.bytes.push(0);
    }

    pub(crate) fn structure(&mut self, id: i16, fields: impl FnOnce(&mut Self)) {
        self.field(id, STRUCT);
        self.element(fields);
    }

    pub(crate) fn structures<T>(
        &mut self,
        id: i16,
        elements: &[T],
        mut fields: impl FnMut(&mut Self, &T),
    ) {
        self.list(id, STRUCT, elements.len());
        for element in elements {
            self.element(|out| fields(out, element));
        }
    }

    pub(crate) fn boolean(&mut self, id: i16, value: bool) {
        self.field(id, if value { TRUE } else { FALSE });
    }

    pub(crate) fn byte(&mut self, id: i16, value: i8) {
        self.field(id, BYTE);
        self.bytes.push(value as u8);
    }

    pub(crate) fn i32(&mut self, id: i16, value: i32) {
        self.field(id, I32);
        self.zigzag(value.into());
    }

    pub(crate) fn i64(&mut self, id: i16, value: i64) {
        self.field(id, I64);
        self.zigzag(value);
    }

    pub(crate) fn binary(&mut self, id: i16, value: &[u8]) {
        self.field(id, BINARY);
        self.raw_binary(value);
    }

    pub(crate) fn i32s(&mut self, id: i16, values: &[i32]) {
        self.list(id, I32, values.len());
        for value in values {
            self.zigzag((*value).into());
        }
    }

    pub(crate) fn binaries(&mut self, id: i16, values: &[String]) {
        self.list(id, BINARY, values.len());
        for value in values {
            self.raw_binary(value.as_bytes());
        }
    }
}

/// Reads structs from bytes that may be anything.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A field that was begun: its number and kind.
pub type Field = (i16, u8);

impl<'a> Reader<'a> {
    /// From the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read.
    pub fn read(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.bytes.get(self.at).ok_or("its metadata ends early")?;
        self.at += 1;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number in its metadata has no end".to_owned())
    }

    fn zigzag(&mut self) -> Result<i64, String> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The next field of a struct, `None` at its end. `last` is the number of the one before, 0 at first.
    ///
    /// # Errors
    /// If there is none.
    pub fn field(&mut self, last: &mut i16) -> Result<Option<Field>, String> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *last = match byte >> 4 {
            0 => self.zigzag()? as i16,
            step => last.saturating_add(step.into()),
        };
        Ok(Some((*last, byte & 0xF)))
    }

    /// A whole number; those of any size are read as one.
    ///
    /// # Errors
    /// If it is none.
    pub fn number(&mut self, (_, kind): Field) -> Result<i64, String> {
        match kind {
            I16 | I32 | I64 => self.zigzag(),
            _ => Err("its metadata has something else where a number should be".to_owned()),
        }
    }

    /// The kind and the number of elements of a list.
    ///
    /// # Errors
    /// If it is none.
    pub fn list(&mut self, (_, kind): Field) -> Result<(u8, u64), String> {
        if kind != LIST {
            return Err("its metadata has something else where a list should be".to_owned());
        }
        self.list_header()
    }

    fn list_header(&mut self) -> Result<(u8, u64), String> {
        let byte = self.byte()?;
        let len = match byte >> 4 {
            15 => self.varint()?,
            len => len.into(),
        };
        Ok((byte & 0xF, len))
    }

    /// Passes over a field, whatever it is.
    ///
    /// # Errors
    /// If there is no such field.
    pub fn skip(&mut self, (_, kind): Field) -> Result<(), String> {
        self.skip_kind(kind, false, 0)
    }

    fn skip_kind(&mut self, kind: u8, in_list: bool, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("its metadata is nested too deeply".to_owned());
        }
        match kind {
            // A field's kind is its value.
            TRUE | FALSE if !in_list => {}
            TRUE | FALSE | BYTE => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.varint()?),
            DOUBLE => self.pass(8)?,
            BINARY => {
                let bytes = self.varint()?;
                self.pass(bytes)?;
            }
            LIST | SET => {
                let (kind, len) = self.list_header()?;
                for _ in 0..len {
                    self.skip_kind(kind, true, depth + 1)?;
                }
            }
            MAP => return Err("its metadata has a map".to_owned()),
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip_kind(kind, false, depth + 1)?;
                }
            }
            _ => return Err(format!("its metadata has a field of kind {kind}")),
        }
        Ok(())
    }

    fn pass(&mut self, bytes: u64) -> Result<(), String> {
        let left = (self.bytes.len() - self.at) as u64;
        if bytes > left {
            return Err("its metadata ends early".to_owned());
        }
        self.at += bytes as usize;
        Ok(())
    }
}
