//! The sink against real servers, through a proxy that cuts, and against peers that refuse what the real one never does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tipple_budget::{Gate, Rates};
use tipple_flow::{
    FrameSource, Outcomes, Party, Position, RecordReader, RecordWriter, Resume, Sink, Stop,
};
use tipple_memcached::{
    Credentials, Filter, FilterOptions, MemcachedOptions, MemcachedSink, MemcachedSource,
    MemcachedUrl, NEVER, RetryOptions, Ring, SinkOptions, SourceOptions, StoreMode, TlsOptions,
    VALUE_BYTES_MAX, WINDOW_BYTES_MIN,
};
use tipple_testkit::Certificate;

use crate::items::{Frames, Owned, Random};
use crate::pipeline::dump;
use crate::server::{Memcached, Peer, url};

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs() as i64
}

fn quick() -> MemcachedOptions {
    MemcachedOptions {
        retry: RetryOptions {
            attempts_max: 4,
            pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(2),
            ..RetryOptions::default()
        },
        ..MemcachedOptions::default()
    }
}

fn sink_of(url: MemcachedUrl, options: SinkOptions) -> MemcachedSink {
    let sink = MemcachedSink::new(url, quick(), options).unwrap();
    sink.check().unwrap();
    sink
}

fn add() -> SinkOptions {
    SinkOptions {
        mode: StoreMode::Add,
        ..SinkOptions::default()
    }
}

fn try_load(sink: &MemcachedSink, frames: &mut dyn FrameSource) -> (Result<(), Stop>, Outcomes) {
    let gate = Gate::new(Rates::default());
    let mut outcomes = Outcomes::default();
    let mut records = RecordReader::new(&gate, frames);
    let mut writer = sink.open(&gate).unwrap();
    let part = "0".parse().unwrap();
    let result = writer.write_part(&part, &mut records, &mut outcomes);
    (result, outcomes)
}

fn load(sink: &MemcachedSink, items: &[Owned]) -> Outcomes {
    let (result, outcomes) = try_load(sink, &mut Frames::of(items, 1 << 20));
    result.unwrap();
    outcomes
}

fn refusal(result: Result<(), Stop>) -> (Party, String) {
    match result {
        Err(Stop::Failed(failure)) => (failure.party(), failure.to_string()),
        other => panic!("{other:?}"),
    }
}

fn counts(outcomes: &Outcomes) -> BTreeMap<String, u64> {
    let all = outcomes.outcomes().chain(outcomes.losses());
    all.map(|(name, n)| (name.to_owned(), n)).collect()
}

fn counted(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected
        .iter()
        .map(|&(name, n)| (name.to_owned(), n))
        .collect()
}

/// Value and flags by the binary protocol, which takes every key.
fn get(peer: &mut Peer, key: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut request = vec![0x80, 0];
    request.extend((key.len() as u16).to_be_bytes());
    request.extend([0; 4]);
    request.extend((key.len() as u32).to_be_bytes());
    request.extend([0; 12]);
    request.extend(key);
    peer.say(&request);
    let head = peer.bytes(24);
    let body = u32::from_be_bytes(head[8..12].try_into().unwrap()) as usize;
    let body = peer.bytes(body);
    (head[6..8] == [0, 0]).then(|| {
        let flags = u32::from_be_bytes(body[..4].try_into().unwrap());
        (body[4..].to_vec(), flags)
    })
}

/// Remaining seconds as the server tells them, −1 for never.
fn ttl(peer: &mut Peer, key: &[u8]) -> i64 {
    let reply = peer.ask(&format!("mg {} b t", STANDARD.encode(key)));
    let text = reply
        .strip_prefix("HD t")
        .unwrap_or_else(|| panic!("{reply}"));
    text.parse().unwrap()
}

fn assert_holds(server: &Memcached, items: &[Owned]) {
    let mut peer = server.peer();
    for item in items {
        let held = get(&mut peer, &item.key);
        let key = item.key.escape_ascii();
        let (value, flags) = held.unwrap_or_else(|| panic!("{key} is missing"));
        assert!(value == item.value, "{key} has another value");
        assert_eq!(flags, item.flags, "{key}");
    }
}

fn some_items(count: usize, value_bytes: usize, seed: u64) -> Vec<Owned> {
    let mut random = Random(seed);
    (0..count)
        .map(|n| {
            let len = random.below(value_bytes + 1);
            Owned::new(format!("key:{n}"), vec![n as u8; len]).flags(n as u32)
        })
        .collect()
}

