//! The test kit itself: what tests rely on must hold.

mod damage;
mod floors;
mod mariadb;
mod memcached;
mod process;
mod proxy;
