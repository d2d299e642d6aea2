//! A type that has only serde, made dumpable.

use std::ops::{Deref, DerefMut};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{count, dump::Dumper, load::Loader};
use crate::schema::Shape;
use crate::{Dumpable, Reader, SchemaBuilder, SnapshotError, TypeNumber, Writer};

/// Makes a value dumpable that has serde's `Serialize` and `Deserialize`: of a crate that knows nothing of this one, or a type
/// whose snapshots should outlive its changes.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tipple_snapshot::{Dumpable, HashMap, Serde};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(tag = "kind")]
/// enum Rule { Deny, Limit { per_minute: u32 } }
///
/// #[derive(Debug, PartialEq, Dumpable)]
/// struct Rules {
///     by_tenant: HashMap<String, Serde<Rule>>,
///     raw: Serde<serde_json::Value>,
/// }
///
/// let rules = Rules {
///     by_tenant: [("a".to_owned(), Serde(Rule::Limit { per_minute: 60 }))].into_iter().collect(),
///     raw: Serde(serde_json::json!({ "b": [1, null, 2.5] })),
/// };
/// tipple_snapshot::testing::assert_roundtrip(&rules);
/// ```
///
/// It is streamed as any other value: what serde gives element by element is held nowhere. All of serde's data model is there,
/// also `flatten`, untagged enums and maps whose keys are no texts; types are asked for their human-readable form.
///
/// What `derive(Dumpable)` gives and this does not:
/// - Names of fields are written with each value: it takes more bytes and time. Compression takes most of the bytes back.
/// - The schema does not know what is in it. A changed type still loads its old snapshots if serde can make it of them
///   (`#[serde(default)]`); if not, the load fails with `Schema`, and an older one is tried.
/// - A collection inside is decoded by one thread, and reserves no more than serde does. Put the large collection outside:
///   `HashMap<String, Serde<Rule>>`, not `Serde<HashMap<String, Rule>>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serde<T>(pub T);

impl<T> Deref for Serde<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Serde<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Serde<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Dumpable for Serde<T> {
    const BYTES_MIN: usize = 1;

    fn describe(schema: &mut SchemaBuilder) -> TypeNumber {
        schema.add::<Self>(|_| Shape::Any)
    }

    fn dump(&self, to: &mut Writer<'_>) -> Result<(), SnapshotError> {
        self.0.serialize(Dumper(to))
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        T::deserialize(Loader(from)).map(Self)
    }

    fn element_count(&self) -> Option<u64> {
        count::elements(&self.0)
    }
}
