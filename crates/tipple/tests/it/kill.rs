//! `kill -9` of tipple at named moments, then the same command again: the same set of items, none twice, every
//! checksum right.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tipple_testkit::{Memcached, RawMemcached};

use crate::support::kill_at;
use crate::whole_job::{assert_filled, exits, items, path, tipple, url};

const ITEMS: u64 = 6000;

/// Every fail point of a dump, at several of its hits: 50 moments.
fn moments() -> Vec<(&'static str, u64)> {
    let mut moments = vec![
        ("begun", 1),
        ("planned", 1),
        ("summing", 1),
        ("summed", 1),
        ("done", 1),
    ];
    for name in [
        "planning",
        "fetching",
        "sealing",
        "sealed",
        "putting",
        "put",
        "committing",
        "committed",
    ] {
        moments.extend([1, 2, 3, 5, 7].map(|n| (name, n)));
    }
    moments.extend([
        ("committed", 9),
        ("fetching", 11),
        ("put", 11),
        ("planning", 11),
        ("sealing", 9),
    ]);
    moments
}

#[test]
fn a_dump_killed_at_fifty_moments_goes_on_to_the_same_items() {
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(ITEMS);
    let dir = tempfile::tempdir().unwrap();
    let moments = moments();
    assert_eq!(moments.len(), 50);
    let hit: BTreeSet<_> = moments.iter().map(|(name, _)| *name).collect();
    assert_eq!(hit.len(), 13, "every fail point of a dump is among them");
    for (name, n) in moments {
        let dump = path(&dir, &format!("{name}-{n}"));
        let url = url(&server);
        let args = [
            "dump",
            &url,
            &dump,
            "--threads",
            "2",
            "--buffer",
            "64KiB",
            "--chunk-size",
            "1MiB",
            "--key-file-size",
            "8KiB",
            "--compress",
            "zstd:1",
        ];
        let said = kill_at(tipple(&args), &format!("{name}:{n}"));
        assert!(
            said.contains(&format!("failpoint dump::{name} hit {n}")),
            "{name}:{n}: {said}"
        );
        if name == "done" {
            // It was finished: the same command says so.
            exits(2, &args);
        } else {
            exits(4, &["verify", &dump]);
            exits(0, &args);
        }
        exits(0, &["verify", &dump]);
        assert_filled(&dump, ITEMS);
        let status = Command::new("sha256sum")
            .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
            .current_dir(&dump)
            .status();
        assert!(status.unwrap().success(), "{name}:{n}");
        // What the killed run left is told, removed on request, and nothing else goes with it.
        exits(0, &["prune", &dump, "--yes"]);
        exits(0, &["verify", &dump]);
        std::fs::remove_dir_all(&dump).unwrap();
    }
}

#[test]
fn a_dump_into_two_stores_killed_anywhere_goes_on_in_both() {
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(ITEMS);
    let dir = tempfile::tempdir().unwrap();
    let (url, spool) = (url(&server), path(&dir, "spool"));
    std::fs::create_dir(&spool).unwrap();
    let mut found_in_spool = 0;
    for (name, n) in [
        ("begun", 1),
        ("planning", 4),
        ("sealed", 3),
        ("putting", 1),
        ("put", 2),
        ("put", 3),
        ("put", 8),
        ("committed", 1),
        ("committed", 2),
        ("committed", 5),
        ("planned", 1),
        ("summed", 1),
        ("summed", 2),
        ("done", 1),
    ] {
        let [a, b] = ["a", "b"].map(|store| path(&dir, &format!("{store}-{name}-{n}")));
        let args = [
            "dump",
            &url,
            &a,
            &b,
            "--spool",
            &spool,
            "--threads",
            "2",
            "--buffer",
            "64KiB",
            "--chunk-size",
            "1MiB",
            "--key-file-size",
            "8KiB",
        ];
        kill_at(tipple(&args), &format!("{name}:{n}"));
        found_in_spool += files_below(spool.as_ref());
        exits(0, &args);
        assert_eq!(files_below(spool.as_ref()), 0, "{name}:{n}");
        for store in [&a, &b] {
            exits(0, &["prune", store, "--yes"]);
            exits(0, &["verify", store]);
            assert_filled(store, ITEMS);
            std::fs::remove_dir_all(store).unwrap();
        }
    }
    assert!(found_in_spool > 0, "no kill left anything in the spool");
}

fn files_below(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap();
    let below = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path) } else { 1 }
    });
    below.sum()
}

#[test]
fn a_load_killed_after_any_part_goes_on() {
    let (a, b) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&a).fill(ITEMS);
    let dir = tempfile::tempdir().unwrap();
    let (dump, state) = (path(&dir, "dump"), path(&dir, "state"));
    exits(0, &["dump", &url(&a), &dump, "--key-file-size", "8KiB"]);
    for n in [1, 2, 5] {
        let target = url(&b);
        let args = ["load", &dump, &target, "--state", &state, "--threads", "1"];
        kill_at(tipple(&args), &format!("applied:{n}"));
        exits(0, &args);
        let again = path(&dir, &format!("again-{n}"));
        exits(0, &["dump", &target, &again]);
        assert_eq!(items(&again), items(&dump));
        RawMemcached::connect(&b).command("flush_all");
    }
}

#[test]
fn a_load_killed_goes_on_from_the_beginning_if_its_target_came_back_empty() {
    let (a, mut b) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&a).fill(ITEMS);
    let dir = tempfile::tempdir().unwrap();
    let (dump, state) = (path(&dir, "dump"), path(&dir, "state"));
    exits(0, &["dump", &url(&a), &dump, "--key-file-size", "8KiB"]);
    let target = url(&b);
    let args = ["load", &dump, &target, "--state", &state, "--threads", "1"];
    kill_at(tipple(&args), "applied:2");
    b.restart_same_port();
    let again = tipple(&args).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(0), "{said}");
    assert!(
        said.contains("(parts that went with it: 1): loading from the beginning"),
        "{said}"
    );
    assert_eq!(RawMemcached::connect(&b).stat("curr_items"), ITEMS);
    let whole = path(&dir, "whole");
    exits(0, &["dump", &target, &whole]);
    assert_eq!(items(&whole), items(&dump));
}

/// Not at named moments but after any number of lines that it prints: 6 times, or 120 in a long run.
#[test]
fn a_dump_killed_anywhere_again_and_again_goes_on() {
    let server = Memcached::start(&[]);
    RawMemcached::connect(&server).fill(ITEMS);
    let dir = tempfile::tempdir().unwrap();
    let url = url(&server);
    for round in 0..u64::from(tipple_testkit::cases(6)) {
        let dump = path(&dir, &format!("round-{round}"));
        let args = [
            "dump",
            &url,
            &dump,
            "--threads",
            "3",
            "--buffer",
            "64KiB",
            "--chunk-size",
            "1MiB",
            "--key-file-size",
            "8KiB",
            "--json",
            "--quiet",
        ];
        // Killed at most 4 times, each time a little later.
        for attempt in 0..4 {
            let lines = (round * 7 + attempt * 11) % 40;
            let mut child = tipple(&args).stdout(Stdio::piped()).spawn().unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            for _ in 0..=lines {
                out.read_line(&mut line).unwrap();
            }
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
        }
        if !std::path::Path::new(&dump).join("DONE").exists() {
            exits(0, &args);
        }
        exits(0, &["verify", &dump]);
        assert_filled(&dump, ITEMS);
        std::fs::remove_dir_all(&dump).unwrap();
    }
}
