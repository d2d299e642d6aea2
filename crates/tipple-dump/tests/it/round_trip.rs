use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use proptest::prelude::*;
use tipple_budget::Rates;
use tipple_chunk::{Codec, KeyRing};
use tipple_dump::{
    CatOptions, CopyOptions, Depth, DumpOptions, ErrorKind, Event, Job, LoadOptions, PartRange,
    PruneOptions, VerifyOptions, cat, copy, dry_run, dump, list, load, prune, verify,
};
use tipple_store::{Access, Store, StoreOptions, StoreUrl, open_store};

use crate::sealed::ring;
use crate::source::{Keep, Numbers, NumbersContent};

pub fn memory_store(name: &str) -> std::sync::Arc<dyn Store> {
    open_store(
        &format!("memory:{name}").parse::<StoreUrl>().unwrap(),
        Access::Write,
        &StoreOptions::default(),
    )
    .unwrap()
}

pub fn small(threads: usize) -> DumpOptions {
    DumpOptions {
        threads,
        buffer_bytes: 64 << 10,
        chunk_bytes_max: 1 << 20,
        codec: Codec::None,
        ..DumpOptions::default()
    }
}

/// A dump that is cancelled by the commit of its first part, so that there is one and no other.
pub fn interrupt_after_first_part(store: &dyn Store, source: &Numbers) {
    let cancelled = Arc::new(OnceLock::<Weak<Job>>::new());
    let job = Arc::new(Job::default().on_event({
        let cancelled = Arc::clone(&cancelled);
        move |event| {
            if matches!(event, Event::Part { .. }) {
                let job = cancelled.get().and_then(Weak::upgrade);
                job.expect("the job is running").gate().cancel();
            }
        }
    }));
    cancelled.set(Arc::downgrade(&job)).unwrap();
    let error = dump(&job, source, &[store], &small(1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

pub fn assert_good(store: &dyn Store, records: u64) {
    assert_good_with(store, records, None);
}

pub fn assert_good_with(store: &dyn Store, records: u64, keys: Option<&KeyRing>) {
    let options = VerifyOptions {
        keys: keys.cloned(),
        ..VerifyOptions::default()
    };
    let report = verify(&Job::default(), store, &[&NumbersContent], &options).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.report.records, records);
    assert_eq!(report.unlisted, 0);
}

/// The numbers that a sink gets.
pub fn loaded(store: &dyn Store) -> Vec<u64> {
    loaded_with(store, &LoadOptions::default())
}

fn loaded_with(store: &dyn Store, options: &LoadOptions) -> Vec<u64> {
    let keep = Keep::default();
    load(&Job::default(), store, &keep, options).unwrap();
    keep.numbers()
}

/// Deletes what unfinished attempts left.
pub fn prune_leftovers(store: &dyn Store) {
    let options = PruneOptions {
        delete: true,
        ..PruneOptions::default()
    };
    prune(store, &options).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tipple_testkit::cases(40)))]
    #[test]
    fn what_goes_in_comes_out(
        records in 0_u64..4000,
        part_records in 1_u64..1500,
        threads in 1_usize..4,
        level in prop_oneof![Just(None), Just(Some(1)), Just(Some(-3))],
        sizes in 0_usize..3,
        gone_every in proptest::option::of(2_u64..50),
        broken_every in proptest::option::of(2_u64..50),
        restarts in any::<bool>(),
        is_sealed in any::<bool>(),
    ) {
        let part_records = part_records.max(records / 200 + 1);
        let bytes: fn(u64) -> usize = match sizes {
            0 => |n| 12 + (n % 5) as usize,
            1 => |n| 20 + (n * 7919 % 3000) as usize,
            // Now and then more than a buffer, and once more than a chunk.
            _ => |n| if n == 77 { 2_500_000 } else if n % 97 == 5 { 90_000 } else { 100 },
        };
        let source = Numbers { bytes, gone_every, broken_every, restarts, ..Numbers::new(records, part_records) };
        static CASE: AtomicU64 = AtomicU64::new(0);
        let store = memory_store(&format!("round-{}", CASE.fetch_add(1, Ordering::Relaxed)));
        let options = DumpOptions {
            codec: level.map_or(Codec::None, |level| Codec::Zstd { level }),
            keys: is_sealed.then(|| ring(&[("k", 1)])),
            ..small(threads)
        };
        let job = Job::default();
        let report = dump(&job, &source, &[store.as_ref()], &options).unwrap();
        let expected = source.expected();
        prop_assert_eq!(report.records, expected.len() as u64);
        prop_assert_eq!(report.records + report.outcomes.values().sum::<u64>() + report.lost_total(), records);
        prop_assert!(report.memory_bytes_max <= report.memory_bytes_budget);
        prop_assert_eq!(report.memory_bytes_budget, options.memory_bytes(&source, &[]));
        assert_good_with(store.as_ref(), report.records, options.keys.as_ref());
        let loading = LoadOptions {
            threads,
            keys: options.keys,
            ..LoadOptions::default()
        };
        prop_assert_eq!(loaded_with(store.as_ref(), &loading), expected);
    }
}