#[test]
fn nasty_items_arrive_as_they_were() {
    let server = Memcached::start(&["-m", "64"]);
    let mut random = Random(1);
    let mut items = vec![
        Owned::new("plain", "value"),
        Owned::new("empty", ""),
        Owned::new(
            "mn",
            "MN\r\nHD\r\nEN\r\nSERVER_ERROR out of memory storing object\r\n",
        ),
        Owned::new("nl\r\nflush_all\r\nx", "\r\nflush_all\r\n"),
        Owned::new("with space", " "),
        Owned::new("tab\t", "\0"),
        Owned::new(b"\0".to_vec(), b"\0\r\n".to_vec()),
        Owned::new("x".repeat(250), "longest plain"),
        Owned::new("ä".repeat(93), "186 bytes"),
        Owned::new(b"\x7f".to_vec(), random.bytes(1000)),
    ];
    for len in [1, 185, 186, 187, 188, 249, 250] {
        let mut key = random.bytes(len);
        key[0] = 1;
        items.push(Owned::new(key, random.bytes(len * 11)).flags(len as u32));
    }
    for flags in [0, 1, 0xFFFF, 0x1_0000, u32::MAX] {
        items.push(Owned::new(format!("flags {flags}"), "v").flags(flags));
        items.push(Owned::new(format!("flags:{flags}"), "v").flags(flags));
        items.push(Owned::new([&[b' '; 200][..], &flags.to_be_bytes()].concat(), "v").flags(flags));
    }
    let sink = sink_of(server.url(), SinkOptions::default());
    assert_eq!(load(&sink, &items), Outcomes::default());
    assert_holds(&server, &items);
    let mut peer = server.peer();
    assert_eq!(peer.stat("curr_items"), items.len() as u64);
    assert_eq!(peer.stat("cmd_flush"), 0);
    assert_eq!(ttl(&mut peer, b"plain"), -1);
}

#[test]
fn expiry_is_absolute_and_what_cannot_be_said_is_counted() {
    let server = Memcached::start(&["-m", "64"]);
    let start = now();
    let day = 86_400;
    let lives = [
        start + 100,
        start + 30 * day - 5,
        start + 30 * day,
        start + 30 * day + 5,
        start + 400 * day,
        i64::from(i32::MAX) - 1,
        i64::from(i32::MAX),
    ];
    let expired = [0, 1, 2_592_000, 2_592_001, start - 1000, start];
    let beyond = [
        i64::from(i32::MAX) + 1,
        i64::from(u32::MAX),
        i64::from(u32::MAX) + 1,
        i64::MAX,
    ];
    let mut items = Vec::new();
    for exptime in [&lives[..], &expired, &beyond].concat() {
        items.push(Owned::new(format!("e{exptime}"), "v").exptime(exptime));
        let long = [&[b' '; 200][..], &exptime.to_be_bytes()].concat();
        items.push(Owned::new(long, "v").exptime(exptime));
    }
    items.push(Owned::new("never", "v").exptime(NEVER));
    let sink = sink_of(server.url(), SinkOptions::default());
    let outcomes = load(&sink, &items);
    assert_eq!(
        counts(&outcomes),
        counted(&[
            ("expired", 2 * expired.len() as u64),
            ("expiry out of range", 2 * beyond.len() as u64),
        ])
    );
    assert_eq!(outcomes.lost(), 2 * beyond.len() as u64);
    let mut peer = server.peer();
    assert_eq!(ttl(&mut peer, b"never"), -1);
    for exptime in lives {
        let left = ttl(&mut peer, format!("e{exptime}").as_bytes());
        assert!(
            (exptime - now() - 2..=exptime - start + 2).contains(&left),
            "{exptime}: {left}"
        );
    }
    assert_eq!(peer.stat("curr_items"), 2 * lives.len() as u64 + 1);
}

#[test]
fn add_keeps_what_is_there() {
    let server = Memcached::start(&["-m", "64"]);
    let long = vec![b' '; 250];
    let mut peer = server.peer();
    peer.set("there", b"newer", 7, 0);
    server.peer().set_binary(&long, b"newer", 7, 0);
    let items = [
        Owned::new("there", "older"),
        Owned::new(long.clone(), "older"),
        Owned::new("new", "ours").flags(3),
        Owned::new(vec![b'\n'; 250], "ours").flags(3),
    ];
    let sink = sink_of(server.url(), add());
    let outcomes = load(&sink, &items);
    assert_eq!(counts(&outcomes), counted(&[("already there", 2)]));
    assert_eq!(outcomes.lost(), 0);
    let newer = |key: &[u8]| Owned::new(key, "newer").flags(7);
    assert_holds(&server, &[newer(b"there"), newer(&long)]);
    assert_holds(&server, &items[2..]);
    // Set replaces.
    let sink = sink_of(server.url(), SinkOptions::default());
    assert_eq!(load(&sink, &items), Outcomes::default());
    assert_holds(&server, &items);
}

#[test]
fn every_one_of_many_refusals_is_seen() {
    let server = Memcached::start(&["-m", "64"]);
    let items = some_items(60_000, 3, 2);
    // As few replies in the buffer as can be: were replies not taken while sending, this would never end.
    let options = MemcachedOptions {
        buffer_bytes: 16 << 10,
        ..quick()
    };
    let sink = MemcachedSink::new(server.url(), options, add()).unwrap();
    assert_eq!(load(&sink, &items), Outcomes::default());
    let outcomes = load(&sink, &items);
    assert_eq!(counts(&outcomes), counted(&[("already there", 60_000)]));
}

