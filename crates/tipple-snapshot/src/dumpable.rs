//! The trait of everything that can be in a snapshot.

use crate::{Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

/// A value that can be dumped into a snapshot and loaded from it: derive it.
///
/// ```
/// use std::time::SystemTime;
/// use tipple_snapshot::{Dumpable, HashMap};
///
/// #[derive(Dumpable)]
/// struct Prices {
///     by_name: HashMap<String, Price>,
///     valid_until: Option<SystemTime>,
/// }
///
/// #[derive(Dumpable)]
/// enum Price {
///     Fixed(u64),
///     PerUnit { cents: u32, unit: String },
/// }
/// ```
///
/// It is there for numbers, `bool`, `char`, strings, all of std's collections, `Option`, `Result`, `Box`, `Arc`, `Cow`, arrays,
/// tuples of up to 12, `Duration`, `SystemTime`, IP addresses, `NonZero`, `Range`s and `Wrapping`. Not for `Rc`, which cannot
/// move between threads, nor for `Instant`, which means nothing to another process. A `Box` or `Arc` is dumped as what is in
/// it: what was shared is loaded as copies.
///
/// By hand it is three functions, which must agree with each other:
///
/// ```
/// use tipple_snapshot::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};
///
/// struct Color(String); // always lower case
///
/// impl Dumpable for Color {
///     const BYTES_MIN: usize = String::BYTES_MIN;
///     fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
///         String::describe(schema)
///     }
///     fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
///         self.0.dump(to)
///     }
///     fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
///         let name = String::load(from)?;
///         match name.chars().any(char::is_uppercase) {
///             true => Err(SnapshotError::value(format!("{name:?} is no color"))),
///             false => Ok(Color(name)),
///         }
///     }
/// }
/// # let bytes = tipple_snapshot::testing::to_bytes(&Color("red".into())).unwrap();
/// # let back: Color = tipple_snapshot::testing::from_bytes(&bytes).unwrap();
/// # assert_eq!(back.0, "red");
/// ```
pub trait Dumpable: Sized + Send + 'static {
    /// The fewest bytes that a value of this type takes. A length in a file that could not fit into the bytes that are left
    /// is refused by it, before anything is allocated. Containers of types that take no bytes do not compile.
    const BYTES_MIN: usize;

    /// Adds this type to a schema. Two types are interchangeable in files if and only if their schemas are equal, so this
    /// must change whenever what `dump` writes does.
    fn describe(schema: &mut SchemaBuilder) -> TypeNumber;

    /// Writes the value.
    ///
    /// # Errors
    /// Those of `to`, passed on; [`SnapshotError::value`] if this value cannot be dumped. The snapshot is then given up, and
    /// the one that is there stays.
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError>;

    /// Reads what `dump` wrote. Whatever was read had its checksum (and tag) verified, but may still be somebody's work: it
    /// must not panic, nor allocate what a length says without [`Reader::count`].
    ///
    /// # Errors
    /// Those of `from`, passed on; [`SnapshotError::value`]. The next older snapshot is tried then.
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError>;

    /// How many elements the collections in this value have; `None` if it has no collections. A value of `Some(0)` does not
    /// replace a snapshot unless that is allowed.
    fn element_count(&self) -> Option<u64> {
        None
    }

    /// Writes many values. Types whose values are plain bytes do it at once.
    ///
    /// # Errors
    /// As [`dump`](Dumpable::dump).
    fn dump_all(values: &[Self], to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.elements(values.len(), values, |value, to| value.dump(to))
    }

    /// Reads `count` values.
    ///
    /// # Errors
    /// As [`load`](Dumpable::load).
    fn load_all(count: usize, from: &mut Reader<'_>) -> Result<Vec<Self>, SnapshotError> {
        let mut values = Vec::with_capacity(from.reserve::<Self>(count));
        from.elements(count, |value| {
            values.push(value);
            Ok(())
        })?;
        Ok(values)
    }
}

/// The sum of what the fields of a value say: [`Dumpable::element_count`].
pub fn element_counts<const N: usize>(counts: [Option<u64>; N]) -> Option<u64> {
    counts.into_iter().flatten().reduce(u64::saturating_add)
}
