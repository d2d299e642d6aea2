//! memcached as a source: keys are listed into key files, each key file is a part, and its items are fetched.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tipple_budget::{Cancelled, Gate};
use tipple_chunk::Scratch;
use tipple_flow::{
    Estimate, Failure, Identity, Outcomes, PartReader, Party, Planned, Planner, Source, Stop,
};

use crate::connection::{Connection, Version};
use crate::fetch::Fetcher;
use crate::filter::{Filter, FilterOptions};
use crate::items::{HEADER_BYTES, ITEMS_NAME, ITEMS_VERSION, KEY_BYTES_MAX};
use crate::listing::{HandOver, KeySpace, Listed, Lister, Listing, ServerListed};
use crate::options::{MemcachedOptions, TlsOptions};
use crate::stats::{Incarnation, Stats};
use crate::url::{MemcachedUrl, Server};

/// The smallest key file.
pub const KEY_FILE_BYTES_MIN: u64 = 4 << 10;
/// The largest key file: it is collected in memory, once per server.
pub const KEY_FILE_BYTES_MAX: u64 = 64 << 20;
/// The longest value that a record holds.
pub const ITEM_VALUE_BYTES_MAX: u64 = 1 << 30;

const KEY_FILE_BYTES_DEFAULT: u64 = 4 << 20;
/// What is sent between the listing threads and the planner's and not taken yet.
const LISTED_IN_FLIGHT_MAX: usize = 1024;
/// Bytes of a key with its fields in a key file, before it is compressed, where keys are not as long as they can be.
/// Keys in published traces of caches have 20 to 70 bytes on average.
const KEY_RECORD_BYTES: u64 = 128;
/// What an item has in a key file beside its key.
const KEY_FIELDS_BYTES: u64 = 24;
/// What a key file has beside its keys, and files that are never full.
const KEY_SPACE_BASE_BYTES: u64 = 1 << 20;
/// The first version with the meta commands as they are used here.
const VERSION_MIN: (u32, u32, u32) = (1, 6, 0);

/// What is dumped, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// Which items. Shapes the data.
    pub filter: FilterOptions,
    /// How keys are listed.
    pub listing: Listing,
    /// Raw bytes of a key file, that is of a part: [`KEY_FILE_BYTES_MIN`] to [`KEY_FILE_BYTES_MAX`]. Default 4 MiB, some
    /// 80,000 keys.
    pub key_file_bytes: u64,
    /// The local disk that key files may take. Default: from the number of items, 128 bytes each (fewer if they are
    /// smaller than that as a whole), a quarter more for growth while listing, all of it twice in case that a listing breaks off, and 1 MiB per server.
    pub key_space_bytes: Option<u64>,
    /// The longest value that is dumped; a longer one is a loss. Default and most: 1 GiB, memcached's own limit.
    pub value_bytes_max: u64,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            filter: FilterOptions::default(),
            listing: Listing::default(),
            key_file_bytes: KEY_FILE_BYTES_DEFAULT,
            key_space_bytes: None,
            value_bytes_max: ITEM_VALUE_BYTES_MAX,
        }
    }
}