#[test]
fn too_large_items_are_counted_and_the_rest_is_right() {
    let server = Memcached::start(&["-m", "64"]);
    let large = |key: Vec<u8>, len: usize| Owned::new(key, vec![b'x'; len]);
    let mut items = some_items(100, 500, 3);
    let sizes = [1_048_570, 1 << 20, 1_100_000, 1_200_000, 3_000_000];
    for (n, len) in sizes.into_iter().enumerate() {
        items.push(large(format!("large{n}").into_bytes(), len));
        items.push(large([&[0xFF; 190][..], &[n as u8]].concat(), len));
        items.push(Owned::new(format!("after{n}"), format!("value{n}")));
        items.push(Owned::new([&[0xFF; 240][..], &[n as u8]].concat(), "after"));
    }
    let sink = sink_of(server.url(), SinkOptions::default());
    let outcomes = load(&sink, &items);
    assert_eq!(
        counts(&outcomes),
        counted(&[("too large for the server", 10)])
    );
    assert_eq!(outcomes.lost(), 10);
    let small: Vec<_> = items
        .into_iter()
        .filter(|item| item.value.len() < 1000)
        .collect();
    assert_holds(&server, &small);
    assert_eq!(server.peer().stat("curr_items"), small.len() as u64);
}

#[test]
fn a_full_server_that_does_not_evict_refuses_and_that_is_counted() {
    let server = Memcached::start(&["-m", "2", "-M"]);
    let items: Vec<_> = (0..8000)
        .map(|n| Owned::new(format!("key:{n}"), vec![b'v'; 1000]))
        .collect();
    let sink = sink_of(server.url(), SinkOptions::default());
    let outcomes = load(&sink, &items);
    let stored = server.peer().stat("curr_items");
    assert!(stored > 0 && stored < 8000, "{stored}");
    assert_eq!(
        counts(&outcomes),
        counted(&[("out of memory", 8000 - stored)])
    );
    assert_eq!(outcomes.lost(), 8000 - stored);
    let report = sink.finish(&outcomes).unwrap();
    assert_eq!(report["servers"][0]["curr_items_before"], 0);
    assert_eq!(report["servers"][0]["curr_items_after"], stored);
    assert_eq!(report["evicted_during_load"], 0);
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn evictions_are_told() {
    let server = Memcached::start(&["-m", "2"]);
    let items: Vec<_> = (0..8000)
        .map(|n| Owned::new(format!("key:{n}"), vec![b'v'; 1000]))
        .collect();
    let sink = sink_of(server.url(), SinkOptions::default());
    let outcomes = load(&sink, &items);
    let report = sink.finish(&outcomes).unwrap();
    let evicted = report["evicted_during_load"].as_u64().unwrap();
    assert_eq!(evicted, server.peer().stat("evictions"));
    let held = report["servers"][0]["curr_items_after"].as_u64().unwrap();
    assert!(evicted > 0);
    assert_eq!(held + evicted + outcomes.lost(), 8000);
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains(&format!("evicted {evicted} items")),
        "{warning}"
    );
}

#[test]
fn several_servers_get_what_the_ring_gives_them() {
    let servers = [(); 3].map(|()| Memcached::start(&["-m", "64"]));
    for count in [2, 3] {
        let used: Vec<&Memcached> = servers[..count].iter().collect();
        let hosts: Vec<String> = used
            .iter()
            .map(|server| server.server().to_string())
            .collect();
        let bucket = 40 * count;
        let ring = Ring::new(&hosts, bucket).unwrap();
        let mut items = some_items(3000, 200, count as u64);
        items.extend((0..30).map(|n| Owned::new(vec![0xF0 | n; 187 + usize::from(n)], "long")));
        items.dedup_by(|a, b| a.key == b.key);
        let options = SinkOptions {
            ring_bucket: bucket,
            ..SinkOptions::default()
        };
        let sink = sink_of(url(&used), options);
        assert_eq!(load(&sink, &items), Outcomes::default());
        for (n, server) in used.iter().enumerate() {
            let mine: Vec<_> = items
                .iter()
                .filter(|item| ring.owner(&item.key) == n)
                .cloned()
                .collect();
            assert!(mine.len() > 300, "{}", mine.len());
            assert_holds(server, &mine);
            let mut peer = server.peer();
            assert_eq!(peer.stat("curr_items"), mine.len() as u64, "and no other");
            assert_eq!(peer.ask("flush_all"), "OK");
        }
        // And the filter keeps the same share.
        let filter = Filter::new(FilterOptions {
            ring: hosts.clone(),
            own: vec![hosts[1].clone()],
            ring_bucket: bucket,
            ..FilterOptions::default()
        });
        let options = SinkOptions {
            filter: filter.unwrap(),
            ..SinkOptions::default()
        };
        let outcomes = load(&sink_of(used[1].url(), options), &items);
        let held = used[1].peer().stat("curr_items");
        assert_eq!(
            counts(&outcomes),
            counted(&[("filtered: not owned", items.len() as u64 - held)])
        );
        for server in &used {
            assert_eq!(server.peer().ask("flush_all"), "OK");
        }
    }
}

