//! `kill -9` at moments that nobody chose, then the same command again, into a bucket: the same result as without.
//!
//! The moments are spread over the time that the undisturbed run took, so they fall into requests, between them, and
//! into every stage of a job. 10 kills of each; 50 in a long run. A failing run prints the seed of its moments, which
//! `TIPPLE_TEST_SEED` gives again.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tipple_testkit::{Memcached, MiniStack, RawMemcached, RawS3, is_long};

use crate::support::{Place, Ran};

fn kills() -> u32 {
    if is_long() { 50 } else { 10 }
}

/// Moments, the same ones for the same seed.
struct Moments {
    state: u64,
    undisturbed: Duration,
    hit: u32,
}

impl Moments {
    #[expect(clippy::print_stdout, reason = "shown if the test fails")]
    fn of(undisturbed: Duration) -> Self {
        let fresh = || std::hash::RandomState::new().build_hasher().finish();
        let given = std::env::var("TIPPLE_TEST_SEED").map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|_| fresh());
        println!("TIPPLE_TEST_SEED={seed}, undisturbed {undisturbed:?}");
        Self {
            state: seed,
            undisturbed,
            hit: 0,
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        self.undisturbed.mul_f64(z as f64 / u64::MAX as f64)
    }

    /// Runs `command`, and kills it at the next moment. `false`: it ended before, and well, or had nothing to do.
    fn kill(&mut self, mut command: Command) -> bool {
        let moment = self.next();
        let begun = Instant::now();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() >= moment {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let is_killed = status.signal() == Some(9);
        self.hit += u32::from(is_killed);
        assert!(is_killed || status.success(), "kill {}: {status}", self.hit);
        is_killed
    }
}

/// A folder and a bucket.
struct Cloud {
    place: Place,
    bucket: RawS3,
}

impl Cloud {
    fn new() -> Self {
        Self {
            place: Place::new(),
            bucket: MiniStack::shared().fresh_bucket(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.envs(MiniStack::shared().account().env());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        let env = MiniStack::shared().account().env();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, &**value)).collect();
        self.place.run_with(args, &env)
    }

    fn has_done(&self, prefix: &str) -> bool {
        let done = format!("{prefix}/DONE");
        self.bucket.keys(&done).contains(&done)
    }

    /// After the last kill: finished, sound, and nothing left that nobody needs.
    fn is_whole(&self, prefix: &str, url: &str) {
        assert!(self.has_done(prefix));
        self.run(&["verify", url]).ok();
        self.run(&["prune", url, "--yes"]).ok();
        assert_eq!(self.bucket.uploads(""), []);
        self.run(&["verify", url]).ok();
    }

    /// The server keeps everything in memory.
    fn forget(&self, prefix: &str) {
        for key in self.bucket.keys(prefix) {
            self.bucket.delete(&key);
        }
    }
}

#[test]
fn a_dump_into_a_bucket() {
    const ITEMS: u64 = 2000;
    let cache = Memcached::start(&[]);
    let mut raw = RawMemcached::connect(&cache);
    raw.fill(ITEMS);
    // Chunks larger than a part.
    raw.set_many((0..96_u8).map(|n| (format!("large:{n}"), vec![n; 200_000], 7)));
    let cloud = Cloud::new();
    let from = format!("memcached://{}", cache.addr());
    let dump = |url: &str| -> Vec<String> {
        let options = "--threads 2 --buffer 256KiB --chunk-size 8MiB --compress none --key-file-size 16KiB \
            --upload-part-size 5MiB --spool spool";
        let options = options.split_whitespace();
        let args = ["dump", &from, url].into_iter().chain(options);
        args.map(str::to_owned).collect()
    };
    fn refs(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }
    let items = |url: &str| {
        let text = cloud.run(&["cat", url]).ok().stdout;
        let items: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(items.len(), text.lines().count(), "an item came twice");
        items
    };
    let calm_url = cloud.bucket.url("calm");
    let begun = Instant::now();
    cloud.run(&refs(&dump(&calm_url))).ok();
    let mut moments = Moments::of(begun.elapsed());
    let calm = items(&calm_url);
    assert_eq!(calm.len() as u64, ITEMS + 96);
    let mut rounds = 0;
    while moments.hit < kills() {
        let prefix = format!("killed-{rounds}");
        let url = cloud.bucket.url(&prefix);
        let args = dump(&url);
        // As often as it takes until one comes through, or enough were killed.
        while moments.hit < kills() && moments.kill(cloud.command(&refs(&args))) {
            if cloud.has_done(&prefix) {
                break;
            }
        }
        if !cloud.has_done(&prefix) {
            cloud.run(&refs(&args)).ok();
        }
        cloud.is_whole(&prefix, &url);
        assert!(items(&url) == calm, "round {rounds}: other items");
        cloud.forget(&prefix);
        rounds += 1;
    }
    // What the last dump that came through left of the spool of those before it.
    assert_eq!(files_below(&cloud.place.path("spool")), 0);
}

fn files_below(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    let below = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path) } else { 1 }
    });
    below.sum()
}

