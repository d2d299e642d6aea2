//! The source against real servers.

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tipple_budget::{Gate, GateState, Rates};
use tipple_flow::{Failure, Party, Source, Stop};
use tipple_memcached::{
    Credentials, Diagnosis, FilterOptions, Listing, MemcachedOptions, MemcachedSource, NEVER,
    SourceOptions, TlsOptions, Verdict, doctor,
};

use crate::items::Random;
use crate::pipeline::{Dumped, Hooks, dump, quick, run, source};
use crate::server::{Memcached, Peer, url};

/// The last second that this version takes as an expiry time.
const FAR: i64 = i32::MAX as i64;

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

fn dump_all(memcached: &Memcached) -> Dumped {
    dump(&source(&memcached.url(), SourceOptions::default())).unwrap()
}

fn failure<T: std::fmt::Debug>(result: Result<T, Stop>) -> Failure {
    match result.unwrap_err() {
        Stop::Failed(failure) => failure,
        Stop::Cancelled(_) => panic!("cancelled"),
    }
}

/// The whole story, as it is printed.
fn told(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// `n` items of 100 to 1000 bytes, set in one go.
fn fill(peer: &mut Peer, n: usize, seed: u64) {
    let mut random = Random(seed);
    for batch in 0..n.div_ceil(500) {
        let mut request = Vec::new();
        for i in batch * 500..n.min((batch + 1) * 500) {
            let length = 100 + random.below(900);
            request.extend(format!("set key:{i} {i} 0 {length} noreply\r\n").as_bytes());
            request.extend(value(i, length));
            request.extend(b"\r\n");
        }
        request.extend(b"mn\r\n");
        peer.say(&request);
        assert_eq!(peer.line(), "MN");
    }
}

/// A value that tells whose it is.
fn value(i: usize, length: usize) -> Vec<u8> {
    let own = format!("{i}:");
    own.bytes().cycle().take(length).collect()
}

fn listing_line(peer: &mut Peer, key: &str) -> String {
    peer.say(b"lru_crawler metadump hash\r\n");
    let mut found = None;
    loop {
        let line = peer.line();
        if line == "END" {
            return found.unwrap();
        }
        if line.starts_with(&format!("key={key} ")) {
            found = Some(line);
        }
    }
}

#[test]
fn items_come_back_with_all_that_they_are() {
    let memcached = Memcached::start(&["-I", "4m"]);
    let mut peer = memcached.peer();
    let soon = now() + 1000;
    peer.set("plain", b"value", 0, 0);
    peer.set("empty", b"", 1, 0);
    peer.set("flags", b"x", u32::MAX, 0);
    peer.set("flags16", b"x", 0x1_0000, 0);
    peer.set("soon", b"x", 0, 1000);
    peer.set("far", b"x", 0, FAR);
    peer.set(&"k".repeat(250), b"longest key", 0, 0);
    for (n, text) in [
        "VALUE k 0 5\r\nhello\r\nEND\r\n",
        "END\r\n",
        "EN\r\n",
        "VA 5",
        "\r\n",
        "\r",
        "\n",
        "MN\r\n",
    ]
    .iter()
    .enumerate()
    {
        peer.set(&format!("text{n}"), text.as_bytes(), 7, 0);
    }
    let large = Random(1).bytes(3 << 20);
    peer.set("large", &large, 3, 0);
    // Around a quarter of the receive buffer, where streaming begins, and around all of it.
    for length in [65_534, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145] {
        peer.set(&format!("edge{length}"), &large[..length], 0, 0);
    }
    let dumped = dump_all(&memcached);
    let items = dumped.by_key();
    assert_eq!(items.len(), 23);
    assert_eq!(dumped.outcomes.total(), 0);
    let plain = items[&b"plain"[..]];
    assert_eq!(
        (&plain.value[..], plain.flags, plain.exptime),
        (&b"value"[..], 0, NEVER)
    );
    assert!(plain.cas > 0 && i64::from(plain.last_access).abs_diff(now()) <= 5);
    assert!(items[&b"empty"[..]].value.is_empty());
    assert_eq!(items[&b"flags"[..]].flags, u32::MAX);
    assert_eq!(items[&b"flags16"[..]].flags, 0x1_0000);
    assert!(items[&b"soon"[..]].exptime.abs_diff(soon) <= 3);
    let listed = listing_line(&mut peer, "soon");
    assert!(
        listed.contains(&format!(" exp={} ", items[&b"soon"[..]].exptime)),
        "{listed}"
    );
    assert!(items[&b"far"[..]].exptime.abs_diff(FAR) <= 2);
    assert_eq!(
        items[&b"text0"[..]].value,
        b"VALUE k 0 5\r\nhello\r\nEND\r\n"
    );
    assert_eq!(items[&b"text1"[..]].value, b"END\r\n");
    assert!(items[&b"large"[..]].value == large);
    for length in [65_534, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145] {
        assert!(
            items[format!("edge{length}").as_bytes()].value == large[..length],
            "{length}"
        );
    }
    let report = &dumped.report["servers"][0];
    assert_eq!(report["listed"], 23);
    assert_eq!(report["curr_items_before"], 23);
    assert_eq!(report["version"], "1.6.18");
    assert_eq!(dumped.report["completeness"], 1.0);
}

#[test]
fn any_key_comes_back_and_none_is_a_command() {
    let memcached = Memcached::start(&[]);
    let mut binary = memcached.peer();
    let mut keys: Vec<Vec<u8>> = vec![
        b"nl\r\nflush_all\r\nx".to_vec(),
        b"nul\0nul".to_vec(),
        b"a space".to_vec(),
        b"\x7f\x01\x1f".to_vec(),
        (0x80..=0xff).collect(),
        vec![0xff; 250],
        b" ".to_vec(),
        b"%41".to_vec(),
    ];
    for length in [186, 187, 188, 250] {
        let mut key = b"long\r\nflush_all\r\n".to_vec();
        key.resize(length, b' ');
        keys.push(key);
    }
    let set_at = now();
    for (n, key) in keys.iter().enumerate() {
        let exptime = if n % 2 == 0 { 0 } else { 5000 };
        binary.set_binary(key, format!("value {n}").as_bytes(), n as u32, exptime);
    }
    let large = Random(2).bytes(900_000);
    binary.set_binary(&[b' '; 249], &large, 1, 0);
    let dumped = dump_all(&memcached);
    let items = dumped.by_key();
    assert_eq!(items.len(), keys.len() + 1);
    for (n, key) in keys.iter().enumerate() {
        let item = items[&key[..]];
        assert_eq!(item.value, format!("value {n}").as_bytes());
        assert_eq!(item.flags, n as u32);
        match n % 2 {
            0 => assert_eq!(item.exptime, NEVER),
            _ => assert!(item.exptime.abs_diff(set_at + 5000) <= 5),
        }
    }
    assert!(items[&[b' '; 249][..]].value == large);
    let mut peer = memcached.peer();
    assert_eq!(peer.stat("cmd_flush"), 0);
    assert_eq!(peer.stat("curr_items"), keys.len() as u64 + 1);
}

#[test]
fn a_dump_leaves_no_trace() {
    let memcached = Memcached::start(&[]);
    let mut peer = memcached.peer();
    fill(&mut peer, 1000, 1);
    assert_eq!(
        peer.ask("mg key:7 v"),
        "VA 424".replace("424", &{
            // Whatever its length is: it was read, and is "fetched" from here on.
            let length = dump_all(&memcached).by_key()[&b"key:7"[..]].value.len();
            length.to_string()
        })
    );
    peer.line();
    let before = (
        listing_line(&mut peer, "key%3A7"),
        listing_line(&mut peer, "key%3A8"),
    );
    assert!(before.0.contains("fetch=yes") && before.1.contains("fetch=no"));
    let dumped = dump_all(&memcached);
    let items = dumped.by_key();
    assert!(items[&b"key:7"[..]].fetched && !items[&b"key:8"[..]].fetched);
    let after = (
        listing_line(&mut peer, "key%3A7"),
        listing_line(&mut peer, "key%3A8"),
    );
    assert_eq!(before, after);
    assert_eq!(peer.ask("mg key:8 h"), "HD h0");
}

#[test]
fn what_is_gone_is_told_by_its_cause() {
    let memcached = Memcached::start(&[]);
    let mut peer = memcached.peer();
    fill(&mut peer, 100, 1);
    // A key that only the binary protocol carries, where the expiry cannot be asked.
    let odd = [b' '; 200];
    memcached.peer().set_binary(&odd, b"listed", 0, 500);
    // Expires while the dump runs.
    peer.set("soon", b"x", 0, now() + 2);
    let gate = Gate::new(Rates::default());
    let from = source(&memcached.url(), SourceOptions::default());
    let mut set_at = 0;
    let planned = &mut || {
        assert_eq!(peer.ask("delete key:1"), "DELETED");
        assert_eq!(peer.ask("delete key:2"), "DELETED");
        set_at = now();
        peer.set("key:3", b"overwritten", 9, 100);
        memcached.peer().set_binary(&odd, b"overwritten", 0, 900);
        while peer.ask("mg soon") != "EN" {
            std::thread::yield_now();
        }
    };
    let mut hooks = Hooks {
        listed: &mut |_| (),
        planned,
        block: &mut |_| (),
        read: &mut || (),
    };
    let dumped = run(&from, &gate, &mut hooks).unwrap();
    let items = dumped.by_key();
    assert_eq!(items.len(), 98);
    assert_eq!(dumped.outcome("evicted or deleted"), 2);
    assert_eq!(dumped.outcome("expired"), 1);
    assert_eq!(dumped.outcome("expiry cannot be asked"), 1);
    assert_eq!(dumped.outcomes.lost(), 1);
    let third = items[&b"key:3"[..]];
    assert_eq!((&third.value[..], third.flags), (&b"overwritten"[..], 9));
    assert!(
        third.exptime.abs_diff(set_at + 100) <= 3,
        "of the new value"
    );
}

#[test]
fn filters_count_what_they_leave_out() {
    let memcached = Memcached::start(&[]);
    let mut peer = memcached.peer();
    fill(&mut peer, 50, 1);
    peer.set("other", b"x", 0, 0);
    peer.set("key:short", b"x", 0, 20);
    let options = SourceOptions {
        filter: FilterOptions {
            prefixes: vec!["key:".into()],
            min_ttl_s: 60,
            ..Default::default()
        },
        ..SourceOptions::default()
    };
    let dumped = dump(&source(&memcached.url(), options)).unwrap();
    assert_eq!(dumped.items.len(), 50);
    assert_eq!(dumped.outcome("filtered: prefix"), 1);
    assert_eq!(dumped.outcome("filtered: ttl"), 1);
    assert_eq!(dumped.report["servers"][0]["listed"], 52);
}

#[test]
fn passes_over_the_lru_dump_nothing_twice() {
    let memcached = Memcached::start(&[]);
    fill(&mut memcached.peer(), 3000, 1);
    let options = SourceOptions {
        listing: Listing::All { passes: 3 },
        key_file_bytes: 4 << 10,
        ..SourceOptions::default()
    };
    let dumped = dump(&source(&memcached.url(), options)).unwrap();
    assert!(dumped.parts > 3);
    assert_eq!(dumped.by_key().len(), 3000);
    assert_eq!(dumped.report["servers"][0]["listed"], 3000);
}

#[test]
fn an_empty_cache_is_an_empty_dump() {
    let memcached = Memcached::start(&[]);
    let dumped = dump_all(&memcached);
    assert_eq!((dumped.items.len(), dumped.parts), (0, 0));
    assert_eq!(dumped.report["completeness"], 1.0);
}

#[test]
fn a_crawler_that_is_off_is_told_with_the_next_step() {
    let memcached = Memcached::start(&["-o", "no_lru_crawler"]);
    let from = source(&memcached.url(), SourceOptions::default());
    let refusal = failure(from.check());
    assert_eq!(refusal.party(), Party::Source);
    assert!(
        refusal.to_string().contains("lru_crawler enable"),
        "{refusal}"
    );
    // Turned off after the check.
    let memcached = Memcached::start(&[]);
    let from = source(&memcached.url(), SourceOptions::default());
    from.check().unwrap();
    assert_eq!(memcached.peer().ask("lru_crawler disable"), "OK");
    let refusal = failure(dump(&from));
    assert!(
        refusal.to_string().contains("lru_crawler enable"),
        "{refusal}"
    );
}

#[test]
fn credentials_are_given_to_a_server_that_asks_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth");
    std::fs::write(&file, "me:hunter2\n").unwrap();
    let memcached = Memcached::start(&["-Y", file.to_str().unwrap()]);
    let with = |auth: Option<&str>| {
        let auth = auth.map(|auth| auth.parse::<Credentials>().unwrap());
        let options = MemcachedOptions { auth, ..quick() };
        MemcachedSource::new(memcached.url(), options, SourceOptions::default()).unwrap()
    };
    assert!(dump(&with(Some("me:hunter2"))).unwrap().items.is_empty());
    let refusal = told(&failure(with(Some("me:hunter3")).check()));
    assert!(
        refusal.contains("refused the user and password")
            && refusal.ends_with("check --user and --password-file"),
        "{refusal}"
    );
    assert!(!refusal.contains("hunter"));
    let refusal = told(&failure(with(None).check()));
    assert!(
        refusal.contains("wants a user and a password")
            && refusal.ends_with("give --user and --password-file"),
        "{refusal}"
    );

    let open = Memcached::start(&[]);
    let auth = Some("me:hunter2".parse().unwrap());
    let options = MemcachedOptions { auth, ..quick() };
    let from = MemcachedSource::new(open.url(), options, SourceOptions::default()).unwrap();
    assert!(dump(&from).unwrap().items.is_empty());
    assert_eq!(
        open.peer().stat("total_items"),
        0,
        "the password was not stored as an item"
    );
}

