//! The plain format of userver's cache dumps (`core/include/userver/dump`), as of 2024: for services that take over what another
//! one in C++ has written, or the other way round.
//!
//! That format has no header, no checksum and no types: bytes of another type are mostly an error, and sometimes another value. So
//! it is read once, at a migration, and [`SnapshotFolder`](crate::SnapshotFolder) is for everything else. Names of files are the same:
//! [`tools::snapshots`](crate::tools::snapshots) lists them, the newest first.
//!
//! ```
//! use std::collections::BTreeMap;
//! use tipple_snapshot::userver;
//!
//! #[derive(Debug, PartialEq)]
//! struct Price { cents: u32, currency: String }
//! tipple_snapshot::userver_struct!(Price { cents, currency });
//!
//! let prices = BTreeMap::from([("tea".to_owned(), Price { cents: 300, currency: "EUR".to_owned() })]);
//! let bytes = userver::to_bytes(&prices)?;
//! assert_eq!(bytes, b"\x01\x03tea\x81\x2C\x03EUR");
//! assert_eq!(userver::from_bytes::<BTreeMap<String, Price>>(&bytes)?, prices);
//! # Ok::<(), tipple_snapshot::SnapshotError>(())
//! ```
//!
//! Integers of 9 bytes, floats and durations are those of a little-endian machine there, and everywhere here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::SnapshotError;

/// A type that is in userver's dumps. [`userver_struct!`](crate::userver_struct) implements it for structs.
pub trait UserverValue: Sized {
    /// Writes the value.
    ///
    /// # Errors
    /// `Value` if userver has no such value.
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError>;

    /// Reads it.
    ///
    /// # Errors
    /// `Damaged` if the bytes are none of this type.
    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError>;
}

/// The bytes of a dump that are not read yet.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The next `len` bytes.
    ///
    /// # Errors
    /// `Damaged` if there are fewer.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], SnapshotError> {
        let Some((bytes, rest)) = self.0.split_at_checked(len) else {
            return Err(SnapshotError::damaged(format!(
                "{len} bytes should follow, and {} do",
                self.0.len()
            )));
        };
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        Ok(self.take(N)?.try_into().expect("so many"))
    }

    /// An integer, as 64 bits. Longer forms than the shortest are accepted, as userver does.
    ///
    /// # Errors
    /// `Damaged` if it is cut off.
    pub fn integer(&mut self) -> Result<u64, SnapshotError> {
        let [first] = self.array()?;
        Ok(match first {
            0..0x80 => first.into(),
            0x80..0xC0 => {
                let [second] = self.array()?;
                (u64::from(first) & 0x3F) << 8 | u64::from(second)
            }
            0xC0..0xFF => {
                let [b, c, d] = self.array()?;
                u32::from_be_bytes([first & 0x3F, b, c, d]).into()
            }
            0xFF => u64::from_le_bytes(self.array()?),
        })
    }

    /// A length: of elements that take a byte at least.
    ///
    /// # Errors
    /// `Damaged` if so many could not be in the bytes that are left.
    pub fn length(&mut self) -> Result<usize, SnapshotError> {
        let length = self.integer()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.0.len())
            .ok_or_else(|| {
                SnapshotError::damaged(format!(
                    "a length of {length}, with {} bytes left",
                    self.0.len()
                ))
            })
    }
}

/// Writes an integer as userver does.
pub fn write_integer(value: u64, to: &mut Vec<u8>) {
    match value {
        0..0x80 => to.push(value as u8),
        0x80..0x4000 => to.extend((value as u16 | 0x8000).to_be_bytes()),
        0x4000..0x3F00_0000 => to.extend((value as u32 | 0xC000_0000).to_be_bytes()),
        _ => {
            to.push(0xFF);
            to.extend(value.to_le_bytes());
        }
    }
}

/// The bytes of a dump.
///
/// # Errors
/// Those of the value.
pub fn to_bytes<T: UserverValue>(value: &T) -> Result<Vec<u8>, SnapshotError> {
    let mut bytes = Vec::new();
    value.write(&mut bytes)?;
    Ok(bytes)
}

/// The value of a dump, which must be all of the bytes.
///
/// # Errors
/// `Damaged` if they are no such value, or if bytes are left.
pub fn from_bytes<T: UserverValue>(bytes: &[u8]) -> Result<T, SnapshotError> {
    let mut left = Bytes(bytes);
    let value = T::read(&mut left)?;
    match left.0.len() {
        0 => Ok(value),
        more => Err(SnapshotError::damaged(format!(
            "unexpected extra data at the end of the dump: {more} of {} bytes",
            bytes.len()
        ))),
    }
}

/// Implements [`UserverValue`](crate::userver::UserverValue) for a struct: its fields in the order that is given, which must be
/// that of the fields in C++.
#[macro_export]
macro_rules! userver_struct {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::userver::UserverValue for $type {
            fn write(&self, to: &mut ::std::vec::Vec<u8>) -> ::std::result::Result<(), $crate::SnapshotError> {
                $($crate::userver::UserverValue::write(&self.$field, to)?;)*
                ::std::result::Result::Ok(())
            }

            fn read(from: &mut $crate::userver::Bytes<'_>) -> ::std::result::Result<Self, $crate::SnapshotError> {
                // In this order, whatever that of the struct is.
                $(let $field = $crate::userver::UserverValue::read(from)?;)*
                ::std::result::Result::Ok(Self { $($field),* })
            }
        }
    };
}

macro_rules! integers {
    ($($type:ty: $wide:ty),*) => {$(
        impl UserverValue for $type {
            fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
                write_integer(*self as $wide as u64, to);
                Ok(())
            }

            fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
                let value = from.integer()? as $wide;
                value.try_into().map_err(|_| {
                    SnapshotError::damaged(format!("{value} is no {}", stringify!($type)))
                })
            }
        }
    )*};
}

