//! Stores in buckets of real servers.

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use tipple_store::http::{PostErrorKind, Poster, Request};
use tipple_store::{
    Access, ConfirmedBy, Put, PutIfAbsent, Store, StoreErrorKind, StoreOptions, StoreUrl,
    open_store,
};
use tipple_testkit::{
    Account, Ceph, Fault, FaultProxy, Garage, MiniStack, Operation, RawS3, Rule, is_long,
};

use crate::{name, names};

/// The options for the server of `account`, with short pauses.
pub fn options(account: &Account) -> StoreOptions {
    StoreOptions {
        part_bytes: 5 << 20,
        parts_in_flight: 3,
        retry_pause: Duration::from_millis(5),
        ..StoreOptions::default().with_variables(account.env())
    }
}

/// Bytes in which no part is like another.
pub fn bytes(length: usize) -> Vec<u8> {
    (0..length.div_ceil(4) as u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

fn open(bucket: &RawS3, prefix: &str, options: &StoreOptions) -> Arc<dyn Store> {
    let url: StoreUrl = bucket.url(prefix).parse().unwrap();
    open_store(&url, Access::Write, options).unwrap()
}

/// A file of several parts comes back as it was, whole and block by block.
fn large_files_come_back(store: &dyn Store, bucket: &RawS3) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for length in [5 << 20, (5 << 20) + 1, 13 << 20] {
        let sent = bytes(length);
        fs::write(&path, &sent).unwrap();
        let object = name(&format!("chunks/{length}"));
        assert_eq!(store.put_file(&object, &path).unwrap(), Put::Created);
        assert!(!path.exists());
        assert_eq!(store.head(&object).unwrap().bytes, length as u64);
        let mut got = Vec::new();
        store.open(&object).unwrap().read_to_end(&mut got).unwrap();
        assert!(got == sent, "other bytes of {length}");
        assert!(store.get(&object, length as u64).unwrap() == sent);
        // From memory, what is there is compared byte by byte.
        assert_eq!(
            store.put_if_absent(&object, &sent).unwrap(),
            Put::AlreadySame
        );
        let mut other = sent;
        other[length - 1] ^= 1;
        let error = store.put_if_absent(&object, &other).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::AlreadyExists, "{error}");
        fs::write(&path, &other[1..]).unwrap();
        let error = store.put_copy(&object, &path).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::AlreadyExists, "{error}");
    }
    let memory = bytes(11 << 20);
    assert_eq!(
        store.put_if_absent(&name("memory"), &memory).unwrap(),
        Put::Created
    );
    assert!(store.get(&name("memory"), u64::MAX).unwrap() == memory);
    assert_eq!(bucket.uploads(""), []);
}

#[test]
fn ministack_checks_checksums() {
    let (server, bucket) = (MiniStack::shared(), MiniStack::shared().fresh_bucket());
    let store = open(&bucket, "x", &options(server.account()));
    let can = store.capabilities().unwrap();
    assert_eq!(can.put_if_absent, PutIfAbsent::Honoured);
    assert_eq!(can.confirmed_by, Some(ConfirmedBy::Checksum));
    assert!(!can.lock && can.durable);
    large_files_come_back(&*store, &bucket);
}

#[test]
fn ceph_checks_signed_payloads() {
    let (server, bucket) = (Ceph::shared(), Ceph::shared().fresh_bucket());
    let store = open(&bucket, "x", &options(server.account()));
    let can = store.capabilities().unwrap();
    assert_eq!(can.put_if_absent, PutIfAbsent::Honoured);
    assert_eq!(can.confirmed_by, Some(ConfirmedBy::SignedPayload));
    large_files_come_back(&*store, &bucket);
}

