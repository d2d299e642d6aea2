//! The cachemover layout, byte for byte, both ways, and what is wrong with damaged ones.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Cause, NewPart, Outcomes, Part, PartName, Party, PlanBody, PlanRead, Planned, Planner,
    RecordReader, RecordWriter, Resume, Sink, Source, Stop,
};
use tipple_memcached::{CachemoverOptions, CachemoverSink, CachemoverSource, NEVER, is_cachemover};

use crate::items::{Frames, Owned, Random};

const EMPTY: &str = "D41D8CD98F00B204E9800998ECF8427E";

fn completed(dir: &Path) -> PathBuf {
    dir.join("datafiles_completed")
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes)
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect()
}

/// A folder as cachemover leaves it, with these data files.
fn folder(files: &[&[u8]]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(completed(dir.path())).unwrap();
    for (n, bytes) in files.iter().enumerate() {
        let name = format!("data_127.0.1.1__{n}_{}", md5_of(bytes));
        fs::write(completed(dir.path()).join(name), bytes).unwrap();
    }
    fs::write(completed(dir.path()).join("METRICS_CHECKPOINT"), "{}").unwrap();
    fs::write(completed(dir.path()).join("DONE"), "DONE\n").unwrap();
    dir
}

fn sink(dir: &Path, data_file_bytes_max: u64) -> CachemoverSink {
    let options = CachemoverOptions {
        data_file_bytes_max,
        ..CachemoverOptions::default()
    };
    let sink = CachemoverSink::create(dir, options).unwrap();
    sink.check().unwrap();
    sink
}

fn write(sink: &CachemoverSink, frames: &mut Frames) -> (Result<(), Stop>, Outcomes) {
    let gate = Gate::new(Rates::default());
    let mut outcomes = Outcomes::default();
    let mut records = RecordReader::new(&gate, frames);
    let mut writer = sink.open(&gate).unwrap();
    let part = "0".parse().unwrap();
    let result = writer.write_part(&part, &mut records, &mut outcomes);
    (result, outcomes)
}

fn write_all(sink: &CachemoverSink, parts: &[&[Owned]]) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for items in parts {
        let (result, counted) = write(sink, &mut Frames::of(items, 256 << 10));
        result.unwrap();
        outcomes.merge(&counted);
    }
    sink.finish(&outcomes).unwrap();
    outcomes
}

/// Keeps the parts of a plan.
struct Plan {
    dir: PathBuf,
    parts: Vec<OnePart>,
}

struct OnePart {
    name: PartName,
    body: Vec<u8>,
}

impl Planner for Plan {
    fn scratch_dir(&self) -> &Path {
        &self.dir
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::Bytes(body) = part.body else {
            panic!("a file")
        };
        let name = format!("{:08}", self.parts.len()).parse().unwrap();
        self.parts.push(OnePart { name, body });
        Ok(())
    }
    fn listed(&mut self, _records: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        panic!("a folder does not break off")
    }
}

impl Part for OnePart {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(Cursor::new(self.body.clone())))
    }
}

fn plan(source: &CachemoverSource) -> Result<Vec<OnePart>, Stop> {
    let mut plan = Plan {
        dir: PathBuf::new(),
        parts: Vec::new(),
    };
    source.plan(&mut plan, &Gate::new(Rates::default()))?;
    Ok(plan.parts)
}

fn read_part(source: &CachemoverSource, part: &OnePart) -> Result<Vec<Owned>, Stop> {
    let gate = Gate::new(Rates::default());
    let pool = BufferPool::new(2, 100_000, &Budget::new("memory", 200_000)).unwrap();
    let mut frames = Frames::default();
    let mut out = RecordWriter::new(&gate, &pool, &mut frames);
    let read = source
        .open()
        .unwrap()
        .read_part(part, &mut out, &mut Outcomes::default());
    match read {
        Ok(()) => drop(out.finish()?),
        Err(stop) => {
            assert_eq!(
                out.records(),
                0,
                "nothing is given of a file that is bad as a whole"
            );
            return Err(stop);
        }
    }
    frames.read()
}

