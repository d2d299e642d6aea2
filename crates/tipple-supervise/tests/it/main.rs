//! Real commands in real folders, into a real store.

mod defects;
mod endings;
mod files;
mod limits;
mod places;
#[cfg(feature = "failpoints")]
mod race;
mod support;
