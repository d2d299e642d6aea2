//! `tipple supervise` with the real binary: mydumper and a real server, kills, signals, flags.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insta::assert_snapshot;
use serde_json::Value;
use tipple_testkit::{MariaDb, is_long, wait_for};

use crate::support::{Place, Ran};

const MYDUMPER: &str = "apt-get install -y --no-install-recommends mydumper";

/// Rows of all kinds of sizes, in three tables; about so many MiB of SQL.
fn fill(server: &MariaDb, mib: u64) {
    server.sql(
        "create database shop;
        create table shop.orders (id int primary key, customer int, note varchar(200), amount double);
        create table shop.articles (id int primary key, body text);
        create table shop.blobs (id int primary key, bytes mediumblob)",
    );
    // Half of it in rows of 100 bytes, and a quarter each in rows of 1 and of 8 KiB.
    server.sql(&format!(
        "use shop; insert into shop.orders select seq, seq * 7 % 1000, repeat(md5(seq), 2), seq / 3 from seq_1_to_{};
        insert into shop.articles select seq, repeat(md5(seq), 32) from seq_1_to_{};
        insert into shop.blobs select seq, repeat(unhex(md5(seq)), 512) from seq_1_to_{}",
        mib * 5000,
        mib * 250,
        mib * 31
    ));
}

/// The most that is ever in a folder, as somebody outside sees it.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Sampler {
    fn start(folder: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                let bytes = fs::read_dir(&folder).map_or(0, |entries| {
                    let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
                    sizes.map(|meta| meta.len()).sum()
                });
                most = most.max(bytes);
                std::thread::sleep(Duration::from_micros(500));
            }
            most
        });
        Self { stop, thread }
    }

    fn most(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[track_caller]
fn sums_are_right(store: &Path) {
    let checked = Command::new("sha256sum")
        .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
        .current_dir(store)
        .status();
    assert!(checked.unwrap().success());
}

#[test]
fn mydumper_under_a_limit_and_myloader_from_what_was_stored() {
    assert!(Path::new("/usr/bin/mydumper").exists(), "run: {MYDUMPER}");
    let server = MariaDb::start(&["--net-write-timeout=60"]);
    let mib = if is_long() { 500 } else { 120 };
    fill(&server, mib);
    server.sql("create user dumper@localhost identified by 'hunter2'; grant all on *.* to dumper@localhost");
    let place = Place::new();
    let socket = server.socket();
    let limit = 20 << 20;
    let sampler = Sampler::start(place.path("out"));
    let mut command = place.command(&[
        "supervise",
        "--json",
        "--dir",
        "out",
        "--limit",
        "20MiB",
        "--threads",
        "2",
        "store",
        "--",
        "mydumper",
        "--socket",
        socket.to_str().unwrap(),
        "--user",
        "dumper",
        "--database",
        "shop",
        "--chunk-filesize",
        "1",
        "--threads",
        "2",
        "--outputdir",
        "{dir}",
    ]);
    let output = command.env("MYSQL_PWD", "hunter2").output().unwrap();
    let most = sampler.most();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert!(most > 1 << 20, "the sampler saw nothing");
    assert!(most <= limit, "{most}, {report}");
    assert!(report["spool_bytes_max"].as_u64().unwrap() <= limit);
    assert!(
        report["stored_bytes"].as_u64().unwrap() > (mib / 2) << 20,
        "{report}"
    );
    assert_eq!(report["command"]["code"], 0);
    assert!(report["pause_ms_max"].as_u64().unwrap() < 45_000);

    sums_are_right(&place.path("store"));
    place.run(&["verify", "store"]).ok();
    let before = server.checksums("shop");
    assert_eq!(before.len(), 3);
    server.sql("drop database shop");
    place.run(&["load", "store", "files:back"]).ok();
    let loaded = Command::new("myloader")
        .args([
            "--socket",
            socket.to_str().unwrap(),
            "--user",
            "dumper",
            "--threads",
            "2",
        ])
        .args(["--directory", place.path("back").to_str().unwrap()])
        .env("MYSQL_PWD", "hunter2")
        .output()
        .unwrap();
    assert!(
        loaded.status.success(),
        "{}",
        String::from_utf8_lossy(&loaded.stderr)
    );
    assert_eq!(server.checksums("shop"), before);
}

#[test]
fn without_a_command_it_is_mydumper_and_its_password_is_seen_by_nobody() {
    assert!(Path::new("/usr/bin/mydumper").exists(), "run: {MYDUMPER}");
    let server = MariaDb::start(&[]);
    fill(&server, 1);
    server.sql("create user dumper@127.0.0.1 identified by 'hunter2'; grant all on *.* to dumper@127.0.0.1");
    let place = Place::new();
    let port = server.port().to_string();
    let settings = [
        ("TIPPLE_STORE", "store"),
        ("TIPPLE_SUPERVISE_DIR", "out"),
        ("TIPPLE_SUPERVISE_LIMIT", "32MiB"),
        ("TIPPLE_MYSQL_HOST", "127.0.0.1"),
        ("TIPPLE_MYSQL_PORT", &port),
        ("TIPPLE_MYSQL_USER", "dumper"),
        ("TIPPLE_MYSQL_PASSWORD", "hunter2"),
        ("TIPPLE_MYDUMPER_CHUNK_SIZE", "2MiB"),
        ("TIPPLE_LOG_FILE", "log"),
        ("TIPPLE_LOG_LEVEL", "debug"),
    ];
    let ran = place.run_with(&["supervise"], &settings).ok();
    assert!(!ran.stderr.contains("hunter2") && !ran.stdout.contains("hunter2"));
    let stored = fs::read_dir(place.path("store/files/0001"))
        .unwrap()
        .flatten();
    let names: Vec<String> = stored
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    for name in ["metadata", "shop.orders-schema.sql", "shop.blobs.00001.sql"] {
        assert!(
            names.iter().any(|n| n == name)
                || name.ends_with("00001.sql")
                    && names.iter().any(|n| n.starts_with("shop.blobs.")),
            "{name} of {names:?}"
        );
    }
    for file in ["HEAD.json", "DONE", "manifest.json"] {
        assert!(
            !String::from_utf8_lossy(&place.read(&format!("store/{file}"))).contains("hunter2")
        );
    }
    assert!(!String::from_utf8_lossy(&place.read("log")).contains("hunter2"));
    // A wrong one is the command's failure, with its words passed on.
    let mut wrong = settings;
    wrong[0].1 = "other";
    wrong[6].1 = "hunter3";
    let ran = place.run_with(&["supervise"], &wrong);
    assert_eq!(ran.exit, Some(10), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("Access denied")
            && ran
                .stderr
                .contains("error: mydumper failed with exit code 1"),
        "{}",
        ran.stderr
    );
    assert!(!place.path("other/DONE").exists());
}

/// A command whose files are the same each time, and that takes a while.
const STEADY: &str = "n=0; while [ $n -lt 40 ]; do n=$((n+1)); head -c 200000 /dev/zero | tr '\\0' \"$((n % 10))\" > \"$0/f$n\"; sleep 0.005; done";

/// The same, which waits in the middle until there is a file `go`, so that it cannot end before it is to.
fn waiting() -> String {
    STEADY.replace(
        "sleep",
        "[ $n -ne 20 ] || until [ -e go ]; do sleep 0.01; done; sleep",
    )
}

fn steady<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    steady_with(STEADY, extra)
}