#[test]
fn over_tls_ceph_checks_nothing_and_is_read_back() {
    let (server, bucket) = (Ceph::shared(), Ceph::shared().fresh_bucket());
    let bundle = server.certificate().ca.to_str().unwrap().to_owned();
    let account = server.tls_account();
    let trusting = options(&account).with_variables([("AWS_CA_BUNDLE", bundle)]);
    let store = open(&bucket, "x", &trusting);
    let can = store.capabilities().unwrap();
    assert_eq!(can.confirmed_by, Some(ConfirmedBy::ReadingBack));
    assert_eq!(store.put_if_absent(&name("a"), b"1").unwrap(), Put::Created);
    large_files_come_back(&*store, &bucket);

    let strange = StoreOptions {
        attempts_max: 1,
        ..options(&account)
    };
    let url: StoreUrl = bucket.url("x").parse().unwrap();
    let error = open_store(&url, Access::Read, &strange).err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn garage_ignores_conditions_and_is_for_a_single_writer_in_a_long_run() {
    if !is_long() {
        return;
    }
    let (server, bucket) = (Garage::shared(), Garage::shared().fresh_bucket());
    let url: StoreUrl = bucket.url("x").parse().unwrap();
    let unfenced = options(server.account());
    let error = open_store(&url, Access::Write, &unfenced).err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    let error = error.to_string().replace(bucket.bucket(), "BUCKET");
    insta::assert_snapshot!(error, @"cannot open s3://BUCKET/x: the server ignores the condition of conditional puts, so two writers could overwrite each other's objects; if nobody else writes there, give --single-writer");
    assert_eq!(bucket.keys(""), [""; 0]);

    let single = StoreOptions {
        single_writer: true,
        ..unfenced
    };
    let store = open(&bucket, "x", &single);
    let can = store.capabilities().unwrap();
    assert_eq!(can.put_if_absent, PutIfAbsent::Ignored);
    assert_eq!(can.confirmed_by, Some(ConfirmedBy::Checksum));
    large_files_come_back(&*store, &bucket);
}

#[test]
fn another_users_bucket_and_a_wrong_secret_are_refused() {
    let (server, bucket) = (Ceph::shared(), Ceph::shared().fresh_bucket());
    let url: StoreUrl = bucket.url("x").parse().unwrap();
    let mut wrong = server.account().clone();
    wrong.secret_key = "hunter2hunter2".to_owned();
    for account in [server.create_user("stranger"), wrong] {
        let error = open_store(&url, Access::Read, &options(&account))
            .err()
            .unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Denied, "{error}");
        let text = format!("{error} {error:?}");
        assert!(
            !text.contains("hunter2") && !text.contains(&account.secret_key),
            "{text}"
        );
        assert!(
            error.to_string().contains("check the credentials"),
            "{error}"
        );
    }
}

#[test]
fn dumps_in_one_bucket_do_not_see_each_other() {
    let (server, bucket) = (MiniStack::shared(), MiniStack::shared().fresh_bucket());
    let stores = ["a", "ab", "a-b/c", "a.b", "2026-01-01T00:00:00+01:00/=@,"]
        .map(|prefix| (prefix, open(&bucket, prefix, &options(server.account()))));
    for (prefix, store) in &stores {
        store
            .put_if_absent(&name("d/x"), prefix.as_bytes())
            .unwrap();
        let upload = bucket.create_upload(&format!("{prefix}/chunks/1"));
        bucket.put_part(&upload, 1, &bytes(1000));
    }
    for (prefix, store) in &stores {
        assert_eq!(store.get(&name("d/x"), 100).unwrap(), prefix.as_bytes());
        assert_eq!(names(&**store).unwrap(), ["d/x"]);
        let leftovers = store.leftovers().unwrap();
        assert_eq!(leftovers.len(), 1);
        assert_eq!(leftovers[0].object, Some(name("chunks/1")));
        assert_eq!(leftovers[0].bytes, 1000);
    }
}

#[test]
fn what_a_crash_left_is_found_and_removed() {
    for (account, bucket) in [
        (
            MiniStack::shared().account(),
            MiniStack::shared().fresh_bucket(),
        ),
        (Ceph::shared().account(), Ceph::shared().fresh_bucket()),
    ] {
        let store = open(&bucket, "x", &options(account));
        let ours = bucket.create_upload("x/chunks/1");
        bucket.put_part(&ours, 1, &bytes(6 << 20));
        bucket.put_part(&ours, 2, &bytes(1000));
        bucket.create_upload("y/chunks/1");
        bucket.create_upload("x/two words");
        let leftovers = store.leftovers().unwrap();
        let [leftover] = &leftovers[..] else {
            panic!("{leftovers:?}");
        };
        assert_eq!(leftover.bytes, (6 << 20) + 1000);
        let now = std::time::SystemTime::now();
        assert!(
            leftover.age(now) < Duration::from_secs(3600),
            "{leftover:?}"
        );
        for _ in 0..2 {
            store.remove_leftover(leftover).unwrap();
        }
        assert_eq!(store.leftovers().unwrap(), []);
        assert_eq!(bucket.uploads("").len(), 2);
    }
}

#[test]
fn parts_grow_where_few_are_allowed() {
    let (server, bucket) = (MiniStack::shared(), MiniStack::shared().fresh_bucket());
    let proxy = FaultProxy::start(server.account(), []);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let sent = bytes(12 << 20);
    fs::write(&path, &sent).unwrap();
    let few = |parts_in_flight| StoreOptions {
        parts_max: 2,
        parts_in_flight,
        ..options(proxy.account())
    };
    let store = open(&bucket, "x", &few(2));
    assert_eq!(store.put_copy(&name("c"), &path).unwrap(), Put::Created);
    assert_eq!(proxy.requests(Operation::UploadPart), 2);
    assert!(bucket.get("x/c").unwrap() == sent);
    let error = open(&bucket, "y", &few(1)).put_copy(&name("c"), &path);
    let error = error
        .unwrap_err()
        .to_string()
        .replace(bucket.bucket(), "BUCKET");
    insta::assert_snapshot!(error, @"cannot write c to s3://BUCKET/y: 12582912 bytes in at most 2 parts need larger parts than the upload buffers hold; give an upload part size of at least 6MiB");
}

