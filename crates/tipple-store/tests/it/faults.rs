//! What may happen between a store and its bucket. Real servers; the proxy between spoils requests and answers.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tipple_store::{
    Access, Put, Retryable, Store, StoreError, StoreErrorKind, StoreOptions, StoreUrl, open_store,
};
use tipple_testkit::{Fault, FaultProxy, MiniStack, Operation, RawS3, Refusal, Rule};

use crate::remote::{bytes, options};
use crate::{name, names};

/// A bucket of MiniStack, and a store in it behind a proxy.
struct Faulty {
    proxy: FaultProxy,
    direct: RawS3,
    url: StoreUrl,
    options: StoreOptions,
    store: Arc<dyn Store>,
    folder: tempfile::TempDir,
}

impl Faulty {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let direct = MiniStack::shared().fresh_bucket();
        let proxy = FaultProxy::start(MiniStack::shared().account(), []);
        let mut options = options(proxy.account());
        change(&mut options);
        let url: StoreUrl = direct.url("p").parse().unwrap();
        Self {
            store: open_store(&url, Access::Write, &options).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            proxy,
            direct,
            url,
            options,
        }
    }

    /// The next requests of this kind go wrong; those after them do not.
    fn spoil(&self, operation: Operation, times: u64, fault: Fault) -> usize {
        self.proxy.add(Rule::on(operation, 1..=times, fault))
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("file");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn open(&self, access: Access) -> Result<Arc<dyn Store>, StoreError> {
        open_store(&self.url, access, &self.options)
    }

    /// The text of an error, without the server's address.
    fn text(&self, error: &StoreError) -> String {
        let text = format!("{error}");
        let secret = &self.proxy.account().secret_key;
        assert!(!format!("{error} {error:?}").contains(secret), "{text}");
        text.replace(&self.proxy.account().endpoint, "SERVER")
            .replace(self.direct.bucket(), "BUCKET")
    }
}

fn refuse(refusal: Refusal) -> Fault {
    Fault::Refuse(refusal)
}

#[test]
fn a_small_put_survives() {
    let faulty = Faulty::new();
    let sent = bytes(100_000);
    for (number, (times, fault)) in [
        (3, refuse(Refusal::INTERNAL_ERROR)),
        (3, refuse(Refusal::SLOW_DOWN)),
        (1, refuse(Refusal::SLOW_DOWN_RETRY_AFTER)),
        (2, Fault::RefuseEarly(Refusal::SLOW_DOWN)),
        (2, refuse(Refusal::REQUEST_TIMEOUT)),
        (2, refuse(Refusal::BAD_DIGEST)),
        (2, refuse(Refusal::CONDITIONAL_REQUEST_CONFLICT)),
        (2, refuse(Refusal::PRECONDITION_FAILED)),
        (1, refuse(Refusal::REQUEST_TIME_TOO_SKEWED)),
        (1, refuse(Refusal::EXPIRED_TOKEN)),
        (3, Fault::Reset),
        (2, Fault::ResetRequest(50_000)),
        (1, Fault::FlipRequest(50_000)),
        (1, Fault::LoseAnswer),
    ]
    .into_iter()
    .enumerate()
    {
        let object = format!("parts/{number}.json");
        let rule = faulty.spoil(Operation::PutObject, times, fault.clone());
        let put = faulty.store.put_if_absent(&name(&object), &sent);
        assert_eq!(put.unwrap(), Put::Created, "{fault:?}");
        assert_eq!(faulty.proxy.hits(rule), times, "{fault:?}");
        assert!(faulty.direct.get(&format!("p/{object}")) == Some(sent.clone()));
        let again = faulty.store.put_if_absent(&name(&object), &sent);
        assert_eq!(again.unwrap(), Put::AlreadySame, "{fault:?}");
    }
}

