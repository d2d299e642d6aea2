//! Under elfo, and beside it: the same program with our recorder and with elfo's dumper, and the same messages through both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use elfo_core::config::AnyConfig;
use elfo_core::dumping::{Dump, Dumper};
use elfo_core::messages::StartEntrypoint;
use elfo_core::{ActorGroup, Blueprint, Context, Topology, message, msg};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tipple_recorder::{Recorder, trace};

use crate::lines::{Any, anything};
use crate::support::{LONG, audit, files, lines, options, order, records, text};

/// What the child is to be, and where: elfo has one recorder for each process.
const CHILD: &str = "TIPPLE_RECORDER_TEST_ELFO";

#[message(elfo = elfo_core)]
struct Started {
    orders: u64,
}

#[message(ret = Filled, elfo = elfo_core)]
struct Place {
    id: u64,
    symbol: String,
    #[serde(serialize_with = "elfo_core::dumping::hide")]
    card: String,
    #[serde(serialize_with = "tipple_recorder::hide")]
    pin: u16,
}

#[message(part, elfo = elfo_core)]
struct Filled {
    id: u64,
    price: f64,
}

#[message(dumping = "disabled", elfo = elfo_core)]
struct Heartbeat;

/// So large that it does not fit into one of the recorder's buffers.
#[message(elfo = elfo_core)]
struct Large {
    parts: Vec<String>,
}

const ORDERS: u64 = 20;

fn consumers() -> Blueprint {
    ActorGroup::new().exec(|mut context| async move {
        while let Some(envelope) = context.recv().await {
            msg!(match envelope {
                (Place { id, pin, .. }, token) => {
                    // To others the field is itself.
                    assert_eq!(u64::from(pin), 1000 + id);
                    context.respond(
                        token,
                        Filled {
                            id,
                            price: id as f64 / 8.0,
                        },
                    );
                }
                Heartbeat | Started { .. } | Large { .. } => {}
            });
        }
    })
}

fn producers() -> Blueprint {
    ActorGroup::new()
        .stop_order(1)
        .exec(|mut context| async move {
            started(&mut context).await;
            let _ = context.send(Started { orders: ORDERS }).await;
            let _ = context
                .send(Large {
                    parts: (0..5000).map(|part| format!("part {part}")).collect(),
                })
                .await;
            for id in 0..ORDERS {
                let filled = context
                    .request(Place {
                        id,
                        symbol: "BTC \"USD\"\n".to_owned(),
                        card: "4111".to_owned(),
                        pin: 1000 + id as u16,
                    })
                    .resolve()
                    .await;
                assert_eq!(filled.unwrap().id, id);
                let _ = context.send(Heartbeat).await;
            }
            // Not before elfo's dumper has had its time to write.
            let dumped = std::env::var(CHILD).unwrap();
            if let Some(folder) = dumped.strip_prefix("elfo:") {
                let last = format!("\"mk\":\"Response\",\"m\":{{\"id\":{},", ORDERS - 1);
                wait_for_line(&Path::new(folder).join("internal.dump"), &last, 2).await;
            }
            end();
        })
}

