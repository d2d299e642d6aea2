//! Dumps whose files were written by someone else, at the command line.

use tipple_chunk::Sha256Digest;

use crate::support::Place;

#[test]
fn what_a_dump_says_gives_a_terminal_no_orders() {
    let place = Place::new();
    place.write("in.txt", "one\ntwo\n");
    assert_eq!(place.run(&["dump", "lines:in.txt", "d"]).exit, Some(0));
    let head = place.path("d/HEAD.json");
    let text = std::fs::read_to_string(&head).unwrap();
    let forged = text.replace("\"tipple ", "\"\\u001b]0;x\\u0007 ");
    assert_ne!(text, forged);
    // Whoever writes it makes its own digest right again.
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let zeros = "0".repeat(64);
    let forged = forged.replace(value["own_sha256"].as_str().unwrap(), &zeros);
    let own = Sha256Digest::of(forged.as_bytes()).to_string();
    std::fs::write(&head, forged.replace(&zeros, &own)).unwrap();
    let ran = place.run(&["list", "d"]);
    assert_eq!(ran.exit, Some(0), "{}", ran.stderr);
    let orders = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stdout.contains(orders), "{:?}", ran.stdout);
}
