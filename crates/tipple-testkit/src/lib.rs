//! Starts real servers for tests, and damages files
