//! Tests of the recorder as a program sees it.

mod accounting;
mod allocations;
mod clocks;
mod config;
mod elfo;
mod faults;
mod files;
mod flight;
mod handover;
mod integrations;
mod killed;
mod lines;
mod power;
mod reading;
mod shipping;
mod support;
