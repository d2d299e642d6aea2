//! How runs end, and how they are gone on with.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tipple_store::Leftover;
use tipple_supervise::{ErrorKind, list, prune};

use crate::support::{MIB, Place};

#[test]
fn a_command_that_fails_is_not_done() {
    let mut place = Place::new(
        16 * MIB,
        "echo one > f; while [ -e f ]; do sleep 0.01; done; echo two > g; exit 7",
    );
    let report = place.run().unwrap();
    assert!(!report.done);
    assert_eq!(report.command.unwrap().code, Some(7));
    assert!(!place.path("store/DONE").exists());
    // The next run is another one, and nothing of the first is in it.
    place.script("echo three > h");
    let report = place.done();
    assert_eq!((report.run, report.files), (2, 1));
    assert_eq!(
        place.restored().into_iter().collect::<Vec<_>>(),
        [("h".to_owned(), b"three\n".to_vec())]
    );
    assert!(
        place.warnings().contains("starting over as run 2"),
        "{}",
        place.warnings()
    );
    // What the first one left is told, and goes on request.
    let pruned = prune(place.store.as_ref(), true, false).unwrap();
    let names: Vec<&str> = pruned.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["files/0001/f", "records/0001/f.json"]);
    assert!(!place.path("store/files/0001/f").exists());
    place.is_done();
    assert_eq!(prune(place.store.as_ref(), true, false).unwrap().items, []);
}

#[test]
fn a_command_that_is_killed_is_not_done() {
    let place = Place::new(16 * MIB, "echo x > f; kill -9 $$");
    let report = place.run().unwrap();
    assert_eq!(report.command.unwrap().signal, Some(9));
    assert!(!report.done && !place.path("store/DONE").exists());
}

#[test]
fn a_command_that_does_not_exist() {
    let mut place = Place::new(16 * MIB, "");
    place.options.command = vec!["no-such-program".into()];
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error
            .to_string()
            .starts_with("cannot start no-such-program"),
        "{error}"
    );
}

#[test]
fn a_cancel_ends_the_command_and_those_it_started() {
    // One that does not hear SIGTERM, and one that left the group.
    let place = Place::python(
        16 * MIB,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0: os.setsid()
n = 0
while True: n += 1; open(f'f{os.getpid()}-{n}', 'w').close(); time.sleep(0.01)",
    );
    let mut place = place;
    place.options.grace = std::time::Duration::from_millis(200);
    let job = place.job();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tipple_testkit::wait_for("files", || job.progress().files() > 5);
            job.gate().cancel();
        });
        let error = place.run_as(&job).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    });
    place.nobody_is_left();
    assert!(!place.path("store/DONE").exists());
}

#[test]
fn uploads_that_fail_are_made_again_and_lost_answers_are_no_loss() {
    let place = Place::new(16 * MIB, "for n in 1 2 3 4 5 6; do echo $n > f$n; done");
    place.store.fails.store(3, Ordering::SeqCst);
    place.store.lost_answers.store(3, Ordering::SeqCst);
    assert_eq!(place.done().files, 6);
}

#[test]
fn a_store_that_refuses_ends_the_run_and_keeps_the_files() {
    let mut place = Place::new(16 * MIB, "echo x > f; sleep 30");
    place.store.denies.store(true, Ordering::SeqCst);
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("access denied"), "{error}");
    assert_eq!(fs::read(place.out().join("f")).unwrap(), b"x\n");
    place.store.denies.store(false, Ordering::SeqCst);
    place.script("echo y > f");
    place.done();
    assert_eq!(place.restored()["f"], b"y\n");
}

#[test]
fn a_run_whose_command_had_ended_is_finished_without_it() {
    let mut place = Place::new(
        16 * MIB,
        "for n in 1 2 3 4; do echo $n > f$n; done; echo once >> ../times",
    );
    place.store.denies.store(true, Ordering::SeqCst);
    // Only what is left at the end is denied: so the command ends first.
    place.options.hold = vec!["*".to_owned()];
    assert_eq!(place.fails().kind(), ErrorKind::Store);
    assert_eq!(place.left().len(), 4);
    place.store.denies.store(false, Ordering::SeqCst);
    let report = place.done();
    assert_eq!((report.run, report.files, report.command), (1, 4, None));
    assert_eq!(fs::read(place.path("times")).unwrap(), b"once\n");
    assert_eq!(place.restored()["f3"], b"3\n");
}

#[test]
fn a_run_of_which_files_are_gone_or_changed_starts_over() {
    for damage in [
        |out: &Path| fs::remove_file(out.join("f2")).unwrap(),
        |out: &Path| fs::write(out.join("f2"), "9\n").unwrap(),
    ] {
        let mut place = Place::new(
            16 * MIB,
            "for n in 1 2 3 4; do echo $n > f$n; done; echo once >> ../times",
        );
        place.options.hold = vec!["*".to_owned()];
        place.store.denies.store(true, Ordering::SeqCst);
        place.fails();
        place.store.denies.store(false, Ordering::SeqCst);
        damage(&place.out());
        let report = place.done();
        assert_eq!((report.run, report.files), (2, 4));
        assert!(
            place.warnings().contains("are neither stored nor in"),
            "{}",
            place.warnings()
        );
        assert_eq!(fs::read(place.path("times")).unwrap(), b"once\nonce\n");
        assert_eq!(place.restored()["f2"], b"2\n");
    }
}

