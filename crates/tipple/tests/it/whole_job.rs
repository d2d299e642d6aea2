//! The main job with the real binary on real servers: dump, verify, load back, compare.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tipple_testkit::{Memcached, RawMemcached, expected};

/// The binary with these arguments, in an empty environment but for PATH.
pub fn tipple(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipple"));
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a PATH"))
        .stdin(Stdio::null());
    command
}

pub fn run(args: &[&str]) -> Output {
    tipple(args).output().expect("the binary starts")
}

/// Runs it, checks the exit code, and returns what it printed on standard output.
#[track_caller]
pub fn exits(code: i32, args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "tipple {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
pub fn report(args: &[&str]) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let out = exits(0, &args);
    serde_json::from_str(out.lines().last().expect("a report")).expect("JSON")
}

pub fn url(server: &Memcached) -> String {
    format!("memcached://{}", server.addr())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub value: Vec<u8>,
    pub flags: u32,
    pub exptime: i64,
}

/// All items of a dump, as `cat` shows them. Panics if one comes twice.
pub fn items(dir: &str) -> BTreeMap<Vec<u8>, Item> {
    let mut items = BTreeMap::new();
    for line in exits(0, &["cat", dir]).lines() {
        let json: Value = serde_json::from_str(line).expect("JSON");
        let item = Item {
            value: bytes(&json["value"]),
            flags: json["flags"]
                .as_u64()
                .expect("flags")
                .try_into()
                .expect("32 bits"),
            exptime: json["exptime"].as_i64().expect("exptime"),
        };
        let key = bytes(&json["key"]);
        assert!(
            items.insert(key.clone(), item).is_none(),
            "{} twice",
            key.escape_ascii()
        );
    }
    items
}

fn bytes(json: &Value) -> Vec<u8> {
    match json {
        Value::String(text) => text.as_bytes().to_vec(),
        other => {
            let text = other["base64"].as_str().expect("base64");
            base64(text)
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{c}"),
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(value).collect();
    let bits = digits
        .iter()
        .flat_map(|d| (0..6).rev().map(move |i| d >> i & 1));
    let bits: Vec<u8> = bits.collect();
    bits.chunks_exact(8)
        .map(|b| b.iter().fold(0, |n, bit| n << 1 | bit))
        .collect()
}

/// Panics unless the dump holds exactly items 0 to `n` of [`expected`].
#[track_caller]
pub fn assert_filled(dir: &str, n: u64) {
    let items = items(dir);
    assert_eq!(items.len() as u64, n);
    for i in 0..n {
        let expected = expected(i);
        let item = items
            .get(expected.key.as_bytes())
            .unwrap_or_else(|| panic!("item {i} is missing"));
        assert!(item.value == expected.value, "item {i} has another value");
        assert_eq!(item.flags, expected.flags);
    }
}

pub fn path(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_str().expect("UTF-8").to_owned()
}

/// Items that broke the tools before us. Expiry is absolute.
fn nasty() -> Vec<(Vec<u8>, Vec<u8>, u32, u32)> {
    let far = 2_100_000_000; // 2036; the server itself takes what is beyond 2038 for the past
    let odd = |n: usize| (0..n).map(|i| (i * 37 % 256) as u8).collect::<Vec<u8>>();
    vec![
        (b"plain".to_vec(), b"value".to_vec(), 0, 0),
        (b"empty".to_vec(), Vec::new(), 0xFFFF_FFFF, 0),
        (b"flags16".to_vec(), b"x".to_vec(), 0x1234_5678, far),
        (
            b"k".to_vec(),
            b"VALUE k 0 5\r\nhello\r\nEND\r\n".to_vec(),
            1,
            0,
        ),
        (
            b"end".to_vec(),
            b"END\r\nEN\r\nVA 5 f0\r\nMN\r\n".to_vec(),
            2,
            far,
        ),
        (b"nl\r\nflush_all\r\nx".to_vec(), b"injected".to_vec(), 3, 0),
        (b"nul\0and space and \x7f".to_vec(), b"odd".to_vec(), 4, 0),
        (vec![0xFF; 187], b"high 187".to_vec(), 5, 0),
        (vec![0x80; 188], b"high 188".to_vec(), 6, 0),
        (vec![0xC3; 250], b"high 250".to_vec(), 7, 0),
        (odd(187), b"odd 187".to_vec(), 8, 0),
        (odd(188), b"odd 188".to_vec(), 9, 0),
        (odd(250), b"odd 250".to_vec(), 10, 0),
        (vec![b'a'; 250], b"plain 250".to_vec(), 11, 2_147_483_647),
        (b"binary".to_vec(), (0..=255).collect(), 12, 2_147_483_646),
        (b"megabyte".to_vec(), vec![b'm'; (1 << 20) - 400], 13, 0),
    ]
}

fn store_nasty(server: &Memcached) {
    let mut raw = RawMemcached::connect(server);
    for (key, value, flags, exptime) in nasty() {
        raw.set(&key, &value, flags, exptime);
    }
}

#[track_caller]
fn assert_nasty(items: &BTreeMap<Vec<u8>, Item>) {
    assert_eq!(items.len(), nasty().len());
    for (key, value, flags, exptime) in nasty() {
        let item = items
            .get(&key)
            .unwrap_or_else(|| panic!("{} is missing", key.escape_ascii()));
        assert!(
            item.value == value,
            "{} has another value",
            key.escape_ascii()
        );
        assert_eq!(item.flags, flags, "{}", key.escape_ascii());
        let exptime = if exptime == 0 { -1 } else { i64::from(exptime) };
        assert!(
            (item.exptime - exptime).abs() <= 1,
            "{}: {}",
            key.escape_ascii(),
            item.exptime
        );
    }
}

#[test]
fn nasty_items_go_round_and_the_source_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Memcached::start(&[]), Memcached::start(&[]));
    store_nasty(&a);
    let mut raw = RawMemcached::connect(&a);
    let (flushes, before) = (raw.stat("cmd_flush"), raw.stat("curr_items"));
    let (first, second) = (path(&dir, "first"), path(&dir, "second"));
    let said = report(&[
        "dump",
        &url(&a),
        &first,
        "--buffer",
        "64KiB",
        "--compress",
        "none",
    ]);
    assert_eq!(said["records"], nasty().len());
    assert_eq!(raw.stat("cmd_flush"), flushes, "a key was run as a command");
    assert_eq!(raw.stat("curr_items"), before);
    // Read by the text protocol, an item that was dumped still counts as never fetched.
    assert!(
        raw.command("mg plain h").starts_with("HD h0"),
        "a dump is no fetch"
    );
    exits(0, &["verify", &first]);
    assert_nasty(&items(&first));
    let said = report(&["load", &first, &url(&b)]);
    assert_eq!(said["records"], nasty().len());
    exits(0, &["dump", &url(&b), &second]);
    assert_nasty(&items(&second));
}

