//! The integration tests of `tipple-chunk`: one binary.

mod damage;
mod fixtures;
mod hostile;
mod independent;
mod io;
mod memory;
mod messages;
mod mutation;
mod round_trip;
mod sealed;
mod sealed_independent;
mod stock_tools;
mod support;
