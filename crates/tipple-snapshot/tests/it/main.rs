//! The crate from outside.

mod caches;
mod children;
mod damage;
mod dependencies;
mod example;
mod folders;
mod frozen;
mod memory;
mod metrics;
mod remote;
mod runtime;
mod sealed;
mod stress;
mod support;
mod userver;
mod values;
