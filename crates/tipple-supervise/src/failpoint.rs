//! Named moments at which a test may kill the process. Nothing in a build without the feature `failpoints`.

/// Marks a moment. The names are listed in ARCHITECTURE.md; the kill tests go through all of them.
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!(concat!("supervise::", $name));
    };
}
pub(crate) use failpoint;
