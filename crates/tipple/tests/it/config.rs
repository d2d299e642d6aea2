//! A flag wins over a variable, a variable over the file, the file over the default.

use std::time::SystemTime;

use insta::assert_snapshot;
use tipple_snapshot::{Keys, SnapshotFolder, SnapshotOptions, ValueTimes};

use crate::support::Place;

/// How a dump made with these was compressed.
fn compressed(place: &Place, args: &[&str], variables: &[(&str, &str)]) -> String {
    let _ = std::fs::remove_dir_all(place.path("d"));
    let args: Vec<&str> = ["dump", "lines:in.txt", "d"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    place.run_with(&args, variables).ok();
    let listed = place.run(&["list", "d", "--json"]).ok().report();
    listed["head"]["shaping"]["compress"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn each_wins_over_the_next() {
    let place = Place::new();
    place.write("in.txt", "one\n");
    place.write("all.toml", "compress = \"zstd:5\"\nbuffer = \"64KiB\"\n");
    place.write(
        "verb.toml",
        "compress = \"zstd:5\"\n[dump]\ncompress = \"none\"\nthreads = 2\n",
    );
    let variable = [("TIPPLE_COMPRESS", "zstd:7")];
    assert_eq!(compressed(&place, &[], &[]), "zstd:3");
    assert_eq!(compressed(&place, &["--config", "all.toml"], &[]), "zstd:5");
    assert_eq!(compressed(&place, &["--config=verb.toml"], &[]), "none");
    assert_eq!(
        compressed(&place, &["--config", "verb.toml"], &variable),
        "zstd:7"
    );
    assert_eq!(
        compressed(
            &place,
            &["--config", "verb.toml", "--compress", "zstd:9"],
            &variable
        ),
        "zstd:9"
    );
    assert_eq!(
        compressed(&place, &[], &[("TIPPLE_CONFIG", "all.toml")]),
        "zstd:5"
    );
    // The usual places.
    std::fs::create_dir_all(place.path(".config/tipple")).unwrap();
    place.write(".config/tipple/config.toml", "compress = \"zstd:4\"\n");
    assert_eq!(compressed(&place, &[], &[]), "zstd:4");
    let elsewhere = place.path("xdg");
    std::fs::create_dir_all(elsewhere.join("tipple")).unwrap();
    place.write("xdg/tipple/config.toml", "compress = \"zstd:6\"\n");
    let xdg = [("XDG_CONFIG_HOME", elsewhere.to_str().unwrap())];
    assert_eq!(compressed(&place, &[], &xdg), "zstd:6");
}

#[test]
fn switches_and_lists() {
    let place = Place::new();
    place.write("in.txt", "one\n");
    place.write(
        "c.toml",
        "rate = [\"1GiB/s\", \"1000000/s\"]\nkey-prefix = [\"a\", \"b,c\"]\n[dump]\nquiet = true\nno_progress = false\n",
    );
    let ran = place
        .run(&["dump", "lines:in.txt", "d", "--config", "c.toml"])
        .ok();
    assert_eq!(ran.stderr, "", "quiet comes from the file");
    for (value, stderr_is_empty) in [("true", true), ("yes", true), ("0", false)] {
        let _ = std::fs::remove_dir_all(place.path("d"));
        let ran = place
            .run_with(&["dump", "lines:in.txt", "d"], &[("TIPPLE_QUIET", value)])
            .ok();
        assert_eq!(ran.stderr.is_empty(), stderr_is_empty, "{value}");
    }
}

/// Of `tipple snapshot` and `tipple record`: the same order, and a table for each verb of them.
#[test]
fn verbs_of_verbs() {
    let place = Place::new();
    let folder = SnapshotFolder::new(
        place.path("root"),
        "words",
        SnapshotOptions::default(),
        Keys::none(),
    );
    let words: Vec<String> = (0..9).map(|n| n.to_string()).collect();
    folder
        .unwrap()
        .write(&words, ValueTimes::at(SystemTime::now()))
        .unwrap();
    let lines = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["snapshot", "cat", "root/words"], args].concat();
        place.run_with(&args, variables).ok().stdout.lines().count()
    };
    place.write("all.toml", "limit = 2\n");
    place.write("verb.toml", "limit = 2\n[snapshot]\nlimit = 3\n");
    place.write(
        "nested.toml",
        "limit = 2\n[snapshot]\nlimit = 3\n[snapshot.cat]\nlimit = 4\n[record]\nlimit = 5\n",
    );
    let variable = [("TIPPLE_LIMIT", "6")];
    assert_eq!(lines(&[], &[]), 9);
    for (file, expected) in [("all.toml", 2), ("verb.toml", 3), ("nested.toml", 4)] {
        assert_eq!(lines(&["--config", file], &[]), expected, "{file}");
        assert_eq!(lines(&[], &[("TIPPLE_CONFIG", file)]), expected, "{file}");
        assert_eq!(lines(&["--config", file], &variable), 6, "{file}");
        assert_eq!(
            lines(&["--config", file, "--limit", "7"], &variable),
            7,
            "{file}"
        );
    }
    for verb in [
        &["record", "search"],
        &["record", "follow"],
        &["snapshot", "cat"],
    ] {
        let args = [&verb[..], &["--help", "--config", "nested.toml"]].concat();
        let help = place.run(&args).ok().stdout;
        let expected = if verb[0] == "record" { 5 } else { 4 };
        assert!(help.contains(&format!("[default: {expected}]")), "{help}");
    }
    // The verbs keep their order.
    let order = |args: &[&str]| place.run(args).ok().stdout;
    assert_eq!(
        order(&["--help", "--config", "nested.toml"]),
        order(&["--help"])
    );
}

#[test]
fn the_help_shows_what_holds() {
    let place = Place::new();
    place.write("c.toml", "buffer = \"2MiB\"\n");
    let help = place.run(&["dump", "--help", "--config", "c.toml"]).ok();
    assert!(help.stdout.contains("[default: 2MiB]"), "{}", help.stdout);
}

#[test]
fn what_is_wrong_in_it_is_told() {
    let place = Place::new();
    let mut told = String::new();
    for text in [
        "theads = 4\n",
        "[dump]\ntheads = 4\n",
        "[dupm]\nthreads = 4\n",
        "[verify]\ncompress = \"none\"\n",
        "threads = \"many\"\n",
        "buffer = \"8M\"\n",
        "threads = [1, 2]\n",
        "quiet = \"yes\"\n",
        "mode = \"replace\"\n",
        "config = \"x\"\n",
        "[snapshot]\ntheads = 4\n",
        "[snapshot.cat]\nmax-count = 4\n",
        "[snapshot.kat]\nlimit = 4\n",
        "[record.search]\nlimit = \"many\"\n",
        "threads = 4\nbuffer = \n",
    ] {
        place.write("c.toml", text);
        let ran = place.run(&["dump", "lines:in.txt", "d", "--config", "c.toml"]);
        assert_eq!(ran.exit, Some(2), "{text}");
        told.push_str(&format!("{text}=> {}\n", ran.stderr));
    }
    assert_snapshot!(told);
}

#[test]
fn a_file_without_an_end_is_refused() {
    let place = Place::new();
    for args in [
        &["dump", "lines:in.txt", "d", "--config", "/dev/zero"][..],
        &[
            "dump",
            "memcached://127.0.0.1:1",
            "d",
            "--user",
            "me",
            "--password-file",
            "/dev/zero",
        ],
    ] {
        let ran = place.run(args);
        assert_eq!(ran.exit, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("longer than 1048576 bytes"),
            "{}",
            ran.stderr
        );
    }
}
