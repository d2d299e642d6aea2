use insta::assert_snapshot;

use crate::support::Place;

const VERBS: [&str; 15] = [
    "dump",
    "load",
    "copy",
    "verify",
    "list",
    "cat",
    "prune",
    "supervise",
    "snapshot",
    "record",
    "keygen",
    "doctor",
    "tour",
    "completions",
    "man",
];

#[test]
fn the_command_explains_itself() {
    let place = Place::new();
    assert_snapshot!("tipple", place.run(&["--help"]).ok().stdout);
    let short = place.run(&["-h"]).ok().stdout;
    let bare = place.run(&[]);
    assert_eq!((bare.exit, bare.stderr.trim()), (Some(2), short.trim()));
    assert_eq!(bare.stdout, "");
}

#[test]
fn every_verb_explains_itself() {
    let place = Place::new();
    for verb in VERBS {
        assert_snapshot!(verb, place.run(&[verb, "--help"]).ok().stdout);
    }
}

#[test]
fn help_shows_no_values_of_the_environment() {
    let place = Place::new();
    let secret = [
        ("TIPPLE_USER", "hunter2"),
        ("TIPPLE_MEMCACHED_PASSWORD", "hunter2"),
    ];
    for verb in VERBS {
        let help = place.run_with(&[verb, "--help"], &secret).ok();
        assert!(!help.stdout.contains("hunter2"), "{verb}");
    }
}

/// Every flag has a variable, but for those that only make sense once.
#[test]
fn every_flag_has_a_variable() {
    let place = Place::new();
    for verb in VERBS {
        let help = place.run(&[verb, "--help"]).ok().stdout;
        let flags = help
            .lines()
            .filter(|line| line.starts_with("      --") || line.starts_with("  -q, --"))
            .count();
        let variables = help.matches("[env: TIPPLE_").count();
        assert_eq!(variables, flags, "{help}");
    }
}
