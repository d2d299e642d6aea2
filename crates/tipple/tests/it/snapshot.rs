//! `tipple snapshot`, on snapshots that the library wrote.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tipple_snapshot::{Dumpable, HashMap, Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

use crate::support::{Place, Ran};

#[derive(Dumpable)]
struct Price {
    cents: u64,
    tags: Vec<String>,
    raw: Vec<u8>,
    kind: Kind,
    note: Option<(char, f64)>,
}

#[derive(Dumpable)]
enum Kind {
    Plain,
    Until(SystemTime),
    Both {
        at: std::net::Ipv4Addr,
        span: Duration,
    },
}

type Prices = HashMap<String, Price>;

fn price(cents: u64) -> Price {
    Price {
        cents,
        tags: vec!["a\"b".into(), "é\n".into()],
        raw: b"foobar".to_vec(),
        kind: match cents % 3 {
            0 => Kind::Plain,
            1 => Kind::Until(SystemTime::UNIX_EPOCH),
            _ => Kind::Both {
                at: [127, 0, 0, 1].into(),
                span: Duration::new(3, 200),
            },
        },
        note: (cents > 1).then_some(('x', 1.5)),
    }
}

fn write(
    place: &Place,
    prices: &[(&str, u64)],
    hours: u32,
    options: SnapshotOptions,
    keys: Keys,
) -> PathBuf {
    let options = SnapshotOptions {
        max_count: 10,
        producer: "shop 1.2".into(),
        ..options
    };
    let folder = SnapshotFolder::new(place.path("root"), "prices", options, keys).unwrap();
    let value: Prices = prices
        .iter()
        .map(|(name, cents)| ((*name).to_owned(), price(*cents)))
        .collect();
    let time = SystemTime::now() - hours * Duration::from_secs(3600);
    folder.write(&value, ValueTimes::at(time)).unwrap().path
}

fn plain(place: &Place, prices: &[(&str, u64)], hours: u32) -> PathBuf {
    write(
        place,
        prices,
        hours,
        SnapshotOptions::default(),
        Keys::none(),
    )
}

fn snapshot(place: &Place, args: &[&str]) -> Ran {
    place.run(&[&["snapshot"], args].concat())
}

