use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use tipple_testkit::{End, Flow, Proxy, Script, wait_for};

/// A server that sends `bytes` to whoever connects, and then its end.
fn server(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The proxy may cut it.
            let _ = stream.unwrap().write_all(&bytes);
        }
    });
    addr
}

fn bytes() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n % 251) as u8).collect()
}

fn through(flow: Flow) -> (Proxy, TcpStream) {
    let proxy = Proxy::start(&server(bytes()), move |_| Script {
        to_client: flow,
        ..Script::default()
    });
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    (proxy, stream)
}

fn ends(n: u64, end: End) -> Flow {
    Flow {
        end_after: Some((n, end)),
        ..Flow::default()
    }
}

#[test]
fn passes_everything_untouched() {
    let (proxy, mut stream) = through(Flow::default());
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == bytes());
    assert_eq!((proxy.connections(), proxy.bytes_to_client()), (1, 100_000));
}

#[test]
fn cuts_at_the_byte() {
    for n in [0, 1, 12_345, 99_999] {
        let (_proxy, mut stream) = through(ends(n, End::Cut));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == bytes()[..n as usize], "{} of {n}", got.len());
    }
}

#[test]
fn resets_at_the_byte() {
    for n in [0, 1, 12_345] {
        let (proxy, mut stream) = through(ends(n, End::Reset));
        let mut got = Vec::new();
        let error = stream.read_to_end(&mut got).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(proxy.bytes_to_client(), n);
        assert!(bytes().starts_with(&got));
    }
}

#[test]
fn stalls_at_the_byte_until_released() {
    let (proxy, mut stream) = through(ends(777, End::Stall));
    let mut got = vec![0; 777];
    stream.read_exact(&mut got).unwrap();
    wait_for("the stall", || proxy.stalled() == 1);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    stream.set_nonblocking(false).unwrap();
    proxy.release();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == bytes());
    assert_eq!(proxy.stalled(), 0);
}

#[test]
fn a_dropped_proxy_ends_its_stalls() {
    let (proxy, mut stream) = through(ends(5, End::Stall));
    wait_for("the stall", || proxy.stalled() == 1);
    drop(proxy);
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    assert!(bytes().starts_with(&got) && got.len() >= 5);
}

#[test]
fn is_as_slow_as_told() {
    let start = Instant::now();
    let (_proxy, mut stream) = through(Flow {
        bytes_per_second: Some(500_000),
        ..Flow::default()
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == bytes());
    assert!(start.elapsed().as_millis() >= 190, "{:?}", start.elapsed());
}

#[test]
fn gives_one_byte_per_segment() {
    let (proxy, mut stream) = through(Flow {
        segment_bytes_max: Some(1),
        end_after: Some((500, End::Cut)),
        ..Flow::default()
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == bytes()[..500]);
    assert_eq!(proxy.bytes_to_client(), 500);
}

#[test]
fn every_connection_has_its_own_script() {
    let proxy = Proxy::start(&server(bytes()), |connection| Script {
        to_client: if connection == 1 {
            Flow::default()
        } else {
            ends(3, End::Cut)
        },
        ..Script::default()
    });
    let lens = [3, 100_000, 3];
    for len in lens {
        let mut got = Vec::new();
        TcpStream::connect(proxy.addr())
            .unwrap()
            .read_to_end(&mut got)
            .unwrap();
        assert_eq!(got.len(), len);
    }
}

#[test]
fn severs_what_is_open() {
    let (proxy, mut stream) = through(ends(5, End::Stall));
    wait_for("the stall", || proxy.stalled() == 1);
    proxy.sever();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 5);
}
