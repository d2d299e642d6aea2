//! Queues that are told of a dump, and loaders that listen to them.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tipple_testkit::{
    Account, Fault, FaultProxy, Memcached, MiniStack, Operation, RawMemcached, RawSqs, Refusal,
    Rule, wait_for,
};

use crate::support::{Place, Ran, kill_at, some_lines};
use crate::whole_job::assert_filled;

fn run_at(place: &Place, account: &Account, args: &[&str]) -> Ran {
    let env = account.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, &**value)).collect();
    place.run_with(args, &env)
}

fn command_at(place: &Place, account: &Account, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.envs(account.env());
    command
}

fn bodies(queue: &RawSqs) -> Vec<Value> {
    let bodies = queue.drain();
    let parse = |body: &String| serde_json::from_str(body).unwrap();
    bodies.iter().map(parse).collect()
}

/// The ids of chunks.
fn ids<'a>(bodies: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    let bodies = bodies.into_iter();
    bodies
        .filter(|body| body["event"] == "chunk")
        .map(|body| body["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The checksums of all chunks of a finished dump, by SHA256SUMS.
fn sums(place: &Place, dump: &str) -> BTreeSet<String> {
    let sums = String::from_utf8(place.read(&format!("{dump}/SHA256SUMS"))).unwrap();
    let lines = sums.lines().filter_map(|line| line.split_once("  chunks/"));
    lines.map(|(sha256, _)| sha256.to_owned()).collect()
}

#[test]
fn a_kill_between_commit_and_delivery_leaves_nothing_untold() {
    let server = MiniStack::shared();
    let input = some_lines(3 << 20);
    for moment in [
        "committed:1",
        "notifying:1",
        "notified:1",
        "notified:2",
        "notifying:4",
        "done:1",
        // Of DONE: all four parts were told before.
        "notifying:5",
        "notified:5",
    ] {
        let name = moment.replace(':', "-");
        let queue = server.create_queue(&name);
        let place = Place::new();
        place.write("in.txt", &input);
        let target = format!("sqs://{name}");
        let args = [
            "dump",
            "lines:in.txt",
            "d",
            "--part-size",
            "1MiB",
            "--notify",
            &target,
        ];
        kill_at(command_at(&place, server.account(), &args), moment);
        run_at(&place, server.account(), &args).ok();
        let bodies = bodies(&queue);
        assert_eq!(ids(&bodies), sums(&place, "d"), "{moment}");
        assert!(
            bodies.iter().any(|body| body["event"] == "done"),
            "{moment}"
        );
        place.run(&["verify", "d"]).ok();
        place.run(&["prune", "d", "--yes"]).ok();
        // All of it was told: nothing is left to do.
        assert_eq!(
            run_at(&place, server.account(), &args).exit,
            Some(2),
            "{moment}"
        );
        assert_eq!(queue.lengths(), (0, 0));
    }
}

#[test]
fn a_dead_queue_makes_the_exit_code_3_and_harms_nothing() {
    let server = MiniStack::shared();
    let queue = server.create_queue("dead-queue");
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::always(
            Operation::SendMessageBatch,
            Fault::Refuse(Refusal::ACCESS_DENIED),
        )],
    );
    let place = Place::new();
    let input = some_lines(3 << 20);
    place.write("in.txt", &input);
    let args = [
        "dump",
        "lines:in.txt",
        "d",
        "--part-size",
        "1MiB",
        "--notify",
        "sqs://dead-queue",
        "--json",
    ];
    let ran = run_at(&place, proxy.account(), &args);
    assert_eq!(ran.exit, Some(3), "{}", ran.stderr);
    assert_eq!(
        ran.report()["undelivered"],
        serde_json::json!({"sqs://dead-queue": 5})
    );
    assert!(
        ran.stderr
            .contains("  UNDELIVERED 5 notifications: sqs://dead-queue\n"),
        "{}",
        ran.stderr
    );
    let next = "next: tipple verify d; the same command again sends what was not delivered\n";
    assert!(ran.stderr.ends_with(next), "{}", ran.stderr);
    place.run(&["verify", "d"]).ok();
    place.run(&["load", "d", "lines:out.txt"]).ok();
    assert!(place.read("out.txt") == input);
    let ran = run_at(&place, server.account(), &args).ok();
    assert_eq!(ran.report()["undelivered"], Value::Null);
    assert_eq!(ids(&bodies(&queue)), sums(&place, "d"));
}

#[test]
fn a_finished_dump_is_told_of_when_its_source_is_gone() {
    let server = MiniStack::shared();
    let queue = server.create_queue("source-gone");
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::always(
            Operation::SendMessageBatch,
            Fault::Refuse(Refusal::ACCESS_DENIED),
        )],
    );
    let cache = Memcached::start(&[]);
    RawMemcached::connect(&cache).fill(100);
    let place = Place::new();
    let from = format!("memcached://{}", cache.addr());
    let args = ["dump", &from, "d", "--notify", "sqs://source-gone"];
    assert_eq!(run_at(&place, proxy.account(), &args).exit, Some(3));
    drop(cache);
    run_at(&place, server.account(), &args).ok();
    assert_eq!(ids(&bodies(&queue)), sums(&place, "d"));
    assert_eq!(run_at(&place, server.account(), &args).exit, Some(2));
}

