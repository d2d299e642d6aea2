use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tipple_dump::{
    CopyOptions, DumpError, ErrorKind, Event, Job, LoadOptions, PruneOptions, copy, dump, list,
    load, prune,
};
use tipple_flow::Resume;

use crate::round_trip::{
    assert_good, interrupt_after_first_part, loaded, memory_store, prune_leftovers, small,
};
use crate::source::{Keep, Numbers};

#[test]
fn a_dump_broken_off_anywhere_goes_on_to_the_same_records() {
    for cancel_after in (0..3000).step_by(211) {
        let store = memory_store(&format!("resume-{cancel_after}"));
        let mut source = Numbers {
            cancel_after: Some(cancel_after),
            gone_every: Some(13),
            ..Numbers::new(3000, 250)
        };
        let broken = dump(&Job::default(), &source, &[store.as_ref()], &small(3));
        let Err(DumpError::Interrupted) = broken else {
            // The last records were stored before the cancel was seen.
            assert!(cancel_after > 2500 && broken.is_ok(), "{broken:?}");
            continue;
        };
        source.cancel_after = None;
        let report = dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
        assert_eq!(report.records, source.expected().len() as u64);
        // Chunks of the first run that no record lists may be left; they are told and can be removed.
        prune_leftovers(store.as_ref());
        assert_good(store.as_ref(), report.records);
        assert_eq!(loaded(store.as_ref()), source.expected());
    }
}

#[test]
fn a_cancel_after_the_last_record_was_read_is_told_as_one() {
    let store = memory_store("cancelled-late");
    let job = Arc::new(Job::default());
    let mut source = Numbers {
        bytes: |_| 1000,
        cancel_when_read: Some(Arc::clone(&job)),
        ..Numbers::new(120, 120)
    };
    let broken = dump(&job, &source, &[store.as_ref()], &small(1));
    assert!(matches!(broken, Err(DumpError::Interrupted)), "{broken:?}");
    source.cancel_when_read = None;
    let report = dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap();
    assert_good(store.as_ref(), report.records);
}

#[test]
fn a_panic_behind_the_workers_ends_the_dump() {
    let store = memory_store("panics");
    let job = Job::default().on_event(|event| {
        assert!(!matches!(event, Event::Part { .. }), "on purpose");
    });
    let source = Numbers::new(1000, 50);
    let dumping = || dump(&job, &source, &[store.as_ref()], &small(1));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(dumping)).is_err());
    assert!(list(store.as_ref(), None).unwrap().done.is_none());
    let report = dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap();
    assert_eq!(report.records, 1000);
}

#[test]
fn a_source_with_another_life_is_dumped_anew_and_never_mixed() {
    let store = memory_store("lives");
    let source = Numbers::new(1000, 100);
    interrupt_after_first_part(store.as_ref(), &source);
    let first = list(store.as_ref(), None).unwrap();
    assert!(!first.parts.is_empty());
    source.life.store(2, Ordering::Relaxed);
    dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap();
    let second = list(store.as_ref(), None).unwrap();
    assert!(
        second
            .parts
            .iter()
            .all(|part| first.parts.iter().all(|old| old.part != part.part))
    );
    assert_eq!(second.parts.len(), 10);
    let found = prune(store.as_ref(), &PruneOptions::default()).unwrap();
    assert!(
        !found.deleted
            && found
                .items
                .iter()
                .any(|item| item.why.contains("does not count"))
    );
    prune_leftovers(store.as_ref());
    assert!(
        prune(store.as_ref(), &PruneOptions::default())
            .unwrap()
            .items
            .is_empty()
    );
    assert_good(store.as_ref(), 1000);
}

#[test]
fn a_source_that_changed_at_the_end_gets_no_done() {
    let store = memory_store("changed");
    let source = Numbers::new(1000, 100);
    source.fail_finish.store(true, Ordering::Relaxed);
    let error = dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Live);
    assert!(list(store.as_ref(), None).unwrap().done.is_none());
}

