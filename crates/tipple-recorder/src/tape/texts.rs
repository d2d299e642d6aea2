//! What is text in a tape by rules of its own: the keys of maps, and JSON that a message brings with it.

use std::fmt::Display;

use serde::ser::{self, Impossible, Serialize};

use super::{FIELD, KEY, RAW, Result, Tape, TapeError};

/// Refuses everything of a `Serializer` but what its implementor says.
macro_rules! refuse {
    ($error:expr; $($name:ident($($kind:ty),*))*) => {
        $(fn $name(self, $(_: $kind),*) -> Result { Err($error) })*
    };
    (compound $error:expr) => {
        type Ok = ();
        type Error = TapeError;
        type SerializeSeq = Impossible<(), TapeError>;
        type SerializeTuple = Impossible<(), TapeError>;
        type SerializeTupleStruct = Impossible<(), TapeError>;
        type SerializeTupleVariant = Impossible<(), TapeError>;
        type SerializeMap = Impossible<(), TapeError>;
        type SerializeStruct = Impossible<(), TapeError>;
        type SerializeStructVariant = Impossible<(), TapeError>;

        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq> {
            Err($error)
        }

        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple> {
            Err($error)
        }

        fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct> {
            Err($error)
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant> {
            Err($error)
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap> {
            Err($error)
        }

        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct> {
            Err($error)
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant> {
            Err($error)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result {
            Err($error)
        }
    };
}

/// A key of a map, by the rules of `serde_json`: what is text, or a number or a boolean in quotes.
pub(super) struct Key<'t, 'a>(pub(super) &'t mut Tape<'a>);

fn no_key() -> TapeError {
    ser::Error::custom("key must be a string")
}

impl Key<'_, '_> {
    /// As `serde_json` writes it.
    fn number(self, value: &impl Serialize) -> Result {
        (self.0).composed(KEY, |text| serde_json::to_writer(text, value).is_ok())
    }
}

macro_rules! keys_displayed {
    ($($name:ident $kind:ty),*) => {
        $(fn $name(self, value: $kind) -> Result {
            self.0.display(KEY, &value)
        })*
    };
}

impl ser::Serializer for Key<'_, '_> {
    refuse!(compound no_key());

    keys_displayed!(
        serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64,
        serialize_i128 i128, serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64,
        serialize_u128 u128, serialize_char char
    );

    refuse!(no_key();
        serialize_bytes(&[u8])
        serialize_none()
        serialize_unit()
        serialize_unit_struct(&'static str)
    );

    fn serialize_f32(self, value: f32) -> Result {
        match value.is_finite() {
            true => self.number(&value),
            false => Err(ser::Error::custom(
                "float key must be finite (got NaN or +/-inf)",
            )),
        }
    }

    fn serialize_f64(self, value: f64) -> Result {
        match value.is_finite() {
            true => self.number(&value),
            false => Err(ser::Error::custom(
                "float key must be finite (got NaN or +/-inf)",
            )),
        }
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result {
        self.0.text(KEY, value.as_bytes())
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result {
        self.0.name(FIELD, variant)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result {
        value.serialize(self)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result {
        self.0.display(KEY, value)
    }
}

/// The text inside of a `RawValue`.
pub(super) struct RawText<'t, 'a>(pub(super) &'t mut Tape<'a>);

fn no_raw() -> TapeError {
    ser::Error::custom("expected RawValue")
}

impl ser::Serializer for RawText<'_, '_> {
    refuse!(compound no_raw());
    refuse!(no_raw();
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_f32(f32) serialize_f64(f64) serialize_char(char)
        serialize_bytes(&[u8]) serialize_none() serialize_unit() serialize_unit_struct(&'static str)
        serialize_unit_variant(&'static str, u32, &'static str)
    );

    fn serialize_some<T: Serialize + ?Sized>(self, _value: &T) -> Result {
        Err(no_raw())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _value: &T,
    ) -> Result {
        Err(no_raw())
    }

    fn serialize_str(self, value: &str) -> Result {
        self.0.text(RAW, value.as_bytes())
    }
}