fn steady_with<'a>(command: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "supervise",
        "--dir",
        "out",
        "--limit",
        "4MiB",
        "--threads",
        "2",
    ];
    args.extend(extra);
    args.extend(["store", "--", "sh", "-c", command, "{dir}"]);
    args
}

#[track_caller]
fn steady_is_stored(place: &Place) {
    place.run(&["verify", "store"]).ok();
    sums_are_right(&place.path("store"));
    place.run(&["load", "store", "files:back"]).ok();
    for n in 1..=40 {
        let file = place.read(&format!("back/f{n}"));
        assert_eq!(file.len(), 200_000);
        assert!(file.iter().all(|byte| *byte == b'0' + n as u8 % 10), "f{n}");
    }
    assert_eq!(fs::read_dir(place.path("back")).unwrap().count(), 40);
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0);
    assert!(!place.path("out.tipple").exists());
    assert_eq!(writers(place), Vec::<String>::new());
    // Nothing staged stays behind, and what other runs stored goes on request, and nothing else with it.
    place.run(&["prune", "store", "--yes"]).ok();
    place.run(&["verify", "store"]).ok();
    let runs = fs::read_dir(place.path("store/files")).unwrap().flatten();
    let files = runs
        .filter(|run| fs::read_dir(run.path()).unwrap().count() > 0)
        .count();
    let staged = fs::read_dir(place.path("store/.tipple/staging"))
        .unwrap()
        .count();
    assert_eq!((files, staged), (1, 0));
}