#[test]
fn anothers_object_is_told_whatever_happens() {
    let faulty = Faulty::new();
    for (number, fault) in [
        refuse(Refusal::SLOW_DOWN),
        refuse(Refusal::CONDITIONAL_REQUEST_CONFLICT),
        Fault::LoseAnswer,
        Fault::Reset,
    ]
    .into_iter()
    .enumerate()
    {
        let object = format!("parts/{number}.json");
        faulty.direct.put(&format!("p/{object}"), b"another's");
        let rule = faulty.spoil(Operation::PutObject, 1, fault);
        let put = faulty
            .store
            .put_if_absent(&name(&object), b"ours is longer");
        assert_eq!(put.unwrap_err().kind(), StoreErrorKind::AlreadyExists);
        assert_eq!(faulty.proxy.hits(rule), 1);
        let there = faulty.direct.get(&format!("p/{object}"));
        assert_eq!(there.unwrap(), b"another's");
    }
}

#[test]
fn a_put_that_stands_still_is_made_again() {
    let faulty = Faulty::with(|options| options.request_time = Duration::from_millis(500));
    let rule = faulty.spoil(Operation::PutObject, 1, Fault::StallRequest(10));
    let put = faulty.store.put_if_absent(&name("a"), b"some more bytes");
    assert_eq!(put.unwrap(), Put::Created);
    assert_eq!(faulty.proxy.hits(rule), 1);
    let rule = faulty.spoil(Operation::PutObject, 1, Fault::HoldAnswer);
    let put = faulty.store.put_if_absent(&name("b"), b"some more bytes");
    assert_eq!(put.unwrap(), Put::Created);
    assert_eq!(faulty.proxy.hits(rule), 1);
}

