//! What the source makes of what servers say, where the real one cannot be made to say it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tipple_flow::{Failure, Party, Stop};
use tipple_memcached::{Connection, MemcachedOptions, MemcachedUrl, NEVER, SourceOptions};

use crate::pipeline::{Dumped, dump, source};
use crate::server::Memcached;

/// How a peer sends what it says.
#[derive(Clone, Copy, PartialEq)]
enum Pieces {
    Whole,
    /// Every byte in a segment of its own.
    Bytes,
}

/// What the peer says to one listing.
#[derive(Clone)]
enum List {
    Says(Vec<u8>),
    /// Says this and closes the connection.
    Ends(Vec<u8>),
    /// Says this and is another process from then on.
    Dies(Vec<u8>),
}

/// What the peer says to an `mg`. `@` stands for the request's mark.
#[derive(Clone)]
enum Get {
    Says(Vec<u8>),
    Ends(Vec<u8>),
}

/// The peer. Fault model: it says exactly these bytes, once each, in the order of the requests; the last one of a kind
/// is said again and again.
struct Script {
    version: &'static str,
    pid: u32,
    pieces: Pieces,
    lists: VecDeque<List>,
    gets: VecDeque<Get>,
    heard: Vec<String>,
}

struct Fake {
    url: MemcachedUrl,
    script: Arc<Mutex<Script>>,
}

impl Fake {
    fn start(version: &'static str, lists: Vec<List>, gets: Vec<Get>) -> Self {
        Self::start_in(Pieces::Whole, version, lists, gets)
    }

    fn start_in(pieces: Pieces, version: &'static str, lists: Vec<List>, gets: Vec<Get>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Script {
            version,
            pid: 7,
            pieces,
            lists: lists.into(),
            gets: gets.into(),
            heard: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        let url = format!("memcached://127.0.0.1:{port}").parse().unwrap();
        Self { url, script }
    }

    fn dump(&self) -> Result<Dumped, Stop> {
        dump(&source(&self.url, SourceOptions::default()))
    }

    fn failure(&self) -> Failure {
        match self.dump().unwrap_err() {
            Stop::Failed(failure) => failure,
            Stop::Cancelled(_) => panic!("cancelled"),
        }
    }

    fn heard(&self, what: &str) -> usize {
        let script = self.script.lock().unwrap();
        script
            .heard
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    }
}

/// The next of a queue whose last element stays.
fn next<T: Clone>(queue: &mut VecDeque<T>) -> T {
    match queue.len() {
        1 => queue[0].clone(),
        _ => queue.pop_front().expect("the script has an answer"),
    }
}

fn serve(stream: TcpStream, script: &Mutex<Script>) {
    stream.set_nodelay(true).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        // The client may hang up at any time: that is its right.
        if stream.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (reply, ends, pieces) = {
            let mut script = script.lock().unwrap();
            script.heard.push(text.clone());
            let (reply, ends) = answer(&mut script, &text);
            (reply, ends, script.pieces)
        };
        let step = if pieces == Pieces::Bytes {
            1
        } else {
            reply.len().max(1)
        };
        for piece in reply.chunks(step) {
            if stream.get_mut().write_all(piece).is_err() {
                return;
            }
            std::thread::yield_now();
        }
        if ends {
            return;
        }
    }
}

fn answer(script: &mut Script, line: &str) -> (Vec<u8>, bool) {
    if line == "version" {
        return (
            format!("VERSION {}\r\n", script.version).into_bytes(),
            false,
        );
    }
    if line == "stats" {
        let stats = format!(
            "STAT pid {}\r\nSTAT uptime 100\r\nSTAT time 2000000000\r\nSTAT curr_items 3\r\nSTAT cmd_flush 0\r\nEND\r\n",
            script.pid
        );
        return (stats.into_bytes(), false);
    }
    if line == "stats settings" {
        return (b"STAT lru_crawler yes\r\nEND\r\n".to_vec(), false);
    }
    if line.starts_with("lru_crawler metadump ") {
        return match next(&mut script.lists) {
            List::Says(bytes) => (bytes, false),
            List::Ends(bytes) => (bytes, true),
            List::Dies(bytes) => {
                script.pid += 1;
                (bytes, true)
            }
        };
    }
    if !line.starts_with("mg ") {
        return (b"ERROR\r\n".to_vec(), false);
    }
    let mark = line.rsplit(" O").next().unwrap();
    let put = |bytes: Vec<u8>| match bytes.iter().position(|&b| b == b'@') {
        Some(at) => [&bytes[..at], mark.as_bytes(), &bytes[at + 1..]].concat(),
        None => bytes,
    };
    match next(&mut script.gets) {
        Get::Says(bytes) => (put(bytes), false),
        Get::Ends(bytes) => (put(bytes), true),
    }
}