#[test]
fn tls_with_a_ca_file_and_without_belief() {
    let dir = tempfile::tempdir().unwrap();
    let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=cache",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl: install it with `apt-get install openssl`");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let chain = format!("ssl_chain_cert={}", certificate.display());
    let key = format!("ssl_key={}", key.display());
    let memcached = Memcached::start(&["-Z", "-o", &chain, "-o", &key, "-I", "8m"]);
    let with = |tls: TlsOptions| {
        let options = MemcachedOptions {
            tls: Some(tls),
            ..quick()
        };
        MemcachedSource::new(memcached.url(), options, SourceOptions::default()).unwrap()
    };
    let trusting = TlsOptions {
        ca_file: Some(certificate.clone()),
        ..TlsOptions::default()
    };
    let mut connection = tipple_memcached::Connection::connect(
        memcached.server(),
        &MemcachedOptions {
            tls: Some(trusting.clone()),
            ..quick()
        },
        None,
    )
    .unwrap();
    let large = Random(3).bytes(5 << 20);
    for (key, value) in [("small", &b"x"[..]), ("large", &large)] {
        let request = format!("set {key} 0 0 {}\r\n", value.len());
        for piece in [request.as_bytes(), value, b"\r\n"] {
            connection.send(piece, None).unwrap();
        }
        assert_eq!(connection.read_line(100, None).unwrap(), b"STORED");
    }
    let dumped = dump(&with(trusting)).unwrap();
    assert_eq!(dumped.items.len(), 2);
    assert!(dumped.by_key()[&b"large"[..]].value == large);
    let insecure = TlsOptions {
        insecure: true,
        ..TlsOptions::default()
    };
    assert_eq!(dump(&with(insecure)).unwrap().items.len(), 2);
    let refusal = told(&failure(with(TlsOptions::default()).check()));
    assert!(
        refusal.contains("with --tls-ca, or the name in it with --tls-name"),
        "{refusal}"
    );
    let other = TlsOptions {
        ca_file: Some(certificate),
        server_name: Some("elsewhere".into()),
        ..TlsOptions::default()
    };
    let refusal = told(&failure(with(other).check()));
    assert!(refusal.ends_with("--tls-name"), "{refusal}");
    // Plain text to a TLS port, TLS to a plain one.
    let refusal = told(&failure(
        source(&memcached.url(), SourceOptions::default()).check(),
    ));
    assert!(
        refusal.contains("whether it wants TLS") || refusal.contains("reset"),
        "{refusal}"
    );
    let plain = Memcached::start(&[]);
    let options = MemcachedOptions {
        tls: Some(TlsOptions::default()),
        ..quick()
    };
    let to_plain = MemcachedSource::new(plain.url(), options, SourceOptions::default()).unwrap();
    let refusal = told(&failure(to_plain.check()));
    assert!(refusal.contains("TLS"), "{refusal}");
}