#[test]
fn a_value_of_100_mib_is_streamed() {
    let server = Memcached::start(&["-m", "1024", "-I", "128m"]);
    let piece = Random(9).bytes(1 << 20);
    let mut frames = Frames::written(1 << 20, |out: &mut RecordWriter<'_>| {
        let (mut large, long) = (Owned::new("large", ""), vec![0xFF; 250]);
        for key in [b"large".to_vec(), long] {
            large.key = key;
            let bytes = 32 + large.key.len() + (100 << 20);
            out.begin(bytes as u64, Position::NONE).unwrap();
            let header = tipple_memcached::encode_header(&large.item(), 100 << 20);
            out.append(&header).unwrap();
            out.append(&large.key).unwrap();
            for n in 0..100_u8 {
                out.append(&[n; 16]).unwrap();
                out.append(&piece[16..]).unwrap();
            }
            out.end();
        }
        out.record(&[&Owned::new("after", "it").bytes()], Position::NONE)
            .unwrap();
    });
    let sink = sink_of(server.url(), SinkOptions::default());
    assert!(sink.writer_bytes() < 4 << 20);
    let (result, outcomes) = try_load(&sink, &mut frames);
    result.unwrap();
    assert_eq!(outcomes, Outcomes::default());
    let mut peer = server.peer();
    for key in [b"large".to_vec(), vec![0xFF; 250]] {
        let (value, _) = get(&mut peer, &key).unwrap();
        assert_eq!(value.len(), 100 << 20);
        for (n, held) in value.chunks(1 << 20).enumerate() {
            assert!(
                held[..16] == [n as u8; 16] && held[16..] == piece[16..],
                "{n}"
            );
        }
    }
    assert_holds(&server, &[Owned::new("after", "it")]);
}

/// Does something when the reader asks for a certain frame.
struct Tripwire<'a> {
    frames: Frames,
    left: usize,
    trip: Box<dyn FnMut() + 'a>,
}

impl FrameSource for Tripwire<'_> {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        if self.left == 0 {
            (self.trip)();
        }
        self.left = self.left.wrapping_sub(1);
        self.frames.advance()
    }
    fn bytes(&self) -> &[u8] {
        self.frames.bytes()
    }
}

fn trip<'a>(items: &[Owned], at: usize, action: impl FnMut() + 'a) -> Tripwire<'a> {
    Tripwire {
        frames: Frames::of(items, 64 << 10),
        left: at,
        trip: Box::new(action),
    }
}

#[test]
fn a_server_that_dies_ends_the_load() {
    let mut server = Memcached::start(&["-m", "64"]);
    let items = some_items(20_000, 200, 4);
    let sink = sink_of(server.url(), SinkOptions::default());
    let place = server.server().to_string();
    let (result, _) = try_load(&sink, &mut trip(&items, 10, || server.kill()));
    let (party, message) = refusal(result);
    assert_eq!(party, Party::Sink);
    assert!(
        message.contains(&place) && message.contains("gave up after 4 attempts"),
        "{message}"
    );
    assert!(message.ends_with("run the same load again"), "{message}");
    assert!(sink.finish(&Outcomes::default()).is_err());
}

