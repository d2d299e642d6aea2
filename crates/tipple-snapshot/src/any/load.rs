//! Bytes into serde's data model.

use std::fmt::Display;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use super::{no_value, tag};
use crate::{ErrorKind, Reader, SnapshotError};

/// A type that cannot be made of these bytes: they may be in perfect health.
impl Error for SnapshotError {
    fn custom<M: Display>(message: M) -> Self {
        misfit(message)
    }
}

#[cold]
fn misfit(why: impl Display) -> SnapshotError {
    SnapshotError::new(
        ErrorKind::Schema,
        format!("the value does not fit its type: {why}"),
    )
}

/// Reads one value.
pub(super) struct Loader<'r, 'a>(pub(super) &'r mut Reader<'a>);

impl Loader<'_, '_> {
    /// The text that comes next: a name.
    fn text(&mut self) -> Result<String, SnapshotError> {
        String::deserialize(Loader(self.0))
    }

    fn visit_text<'de, V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        // Names of fields need no memory of their own.
        if let Some(bytes) = self.0.in_frame(len) {
            let text = std::str::from_utf8(bytes).map_err(|_| no_text())?;
            return visitor.visit_str(text);
        }
        let text = String::from_utf8(self.0.take(len)?).map_err(|_| no_text())?;
        visitor.visit_string(text)
    }

    fn visit_elements<'de, V: Visitor<'de>>(
        self,
        is_map: bool,
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        // Each takes a byte at least.
        let count = self.0.unsigned()?.min(self.0.bytes_left());
        self.0.enter()?;
        let mut elements = Elements {
            from: &mut *self.0,
            left: usize::try_from(count).unwrap_or(usize::MAX),
            has_ended: false,
        };
        let value = match is_map {
            true => visitor.visit_map(&mut elements),
            false => visitor.visit_seq(&mut elements),
        }?;
        if !elements.has_ended && elements.from.byte()? != tag::END {
            return Err(misfit("it has more elements"));
        }
        self.0.leave();
        Ok(value)
    }
}

#[cold]
fn no_text() -> SnapshotError {
    SnapshotError::damaged("a text is no UTF-8")
}

impl<'de> Deserializer<'de> for Loader<'_, '_> {
    type Error = SnapshotError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SnapshotError> {
        let from = self.0;
        match from.byte()? {
            number @ ..tag::TEXT_SHORT => visitor.visit_u64(number.into()),
            short @ tag::TEXT_SHORT..tag::NONE => {
                let len = usize::from(short - tag::TEXT_SHORT);
                Loader(from).visit_text(len, visitor)
            }
            tag::NONE => visitor.visit_none(),
            tag::UNIT => visitor.visit_unit(),
            tag::FALSE => visitor.visit_bool(false),
            tag::TRUE => visitor.visit_bool(true),
            tag::UNSIGNED => visitor.visit_u64(from.unsigned()?),
            tag::NEGATIVE => match i64::try_from(from.unsigned()?) {
                Ok(number) => visitor.visit_i64(!number),
                Err(_) => Err(no_value(tag::NEGATIVE)),
            },
            tag::UNSIGNED_128 => visitor.visit_u128(from.unsigned_128()?),
            tag::NEGATIVE_128 => match i128::try_from(from.unsigned_128()?) {
                Ok(number) => visitor.visit_i128(!number),
                Err(_) => Err(no_value(tag::NEGATIVE_128)),
            },
            tag::F32 => visitor.visit_f32(f32::from_le_bytes(from.array()?)),
            tag::F64 => visitor.visit_f64(f64::from_le_bytes(from.array()?)),
            tag::TEXT => {
                let len = from.count(1)?;
                Loader(from).visit_text(len, visitor)
            }
            tag::BYTES => {
                let len = from.count(1)?;
                visitor.visit_byte_buf(from.take(len)?)
            }
            tag::SOME => from.nested(|from| visitor.visit_some(Loader(from))),
            tag::LIST => Loader(from).visit_elements(false, visitor),
            tag::MAP => Loader(from).visit_elements(true, visitor),
            other => Err(no_value(other)),
        }
    }

    /// What was always there may be left out one day.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SnapshotError> {
        match self.0.peek()? {
            tag::NONE | tag::SOME => self.deserialize_any(visitor),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        if self.0.peek()? != tag::MAP {
            let variant = self.text()?;
            return visitor.visit_enum(variant.into_deserializer());
        }
        self.0.byte()?;
        self.0.unsigned()?;
        let value = self.0.nested(|from| visitor.visit_enum(Variant { from }))?;
        match self.0.byte()? {
            tag::END => Ok(value),
            _ => Err(misfit("a variant has more than one value")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Elements of a list, or keys and values.
struct Elements<'r, 'a> {
    from: &'r mut Reader<'a>,
    /// How many there may be.
    left: usize,
    has_ended: bool,
}

impl Elements<'_, '_> {
    fn next<'de, S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, SnapshotError> {
        if self.has_ended {
            return Ok(None);
        }
        if self.from.peek()? == tag::END {
            self.from.byte()?;
            self.has_ended = true;
            return Ok(None);
        }
        self.left = self.left.saturating_sub(1);
        seed.deserialize(Loader(self.from)).map(Some)
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, '_> {
    type Error = SnapshotError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, SnapshotError> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> MapAccess<'de> for &mut Elements<'_, '_> {
    type Error = SnapshotError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, SnapshotError> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, SnapshotError> {
        seed.deserialize(Loader(self.from))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The only entry of a map.
struct Variant<'r, 'a> {
    from: &'r mut Reader<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = SnapshotError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), SnapshotError> {
        let variant = seed.deserialize(Loader(&mut *self.from))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = SnapshotError;

    fn unit_variant(self) -> Result<(), SnapshotError> {
        <()>::deserialize(Loader(self.from))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, SnapshotError> {
        seed.deserialize(Loader(self.from))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        Loader(self.from).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SnapshotError> {
        Loader(self.from).deserialize_any(visitor)
    }
}