fn report(ran: &Ran) -> Value {
    serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_snapshot_tells_what_it_is() {
    let place = Place::new();
    let path = plain(&place, &[("one", 1), ("two", 2)], 1);
    let shown = snapshot(&place, &["inspect", "root/prices"]).ok();
    for line in [
        "cache           prices",
        "elements        2",
        "producer        shop 1.2",
        "sealed          no",
    ] {
        assert!(shown.stdout.contains(line), "{}", shown.stdout);
    }
    let ran = snapshot(&place, &["inspect", path.to_str().unwrap(), "--json"]).ok();
    let report = report(&ran);
    assert_eq!(report["snapshots"][0]["elements"], 2);
    assert_eq!(
        report["snapshots"][0]["type"],
        "map<text, Price { cents: u64, tags: [text], raw: [u8], kind: Kind < Plain | Until(0: time) | Both(at: ipv4, span: duration) >, note: option<(char, f64)> }>"
    );
}

#[test]
fn a_value_is_printed_without_its_type() {
    let place = Place::new();
    plain(&place, &[("old", 9)], 2);
    plain(&place, &[("one", 1), ("two", 2)], 1);
    let shown = snapshot(&place, &["cat", "root/prices"]).ok();
    let mut lines: Vec<Value> = shown
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.sort_by_key(|line| line["key"].to_string());
    let expected = [
        r#"{"key":"one","value":{"cents":1,"tags":["a\"b","é\n"],"raw":{"base64":"Zm9vYmFy"},"kind":{"Until":"1970-01-01T000000.000000Z"},"note":null}}"#,
        r#"{"key":"two","value":{"cents":2,"tags":["a\"b","é\n"],"raw":{"base64":"Zm9vYmFy"},"kind":{"Both":{"at":"127.0.0.1","span":3.000000200}},"note":["x",1.5]}}"#,
    ];
    let expected: Vec<Value> = expected
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, expected);
    let shown = snapshot(&place, &["cat", "root/prices", "--limit", "1"]).ok();
    assert_eq!(shown.stdout.lines().count(), 1);
    // A reader that has seen enough is no error.
    let many: Vec<(String, u64)> = (0..30_000).map(|n| (n.to_string(), n)).collect();
    let many: Vec<(&str, u64)> = many.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    plain(&place, &many, 0);
    let mut child = place
        .command(&["snapshot", "cat", "root/prices"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[test]
fn what_differs() {
    let place = Place::new();
    let old = plain(&place, &[("gone", 1), ("same", 2), ("other", 3)], 2);
    let new = plain(&place, &[("new", 1), ("same", 2), ("other", 4)], 1);
    let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
    let shown = snapshot(&place, &["diff", old, new]).ok();
    let mut lines: Vec<&str> = shown.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["+ \"new\"", "- \"gone\"", "~ \"other\""]);
    assert_eq!(
        shown.stderr.trim(),
        "1 added, 1 removed, 1 changed, 1 the same"
    );
    let same = snapshot(&place, &["diff", old, old, "--json"]).ok();
    assert_eq!(report(&same)["same"], 3);
    let words = SnapshotFolder::new(
        place.path("root"),
        "words",
        SnapshotOptions::default(),
        Keys::none(),
    )
    .unwrap();
    let words = words
        .write(&vec![1u64], ValueTimes::at(SystemTime::now()))
        .unwrap()
        .path;
    let ran = snapshot(&place, &["diff", old, words.to_str().unwrap()]);
    assert_eq!(ran.exit, Some(13));
    assert!(
        ran.stderr.starts_with("error: they are of different types"),
        "{}",
        ran.stderr
    );
}

#[test]
fn damage_is_found_and_what_is_needless_goes() {
    let place = Place::new();
    let damaged = plain(&place, &[("one", 1)], 3);
    let old = plain(&place, &[("one", 1)], 2);
    let new = plain(&place, &[("one", 1)], 1);
    assert_eq!(snapshot(&place, &["verify", "root/prices"]).exit, Some(0));
    let mut bytes = fs::read(&damaged).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, &bytes).unwrap();
    let ran = snapshot(&place, &["verify", "root/prices"]);
    assert_eq!(ran.exit, Some(4));
    let line = ran
        .stderr
        .lines()
        .find(|line| line.starts_with("error:"))
        .unwrap();
    assert!(
        line.contains(damaged.file_name().unwrap().to_str().unwrap()),
        "{line}"
    );
    let ran = snapshot(&place, &["verify", "root/prices", "--json"]);
    assert_eq!(
        (ran.exit, &report(&ran)["snapshots"][2]["kind"]),
        (Some(4), &"damaged".into())
    );
    let look = snapshot(&place, &["prune", "root/prices", "--max-count", "1"]).ok();
    assert!(look.stdout.contains("more than max_count") && look.stderr.contains("--yes deletes"));
    assert!(old.exists());
    snapshot(
        &place,
        &["prune", "root/prices", "--max-count", "1", "--yes"],
    )
    .ok();
    assert!(!old.exists() && new.exists());
    snapshot(
        &place,
        &["prune", "root/prices", "--max-age", "1m", "--yes"],
    )
    .ok();
    assert!(!new.exists() && !damaged.exists());
    let ran = snapshot(&place, &["prune", "root/prices"]);
    assert_eq!(ran.exit, Some(2));
    assert!(
        ran.stderr
            .starts_with("error: there is no snapshot in root/prices"),
        "{}",
        ran.stderr
    );
    assert_eq!(snapshot(&place, &["inspect", "nowhere"]).exit, Some(12));
}

#[test]
fn keys_are_changed() {
    let place = Place::new();
    let key = |byte: u8| Keys::from_callback(move |_| Ok(vec![[byte; 32]]));
    let one = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let two = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    let options = SnapshotOptions {
        encrypted: true,
        ..SnapshotOptions::default()
    };
    let path = write(&place, &[("one", 1)], 1, options.clone(), key(1));
    let secrets = |name: &str, keys: &str| {
        place.write(
            name,
            format!(r#"{{"CACHE_DUMP_SECRET_KEYS": {{"prices": [{keys}]}}}}"#),
        );
    };
    secrets("one.json", &format!("\"{one}\""));
    secrets("both.json", &format!("\"{two}\", \"{one}\""));
    let ran = snapshot(&place, &["cat", "root/prices"]);
    assert_eq!(ran.exit, Some(13), "{}", ran.stderr);
    let shown = snapshot(&place, &["cat", "root/prices", "--secrets", "one.json"]).ok();
    assert!(shown.stdout.contains("\"one\""));
    let ran = snapshot(&place, &["rekey", "root/prices"]);
    assert_eq!(ran.exit, Some(2));
    let rekey = |name| {
        report(
            &snapshot(
                &place,
                &["rekey", "root/prices", "--secrets", name, "--json"],
            )
            .ok(),
        )
    };
    assert_eq!(rekey("one.json")["snapshots"][0]["rekeyed"], false);
    assert_eq!(rekey("both.json")["snapshots"][0]["rekeyed"], true);
    assert_eq!(rekey("both.json")["snapshots"][0]["rekeyed"], false);
    let folder = SnapshotFolder::new(place.path("root"), "prices", options, key(2)).unwrap();
    assert_eq!(folder.load::<Prices>().loaded.unwrap().value.len(), 1);
    let mode = |path: &PathBuf| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions())
    };
    assert_eq!(mode(&path) & 0o777, 0o400);
    // Moved away from its folder, its name must be said.
    fs::copy(
        &path,
        place.path(path.file_name().unwrap().to_str().unwrap()),
    )
    .unwrap();
    let copy = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(
        snapshot(&place, &["verify", copy, "--secrets", "both.json"]).exit,
        Some(13)
    );
    snapshot(
        &place,
        &["verify", copy, "--secrets", "both.json", "--name", "prices"],
    )
    .ok();
    // A plain one is sealed, too, and a key file of keygen does as well.
    plain(&place, &[("two", 2)], 0);
    place.run(&["keygen", "k"]).ok();
    let newest = tipple_snapshot::tools::snapshots(&place.path("root/prices"))
        .unwrap()
        .remove(0);
    let newest = newest.to_str().unwrap();
    snapshot(&place, &["rekey", newest, "--encrypt-key", "k"]).ok();
    assert_eq!(snapshot(&place, &["cat", newest]).exit, Some(13));
    let shown = snapshot(&place, &["cat", newest, "--encrypt-key", "k"]).ok();
    assert!(shown.stdout.contains("\"two\""));
}
