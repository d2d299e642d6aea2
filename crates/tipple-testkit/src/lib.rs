//! For tests only: real servers on free ports in temporary folders, a proxy that breaks connections at a byte, one that
//! knows what S3 and SQS are asked and spoils it, damage to files, small disks.
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

mod account;
mod ceph;
mod certificate;
pub mod command;
pub mod damage;
mod duckdb;
mod fault_proxy;
mod garage;
mod http;
mod mariadb;
mod memcached;
mod ministack;
mod nats;
mod nats_account;
mod operation;
mod process;
mod proxy;
mod raw_memcached;
mod raw_nats;
mod raw_s3;
mod raw_sqs;
mod redis;
mod tmpfs;
mod wait;

pub use account::Account;
pub use ceph::Ceph;
pub use certificate::Certificate;
pub use duckdb::{duckdb, try_duckdb};
pub use fault_proxy::{Fault, FaultProxy, Refusal, Rule};
pub use garage::Garage;
pub use http::Response;
pub use mariadb::MariaDb;
pub use memcached::Memcached;
pub use ministack::MiniStack;
pub use nats::Nats;
pub use nats_account::{NatsAccount, NatsKey};
pub use operation::Operation;
pub use process::{free_port, memory_max, signal, try_memory_max};
pub use proxy::{End, Flow, Proxy, Script};
pub use raw_memcached::{Expected, Item, RawMemcached, expected};
pub use raw_nats::{NatsMessage, RawNats};
pub use raw_s3::{Object, RawS3, Upload};
pub use raw_sqs::{Message, RawSqs};
pub use redis::{RawRedis, Redis, RedisReply};
pub use tmpfs::Tmpfs;
pub use wait::{cases, is_long, wait_for, wait_for_some};
