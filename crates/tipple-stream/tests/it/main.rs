//! Streams as their users see them.

mod harness;
mod hostile;
mod log;
mod nats;
mod nats_faults;
mod pipeline;
mod redis;
