use std::fs;
use std::io::{Read, stdin};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tipple_testkit::{Ceph, Memcached, MiniStack, Tmpfs, memory_max, wait_for, wait_for_some};

#[test]
fn a_small_disk_is_full_when_it_is_full() {
    let disk = Tmpfs::mount(64 << 10);
    fs::write(disk.path().join("fits"), vec![0; 48 << 10]).unwrap();
    let error = fs::write(disk.path().join("does not"), vec![0; 48 << 10]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let path = disk.path().to_owned();
    drop(disk);
    assert!(!path.exists());
}

#[test]
fn memory_counts_what_was_touched() {
    let before = memory_max(std::process::id());
    let touched = vec![1_u8; 64 << 20];
    let after = memory_max(std::process::id());
    assert!(
        after >= before.max(64 << 20),
        "{before} {after} {}",
        touched.len()
    );
}

#[test]
fn waits_end_with_the_condition() {
    let mut looks = 0;
    wait_for("three looks", || {
        looks += 1;
        looks == 3
    });
    assert_eq!(wait_for_some("more", || Some(looks)), 3);
}

const CHILD: &str = "TIPPLE_TESTKIT_CHILD";

/// Runs the test of this name again in a process of its own, with `dir` for its temporary files, where it does
/// [`start_servers`]; and waits for what that tells.
fn process_with_servers(test: &str, dir: &Path) -> (Child, Vec<u32>) {
    let told = TempDir::new().unwrap();
    let pids = told.path().join("pids");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(CHILD, &pids)
        .env("TMPDIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pids = wait_for_some("the servers to start", || {
        let text = fs::read_to_string(&pids).ok()?;
        let text = text.strip_suffix("end")?;
        Some(text.lines().map(|pid| pid.parse().unwrap()).collect())
    });
    (child, pids)
}

/// In the child: starts servers, tells their pids, and waits for the end of its input. Whether it is the child.
fn start_servers() -> bool {
    let Some(told) = std::env::var_os(CHILD) else {
        return false;
    };
    let own = Memcached::start(&[]);
    let mut pids = vec![own.pid(), MiniStack::shared().pid()];
    pids.extend(Ceph::shared().pids());
    let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    fs::write(told, lines + "end").unwrap();
    stdin().read_to_end(&mut Vec::new()).unwrap();
    true
}

fn is_running(pid: u32) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}

#[test]
fn servers_die_with_a_killed_process() {
    if start_servers() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (mut child, pids) =
        process_with_servers("process::servers_die_with_a_killed_process", dir.path());
    assert_eq!(pids.len(), 5);
    assert!(pids.iter().copied().all(is_running));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the servers to end", || {
        !pids.iter().copied().any(is_running)
    });
}

#[test]
fn a_process_that_ends_leaves_nothing() {
    if start_servers() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (mut child, pids) =
        process_with_servers("process::a_process_that_ends_leaves_nothing", dir.path());
    assert!(fs::read_dir(dir.path()).unwrap().count() >= 3);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    wait_for("the servers to end", || {
        !pids.iter().copied().any(is_running)
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