#[test]
fn an_ordered_sink_gets_the_order_of_the_source() {
    let source = Numbers::new(5000, 700);
    let store = memory_store("ordered");
    dump(&Job::default(), &source, &[store.as_ref()], &small(3)).unwrap();
    let keep = Keep {
        ordered: true,
        ..Keep::default()
    };
    load(
        &Job::default(),
        store.as_ref(),
        &keep,
        &LoadOptions::default(),
    )
    .unwrap();
    assert_eq!(*keep.order.lock().unwrap(), source.expected());
}

#[test]
fn progress_moves_within_a_part_and_ends_at_what_the_report_says() {
    let source = Numbers {
        bytes: |_| 1000,
        ..Numbers::new(4000, 4000)
    };
    let store = memory_store("progress");
    dump(&Job::default(), &source, &[store.as_ref()], &small(1)).unwrap();
    let job = Arc::new(Job::default());
    let (watched, halfway) = (Arc::clone(&job), Arc::new(AtomicU64::new(0)));
    let seen = Arc::clone(&halfway);
    let keep = Keep {
        look: Box::new(move |n| {
            if n == 2000 {
                seen.store(watched.progress().records(), Ordering::Relaxed);
            }
        }),
        ..Keep::default()
    };
    let report = load(&job, store.as_ref(), &keep, &LoadOptions::default()).unwrap();
    let halfway = halfway.load(Ordering::Relaxed);
    assert!((2000..4000).contains(&halfway), "{halfway}");
    assert_eq!(
        (job.progress().records(), job.progress().raw_bytes()),
        (4000, 4_000_000)
    );
    assert_eq!((report.records, report.raw_bytes), (4000, 4_000_000));
    for depth in [Depth::Full, Depth::Quick] {
        let job = Job::default();
        let options = VerifyOptions {
            depth,
            ..VerifyOptions::default()
        };
        let verified = verify(&job, store.as_ref(), &[&NumbersContent], &options).unwrap();
        assert_eq!(job.progress().records(), 4000);
        assert_eq!(job.progress().raw_bytes(), 4_000_000);
        assert_eq!(verified.report.records, 4000);
        assert_eq!(verified.report.stored_bytes, report.stored_bytes);
    }
}

#[test]
fn losses_are_told_by_cause_wherever_one_looks() {
    let source = Numbers {
        gone_every: Some(10),
        broken_every: Some(7),
        ..Numbers::new(1000, 300)
    };
    let store = memory_store("losses");
    let report = dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    assert_eq!(report.outcomes["gone"], 100);
    assert_eq!(report.lost["broken"], 1000 / 7 - 1000 / 70);
    let done = list(store.as_ref(), None).unwrap().done.unwrap();
    assert_eq!(done.lost, report.lost_total());
    assert_eq!(done.source["said"], "goodbye");

    let keep = Keep {
        refuse_every: Some(4),
        ..Keep::default()
    };
    let report = load(
        &Job::default(),
        store.as_ref(),
        &keep,
        &LoadOptions::default(),
    )
    .unwrap();
    let refused = source.expected().iter().filter(|n| **n % 4 == 0).count() as u64;
    assert_eq!(report.lost["refused"], refused);
    assert_eq!(report.records, keep.numbers().len() as u64);
}

