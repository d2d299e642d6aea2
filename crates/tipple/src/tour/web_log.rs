//! Lines such as a web server logs: varied, and the same every time.

use std::io::{self, BufWriter, Write};
use std::path::Path;

/// A small generator of numbers (splitmix64): the tour needs no better one, and always the same.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const PATHS: [&str; 8] = [
    "/",
    "/index.html",
    "/api/v2/orders",
    "/img/logo.svg",
    "/søk?q=brød",
    "/検索/東京",
    "/login",
    "/static/app.9f86d081.js",
];
const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
    "curl/8.14.1",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X)",
    "naïve-crawler/0.3 (+https://example.org/über)",
];
const STATUS: [&str; 8] = ["200", "200", "200", "200", "304", "404", "301", "500"];

/// Writes `lines` lines to `path`, the last one without a newline. Returns the bytes.
pub(super) fn write(path: &Path, lines: u64) -> io::Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create_new(path)?);
    let mut numbers = Numbers(0x0715_51e5);
    for line in 0..lines {
        let [a, b, c, d] = [0; 4].map(|_: u64| numbers.below(256));
        let second = line / 40;
        write!(
            file,
            "{a}.{b}.{c}.{d} - - [20/Nov/2026:{:02}:{:02}:{:02} +0000] \"GET {} HTTP/1.1\" {} {} \"-\" \"{}\"",
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            numbers.pick(&PATHS),
            numbers.pick(&STATUS),
            numbers.below(90_000),
            numbers.pick(&AGENTS),
        )?;
        if line + 1 < lines {
            file.write_all(b"\n")?;
        }
    }
    file.flush()?;
    Ok(file.get_ref().metadata()?.len())
}
