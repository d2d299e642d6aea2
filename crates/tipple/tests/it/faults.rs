//! Servers that die, restart and forget in the middle; disks that fill up; many clients at once.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tipple_testkit::{Memcached, RawMemcached, Tmpfs, wait_for};

use crate::support::kill_at;
use crate::whole_job::{assert_filled, exits, items, path, tipple, url};

/// Starts a dump that stops for ever at a fail point, and waits until it is there.
#[expect(clippy::zombie_processes, reason = "its callers wait for it")]
fn paused_at(point: &str, args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = tipple(args)
        .env("TIPPLE_PAUSE_AT", point)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        let n = stderr.read_line(&mut line).unwrap();
        assert!(
            n > 0,
            "it ended before {point} (build with --features tipple/failpoints): {seen}"
        );
        seen.push_str(&line);
        if line.contains("failpoint dump::") {
            return (child, stderr);
        }
    }
}

/// A dump that is slow enough to be interrupted: told by its rate.
fn slow_dump(url: &str, dump: &str) -> Child {
    let mut child = tipple(&[
        "dump",
        url,
        dump,
        "--threads",
        "1",
        "--buffer",
        "64KiB",
        "--key-file-size",
        "8KiB",
        "--rate",
        "500KiB/s",
        "--json",
        "--io-timeout",
        "5s",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    // Until the first part is committed, its values have been fetched and more are to come.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(r#""event":"part""#) {
        line.clear();
        assert!(
            stdout.read_line(&mut line).unwrap() > 0,
            "the dump ended too soon"
        );
    }
    // Read on, so that it never waits for us.
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    child
}

fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn has_done(dump: &str) -> bool {
    std::path::Path::new(dump).join("DONE").exists()
}

#[test]
fn a_server_killed_in_mid_dump() {
    let dir = tempfile::tempdir().unwrap();
    let dump = path(&dir, "dump");
    let mut server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(3000);
    let child = slow_dump(&url(&server), &dump);
    server.kill();
    let (code, said) = end(child);
    assert_eq!(code, Some(10), "{said}");
    assert!(!has_done(&dump));
    // It comes back empty, is filled again, and the same command makes a whole dump of that life.
    server.restart_same_port();
    RawMemcached::connect(&server).fill(2000);
    exits(
        0,
        &["dump", &url(&server), &dump, "--key-file-size", "8KiB"],
    );
    exits(0, &["verify", &dump]);
    assert_filled(&dump, 2000);
}

#[test]
fn a_server_restarted_or_flushed_in_mid_dump_is_never_a_dump_of_misses() {
    for flush in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dump = path(&dir, "dump");
        let mut server = Memcached::start(&[]);
        RawMemcached::connect(&server).fill(3000);
        let child = slow_dump(&url(&server), &dump);
        if flush {
            assert_eq!(RawMemcached::connect(&server).command("flush_all"), "OK");
        } else {
            server.kill();
            server.restart_same_port();
        }
        let (code, said) = end(child);
        assert_eq!(code, Some(10), "{said}");
        assert!(
            said.contains(if flush { "flush" } else { "restart" }),
            "{said}"
        );
        assert!(!has_done(&dump));
    }
}

#[test]
fn a_full_disk() {
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(6000);
    let disk = Tmpfs::mount(2 << 20);
    let dump = disk.path().join("dump").to_str().unwrap().to_owned();
    let url = url(&server);
    let args = [
        "dump",
        &url,
        &dump,
        "--compress",
        "none",
        "--chunk-size",
        "1MiB",
        "--key-file-size",
        "16KiB",
    ];
    exits(12, &args);
    assert!(!has_done(&dump));
    let status = std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(disk.path())
        .status();
    assert!(status.unwrap().success());
    exits(0, &args);
    exits(0, &["verify", &dump]);
    assert_filled(&dump, 6000);
}

#[test]
fn two_processes_and_one_dump() {
    let dir = tempfile::tempdir().unwrap();
    let dump = path(&dir, "dump");
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(100);
    let url = url(&server);
    let (mut first, _stderr) = paused_at("committing:1", &["dump", &url, &dump]);
    let second = tipple(&["dump", &url, &dump]).output().unwrap();
    assert_eq!(second.status.code(), Some(11));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        said.contains(&first.id().to_string()),
        "it names the other: {said}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
    exits(0, &["dump", &url, &dump]);
    assert_filled(&dump, 100);
}

