//! Killed at a named moment, and gone on with.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{Place, kill_at, some_lines};

#[test]
fn a_kill_at_any_moment_is_gone_on_from() {
    let input = some_lines(3 << 20);
    for moment in [
        "begun:1",
        "planning:1",
        "planned:1",
        "sealing:2",
        "sealed:1",
        "putting:2",
        "put:2",
        "committing:1",
        "committed:2",
        "summing:1",
        "summed:1",
    ] {
        let place = Place::new();
        place.write("in.txt", &input);
        let args = ["dump", "lines:in.txt", "d", "--part-size", "1MiB"];
        let stderr = kill_at(place.command(&args), moment);
        let (name, n) = moment.split_once(':').unwrap();
        assert!(
            stderr.contains(&format!("failpoint dump::{name} hit {n}\n")),
            "{stderr}"
        );
        place.run(&args).ok();
        place.run(&["verify", "d"]).ok();
        place.run(&["load", "d", "lines:out.txt"]).ok();
        assert!(place.read("out.txt") == input, "{moment}");
    }
}

#[test]
fn a_moment_can_be_held() {
    let place = Place::new();
    place.write("in.txt", some_lines(3 << 20));
    let args = ["dump", "lines:in.txt", "d", "--part-size", "1MiB", "-q"];
    let mut child = place
        .command(&args)
        .env("TIPPLE_PAUSE_AT", "summing:1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "failpoint dump::summing hit 1\n");
    assert!(!place.path("d/DONE").exists());
    // Its lock is held: nobody else works on the dump meanwhile.
    let other = place.run(&args);
    assert_eq!(other.exit, Some(11), "{}", other.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    place.run(&args).ok();
}

#[test]
fn a_moment_that_is_none_is_refused() {
    let place = Place::new();
    let ran = place.run_with(&["list", "d"], &[("TIPPLE_KILL_AT", "put")]);
    assert_eq!(ran.exit, Some(2));
}
