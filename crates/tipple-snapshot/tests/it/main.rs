//! The crate from outside.

mod any;
mod caches;
mod children;
mod compressed;
mod damage;
mod dependencies;
mod example;
mod folders;
mod forged;
mod forging;
mod frozen;
mod frozen_value;
mod memory;
mod metrics;
mod reconfigured;
mod remote;
mod runtime;
mod sealed;
mod stress;
mod support;
mod userver;
mod values;