#[test]
fn a_finished_place_stays_as_it_is() {
    let place = Place::new(16 * MIB, "echo x > f");
    place.done();
    let error = place.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("is finished"), "{error}");
    place.is_done();
}

#[test]
fn folders_and_stores_of_others_are_left_alone() {
    let place = Place::new(16 * MIB, "echo x > f");
    fs::create_dir(place.out()).unwrap();
    fs::write(place.out().join("mine"), "precious").unwrap();
    let error = place.fails();
    assert!(
        error.to_string().contains("is not empty (it holds mine)"),
        "{error}"
    );
    assert_eq!(fs::read(place.out().join("mine")).unwrap(), b"precious");
    fs::remove_file(place.out().join("mine")).unwrap();
    fs::write(place.path("store/other"), "x").unwrap();
    let error = place.fails();
    assert!(
        error
            .to_string()
            .contains("was not written by `tipple supervise` (it holds other)"),
        "{error}"
    );
    fs::remove_file(place.path("store/other")).unwrap();
    fs::write(
        place.path("store/HEAD.json"),
        r#"{"format":{"major":1,"minor":0},"dump":"x"}"#,
    )
    .unwrap();
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("is something else"), "{error}");
    fs::remove_file(place.path("store/HEAD.json")).unwrap();
    place.done();
}

#[test]
fn a_folder_of_one_store_is_not_taken_for_another() {
    let mut place = Place::new(16 * MIB, "echo x > f; exit 1");
    place.run().unwrap();
    let other = std::sync::Arc::new(crate::support::FaultyStore::new(&place.path("other")));
    let first = std::mem::replace(&mut place.store, other);
    let error = place.run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(
        error
            .to_string()
            .contains("belongs to an unfinished run into"),
        "{error}"
    );
    place.store = first;
    place.script("echo y > g");
    place.done();
}

#[test]
fn another_program_is_another_place() {
    let mut place = Place::new(16 * MIB, "exit 1");
    place.run().unwrap();
    place.options.command[0] = "bash".into();
    let error = place.fails();
    assert!(
        error
            .to_string()
            .contains("holds files of sh, and this is bash"),
        "{error}"
    );
    let listing = list(place.store.as_ref()).unwrap();
    assert_eq!(
        (listing.head.program.as_str(), listing.runs, listing.done),
        ("sh", 1, None)
    );
}

fn begin_uploads(place: &Place, uploads: &[(&str, u64)]) {
    let mut begun = place.store.uploads.lock().unwrap();
    *begun = uploads
        .iter()
        .map(|(object, hours)| {
            let age = Duration::from_secs(hours * 3600);
            let mut upload = Leftover::new(*object, 9, SystemTime::now() - age);
            upload.object = Some(object.parse().unwrap());
            upload
        })
        .collect();
}

fn uploads(place: &Place) -> Vec<String> {
    let left = place.store.uploads.lock().unwrap();
    left.iter().map(|upload| upload.name.clone()).collect()
}

#[test]
fn unfinished_uploads_go_but_those_that_may_be_alive() {
    let mut place = Place::new(16 * MIB, "exit 7");
    assert!(!place.run().unwrap().done);
    begin_uploads(
        &place,
        &[
            // Of the run that this folder had.
            ("files/0001/a", 0),
            // Of the one that comes now: what an answer that was lost began.
            ("files/0002/b", 0),
            // Another machine's.
            ("files/0007/c", 1),
            ("files/0007/d", 25),
            ("manifest.json", 0),
            // Of somebody who is no tipple.
            ("elsewhere/e", 25),
        ],
    );
    place.script("echo x > f");
    place.done();
    let strange = ["files/0007/c", "manifest.json", "elsewhere/e"];
    assert_eq!(uploads(&place), strange);
    // The run that counts is done, so nobody goes on with these.
    let pruned = prune(place.store.as_ref(), true, false).unwrap();
    let whys: Vec<(&str, &str)> = (pruned.items.iter())
        .map(|item| (item.name.as_str(), item.why))
        .collect();
    let why = "an upload that was begun and not finished";
    assert_eq!(whys, [(strange[0], why), (strange[1], why)]);
    assert_eq!(uploads(&place), ["elsewhere/e"]);
}

#[test]
fn uploads_of_the_last_run_are_not_pruned_while_it_is_not_done() {
    let place = Place::new(16 * MIB, "exit 7");
    assert!(!place.run().unwrap().done);
    assert!(!place.run().unwrap().done);
    let begun = [("files/0001/a", 25), ("files/0002/b", 25), ("DONE", 25)];
    begin_uploads(&place, &begun);
    prune(place.store.as_ref(), true, true).unwrap();
    assert_eq!(uploads(&place), ["files/0002/b", "DONE"]);
}

#[test]
fn who_may_not_see_uploads_is_told() {
    let place = Place::new(16 * MIB, "echo x > f");
    place.store.hides_uploads.store(true, Ordering::SeqCst);
    place.done();
    let warnings = place.warnings();
    let told = "what an attempt that ended may have left unfinished stays: cannot list";
    assert_eq!(warnings.matches(told).count(), 1, "{warnings}");
}
