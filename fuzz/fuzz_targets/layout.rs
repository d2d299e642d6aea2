//! Puts arbitrary bytes in the place of one JSON object or SHA256SUMS of a good dump, with its digest of itself and
//! that of DONE made right again, and lets every reader at it: no panic, and nothing is given that was not dumped.
//!
//! A start corpus: the objects of `crates/tipple/tests/fixtures/v1/lines`, each with a byte in front (0 HEAD.json, 1
//! DONE, 2 the part record, 3 PLANNED, 4 SHA256SUMS).
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tipple_chunk::Sha256Digest;
use tipple_dump::{CatOptions, Depth, Job, PruneOptions, VerifyOptions, cat, list, prune, verify};
use tipple_flow::Content;
use tipple_lines::Lines;
use tipple_store::{Access, Store, open_store};

struct Good {
    objects: Vec<(String, Vec<u8>)>,
    /// What `cat` makes of it.
    lines: Vec<u8>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crates/tipple/tests/fixtures/v1/lines"
    );
    let mut objects = Vec::new();
    walk(Path::new(dir), Path::new(dir), &mut objects);
    let lines = read(&store_of(&objects)).expect("the fixture is good");
    Good { objects, lines }
});

fn walk(root: &Path, folder: &Path, objects: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).expect("the fixture") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            walk(root, &path, objects);
            continue;
        }
        let name = path
            .strip_prefix(root)
            .expect("below it")
            .to_str()
            .expect("ASCII");
        objects.push((name.to_owned(), std::fs::read(&path).expect("the fixture")));
    }
}

fn store_of(objects: &[(String, Vec<u8>)]) -> Arc<dyn Store> {
    let url = "memory:fuzz".parse().expect("a URL");
    let store = open_store(&url, Access::Write, &tipple_store::StoreOptions::default()).expect("memory");
    let mut old = Vec::new();
    store
        .list("", &mut |entry| {
            old.push(entry.name);
            std::ops::ControlFlow::Continue(())
        })
        .expect("memory");
    for name in old {
        store.delete(&name).expect("memory");
    }
    for (name, bytes) in objects {
        let name = name.parse().expect("a name");
        store.put_if_absent(&name, bytes).expect("memory");
    }
    store
}

fn read(store: &Arc<dyn Store>) -> Option<Vec<u8>> {
    let mut lines = Vec::new();
    let contents: &[&dyn Content] = &[&Lines];
    let options = CatOptions {
        // Decoding the rest takes long, and is not what this is about.
        records_max: Some(4),
        ..CatOptions::default()
    };
    let done = cat(
        &Job::default(),
        store.as_ref(),
        contents,
        &mut lines,
        &options,
    );
    done.is_ok().then_some(lines)
}

/// Makes the digest that an object has of itself right.
fn own(bytes: &mut [u8]) {
    let field = b"\"own_sha256\": \"";
    let Some(at) = bytes
        .windows(field.len())
        .rposition(|window| window == field)
    else {
        return;
    };
    let from = at + field.len();
    let Some(place) = bytes.get_mut(from..from + 64) else {
        return;
    };
    place.fill(b'0');
    let digest = Sha256Digest::of(bytes).to_string();
    bytes[from..from + 64].copy_from_slice(digest.as_bytes());
}

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let mut objects = GOOD.objects.clone();
    let mut put = |is_it: &dyn Fn(&str) -> bool, bytes: &[u8]| {
        let object = objects.iter_mut().find(|(name, _)| is_it(name));
        let (_, place) = object.expect("every kind is there");
        *place = bytes.to_vec();
        own(place);
        place.clone()
    };
    match which % 5 {
        0 => drop(put(&|name| name == "HEAD.json", bytes)),
        1 => drop(put(&|name| name == "DONE", bytes)),
        2 => {
            let part = put(&|name| name.starts_with("parts/"), bytes);
            let sum = Sha256Digest::of(Sha256Digest::of(&part).as_bytes()).to_string();
            let done = &GOOD
                .objects
                .iter()
                .find(|(name, _)| name == "DONE")
                .expect("it is there")
                .1;
            let text = String::from_utf8(done.clone()).expect("JSON");
            let at = text.find("\"digest\": \"").expect("a digest") + 11;
            let text = text.replace(&text[at..at + 64], &sum);
            put(&|name| name == "DONE", text.as_bytes());
        }
        3 => drop(put(&|name| name.ends_with("PLANNED"), bytes)),
        _ => drop(put(&|name| name == "SHA256SUMS", bytes)),
    }
    let store = store_of(&objects);
    let depth = if which < 0xF0 {
        Depth::Quick
    } else {
        Depth::Full
    };
    let options = VerifyOptions {
        depth,
        partial: which & 0x40 != 0,
        threads: 1,
        keys: None,
    };
    let contents: &[&dyn Content] = &[&Lines];
    let _ = verify(&Job::default(), store.as_ref(), contents, &options);
    let _ = list(store.as_ref(), None);
    let _ = prune(store.as_ref(), &PruneOptions::default());
    if let Some(lines) = read(&store) {
        // A part record may name fewer chunks than there were: then it is shorter.
        assert!(
            GOOD.lines.starts_with(&lines) || which % 5 == 2,
            "other lines were given"
        );
    }
});
