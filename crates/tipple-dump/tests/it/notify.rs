//! Who is told of a dump, against a real queue and a small web server: all of it, at least once, whatever breaks.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tipple_dump::{
    DumpError, DumpOptions, ErrorKind, Event, Job, NotifyFormat, NotifyOptions, NotifyTarget,
    OpenDump, PruneOptions, Report, dump, prune,
};
use tipple_store::{Store, StoreOptions};
use tipple_testkit::{
    Account, Fault, FaultProxy, MiniStack, Operation, RawSqs, Refusal, Rule, wait_for,
};

use crate::round_trip::{assert_good, memory_store, small};
use crate::source::Numbers;

pub fn services(account: &Account) -> StoreOptions {
    StoreOptions {
        attempts_max: 4,
        retry_pause: Duration::from_millis(5),
        request_time: Duration::from_secs(20),
        ..StoreOptions::default()
    }
    .with_variables(account.env())
}

fn target(text: &str) -> NotifyTarget {
    text.parse().unwrap()
}

fn telling(account: &Account, targets: &[&str]) -> DumpOptions {
    DumpOptions {
        notify: NotifyOptions {
            targets: targets.iter().map(|text| target(text)).collect(),
            format: NotifyFormat::Json,
            services: services(account),
        },
        ..small(2)
    }
}

/// Several parts of several chunks, and a record that spans three.
pub fn numbers() -> Numbers {
    Numbers {
        bytes: |n| if n == 300 { 2_500_000 } else { 9000 },
        ..Numbers::new(1000, 250)
    }
}

fn bodies(queue: &RawSqs) -> Vec<Value> {
    let bodies = queue.drain();
    let parse = |body: &String| serde_json::from_str(body).unwrap();
    bodies.iter().map(parse).collect()
}

/// The ids of all chunks of a finished dump.
fn chunk_ids(store: &dyn Store) -> BTreeSet<String> {
    let dump = OpenDump::open(store, false, None).unwrap();
    let chunks = dump
        .parts()
        .iter()
        .flat_map(|part| dump.record(part).unwrap().chunks);
    chunks.map(|chunk| chunk.sha256.to_string()).collect()
}

fn told_ids(bodies: &[Value]) -> BTreeSet<String> {
    let chunks = bodies.iter().filter(|body| body["event"] == "chunk");
    chunks
        .map(|body| body["id"].as_str().unwrap().to_owned())
        .collect()
}

fn dones(bodies: &[Value]) -> usize {
    let dones = bodies.iter().filter(|body| body["event"] == "done");
    dones.count()
}

/// Dumps, and returns the warnings too.
fn dump_with(
    source: &Numbers,
    store: &dyn Store,
    options: &DumpOptions,
) -> (Result<Report, DumpError>, String) {
    let warnings = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&warnings);
    let job = Job::default().on_event(move |event| {
        if let Event::Warning { message } = event {
            kept.lock().unwrap().push_str(&format!("{message}\n"));
        }
    });
    let report = dump(&job, source, &[store], options);
    let warnings = warnings.lock().unwrap().clone();
    (report, warnings)
}

fn finished_error(store: &dyn Store, source: &Numbers, options: &DumpOptions) {
    let error = dump(&Job::default(), source, &[store], options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error.to_string().contains("holds a finished dump"),
        "{error}"
    );
}

