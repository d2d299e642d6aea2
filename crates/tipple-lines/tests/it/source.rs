//! Files and pipes as sources.

use std::fs::{self, File, OpenOptions};
use std::io::{Cursor, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use proptest::prelude::*;
use tempfile::TempDir;
use tipple_flow::{Outcomes, Party, Planned, Source, Stop};
use tipple_lines::{LinesOptions, LinesSource};

use crate::harness::{Plan, content_of, gate, joined, lines_of, plan, read_all, read_part};

const BUFFER: usize = 64 << 10;

fn options(part_bytes: u64, read_bytes: usize) -> LinesOptions {
    LinesOptions {
        part_bytes,
        read_bytes,
        ..LinesOptions::default()
    }
}

fn file_of(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("lines");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn finish(source: &dyn Source) -> Result<(), Stop> {
    let planned = Planned::default();
    source.finish(&planned, 0, &Outcomes::default()).map(|_| ())
}

fn failure(stop: Stop) -> (Party, String) {
    match stop {
        Stop::Failed(failure) => (failure.party(), failure.to_string()),
        Stop::Cancelled(_) => panic!("cancelled"),
    }
}

/// Through a file in one part and in small ones, and through a pipe: the same bytes, the same lines.
fn comes_back(bytes: &[u8]) {
    let lines = lines_of(bytes);
    let (_dir, path) = file_of(bytes);
    let read_bytes = 64 << 10;
    let whole = LinesSource::file(&path, options(256 << 20, read_bytes)).unwrap();
    let small = bytes.len() as u64 / 7 + 1;
    let cut = LinesSource::file(&path, options(small, read_bytes)).unwrap();
    let pipe = LinesSource::pipe(Cursor::new(bytes.to_vec()));
    for source in [&whole, &cut, &pipe] {
        source.check().unwrap();
        let mut parts = read_all(source, BUFFER);
        let (back, records) = joined(&parts);
        assert!(back == bytes, "{source:?}: other bytes came back");
        assert_eq!(records, lines.len() as u64, "{source:?}");
        let read: Vec<_> = parts
            .iter_mut()
            .flat_map(|(frames, _)| content_of(frames).0)
            .collect();
        assert!(read == lines, "{source:?}: other lines came back");
        finish(source).unwrap();
    }
}

#[test]
fn exact_bytes_come_back() {
    for bytes in [
        &b""[..],
        b"no newline at the end",
        b"one\ntwo",
        b"one\ntwo\n",
        b"\n",
        b"\n\n\n\n\n\n\n\n\n\n\n\n",
        b"dos\r\nlines\r\n\r\n",
        b"nul \0 and \xff\xfe\xc3\n\x80\n",
    ] {
        comes_back(bytes);
    }
}

#[test]
fn a_line_of_many_buffers_comes_back() {
    let mut bytes = b"before\n".to_vec();
    bytes.extend((0..5 << 20).map(|n: u32| b'a' + (n % 26) as u8));
    bytes.extend(b"\nafter\n");
    comes_back(&bytes);
    // And as the last line, without a newline.
    comes_back(&bytes[..bytes.len() - 7]);
}

#[test]
fn positions_are_offsets() {
    let bytes: Vec<u8> = (0..40_000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let (_dir, path) = file_of(&bytes);
    let file = LinesSource::file(&path, options(100_000, 1000)).unwrap();
    // Every line is longer than this buffer.
    let long = LinesSource::file(&path, options(100_000, 1)).unwrap();
    let pipe = LinesSource::pipe(Cursor::new(bytes.clone()));
    for source in [&file, &long, &pipe] {
        let (mut seen, mut part_at) = (0, 0);
        for (frames, written) in read_all(source, BUFFER) {
            // A part begins where the one before ends.
            for (position, offset) in &frames.positions {
                assert_eq!(*position, part_at + offset, "{source:?}");
                seen += 1;
            }
            part_at += written.bytes;
        }
        assert!(seen > 3);
    }
}

#[test]
fn a_part_holds_the_lines_that_begin_in_it() {
    let (_dir, path) = file_of(b"aaaa\nbb\na line over many parts\n\nlast");
    let source = LinesSource::file(&path, options(5, 3)).unwrap();
    let parts: Vec<_> = read_all(&source, BUFFER)
        .iter()
        .map(|(frames, _)| String::from_utf8(frames.all_bytes()).unwrap())
        .collect();
    let long = "a line over many parts\n";
    assert_eq!(
        parts,
        [
            "aaaa\n",
            &format!("bb\n{long}"),
            "",
            "",
            "",
            "",
            "\nlast",
            ""
        ]
    );
    assert_eq!(source.check().unwrap().parts, parts.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(tipple_testkit::cases(400)))]
    #[test]
    fn any_bytes_any_parts_any_buffer(
        bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>(), b'a'..b'c'], 0..400),
        part_bytes in prop_oneof![1_u64..20, 1_u64..500],
        read_bytes in prop_oneof![1_usize..20, 1_usize..500],
    ) {
        let (_dir, path) = file_of(&bytes);
        let source = LinesSource::file(&path, options(part_bytes, read_bytes)).unwrap();
        let parts = read_all(&source, BUFFER);
        let (back, records) = joined(&parts);
        prop_assert_eq!(&back, &bytes);
        prop_assert_eq!(records, lines_of(&bytes).len() as u64);
        // Each part alone: exactly the lines that begin in its range.
        let mut at = 0;
        let mut begin = vec![Vec::new(); parts.len()];
        for line in lines_of(&bytes) {
            begin[at / part_bytes as usize].extend_from_slice(line);
            at += line.len();
        }
        for ((frames, _), lines) in parts.iter().zip(&begin) {
            prop_assert_eq!(&frames.all_bytes(), lines);
        }
        finish(&source).unwrap();
    }

    #[test]
    fn any_pipe_in_any_pieces(
        lens in prop::collection::vec(prop_oneof![0_usize..100, 60_000_usize..70_000, 0_usize..300_000], 0..12),
        ended in any::<bool>(),
        piece in prop_oneof![1_usize..100, 1_usize..200_000],
    ) {
        let piece = piece.max(lens.iter().sum::<usize>() / 500 + 1);
        let mut bytes: Vec<u8> = lens.iter().enumerate()
            .flat_map(|(n, len)| { let mut line = vec![b'a' + n as u8; *len]; line.push(b'\n'); line })
            .collect();
        if !ended {
            bytes.pop();
        }
        let source = LinesSource::pipe(Pieces { left: Cursor::new(bytes.clone()), piece });
        let (back, records) = joined(&read_all(&source, BUFFER));
        prop_assert!(back == bytes);
        prop_assert_eq!(records, lines_of(&bytes).len() as u64);
    }
}