fn says(text: &str) -> List {
    List::Says(text.into())
}

fn gets(text: &str) -> Get {
    Get::Says(text.into())
}

fn hit() -> Get {
    gets("VA 5 f7 t-1 c9 O@\r\nhello\r\n")
}

const THREE: &str = "key=a exp=-1 la=1999999000 cas=9 fetch=yes cls=1 size=66\nkey=b exp=-1 la=1999999000 cas=9 fetch=no cls=1 size=66\nkey=c exp=-1 la=1999999000 cas=9 fetch=no cls=1 size=66\nEND\r\n";

fn keys(dumped: &Dumped) -> Vec<String> {
    let items = dumped.by_key();
    items
        .keys()
        .map(|key| key.escape_ascii().to_string())
        .collect()
}

#[test]
fn a_connection_knows_its_server() {
    let memcached = Memcached::start(&[]);
    let options = MemcachedOptions::default();
    let mut connection = Connection::connect(memcached.server(), &options, None).unwrap();
    assert!(
        connection.version().is_at_least(1, 6, 9),
        "{}",
        connection.version()
    );
    connection.send(b"mn\r\n", None).unwrap();
    assert_eq!(connection.read_line(100, None).unwrap(), b"MN");
}

#[test]
fn a_newer_version_byte_by_byte() {
    let list = "OK\r\nkey=a%20%2f exp=2000005000 la=1999999000 cas=9 fetch=yes cls=1 size=66 flags=7 ext_page=0 ext_offset=1 \nkey=OK exp=-1 la=1999999000 cas=9 fetch=no cls=1 size=66 \nkey=END exp=9000000000 la=0 cas=1 fetch=no cls=1 size=66 new=1 \nEND\r\n";
    let replies = vec![
        gets("VA 5 f7 t4999 c9 s5 O@ \r\nEND\r\n\r\n"),
        gets("VA 0 f0 t-1 c9 O@\r\n\r\n"),
        gets("VA 4 f1 t7000000000 c2 O@\r\nVA 5\r\n"),
    ];
    for pieces in [Pieces::Whole, Pieces::Bytes] {
        let fake = Fake::start_in(pieces, "1.6.45", vec![says(list)], replies.clone());
        let dumped = fake.dump().unwrap();
        assert_eq!(keys(&dumped), ["END", "OK", "a /"]);
        let items = dumped.by_key();
        let odd = items[&b"a /"[..]];
        assert_eq!(
            (&odd.value[..], odd.flags, odd.exptime),
            (&b"END\r\n"[..], 7, 2_000_005_000)
        );
        assert_eq!(
            (odd.last_access, odd.fetched, odd.cas),
            (1_999_999_000, true, 9)
        );
        assert_eq!(items[&b"OK"[..]].exptime, NEVER);
        let far = items[&b"END"[..]];
        assert!(far.exptime.abs_diff(9_000_000_000) <= 2, "{}", far.exptime);
        assert_eq!((&far.value[..], far.last_access), (&b"VA 5"[..], 0));
        assert_eq!(fake.heard("mg YSAv b "), 1);
    }
}