#[test]
fn every_chunk_is_told_once_and_then_the_end() {
    let server = MiniStack::shared();
    let queue = server.create_queue("every-chunk");
    let (first, second) = (memory_store("notify-1"), memory_store("notify-2"));
    let source = numbers();
    let options = telling(server.account(), &["sqs://every-chunk"]);
    let stores = [first.as_ref(), second.as_ref()];
    let report = dump(&Job::default(), &source, &stores, &options).unwrap();
    assert!(report.undelivered.is_empty());

    let bodies = bodies(&queue);
    let opened = OpenDump::open(stores[0], false, None).unwrap();
    let (head, done) = (opened.head(), opened.done().unwrap());
    assert_eq!(bodies.len() as u64, report.chunks + 1);
    let mut inside = 0;
    for part in opened.parts() {
        for chunk in opened.record(part).unwrap().chunks {
            let id = chunk.sha256.to_string();
            let told = bodies.iter().find(|body| body["id"] == *id).unwrap();
            let expected = serde_json::json!({
                "version": 1,
                "event": "chunk",
                "id": id,
                "dump": head.dump,
                "store": "memory:notify-1",
                "stores": ["memory:notify-1", "memory:notify-2"],
                "uri": format!("memory:notify-1/{}", chunk.name),
                "content": {"name": "numbers", "version": 1},
                "part": part,
                "bytes": chunk.stored_bytes,
                "raw_bytes": chunk.raw_bytes,
                "records": chunk.records,
                "sha256": id,
                "begins_inside": chunk.begins_inside,
                "ends_inside": chunk.ends_inside,
            });
            assert_eq!(*told, expected);
            inside += usize::from(chunk.begins_inside);
        }
    }
    assert!(inside >= 2, "no record spans chunks");
    let end = bodies.iter().find(|body| body["event"] == "done").unwrap();
    assert_eq!(end["id"], done.digest.to_string());
    assert_eq!(end["records"], 1000);
    assert_eq!(end["chunks"], report.chunks);
    assert_eq!(end["uri"], "memory:notify-1/DONE");

    // All of it is recorded, and no part of the dump.
    for store in stores {
        assert_good(store, 1000);
        for part in opened.parts() {
            let object = format!("notified/{part}.json").parse().unwrap();
            let recorded: Value =
                serde_json::from_slice(&store.get(&object, 4096).unwrap()).unwrap();
            assert_eq!(
                recorded["targets"],
                serde_json::json!(["sqs://every-chunk"])
            );
        }
        store.head(&"notified/DONE.json".parse().unwrap()).unwrap();
        let sums = store.get(&"SHA256SUMS".parse().unwrap(), 1 << 20).unwrap();
        assert!(!String::from_utf8(sums).unwrap().contains("notified"));
        assert!(
            prune(store, &PruneOptions::default())
                .unwrap()
                .items
                .is_empty()
        );
    }
    finished_error(stores[0], &source, &options);
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn batches_keep_to_ten_messages_and_256_kib() {
    let server = MiniStack::shared();
    let proxy = FaultProxy::start(server.account(), []);
    let queue = server.create_queue("batches");
    let batches = |name: &str| {
        let before = proxy.requests(Operation::SendMessageBatch);
        // One part of more than 20 chunks.
        let source = Numbers {
            bytes: |_| 1_000_000,
            ..Numbers::new(27, 27)
        };
        let store = memory_store(name);
        let options = telling(proxy.account(), &["sqs://batches"]);
        let report = dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
        let bodies = bodies(&queue);
        assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
        assert_eq!(bodies.len() as u64, report.chunks + 1);
        let batches = proxy.requests(Operation::SendMessageBatch) - before;
        (report.chunks, batches)
    };
    let (chunks, sent) = batches("batches");
    // With one message less or more in a batch, there would be more or fewer of them.
    assert!((28..=30).contains(&chunks), "{chunks}");
    assert_eq!(sent, chunks.div_ceil(10) + 1, "and the end");
    // Three times the store's name: 90 KiB a message, two of which fit.
    let (chunks, sent) = batches(&"n".repeat(30 << 10));
    assert_eq!(sent, chunks.div_ceil(2) + 1, "and the end");
}

#[test]
fn a_queue_in_trouble_gets_everything_at_last() {
    let server = MiniStack::shared();
    let queue = server.create_queue("trouble");
    let proxy = FaultProxy::start(
        server.account(),
        [
            Rule::on(
                Operation::SendMessageBatch,
                1..=1,
                Fault::Refuse(Refusal::INTERNAL_ERROR),
            ),
            Rule::on(Operation::SendMessageBatch, 2..=2, Fault::Reset),
            Rule::on(Operation::SendMessageBatch, 3..=3, Fault::ResetRequest(100)),
            Rule::on(Operation::SendMessageBatch, 5..=5, Fault::LoseAnswer),
            Rule::on(Operation::SendMessageBatch, 7..=7, Fault::CutAnswer(10)),
            Rule::on(
                Operation::GetQueueUrl,
                1..=2,
                Fault::Refuse(Refusal::SLOW_DOWN),
            ),
        ],
    );
    let store = memory_store("trouble");
    let options = telling(proxy.account(), &["sqs://trouble"]);
    let (report, warnings) = dump_with(&numbers(), store.as_ref(), &options);
    assert!(report.unwrap().undelivered.is_empty());
    assert_eq!(warnings, "");
    assert_eq!((0..6).map(|rule| proxy.hits(rule)).sum::<u64>(), 7);
    let bodies = bodies(&queue);
    assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
    assert!(
        bodies.len() > chunk_ids(store.as_ref()).len() + 1,
        "a lost answer sends again"
    );
}

#[test]
fn a_message_that_arrives_damaged_is_sent_again() {
    let server = MiniStack::shared();
    let queue = server.create_queue("damaged");
    let damage = Fault::SwapInRequest(r#"\"event\":\"chunk\""#, r#"\"event\":\"chubk\""#);
    let rule = Rule::on(Operation::SendMessageBatch, 1..=1, damage);
    let proxy = FaultProxy::start(server.account(), [rule]);
    let store = memory_store("damaged");
    let options = telling(proxy.account(), &["sqs://damaged"]);
    let (report, _) = dump_with(&numbers(), store.as_ref(), &options);
    assert_eq!(report.unwrap().undelivered.len(), 0);
    assert_eq!(proxy.hits(0), 1);
    let bodies = bodies(&queue);
    assert!(bodies.iter().any(|body| body["event"] == "chubk"));
    assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
}

#[test]
fn a_dead_queue_is_counted_and_a_second_run_tells_it() {
    let server = MiniStack::shared();
    let (dead, well) = (server.create_queue("dead"), server.create_queue("well"));
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::always(
            Operation::SendMessageBatch,
            Fault::Refuse(Refusal::INTERNAL_ERROR),
        )],
    );
    let at_proxy = format!("sqs://{}/000000000000/dead", proxy.account().endpoint);
    let options = telling(server.account(), &[&at_proxy, "sqs://well"]);
    let store = memory_store("dead");
    let source = numbers();
    let (report, warnings) = dump_with(&source, store.as_ref(), &options);
    let report = report.unwrap();
    assert_good(store.as_ref(), 1000);
    assert_eq!(report.undelivered.len(), 1);
    assert_eq!(report.undelivered[&at_proxy], report.chunks + 1);
    assert_eq!(report.undelivered_total(), report.chunks + 1);
    // Four attempts at the first message, one at the end, and nothing for all the others.
    assert_eq!(proxy.requests(Operation::SendMessageBatch), 4 + 1);
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
    assert!(
        warnings.contains("takes no notifications: the answer was 500 (InternalError)"),
        "{warnings}"
    );
    let told = bodies(&well);
    assert_eq!(told_ids(&told), chunk_ids(store.as_ref()));
    assert_eq!((told.len() as u64, dones(&told)), (report.chunks + 1, 1));

    // Still dead: nothing changes.
    let (again, _) = dump_with(&source, store.as_ref(), &options);
    assert_eq!(again.unwrap().undelivered, report.undelivered);
    proxy.heal();
    let (again, warnings) = dump_with(&source, store.as_ref(), &options);
    let again = again.unwrap();
    assert!(again.undelivered.is_empty());
    assert_eq!((again.records, &*warnings), (1000, ""));
    let told = bodies(&dead);
    assert_eq!(told_ids(&told), chunk_ids(store.as_ref()));
    assert_eq!(dones(&told), 1);
    finished_error(store.as_ref(), &source, &options);
}