fn read_all(source: &CachemoverSource) -> Vec<Owned> {
    let parts = plan(source).unwrap();
    let items = parts.iter().map(|part| read_part(source, part).unwrap());
    let items: Vec<Owned> = items.flatten().collect();
    let finished = source.finish(
        &Planned::default(),
        items.len() as u64,
        &Outcomes::default(),
    );
    finished.unwrap();
    items
}

fn refusal<T>(result: Result<T, Stop>) -> (Party, String) {
    match result {
        Err(Stop::Failed(failure)) => (failure.party(), failure.to_string()),
        Err(stop) => panic!("{stop}"),
        Ok(_) => panic!("no refusal"),
    }
}

fn data_files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(completed(dir)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("data_")).collect();
    names.sort();
    names
}

const GOLDEN: &[u8] = b"\x00\x01f\xff\xff\xff\xff\x12\x34\x56\x78\x00\x00\x00\x01x";

#[test]
fn golden_bytes_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!is_cachemover(dir.path()));
    let item = Owned::new("f", "x").flags(0x1234_5678);
    write_all(&sink(dir.path(), 1 << 20), &[std::slice::from_ref(&item)]);
    assert!(is_cachemover(dir.path()));
    let name = format!("data_127.0.0.1__0_{}", md5_of(GOLDEN));
    assert_eq!(data_files(dir.path()), std::slice::from_ref(&name));
    assert_eq!(fs::read(completed(dir.path()).join(name)).unwrap(), GOLDEN);
    let source = CachemoverSource::open(dir.path()).unwrap();
    assert_eq!(read_all(&source), [item]);
    // As cachemover itself writes it: 16 bits of the flags.
    let theirs = b"\x00\x01f\xff\xff\xff\xff\x00\x00\x56\x78\x00\x00\x00\x01x";
    let dir = folder(&[theirs]);
    let source = CachemoverSource::open(dir.path()).unwrap();
    assert_eq!(read_all(&source), [Owned::new("f", "x").flags(0x5678)]);
}

