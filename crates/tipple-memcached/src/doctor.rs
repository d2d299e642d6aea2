//! What servers can do, and what to do about what they cannot.

use std::fmt;

use serde::Serialize;
use tipple_flow::{Failure, Party, Stop};

use crate::connection::{Connection, ConnectionError, shown};
use crate::options::{MemcachedOptions, TlsOptions};
use crate::reply::{Reply, parse_line};
use crate::stats::Stats;
use crate::url::{MemcachedUrl, Server};

/// A key that nobody has: asked for, never set.
const PROBE: &str = "tipple:doctor:probe";
const PROBE_BASE64: &str = "dGlwcGxlOmRvY3Rvcjpwcm9iZQ==";
const LINE_BYTES_MAX: usize = 2048;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, with a drawback.
    Limited,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// How good that is.
    pub verdict: Verdict,
    /// What it means and what to do about it; empty if nothing needs to be done.
    pub advice: &'static str,
}

/// All that was found of one server. Displayed as lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The server, as in a URL.
    pub server: String,
    /// The worst of the findings.
    pub verdict: Verdict,
    /// The findings.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "can be dumped and loaded",
            Verdict::Limited => "can be dumped and loaded, with limits",
            Verdict::Bad => "cannot be dumped",
        };
        writeln!(f, "memcached at {} {verdict}", self.server)?;
        let names = self.findings.iter().map(|finding| finding.name.len());
        let width = names.max().unwrap_or(0) + 2;
        for finding in &self.findings {
            let mark = match finding.verdict {
                Verdict::Good => "ok",
                Verdict::Limited => "limited",
                Verdict::Bad => "BAD",
            };
            write!(f, "  {mark:<8}{:<width$}{}", finding.name, finding.found)?;
            if !finding.advice.is_empty() {
                write!(f, ": {}", finding.advice)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Looks at every server of `url`. Changes nothing, reads no item, and sends no crawler command.
///
/// # Errors
/// [`Failure`] ([`Party::Source`]) if one cannot be reached; [`Party::Usage`] if the options make no sense.
pub fn doctor(url: &MemcachedUrl, options: &MemcachedOptions) -> Result<Vec<Diagnosis>, Failure> {
    options.validate()?;
    let mut options = options.clone();
    if url.tls() && options.tls.is_none() {
        options.tls = Some(TlsOptions::default());
    }
    let servers = url.servers().iter();
    servers
        .map(|server| {
            examine(server, &options).map_err(|error| match error.into_stop(Party::Source) {
                Stop::Failed(failure) => failure,
                Stop::Cancelled(cancelled) => Failure::new(Party::Source, cancelled.to_string()),
            })
        })
        .collect()
}

fn examine(server: &Server, options: &MemcachedOptions) -> Result<Diagnosis, ConnectionError> {
    let mut connection = Connection::connect(server, options, None)?;
    let stats = Stats::read(&mut connection, None)?;
    let version = connection.version().clone();
    let mut findings = Vec::new();
    let mut found = |name, found: String, verdict, advice: [&'static str; 2]| {
        let advice = match verdict {
            Verdict::Good => "",
            Verdict::Limited => advice[0],
            Verdict::Bad => advice[1],
        };
        findings.push(Finding {
            name,
            found,
            verdict,
            advice,
        });
    };
    let or = |good: bool, else_verdict| if good { Verdict::Good } else { else_verdict };
    let yes = |good: bool| if good { "yes" } else { "no" }.to_owned();

    let meta = probe(&mut connection, &format!("mg {PROBE} f t c v u O1"))?;
    found(
        "version",
        version.to_string(),
        or(version.is_at_least(1, 6, 19), Verdict::Limited),
        [
            "before 1.6.19 a listing holds back clients of some keys while it is written to the network: list over a fast one",
            "",
        ],
    );
    found(
        "items",
        stats.curr_items.to_string(),
        Verdict::Good,
        ["", ""],
    );
    found("bytes", stats.bytes.to_string(), Verdict::Good, ["", ""]);
    found(
        "item size limit",
        stats.item_size_max.to_string(),
        Verdict::Good,
        ["", ""],
    );
    found(
        "crawler",
        if stats.lru_crawler { "on" } else { "off" }.to_owned(),
        or(stats.lru_crawler, Verdict::Bad),
        [
            "",
            "keys cannot be listed: send `lru_crawler enable`, or start it without no_lru_crawler",
        ],
    );
    let hash = version.is_at_least(1, 6, 9);
    found(
        "complete listing",
        yes(hash),
        or(hash, Verdict::Limited),
        [
            "before 1.6.9 a listing misses keys that are read meanwhile: several passes (--listing all:3) find more of them; better, upgrade",
            "",
        ],
    );
    found(
        "meta commands",
        yes(meta),
        or(meta, Verdict::Bad),
        [
            "",
            "items are fetched with `mg`: memcached 1.6 or later is needed",
        ],
    );
    // The same flag as above: a server with `mg` has it.
    found(
        "reads leave no trace",
        yes(meta),
        or(meta, Verdict::Bad),
        ["", "upgrade to 1.6 or later"],
    );
    let base64 = meta
        && version.is_at_least(1, 6, 10)
        && probe(&mut connection, &format!("mg {PROBE_BASE64} b v u O1"))?;
    found(
        "keys in base64",
        yes(base64),
        or(base64, Verdict::Limited),
        [
            "keys with spaces or control bytes go by the binary protocol, where a read counts as an access: upgrade to 1.6.10 or later",
            "",
        ],
    );
    let binary = Connection::connect_binary(server, options, None).is_ok();
    found(
        "binary protocol",
        yes(binary),
        or(binary, Verdict::Limited),
        [
            "keys with spaces or control bytes and more than 186 bytes cannot be fetched; such keys are rare",
            "",
        ],
    );
    let auth = if options.auth.is_some() {
        "credentials are at hand"
    } else {
        "none was asked for"
    };
    found("authentication", auth.to_owned(), Verdict::Good, ["", ""]);
    let tls = options.tls.as_ref();
    found(
        "TLS",
        match tls {
            None => "no",
            Some(tls) if tls.insecure => "yes, with any certificate",
            Some(_) => "yes",
        }
        .to_owned(),
        or(!tls.is_some_and(|tls| tls.insecure), Verdict::Limited),
        [
            "whose certificate it is was not checked: give --tls-ca instead of --tls-insecure",
            "",
        ],
    );
    let verdict = findings.iter().map(|finding| finding.verdict).max();
    Ok(Diagnosis {
        server: server.to_string(),
        verdict: verdict.unwrap_or(Verdict::Good),
        findings,
    })
}

/// Whether the server understands a request for a key that it does not have.
fn probe(connection: &mut Connection, request: &str) -> Result<bool, ConnectionError> {
    connection.send(format!("{request}\r\n").as_bytes(), None)?;
    let server = connection.server().clone();
    let line = connection.read_line(LINE_BYTES_MAX, None)?;
    match parse_line(line) {
        Ok(Reply::Miss(_)) => Ok(true),
        Ok(Reply::Error(_) | Reply::ClientError(_)) => Ok(false),
        _ => Err(ConnectionError::Unexpected {
            server,
            reply: shown(line),
            expected: "that there is no such item",
        }),
    }
}