#[test]
fn one_server_straight_into_two() {
    let servers = [&[][..], &[], &[]].map(Memcached::start);
    RawMemcached::connect(&servers[0]).fill(5000);
    let both = format!("memcached://{},{}", servers[1].addr(), servers[2].addr());
    let said = report(&["copy", &url(&servers[0]), &both]);
    assert_eq!(said["records"], 5000);
    let counts: Vec<u64> = servers[1..]
        .iter()
        .map(|server| RawMemcached::connect(server).stat("curr_items"))
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 5000);
    assert!(counts.iter().all(|n| *n > 1000), "{counts:?}");
    let dir = tempfile::tempdir().unwrap();
    let dump = path(&dir, "dump");
    exits(0, &["dump", &both, &dump]);
    assert_filled(&dump, 5000);
}

#[test]
fn stock_tools_read_the_dump() {
    let dir = tempfile::tempdir().unwrap();
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(3000);
    for compress in ["none", "zstd:1", "zstd:19"] {
        let dump = path(&dir, compress);
        exits(0, &["dump", &url(&server), &dump, "--compress", compress]);
        for command in [
            "sha256sum --quiet --strict -c SHA256SUMS",
            "zstd -q -t chunks/*.zst plan/*/*.zst",
            "zstd -dcq chunks/*.zst >/dev/null",
        ] {
            let status = Command::new("sh")
                .args(["-c", command])
                .current_dir(&dump)
                .status();
            assert!(
                status.unwrap().success(),
                "{command} (apt-get install -y zstd)"
            );
        }
    }
}

