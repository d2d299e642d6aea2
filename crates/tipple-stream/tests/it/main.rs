//! Streams as their users see them.

mod log;
mod pipeline;
mod redis;
