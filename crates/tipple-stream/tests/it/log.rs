//! The embedded log.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use proptest::prelude::*;
use tipple_flow::{Failure, Party, Stop};
use tipple_stream::{
    Bound, Event, EventRef, Log, LogReader, LogWriter, Place, Span, Stream, StreamOptions,
};

fn event(number: u64) -> Event {
    Event {
        time: Some(number as i64 * 1000),
        key: number.is_multiple_of(3).then(|| b"key".to_vec()),
        headers: vec![(b"n".to_vec(), number.is_multiple_of(2).then(Vec::new))],
        payload: Some(format!("event {number}").into_bytes()),
    }
}

fn filled(dir: &Path, events: u64) -> Log {
    let log = Log::at(dir.join("log"));
    let mut writer = LogWriter::open(log.path()).unwrap();
    for number in 1..=events {
        assert_eq!(
            writer.push(&event(number)).unwrap(),
            Some(Place::sequence(number))
        );
    }
    writer.commit().unwrap();
    log
}

fn read(log: &Log, from: u64, to: u64) -> Result<Vec<(u64, Event)>, Stop> {
    let mut events = Vec::new();
    let span = Span {
        from: Place::sequence(from),
        to: Place::sequence(to),
    };
    LogReader::open(log.path())?.read_with(span, |place, record| {
        let event = EventRef::parse(record).expect("an event");
        assert_eq!(event.place(), place);
        events.push((place.parts().1, event.to_event()));
        Ok(())
    })?;
    Ok(events)
}

fn failure(stop: Stop) -> Failure {
    match stop {
        Stop::Failed(failure) => failure,
        Stop::Cancelled(_) => panic!("nobody cancelled"),
    }
}

#[test]
fn ranges_are_read_from_any_event_to_any_other() {
    let dir = tempfile::tempdir().unwrap();
    // Several blocks of 256 KiB.
    let events = 20_000;
    let log = filled(dir.path(), events);
    let extent = log.look().unwrap();
    assert_eq!(
        (extent.first, extent.end),
        (Place::sequence(1), Place::sequence(events + 1))
    );
    assert_eq!(extent.events, events);
    let all = read(&log, 0, u64::MAX).unwrap();
    assert!(all.iter().map(|(n, _)| *n).eq(1..=events));
    assert!(all.iter().all(|(n, read)| *read == event(*n)));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ranges = (0..events + 10, 0..events + 10);
    runner
        .run(&ranges, |(from, to)| {
            let read = read(&log, from, to).unwrap();
            let expected = from.max(1)..to.min(events + 1).max(from.max(1));
            prop_assert!(read.iter().map(|(n, _)| *n).eq(expected));
            Ok(())
        })
        .unwrap();
}

#[test]
fn times_are_found_also_when_they_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 20_000);
    for (time, first) in [
        (i64::MIN, 1),
        (1000, 1),
        (1001, 2),
        (9_999_500, 10_000),
        (20_000_001, 20_001),
    ] {
        let place = log.place_at(time).unwrap();
        assert_eq!(place, Place::sequence(first), "{time}");
    }
    let mut writer = LogWriter::open(log.path()).unwrap();
    writer
        .push(&Event {
            time: Some(5),
            ..Event::default()
        })
        .unwrap();
    writer.push(&Event::default()).unwrap();
    writer.commit().unwrap();
    assert_eq!(log.place_at(20_000_001).unwrap(), Place::sequence(20_003));
    let options = StreamOptions {
        from: Some(Bound::Time(9_999_500)),
        to: Some(Bound::Place(Place::sequence(10_002))),
        ..StreamOptions::default()
    };
    let span = options.span(&log, &log.look().unwrap()).unwrap();
    assert_eq!(
        (span.from, span.to),
        (Place::sequence(10_000), Place::sequence(10_002))
    );
}

#[test]
fn what_was_not_committed_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 10);
    let mut writer = LogWriter::open(log.path()).unwrap();
    for number in 11..=20_000 {
        writer.push(&event(number)).unwrap();
    }
    // Readers see none of it, though blocks of it are written.
    assert_eq!(read(&log, 0, u64::MAX).unwrap().len(), 10);
    drop(writer);
    assert_eq!(read(&log, 0, u64::MAX).unwrap().len(), 10);
    let mut writer = LogWriter::open(log.path()).unwrap();
    assert_eq!(writer.push(&event(11)).unwrap(), Some(Place::sequence(11)));
    writer.commit().unwrap();
    assert_eq!(read(&log, 0, u64::MAX).unwrap().len(), 11);
}

