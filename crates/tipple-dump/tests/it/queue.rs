//! Loads from a real queue: everything arrives, with any number of loaders, whatever breaks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tipple_dump::{
    DumpError, DumpOptions, ErrorKind, Event, Job, NotifyOptions, NotifyTarget, QueueLoadOptions,
    Report, dump, load_from_queue,
};
use tipple_flow::Resume;
use tipple_store::Store;
use tipple_testkit::{
    Account, Fault, FaultProxy, MiniStack, Operation, RawSqs, Refusal, Rule, wait_for,
};

use crate::notify::{numbers, services};
use crate::round_trip::{memory_store, small};
use crate::source::{Keep, Numbers};

fn target(queue: &str) -> NotifyTarget {
    format!("sqs://{queue}").parse().unwrap()
}

fn telling(account: &Account, queue: &str) -> DumpOptions {
    DumpOptions {
        notify: NotifyOptions {
            targets: vec![target(queue)],
            services: services(account),
            ..NotifyOptions::default()
        },
        ..small(2)
    }
}

fn loading(account: &Account) -> QueueLoadOptions {
    QueueLoadOptions {
        threads: 2,
        poll: Duration::from_secs(1),
        services: services(account),
        ..QueueLoadOptions::default()
    }
}

/// A queue of this name with the messages of a whole dump in it.
fn told(name: &str, source: &Numbers) -> (RawSqs, Arc<dyn Store>, Report) {
    let server = MiniStack::shared();
    let queue = server.create_queue(name);
    let store = memory_store(name);
    let options = telling(server.account(), name);
    let report = dump(&Job::default(), source, &[store.as_ref()], &options).unwrap();
    (queue, store, report)
}

fn load(
    store: &dyn Store,
    queue: &str,
    sink: &Keep,
    options: &QueueLoadOptions,
) -> (Result<Report, DumpError>, String) {
    let warnings = Arc::new(Mutex::new(String::new()));
    let kept = Arc::clone(&warnings);
    let job = Job::default().on_event(move |event| {
        if let Event::Warning { message } = event {
            kept.lock().unwrap().push_str(&format!("{message}\n"));
        }
    });
    let report = load_from_queue(&job, store, &target(queue), sink, options);
    let warnings = warnings.lock().unwrap().clone();
    (report, warnings)
}

/// What arrived, once or more often.
fn arrived(sinks: &[&Keep]) -> BTreeSet<u64> {
    let numbers = sinks.iter().map(|sink| sink.numbers.lock().unwrap());
    numbers
        .flat_map(|numbers| numbers.keys().copied().collect::<Vec<_>>())
        .collect()
}

fn all() -> BTreeSet<u64> {
    (0..1000).collect()
}

#[test]
fn every_record_of_a_dump_arrives_once() {
    let (queue, store, dumped) = told("once", &numbers());
    let keep = Keep::default();
    let options = loading(MiniStack::shared().account());
    let (report, warnings) = load(store.as_ref(), "once", &keep, &options);
    let report = report.unwrap();
    assert_eq!(keep.numbers(), (0..1000).collect::<Vec<_>>());
    assert_eq!((report.records, report.chunks), (1000, dumped.chunks));
    assert_eq!(
        (report.raw_bytes, report.stored_bytes),
        (dumped.raw_bytes, dumped.stored_bytes)
    );
    let counts = report.queue.unwrap();
    assert_eq!(counts.received, dumped.chunks + 1);
    assert_eq!(counts.applied + counts.inside, dumped.chunks);
    assert!(counts.inside >= 2, "no record spans chunks");
    assert_eq!(
        (
            counts.done,
            counts.foreign,
            counts.void,
            counts.untold_parts
        ),
        (1, 0, 0, 0)
    );
    assert_eq!((queue.lengths(), &*warnings), ((0, 0), ""));
}

