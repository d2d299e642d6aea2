//! The folder never passes its limit, and a command that cannot be held is told so.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tipple_supervise::{ErrorKind, SuperviseOptions};

use crate::support::{MIB, Place};

/// Files of 1 MiB, fewer than 50 of them a second: a busy machine can still stop it.
const FAST: &str = "for n in range(80):
    with open(f'f{n:03}', 'wb') as f: f.write(os.urandom(1024) * 1024)
    time.sleep(0.02)";

#[test]
fn a_fast_writer_is_held_below_the_limit() {
    let place = Place::python(24 * MIB, FAST);
    place.store.slow_ms.store(100, Ordering::SeqCst);
    let (report, most) = place.sampled();
    let report = report.unwrap();
    assert!(report.done);
    place.is_done();
    assert!(most <= 24 * MIB, "{most}");
    assert!(report.spool_bytes_max <= 24 * MIB);
    assert!(report.pauses > 0 && report.pauses == place.pauses() as u64);
    assert_eq!((report.files, report.stored_bytes), (80, 80 * MIB));
    assert!(
        place
            .restored()
            .values()
            .all(|file| file.len() as u64 == MIB)
    );
}

#[test]
fn a_command_that_ignores_sigtstp_is_stopped_all_the_same() {
    let place = Place::python(
        16 * MIB,
        &format!("signal.signal(signal.SIGTSTP, signal.SIG_IGN)\n{FAST}"),
    );
    let mut place = place;
    place.options.gentle = true;
    place.options.limit_bytes = 32 * MIB;
    place.store.slow_ms.store(200, Ordering::SeqCst);
    let (report, most) = place.sampled();
    let report = report.unwrap();
    assert!(report.done && report.pauses > 0);
    assert!(most <= 32 * MIB, "{most}");
}

#[test]
fn a_gentle_pause_can_be_caught() {
    let mut place = Place::python(
        32 * MIB,
        "caught = []
def stop(*_):
    caught.append(1); os.kill(os.getpid(), signal.SIGSTOP)
signal.signal(signal.SIGTSTP, stop)
for n in range(80):
    with open(f'f{n:03}', 'wb') as f: f.write(os.urandom(1024) * 1024)
    time.sleep(0.02)
open('caught', 'w').write(str(len(caught)))",
    );
    place.options.gentle = true;
    place.store.slow_ms.store(200, Ordering::SeqCst);
    let report = place.done();
    assert!(report.pauses > 0);
    let caught: u64 = String::from_utf8(place.restored()["caught"].clone())
        .unwrap()
        .parse()
        .unwrap();
    assert!(caught > 0);
}

#[test]
fn a_program_that_stops_itself_when_the_pause_is_over_goes_on() {
    let mut place = Place::python(
        32 * MIB,
        "def stop(*_):
    time.sleep(0.2); os.kill(os.getpid(), signal.SIGSTOP)
signal.signal(signal.SIGTSTP, stop)
for n in range(60):
    with open(f'f{n:03}', 'wb') as f: f.write(os.urandom(1024) * 1024)
    time.sleep(0.02)",
    );
    place.options.gentle = true;
    place.store.slow_ms.store(200, Ordering::SeqCst);
    let report = place.done();
    assert!(report.pauses > 0);
}

#[test]
fn a_child_that_left_the_group_is_held_and_waited_for() {
    let place = Place::python(
        24 * MIB,
        "if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for n in range(80):
            with open(f'f{n:03}', 'wb') as f: f.write(os.urandom(1024) * 1024)
            time.sleep(0.02)
        open('daemon', 'w').write('was here')
    os._exit(0)
os.wait()",
    );
    place.store.slow_ms.store(100, Ordering::SeqCst);
    let (report, most) = place.sampled();
    let report = report.unwrap();
    assert!(report.done && report.pauses > 0, "{report:?}");
    assert!(most <= 24 * MIB, "{most}");
    assert_eq!(report.files, 81);
    assert!(
        place.warnings().contains("left processes behind"),
        "{}",
        place.warnings()
    );
    assert_eq!(place.restored()["daemon"], b"was here");
}