/// A pipe that gives at most so many bytes at once.
struct Pieces {
    left: Cursor<Vec<u8>>,
    piece: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.piece.min(out.len());
        self.left.read(&mut out[..n])
    }
}

fn dump_while(change: impl FnOnce(&Path)) -> (Result<(), Stop>, Result<(), Stop>) {
    let (_dir, path) = file_of(b"one\ntwo\nthree\n");
    let source = LinesSource::file(&path, options(8, 64)).unwrap();
    let parts = plan(&source);
    read_part(&source, &parts[0], BUFFER, &gate()).unwrap();
    finish(&source).unwrap();
    change(&path);
    let second = read_part(&source, &parts[1], BUFFER, &gate()).map(|_| ());
    (second, finish(&source))
}

#[test]
fn a_file_that_changes_is_refused() {
    let append = |path: &Path| {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"four\n").unwrap();
    };
    let truncate = |path: &Path| {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(9)
            .unwrap();
    };
    let touch = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    let append_in_secret = |path: &Path| {
        let before = fs::metadata(path).unwrap().modified().unwrap();
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"four\n").unwrap();
        file.set_modified(before).unwrap();
    };
    let changes: [fn(&Path); 4] = [append, truncate, touch, append_in_secret];
    for change in changes {
        let (part, end) = dump_while(change);
        for result in [part, end] {
            let (party, message) = failure(result.unwrap_err());
            assert_eq!(party, Party::Source);
            assert!(
                message.starts_with("the file changed while it was dumped"),
                "{message}"
            );
        }
    }
}

#[test]
fn a_file_that_shrinks_inside_a_long_line_is_refused() {
    let (_dir, path) = file_of(&[b'x'; 100_000]);
    let source = LinesSource::file(&path, options(1 << 20, 1000)).unwrap();
    let parts = plan(&source);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(50_000)
        .unwrap();
    let stop = read_part(&source, &parts[0], BUFFER, &gate())
        .err()
        .unwrap();
    assert!(failure(stop).1.starts_with("the file changed"));
}

#[test]
fn a_replaced_file_is_read_as_it_was_and_not_resumed() {
    let (dir, path) = file_of(b"one\ntwo\n");
    let source = LinesSource::file(&path, LinesOptions::default()).unwrap();
    let other = dir.path().join("other");
    fs::write(&other, b"new\nnew\n").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(joined(&read_all(&source, BUFFER)).0, b"one\ntwo\n");
    finish(&source).unwrap();
    let later = LinesSource::file(&path, LinesOptions::default()).unwrap();
    assert_ne!(source.identity(), later.identity());
    assert!(!later.is_same(&source.identity().id).unwrap());
    assert!(source.is_same(&source.identity().id).unwrap());
}

