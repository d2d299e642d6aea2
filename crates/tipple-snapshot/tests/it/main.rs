//! The crate from outside.

mod caches;
mod children;
mod damage;
mod folders;
mod memory;
mod sealed;
mod support;
mod values;