impl SourceOptions {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Usage`]) that names the option, its value and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        let usage = |message: String| Err(Failure::new(Party::Usage, message));
        if !(KEY_FILE_BYTES_MIN..=KEY_FILE_BYTES_MAX).contains(&self.key_file_bytes) {
            return usage(format!(
                "a key file size of {} bytes is out of range: give --key-file-size {KEY_FILE_BYTES_MIN} to {KEY_FILE_BYTES_MAX}",
                self.key_file_bytes
            ));
        }
        if let Listing::All { passes } = self.listing
            && !(1..=Listing::PASSES_MAX).contains(&passes)
        {
            return usage(format!(
                "{passes} passes over the keys are out of range: give --listing all:1 to all:{}",
                Listing::PASSES_MAX
            ));
        }
        if self.value_bytes_max > ITEM_VALUE_BYTES_MAX {
            return usage(format!(
                "a longest value of {} bytes is out of range: give at most {ITEM_VALUE_BYTES_MAX}",
                self.value_bytes_max
            ));
        }
        Ok(())
    }
}

/// The point in time that a plan speaks of. Persisted in plans: stable.
#[derive(Debug, Serialize, Deserialize)]
struct Lives {
    servers: Vec<ServerLife>,
}

/// One server of it.
#[derive(Debug, Serialize, Deserialize)]
struct ServerLife {
    #[serde(flatten)]
    incarnation: Incarnation,
    version: String,
    curr_items: u64,
    listed: u64,
}

/// What the check found.
#[derive(Clone, Copy, Debug)]
struct Checked {
    key_space_bytes: u64,
    /// The passes over the LRU that a server needs; `None` if none does.
    passes: Option<u32>,
}

/// memcached servers that are dumped.
#[derive(Debug)]
pub struct MemcachedSource {
    url: MemcachedUrl,
    options: MemcachedOptions,
    source: SourceOptions,
    filter: Filter,
    // The life of each server that the plan speaks of: the one that the check met, or that of a plan gone on with.
    lives: Mutex<BTreeMap<String, Incarnation>>,
    checked: Mutex<Option<Checked>>,
}

impl MemcachedSource {
    /// The source that `url` names. Connects to nothing.
    ///
    /// # Errors
    /// [`Failure`] ([`Party::Usage`]) if the options make no sense.
    pub fn new(
        url: MemcachedUrl,
        mut options: MemcachedOptions,
        source: SourceOptions,
    ) -> Result<Self, Failure> {
        options.validate()?;
        source.validate()?;
        if url.tls() && options.tls.is_none() {
            options.tls = Some(TlsOptions::default());
        }
        let filter = Filter::new(source.filter.clone())?;
        Ok(Self {
            url,
            options,
            source,
            filter,
            lives: Mutex::default(),
            checked: Mutex::default(),
        })
    }

    pub(crate) fn url(&self) -> &MemcachedUrl {
        &self.url
    }

    pub(crate) fn options(&self) -> &MemcachedOptions {
        &self.options
    }

    pub(crate) fn value_bytes_max(&self) -> u64 {
        self.source.value_bytes_max
    }

    /// Which of the URL's servers a key file speaks of.
    pub(crate) fn server_number(&self, name: &str) -> Result<usize, Failure> {
        let mut servers = self.url.servers().iter();
        servers.position(|server| server.to_string() == name).ok_or_else(|| {
            Failure::new(
                Party::Content,
                format!("the plan has keys of memcached at {name}, which {} does not name: give the URL that the dump was begun with", self.url),
            )
        })
    }

    /// Compares with the life that the plan speaks of.
    pub(crate) fn check_life(&self, now: Incarnation) -> Result<(), Failure> {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives
            .entry(now.server.clone())
            .or_insert_with(|| now.clone())
            .check(&now)
    }

    fn checked(&self) -> MutexGuard<'_, Option<Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_life(&self, life: &Incarnation) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.insert(life.server.clone(), life.clone());
    }

    fn look(&self, server: &Server) -> Result<(Version, Stats), Stop> {
        let look = || {
            let mut connection = Connection::connect(server, &self.options, None)?;
            let stats = Stats::read(&mut connection, None)?;
            Ok((connection.version().clone(), stats))
        };
        let (version, stats) =
            look().map_err(|error: crate::ConnectionError| error.into_stop(Party::Source))?;
        let (major, minor, patch) = VERSION_MIN;
        if !version.is_at_least(major, minor, patch) {
            return Err(Failure::new(
                Party::Source,
                format!(
                    "memcached at {server} is version {version}, which has no meta commands: version {major}.{minor} or later can be dumped"
                ),
            )
            .into());
        }
        if !stats.lru_crawler {
            return Err(crawler_off(server).into());
        }
        Ok((version, stats))
    }

    /// The local disk that the keys of servers with these statistics may take.
    fn key_space(&self, servers: &[Stats], passes: Option<u32>) -> u64 {
        if let Some(bytes) = self.source.key_space_bytes {
            return bytes;
        }
        let keys: u64 = servers
            .iter()
            .map(|stats| {
                // No item is smaller than its key.
                let item_bytes = stats.bytes / stats.curr_items.max(1);
                let record_bytes =
                    (item_bytes.min(KEY_BYTES_MAX as u64) + KEY_FIELDS_BYTES).min(KEY_RECORD_BYTES);
                let keys_bytes = stats.curr_items.saturating_mul(record_bytes);
                keys_bytes.saturating_add(keys_bytes / 4)
            })
            .fold(0, u64::saturating_add);
        let servers = servers.len() as u64;
        // A listing that broke off lies beside the one that replaces it, and several passes beside what comes of them.
        let factor = 2 + u64::from(passes.unwrap_or(0));
        keys.saturating_mul(factor)
            .saturating_add(servers * KEY_SPACE_BASE_BYTES)
    }

    /// Lists all servers; `None` if a listing broke off after parts of it were handed over.
    fn plan_servers(
        &self,
        planner: &mut dyn Planner,
        gate: &Gate,
        key_space: &KeySpace,
        hand_over: HandOver,
    ) -> Result<Option<Vec<ServerListed>>, Stop> {
        let dir = planner.scratch_dir().to_owned();
        let lister = Lister {
            options: &self.options,
            check_life: &|now| self.check_life(now),
            filter: &self.filter,
            listing: self.source.listing,
            hand_over,
            key_file_bytes: self.source.key_file_bytes,
            key_space,
            dir: &dir,
            scratch: planner.scratch_key().map(Scratch::new),
            gate,
        };
        let servers = self.url.servers();
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(LISTED_IN_FLIGHT_MAX);
            let threads: Vec<_> = servers
                .iter()
                .enumerate()
                .map(|(number, server)| {
                    let (lister, sender) = (&lister, sender.clone());
                    scope.spawn(move || lister.list(number, server, &sender))
                })
                .collect();
            drop(sender);
            let mut keys = 0;
            let mut taken = Ok(());
            let mut broke_off = false;
            // Until every thread has ended, or the planner takes no more: then the threads learn it when they send.
            while let Ok(listed) = receiver.recv() {
                match listed {
                    Listed::Keys(more) => {
                        keys += more;
                        planner.listed(keys);
                    }
                    Listed::Failed => break,
                    Listed::BrokeOff => {
                        broke_off = true;
                        break;
                    }
                    Listed::Part(part) => taken = planner.add(part),
                }
                if taken.is_err() {
                    break;
                }
            }
            drop(receiver);
            let ended: Vec<_> = threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect();
            taken?;
            // The failure of one server is told before the cancel that followed from it.
            let (mut listed, mut cancelled) = (Vec::new(), false);
            for result in ended {
                match result {
                    Ok(server) => listed.push(server),
                    Err(Stop::Cancelled(_)) => cancelled = true,
                    Err(failed) => return Err(failed),
                }
            }
            gate.check()?;
            if broke_off {
                Ok(None)
            } else if cancelled {
                Err(Cancelled.into())
            } else {
                Ok(Some(listed))
            }
        })
    }
}

pub(crate) fn crawler_off(server: &Server) -> Failure {
    Failure::new(
        Party::Source,
        format!(
            "memcached at {server} does not list its keys: its LRU crawler is off; turn it on with the command `lru_crawler enable`"
        ),
    )
}

impl Source for MemcachedSource {
    fn identity(&self) -> Identity {
        let mut servers: Vec<_> = self.url.servers().iter().map(Server::to_string).collect();
        servers.sort_unstable();
        let id = json!({
            "servers": servers,
            "filter": self.filter.identity(),
            "value_bytes_max": self.source.value_bytes_max,
        });
        Identity {
            kind: "memcached".to_owned(),
            id,
        }
    }

    fn content(&self) -> (&'static str, u16) {
        (ITEMS_NAME, ITEMS_VERSION)
    }

    fn reader_bytes(&self) -> u64 {
        Fetcher::memory_bytes(&self.options)
    }

    fn planner_bytes(&self) -> u64 {
        let passes = match *self.checked() {
            Some(checked) => checked.passes,
            None => self.source.listing.passes_max(),
        };
        let each = Lister::memory_bytes(&self.options, self.source.key_file_bytes, passes);
        each * self.url.servers().len() as u64
    }

    fn check(&self) -> Result<Estimate, Stop> {
        let (mut stats, mut passes) = (Vec::new(), None);
        for server in self.url.servers() {
            let (version, found) = self.look(server)?;
            passes = passes.max(self.source.listing.passes(&version));
            self.set_life(&Incarnation::new(server.to_string(), &found));
            stats.push(found);
        }
        let key_space = self.key_space(&stats, passes);
        *self.checked() = Some(Checked {
            key_space_bytes: key_space,
            passes,
        });
        let mut estimate = Estimate {
            plan_bytes_max: key_space,
            ..Estimate::default()
        };
        for stats in &stats {
            let keys_bytes = stats.curr_items.saturating_mul(KEY_RECORD_BYTES / 2);
            estimate.parts += keys_bytes.div_ceil(self.source.key_file_bytes);
            estimate.records = estimate.records.saturating_add(stats.curr_items);
            // An item in memory has 59 bytes beside key and value, a record has 32.
            let overhead = stats.curr_items.saturating_mul(59 - HEADER_BYTES as u64);
            let bytes = stats.bytes.saturating_sub(overhead);
            estimate.bytes = estimate.bytes.saturating_add(bytes);
        }
        Ok(estimate)
    }

    fn plan(&self, planner: &mut dyn Planner, gate: &Gate) -> Result<Planned, Stop> {
        let checked = *self.checked();
        let key_space = match checked {
            Some(checked) => checked.key_space_bytes,
            None => self.check()?.plan_bytes_max,
        };
        let key_space = KeySpace::new(key_space);
        let listed = match self.plan_servers(planner, gate, &key_space, HandOver::AtOnce)? {
            Some(listed) => listed,
            None => {
                planner.restart()?;
                self.plan_servers(planner, gate, &key_space, HandOver::WhenComplete)?
                    .expect("only what is handed over at once can break off")
            }
        };
        let mut planned = Planned::default();
        let mut lives = Lives {
            servers: Vec::new(),
        };
        for server in listed {
            planned.outcomes.merge(&server.outcomes);
            lives.servers.push(ServerLife {
                incarnation: server.incarnation,
                version: server.version,
                curr_items: server.curr_items,
                listed: server.listed,
            });
        }
        planned.incarnation = serde_json::to_value(lives).expect("plain values");
        Ok(planned)
    }

    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        let Ok(lives) = Lives::deserialize(incarnation) else {
            return Ok(false);
        };
        for life in &lives.servers {
            let number = self.server_number(&life.incarnation.server)?;
            let server = &self.url.servers()[number];
            let (_, stats) = self.look(server)?;
            let now = Incarnation::new(server.to_string(), &stats);
            if life.incarnation.check(&now).is_err() {
                return Ok(false);
            }
        }
        for life in &lives.servers {
            self.set_life(&life.incarnation);
        }
        Ok(true)
    }

    fn open(&self) -> Result<Box<dyn PartReader + '_>, Stop> {
        Ok(Box::new(Fetcher::new(self)?))
    }

    fn finish(
        &self,
        planned: &Planned,
        _records: u64,
        _outcomes: &Outcomes,
    ) -> Result<Value, Stop> {
        let lives = Lives::deserialize(&planned.incarnation).map_err(|error| {
            Failure::new(
                Party::Content,
                "the plan does not say which servers it speaks of",
            )
            .because(error)
        })?;
        let mut servers = Vec::new();
        let (mut before, mut listed) = (0, 0);
        for life in &lives.servers {
            let number = self.server_number(&life.incarnation.server)?;
            let server = &self.url.servers()[number];
            let (version, stats) = self.look(server)?;
            life.incarnation
                .check(&Incarnation::new(server.to_string(), &stats))?;
            before += life.curr_items;
            listed += life.listed;
            servers.push(json!({
                "server": life.incarnation.server,
                "version": version.as_str(),
                "curr_items_before": life.curr_items,
                "curr_items_after": stats.curr_items,
                "listed": life.listed,
            }));
        }
        Ok(json!({ "servers": servers, "completeness": completeness(before, listed) }))
    }
}

/// The share of the items that a server counted before the listing which the listing named, at most 1. It is below 1 by
/// the items that had expired and were still counted.
fn completeness(before: u64, listed: u64) -> f64 {
    if before == 0 {
        return 1.0;
    }
    let share = listed.min(before) as f64 / before as f64;
    (share * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str, options: SourceOptions) -> MemcachedSource {
        MemcachedSource::new(url.parse().unwrap(), MemcachedOptions::default(), options).unwrap()
    }

    #[test]
    fn the_identity_is_servers_and_what_shapes_the_data() {
        let one = source("memcached://b,a:1", SourceOptions::default()).identity();
        let same = SourceOptions {
            key_file_bytes: 10_000,
            ..Default::default()
        };
        assert_eq!(source("memcached://a:1,b", same).identity(), one);
        let filter = FilterOptions {
            prefixes: vec!["x".into()],
            ..Default::default()
        };
        let other = SourceOptions {
            filter,
            ..Default::default()
        };
        assert_ne!(source("memcached://a:1,b", other).identity(), one);
        assert_ne!(
            source("memcached://a:1", SourceOptions::default()).identity(),
            one
        );
    }

    #[test]
    fn the_key_space_follows_the_items() {
        let default = source("memcached://a", SourceOptions::default());
        let stats = |curr_items, bytes| Stats {
            curr_items,
            bytes,
            ..Default::default()
        };
        let base = KEY_SPACE_BASE_BYTES;
        assert_eq!(default.key_space(&[stats(0, 0)], None), base);
        assert_eq!(
            default.key_space(&[stats(1000, 1_000_000)], None),
            320_000 + base
        );
        assert_eq!(
            default.key_space(&[stats(1000, 76_000)], None),
            250_000 + base
        );
        assert_eq!(
            default.key_space(&[stats(1000, 1_000_000)], Some(3)),
            5 * 160_000 + base
        );
        let given = SourceOptions {
            key_space_bytes: Some(7),
            ..Default::default()
        };
        assert_eq!(
            source("memcached://a", given).key_space(&[stats(1000, 1000)], None),
            7
        );
    }

    #[test]
    fn limits_are_checked() {
        for (options, starts) in [
            (
                SourceOptions {
                    key_file_bytes: 1,
                    ..Default::default()
                },
                "a key file size of 1 bytes",
            ),
            (
                SourceOptions {
                    listing: Listing::All { passes: 0 },
                    ..Default::default()
                },
                "0 passes",
            ),
            (
                SourceOptions {
                    value_bytes_max: u64::MAX,
                    ..Default::default()
                },
                "a longest value of",
            ),
        ] {
            let refusal = options.validate().unwrap_err();
            assert_eq!(refusal.party(), Party::Usage);
            assert!(refusal.to_string().starts_with(starts), "{refusal}");
        }
        assert_eq!(completeness(0, 5), 1.0);
        assert_eq!(completeness(10, 12), 1.0);
        assert_eq!(completeness(4, 3), 0.75);
    }
}
