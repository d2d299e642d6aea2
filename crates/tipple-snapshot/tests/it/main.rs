//! The crate from outside.

mod caches;
mod support;
mod values;
