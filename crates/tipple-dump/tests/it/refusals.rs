use serde_json::json;
use tipple_chunk::Codec;
use tipple_dump::{DumpError, DumpOptions, ErrorKind, Job, LoadOptions, dump, load};
use tipple_store::Store;

use crate::hostile::forged;
use crate::round_trip::{
    assert_good, interrupt_after_first_part, memory_store, prune_leftovers, small,
};
use crate::source::{Keep, Numbers};

fn refused(store: &dyn Store, source: &Numbers, options: &DumpOptions, text: &str) {
    let error = dump(&Job::default(), source, &[store], options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

fn unfinished(name: &str) -> std::sync::Arc<dyn Store> {
    let store = memory_store(name);
    interrupt_after_first_part(store.as_ref(), &Numbers::new(1000, 100));
    store
}

#[test]
fn of_another_source_of_other_options_of_a_finished_dump_of_a_strange_folder() {
    let store = unfinished("refusals");
    let source = Numbers::new(1000, 100);
    let other = Numbers {
        id: 2,
        ..Numbers::new(1000, 100)
    };
    refused(store.as_ref(), &other, &small(1), "another source");
    let options = DumpOptions {
        codec: Codec::Zstd { level: 1 },
        ..small(1)
    };
    refused(store.as_ref(), &source, &options, "--compress none");
    let options = DumpOptions {
        chunk_bytes_max: 2 << 20,
        ..small(1)
    };
    refused(store.as_ref(), &source, &options, "--chunk-size 1048576");
    // Threads and buffers do not shape the data.
    let options = DumpOptions {
        buffer_bytes: 128 << 10,
        ..small(2)
    };
    dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
    // The first plan may not have been sealed: then its parts do not count.
    prune_leftovers(store.as_ref());
    assert_good(store.as_ref(), 1000);
    refused(store.as_ref(), &source, &small(1), "finished dump");

    let strange = memory_store("strange");
    strange
        .put_if_absent(&"notes.txt".parse().unwrap(), b"x")
        .unwrap();
    refused(strange.as_ref(), &source, &small(1), "notes.txt");
}

#[test]
fn of_values_out_of_range() {
    let store = memory_store("range");
    let source = Numbers::new(1, 1);
    for options in [
        DumpOptions {
            threads: 0,
            ..small(1)
        },
        DumpOptions {
            threads: 1025,
            ..small(1)
        },
        DumpOptions {
            buffer_bytes: 65_535,
            ..small(1)
        },
        DumpOptions {
            chunk_bytes_max: (1 << 20) - 1,
            ..small(1)
        },
        DumpOptions {
            codec: Codec::Zstd { level: 99 },
            ..small(1)
        },
    ] {
        refused(store.as_ref(), &source, &options, "");
    }
    let mut objects = 0;
    store
        .list("", &mut |_| {
            objects += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(objects, 0, "a refused job left something behind");
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    for (object, bytes) in [
        (
            "HEAD.json",
            &br#"{"format":{"major":2,"minor":0}, "who knows": "what"}"#[..],
        ),
        ("DONE", br#"{"format":{"major":2,"minor":0}}"#),
    ] {
        let store = unfinished(&format!("newer-{object}"));
        let name = object.parse().unwrap();
        store.delete(&name).unwrap();
        store.put_if_absent(&name, bytes).unwrap();
        let error = load(
            &Job::default(),
            store.as_ref(),
            &Keep::default(),
            &LoadOptions::default(),
        )
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Version, "{error}");
    }
    // A newer minor is read, and not written over.
    let store = unfinished("newer-minor");
    let name = "HEAD.json".parse().unwrap();
    let newer = forged(&store.get(&name, 1 << 20).unwrap(), |head| {
        head["format"]["minor"] = json!(7);
        head["more"] = json!(true);
    });
    store.delete(&name).unwrap();
    store.put_if_absent(&name, &newer).unwrap();
    let options = LoadOptions {
        partial: true,
        ..LoadOptions::default()
    };
    load(&Job::default(), store.as_ref(), &Keep::default(), &options).unwrap();
    let error = dump(
        &Job::default(),
        &Numbers::new(1000, 100),
        &[store.as_ref()],
        &small(1),
    )
    .unwrap_err();
    assert!(
        matches!(error, DumpError::Version { minor: 7, .. }),
        "{error}"
    );
}

#[test]
fn a_newer_content_is_told_apart_from_one_that_the_sink_does_not_take() {
    for (content, kind) in [
        (json!({"name": "numbers", "version": 2}), ErrorKind::Version),
        (json!({"name": "letters", "version": 1}), ErrorKind::Usage),
    ] {
        let store = unfinished(&format!("content-{kind:?}"));
        let name = "HEAD.json".parse().unwrap();
        let changed = forged(&store.get(&name, 1 << 20).unwrap(), |head| {
            head["content"] = content;
        });
        store.delete(&name).unwrap();
        store.put_if_absent(&name, &changed).unwrap();
        refused(
            store.as_ref(),
            &Numbers::new(1000, 100),
            &small(1),
            "and this program writes numbers version 1",
        );
        let options = LoadOptions {
            partial: true,
            ..LoadOptions::default()
        };
        let keep = Keep::default();
        let error = load(&Job::default(), store.as_ref(), &keep, &options).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn two_writers_of_one_dump() {
    let store = memory_store("locked");
    let _lock = store.lock().unwrap();
    let error = dump(
        &Job::default(),
        &Numbers::new(1, 1),
        &[store.as_ref()],
        &small(1),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
}

#[test]
fn an_unfinished_dump_is_read_only_when_asked_for() {
    let store = unfinished("partial");
    let keep = Keep::default();
    let error = load(
        &Job::default(),
        store.as_ref(),
        &keep,
        &LoadOptions::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("--partial"), "{error}");
    assert!(keep.numbers().is_empty());
    let options = LoadOptions {
        partial: true,
        ..LoadOptions::default()
    };
    load(&Job::default(), store.as_ref(), &keep, &options).unwrap();
    let numbers = keep.numbers();
    assert!(
        !numbers.is_empty() && numbers.len() < 1000,
        "{}",
        numbers.len()
    );
    assert_eq!(numbers.len() % 100, 0, "whole parts only");
}
