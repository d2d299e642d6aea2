//! A hasher that says its seed.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections, fmt};

use foldhash::fast::{FixedState, FoldHasher};

/// A `HashMap` whose hasher says its seed, so that a snapshot has it: loading such a map fills a table from its beginning to
/// its end, which is several times as fast as filling it in random order.
pub type HashMap<K, V> = collections::HashMap<K, V, Seeded>;

/// A `HashSet` whose hasher says its seed: as [`HashMap`].
pub type HashSet<T> = collections::HashSet<T, Seeded>;

/// Makes foldhash hashers with a seed that is random for each map, and is written into snapshots.
///
/// Whoever can read the snapshots knows the seed, and could make keys that collide. Use std's hasher for maps whose keys are
/// chosen by strangers.
#[derive(Clone)]
pub struct Seeded {
    seed: u64,
    state: FixedState,
}

impl Seeded {
    /// The hasher of this seed.
    pub fn with_seed(seed: u64) -> Self {
        Self {
            seed,
            state: FixedState::with_seed(seed),
        }
    }

    /// Its seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

impl Default for Seeded {
    /// A seed of its own for each map: two maps of one seed that are poured into each other are slow.
    fn default() -> Self {
        Self::with_seed(random())
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        self.state.build_hasher()
    }
}

impl fmt::Debug for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeded")
    }
}

/// A number that nobody outside can guess, other than the one before: std asks the system once for each thread.
pub(crate) fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    collections::hash_map::RandomState::new().hash_one(count)
}
