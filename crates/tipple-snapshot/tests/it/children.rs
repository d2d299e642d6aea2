//! Processes that are killed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tipple_snapshot::{HashMap, Keys, SnapshotFolder, SnapshotOptions};
use tipple_testkit::{cases, wait_for};

use crate::support::Place;

/// The program in `tests/programs`, which is an example for cargo: built with the tests.
pub(crate) fn program() -> PathBuf {
    example("snapshot_writer")
}

/// An example of this crate, as built beside this test.
pub(crate) fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        path.exists(),
        "{} is not there: run cargo build -p tipple-snapshot --examples",
        path.display()
    );
    path
}

struct Writer(Child);

impl Writer {
    fn start(place: &Place) -> Self {
        let child = Command::new(program())
            .args(["forever", place.root().to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the writers write: a number of entries, each of which has it.
fn check(place: &Place) -> Option<u64> {
    let options = SnapshotOptions {
        max_count: 2,
        ..SnapshotOptions::default()
    };
    let folder = SnapshotFolder::new(place.root(), "kill", options, Keys::none()).unwrap();
    let found = folder.load::<HashMap<u64, u64>>();
    assert!(found.failures.is_empty(), "{:?}", found.failures);
    let value = found.loaded?.value;
    let round = *value.values().next().expect("it is never empty");
    assert_eq!(value.len() as u64, 1500 + round % 3000);
    assert!(value.values().all(|of| *of == round), "a mixture");
    Some(round)
}

/// Killed at any instant: what is there is whole, and what was there before the kill is there after it.
#[test]
fn killed_at_random_moments() {
    let place = Place::new();
    let mut seen = None;
    for n in 0..cases(25) {
        let writer = Writer::start(&place);
        let begin = Instant::now();
        let last = seen;
        wait_for("a snapshot", || check(&place) > last);
        // Some of them die in the middle of a write.
        let moment = Duration::from_micros(u64::from(n * 7919 % 9000));
        while begin.elapsed() < moment {
            seen = check(&place).max(seen);
        }
        drop(writer);
        let left = check(&place);
        assert!(left >= seen, "{left:?} after {seen:?}");
        seen = left;
    }
    assert!(seen.is_some());
}

/// Two processes write, others read: each always sees a whole value.
#[test]
fn two_processes_on_one_folder() {
    let place = Place::new();
    let _writers = [Writer::start(&place), Writer::start(&place)];
    wait_for("a snapshot", || check(&place).is_some());
    let mut rounds: Vec<u64> = Vec::new();
    wait_for("many snapshots", || {
        rounds.extend(check(&place));
        rounds.dedup();
        rounds.len() > 40
    });
}
