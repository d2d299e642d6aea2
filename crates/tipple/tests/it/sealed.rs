//! Sealed dumps from the command line: a key is made, nothing plain is anywhere, the wrong key says which one is right.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, Ran, some_lines};

const LINE: &[u8] = b"4111-1111-1111-1111 is the number of a card\n";

/// A place with `in.txt`, the keys `a.key` and `b.key`, and a sealed dump `d`.
fn sealed() -> (Place, Vec<u8>) {
    let place = Place::new();
    let mut input = some_lines(3 << 20);
    input.extend_from_slice(b"\n");
    input.extend_from_slice(&LINE.repeat(1000));
    place.write("in.txt", &input);
    for name in ["a", "b"] {
        let file = format!("{name}.key");
        place.run(&["keygen", &file, "--name", name]).ok();
    }
    place.run(&with_key("a.key", &DUMP)).ok();
    (place, input)
}

const DUMP: [&str; 9] = [
    "dump",
    "lines:in.txt",
    "d",
    "--part-size",
    "1MiB",
    "--compress",
    "none",
    "--chunk-size",
    "1MiB",
];

fn with_key<'a>(file: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [args, &["--encrypt-key", file]].concat()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path => files.push(path),
            }
        }
    }
    files
}

/// The files below `dir` in which `marker` is.
pub fn showing(dir: &Path, marker: &[u8]) -> Vec<PathBuf> {
    let shows = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(marker.len()).any(|window| window == marker)
    };
    files(dir).into_iter().filter(shows).collect()
}

#[test]
fn a_sealed_dump_is_read_with_its_key_and_shows_nothing_without() {
    let (place, input) = sealed();
    place.run(&with_key("a.key", &["verify", "d"])).ok();
    place
        .run(&with_key("a.key", &["verify", "d", "--quick"]))
        .ok();
    place
        .run(&with_key("a.key", &["load", "d", "lines:out.txt"]))
        .ok();
    assert!(place.read("out.txt") == input);
    let raw = place
        .command(&with_key("a.key", &["cat", "d", "--raw"]))
        .output();
    assert!(raw.unwrap().stdout == input);
    let estimate = place
        .run(&with_key("a.key", &["load", "d", "-", "--dry-run"]))
        .ok();
    assert!(estimate.stdout.contains("parts"), "{}", estimate.stdout);

    let dir = place.path("d");
    assert_eq!(showing(&dir, b"4111-1111"), Vec::<PathBuf>::new());
    // What the source says of itself is no secret.
    assert!(showing(&dir, b"in.txt").contains(&dir.join("HEAD.json")));
    let chunks = files(&dir.join("chunks"));
    assert!(chunks.len() > 2);
    for chunk in &chunks {
        assert!(chunk.to_str().unwrap().ends_with(".lines.zst.sealed"));
        let stock = Command::new("zstd").arg("-tq").arg(chunk).output().unwrap();
        assert!(!stock.status.success(), "it is no zstd file");
    }
    // Whoever has no key can still tell damage.
    let sums = Command::new("sha256sum")
        .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
        .current_dir(&dir)
        .status();
    assert!(sums.unwrap().success());
    let listed = place.run(&["list", "d"]).ok();
    assert!(listed.stdout.contains("sealed"), "{}", listed.stdout);
    assert!(
        listed.stdout.contains("with the key a"),
        "{}",
        listed.stdout
    );
    place.run(&["prune", "d"]).ok();

    // The variable does what the flag does.
    let variable = [("TIPPLE_ENCRYPT_KEY", "a.key")];
    place.run_with(&["verify", "d"], &variable).ok();
}

