//! Interrupted, paused, resumed.

use crate::support::{Place, some_lines};

const SLOW: [&str; 10] = [
    "dump",
    "lines:in.txt",
    "d",
    "--part-size",
    "1MiB",
    "--buffer",
    "64KiB",
    "--json",
    "--rate",
    "4MiB/s",
];

fn place(bytes: usize) -> (Place, Vec<u8>) {
    let place = Place::new();
    let input = some_lines(bytes);
    place.write("in.txt", &input);
    (place, input)
}

#[test]
fn an_interrupted_dump_goes_on() {
    for signal in ["INT", "TERM"] {
        let (place, input) = place(32 << 20);
        let mut running = place.start(&SLOW);
        // Before the plan is sealed there is nothing to go on with.
        while running.wait_for("phase")["phase"] != "working" {}
        running.wait_for("part");
        running.signal(signal);
        running.wait_for("interrupted");
        let (last, exit) = running.end();
        assert_eq!(exit, Some(130));
        assert_eq!(
            (&last["event"], &last["exit"]),
            (&"error".into(), &130.into())
        );
        assert!(!place.path("d/DONE").exists());
        // The same command again, only without the rate.
        let ran = place.run(&SLOW[..8]).ok();
        let start = ran.json().remove(0);
        assert!(start["parts_committed"].as_u64() > Some(0), "{start}");
        place.run(&["verify", "d"]).ok();
        place.run(&["load", "d", "lines:out.txt"]).ok();
        assert!(place.read("out.txt") == input);
    }
}

#[test]
fn a_pause_holds_everything_until_it_is_resumed() {
    let (place, input) = place(16 << 20);
    let mut running = place.start(&SLOW);
    running.wait_for("part");
    running.signal("USR1");
    running.wait_for("paused");
    // What was in the buffers drains; then nothing moves from one second to the next, and the rate would have moved it.
    let mut before = running.wait_for("progress");
    let mut parts = 0;
    loop {
        let event = running.event().expect("a paused job does not end");
        match event["event"].as_str().unwrap() {
            "part" => parts += 1,
            "progress" => {
                assert_eq!(event["state"], "paused");
                let same = ["records", "raw_bytes", "parts"]
                    .iter()
                    .all(|key| before[key] == event[key]);
                if same && parts == 0 {
                    assert!(event["parts"].as_u64() < event["parts_total"].as_u64());
                    break;
                }
                (before, parts) = (event, 0);
            }
            other => panic!("{other} in a pause"),
        }
    }
    running.signal("USR2");
    running.wait_for("resumed");
    running.wait_for("part");
    let (last, exit) = running.end();
    assert_eq!((exit, &last["event"]), (Some(0), &"report".into()));
    assert!(last["waited_ms"].as_u64() > Some(0));
    place.run(&["load", "d", "lines:out.txt"]).ok();
    assert!(place.read("out.txt") == input);
}

#[test]
fn an_interrupted_load_leaves_the_target_alone() {
    let (place, _) = place(32 << 20);
    place.run(&SLOW[..8]).ok();
    place.write("out.txt", "as it was\n");
    let args = [
        "load",
        "d",
        "lines:out.txt",
        "--overwrite",
        "--json",
        "--rate",
        "4MiB/s",
    ];
    let mut running = place.start(&args);
    running.wait_for("part");
    running.signal("INT");
    let (_, exit) = running.end();
    assert_eq!(exit, Some(130));
    assert_eq!(place.read("out.txt"), b"as it was\n");
}
