//! Searching, comparing and playing back.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use tipple_recorder::{
    Direction, Filter, FolderShelf, Follower, GoOn, Ignored, Kind, OnFull, Pace, PlayError, Player,
    Recorder, Sent, Why, diff, pair, search, sort, to_csv,
};

use crate::support::{LONG, Order, files, options, order, text};

/// Recordings, plain and compressed, of the same program: several threads, groups, names, traces.
fn recording(codec: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let mut options = options(folder.path());
    options.codec = codec.parse().unwrap();
    options.rotate_bytes = 1 << 20;
    options.on_full = OnFull::Block(LONG);
    let recorder = Recorder::start(options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let stream = recorder
                .stream(["orders", "fills", "orders"][thread as usize])
                .key(thread);
            scope.spawn(move || {
                for id in 0..8000 {
                    let stream = stream.clone().trace(1 + (id * 7 + thread) / 5);
                    match id % 3 {
                        0 => stream.sent(&order(id)),
                        1 => stream.record(Direction::In, Kind::Request(id), &(id, "é\"x")),
                        _ => stream.clone().named("Other").received(&order(id)),
                    }
                }
            });
        }
    });
    recorder.shutdown(LONG);
    folder
}

fn found(folder: &TempDir, filter: &Filter) -> (Vec<String>, tipple_recorder::SearchReport) {
    let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let mut found = Vec::new();
    let report = search(&shelf, filter, |line, _| {
        found.push(String::from_utf8(line.to_vec()).unwrap());
        Ok(GoOn::Continue(()))
    })
    .unwrap();
    (found, report)
}

/// All lines of records, by brute force.
fn all(folder: &TempDir) -> Vec<String> {
    let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let texts: Vec<String> = shelf.files().iter().map(|path| text(path)).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .filter(|line| line.contains(",\"s\":"))
        .map(str::to_owned)
        .collect()
}

fn wanted(filter: &Filter, line: &str) -> bool {
    let value: Value = serde_json::from_str(line).unwrap();
    let one_of = |wanted: &[String], field: &str| {
        wanted.is_empty() || wanted.iter().any(|wanted| value[field] == **wanted)
    };
    let ts = value["ts"].as_u64().unwrap();
    let number = value["s"].as_u64().unwrap();
    filter.trace.is_none_or(|trace| value["t"] == trace)
        && filter.from_ns.is_none_or(|from| ts >= from)
        && filter.to_ns.is_none_or(|to| ts < to)
        && one_of(&filter.names, "mn")
        && one_of(&filter.groups, "g")
        && one_of(&filter.keys, "k")
        && filter
            .direction
            .is_none_or(|direction| value["d"] == format!("{direction:?}"))
        && filter
            .numbers
            .is_none_or(|(from, to)| (from..=to).contains(&number))
        && filter
            .correlation
            .is_none_or(|correlation| value["c"] == correlation)
        && filter.text.as_ref().is_none_or(|text| line.contains(text))
}

#[test]
fn a_search_finds_what_brute_force_finds() {
    for codec in ["none", "zstd:1"] {
        let folder = recording(codec);
        let all = all(&folder);
        assert_eq!(all.len(), 24_000);
        let times: Vec<u64> = all
            .iter()
            .map(|line| line[6..25].parse().unwrap())
            .collect();
        let names = || prop::sample::subsequence(vec!["Order", "Other", "", "None"], 0..3);
        let filters = (
            prop::option::of(0..12_000_u64),
            prop::option::of((0..24_000_usize, 0..24_000_usize)),
            names(),
            prop::sample::subsequence(vec!["orders", "fills", "none"], 0..3),
            prop::sample::subsequence(vec!["0", "1", "2"], 0..3),
            prop::option::of(prop_oneof![Just(Direction::In), Just(Direction::Out)]),
            prop::option::of((0..16_000_u64, 0..3000_u64)),
            prop::option::of(0..8000_u64),
            prop::option::of(prop::sample::select(vec![
                "SYM3", "\"Buy\"", "é", "nothing",
            ])),
        );
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(tipple_testkit::cases(40))
        });
        let run = runner.run(
            &filters,
            |(trace, time, names, groups, keys, direction, numbers, correlation, needle)| {
                let strings =
                    |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<Vec<_>>();
                let filter = Filter {
                    trace,
                    from_ns: time.map(|(a, b)| times[a.min(b)]),
                    to_ns: time.map(|(a, b)| times[a.max(b)]),
                    names: strings(names),
                    groups: strings(groups),
                    keys: strings(keys),
                    direction,
                    numbers: numbers.map(|(from, len)| (from, from + len)),
                    correlation,
                    text: needle.map(str::to_owned),
                    ..Filter::default()
                };
                let expected: Vec<&String> =
                    all.iter().filter(|line| wanted(&filter, line)).collect();
                let (found, report) = found(&folder, &filter);
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected);
                prop_assert_eq!(report.damaged_lines, 0);
                Ok(())
            },
        );
        run.unwrap();
        // The index is used, and nothing is missing without it, or with one that is damaged.
        let filter = Filter {
            trace: Some(7),
            ..Filter::default()
        };
        let (with, report) = found(&folder, &filter);
        assert!(
            report.blocks_skipped > report.blocks_read && !with.is_empty(),
            "{report:?}"
        );
        for (place, index) in files(folder.path(), ".idx").iter().enumerate() {
            match place % 2 {
                0 => fs::remove_file(index).unwrap(),
                _ => fs::write(index, &fs::read(index).unwrap()[..30]).unwrap(),
            }
        }
        let (without, report) = found(&folder, &filter);
        assert_eq!(without, with);
        assert_eq!(report.blocks_skipped, 0);
    }
}