#[test]
fn a_wrong_or_missing_key_is_exit_13_and_one_line_that_names_it() {
    let (place, _) = sealed();
    place.run(&["keygen", "other-a.key", "--name", "a"]).ok();
    let mut told = String::new();
    for key in [None, Some("b.key"), Some("other-a.key")] {
        let mut lines = std::collections::BTreeSet::new();
        for args in [&["verify", "d"][..], &["load", "d", "-"], &["cat", "d"]] {
            let args = key.map_or(args.to_vec(), |key| with_key(key, args));
            let ran = place.run(&args);
            assert_eq!((ran.exit, ran.stdout.as_str()), (Some(13), ""), "{args:?}");
            // Other lines tell what was begun.
            lines.extend(
                ran.stderr
                    .lines()
                    .filter(|l| l.starts_with("error"))
                    .map(str::to_owned),
            );
        }
        assert_eq!(lines.len(), 1, "{lines:?}");
        told.push_str(&format!("{}\n", lines.pop_first().unwrap()));
    }
    insta::assert_snapshot!(told.trim_end(), @r"
    error: d: it is sealed with the key `a`: give --encrypt-key the file that has it
    error: d: it is sealed with the key `a`, which is not in the key file: give --encrypt-key the file that has it
    error: d: it is sealed with the key `a`, and the key of that name in the key file is another one: give --encrypt-key the file that has the right one
    ");
    let json = place.run(&["verify", "d", "--json"]);
    assert_eq!(json.json().pop().unwrap()["kind"], "key");

    // A ring of both opens it.
    let ring = [place.read("b.key"), place.read("a.key")].concat();
    place.write("ring", ring);
    fs::set_permissions(place.path("ring"), fs::Permissions::from_mode(0o600)).unwrap();
    place.run(&with_key("ring", &["verify", "d"])).ok();

    // A plain dump is not read where a sealed one is expected.
    place.run(&["dump", "lines:in.txt", "plain"]).ok();
    let ran = place.run(&with_key("a.key", &["load", "plain", "-"]));
    assert_eq!((ran.exit, ran.stdout.as_str()), (Some(13), ""));
}

#[test]
fn tampering_is_exit_4_and_nothing_of_it_is_loaded() {
    let (place, _) = sealed();
    let flip = |name: &str| {
        let path = place.path(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let mut chunks = files(&place.path("d/chunks"));
    chunks.sort();
    let chunk = chunks[0].strip_prefix(place.path("")).unwrap().to_owned();
    for name in [chunk.to_str().unwrap(), "d/DONE", "d/HEAD.json"] {
        flip(name);
        for args in [&["verify", "d"][..], &["load", "d", "-"]] {
            let ran = place.run(&with_key("a.key", args));
            assert_eq!(
                (ran.exit, ran.stdout.as_str()),
                (Some(4), ""),
                "{name}: {}",
                ran.stderr
            );
        }
        flip(name);
    }
    place.run(&with_key("a.key", &["verify", "d"])).ok();
}

#[test]
fn a_key_is_made_for_its_owner_only_and_never_over_another() {
    let place = Place::new();
    let made = place.run(&["keygen", "new.key"]).ok();
    let line = String::from_utf8(place.read("new.key")).unwrap();
    let (name, secret) = line.trim_end().split_once(' ').unwrap();
    assert!(name.starts_with("key-") && name.len() == 12, "{name}");
    assert!(
        made.stderr.contains(name) && !made.stderr.contains(secret),
        "{}",
        made.stderr
    );
    let mode = fs::metadata(place.path("new.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = place.run(&["keygen", "new.key"]);
    assert_eq!(again.exit, Some(2));
    assert_eq!(
        again.stderr,
        "error: new.key exists, and a key is never written over: choose another file\n"
    );
    assert_eq!(place.read("new.key"), line.as_bytes());
    let json = place
        .run(&["keygen", "json.key", "--name", "n", "--json"])
        .ok()
        .report();
    assert_eq!(
        (&json["key"], &json["file"]),
        (&"n".into(), &"json.key".into())
    );
    let unnamed = place.run(&["keygen", "x.key", "--name", "a b"]);
    assert_eq!(unnamed.exit, Some(2));
    assert!(!place.path("x.key").exists());
}

#[test]
fn a_key_file_that_is_none_or_that_others_can_read_is_told() {
    let place = Place::new();
    place.write("in.txt", "line\n");
    let error = |ran: Ran, exit: i32| {
        assert_eq!(ran.exit, Some(exit), "{}", ran.stderr);
        let lines: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|l| !l.starts_with("warning"))
            .collect();
        assert_eq!(lines.len(), 1, "{}", ran.stderr);
        lines[0].to_owned()
    };
    place.write("bad.key", "name c2VjcmV0\n");
    place.write("empty.key", "# nothing\n");
    let mut told = String::new();
    for file in ["missing.key", ".", "bad.key", "empty.key", "/dev/zero"] {
        let line = error(
            place.run(&with_key(file, &["dump", "lines:in.txt", "d"])),
            2,
        );
        told.push_str(&line);
        told.push('\n');
        assert!(!place.path("d").exists());
    }
    insta::assert_snapshot!(told.trim_end(), @r"
    error: --encrypt-key missing.key: there is no such file; `tipple keygen` makes one
    error: --encrypt-key .: it is a folder: give a file, `tipple keygen` makes one
    error: --encrypt-key bad.key: line 1 of the key file is no key: give the key's name, a space, and 32 bytes in base64 or as 64 hexadecimal digits
    error: --encrypt-key empty.key: the key file holds no key: `tipple keygen FILE` makes one
    error: --encrypt-key /dev/zero: the key file is longer than 65536 bytes: it is none
    ");
    let cachemover = ["dump", "lines:in.txt", "d", "--layout", "cachemover"];
    let line = error(place.run(&with_key("bad.key", &cachemover)), 2);
    assert!(line.contains("cannot be sealed"), "{line}");

    place.run(&["keygen", "a.key"]).ok();
    let open = |mode| fs::set_permissions(place.path("a.key"), fs::Permissions::from_mode(mode));
    open(0o640).unwrap();
    let warned = place
        .run(&with_key("a.key", &["dump", "lines:in.txt", "d"]))
        .ok();
    assert!(
        warned
            .stderr
            .contains("warning: others than its owner can read the key file: chmod 600 a.key\n"),
        "{}",
        warned.stderr
    );
    open(0o600).unwrap();
    let verified = place.run(&with_key("a.key", &["verify", "d"])).ok();
    assert!(!verified.stderr.contains("warning"), "{}", verified.stderr);
}

/// Killed at any moment, nothing plain is left on the disk: neither a key of an item, nor its value; and the same command
/// goes on, with the key and only with it.
#[cfg(feature = "failpoints")]
#[test]
fn a_sealed_dump_killed_anywhere_leaves_nothing_plain_and_goes_on() {
    use tipple_testkit::{Memcached, RawMemcached};

    use crate::support::kill_at;

    let server = Memcached::start(&[]);
    let mut raw = RawMemcached::connect(&server);
    let marker = "plain-to-see";
    for n in 0..3000 {
        let (key, value) = (format!("{marker}-{n}"), format!("{marker} ").repeat(40));
        raw.set(key.as_bytes(), value.as_bytes(), 0, 0);
    }
    let place = Place::new();
    let url = format!("memcached://{}", server.addr());
    place.run(&["keygen", "a.key"]).ok();
    fs::create_dir(place.path("spool")).unwrap();
    let shape = [
        "--threads",
        "2",
        "--buffer",
        "64KiB",
        "--chunk-size",
        "1MiB",
        "--key-file-size",
        "8KiB",
    ];
    let plain = [&["dump", &url, "plain", "--compress", "none"][..], &shape].concat();
    place.run(&plain).ok();
    assert!(!showing(&place.path("plain/chunks"), marker.as_bytes()).is_empty());
    for listing in ["hash", "all:2"] {
        for moment in [
            "planning:1",
            "planning:5",
            "fetching:2",
            "sealing:1",
            "sealed:2",
            "putting:2",
            "planned:1",
            "committed:1",
            "summed:1",
        ] {
            for spool in [&[][..], &["--spool", "spool"]] {
                let name = format!("{listing}-{moment}-{}", spool.len()).replace(':', "-");
                let args = [
                    &[
                        "dump",
                        &url,
                        &name,
                        "--compress",
                        "none",
                        "--listing",
                        listing,
                    ][..],
                    &shape,
                    spool,
                ]
                .concat();
                let sealing = with_key("a.key", &args);
                kill_at(place.command(&sealing), moment);
                for dir in [&name, "spool"] {
                    assert_eq!(
                        showing(&place.path(dir), marker.as_bytes()),
                        Vec::<PathBuf>::new(),
                        "{moment}"
                    );
                }
                let without = place.run(&args);
                assert_eq!(without.exit, Some(13), "{}", without.stderr);
                place.run(&sealing).ok();
                assert_eq!(
                    showing(&place.path(&name), marker.as_bytes()),
                    Vec::<PathBuf>::new()
                );
                let verified = place
                    .run(&with_key("a.key", &["verify", &name, "--json"]))
                    .ok();
                assert_eq!(verified.report()["records"], 3000, "{moment}");
                fs::remove_dir_all(place.path(&name)).unwrap();
            }
        }
    }
}
