use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tipple_testkit::{
    Account, Ceph, Fault, FaultProxy, MiniStack, Operation, RawS3, RawSqs, Refusal, Rule, wait_for,
};

fn body() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n % 251) as u8).collect()
}

/// A bucket of MiniStack, behind a proxy with one rule and without.
fn through(rule: Rule) -> (FaultProxy, RawS3, RawS3) {
    let direct = MiniStack::shared().fresh_bucket();
    let proxy = FaultProxy::start(MiniStack::shared().account(), [rule]);
    let behind = RawS3::new(proxy.account(), direct.bucket());
    (proxy, behind, direct)
}

fn put(bucket: &RawS3, key: &str) -> std::io::Result<u16> {
    let answer = bucket.try_request("PUT", key, &[], &[], &body())?;
    Ok(answer.status)
}

#[test]
fn signed_requests_pass_untouched_and_are_told_apart() {
    let (ministack, ceph) = (MiniStack::shared(), Ceph::shared());
    for (server, direct) in [
        (ministack.account(), ministack.fresh_bucket()),
        (ceph.account(), ceph.fresh_bucket()),
    ] {
        let proxy = FaultProxy::start(server, []);
        let bucket = RawS3::new(proxy.account(), direct.bucket());
        bucket.put("a b", &body());
        assert!(bucket.get("a b") == Some(body()));
        let (kept, given_up) = (bucket.create_upload("m"), bucket.create_upload("n"));
        let etag = bucket.put_part(&kept, 1, b"part");
        assert_eq!(bucket.uploads("").len(), 2);
        assert_eq!(bucket.complete_upload(&kept, &[etag]).status, 200);
        bucket.abort_upload(&given_up);
        assert_eq!(bucket.keys(""), ["a b", "m"]);
        bucket.delete("m");
        assert_eq!(direct.keys(""), ["a b"]);
        let operations: Vec<Operation> = proxy.seen().into_iter().map(|seen| seen.0).collect();
        assert_eq!(
            operations,
            [
                Operation::PutObject,
                Operation::HeadObject,
                Operation::GetObject,
                Operation::CreateMultipartUpload,
                Operation::CreateMultipartUpload,
                Operation::UploadPart,
                Operation::ListMultipartUploads,
                Operation::CompleteMultipartUpload,
                Operation::AbortMultipartUpload,
                Operation::ListObjects,
                Operation::DeleteObject,
            ]
        );
        assert_eq!(proxy.requests(Operation::CreateMultipartUpload), 2);
        assert!(proxy.bytes_to_server() >= 300_004 && proxy.bytes_to_client() >= 300_000);
    }
}

#[test]
fn refuses_those_that_the_rule_counts() {
    let (proxy, behind, direct) = through(
        Rule::on(
            Operation::PutObject,
            2..=3,
            Fault::Refuse(Refusal::SLOW_DOWN),
        )
        .with_path("/x/"),
    );
    let statuses = ["x/1", "other", "x/2", "x/3", "x/4"].map(|key| put(&behind, key).unwrap());
    assert_eq!(statuses, [200, 200, 503, 503, 200]);
    assert_eq!(direct.keys(""), ["other", "x/1", "x/4"]);
    assert_eq!(
        (proxy.hits(0), proxy.requests(Operation::PutObject)),
        (2, 5)
    );
    let second = proxy.add(Rule::on_any(
        1..=1,
        Fault::Refuse(Refusal::SLOW_DOWN_RETRY_AFTER),
    ));
    let answer = behind.request("GET", "x/1", &[], &[], &[]);
    assert!(answer.text().contains("<Code>SlowDown</Code>"));
    assert_eq!(answer.header("Retry-After"), Some("1"));
    assert_eq!((behind.get("x/1"), proxy.hits(second)), (Some(body()), 1));
    proxy.add(Rule::always(
        Operation::HeadObject,
        Fault::Refuse(Refusal::ACCESS_DENIED),
    ));
    assert_eq!(behind.request("HEAD", "x/1", &[], &[], &[]).status, 403);
    proxy.heal();
    assert_eq!(behind.request("HEAD", "x/1", &[], &[], &[]).status, 200);
}

