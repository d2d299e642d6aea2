//! Lets the source fetch, and the sink store, an item at a server that answers with arbitrary bytes and hangs up: by
//! the text protocol, and by the binary one for a key that needs it. No panic, no wait, and an item is given only as
//! the server sent it. Run it with `-detect_leaks=0`: the server's threads are not waited for.
#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tipple_budget::{Budget, BufferPool, Gate, Rates};
use tipple_flow::{
    Block, Drain, FrameSource, NewPart, Outcomes, Part, PartName, PlanBody, PlanRead, Planner,
    RecordReader, RecordWriter, Sink, Source, Stop,
};
use tipple_memcached::{
    Item, MemcachedOptions, MemcachedSink, MemcachedSource, MemcachedUrl, NEVER, RetryOptions,
    SinkOptions, SourceOptions, encode_header,
};

/// What the server says.
static ANSWER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// A key that goes as text, and one that only the binary protocol carries.
fn key(binary: bool) -> Vec<u8> {
    if binary {
        b"k ".repeat(100)
    } else {
        b"key".to_vec()
    }
}

static URL: LazyLock<MemcachedUrl> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("tipple-fuzz-{}.sock", std::process::id()));
    // From a process of that number that is gone.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || serve(&stream));
        }
    });
    format!("memcached://{}", path.display())
        .parse()
        .expect("a URL")
});

/// The client may hang up at any time: that is its right.
fn serve(stream: &UnixStream) -> Option<()> {
    let mut say = stream;
    let mut input = BufReader::new(stream);
    loop {
        if input.fill_buf().ok()?.first()? == &0x80 {
            // A no-op and a version.
            let mut greeting = [0; 48];
            input.read_exact(&mut greeting).ok()?;
            let mut hello = [0; 48];
            (hello[0], hello[1], hello[24], hello[25]) = (0x81, 0x0A, 0x81, 0x0B);
            hello[35] = 1;
            say.write_all(&hello).ok()?;
            say.write_all(b"1").ok()?;
            input.fill_buf().ok()?.first()?;
            return answer(stream, &mut input);
        }
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let text = match line.as_str() {
            "version" => "VERSION 1.6.18\r\n".to_owned(),
            "stats" => "STAT pid 1\r\nSTAT uptime 100\r\nSTAT time 2000000000\r\nSTAT curr_items 1\r\nSTAT cmd_flush 0\r\nEND\r\n".to_owned(),
            "stats settings" => "STAT lru_crawler yes\r\nEND\r\n".to_owned(),
            _ if line.starts_with("lru_crawler metadump") => {
                let list = |key: &[u8]| -> String {
                    let key: String = key.iter().map(|byte| format!("%{byte:02X}")).collect();
                    format!("key={key} exp=-1 la=2000000000 cas=1 fetch=no cls=1 size=80\n")
                };
                format!("{}{}END\r\n", list(&key(false)), list(&key(true)))
            }
            _ => return answer(stream, &mut input),
        };
        say.write_all(text.as_bytes()).ok()?;
    }
}

fn answer(mut stream: &UnixStream, input: &mut impl Read) -> Option<()> {
    let answer = ANSWER.lock().expect("no panic").clone();
    stream.write_all(&answer).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    std::io::copy(input, &mut std::io::sink()).ok().map(drop)
}

fn options() -> MemcachedOptions {
    MemcachedOptions {
        io_timeout: Duration::from_secs(10),
        retry: RetryOptions {
            attempts_max: 1,
            pause: Duration::ZERO,
            pause_max: Duration::ZERO,
            ..RetryOptions::default()
        },
        buffer_bytes: 16 << 10,
        ..MemcachedOptions::default()
    }
}

static SOURCE: LazyLock<MemcachedSource> = LazyLock::new(|| {
    let source = MemcachedSource::new(URL.clone(), options(), SourceOptions::default());
    let source = source.expect("good options");
    source.check().expect("a server");
    source
});

/// The key files of both keys, planned once.
static PLAN: LazyLock<Vec<Planned>> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("tipple-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let mut plan = Plan {
        dir,
        parts: Vec::new(),
    };
    let gate = Gate::new(Rates::default());
    SOURCE.plan(&mut plan, &gate).expect("a listing");
    plan.parts
});

struct Plan {
    dir: PathBuf,
    parts: Vec<Planned>,
}

impl Planner for Plan {
    fn scratch_dir(&self) -> &Path {
        &self.dir
    }
    fn add(&mut self, part: NewPart) -> Result<(), Stop> {
        let PlanBody::File(path) = part.body else {
            unreachable!("key files")
        };
        let name = "0".parse().expect("a name");
        self.parts.push(Planned { name, path });
        Ok(())
    }
    fn listed(&mut self, _: u64) {}
    fn restart(&mut self) -> Result<(), Stop> {
        unreachable!("the listing is whole")
    }
}

struct Planned {
    name: PartName,
    path: PathBuf,
}

impl Part for Planned {
    fn name(&self) -> &PartName {
        &self.name
    }
    fn open(&self) -> Result<Box<dyn PlanRead>, Stop> {
        Ok(Box::new(
            std::fs::File::open(&self.path).expect("a key file"),
        ))
    }
}

#[derive(Default)]
struct Keep(Vec<u8>);

impl Drain for Keep {
    fn block(&mut self, block: Block) -> Result<(), Stop> {
        block
            .frames()
            .for_each(|(bytes, _)| self.0.extend_from_slice(bytes));
        Ok(())
    }
    fn restart(&mut self) -> Result<(), Stop> {
        self.0.clear();
        Ok(())
    }
}

struct One(Option<Vec<u8>>, Vec<u8>);

impl FrameSource for One {
    fn advance(&mut self) -> Result<Option<u32>, Stop> {
        self.1 = self.0.take().unwrap_or_default();
        Ok((!self.1.is_empty()).then_some(1))
    }
    fn bytes(&self) -> &[u8] {
        &self.1
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (mode, bytes) = input;
    let (gate, mut outcomes) = (Gate::new(Rates::default()), Outcomes::default());
    *ANSWER.lock().expect("no panic") = bytes.to_vec();
    if mode & 1 == 0 {
        let memory = Budget::new("memory", 1 << 20);
        let pool = BufferPool::new(2, 64 << 10, &memory).expect("enough");
        let mut keep = Keep::default();
        for part in &*PLAN {
            let mut out = RecordWriter::new(&gate, &pool, &mut keep);
            let mut reader = SOURCE.open().expect("it was reached");
            let read = reader.read_part(part, &mut out, &mut outcomes);
            let written = read.and_then(|()| out.finish());
            if let Ok(written) = written {
                assert_eq!(written.records + outcomes.total(), 2);
                assert!(written.bytes <= 2 * (64 + 250) + 2 * bytes.len() as u64);
            }
        }
        return;
    }
    let key = key(mode & 2 == 0);
    let item = Item {
        key: &key,
        flags: 7,
        exptime: NEVER,
        cas: 1,
        last_access: 1,
        fetched: false,
    };
    let mut frame = encode_header(&item, 5).to_vec();
    frame.extend_from_slice(&key);
    frame.extend_from_slice(b"value");
    let sink =
        MemcachedSink::new(URL.clone(), options(), SinkOptions::default()).expect("good options");
    if sink.check().is_err() {
        return;
    }
    let mut frames = One(Some(frame), Vec::new());
    let mut records = RecordReader::new(&gate, &mut frames);
    let part = "0".parse().expect("a name");
    let mut writer = sink.open(&gate).expect("it was reached");
    let _ = writer.write_part(&part, &mut records, &mut outcomes);
    assert!(outcomes.total() <= 1);
});
