//! What std's types look like in a snapshot. FORMAT.md has the table.

mod collections;
mod numbers;
mod pointers;
mod times;
mod tuples;
