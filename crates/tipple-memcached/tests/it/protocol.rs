//! What a connection makes of what servers say.

use tipple_memcached::{Connection, MemcachedOptions};

use crate::server::Memcached;

#[test]
fn a_connection_knows_its_server() {
    let memcached = Memcached::start(&[]);
    let options = MemcachedOptions::default();
    let mut connection = Connection::connect(memcached.server(), &options, None).unwrap();
    assert!(
        connection.version().is_at_least(1, 6, 9),
        "{}",
        connection.version()
    );
    connection.send(b"mn\r\n", None).unwrap();
    assert_eq!(connection.read_line(100, None).unwrap(), b"MN");
}
