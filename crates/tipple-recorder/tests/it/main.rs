//! Tests of the recorder as a program sees it.

mod accounting;
mod lines;
mod support;
