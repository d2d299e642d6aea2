//! Uploads of the same bytes to the same kind of S3 server: tipple beside rclone and awscli.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tipple_testkit::{Account, Ceph};

use crate::process::{Figures, measure_command, median_of, print_table};
use crate::{Plan, memory, remove};

/// What one upload carries.
const UPLOAD_BYTES: u64 = 1 << 30;
const PREFIX: &str = "dump";

pub fn run(plan: &Plan) {
    let folder = plan.fresh("lines");
    let lines = write_lines(folder.as_ref(), UPLOAD_BYTES);
    let source = format!("lines:{}", lines.display());
    let made = plan.fresh("made");
    let threads = plan.threads.to_string();
    let options = [
        "--compress",
        "none",
        "--threads",
        &threads,
        "--json",
        "--quiet",
    ];
    plan.tipple(&[&["dump", &source, &made], &options[..]].concat());
    plan.tipple(&["verify", &made, "--json", "--quiet"]);
    let bytes = folder_bytes(Path::new(&made));

    let spool = plan.fresh("spool");
    let (mut tipple, mut copied) = (Vec::new(), Vec::new());
    let (mut rclone, mut aws) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        upload(bytes, &mut tipple, |account, bucket| {
            let url = format!("s3://{bucket}/{PREFIX}");
            let mut command = client(plan.tipple.as_ref(), account);
            command
                .args(["dump", &source, &url, "--spool", &spool])
                .args(options);
            command
        });
        upload(bytes, &mut copied, |account, bucket| {
            let url = format!("s3://{bucket}/{PREFIX}");
            let mut command = client(plan.tipple.as_ref(), account);
            // The dump is finished in the folder: what the bucket lacks is copied from there.
            command.args(["dump", &source, &made, &url]).args(options);
            command
        });
        upload(bytes, &mut rclone, |account, bucket| {
            let mut command = client("rclone".as_ref(), account);
            command
                .env("RCLONE_CONFIG", "/dev/null")
                .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
                .env("RCLONE_CONFIG_BENCH_PROVIDER", "Ceph")
                .env("RCLONE_CONFIG_BENCH_ENV_AUTH", "true")
                .env("RCLONE_CONFIG_BENCH_ENDPOINT", &account.endpoint)
                .env("RCLONE_CONFIG_BENCH_REGION", &account.region)
                .args(["copy", &made, &format!("bench:{bucket}/{PREFIX}")])
                // Its own defaults are slower: 5 MiB parts, and a question whether the bucket is there.
                .args(["--transfers", &threads, "--s3-chunk-size", "16M"])
                .arg("--s3-no-check-bucket");
            command
        });
        upload(bytes, &mut aws, |account, bucket| {
            let mut command = client("aws".as_ref(), account);
            command
                .args(["--endpoint-url", &account.endpoint, "s3", "cp"])
                .args(["--recursive", "--quiet", &made])
                .arg(format!("s3://{bucket}/{PREFIX}"));
            command
        });
    }
    print_table(
        &format!("upload of {} MiB to Ceph", bytes >> 20),
        bytes >> 20,
        "MiB",
        &[
            ("tipple dump, none", &tipple),
            ("tipple, of a dump on disk", &copied),
            ("rclone copy", &rclone),
            ("aws s3 cp --recursive", &aws),
        ],
    );
    let wall = |runs: &[Figures]| median_of(runs, |run| run.wall_s);
    let best = wall(&rclone).min(wall(&aws));
    println!(
        "  bytes/s of tipple with the same files, against the faster of the two (goal >= 0.9): {:.2}",
        best / wall(&copied)
    );
    println!(
        "  bytes/s of tipple that makes them meanwhile, against the faster of the two:         {:.2}",
        best / wall(&tipple)
    );
    memory::within_budget("dump to S3", &tipple);
    memory::within_budget("copy to S3", &copied);
    for gone in [folder, made, spool] {
        remove(gone.as_ref());
    }
}

/// Runs the client once against a server of its own: an object that was removed stays in its memory for hours.
fn upload(
    bytes_least: u64,
    figures: &mut Vec<Figures>,
    command: impl Fn(&Account, &str) -> Command,
) {
    let server = Ceph::start();
    let bucket = server.fresh_bucket();
    figures.push(measure_command(&mut command(
        server.account(),
        bucket.bucket(),
    )));
    let objects = bucket.list("");
    let stored: u64 = objects.iter().map(|object| object.bytes).sum();
    // Records of a dump tell times, so their lengths differ by a little.
    assert!(
        stored.abs_diff(bytes_least) < 64 << 10,
        "{stored} bytes of {bytes_least} are there"
    );
    assert_eq!(bucket.uploads(""), []);
    let done = format!("{PREFIX}/DONE");
    assert!(objects.iter().any(|object| object.key == done), "no {done}");
}

/// A client that knows this account, and nothing else of its environment.
pub fn client(program: &Path, account: &Account) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(account.env());
    for kept in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Writes a file of lines of 100 bytes, no two alike, into a new folder.
pub fn write_lines(dir: &Path, bytes: u64) -> PathBuf {
    fs::create_dir(dir).expect("a new folder");
    let path = dir.join("lines.txt");
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&path).expect("a new file"));
    let filler = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(3);
    for number in 0..bytes / 100 {
        writeln!(file, "{number:020} {}", &filler[..78]).expect("room for it");
    }
    file.flush().expect("room for it");
    path
}

/// The bytes of all files below a folder; those that come and go meanwhile may be missed.
pub fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
