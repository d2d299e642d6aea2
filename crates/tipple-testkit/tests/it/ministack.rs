use std::path::Path;

use tipple_testkit::{Account, MiniStack, RawS3, RawSqs, wait_for};

#[test]
fn objects_come_back() {
    let bucket = MiniStack::shared().fresh_bucket();
    assert_eq!(bucket.get("a"), None);
    let odd = "b/ü +&<\"'>%?=.txt";
    let body: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    bucket.put("a", b"");
    bucket.put(odd, &body);
    assert_eq!(bucket.get("a"), Some(Vec::new()));
    assert_eq!(bucket.get(odd), Some(body));
    assert_eq!(bucket.keys(""), ["a", odd]);
    assert_eq!(bucket.list("b/")[0].bytes, 100_000);
    bucket.delete("a");
    assert_eq!(bucket.keys(""), [odd]);
}

#[test]
fn listings_have_all_pages() {
    let bucket = MiniStack::shared().fresh_bucket();
    let names: Vec<String> = (0..1005).map(|n| format!("x/{n:04}")).collect();
    for name in &names {
        bucket.put(name, b".");
    }
    bucket.put("y", b"");
    assert_eq!(bucket.keys("x/"), names);
}

#[test]
fn uploads_are_seen_until_they_end() {
    let bucket = MiniStack::shared().fresh_bucket();
    let kept = bucket.create_upload("dump/kept");
    let given_up = bucket.create_upload("dump/given up");
    let mut seen = bucket.uploads("dump/");
    seen.sort();
    assert_eq!(seen, [given_up.clone(), kept.clone()]);
    assert_eq!(bucket.uploads("other"), []);
    let etags = [
        bucket.put_part(&kept, 1, &[1; 5 << 20]),
        bucket.put_part(&kept, 2, b"end"),
    ];
    bucket.abort_upload(&given_up);
    assert_eq!(bucket.complete_upload(&kept, &etags).status, 200);
    assert_eq!(bucket.uploads(""), []);
    assert_eq!(bucket.list("")[0].bytes, (5 << 20) + 3);
}

#[test]
fn conditions_checksums_and_keys_are_checked() {
    let server = MiniStack::shared();
    let bucket = server.fresh_bucket();
    let absent = [("if-none-match", "*")];
    let put = |headers: &[(&str, &str)]| bucket.request("PUT", "x", &[], headers, b"1").status;
    assert_eq!([put(&absent), put(&absent)], [200, 412]);
    assert_eq!(put(&[("x-amz-checksum-crc32", "AAAAAA==")]), 400);
    let stranger = Account {
        access_key: "nobody".to_owned(),
        ..server.account().clone()
    };
    let answer = RawS3::new(&stranger, bucket.bucket()).request("GET", "x", &[], &[], b"");
    assert_eq!(answer.status, 403, "{}", answer.text());
}

#[test]
fn messages_come_back_until_they_are_deleted() {
    let server = MiniStack::shared();
    let queue = RawSqs::create(server.account(), "short", 1);
    queue.send("one \"1\" ü");
    assert_eq!(queue.lengths(), (1, 0));
    let first = queue.receive();
    assert_eq!(first[0].body, "one \"1\" ü");
    assert_eq!((queue.receive(), queue.lengths()), (Vec::new(), (0, 1)));
    wait_for("the message to come again", || queue.lengths() == (1, 0));
    assert_eq!(queue.drain(), ["one \"1\" ü"]);
    assert_eq!(queue.lengths(), (0, 0));
    let other = server.create_queue("other");
    assert!(other.url().starts_with(&server.account().endpoint));
    assert_eq!(RawSqs::new(server.account(), other.url()).drain(), [""; 0]);
}

#[test]
fn a_dropped_server_is_gone() {
    let server = MiniStack::start();
    let process = format!("/proc/{}", server.pid());
    assert!(Path::new(&process).exists());
    let bucket = server.fresh_bucket();
    drop(server);
    assert!(!Path::new(&process).exists());
    assert!(bucket.try_request("GET", "", &[], &[], &[]).is_err());
}