#[test]
fn a_server_that_was_never_reached_ends_the_load_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let url: MemcachedUrl = format!("memcached://{place}").parse().unwrap();
    let sink = MemcachedSink::new(url, quick(), SinkOptions::default()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (party, message) = std::thread::scope(|scope| {
        let check = scope.spawn(|| refusal(sink.check()));
        let mut attempts = 0;
        while !check.is_finished() {
            match listener.accept() {
                // Closed without a word.
                Ok(_) => attempts += 1,
                Err(_) => std::thread::yield_now(),
            }
        }
        assert_eq!(attempts, 1);
        check.join().unwrap()
    });
    assert_eq!(party, Party::Sink);
    // How the end of a connection shows is up to the system.
    assert!(message.contains(&place.to_string()), "{message}");
    // Nobody listens at the other end of a connection: with the default options, trying again would take most of a minute.
    let connected = TcpStream::connect(place).unwrap();
    let place = connected.local_addr().unwrap();
    let url: MemcachedUrl = format!("memcached://{place}").parse().unwrap();
    let options = MemcachedOptions::default();
    let sink = MemcachedSink::new(url, options, SinkOptions::default()).unwrap();
    let begun = std::time::Instant::now();
    let (party, message) = refusal(sink.check());
    assert_eq!(party, Party::Sink);
    assert_eq!(
        message,
        format!("cannot connect to memcached at {place}: check that it runs and listens there")
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_comes_back_empty_ends_the_load() {
    let mut server = Memcached::start(&["-m", "64"]);
    let items = some_items(20_000, 200, 5);
    let sink = sink_of(server.url(), SinkOptions::default());
    let (result, _) = try_load(&sink, &mut trip(&items, 10, || server.restart()));
    let (party, message) = refusal(result);
    assert_eq!(party, Party::Sink);
    assert!(
        message.contains("was restarted during the load"),
        "{message}"
    );
    // Also when it happens where no connection notices.
    let finish = || sink.finish(&Outcomes::default()).unwrap_err().to_string();
    assert!(finish().contains("was restarted during the load"));
    sink.check().unwrap();
    sink.finish(&Outcomes::default()).unwrap();
    assert_eq!(server.peer().ask("flush_all"), "OK");
    assert!(finish().contains("was flushed during the load"));
}

#[test]
fn a_life_is_told_from_another() {
    let (a, mut b) = (Memcached::start(&[]), Memcached::start(&[]));
    let life = |servers: &[&Memcached]| sink_of(url(servers), SinkOptions::default());
    let first = life(&[&a, &b]);
    let incarnation = first.incarnation().unwrap();
    assert_eq!(incarnation["servers"].as_array().unwrap().len(), 2);
    assert!(first.is_same(&incarnation).unwrap());
    // Another process of ours meets the same life, whatever was loaded meanwhile.
    load(&first, &some_items(10, 10, 1));
    assert!(life(&[&a, &b]).is_same(&incarnation).unwrap());
    assert!(!life(&[&a]).is_same(&incarnation).unwrap());
    assert!(!first.is_same(&serde_json::Value::Null).unwrap());
    assert!(!first.is_same(&serde_json::json!({"servers": []})).unwrap());
    b.restart();
    let second = life(&[&a, &b]);
    assert!(!second.is_same(&incarnation).unwrap());
    let incarnation = second.incarnation().unwrap();
    a.peer().ask("flush_all");
    assert!(!life(&[&a, &b]).is_same(&incarnation).unwrap());
}

#[test]
fn a_cancel_ends_the_load() {
    let server = Memcached::start(&["-m", "64"]);
    let sink = sink_of(server.url(), SinkOptions::default());
    let gate = Gate::new(Rates::default());
    let mut frames = trip(&some_items(20_000, 200, 6), 10, || gate.cancel());
    let mut records = RecordReader::new(&gate, &mut frames);
    let mut writer = sink.open(&gate).unwrap();
    let result = writer.write_part(
        &"0".parse().unwrap(),
        &mut records,
        &mut Outcomes::default(),
    );
    assert!(matches!(result, Err(Stop::Cancelled(_))), "{result:?}");
}

/// Forwards to a server. The first connections are cut, both ways, after so many bytes of requests each; the later
/// ones are left alone.
struct Proxy {
    url: MemcachedUrl,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(server: &Memcached, cuts: Vec<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("memcached://{}", listener.local_addr().unwrap());
        let place = server.server().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let n = count.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&place).unwrap();
                let cut = cuts.get(n).copied().unwrap_or(usize::MAX);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || forward(client, server, cut));
                std::thread::spawn(move || forward(back.0, back.1, usize::MAX));
            }
        });
        Self {
            url: url.parse().unwrap(),
            connections,
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
    let mut buffer = [0; 4096];
    while left > 0 {
        let n = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => n.min(left),
        };
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        left -= n;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_cut_connection_is_made_again_and_everything_arrives() {
    let server = Memcached::start(&["-m", "256"]);
    for (seed, cuts) in [
        // In the greeting and in the statistics; between; then at odd places, some without any progress between.
        vec![3, 20, 200_000, 40, 1, 17, 2, 777_777],
        vec![1_000_001],
        vec![400_000, 400_001, 400_002, 700_000],
    ]
    .into_iter()
    .enumerate()
    {
        // The connection of `check` is one of them.
        let cuts = [vec![usize::MAX], cuts].concat();
        let count = cuts.len();
        let proxy = Proxy::start(&server, cuts);
        let options = MemcachedOptions {
            retry: RetryOptions {
                attempts_max: 12,
                ..quick().retry
            },
            ..MemcachedOptions::default()
        };
        let sink = MemcachedSink::new(proxy.url.clone(), options, SinkOptions::default()).unwrap();
        sink.check().unwrap();
        let items = some_items(12_000, 700, seed as u64);
        assert_eq!(load(&sink, &items), Outcomes::default());
        assert_eq!(proxy.connections.load(Ordering::SeqCst), count + 1);
        assert_holds(&server, &items);
        let mut peer = server.peer();
        assert_eq!(peer.stat("curr_items"), items.len() as u64);
        for item in &items {
            let key = String::from_utf8_lossy(&item.key).into_owned();
            peer.say(format!("md {key} q\r\n").as_bytes());
        }
        assert_eq!(peer.ask("mn"), "MN");
    }
}

#[test]
fn refusals_count_once_however_often_they_are_sent_again() {
    let server = Memcached::start(&["-m", "256"]);
    let items = some_items(12_000, 700, 7);
    load(&sink_of(server.url(), SinkOptions::default()), &items);
    let proxy = Proxy::start(&server, vec![usize::MAX, 300_000, 500_001, 123_456]);
    let sink = sink_of(proxy.url.clone(), add());
    let outcomes = load(&sink, &items);
    assert_eq!(counts(&outcomes), counted(&[("already there", 12_000)]));
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 5);
}