#[test]
fn a_finished_dump_is_told_of_afterwards() {
    let server = MiniStack::shared();
    let queue = server.create_queue("afterwards");
    let store = memory_store("afterwards");
    let source = numbers();
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    finished_error(store.as_ref(), &source, &small(2));
    let options = telling(server.account(), &["sqs://afterwards"]);
    // The dump of another source is not told of by mistake.
    let other = Numbers { id: 2, ..numbers() };
    finished_error(store.as_ref(), &other, &options);
    let report = dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
    assert_eq!(report.records, 1000);
    let bodies = bodies(&queue);
    assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
    assert_eq!(dones(&bodies), 1);
    finished_error(store.as_ref(), &source, &options);
}

#[test]
fn an_interrupted_dump_tells_everything_in_the_end() {
    let server = MiniStack::shared();
    let queue = server.create_queue("interrupted");
    let options = telling(server.account(), &["sqs://interrupted"]);
    for cancel_after in [100, 400, 700, 990] {
        let store = memory_store(&format!("interrupted-{cancel_after}"));
        let source = Numbers {
            cancel_after: Some(cancel_after),
            ..numbers()
        };
        let error = dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        let source = numbers();
        dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
        let bodies = bodies(&queue);
        let (told, all) = (told_ids(&bodies), chunk_ids(store.as_ref()));
        // The first run may have told of a plan that was never sealed.
        assert!(told.is_superset(&all));
        assert_eq!(dones(&bodies), 1);
    }
}

