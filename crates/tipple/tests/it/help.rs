use insta::assert_snapshot;

use crate::support::Place;

const VERBS: [&str; 16] = [
    "dump",
    "load",
    "copy",
    "verify",
    "list",
    "cat",
    "prune",
    "append",
    "keygen",
    "supervise",
    "snapshot",
    "record",
    "doctor",
    "tour",
    "completions",
    "man",
];

/// Verbs of verbs.
const NESTED: [(&str, &[&str]); 2] = [
    (
        "snapshot",
        &["inspect", "verify", "cat", "diff", "prune", "rekey"],
    ),
    (
        "record",
        &[
            "search", "follow", "stats", "gaps", "pair", "sort", "repair", "index", "convert",
            "diff",
        ],
    ),
];

/// All that have help, as they are typed.
fn all() -> impl Iterator<Item = Vec<&'static str>> {
    let nested = NESTED
        .iter()
        .flat_map(|(verb, below)| below.iter().map(|below| vec![*verb, *below]));
    VERBS.iter().map(|verb| vec![*verb]).chain(nested)
}

fn help(place: &Place, verb: &[&str], variables: &[(&str, &str)]) -> String {
    let args = [verb, &["--help"]].concat();
    place.run_with(&args, variables).ok().stdout
}

/// The lists above are those of the program.
#[test]
fn no_verb_is_left_out() {
    let place = Place::new();
    let listed = |help: String| -> Vec<String> {
        let verbs = help.split("Commands:\n").nth(1).unwrap();
        verbs
            .lines()
            .take_while(|line| !line.is_empty())
            // Not the second line of a description.
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|verb| *verb != "help")
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(listed(place.run(&["--help"]).ok().stdout), VERBS);
    for (verb, below) in NESTED {
        assert_eq!(listed(help(&place, &[verb], &[])), below, "{verb}");
    }
}

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
    for verb in all() {
        assert_snapshot!(verb.join("_"), help(&place, &verb, &[]));
    }
}

#[test]
fn help_shows_no_values_of_the_environment() {
    let place = Place::new();
    let secret = [
        ("TIPPLE_USER", "hunter2"),
        ("TIPPLE_MEMCACHED_PASSWORD", "hunter2"),
        ("TIPPLE_SECRETS", "hunter2"),
        ("TIPPLE_CACHE_NAME", "hunter2"),
    ];
    for verb in all() {
        let help = help(&place, &verb, &secret);
        assert!(!help.contains("hunter2"), "{verb:?}");
    }
}

/// Every flag has a variable, but for those that only make sense once.
#[test]
fn every_flag_has_a_variable() {
    let place = Place::new();
    for verb in all() {
        let help = help(&place, &verb, &[]);
        let flags = help
            .lines()
            .filter(|line| line.starts_with("      --") || line.starts_with("  -q, --"))
            .count();
        // Some are broken between the two words.
        let words: Vec<_> = help.split_whitespace().collect();
        let variables = words.join(" ").matches("[env: TIPPLE_").count();
        assert_eq!(variables, flags, "{help}");
    }
}
