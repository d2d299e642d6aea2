//! Numbers, `bool` and `char`.

use std::cmp::Reverse;
use std::marker::PhantomData;
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8,
    NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize, Saturating, Wrapping,
};
use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16,
    AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

#[cold]
fn too_large(what: &str, value: impl std::fmt::Display) -> SnapshotError {
    SnapshotError::damaged(format!("{value} is no {what}"))
}

macro_rules! unsigned {
    ($($type:ty: $bits:literal),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.add::<Self>(|_| Shape::Unsigned($bits))
            }

            #[inline]
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.unsigned(*self as u64)
            }

            #[inline]
            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                let value = from.unsigned()?;
                value.try_into().map_err(|_| too_large(stringify!($type), value))
            }
        }
    )*};
}

macro_rules! signed {
    ($($type:ty: $bits:literal),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.add::<Self>(|_| Shape::Signed($bits))
            }

            #[inline]
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.signed(*self as i64)
            }

            #[inline]
            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                let value = from.signed()?;
                value.try_into().map_err(|_| too_large(stringify!($type), value))
            }
        }
    )*};
}

// usize is 64 bits in every file, so that a program of 32 bits reads what one of 64 wrote, if it fits.
unsigned!(u16: 16, u32: 32, u64: 64, usize: 64);
signed!(i16: 16, i32: 32, i64: 64, isize: 64);

impl Dumpable for u128 {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Unsigned(128))
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.unsigned_128(*self)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.unsigned_128()
    }
}

impl Dumpable for i128 {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Signed(128))
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.unsigned_128((*self as u128) << 1 ^ (*self >> 127) as u128)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let value = from.unsigned_128()?;
        Ok((value >> 1) as i128 ^ -((value & 1) as i128))
    }
}

impl Dumpable for u8 {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::U8)
    }

    #[inline]
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.byte(*self)
    }

    #[inline]
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.byte()
    }

    fn dump_all(values: &[Self], to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.bytes(values)
    }

    fn load_all(count: usize, from: &mut Reader<'_>) -> Result<Vec<Self>, SnapshotError> {
        from.take(count)
    }
}

impl Dumpable for i8 {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::I8)
    }

    #[inline]
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.byte(*self as u8)
    }

    #[inline]
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(from.byte()? as i8)
    }
}

macro_rules! floats {
    ($($type:ty: $shape:ident),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = size_of::<$type>();

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.add::<Self>(|_| Shape::$shape)
            }

            #[inline]
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.bytes(&self.to_le_bytes())
            }

            #[inline]
            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                from.array().map(Self::from_le_bytes)
            }
        }
    )*};
}

floats!(f32: F32, f64: F64);

impl Dumpable for bool {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Bool)
    }

    #[inline]
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.byte((*self).into())
    }

    #[inline]
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.flag()
    }
}

impl Dumpable for char {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Char)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.unsigned(u32::from(*self).into())
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let value = u32::load(from)?;
        char::from_u32(value).ok_or_else(|| too_large("char", value))
    }
}

macro_rules! nonzero {
    ($($type:ty: $inner:ty),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                <$inner>::describe(schema)
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                self.get().dump(to)
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                Self::new(<$inner>::load(from)?).ok_or_else(|| too_large(stringify!($type), 0))
            }
        }
    )*};
}

nonzero!(
    NonZeroU8: u8, NonZeroU16: u16, NonZeroU32: u32, NonZeroU64: u64, NonZeroU128: u128, NonZeroUsize: usize,
    NonZeroI8: i8, NonZeroI16: i16, NonZeroI32: i32, NonZeroI64: i64, NonZeroI128: i128, NonZeroIsize: isize
);

macro_rules! atomics {
    ($($type:ty: $inner:ty),*) => {$(
        impl Dumpable for $type {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                <$inner>::describe(schema)
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                self.load(Ordering::Relaxed).dump(to)
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                <$inner>::load(from).map(Self::new)
            }
        }
    )*};
}

atomics!(
    AtomicBool: bool, AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize,
    AtomicI8: i8, AtomicI16: i16, AtomicI32: i32, AtomicI64: i64, AtomicIsize: isize
);

macro_rules! transparent {
    ($($type:ident),*) => {$(
        impl<T: Dumpable> Dumpable for $type<T> {
            const BYTES_MIN: usize = T::BYTES_MIN;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                T::describe(schema)
            }

            fn element_count(&self) -> Option<u64> {
                self.0.element_count()
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                self.0.dump(to)
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                T::load(from).map($type)
            }
        }
    )*};
}

transparent!(Reverse, Saturating, Wrapping);

impl Dumpable for () {
    const BYTES_MIN: usize = 0;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Unit)
    }

    fn dump(&self, _: &mut Writer<'_>) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn load(_: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(())
    }
}

impl<T: Send + 'static> Dumpable for PhantomData<T> {
    const BYTES_MIN: usize = 0;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<()>(|_| Shape::Unit)
    }

    fn dump(&self, _: &mut Writer<'_>) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn load(_: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(PhantomData)
    }
}
