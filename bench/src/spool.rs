//! A dump to a store that is slower than its source.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tipple_testkit::{Ceph, FaultProxy};

use crate::process::measure_command;
use crate::s3::{client, folder_bytes, write_lines};
use crate::{Plan, memory, remove};

const SOURCE_BYTES: u64 = 400 << 20;
const STORE_BYTES_PER_SECOND: u64 = 20_000_000;
const SPOOL_LIMIT_BYTES: u64 = 64 << 20;

pub fn run(plan: &Plan) {
    let folder = plan.fresh("lines");
    let lines = write_lines(folder.as_ref(), SOURCE_BYTES);
    let spool = plan.fresh("spool");
    let server = Ceph::start();
    let bucket = server.fresh_bucket();
    let proxy = FaultProxy::start(server.account(), []);
    proxy.limit(Some(STORE_BYTES_PER_SECOND), None);
    let mut command = client(&plan.tipple, proxy.account());
    command
        .args([
            "dump",
            &format!("lines:{}", lines.display()),
            &bucket.url("dump"),
        ])
        .args(["--spool", &spool])
        .args(["--spool-limit", &SPOOL_LIMIT_BYTES.to_string()])
        .args([
            "--chunk-size",
            "8MiB",
            "--threads",
            "2",
            "--compress",
            "none",
        ])
        .args(["--json", "--quiet"]);
    let ended = AtomicBool::new(false);
    let (figures, spool_bytes_seen) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(Ordering::SeqCst) {
                most = most.max(folder_bytes(Path::new(&spool)));
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let figures = measure_command(&mut command);
        ended.store(true, Ordering::SeqCst);
        (figures, sampler.join().expect("it only looks"))
    });
    assert!(bucket.get("dump/DONE").is_some(), "the dump is not whole");
    let passed = proxy.bytes_to_server();
    let least_s = passed as f64 / STORE_BYTES_PER_SECOND as f64;
    let report = figures.report();
    let spool_bytes_max = report["spool_bytes_max"].as_u64().expect("a number");
    println!("\nspool, to a store of 20 MB/s");
    println!(
        "  {passed} bytes in {:.2} s, of which {least_s:.2} s are the store's (goal <= 1.05): {:.3}",
        figures.wall_s,
        figures.wall_s / least_s
    );
    println!(
        "  spool: limit {SPOOL_LIMIT_BYTES}, told {spool_bytes_max}, seen from outside {spool_bytes_seen}: {}",
        if spool_bytes_max.max(spool_bytes_seen) <= SPOOL_LIMIT_BYTES {
            "holds"
        } else {
            "DOES NOT HOLD"
        }
    );
    memory::within_budget("dump through a spool", &[figures]);
    for gone in [folder, spool] {
        remove(gone.as_ref());
    }
}
