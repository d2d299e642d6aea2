//! For tests only: real servers on free ports in temporary folders, a proxy that breaks connections at a byte, damage
//! to files, small disks.
//!
//! Everything here panics when it cannot do what it is asked: a missing server fails the test with the command that
//! installs it, and never skips. Nothing sleeps for a fixed time: [`wait_for`] polls a condition until a generous
//! deadline. This crate is never shipped, and knows no other crate of the workspace.
//!
//! ```
//! use tipple_testkit::{Memcached, RawMemcached, wait_for};
//!
//! let server = Memcached::start(&["-m", "64"]);
//! let mut client = RawMemcached::connect(&server);
//! client.fill(1000);
//! wait_for("1000 items", || client.stat("curr_items") == 1000);
//! ```

mod certificate;
pub mod command;
pub mod damage;
mod mariadb;
mod memcached;
mod process;
mod proxy;
mod raw_memcached;
mod tmpfs;
mod wait;

pub use certificate::Certificate;
pub use mariadb::MariaDb;
pub use memcached::Memcached;
pub use process::{memory_max, signal};
pub use proxy::{End, Flow, Proxy, Script};
pub use raw_memcached::{Expected, Item, RawMemcached, expected};
pub use tmpfs::Tmpfs;
pub use wait::{cases, is_long, wait_for, wait_for_some};
