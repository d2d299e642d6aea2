//! The real binary, as users meet it.

mod buckets;
mod ceph;
mod config;
mod deploy;
mod errors;
#[cfg(feature = "failpoints")]
mod failpoints;
#[cfg(feature = "failpoints")]
mod faults;
mod forms;
mod frozen;
mod help;
mod hostile;
#[cfg(feature = "failpoints")]
mod kill;
mod lines;
mod nats;
#[cfg(feature = "failpoints")]
mod notify;
mod output;
mod pages;
mod random_kills;
mod record;
mod redis;
mod sealed;
mod signals;
mod snapshot;
mod stream_memory;
mod streams;
mod supervise;
mod support;
mod tour;
mod whole_job;