#[test]
fn a_queue_that_keeps_an_order_drops_what_comes_again() {
    let server = MiniStack::shared();
    let queue = server.create_queue("order.fifo");
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::on(
            Operation::SendMessageBatch,
            1..=1,
            Fault::LoseAnswer,
        )],
    );
    let store = memory_store("order");
    let options = telling(proxy.account(), &["sqs://order.fifo"]);
    let report = dump(&Job::default(), &numbers(), &[store.as_ref()], &options).unwrap();
    assert_eq!(proxy.hits(0), 1);
    let bodies = bodies(&queue);
    assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
    assert_eq!(bodies.len() as u64, report.chunks + 1);
    assert_eq!(bodies.last().unwrap()["event"], "done");
}

#[test]
fn targets_that_cannot_be_used_are_refused_before_anything_is_written() {
    let server = MiniStack::shared();
    server.create_queue("there");
    let refused = |options: &DumpOptions| {
        let store = memory_store("notify-refused");
        let error = dump(&Job::default(), &numbers(), &[store.as_ref()], options).unwrap_err();
        store
            .list("", &mut |entry| panic!("{} was written", entry.name))
            .unwrap();
        (error.kind(), error.to_string())
    };
    let by_url = format!("sqs://{}/000000000000/missing", server.account().endpoint);
    let (kind, text) = refused(&telling(server.account(), &[&by_url]));
    assert_eq!(kind, ErrorKind::Store);
    assert!(
        text.starts_with(&format!("cannot use {by_url}: ")) && text.contains("no such queue"),
        "{text}"
    );
    let (kind, text) = refused(&telling(
        server.account(),
        &["sqs://there", "sqs://missing"],
    ));
    assert_eq!(kind, ErrorKind::Store);
    assert!(
        text.starts_with("cannot use sqs://missing: the answer was 400 ("),
        "{text}"
    );
    assert!(
        text.ends_with("there is no such queue in this account and region"),
        "{text}"
    );

    let stranger = Account {
        access_key: "stranger".to_owned(),
        ..server.account().clone()
    };
    let (kind, text) = refused(&telling(&stranger, &["sqs://there"]));
    assert_eq!(kind, ErrorKind::Store);
    assert!(text.ends_with("the credentials are not accepted"), "{text}");

    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gone = server.account().at(&format!("http://{nobody}"));
    let (kind, text) = refused(&telling(&gone, &["sqs://there"]));
    assert_eq!(kind, ErrorKind::Store);
    assert!(
        text.contains("cannot use sqs://there: ") && text.ends_with("(attempts: 4)"),
        "{text}"
    );
}