#[test]
fn a_busy_crawler_is_waited_for() {
    let busy = || says("BUSY currently processing crawler request\r\n");
    let fake = Fake::start("1.6.18", vec![busy(), busy(), says(THREE)], vec![hit()]);
    assert_eq!(fake.dump().unwrap().by_key().len(), 3);
    let fake = Fake::start("1.6.18", vec![busy()], vec![hit()]);
    let refusal = fake.failure();
    assert_eq!(refusal.party(), Party::Source);
    assert!(
        refusal
            .to_string()
            .contains("busy with another crawler at each of 40 attempts"),
        "{refusal}"
    );
}

#[test]
fn a_listing_that_breaks_off_starts_again_and_doubles_nothing() {
    let begun = "key=a exp=-1 la=1 cas=9 fetch=yes cls=1 size=66\n";
    let locked = format!("{begun}ERROR locked try again later\r\n");
    let fake = Fake::start("1.6.28", vec![says(&locked), says(THREE)], vec![hit()]);
    let dumped = fake.dump().unwrap();
    assert_eq!(keys(&dumped), ["a", "b", "c"]);
    assert_eq!(dumped.report["servers"][0]["listed"], 3);

    for begun in [
        "",
        begun,
        "key=a exp=",
        "key=a exp=-1 la=1 cas=9 size=66\nEN",
    ] {
        let ends = List::Ends(begun.into());
        let fake = Fake::start("1.6.18", vec![ends.clone(), says(THREE)], vec![hit()]);
        assert_eq!(keys(&fake.dump().unwrap()), ["a", "b", "c"]);
        let fake = Fake::start("1.6.18", vec![ends], vec![hit()]);
        let refusal = fake.failure();
        let text = refusal.to_string();
        assert!(
            text.contains("could not be listed in 40 attempts")
                && text.contains("closed the connection"),
            "{text}"
        );
        assert_eq!(fake.heard("lru_crawler"), 40);
        assert_eq!(fake.heard("mg "), 0, "nobody has seen a key");
    }
}

#[test]
fn a_listing_that_breaks_off_leaves_no_key_files() {
    let many: String = (0..1000)
        .map(|n| format!("key=k{n} exp=-1 la=1 cas={n}\n"))
        .collect();
    let locked = format!("{many}ERROR locked try again later\r\n");
    let fake = Fake::start("1.6.28", vec![says(&locked), says(THREE)], vec![hit()]);
    let options = SourceOptions {
        key_file_bytes: 4 << 10,
        ..SourceOptions::default()
    };
    // The pipeline looks whether anything is left over.
    let dumped = dump(&source(&fake.url, options)).unwrap();
    assert_eq!(keys(&dumped), ["a", "b", "c"]);
    assert_eq!(dumped.report["servers"][0]["listed"], 3);
}

#[test]
fn a_server_that_restarts_while_it_is_listed_fails_the_dump() {
    let one = "key=a exp=-1 la=1 cas=9\n".to_owned();
    let many: String = (0..1000)
        .map(|n| format!("key=k{n} exp=-1 la=1 cas={n}\n"))
        .collect();
    // Before and after key files were handed over.
    for begun in [one, many] {
        let dies = List::Dies(begun.into_bytes());
        let fake = Fake::start("1.6.28", vec![dies, says(THREE)], vec![hit()]);
        let options = SourceOptions {
            key_file_bytes: 4 << 10,
            ..SourceOptions::default()
        };
        let Stop::Failed(failure) = dump(&source(&fake.url, options)).unwrap_err() else {
            panic!("cancelled");
        };
        assert_eq!(failure.party(), Party::Source);
        let text = failure.to_string();
        assert!(text.contains("was restarted (pid 7 → 8)"), "{text}");
    }
}

#[test]
fn a_listing_that_is_none_is_told() {
    for (line, why) in [
        ("key= exp=-1\nEND\r\n", "its key is missing"),
        ("key=a exp=x\nEND\r\n", "one of its numbers"),
        ("key=a\nEND\r\n", "its expiry time is missing"),
        ("keys\nEND\r\n", "none of the lines"),
        ("key=a exp=-1\nOK\r\n", "none of the lines"),
        (&"k".repeat(5000), "it has no end"),
    ] {
        let refusal = Fake::start("1.6.18", vec![says(line)], vec![hit()]).failure();
        assert_eq!(refusal.party(), Party::Source);
        assert!(refusal.to_string().contains(why), "{refusal}");
    }
    for line in [
        "CLIENT_ERROR lru crawler disabled\r\n",
        "ERROR an unknown error happened\r\n",
    ] {
        let refusal = Fake::start("1.6.18", vec![says(line)], vec![hit()]).failure();
        assert!(
            refusal.to_string().contains("lru_crawler enable"),
            "{refusal}"
        );
    }
}