#[test]
fn a_file_larger_than_the_limit() {
    for program in [
        // Growing, and at once.
        "f = open('huge', 'wb')\nfor n in range(64): f.write(b'x' * (1 << 20)); f.flush(); time.sleep(0.002)\ntime.sleep(30)",
        "f = open('huge', 'wb')\nos.posix_fallocate(f.fileno(), 0, 64 << 20)\ntime.sleep(30)",
    ] {
        let place = Place::python(8 * MIB, program);
        let error = place.fails();
        assert_eq!(error.kind(), ErrorKind::Budget);
        let text = error.to_string();
        assert!(
            text.contains("huge") && text.contains("give --limit "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn a_command_that_is_faster_than_any_margin() {
    let place = Place::python(
        8 * MIB,
        "for n in range(4):\n    f = open(f'f{n}', 'wb'); os.posix_fallocate(f.fileno(), 0, 5 << 20)\ntime.sleep(30)",
    );
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Budget);
    let text = error.to_string();
    assert!(
        text.contains("the command writes faster") && text.contains("give --limit "),
        "{text}"
    );
}

#[test]
fn everything_open_and_nothing_left_to_store() {
    let place = Place::python(
        16 * MIB,
        "files = [open(f'f{n}', 'wb') for n in range(4)]
for n in range(4000):
    for f in files: f.write(b'x' * 8192); f.flush()
    time.sleep(0.001)
time.sleep(30)",
    );
    let (result, most) = place.sampled();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Budget);
    let text = error.to_string();
    assert!(
        text.contains("nothing in it can be stored") && text.contains("give --limit "),
        "{text}"
    );
    assert!(most <= 16 * MIB);
    // It was given nearly all there is before that.
    assert!(most > 12 * MIB, "{most}");
    place.nobody_is_left();
}

#[test]
fn a_limit_without_room_for_a_margin_is_refused() {
    let place = Place::new(SuperviseOptions::LIMIT_BYTES_MIN - 1, "true");
    let error = place.fails();
    assert_eq!(error.kind(), ErrorKind::Budget);
    assert!(error.to_string().contains("give at least 2MiB"), "{error}");
    // Nothing was begun for it.
    assert!(!place.out().exists());
}

#[test]
fn a_store_that_is_dead_for_longer_than_a_pause_may_last() {
    let mut place = Place::python(16 * MIB, FAST);
    place.options.pause_max = Duration::from_millis(600);
    place.store.dead.store(true, Ordering::SeqCst);
    let (result, most) = place.sampled();
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("--pause-max"), "{error}");
    assert!(most <= 16 * MIB, "{most}");
    place.nobody_is_left();
    assert!(!place.path("store/DONE").exists());
}

#[test]
fn a_slow_store_makes_many_pauses_and_none_too_long() {
    let mut place = Place::python(8 * MIB, &FAST.replace("80", "30"));
    place.options.pause_max = Duration::from_secs(20);
    place.options.threads = 2;
    place.store.slow_ms.store(100, Ordering::SeqCst);
    let report = place.done();
    assert!(report.pauses > 1, "{report:?}");
    assert!(report.pause_ms_max < 20_000);
    assert!(report.paused_ms >= report.pause_ms_max);
}

#[test]
fn a_user_may_pause_it() {
    let place = Place::new(
        16 * MIB,
        "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo $n > f$n; [ -e ../stop ] && exit 0; sleep 0.005; done",
    );
    let job = place.job();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tipple_testkit::wait_for("a first file", || job.progress().files() > 3);
            job.gate().pause();
            tipple_testkit::wait_for("the pause", || job.progress().is_paused());
            tipple_testkit::wait_for("an empty folder", || job.progress().used_bytes() == 0);
            let before = job.progress().files();
            fs::write(place.path("stop"), "").unwrap();
            assert_eq!(job.progress().files(), before);
            job.gate().resume();
        });
        let report = place.run_as(&job).unwrap();
        assert!(report.done);
        assert_eq!(report.pauses, 1);
    });
}