/// A web server that answers as it is told, and keeps what it got.
struct Web {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

#[derive(Clone)]
struct Got {
    head: String,
    body: Value,
}

impl Web {
    /// `status` is asked for the answer to each request, numbered from 0.
    fn start(status: impl Fn(usize) -> u16 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/hook/hunter2?key=hunter2",
            listener.local_addr().unwrap()
        );
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&got);
        std::thread::spawn(move || {
            let mut number = 0;
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                if let Some(got) = Got::read(&stream) {
                    kept.lock().unwrap().push(got);
                    let status = status(number);
                    number += 1;
                    let answer = format!(
                        "HTTP/1.1 {status} Said\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
                    );
                    (&stream).write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self { url, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

impl Got {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let (mut head, mut bytes) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? <= 2 {
                break;
            }
            let lower = line.to_lowercase();
            if let Some(length) = lower.strip_prefix("content-length: ") {
                bytes = length.trim().parse().unwrap();
            }
            head.push_str(&lower);
        }
        let mut body = vec![0; bytes];
        reader.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).ok()?;
        Some(Self { head, body })
    }
}

#[test]
fn webhooks_get_one_message_a_request() {
    // The second message is refused twice, first in a way that passes.
    let web = Web::start(|number| match number {
        1 => 503,
        2 => 429,
        _ => 202,
    });
    let store = memory_store("webhook");
    let server = MiniStack::shared();
    let options = telling(server.account(), &[&web.url]);
    let (report, warnings) = dump_with(&numbers(), store.as_ref(), &options);
    let report = report.unwrap();
    assert!(report.undelivered.is_empty(), "{warnings}");
    let got = web.got();
    assert_eq!(got.len() as u64, report.chunks + 1 + 2);
    let bodies: Vec<Value> = got.iter().map(|got| got.body.clone()).collect();
    assert_eq!(told_ids(&bodies), chunk_ids(store.as_ref()));
    assert_eq!(bodies[1], bodies[2]);
    assert_eq!(bodies[1], bodies[3]);
    assert_eq!(bodies.last().unwrap()["event"], "done");
    for got in &got {
        assert!(
            got.head
                .starts_with("post /hook/hunter2?key=hunter2 http/1.1\r\n"),
            "{}",
            got.head
        );
        assert!(
            got.head.contains("\r\ncontent-type: application/json\r\n"),
            "{}",
            got.head
        );
        assert!(!got.head.contains("authorization"), "{}", got.head);
        let key = match got.body["event"].as_str().unwrap() {
            "done" => format!("{}-done", got.body["dump"].as_str().unwrap()),
            _ => {
                let uri = got.body["uri"].as_str().unwrap();
                let name = uri.rsplit('/').next().unwrap();
                name.split('.').next().unwrap().to_owned()
            }
        };
        assert!(
            got.head
                .contains(&format!("\r\nidempotency-key: {key}\r\n")),
            "{}",
            got.head
        );
    }
    // What was delivered says where to, and no secret.
    let part = OpenDump::open(store.as_ref(), false, None).unwrap().parts()[0].clone();
    let object = format!("notified/{part}.json").parse().unwrap();
    let recorded = String::from_utf8(store.get(&object, 4096).unwrap()).unwrap();
    assert!(
        recorded.contains("http://127.0.0.1:") && !recorded.contains("hunter2"),
        "{recorded}"
    );
}

#[test]
fn a_webhook_that_is_gone_fails_at_once_and_its_secret_is_not_told() {
    let web = Web::start(|_| 410);
    let store = memory_store("gone-webhook");
    let options = telling(MiniStack::shared().account(), &[&web.url]);
    let (report, warnings) = dump_with(&numbers(), store.as_ref(), &options);
    let report = report.unwrap();
    assert_eq!(report.undelivered_total(), report.chunks + 1);
    assert_eq!(web.got().len(), 2, "once, and once at the end");
    assert!(
        warnings.contains("/… takes no notifications: the answer was 410"),
        "{warnings}"
    );
    let told = format!(
        "{warnings} {} {options:?}",
        serde_json::to_string(&report).unwrap()
    );
    assert!(!told.contains("hunter2"), "{told}");
    assert_good(store.as_ref(), 1000);
}

#[test]
fn cachemover_bodies_count_each_chunk() {
    let web = Web::start(|_| 200);
    let store = memory_store("cachemover-bodies");
    let mut options = telling(MiniStack::shared().account(), &[&web.url]);
    options.notify.format = NotifyFormat::Cachemover;
    let source = numbers();
    let report = dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
    let got = web.got();
    assert_eq!(got.len() as u64, report.chunks);
    let keys: u64 = got
        .iter()
        .map(|got| got.body["keysCount"].as_u64().unwrap())
        .sum();
    assert_eq!(keys, 1000);
    let dump = OpenDump::open(store.as_ref(), false, None).unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for got in &got {
        assert_eq!(got.body.as_object().unwrap().len(), 5);
        assert_eq!(got.body["reqId"], dump.head().dump);
        assert_eq!(got.body["host"], host.trim());
        assert_eq!(got.body["dumpFormat"], "BINARY");
        let uri = got.body["uri"].as_str().unwrap();
        let name = uri.strip_prefix("memory:cachemover-bodies/").unwrap();
        store.head(&name.parse().unwrap()).unwrap();
    }
    finished_error(store.as_ref(), &source, &options);
}

#[test]
fn nobody_waits_for_a_target_that_does_not_answer() {
    let server = MiniStack::shared();
    let queue = server.create_queue("silent");
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::on(
            Operation::SendMessageBatch,
            1..=1,
            Fault::HoldAnswer,
        )],
    );
    let mut options = telling(proxy.account(), &["sqs://silent"]);
    // Not over before the test is.
    options.notify.services.request_time = Duration::from_secs(600);
    let store = memory_store("silent");
    let source = numbers();
    std::thread::scope(|scope| {
        let dumping = scope.spawn(|| dump(&Job::default(), &source, &[store.as_ref()], &options));
        wait_for("the first message to hang", || proxy.stalled() == 1);
        // All parts are committed while the first message hangs.
        wait_for("all parts", || {
            OpenDump::open(store.as_ref(), true, None).is_ok_and(|dump| dump.parts().len() == 4)
        });
        assert_eq!(proxy.requests(Operation::SendMessageBatch), 1);
        proxy.release();
        assert!(dumping.join().unwrap().unwrap().undelivered.is_empty());
    });
    assert_eq!(told_ids(&bodies(&queue)), chunk_ids(store.as_ref()));
}