#[test]
fn readers_read_while_one_appends_and_a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 100);
    let mut writer = LogWriter::open(log.path()).unwrap();
    let refused = LogWriter::open(log.path()).unwrap_err();
    assert_eq!(refused.party(), Party::Usage);
    assert!(
        refused.to_string().contains("another program appends"),
        "{refused}"
    );
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = 0;
                while seen < 20_000 {
                    let events = read(&log, seen + 1, u64::MAX).unwrap();
                    assert!(
                        events
                            .iter()
                            .map(|(n, _)| *n)
                            .eq(seen + 1..=seen + events.len() as u64)
                    );
                    assert!(events.iter().all(|(n, read)| *read == event(*n)));
                    seen += events.len() as u64;
                }
            });
        }
        for number in 101..=20_000 {
            writer.push(&event(number)).unwrap();
            if number % 500 == 0 {
                writer.commit().unwrap();
            }
        }
    });
}

#[test]
fn large_events_are_kept_and_too_large_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::at(dir.path().join("log"));
    let mut writer = LogWriter::open(log.path()).unwrap();
    let large = Event {
        payload: Some(vec![7; 3 << 20]),
        ..Event::default()
    };
    let too_large = Event {
        payload: Some(vec![0; 512 << 20]),
        ..Event::default()
    };
    assert_eq!(writer.push(&event(1)).unwrap(), Some(Place::sequence(1)));
    assert_eq!(writer.push(&large).unwrap(), Some(Place::sequence(2)));
    assert_eq!(writer.push(&too_large).unwrap(), None);
    assert_eq!(writer.push(&event(3)).unwrap(), Some(Place::sequence(3)));
    writer.commit().unwrap();
    let events = read(&log, 0, u64::MAX).unwrap();
    assert_eq!(events.len(), 3);
    assert!(events[1].1 == large);
    assert!(log.reader_bytes() > 3 << 20);
}

/// Every page of the database is damaged in turn: what is read is right, or an error, and never something else.
#[test]
fn damage_is_never_read_as_events() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), 3000);
    let path = log.path().join("log.sqlite");
    let right = read(&log, 0, u64::MAX).unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    let mut refused = 0;
    for at in (100..bytes).step_by(4099) {
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut old = [0; 3];
        file.seek(SeekFrom::Start(at)).unwrap();
        let there = file.read(&mut old).unwrap();
        let put = |file: &mut fs::File, bytes: &[u8]| {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes[..there]).unwrap();
        };
        put(&mut file, &old.map(|byte| byte ^ 0x55));
        match read(&log, 0, u64::MAX) {
            Ok(events) => assert!(events == right, "damage at {at}"),
            Err(stop) => {
                let failure = failure(stop);
                assert_eq!(failure.party(), Party::Source, "{failure}");
                refused += 1;
            }
        }
        put(&mut file, &old);
    }
    assert!(refused > 10, "{refused} of {} places", bytes / 4099);
    assert!(read(&log, 0, u64::MAX).unwrap() == right);
}

#[test]
fn what_is_no_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = LogReader::open(&dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("tipple append"), "{missing}");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(
        other.join("log.sqlite"),
        "no database at all, but some text that is long enough",
    )
    .unwrap();
    for refused in [
        LogReader::open(&other).map(drop).unwrap_err(),
        LogWriter::open(&other).map(drop).unwrap_err(),
    ] {
        assert!(refused.to_string().contains("other"), "{refused}");
    }
    assert!(
        fs::read(other.join("log.sqlite"))
            .unwrap()
            .starts_with(b"no database")
    );
    let deep = LogWriter::open(&dir.path().join("a/b")).unwrap_err();
    assert!(deep.to_string().contains("a/b"), "{deep}");
}

/// Somebody else's database is not made a log of.
#[test]
fn a_foreign_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.sqlite");
    let made = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('create table t (x)'); c.commit()"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    for refused in [
        LogReader::open(dir.path()).map(drop).unwrap_err(),
        LogWriter::open(dir.path()).map(drop).unwrap_err(),
    ] {
        assert_eq!(refused.party(), Party::Usage);
        assert!(
            refused.to_string().contains("no log of tipple's"),
            "{refused}"
        );
    }
}
