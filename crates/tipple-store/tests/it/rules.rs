//! The conformance suite, against every store of this crate.

use tipple_store::{StoreUrl, conformance, open_store};

#[test]
fn memory_follows_every_rule() {
    conformance::check(&|place, access| {
        let url: StoreUrl = format!("memory:rules-{place}").parse().unwrap();
        open_store(&url, access).unwrap()
    });
}

#[test]
fn a_local_folder_follows_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    conformance::check(&|place, access| {
        let url = StoreUrl::folder(folder.path().join("made/by/open").join(place));
        open_store(&url, access).unwrap()
    });
}