#[test]
fn fields_are_found_by_what_they_equal() {
    let folder = recording("zstd:1");
    let filter = Filter {
        fields: vec![
            "m.symbol=SYM3".parse().unwrap(),
            "m.order_id=10".parse().unwrap(),
        ],
        ..Filter::default()
    };
    let (found, _) = found(&folder, &filter);
    assert_eq!(found.len(), 0);
    let filter = Filter {
        fields: vec![
            "m.symbol=SYM3".parse().unwrap(),
            "m.price=6.0".parse().unwrap(),
        ],
        ..filter
    };
    let (found, _) = self::found(&folder, &filter);
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn what_is_recorded_is_followed_across_files() {
    for codec in ["none", "zstd:1"] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.codec = codec.parse().unwrap();
        let recorder = Recorder::start(options).unwrap();
        let stream = recorder.stream("orders");
        stream.sent(&order(0));
        recorder.flush(LONG).unwrap();
        let mut follower = Follower::new(folder.path()).unwrap();
        let mut seen = Vec::new();
        for id in 1..=30 {
            stream.sent(&order(id));
            recorder.flush(LONG).unwrap();
            if id % 10 == 0 {
                recorder.rotate().unwrap();
            }
            let told = follower.poll(&Filter::default(), |_, line| {
                seen.push(line.s.unwrap());
                Ok(GoOn::Continue(()))
            });
            assert!(told.unwrap().is_continue());
            assert_eq!(seen.len() as u64, id);
        }
        assert_eq!(seen, (2..=31).collect::<Vec<_>>());
    }
}

#[test]
fn pairs_have_their_times() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..100 {
        stream.record(Direction::Out, Kind::Request(id), &order(id));
        if id < 90 {
            stream.record(Direction::In, Kind::Response(id), &id);
        }
    }
    stream.record(Direction::In, Kind::Response(7), &7);
    recorder.shutdown(LONG);
    let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let report = pair(&shelf, &Filter::default()).unwrap();
    let latencies = &report.latencies["orders Order"];
    assert_eq!(
        (latencies.pairs, report.unanswered, report.unasked),
        (90, 10, 1)
    );
    assert!(latencies.p50_ns <= latencies.p99_ns && latencies.p99_ns <= latencies.max_ns);
}

#[test]
fn what_is_out_of_order_is_sorted_in_any_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("elfo.ndjson");
    let line = |number: u64| {
        format!(
            "{{\"ts\":{},\"g\":\"a\",\"s\":{number},\"mk\":\"Regular\",\"m\":null}}\n",
            number * 7919 % 1009
        )
    };
    fs::write(&path, (1..=1000).map(line).collect::<String>()).unwrap();
    let shelf = FolderShelf::open(&[path]).unwrap();
    let mut outputs = Vec::new();
    for memory in [1 << 20, 2000] {
        let mut out = Vec::new();
        let report = sort(
            &shelf,
            &Filter::default(),
            memory,
            tempfile::tempfile,
            &mut out,
        )
        .unwrap();
        assert_eq!(report.lines, 1000);
        assert!(report.misplaced > 0);
        assert_eq!(report.runs > 1, memory == 2000);
        outputs.push(String::from_utf8(out).unwrap());
    }
    assert_eq!(outputs[0], outputs[1]);
    let times: Vec<u64> = outputs[0]
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["ts"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(times.is_sorted());
}