#[test]
fn prune_leaves_an_unfinished_dump_alone() {
    let store = memory_store("alone");
    let source = Numbers {
        cancel_after: Some(500),
        ..Numbers::new(1000, 100)
    };
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap_err();
    let delete = PruneOptions {
        delete: true,
        ..PruneOptions::default()
    };
    let error = prune(store.as_ref(), &delete).unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    prune(
        store.as_ref(),
        &PruneOptions {
            force: true,
            ..delete
        },
    )
    .unwrap();
    let source = Numbers::new(1000, 100);
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    // The first plan may not have been sealed: then its parts do not count.
    prune_leftovers(store.as_ref());
    assert_good(store.as_ref(), 1000);
}

#[test]
fn a_load_broken_off_goes_on_after_the_last_whole_part() {
    let store = memory_store("load-state");
    let source = Numbers::new(1000, 100);
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(state.path().to_owned()),
        ..LoadOptions::default()
    };
    let mut keep = Keep {
        fail_at: Some(555),
        ..Keep::default()
    };
    let error = load(&Job::default(), store.as_ref(), &keep, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Live, "{error}");
    // As a sink that applies twice like once would, forget the part that was not finished.
    keep.fail_at = None;
    keep.numbers.lock().unwrap().retain(|n, _| *n < 500);
    let job = Job::default();
    let report = load(&job, store.as_ref(), &keep, &options).unwrap();
    assert_eq!(keep.numbers(), source.expected());
    assert_eq!(
        (report.records, report.earlier_records),
        (1000, 500),
        "the report counts what earlier runs applied"
    );
    assert_eq!(
        (job.progress().records(), job.progress().parts()),
        (1000, 10)
    );
    assert_eq!(job.progress().raw_bytes(), report.raw_bytes);
    // It is finished: the next load is a new one.
    let again = Keep::default();
    load(&Job::default(), store.as_ref(), &again, &options).unwrap();
    assert_eq!(again.numbers(), source.expected());

    let restart_only = Keep {
        resume: Resume::RestartOnly,
        ..Keep::default()
    };
    let error = load(&Job::default(), store.as_ref(), &restart_only, &options).unwrap_err();
    assert!(error.to_string().contains("--state"), "{error}");
}

#[test]
fn a_load_into_another_life_of_the_sink_begins_anew() {
    let store = memory_store("load-life");
    let source = Numbers::new(1000, 100);
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(state.path().to_owned()),
        ..LoadOptions::default()
    };
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    let job = || {
        let told = Arc::clone(&told);
        Job::default().on_event(move |event| {
            if let Event::Warning { message } = event {
                told.lock().unwrap().push(message.clone());
            }
        })
    };
    let mut keep = Keep::default();
    // A life that ended before it had a whole part is nothing to speak of.
    for (life, fail_at) in [(1, 50), (2, 555), (3, 155)] {
        keep.life.store(life, Ordering::Relaxed);
        keep.numbers.lock().unwrap().clear();
        keep.fail_at = Some(fail_at);
        load(&job(), store.as_ref(), &keep, &options).unwrap_err();
    }
    assert_eq!(
        *warnings.lock().unwrap(),
        [
            "the sink was restarted or emptied since an earlier run of this load (parts that went with it: 5): loading from the beginning"
        ]
    );
    // The same life again: the parts that it has are passed over, and only those.
    keep.fail_at = None;
    keep.numbers.lock().unwrap().retain(|n, _| *n < 100);
    let report = load(&job(), store.as_ref(), &keep, &options).unwrap();
    assert_eq!(keep.numbers(), source.expected());
    assert_eq!(report.records, 1000);
    assert_eq!(warnings.lock().unwrap().len(), 1);
}