#[test]
fn a_cut_in_a_value_that_is_too_large_to_keep_ends_the_load() {
    let server = Memcached::start(&["-m", "256", "-I", "16m"]);
    for key in [b"large".to_vec(), vec![b' '; 200]] {
        let proxy = Proxy::start(&server, vec![usize::MAX, 2_000_000, 2_000_000]);
        let sink = sink_of(proxy.url.clone(), SinkOptions::default());
        let mut items = some_items(100, 700, 8);
        items.push(Owned::new(key.clone(), vec![1; 5_000_000]));
        let (result, _) = try_load(&sink, &mut Frames::of(&items, 1 << 20));
        let (party, message) = refusal(result);
        assert_eq!(party, Party::Sink);
        assert!(
            message.contains("inside a value of 5000000 bytes"),
            "{message}"
        );
        // The part is applied again from its beginning, and that is enough.
        let sink = sink_of(server.url(), SinkOptions::default());
        assert_eq!(sink.resume(), Resume::Idempotent);
        assert_eq!(load(&sink, &items), Outcomes::default());
        assert_holds(&server, &items);
    }
}

#[test]
fn a_writer_goes_on_after_a_part_that_failed() {
    let server = Memcached::start(&["-m", "64"]);
    let sink = sink_of(server.url(), add());
    let gate = Gate::new(Rates::default());
    let mut writer = sink.open(&gate).unwrap();
    let items = some_items(3000, 300, 9);
    // All are there already, so that the part that fails leaves refusals behind that nobody has read.
    load(&sink, &items);
    let mut bytes: Vec<u8> = items.iter().flat_map(Owned::bytes).collect();
    bytes.truncate(bytes.len() - 1);
    let part = "0".parse().unwrap();
    let mut frames = Frames::raw(&bytes, 50_000);
    let mut records = RecordReader::new(&gate, &mut frames);
    let result = writer.write_part(&part, &mut records, &mut Outcomes::default());
    assert_eq!(refusal(result).0, Party::Content);
    let other: Vec<_> = (0..5000)
        .map(|n| Owned::new(format!("other:{n}"), "v"))
        .collect();
    let mut frames = Frames::of(&other, 64 << 10);
    let mut records = RecordReader::new(&gate, &mut frames);
    let mut outcomes = Outcomes::default();
    writer
        .write_part(&part, &mut records, &mut outcomes)
        .unwrap();
    assert_eq!(outcomes, Outcomes::default(), "none of the part before");
    assert_holds(&server, &other);
}

#[test]
fn a_server_without_the_binary_protocol_cannot_have_long_odd_keys() {
    let server = Memcached::start(&["-m", "64", "-B", "ascii"]);
    let mut items = some_items(10, 100, 10);
    items.push(Owned::new(vec![b' '; 186], "short enough"));
    items.push(Owned::new(vec![b' '; 187], "too long"));
    items.push(Owned::new(vec![b' '; 250], "too long"));
    items.push(Owned::new(vec![b'\n'; 250], vec![1; 3_000_000]));
    items.push(Owned::new("after", "v"));
    let outcomes = load(&sink_of(server.url(), SinkOptions::default()), &items);
    assert_eq!(counts(&outcomes), counted(&[("key cannot be sent", 3)]));
    assert_eq!(outcomes.lost(), 3);
    assert_eq!(server.peer().stat("curr_items"), 12);
}

#[test]
fn bytes_that_are_no_ascii_need_no_other_protocol() {
    let server = Memcached::start(&["-m", "64", "-B", "ascii"]);
    let sink = sink_of(server.url(), SinkOptions::default());
    let keys = [1, 93, 94, 125].map(|n| "ä".repeat(n));
    let items = keys.each_ref().map(|key| Owned::new(key.as_str(), "v"));
    assert_eq!(load(&sink, &items), Outcomes::default());
    for key in keys {
        assert_eq!(server.peer().ask(&format!("mg {key} t")), "HD t-1");
    }
}

