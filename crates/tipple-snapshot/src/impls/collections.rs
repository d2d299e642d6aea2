//! Texts, lists, sets and maps.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::hash::{BuildHasher, Hash};

use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, Seeded, SnapshotError, TypeNumber, Writer};

/// Refused by the compiler: a length could not be held against the bytes that are left.
const fn takes_bytes<T: Dumpable>() {
    assert!(
        T::BYTES_MIN > 0,
        "a collection of values that take no bytes cannot be dumped: dump its length"
    );
}

#[cold]
fn twice() -> SnapshotError {
    SnapshotError::damaged("a key is there twice")
}

impl Dumpable for String {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Text)
    }

    #[inline]
    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        to.text(self)
    }

    #[inline]
    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        from.text()
    }
}

fn describe_sequence<T: Dumpable>(schema: &mut SchemaBuilder) -> TypeNumber {
    // All kinds of lists are the same in a file.
    schema.add::<Vec<T>>(|schema| Shape::Sequence(T::describe(schema)))
}

impl<T: Dumpable> Dumpable for Vec<T> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        describe_sequence::<T>(schema)
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<T>() }
        to.count(self.len())?;
        T::dump_all(self, to)
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let count = from.count(T::BYTES_MIN)?;
        T::load_all(count, from)
    }
}

macro_rules! as_vec {
    ($($type:ident<T $(: $bound:ident)?>),*) => {$(
        impl<T: Dumpable $(+ $bound)?> Dumpable for $type<T> {
            const BYTES_MIN: usize = 1;

            fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
                describe_sequence::<T>(schema)
            }

            fn element_count(&self) -> Option<u64> {
                Some(self.len() as u64)
            }

            fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
                const { takes_bytes::<T>() }
                to.count(self.len())?;
                to.elements(self.len(), self, |value, to| value.dump(to))
            }

            fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                let count = from.count(T::BYTES_MIN)?;
                T::load_all(count, from).map(|values| values.into_iter().collect())
            }
        }
    )*};
}

as_vec!(BinaryHeap<T: Ord>, LinkedList<T>);

impl<T: Dumpable> Dumpable for VecDeque<T> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        describe_sequence::<T>(schema)
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<T>() }
        to.count(self.len())?;
        to.elements(self.len(), self, |value, to| value.dump(to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        // In place: a deque takes over the vector's memory.
        Vec::load(from).map(VecDeque::from)
    }
}

impl<T: Dumpable + Ord> Dumpable for BTreeSet<T> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|schema| Shape::Set {
            of: T::describe(schema),
            seeded: false,
        })
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<T>() }
        to.count(self.len())?;
        to.elements(self.len(), self, |value, to| value.dump(to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let count = from.count(T::BYTES_MIN)?;
        let mut set = BTreeSet::new();
        from.elements(count, |value| match set.insert(value) {
            true => Ok(()),
            false => Err(twice()),
        })?;
        Ok(set)
    }
}

impl<K: Dumpable + Ord, V: Dumpable> Dumpable for BTreeMap<K, V> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|schema| Shape::Map {
            key: K::describe(schema),
            value: V::describe(schema),
            seeded: false,
        })
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<(K, V)>() }
        to.count(self.len())?;
        to.elements(self.len(), self, |(key, value), to| {
            key.dump(to)?;
            value.dump(to)
        })
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let count = from.count(K::BYTES_MIN + V::BYTES_MIN)?;
        let mut map = BTreeMap::new();
        from.elements(count, |(key, value)| match map.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(twice()),
        })?;
        Ok(map)
    }
}

/// Whether a hasher says its seed, which makes loading several times as fast.
fn is_seeded<S: 'static>() -> bool {
    TypeId::of::<S>() == TypeId::of::<Seeded>()
}

/// The seed comes after the count, if there are elements at all.
fn dump_seed<S: 'static>(
    hasher: &S,
    count: usize,
    to: &mut Writer<'_>,
) -> Result<(), SnapshotError> {
    match (hasher as &dyn Any).downcast_ref::<Seeded>() {
        Some(seeded) if count > 0 => to.bytes(&seeded.seed().to_le_bytes()),
        _ => Ok(()),
    }
}

fn load_hasher<S: Default + 'static>(
    count: usize,
    from: &mut Reader<'_>,
) -> Result<S, SnapshotError> {
    let mut hasher = S::default();
    if let Some(seeded) = (&mut hasher as &mut dyn Any).downcast_mut::<Seeded>()
        && count > 0
    {
        *seeded = Seeded::with_seed(u64::from_le_bytes(from.array()?));
    }
    Ok(hasher)
}

impl<K, V, S> Dumpable for HashMap<K, V, S>
where
    K: Dumpable + Eq + Hash,
    V: Dumpable,
    S: BuildHasher + Default + Send + 'static,
{
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        let shape = |schema: &mut SchemaBuilder| Shape::Map {
            key: K::describe(schema),
            value: V::describe(schema),
            seeded: is_seeded::<S>(),
        };
        match is_seeded::<S>() {
            true => schema.add::<Self>(shape),
            // Without a seed it is the same as a map in order.
            false => schema.add::<BTreeMap<K, V>>(shape),
        }
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<(K, V)>() }
        to.count(self.len())?;
        dump_seed(self.hasher(), self.len(), to)?;
        // In the order of the table: whoever loads it with the same seed fills a new table from its beginning to its end.
        to.elements(self.len(), self, |(key, value), to| {
            key.dump(to)?;
            value.dump(to)
        })
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let count = from.count(K::BYTES_MIN + V::BYTES_MIN)?;
        let hasher = load_hasher::<S>(count, from)?;
        let room = from.reserve::<(K, V)>(count);
        let mut map = HashMap::with_capacity_and_hasher(room, hasher);
        from.elements(count, |(key, value)| match map.insert(key, value) {
            None => Ok(()),
            Some(_) => Err(twice()),
        })?;
        Ok(map)
    }
}

impl<T, S> Dumpable for HashSet<T, S>
where
    T: Dumpable + Eq + Hash,
    S: BuildHasher + Default + Send + 'static,
{
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        let shape = |schema: &mut SchemaBuilder| Shape::Set {
            of: T::describe(schema),
            seeded: is_seeded::<S>(),
        };
        match is_seeded::<S>() {
            true => schema.add::<Self>(shape),
            false => schema.add::<BTreeSet<T>>(shape),
        }
    }

    fn element_count(&self) -> Option<u64> {
        Some(self.len() as u64)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        const { takes_bytes::<T>() }
        to.count(self.len())?;
        dump_seed(self.hasher(), self.len(), to)?;
        to.elements(self.len(), self, |value, to| value.dump(to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let count = from.count(T::BYTES_MIN)?;
        let hasher = load_hasher::<S>(count, from)?;
        let room = from.reserve::<T>(count);
        let mut set = HashSet::with_capacity_and_hasher(room, hasher);
        from.elements(count, |value| match set.insert(value) {
            true => Ok(()),
            false => Err(twice()),
        })?;
        Ok(set)
    }
}