#[test]
fn a_table_has_a_row_for_each_record() {
    let folder = TempDir::new().unwrap();
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    stream.sent(&order(1));
    stream.sent(&BTreeMap::from([("symbol", "a,\"b\"\nc")]));
    recorder.shutdown(LONG);
    let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let columns = tipple_recorder::Columns::new(
        ["s", "mn", "m.symbol", "m.price", "k"]
            .map(str::to_owned)
            .to_vec(),
    )
    .unwrap();
    let mut out = Vec::new();
    assert_eq!(
        to_csv(&shelf, &Filter::default(), &columns, &mut out).unwrap(),
        2
    );
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "s,mn,m.symbol,m.price,k\n1,Order,SYM1,0.25,\n2,BTreeMap,\"a,\"\"b\"\"\nc\",,\n"
    );
}

/// A program that is recorded: doubles prices.
fn handle(order: &Order) -> Order {
    Order {
        price: order.price * 2.0,
        ..order.clone()
    }
}

fn program(folder: &TempDir, handle: impl Fn(&Order) -> Order) {
    let recorder = Recorder::start(options(folder.path())).unwrap();
    let stream = recorder.stream("orders");
    for id in 0..100 {
        stream.received(&order(id));
        stream.sent(&handle(&order(id)));
    }
    recorder.shutdown(LONG);
}

fn play(
    folder: &TempDir,
    ignored: Ignored,
    handle: impl Fn(&Order) -> Order,
) -> Result<tipple_recorder::Outcome, PlayError> {
    let shelf = FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let mut player = Player::load(&shelf, &Filter::default(), ignored)?;
    player.run(Pace::RealTime(1000.0), |played, sent: &mut Sent| {
        assert_eq!(played.name, "Order");
        let order: Order = played.message()?;
        sent.send("Order", &handle(&order));
        Ok(())
    })
}

#[test]
fn what_is_played_back_sends_the_same_or_is_told() {
    let folder = TempDir::new().unwrap();
    program(&folder, handle);
    let outcome = play(&folder, Ignored::default(), handle).unwrap();
    assert!(outcome.is_same(), "{outcome:?}");
    assert_eq!((outcome.played, outcome.same), (100, 100));
    let wrong = |order: &Order| Order {
        price: if order.order_id == 50 {
            0.0
        } else {
            order.price * 2.0
        },
        ..order.clone()
    };
    let outcome = play(&folder, Ignored::default(), wrong).unwrap();
    assert_eq!((outcome.same, outcome.different), (99, 1));
    let difference = &outcome.differences[0];
    assert_eq!(
        (difference.path.as_str(), difference.place),
        ("m.price", 51)
    );
    assert!(
        play(&folder, Ignored::new(["m.price"]), wrong)
            .unwrap()
            .is_same()
    );
    // The same of two recordings.
    let other = TempDir::new().unwrap();
    program(&other, wrong);
    let open = |folder: &TempDir| FolderShelf::open(&[folder.path().to_owned()]).unwrap();
    let report = diff(
        &open(&folder),
        &open(&other),
        &Filter::default(),
        &Ignored::default(),
    )
    .unwrap();
    assert_eq!((report.same, report.different), (199, 1));
    assert!(
        diff(
            &open(&folder),
            &open(&other),
            &Filter::default(),
            &Ignored::new(["m.price"])
        )
        .unwrap()
        .is_same()
    );
}

#[test]
fn what_was_redacted_or_truncated_is_not_played() {
    for (config, place) in [
        ("redact = { \"m.note\" = \"hide\" }", "m.note"),
        ("redact = { \"m.symbol\" = \"truncate:2\" }", "m.symbol"),
        ("max_size = 512\non_overflow = \"truncate\"", "m"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut options = options(folder.path());
        options.config = config.parse().unwrap();
        let recorder = Recorder::start(options).unwrap();
        recorder.stream("orders").received(&Order {
            note: Some("x".repeat(500)),
            ..order(1)
        });
        assert_eq!(
            recorder.shutdown(LONG).lost_for(Why::Size),
            u64::from(place == "nothing")
        );
        let error = play(&folder, Ignored::default(), handle).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the record 1 of orders (Order) has "),
            "{error}"
        );
        match error {
            PlayError::Redacted { path, .. } if place != "m.symbol" => {
                assert_eq!(path, if place == "m" { "m" } else { "m.note" })
            }
            PlayError::Redacted { path, .. } => assert_eq!(path, "m.symbol"),
            other => panic!("{other}"),
        }
    }
}