#[test]
fn a_large_put_survives() {
    use Operation as O;
    let faulty = Faulty::new();
    let sent = bytes(12 << 20);
    let path = faulty.file(&sent);
    let ok_with_error = Refusal::INTERNAL_ERROR.with_status(200);
    let ok_with_other = Refusal::new(200, "SomethingElse", "It did not work.");
    for (number, (operation, times, fault)) in [
        (O::CreateMultipartUpload, 3, refuse(Refusal::SLOW_DOWN)),
        (O::CreateMultipartUpload, 1, Fault::LoseAnswer),
        (O::UploadPart, 4, refuse(Refusal::INTERNAL_ERROR)),
        (O::UploadPart, 2, Fault::RefuseEarly(Refusal::SLOW_DOWN)),
        (O::UploadPart, 2, Fault::ResetRequest(1 << 20)),
        (O::UploadPart, 1, Fault::FlipRequest(1 << 20)),
        (O::UploadPart, 2, refuse(Refusal::BAD_DIGEST)),
        (O::UploadPart, 1, refuse(Refusal::REQUEST_TIME_TOO_SKEWED)),
        (O::UploadPart, 2, Fault::LoseAnswer),
        (O::UploadPart, 1, refuse(Refusal::NO_SUCH_UPLOAD)),
        (
            O::CompleteMultipartUpload,
            2,
            refuse(Refusal::INTERNAL_ERROR),
        ),
        (O::CompleteMultipartUpload, 2, refuse(ok_with_error)),
        (O::CompleteMultipartUpload, 2, refuse(ok_with_other)),
        (O::CompleteMultipartUpload, 1, Fault::LoseAnswer),
        (
            O::CompleteMultipartUpload,
            1,
            refuse(Refusal::NO_SUCH_UPLOAD),
        ),
        (
            O::CompleteMultipartUpload,
            1,
            refuse(Refusal::PRECONDITION_FAILED),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let object = name(&format!("chunks/{number}"));
        let rule = faulty.spoil(operation, times, fault.clone());
        let put = faulty.store.put_copy(&object, &path);
        assert_eq!(put.unwrap(), Put::Created, "{operation:?} {fault:?}");
        assert_eq!(faulty.proxy.hits(rule), times, "{operation:?} {fault:?}");
        let there = faulty.direct.get(&format!("p/{object}"));
        assert!(there.as_ref() == Some(&sent), "{operation:?} {fault:?}");
        assert_eq!(faulty.direct.uploads(""), [], "{operation:?} {fault:?}");
        assert_eq!(
            faulty.store.put_copy(&object, &path).unwrap(),
            Put::AlreadySame
        );
        faulty.store.delete(&object).unwrap();
    }
}

#[test]
fn what_cannot_be_stored_leaves_nothing_and_is_said_in_a_line() {
    let faulty = Faulty::with(|options| options.attempts_max = 3);
    let path = faulty.file(&bytes(12 << 20));
    let mut texts = Vec::new();
    for (operation, refusal) in [
        (Operation::UploadPart, Refusal::ACCESS_DENIED),
        (Operation::UploadPart, Refusal::INTERNAL_ERROR),
        (Operation::CompleteMultipartUpload, Refusal::SLOW_DOWN),
        (Operation::CreateMultipartUpload, Refusal::NO_SUCH_BUCKET),
        (Operation::UploadPart, Refusal::REQUEST_TIME_TOO_SKEWED),
        (Operation::UploadPart, Refusal::EXPIRED_TOKEN),
    ] {
        faulty.proxy.heal();
        faulty.proxy.add(Rule::always(operation, refuse(refusal)));
        let error = faulty.store.put_copy(&name("chunks/1"), &path).unwrap_err();
        texts.push(faulty.text(&error));
        assert_eq!(faulty.direct.uploads(""), []);
        assert_eq!(faulty.direct.keys(""), [""; 0]);
        assert!(path.exists());
    }
    insta::assert_snapshot!(texts.join("\n"));
    faulty.proxy.heal();
    assert_eq!(
        faulty.store.put_file(&name("chunks/1"), &path).unwrap(),
        Put::Created
    );
}

#[test]
fn attempts_are_bounded() {
    let faulty = Faulty::with(|options| options.attempts_max = 4);
    let rule = faulty.proxy.add(Rule::always(
        Operation::PutObject,
        refuse(Refusal::INTERNAL_ERROR),
    ));
    let error = faulty.store.put_if_absent(&name("a"), b"1").unwrap_err();
    assert_eq!(faulty.proxy.hits(rule), 4);
    assert_eq!(error.is_retryable(), Retryable::MayHaveBeenApplied);
    insta::assert_snapshot!(faulty.text(&error), @"cannot write a to s3://BUCKET/p: the server answered 500 (InternalError: We encountered an error), 4 times; run the same command again when the server is well");
}

#[test]
fn a_download_goes_on_where_it_broke() {
    let faulty = Faulty::new();
    let stored = bytes(9_000_000);
    faulty.direct.put("p/chunk", &stored);
    let chunk = name("chunk");
    for (times, fault) in [
        (2, refuse(Refusal::INTERNAL_ERROR)),
        (3, Fault::Reset),
        (2, Fault::ResetAnswer(1_000_000)),
        (2, Fault::CutAnswer(1_000_000)),
        (1, Fault::ResetAnswer(0)),
    ] {
        let rule = faulty.spoil(Operation::GetObject, times, fault.clone());
        assert!(
            faulty.store.get(&chunk, u64::MAX).unwrap() == stored,
            "{fault:?}"
        );
        assert_eq!(faulty.proxy.hits(rule), times, "{fault:?}");
        let rule = faulty.spoil(Operation::GetObject, times, fault.clone());
        let mut got = Vec::new();
        let mut reader = faulty.store.open(&chunk).unwrap();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == stored, "{fault:?}");
        assert_eq!(faulty.proxy.hits(rule), times, "{fault:?}");
    }
}

#[test]
fn a_download_that_stands_still_goes_on() {
    let faulty = Faulty::with(|options| options.request_time = Duration::from_millis(500));
    let stored = bytes(200_000);
    faulty.direct.put("p/chunk", &stored);
    let rule = faulty.spoil(Operation::GetObject, 1, Fault::StallAnswer(100_000));
    let mut got = Vec::new();
    let mut reader = faulty.store.open(&name("chunk")).unwrap();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == stored);
    assert_eq!(faulty.proxy.hits(rule), 1);
}