#[test]
fn uploads_share_their_buffers() {
    let (server, bucket) = (MiniStack::shared(), MiniStack::shared().fresh_bucket());
    let proxy = FaultProxy::start(server.account(), []);
    let store = open(&bucket, "x", &options(proxy.account()));
    assert_eq!(store.put_memory_bytes(), 15 << 20);
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (store, folder) = (&store, folder.path());
            scope.spawn(move || {
                let path = folder.join(number.to_string());
                fs::write(&path, bytes((11 << 20) + number)).unwrap();
                let object = name(&format!("chunks/{number}"));
                assert_eq!(store.put_file(&object, &path).unwrap(), Put::Created);
            });
        }
    });
    for number in 0..4 {
        let there = bucket.get(&format!("x/chunks/{number}")).unwrap();
        assert!(there == bytes((11 << 20) + number));
    }
    // A buffer comes back when the answer has come; the proxy may see the end of its request a moment later.
    assert!(proxy.under_way_max(Operation::UploadPart) <= 4);
}

#[test]
fn profiles_and_processes_give_credentials() {
    let (server, bucket) = (MiniStack::shared(), MiniStack::shared().fresh_bucket());
    let account = server.account();
    let home = tempfile::tempdir().unwrap();
    let write = |file: &str, text: String| {
        let path = home.path().join(file);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let keys = format!(
        "aws_access_key_id = {}\naws_secret_access_key = {}\n",
        account.access_key, account.secret_key
    );
    let shared = write("credentials", format!("[ours]\n{keys}"));
    let json = write(
        "keys.json",
        format!(
            r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}"}}"#,
            account.access_key, account.secret_key
        ),
    );
    let config = write(
        "config",
        format!(
            "[profile ours]\nregion = us-east-1\n[profile process]\ncredential_process = cat {json}\n"
        ),
    );
    let url: StoreUrl = bucket.url("x").parse().unwrap();
    let profile = |profile: &str| {
        let options = StoreOptions::default().with_variables([
            ("AWS_ENDPOINT_URL", account.endpoint.as_str()),
            ("AWS_PROFILE", profile),
            ("AWS_CONFIG_FILE", &config),
            ("AWS_SHARED_CREDENTIALS_FILE", &shared),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]);
        open_store(&url, Access::Write, &options)
    };
    for known in ["ours", "process"] {
        let store = profile(known).unwrap();
        store.put_if_absent(&name("a"), b"1").unwrap();
    }
    let error = profile("missing").err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Denied);
    let error = error.to_string().replace(bucket.bucket(), "BUCKET");
    insta::assert_snapshot!(error, @"cannot open s3://BUCKET/x: no credentials were found (no variables, no profile, no single sign-on, no process, no container, no instance); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE");
}

#[test]
fn services_are_asked_with_a_signature() {
    let server = MiniStack::shared();
    let queue = server.create_queue("posted");
    let poster = Poster::new(&options(server.account())).unwrap();
    let body = format!(r#"{{"QueueUrl":"{}","MessageBody":"hello"}}"#, queue.url());
    let mut request = Request::new(format!("{}/", server.account().endpoint), body);
    request.headers = vec![
        ("content-type".into(), "application/x-amz-json-1.0".into()),
        ("x-amz-target".into(), "AmazonSQS.SendMessage".into()),
    ];
    request.aws_service = Some("sqs".into());
    let answer = poster.post(&request).unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(queue.receive().len(), 1);

    request.answer_bytes_max = 3;
    let error = poster.post(&request).unwrap_err();
    assert_eq!(error.kind(), PostErrorKind::TooLarge);
    insta::assert_snapshot!(error, @"the answer is longer than 3 bytes");

    let proxy = FaultProxy::start(server.account(), [Rule::on_any(1..=1, Fault::HoldAnswer)]);
    let mut held = Request::new(proxy.account().endpoint.clone(), "hunter2");
    held.time_max = Duration::from_millis(200);
    let error = poster.post(&held).unwrap_err();
    assert_eq!(error.kind(), PostErrorKind::MayHaveBeenTaken);
    insta::assert_snapshot!(error, @"no answer within 200ms");
    for (url, kind) in [
        ("http://127.0.0.1:1/hunter2", PostErrorKind::Unreachable),
        ("ftp://hunter2", PostErrorKind::Invalid),
        ("http://u:hunter2@127.0.0.1/", PostErrorKind::Invalid),
        ("http://", PostErrorKind::Invalid),
    ] {
        let error = poster.post(&Request::new(url, "hunter2")).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = format!("{error} {error:?} {:?}", Request::new(url, "hunter2"));
        assert!(!text.contains("hunter2"), "{text}");
    }
}
