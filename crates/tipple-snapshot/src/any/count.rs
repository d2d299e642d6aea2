//! How many elements a value of serde has, without a look at each of them.

use std::fmt::{self, Display};

use serde::ser::{Error, Impossible, Serialize, Serializer};

/// The elements of its collections, as far as their lengths are told before their elements.
pub(super) fn elements<T: Serialize>(value: &T) -> Option<u64> {
    match value.serialize(Counter) {
        Ok(count) | Err(Counted(count)) => count,
    }
}

struct Counter;

/// An answer that came before all of the value was seen.
#[derive(Debug)]
struct Counted(Option<u64>);

impl Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted: {:?}", self.0)
    }
}

impl std::error::Error for Counted {}

impl Error for Counted {
    fn custom<M: Display>(_: M) -> Self {
        Counted(None)
    }
}

/// The sum over the fields.
#[derive(Default)]
struct Sum(Option<u64>);

impl Sum {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) {
        let (Ok(count) | Err(Counted(count))) = value.serialize(Counter);
        let counts = [self.0, count].into_iter().flatten();
        self.0 = counts.reduce(u64::saturating_add);
    }
}

type Count = Result<Option<u64>, Counted>;

/// Values that are no collections.
macro_rules! plain {
    ($($name:ident: $type:ty)*) => {
        $(fn $name(self, _: $type) -> Count {
            Ok(None)
        })*
    };
}

/// Values whose fields are looked at.
macro_rules! summed {
    ($($name:ident($(_: $type:ty),*);)*) => {
        $(fn $name(self, $(_: $type),*) -> Result<Sum, Counted> {
            Ok(Sum::default())
        })*
    };
}

impl Serializer for Counter {
    type Ok = Option<u64>;
    type Error = Counted;
    type SerializeSeq = Impossible<Option<u64>, Counted>;
    type SerializeTuple = Sum;
    type SerializeTupleStruct = Sum;
    type SerializeTupleVariant = Sum;
    type SerializeMap = Impossible<Option<u64>, Counted>;
    type SerializeStruct = Sum;
    type SerializeStructVariant = Sum;

    plain! {
        serialize_bool: bool serialize_i8: i8 serialize_i16: i16 serialize_i32: i32 serialize_i64: i64 serialize_i128: i128
        serialize_u8: u8 serialize_u16: u16 serialize_u32: u32 serialize_u64: u64 serialize_u128: u128
        serialize_f32: f32 serialize_f64: f64 serialize_char: char serialize_str: &str serialize_bytes: &[u8]
        serialize_unit_struct: &'static str
    }

    fn serialize_none(self) -> Count {
        Ok(None)
    }

    fn serialize_unit(self) -> Count {
        Ok(None)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Count {
        Ok(None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Count {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Count {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Count {
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, Counted> {
        Err(Counted(len.map(|len| len as u64)))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, Counted> {
        Err(Counted(len.map(|len| len as u64)))
    }

    summed! {
        serialize_tuple(_: usize);
        serialize_tuple_struct(_: &'static str, _: usize);
        serialize_tuple_variant(_: &'static str, _: u32, _: &'static str, _: usize);
        serialize_struct(_: &'static str, _: usize);
        serialize_struct_variant(_: &'static str, _: u32, _: &'static str, _: usize);
    }
}

macro_rules! sum {
    ($trait:ident, $element:ident $(, $name:ident: $type:ty)?) => {
        impl serde::ser::$trait for Sum {
            type Ok = Option<u64>;
            type Error = Counted;

            fn $element<T: Serialize + ?Sized>(
                &mut self,
                $($name: $type,)?
                value: &T,
            ) -> Result<(), Counted> {
                self.add(value);
                Ok(())
            }

            fn end(self) -> Count {
                Ok(self.0)
            }
        }
    };
}

sum!(SerializeTuple, serialize_element);
sum!(SerializeTupleStruct, serialize_field);
sum!(SerializeTupleVariant, serialize_field);
sum!(SerializeStruct, serialize_field, _name: &'static str);
sum!(SerializeStructVariant, serialize_field, _name: &'static str);
