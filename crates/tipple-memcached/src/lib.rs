//! memcached as a source and a sink

mod filter;
mod items;
mod ketama;

pub use filter::{EXPIRED, Filter, FilterOptions};
pub use items::{
    HEADER_BYTES, ITEMS_NAME, ITEMS_VERSION, Item, ItemReader, ItemsContent, KEY_BYTES_MAX, NEVER,
    ReadItem, VALUE_BYTES_MAX, encode_header,
};
pub use ketama::{BUCKET_DEFAULT, Ring};
