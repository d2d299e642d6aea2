//! Which files are taken, and when.

use std::fs;
use std::sync::atomic::Ordering;

use tipple_supervise::ErrorKind;

use crate::support::{MIB, Place};

#[test]
fn every_file_comes_back_under_its_name() {
    let place = Place::new(
        16 * MIB,
        r#"mkdir -p a/b empty
        echo one > a/b/one; : > nothing; echo two > 'two words'; echo three > 'é=%'
        printf 'x' > "$(printf 'no\377utf8')"; echo h > .hidden; echo last"#,
    );
    let report = place.done();
    assert_eq!(report.files, 6);
    assert_eq!(report.command.unwrap().code, Some(0));
    let restored = place.restored();
    let names: Vec<&str> = restored.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            ".hidden",
            "a/b/one",
            "nothing",
            "no\u{FFFD}utf8",
            "two words",
            "é=%"
        ]
    );
    assert_eq!(restored["a/b/one"], b"one\n");
    assert_eq!(restored["nothing"], b"");
    // A plain copy of the store has them under plain names.
    assert_eq!(
        fs::read(place.path("store/files/0001/two=20words")).unwrap(),
        b"two\n"
    );
}

#[test]
fn files_are_stored_while_the_command_runs() {
    // It ends only when somebody has taken what it wrote.
    let place = Place::new(
        16 * MIB,
        "echo x > early; while [ -e early ]; do sleep 0.01; done; echo y > late",
    );
    assert_eq!(place.done().files, 2);
}

#[test]
fn a_file_that_is_kept_open_is_left_alone() {
    let place = Place::new(
        16 * MIB,
        "exec 3>open; echo begun >&3; echo x > other; while [ -e other ]; do sleep 0.01; done
         [ -e open ] || exit 5; echo ended >&3",
    );
    place.done();
    assert_eq!(place.restored()["open"], b"begun\nended\n");
}

#[test]
fn a_mapping_keeps_a_file_open() {
    let place = Place::python(
        16 * MIB,
        "import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
f = open('mapped', 'wb+'); f.truncate(8192)
# For reading and writing, shared; and no descriptor stays open.
m = libc.mmap(None, 8192, 3, 1, f.fileno(), 0); f.close()
os.close(os.open('other', os.O_CREAT | os.O_WRONLY))
while os.path.exists('other'): time.sleep(0.01)
assert os.path.exists('mapped')
ctypes.memmove(m, b'late', 4)",
    );
    place.done();
    assert_eq!(&place.restored()["mapped"][..5], b"late\0");
}

#[test]
fn a_file_renamed_into_place_is_stored_under_its_last_name() {
    let place = Place::new(
        16 * MIB,
        "for n in 1 2 3 4 5 6 7 8; do echo $n > part.$n.tmp; mv part.$n.tmp part.$n; done
         echo outside > ../outside; mv ../outside inside
         echo x > held.partial; sleep 0.2; [ -e held.partial ] || exit 5; mv held.partial held",
    );
    place.done();
    let names: Vec<String> = place.restored().into_keys().collect();
    assert_eq!(
        names,
        [
            "held", "inside", "part.1", "part.2", "part.3", "part.4", "part.5", "part.6", "part.7",
            "part.8"
        ]
    );
}

#[test]
fn subfolders_that_come_and_go() {
    let place = Place::new(
        16 * MIB,
        "for d in 1 2 3 4 5 6; do mkdir -p .d$d/e; echo $d > .d$d/e/f; mkdir new$d; mv .d$d new$d/moved; done",
    );
    place.done();
    let restored = place.restored();
    assert_eq!(restored.len(), 6);
    assert_eq!(restored["new4/moved/e/f"], b"4\n");
}

#[test]
fn a_file_written_again_after_it_was_stored_is_an_error() {
    let place = Place::new(
        16 * MIB,
        "echo one > f; while [ -e f ]; do sleep 0.01; done; echo two > f; sleep 30",
    );
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Live);
    let text = error.to_string();
    assert!(
        text.contains("out/f was written again after everybody had closed it"),
        "{text}"
    );
}

#[test]
fn a_file_changed_while_it_is_stored_is_an_error() {
    let place = Place::python(
        16 * MIB,
        "open('f', 'w').write('x' * 1000)
while not any('records' in d for d, _, _ in os.walk('../store')): time.sleep(0.001)
f = open('f', 'r+'); f.write('y'); f.flush(); time.sleep(30)",
    );
    place.store.slow_ms.store(300, Ordering::SeqCst);
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Live);
    assert!(
        error
            .to_string()
            .contains("was changed, renamed or removed"),
        "{error}"
    );
}

#[test]
fn a_file_renamed_while_it_is_stored_is_an_error() {
    let place = Place::new(
        16 * MIB,
        "echo one > f; while [ ! -d ../store/records ]; do sleep 0.001; done; mv f g; sleep 30",
    );
    place.store.slow_ms.store(300, Ordering::SeqCst);
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Live);
    assert!(
        error
            .to_string()
            .contains("was changed, renamed or removed"),
        "{error}"
    );
}

#[test]
fn what_is_no_file_is_counted_and_told() {
    let place = Place::new(16 * MIB, "echo x > f; ln -s f link; mkfifo pipe");
    let report = place.run().unwrap();
    assert!(report.done);
    assert_eq!((report.files, report.skipped), (1, 2));
    assert!(
        place
            .warnings()
            .contains("link is neither a file nor a folder"),
        "{}",
        place.warnings()
    );
    assert_eq!(place.left().len(), 2);
}

#[test]
fn a_file_that_no_event_spoke_of_is_found() {
    // A second name for a file: nobody opens or closes it there.
    let place = Place::new(
        16 * MIB,
        "echo x > ../side; ln ../side linked; while [ -e linked ]; do sleep 0.01; done",
    );
    place.done();
    assert_eq!(place.restored()["linked"], b"x\n");
}
