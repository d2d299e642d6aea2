//! The conformance suite, against every store of this crate.

use tipple_store::{StoreOptions, StoreUrl, conformance, open_store};
use tipple_testkit::{Account, Ceph, Garage, MiniStack, RawS3, is_long};

use crate::remote;

#[test]
fn memory_follows_every_rule() {
    conformance::check(&|place, access| {
        let url: StoreUrl = format!("memory:rules-{place}").parse().unwrap();
        open_store(&url, access, &StoreOptions::default()).unwrap()
    });
}

#[test]
fn a_local_folder_follows_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    conformance::check(&|place, access| {
        let url = StoreUrl::folder(folder.path().join("made/by/open").join(place));
        open_store(&url, access, &StoreOptions::default()).unwrap()
    });
}

#[test]
fn a_bucket_of_ministack_follows_every_rule() {
    follows_every_rule(
        &MiniStack::shared().fresh_bucket(),
        MiniStack::shared().account(),
    );
}

#[test]
fn a_bucket_of_ceph_follows_every_rule() {
    follows_every_rule(&Ceph::shared().fresh_bucket(), Ceph::shared().account());
}

#[test]
fn a_bucket_of_garage_follows_the_rules_of_a_single_writer_in_a_long_run() {
    if !is_long() {
        return;
    }
    let bucket = Garage::shared().fresh_bucket();
    conformance::check_single_writer(&|place, access| {
        let url: StoreUrl = bucket.url(&format!("rules/{place}")).parse().unwrap();
        let options = StoreOptions {
            single_writer: true,
            ..remote::options(Garage::shared().account())
        };
        open_store(&url, access, &options).unwrap()
    });
    assert_eq!(bucket.uploads(""), []);
    assert!(bucket.keys("").iter().all(|key| !key.contains("/.tipple/")));
}

fn follows_every_rule(bucket: &RawS3, account: &Account) {
    conformance::check(&|place, access| {
        let url: StoreUrl = bucket.url(&format!("rules/{place}")).parse().unwrap();
        open_store(&url, access, &remote::options(account)).unwrap()
    });
    assert_eq!(bucket.uploads(""), []);
    // What was tried when the stores were opened left nothing.
    assert!(bucket.keys("").iter().all(|key| !key.contains("/.tipple/")));
}
