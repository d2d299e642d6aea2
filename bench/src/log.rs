//! The embedded stream: appended to, read, dumped and loaded.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use crate::process::{measure_command, print_table};
use crate::{Plan, memory, remove};

const EVENTS: u64 = 1_000_000;
/// Of an event, its newline included.
const LINE_BYTES: usize = 200;

pub fn run(plan: &Plan) {
    let folder = plan.fresh("log");
    let folder = Path::new(&folder);
    std::fs::create_dir(folder).expect("a new folder");
    let lines = folder.join("lines.txt");
    let mut file = BufWriter::new(File::create(&lines).expect("a new file"));
    for number in 0..EVENTS {
        writeln!(file, "{number:0width$}", width = LINE_BYTES - 1).expect("room for it");
    }
    drop(file);
    let url = |name: &str| format!("log:{}", folder.join(name).display());
    let dump = folder.join("dump");
    let dump = dump.to_str().expect("UTF-8");
    let (mut append, mut dumped, mut loaded) = (vec![], vec![], vec![]);
    for round in 0..plan.rounds {
        let (log, copy) = (format!("log-{round}"), format!("copy-{round}"));
        let tipple = |args: &[&str]| {
            let mut command = Command::new(&plan.tipple);
            command.args(args);
            command
        };
        let mut command = tipple(&["append", &url(&log), "--json", "--quiet"]);
        command.stdin(File::open(&lines).expect("written before"));
        append.push(measure_command(&mut command));
        let options = ["--compress", "none", "--json", "--quiet"];
        let source = url(&log);
        let args = [&["dump", &source, dump], &options[..]].concat();
        dumped.push(measure_command(&mut tipple(&args)));
        let args = ["load", dump, &url(&copy), "--json", "--quiet"];
        loaded.push(measure_command(&mut tipple(&args)));
        plan.tipple(&["verify", dump, "--json", "--quiet"]);
        for gone in [Path::new(dump), &folder.join(log), &folder.join(copy)] {
            remove(gone);
        }
    }
    print_table(
        &format!("log, {EVENTS} events of {LINE_BYTES} bytes"),
        EVENTS,
        "events",
        &[
            ("append (goal >= 300000/s)", &append),
            ("dump, none (goal >= 1000000/s)", &dumped),
            ("load", &loaded),
        ],
    );
    memory::within_budget("dump of a log", &dumped);
    memory::within_budget("load into a log", &loaded);
    remove(folder);
}