#[test]
fn all_items_come_back_through_small_and_large_files() {
    let mut random = Random(1);
    let mut items: Vec<Owned> = (0..300_usize)
        .map(|n| {
            let mut key = random.bytes(1 + n % 250);
            key.extend_from_slice(&(n as u16).to_be_bytes());
            key.truncate(250);
            let value_bytes = random.below(3000);
            Owned::new(key, random.bytes(value_bytes))
                .flags(u32::MAX - n as u32)
                .exptime([NEVER, 0, 1, i64::from(i32::MAX)][n % 4])
        })
        .collect();
    items.push(Owned::new("empty", ""));
    // Larger than every buffer on the way.
    items.push(Owned::new("large", random.bytes(700_001)));
    let beyond = Owned::new("beyond", "v").exptime(i64::from(i32::MAX) + 1);
    for data_file_bytes_max in [1, 5000, 1 << 30] {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = items.split_at(100);
        let second = [std::slice::from_ref(&beyond), second].concat();
        let sink = sink(dir.path(), data_file_bytes_max);
        let outcomes = write_all(&sink, &[first, &second]);
        let mut expected = Outcomes::default();
        expected.count(&Cause::loss("expiry beyond 2038"));
        assert_eq!(outcomes, expected);
        let files = data_files(dir.path());
        if data_file_bytes_max == 1 {
            assert_eq!(files.len(), items.len());
        }
        let mut read = read_all(&CachemoverSource::open(dir.path()).unwrap());
        read.sort_by(|a, b| a.key.cmp(&b.key));
        let mut sorted = items.clone();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        assert!(read == sorted, "{data_file_bytes_max}");
        assert_eq!(
            fs::read_dir(dir.path().join("datafiles_staging"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[test]
fn files_end_where_they_should_and_no_two_share_a_name() {
    let dir = tempfile::tempdir().unwrap();
    // Every record has 2 + 1 + 12 + 5 = 20 bytes; two fill a file exactly.
    let items = vec![Owned::new("k", "value"); 7];
    write_all(&sink(dir.path(), 40), &[&items]);
    let lengths: Vec<u64> = data_files(dir.path())
        .iter()
        .map(|name| {
            fs::metadata(completed(dir.path()).join(name))
                .unwrap()
                .len()
        })
        .collect();
    assert_eq!(lengths.iter().sum::<u64>(), 140, "{lengths:?}");
    assert_eq!(lengths.iter().filter(|&&length| length == 40).count(), 3);
    assert_eq!(
        read_all(&CachemoverSource::open(dir.path()).unwrap()),
        items
    );
}

#[test]
fn done_and_metrics_are_as_cachemover_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(dir.path(), 1 << 20);
    let items = [Owned::new("a", "1"), Owned::new("b", "2")];
    write(&sink, &mut Frames::of(&items, 64 << 10)).0.unwrap();
    // A part with no items has its file, too.
    write(&sink, &mut Frames::default()).0.unwrap();
    assert!(data_files(dir.path()).contains(&format!("data_127.0.0.1__1_{EMPTY}")));
    assert!(!completed(dir.path()).join("DONE").exists());
    assert!(CachemoverSource::open(dir.path()).is_err());
    let mut outcomes = Outcomes::default();
    outcomes.add(&Cause::outcome("expired"), 10);
    outcomes.add(&Cause::outcome("filtered: ttl"), 5);
    outcomes.add(&Cause::outcome("filtered: prefix"), 3);
    outcomes.add(&Cause::outcome("deleted"), 200);
    outcomes.add(&Cause::loss("expiry beyond 2038"), 1000);
    sink.finish(&outcomes).unwrap();
    let text = fs::read_to_string(completed(dir.path()).join("DONE")).unwrap();
    assert_eq!(
        text,
        "DONE\nTotal keys from metadump: 1220\nTotal keys dumped: 2\nTotal keys skipped: 15\nTotal keys not found: 1200\nTotal keys filtered: 3\nTotal time taken: 0 hours, 0 minutes, 0 seconds.\n"
    );
    let text = fs::read_to_string(completed(dir.path()).join("METRICS_CHECKPOINT")).unwrap();
    assert_eq!(
        text,
        "{\n  \"keyvalue_metrics\": {\n    \"total\": 1220,\n    \"dumped\": 2,\n    \"not_found\": 1200,\n    \"skipped\": 15,\n    \"filtered\": 3\n  },\n  \"time_elapsed\": \"0 hours, 0 minutes, 0 seconds.\"\n}"
    );
    let source = CachemoverSource::open(dir.path()).unwrap();
    assert_eq!(source.check().unwrap().records, 2);
    assert_eq!(read_all(&source), items);
}

#[test]
fn occupied_folders_are_refused_and_unfinished_ones_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let create = || CachemoverSink::create(dir.path(), CachemoverOptions::default());
    // Longer than what follows: a stale tail would show.
    let before = [Owned::new("before", vec![1; 5000])];
    let unfinished = sink(dir.path(), 1 << 20);
    write(&unfinished, &mut Frames::of(&before, 64 << 10))
        .0
        .unwrap();
    let mut cut = Frames::raw(&before[0].bytes()[..4000], 1000);
    let (result, _) = write(&unfinished, &mut cut);
    assert_eq!(refusal(result).0, Party::Content);
    assert_eq!(unfinished.resume(), Resume::RestartOnly);
    // While it is being written, nobody else may.
    let (party, message) = refusal(create().unwrap().check());
    assert_eq!(party, Party::Usage);
    assert!(
        message.contains("is being written by another job"),
        "{message}"
    );
    drop(unfinished);
    let staged = dir.path().join("datafiles_staging/data_127.0.0.1__1_0");
    assert!(staged.exists());
    let after = [Owned::new("after", "v")];
    write_all(&sink(dir.path(), 1 << 20), &[&after]);
    assert_eq!(
        read_all(&CachemoverSource::open(dir.path()).unwrap()),
        after
    );
    let message = create().unwrap_err().to_string();
    assert!(message.contains("holds a finished dump"), "{message}");
    for (path, named) in [
        ("precious.txt", "\"precious.txt\""),
        ("keyfile", "unfinished dump of another program"),
        ("datafiles_completed/precious.txt", "precious.txt"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        let refused = CachemoverSink::create(dir.path(), CachemoverOptions::default());
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
        assert!(path.exists());
    }
    for options in [
        CachemoverOptions {
            data_file_bytes_max: 0,
            ..CachemoverOptions::default()
        },
        CachemoverOptions {
            ip: "a/b".into(),
            ..CachemoverOptions::default()
        },
    ] {
        assert_eq!(options.validate().unwrap_err().party(), Party::Usage);
    }
}

#[test]
fn unfinished_dumps_are_read_only_when_asked() {
    let dir = folder(&[GOLDEN, b""]);
    let done = completed(dir.path()).join("DONE");
    fs::remove_file(&done).unwrap();
    let message = CachemoverSource::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("DONE is missing"), "{message}");
    let source = CachemoverSource::open_partial(dir.path()).unwrap();
    assert_eq!(read_all(&source).len(), 1);
    assert!(CachemoverSource::open_partial(&done).is_err());
    assert!(CachemoverSource::open_partial(completed(dir.path()).as_path()).is_err());
}

#[test]
fn missing_data_files_are_noticed() {
    let dir = folder(&[GOLDEN]);
    let done = completed(dir.path()).join("DONE");
    fs::write(
        done,
        "DONE\nTotal keys from metadump: 3\nTotal keys dumped: 2\n",
    )
    .unwrap();
    let source = CachemoverSource::open(dir.path()).unwrap();
    let (party, message) = refusal(source.finish(&Planned::default(), 1, &Outcomes::default()));
    assert_eq!(party, Party::Content);
    assert!(
        message.contains("hold 1 items, but its DONE speaks of 2"),
        "{message}"
    );
    // A dump that was resumed counts from there: more than it says is no harm.
    source
        .finish(&Planned::default(), 5, &Outcomes::default())
        .unwrap();
}

#[test]
fn damage_is_found_before_anything_is_given() {
    let dir = folder(&[GOLDEN]);
    let name = data_files(dir.path()).remove(0);
    let path = completed(dir.path()).join(&name);
    let source = CachemoverSource::open(dir.path()).unwrap();
    let part = plan(&source).unwrap().remove(0);
    for bytes in [&GOLDEN[..15], &[GOLDEN, b"\0"].concat(), b"", &[0; 16]] {
        fs::write(&path, bytes).unwrap();
        let (party, message) = refusal(read_part(&source, &part));
        assert_eq!(party, Party::Content);
        assert!(
            message.contains(&name) && message.contains("is damaged"),
            "{message}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(refusal(read_part(&source, &part)).0, Party::Source);
    // Names that no data file has.
    for name in [
        "data_1_0",
        "data_127.0.0.1__0_d41d8cd98f00b204e9800998ecf8427e",
        "other",
    ] {
        let stray = completed(dir.path()).join(name);
        fs::write(&stray, "").unwrap();
        let (party, message) = refusal(plan(&source));
        assert_eq!(party, Party::Content);
        assert!(message.contains(name), "{message}");
        fs::remove_file(stray).unwrap();
    }
    // Plans that name none: a file outside is never opened.
    for body in [
        "{}".to_owned(),
        "nonsense".to_owned(),
        format!("{{\"file\":\"data_/../../etc/passwd_{EMPTY}\"}}"),
    ] {
        let part = OnePart {
            name: "p".parse().unwrap(),
            body: body.into_bytes(),
        };
        let (party, message) = refusal(read_part(&source, &part));
        assert_eq!(party, Party::Content);
        assert!(message.contains("does not name a data file"), "{message}");
    }
}

#[test]
fn wrong_records_under_a_right_md5_are_located() {
    let at = |offset: usize, bytes: &[u8]| {
        let mut wrong = GOLDEN.to_vec();
        wrong[offset..offset + bytes.len()].copy_from_slice(bytes);
        [GOLDEN, &wrong].concat()
    };
    for (bytes, named) in [
        (at(0, &[0, 0]), "its key length is 0, not 1 to 250"),
        (at(0, &[0, 251]), "its key length is 251, not 1 to 250"),
        (at(0, &[0xFF; 2]), "its key length is 65535"),
        (at(0, &[0, 99]), "the file ends in its key and lengths"),
        (
            at(11, &[0xFF; 4]),
            "its value length is 4294967295, with 1 bytes left",
        ),
        (
            at(11, &[0, 0, 0, 2]),
            "its value length is 2, with 1 bytes left",
        ),
        (at(0, &[])[..17].to_vec(), "the file ends in its key length"),
        (
            at(0, &[])[..30].to_vec(),
            "the file ends in its key and lengths",
        ),
        (
            at(0, &[])[..31].to_vec(),
            "its value length is 1, with 0 bytes left",
        ),
    ] {
        let dir = folder(&[&bytes]);
        let name = data_files(dir.path()).remove(0);
        let source = CachemoverSource::open(dir.path()).unwrap();
        let part = plan(&source).unwrap().remove(0);
        let gate = Gate::new(Rates::default());
        let pool = BufferPool::new(2, 70_000, &Budget::new("memory", 140_000)).unwrap();
        let mut frames = Frames::default();
        let mut out = RecordWriter::new(&gate, &pool, &mut frames);
        let read = source
            .open()
            .unwrap()
            .read_part(&part, &mut out, &mut Outcomes::default());
        let (party, message) = refusal(read);
        assert_eq!(party, Party::Content);
        assert!(
            message.contains(&format!("{name}, record 2 at offset 16: {named}")),
            "{message}"
        );
    }
}

#[test]
fn mutated_files_never_panic() {
    let mut good = Vec::new();
    for n in 0..6_u8 {
        good.extend_from_slice(GOLDEN);
        good.extend_from_slice(
            &[
                &[0, 2, b'k', n, 0, 0, 0, n, 0, 0, 0, n, 0, 0, 0, n],
                &vec![n; usize::from(n)][..],
            ]
            .concat(),
        );
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(completed(dir.path())).unwrap();
    let (mut read, mut refused) = (0, 0);
    for seed in 0..600 {
        let mut random = Random(seed);
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len().max(1));
            match random.below(4) {
                0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                1 => bytes.truncate(at),
                _ => drop(bytes.splice(at..at, random.bytes(2))),
            }
        }
        let name = format!("data_127.0.0.1__0_{}", md5_of(&bytes));
        let path = completed(dir.path()).join(&name);
        fs::write(&path, &bytes).unwrap();
        let source = CachemoverSource::open_partial(dir.path()).unwrap();
        let part = plan(&source).unwrap().remove(0);
        let gate = Gate::new(Rates::default());
        let pool = BufferPool::new(2, 70_000, &Budget::new("memory", 140_000)).unwrap();
        let mut frames = Frames::default();
        let mut out = RecordWriter::new(&gate, &pool, &mut frames);
        let result = source
            .open()
            .unwrap()
            .read_part(&part, &mut out, &mut Outcomes::default());
        match result {
            Ok(()) => {
                // What was read writes the same bytes again.
                out.finish().unwrap();
                let again = frames
                    .read()
                    .unwrap()
                    .iter()
                    .fold(Vec::new(), |mut all, item| {
                        all.extend_from_slice(&(item.key.len() as u16).to_be_bytes());
                        all.extend_from_slice(&item.key);
                        let expiry = match item.exptime {
                            NEVER => u32::MAX,
                            time => time as u32,
                        };
                        for field in [expiry, item.flags, item.value.len() as u32] {
                            all.extend_from_slice(&field.to_be_bytes());
                        }
                        all.extend_from_slice(&item.value);
                        all
                    });
                assert_eq!(again, bytes, "seed {seed}");
                read += 1;
            }
            Err(stop) => {
                assert_eq!(refusal::<()>(Err(stop)).0, Party::Content, "seed {seed}");
                refused += 1;
            }
        }
        fs::remove_file(path).unwrap();
    }
    assert!(read > 20 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn times_beyond_2038_are_read_for_what_they_are() {
    let mut bytes = GOLDEN.to_vec();
    bytes[3..7].copy_from_slice(&0x8000_0001_u32.to_be_bytes());
    let dir = folder(&[&bytes]);
    let items = read_all(&CachemoverSource::open(dir.path()).unwrap());
    assert_eq!(items[0].exptime, 0x8000_0001);
}

#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let completed = folder.path().join("datafiles_completed");
    fs::create_dir(&completed).unwrap();
    let pipe = completed.join("DONE");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let (told, opened) = std::sync::mpsc::channel();
    let dir = folder.path().to_owned();
    std::thread::spawn(move || told.send(CachemoverSource::open(&dir).err()));
    let failure = opened
        .recv_timeout(std::time::Duration::from_secs(20))
        .expect("it waits for the pipe");
    let text = format!("{:?}", failure.expect("a pipe is no DONE"));
    assert!(text.contains("no regular file"), "{text}");
}
