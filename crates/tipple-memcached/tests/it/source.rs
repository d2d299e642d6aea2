//! The source against real servers.
