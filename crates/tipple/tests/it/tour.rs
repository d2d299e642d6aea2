//! The tour proves what it says.

use crate::support::Place;

#[test]
fn everything_is_proven_and_nothing_is_left() {
    let place = Place::new();
    std::fs::create_dir(place.path("tmp")).unwrap();
    let tmp = place.path("tmp");
    let ran = place
        .run_with(&["tour"], &[("TMPDIR", tmp.to_str().unwrap())])
        .ok();
    assert_eq!(ran.stdout, "");
    assert!(!ran.stderr.contains('✗'), "{}", ran.stderr);
    for proven in [
        "what was loaded is what was dumped, byte by byte",
        "nothing was dumped twice or left out",
        "damage is found, and nothing of it is loaded",
        "the other stream has the same events, each of them once",
        "both streams are the same again",
    ] {
        assert!(
            ran.stderr.contains(&format!("✓ {proven}")),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}
