//! The real binary, as users meet it.

mod config;
mod errors;
#[cfg(feature = "failpoints")]
mod failpoints;
mod help;
mod lines;
mod output;
mod pages;
mod signals;
mod support;
mod tour;