#[test]
fn refuses_what_queues_are_asked_in_their_language() {
    let server = MiniStack::shared();
    let direct = server.create_queue("refused");
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::always(
            Operation::SendMessage,
            Fault::Refuse(Refusal::ACCESS_DENIED),
        )],
    );
    let behind = RawSqs::new(proxy.account(), direct.url());
    let refused = std::panic::catch_unwind(|| behind.send("one")).unwrap_err();
    let said = refused.downcast_ref::<String>().unwrap();
    assert!(
        said.contains(r##""__type":"com.amazonaws.sqs#AccessDenied""##),
        "{said}"
    );
    assert_eq!((direct.lengths(), proxy.hits(0)), ((0, 0), 1));
    proxy.heal();
    behind.send("two");
    assert_eq!(behind.drain(), ["two"]);
}

#[test]
fn refuses_early_while_the_body_is_still_to_come() {
    let (proxy, _, direct) = through(Rule::always(
        Operation::PutObject,
        Fault::RefuseEarly(Refusal::INTERNAL_ERROR),
    ));
    let mut stream = TcpStream::connect(proxy.account().addr()).unwrap();
    let path = format!("/{}/x", direct.bucket());
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 InternalError\r\n"));
    assert!(answer.contains("connection: close"));
    assert_eq!((proxy.hits(0), direct.keys("").len()), (1, 0));
}

#[test]
fn resets_before_and_within_a_body() {
    for fault in [
        Fault::Reset,
        Fault::ResetRequest(0),
        Fault::ResetRequest(299_999),
    ] {
        let (proxy, behind, direct) = through(Rule::on(Operation::PutObject, 1..=1, fault));
        let error = put(&behind, "x").unwrap_err();
        assert!(
            [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()),
            "{error}"
        );
        assert_eq!((direct.keys("").len(), proxy.hits(0)), (0, 1));
        assert_eq!(put(&behind, "x").unwrap(), 200);
    }
    // It needs a byte to be done at.
    let (proxy, behind, _) = through(Rule::always(
        Operation::PutObject,
        Fault::ResetRequest(300_000),
    ));
    assert_eq!((put(&behind, "x").unwrap(), proxy.hits(0)), (200, 0));
}

#[test]
fn loses_answers_to_what_was_done() {
    let (proxy, behind, direct) = through(Rule::on(Operation::PutObject, 1..=1, Fault::LoseAnswer));
    let error = put(&behind, "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(direct.get("x") == Some(body()));
    assert_eq!(proxy.hits(0), 1);
}

#[test]
fn stalls_until_released_or_left_alone() {
    for fault in [
        Fault::StallRequest(1000),
        Fault::HoldAnswer,
        Fault::StallAnswer(5),
    ] {
        let (proxy, behind, direct) = through(Rule::always(Operation::GetObject, fault.clone()));
        direct.put("x", &body());
        let asked = |key: &'static str| {
            let (behind, long) = (behind.clone(), vec![0; 2000]);
            std::thread::spawn(move || behind.try_request("GET", key, &[], &[], &long))
        };
        let first = asked("x");
        wait_for("the stall", || proxy.stalled() == 1);
        proxy.release();
        assert!(first.join().unwrap().unwrap().body == body());
        assert_eq!((proxy.stalled(), proxy.hits(0)), (0, 1));
    }
    let (proxy, _, direct) = through(Rule::always(Operation::PutObject, Fault::StallRequest(2)));
    let mut stream = TcpStream::connect(proxy.account().addr()).unwrap();
    let path = format!("/{}/x", direct.bucket());
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome"
    )
    .unwrap();
    wait_for("the stall", || proxy.stalled() == 1);
    drop(stream);
    wait_for("the end of the stall", || proxy.stalled() == 0);
}

#[test]
fn breaks_answers_at_the_byte() {
    for fault in [Fault::CutAnswer(1000), Fault::ResetAnswer(1000)] {
        let (proxy, behind, direct) = through(Rule::always(Operation::GetObject, fault));
        direct.put("x", &body());
        assert!(behind.try_request("GET", "x", &[], &[], &[]).is_err());
        assert_eq!((proxy.hits(0), proxy.bytes_to_client()), (1, 1000));
    }
    let (proxy, behind, direct) = through(Rule::always(
        Operation::GetObject,
        Fault::FlipAnswer(299_999),
    ));
    direct.put("x", &body());
    let mut spoiled = body();
    spoiled[299_999] ^= 0xff;
    assert!(behind.get("x") == Some(spoiled));
    assert_eq!(proxy.hits(0), 1);
}

