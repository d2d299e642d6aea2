//! Dumps from end to end: a source that makes records up, real stores, a sink that keeps what it gets.

mod damage;
mod hostile;
mod notify;
mod queue;
mod refusals;
mod resume;
mod round_trip;
mod sealed;
mod source;
mod stores;