#[test]
fn two_loaders_share_a_queue_while_the_dump_runs() {
    let server = MiniStack::shared();
    let queue = server.create_queue("shared");
    let store = memory_store("shared");
    let (first, second) = (Keep::default(), Keep::default());
    // The dump stands still in its last part until something of it has arrived.
    let source = Numbers {
        bytes: |n| {
            if n == 999 {
                wait_for("the test", || GOES_ON.load(Ordering::SeqCst));
            }
            if n == 300 { 2_500_000 } else { 9000 }
        },
        ..Numbers::new(1000, 100)
    };
    static GOES_ON: AtomicBool = AtomicBool::new(false);
    let options = loading(server.account());
    let telling = telling(server.account(), "shared");
    std::thread::scope(|scope| {
        let dumping = scope.spawn(|| dump(&Job::default(), &source, &[store.as_ref()], &telling));
        wait_for("the dump to begin", || {
            store.head(&"HEAD.json".parse().unwrap()).is_ok()
        });
        let loads: Vec<_> = [&first, &second]
            .into_iter()
            .map(|keep| {
                let (store, options) = (&store, &options);
                scope.spawn(move || load(store.as_ref(), "shared", keep, options).0)
            })
            .collect();
        wait_for("records to arrive before the dump is done", || {
            !arrived(&[&first, &second]).is_empty()
        });
        assert!(store.head(&"DONE".parse().unwrap()).is_err());
        GOES_ON.store(true, Ordering::SeqCst);
        dumping.join().unwrap().unwrap();
        let reports: Vec<Report> = loads
            .into_iter()
            .map(|load| load.join().unwrap().unwrap())
            .collect();
        assert_eq!(
            reports.iter().map(|report| report.records).sum::<u64>(),
            1000
        );
    });
    assert_eq!(arrived(&[&first, &second]), all());
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn messages_of_others_stay_in_the_queue() {
    let (queue, store, dumped) = told("others", &numbers());
    queue.send("hello");
    queue.send(r#"{"version":2,"event":"chunk","id":"00","dump":"x"}"#);
    let other = memory_store("others-2");
    let telling = telling(MiniStack::shared().account(), "others");
    dump(
        &Job::default(),
        &Numbers::new(10, 10),
        &[other.as_ref()],
        &telling,
    )
    .unwrap();
    let keep = Keep::default();
    let options = loading(MiniStack::shared().account());
    let (report, warnings) = load(store.as_ref(), "others", &keep, &options);
    let counts = report.unwrap().queue.unwrap();
    assert_eq!(keep.numbers(), (0..1000).collect::<Vec<_>>());
    assert_eq!(
        counts.applied + counts.inside + counts.done,
        dumped.chunks + 1
    );
    // The two texts, and the other dump's one chunk and end.
    assert_eq!(counts.foreign, 4);
    assert_eq!(warnings.lines().count(), 4, "{warnings}");
    assert!(
        warnings.contains("left there: it is about another dump"),
        "{warnings}"
    );
    let (visible, received) = queue.lengths();
    assert_eq!(visible + received, 4);
}

#[test]
fn what_a_failed_loader_had_in_hand_is_applied_by_the_next() {
    let (queue, store, _) = told("failed-loader", &numbers());
    let options = loading(MiniStack::shared().account());
    let failing = Keep {
        fail_at: Some(500),
        ..Keep::default()
    };
    let (report, _) = load(store.as_ref(), "failed-loader", &failing, &options);
    assert_eq!(report.unwrap_err().kind(), ErrorKind::Live);
    // Nothing of it waits for its time to be over.
    assert_eq!(queue.lengths().1, 0);
    let keep = Keep::default();
    let (report, _) = load(store.as_ref(), "failed-loader", &keep, &options);
    report.unwrap();
    assert_eq!(arrived(&[&failing, &keep]), all());
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn an_interrupted_load_goes_on() {
    let (queue, store, _) = told("interrupted-load", &numbers());
    let options = loading(MiniStack::shared().account());
    let job = Arc::new(Job::default());
    let first = Keep {
        look: {
            let job = Arc::clone(&job);
            Box::new(move |n| {
                if n == 400 {
                    job.gate().cancel();
                }
            })
        },
        ..Keep::default()
    };
    let queue_target = target("interrupted-load");
    let error = load_from_queue(&job, store.as_ref(), &queue_target, &first, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let second = Keep::default();
    load(store.as_ref(), "interrupted-load", &second, &options)
        .0
        .unwrap();
    assert_eq!(arrived(&[&first, &second]), all());
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn a_message_is_kept_from_others_while_its_chunk_is_applied() {
    let server = MiniStack::shared();
    let proxy = FaultProxy::start(server.account(), []);
    let (queue, store, _) = told("kept", &Numbers::new(10, 10));
    let held = Arc::new(AtomicBool::new(true));
    let keep = Keep {
        look: {
            let held = Arc::clone(&held);
            Box::new(move |n| {
                if n == 5 {
                    wait_for("the test", || !held.load(Ordering::SeqCst));
                }
            })
        },
        ..Keep::default()
    };
    let options = QueueLoadOptions {
        visibility: Duration::from_secs(3),
        ..loading(proxy.account())
    };
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| load(store.as_ref(), "kept", &keep, &options).0);
        // One a second: the message would have been seen again after the third.
        wait_for("five extensions", || {
            proxy.requests(Operation::ChangeMessageVisibilityBatch) >= 5
        });
        assert_eq!(queue.receive(), []);
        held.store(false, Ordering::SeqCst);
        loading.join().unwrap().unwrap();
    });
    assert_eq!(keep.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn a_queue_in_trouble_is_loaded_from_at_last() {
    let server = MiniStack::shared();
    let (queue, store, _) = told("load-trouble", &numbers());
    let refuse =
        |operation, which| Rule::on(operation, which, Fault::Refuse(Refusal::INTERNAL_ERROR));
    let proxy = FaultProxy::start(
        server.account(),
        [
            refuse(Operation::ReceiveMessage, 2..=3),
            Rule::on(Operation::ReceiveMessage, 4..=4, Fault::Reset),
            refuse(Operation::DeleteMessage, 1..=2),
            Rule::on(Operation::DeleteMessage, 5..=5, Fault::LoseAnswer),
            refuse(Operation::GetQueueAttributes, 2..=2),
        ],
    );
    let keep = Keep::default();
    let (report, _) = load(
        store.as_ref(),
        "load-trouble",
        &keep,
        &loading(proxy.account()),
    );
    report.unwrap();
    assert_eq!(keep.numbers(), (0..1000).collect::<Vec<_>>());
    assert_eq!((0..5).map(|rule| proxy.hits(rule)).sum::<u64>(), 7);
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn a_message_that_comes_damaged_is_not_believed_and_received_again() {
    let server = MiniStack::shared();
    let (queue, store, dumped) = told("load-damaged", &numbers());
    // Still good JSON, about a part that is not there.
    let damage = Fault::SwapInAnswer(r#"\"event\":\"chunk\""#, r#"\"event\":\"chubk\""#);
    let rule = Rule::on(Operation::ReceiveMessage, 1..=1, damage);
    let proxy = FaultProxy::start(server.account(), [rule]);
    let keep = Keep::default();
    let options = loading(proxy.account());
    let (report, warnings) = load(store.as_ref(), "load-damaged", &keep, &options);
    let counts = report.unwrap().queue.unwrap();
    assert_eq!(keep.numbers(), (0..1000).collect::<Vec<_>>());
    assert!(counts.damaged >= 1 && counts.foreign == 0, "{counts:?}");
    assert_eq!(counts.received, dumped.chunks + 1 + counts.damaged);
    assert!(
        warnings.contains("by its MD5: it is received again"),
        "{warnings}"
    );
    assert_eq!(queue.lengths(), (0, 0));
}

#[test]
fn messages_that_always_come_damaged_end_the_load() {
    let server = MiniStack::shared();
    let (queue, store, dumped) = told("load-always-damaged", &numbers());
    let damage = Fault::SwapInAnswer(r#"\"event\":\"#, r#"\"evens\":\"#);
    let rule = Rule::always(Operation::ReceiveMessage, damage);
    let proxy = FaultProxy::start(server.account(), [rule]);
    let keep = Keep::default();
    let mut options = loading(proxy.account());
    options.services.attempts_max = 2;
    let (report, _) = load(store.as_ref(), "load-always-damaged", &keep, &options);
    let error = report.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    let text = error.to_string();
    assert!(text.contains("again and again (id "), "{text}");
    assert_eq!(keep.numbers(), Vec::<u64>::new());
    // All of them are still there for another one.
    let (visible, hidden) = queue.lengths();
    assert_eq!(visible + hidden, dumped.chunks + 1);
}

#[test]
fn parts_that_nobody_was_told_of_are_counted() {
    let server = MiniStack::shared();
    server.create_queue("untold");
    let store = memory_store("untold");
    dump(&Job::default(), &numbers(), &[store.as_ref()], &small(2)).unwrap();
    let keep = Keep::default();
    let (report, _) = load(store.as_ref(), "untold", &keep, &loading(server.account()));
    let report = report.unwrap();
    assert_eq!((report.records, report.queue.unwrap().untold_parts), (0, 4));
}

#[test]
fn what_cannot_be_loaded_from_a_queue_is_refused() {
    let server = MiniStack::shared();
    let (queue, store, _) = told("refused-load", &Numbers::new(10, 10));
    let options = loading(server.account());
    let refusal = |target: &NotifyTarget, sink: &Keep, options: &QueueLoadOptions| {
        let error = load_from_queue(&Job::default(), store.as_ref(), target, sink, options);
        let error = error.unwrap_err();
        (error.kind(), error.to_string())
    };
    let here = target("refused-load");
    let ordered = Keep {
        ordered: true,
        ..Keep::default()
    };
    let restarting = Keep {
        resume: Resume::RestartOnly,
        ..Keep::default()
    };
    for sink in [&ordered, &restarting] {
        let (kind, text) = refusal(&here, sink, &options);
        assert_eq!(kind, ErrorKind::Usage);
        assert!(
            text.starts_with("a sink of keep cannot be loaded from a queue"),
            "{text}"
        );
    }
    let hook: NotifyTarget = "https://host/hunter2".parse().unwrap();
    let (kind, text) = refusal(&hook, &Keep::default(), &options);
    assert_eq!(kind, ErrorKind::Usage);
    assert!(
        text.starts_with("https://host/… is no queue to load from"),
        "{text}"
    );
    let (kind, text) = refusal(&target("no-such-queue"), &Keep::default(), &options);
    assert_eq!(kind, ErrorKind::Store);
    assert!(
        text.ends_with("there is no such queue in this account and region"),
        "{text}"
    );
    let short = QueueLoadOptions {
        visibility: Duration::from_secs(2),
        ..options
    };
    let (kind, text) = refusal(&here, &Keep::default(), &short);
    assert_eq!(kind, ErrorKind::Usage);
    assert!(
        text.starts_with("a visibility of 2s is out of range"),
        "{text}"
    );
    assert_eq!(queue.lengths(), (2, 0));
}