/// Until all groups have their configurations: then elfo listens for signals.
async fn started(context: &mut Context) {
    let first = context.recv().await.unwrap();
    msg!(match first {
        (StartEntrypoint { .. }, token) => context.respond(token, Ok(())),
    });
    let is_caught = |line: &str| {
        let mask = line.strip_prefix("SigCgt:").unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
    };
    loop {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        if is_caught(
            status
                .lines()
                .find(|line| line.starts_with("SigCgt:"))
                .unwrap(),
        ) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The recorder of this process, for the actor that ends it.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// The end of the program: elfo itself takes up to a minute.
#[expect(clippy::disallowed_methods, reason = "a child of a test")]
fn end() -> ! {
    if let Some(recorder) = RECORDER.get() {
        let report = recorder.shutdown(LONG);
        assert!(tipple_recorder::elfo::mount(recorder).is_err());
        audit(&lines(recorder.folder().unwrap()), &report);
    }
    std::process::exit(0);
}

/// Until a file of elfo's dumper has so many of these.
async fn wait_for_line(file: &Path, line: &str, times: usize) {
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.matches(line).count() >= times {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the topology until it ends.
fn run(topology: Topology) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { elfo_core::init::try_start(topology).await.unwrap() });
}

fn config(text: &str) -> AnyConfig {
    toml::from_str(text).unwrap()
}

fn dumper_config(folder: &Path) -> String {
    format!(
        "[system.dumpers]\npath = \"{}/{{class}}.dump\"\nwrite_interval = \"10ms\"\nrules = [{{ max_size = \"1MiB\" }}]\n",
        folder.display()
    )
}

/// Not a test of its own: the program that the tests below start.
#[test]
fn elfo_child() {
    let Ok(what) = std::env::var(CHILD) else {
        return;
    };
    let (what, folder) = what.split_once(':').unwrap();
    let folder = Path::new(folder);
    let topology = Topology::empty();
    if what == "golden" {
        return golden(topology, folder);
    }
    let consumer = topology.local("consumers");
    let configurers = topology.local("system.configurers").entrypoint();
    match what {
        "elfo" => {
            topology.local("system.dumpers").mount(elfo_dumper::new());
            configurers.mount(elfo_configurer::fixture(
                &topology,
                config(&dumper_config(folder)),
            ));
        }
        "tipple" | "limited" => {
            let mut options = options(folder);
            options.config.max_size = Some(tipple_recorder::Bytes(1 << 20));
            let recorder = RECORDER.get_or_init(|| Recorder::start(options).unwrap());
            tipple_recorder::elfo::mount(recorder).unwrap();
            let limit = match what {
                "limited" => "[producers]\nsystem.dumping.max_rate = 7\n",
                _ => "",
            };
            configurers.mount(elfo_configurer::fixture(&topology, config(limit)));
        }
        other => panic!("{other}"),
    }
    let producer = topology.local("producers").entrypoint();
    producer.route_all_to(&consumer);
    producer.mount(producers());
    consumer.mount(consumers());
    run(topology.clone());
}

/// Starts the child, which is to end well.
fn child(what: &str, folder: &Path) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "elfo::elfo_child", "--nocapture"])
        .env(CHILD, format!("{what}:{}", folder.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A line without what is another number in each process: time, node, number, trace, thread and correlation.
fn without_numbers(line: &str) -> String {
    let mut out = line.to_owned();
    for field in ["\"ts\":", "\"n\":", "\"s\":", "\"t\":", "\"th\":", "\"c\":"] {
        // The fields of the message come after all but the last of them.
        let at = match field {
            "\"c\":" => out.rfind(field),
            _ => out.find(field),
        };
        let Some(at) = at.map(|at| at + field.len()) else {
            continue;
        };
        let digits = out[at..].bytes().take_while(u8::is_ascii_digit).count();
        out.replace_range(at..at + digits, "N");
    }
    out
}

/// The lines of a group that are of this program's own messages, in the order of their numbers.
fn of_group(texts: &[String], group: &str) -> Vec<String> {
    let mut found: Vec<(u64, String)> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let value: Value = serde_json::from_str(line).unwrap();
            let is_own = value["g"] == group && value["mp"] == "tipple-recorder";
            is_own.then(|| (value["s"].as_u64().unwrap(), without_numbers(line)))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, line)| line).collect()
}

fn texts(folder: &Path, suffix: &str) -> Vec<String> {
    let read = |path: &PathBuf| text(path);
    files(folder, suffix).iter().map(read).collect()
}

