//! The command ends at the moment that is hardest to see: after the look at its folder, before the look at the command.

use std::cell::RefCell;
use std::fs;
use std::sync::Once;

use tipple_testkit::wait_for;

use crate::support::{MIB, Place};

thread_local! {
    /// What this thread does at the next fail point.
    static NEXT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Fail points are the whole process's, and only the thread that supervises is meant.
fn at_the_next_look(what: impl FnOnce() + 'static) {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        fail::cfg_callback("supervise::looked", || {
            let next = NEXT.with_borrow_mut(Option::take);
            if let Some(next) = next {
                next();
            }
        })
        .unwrap();
    });
    NEXT.set(Some(Box::new(what)));
}

#[test]
fn what_the_command_writes_after_the_last_look_is_stored() {
    let place = Place::new(
        16 * MIB,
        "echo $$ > ../pid.new; mv ../pid.new ../pid
        while [ ! -e ../go ]; do sleep 0.01; done
        mkdir sub; echo one > one; echo two > sub/two; echo three > three",
    );
    let (go, pid) = (place.path("go"), place.path("pid"));
    at_the_next_look(move || {
        wait_for("the command to begin", || pid.exists());
        let pid = fs::read_to_string(&pid).unwrap();
        fs::write(&go, "").unwrap();
        wait_for("the command to end, unseen", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('Z')
        });
    });
    let report = place.done();
    assert_eq!((report.run, report.files), (1, 3));
    assert!(place.path("go").exists(), "the fail point was not reached");
    let restored = place.restored();
    let names: Vec<&str> = restored.keys().map(String::as_str).collect();
    assert_eq!(names, ["one", "sub/two", "three"]);
}