#[test]
fn a_unix_socket_and_two_servers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let unix = Memcached::start_unix(dir.path().join("mc.sock"), &[]);
    fill(&mut unix.peer(), 2000, 1);
    assert_eq!(dump_all(&unix).by_key().len(), 2000);

    let (first, second) = (Memcached::start(&[]), Memcached::start(&[]));
    fill(&mut first.peer(), 2000, 1);
    second.peer().set("other", b"x", 0, 0);
    let options = SourceOptions {
        key_file_bytes: 8 << 10,
        ..SourceOptions::default()
    };
    let dumped = dump(&source(&url(&[&first, &second]), options)).unwrap();
    assert_eq!(dumped.by_key().len(), 2001);
    assert_eq!(dumped.report["servers"][1]["listed"], 1);
}

/// What happens to a server after its keys were listed and the first block was read.
fn mid_fetch(
    happens: &mut dyn FnMut(&mut Memcached),
    read: &mut dyn FnMut(),
) -> Result<Dumped, Stop> {
    let mut memcached = Memcached::start(&[]);
    fill(&mut memcached.peer(), 20_000, 1);
    let options = SourceOptions {
        key_file_bytes: 64 << 10,
        ..SourceOptions::default()
    };
    let from = source(&memcached.url(), options);
    let block = &mut |n: usize| {
        if n == 3 {
            happens(&mut memcached);
        }
    };
    let mut hooks = Hooks {
        listed: &mut |_| (),
        planned: &mut || (),
        block,
        read,
    };
    run(&from, &Gate::new(Rates::default()), &mut hooks)
}