/// 12 files, two of them uploaded in parts, whose bytes are a function of their names.
const WRITER: &str = "cd \"$1\"
    for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
        case $n in 4|9) size=6000000 ;; *) size=100000 ;; esac
        head -c $size /dev/zero | tr '\\0' \"$(printf '\\\\%03o' $((64 + n)))\" > f$n
        sleep 0.02
    done";

#[test]
fn a_supervised_command_into_a_bucket() {
    let cloud = Cloud::new();
    let supervise = |url: &'_ str| -> Vec<String> {
        let options = "--dir out --limit 16MiB --threads 2 --upload-part-size 5MiB";
        let command = ["--", "sh", "-c", WRITER, "writer", "{dir}"];
        let args = ["supervise", url].into_iter();
        let args = args.chain(options.split_whitespace()).chain(command);
        args.map(str::to_owned).collect()
    };
    fn refs(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }
    let check = |prefix: &str, url: &str| {
        cloud.is_whole(prefix, url);
        cloud.run(&["load", url, "files:back"]).ok();
        let back = cloud.place.path("back");
        assert_eq!(fs::read_dir(&back).unwrap().count(), 12);
        for n in 1..=12_u8 {
            let bytes = fs::read(back.join(format!("f{n}"))).unwrap();
            let size = if [4, 9].contains(&n) {
                6_000_000
            } else {
                100_000
            };
            assert!(bytes == vec![64 + n; size], "f{n}, {} bytes", bytes.len());
        }
        fs::remove_dir_all(back).unwrap();
        // Of one run and no other.
        let runs: BTreeSet<_> = (cloud.bucket.keys(&format!("{prefix}/files/")).iter())
            .map(|key| key.split('/').nth(2).unwrap().to_owned())
            .collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        assert_eq!(fs::read_dir(cloud.place.path("out")).unwrap().count(), 0);
        assert!(!cloud.place.path("out.tipple").exists());
    };
    let calm_url = cloud.bucket.url("calm");
    let begun = Instant::now();
    cloud.run(&refs(&supervise(&calm_url))).ok();
    let mut moments = Moments::of(begun.elapsed());
    check("calm", &calm_url);
    let mut rounds = 0;
    while moments.hit < kills() {
        let prefix = format!("killed-{rounds}");
        let url = cloud.bucket.url(&prefix);
        let args = supervise(&url);
        while moments.hit < kills() && moments.kill(cloud.command(&refs(&args))) {
            if cloud.has_done(&prefix) {
                break;
            }
        }
        // Killed after its last act, only the folder's owner still has to be told.
        let ran = cloud.run(&refs(&args));
        assert!([Some(0), Some(2)].contains(&ran.exit), "{}", ran.stderr);
        check(&prefix, &url);
        cloud.forget(&prefix);
        rounds += 1;
    }
}
