//! The eight defects of the wrapper that this replaces, found by reading it: each is a test.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tipple_supervise::ErrorKind;

use crate::support::{MIB, Place};

/// It uploaded and deleted files that the dumper had open: the rest went into a file that had no name any more.
#[test]
fn defect_1_open_files_are_not_taken() {
    let place = Place::python(
        16 * MIB,
        "f = open('chunk', 'wb')
for n in range(200):
    f.write(b'%06d\\n' % n); f.flush()
    with open(f'done{n}', 'w') as g: g.write('x')
    time.sleep(0.002)",
    );
    place.done();
    let expected: String = (0..200).map(|n| format!("{n:06}\n")).collect();
    assert_eq!(place.restored()["chunk"], expected.as_bytes());
}

/// It never uploaded what was left when the dumper ended, `metadata` always among it, and deleted it.
#[test]
fn defect_2_what_is_left_at_the_end_is_stored() {
    let place = Place::new(
        16 * MIB,
        "exec 3>metadata.partial; echo Started >&3; echo x > t1; echo y > t2; echo Finished >&3; mv metadata.partial metadata",
    );
    assert_eq!(place.done().files, 3);
    assert_eq!(place.restored()["metadata"], b"Started\nFinished\n");
}

/// It logged an error of an upload, said that it had succeeded, and deleted the file.
#[test]
fn defect_3_a_failed_upload_deletes_nothing_and_is_no_success() {
    let place = Place::new(16 * MIB, "for n in 1 2 3; do echo $n > f$n; done; sleep 30");
    place.store.denies.store(true, Ordering::SeqCst);
    assert_eq!(place.fails().kind(), ErrorKind::Store);
    for n in 1..=3 {
        assert_eq!(
            fs::read(place.out().join(format!("f{n}"))).unwrap(),
            format!("{n}\n").as_bytes()
        );
    }
}

/// It could be in the middle of an upload when the program ended.
#[test]
fn defect_4_the_end_waits_for_every_upload() {
    let place = Place::new(
        16 * MIB,
        "for n in 1 2 3 4 5 6 7 8 9; do echo $n > f$n; done",
    );
    place.store.slow_ms.store(150, Ordering::SeqCst);
    assert_eq!(place.done().files, 9);
    assert_eq!(place.restored().len(), 9);
}

/// It looked at the folder in a busy loop, and kept every file that it had uploaded open for ever.
#[test]
fn defect_5_no_busy_loop_and_no_descriptor_is_kept() {
    // Many files, and then nothing for a while.
    let place = Place::new(
        16 * MIB,
        "n=0; while [ $n -lt 150 ]; do n=$((n+1)); echo $n > f$n; done; while [ -e f150 ]; do sleep 0.01; done
         sleep 1; touch ../idle; while [ ! -e ../measured ]; do sleep 0.01; done",
    );
    std::thread::scope(|scope| {
        let place = &place;
        scope.spawn(move || {
            tipple_testkit::wait_for("all to be stored", || place.path("idle").exists());
            let out = place.out();
            let open = || {
                let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
                fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&out)))
                    .count()
            };
            tipple_testkit::wait_for("descriptors to be closed", || open() == 0);
            fs::write(place.path("measured"), "").unwrap();
        });
        let (cpu, since) = (cpu_ms(), std::time::Instant::now());
        place.done();
        let (cpu, wall) = (cpu_ms() - cpu, since.elapsed().as_millis() as u64);
        // This thread is the one that looks.
        assert!(cpu * 2 < wall, "{cpu} ms of processor in {wall} ms");
    });
}

fn cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
}

/// It counted files: a few large ones took several times the room.
#[test]
fn defect_6_bytes_are_counted_not_files() {
    let place = Place::python(
        24 * MIB,
        "for n in range(20):
    with open(f'f{n}', 'wb') as f:
        for _ in range(12): f.write(b'x' * (1 << 19)); time.sleep(0.01)",
    );
    place.store.slow_ms.store(200, Ordering::SeqCst);
    let (report, most) = place.sampled();
    assert!(report.unwrap().done);
    assert!(most <= 24 * MIB, "{most}");
}

/// The password stood among the arguments, two dumps overwrote each other, and there was nothing to check or to go on
/// with.
#[test]
fn defect_7_no_secret_is_kept_no_object_is_overwritten_and_everything_is_checkable() {
    let mut place = Place::new(
        16 * MIB,
        "echo one > f; [ \"$PASSWORD\" = hunter2 ] || exit 5; : hunter3",
    );
    place.options.variables = vec![("PASSWORD".into(), "hunter2".into())];
    place.done();
    for (name, bytes) in crate::support::files(&place.path("store")) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("hunter"), "{name}: {text}");
    }
    // A second dump into the same place changes nothing.
    place.script("echo two > f");
    assert_eq!(place.run().unwrap_err().kind(), ErrorKind::Usage);
    place.is_done();
    assert_eq!(place.restored()["f"], b"one\n");
}

/// It stopped the dumper for as long as an upload took, and the server gave the connection up.
#[test]
fn defect_8_a_pause_never_lasts_longer_than_it_may() {
    let mut place = Place::python(
        48 * MIB,
        "for n in range(56):
    with open(f'f{n:03}', 'wb') as f: f.write(b'x' * (1 << 20))
    time.sleep(0.04)",
    );
    place.options.pause_max = Duration::from_millis(1200);
    place.options.threads = 1;
    place.store.slow_ms.store(250, Ordering::SeqCst);
    let report = place.done();
    assert!(report.pauses > 2, "{report:?}");
    // Until there is room again would be three seconds.
    assert!(report.pause_ms_max <= 1200 + 1200, "{report:?}");
    assert!(report.paused_ms > report.pause_ms_max);
}