#[test]
fn a_server_that_dies_or_forgets_fails_the_dump() {
    let refusal = failure(mid_fetch(&mut Memcached::kill, &mut || ()));
    assert_eq!(refusal.party(), Party::Source);
    let story = told(&refusal);
    assert!(
        story.contains("cannot connect to memcached at 127.0.0.1"),
        "{story}"
    );

    let refusal = failure(mid_fetch(&mut Memcached::restart, &mut || {
        panic!("it went on in another life")
    }));
    assert!(
        refusal.to_string().contains("was restarted (pid"),
        "{refusal}"
    );

    let refusal = failure(mid_fetch(
        &mut |memcached| assert_eq!(memcached.peer().ask("flush_all"), "OK"),
        &mut || (),
    ));
    assert!(
        refusal
            .to_string()
            .contains("was flushed (cmd_flush 0 → 1)"),
        "{refusal}"
    );
}

#[test]
fn a_plan_is_of_the_life_that_it_was_made_in() {
    let mut memcached = Memcached::start(&[]);
    fill(&mut memcached.peer(), 10, 1);
    let dumped = dump_all(&memcached);
    let later = source(&memcached.url(), SourceOptions::default());
    assert!(later.is_same(&dumped.planned.incarnation).unwrap());
    assert!(later.finish(&dumped.planned, 10, &dumped.outcomes).is_ok());
    assert!(!later.is_same(&serde_json::json!({"servers": 1})).unwrap());
    memcached.restart();
    assert!(!later.is_same(&dumped.planned.incarnation).unwrap());
    let refusal = failure(later.finish(&dumped.planned, 10, &dumped.outcomes));
    assert!(refusal.to_string().contains("was restarted"), "{refusal}");
}

