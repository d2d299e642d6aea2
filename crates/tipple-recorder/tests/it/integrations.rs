//! What records for a program: channels, layers of services, spans, signals. And the programs in `examples/`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tipple_recorder::tracing::TraceLayer;
use tipple_recorder::{
    Recorder, RecorderOptions, mpsc, rotate_on_sighup, snapshot_on_signal, trace,
};
use tipple_testkit::wait_for;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tracing_subscriber::layer::SubscriberExt;

use crate::support::{LONG, audit, fixed, lines, order, records, start};

/// Group, direction and number of the order of each record.
fn orders(lines: &[Value]) -> Vec<(String, String, u64)> {
    let text = |value: &'_ Value| value.as_str().unwrap().to_owned();
    records(lines)
        .iter()
        .map(|line| {
            let id = line["m"]["order_id"].as_u64().unwrap();
            (text(&line["g"]), text(&line["d"]), id)
        })
        .collect()
}

#[tokio::test]
async fn a_channel_records_what_goes_through_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let recorder = start(folder.path());
    let (sender, mut receiver) = mpsc::channel(1, recorder.stream("from"), recorder.stream("to"));
    sender.send(order(1)).await.unwrap();
    // No room: neither is recorded, the second since it is given up while it waits.
    assert!(matches!(
        sender.try_send(order(2)),
        Err(TrySendError::Full(_))
    ));
    tokio::select! {
        biased;
        _ = sender.send(order(3)) => panic!("there is no room"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(receiver.recv().await.unwrap().order_id, 1);
    assert!(matches!(receiver.try_recv(), Err(TryRecvError::Empty)));
    sender.try_send(order(4)).unwrap();
    assert_eq!(receiver.try_recv().unwrap().order_id, 4);
    let other = sender.clone();
    drop(receiver);
    assert!(other.send(order(5)).await.is_err());
    assert!(matches!(
        other.try_send(order(6)),
        Err(TrySendError::Closed(_))
    ));
    let report = recorder.shutdown(LONG);
    let lines = lines(folder.path());
    audit(&lines, &report);
    assert_eq!(
        orders(&lines),
        [
            ("from", "Out", 1),
            ("to", "In", 1),
            ("from", "Out", 4),
            ("to", "In", 4)
        ]
        .map(|(group, direction, id)| (group.to_owned(), direction.to_owned(), id))
    );
}

#[test]
fn a_span_is_a_trace() {
    let folder = TempDir::new().unwrap();
    let recorder = start(folder.path());
    let stream = recorder.stream("orders");
    let subscriber = tracing_subscriber::registry().with(TraceLayer::new());
    tracing::subscriber::with_default(subscriber, || {
        stream.sent(&order(0));
        let outer = tracing::info_span!("outer", trace_id = 77u64);
        let hex = tracing::info_span!("hex", trace_id = "0af7651916cd43dd8448eb211c80319c");
        {
            let _outer = outer.enter();
            stream.sent(&order(1));
            // That of the span around it.
            tracing::info_span!("inner").in_scope(|| stream.sent(&order(2)));
            // Its own trace, and what was before it afterwards.
            hex.in_scope(|| stream.sent(&order(3)));
            let explicit = trace::enter(5);
            tracing::info_span!(parent: None, "alone").in_scope(|| stream.sent(&order(4)));
            stream.sent(&order(5));
            drop(explicit);
            stream.sent(&order(6));
        }
        stream.sent(&order(7));
        // Left in another order than entered.
        let _before = trace::enter(9);
        let first = outer.enter();
        let second = hex.enter();
        drop(first);
        stream.sent(&order(8));
        drop(second);
        stream.sent(&order(9));
    });
    recorder.shutdown(LONG);
    let lines = lines(folder.path());
    let traces: Vec<u64> = records(&lines)
        .iter()
        .map(|line| line["t"].as_u64().unwrap())
        .collect();
    let w3c = trace::from_w3c(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(w3c, 0x0448_eb21_1c80_319c);
    let own = traces[4];
    assert!(own > 1 << 40, "{own}");
    assert_eq!(traces, [0, 77, 77, w3c, own, 5, 77, 0, w3c, 9]);
}

fn hang_up() {
    // SAFETY: a signal to this process, which listens for it.
    #[expect(unsafe_code, reason = "a signal")]
    unsafe {
        libc::raise(libc::SIGHUP);
    }
}

#[test]
fn a_hangup_begins_new_files_and_takes_the_configuration_again() {
    let folder = TempDir::new().unwrap();
    let mut options = fixed(folder.path());
    let config = folder.path().join("recording.toml");
    fs::write(&config, "[groups.orders]\ndisabled = false").unwrap();
    options.config_file = Some(config.clone());
    let recorder = Arc::new(Recorder::start(options).unwrap());
    rotate_on_sighup(&recorder).unwrap();
    let stream = recorder.stream("orders");
    let (file, moved) = (
        folder.path().join("default.ndjson"),
        folder.path().join("default.ndjson.1"),
    );
    stream.sent(&order(1));
    recorder.flush(LONG).unwrap();
    fs::rename(&file, &moved).unwrap();
    hang_up();
    // Whatever it takes until the signal is seen, each record is in one of them.
    let mut id = 1;
    while !file.exists() {
        id += 1;
        stream.sent(&order(id));
        std::thread::yield_now();
    }
    // A change that no watching sees is taken, too.
    let modified = fs::metadata(&config).unwrap().modified().unwrap();
    fs::write(&config, "[groups.orders]\ndisabled = true ").unwrap();
    let file = fs::File::options().write(true).open(&config).unwrap();
    file.set_modified(modified).unwrap();
    hang_up();
    wait_for("it is disabled", || !stream.is_enabled());
    let report = recorder.shutdown(LONG);
    assert_eq!(report.written, id);
    let last = fs::read_to_string(&moved).unwrap();
    assert!(
        last.lines().last().unwrap().contains("\"mk\":\"Close\""),
        "{last}"
    );
    let lines = lines(folder.path());
    audit(&lines, &report);
}

#[test]
fn a_signal_leaves_a_snapshot() {
    let folder = TempDir::new().unwrap();
    let mut options = RecorderOptions::flight(4 << 20);
    options.snapshot_folder = folder.path().to_owned();
    let recorder = Arc::new(Recorder::start(options).unwrap());
    let (told, path) = channel();
    snapshot_on_signal(
        &recorder,
        libc::SIGUSR1,
        LONG,
        Duration::ZERO,
        move |path| told.send(path).unwrap(),
    )
    .unwrap();
    recorder.stream("orders").sent(&order(7));
    // SAFETY: a signal to this process, which listens for it.
    #[expect(unsafe_code, reason = "a signal")]
    unsafe {
        libc::raise(libc::SIGUSR1);
    }
    let path = path.recv_timeout(LONG).unwrap().unwrap();
    assert!(
        fs::read_to_string(path)
            .unwrap()
            .contains("\"order_id\":7,")
    );
}

/// A program of `examples/`, which cargo builds with the tests.
fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let program = tests
        .parent()
        .unwrap()
        .with_file_name("examples")
        .join(name);
    assert!(
        program.exists(),
        "build it: cargo build -p tipple-recorder --example {name} --features tower"
    );
    Command::new(program)
}

fn one(lines: &[Value], wanted: impl Fn(&Value) -> bool) -> &Value {
    let mut found = lines.iter().filter(|line| wanted(line));
    let first = found.next().expect("it was recorded");
    assert!(found.next().is_none());
    first
}

#[test]
fn a_service_of_axum_is_recorded() {
    let folder = TempDir::new().unwrap();
    let mut service = example("axum")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(service.stdout.take().unwrap());
    let mut url = String::new();
    said.read_line(&mut url).unwrap();
    let address = url.trim().strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/orders").unwrap();
    let ask = |method: &str, body: &str| {
        let mut connection = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(connection, "{method} /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    };
    let body = json!({"id": 7, "symbol": "TEA", "card": "4111"}).to_string();
    let answer = ask("POST", &body);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"id\":7}"),
        "{answer}"
    );
    assert!(ask("GET", "").starts_with("HTTP/1.1 405"));
    // SAFETY: a signal to our own child, which was not waited for.
    #[expect(unsafe_code, reason = "a signal")]
    unsafe {
        libc::kill(service.id() as i32, libc::SIGINT);
    }
    assert!(service.wait().unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "6 records, 0 lost\n");
    let lines = lines(folder.path());
    for (method, status) in [("POST", 200), ("GET", 405)] {
        let asked = one(&lines, |line| line["m"]["method"] == method);
        assert_eq!(
            (&asked["d"], &asked["mk"]),
            (&json!("In"), &json!("Request"))
        );
        assert_eq!(asked["m"]["path"], "/orders");
        let answered = one(&lines, |line| {
            line["mn"] == "Answered" && line["c"] == asked["c"]
        });
        assert_eq!(answered["m"]["status"], status);
        assert_eq!(answered["d"], "Out");
    }
    let order = one(&lines, |line| line["mn"] == "Order");
    assert_eq!(
        order["m"],
        json!({"id": 7, "symbol": "TEA", "card": "<hidden>"})
    );
}

#[test]
fn a_service_of_tonic_and_its_client_are_recorded() {
    let folder = TempDir::new().unwrap();
    let output = example("tonic").arg(folder.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.ends_with("10 records, 0 lost\n"), "{said}");
    let lines = lines(folder.path());
    for (id, symbol) in ["TEA", "COFFEE", "TEA"].into_iter().enumerate() {
        for (group, asked, answered) in [("client", "Out", "In"), ("shop", "In", "Out")] {
            let request = one(&lines, |line| {
                line["g"] == group && line["mn"] == "Order" && line["m"]["id"] == id
            });
            assert_eq!(request["d"], asked);
            assert_eq!(request["m"]["symbol"], symbol);
            assert_eq!(request["t"], 1000 + id);
            let mut responses = lines.iter().filter(|line| {
                line["g"] == group && line["mn"] == "Receipt" && line["m"]["id"] == id
            });
            match responses.next() {
                // An error is no response.
                None => assert_eq!(symbol, "COFFEE"),
                Some(response) => {
                    assert_eq!(response["d"], answered);
                    assert_eq!(
                        (&response["c"], &response["t"]),
                        (&request["c"], &request["t"])
                    );
                }
            }
        }
    }
}
