//! Which items are dumped or loaded.

use regex::bytes::Regex;
use serde_json::{Value, json};
use tipple_flow::{Cause, Failure, Party};

use crate::items::NEVER;
use crate::ketama::{BUCKET_DEFAULT, Ring};

/// The item's time has come.
pub static EXPIRED: Cause = Cause::outcome("expired");
static BY_PREFIX: Cause = Cause::outcome("filtered: prefix");
static BY_REGEX: Cause = Cause::outcome("filtered: regex");
static BY_TTL: Cause = Cause::outcome("filtered: ttl");
static NOT_OWNED: Cause = Cause::outcome("filtered: not owned");

/// Which items to keep. The default keeps all that have not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOptions {
    /// Keys that begin with one of these; all if there is none.
    pub prefixes: Vec<String>,
    /// Keys in which this expression of the `regex` crate matches.
    pub regex: Option<String>,
    /// Items that live longer than this, in seconds. Items that never expire are always kept.
    pub min_ttl_s: u64,
    /// The hosts of a ketama ring, each `host:port`, in the order of the clients' configuration.
    pub ring: Vec<String>,
    /// Those of them whose keys are kept.
    pub own: Vec<String>,
    /// Points per host of the ring.
    pub ring_bucket: usize,
}

impl Default for FilterOptions {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            regex: None,
            min_ttl_s: 0,
            ring: Vec::new(),
            own: Vec::new(),
            ring_bucket: BUCKET_DEFAULT,
        }
    }
}

/// Decides which items are dumped or loaded.
#[derive(Clone, Debug)]
pub struct Filter {
    options: FilterOptions,
    regex: Option<Regex>,
    ring: Option<(Ring, Vec<bool>)>,
    // No key needs to be looked at.
    every_key: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new(FilterOptions::default()).expect("the default filter is a filter")
    }
}

impl Filter {
    /// The filter of these options.
    ///
    /// # Errors
    /// [`Party::Usage`], naming the value: an expression that is none, a ring that is none, an owned host that is not
    /// in the ring.
    pub fn new(options: FilterOptions) -> Result<Self, Failure> {
        let regex = options.regex.as_deref().map(compile).transpose()?;
        let ring = match (options.ring.is_empty(), options.own.is_empty()) {
            (true, true) => None,
            (true, false) => {
                return Err(usage(format!(
                    "{:?} is to be owned, but there is no ring: name all its hosts, in their order, with --ring",
                    options.own[0]
                )));
            }
            (false, true) => {
                return Err(usage(
                    "a ring without an owned host would keep nothing: name at least one of its hosts with --own"
                        .to_owned(),
                ));
            }
            (false, false) => {
                let ring = Ring::new(&options.ring, options.ring_bucket)?;
                if let Some(stray) = options.own.iter().find(|host| !ring.hosts().contains(host)) {
                    return Err(usage(format!(
                        "{stray:?} is not in the ring {}: give --own one of its hosts exactly as there",
                        options.ring.join(",")
                    )));
                }
                let owned = ring
                    .hosts()
                    .iter()
                    .map(|host| options.own.contains(host))
                    .collect();
                Some((ring, owned))
            }
        };
        Ok(Self {
            every_key: options.prefixes.is_empty() && regex.is_none() && ring.is_none(),
            options,
            regex,
            ring,
        })
    }

    /// Whether an item is kept at the time `now` (seconds since 1970), and if not, why.
    ///
    /// # Errors
    /// The first cause that applies, in this order: expired, ttl, prefix, regex, not owned.
    #[inline]
    pub fn keep(&self, key: &[u8], exptime: i64, now: i64) -> Result<(), &'static Cause> {
        if exptime != NEVER {
            if exptime <= now {
                return Err(&EXPIRED);
            }
            if exptime.abs_diff(now) <= self.options.min_ttl_s {
                return Err(&BY_TTL);
            }
        }
        if self.every_key {
            return Ok(());
        }
        self.keep_key(key)
    }

    /// What shapes the data, for the identity of a source. `null` for a filter that keeps all.
    pub fn identity(&self) -> Value {
        let options = &self.options;
        if self.every_key && options.min_ttl_s == 0 {
            return Value::Null;
        }
        json!({
            "prefixes": options.prefixes,
            "regex": options.regex,
            "min_ttl_s": options.min_ttl_s,
            "ring": options.ring,
            "own": options.own,
            "ring_bucket": options.ring_bucket,
        })
    }

    fn keep_key(&self, key: &[u8]) -> Result<(), &'static Cause> {
        let prefixes = &self.options.prefixes;
        if !prefixes.is_empty() && !prefixes.iter().any(|p| key.starts_with(p.as_bytes())) {
            return Err(&BY_PREFIX);
        }
        if self
            .regex
            .as_ref()
            .is_some_and(|regex| !regex.is_match(key))
        {
            return Err(&BY_REGEX);
        }
        if let Some((ring, owned)) = &self.ring
            && !owned[ring.owner(key)]
        {
            return Err(&NOT_OWNED);
        }
        Ok(())
    }
}