#[test]
fn a_unix_socket_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = Memcached::start_unix(folder.path().join("m.sock"), &["-m", "64"]);
    let mut items = some_items(5000, 700, 11);
    items.push(Owned::new(vec![b' '; 250], "long"));
    let sink = sink_of(server.url(), SinkOptions::default());
    assert_eq!(load(&sink, &items), Outcomes::default());
    assert_holds(&server, &items);
}

/// What the source reads back from a server that a plain connection of the test cannot ask.
fn assert_gives(url: MemcachedUrl, options: MemcachedOptions, items: &[Owned]) {
    let source = MemcachedSource::new(url, options, SourceOptions::default()).unwrap();
    let dumped = dump(&source).unwrap();
    let found = dumped.by_key();
    assert_eq!(found.len(), items.len());
    for item in items {
        let key = item.key.escape_ascii();
        let found = found.get(&item.key[..]);
        let found = found.unwrap_or_else(|| panic!("{key} is missing"));
        assert!(found.value == item.value, "{key} has another value");
        assert_eq!(found.flags, item.flags, "{key}");
    }
}

#[test]
fn everything_arrives_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = Certificate::create(folder.path());
    let chain = format!("ssl_chain_cert={}", made.cert.display());
    let key = format!("ssl_key={}", made.key.display());
    let args = ["-Z", "-o", &chain, "-o", &key, "-I", "8m", "-m", "256"];
    let server = Memcached::start(&args);
    let options = |tls| MemcachedOptions {
        tls: Some(tls),
        ..quick()
    };
    let trusting = options(TlsOptions {
        ca_file: Some(made.ca),
        ..TlsOptions::default()
    });
    let mut random = Random(12);
    let mut items = some_items(5000, 700, 12);
    // Beyond every buffer, and by the binary protocol.
    items.push(Owned::new("large", random.bytes(5 << 20)));
    items.push(Owned::new(vec![b' '; 250], random.bytes(1 << 20)).flags(9));
    items.push(Owned::new("nl\r\nflush_all\r\nx", "\r\nEND\r\n"));
    let sink = MemcachedSink::new(server.url(), trusting.clone(), SinkOptions::default()).unwrap();
    sink.check().unwrap();
    assert_eq!(load(&sink, &items), Outcomes::default());
    assert_gives(server.url(), trusting, &items);
    // Refusals come back through it too.
    let too_large = [Owned::new("too large", vec![0; 9 << 20])];
    assert_eq!(load(&sink, &too_large).lost(), 1);
    // Nothing is sent to a server that is not believed, or does not speak it.
    let unknown = options(TlsOptions::default());
    let sink = MemcachedSink::new(server.url(), unknown.clone(), SinkOptions::default()).unwrap();
    let (party, text) = refusal(sink.check());
    assert_eq!(party, Party::Sink);
    assert!(text.contains("--tls-ca"), "{text}");
    let plain = Memcached::start(&[]);
    let sink = MemcachedSink::new(plain.url(), unknown, SinkOptions::default()).unwrap();
    let (party, text) = refusal(sink.check());
    assert_eq!(party, Party::Sink);
    assert!(text.contains("TLS"), "{text}");
    assert_eq!(plain.peer().stat("total_items"), 0);
}

#[test]
fn everything_arrives_at_a_server_that_asks_for_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth");
    std::fs::write(&file, "me:hunter2\n").unwrap();
    let server = Memcached::start(&["-Y", file.to_str().unwrap(), "-m", "64"]);
    let with = |auth: Option<&str>| {
        let auth = auth.map(|auth| auth.parse::<Credentials>().unwrap());
        MemcachedOptions { auth, ..quick() }
    };
    let sink = |auth| MemcachedSink::new(server.url(), with(auth), SinkOptions::default()).unwrap();
    let items = some_items(5000, 700, 13);
    let known = sink(Some("me:hunter2"));
    known.check().unwrap();
    assert_eq!(load(&known, &items), Outcomes::default());
    assert_gives(server.url(), with(Some("me:hunter2")), &items);
    // Such a server speaks no binary protocol, so what only that can carry is a loss, and its neighbours are none.
    let mixed = [
        Owned::new("before", "b"),
        Owned::new(vec![b' '; 250], "long"),
        Owned::new("after", "a"),
    ];
    let outcomes = load(&known, &mixed);
    assert_eq!((outcomes.total(), outcomes.lost()), (1, 1), "{outcomes:?}");
    for (auth, says) in [
        (Some("me:hunter3"), "check --user and --password-file"),
        (None, "give --user and --password-file"),
    ] {
        let (party, text) = refusal(sink(auth).check());
        assert_eq!(party, Party::Sink);
        assert!(text.contains(says) && !text.contains("hunter"), "{text}");
    }
    // The password is no item of a server that asks for none.
    let open = Memcached::start(&[]);
    let options = with(Some("me:hunter2"));
    let to_open = MemcachedSink::new(open.url(), options, SinkOptions::default()).unwrap();
    to_open.check().unwrap();
    assert_eq!(load(&to_open, &items), Outcomes::default());
    assert_eq!(open.peer().stat("total_items"), items.len() as u64);
}

