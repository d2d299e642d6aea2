//! Tests of the recorder as a program sees it.

mod accounting;
mod config;
mod faults;
mod files;
mod flight;
mod handover;
mod killed;
mod lines;
mod reading;
mod support;