#[test]
fn the_cachemover_layout_there_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&a).fill(3000);
    let folder = path(&dir, "v0");
    exits(0, &["dump", &url(&a), &folder, "--layout", "cachemover"]);
    let done =
        std::fs::read_to_string(Path::new(&folder).join("datafiles_completed/DONE")).unwrap();
    assert!(
        done.starts_with("DONE\nTotal keys from metadump: 3000\n"),
        "{done}"
    );
    let status = Command::new("sh")
        .args([
            "-ec",
            "for f in data_*; do test $(md5sum <$f | cut -c1-32 | tr a-f A-F) = ${f##*_}; done",
        ])
        .current_dir(Path::new(&folder).join("datafiles_completed"))
        .status();
    assert!(status.unwrap().success());
    assert_filled(&folder, 3000);
    exits(0, &["load", &folder, &url(&b)]);
    let dump = path(&dir, "dump");
    exits(0, &["dump", &url(&b), &dump]);
    assert_filled(&dump, 3000);

    // What was left out is in its counters, as cachemover's own has it.
    let few = path(&dir, "few");
    let args = [
        "dump",
        &url(&a),
        &few,
        "--layout",
        "cachemover",
        "--key-regex",
        "0$",
    ];
    let left_out = report(&args)["outcomes"]["filtered: regex"]
        .as_u64()
        .unwrap();
    assert!((1..3000).contains(&left_out));
    let done = std::fs::read_to_string(Path::new(&few).join("datafiles_completed/DONE")).unwrap();
    for line in [
        "Total keys from metadump: 3000".to_owned(),
        format!("Total keys dumped: {}", 3000 - left_out),
        format!("Total keys filtered: {left_out}"),
    ] {
        assert!(done.contains(&line), "{line}: {done}");
    }
}

#[test]
fn a_value_larger_than_every_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = ["-I", "-I"]
        .map(|i| Memcached::start(&[i, "64m", "-m", "512"]))
        .into();
    let value: Vec<u8> = (0..40 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    RawMemcached::connect(&a).set(b"large", &value, 9, 0);
    RawMemcached::connect(&a).fill(100);
    let dump = path(&dir, "dump");
    let args = [
        "--buffer",
        "64KiB",
        "--chunk-size",
        "1MiB",
        "--threads",
        "2",
        "--compress",
        "zstd:1",
    ];
    let said = report(&[&["dump", &url(&a), &dump][..], &args].concat());
    assert_eq!(said["records"], 101);
    exits(0, &["verify", &dump]);
    exits(0, &["load", &dump, &url(&b), "--threads", "2"]);
    let item = RawMemcached::connect(&b).get(b"large").expect("loaded");
    assert!(item.value == value && item.flags == 9);
    assert_eq!(RawMemcached::connect(&b).stat("curr_items"), 101);
}

#[test]
fn losses_make_the_exit_code_3_and_everything_else_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let a = Memcached::start(&["-I", "4m"]);
    let mut raw = RawMemcached::connect(&a);
    raw.fill(500);
    raw.set(b"too large for the other", &vec![7; 2 << 20], 0, 0);
    let dump = path(&dir, "dump");
    exits(0, &["dump", &url(&a), &dump]);
    let b = Memcached::start(&[]);
    let out = exits(3, &["load", &dump, &url(&b), "--json"]);
    let said: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(said["records"], 500, "{said}");
    let lost: u64 = said["lost"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(lost, 1, "{said}");
    assert_eq!(RawMemcached::connect(&b).stat("curr_items"), 500);
}

#[test]
fn filters_ownership_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (Memcached::start(&[]), Memcached::start(&[]));
    let mut raw = RawMemcached::connect(&a);
    for n in 0..2000 {
        raw.set(
            format!("key{n}").as_bytes(),
            b"old",
            0,
            if n % 4 == 0 { 1000 } else { 0 },
        );
    }
    let dump = path(&dir, "prefix");
    let said = report(&["dump", &url(&a), &dump, "--key-prefix", "key1"]);
    assert_eq!(said["records"], 1111);
    let dump = path(&dir, "regex");
    let said = report(&["dump", &url(&a), &dump, "--key-regex", "^key[0-9]$"]);
    assert_eq!(said["records"], 10);
    let dump = path(&dir, "ttl");
    let said = report(&["dump", &url(&a), &dump, "--min-ttl", "5000s"]);
    assert_eq!(said["records"], 1500);
    let ring = "1.1.1.1:11211,1.2.3.4:11211,2.2.2.2:11211,2.3.4.5:11211,3.3.3.3:11211";
    let own = "1.1.1.1:11211,2.2.2.2:11211,3.3.3.3:11211";
    let dump = path(&dir, "ring");
    let said = report(&["dump", &url(&a), &dump, "--ring", ring, "--own", own]);
    // The vector of the original's ketama, over key0 to key1999.
    assert_eq!(said["records"], 1258);
    assert_eq!(said["outcomes"]["filtered: not owned"], 742, "{said}");

    let dump = path(&dir, "all");
    exits(0, &["dump", &url(&a), &dump]);
    let mut raw = RawMemcached::connect(&b);
    raw.set(b"key7", b"newer", 0, 0);
    let said = report(&["load", &dump, &url(&b), "--mode", "add"]);
    assert_eq!(said["records"], 1999);
    assert_eq!(raw.get(b"key7").unwrap().value, b"newer");
    exits(0, &["load", &dump, &url(&b)]);
    assert_eq!(raw.get(b"key7").unwrap().value, b"old");
}