#[test]
fn a_cancel_ends_listing_and_fetching() {
    for fetching in [false, true] {
        // One each: a server goes on for a while with a listing that was given up, and refuses the next one.
        let memcached = Memcached::start(&[]);
        fill(&mut memcached.peer(), 20_000, 1);
        let from = source(&memcached.url(), SourceOptions::default());
        let gate = Gate::new(Rates::default());
        let mut hooks = Hooks {
            listed: &mut |_| {
                if !fetching {
                    gate.cancel()
                }
            },
            planned: &mut || assert!(fetching, "a cancelled listing went on"),
            block: &mut |n| {
                if n == 3 {
                    gate.cancel()
                }
            },
            read: &mut || panic!("a cancelled dump went on"),
        };
        let ended = run(&from, &gate, &mut hooks);
        assert!(matches!(ended, Err(Stop::Cancelled(_))), "{ended:?}");
        assert_eq!(gate.state(), GateState::Cancelled);
    }
}

#[test]
fn a_server_that_hangs_is_noticed_and_so_is_a_cancel_meanwhile() {
    let memcached = Memcached::start(&[]);
    let stopped = memcached.stop();
    let options = MemcachedOptions {
        io_timeout: std::time::Duration::from_millis(300),
        ..quick()
    };
    let refusal = MemcachedSource::new(memcached.url(), options, SourceOptions::default()).unwrap();
    let refusal = failure(refusal.check());
    assert!(
        refusal.to_string().contains("kept silent for 0.3 s")
            && refusal.to_string().ends_with("give a longer --io-timeout"),
        "{refusal}"
    );
    drop(stopped);
    // A peer that hears the first words and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string().parse().unwrap();
    let gate = Gate::new(Rates::default());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let options = MemcachedOptions::default();
            tipple_memcached::Connection::connect(&server, &options, Some(&gate)).map(drop)
        });
        let mut heard = [0; 9];
        let (mut peer, _) = listener.accept().unwrap();
        peer.read_exact(&mut heard).unwrap();
        gate.cancel();
        let ended = waiting.join().unwrap();
        assert!(
            matches!(ended, Err(tipple_memcached::ConnectionError::Cancelled(_))),
            "{ended:?}"
        );
    });
}