integers!(u16: u64, u32: u64, u64: u64, i16: i64, i32: i64, i64: i64);

macro_rules! fixed {
    ($($type:ty),*) => {$(
        impl UserverValue for $type {
            fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
                to.extend(self.to_le_bytes());
                Ok(())
            }

            fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
                from.array().map(Self::from_le_bytes)
            }
        }
    )*};
}

fixed!(u8, i8, f32, f64);

impl UserverValue for bool {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        to.push((*self).into());
        Ok(())
    }

    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        match from.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(SnapshotError::damaged(format!(
                "{other} stands where 0 or 1 must"
            ))),
        }
    }
}

impl UserverValue for String {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        write_integer(self.len() as u64, to);
        to.extend(self.as_bytes());
        Ok(())
    }

    /// Strings in C++ may be anything: what is no UTF-8 is an error here. Read it as bytes, by [`Bytes::take`].
    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        let length = from.length()?;
        let text = std::str::from_utf8(from.take(length)?);
        text.map(str::to_owned)
            .map_err(|_| SnapshotError::damaged("a text is no UTF-8"))
    }
}

impl<T: UserverValue> UserverValue for Option<T> {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        self.is_some().write(to)?;
        self.as_ref().map_or(Ok(()), |value| value.write(to))
    }

    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        match bool::read(from)? {
            true => T::read(from).map(Some),
            false => Ok(None),
        }
    }
}

macro_rules! pointers {
    ($($type:ident),*) => {$(
        /// A pointer that is null there is an error here: read it as an `Option`.
        impl<T: UserverValue> UserverValue for $type<T> {
            fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
                to.push(1);
                T::write(self, to)
            }

            fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
                match Option::read(from)? {
                    Some(value) => Ok($type::new(value)),
                    None => Err(SnapshotError::damaged("a pointer is null")),
                }
            }
        }
    )*};
}

pointers!(Arc, Box);

fn write_all<T: UserverValue>(
    count: usize,
    values: impl Iterator<Item = T>,
    to: &mut Vec<u8>,
) -> Result<(), SnapshotError> {
    write_integer(count as u64, to);
    values.into_iter().try_for_each(|value| value.write(to))
}

/// So that collections of references are written.
impl<T: UserverValue> UserverValue for &T {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        T::write(self, to)
    }

    fn read(_: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        Err(SnapshotError::value("a reference cannot be read"))
    }
}

/// Elements are taken as they come: a length allocates nothing.
fn read_all<T: UserverValue, C: Default + Extend<T>>(
    from: &mut Bytes<'_>,
) -> Result<C, SnapshotError> {
    let length = from.length()?;
    let mut all = C::default();
    for _ in 0..length {
        all.extend([T::read(from)?]);
    }
    Ok(all)
}

macro_rules! collections {
    ($($type:ty: $element:ty, [$($generics:tt)*]);* $(;)?) => {$(
        impl<$($generics)*> UserverValue for $type {
            fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
                write_all(self.len(), self.iter(), to)
            }

            fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
                read_all::<$element, Self>(from)
            }
        }
    )*};
}

collections! {
    Vec<T>: T, [T: UserverValue];
    BTreeSet<T>: T, [T: UserverValue + Ord];
    HashSet<T, S>: T, [T: UserverValue + Eq + Hash, S: BuildHasher + Default];
    BTreeMap<K, V>: (K, V), [K: UserverValue + Ord, V: UserverValue];
    HashMap<K, V, S>: (K, V), [K: UserverValue + Eq + Hash, V: UserverValue, S: BuildHasher + Default];
}

macro_rules! tuples {
    ($(($($type:ident $number:tt),+))*) => {$(
        impl<$($type: UserverValue),+> UserverValue for ($($type,)+) {
            fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
                $(self.$number.write(to)?;)+
                Ok(())
            }

            fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
                Ok(($($type::read(from)?,)+))
            }
        }
    )*};
}

tuples! {
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
}

/// `std::chrono` of milliseconds or less: nanoseconds.
impl UserverValue for Duration {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let nanos = i64::try_from(self.as_nanos())
            .map_err(|_| SnapshotError::value("a duration is longer than 292 years"))?;
        to.extend(nanos.to_le_bytes());
        Ok(())
    }

    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        let nanos = i64::from_le_bytes(from.array()?);
        u64::try_from(nanos)
            .map(Duration::from_nanos)
            .map_err(|_| SnapshotError::damaged("a duration is negative"))
    }
}

/// `std::chrono::system_clock::time_point`.
impl UserverValue for SystemTime {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        let nanos = match self.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()),
            Err(before) => i64::try_from(before.duration().as_nanos()).map(|nanos| -nanos),
        };
        let nanos = nanos
            .map_err(|_| SnapshotError::value("a time is more than 292 years away from 1970"))?;
        to.extend(nanos.to_le_bytes());
        Ok(())
    }

    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        let nanos = i64::from_le_bytes(from.array()?);
        let span = Duration::from_nanos(nanos.unsigned_abs());
        Ok(match nanos {
            0.. => SystemTime::UNIX_EPOCH + span,
            _ => SystemTime::UNIX_EPOCH - span,
        })
    }
}

#[cfg(feature = "uuid")]
impl UserverValue for uuid::Uuid {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), SnapshotError> {
        to.extend(self.as_bytes());
        Ok(())
    }

    fn read(from: &mut Bytes<'_>) -> Result<Self, SnapshotError> {
        from.array().map(uuid::Uuid::from_bytes)
    }
}
