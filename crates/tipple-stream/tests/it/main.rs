//! Streams as their users see them.