/// Processes that have the command's folder among their arguments.
fn writers(place: &Place) -> Vec<String> {
    let out = place.path("out").to_str().unwrap().to_owned();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok())
        .filter(|line| line.split('\0').any(|arg| arg == out))
        .collect()
}

/// Whether the supervised command is there, and all of its processes are stopped. One may be in a `vfork` whose child was
/// stopped before it began its program: then it can do nothing, and the system says `D`.
fn are_stopped(place: &Place) -> bool {
    let out = place.path("out").to_str().unwrap().to_owned();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let states = processes.filter_map(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
        let is_writer = line.split('\0').any(|arg| arg == out);
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        is_writer.then(|| {
            stat.rsplit_once(") ")
                .map_or(' ', |(_, rest)| rest.chars().next().unwrap())
        })
    });
    let states: Vec<char> = states.collect();
    states.contains(&'T') && states.iter().all(|state| "TD".contains(*state))
}

#[cfg(feature = "failpoints")]
#[test]
fn killed_at_every_moment_and_given_again() {
    use crate::support::kill_at;

    let moments: &[(&str, &[u32])] = &[
        ("begun", &[1]),
        ("claimed", &[1]),
        ("spawned", &[1]),
        ("looked", &[1]),
        ("recording", &[1, 13]),
        ("putting", &[1, 17]),
        ("put", &[1, 20]),
        ("ending", &[1]),
        ("ended", &[1]),
        ("summing", &[1]),
        ("summed", &[1]),
        ("done", &[1]),
    ];
    for (name, hits) in moments {
        for hit in *hits {
            let place = Place::new();
            let args = steady(&[]);
            kill_at(place.command(&args), &format!("supervise::{name}:{hit}"));
            assert_eq!(place.path("store/DONE").exists(), *name == "done");
            let again = place.run(&args);
            let expected = if *name == "done" { 2 } else { 0 };
            assert_eq!(again.exit, Some(expected), "{name}:{hit}: {}", again.stderr);
            // The command ran twice only where it had not ended.
            let over = ["ended", "summing", "summed", "done"].contains(name);
            let runs = fs::read_dir(place.path("store/runs")).unwrap().flatten();
            let begun = runs
                .filter(|run| !run.file_name().to_string_lossy().contains("ended"))
                .count();
            let expected = if over || *name == "begun" { 1 } else { 2 };
            assert_eq!(begun, expected, "{name}:{hit}");
            steady_is_stored(&place);
        }
    }
}

/// After any time: 10 times, or 200 in a long run; sometimes more than once.
#[test]
fn killed_anywhere_again_and_again() {
    for round in 0..u64::from(tipple_testkit::cases(10)) {
        let place = Place::new();
        let args = steady(&["--json"]);
        for attempt in 0..1 + round % 3 {
            let mut running = place.start(&args);
            // After so many events, which come with the files.
            for _ in 0..(round * 13 + attempt * 29) % 50 {
                if running.event().is_none() {
                    break;
                }
            }
            running.signal("KILL");
            let (_, exit) = running.end();
            if exit == Some(0) {
                break;
            }
        }
        if !place.path("store/DONE").exists() {
            place.run(&args).ok();
        } else {
            // Killed after its last act, which only the folder's owner still has to be told.
            place.run(&args);
        }
        steady_is_stored(&place);
    }
}

#[test]
fn a_surviving_command_is_ended_before_anything_else() {
    let place = Place::new();
    // It ignores what can be ignored, has a child that has left the group, and writes for ever.
    let script = "trap '' HUP TERM INT TSTP; (setsid sh -c 'trap \"\" HUP TERM; while :; do sleep 0.02; done' \"$0\" &)
        n=0; while :; do n=$((n+1)); echo $n > \"$0/f$n\"; sleep 0.01; done";
    let args = |script| {
        [
            "supervise",
            "--json",
            "--grace",
            "200ms",
            "--dir",
            "out",
            "--limit",
            "4MiB",
            "store",
            "--",
            "sh",
            "-c",
            script,
            "{dir}",
        ]
    };
    let mut running = place.start(&args(script));
    running.wait_for("file");
    running.signal("KILL");
    running.end();
    assert!(writers(&place).len() >= 2, "{:?}", writers(&place));
    let ran = place.run(&args("echo x > \"$0/only\"")).ok();
    assert!(
        ran.stderr.contains("ending processes of an earlier run"),
        "{}",
        ran.stderr
    );
    assert_eq!(writers(&place), Vec::<String>::new());
    place.run(&["load", "store", "files:back"]).ok();
    let back = fs::read_dir(place.path("back")).unwrap().flatten();
    let names: Vec<_> = back.map(|file| file.file_name()).collect();
    assert_eq!(names, ["only"]);
}

