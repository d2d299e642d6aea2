//! Tests of the recorder as a program sees it.

mod accounting;
mod allocations;
mod config;
mod elfo;
mod faults;
mod files;
mod flight;
mod handover;
mod integrations;
mod killed;
mod lines;
mod reading;
mod shipping;
mod support;
