//! Peak memory against the printed budget, where it is hardest to hold.

use crate::Plan;
use crate::process::Figures;
use crate::server::Memcached;

/// What a process may hold beside its budget: code, stacks, the allocator's slack.
const SLACK_MIB: f64 = 32.0;

/// Prints the highest RSS of `runs` beside the budget that tipple printed.
pub fn within_budget(name: &str, runs: &[Figures]) {
    let rss = runs.iter().map(|run| run.rss_mib).fold(0.0, f64::max);
    let budget = runs
        .iter()
        .map(|run| {
            run.report()["memory_bytes_budget"]
                .as_f64()
                .expect("a number")
        })
        .fold(0.0, f64::max)
        / f64::from(1 << 20);
    let verdict = if rss <= budget + SLACK_MIB {
        "holds"
    } else {
        "DOES NOT HOLD"
    };
    println!(
        "  memory, {name}: RSS {rss:.0} MiB, budget {budget:.0} MiB + {SLACK_MIB} MiB: {verdict}"
    );
}

pub fn run(plan: &Plan) {
    println!("\nmemory");
    let many = Memcached::start(&["-m", "8192", "-t", "4"]);
    crate::raw::small(&many.addr(), plan.threads, plan.items * 10);
    dump(plan, "ten times the items", &many, &["--compress", "none"]);
    dump(
        plan,
        "16 threads",
        &many,
        &["--compress", "zstd:1", "--threads", "16"],
    );
    drop(many);
    let few = Memcached::start(&["-m", "1024", "-t", "4"]);
    plan.raw_load(&few, 60_000);
    dump(plan, "zstd:19", &few, &["--compress", "zstd:19"]);
    drop(few);
    let large = Memcached::start(&["-m", "4096", "-I", "128m", "-t", "4"]);
    crate::raw::large(&large.addr(), 12, 100 << 20);
    dump(
        plan,
        "values of 100 MiB, buffers of 1 MiB",
        &large,
        &["--compress", "none", "--buffer", "1MiB"],
    );
}

fn dump(plan: &Plan, name: &str, server: &Memcached, args: &[&str]) {
    let dir = plan.fresh("memory");
    let url = format!("memcached://{}", server.addr());
    let mut all = vec!["dump", &url, &dir, "--json", "--quiet"];
    if !args.contains(&"--threads") {
        all.extend(["--threads", "4"]);
    }
    all.extend(args);
    let figures = plan.tipple(&all);
    assert_eq!(figures.report()["records"], server.items());
    let verified = plan.tipple(&["verify", &dir, "--json", "--quiet"]);
    within_budget(name, &[figures]);
    within_budget(&format!("verify of {name}"), &[verified]);
    crate::remove(dir.as_ref());
}
