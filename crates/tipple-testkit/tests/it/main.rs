//! The test kit itself: what tests rely on must hold.

mod ceph;
mod damage;
mod fault_proxy;
mod floors;
mod garage;
mod mariadb;
mod memcached;
mod ministack;
mod process;
mod proxy;
