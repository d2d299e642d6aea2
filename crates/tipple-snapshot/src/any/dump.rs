//! Serde's data model into bytes.

use std::fmt::Display;

use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::tag;
use crate::{SnapshotError, Writer};

/// A value whose `Serialize` refused.
impl Error for SnapshotError {
    fn custom<M: Display>(message: M) -> Self {
        SnapshotError::value(message.to_string())
    }
}

/// Writes one value.
pub(super) struct Dumper<'w, 'a>(pub(super) &'w mut Writer<'a>);

/// A list or a map that has begun.
pub(super) struct Open<'w, 'a> {
    to: &'w mut Writer<'a>,
    /// It is the only entry of a map: a variant.
    in_variant: bool,
}

type Done = Result<(), SnapshotError>;

impl<'w, 'a> Dumper<'w, 'a> {
    fn tagged(self, tag: u8, rest: &[u8]) -> Done {
        self.0.byte(tag)?;
        self.0.bytes(rest)
    }

    fn open(self, tag: u8, len: Option<usize>) -> Result<Open<'w, 'a>, SnapshotError> {
        self.0.enter()?;
        self.0.byte(tag)?;
        self.0.count(len.unwrap_or(0))?;
        Ok(Open {
            to: self.0,
            in_variant: false,
        })
    }

    /// As JSON has them: a map of one entry.
    fn open_variant(
        self,
        variant: &str,
        tag: u8,
        len: usize,
    ) -> Result<Open<'w, 'a>, SnapshotError> {
        let map = self.open(tag::MAP, Some(1))?;
        Dumper(&mut *map.to).serialize_str(variant)?;
        let mut inner = Dumper(map.to).open(tag, Some(len))?;
        inner.in_variant = true;
        Ok(inner)
    }
}

impl Open<'_, '_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(Dumper(self.to))
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        Dumper(self.to).serialize_str(key)?;
        self.element(value)
    }

    fn close(self) -> Done {
        for _ in 0..=u8::from(self.in_variant) {
            self.to.byte(tag::END)?;
            self.to.leave();
        }
        Ok(())
    }
}

/// Numbers that are written as wider ones.
macro_rules! widened {
    ($($name:ident: $type:ty => $wider:ident,)*) => {
        $(fn $name(self, value: $type) -> Done {
            self.$wider(value.into())
        })*
    };
}

impl<'w, 'a> Serializer for Dumper<'w, 'a> {
    type Ok = ();
    type Error = SnapshotError;
    type SerializeSeq = Open<'w, 'a>;
    type SerializeTuple = Open<'w, 'a>;
    type SerializeTupleStruct = Open<'w, 'a>;
    type SerializeTupleVariant = Open<'w, 'a>;
    type SerializeMap = Open<'w, 'a>;
    type SerializeStruct = Open<'w, 'a>;
    type SerializeStructVariant = Open<'w, 'a>;

    fn serialize_bool(self, value: bool) -> Done {
        self.0.byte(if value { tag::TRUE } else { tag::FALSE })
    }

    widened! {
        serialize_i8: i8 => serialize_i64, serialize_i16: i16 => serialize_i64, serialize_i32: i32 => serialize_i64,
        serialize_u8: u8 => serialize_u64, serialize_u16: u16 => serialize_u64, serialize_u32: u32 => serialize_u64,
    }

    fn serialize_i64(self, value: i64) -> Done {
        match u64::try_from(value) {
            Ok(value) => self.serialize_u64(value),
            Err(_) => {
                self.0.byte(tag::NEGATIVE)?;
                self.0.unsigned(!value as u64)
            }
        }
    }

    fn serialize_i128(self, value: i128) -> Done {
        if let Ok(value) = u128::try_from(value) {
            return self.serialize_u128(value);
        }
        match i64::try_from(value) {
            Ok(value) => self.serialize_i64(value),
            Err(_) => {
                self.0.byte(tag::NEGATIVE_128)?;
                self.0.unsigned_128(!value as u128)
            }
        }
    }

    fn serialize_u64(self, value: u64) -> Done {
        if value < tag::TEXT_SHORT.into() {
            return self.0.byte(value as u8);
        }
        self.0.byte(tag::UNSIGNED)?;
        self.0.unsigned(value)
    }

    fn serialize_u128(self, value: u128) -> Done {
        match u64::try_from(value) {
            Ok(value) => self.serialize_u64(value),
            Err(_) => {
                self.0.byte(tag::UNSIGNED_128)?;
                self.0.unsigned_128(value)
            }
        }
    }

    fn serialize_f32(self, value: f32) -> Done {
        self.tagged(tag::F32, &value.to_le_bytes())
    }

    fn serialize_f64(self, value: f64) -> Done {
        self.tagged(tag::F64, &value.to_le_bytes())
    }

    fn serialize_char(self, value: char) -> Done {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Done {
        match text.len() {
            len if len < (tag::NONE - tag::TEXT_SHORT).into() => {
                self.tagged(tag::TEXT_SHORT | len as u8, text.as_bytes())
            }
            _ => {
                self.0.byte(tag::TEXT)?;
                self.0.text(text)
            }
        }
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Done {
        self.0.byte(tag::BYTES)?;
        self.0.count(bytes.len())?;
        self.0.bytes(bytes)
    }

    fn serialize_none(self) -> Done {
        self.0.byte(tag::NONE)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.0.byte(tag::SOME)?;
        self.0.nested(|to| value.serialize(Dumper(to)))
    }

    fn serialize_unit(self) -> Done {
        self.0.byte(tag::UNIT)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Done {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        let mut map = self.open(tag::MAP, Some(1))?;
        map.entry(variant, value)?;
        map.close()
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open(tag::LIST, len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open(tag::LIST, Some(len))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open(tag::LIST, Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open_variant(variant, tag::LIST, len)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open(tag::MAP, len)
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open(tag::MAP, Some(len))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Open<'w, 'a>, SnapshotError> {
        self.open_variant(variant, tag::MAP, len)
    }
}

/// Elements without names.
macro_rules! list {
    ($trait:ident, $element:ident) => {
        impl $trait for Open<'_, '_> {
            type Ok = ();
            type Error = SnapshotError;

            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                self.element(value)
            }

            fn end(self) -> Done {
                self.close()
            }
        }
    };
}

list!(SerializeSeq, serialize_element);
list!(SerializeTuple, serialize_element);
list!(SerializeTupleStruct, serialize_field);
list!(SerializeTupleVariant, serialize_field);

/// Fields with names.
macro_rules! fields {
    ($trait:ident) => {
        impl $trait for Open<'_, '_> {
            type Ok = ();
            type Error = SnapshotError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Done {
                self.entry(name, value)
            }

            fn end(self) -> Done {
                self.close()
            }
        }
    };
}

fields!(SerializeStruct);
fields!(SerializeStructVariant);

impl SerializeMap for Open<'_, '_> {
    type Ok = ();
    type Error = SnapshotError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.element(value)
    }

    fn end(self) -> Done {
        self.close()
    }
}