#[test]
fn an_object_that_is_replaced_is_no_longer_read() {
    let faulty = Faulty::new();
    faulty.direct.put("p/chunk", &bytes(9_000_000));
    let mut reader = faulty.store.open(&name("chunk")).unwrap();
    let mut first = [0; 10];
    reader.read_exact(&mut first).unwrap();
    faulty.direct.put("p/chunk", &vec![7; 9_000_000]);
    reader.seek(SeekFrom::Start(8_000_000)).unwrap();
    let error = reader.read(&mut first).unwrap_err();
    let error = error
        .get_ref()
        .unwrap()
        .downcast_ref::<StoreError>()
        .unwrap();
    insta::assert_snapshot!(faulty.text(error), @"cannot read chunk from s3://BUCKET/p: it was replaced by another object meanwhile");
    faulty.direct.delete("p/chunk");
    let error = reader.read(&mut first).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_listing_survives() {
    let faulty = Faulty::new();
    for number in 0..20 {
        faulty.direct.put(&format!("p/a/{number:02}"), b"");
    }
    for (times, fault) in [
        (2, refuse(Refusal::SLOW_DOWN)),
        (2, Fault::Reset),
        (2, Fault::CutAnswer(300)),
        (2, Fault::ResetAnswer(300)),
        (1, Fault::LoseAnswer),
    ] {
        let rule = faulty.spoil(Operation::ListObjects, times, fault.clone());
        assert_eq!(names(&*faulty.store).unwrap().len(), 20, "{fault:?}");
        assert_eq!(faulty.proxy.hits(rule), times, "{fault:?}");
    }
    // What is no object of a store is not listed.
    faulty.direct.put("p/a/two words", b"");
    faulty.direct.put("p/.hidden", b"");
    faulty.direct.put("pq/1", b"");
    assert_eq!(names(&*faulty.store).unwrap().len(), 20);
}

#[test]
fn deleting_survives() {
    let faulty = Faulty::new();
    for fault in [
        refuse(Refusal::INTERNAL_ERROR),
        Fault::LoseAnswer,
        Fault::Reset,
    ] {
        faulty.direct.put("p/a", b"1");
        faulty.spoil(Operation::DeleteObject, 1, fault);
        faulty.store.delete(&name("a")).unwrap();
        assert_eq!(faulty.direct.keys(""), [""; 0]);
    }
}

#[test]
fn what_is_wrong_is_said_when_a_store_is_opened() {
    let faulty = Faulty::with(|options| options.attempts_max = 2);
    let mut texts = Vec::new();
    for refusal in [
        Refusal::ACCESS_DENIED,
        Refusal::EXPIRED_TOKEN,
        Refusal::REQUEST_TIME_TOO_SKEWED,
        Refusal::WRONG_REGION,
        Refusal::NO_SUCH_BUCKET,
        Refusal::SLOW_DOWN,
        Refusal::new(400, "StrangeCode", "with\x07 odd \u{1b}[31mwords"),
    ] {
        for (operation, access) in [
            (Operation::ListObjects, Access::Read),
            (Operation::PutObject, Access::Write),
        ] {
            faulty.proxy.heal();
            faulty.proxy.add(Rule::always(operation, refuse(refusal)));
            let error = faulty.open(access).err().unwrap();
            assert_ne!(error.kind(), StoreErrorKind::Invalid);
            texts.push(faulty.text(&error));
        }
    }
    texts.dedup();
    assert_eq!(faulty.direct.keys(""), [""; 0]);
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_server_without_conditions_needs_a_single_writer() {
    let mut faulty = Faulty::new();
    let without_conditions = || {
        faulty.proxy.heal();
        faulty.spoil(Operation::PutObject, 1, refuse(Refusal::NOT_IMPLEMENTED));
    };
    without_conditions();
    let error = faulty.open(Access::Write).err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unsupported);
    insta::assert_snapshot!(faulty.text(&error), @"cannot open s3://BUCKET/p: the server refuses conditional puts, so two writers could overwrite each other's objects; if nobody else writes there, give --single-writer");
    without_conditions();
    faulty.options.single_writer = true;
    let store = faulty.open(Access::Write).unwrap();
    let can = store.capabilities().unwrap();
    assert_eq!(can.put_if_absent, tipple_store::PutIfAbsent::Refused);
    assert_eq!(store.put_if_absent(&name("a"), b"1").unwrap(), Put::Created);
    assert_eq!(
        store.put_if_absent(&name("a"), b"1").unwrap(),
        Put::AlreadySame
    );
    let other = store.put_if_absent(&name("a"), b"2").unwrap_err();
    assert_eq!(other.kind(), StoreErrorKind::AlreadyExists);
    let rule = faulty.spoil(Operation::PutObject, 1, Fault::LoseAnswer);
    assert_eq!(store.put_if_absent(&name("b"), b"1").unwrap(), Put::Created);
    assert_eq!(faulty.proxy.hits(rule), 1);
}