#[test]
fn texts_are_swapped_on_either_way() {
    let swap = |operation, fault| through(Rule::always(operation, fault));
    let (proxy, behind, direct) = swap(Operation::PutObject, Fault::SwapInRequest("bc", "CB"));
    behind.put("x", b"abcabc");
    assert_eq!(direct.get("x"), Some(b"aCBaCB".to_vec()));
    behind.put("y", b"nothing of it");
    assert_eq!(direct.get("y"), Some(b"nothing of it".to_vec()));
    assert_eq!(proxy.hits(0), 1);
    let (proxy, behind, direct) = swap(Operation::GetObject, Fault::SwapInAnswer("a", "b"));
    direct.put("x", b"abc");
    assert_eq!(behind.get("x"), Some(b"bbc".to_vec()));
    assert_eq!((direct.get("x"), proxy.hits(0)), (Some(b"abc".to_vec()), 1));
}

#[test]
fn a_spoiled_body_is_refused_by_a_server_that_checks() {
    let server = Ceph::shared();
    let bucket = server.fresh_bucket();
    let proxy = FaultProxy::start(
        server.account(),
        [Rule::on(
            Operation::PutObject,
            1..=1,
            Fault::FlipRequest(200_000),
        )],
    );
    let behind = RawS3::new(proxy.account(), bucket.bucket());
    let answer = behind.request("PUT", "x", &[], &[], &body());
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(
        answer.text().contains("XAmzContentSHA256Mismatch"),
        "{}",
        answer.text()
    );
    assert_eq!((bucket.keys("").len(), proxy.hits(0)), (0, 1));
    assert_eq!(put(&behind, "x").unwrap(), 200);
}

#[test]
fn is_as_slow_as_told() {
    let slow = [
        (Fault::Delay(Duration::from_millis(200)), 190),
        (Fault::SlowRequest(1_500_000), 170),
    ];
    for (fault, least_ms) in slow {
        let (proxy, behind, _) = through(Rule::on(Operation::PutObject, 1..=1, fault));
        let start = Instant::now();
        put(&behind, "x").unwrap();
        assert!(start.elapsed().as_millis() >= least_ms);
        assert_eq!(proxy.hits(0), 1);
    }
    let (proxy, behind, _) = through(Rule::always(
        Operation::GetObject,
        Fault::SlowAnswer(1_500_000),
    ));
    put(&behind, "x").unwrap();
    let start = Instant::now();
    assert!(behind.get("x") == Some(body()));
    assert!(start.elapsed().as_millis() >= 170);
    assert_eq!(proxy.hits(0), 1);
}

#[test]
fn a_limit_is_one_for_all_connections() {
    let (proxy, behind, _) = through(Rule::on(Operation::Other, 1..=1, Fault::Reset));
    proxy.limit(Some(4_000_000), None);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for key in ["1", "2", "3", "4"] {
            let behind = &behind;
            scope.spawn(move || assert_eq!(put(behind, key).unwrap(), 200));
        }
    });
    assert!(start.elapsed().as_millis() >= 270, "{:?}", start.elapsed());
    assert_eq!(proxy.bytes_to_server(), 1_200_000);
    assert_eq!(proxy.under_way_max(Operation::PutObject), 4);
    proxy.limit(None, None);
    assert!(behind.get("4") == Some(body()));
}

#[test]
fn a_connection_serves_several_requests() {
    let server = MiniStack::shared();
    let nobody = Account {
        access_key: "nobody".to_owned(),
        ..server.account().clone()
    };
    let proxy = FaultProxy::start(&nobody, []);
    let mut stream = TcpStream::connect(proxy.account().addr()).unwrap();
    stream
        .write_all(b"GET /b/1 HTTP/1.1\r\nhost: h\r\n\r\nPUT /b/2 HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n")
        .unwrap();
    stream
        .write_all(b"PUT /b/3 HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 1\r\n\r\n")
        .unwrap();
    let mut answers = Vec::new();
    while !answers.ends_with(b"HTTP/1.1 100 Continue\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answers.push(byte[0]);
    }
    stream.write_all(b"x").unwrap();
    stream.read_to_end(&mut answers).unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 4, "{answers}");
    assert_eq!(proxy.seen().len(), 3);
    assert_eq!(proxy.bytes_to_server(), 5);
}

#[test]
fn is_down_when_told() {
    let (mut proxy, behind, direct) =
        through(Rule::always(Operation::GetObject, Fault::HoldAnswer));
    direct.put("x", b"");
    let asked = {
        let behind = behind.clone();
        std::thread::spawn(move || behind.try_request("GET", "x", &[], &[], &[]))
    };
    wait_for("the stall", || proxy.stalled() == 1);
    proxy.sever();
    assert!(asked.join().unwrap().is_err());
    assert_eq!(put(&behind, "y").unwrap(), 200);
    proxy.stop_listening();
    let error = put(&behind, "z").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
