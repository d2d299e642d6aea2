//! Streams as their users see them.

mod log;