#[test]
fn a_state_file_that_does_not_name_the_life_is_not_believed() {
    let store = memory_store("load-no-life");
    let source = Numbers::new(300, 100);
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(state.path().to_owned()),
        ..LoadOptions::default()
    };
    let mut keep = Keep {
        fail_at: Some(150),
        ..Keep::default()
    };
    load(&Job::default(), store.as_ref(), &keep, &options).unwrap_err();
    let file = std::fs::read_dir(&state).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let without = text.replace(r#","incarnation":1"#, "");
    assert_ne!(text, without);
    std::fs::write(file.path(), without).unwrap();
    keep.fail_at = None;
    keep.numbers.lock().unwrap().clear();
    load(&Job::default(), store.as_ref(), &keep, &options).unwrap();
    assert_eq!(keep.numbers(), source.expected());
}

#[test]
fn one_state_is_for_one_load_at_a_time() {
    let store = memory_store("load-locked");
    let source = Numbers::new(300, 100);
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        threads: 1,
        state_dir: Some(state.path().to_owned()),
        ..LoadOptions::default()
    };
    let (again, other) = (Arc::clone(&store), options.clone());
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&refusals);
    let keep = Keep {
        look: Box::new(move |n| {
            if n == 150 {
                let second = Keep::default();
                let refused = load(&Job::default(), again.as_ref(), &second, &other).unwrap_err();
                assert!(second.numbers().is_empty());
                told.lock()
                    .unwrap()
                    .push((refused.kind(), refused.to_string()));
            }
        }),
        ..Keep::default()
    };
    load(&Job::default(), store.as_ref(), &keep, &options).unwrap();
    assert_eq!(
        keep.numbers(),
        source.expected(),
        "the first is none the worse"
    );
    let refusals = refusals.lock().unwrap();
    let (kind, text) = &refusals[0];
    assert_eq!(*kind, ErrorKind::Usage);
    assert!(
        text.starts_with(state.path().to_str().unwrap())
            && text.ends_with("is in use by another load of the same dump into the same sink: wait for it, or give another --state"),
        "{text}"
    );
}

#[test]
fn a_plan_that_broke_off_begins_anew_and_nothing_is_dumped_twice() {
    for break_off_after in [1, 4, 9] {
        let store = memory_store(&format!("broke-off-{break_off_after}"));
        let source = Numbers {
            break_off_after: Some(break_off_after),
            ..Numbers::new(1000, 99)
        };
        let report = dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
        assert_eq!(report.records, 1000);
        prune_leftovers(store.as_ref());
        assert_good(store.as_ref(), 1000);
        assert_eq!(loaded(store.as_ref()), source.expected());
    }
}

#[test]
fn a_copy_whose_plan_broke_off_fails_and_says_why() {
    let source = Numbers {
        break_off_after: Some(4),
        ..Numbers::new(1000, 99)
    };
    let error = copy(
        &Job::default(),
        &source,
        &Keep::default(),
        &CopyOptions::default(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Live);
    assert!(error.to_string().contains("broke off"), "{error}");
}

#[test]
fn what_is_read_of_an_unfinished_dump_is_the_sealed_plan() {
    let store = memory_store("sealed-first");
    let source = Numbers {
        fail_finish: true.into(),
        ..Numbers::new(1000, 100)
    };
    dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap_err();
    let sealed = list(store.as_ref(), None).unwrap().parts;
    assert_eq!(sealed.len(), 10);
    // The same parts, and more of them, under the name of a plan that was never sealed.
    for (number, part) in (0..20).zip(sealed.iter().cycle()) {
        let name = format!("parts/{}.json", part.part);
        let record = store.get(&name.parse().unwrap(), 1 << 20).unwrap();
        let void = format!("void0000-{number:08}");
        let record = String::from_utf8(record)
            .unwrap()
            .replace(&part.part, &void);
        let name = format!("parts/{void}.json").parse().unwrap();
        store.put_if_absent(&name, record.as_bytes()).unwrap();
    }
    let read = list(store.as_ref(), None).unwrap().parts;
    let names = |parts: &[tipple_dump::PartLine]| {
        parts
            .iter()
            .map(|part| part.part.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&read), names(&sealed));
    source.fail_finish.store(false, Ordering::Relaxed);
    dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap();
    assert_eq!(list(store.as_ref(), None).unwrap().parts.len(), 10);
}
