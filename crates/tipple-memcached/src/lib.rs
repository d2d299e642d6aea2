//! memcached as a source and a sink: every item with its key, value, flags, expiry and heat, out of live servers and
//! back.
//!
//! The source lists keys through the hash table walk of `lru_crawler metadump`, which misses nothing while clients read
//! and write, and fetches them with `mg`, which leaves hotness and eviction order as they are. It never sends a byte of
//! a key that could be read as a command, never searches inside values, and never holds a value in memory.
//!
//! This crate must never slow the listing of a server down (a listing that nobody reads blocks the server), never write
//! to a source, and never show a password.
//!
//! ```no_run
//! use tipple_flow::Source;
//! use tipple_memcached::{MemcachedOptions, MemcachedSource, SourceOptions};
//!
//! let url = "memcached://cache1:11211,cache2:11211".parse()?;
//! let source = MemcachedSource::new(url, MemcachedOptions::default(), SourceOptions::default())?;
//! let estimate = source.check()?;
//! println!("about {} items", estimate.records);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cachemover;
mod connection;
mod doctor;
mod fetch;
mod filter;
mod items;
mod ketama;
mod key_file;
mod lane;
mod life;
mod listing;
mod metadump;
mod options;
mod reply;
mod retry;
mod sink;
mod source;
mod stats;
mod url;

pub use cachemover::{CachemoverOptions, CachemoverSink, CachemoverSource, is_cachemover};
pub use connection::{Connection, ConnectionError, OUTBOX_BYTES_MAX, Version};
pub use doctor::{Diagnosis, Finding, Verdict, doctor};
pub use fetch::{EXPIRY_UNKNOWN, GONE, SERVER_ERROR, TOO_LARGE, UNSENDABLE};
pub use filter::{EXPIRED, Filter, FilterOptions};
pub use items::{
    HEADER_BYTES, ITEMS_NAME, ITEMS_VERSION, Item, ItemReader, ItemsContent, KEY_BYTES_MAX, NEVER,
    ReadItem, VALUE_BYTES_MAX, encode_header,
};
pub use ketama::{BUCKET_DEFAULT, Ring};
pub use key_file::{KEYS, KEYS_EXTENSION, KeyFileError, KeyFileReader, Keys};
pub use listing::Listing;
pub use metadump::{LineError, ListedItem, METADUMP_LINE_BYTES_MAX};
pub use options::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, Credentials, MemcachedOptions, TlsOptions};
pub use reply::{MetaFlags, REPLY_LINE_BYTES_MAX, Reply, ReplyError, check_data_end, parse_reply};
pub use retry::{Retry, RetryOptions};
pub use sink::{MemcachedSink, SinkOptions, StoreMode, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
pub use source::{
    ITEM_VALUE_BYTES_MAX, KEY_FILE_BYTES_MAX, KEY_FILE_BYTES_MIN, MemcachedSource, SourceOptions,
};
pub use stats::{Incarnation, Stats};
pub use url::{MemcachedUrl, PORT_DEFAULT, Server, UrlError};
