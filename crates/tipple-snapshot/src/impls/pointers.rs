//! Pointers, which are what they point at, and values that may not be there.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

impl<T: Dumpable> Dumpable for Box<T> {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        T::describe(schema)
    }

    fn element_count(&self) -> Option<u64> {
        T::element_count(self)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.nested(|to| T::dump(self, to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.nested(T::load).map(Box::new)
    }
}

impl<T: Dumpable + Sync> Dumpable for Arc<T> {
    const BYTES_MIN: usize = T::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        T::describe(schema)
    }

    fn element_count(&self) -> Option<u64> {
        T::element_count(self)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.nested(|to| T::dump(self, to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.nested(T::load).map(Arc::new)
    }
}

macro_rules! slices {
    ($($type:ident: $($bound:ident)?),*) => {$(
        impl<T: Dumpable $(+ $bound)?> Dumpable for $type<[T]> {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                Vec::<T>::describe(schema)
            }

            fn element_count(&self) -> Option<u64> {
                Some(self.len() as u64)
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.count(self.len())?;
                T::dump_all(self, to)
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                Vec::<T>::load(from).map(Self::from)
            }
        }

        impl Dumpable for $type<str> {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                String::describe(schema)
            }

            #[inline]
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                to.text(self)
            }

            #[inline]
            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                from.text().map(Self::from)
            }
        }
    )*};
}

slices!(Box:, Arc: Sync);

impl<T> Dumpable for Cow<'static, T>
where
    T: ToOwned + ?Sized + Sync + 'static,
    T::Owned: Dumpable,
{
    const BYTES_MIN: usize = T::Owned::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        T::Owned::describe(schema)
    }

    fn element_count(&self) -> Option<u64> {
        match self {
            Cow::Owned(owned) => owned.element_count(),
            Cow::Borrowed(borrowed) => T::to_owned(borrowed).element_count(),
        }
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        match self {
            Cow::Owned(owned) => owned.dump(to),
            Cow::Borrowed(borrowed) => T::to_owned(borrowed).dump(to),
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        T::Owned::load(from).map(Cow::Owned)
    }
}

impl<T: Dumpable> Dumpable for Option<T> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|schema| Shape::Option(T::describe(schema)))
    }

    fn element_count(&self) -> Option<u64> {
        self.as_ref().and_then(T::element_count)
    }

    #[inline]
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        match self {
            None => to.byte(0),
            Some(value) => {
                to.byte(1)?;
                value.dump(to)
            }
        }
    }

    #[inline]
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match from.flag()? {
            false => Ok(None),
            true => T::load(from).map(Some),
        }
    }
}

impl<T: Dumpable, E: Dumpable> Dumpable for Result<T, E> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.enumeration::<Self>("Result", |schema| {
            vec![
                ("Ok", vec![("0", T::describe(schema))]),
                ("Err", vec![("0", E::describe(schema))]),
            ]
        })
    }

    fn element_count(&self) -> Option<u64> {
        match self {
            Ok(value) => value.element_count(),
            Err(error) => error.element_count(),
        }
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        match self {
            Ok(value) => {
                to.variant(0)?;
                value.dump(to)
            }
            Err(error) => {
                to.variant(1)?;
                error.dump(to)
            }
        }
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match from.variant("Result", 2)? {
            0 => T::load(from).map(Ok),
            _ => E::load(from).map(Err),
        }
    }
}

macro_rules! locks {
    ($($type:ident: $lock:ident $(+ $bound:ident)?),*) => {$(
        impl<T: Dumpable $(+ $bound)?> Dumpable for $type<T> {
            const BYTES_MIN: usize = T::BYTES_MIN;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                T::describe(schema)
            }

            fn element_count(&self) -> Option<u64> {
                self.$lock().unwrap_or_else(PoisonError::into_inner).element_count()
            }

            /// Holds the lock meanwhile: of a large value, others wait for the disk.
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                self.$lock().unwrap_or_else(PoisonError::into_inner).dump(to)
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                T::load(from).map($type::new)
            }
        }
    )*};
}

locks!(Mutex: lock, RwLock: read);
