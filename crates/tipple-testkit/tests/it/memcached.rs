use std::collections::BTreeSet;

use tipple_testkit::{Memcached, RawMemcached, expected, memory_max, wait_for};

#[test]
fn items_with_any_key_come_back() {
    let server = Memcached::start(&[]);
    let mut client = RawMemcached::connect(&server);
    let odd: Vec<u8> = (0..=255).filter(|b| *b != 0).take(250).collect();
    for key in [
        &b"plain"[..],
        b"with space",
        b"\x00\xff\n\r",
        b"back\\slash\"",
        &odd,
        "ä".as_bytes(),
    ] {
        assert_eq!(client.get(key), None);
        client.set(key, b"a value\r\n\0", 7, 1000);
        let item = client.get(key).unwrap();
        assert_eq!(
            (item.value.as_slice(), item.flags),
            (&b"a value\r\n\0"[..], 7)
        );
        assert!(item.cas > 0);
        let told = item.ttl_seconds.map(|ttl| (900..=1000).contains(&ttl));
        assert_eq!(told, (key.len() < 188).then_some(true));
        assert!(client.delete(key));
        assert!(!client.delete(key));
    }
    client.set(b"for ever", b"", 0, 0);
    assert_eq!(client.get(b"for ever").unwrap().ttl_seconds, None);
    assert_eq!(client.command("mn"), "MN");
}

#[test]
fn fills_with_what_is_expected() {
    let server = Memcached::start(&["-m", "256"]);
    let mut client = RawMemcached::connect(&server);
    client.fill(20_000);
    assert_eq!(client.stat("curr_items"), 20_000);
    let mut lens = BTreeSet::new();
    for n in (0..20_000).step_by(97) {
        let wanted = expected(n);
        let item = client.get(wanted.key.as_bytes()).unwrap();
        assert_eq!(
            (item.value, item.flags),
            (wanted.value.clone(), wanted.flags)
        );
        assert_eq!(expected(n), wanted);
        lens.insert(wanted.value.len());
    }
    assert!(*lens.first().unwrap() >= 100 && *lens.last().unwrap() <= 1000);
    assert!(lens.len() > 150, "sizes vary");
    assert!(memory_max(server.pid()) > 10 << 20);
    assert!(!client.stats_of("items").is_empty());
}

#[test]
fn is_killed_and_restarted_at_its_port() {
    let mut server = Memcached::start(&[]);
    let (addr, pid) = (server.addr(), server.pid());
    RawMemcached::connect(&server).set(b"k", b"v", 0, 0);
    server.kill();
    server.kill();
    server.restart_same_port();
    assert_eq!(server.addr(), addr);
    assert_ne!(server.pid(), pid);
    assert_eq!(RawMemcached::connect_to(&addr).get(b"k"), None);
    let pid = server.pid();
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn is_paused_and_resumed() {
    let server = Memcached::start(&[]);
    let mut client = RawMemcached::connect(&server);
    server.pause();
    let asked = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            asked.store(true, std::sync::atomic::Ordering::SeqCst);
            client.command("mn")
        });
        wait_for("the question", || {
            asked.load(std::sync::atomic::Ordering::SeqCst)
        });
        assert!(!answer.is_finished());
        server.resume();
        assert_eq!(answer.join().unwrap(), "MN");
    });
}

#[test]
fn speaks_over_a_unix_socket() {
    let mut server = Memcached::start_unix(&[]);
    assert!(server.addr().starts_with('/'));
    RawMemcached::connect(&server).set(b"k k", b"v", 0, 0);
    assert_eq!(
        RawMemcached::connect(&server).get(b"k k").unwrap().value,
        b"v"
    );
    server.restart_same_port();
    assert_eq!(RawMemcached::connect(&server).get(b"k k"), None);
}

#[test]
fn wants_a_password() {
    let server = Memcached::start_with_auth(&[], &[("ann", "s3cret"), ("bob", "other")]);
    RawMemcached::connect(&server).set(b"k", b"v", 0, 0);
    let refused = RawMemcached::connect_to(&server.addr()).command("mn");
    assert!(refused.starts_with("CLIENT_ERROR"), "{refused}");
}

#[test]
fn speaks_tls() {
    let server = Memcached::start_with_tls(&[]);
    assert_ne!(server.addr(), server.plain_addr());
    RawMemcached::connect(&server).set(b"k", b"v", 0, 0);
    assert!(server.certificate().ca.is_file());
    let tls =
        std::panic::catch_unwind(|| RawMemcached::connect_to(&server.addr()).command("version"));
    assert!(tls.is_err(), "it answered without TLS");
}

#[test]
#[should_panic(expected = "ended")]
fn refused_arguments_are_told() {
    Memcached::start(&["--no-such-argument"]);
}

#[test]
fn many_start_at_once() {
    let servers: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Memcached::start(&[])))
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    let addrs: BTreeSet<_> = servers.iter().map(Memcached::addr).collect();
    assert_eq!(addrs.len(), 8);
}
