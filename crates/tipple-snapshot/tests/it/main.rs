//! The crate from outside.

mod values;
