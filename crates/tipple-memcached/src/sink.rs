//! memcached as a sink: items into one server, or into many by the ring that their clients use.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};
use tipple_budget::Gate;
use tipple_flow::{
    Cause, Failure, Identity, Outcomes, PartName, PartWriter, Party, RecordReader, Resume, Sink,
    Stop,
};

use crate::connection::{Connection, ConnectionError};
use crate::filter::{EXPIRED, Filter};
use crate::items::{ITEMS_NAME, ITEMS_VERSION, ItemReader, KEY_BYTES_MAX, NEVER};
use crate::ketama::{BUCKET_DEFAULT, Ring};
use crate::lane::{Lane, Target};
use crate::life::Life;
use crate::options::MemcachedOptions;
use crate::retry::Retry;
use crate::stats::Incarnation;
use crate::url::{MemcachedUrl, Server};

/// The smallest window.
pub const WINDOW_BYTES_MIN: usize = 64 << 10;
/// The largest window.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;
/// Up to here the server takes a time for a number of seconds from now: 30 days.
const RELATIVE_S_MAX: i64 = 60 * 60 * 24 * 30;
/// Later than this the server would, without a word, let the item expire at once or never.
const EXPTIME_MAX: i64 = i32::MAX as i64;
/// The clock is read once in so many items.
const ITEMS_PER_CLOCK: u32 = 256;

static EXPIRY_OUT_OF_RANGE: Cause = Cause::loss("expiry out of range");

/// What becomes of an item that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreMode {
    /// It is replaced.
    #[default]
    Set,
    /// It stays, and ours is counted as "already there". If a connection is lost and requests are sent again, so are
    /// those that had been stored without our knowing.
    Add,
}

/// How to load items.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// What becomes of an item that is there already. Default [`StoreMode::Set`].
    pub mode: StoreMode,
    /// Which items are loaded. Default all that have not expired.
    pub filter: Filter,
    /// Points per server on the ring that tells which of several servers gets a key. Default 160.
    pub ring_bucket: usize,
    /// Bytes of requests per server and writer that are kept until they are acknowledged, to be sent again if the
    /// connection is lost; larger items cannot be. Default 1 MiB and 64 KiB, so that all items of a server with the
    /// usual limit fit; [`WINDOW_BYTES_MIN`] to [`WINDOW_BYTES_MAX`].
    pub window_bytes: usize,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            mode: StoreMode::Set,
            filter: Filter::default(),
            ring_bucket: BUCKET_DEFAULT,
            window_bytes: (1 << 20) + (64 << 10),
        }
    }
}

impl SinkOptions {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// [`Party::Usage`], naming the option, its value and its range.
    pub fn validate(&self) -> Result<(), Failure> {
        if (WINDOW_BYTES_MIN..=WINDOW_BYTES_MAX).contains(&self.window_bytes) {
            return Ok(());
        }
        Err(Failure::new(
            Party::Usage,
            format!(
                "a window of {} bytes is out of range: give {WINDOW_BYTES_MIN} to {WINDOW_BYTES_MAX}",
                self.window_bytes
            ),
        ))
    }
}

/// Loads items into the servers of a URL. Every writer has one connection to each server that it has items for.
#[derive(Debug)]
pub struct MemcachedSink {
    url: MemcachedUrl,
    options: MemcachedOptions,
    sink: SinkOptions,
    ring: Ring,
    // Of each server, when the load began; empty before `check`.
    lives: Mutex<Vec<Life>>,
}

