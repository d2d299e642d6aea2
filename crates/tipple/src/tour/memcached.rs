//! Two memcached servers: out of one, into the other, and straight across.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::error::CliError;
use crate::tour::guide::{Guide, stuck};
use crate::tour::lines::{json_lines, last_json};
use crate::tour::server::Server;
use crate::tour::web_log::Numbers;
use crate::units;

const ITEMS: u64 = 100_000;
/// Clocks are read in whole seconds, at three places.
const TTL_APART_S: u64 = 3;

pub(super) fn show(guide: &mut Guide) -> Result<(), CliError> {
    guide.step("A cache: memcached, with keys and values that are not text");
    let Some(first) = Server::start(&guide.path("a.sock"), &[]).map_err(stuck)? else {
        guide.say("(memcached is not installed: left out; `apt install memcached` and run the tour again)");
        return Ok(());
    };
    first.fill(items()).map_err(stuck)?;
    guide.say(&format!(
        "{} holds {} items",
        first.url(),
        units::count(ITEMS)
    ));
    let Some(second) = Server::start(&guide.path("b.sock"), &[]).map_err(stuck)? else {
        return Err(stuck("memcached was there a moment ago"));
    };
    let (one, two) = (guide.text("cache-1"), guide.text("cache-2"));
    guide.tipple(&["doctor", &first.url()], 0)?;
    guide.tipple(&["dump", &first.url(), &one], 0)?;
    guide.tipple(&["verify", &one], 0)?;
    guide.tipple(&["cat", &one, "--limit", "1"], 0)?;

    guide.step("Into an empty memcached, and out of it again");
    guide.tipple(&["load", &one, &second.url()], 0)?;
    guide.tipple(&["dump", &second.url(), &two], 0)?;
    let before = item_set(guide, &one)?;
    let after = item_set(guide, &two)?;
    guide.prove(
        "the second memcached has every item of the first: key, value, flags, time to live",
        before.len() as u64 == ITEMS && same(&before, &after),
    );

    guide.step("Straight across, no files in between");
    let Some(third) = Server::start(&guide.path("c.sock"), &[]).map_err(stuck)? else {
        return Err(stuck("memcached was there a moment ago"));
    };
    let three = guide.text("cache-3");
    guide.tipple(&["copy", &first.url(), &third.url()], 0)?;
    guide.tipple(&["dump", &third.url(), &three], 0)?;
    let across = item_set(guide, &three)?;
    guide.prove(
        "straight across, a third memcached has every item too",
        same(&before, &across),
    );
    losses(guide, &one)
}

/// A server that takes only small items cannot take all: the losses are told.
fn losses(guide: &mut Guide, dump: &str) -> Result<(), CliError> {
    guide.step(
        "Into a memcached that refuses large items: what is lost is told, and the exit code is 3",
    );
    let Some(small) = Server::start(&guide.path("d.sock"), &["-I", "512k"]).map_err(stuck)? else {
        return Err(stuck("memcached was there a moment ago"));
    };
    let loaded = guide.tipple(&["load", dump, &small.url(), "--json"], 3)?;
    let report = last_json(&loaded.stdout);
    let lost: u64 = report["lost"]
        .as_object()
        .map_or(0, |lost| lost.values().filter_map(Value::as_u64).sum());
    let applied = report["records"].as_u64().unwrap_or(0);
    guide.prove(
        &format!(
            "{} lost were told, and every other item was loaded",
            units::counted(lost, "item")
        ),
        lost == LARGE && applied + lost == ITEMS,
    );
    Ok(())
}

/// So many of the items are larger than 512 KiB.
const LARGE: u64 = ITEMS / 5_000;

/// Keys with spaces, line ends and zeros; values of any bytes; half of them expire in an hour or more.
fn items() -> impl Iterator<Item = (Vec<u8>, Vec<u8>, u32, u32)> {
    let mut numbers = Numbers(42);
    (0..ITEMS).map(move |n| {
        let mut key = format!("user:{n}:").into_bytes();
        key.extend_from_slice(&numbers.next().to_le_bytes());
        let length = match n % 5_000 {
            0 => 700_000,
            _ => numbers.below(300),
        };
        let value = (0..length).map(|_| numbers.next() as u8).collect();
        let ttl = if n % 2 == 0 {
            0
        } else {
            3_600 + numbers.below(1_000_000) as u32
        };
        (key, value, numbers.next() as u32, ttl)
    })
}

/// Of each item, a hash of key, value and flags, and when it expires.
fn item_set(guide: &mut Guide, dump: &str) -> Result<BTreeMap<u64, i64>, CliError> {
    let args = ["cat", dump];
    guide.show("tipple", &args);
    let output = guide.command(&args).output().map_err(stuck)?;
    if !output.status.success() {
        return Err(stuck(String::from_utf8_lossy(&output.stderr)));
    }
    Ok(json_lines(&output.stdout)
        .map(|item| {
            let mut hasher = DefaultHasher::new();
            for field in ["key", "value", "flags"] {
                item[field].to_string().hash(&mut hasher);
            }
            (
                hasher.finish(),
                item["exptime"].as_i64().unwrap_or(i64::MIN),
            )
        })
        .collect())
}

fn same(one: &BTreeMap<u64, i64>, other: &BTreeMap<u64, i64>) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|((a, expires_a), (b, expires_b))| {
                a == b && expires_a.abs_diff(*expires_b) <= TTL_APART_S
            })
}
