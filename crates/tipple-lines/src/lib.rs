//! Text lines of a file, stdin or stdout as a source and a sink