#[test]
fn hostile_records_are_refused() {
    let server = Memcached::start(&["-m", "64"]);
    let sink = sink_of(server.url(), SinkOptions::default());
    let good: Vec<u8> = some_items(20, 100, 12)
        .iter()
        .flat_map(Owned::bytes)
        .collect();
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut bytes = good.clone();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 + random.below(255) as u8;
        let (result, _) = try_load(&sink, &mut Frames::raw(&bytes, 1 + random.below(3000)));
        if let Err(stop) = result {
            assert_eq!(refusal(Err(stop)).0, Party::Content, "seed {seed}");
        }
    }
    assert_eq!(server.peer().stat("cmd_flush"), 0);
    // A claimed length of almost 4 GiB ends where the part ends.
    let mut bytes = good;
    let longest = 28 + u32::from(bytes[4]) + VALUE_BYTES_MAX;
    bytes[..4].copy_from_slice(&longest.to_le_bytes());
    let (result, outcomes) = try_load(&sink, &mut Frames::raw(&bytes, 1 << 20));
    // It is more than the protocol can announce, so it is counted; then the part ends inside it.
    assert_eq!(
        counts(&outcomes),
        counted(&[("too large for the server", 1)])
    );
    assert_eq!(refusal(result).0, Party::Content);
}

/// Says what the real one never does: a version, statistics, and `reply` to every batch.
fn fake(version: &'static str, reply: &'static str) -> MemcachedUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("memcached://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut lines = BufReader::new(client.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let answer = match line.as_slice() {
                        b"version\r\n" => format!("VERSION {version}\r\n"),
                        b"stats\r\n" | b"stats settings\r\n" => "STAT pid 1\r\nEND\r\n".to_owned(),
                        b"mn\r\n" => format!("{reply}MN\r\n"),
                        _ => String::new(),
                    };
                    if client.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                    line.clear();
                }
            });
        }
    });
    url.parse().unwrap()
}

#[test]
fn refusals_that_nobody_knows_are_counted_and_nonsense_ends_the_load() {
    let items = some_items(3, 10, 13);
    for (reply, loss) in [
        ("SERVER_ERROR the disk is on fire\r\n", "server error"),
        ("NS\r\n", "server error"),
        (
            "SERVER_ERROR out of memory reading request\r\n",
            "out of memory",
        ),
    ] {
        let sink = sink_of(fake("1.6.18", reply), SinkOptions::default());
        assert_eq!(
            counts(&load(&sink, &items)),
            counted(&[(loss, 1)]),
            "{reply}"
        );
    }
    for (reply, named) in [
        (
            "CLIENT_ERROR bad data chunk\r\n",
            "\"CLIENT_ERROR bad data chunk\"",
        ),
        ("ERROR\r\n", "\"ERROR\""),
        ("HD\r\n", "\"HD\""),
        ("NS\r\nNS\r\nNS\r\nNS\r\n", "more refusals than"),
    ] {
        let sink = sink_of(fake("1.6.18", reply), SinkOptions::default());
        let (result, _) = try_load(&sink, &mut Frames::of(&items, 64 << 10));
        let (party, message) = refusal(result);
        assert_eq!(party, Party::Sink);
        assert!(message.contains(named), "{message}");
    }
    let sink = MemcachedSink::new(fake("1.5.22", ""), quick(), SinkOptions::default()).unwrap();
    let (party, message) = refusal(sink.check());
    assert_eq!(party, Party::Sink);
    assert!(
        message.contains("1.5.22") && message.contains("1.6.10"),
        "{message}"
    );
}

#[test]
fn options_and_identity() {
    let url: MemcachedUrl = "memcached://a:1,b:2".parse().unwrap();
    for window_bytes in [0, WINDOW_BYTES_MIN - 1, (64 << 20) + 1] {
        let options = SinkOptions {
            window_bytes,
            ..SinkOptions::default()
        };
        let failure = MemcachedSink::new(url.clone(), quick(), options).unwrap_err();
        assert_eq!(failure.party(), Party::Usage);
        assert!(
            failure.to_string().contains(&window_bytes.to_string()),
            "{failure}"
        );
    }
    let options = SinkOptions {
        ring_bucket: 7,
        ..SinkOptions::default()
    };
    assert!(MemcachedSink::new(url.clone(), quick(), options).is_err());
    let sink = MemcachedSink::new(url, quick(), add()).unwrap();
    assert_eq!(
        serde_json::to_value(sink.identity()).unwrap(),
        serde_json::json!({"kind": "memcached", "id": {
            "servers": ["a:1", "b:2"], "ring_bucket": 160, "filter": null, "mode": "add"
        }})
    );
    assert!(sink.accepts("items", 1) && !sink.accepts("items", 2) && !sink.accepts("rows", 1));
    assert!(!sink.ordered());
}
