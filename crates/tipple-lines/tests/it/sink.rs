//! Files and streams as sinks, and the content's forms.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tipple_budget::Gate;
use tipple_flow::{Outcomes, PartName, Party, RecordReader, Resume, Sink, Stop};
use tipple_lines::{LinesOptions, LinesSink, LinesSource};

use crate::harness::{Frames, content_of, gate, read_all};

const OVERWRITE: LinesOptions = LinesOptions {
    part_bytes: 1,
    read_bytes: 1,
    overwrite: true,
};

fn name(n: usize) -> PartName {
    format!("{n:08}").parse().unwrap()
}

/// Loads parts, each of one frame a string, and finishes.
fn load(sink: &LinesSink, parts: &[&[&[u8]]]) -> Result<u64, Stop> {
    let records = write(sink, parts, &gate())?;
    sink.finish(&Outcomes::default())?;
    Ok(records)
}

fn write(sink: &LinesSink, parts: &[&[&[u8]]], gate: &Gate) -> Result<u64, Stop> {
    sink.check()?;
    let mut writer = sink.open(gate)?;
    let mut records = 0;
    for (n, part) in parts.iter().enumerate() {
        let frames: Vec<_> = part.iter().map(|bytes| (*bytes, 1)).collect();
        let mut frames = Frames::of(&frames);
        let mut reader = RecordReader::new(gate, &mut frames);
        writer.write_part(&name(n), &mut reader, &mut Outcomes::default())?;
        assert!(!reader.in_record());
        records += reader.records();
    }
    Ok(records)
}

fn failure(stop: Stop) -> (Party, String) {
    match stop {
        Stop::Failed(failure) => (failure.party(), failure.to_string()),
        Stop::Cancelled(_) => panic!("cancelled"),
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_appears_whole_under_its_name_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let sink = LinesSink::file(&path, LinesOptions::default()).unwrap();
    assert!(sink.ordered() && sink.resume() == Resume::RestartOnly);
    let gate = gate();
    let parts: [&[&[u8]]; 4] = [
        &[b"one\ntw", b"o\nth", b"ree\n"],
        &[],
        &[b"\n\n"],
        &[b"\xff\0", b"end"],
    ];
    assert_eq!(write(&sink, &parts, &gate).unwrap(), 6);
    assert!(!path.exists(), "visible before it is whole");
    let names = names_in(dir.path());
    let prefix = format!(".tipple-{}-", std::process::id());
    assert!(
        names.len() == 1 && names[0].starts_with(&prefix),
        "{names:?}"
    );
    let report = sink.finish(&Outcomes::default()).unwrap();
    assert_eq!(report["bytes"], 21);
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n\n\n\xff\0end");
    assert_eq!(names_in(dir.path()), ["out"]);
    // With the permissions that any new file gets.
    let plain = dir.path().join("plain");
    fs::write(&plain, b"").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn no_parts_make_an_empty_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let sink = LinesSink::file(&path, LinesOptions::default()).unwrap();
    sink.check().unwrap();
    sink.finish(&Outcomes::default()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_dumped_file_is_loaded_as_it_was() {
    let dir = TempDir::new().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let bytes: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 7) as u8)
        .collect();
    fs::write(&from, &bytes).unwrap();
    let options = LinesOptions {
        part_bytes: 10_000,
        ..LinesOptions::default()
    };
    let source = LinesSource::file(&from, options).unwrap();
    let sink = LinesSink::file(&to, LinesOptions::default()).unwrap();
    let gate = gate();
    let mut writer = sink.open(&gate).unwrap();
    for (n, (mut frames, written)) in read_all(&source, 64 << 10).into_iter().enumerate() {
        let mut reader = RecordReader::new(&gate, &mut frames);
        writer
            .write_part(&name(n), &mut reader, &mut Outcomes::default())
            .unwrap();
        assert_eq!(reader.records(), written.records);
    }
    drop(writer);
    sink.finish(&Outcomes::default()).unwrap();
    assert!(fs::read(&to).unwrap() == bytes);
}

#[test]
fn an_existing_target_is_refused_or_replaced() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    fs::write(&path, b"old\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let sink = LinesSink::file(&path, LinesOptions::default()).unwrap();
    let (party, message) = failure(sink.check().unwrap_err());
    assert_eq!(party, Party::Usage);
    assert!(message.contains("out exists: remove it"), "{message}");
    assert!(sink.open(&gate()).is_err());
    assert_eq!(names_in(dir.path()), ["out"]);

    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    load(&LinesSink::file(&link, OVERWRITE).unwrap(), &[&[b"new\n"]]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(names_in(dir.path()), ["link", "out"]);
}

#[test]
fn a_target_that_appears_during_the_load_is_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let sink = LinesSink::file(&path, LinesOptions::default()).unwrap();
    write(&sink, &[&[b"new\n"]], &gate()).unwrap();
    fs::write(&path, b"theirs\n").unwrap();
    let stop = sink.finish(&Outcomes::default()).unwrap_err();
    assert!(failure(stop).1.contains("exists"));
    assert_eq!(fs::read(&path).unwrap(), b"theirs\n");
    assert_eq!(names_in(dir.path()), ["out"]);
}

#[test]
fn a_failed_load_leaves_the_old_file_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    fs::write(&path, b"old\n").unwrap();
    // Cancelled inside a part: the temporary file is gone while the sink still lives.
    let sink = LinesSink::file(&path, OVERWRITE).unwrap();
    let cancelled = gate();
    write(&sink, &[&[b"new\n"]], &cancelled).unwrap();
    assert_eq!(names_in(dir.path()).len(), 2);
    cancelled.cancel();
    assert!(matches!(
        write(&sink, &[&[b"new\n"]], &cancelled),
        Err(Stop::Cancelled(_))
    ));
    assert_eq!(names_in(dir.path()), ["out"]);
    // Given up between parts.
    let sink = LinesSink::file(&path, OVERWRITE).unwrap();
    write(&sink, &[&[b"new\n"]], &gate()).unwrap();
    drop(sink);
    assert_eq!(names_in(dir.path()), ["out"]);
    assert_eq!(fs::read(&path).unwrap(), b"old\n");
}

