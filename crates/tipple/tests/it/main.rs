//! The real binary, as users and scripts meet it.

mod faults;
mod kill;
mod whole_job;