#[test]
fn an_older_version_is_listed_in_passes_and_too_old_a_one_is_refused() {
    let fake = Fake::start("1.6.8", vec![says(THREE)], vec![hit()]);
    assert_eq!(keys(&fake.dump().unwrap()), ["a", "b", "c"]);
    assert_eq!(fake.heard("lru_crawler metadump all"), 3);
    assert_eq!(fake.heard("mg "), 3);
    let refusal = Fake::start("1.5.22", vec![says(THREE)], vec![hit()]).failure();
    assert!(
        refusal.to_string().contains("is version 1.5.22"),
        "{refusal}"
    );
}

#[test]
fn what_was_not_answered_is_asked_again() {
    for cut in [
        "",
        "VA",
        "VA 5 f7 t-1 c9 O@\r",
        "VA 5 f7 t-1 c9 O@\r\nhel",
        "VA 5 f7 t-1 c9 O@\r\nhello\r",
    ] {
        let replies = vec![hit(), Get::Ends(cut.into()), hit()];
        let fake = Fake::start("1.6.18", vec![says(THREE)], replies);
        let dumped = fake.dump().unwrap();
        assert_eq!(keys(&dumped), ["a", "b", "c"], "{cut:?}");
        assert_eq!(dumped.restarts, 0);
    }
}

#[test]
fn a_part_begins_again_when_the_connection_dies_inside_a_streamed_value() {
    const BYTES: usize = 300_000;
    let head = format!("VA {BYTES} f7 t-1 c9 O@\r\n");
    for have in [0, 1, 100_000, BYTES, BYTES + 1] {
        let whole = [head.as_bytes(), &vec![b'x'; BYTES], b"\r\n"].concat();
        let cut = whole[..head.len() + have].to_vec();
        let miss = || {
            gets(
                "EN
",
            )
        };
        let replies = vec![miss(), Get::Ends(cut), miss(), Get::Says(whole), hit()];
        let fake = Fake::start("1.6.18", vec![says(THREE)], replies);
        let dumped = fake.dump().unwrap();
        assert_eq!(keys(&dumped), ["b", "c"], "{have}");
        assert_eq!(dumped.outcome("evicted or deleted"), 1, "counted anew");
        assert_eq!(dumped.by_key()[&b"b"[..]].value.len(), BYTES);
        assert_eq!(dumped.restarts, 1);
    }
    // And not for ever.
    let replies = vec![Get::Ends([head.as_bytes(), b"xxx"].concat())];
    let refusal = Fake::start("1.6.18", vec![says(THREE)], replies).failure();
    assert!(
        refusal.to_string().contains("closed the connection"),
        "{refusal}"
    );
}

#[test]
fn a_key_that_the_server_cannot_give_is_a_loss_after_three_attempts() {
    let error = || gets("SERVER_ERROR out of memory writing get response\r\n");
    let fake = Fake::start("1.6.18", vec![says(THREE)], vec![error(), hit()]);
    assert_eq!(keys(&fake.dump().unwrap()), ["a", "b", "c"]);
    let fake = Fake::start("1.6.18", vec![says(THREE)], vec![error()]);
    let dumped = fake.dump().unwrap();
    assert_eq!(dumped.outcome("error of the server"), 3);
    assert_eq!(dumped.outcomes.lost(), 3);
    assert_eq!(fake.heard("mg "), 9);
}