#[test]
fn an_interrupt_ends_the_command_and_the_same_command_starts_over() {
    for signal in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let waiting = waiting();
        let args = steady_with(&waiting, &["--json"]);
        let mut running = place.start(&args);
        running.wait_for("file");
        running.signal(signal);
        let (last, exit) = running.end();
        assert_eq!(
            (exit, &last["kind"]),
            (Some(130), &"interrupted".into()),
            "{last}"
        );
        assert_eq!(writers(&place), Vec::<String>::new());
        fs::write(place.path("go"), "").unwrap();
        place.run(&args).ok();
        steady_is_stored(&place);
    }
}

/// Suspended by Ctrl-Z, it would leave the command to fill the disk.
#[test]
fn it_is_not_suspended_and_under_nohup_not_hung_up() {
    let place = Place::new();
    let args = steady(&["--json"]);
    let mut command = Command::new("nohup");
    command
        .arg(env!("CARGO_BIN_EXE_tipple"))
        .args(&args)
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    wait_for("the command", || !writers(&place).is_empty());
    for signal in ["TSTP", "HUP"] {
        let sent = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    steady_is_stored(&place);
}

#[test]
fn a_pause_by_signal_stops_the_command() {
    let place = Place::new();
    let waiting = waiting();
    let args = steady_with(&waiting, &["--json"]);
    let mut running = place.start(&args);
    running.wait_for("file");
    running.signal("USR1");
    running.wait_for("paused");
    wait_for("the command to be stopped, and the folder emptied", || {
        let files = fs::read_dir(place.path("out")).unwrap().count();
        files <= 1 && are_stopped(&place)
    });
    running.signal("USR2");
    fs::write(place.path("go"), "").unwrap();
    let (last, exit) = running.end();
    assert_eq!(exit, Some(0), "{last}");
    assert!(last["pauses"].as_u64() >= Some(1));
    steady_is_stored(&place);
}

#[test]
fn two_supervisors_of_one_folder() {
    let place = Place::new();
    let waiting = waiting();
    let args = steady_with(&waiting, &["--json"]);
    let mut running = place.start(&args);
    running.wait_for("file");
    let second = place.run(&args);
    assert_eq!(second.exit, Some(2));
    assert!(
        second.stderr.contains("is in use by another tipple"),
        "{}",
        second.stderr
    );
    fs::write(place.path("go"), "").unwrap();
    let (_, exit) = running.end();
    assert_eq!(exit, Some(0));
}

#[test]
fn output_goes_where_it_belongs() {
    let place = Place::new();
    let command = [
        "--",
        "sh",
        "-c",
        "echo to-out; echo to-err >&2; cat; exit 3",
        "{dir}",
    ];
    let run = |json: &[&str]| -> Ran {
        let mut args = vec!["supervise", "--dir", "out", "--limit", "4MiB", "store"];
        args.extend(json);
        args.extend(command);
        place.run(&args)
    };
    let ran = run(&[]);
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(10), "to-out\n"));
    assert!(ran.stderr.contains("to-err\n"));
    assert!(
        ran.stderr
            .contains("error: sh failed with exit code 3: store is not complete"),
        "{}",
        ran.stderr
    );
    let ran = run(&["--json"]);
    let report = ran.report();
    assert_eq!(
        (&report["exit"], &report["command"]["code"]),
        (&10.into(), &3.into())
    );
    assert_eq!(report["done"], false);
    assert!(ran.stderr.contains("to-out\n") && ran.stderr.contains("to-err\n"));
}

#[test]
fn what_it_tells() {
    let place = Place::new();
    let ran = place
        .run(&[
            "supervise",
            "--dir",
            "out",
            "--limit",
            "4MiB",
            "store",
            "--",
            "sh",
            "-c",
            "echo x > \"$0/a b\"",
            "{dir}",
        ])
        .ok();
    assert_snapshot!(ran.stderr);
    let listed = place.run(&["list", "store", "--parts"]).ok().stdout;
    assert!(
        listed.contains("files of sh") && listed.contains("a=20b"),
        "{listed}"
    );
    assert_snapshot!(place.run(&["verify", "store"]).ok().stderr);
    assert_snapshot!(place.run(&["load", "store", "files:back"]).ok().stderr);
    fs::write(place.path("store/files/0001/a=20b"), "y\n").unwrap();
    let damaged = place.run(&["verify", "store"]);
    assert_eq!(damaged.exit, Some(4));
    assert_snapshot!(damaged.stderr);
}

