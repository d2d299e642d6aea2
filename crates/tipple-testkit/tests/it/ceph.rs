use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tipple_testkit::{Account, Ceph, RawS3};

#[test]
fn objects_come_back() {
    let bucket = Ceph::shared().fresh_bucket();
    assert_eq!(bucket.get("a"), None);
    let odd = "b/ü +&<\"'>%?=.txt";
    let body: Vec<u8> = (0..10_000_000_u32).map(|n| (n % 251) as u8).collect();
    bucket.put("a", b"");
    bucket.put(odd, &body);
    assert_eq!(bucket.get("a"), Some(Vec::new()));
    assert!(bucket.get(odd) == Some(body));
    assert_eq!(bucket.keys(""), ["a", odd]);
    assert_eq!(bucket.list("b/")[0].bytes, 10_000_000);
    bucket.delete("a");
    assert_eq!(bucket.keys(""), [odd]);
}

#[test]
fn uploads_are_seen_until_they_end() {
    let bucket = Ceph::shared().fresh_bucket();
    let kept = bucket.create_upload("dump/kept");
    let given_up = bucket.create_upload("dump/given up");
    let mut seen = bucket.uploads("dump/");
    seen.sort();
    assert_eq!(seen, [given_up.clone(), kept.clone()]);
    assert_eq!(bucket.uploads("other"), []);
    let small = [1, 2].map(|n| bucket.put_part(&given_up, n, b"too small"));
    let answer = bucket.complete_upload(&given_up, &small);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("EntityTooSmall"));
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
fn signatures_conditions_and_owners_are_checked() {
    let server = Ceph::shared();
    let bucket = server.fresh_bucket();
    let absent = [("if-none-match", "*")];
    let put = || bucket.request("PUT", "x", &[], &absent, b"1").status;
    assert_eq!([put(), put()], [200, 412]);
    let liar = Account {
        secret_key: "wrong".to_owned(),
        ..server.account().clone()
    };
    let leaver = server.create_user("leaver");
    server.suspend_user("leaver");
    for (account, code) in [
        (leaver, "UserSuspended"),
        (liar, "SignatureDoesNotMatch"),
        (server.create_user("stranger"), "AccessDenied"),
    ] {
        let answer = RawS3::new(&account, bucket.bucket()).request("GET", "x", &[], &[], b"");
        assert_eq!(answer.status, 403);
        assert!(answer.text().contains(code), "{}", answer.text());
    }
}

#[test]
fn speaks_tls() {
    let server = Ceph::shared();
    let account = server.tls_account();
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile"])
        .arg(&server.certificate().ca)
        .args(["-connect", account.addr()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        account.addr()
    );
    stdin.write_all(request.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    assert!(account.endpoint.starts_with("https://127.0.0.1:"));
    assert!(output.stdout.starts_with(b"HTTP/1.1 200"), "{output:?}");
}

#[test]
fn a_dropped_server_is_gone() {
    let server = Ceph::start();
    let processes: Vec<String> = server.pids().iter().map(|n| format!("/proc/{n}")).collect();
    assert_eq!(processes.len(), 3);
    assert!(processes.iter().all(|process| Path::new(process).exists()));
    let bucket = server.fresh_bucket();
    drop(server);
    assert!(!processes.iter().any(|process| Path::new(process).exists()));
    assert!(bucket.try_request("GET", "", &[], &[], &[]).is_err());
}