#[test]
fn a_reply_that_is_none_fails_the_dump() {
    for (reply, expected) in [
        (
            "VA 5 f7 t-1 c9 Offff\r\nhello\r\n",
            "the mark of its request",
        ),
        ("VA 5 f7 t-1 c9\r\nhello\r\n", "the mark of its request"),
        ("EN Offff\r\n", "the mark of its request"),
        ("VA 5 f7 c9 O@\r\nhello\r\n", "a reply of the text protocol"),
        (
            "VA 4 f7 t-1 c9 O@\r\nhello\r\n",
            "the line end after a value",
        ),
        ("VA -4 f7 t-1 c9 O@\r\n", "a reply with numbers in range"),
        (
            "VA 99999999999999999999 f7 t-1 c9 O@\r\n",
            "a reply with numbers in range",
        ),
        ("VALUE a 0 5\r\n", "a reply of the text protocol"),
        ("HD\r\n", "a reply of the text protocol"),
        ("ERROR\r\n", "a reply of the text protocol"),
        (&"V".repeat(3000), "a reply line with an end"),
    ] {
        let refusal = Fake::start("1.6.18", vec![says(THREE)], vec![gets(reply)]).failure();
        assert_eq!(refusal.party(), Party::Source);
        let text = refusal.to_string();
        assert!(
            text.contains(expected) && text.contains("1.6.18"),
            "{reply:?}: {text}"
        );
    }
}

#[test]
fn a_text_only_server_is_never_sent_a_key_in_binary() {
    let memcached = Memcached::start(&["-B", "ascii"]);
    memcached.peer().set("plain", b"x", 0, 0);
    // The listing has a key that only the binary protocol can carry: as if the server had been restarted from memory.
    let key: String = "%0D%0Aflush_all%0D%0A"
        .chars()
        .chain("%20".repeat(200).chars())
        .collect();
    let list = format!("key={key} exp=-1 la=1 cas=1 fetch=no cls=1 size=300\nEND\r\n");
    let fake = Fake::start("1.6.18", vec![says(&list)], vec![hit()]);
    let dumped = fake.dump().unwrap();
    assert_eq!(dumped.outcome("key cannot be sent"), 1);
    assert_eq!(fake.heard("flush_all"), 0);
    let options = MemcachedOptions::default();
    let refusal = Connection::connect_binary(memcached.server(), &options, None)
        .map(drop)
        .unwrap_err();
    assert!(!refusal.is_retryable(), "{refusal}");
    assert_eq!(memcached.peer().stat("curr_items"), 1);
}

/// A server that says `stats` in so many lines, of which each tells `curr_items`.
fn talker(lines: usize, curr_items: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            while let Some(Ok(request)) = requests.next() {
                let said = match request.as_str() {
                    "version" => "VERSION 1.6.31\r\n".to_owned(),
                    "stats" => {
                        let line = format!("STAT curr_items {curr_items}\r\n");
                        format!("{}END\r\n", line.repeat(lines))
                    }
                    _ => "STAT lru_crawler yes\r\nEND\r\n".to_owned(),
                };
                // Whoever has heard enough hangs up.
                if stream.write_all(said.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[test]
fn what_a_server_says_gives_a_terminal_no_orders() {
    let fake = Fake::start("1.5.\u{1b}]0;x\u{7}", vec![says(THREE)], vec![hit()]);
    let message = fake.failure().to_string();
    assert!(message.contains("no meta commands"), "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

#[test]
fn statistics_without_an_end_are_cut_off() {
    let url = format!("memcached://127.0.0.1:{}", talker(20_000, 1));
    let source = source(&url.parse().unwrap(), SourceOptions::default());
    let Err(Stop::Failed(failure)) = tipple_flow::Source::check(&source) else {
        panic!("20000 lines of statistics were read");
    };
    assert_eq!(failure.party(), Party::Source);
    assert!(
        failure
            .to_string()
            .contains("where the end of its statistics was expected"),
        "{failure}"
    );
}

#[test]
fn estimates_beyond_all_numbers_stay_at_the_largest() {
    let (one, other) = (talker(1, u64::MAX), talker(1, u64::MAX));
    let url = format!("memcached://127.0.0.1:{one},127.0.0.1:{other}");
    let source = source(&url.parse().unwrap(), SourceOptions::default());
    let estimate = tipple_flow::Source::check(&source).unwrap();
    assert_eq!(estimate.records, u64::MAX);
}