#[test]
fn a_program_of_elfo_is_recorded_as_its_own_dumper_dumps_it() {
    let (ours, theirs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    child("tipple", ours.path());
    child("elfo", theirs.path());
    let (recorded, dumped) = (texts(ours.path(), ".ndjson"), texts(theirs.path(), ".dump"));
    for group in ["producers", "consumers"] {
        let (recorded, mut dumped) = (of_group(&recorded, group), of_group(&dumped, group));
        // What only a recorder hides.
        for id in 0..ORDERS {
            let pin = format!("\"pin\":{}", 1000 + id);
            for line in &mut dumped {
                *line = line.replace(&pin, "\"pin\":\"<hidden>\"");
            }
        }
        assert!(dumped.len() as u64 >= 2 + 2 * ORDERS, "{}", dumped.len());
        assert_eq!(recorded, dumped);
    }
    let lines = lines(ours.path());
    assert!(lines.iter().all(|line| line["mn"] != "Heartbeat"));
    let place: Vec<&Value> = lines.iter().filter(|line| line["mn"] == "Place").collect();
    assert_eq!(place.len() as u64, 2 * ORDERS);
    assert!(
        place
            .iter()
            .all(|line| line["m"]["card"] == "<hidden>" && line["m"]["pin"] == "<hidden>")
    );
    // The same request, its response, and their trace, on both sides.
    let sides = |of: &str, id: u64| -> Vec<&Value> {
        let of_id = |line: &&Value| line["mn"] == of && line["m"]["id"] == id;
        lines.iter().filter(of_id).collect()
    };
    for id in 0..ORDERS {
        let all = [sides("Place", id), sides("Place::Response", id)].concat();
        assert_eq!(all.len(), 4);
        assert!(
            all.iter()
                .all(|line| line["c"] == all[0]["c"] && line["t"] == all[0]["t"])
        );
        assert!(all[0]["t"].as_u64().unwrap() > 1 << 40);
    }
}

#[test]
fn what_elfo_denies_is_told() {
    let folder = TempDir::new().unwrap();
    child("limited", folder.path());
    let lines = lines(folder.path());
    let of_producers = |line: &&Value| line["g"] == "producers";
    let lost: u64 = lines
        .iter()
        .filter(of_producers)
        .filter(|line| line["mk"] == "Loss")
        .map(|line| {
            assert_eq!(
                (&line["why"], &line["cl"]),
                (&"rate".into(), &"internal".into())
            );
            line["count"].as_u64().unwrap()
        })
        .sum();
    let written = records(&lines)
        .iter()
        .filter(|line| line["g"] == "producers")
        .count();
    assert!(lost > 0 && written > 0, "{lost} {written}");
    assert!(lost + written as u64 >= 2 + 2 * ORDERS);
    assert!(records(&lines).iter().any(|line| line["g"] == "consumers"));
}

#[derive(Clone, Serialize)]
struct Unit;

#[derive(Clone, Serialize)]
struct Wrapped(u32);

#[derive(Clone, Serialize)]
struct Pair(u8, &'static str);

#[derive(Clone, Serialize)]
enum Event {
    Started,
    Moved(i32),
    Both(u8, u8),
    Placed { id: u64 },
}

/// The same message through elfo's dumper and through our recorder.
struct Both {
    elfo: Dumper,
    ours: tipple_recorder::Stream,
}

impl Both {
    fn record<M: Serialize + Clone + Send + 'static>(&self, message: &M) {
        let permit = self.elfo.acquire().expect("there is no limit");
        let mut dump = Dump::builder();
        dump.message_protocol("golden");
        permit.record(dump.finish(message.clone()));
        self.ours.sent(message);
    }
}

/// In a program of elfo with its own dumper: values of every kind, and some thousand random ones.
fn golden(topology: Topology, folder: &Path) {
    let theirs = folder.join("theirs");
    fs::create_dir_all(&theirs).unwrap();
    topology.local("system.dumpers").mount(elfo_dumper::new());
    let own = folder.join("ours");
    let mut options = options(&own);
    options.config.max_size = Some(tipple_recorder::Bytes(1 << 20));
    RECORDER.get_or_init(|| Recorder::start(options).unwrap());
    let configurers = topology.local("system.configurers").entrypoint();
    let text = dumper_config(&theirs) + "[common]\nsystem.dumping.max_rate = 1_000_000_000\n";
    configurers.mount(elfo_configurer::fixture(&topology, config(&text)));
    topology
        .local("golden")
        .entrypoint()
        .mount(ActorGroup::new().stop_order(1).exec(move |mut context| {
            let theirs = theirs.clone();
            async move {
                started(&mut context).await;
                record_golden(RECORDER.get().unwrap());
                wait_for_line(&theirs.join("golden.dump"), "\"the end\"", 1).await;
                end();
            }
        }));
    run(topology.clone());
}

fn record_golden(recorder: &Recorder) {
    let trace_id = elfo_core::scope::trace_id();
    let _trace = trace::enter(trace_id.into());
    let meta = elfo_core::scope::meta();
    let both = Both {
        elfo: Dumper::new("golden"),
        ours: recorder
            .stream(&meta.group)
            .key(&meta.key)
            .class("golden")
            .protocol("golden"),
    };
    both.record(&order(7));
    both.record(&Unit);
    both.record(&Wrapped(5));
    both.record(&Pair(1, "\u{1}\"\\\n\u{2028}é"));
    for event in [
        Event::Started,
        Event::Moved(-3),
        Event::Both(1, 2),
        Event::Placed { id: 9 },
    ] {
        both.record(&event);
    }
    both.record(&RawValue::from_string("{\"x\": [1, 2]}".into()).unwrap());
    both.record(&"text");
    both.record(&String::from("text"));
    both.record(&Some(order(2)));
    both.record(&Some(Box::new(order(3))));
    both.record(&vec![f64::NAN, 1e300, 0.1]);
    both.record(&(order(4), 5u8));
    both.record(&std::collections::BTreeMap::from([(1u8, "a")]));
    both.record(&());
    both.record(&5u64);
    both.record(&Ok::<Wrapped, Pair>(Wrapped(6)));
    let mut runner = TestRunner::new_with_rng(
        Default::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let values = anything();
    for number in 0..tipple_testkit::cases(3000) {
        let value: Any = values.new_tree(&mut runner).unwrap().current();
        // With a number, since what cannot be written is in neither.
        both.record(&(number, value));
    }
    both.record(&"the end");
}

#[test]
fn lines_are_those_of_elfo_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    child("golden", folder.path());
    let of = |path: &Path| -> Vec<String> {
        let text = text(path);
        let own = text
            .lines()
            .filter(|line| line.contains(",\"cl\":\"golden\",\"mn\":"));
        own.map(without_numbers).collect()
    };
    let dumped = of(&folder.path().join("theirs/golden.dump"));
    let recorded = of(&files(&folder.path().join("ours"), ".ndjson")[0]);
    assert!(dumped.len() > 2000, "{}", dumped.len());
    for (ours, theirs) in recorded.iter().zip(&dumped) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(recorded.len(), dumped.len());
}