#[test]
fn targets_that_cannot_be_used_are_one_line() {
    let server = MiniStack::shared();
    let place = Place::new();
    place.write("in.txt", "a\nb\n");
    let dump = |target: &str| {
        let args = ["dump", "lines:in.txt", "d", "--notify", target];
        let ran = run_at(&place, server.account(), &args);
        assert!(!place.path("d/HEAD.json").exists());
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        (ran.exit, ran.stderr)
    };
    insta::assert_debug_snapshot!(dump("sqs://not-there"));
    insta::assert_debug_snapshot!(dump("https://user:hunter2@host/"));
    insta::assert_debug_snapshot!(dump("hunter2"));
    let load = |args: &[&str]| {
        let ran = run_at(&place, server.account(), args);
        (ran.exit, ran.stderr)
    };
    place.run(&["dump", "lines:in.txt", "whole"]).ok();
    insta::assert_debug_snapshot!(load(&[
        "load",
        "whole",
        "lines:out",
        "--from-queue",
        "sqs://q"
    ]));
    insta::assert_debug_snapshot!(load(&[
        "load",
        "whole",
        "memcached://h",
        "--from-queue",
        "sqs://q",
        "--partial"
    ]));
    insta::assert_debug_snapshot!(load(&[
        "load",
        "whole",
        "memcached://h",
        "--queue-visibility",
        "3s"
    ]));
}

/// A command in the background, with its environment.
struct Background(Child);

impl Background {
    fn start(mut command: Command) -> Self {
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    fn exit(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn loaders_warm_a_cluster_while_the_dump_still_runs() {
    const ITEMS: u64 = 3000;
    let server = MiniStack::shared();
    let queue = server.create_queue("warm");
    let (old, new) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&old).fill(ITEMS);
    let place = Place::new();
    let (from, to) = (
        format!("memcached://{}", old.addr()),
        format!("memcached://{}", new.addr()),
    );
    let dump = [
        "dump",
        &from,
        "d",
        "--threads",
        "2",
        "--chunk-size",
        "1MiB",
        "--key-file-size",
        "8KiB",
        "--notify",
        "sqs://warm",
    ];
    // Every part is there and told of, and DONE is not.
    let mut paused = command_at(&place, server.account(), &dump);
    paused.env("TIPPLE_PAUSE_AT", "summing:1");
    let paused = Background::start(paused);
    wait_for("the dump to begin", || place.path("d/HEAD.json").exists());
    let load = [
        "load",
        "d",
        &to,
        "--from-queue",
        "sqs://warm",
        "--threads",
        "2",
        "--queue-visibility",
        "3s",
    ];
    // One is killed in the middle: its messages go to the others.
    kill_at(command_at(&place, server.account(), &load), "applied:1");
    let loaders = [0, 1].map(|_| Background::start(command_at(&place, server.account(), &load)));
    let count = || RawMemcached::connect(&new).stat("curr_items");
    wait_for("all items while the dump still runs", || count() == ITEMS);
    assert!(!place.path("d/DONE").exists());
    drop(paused);
    run_at(&place, server.account(), &dump).ok();
    for loader in loaders {
        assert_eq!(loader.exit(), Some(0));
    }
    assert_eq!(queue.lengths(), (0, 0));
    let there = place.path("there");
    place.run(&["dump", &to, "there"]).ok();
    assert_filled(there.to_str().unwrap(), ITEMS);
}

#[test]
fn a_dump_in_a_bucket_is_loaded_as_its_queue_tells() {
    const ITEMS: u64 = 3000;
    let server = MiniStack::shared();
    let (queue, bucket) = (server.create_queue("cloud"), server.fresh_bucket());
    let (old, new) = (Memcached::start(&[]), Memcached::start(&[]));
    RawMemcached::connect(&old).fill(ITEMS);
    let place = Place::new();
    let (from, to) = (
        format!("memcached://{}", old.addr()),
        format!("memcached://{}", new.addr()),
    );
    let url = bucket.url("cache/today");
    let dump = [
        "dump",
        &from,
        &url,
        "--chunk-size",
        "1MiB",
        "--key-file-size",
        "8KiB",
        "--notify",
        "sqs://cloud",
    ];
    run_at(&place, server.account(), &dump).ok();
    // On their way to the loader, the first messages change, and are still good JSON.
    let damage = Fault::SwapInAnswer(r#"\"event\":\"chunk\""#, r#"\"event\":\"chubk\""#);
    let damage = Rule::on(Operation::ReceiveMessage, 1..=1, damage);
    let proxy = FaultProxy::start(server.account(), [damage]);
    let load = ["load", &url, &to, "--from-queue", "sqs://cloud", "--json"];
    let ran = run_at(&place, proxy.account(), &load).ok();
    let report = ran.report();
    assert_eq!(report["records"], ITEMS, "{report}");
    assert!(report["queue"]["damaged"].as_u64() >= Some(1), "{report}");
    assert!(
        ran.stderr.contains("it is received again"),
        "{}",
        ran.stderr
    );
    assert_eq!((proxy.hits(0), queue.lengths()), (1, (0, 0)));
    assert_eq!(RawMemcached::connect(&new).stat("curr_items"), ITEMS);
    place.run(&["dump", &to, "there"]).ok();
    assert_filled(place.path("there").to_str().unwrap(), ITEMS);
}