impl MemcachedSink {
    /// A sink of the servers of `url`. With several, each key goes to the one that owns it on the ring of all, in
    /// their order. Reaches nobody yet.
    ///
    /// # Errors
    /// [`Party::Usage`] if options make no sense.
    pub fn new(
        url: MemcachedUrl,
        mut options: MemcachedOptions,
        sink: SinkOptions,
    ) -> Result<Self, Failure> {
        if url.tls() {
            options.tls.get_or_insert_default();
        }
        options.validate()?;
        sink.validate()?;
        let hosts: Vec<String> = match url.servers() {
            // A socket has no place on a ring, and alone it needs none.
            [_] => vec!["only:1".to_owned()],
            servers => servers.iter().map(Server::to_string).collect(),
        };
        Ok(Self {
            ring: Ring::new(&hosts, sink.ring_bucket)?,
            url,
            options,
            sink,
            lives: Mutex::default(),
        })
    }

    fn lives(&self) -> Vec<Life> {
        self.lives
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn incarnations(&self) -> Vec<Incarnation> {
        let servers = self.url.servers().iter();
        servers
            .zip(self.lives())
            .map(|(server, life)| life.incarnation(server))
            .collect()
    }

    /// What the server says of itself, and that it can be written. One attempt.
    fn look(&self, server: &Server) -> Result<Life, ConnectionError> {
        let mut connection = Connection::connect(server, &self.options, None)?;
        look(&mut connection)
    }

    /// The same of a server that was there before, and may be so again in a moment.
    fn look_again(&self, server: &Server) -> Result<Life, Stop> {
        let mut retry = Retry::new(&self.options.retry);
        loop {
            match self.look(server) {
                Ok(life) => return Ok(life),
                Err(error) if error.is_retryable() && retry.wait(None)? => {}
                Err(error) => return Err(error.into_stop(Party::Sink)),
            }
        }
    }
}

fn look(connection: &mut Connection) -> Result<Life, ConnectionError> {
    // Base64 keys came with 1.6.10; what is older answers "b" as an invalid flag, after it took the value.
    if !connection.version().is_at_least(1, 6, 10) {
        return Err(ConnectionError::Unexpected {
            server: connection.server().clone(),
            reply: format!("VERSION {}", connection.version()),
            expected: "version 1.6.10 or newer, which has all meta commands,",
        });
    }
    Life::read(connection, None)
}

impl Sink for MemcachedSink {
    fn identity(&self) -> Identity {
        let servers: Vec<String> = self.url.servers().iter().map(Server::to_string).collect();
        Identity {
            kind: "memcached".to_owned(),
            id: json!({
                "servers": servers,
                "ring_bucket": self.ring.bucket(),
                "filter": self.sink.filter.identity(),
                "mode": match self.sink.mode {
                    StoreMode::Set => "set",
                    StoreMode::Add => "add",
                },
            }),
        }
    }

    fn accepts(&self, content: &str, version: u16) -> bool {
        content == ITEMS_NAME && version == ITEMS_VERSION
    }

    fn ordered(&self) -> bool {
        false
    }

    fn resume(&self) -> Resume {
        Resume::Idempotent
    }

    fn writer_bytes(&self) -> u64 {
        self.url.servers().len() as u64 * Lane::bytes(&self.options, self.sink.window_bytes)
    }

    /// Tries once: what nobody has reached yet is more likely mistyped than about to come back.
    fn check(&self) -> Result<(), Stop> {
        let lives = self
            .url
            .servers()
            .iter()
            .map(|server| self.look(server))
            .collect::<Result<_, _>>()
            .map_err(|error| error.into_stop(Party::Sink))?;
        *self.lives.lock().unwrap_or_else(PoisonError::into_inner) = lives;
        Ok(())
    }

    /// `{"servers": [{"server", "pid", "started", "cmd_flush"}]}`, in the order of the URL: stable.
    fn incarnation(&self) -> Result<Value, Stop> {
        Ok(json!({ "servers": self.incarnations() }))
    }

    fn is_same(&self, incarnation: &Value) -> Result<bool, Stop> {
        let now = self.incarnations();
        let Ok(before) = Vec::<Incarnation>::deserialize(&incarnation["servers"]) else {
            return Ok(false);
        };
        let mut pairs = before.iter().zip(&now);
        Ok(before.len() == now.len()
            && pairs.all(|(before, now)| before.server == now.server && before.check(now).is_ok()))
    }

