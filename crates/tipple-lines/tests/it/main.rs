//! Lines out of files and pipes, through frames, and back.

mod harness;
mod sink;
mod source;