#[test]
fn a_key_space_that_is_too_small_says_what_would_do() {
    let memcached = Memcached::start(&[]);
    fill(&mut memcached.peer(), 20_000, 1);
    let with = |bytes| {
        let options = SourceOptions {
            key_space_bytes: Some(bytes),
            key_file_bytes: 8 << 10,
            ..SourceOptions::default()
        };
        // A server goes on for a while with a listing that was given up, and refuses the next one.
        let patient = MemcachedOptions::default();
        dump(&MemcachedSource::new(memcached.url(), patient, options).unwrap())
    };
    let refusal = failure(with(10_000));
    assert_eq!(refusal.party(), Party::Budget);
    let text = refusal.to_string();
    let would_do = text
        .split("give --key-space at least ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert_eq!(with(would_do.parse().unwrap()).unwrap().items.len(), 20_000);
    // The listing was left at once, and the server is none the worse for it.
    assert_eq!(
        memcached
            .peer()
            .ask("lru_crawler metadump hash")
            .split('=')
            .next(),
        Some("key")
    );
}

#[test]
fn a_value_beyond_the_limit_is_a_loss_and_its_neighbours_are_not() {
    let memcached = Memcached::start(&["-I", "4m"]);
    let mut peer = memcached.peer();
    fill(&mut peer, 1000, 1);
    peer.set("large", &Random(4).bytes(2_000_000), 0, 0);
    let options = SourceOptions {
        value_bytes_max: 1_999_999,
        ..SourceOptions::default()
    };
    let dumped = dump(&source(&memcached.url(), options)).unwrap();
    assert_eq!(dumped.by_key().len(), 1000);
    assert_eq!(dumped.outcome("too large"), 1);
    assert_eq!(dumped.outcomes.lost(), 1);
}

#[test]
fn a_value_of_100_mib_through_buffers_of_64_kib() {
    let memcached = Memcached::start(&["-I", "128m", "-m", "1024"]);
    let mut peer = memcached.peer();
    let pattern = Random(5).bytes((1 << 20) - 7);
    let large: Vec<u8> = pattern.iter().copied().cycle().take(100 << 20).collect();
    peer.set("large", &large, 5, 0);
    fill(&mut peer, 1000, 1);
    let options = MemcachedOptions {
        buffer_bytes: 64 << 10,
        ..quick()
    };
    let from = MemcachedSource::new(memcached.url(), options, SourceOptions::default()).unwrap();
    let dumped = dump(&from).unwrap();
    let items = dumped.by_key();
    assert_eq!(items.len(), 1001);
    assert!(items[&b"large"[..]].value == large);
}

#[test]
fn nothing_is_missed_while_clients_read_and_write_and_the_table_grows() {
    const ITEMS: usize = 100_000;
    let memcached = Memcached::start(&["-m", "512", "-o", "hashpower=12", "-t", "2"]);
    fill(&mut memcached.peer(), ITEMS, 1);
    let (done, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    let dumped = std::thread::scope(|scope| {
        let (done, turns) = (&done, &turns);
        for client in 0..4_usize {
            let mut peer = memcached.peer();
            scope.spawn(move || {
                let mut random = Random(100 + client as u64);
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut request = Vec::new();
                    for _ in 0..100 {
                        let i = random.below(ITEMS);
                        if client < 2 {
                            request.extend(format!("mg key:{i} k q\r\n").as_bytes());
                        } else if client == 2 {
                            let length = 100 + random.below(900);
                            request.extend(
                                format!("set key:{i} {i} 0 {length} noreply\r\n").as_bytes(),
                            );
                            request.extend(value(i, length));
                            request.extend(b"\r\n");
                        } else {
                            n += 1;
                            request
                                .extend(format!("set new:{n} 1 0 1 noreply\r\nx\r\n").as_bytes());
                        }
                    }
                    request.extend(b"mn\r\n");
                    peer.say(&request);
                    while peer.line() != "MN" {}
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while turns.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        let options = SourceOptions {
            key_file_bytes: 256 << 10,
            ..SourceOptions::default()
        };
        let dumped = dump(&source(&memcached.url(), options));
        done.store(true, Ordering::Relaxed);
        dumped.unwrap()
    });
    let items = dumped.by_key();
    let mut missed = 0;
    for i in 0..ITEMS {
        match items.get(format!("key:{i}").as_bytes()) {
            None => missed += 1,
            Some(item) => {
                assert_eq!(item.flags, i as u32);
                assert!(item.value == value(i, item.value.len()), "key:{i}");
            }
        }
    }
    assert_eq!(missed, 0);
    assert_eq!(dumped.outcomes.lost(), 0);
}

#[test]
fn the_doctor_says_what_a_server_can_and_changes_nothing() {
    let memcached = Memcached::start(&[]);
    memcached.peer().set("a", b"x", 0, 0);
    let diagnosis = doctor(&memcached.url(), &quick()).unwrap().remove(0);
    let text = diagnosis.to_string();
    assert_eq!(
        diagnosis.verdict,
        Verdict::Limited,
        "1.6.18 is before 1.6.19: {text}"
    );
    let limited = |diagnosis: &Diagnosis| -> Vec<_> {
        let findings = diagnosis.findings.iter();
        findings
            .filter(|f| f.verdict != Verdict::Good)
            .map(|f| f.name)
            .collect()
    };
    assert_eq!(limited(&diagnosis), ["version"], "{text}");
    assert!(
        text.contains("can be dumped and loaded, with limits"),
        "{text}"
    );
    // Names and what was found are columns, as wide as the longest name wants.
    assert!(
        text.contains("  ok      items                 1\n"),
        "{text}"
    );
    assert!(
        text.contains("  ok      reads leave no trace  yes\n"),
        "{text}"
    );
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(json["findings"][0]["found"], "1.6.18");
    assert_eq!(memcached.peer().stat("cmd_touch"), 0);

    let memcached = Memcached::start(&["-o", "no_lru_crawler", "-B", "ascii"]);
    let diagnosis = doctor(&memcached.url(), &quick()).unwrap().remove(0);
    assert_eq!(diagnosis.verdict, Verdict::Bad);
    assert_eq!(
        limited(&diagnosis),
        ["version", "crawler", "binary protocol"]
    );
    assert!(
        diagnosis.to_string().contains("lru_crawler enable"),
        "{diagnosis}"
    );
}
