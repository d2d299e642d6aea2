//! Tuples and arrays: their values one after the other.

use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

macro_rules! tuples {
    ($(($($type:ident $number:tt),+))*) => {$(
        impl<$($type: Dumpable),+> Dumpable for ($($type,)+) {
            const BYTES_MIN: usize = 0 $(+ $type::BYTES_MIN)+;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                schema.add::<Self>(|schema| Shape::Tuple(vec![$($type::describe(schema)),+]))
            }

            fn element_count(&self) -> Option<u64> {
                crate::element_counts([$(self.$number.element_count()),+])
            }

            #[inline]
            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                $(self.$number.dump(to)?;)+
                Ok(())
            }

            #[inline]
            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                Ok(($($type::load(from)?,)+))
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11)
}

impl<T: Dumpable, const N: usize> Dumpable for [T; N] {
    const BYTES_MIN: usize = N * T::BYTES_MIN;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|schema| Shape::Array(T::describe(schema), N as u64))
    }

    fn element_count(&self) -> Option<u64> {
        let counts = self.iter().filter_map(T::element_count);
        counts.reduce(u64::saturating_add)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.iter().try_for_each(|value| value.dump(to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        // An array is as long as its type says, so this allocates nothing that a file claims.
        let mut values = Vec::with_capacity(N);
        for _ in 0..N {
            values.push(T::load(from)?);
        }
        Ok(values
            .try_into()
            .unwrap_or_else(|_| unreachable!("it has {N}")))
    }
}
