//! Completions and manual pages.

use std::process::{Command, Stdio};

use crate::support::Place;

#[test]
fn completions_are_valid() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&["completions", shell]).ok().stdout;
        assert!(
            script.contains("verify") && script.contains("chunk-size"),
            "{shell}"
        );
    }
    place.write(
        "tipple.bash",
        place.run(&["completions", "bash"]).ok().stdout,
    );
    let checked = Command::new("bash")
        .arg("-n")
        .arg(place.path("tipple.bash"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    assert!(checked.stderr.is_empty());
}

#[test]
fn there_is_a_page_for_each_verb() {
    let place = Place::new();
    let page = place.run(&["man"]).ok().stdout;
    assert!(
        page.contains(".TH tipple 1") && page.contains("Exit codes"),
        "{page}"
    );
    let page = place.run(&["man", "dump"]).ok().stdout;
    assert!(
        page.contains(".TH tipple-dump 1") && page.contains("chunk"),
        "{page}"
    );
    place.run(&["man", "--dir", "pages"]).ok();
    for page in ["tipple.1", "tipple-dump.1", "tipple-verify.1"] {
        assert!(!place.read(&format!("pages/{page}")).is_empty(), "{page}");
    }
}