    fn open<'a>(&'a self, gate: &'a Gate) -> Result<Box<dyn PartWriter + 'a>, Stop> {
        let lives = self.lives();
        let lanes = self.url.servers().iter().enumerate().map(|(n, server)| {
            Lane::new(Target {
                server,
                options: &self.options,
                mode: self.sink.mode,
                window_bytes: self.sink.window_bytes,
                life: lives.get(n).copied(),
                gate,
            })
        });
        Ok(Box::new(MemcachedWriter {
            lanes: lanes.collect(),
            ring: &self.ring,
            filter: &self.sink.filter,
        }))
    }

    /// Looks at every server once more. `{"servers": [{"server", "curr_items_before", "curr_items_after",
    /// "evictions_delta"}], "evicted_during_load": n, "warnings": […]}`: evicted were the least recently used items of
    /// a server that was full, which may have been those just loaded.
    ///
    /// # Errors
    /// [`Party::Sink`] if a server was restarted since [`Sink::check`], or cannot be reached.
    fn finish(&self, _outcomes: &Outcomes) -> Result<Value, Stop> {
        let (mut servers, mut warnings, mut evicted) = (Vec::new(), Vec::new(), 0);
        for (server, before) in self.url.servers().iter().zip(self.lives()) {
            let after = self.look_again(server)?;
            before.require_same(&after, server)?;
            let evictions = after.evictions.saturating_sub(before.evictions);
            evicted += evictions;
            if evictions > 0 {
                warnings.push(format!(
                    "memcached at {server} evicted {evictions} items during the load to make room, and some of them may have just been loaded: give it more memory (-m)"
                ));
            }
            servers.push(json!({
                "server": server.to_string(),
                "curr_items_before": before.items,
                "curr_items_after": after.items,
                "evictions_delta": evictions,
            }));
        }
        Ok(json!({
            "servers": servers,
            "evicted_during_load": evicted,
            "warnings": warnings,
        }))
    }
}

struct MemcachedWriter<'a> {
    lanes: Vec<Lane<'a>>,
    ring: &'a Ring,
    filter: &'a Filter,
}

impl PartWriter for MemcachedWriter<'_> {
    fn write_part(
        &mut self,
        _part: &PartName,
        records: &mut RecordReader<'_>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        for lane in &mut self.lanes {
            lane.reset();
        }
        let mut items = ItemReader::new(records);
        let (mut now, mut clock) = (0, 0_u32);
        while let Some(read) = items.next()? {
            if clock == 0 {
                (now, clock) = (unix_s(), ITEMS_PER_CLOCK);
            }
            clock -= 1;
            let item = read.item;
            if let Err(cause) = self.filter.keep(item.key, item.exptime, now) {
                outcomes.count(cause);
                continue;
            }
            if item.exptime != NEVER {
                if item.exptime <= RELATIVE_S_MAX {
                    // Only a clock that stands in January 1970 comes here; the server would take it for relative.
                    outcomes.count(&EXPIRED);
                    continue;
                }
                if item.exptime > EXPTIME_MAX {
                    outcomes.count(&EXPIRY_OUT_OF_RANGE);
                    continue;
                }
            }
            let lane = &mut self.lanes[self.ring.owner(item.key)];
            if let Some(value) = read.value {
                lane.store(&item, value, outcomes)?;
                continue;
            }
            let value_bytes = read.value_bytes;
            let mut key = [0; KEY_BYTES_MAX];
            let key = &mut key[..item.key.len()];
            key.copy_from_slice(item.key);
            let head = crate::items::Item { key: &[], ..item };
            lane.store_pieces(key, &head, value_bytes, &mut items, outcomes)?;
        }
        items.finish()?;
        for lane in &mut self.lanes {
            lane.drain(outcomes)?;
        }
        Ok(())
    }
}

fn unix_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
