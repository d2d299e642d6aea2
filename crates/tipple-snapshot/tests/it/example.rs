//! The example service: the second start is warm.

use std::process::Command;

use crate::children::example;
use crate::support::Place;

#[test]
fn the_second_start_of_the_example_is_warm() {
    let place = Place::new();
    let start = |seconds: &str| {
        let output = Command::new(example("warm"))
            .args([place.root().to_str().unwrap(), "5000", seconds])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let cold = start("0.05");
    assert!(
        cold.starts_with("cold start: 5000 articles after "),
        "{cold}"
    );
    assert!(
        cold.contains("at the end: Written") || cold.contains("at the end: UpToDate"),
        "{cold}"
    );
    // A source that would take an hour: nobody waits for it.
    let warm = start("3600");
    assert!(
        warm.starts_with("warm start: 5000 articles after "),
        "{warm}"
    );
    let sum = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("sum"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(sum(&cold), sum(&warm));
    assert!(warm.contains("at the end: UpToDate"), "{warm}");
}