#[test]
fn a_line_never_follows_one_without_a_newline() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    let sink = LinesSink::file(&path, LinesOptions::default()).unwrap();
    let stop = load(&sink, &[&[b"one"], &[], &[b"two\n"]]).unwrap_err();
    let (party, message) = failure(stop);
    assert_eq!(party, Party::Content);
    assert!(
        message.starts_with("part 00000000 ends without a newline"),
        "{message}"
    );
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn what_cannot_be_a_target_is_refused() {
    let dir = TempDir::new().unwrap();
    let party = |path: &Path| {
        let sink = LinesSink::file(path, OVERWRITE);
        sink.map_or_else(|f| f.party(), |sink| failure(sink.check().unwrap_err()).0)
    };
    assert_eq!(party(dir.path()), Party::Usage);
    assert_eq!(party(Path::new("/dev/null")), Party::Usage);
    assert_eq!(party(Path::new("/")), Party::Usage);
    assert_eq!(party(&dir.path().join("none/out")), Party::Sink);
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("nowhere"), &dangling).unwrap();
    assert_eq!(party(&dangling), Party::Sink);
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>, Option<usize>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut got = self.0.lock().unwrap();
        let left = self.1.map_or(usize::MAX, |limit| limit - got.len());
        if left == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(left);
        got.extend_from_slice(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_gets_the_bytes_and_its_end_is_told() {
    let out = Shared::default();
    assert_eq!(
        load(&LinesSink::stream(out.clone()), &[&[b"a\nb"], &[]]).unwrap(),
        2
    );
    assert_eq!(*out.0.lock().unwrap(), b"a\nb");
    let sink = LinesSink::stream(Shared(Arc::default(), Some(6)));
    let (party, message) = failure(load(&sink, &[&[b"one\n"], &[b"two\n"]]).unwrap_err());
    assert_eq!(party, Party::Sink);
    assert_eq!(
        message,
        "the reader of standard output went away before the end (after at least 4 bytes): the load is not complete"
    );
}

#[test]
fn only_lines_are_accepted() {
    let sink = LinesSink::stream(io::sink());
    assert!(sink.accepts("lines", 1));
    assert!(!sink.accepts("lines", 2) && !sink.accepts("lines", 0) && !sink.accepts("items", 1));
}

#[test]
fn json_of_lines() {
    let mut frames = Frames::of(&[
        (b"plain\n\r\n\n\xff\xfe\n\"q", 5),
        (b"uote\" \xc3", 0),
        (b"\xa4\0", 0),
    ]);
    let (raw, json) = content_of(&mut frames);
    assert_eq!(
        json,
        [
            r#"{"line":"plain"}"#,
            r#"{"line":"\r"}"#,
            r#"{"line":""}"#,
            r#"{"line":{"base64":"//4="}}"#,
            r#"{"line":"\"quote\" ä\u0000"}"#,
        ]
    );
    assert_eq!(raw[4], "\"quote\" ä\0".as_bytes());
}