#[test]
fn what_is_refused() {
    let place = Place::new();
    place.write("in.txt", "one\n");
    place
        .run(&[
            "supervise",
            "--dir",
            "o",
            "--limit",
            "4MiB",
            "files",
            "--",
            "sh",
            "-c",
            "echo x > \"$0/x\"",
            "{dir}",
        ])
        .ok();
    place.run(&["dump", "lines:in.txt", "dump"]).ok();
    fs::create_dir(place.path("full")).unwrap();
    place.write("full/mine", "x");
    let commands = [
        "supervise store -- true",
        "supervise --dir out --limit 1MiB store -- true",
        "supervise --dir out --limit 4MiB out/store -- true",
        "supervise --dir store/out --limit 4MiB store -- true",
        "supervise --dir full --limit 4MiB store -- true",
        "supervise --dir out --limit 4MiB store -- no-such-program",
        "supervise --dir out --limit 4MiB store --pause-max 1ms -- true",
        "supervise --dir out --limit 4MiB store --mysql-host h -- true",
        "supervise --dir out --limit 4MiB store --mydumper-chunk-size 1KiB",
        "supervise --dir out --limit 4MiB files -- sh",
        "supervise --dir out --limit 4MiB dump -- true",
        "dump lines:in.txt files",
        "cat files",
        "load files lines:out.txt",
        "load dump files:back",
        "load files files:back --partial",
        "load files files:",
        "copy lines:in.txt files:back",
        "dump files:in d",
    ];
    let told: String = commands
        .iter()
        .map(|command| {
            let ran = place.run(&command.split(' ').collect::<Vec<_>>());
            let exit = ran.exit.unwrap();
            format!("$ tipple {command}\n[{exit}] {}", ran.stderr)
        })
        .collect();
    assert_snapshot!(told);
    assert_eq!(fs::read_dir(place.path("full")).unwrap().count(), 1);
    for name in ["out", "back", "out.tipple"] {
        let empty =
            fs::read_dir(place.path(name)).is_ok_and(|mut entries| entries.next().is_none());
        assert!(
            empty || !place.path(name).exists(),
            "{name} was made for nothing"
        );
    }
}

#[test]
fn a_store_whose_disk_is_full() {
    let place = Place::new();
    let disk = tipple_testkit::Tmpfs::mount(2 << 20);
    let store = disk.path().join("store").to_str().unwrap().to_owned();
    let args = [
        "supervise",
        "--dir",
        "out",
        "--limit",
        "4MiB",
        &store,
        "--",
        "sh",
        "-c",
        STEADY,
        "{dir}",
    ];
    let ran = place.run(&args);
    assert_eq!(ran.exit, Some(12), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no space left on device"),
        "{}",
        ran.stderr
    );
    assert!(!disk.path().join("store/DONE").exists());
    assert_eq!(writers(&place), Vec::<String>::new());
}

/// On a terminal, where a bar would wipe them away.
#[test]
fn the_words_of_the_command_stay_on_a_terminal() {
    let place = Place::new();
    let line = format!(
        "{} supervise --dir out --limit 4MiB store -- sh -c 'echo \"said before\"; sleep 0.4; echo x > \"$0/a\"; sleep 0.4' {{dir}}",
        env!("CARGO_BIN_EXE_tipple")
    );
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .current_dir(place.path(""))
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    assert!(
        shown.contains("said before\r\n") && shown.contains("stored 1 file"),
        "{shown}"
    );
    // Nothing that moves the cursor back over what was said.
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn standard_input_of_the_command_is_closed() {
    let place = Place::new();
    let mut command = place.command(&[
        "supervise",
        "--dir",
        "out",
        "--limit",
        "4MiB",
        "store",
        "--",
        "sh",
        "-c",
        "cat > \"$0/in\"",
        "{dir}",
    ]);
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Ours stays open, and the command ends all the same.
    let stdin = child.stdin.take();
    assert!(child.wait().unwrap().success());
    drop(stdin);
    assert_eq!(fs::read(place.path("store/files/0001/in")).unwrap(), b"");
}
