//! Tests against a real memcached, and against peers that say what the real one cannot be made to say.

mod cachemover;
mod items;
mod pipeline;
mod protocol;
mod server;
mod sink;
mod source;