#[test]
fn one_file_has_one_identity() {
    let (dir, path) = file_of(b"one\n");
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let identity = |path: &Path| {
        LinesSource::file(path, LinesOptions::default())
            .unwrap()
            .identity()
    };
    assert_eq!(identity(&path), identity(&link));
    assert_eq!(identity(&path).kind, "lines");
    assert_eq!(identity(&path).id["bytes"], 4);
}

#[test]
fn what_is_no_plan_of_this_file_is_refused() {
    let (_dir, path) = file_of(b"one\ntwo\n");
    let source = LinesSource::file(&path, LinesOptions::default()).unwrap();
    for body in [
        "",
        "{}",
        r#"{"from":0}"#,
        r#"{"from":0,"to":9}"#,
        r#"{"from":5,"to":4}"#,
        r#"{"from":-1,"to":4}"#,
        r#"{"from":0,"to":4,"more":1}"#,
        r#"{"from":0,"to":4} {}"#,
        r#"{"from":"0","to":4}"#,
    ] {
        let result = read_part(&source, &Plan::new(body), BUFFER, &gate());
        let (party, message) = failure(result.err().unwrap());
        assert_eq!(party, Party::Source);
        assert!(message.starts_with("the plan of part 0"), "{message}");
    }
    read_part(&source, &Plan::new(r#"{"from":0,"to":8}"#), BUFFER, &gate()).unwrap();
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let fail = |path: &Path, options| LinesSource::file(path, options).unwrap_err();
    assert_eq!(
        fail(dir.path(), LinesOptions::default()).party(),
        Party::Usage
    );
    assert_eq!(
        fail(Path::new("/dev/null"), LinesOptions::default()).party(),
        Party::Usage
    );
    assert_eq!(
        fail(&dir.path().join("none"), LinesOptions::default()).party(),
        Party::Source
    );
    assert_eq!(fail(dir.path(), options(0, 1)).party(), Party::Usage);
    assert_eq!(fail(dir.path(), options(1, 0)).party(), Party::Usage);
    assert_eq!(
        fail(dir.path(), options(1, (256 << 10) + 1)).party(),
        Party::Usage
    );
}

/// A pipe that stays silent until its other end is dropped.
struct Silent(Receiver<()>);

impl Read for Silent {
    fn read(&mut self, _out: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(0)
    }
}

#[test]
fn a_cancel_is_noticed_while_a_pipe_is_silent() {
    let (_other_end, silent) = channel();
    let source = LinesSource::pipe(Silent(silent));
    let gate = gate();
    let part = &plan(&source)[0];
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_part(&source, part, BUFFER, &gate).map(|_| ()));
        gate.cancel();
        assert!(matches!(reader.join().unwrap(), Err(Stop::Cancelled(_))));
    });
}

#[test]
fn a_silence_is_no_end() {
    /// Gives a byte only after a silence of several ticks.
    struct Slow(Cursor<&'static [u8]>);
    impl Read for Slow {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(std::time::Duration::from_millis(120));
            self.0.read(&mut out[..2])
        }
    }
    let source = LinesSource::pipe(Slow(Cursor::new(b"a\nb")));
    assert_eq!(joined(&read_all(&source, BUFFER)), (b"a\nb".to_vec(), 2));
}

#[test]
fn a_pipe_is_read_once_and_never_resumed() {
    let source = LinesSource::pipe(Cursor::new(b"one\n".to_vec()));
    assert!(!source.resumable());
    let parts = plan(&source);
    assert_eq!(parts.len(), 1);
    read_part(&source, &parts[0], BUFFER, &gate()).unwrap();
    let again = read_part(&source, &parts[0], BUFFER, &gate())
        .err()
        .unwrap();
    assert!(failure(again).1.contains("only once"));
    assert!(!source.is_same(&source.identity().id).unwrap());
}

#[test]
fn an_error_of_a_pipe_is_no_end() {
    struct Broken(bool);
    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(std::io::Error::other("wire cut"));
            }
            out[..4].copy_from_slice(b"one\n");
            Ok(4)
        }
    }
    let source = LinesSource::pipe(Broken(false));
    let stop = read_part(&source, &plan(&source)[0], BUFFER, &gate())
        .err()
        .unwrap();
    let (party, message) = failure(stop);
    assert_eq!(party, Party::Source);
    assert_eq!(message, "cannot read standard input: wire cut");
}