#[test]
fn cat_shows_records_in_order_and_parts_can_be_chosen() {
    let source = Numbers::new(100, 30);
    let store = memory_store("cat");
    dump(&Job::default(), &source, &[store.as_ref()], &small(2)).unwrap();
    let show = |options: CatOptions| {
        let mut out = Vec::new();
        let n = cat(
            &Job::default(),
            store.as_ref(),
            &[&NumbersContent],
            &mut out,
            &options,
        )
        .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count() as u64, n);
        text.lines()
            .map(|line| line.parse().unwrap())
            .collect::<Vec<u64>>()
    };
    assert_eq!(show(CatOptions::default()), (0..100).collect::<Vec<_>>());
    let options = CatOptions {
        parts: Some(PartRange { from: 1, to: 3 }),
        records_max: Some(40),
        ..CatOptions::default()
    };
    // At most 40 of the parts that hold 30..90.
    assert_eq!(show(options), (30..70).collect::<Vec<_>>());
    let options = LoadOptions {
        parts: Some(PartRange { from: 3, to: 4 }),
        ..LoadOptions::default()
    };
    assert_eq!(
        loaded_with(store.as_ref(), &options),
        (90..100).collect::<Vec<_>>()
    );
}

#[test]
fn copy_goes_straight_across() {
    let source = Numbers {
        bytes: |n| if n % 500 == 3 { 200_000 } else { 50 },
        gone_every: Some(9),
        ..Numbers::new(5000, 333)
    };
    for (threads, ordered) in [(3, false), (3, true)] {
        let keep = Keep {
            ordered,
            refuse_every: Some(100),
            ..Keep::default()
        };
        let options = CopyOptions {
            threads,
            buffer_bytes: 64 << 10,
            ..CopyOptions::default()
        };
        let report = copy(&Job::default(), &source, &keep, &options).unwrap();
        let expected: Vec<u64> = source
            .expected()
            .into_iter()
            .filter(|n| n % 100 != 0)
            .collect();
        assert_eq!(keep.numbers(), expected);
        if ordered {
            assert_eq!(*keep.order.lock().unwrap(), expected);
        }
        assert_eq!(report.records, expected.len() as u64);
        assert_eq!(
            report.records + report.lost_total() + report.outcomes.values().sum::<u64>(),
            5000
        );
    }
}

#[test]
fn a_copy_cannot_take_back_what_was_applied() {
    let source = Numbers {
        restarts: true,
        ..Numbers::new(1000, 100)
    };
    let error = copy(
        &Job::default(),
        &source,
        &Keep::default(),
        &CopyOptions::default(),
    )
    .unwrap_err();
    assert_eq!(error.kind(), tipple_dump::ErrorKind::Live);
    assert!(
        error.to_string().contains("broke off in the middle"),
        "{error}"
    );
}

#[test]
fn a_dry_run_changes_nothing_and_a_budget_too_small_is_refused_with_the_number() {
    let source = Numbers::new(1000, 100);
    let run = dry_run(&source, &[], &small(2)).unwrap();
    assert_eq!(run.records, 1000);
    assert_eq!(run.memory_bytes, small(2).memory_bytes(&source, &[]));
    let store = memory_store("budget");
    let options = DumpOptions {
        memory_bytes_max: Some(run.memory_bytes - 1),
        ..small(2)
    };
    let error = dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap_err();
    assert_eq!(error.kind(), tipple_dump::ErrorKind::Budget);
    assert!(
        error.to_string().contains(&run.memory_bytes.to_string()),
        "{error}"
    );
    let options = DumpOptions {
        memory_bytes_max: Some(run.memory_bytes),
        ..small(2)
    };
    dump(&Job::default(), &source, &[store.as_ref()], &options).unwrap();
}

#[test]
fn a_rate_is_kept_on_the_average() {
    let source = Numbers::new(4000, 500);
    let store = memory_store("rate");
    let job = Job::new(Rates {
        bytes_per_second: None,
        records_per_second: Some(10_000),
    });
    let report = dump(&job, &source, &[store.as_ref()], &small(2)).unwrap();
    // Whatever the machine does, it cannot have been faster than the rate, less the burst and one step per worker.
    let steps = 2 * (64 << 10) / 170;
    assert!(report.elapsed_ms * 10 + 1000 + steps >= 4000, "{report:?}");
}