fn compile(expression: &str) -> Result<Regex, Failure> {
    Regex::new(expression).map_err(|error| {
        // Its text draws the expression over several lines; the last one says what is wrong.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default();
        let reason = reason.trim_start_matches("error: ");
        usage(format!(
            "{expression:?} is no regular expression ({reason}): see https://docs.rs/regex for what is one"
        ))
    })
}

fn usage(message: String) -> Failure {
    Failure::new(Party::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(options: FilterOptions) -> Filter {
        Filter::new(options).unwrap()
    }

    fn cause(filter: &Filter, key: &[u8], exptime: i64) -> Option<&'static str> {
        filter
            .keep(key, exptime, 1000)
            .err()
            .map(|cause| cause.name())
    }

    #[test]
    fn the_empty_filter_keeps_all_that_lives() {
        let all = Filter::default();
        for (exptime, expected) in [
            (NEVER, None),
            (0, Some("expired")),
            (1000, Some("expired")),
            (1001, None),
            (i64::MAX, None),
        ] {
            assert_eq!(cause(&all, b"\xff\0", exptime), expected, "{exptime}");
        }
        assert_eq!(all.identity(), Value::Null);
        assert!(all.keep(b"k", i64::MAX, -5).is_ok(), "no overflow");
    }

    #[test]
    fn every_cause_in_its_order() {
        let hosts = ["a:1".to_owned(), "b:2".to_owned()];
        let ring = Ring::new(&hosts, BUCKET_DEFAULT).unwrap();
        let (mine, other) = (0..100)
            .map(|n| format!("user:{n}"))
            .partition::<Vec<_>, _>(|key| ring.owner(key.as_bytes()) == 1);
        let filter = filter(FilterOptions {
            prefixes: vec!["user:".to_owned(), "session:".to_owned()],
            regex: Some(r"^\w+:\d+$".to_owned()),
            min_ttl_s: 60,
            ring: hosts.to_vec(),
            own: vec!["b:2".to_owned()],
            ..FilterOptions::default()
        });
        assert_eq!(cause(&filter, mine[0].as_bytes(), NEVER), None);
        assert_eq!(cause(&filter, mine[0].as_bytes(), 1061), None);
        assert_eq!(
            cause(&filter, mine[0].as_bytes(), 1060),
            Some("filtered: ttl")
        );
        assert_eq!(cause(&filter, mine[0].as_bytes(), 1000), Some("expired"));
        assert_eq!(
            cause(&filter, other[0].as_bytes(), NEVER),
            Some("filtered: not owned")
        );
        assert_eq!(cause(&filter, b"user:x", NEVER), Some("filtered: regex"));
        assert_eq!(cause(&filter, b"use", NEVER), Some("filtered: prefix"));
        assert_eq!(cause(&filter, b"user:\xff", 1), Some("expired"));
        assert_eq!(filter.identity()["own"], json!(["b:2"]));
        assert_eq!(filter.identity()["min_ttl_s"], 60);
    }

    #[test]
    fn what_is_no_filter_is_named() {
        let hosts = || vec!["a:1".to_owned(), "b:2".to_owned()];
        for (options, named) in [
            (
                FilterOptions {
                    regex: Some("(".to_owned()),
                    ..FilterOptions::default()
                },
                "\"(\"",
            ),
            (
                FilterOptions {
                    own: hosts(),
                    ..FilterOptions::default()
                },
                "\"a:1\" is to be owned",
            ),
            (
                FilterOptions {
                    ring: hosts(),
                    ..FilterOptions::default()
                },
                "without an owned host",
            ),
            (
                FilterOptions {
                    ring: hosts(),
                    own: vec!["c:3".to_owned()],
                    ..FilterOptions::default()
                },
                "\"c:3\" is not in the ring a:1,b:2",
            ),
        ] {
            let failure = Filter::new(options).unwrap_err();
            assert_eq!(failure.party(), Party::Usage);
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }
}