#[test]
fn two_processes_and_one_state() {
    let dir = tempfile::tempdir().unwrap();
    let (dump, state) = (path(&dir, "dump"), path(&dir, "state"));
    let (a, b) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&a).fill(100);
    exits(0, &["dump", &url(&a), &dump]);
    let target = url(&b);
    let args = ["load", &dump, &target, "--state", &state];
    let (mut first, _stderr) = paused_at("applied:1", &args);
    let second = tipple(&args).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with(&format!("error: {state}/"))
            && said.ends_with("is in use by another load of the same dump into the same sink: wait for it, or give another --state\n"),
        "{said}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
    exits(0, &args);
    assert_eq!(RawMemcached::connect(&b).stat("curr_items"), 100);
}

#[test]
fn a_dump_that_cannot_be_written_leaves_the_server_alone() {
    let server = Memcached::start(&[]);
    let mut peer = RawMemcached::connect(&server);
    peer.fill(6000);
    let disk = Tmpfs::mount(64 << 20);
    let at = |name: &str| disk.path().join(name).to_str().unwrap().to_owned();
    let url = url(&server);
    kill_at(tipple(&["dump", &url, &at("begun")]), "committing:1");
    std::fs::create_dir(at("empty")).unwrap();
    let remount = |how: &str| {
        let mut command = std::process::Command::new("mount");
        command.args(["-o", &format!("remount,{how}")]);
        assert!(command.arg(disk.path()).status().unwrap().success());
    };
    remount("ro");
    let written = peer.stat("bytes_written");
    for name in ["begun", "empty", "new"] {
        let ran = tipple(&["dump", &url, &at(name)]).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(11), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        assert!(
            said.starts_with("error: cannot ")
                && said.contains(&at(name))
                && said.contains("read-only file system"),
            "{name}: {said}"
        );
    }
    // Its statistics were asked for; its keys, which are more than this, were not.
    let written = peer.stat("bytes_written") - written;
    assert!(written < 64 << 10, "it sent {written} bytes");
    remount("rw");
    exits(0, &["dump", &url, &at("begun")]);
    assert_filled(&at("begun"), 6000);
}

/// The fault of every tool before: under traffic that bumps items, keys were missed by the thousand.
#[test]
fn a_million_items_under_traffic_while_the_table_grows() {
    const STABLE: u64 = 1_000_000;
    let server = Memcached::start(&["-m", "2048", "-t", "2", "-o", "hashpower=17"]);
    let mut raw = RawMemcached::connect(&server);
    // Small values: what matters here is their number.
    raw.set_many((0..STABLE).map(|n| (format!("stable:{n:07}"), n.to_le_bytes(), 0)));
    assert_eq!(raw.stat("curr_items"), STABLE);
    // The table doubles at one and a half items a bucket, one step after the other: once it has caught up, so many more
    // are stored that a few of those below make it grow.
    let mut power = 0;
    wait_for("the table to catch up", || {
        raw.set(b"moving", b"", 0, 0);
        power = raw.stat("hash_power_level");
        (3 << power) / 2 > STABLE && raw.stat("hash_is_expanding") == 0
    });
    raw.set_many((STABLE + 1000..(3 << power) / 2).map(|n| (format!("still:{n}"), b"", 0)));
    let (addr, ended) = (server.addr(), AtomicBool::new(false));
    let dir = tempfile::tempdir().unwrap();
    let dump = path(&dir, "dump");
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (addr, ended) = (&addr, &ended);
            scope.spawn(move || {
                let mut raw = RawMemcached::connect_to(addr);
                let mut n: u64 = client;
                while !ended.load(Ordering::Relaxed) {
                    n = n
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let stable = (n >> 20) % STABLE;
                    // A get that bumps, and now and then a write of an item that nobody counts on.
                    let item = raw
                        .get(format!("stable:{stable:07}").as_bytes())
                        .expect("a stable item");
                    assert!(item.value == stable.to_le_bytes());
                    if n.is_multiple_of(8) {
                        raw.set(
                            format!("moving:{client}:{}", n >> 40).as_bytes(),
                            b"moving",
                            0,
                            0,
                        );
                    }
                }
            });
        }
        let args = [
            "dump",
            &url(&server),
            &dump,
            "--threads",
            "2",
            "--key-file-size",
            "1MiB",
            "--compress",
            "zstd:1",
        ];
        let dumped = std::panic::catch_unwind(|| exits(0, &args));
        // A listing of this version holds the growth back while it walks the table, so it may come right after.
        let grown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the table to grow", || raw.stat("hash_power_level") > power);
        }));
        ended.store(true, Ordering::Relaxed);
        dumped
            .and(grown)
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    exits(0, &["verify", &dump]);
    let items = items(&dump);
    let stable = (0..STABLE).filter(|n| {
        let item = items.get(format!("stable:{n:07}").as_bytes());
        item.is_some_and(|item| item.value == n.to_le_bytes())
    });
    assert_eq!(stable.count() as u64, STABLE, "missed, or wrong");
}
