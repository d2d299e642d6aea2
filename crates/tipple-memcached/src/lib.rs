//! memcached as a source and a sink
