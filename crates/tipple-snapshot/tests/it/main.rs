//! The crate from outside.

mod caches;
mod children;
mod damage;
mod example;
mod folders;
mod frozen;
mod memory;
mod runtime;
mod sealed;
mod support;
mod userver;
mod values;
